//! Everything one request carries, grouped by the chapter that fills it in.

use super::admission::Admission;
use super::traced::Traced;
use super::work::Work;
use super::{Shared, finish};
use crate::auth::Caller;
use crate::error::{Kind, Rejection};
use crate::ids::{RequestId, TraceId};
use crate::protocol::Dialect;
use crate::protocol::edit::{Edits, MemberSpan, Segments, json_string};
use crate::protocol::path::Endpoint;
use crate::protocol::request::{Optional, OtherModel, RequestFacts, Role, within_messages};
use crate::protocol::tap::{Finished, Reading};
use crate::protocol::usage::Cost;
use crate::protocol::usage_chunk;
use crate::snapshot::{OpenRequest, Snapshot};
use crate::store::Standing;
use crate::telemetry::exchange::Attempt;
use crate::telemetry::metrics::{self, InflightGuard};
use crate::upstream::Upstream;
use crate::upstream::provider::{Row, StreamUsage};
use bytes::Bytes;
use http::HeaderValue;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// Why a request ends before its reply was relayed whole.
#[derive(Debug)]
pub(super) enum Ended {
    /// We answer it ourselves.
    Rejected(Rejection),
    /// The caller has left; nobody is there to answer.
    CallerGone,
    /// The reply has begun and cannot be finished: the connection is cut, so that no client takes
    /// the part for the whole.
    Broken,
}

/// A call for an inference route, read and understood.
pub(super) struct Call {
    /// Which API it speaks.
    pub(super) dialect: Dialect,
    /// The body as it came in; dropped once it need not be replayed.
    pub(super) body: Bytes,
    /// What was read from the body.
    pub(super) facts: RequestFacts,
    /// Position of the route in the snapshot.
    pub(super) route: usize,
    /// Whether `response_format` was a session id and is cut.
    pub(super) strip_response_format: bool,
    /// The model asked for instead, once every upstream failed for the caller's.
    pub(super) asking: Option<String>,
    /// Whether a limit of the key depends on what the call uses.
    pub(super) is_metered: bool,
}

impl Call {
    /// Whether the caller wants a stream.
    pub(super) const fn stream(&self) -> bool {
        self.facts.stream && self.dialect.may_stream()
    }

    /// The model that upstreams are asked for now, in the caller's name for it.
    pub(super) fn model(&self) -> &str {
        self.asking.as_deref().unwrap_or(&self.facts.model)
    }

    /// Whether this provider is asked for the usage of a stream on our own account: then its extra
    /// chunk is ours alone.
    pub(super) fn asks_for_usage(&self, provider: &Row) -> bool {
        let is_due = match provider.stream_usage {
            StreamUsage::Unasked => false,
            StreamUsage::Asked => true,
            StreamUsage::AskedIfMetered => self.is_metered,
        };
        let is_chat = matches!(self.dialect, Dialect::Chat | Dialect::Completions);
        is_due && is_chat && self.stream() && !self.facts.include_usage
    }

    /// The body as this upstream gets it: its own names of models, without what it refuses.
    pub(super) fn body_for(&self, upstream: &Upstream, provider: &Row) -> Segments {
        let fields = provider.fields;
        let model = upstream.model_name(self.model());
        let mut edits = Edits::new();
        if self.asks_for_usage(provider) {
            usage_chunk::ask(&mut edits, &self.facts, &self.body);
        }
        if model != self.facts.model {
            edits.replace(self.facts.model_span.clone(), json_string(model));
        }
        let format = self.facts.response_format.as_ref().filter(|_| self.strip_response_format);
        let mut gone: Vec<&MemberSpan> = format.map(|format| &format.place).into_iter().collect();
        let has = |name: &str| self.facts.optional.iter().any(|optional| optional.name == name);
        for Optional { name, place } in &self.facts.optional {
            match fields.older_name(name) {
                Some(known) if has(known) => gone.push(place),
                Some(known) => edits.replace(place.key.clone(), json_string(known)),
                None if fields.takes_out(name, self.dialect) => gone.push(place),
                None => {}
            }
        }
        let is_model = |other: &&OtherModel| matches!(other.role, Role::Answers | Role::Helps);
        let models = self.facts.other_models.iter().filter(is_model);
        for OtherModel { name, place, .. } in models {
            let theirs = upstream.model_name(name);
            let is_gone =
                || gone.iter().any(|gone| (gone.key.start..gone.end).contains(&place.start));
            if theirs != name && !is_gone() {
                edits.replace(place.clone(), json_string(theirs));
            }
        }
        gone.sort_by_key(|place| place.key.start);
        edits.remove(gone);
        let inner = fields.in_messages().filter(|_| self.dialect == Dialect::Chat);
        for message in inner.iter().flat_map(|name| within_messages(&self.body, name)) {
            edits.remove(&message);
        }
        if edits.is_empty() {
            return Segments::whole(self.body.clone());
        }
        edits.apply(&self.body)
    }
}

/// What is known about the reply, for the record.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Status the caller saw.
    pub(super) status: Option<u16>,
    /// Our error code, where we answered or broke off.
    pub(super) error_code: Option<&'static str>,
    /// The upstream that answered, or the last one tried.
    pub(super) upstream: Option<Arc<str>>,
    /// Upstream calls begun.
    pub(super) attempts: u32,
    /// The fallback model that was asked for last, if any was.
    pub(super) fallback_model: Option<String>,
    /// Upstream calls ended.
    pub(super) tries: Vec<Attempt>,
    /// When the call under way began, and the model it names.
    pub(super) trying: Option<(Instant, String)>,
    /// How long its reply's header took.
    pub(super) header_after: Option<Duration>,
    /// Request body bytes read.
    pub(super) bytes_in: u64,
    /// Reply body bytes written.
    pub(super) bytes_out: u64,
    /// When the first token went to the caller.
    pub(super) first_token: Option<Instant>,
    /// What a copy of the reply told.
    pub(super) reading: Reading,
    /// What it cost, once it is settled.
    pub(super) cost: Option<Cost>,
    /// Output tokens, by our own rough count.
    pub(super) produced_tokens: u64,
    /// How far the upstream call under way came, or the last one.
    pub(super) work: Work,
    /// Those before it that may cost something.
    pub(super) unbilled: Vec<Unbilled>,
    /// Whether the caller left before the end.
    pub(super) cancelled: bool,
}

/// An upstream call that failed and may cost something all the same.
#[derive(Debug)]
pub(super) struct Unbilled {
    /// The model in the caller's name for it.
    pub(super) asked: String,
    /// The same in its upstream's.
    pub(super) sent: String,
    pub(super) upstream: Arc<str>,
    /// What its reply said of it, mostly nothing.
    pub(super) reading: Reading,
}

impl Outcome {
    /// Takes over what a reply told, and its output tokens by our count, which is of all of it or not.
    pub(super) fn read(&mut self, finished: Finished, is_all: bool) {
        self.reading = finished.reading;
        self.produced_tokens = finished.produced_tokens;
        self.work.is_measured = is_all;
    }
}

/// One request.
pub struct Ctx {
    /// What every request shares.
    pub(super) shared: Shared,
    /// The configuration this request began with.
    pub(super) snapshot: Arc<Snapshot>,
    /// Clock of every duration.
    pub(super) begun: Instant,
    /// Wall clock of the record.
    pub(super) started: SystemTime,
    /// Time spent waiting on caller and upstream.
    pub(super) waited: Duration,
    /// Our id.
    pub(super) request_id: RequestId,

    /// The caller's trace, else a new one.
    pub(super) trace_id: TraceId,
    /// Method as sent.
    pub(super) method: String,
    /// Path as sent, without its query.
    pub(super) path: String,
    /// The page that calls, if a browser does.
    pub(super) origin: Option<HeaderValue>,
    /// The caller's address.
    pub(super) client_ip: Option<IpAddr>,
    /// The API path.
    pub(super) endpoint: Option<Endpoint>,
    /// Who is calling.
    pub(super) caller: Option<Arc<Caller>>,

    /// The call, once read, until its exchange begins.
    pub(super) call: Option<Call>,
    /// The model it asks for, for the record.
    pub(super) model: Option<String>,
    /// Whether it asks for a stream, for the record.
    pub(super) stream: bool,
    /// The conversation.
    pub(super) session_id: Option<String>,
    /// What the call may use, from its admission to its end.
    pub(super) admission: Option<Admission>,
    /// How the caller's limits stood when they were asked.
    pub(super) standing: Option<Standing>,

    /// The reply.
    pub(super) outcome: Outcome,
    /// What the call's trace needs besides.
    pub(super) traced: Traced,

    /// Set by `finish`, so that it happens once.
    pub(super) recorded: bool,
    _open: OpenRequest,
    _inflight: InflightGuard,
}

impl Ctx {
    /// A request begins: the snapshot is pinned, the clock starts.
    pub(super) fn new(shared: &Shared) -> Self {
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
            model: None,
            stream: false,
            session_id: None,
            admission: None,
            standing: None,
            outcome: Outcome::default(),
            traced: Traced::default(),
            recorded: false,
            _open: shared.current.enter(),
            _inflight: shared.metrics.inflight(),
            shared: shared.clone(),
        }
    }

    /// The API a reply must speak.
    pub(super) fn dialect(&self) -> Option<Dialect> {
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

    /// Time since the process's start, the clock of upstreams' states.
    pub(super) fn uptime(&self) -> Duration {
        self.shared.current.begun.elapsed()
    }

    /// An upstream call begins; `model` is the caller's name of the model it is asked for.
    pub(super) fn attempt_begins(&mut self, upstream: &Upstream, model: &str) {
        self.leave_behind();
        self.outcome.attempts += 1;
        self.outcome.header_after = None;
        if let Some(admission) = &mut self.admission {
            admission.permit.goes_out();
        }
        self.outcome.upstream = Some(Arc::clone(&upstream.name));
        if self.model.as_deref().is_some_and(|asked| asked != model) {
            self.outcome.fallback_model = Some(model.to_owned());
        }
        self.outcome.trying = Some((Instant::now(), upstream.model_name(model).to_owned()));
    }

    /// Another upstream call follows: what the one before may cost is noted, and of its reply nothing
    /// else is told any more.
    fn leave_behind(&mut self) {
        let stream = self.stream;
        let Outcome { reading, work, .. } = &mut self.outcome;
        let (work, reading) = (std::mem::take(work), std::mem::take(reading));
        self.outcome.produced_tokens = 0;
        let Some(last) = self.outcome.tries.last() else { return };
        if reading.names_a_price() || work.may_be_billed(Some(last.outcome), stream) {
            let asked = self.outcome.fallback_model.as_ref().or(self.model.as_ref());
            let asked = asked.cloned().unwrap_or_default();
            let (sent, upstream) = (last.model.clone(), Arc::clone(&last.upstream));
            let reading = Reading { output: None, ..reading };
            self.outcome.unbilled.push(Unbilled { asked, sent, upstream, reading });
        }
    }

    /// The reply of the upstream call under way proved good.
    pub(super) fn proved_good(&self, upstream: &Upstream) {
        let now = self.uptime();
        if let Some(took) = self.outcome.header_after {
            upstream.live.observe_latency(took, now);
        }
        upstream.succeeded(self.trying_since(), now);
    }

    /// When the upstream call under way began, on the clock of [`Self::uptime`].
    pub(super) fn trying_since(&self) -> Duration {
        let begun = self.outcome.trying.as_ref().map_or_else(Instant::now, |(begun, _)| *begun);
        begun.saturating_duration_since(self.shared.current.begun)
    }

    /// The upstream call under way ended; `what` says in our words how it failed.
    pub(super) fn tried(&mut self, outcome: metrics::Outcome, what: Option<&str>) {
        let (Some((begun, model)), Some(upstream)) =
            (self.outcome.trying.take(), self.outcome.upstream.clone())
        else {
            return;
        };
        self.shared.metrics.upstream_call(&upstream, outcome);
        self.outcome.tries.push(Attempt {
            upstream,
            model,
            begun: begun.saturating_duration_since(self.begun),
            took: begun.elapsed(),
            outcome,
            what: what.map(ToOwned::to_owned),
        });
    }

    /// Runs something that waits on the caller or on an upstream, and takes the time off our own.
    pub(super) async fn waiting<T>(waited: &mut Duration, work: impl Future<Output = T>) -> T {
        let since = Instant::now();
        let result = work.await;
        *waited += since.elapsed();
        result
    }
}

impl Drop for Ctx {
    /// Pingora skips `logging` on a panic and when a drain cuts the task; the record is written all
    /// the same, and says so.
    fn drop(&mut self) {
        if !self.recorded {
            let draining = self.shared.current.is_draining();
            let (kind, words) = if draining {
                (Kind::Draining, "the gateway was stopped before the call had ended")
            } else {
                (Kind::Internal, "the gateway failed on this call; its log says where")
            };
            self.outcome.error_code = Some(kind.row().code);
            // Nobody left: it is as if this had been said.
            self.outcome.status.get_or_insert(kind.row().status);
            self.traced.told(words);
            // How much of the time was spent waiting is lost with the task; nearly all of it was.
            self.waited = self.begun.elapsed();
        }
        finish::finish(self);
    }
}
