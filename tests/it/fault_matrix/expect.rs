//! What each cell has to look like, worked out from its row.

use super::cell::Cell;
use super::fault::{Company, Ends, Move, Shape, Told};
use crate::harness::{Gate, Reply, Response, Sample, assert_openai_error, events, sample};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Counters of one lane that are not 0, each by who it is about and its word.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Counts(BTreeMap<(&'static str, String, String), i64>);

/// Counters, the label that says whom they are about, and the one that says what.
const COUNTED: [(&str, &str, &str); 5] = [
    ("cirque_upstream_requests_total", "upstream", "outcome"),
    ("cirque_failovers_total", "from", "reason"),
    ("cirque_streams_broken_total", "upstream", "reason"),
    ("cirque_rejections_total", "key", "code"),
    ("cirque_requests_total", "key", "code"),
];

impl Counts {
    /// Reads them; `prefix` is what all names of the lane begin with.
    #[expect(clippy::cast_possible_truncation, reason = "small whole numbers")]
    pub(super) fn of(samples: &[Sample], prefix: &str) -> Self {
        let mut counts = Self::default();
        for sample in samples {
            let label = |name: &str| sample.labels.iter().find(|(n, _)| n == name);
            for (name, who, what) in COUNTED.iter().filter(|(name, ..)| *name == sample.name) {
                let (Some((_, who)), Some((_, what))) = (label(who), label(what)) else { continue };
                let whom = who.strip_prefix(prefix).unwrap_or("none");
                // `/status` is asked for with the same key, and is no call.
                if label("route").is_none_or(|(_, route)| route.ends_with("/completions")) {
                    counts.add(name, whom, what, sample.value as i64);
                }
            }
        }
        counts
    }

    fn add(&mut self, name: &'static str, whom: &str, what: &str, times: i64) {
        *self.0.entry((name, whom.to_owned(), what.to_owned())).or_default() += times;
        self.0.retain(|_, count| *count != 0);
    }

    /// What has been added since.
    pub(super) fn less(mut self, before: &Self) -> Self {
        for ((name, whom, what), count) in &before.0 {
            self.add(name, whom, what, -count);
        }
        self
    }
}

/// All that must be seen of one call.
pub(super) struct Expected {
    status: u16,
    /// Our error code, in the body, the stream or the log.
    code: Option<&'static str>,
    finish: Option<&'static str>,
    told: Option<Told>,
    retry_after: Option<&'static str>,
    /// The reply's body where it is known, or what comes before the error event or the cut.
    body: Option<Vec<u8>>,
    /// The upstream that answered or was asked last.
    upstream: String,
    attempts: usize,
    /// Calls at the upstream asked first and at the other one.
    pub(super) asked: [usize; 2],
    /// Whether the first upstream answers before it has read.
    pub(super) is_early: bool,
    pub(super) counts: Counts,
    /// What `/status` says of the two.
    pub(super) last_errors: [Option<String>; 2],
    pub(super) states: [&'static str; 2],
}

impl Expected {
    /// What this cell must look like.
    pub(super) fn of(cell: &Cell<'_>, gate: &Gate) -> Self {
        let script = cell.script_of(gate);
        let mut expected = Self {
            status: 200,
            code: None,
            finish: None,
            told: None,
            retry_after: None,
            body: script.as_ref().map(Reply::body),
            upstream: cell.lane.bad_name(),
            attempts: 1,
            asked: [1, 0],
            is_early: script.is_some_and(|reply| reply.is_early),
            counts: Counts::default(),
            last_errors: [None, None],
            states: ["healthy"; 2],
        };
        match cell.lane.fault.ends {
            Ends::Moves(failed) => expected.moves(cell, failed),
            Ends::Passes { status, outcome, finish } => {
                (expected.status, expected.finish) = (status, finish);
                expected.counts.add("cirque_upstream_requests_total", "bad", outcome, 1);
            }
            Ends::Broken { reason, code, told, .. } => {
                expected.code = Some(code);
                expected.finish = Some("error");
                expected.told = Some(told);
                expected.counts.add("cirque_upstream_requests_total", "bad", "stream_broken", 1);
                expected.counts.add("cirque_streams_broken_total", "bad", reason, 1);
                expected.last_errors[0] = Some(format!("stream broken: {reason}"));
            }
        }
        let status = expected.status.to_string();
        expected.counts.add("cirque_requests_total", "", &status, 1);
        expected
    }

    fn moves(&mut self, cell: &Cell<'_>, failed: Move) {
        let Move { outcome, what, .. } = failed;
        let counts = &mut self.counts;
        counts.add("cirque_upstream_requests_total", "bad", outcome, 1);
        self.last_errors[0] = Some(what.to_owned());
        self.states[0] = failed.state;
        match cell.lane.company {
            Company::OneGood => {
                counts.add("cirque_upstream_requests_total", "other", "ok", 1);
                self.finish = Some("stop");
                let whole = match cell.shape {
                    Shape::Plain => "chat_response.json",
                    Shape::Stream => "chat_stream_openai.sse",
                };
                self.body = Some(sample(whole));
            }
            Company::AllBad => {
                counts.add("cirque_upstream_requests_total", "other", outcome, 1);
                self.last_errors[1] = Some(what.to_owned());
                self.states[1] = failed.state;
                self.refused(failed);
            }
            Company::Nobody => {
                if failed.is_repeated {
                    counts.add("cirque_upstream_requests_total", "bad", outcome, 1);
                    (self.attempts, self.asked) = (2, [2, 0]);
                }
                return self.refused(failed);
            }
        }
        counts_failover(&mut self.counts, outcome);
        self.upstream = cell.lane.other_name();
        (self.attempts, self.asked) = (2, [1, 1]);
    }

    fn refused(&mut self, failed: Move) {
        self.body = None;
        self.finish = Some("error");
        (self.status, self.code) = (failed.status, Some(failed.code));
        self.retry_after = failed.retry_after;
        self.counts.add("cirque_rejections_total", "", failed.code, 1);
    }

    /// What the caller got.
    pub(super) fn check_reply(&self, cell: &Cell<'_>, reply: &Response) {
        let text = || String::from_utf8_lossy(&reply.body[..reply.body.len().min(2_000)]);
        assert_eq!(reply.status, self.status, "{cell}: {}", text());
        assert_eq!(reply.header("x-cirque-upstream"), Some(&*self.upstream), "{cell}");
        let attempts = self.attempts.to_string();
        assert_eq!(reply.header("x-cirque-attempts"), Some(&*attempts), "{cell}");
        assert!(memchr::memmem::find(&reply.body, b"127.0.0.1").is_none(), "{cell}: {}", text());
        assert_eq!(reply.complete, self.told != Some(Told::ByTheCut), "{cell}: {}", text());
        let Some(body) = &self.body else {
            assert_openai_error(reply, self.status, self.code.unwrap_or_default());
            let is_final = self.attempts > 1 || self.retry_after == Some("3600");
            let retried = is_final.then_some("false");
            assert_eq!(reply.header("x-should-retry"), retried, "{cell}");
            assert_eq!(reply.header("retry-after"), self.retry_after, "{cell}");
            return;
        };
        match self.told {
            None | Some(Told::ByTheUpstream) => assert!(reply.body == *body, "{cell}: {}", text()),
            Some(Told::ByTheCut) => assert!(body.starts_with(&reply.body), "{cell}: {}", text()),
            Some(Told::InBand | Told::InBandAfterMore) => {
                self.check_in_band(cell, &reply.body, body);
            }
        }
        if self.told.is_some_and(|told| told != Told::ByTheCut) {
            let last = events(&reply.body).pop().unwrap_or_else(|| panic!("{cell}: {}", text()));
            assert!(last.json()["error"]["message"].is_string(), "{cell}: {}", text());
        }
    }

    /// Whole events as the upstream sent them, then exactly one of ours. No half event is between
    /// them, which would swallow ours.
    fn check_in_band(&self, cell: &Cell<'_>, got: &[u8], sent: &[u8]) {
        let text = || String::from_utf8_lossy(&got[..got.len().min(2_000)]);
        assert!(got.ends_with(b"\n\n"), "{cell}: {}", text());
        let (got, sent) = (events(got), events(sent));
        let (ours, passed) = got.split_last().unwrap_or_else(|| panic!("{cell}: {}", text()));
        assert!(passed.starts_with(&sent), "{cell}: the events before the fault: {}", text());
        assert!(passed.iter().all(|event| event.data != "[DONE]"), "{cell}: {}", text());
        if self.told == Some(Told::InBand) {
            assert_eq!(passed.len(), sent.len(), "{cell}: {}", text());
        }
        assert_eq!(ours.json()["error"]["code"], json!(self.code), "{cell}: {}", text());
    }

    /// What the access log says.
    pub(super) fn check_log(&self, cell: &Cell<'_>, line: &Value, reply: &Response) {
        for (field, value) in [
            ("status", json!(self.status)),
            ("key", json!(cell.lane.name)),
            ("model", json!(cell.lane.name)),
            ("upstream", json!(self.upstream)),
            ("attempts", json!(self.attempts)),
            ("stream", json!(cell.shape == Shape::Stream)),
            ("bytes_in", json!(cell.size)),
            ("error_code", json!(self.code)),
            ("finish", json!(self.finish)),
        ] {
            assert_eq!(line[field], value, "{cell}: `{field}` of {line}");
        }
        if reply.complete {
            assert_eq!(line["bytes_out"], json!(reply.body.len()), "{cell}: {line}");
        }
    }
}

fn counts_failover(counts: &mut Counts, reason: &str) {
    counts.add("cirque_failovers_total", "bad", reason, 1);
}
