//! Chapter 4, the reply: a stream is held until it has proved good, then forwarded untouched while a
//! copy is read.

use super::bill;
use super::caller::{Caller, Interrupted};
use super::clock::{Clock, Expired};
use super::context::{Call, Ctx};
use super::cut::{self, Reserved};
use super::forward::{Connection, Stopped};
use super::half::split_half_event;
use super::headers::reply_header;
use super::judge::Failure;
use super::respond;
use crate::error::{Kind, Rejection};
use crate::protocol::coding::Decoder;
use crate::protocol::done::DoneFilter;
use crate::protocol::errors;
use crate::protocol::tap::StreamTap;
use crate::protocol::usage_chunk;
use crate::telemetry::metrics::{Broken, Outcome};
use crate::upstream::Upstream;
use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use pingora::http::ResponseHeader;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// A stream is held to its first token or this far (DESIGN section 5).
pub(super) const HOLD_STREAM: usize = 256 << 10;
/// Pieces of a burst are sent in one write up to this size.
const BURST: usize = 64 << 10;
/// How long a stream that has said its last word may keep its connection open.
const AFTER_THE_END: Duration = Duration::from_secs(1);

/// A reply whose header has come.
pub(super) struct Reply<'r> {
    /// Where its body comes from.
    pub(super) connection: &'r mut Connection,
    /// Its header.
    pub(super) header: Box<ResponseHeader>,
    /// Whose it is.
    pub(super) upstream: &'r Upstream,
}

/// How a relayed reply ended.
#[derive(Debug)]
pub(super) enum Relayed {
    /// Whole; the word is for metrics.
    Whole(Outcome),
    /// Cut by us at the length reserved for it; whole as far as the caller knows.
    Cut,
    /// Broken off after it had begun.
    Broken {
        /// Why.
        reason: Broken,
        /// The error code the caller was told, or would have been.
        code: &'static str,
        /// Whether the caller was told in the stream; else its connection is to be cut.
        in_band: bool,
    },
}

impl Reply<'_> {
    /// Sees to it that the body is read decoded where it comes compressed, unasked: the caller may
    /// not be able to, and we could not judge it. `false` where that cannot be done.
    pub(super) fn decode(&mut self) -> bool {
        let Some(coding) = self.header.remove_header(&CONTENT_ENCODING) else { return true };
        if coding == "identity" {
            return true;
        }
        self.header.remove_header(&CONTENT_LENGTH);
        self.connection.decoder = Decoder::of(coding.as_bytes()).map(Box::new);
        self.connection.decoder.is_some()
    }
}

/// Whether a reply is an event stream. Where one was `asked` for, anything is that does not claim
/// to be something else.
pub(super) fn is_event_stream(header: &ResponseHeader, asked: bool) -> bool {
    let kind = header.headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let is =
        |name: &[u8]| kind.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
    is(b"text/event-stream") || asked && !is(b"application/json") && !is(b"text/html")
}

/// How a stream's body ended.
enum End {
    /// As HTTP says it should, or because its last word had been said.
    Clean,
    /// It has reached what was reserved for it.
    Reserved,
    /// It fell silent.
    Stalled,
    /// Otherwise.
    Failed(Failure),
}

/// A tap whose reading is noted whichever way the relay ends: also where a drain cuts the task, or it
/// panics.
struct Tapping<'c> {
    ctx: &'c mut Ctx,
    tap: StreamTap,
}

impl Drop for Tapping<'_> {
    fn drop(&mut self) {
        self.ctx.outcome.reading = self.tap.take_reading();
    }
}

/// Relays an event stream.
pub(super) async fn stream(
    caller: &mut Caller<'_>,
    ctx: &mut Ctx,
    call: &mut Call,
    reply: Reply<'_>,
    clock: &mut Clock,
) -> Result<Relayed, Stopped> {
    let tap = StreamTap::new(call.dialect).of(call.facts.answers).keeping(ctx.traced.capture);
    let upstream = reply.upstream;
    ctx.outcome.work.is_measured = true;
    let mut tapping = Tapping { ctx: &mut *ctx, tap };
    let Tapping { ctx: within, tap } = &mut tapping;
    let relayed = match follow(caller, within, call, (reply, clock), tap).await {
        Ok(end) => close(caller, within, call, tap, end).await,
        Err(stopped) => Err(stopped),
    };
    drop(tapping);
    let is_good = matches!(relayed, Ok(Relayed::Whole(_) | Relayed::Cut));
    if is_good && ctx.outcome.first_token.is_none() {
        ctx.proved_good(upstream);
    }
    if matches!(relayed, Ok(Relayed::Cut)) {
        ctx.outcome.reading.finish = Some("length".to_owned());
    }
    relayed
}

/// Reads to the stream's end and sends on from the first token. Until then any trouble is a failure
/// that the next upstream may make good.
async fn follow(
    caller: &mut Caller<'_>,
    ctx: &mut Ctx,
    call: &mut Call,
    (reply, clock): (Reply<'_>, &mut Clock),
    tap: &mut StreamTap,
) -> Result<End, Stopped> {
    let mut pieces: Vec<Bytes> = Vec::new();
    let mut held = 0;
    let mut released = false;
    let admission = ctx.admission.as_ref();
    let tokens = admission.and_then(|admission| admission.cap);
    let said = admission.filter(|_| tokens.is_some()).map(|admission| admission.output);
    let reserved = Reserved { tokens, said, choices: call.facts.answers };
    let hides_usage = call.asks_for_usage(&reply.upstream.config.provider.row());
    loop {
        let tapped = pieces.len();
        let events = tap.events();
        let read = caller.until(clock, pin!(reply.connection.read_body())).await;
        let mut end = match read {
            Ok(Ok(Some(piece))) => take_ready(reply.connection, piece, &mut pieces),
            Ok(Ok(None)) => Some(End::Clean),
            Ok(Err(failure)) => Some(End::Failed(failure)),
            Err(Interrupted::CallerGone) => return Err(Stopped::CallerGone),
            Err(Interrupted::Expired(_)) if has_said_all(tap) => Some(End::Clean),
            Err(Interrupted::Expired(Expired::Idle)) => Some(End::Stalled),
            Err(Interrupted::Expired(expired)) => Some(End::Failed(Failure::expired(expired))),
        };
        held += pieces.iter().skip(tapped).map(Bytes::len).sum::<usize>();
        if reserved.read(tap, &mut pieces, tapped) {
            end = Some(End::Reserved);
        }
        measure(ctx, tap);
        let now = Instant::now();
        // Once tokens flow, comments are no sign of life; half an event is.
        if !tap.first_token() || tap.events() > events || !tap.at_boundary() {
            clock.data_came(now, has_said_all(tap).then_some(AFTER_THE_END));
        }
        if !released {
            let is_cut = matches!(end, Some(End::Reserved));
            let is_due = tap.first_token() || tap.is_complete() || held >= HOLD_STREAM || is_cut;
            if let Some(failure) = failed_early(tap, is_due, end.as_ref()) {
                return Err(failure.into());
            }
            if is_due {
                released = true;
                release(caller, ctx, call, &reply).await?;
            }
        }
        if released {
            if tap.first_token() && ctx.outcome.first_token.is_none() {
                clock.token_came();
                ctx.outcome.first_token = Some(now);
                ctx.proved_good(reply.upstream);
            }
            if tap.has_silent_fault() {
                // No client would notice, and whatever follows would hide it.
                end = Some(End::Clean);
            }
            // Only its last empty line may be missing of an event that a clean end leaves open.
            let is_clean = matches!(end, Some(End::Clean));
            let is_whole = is_clean && (tap.is_complete() || tap.fault().is_some());
            pieces = send_on(caller, ctx, tap, pieces, (is_whole, hides_usage)).await?;
        }
        if let Some(end) = end {
            return Ok(end);
        }
    }
}

/// Notes what has been produced, by our own count, and whether that is of all that came.
fn measure(ctx: &mut Ctx, tap: &StreamTap) {
    ctx.outcome.produced_tokens = tap.produced_tokens();
    ctx.outcome.work.is_measured = !tap.has_too_long();
}

/// Whether nothing that matters to the caller is to come: only the connection's end, or a bill.
fn has_said_all(tap: &StreamTap) -> bool {
    tap.is_ended() || tap.fault().is_some()
}

/// Sends on what has come, without what is ours alone. Half an event is kept back, and returned.
async fn send_on(
    caller: &mut Caller<'_>,
    ctx: &mut Ctx,
    tap: &StreamTap,
    mut pieces: Vec<Bytes>,
    (is_whole, hides_usage): (bool, bool),
) -> Result<Vec<Bytes>, Interrupted> {
    if tap.is_ended() {
        bill::settle_by(ctx, tap.reading());
    }
    let half = if is_whole { Vec::new() } else { split_half_event(&mut pieces, tap) };
    caller.between_events = !half.is_empty() || tap.at_boundary();
    if tap.fault().is_some() {
        // What follows an error may be its usage; that all is well it must not say.
        pieces = without_done(pieces);
    }
    if hides_usage {
        pieces = usage_chunk::without(joined(pieces));
    }
    caller.send(&mut pieces).await?;
    Ok(half)
}

/// The pieces, which begin at an event, without the event that says that all is well.
fn without_done(pieces: Vec<Bytes>) -> Vec<Bytes> {
    let mut filter = DoneFilter::new();
    let mut left: Vec<Bytes> = pieces.into_iter().flat_map(|piece| filter.push(piece)).collect();
    left.extend(filter.finish());
    left
}

fn joined(mut pieces: Vec<Bytes>) -> Bytes {
    if pieces.len() > 1 { pieces.concat().into() } else { pieces.pop().unwrap_or_default() }
}

/// The failure of a stream that nothing has been sent of yet.
fn failed_early(tap: &StreamTap, is_due: bool, end: Option<&End>) -> Option<Failure> {
    if let Some(fault) = tap.fault().filter(|_| !tap.first_token()) {
        return Some(Failure::error_body(fault, "an error before the first token"));
    }
    match end {
        _ if is_due => None,
        None | Some(End::Reserved) => None,
        Some(End::Clean) => {
            Some(Failure::new(Outcome::StreamBroken, "the stream ended before its first token"))
        }
        Some(End::Stalled) => Some(Failure::expired(Expired::Idle)),
        Some(End::Failed(failure)) => Some(failure.clone()),
    }
}

/// The stream is worth sending on: from here on it is the caller's, and the body need not be replayed.
async fn release(
    caller: &mut Caller<'_>,
    ctx: &mut Ctx,
    call: &mut Call,
    reply: &Reply<'_>,
) -> Result<(), Interrupted> {
    call.body = Bytes::new();
    ctx.traced.released(&ctx.shared);
    ctx.outcome.status = (!caller.is_gone()).then_some(200);
    if caller.begun {
        return Ok(());
    }
    let mut header = reply_header(caller, ctx, reply, None);
    respond::as_stream(&mut header, caller.is_http11());
    caller.begin(respond::ready(header)).await
}

/// After one piece, takes what else is ready, so that a burst is one write; never waits.
fn take_ready(connection: &mut Connection, piece: Bytes, pieces: &mut Vec<Bytes>) -> Option<End> {
    let mut taken = piece.len();
    pieces.push(piece);
    while taken < BURST {
        let read = pin!(connection.read_body());
        match read.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => return None,
            Poll::Ready(Ok(Some(piece))) => {
                taken += piece.len();
                pieces.push(piece);
            }
            Poll::Ready(Ok(None)) => return Some(End::Clean),
            Poll::Ready(Err(failure)) => return Some(End::Failed(failure)),
        }
    }
    None
}

/// Ends a stream that was sent on: as a whole one, or with an error event. Never silently short.
async fn close(
    caller: &mut Caller<'_>,
    ctx: &mut Ctx,
    call: &Call,
    tap: &StreamTap,
    end: End,
) -> Result<Relayed, Stopped> {
    bill::settle_by(ctx, tap.reading());
    if tap.has_silent_fault() {
        let rejection = Rejection::new(
            Kind::UpstreamError,
            "the upstream broke off with an error; the answer above is incomplete",
        );
        let last_words = errors::in_band(call.dialect, &rejection, caller.between_events);
        caller.end_with(last_words).await?;
        let code = Kind::UpstreamError.row().code;
        return Ok(Relayed::Broken { reason: Broken::ErrorBody, code, in_band: true });
    }
    if tap.fault().is_some() {
        // The upstream's own error event went through and is the last word.
        caller.end().await?;
        let code = Kind::UpstreamError.row().code;
        return Ok(Relayed::Broken { reason: Broken::ErrorBody, code, in_band: true });
    }
    if tap.is_complete() {
        caller.end().await?;
        return Ok(Relayed::Whole(Outcome::Ok));
    }
    if matches!(end, End::Reserved) {
        let last = cut::last_events(caller, call, tap);
        caller.end_with(last).await?;
        return Ok(Relayed::Cut);
    }
    let (reason, kind) = match &end {
        End::Clean if tap.has_too_long() => (Broken::TooLong, Kind::UpstreamError),
        End::Clean if tap.garbled() > 0 => (Broken::Garbled, Kind::UpstreamError),
        End::Clean => (Broken::Truncated, Kind::UpstreamError),
        End::Stalled | End::Reserved => (Broken::Stalled, Kind::UpstreamTimeout),
        End::Failed(failure) => (reason(failure), kind(failure)),
    };
    let message = match (reason == Broken::Timeout, kind == Kind::UpstreamTimeout) {
        (true, _) => "the call took longer than it may; the answer above is incomplete",
        (false, true) => "the upstream fell silent; the answer above is incomplete",
        (false, false) => "the upstream broke off; the answer above is incomplete",
    };
    let rejection = Rejection::new(kind, message);
    let last_words = errors::in_band(call.dialect, &rejection, caller.between_events);
    caller.end_with(last_words).await?;
    Ok(Relayed::Broken { reason, code: kind.row().code, in_band: true })
}

/// The word for metrics of a reply that broke off. Of the deadlines `total` alone blames nobody.
pub(super) fn reason(failure: &Failure) -> Broken {
    match (failure.outcome == Outcome::Timeout, failure.trouble) {
        (false, _) => Broken::Reset,
        (true, Some(_)) => Broken::Stalled,
        (true, None) => Broken::Timeout,
    }
}

/// What a caller is told of a reply that broke off.
pub(super) fn kind(failure: &Failure) -> Kind {
    if failure.outcome == Outcome::Timeout { Kind::UpstreamTimeout } else { Kind::UpstreamError }
}
