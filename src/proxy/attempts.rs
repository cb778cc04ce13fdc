//! Chapter 3, the exchange: upstream after upstream until one gives a reply worth relaying.

use super::caller::Caller;
use super::clock::Clock;
use super::context::{Call, Ctx, Ended};
use super::forward::{self, Connection, Stopped};
use super::judge::{self, Failure, Judgement};
use super::plain;
use super::relay::{self, Relayed, Reply};
use super::respond::{self, Signature};
use super::send;
use crate::error::{Kind, Rejection};
use crate::protocol::errors;
use crate::snapshot::Snapshot;
use crate::telemetry::metrics::Outcome;
use crate::upstream::Upstream;
use crate::upstream::config::OnDisconnect;
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

/// How many stale pooled connections one attempt may meet before it counts as failed.
const STALE_CONNECTIONS: usize = 3;

/// Finds a reply for the call and relays it.
pub(super) async fn run(session: &mut ServerSession, ctx: &mut Ctx) -> Result<(), Ended> {
    let Some(mut call) = ctx.call.take() else {
        return Err(Rejection::new(Kind::Internal, "the request was not read").into());
    };
    let snapshot = Arc::clone(&ctx.snapshot);
    respond::prepare(session, ctx);
    let comment_after = call.stream().then(|| snapshot.keepalive_comment());
    let mut caller = Caller::new(session, Signature::of(ctx), call.dialect, comment_after);
    let ended = attempts(&mut caller, ctx, &mut call, &snapshot).await;
    ctx.outcome.bytes_out = caller.bytes_out;
    ctx.outcome.cancelled |= caller.is_gone();
    ctx.waited += caller.waited;
    ended
}

async fn attempts(
    caller: &mut Caller<'_>,
    ctx: &mut Ctx,
    call: &mut Call,
    snapshot: &Snapshot,
) -> Result<(), Ended> {
    let Some(route) = snapshot.routes.get(call.route) else {
        return Err(judge::verdict(&[]).into());
    };
    route.budget.deposit();
    let mut failures: Vec<Failure> = Vec::new();
    let order = route.order().filter_map(|index| snapshot.upstreams.get(index));
    for upstream in order.take(usize::try_from(route.retry.attempts).unwrap_or(usize::MAX)) {
        if let (Some(failure), Some(from)) = (failures.last(), &ctx.outcome.upstream) {
            if ctx.begun.elapsed() >= upstream.config.timeouts.total.0 {
                continue;
            }
            let free = failure.is_without_load();
            if !free && !route.budget.withdraw(ctx.shared.current.begun.elapsed()) {
                tracing::warn!(upstream = %from, "no retry: the retry budget is spent");
                break;
            }
            ctx.shared.metrics.failover(from, failure.outcome);
        }
        match attempt(caller, ctx, call, upstream).await {
            Ok(relayed) => return conclude(ctx, upstream, &relayed),
            Err(Stopped::Failed(failure)) => {
                ctx.shared.metrics.upstream_call(&upstream.name, failure.outcome);
                upstream.live.failed(failure.what.as_str(), SystemTime::now());
                failures.push(failure);
                if caller.is_gone() {
                    // Its reply was read for the bill alone; nobody wants another one.
                    return Err(Ended::CallerGone);
                }
            }
            Err(Stopped::CallerGone) => {
                ctx.shared.metrics.upstream_call(&upstream.name, Outcome::Cancelled);
                return Err(Ended::CallerGone);
            }
        }
    }
    refuse(caller, ctx, call, judge::verdict(&failures)).await
}

/// What remains once the reply has been relayed, whole or not.
fn conclude(ctx: &mut Ctx, upstream: &Upstream, relayed: &Relayed) -> Result<(), Ended> {
    let metrics = &ctx.shared.metrics;
    match *relayed {
        Relayed::Whole(outcome) => {
            metrics.upstream_call(&upstream.name, outcome);
            Ok(())
        }
        Relayed::Broken { reason, code, in_band } => {
            metrics.upstream_call(&upstream.name, Outcome::StreamBroken);
            metrics.stream_broken(&upstream.name, reason);
            upstream.live.failed(format!("stream broken: {}", reason.as_str()), SystemTime::now());
            ctx.outcome.error_code = Some(code);
            if in_band { Ok(()) } else { Err(Ended::Broken) }
        }
    }
}

/// No upstream has answered: a true status where none has been sent, else an in-band error.
async fn refuse(
    caller: &mut Caller<'_>,
    ctx: &mut Ctx,
    call: &Call,
    rejection: Rejection,
) -> Result<(), Ended> {
    if !caller.begun {
        return Err(rejection.into());
    }
    ctx.outcome.status = Some(200);
    ctx.outcome.error_code = Some(rejection.kind.row().code);
    let last_words = errors::in_band(call.dialect, &rejection, caller.between_events);
    caller.end_with(last_words).await.map_err(|_| Ended::CallerGone)
}

async fn attempt(
    caller: &mut Caller<'_>,
    ctx: &mut Ctx,
    call: &mut Call,
    upstream: &Upstream,
) -> Result<Relayed, Stopped> {
    let _place = upstream.live.enter();
    let _gauge = ctx.shared.metrics.upstream_inflight(&upstream.name);
    ctx.outcome.attempts += 1;
    ctx.outcome.upstream = Some(Arc::clone(&upstream.name));
    caller.drain = upstream.config.on_disconnect == OnDisconnect::Drain;
    let mut clock = Clock::new(&upstream.config.timeouts, ctx.begun);
    let (mut connection, header) = reach(caller, ctx, call, upstream, &mut clock).await?;
    let reply = Reply { connection: &mut connection, header, upstream };
    let relayed = relay(caller, ctx, call, reply, &mut clock).await;
    let connectors = &ctx.shared.connectors;
    match &relayed {
        Ok(Relayed::Whole(_)) => connection.release(connectors).await,
        Ok(Relayed::Broken { .. }) | Err(_) => connection.discard(connectors).await,
    }
    relayed
}

/// Sends the call and waits for the reply's header. A pooled connection that turns out to be dead
/// is no failure of the upstream: the call goes out again on another one.
async fn reach(
    caller: &mut Caller<'_>,
    ctx: &Ctx,
    call: &Call,
    upstream: &Upstream,
    clock: &mut Clock,
) -> Result<(Connection, Box<ResponseHeader>), Stopped> {
    let connectors = &ctx.shared.connectors;
    let mut stale = 0;
    loop {
        let mut connection = forward::connect(connectors, upstream, caller, clock).await?;
        let begun = Instant::now();
        let answered = talk(caller, ctx, call, upstream, (&mut connection, clock)).await;
        match answered {
            Ok(header) => {
                let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
                upstream.live.observe_latency(micros);
                return Ok((connection, header));
            }
            Err(stopped) => {
                let dead = connection.reused
                    && matches!(&stopped, Stopped::Failed(failure) if failure.may_be_stale);
                if matches!(&stopped, Stopped::Failed(f) if f.outcome == Outcome::Timeout) {
                    connection.retire();
                }
                connection.discard(connectors).await;
                stale += usize::from(dead);
                if !dead || stale > STALE_CONNECTIONS {
                    return Err(stopped);
                }
            }
        }
    }
}

async fn talk(
    caller: &mut Caller<'_>,
    ctx: &Ctx,
    call: &Call,
    upstream: &Upstream,
    (connection, clock): (&mut Connection, &mut Clock),
) -> Result<Box<ResponseHeader>, Stopped> {
    let body = call.body_for(upstream.model_name(&call.facts.model));
    let session_id = ctx.session_id.as_deref();
    let mut request = forward::request(upstream, call, session_id, caller.request(), body.len())
        .map_err(|_| Failure::new(Outcome::ErrorBody, "the request could not be built"))?;
    if connection.is_http2() {
        forward::for_http2(&mut request, upstream);
    }
    clock.request_sent(&upstream.config.timeouts, call.stream(), Instant::now());
    send::send(connection, request, &body, caller, clock).await?;
    drop(body);
    // A large body may have taken long to send; the wait for its reply begins here.
    clock.request_sent(&upstream.config.timeouts, call.stream(), Instant::now());
    let header = send::await_header(connection, caller, clock).await?;
    clock.header_came(Instant::now());
    Ok(header)
}

/// Judges a reply by its status and relays it, or says why the next upstream should be asked.
async fn relay(
    caller: &mut Caller<'_>,
    ctx: &mut Ctx,
    call: &mut Call,
    reply: Reply<'_>,
    clock: &mut Clock,
) -> Result<Relayed, Stopped> {
    let status = reply.header.status.as_u16();
    match judge::status(status) {
        Judgement::Good
            if relay::is_event_stream(&reply.header) && !relay::is_encoded(&reply.header) =>
        {
            relay::stream(caller, ctx, call, reply, clock).await
        }
        Judgement::Good | Judgement::CallersFault => {
            clock.token_came();
            plain::plain(caller, ctx, call, reply, clock, None).await
        }
        Judgement::Next(outcome) => {
            clock.token_came();
            let retry_after = judge::retry_after(&reply.header.headers, SystemTime::now());
            // Only here does the body decide; any other is not waited for.
            if status == 403 {
                let held = plain::hold(caller, reply.connection, clock).await?;
                if judge::is_moderation(&held.pieces.concat()) {
                    return plain::plain(caller, ctx, call, reply, clock, Some(held)).await;
                }
            }
            let what = format!("status {status}");
            Err(Failure { retry_after, ..Failure::new(outcome, what) }.into())
        }
    }
}
