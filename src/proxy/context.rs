//! Everything one request carries, grouped by the chapter that fills it in.

use super::{Shared, finish};
use crate::auth::Caller;
use crate::error::Rejection;
use crate::ids::{RequestId, TraceId};
use crate::protocol::Dialect;
use crate::protocol::edit::Segments;
use crate::protocol::path::Endpoint;
use crate::protocol::request::RequestFacts;
use crate::protocol::tap::Reading;
use crate::snapshot::{OpenRequest, Snapshot};
use crate::telemetry::metrics::InflightGuard;
use bytes::Bytes;
use http::HeaderValue;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// Why a request ends before its reply was relayed whole.
#[derive(Debug)]
pub enum Ended {
    /// We answer it ourselves.
    Rejected(Rejection),
    /// The caller has left; nobody is there to answer.
    CallerGone,
    /// The reply has begun and cannot be finished: the connection is cut, so that no client takes
    /// the part for the whole.
    Broken,
}

/// A call for an inference route, read and understood.
pub struct Call {
    /// Which API it speaks.
    pub dialect: Dialect,
    /// The body as it came in; dropped once it need not be replayed.
    pub body: Bytes,
    /// What was read from the body.
    pub facts: RequestFacts,
    /// Position of the route in the snapshot.
    pub route: usize,
    /// Whether `response_format` was a session id and is cut.
    pub strip_response_format: bool,
}

impl Call {
    /// Whether the caller wants a stream.
    pub const fn stream(&self) -> bool {
        self.facts.stream && self.dialect.may_stream()
    }

    /// The body as an upstream gets it: its own model name, without what providers refuse.
    pub fn body_for(&self, model: &str) -> Segments {
        let mut edits = crate::protocol::edit::Edits::new();
        if model != self.facts.model {
            let name = crate::protocol::edit::json_string(model);
            edits.replace(self.facts.model_span.clone(), name);
        }
        if let Some(format) = self.facts.response_format.as_ref().filter(|_| self.strip_response_format)
        {
            edits.replace(format.removal.clone(), Bytes::new());
        }
        if edits.is_empty() {
            return Segments::whole(self.body.clone());
        }
        edits.apply(&self.body)
    }
}

/// What is known about the reply, for the record.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Status the caller saw.
    pub status: Option<u16>,
    /// Our error code, where we answered or broke off.
    pub error_code: Option<&'static str>,
    /// The upstream that answered, or the last one tried.
    pub upstream: Option<Arc<str>>,
    /// Upstream calls begun.
    pub attempts: u32,
    /// Request body bytes read.
    pub bytes_in: u64,
    /// Reply body bytes written.
    pub bytes_out: u64,
    /// When the first token went to the caller.
    pub first_token: Option<Instant>,
    /// What a copy of the reply told.
    pub reading: Reading,
    /// Whether the caller left before the end.
    pub cancelled: bool,
}

/// One request.
pub struct Ctx {
    /// What every request shares.
    pub shared: Shared,
    /// The configuration this request began with.
    pub snapshot: Arc<Snapshot>,
    /// Clock of every duration.
    pub begun: Instant,
    /// Wall clock of the record.
    pub started: SystemTime,
    /// Time spent waiting on caller and upstream.
    pub waited: Duration,
    /// Our id.
    pub request_id: RequestId,

    /// The caller's trace, else a new one.
    pub trace_id: TraceId,
    /// Method as sent.
    pub method: String,
    /// Path as sent, without its query.
    pub path: String,
    /// The page that calls, if a browser does.
    pub origin: Option<HeaderValue>,
    /// The caller's address.
    pub client_ip: Option<IpAddr>,
    /// The API path.
    pub endpoint: Option<Endpoint>,
    /// Who is calling.
    pub caller: Option<Arc<Caller>>,

    /// The call, once read.
    pub call: Option<Call>,
    /// The conversation.
    pub session_id: Option<String>,

    /// The reply.
    pub outcome: Outcome,

    /// Set by `finish`, so that it happens once.
    pub recorded: bool,
    _open: OpenRequest,
    _inflight: InflightGuard,
}

impl Ctx {
    /// A request begins: the snapshot is pinned, the clock starts.
    pub fn new(shared: &Shared) -> Self {
        Self {
            snapshot: shared.current.pin(),
            begun: Instant::now(),
            started: SystemTime::now(),
            waited: Duration::ZERO,
            request_id: RequestId::from_random(rand::random()),
            trace_id: TraceId::from_random(rand::random()),
            method: String::new(),
            path: String::new(),
            origin: None,
            client_ip: None,
            endpoint: None,
            caller: None,
            call: None,
            session_id: None,
            outcome: Outcome::default(),
            recorded: false,
            _open: shared.current.enter(),
            _inflight: shared.metrics.inflight(),
            shared: shared.clone(),
        }
    }

    /// The API a reply must speak.
    pub fn dialect(&self) -> Option<Dialect> {
        match self.endpoint {
            Some(Endpoint::Inference(dialect)) => Some(dialect),
            Some(
                Endpoint::Models
                | Endpoint::Model(_)
                | Endpoint::Status
                | Endpoint::Health
                | Endpoint::Root,
            )
            | None => None,
        }
    }

    /// Runs something that waits on the caller or on an upstream, and takes the time off our own.
    pub async fn waiting<T>(waited: &mut Duration, work: impl Future<Output = T>) -> T {
        let since = Instant::now();
        let result = work.await;
        *waited += since.elapsed();
        result
    }
}

impl Drop for Ctx {
    /// Pingora skips `logging` on a panic and when a drain cuts the task; the record is written all
    /// the same.
    fn drop(&mut self) {
        finish::finish(self);
    }
}
