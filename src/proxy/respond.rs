//! Any time: what we say ourselves. Every reply, ours or relayed, gets its common headers here.

use super::bill;
use super::caller::in_time;
use super::context::{Ctx, Ended};
use crate::cors::Headers;
use crate::error::{Kind, Rejection};
use crate::limits::headers;
use crate::protocol::errors;
use crate::store::Standing;
use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ALLOW, CACHE_CONTROL,
    CONTENT_LENGTH, CONTENT_TYPE, EXPECT, RETRY_AFTER, TRANSFER_ENCODING,
};
use http::response::Parts;
use http::{HeaderName, HeaderValue, StatusCode};
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;
use std::pin::pin;
use std::time::Duration;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const UPSTREAM: HeaderName = HeaderName::from_static("x-cirque-upstream");
const ATTEMPTS: HeaderName = HeaderName::from_static("x-cirque-attempts");
pub(super) const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// An unread body up to this size is read and thrown away before the answer, so that the connection
/// can be used again.
const DRAIN_FIRST: u64 = 64 << 10;
/// After an early answer we keep reading this much and this long: a client that is still sending
/// would otherwise lose the answer to a reset (PINGORA P24).
const LINGER_BYTES: u64 = 8 << 20;
const LINGER: Duration = Duration::from_secs(2);
/// Said where no waiting helps: a client that finds no time in a 429 comes back within a second.
const NO_USE_WAITING: Duration = Duration::from_hours(1);
/// Headers there is room for at first: a provider's and all of ours.
const ROOM: usize = 24;
/// A caller who does not take a reply for so long is gone; it would hold its upstream for ever.
pub(super) const WRITE_STALL: Duration = Duration::from_mins(1);

/// What every reply of one request carries: its id, what CORS grants, and how limits stand.
pub(super) struct Signature {
    request_id: Option<HeaderValue>,
    cors: Headers,
    limits: Option<Standing>,
}

impl Signature {
    /// The signature of this request.
    pub(super) fn of(ctx: &Ctx) -> Self {
        let known = ctx.caller.as_ref().map(|caller| &caller.account);
        let now =
            || known.filter(|account| account.is_limited()).map(|a| ctx.shared.limits.standing(a));
        let standing = ctx.standing.or_else(now);
        Self {
            request_id: HeaderValue::from_str(ctx.request_id.as_str()).ok(),
            cors: ctx.snapshot.cors.reply(ctx.origin.as_ref()),
            limits: standing,
        }
    }

    /// Signs a reply.
    pub(super) fn sign(&self, header: &mut Parts) {
        if let Some(id) = &self.request_id {
            set(header, REQUEST_ID, id.clone());
        }
        for (name, value) in &self.cors {
            add(header, name.clone(), value.clone());
        }
        if let Some(standing) = &self.limits {
            headers::headers(standing, |name, value| add(header, name, value));
        }
    }

    /// The header of a stream whose upstream has not answered yet.
    pub(super) fn stream_header(&self, chunked: bool) -> Box<ResponseHeader> {
        let mut header = blank(StatusCode::OK);
        as_stream(&mut header, chunked);
        self.sign(&mut header);
        ready(header)
    }
}

/// Makes a header that of an event stream: no proxy may hold or compress it (WIRE section 8).
pub(super) fn as_stream(header: &mut Parts, chunked: bool) {
    header.headers.remove(CONTENT_LENGTH);
    set(header, CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    set(header, CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    set(header, ACCEL_BUFFERING, HeaderValue::from_static("no"));
    if chunked {
        set(header, TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// Says that the body is JSON, whatever it was said to be.
pub(super) fn as_json(header: &mut Parts) {
    set(header, CONTENT_TYPE, JSON);
}

/// Sets a header.
pub(super) fn set(header: &mut Parts, name: HeaderName, value: HeaderValue) {
    header.headers.insert(name, value);
}

/// Adds a header beside those of the same name.
pub(super) fn add(header: &mut Parts, name: HeaderName, value: HeaderValue) {
    header.headers.append(name, value);
}

/// Says which upstream answered, or was asked last, and after how many attempts.
pub(super) fn name_upstream(header: &mut Parts, upstream: &str, attempts: u32) {
    if let Ok(name) = HeaderValue::from_str(upstream) {
        set(header, UPSTREAM, name);
    }
    set(header, ATTEMPTS, HeaderValue::from(attempts));
}

/// A header with this status and nothing else.
pub(super) fn blank(status: StatusCode) -> Parts {
    let mut header = http::Response::new(()).into_parts().0;
    header.status = status;
    header.headers.reserve(ROOM);
    header
}

/// The header as Pingora sends it. Only once it is whole: Pingora's own reads each name that is put in
/// anew, and keeps a second map for its spelling, which is the usual one here.
pub(super) fn ready(header: Parts) -> Box<ResponseHeader> {
    Box::new(header.into())
}

/// Answers a preflight, or any `OPTIONS`: no key is asked for, since browsers send none.
pub(super) async fn preflight(
    caller: &mut ServerSession,
    ctx: &mut Ctx,
    allow: &'static str,
) -> Result<(), Ended> {
    let request = &caller.req_header().headers;
    let mut header = blank(StatusCode::NO_CONTENT);
    let cors = if request.contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
        let asked = request.get(ACCESS_CONTROL_REQUEST_HEADERS);
        ctx.snapshot.cors.preflight(ctx.origin.as_ref(), asked)
    } else {
        ctx.snapshot.cors.reply(ctx.origin.as_ref())
    };
    let signature = Signature { cors, ..Signature::of(ctx) };
    set(&mut header, ALLOW, HeaderValue::from_static(allow));
    signature.sign(&mut header);
    write(caller, ctx, ready(header), Bytes::new()).await
}

/// Answers with JSON from memory.
pub(super) async fn json(
    caller: &mut ServerSession,
    ctx: &mut Ctx,
    body: Bytes,
) -> Result<(), Ended> {
    let mut header = blank(StatusCode::OK);
    set(&mut header, CONTENT_TYPE, JSON);
    set(&mut header, CACHE_CONTROL, HeaderValue::from_static("no-store"));
    set(&mut header, CONTENT_LENGTH, HeaderValue::from(body.len()));
    Signature::of(ctx).sign(&mut header);
    write(caller, ctx, ready(header), body).await
}

/// Ends a request that has no relayed reply. An error cuts the connection.
pub(super) async fn end(
    caller: &mut ServerSession,
    ctx: &mut Ctx,
    ended: Ended,
) -> pingora::Result<()> {
    let answered = match ended {
        Ended::Rejected(rejection) => reject(caller, ctx, &rejection).await,
        Ended::CallerGone | Ended::Broken => Err(ended),
    };
    match answered {
        Ok(()) => Ok(()),
        Err(Ended::Broken) => Err(cut("the reply could not be finished")),
        Err(Ended::CallerGone | Ended::Rejected(_)) => {
            ctx.outcome.cancelled = true;
            Err(cut("the caller left"))
        }
    }
}

fn cut(why: &'static str) -> Box<pingora::Error> {
    pingora::Error::explain(pingora::ErrorType::ConnectionClosed, why)
}

async fn reject(
    caller: &mut ServerSession,
    ctx: &mut Ctx,
    rejection: &Rejection,
) -> Result<(), Ended> {
    let row = rejection.kind.row();
    ctx.outcome.error_code = Some(row.code);
    ctx.traced.told(&rejection.message);
    bill::settle(ctx);
    let body = errors::body(ctx.dialect(), rejection);
    let header = error_header(ctx, rejection, body.len());
    let unread = !caller.is_body_done();
    if unread && may_drain_first(caller, rejection.kind) {
        drain(caller, DRAIN_FIRST).await;
    }
    write(caller, ctx, ready(header), body).await?;
    if unread {
        drain(caller, LINGER_BYTES).await;
    }
    Ok(())
}

fn error_header(ctx: &Ctx, rejection: &Rejection, length: usize) -> Parts {
    let status = StatusCode::from_u16(rejection.kind.row().status);
    let mut header = blank(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR));
    set(&mut header, CONTENT_TYPE, JSON);
    set(&mut header, CONTENT_LENGTH, HeaderValue::from(length));
    let is_wait = matches!(rejection.kind.row().status, 429 | 503);
    let is_final = is_wait && rejection.retry_after.is_none();
    if let Some(after) = rejection.retry_after.or_else(|| is_final.then_some(NO_USE_WAITING)) {
        let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
        set(&mut header, RETRY_AFTER, HeaderValue::from(seconds));
    }
    if let Some(upstream) = &ctx.outcome.upstream {
        name_upstream(&mut header, upstream, ctx.outcome.attempts);
    }
    if ctx.outcome.attempts > 1 || is_final || rejection.kind == Kind::InsufficientQuota {
        // We have tried more than once: a client's own retries would multiply ours. And money does
        // not come back within a client's patience.
        set(&mut header, SHOULD_RETRY, HeaderValue::from_static("false"));
    }
    if rejection.kind == Kind::MethodNotAllowed
        && let Some(endpoint) = &ctx.endpoint
    {
        set(&mut header, ALLOW, HeaderValue::from_static(endpoint.allow()));
    }
    Signature::of(ctx).sign(&mut header);
    header
}

/// Whether the unread body is small and on its way: a caller that waits for `100 Continue` has not
/// sent it, one that sends too slowly or with broken framing never will.
fn may_drain_first(caller: &ServerSession, kind: Kind) -> bool {
    let headers = &caller.req_header().headers;
    let length = headers.get(CONTENT_LENGTH).and_then(|l| l.to_str().ok()?.parse::<u64>().ok());
    !headers.contains_key(EXPECT)
        && !matches!(kind, Kind::RequestTimeout | Kind::RequestTooLarge)
        && length.map_or_else(|| headers.contains_key(TRANSFER_ENCODING), |l| l <= DRAIN_FIRST)
}

async fn drain(caller: &mut ServerSession, at_most: u64) {
    let reading = async {
        let mut read = 0;
        while let Ok(Some(piece)) = caller.read_request_body().await {
            read += piece.len() as u64;
            if read > at_most {
                break;
            }
        }
    };
    // Whatever is left when the time is over stays unread; the connection closes.
    let _in_time = tokio::time::timeout(LINGER, reading).await;
}

async fn write(
    caller: &mut ServerSession,
    ctx: &mut Ctx,
    header: Box<ResponseHeader>,
    body: Bytes,
) -> Result<(), Ended> {
    prepare(caller, ctx);
    ctx.outcome.status = Some(header.status.as_u16());
    ctx.outcome.bytes_out = body.len() as u64;
    let bodiless = caller.req_header().method == http::Method::HEAD;
    let since = std::time::Instant::now();
    let written = async {
        // Pingora bounds the writing of bodies alone.
        in_time(since + WRITE_STALL, pin!(caller.write_response_header(header))).await?;
        let body = if bodiless { Bytes::new() } else { body };
        caller.write_response_body(body, true).await
    }
    .await;
    ctx.waited += since.elapsed();
    written.map_err(|_| Ended::CallerGone)
}

/// Bounds how long the caller may take, and whether its connection stays open.
pub(super) fn prepare(caller: &mut ServerSession, ctx: &Ctx) {
    caller.set_write_timeout(Some(WRITE_STALL));
    if ctx.shared.current.is_draining() {
        caller.set_keepalive(None);
    }
}

/// The refusal of a request whose head cannot be used, as raw bytes: Pingora never sees it.
pub(super) fn raw(ctx: &Ctx, rejection: &Rejection) -> Vec<u8> {
    let body = errors::body(ctx.dialect(), rejection);
    let header = error_header(ctx, rejection, body.len());
    let reason = header.status.canonical_reason().unwrap_or("Error");
    let mut bytes = format!("HTTP/1.1 {} {reason}\r\n", header.status.as_u16()).into_bytes();
    for (name, value) in &header.headers {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"connection: close\r\n\r\n");
    bytes.extend_from_slice(&body);
    bytes
}
