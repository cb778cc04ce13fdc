//! Chapter 2, the call: its body read once, its model found, its route chosen. Nothing is sent yet.

use super::admission;
use super::admit::too_large;
use super::context::{Call, Ctx, Ended};
use crate::auth;
use crate::error::{Kind, Rejection};
use crate::protocol::Dialect;
use crate::protocol::request::{self, Named, Refused, RequestFacts, Role};
use crate::routing;
use crate::session::Candidates;
use bytes::{Bytes, BytesMut};
use http::Version;
use http::header::{CONTENT_LENGTH, EXPECT};
use pingora::protocols::http::ServerSession;
use std::time::{Duration, Instant};

/// Most that is set aside on the word of a `Content-Length` alone.
const TRUSTED_CAPACITY: usize = 1 << 20;
/// Most requests have no more members.
const USUAL_MEMBERS: usize = 8;
/// A key of fewer bytes may be a part of any name.
pub(super) const LEAST_KEY: usize = 16;
/// A caller who has sent this much has earned one more second of patience.
const BYTES_PER_SECOND: u64 = 1_024;

/// Reads the call and decides where it may go.
pub(super) async fn read(
    caller: &mut ServerSession,
    ctx: &mut Ctx,
    dialect: Dialect,
) -> Result<(), Ended> {
    let received = receive(caller, ctx).await;
    if received.is_err() {
        // What follows on the connection may be the rest of this body.
        caller.set_keepalive(None);
    }
    let body = received?;
    ctx.traced.asked(&body, ctx.snapshot.tracing.secrets());
    let mut members = ctx.traced.capture.map(|_| Vec::with_capacity(USUAL_MEMBERS));
    let facts = match request::read_noting(&body, dialect, members.as_mut()) {
        Ok(facts) => facts,
        Err(Refused { rejection, facts }) => {
            if let Some(facts) = facts {
                ctx.traced.facts(&facts, None);
                identify(caller, ctx, &facts).ok();
            }
            return Err(rejection.into());
        }
    };
    ctx.traced.facts(&facts, members);
    let strip_response_format = identify(caller, ctx, &facts)?;
    let allowed = allow(ctx, &facts);
    let routes = &ctx.snapshot.routes;
    let route = routing::find(routes, &facts.model);
    let found = route.and_then(|found| routes.iter().position(|r| std::ptr::eq(r, found)));
    let refusal = allowed.err().or_else(|| found.is_none().then(|| unknown_model(&facts.model)));
    let route = found.unwrap_or_default();
    let account = ctx.caller.as_ref().map(|caller| &caller.account);
    let is_metered = account.is_some_and(|account| account.is_metered());
    let asking = None;
    let call = Call { dialect, body, facts, route, strip_response_format, asking, is_metered };
    ctx.stream = call.stream();
    ctx.call = Some(call);
    if let Some(rejection) = refusal {
        return Err(rejection.into());
    }
    let Some(call) = ctx.call.take() else { return Ok(()) };
    let since = Instant::now();
    let admitted = admission::admit(ctx, &call).await;
    ctx.waited += since.elapsed();
    ctx.call = Some(call);
    Ok(admitted?)
}

/// Notes model and session; whether the session stands in a `response_format`, which is to be taken out.
fn identify(
    caller: &ServerSession,
    ctx: &mut Ctx,
    facts: &RequestFacts,
) -> Result<bool, Rejection> {
    let key = auth::credential(&caller.req_header().headers);
    let key = key.and_then(|key| str::from_utf8(key).ok());
    let holds_key = |text: &str| {
        key.is_some_and(|key| text == key || key.len() >= LEAST_KEY && text.contains(key))
    };
    if facts.names().any(holds_key) {
        // It would stand in logs, metrics and the ledger.
        return Err(misplaced_key());
    }
    let session = ctx.snapshot.sessions.decide(Candidates {
        header: header(caller, ctx),
        body: facts.session_id.as_deref(),
        metadata: facts.metadata_session_id.as_deref(),
        response_format: facts.response_format.as_ref().and_then(|f| f.kind.as_deref()),
    });
    ctx.session_id = session.id.filter(|id| !holds_key(id));
    ctx.model = Some(facts.model.clone()).filter(|model| !model.is_empty());
    Ok(session.strip_response_format)
}

fn header<'h>(caller: &'h ServerSession, ctx: &Ctx) -> Option<&'h str> {
    let value = caller.req_header().headers.get(&ctx.snapshot.sessions.header)?;
    str::from_utf8(value.as_bytes()).ok()
}

/// The whole body, in one piece. Small bodies arrive in one read and are not copied again.
async fn receive(caller: &mut ServerSession, ctx: &mut Ctx) -> Result<Bytes, Ended> {
    let request = caller.req_header();
    if request.headers.contains_key(EXPECT) && request.version != Version::HTTP_10 {
        // Pingora never answers it, and curl waits a second (PINGORA P14). HTTP/1.0 knows no 1xx.
        caller.write_continue_response().await.map_err(|_| Ended::CallerGone)?;
    }
    let max_body = ctx.snapshot.max_body();
    let mut patience = Patience::new(ctx.snapshot.read_timeout());
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    loop {
        let since = Instant::now();
        let read = tokio::time::timeout(patience.left(), caller.read_request_body()).await;
        let took = since.elapsed();
        ctx.waited += took;
        let piece = match read {
            Err(_) => return Err(too_slow().into()),
            Ok(Err(error)) => return Err(unreadable(&error)),
            Ok(Ok(None)) => break,
            Ok(Ok(Some(piece))) => piece,
        };
        ctx.outcome.bytes_in += piece.len() as u64;
        patience.spend(took, piece.len() as u64);
        if ctx.outcome.bytes_in > max_body {
            return Err(too_large(max_body).into());
        }
        if first.is_empty() {
            first = piece;
            continue;
        }
        if rest.is_empty() {
            rest.reserve(announced(caller).clamp(first.len() + piece.len(), TRUSTED_CAPACITY));
            rest.extend_from_slice(&first);
        }
        rest.extend_from_slice(&piece);
    }
    Ok(if rest.is_empty() { first } else { rest.freeze() })
}

fn announced(caller: &ServerSession) -> usize {
    let length = caller.req_header().headers.get(CONTENT_LENGTH);
    length.and_then(|l| l.to_str().ok()?.parse().ok()).unwrap_or_default()
}

/// How long a caller may still take: never a gap over `read_timeout`, and all waiting together no
/// longer than `read_timeout` plus a second for each KiB that came. So a byte a second is cut, and a
/// slow line is not.
#[derive(Debug)]
struct Patience {
    gap: Duration,
    waited: Duration,
    bytes: u64,
}

impl Patience {
    const fn new(gap: Duration) -> Self {
        Self { gap, waited: Duration::ZERO, bytes: 0 }
    }

    fn left(&self) -> Duration {
        let earned = Duration::from_millis(self.bytes.saturating_mul(1_000) / BYTES_PER_SECOND);
        self.gap.min((self.gap + earned).saturating_sub(self.waited))
    }

    fn spend(&mut self, waited: Duration, bytes: u64) {
        self.waited += waited;
        self.bytes += bytes;
    }
}

fn too_slow() -> Rejection {
    Rejection::new(Kind::RequestTimeout, "the request body came too slowly; send it again")
}

/// A body that cannot be read to its end: broken framing is the caller's fault, anything else means
/// that the caller has gone.
#[expect(clippy::wildcard_enum_match_arm, reason = "Pingora's list is open")]
fn unreadable(error: &pingora::Error) -> Ended {
    use pingora::ErrorType;
    match error.etype() {
        ErrorType::ConnectionClosed | ErrorType::ReadError | ErrorType::H2Error => {
            Ended::CallerGone
        }
        ErrorType::ReadTimedout => too_slow().into(),
        _ => Rejection::new(
            Kind::InvalidRequest,
            "the request body is not framed as its headers say",
        )
        .into(),
    }
}

/// Every model name the body carries must be allowed, not only the first: providers walk through
/// the others on their own (PINGORA I15), and a preset behind a model's name brings its own.
fn allow(ctx: &Ctx, facts: &RequestFacts) -> Result<(), Rejection> {
    let Some(caller) = ctx.caller.as_ref().filter(|caller| !caller.models.is_everything()) else {
        return Ok(());
    };
    // A preset may be allowed by its bare name or as models are asked for by it.
    let may_use = |named: &Named<'_>| {
        caller.models.matches(named.text)
            || named.role == Role::Preset
                && caller.models.matches(&format!("@preset/{}", named.text))
    };
    match facts.named().find(|named| !may_use(named)).map(|named| named.text) {
        None => Ok(()),
        Some(name) => {
            let name: String = name.chars().take(100).collect();
            let message = format!("this key may not use the model `{name}`; see GET /v1/models");
            Err(Rejection::new(Kind::ModelNotAllowed, message).param("model"))
        }
    }
}

fn misplaced_key() -> Rejection {
    let message = "the name of a model holds this key; send keys in their header alone";
    Rejection::new(Kind::InvalidRequest, message).param("model")
}

fn unknown_model(model: &str) -> Rejection {
    let name: String = model.chars().take(100).collect();
    let message = format!("no route serves the model `{name}`; see GET /v1/models");
    Rejection::new(Kind::ModelNotFound, message).param("model")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_a_second_runs_out_of_patience_and_a_slow_line_does_not() {
        let second = Duration::from_secs(1);
        let mut drip = Patience::new(10 * second);
        (0..20).for_each(|_| drip.spend(second, 1));
        assert_eq!(drip.left(), Duration::ZERO);
        let mut slow = Patience::new(10 * second);
        (0..10_000).for_each(|_| slow.spend(second, 1_500));
        assert_eq!(slow.left(), 10 * second);
    }

    #[test]
    fn no_gap_is_longer_than_the_timeout() {
        let mut patience = Patience::new(Duration::from_secs(10));
        patience.spend(Duration::ZERO, 1 << 30);
        assert_eq!(patience.left(), Duration::from_secs(10));
    }
}
