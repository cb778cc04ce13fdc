//! Chapter 4, the reply: held until it has proved good, then forwarded untouched while a copy is read.

use super::caller::{Caller, Interrupted};
use super::clock::{Clock, Expired};
use super::context::{Call, Ctx};
use super::forward::{Connection, Stopped};
use super::headers::reply_header;
use super::judge::{self, Failure, Judgement};
use super::respond;
use crate::error::{Kind, Rejection};
use crate::protocol::errors;
use crate::protocol::tap::{PlainTap, StreamTap, error_in_body};
use crate::telemetry::metrics::{Broken, Outcome};
use crate::upstream::Upstream;
use bytes::Bytes;
use http::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, TRANSFER_ENCODING,
};
use pingora::http::ResponseHeader;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// A plain reply is held, header included, to its end or this far (DESIGN section 5).
const HOLD_PLAIN: usize = 64 << 10;
/// A stream is held to its first token or this far (DESIGN section 5).
const HOLD_STREAM: usize = 256 << 10;
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

/// Whether a reply is an event stream that can be read.
pub(super) fn is_event_stream(header: &ResponseHeader) -> bool {
    let kind = header.headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let prefix = kind.get(..17).unwrap_or_default();
    prefix.eq_ignore_ascii_case(b"text/event-stream") && !is_encoded(header)
}

fn is_encoded(header: &ResponseHeader) -> bool {
    header.headers.get(CONTENT_ENCODING).is_some_and(|coding| coding != "identity")
}

/// A body, or its beginning.
pub(super) struct Held {
    pub(super) pieces: Vec<Bytes>,
    /// Whether nothing follows but trailers.
    ended: bool,
}

/// Reads a body to its end or to [`HOLD_PLAIN`].
pub(super) async fn hold(
    caller: &mut Caller<'_>,
    connection: &mut Connection,
    clock: &mut Clock,
) -> Result<Held, Stopped> {
    let mut pieces = Vec::new();
    let mut bytes = 0;
    while bytes < HOLD_PLAIN {
        let read = caller.until(clock, connection.session.read_response_body()).await?;
        let Some(piece) = read.map_err(|error| Failure::of(&error))? else {
            return Ok(Held { pieces, ended: true });
        };
        clock.data_came(Instant::now(), None);
        bytes += piece.len();
        pieces.push(piece);
    }
    let ended = connection.session.response_done();
    Ok(Held { pieces, ended })
}

/// Relays a reply that is no stream.
pub(super) async fn plain(
    caller: &mut Caller<'_>,
    ctx: &mut Ctx,
    call: &mut Call,
    reply: Reply<'_>,
    clock: &mut Clock,
    held: Option<Held>,
) -> Result<Relayed, Stopped> {
    let Held { pieces: held, ended } = match held {
        Some(held) => held,
        None => hold(caller, reply.connection, clock).await?,
    };
    let status = reply.header.status.as_u16();
    let outcome = match judge::status(status) {
        Judgement::Good => Outcome::Ok,
        Judgement::CallersFault | Judgement::Next(_) => Outcome::Status4xx,
    };
    if outcome == Outcome::Ok && ended && !is_encoded(&reply.header) {
        let body = match held.as_slice() {
            [whole] => whole.clone(),
            pieces => pieces.concat().into(),
        };
        if error_in_body(&body).is_some() {
            return Err(Failure::new(Outcome::ErrorBody, "an error in a 200 reply").into());
        }
        if may_be_cut(&reply) && is_half_json(&body) {
            return Err(Failure::new(Outcome::Reset, "the reply was cut").into());
        }
    }
    if caller.begun && outcome == Outcome::Status4xx {
        return say_fault(caller, ctx, call, &held.concat()).await;
    }
    if caller.begun {
        // The caller asked for a stream and has had a comment; JSON cannot follow.
        return Err(Failure::new(Outcome::ErrorBody, "no stream where one was asked for").into());
    }
    let length = ended.then(|| held.iter().map(Bytes::len).sum());
    let header = reply_header(caller, ctx, &reply, length);
    ctx.outcome.status = Some(status);
    call.body = Bytes::new();
    let mut tap = PlainTap::new(call.dialect);
    for piece in &held {
        tap.push(piece);
    }
    let sent = forward_plain(caller, reply.connection, clock, (header, held), &mut tap).await;
    ctx.outcome.reading = tap.finish();
    match sent {
        Ok(()) => Ok(Relayed::Whole(outcome)),
        Err(Stopped::CallerGone) => Err(Stopped::CallerGone),
        Err(Stopped::Failed(failure)) => {
            let kind = kind(&failure);
            Ok(Relayed::Broken { reason: reason(&failure), code: kind.row().code, in_band: false })
        }
    }
}

/// Tells the caller of its own fault in the stream that a comment has begun, in the words that a
/// reply of its own would have brought it.
async fn say_fault(
    caller: &mut Caller<'_>,
    ctx: &mut Ctx,
    call: &Call,
    body: &[u8],
) -> Result<Relayed, Stopped> {
    let said = error_in_body(body).and_then(|fault| fault.message);
    let message = said.unwrap_or_else(|| "the upstream refused the request".to_owned());
    let rejection = Rejection::new(Kind::InvalidRequest, message);
    ctx.outcome.status = Some(200);
    ctx.outcome.error_code = Some(rejection.kind.row().code);
    caller.end_with(errors::in_band(call.dialect, &rejection, caller.between_events)).await?;
    Ok(Relayed::Whole(Outcome::Status4xx))
}

/// Whether nothing but the end of its connection says where a JSON reply ends.
fn may_be_cut(reply: &Reply<'_>) -> bool {
    let headers = &reply.header.headers;
    let kind = headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    !reply.connection.is_http2()
        && !headers.contains_key(CONTENT_LENGTH)
        && !headers.contains_key(TRANSFER_ENCODING)
        && kind.get(..16).is_some_and(|kind| kind.eq_ignore_ascii_case(b"application/json"))
}

/// Whether JSON breaks off; of anything else that is wrong with it the caller is the judge.
fn is_half_json(body: &[u8]) -> bool {
    let read = serde_json::from_slice::<serde::de::IgnoredAny>(body);
    read.is_err_and(|error| error.is_eof())
}

async fn forward_plain(
    caller: &mut Caller<'_>,
    connection: &mut Connection,
    clock: &mut Clock,
    (header, mut pieces): (Box<ResponseHeader>, Vec<Bytes>),
    tap: &mut PlainTap,
) -> Result<(), Stopped> {
    caller.pass_untouched();
    caller.begin(header).await?;
    loop {
        caller.send(&mut pieces).await?;
        if connection.session.response_done() {
            break;
        }
        let read = caller.until(clock, connection.session.read_response_body()).await?;
        let Some(piece) = read.map_err(|error| Failure::of(&error))? else { break };
        clock.data_came(Instant::now(), None);
        tap.push(&piece);
        pieces.push(piece);
    }
    Ok(caller.end().await?)
}

/// How a stream's body ended.
enum End {
    /// As HTTP says it should, or because its last word had been said.
    Clean,
    /// It fell silent.
    Stalled,
    /// Otherwise.
    Failed(Failure),
}

/// Relays an event stream.
pub(super) async fn stream(
    caller: &mut Caller<'_>,
    ctx: &mut Ctx,
    call: &mut Call,
    reply: Reply<'_>,
    clock: &mut Clock,
) -> Result<Relayed, Stopped> {
    let mut tap = StreamTap::new(call.dialect);
    let followed = follow(caller, ctx, call, (reply, clock), &mut tap).await;
    let relayed = match followed {
        Ok(end) => close(caller, call, &tap, end).await,
        Err(stopped) => Err(stopped),
    };
    ctx.outcome.reading = tap.into_reading();
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
    loop {
        let tapped = pieces.len();
        let events = tap.events();
        let read = caller.until(clock, reply.connection.session.read_response_body()).await;
        let end = match read {
            Ok(Ok(Some(piece))) => take_ready(reply.connection, piece, &mut pieces),
            Ok(Ok(None)) => Some(End::Clean),
            Ok(Err(error)) => Some(End::Failed(Failure::of(&error))),
            Err(Interrupted::CallerGone) => return Err(Stopped::CallerGone),
            Err(Interrupted::Expired(_)) if tap.is_ended() => Some(End::Clean),
            Err(Interrupted::Expired(Expired::Idle)) => Some(End::Stalled),
            Err(Interrupted::Expired(expired)) => Some(End::Failed(Failure::expired(expired))),
        };
        for piece in pieces.iter().skip(tapped) {
            held += piece.len();
            tap.push(piece);
        }
        let now = Instant::now();
        // Once tokens flow, comments are no sign of life; half an event is.
        if !tap.first_token() || tap.events() > events || !tap.at_boundary() {
            clock.data_came(now, tap.is_ended().then_some(AFTER_THE_END));
        }
        if !released {
            let proved_good = tap.first_token() || tap.is_complete() || held >= HOLD_STREAM;
            if let Some(failure) = failed_early(tap, proved_good, end.as_ref()) {
                return Err(failure.into());
            }
            if proved_good {
                released = true;
                release(caller, ctx, call, &reply).await?;
            }
        }
        if released {
            if tap.first_token() && ctx.outcome.first_token.is_none() {
                clock.token_came();
                ctx.outcome.first_token = Some(now);
            }
            let whole = end.is_some() && (tap.is_complete() || tap.fault().is_some());
            let half = if whole { Vec::new() } else { split_half_event(&mut pieces, tap) };
            caller.between_events = !half.is_empty() || tap.at_boundary();
            caller.send(&mut pieces).await?;
            pieces = half;
        }
        if let Some(end) = end {
            return Ok(end);
        }
    }
}

/// Takes an event that is not whole yet off the end of what is to be sent. No client can use half an
/// event, and one that an upstream cut off would garble the error event that has to follow it. One
/// that grows past [`HOLD_STREAM`] is let through as it comes.
fn split_half_event(pieces: &mut Vec<Bytes>, tap: &StreamTap) -> Vec<Bytes> {
    let mut left = tap.unfinished();
    let unsent: usize = pieces.iter().map(Bytes::len).sum();
    if left == 0 || left > unsent.min(HOLD_STREAM) {
        return Vec::new();
    }
    let mut half = Vec::new();
    while let Some(mut piece) = pieces.pop() {
        let cut = piece.len().saturating_sub(left);
        left -= piece.len() - cut;
        half.push(piece.split_off(cut));
        if left == 0 {
            if cut > 0 {
                pieces.push(piece);
            }
            break;
        }
    }
    half.reverse();
    half
}

/// The failure of a stream that nothing has been sent of yet.
fn failed_early(tap: &StreamTap, proved_good: bool, end: Option<&End>) -> Option<Failure> {
    if tap.fault().is_some() && !tap.first_token() {
        return Some(Failure::new(Outcome::ErrorBody, "an error before the first token"));
    }
    match end {
        _ if proved_good => None,
        None => None,
        Some(End::Clean) => {
            Some(Failure::new(Outcome::StreamBroken, "the stream ended before its first token"))
        }
        Some(End::Stalled) => Some(Failure::expired(Expired::Idle)),
        Some(End::Failed(failure)) => Some(failure.clone()),
    }
}

/// The stream has proved good: from here on it is the caller's, and the body need not be replayed.
async fn release(
    caller: &mut Caller<'_>,
    ctx: &mut Ctx,
    call: &mut Call,
    reply: &Reply<'_>,
) -> Result<(), Interrupted> {
    call.body = Bytes::new();
    ctx.outcome.status = Some(200);
    if caller.begun {
        return Ok(());
    }
    let mut header = reply_header(caller, ctx, reply, None);
    respond::as_stream(&mut header, caller.is_http11());
    caller.begin(header).await
}

/// After one piece, takes what else is ready, so that a burst is one write; never waits.
fn take_ready(connection: &mut Connection, piece: Bytes, pieces: &mut Vec<Bytes>) -> Option<End> {
    let mut taken = piece.len();
    pieces.push(piece);
    while taken < BURST {
        let read = pin!(connection.session.read_response_body());
        match read.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => return None,
            Poll::Ready(Ok(Some(piece))) => {
                taken += piece.len();
                pieces.push(piece);
            }
            Poll::Ready(Ok(None)) => return Some(End::Clean),
            Poll::Ready(Err(error)) => return Some(End::Failed(Failure::of(&error))),
        }
    }
    None
}

/// Ends a stream that was sent on: as a whole one, or with an error event. Never silently short.
async fn close(
    caller: &mut Caller<'_>,
    call: &Call,
    tap: &StreamTap,
    end: End,
) -> Result<Relayed, Stopped> {
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
    let (reason, kind) = match &end {
        End::Clean if tap.garbled() > 0 => (Broken::Garbled, Kind::UpstreamError),
        End::Clean => (Broken::Truncated, Kind::UpstreamError),
        End::Stalled => (Broken::Stalled, Kind::UpstreamTimeout),
        End::Failed(failure) => (reason(failure), kind(failure)),
    };
    let message = if kind == Kind::UpstreamTimeout {
        "the upstream fell silent; the answer above is incomplete"
    } else {
        "the upstream broke off; the answer above is incomplete"
    };
    let rejection = Rejection::new(kind, message);
    let last_words = errors::in_band(call.dialect, &rejection, caller.between_events);
    caller.end_with(last_words).await?;
    Ok(Relayed::Broken { reason, code: kind.row().code, in_band: true })
}

fn reason(failure: &Failure) -> Broken {
    if failure.outcome == Outcome::Timeout { Broken::Timeout } else { Broken::Reset }
}

fn kind(failure: &Failure) -> Kind {
    if failure.outcome == Outcome::Timeout { Kind::UpstreamTimeout } else { Kind::UpstreamError }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Dialect;

    #[test]
    fn half_an_event_is_kept_back_wherever_the_pieces_are_cut() {
        let stream = b"data: {\"a\":1}\n\n: c\n\ndata: {\"b\"";
        for size in 1..stream.len() {
            let mut tap = StreamTap::new(Dialect::Chat);
            let mut pieces: Vec<Bytes> = stream.chunks(size).map(Bytes::copy_from_slice).collect();
            pieces.iter().for_each(|piece| tap.push(piece));
            let half = split_half_event(&mut pieces, &tap);
            assert_eq!(half.concat(), b"data: {\"b\"", "in pieces of {size}");
            assert_eq!(pieces.concat(), b"data: {\"a\":1}\n\n: c\n\n", "in pieces of {size}");
            assert!(pieces.iter().all(|piece| !piece.is_empty()));
        }
    }

    #[test]
    fn a_half_event_that_grows_too_long_is_let_through() {
        let mut tap = StreamTap::new(Dialect::Chat);
        let mut pieces = vec![Bytes::from(format!("data: {}", "x".repeat(HOLD_STREAM)))];
        pieces.iter().for_each(|piece| tap.push(piece));
        assert!(split_half_event(&mut pieces, &tap).is_empty());
        tap.push(b"y");
        let mut more = vec![Bytes::from_static(b"y")];
        assert!(split_half_event(&mut more, &tap).is_empty());
        assert_eq!((pieces.len(), more.len()), (1, 1));
    }
}
