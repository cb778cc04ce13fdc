//! What is kept of a call for its trace while it runs, and how traces join over `traceparent`.

use super::context::Ctx;
use super::{Shared, looking};
use crate::auth;
use crate::ids::{SpanId, TraceId, parse_traceparent, traceparent};
use crate::protocol::edit::MemberSpan;
use crate::protocol::request::RequestFacts;
use crate::protocol::tap::Reading;
use crate::secret::Secret;
use crate::telemetry::exchange::Exchange;
use crate::telemetry::langfuse::{Input, Secrets, Trace};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::sync::Arc;

pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// How a caller asks that a call be kept out of traces.
const OPT_OUT: HeaderName = HeaderName::from_static("x-cirque-trace");
/// One call, as far as its trace needs more than the record.
#[derive(Debug, Default)]
pub(super) struct Traced {
    /// The root span, where any destination wants this call.
    span: Option<SpanId>,
    /// The caller's own span and its header, where it sent a good one.
    joined: Option<(SpanId, HeaderValue)>,
    opted_out: bool,
    /// The caller's key, where it is not among those that are struck out anyhow.
    presented: Option<Secret>,
    /// Most bytes of an input or an output that are kept, where any are.
    pub(super) capture: Option<usize>,
    input: Option<Arc<Input>>,
    user: Option<String>,
    max_output_tokens: Option<u64>,
    message: Option<String>,
}

impl Traced {
    /// Joins the caller's trace, if its `traceparent` is a good one.
    pub(super) fn join(&mut self, headers: &HeaderMap) -> Option<TraceId> {
        let header = headers.get(TRACEPARENT)?;
        let (trace, span, _) = parse_traceparent(header.as_bytes())?;
        self.joined = Some((span, header.clone()));
        Some(trace)
    }

    /// Notes what the body says, by reference.
    pub(super) fn asked(&mut self, body: &Bytes, secrets: &Arc<Secrets>) {
        if let Some(limit) = self.capture {
            let presented = self.presented.clone();
            let input = Input::new(body.clone(), limit, presented, Arc::clone(secrets));
            self.input = Some(Arc::new(input));
        }
    }

    /// Notes what was read from it, and where its members stand.
    pub(super) fn facts(&mut self, facts: &RequestFacts, members: Option<Vec<MemberSpan>>) {
        if let Some(input) = self.input.as_mut().and_then(Arc::get_mut) {
            input.read_before(members);
        }
        if self.span.is_some() {
            self.user.clone_from(&facts.user);
            self.max_output_tokens = facts.max_output_tokens;
        }
    }

    /// Notes what the caller is told instead of an answer.
    pub(super) fn told(&mut self, message: &str) {
        if self.span.is_some() {
            self.message = Some(message.to_owned());
        }
    }

    /// A stream has begun.
    pub(super) fn released(&self, shared: &Shared) {
        if let Some(input) = &self.input {
            looking::let_go(shared, input);
        }
    }

    /// The `traceparent` of the upstream call with this number: our span's, or, where this call is not
    /// traced, the caller's as it came.
    pub(super) fn outgoing(&self, trace: TraceId, attempt: u32) -> Option<HeaderValue> {
        let Some(root) = self.span else {
            return self.joined.as_ref().map(|(_, header)| header.clone());
        };
        // Whether there will be another attempt is not known at the first, and without another the
        // root is its span.
        let span = if attempt > 1 { root.child(attempt) } else { root };
        HeaderValue::from_bytes(&traceparent(trace, span, true)).ok()
    }
}

/// The caller is known: decides whether the call is traced, and what is kept of it.
pub(super) fn admit(headers: &HeaderMap, ctx: &mut Ctx) {
    let plan = &ctx.snapshot.tracing;
    let opted_out = headers
        .get(OPT_OUT)
        .is_some_and(|value| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"off"));
    if !plan.wants(ctx.trace_id, opted_out) {
        return;
    }
    let by_key = ctx.caller.as_ref().and_then(|caller| caller.traits.capture);
    let presented = auth::credential(headers).and_then(|key| std::str::from_utf8(key).ok());
    let presented = presented.filter(|key| !plan.secrets().knows(key));
    ctx.traced.capture = plan.captures(ctx.trace_id, opted_out, by_key);
    ctx.traced.span = Some(SpanId::from_random(rand::random()));
    ctx.traced.opted_out = opted_out;
    ctx.traced.presented = presented.map(|key| Secret::new(key.to_owned()));
}

/// The finished call as its destinations get it; `None` where none wants it.
pub(super) fn finished(
    ctx: &mut Ctx,
    mut exchange: Exchange,
    reading: Reading,
) -> Option<Box<Trace>> {
    let traced = std::mem::take(&mut ctx.traced);
    let (span, dialect, caller) = (traced.span?, ctx.dialect()?, ctx.caller.as_ref()?);
    // A trace says neither, and to free memory is cheaper on the thread it was taken on.
    (exchange.method, exchange.path) = (String::new(), String::new());
    Some(Box::new(Trace {
        span,
        parent: traced.joined.map(|(span, _)| span),
        dialect,
        user: Some(traced.user.map_or_else(|| Arc::clone(&caller.name), Arc::from)),
        key: Arc::clone(&caller.traits),
        opted_out: traced.opted_out,
        reading,
        message: traced.message,
        max_output_tokens: traced.max_output_tokens,
        input: traced.input,
        presented: traced.presented,
        secrets: Arc::clone(ctx.snapshot.tracing.secrets()),
        exchange,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const THEIRS: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

    fn joining(header: &'static str) -> (Traced, Option<TraceId>) {
        let mut headers = HeaderMap::new();
        headers.insert(TRACEPARENT, HeaderValue::from_static(header));
        let mut traced = Traced::default();
        let trace = traced.join(&headers);
        (traced, trace)
    }

    fn sent(traced: &Traced, attempt: u32) -> Option<String> {
        let trace = TraceId::from_random(0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
        Some(traced.outgoing(trace, attempt)?.to_str().unwrap().to_owned())
    }

    #[test]
    fn an_upstream_joins_our_span_and_each_further_attempt_one_of_its_own() {
        let (mut traced, trace) = joining(THEIRS);
        assert_eq!(trace.unwrap().to_string(), "0af7651916cd43dd8448eb211c80319c");
        let root = SpanId::from_random(9);
        traced.span = Some(root);
        let header = |span: SpanId| Some(format!("00-0af7651916cd43dd8448eb211c80319c-{span}-01"));
        assert_eq!(sent(&traced, 1), header(root));
        assert_eq!(sent(&traced, 2), header(root.child(2)));
        assert_eq!(sent(&traced, 3), header(root.child(3)));
    }

    #[test]
    fn without_a_trace_of_ours_the_callers_header_goes_on_as_it_came() {
        assert_eq!(sent(&joining(THEIRS).0, 2).as_deref(), Some(THEIRS));
        let (broken, trace) = joining("00-zz");
        assert_eq!((sent(&broken, 1), trace), (None, None));
        assert_eq!(sent(&Traced::default(), 1), None);
    }

    #[test]
    fn nothing_is_kept_of_a_call_that_nobody_wants() {
        let mut traced = Traced::default();
        traced.asked(&Bytes::from_static(b"{}"), &Arc::default());
        traced.told("no");
        assert!(traced.input.is_none() && traced.message.is_none());
        traced.capture = Some(10);
        traced.asked(&Bytes::from_static(b"{}"), &Arc::default());
        assert!(traced.input.is_some());
    }
}
