//! The one catalogue of metrics: name, kind, labels, help and what each is for.
//!
//! docs/metrics.md is [`page`], written anew by
//! `cargo test --lib writes_the_metrics_page -- --ignored`.

use super::words::{Broken, Outcome, ReloadOutcome, TraceOutcome};
use std::fmt::Write as _;

/// One metric, as Prometheus and as a reader of the documentation sees it.
#[derive(Debug)]
pub struct About {
    /// `cirque_<noun>_<unit>[_total]`, in base units.
    pub name: &'static str,
    /// Counter, gauge or histogram.
    pub kind: Kind,
    /// Names of its labels. Values come from the configuration and from enums alone, so their
    /// number is bounded whatever callers send.
    pub labels: &'static [&'static str],
    /// The HELP line.
    pub help: &'static str,
    /// Which question it answers.
    pub why: &'static str,
}

/// The kind of a metric.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts in buckets with these upper bounds, in seconds.
    Histogram(&'static [f64]),
}

impl About {
    /// What stands before its series in Prometheus' text format.
    pub(super) fn heading(&self) -> String {
        let Self { name, help, .. } = self;
        let kind = match self.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
        };
        format!("# HELP {name} {help}\n# TYPE {name} {kind}\n")
    }
}

/// From a cached answer to the longest call allowed by default (`timeouts.total`, 30 min). Each
/// bound is about twice the one before, so that a quantile is off by a factor of two at most.
const CALL_SECONDS: &[f64] =
    &[0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 1800.0];

/// Providers send a first token after 0.5 to 5 s (WIRE section 2), so the bounds are dense there;
/// reasoning models take minutes, and 120 s is the default limit (`timeouts.first_token`).
const FIRST_TOKEN_SECONDS: &[f64] =
    &[0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0];

/// Our own share is tens of microseconds when well, milliseconds for a body of megabytes, more
/// when the machine is overloaded: three bounds a decade from 10 µs.
const OVERHEAD_SECONDS: &[f64] = &[
    0.000_01, 0.000_02, 0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05,
    0.1, 1.0,
];

pub(super) const REQUESTS: About = About {
    name: "cirque_requests_total",
    kind: Kind::Counter,
    labels: &["route", "key", "model", "code"],
    help: "Finished requests by API path, key, model and HTTP status (499: the caller left first).",
    why: "Traffic and the share of failures, by who asked for what.",
};
pub(super) const REQUEST_DURATION: About = About {
    name: "cirque_request_duration_seconds",
    kind: Kind::Histogram(CALL_SECONDS),
    labels: &["route", "model"],
    help: "From the first byte read of a request to the last byte written of its reply.",
    why: "How long callers wait in all; mostly the provider's time.",
};
pub(super) const OVERHEAD: About = About {
    name: "cirque_overhead_seconds",
    kind: Kind::Histogram(OVERHEAD_SECONDS),
    labels: &[],
    help: "Duration of a request less the time spent waiting on upstream and caller.",
    why: "What the gateway itself costs; when it grows, the gateway is the bottleneck.",
};
pub(super) const TIME_TO_FIRST_TOKEN: About = About {
    name: "cirque_time_to_first_token_seconds",
    kind: Kind::Histogram(FIRST_TOKEN_SECONDS),
    labels: &["upstream", "model"],
    help: "From the first byte read of a request to its first token sent on.",
    why: "How fast an answer feels, and which upstream is slow for which model.",
};
pub(super) const TOKENS: About = About {
    name: "cirque_tokens_total",
    kind: Kind::Counter,
    labels: &["key", "model", "type"],
    help: "Tokens as upstreams report them; the types are disjoint and add up.",
    why: "Who uses how much: input (uncached), cached_input, output (without reasoning), reasoning.",
};
pub(super) const COST: About = About {
    name: "cirque_cost_usd_total",
    kind: Kind::Counter,
    labels: &["key", "model", "upstream", "source"],
    help: "US dollars spent, by where the figure comes from.",
    why: "What it costs; source is upstream, config, catalogue, estimate or none, best first.",
};
pub(super) const UPSTREAM_REQUESTS: About = About {
    name: "cirque_upstream_requests_total",
    kind: Kind::Counter,
    labels: &["upstream", "outcome"],
    help: "Attempts at upstreams by how they ended.",
    why: "The health of each provider as calls see it, retries included.",
};
pub(super) const UPSTREAM_HEALTHY: About = About {
    name: "cirque_upstream_healthy",
    kind: Kind::Gauge,
    labels: &["upstream"],
    help: "1 while probes and breaker hold an upstream for good, 0 while either keeps calls away.",
    why: "Which upstream is out; page when all of a route are.",
};
pub(super) const UPSTREAM_STATE: About = About {
    name: "cirque_upstream_state",
    kind: Kind::Gauge,
    labels: &["upstream", "state"],
    help: "1 for the state an upstream is in and 0 for every other, as /status names them.",
    why: "Who rests or is rate limited, which is no illness, and who awaits a trial.",
};
pub(super) const UPSTREAM_INFLIGHT: About = About {
    name: "cirque_upstream_inflight",
    kind: Kind::Gauge,
    labels: &["upstream"],
    help: "Calls an upstream is working on now.",
    why: "Load and queueing at each upstream, against its max_concurrent.",
};
pub(super) const UPSTREAM_QUOTA_REMAINING: About = About {
    name: "cirque_upstream_quota_remaining",
    kind: Kind::Gauge,
    labels: &["upstream", "kind"],
    help: "What an upstream's own limits leave, as its replies say: requests, tokens, or credits in US dollars.",
    why: "Who will soon be rate limited or out of money; calls are steered away at nothing left.",
};
pub(super) const FAILOVERS: About = About {
    name: "cirque_failovers_total",
    kind: Kind::Counter,
    labels: &["from", "reason"],
    help: "Calls taken on to the next upstream, by the one that failed and why.",
    why: "Failures callers never saw.",
};
pub(super) const STREAMS_BROKEN: About = About {
    name: "cirque_streams_broken_total",
    kind: Kind::Counter,
    labels: &["upstream", "reason"],
    help: "Streams that did not end well after their first token, by upstream and why.",
    why: "Failures callers did see, as an error event in the stream.",
};
pub(super) const REJECTIONS: About = About {
    name: "cirque_rejections_total",
    kind: Kind::Counter,
    labels: &["code", "key"],
    help: "Requests the gateway answered with an error of its own, by error code and key.",
    why: "Who runs into keys, limits or budgets, and how often nothing upstream was left.",
};
pub(super) const LIMIT_USED_RATIO: About = About {
    name: "cirque_limit_used_ratio",
    kind: Kind::Gauge,
    labels: &["key", "limit"],
    help: "Used share of a key's limit now, from 0 to 1.",
    why: "Who is about to be refused; limit is requests_per_minute, tokens_per_minute, concurrent or budget.",
};
pub(super) const BUDGET_REMAINING: About = About {
    name: "cirque_budget_remaining_usd",
    kind: Kind::Gauge,
    labels: &["key"],
    help: "US dollars of a key's budget that are neither spent nor reserved in this period.",
    why: "How long the money will last; alert before callers meet insufficient_quota.",
};
pub(super) const INFLIGHT: About = About {
    name: "cirque_inflight_requests",
    kind: Kind::Gauge,
    labels: &[],
    help: "Requests being served now.",
    why: "Load; what a drain still waits for.",
};
pub(super) const LANGFUSE_TRACES: About = About {
    name: "cirque_langfuse_traces_total",
    kind: Kind::Counter,
    labels: &["outcome"],
    help: "Traces by what became of them, at Langfuse and any other destination: spooled to disk, sent, retried, dropped.",
    why: "Whether traces arrive; a rise of dropped is a loss, and /status says why.",
};
pub(super) const LANGFUSE_BACKLOG: About = About {
    name: "cirque_langfuse_backlog",
    kind: Kind::Gauge,
    labels: &[],
    help: "Traces that are not delivered yet, on disk or waiting for it, at the destination furthest behind.",
    why: "Whether Langfuse is away, or slower than the traffic.",
};
pub(super) const LANGFUSE_LAG: About = About {
    name: "cirque_langfuse_lag_seconds",
    kind: Kind::Gauge,
    labels: &[],
    help: "Age of the oldest trace that is not delivered yet, at the destination furthest behind.",
    why: "How late traces are; page when it keeps growing.",
};
pub(super) const CONFIG_GENERATION: About = About {
    name: "cirque_config_generation",
    kind: Kind::Gauge,
    labels: &[],
    help: "Number of the configuration in force; each applied reload adds one.",
    why: "Whether all replicas run what was last rolled out.",
};
pub(super) const CONFIG_RELOADS: About = About {
    name: "cirque_config_reloads_total",
    kind: Kind::Counter,
    labels: &["outcome"],
    help: "Reloads of the configuration: applied, unchanged or rejected.",
    why: "A rejected reload means that the file and the running configuration differ.",
};
pub(super) const BUILD_INFO: About = About {
    name: "cirque_build_info",
    kind: Kind::Gauge,
    labels: &["version", "revision"],
    help: "Always 1; the labels say what is running.",
    why: "To join other metrics with the version, and to see a roll-out.",
};

/// Every metric, in the order of the page and of `/metrics`.
pub const ALL: [&About; 23] = [
    &REQUESTS,
    &REQUEST_DURATION,
    &OVERHEAD,
    &TIME_TO_FIRST_TOKEN,
    &TOKENS,
    &COST,
    &UPSTREAM_REQUESTS,
    &UPSTREAM_HEALTHY,
    &UPSTREAM_STATE,
    &UPSTREAM_INFLIGHT,
    &UPSTREAM_QUOTA_REMAINING,
    &FAILOVERS,
    &STREAMS_BROKEN,
    &REJECTIONS,
    &LIMIT_USED_RATIO,
    &BUDGET_REMAINING,
    &INFLIGHT,
    &LANGFUSE_TRACES,
    &LANGFUSE_BACKLOG,
    &LANGFUSE_LAG,
    &CONFIG_GENERATION,
    &CONFIG_RELOADS,
    &BUILD_INFO,
];

const PAGE_HEAD: &str = "\
# Metrics

Prometheus text at `/metrics` of the admin listener (`admin.listen`, by default `127.0.0.1:9090`).

Label values come only from the configuration and from closed lists. `route` is the API path
served, such as `/v1/chat/completions`, or `other`. `key` is the name of a key, `none` where no
key was recognised. `model` is a name that stands in the configuration or the catalogue, else
`other`. `upstream` is a name, `none` where a call reached none.

This page is written from the table in `src/telemetry/metrics/table.rs` by
`cargo test --lib writes_the_metrics_page -- --ignored`; a test fails when the two differ.

| metric | kind | labels | meaning | what it is for |
|---|---|---|---|---|
";

/// docs/metrics.md in full.
#[must_use]
pub fn page() -> String {
    let mut page = PAGE_HEAD.to_owned();
    let mut bounds = String::new();
    for about in ALL {
        let labels: Vec<String> = about.labels.iter().map(|label| format!("`{label}`")).collect();
        let kind = match about.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(buckets) => {
                let buckets: Vec<String> = buckets.iter().map(ToString::to_string).collect();
                // Writing to a string cannot fail; here and below.
                writeln!(bounds, "- `{}`: {}", about.name, buckets.join(", ")).ok();
                "histogram"
            }
        };
        let About { name, help, why, .. } = about;
        writeln!(page, "| `{name}` | {kind} | {} | {help} | {why} |", labels.join(" ")).ok();
    }
    write!(page, "\nUpper bounds of the histograms, in seconds:\n\n{bounds}").ok();
    page.push_str("\nWords of the closed lists:\n\n");
    for (label, words) in [
        ("`outcome` of `cirque_upstream_requests_total`, `reason` of a failover", Outcome::WORDS),
        ("`reason` of `cirque_streams_broken_total`", Broken::WORDS),
        ("`outcome` of `cirque_langfuse_traces_total`", TraceOutcome::WORDS),
        ("`outcome` of `cirque_config_reloads_total`", ReloadOutcome::WORDS),
    ] {
        writeln!(page, "- {label}: {}", words.join(", ")).ok();
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const COMMITTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");

    #[test]
    fn the_committed_page_is_the_generated_one() {
        let committed = std::fs::read_to_string(COMMITTED).unwrap_or_default();
        assert_eq!(committed, page(), "the head of the page says how to write it anew");
    }

    #[test]
    #[ignore = "writes docs/metrics.md"]
    fn writes_the_metrics_page() {
        std::fs::write(COMMITTED, page()).unwrap();
    }

    #[test]
    fn names_follow_the_rules_and_are_unique() {
        let names: BTreeSet<_> = ALL.iter().map(|about| about.name).collect();
        assert_eq!(names.len(), ALL.len());
        for about in ALL {
            let is_counter = matches!(about.kind, Kind::Counter);
            assert_eq!(about.name.ends_with("_total"), is_counter, "{}", about.name);
            assert!(about.name.starts_with("cirque_"), "{}", about.name);
            assert!(about.help.ends_with('.') && about.why.ends_with('.'), "{}", about.name);
        }
    }

    #[test]
    fn buckets_rise() {
        for buckets in [CALL_SECONDS, FIRST_TOKEN_SECONDS, OVERHEAD_SECONDS] {
            assert!(buckets.windows(2).all(|pair| pair[0] < pair[1]));
        }
    }
}
