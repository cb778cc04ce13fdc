//! Chapter 4, the other half: a reply that is no stream, held whole where it is short, so that an
//! error in it or a reset can still fail over.

use super::bill;
use super::caller::Caller;
use super::clock::Clock;
use super::context::{Call, Ctx};
use super::forward::{Connection, Stopped};
use super::headers::reply_header;
use super::judge::{self, Failure, Judgement};
use super::relay::{Relayed, Reply, is_encoded, is_event_stream, kind, reason};
use super::respond;
use crate::error::{Kind, Rejection};
use crate::protocol::errors;
use crate::protocol::tap::{PlainTap, Reading, error_in_body};
use crate::telemetry::metrics::Outcome;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, TRANSFER_ENCODING};
use pingora::http::ResponseHeader;
use std::time::Instant;

/// A plain reply is held, header included, to its end or this far (DESIGN section 5).
const HOLD_PLAIN: usize = 64 << 10;

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

/// Relays a reply that is no stream, or one that cannot be read because it is compressed.
pub(super) async fn plain(
    caller: &mut Caller<'_>,
    ctx: &mut Ctx,
    call: &mut Call,
    mut reply: Reply<'_>,
    clock: &mut Clock,
    held: Option<Held>,
) -> Result<Relayed, Stopped> {
    let status = reply.header.status.as_u16();
    let outcome = outcome(status);
    // A stream that cannot be read is at least not held.
    let is_live = outcome == Outcome::Ok && is_event_stream(&reply.header);
    let Held { pieces: mut held, ended } = match held {
        Some(held) => held,
        None if is_live => Held { pieces: Vec::new(), ended: false },
        None => hold(caller, reply.connection, clock).await?,
    };
    let is_readable = !is_encoded(&reply.header);
    let mut tap = PlainTap::new(call.dialect).keeping(ctx.traced.capture.filter(|_| is_readable));
    for piece in &held {
        tap.push(piece);
    }
    let tap = if ended {
        let is_good = is_readable && outcome == Outcome::Ok;
        ctx.outcome.read(judge_whole(&reply, tap, &held, is_good)?, is_readable);
        None
    } else {
        Some(tap)
    };
    // An error's first words are enough; what follows them could hold anything.
    let ended = ended || (outcome != Outcome::Ok && is_readable);
    if outcome != Outcome::Ok && ended {
        held = vec![in_our_shape(call, &mut reply, &held)];
    }
    if caller.begun && outcome == Outcome::Status4xx {
        return say_fault(caller, ctx, call, &held.concat()).await;
    }
    if caller.begun {
        // The caller asked for a stream and has had a comment; JSON cannot follow.
        return Err(Failure::new(Outcome::ErrorBody, "no stream where one was asked for").into());
    }
    let length = ended.then(|| held.iter().map(Bytes::len).sum());
    let mut header = reply_header(caller, ctx, &reply, length);
    if is_live {
        respond::as_stream(&mut header, caller.is_http11());
    }
    ctx.outcome.status = (!caller.is_gone()).then_some(status);
    if outcome == Outcome::Ok {
        ctx.proved_good(reply.upstream);
    }
    call.body = Bytes::new();
    let sent = match tap {
        None => finish_plain(caller, ctx, header, held).await,
        Some(mut tap) => {
            let rest = forward_plain(caller, &mut reply, clock, (header, held), &mut tap);
            let sent = rest.await;
            ctx.outcome.read(tap.finish_counted(), is_readable && sent.is_ok());
            sent
        }
    };
    match sent {
        Ok(()) => Ok(Relayed::Whole(outcome)),
        Err(Stopped::CallerGone) => Err(Stopped::CallerGone),
        Err(Stopped::Failed(failure)) => {
            let kind = kind(&failure);
            Ok(Relayed::Broken { reason: reason(&failure), code: kind.row().code, in_band: false })
        }
    }
}

/// Reads a reply that is held whole; one that is good by its status may still be none.
fn judge_whole(
    reply: &Reply<'_>,
    tap: PlainTap,
    held: &[Bytes],
    is_good: bool,
) -> Result<(Reading, u64), Failure> {
    let (reading, produced) = tap.finish_counted();
    if let Some(fault) = reading.fault.as_ref().filter(|_| is_good) {
        return Err(Failure::error_body(fault, "an error in a 200 reply"));
    }
    if is_good && may_be_cut(reply) && is_half_json(&held.concat()) {
        return Err(Failure::new(Outcome::Reset, "the reply was cut"));
    }
    Ok((reading, produced))
}

/// The body of an error that is the caller's own fault: without our credential, and in the one shape
/// that clients read.
fn in_our_shape(call: &Call, reply: &mut Reply<'_>, held: &[Bytes]) -> Bytes {
    let body = reply.upstream.without_credential(held.concat());
    let status = reply.header.status.as_u16();
    let reshaped = errors::reshaped(call.dialect, status, &body);
    match reshaped.filter(|_| !is_encoded(&reply.header)) {
        Some(reshaped) => {
            respond::as_json(&mut reply.header);
            reshaped
        }
        None => body.into(),
    }
}

/// What a reply that is relayed says of its upstream.
const fn outcome(status: u16) -> Outcome {
    match judge::status(status) {
        Judgement::Good => Outcome::Ok,
        Judgement::CallersFault | Judgement::Next(_) => Outcome::Status4xx,
    }
}

/// Sends a reply that is held whole.
async fn finish_plain(
    caller: &mut Caller<'_>,
    ctx: &mut Ctx,
    header: Box<ResponseHeader>,
    mut pieces: Vec<Bytes>,
) -> Result<(), Stopped> {
    bill::settle(ctx);
    caller.pass_untouched();
    caller.begin(header).await?;
    caller.send(&mut pieces).await?;
    Ok(caller.end().await?)
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
    bill::settle(ctx);
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
    reply: &mut Reply<'_>,
    clock: &mut Clock,
    (header, mut pieces): (Box<ResponseHeader>, Vec<Bytes>),
    tap: &mut PlainTap,
) -> Result<(), Stopped> {
    caller.pass_untouched();
    caller.begin(header).await?;
    let may_be_cut = may_be_cut(reply) && !is_encoded(&reply.header);
    let connection = &mut *reply.connection;
    let mut last = None;
    loop {
        let mut ends = pieces.iter().rev().flat_map(|piece| piece.iter().rev());
        last = ends.find(|byte| !byte.is_ascii_whitespace()).copied().or(last);
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
    if may_be_cut && !matches!(last, Some(b'}' | b']')) {
        return Err(Failure::new(Outcome::Reset, "the reply was cut").into());
    }
    Ok(caller.end().await?)
}
