//! Three accounts of the same calls: the callers', the access log's and the metrics'.

use super::caller::{End, Replied, View};
use super::dice::Asked;
use crate::harness::{Gateway, Request, Sample, samples};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::RangeInclusive;

/// All that is to be compared.
pub(super) struct Books {
    views: Vec<View>,
    /// Lines about calls, by session, which is the caller's name of the call.
    lines: HashMap<String, Value>,
    /// Lines about calls that were left before all of the request had come.
    nameless: Vec<Value>,
    metrics: Vec<Sample>,
    /// Whom each call was taken to, by the caller's name of it.
    asked: HashMap<String, Vec<&'static str>>,
    in_flight: u64,
}

impl fmt::Display for Books {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let replied = || self.replied().map(|(_, replied, _)| replied);
        let whole = replied().filter(|replied| replied.is_whole_answer).count();
        let broken = replied().filter(|replied| replied.status == 200).count() - whole;
        let errors = replied().filter(|replied| replied.status >= 400).count();
        let left = self.views.len() - replied().count();
        write!(
            f,
            "{} calls: {whole} whole answers, {broken} broken off, {errors} errors, {left} left; \
             {} upstream calls, {} failovers",
            self.views.len(),
            self.total("cirque_upstream_requests_total"),
            self.total("cirque_failovers_total"),
        )
    }
}

impl Books {
    /// Takes down what there is once all calls have ended.
    pub(super) async fn close(gateway: &Gateway, views: Vec<View>, asked: &[Asked]) -> Self {
        let is_call = |line: &Value| line["route"] == "/v1/chat/completions";
        // Its writer is a moment behind.
        gateway.log_of(&gateway.get("/health").await).await;
        let (named, nameless): (Vec<Value>, Vec<Value>) = gateway
            .log()
            .into_iter()
            .filter(is_call)
            .partition(|line| line["session_id"].is_string());
        let mut lines = HashMap::new();
        for line in named {
            let session = line["session_id"].as_str().unwrap_or_default().to_owned();
            assert!(lines.insert(session, line).is_none(), "one line for each call");
        }
        let mut by_call: HashMap<String, Vec<&'static str>> = HashMap::new();
        for asked in asked {
            by_call.entry(asked.call.clone()).or_default().push(asked.upstream);
        }
        let status = gateway.call(&Request::get("/status").key("sk-soak-app")).await;
        let status = status.assert_ok().json();
        let upstreams = status["upstreams"].as_array().expect("a list");
        Self {
            views,
            lines,
            nameless,
            metrics: samples(&gateway.metrics().await),
            asked: by_call,
            in_flight: upstreams.iter().filter_map(|upstream| upstream["inflight"].as_u64()).sum(),
        }
    }

    /// Calls whose callers waited for the end, with their lines.
    fn replied(&self) -> impl Iterator<Item = (&View, &Replied, &Value)> {
        self.views.iter().filter_map(|view| match &view.end {
            End::Left => None,
            End::Replied(replied) => Some((view, replied, self.lines.get(&view.call)?)),
        })
    }

    fn left(&self) -> impl Iterator<Item = &View> {
        self.views.iter().filter(|view| matches!(view.end, End::Left))
    }

    fn total(&self, name: &str) -> u64 {
        total(self.metrics.iter().filter(|s| s.name == name))
    }

    /// The same of those series that have this outcome.
    fn total_with(&self, name: &str, outcome: &str) -> u64 {
        let has = |s: &&Sample| s.labels.iter().any(|(n, v)| n == "outcome" && v == outcome);
        total(self.metrics.iter().filter(|s| s.name == name).filter(has))
    }

    /// Fails the test unless all accounts agree.
    pub(super) fn balance(&self, seed: u64) {
        self.callers_agree_with_the_log(seed);
        self.the_log_agrees_with_the_metrics(seed);
        self.upstreams_agree_with_the_metrics(seed);
        assert_eq!(self.in_flight, 0, "seed {seed}: calls in flight in /status");
    }

    fn callers_agree_with_the_log(&self, seed: u64) {
        let waited = self.views.len() - self.left().count();
        assert_eq!(self.replied().count(), waited, "seed {seed}: a line for each reply");
        // Those who leave may overtake their own request, of which then less is known, or nothing.
        let gone = self.left().filter(|view| self.lines.contains_key(&view.call)).count();
        assert_eq!(self.lines.len(), waited + gone, "seed {seed}: no line without a call");
        let (nameless, lost) = (&self.nameless, self.left().count() - gone);
        assert!(nameless.len() <= lost, "seed {seed}: {lost} lost, {nameless:#?}");
        let is_lost = |line: &Value| line["attempts"] == 0 && line["status"] == 499;
        assert!(nameless.iter().all(is_lost), "seed {seed}: {nameless:#?}");
        for (view, replied, line) in self.replied() {
            let told = format!("seed {seed}: {view:?}\n{line}");
            agree(view, replied, line, &told);
            match replied.status {
                200 => agree_on_an_answer(replied, line, &told),
                400 => assert!(line["error_code"].is_null() && replied.code.is_some(), "{told}"),
                _ => assert_eq!(line["error_code"].as_str(), replied.code.as_deref(), "{told}"),
            }
        }
    }

    fn the_log_agrees_with_the_metrics(&self, seed: u64) {
        let lines = || self.lines.values().chain(&self.nameless);
        let sum = |of: &dyn Fn(&Value) -> u64| lines().map(of).sum::<u64>();
        let number = |name: &'static str| sum(&move |line| line[name].as_u64().unwrap_or_default());
        assert_eq!(
            number("attempts"),
            self.total("cirque_upstream_requests_total"),
            "seed {seed}: upstream calls"
        );
        assert_eq!(
            number("input_tokens") + number("output_tokens"),
            self.total("cirque_tokens_total"),
            "seed {seed}: tokens"
        );
        let is_rejected = |line: &Value| !line["error_code"].is_null() && line["status"] != 200;
        assert_eq!(
            sum(&move |line| is_rejected(line).into()),
            self.total("cirque_rejections_total"),
            "seed {seed}: rejections"
        );
        let mut logged = BTreeMap::new();
        for line in lines() {
            let text = |name: &str| line[name].as_str().map_or(line[name].to_string(), Into::into);
            *logged.entry((text("key"), text("status"))).or_insert(0.0) += 1.0;
        }
        let mut counted = BTreeMap::new();
        for sample in self.metrics.iter().filter(|s| s.name == "cirque_requests_total") {
            let label = |name: &str| {
                let found = sample.labels.iter().find(|(label, _)| label == name);
                found.map(|(_, value)| value.clone()).unwrap_or_default()
            };
            if label("route") == "/v1/chat/completions" {
                *counted.entry((label("key"), label("code"))).or_insert(0.0) += sample.value;
            }
        }
        assert_eq!(logged, counted, "seed {seed}: requests by key and status");
        self.broken_streams_agree(seed);
    }

    /// Of a caller that has left nobody knows whether it saw the break.
    fn broken_streams_agree(&self, seed: u64) {
        let broken = self
            .replied()
            .filter(|(_, replied, _)| replied.status == 200 && !replied.is_whole_answer);
        let certain = broken.count() as u64;
        let counted = self.total("cirque_streams_broken_total");
        let may_be = certain..=certain + self.left().count() as u64;
        assert!(may_be.contains(&counted), "seed {seed}: {counted} broken streams, not {may_be:?}");
    }

    fn upstreams_agree_with_the_metrics(&self, seed: u64) {
        let counted = self.total("cirque_failovers_total");
        let may_be = self.failovers();
        assert!(may_be.contains(&counted), "seed {seed}: {counted} failovers, not {may_be:?}");
        // A connection that ends takes calls with it of which its upstream has seen nothing yet.
        let seen = self.asked.values().map(Vec::len).sum::<usize>() as u64;
        let unseen = self.total_with("cirque_upstream_requests_total", "reset")
            + self.total_with("cirque_upstream_requests_total", "cancelled");
        let calls = self.total("cirque_upstream_requests_total");
        let may_be = calls.saturating_sub(unseen)..=calls;
        assert!(may_be.contains(&seen), "seed {seed}: {calls} calls, {seen} seen");
        for (view, replied, line) in
            self.replied().filter(|(_, replied, _)| replied.is_whole_answer)
        {
            let last = self.asked.get(&view.call).and_then(|asked| asked.last().copied());
            assert_eq!(line["upstream"].as_str(), last, "seed {seed}: {replied:?}\n{line}");
        }
    }

    /// At least the moves from one upstream to another that those saw; at most the further attempts
    /// that the log knows of.
    fn failovers(&self) -> RangeInclusive<u64> {
        let moves = |asked: &Vec<&str>| asked.windows(2).filter(|pair| pair[0] != pair[1]).count();
        let waited = self.replied().filter_map(|(view, ..)| self.asked.get(&view.call));
        let certain: usize = waited.map(moves).sum();
        let attempts = self.lines.values().filter_map(|line| line["attempts"].as_u64());
        let possible: u64 = attempts.map(|attempts| attempts.saturating_sub(1)).sum();
        certain as u64..=possible
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole counts")]
fn total<'s>(samples: impl Iterator<Item = &'s Sample>) -> u64 {
    samples.map(|sample| sample.value as u64).sum()
}

/// What is said of every reply.
fn agree(view: &View, replied: &Replied, line: &Value, told: &str) {
    assert_eq!(line["request_id"], *replied.request_id, "{told}");
    assert_eq!(line["key"], view.key, "{told}");
    assert_eq!(line["status"], replied.status, "{told}");
    assert_eq!(line["attempts"], replied.attempts, "{told}");
    if replied.complete {
        assert_eq!(line["bytes_out"], replied.bytes, "{told}");
    }
}

/// An answer is whole, or caller and log know that it is not.
fn agree_on_an_answer(replied: &Replied, line: &Value, told: &str) {
    assert_eq!(replied.is_whole_answer, line["error_code"].is_null(), "{told}");
    if replied.is_whole_answer {
        let tokens = line["input_tokens"].as_u64().zip(line["output_tokens"].as_u64());
        assert_eq!(tokens, replied.tokens, "{told}");
    } else {
        let is_told = replied.code.is_some() || !replied.complete;
        assert!(is_told, "a silent short answer: {told}");
    }
}
