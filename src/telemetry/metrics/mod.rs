//! What is counted: one finished request, one attempt, one state at a time.

mod family;
mod table;
mod words;

pub use table::{ALL, About, Kind, page};
pub use words::{Broken, Outcome, ReloadOutcome, TraceOutcome};

use super::exchange::Exchange;
use family::{Collect, Family};
use prometheus::{Counter, Encoder as _, Gauge, Histogram, IntCounter, IntGauge, TextEncoder};
use std::sync::Arc;
use std::time::Duration;

/// The label where a name is missing: no key was recognised, no upstream was reached.
const NONE: &str = "none";

/// Every metric of this process.
pub struct Metrics {
    requests: Family<IntCounter>,
    request_duration: Family<Histogram>,
    overhead: Family<Histogram>,
    time_to_first_token: Family<Histogram>,
    tokens: Family<IntCounter>,
    cost: Family<Counter>,
    upstream_requests: Family<IntCounter>,
    upstream_healthy: Family<IntGauge>,
    upstream_state: Family<IntGauge>,
    upstream_inflight: Family<IntGauge>,
    upstream_quota_remaining: Family<Gauge>,
    failovers: Family<IntCounter>,
    streams_broken: Family<IntCounter>,
    rejections: Family<IntCounter>,
    limit_used_ratio: Family<Gauge>,
    budget_remaining: Family<Gauge>,
    inflight: Family<IntGauge>,
    langfuse_traces: Family<IntCounter>,
    langfuse_backlog: Family<IntGauge>,
    langfuse_lag: Family<IntGauge>,
    config_generation: Family<IntGauge>,
    config_reloads: Family<IntCounter>,
    build_info: Family<IntGauge>,
}

impl Metrics {
    /// Metrics at zero. Those whose labels are known beforehand are there from the start, so that
    /// a first failure shows as a rise from nothing.
    #[must_use]
    pub fn new(version: &str, revision: &str) -> Arc<Self> {
        let metrics = Self {
            requests: Family::new(&table::REQUESTS),
            request_duration: Family::new(&table::REQUEST_DURATION),
            overhead: Family::new(&table::OVERHEAD),
            time_to_first_token: Family::new(&table::TIME_TO_FIRST_TOKEN),
            tokens: Family::new(&table::TOKENS),
            cost: Family::new(&table::COST),
            upstream_requests: Family::new(&table::UPSTREAM_REQUESTS),
            upstream_healthy: Family::new(&table::UPSTREAM_HEALTHY),
            upstream_state: Family::new(&table::UPSTREAM_STATE),
            upstream_inflight: Family::new(&table::UPSTREAM_INFLIGHT),
            upstream_quota_remaining: Family::new(&table::UPSTREAM_QUOTA_REMAINING),
            failovers: Family::new(&table::FAILOVERS),
            streams_broken: Family::new(&table::STREAMS_BROKEN),
            rejections: Family::new(&table::REJECTIONS),
            limit_used_ratio: Family::new(&table::LIMIT_USED_RATIO),
            budget_remaining: Family::new(&table::BUDGET_REMAINING),
            inflight: Family::new(&table::INFLIGHT),
            langfuse_traces: Family::new(&table::LANGFUSE_TRACES),
            langfuse_backlog: Family::new(&table::LANGFUSE_BACKLOG),
            langfuse_lag: Family::new(&table::LANGFUSE_LAG),
            config_generation: Family::new(&table::CONFIG_GENERATION),
            config_reloads: Family::new(&table::CONFIG_RELOADS),
            build_info: Family::new(&table::BUILD_INFO),
        };
        metrics.build_info.with(&[version, revision], |gauge| gauge.set(1));
        metrics.overhead.with(&[], |_| ());
        metrics.inflight.with(&[], |_| ());
        metrics.config_generation.with(&[], |_| ());
        metrics.langfuse_backlog.with(&[], |_| ());
        metrics.langfuse_lag.with(&[], |_| ());
        for outcome in TraceOutcome::WORDS {
            metrics.langfuse_traces.with(&[outcome], |_| ());
        }
        for outcome in ReloadOutcome::WORDS {
            metrics.config_reloads.with(&[outcome], |_| ());
        }
        Arc::new(metrics)
    }

    /// Counts one finished request.
    pub fn observe(&self, x: &Exchange) {
        let key = x.key.as_deref().unwrap_or(NONE);
        let model = &*x.model_label;
        let upstream = x.upstream.as_deref().unwrap_or(NONE);
        let code = x.status.to_string();
        self.requests.with(&[x.route, key, model, &code], IntCounter::inc);
        self.request_duration
            .with(&[x.route, model], |histogram| histogram.observe(x.duration.as_secs_f64()));
        self.overhead.with(&[], |histogram| histogram.observe(x.overhead.as_secs_f64()));
        if let Some(wait) = x.time_to_first_token {
            self.time_to_first_token
                .with(&[upstream, model], |histogram| histogram.observe(wait.as_secs_f64()));
        }
        if let Some(usage) = x.usage {
            for (kind, tokens) in [
                ("input", usage.input),
                ("cached_input", usage.cached_input),
                ("output", usage.output),
                ("reasoning", usage.reasoning),
            ] {
                self.tokens.with(&[key, model, kind], |counter| counter.inc_by(tokens));
            }
        }
        // A counter never falls, whatever an upstream claims.
        if let Some(cost) = x.cost.filter(|cost| cost.usd.is_finite() && cost.usd >= 0.0) {
            self.cost.with(&[key, model, upstream, cost.source.as_str()], |counter| {
                counter.inc_by(cost.usd);
            });
        }
        // Our error code on a good status is a stream that broke off: no rejection.
        if let Some(code) = x.error_code.filter(|_| x.status >= 400) {
            self.rejections.with(&[code, key], IntCounter::inc);
        }
    }

    /// Counts one attempt at an upstream.
    pub fn upstream_call(&self, upstream: &str, outcome: Outcome) {
        self.upstream_requests.with(&[upstream, outcome.as_str()], IntCounter::inc);
    }

    /// Counts a call taken on to the next upstream.
    pub fn failover(&self, from: &str, reason: Outcome) {
        self.failovers.with(&[from, reason.as_str()], IntCounter::inc);
    }

    /// Counts a stream that did not end well after its first token.
    pub fn stream_broken(&self, upstream: &str, reason: Broken) {
        self.streams_broken.with(&[upstream, reason.as_str()], IntCounter::inc);
    }

    /// Says which configuration is in force.
    pub fn config_generation(&self, n: u64) {
        let n = i64::try_from(n).unwrap_or(i64::MAX);
        self.config_generation.with(&[], |gauge| gauge.set(n));
    }

    /// Counts a reload.
    pub fn config_reload(&self, outcome: ReloadOutcome) {
        self.config_reloads.with(&[outcome.as_str()], IntCounter::inc);
    }

    /// Counts a request as being served until the guard goes.
    pub fn inflight(self: &Arc<Self>) -> InflightGuard {
        InflightGuard::of(&self.inflight, &[])
    }

    /// Counts a call as being worked on by an upstream until the guard goes.
    pub fn upstream_inflight(self: &Arc<Self>, upstream: &Arc<str>) -> UpstreamInflightGuard {
        InflightGuard::of(&self.upstream_inflight, &[upstream])
    }

    /// Says what an upstream's own limits leave.
    pub fn upstream_quota(&self, upstream: &str, kind: &str, left: f64) {
        self.upstream_quota_remaining.with(&[upstream, kind], |gauge| gauge.set(left));
    }

    /// Forgets what was told of upstreams' states, before it is told anew: one that the
    /// configuration has no more must not stay.
    pub fn forget_upstreams(&self) {
        self.upstream_healthy.clear();
        self.upstream_state.clear();
        self.upstream_quota_remaining.clear();
    }

    /// Says whether an upstream is held for good.
    pub fn upstream_healthy(&self, upstream: &str, healthy: bool) {
        self.upstream_healthy.with(&[upstream], |gauge| gauge.set(healthy.into()));
    }

    /// Says whether an upstream is in this state.
    pub fn upstream_state(&self, upstream: &str, state: &str, is_in: bool) {
        self.upstream_state.with(&[upstream, state], |gauge| gauge.set(is_in.into()));
    }

    /// Counts traces by what became of them.
    pub fn traces(&self, outcome: TraceOutcome, traces: u64) {
        self.langfuse_traces.with(&[outcome.as_str()], |counter| counter.inc_by(traces));
    }

    /// Says how many traces wait for delivery, and for how long the oldest of them has.
    pub fn traces_waiting(&self, backlog: u64, lag: Duration) {
        let whole = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        self.langfuse_backlog.with(&[], |gauge| gauge.set(whole(backlog)));
        self.langfuse_lag.with(&[], |gauge| gauge.set(whole(lag.as_secs())));
    }

    /// Forgets how limits stood, before they are told anew: a key may have lost one.
    pub fn forget_limits(&self) {
        self.limit_used_ratio.clear();
        self.budget_remaining.clear();
    }

    /// Says how much of a key's limit is used, from 0 to 1.
    pub fn limit_used(&self, key: &str, limit: &str, ratio: f64) {
        self.limit_used_ratio.with(&[key, limit], |gauge| gauge.set(ratio));
    }

    /// Says what is left of a key's budget, in US dollars.
    pub fn budget_remaining(&self, key: &str, usd: f64) {
        self.budget_remaining.with(&[key], |gauge| gauge.set(usd));
    }

    /// Everything in Prometheus' text format, `text/plain; version=0.0.4`.
    #[must_use]
    pub fn render(&self) -> Vec<u8> {
        let mut text = Vec::new();
        for (family, about) in self.families().into_iter().zip(ALL) {
            let Some(family) = family.collect() else {
                // Nothing happened yet; what it would be is told all the same.
                text.extend_from_slice(about.heading().as_bytes());
                continue;
            };
            if let Err(error) = TextEncoder::new().encode(&[family], &mut text) {
                tracing::error!(%error, "metrics could not be written in full");
            }
        }
        text
    }

    /// The families in the order of the table.
    fn families(&self) -> [&dyn Collect; ALL.len()] {
        [
            &self.requests,
            &self.request_duration,
            &self.overhead,
            &self.time_to_first_token,
            &self.tokens,
            &self.cost,
            &self.upstream_requests,
            &self.upstream_healthy,
            &self.upstream_state,
            &self.upstream_inflight,
            &self.upstream_quota_remaining,
            &self.failovers,
            &self.streams_broken,
            &self.rejections,
            &self.limit_used_ratio,
            &self.budget_remaining,
            &self.inflight,
            &self.langfuse_traces,
            &self.langfuse_backlog,
            &self.langfuse_lag,
            &self.config_generation,
            &self.config_reloads,
            &self.build_info,
        ]
    }
}

/// One in flight; no longer once dropped.
#[must_use]
#[derive(Debug)]
pub struct InflightGuard(Option<IntGauge>);

/// One in flight at an upstream.
pub type UpstreamInflightGuard = InflightGuard;

impl InflightGuard {
    fn of(family: &Family<IntGauge>, values: &[&str]) -> Self {
        Self(family.with(values, |gauge| {
            gauge.inc();
            gauge.clone()
        }))
    }
}

impl Drop for InflightGuard {
    fn drop(&mut self) {
        if let Some(gauge) = &self.0 {
            gauge.dec();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::sample;

    /// One of everything that is counted.
    fn full() -> Arc<Metrics> {
        let metrics = Metrics::new("0.1.0", "abc1234");
        metrics.observe(&sample::exchange());
        metrics.observe(&sample::refused());
        metrics.upstream_call("openrouter-main", Outcome::Ok);
        metrics.upstream_call("openrouter-spare", Outcome::Status5xx);
        metrics.failover("openrouter-spare", Outcome::Status5xx);
        metrics.stream_broken("openrouter-main", Broken::TooLong);
        metrics.upstream_healthy("openrouter-main", true);
        metrics.upstream_healthy("openrouter-spare", false);
        metrics.upstream_state("openrouter-spare", "healthy", false);
        metrics.upstream_state("openrouter-spare", "ejected", true);
        metrics.traces(TraceOutcome::Sent, 5);
        metrics.traces_waiting(12, Duration::from_millis(3_900));
        metrics.config_generation(3);
        metrics.config_reload(ReloadOutcome::Applied);
        drop(metrics.upstream_inflight(&"openrouter-main".into()));
        metrics.upstream_quota("openrouter-main", "credits", 74.5);
        metrics.limit_used("gone", "budget", 1.0);
        metrics.forget_limits();
        metrics.limit_used("n8n", "requests_per_minute", 0.25);
        metrics.budget_remaining("n8n", 12.5);
        metrics
    }

    fn told(metrics: &Metrics) -> String {
        String::from_utf8(metrics.render()).unwrap()
    }

    #[test]
    fn the_text_is_the_golden_one() {
        let golden = include_str!("../../../tests/golden/metrics/full.txt");
        assert_eq!(told(&full()), golden);
    }

    #[test]
    fn every_metric_of_the_table_is_fed_and_told_once() {
        let text = told(&full());
        for about in ALL {
            assert_eq!(text.matches(&format!("# HELP {} ", about.name)).count(), 1);
            assert_eq!(text.matches(&format!("# TYPE {} ", about.name)).count(), 1);
            let sample = text.lines().find(|line| line.starts_with(about.name)).unwrap();
            for label in about.labels {
                assert!(sample.contains(&format!("{label}=\"")), "{sample} lacks {label}");
            }
        }
        assert_eq!(text.matches("# HELP ").count(), ALL.len());
    }

    #[test]
    fn a_stream_that_broke_off_is_no_rejection() {
        let metrics = Metrics::new("", "");
        let mut x = sample::exchange();
        x.error_code = Some("upstream_error");
        metrics.observe(&x);
        assert!(!told(&metrics).contains("\ncirque_rejections_total"));
    }

    #[test]
    fn a_senseless_cost_is_not_counted() {
        let metrics = Metrics::new("", "");
        for usd in [-1.0, f64::NAN, f64::INFINITY] {
            let mut x = sample::exchange();
            x.cost = x.cost.map(|cost| crate::protocol::usage::Cost { usd, ..cost });
            metrics.observe(&x);
        }
        assert!(!told(&metrics).contains("\ncirque_cost_usd_total"));
    }

    #[test]
    fn guards_return_what_they_took_from_any_thread() {
        let metrics = Metrics::new("", "");
        let upstream: Arc<str> = "main".into();
        let kept = metrics.inflight();
        let call = || {
            let _request = metrics.inflight();
            let _call = metrics.upstream_inflight(&upstream);
            metrics.observe(&sample::exchange());
        };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1_000).for_each(|_| call()));
            }
        });
        let text = told(&metrics);
        assert!(text.contains("\ncirque_inflight_requests 1\n"), "{text}");
        assert!(text.contains("\ncirque_upstream_inflight{upstream=\"main\"} 0\n"), "{text}");
        assert!(text.contains("code=\"200\",key=\"n8n\",model=\"acme/wisp-2-mini\",route=\"/v1/chat/completions\"} 4000\n"), "{text}");
        drop(kept);
        assert!(told(&metrics).contains("\ncirque_inflight_requests 0\n"));
    }
}
