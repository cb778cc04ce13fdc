//! The flat record of one finished request: written once, read by the log, the metrics and traces.

use super::metrics::Outcome;
use crate::ids::{RequestId, TraceId};
use crate::protocol::usage::{Cost, Usage};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// One call to one upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Name of the upstream.
    pub upstream: Arc<str>,
    /// The model asked for, in the upstream's name for it.
    pub model: String,
    /// When it began, from the first byte read of the request.
    pub begun: Duration,
    /// How long it took, to the last byte of the reply or to its failure.
    pub took: Duration,
    /// How it ended.
    pub outcome: Outcome,
    /// What went wrong, in our own words; never an address, a key or the upstream's bytes.
    pub what: Option<String>,
}

/// One finished request, as `proxy/finish.rs` writes it; nothing here was checked against a
/// label's bounds except `route`, `key`, `upstream` and `model_label`.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// When its first byte was read.
    pub started: SystemTime,
    /// Our id, also the reply's `x-request-id`.
    pub request_id: RequestId,
    /// The caller's trace, else a new one.
    pub trace_id: TraceId,
    /// The caller's address, through trusted proxies.
    pub client_ip: Option<IpAddr>,
    /// Method as sent.
    pub method: String,
    /// Path as sent, without the query, cut to 256 bytes.
    pub path: String,
    /// The API path served, such as `/v1/chat/completions`; `other` where there is none.
    pub route: &'static str,
    /// The status the caller saw; 499 where it left before one was sent.
    pub status: u16,
    /// The caller's key by name.
    pub key: Option<Arc<str>>,
    /// The model the caller asked for, cut to 256 bytes.
    pub model: Option<String>,
    /// The model as a metric label: a configured or catalogued name, else `other`.
    pub model_label: Arc<str>,
    /// The upstream that answered, or the last one tried.
    pub upstream: Option<Arc<str>>,
    /// Upstream calls begun.
    pub attempts: u32,
    /// The same calls, one by one, as they ended.
    pub tries: Vec<Attempt>,
    /// Whether the caller asked for a stream.
    pub stream: bool,
    /// Request body bytes read from the caller.
    pub bytes_in: u64,
    /// Reply body bytes written to the caller.
    pub bytes_out: u64,
    /// From the first byte read to the last byte written.
    pub duration: Duration,
    /// From the first byte read to the first token sent on; `None` without one.
    pub time_to_first_token: Option<Duration>,
    /// `duration` less the time spent waiting on upstream and caller.
    pub overhead: Duration,
    /// Tokens, as the upstream counted them.
    pub usage: Option<Usage>,
    /// Money, and who said so.
    pub cost: Option<Cost>,
    /// The conversation.
    pub session_id: Option<String>,
    /// Our error code, where we answered or broke off.
    pub error_code: Option<&'static str>,
    /// `stop`, `length`, `tool_calls`, `content_filter`, `error`, `cancelled`, …
    pub finish: Option<String>,
}
