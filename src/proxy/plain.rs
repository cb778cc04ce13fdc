//! Chapter 4, the other half: a reply that is no stream, held whole where it is short, so that an
//! error in it or a reset can still fail over.

use super::bill;
use super::caller::Caller;
use super::clock::Clock;
use super::context::{Call, Ctx};
use super::forward::{Connection, Stopped};
use super::headers::reply_header;
use super::judge::{self, Failure, Judgement};
use super::relay::{Relayed, Reply, kind, reason};
use super::respond;
use crate::error::{Kind, Rejection};
use crate::protocol::errors;
use crate::protocol::tap::{Finished, Form, PlainTap, error_in_body};
use crate::telemetry::metrics::{Broken, Outcome};
use bytes::Bytes;
use http::HeaderValue;
use pingora::http::ResponseHeader;
use std::pin::pin;
use std::time::Instant;

/// A plain reply is held, header included, to its end or this far (DESIGN section 5).
const HOLD_PLAIN: usize = 64 << 10;
/// The padding that OpenRouter sends while it waits is no part of a reply. It does not count, up to
/// this.
const MOST_PADDING: usize = 256 << 10;

/// A body, or its beginning.
pub(super) struct Held {
    pub(super) pieces: Vec<Bytes>,
    /// Whether nothing follows but trailers.
    ended: bool,
}

impl Held {
    /// Of a body that cannot be read.
    pub(super) const fn nothing() -> Self {
        Self { pieces: Vec::new(), ended: true }
    }
}

/// Reads a body to its end or to [`HOLD_PLAIN`].
pub(super) async fn hold(
    caller: &mut Caller<'_>,
    connection: &mut Connection,
    clock: &mut Clock,
) -> Result<Held, Stopped> {
    let mut pieces = Vec::new();
    let (mut padding, mut bytes) = (0, 0);
    while bytes < HOLD_PLAIN && padding < MOST_PADDING {
        let Some(piece) = caller.until(clock, pin!(connection.read_body())).await?? else {
            return Ok(Held { pieces, ended: true });
        };
        clock.data_came(Instant::now(), None);
        if bytes == 0 && piece.trim_ascii_start().is_empty() {
            padding += piece.len();
        } else {
            bytes += piece.len();
        }
        pieces.push(piece);
    }
    let ended = connection.is_body_over();
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
    let status = reply.header.status.as_u16();
    let Held { pieces: held, ended } = match held {
        Some(held) => held,
        None => hold(caller, reply.connection, clock).await?,
    };
    let mut tap = PlainTap::new(call.dialect).keeping(ctx.traced.capture);
    for piece in &held {
        tap.push(piece);
    }
    if judge::status(status) != Judgement::Good {
        // An error is no output, however long it is.
        ctx.outcome.read(Finished { produced_tokens: 0, ..tap.finish_counted() }, true);
        return Box::pin(callers_fault(caller, ctx, call, reply, &held)).await;
    }
    let mut tap = Some(tap);
    if let Some(tap) = tap.take_if(|_| ended) {
        let finished = tap.finish_counted();
        let judged = judge_whole(&finished);
        // An error is free, unless it says what it costs.
        if judged.is_ok() || finished.reading.names_a_price() {
            ctx.outcome.read(finished, true);
        }
        judged?;
    }
    if call.stream() {
        // Clients of a stream skip every line of JSON: they would see an empty answer and no error.
        return Err(Failure::new(Outcome::ErrorBody, "no stream where one was asked for").into());
    }
    let length = ended.then(|| held.iter().map(Bytes::len).sum());
    let header = respond::ready(reply_header(caller, ctx, &reply, length));
    ctx.outcome.status = (!caller.is_gone()).then_some(status);
    call.body = Bytes::new();
    if let Some(tap) = tap {
        return Box::pin(long(caller, ctx, (reply, clock), (header, held), tap)).await;
    }
    ctx.proved_good(reply.upstream);
    finish_plain(caller, ctx, header, held).await?;
    Ok(Relayed::Whole(Outcome::Ok))
}

/// Judges a reply that is held whole: one that is good by its status may still be none.
fn judge_whole(finished: &Finished) -> Result<(), Failure> {
    if let Some(fault) = &finished.reading.fault {
        return Err(Failure::error_body(fault, "an error in a 200 reply"));
    }
    match finished.form {
        Form::Whole => Ok(()),
        Form::Cut => Err(Failure::new(Outcome::Reset, "the reply was cut")),
        Form::Garbled => Err(Failure::new(Outcome::ErrorBody, "the reply is no JSON")),
    }
}

/// Relays a reply that is too long to be held, and ends it only if it has proved good: no client
/// may take one that broke off, or an error at the end of it, for an answer.
async fn long(
    caller: &mut Caller<'_>,
    ctx: &mut Ctx,
    (mut reply, clock): (Reply<'_>, &mut Clock),
    (header, held): (Box<ResponseHeader>, Vec<Bytes>),
    mut tap: PlainTap,
) -> Result<Relayed, Stopped> {
    let sent = forward_plain(caller, &mut reply, clock, (header, held), &mut tap).await;
    let finished = tap.finish_counted();
    let (is_fault, form) = (finished.reading.fault.is_some(), finished.form);
    // Where it breaks off, its upstream may have written more.
    ctx.outcome.read(finished, sent.is_ok() && form != Form::Cut);
    let (reason, kind) = match (sent, form) {
        (Err(Stopped::CallerGone), _) => return Err(Stopped::CallerGone),
        (Err(Stopped::Failed(failure)), _) => (reason(&failure), kind(&failure)),
        (Ok(_), _) if is_fault => (Broken::ErrorBody, Kind::UpstreamError),
        (Ok(_), Form::Cut) => (Broken::Truncated, Kind::UpstreamError),
        (Ok(_), Form::Garbled) => (Broken::Garbled, Kind::UpstreamError),
        (Ok(last), Form::Whole) => {
            ctx.proved_good(reply.upstream);
            bill::settle(ctx);
            caller.send(&mut vec![last]).await?;
            caller.end().await?;
            return Ok(Relayed::Whole(Outcome::Ok));
        }
    };
    Ok(Relayed::Broken { reason, code: kind.row().code, in_band: false })
}

/// A reply that says what is wrong with the caller's request. An error's first words are enough; what
/// follows them could hold anything.
async fn callers_fault(
    caller: &mut Caller<'_>,
    ctx: &mut Ctx,
    call: &mut Call,
    reply: Reply<'_>,
    held: &[Bytes],
) -> Result<Relayed, Stopped> {
    let (body, is_ours) = in_our_shape(call, &reply, held);
    if caller.begun {
        return say_fault(caller, ctx, call, &body).await;
    }
    let mut header = reply_header(caller, ctx, &reply, Some(body.len()));
    if is_ours {
        respond::as_json(&mut header);
    }
    if ctx.outcome.attempts > 1 {
        respond::set(&mut header, respond::SHOULD_RETRY, HeaderValue::from_static("false"));
    }
    ctx.outcome.status = (!caller.is_gone()).then_some(reply.header.status.as_u16());
    call.body = Bytes::new();
    finish_plain(caller, ctx, respond::ready(header), vec![body]).await?;
    Ok(Relayed::Whole(Outcome::Status4xx))
}

/// The body of an error that is the caller's own fault: without our credential, and in the one shape
/// that clients read; whether that one is ours.
fn in_our_shape(call: &Call, reply: &Reply<'_>, held: &[Bytes]) -> (Bytes, bool) {
    let body = reply.upstream.without_credential(held.concat());
    let status = reply.header.status.as_u16();
    match errors::reshaped(call.dialect, status, &body) {
        Some(reshaped) => (reshaped, true),
        None => (body.into(), false),
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

/// Sends a reply on as it comes, all but its last piece, which is returned at the reply's end.
async fn forward_plain(
    caller: &mut Caller<'_>,
    reply: &mut Reply<'_>,
    clock: &mut Clock,
    (header, mut pieces): (Box<ResponseHeader>, Vec<Bytes>),
    tap: &mut PlainTap,
) -> Result<Bytes, Stopped> {
    caller.pass_untouched();
    caller.begin(header).await?;
    let connection = &mut *reply.connection;
    let mut last = pieces.pop().unwrap_or_default();
    loop {
        caller.send(&mut pieces).await?;
        if connection.is_body_over() {
            return Ok(last);
        }
        let Some(piece) = caller.until(clock, pin!(connection.read_body())).await?? else {
            return Ok(last);
        };
        clock.data_came(Instant::now(), None);
        tap.push(&piece);
        if !piece.is_empty() {
            pieces.push(std::mem::replace(&mut last, piece));
        }
    }
}
