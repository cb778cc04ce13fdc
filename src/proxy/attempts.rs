//! Chapter 3, the exchange: upstream after upstream until one gives a reply worth relaying.

use super::bill;
use super::caller::{Caller, Interrupted};
use super::clock::Clock;
use super::context::{Call, Ctx, Ended};
use super::forward::{self, Connection, Stopped};
use super::judge::{self, Failure, Judgement};
use super::plain::{self, Held};
use super::refused;
use super::relay::{self, Relayed, Reply};
use super::respond::{self, Signature};
use super::round::{Next, Nobody, Round};
use super::send;
use super::work::Answer;
use crate::error::{Kind, Rejection};
use crate::protocol::errors;
use crate::routing::{self, RetryBudget, Route};
use crate::snapshot::Snapshot;
use crate::telemetry::metrics::{Broken, Outcome};
use crate::upstream::config::OnDisconnect;
use crate::upstream::{Trouble, Upstream};
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// How long a model rests that lacks capacity, where nobody says how long.
const SHORT_REST: Duration = Duration::from_secs(1);
/// How long a caller may take for what it is told once the time of its call is over.
const LAST_WORDS: Duration = Duration::from_secs(5);

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
        return Err(judge::verdict(&[], Nobody::Asked).into());
    };
    route.budget.deposit(ctx.uptime());
    let mut failures = Vec::new();
    let mut round = Round::new(snapshot, route, ctx);
    let asked = go_round(caller, ctx, call, (&mut round, &route.budget), &mut failures).await;
    let mut nobody = match asked {
        ControlFlow::Break(ended) => return ended,
        ControlFlow::Continue(nobody) => nobody,
    };
    // A route that is busy has not failed: its callers come again, and get the model they asked for.
    let is_busy = failures.is_empty() && nobody == Nobody::Full;
    for model in route.fallback_models.iter().filter(|_| !is_busy) {
        let Some(route_of) = fallback(ctx, call, snapshot, model) else { continue };
        call.asking = Some(model.clone());
        let mut round = Round::new(snapshot, route_of, ctx);
        match go_round(caller, ctx, call, (&mut round, &route.budget), &mut failures).await {
            ControlFlow::Break(ended) => return ended,
            ControlFlow::Continue(none) => nobody = none,
        }
    }
    refuse(caller, ctx, call, judge::verdict(&failures, nobody)).await
}

/// The route of another model that may be asked for instead: one that this key may use.
fn fallback<'s>(ctx: &Ctx, call: &Call, snapshot: &'s Snapshot, model: &str) -> Option<&'s Route> {
    let may_use = ctx.caller.as_ref().is_some_and(|caller| caller.models.matches(model));
    let is_another = model != call.facts.model;
    let route = routing::find(&snapshot.routes, model);
    route.filter(|_| may_use && is_another)
}

/// Asks upstream after upstream for one model, until the exchange is over or nobody is left to ask.
async fn go_round(
    caller: &mut Caller<'_>,
    ctx: &mut Ctx,
    call: &mut Call,
    (round, budget): (&mut Round<'_>, &RetryBudget),
    failures: &mut Vec<Failure>,
) -> ControlFlow<Result<(), Ended>, Nobody> {
    loop {
        let (upstream, place, pause) = match round.next(call.model(), ctx.uptime()) {
            Next::Ask { upstream, place, pause } => (upstream, place, pause),
            Next::Nobody(nobody) => return ControlFlow::Continue(nobody),
        };
        if !may_retry(ctx, upstream, budget, failures.last()) {
            return ControlFlow::Continue(Nobody::Asked);
        }
        match rest(caller, ctx, upstream, pause).await {
            Ok(()) => {}
            Err(Interrupted::CallerGone) => return ControlFlow::Break(Err(Ended::CallerGone)),
            Err(Interrupted::Expired(_)) => return ControlFlow::Continue(Nobody::Asked),
        }
        count_failover(ctx, upstream, failures.last());
        let attempted = attempt(caller, ctx, call, upstream).await;
        match attempted {
            Ok(relayed) => return ControlFlow::Break(conclude(ctx, upstream, &relayed)),
            Err(Stopped::Failed(failure)) => {
                blame(ctx, upstream, &failure);
                // Only now: a trial must not look open before its verdict is known.
                drop(place);
                round.failed(upstream, &failure);
                failures.push(failure);
                if caller.is_gone() {
                    // Its reply was read for the bill alone; nobody wants another one.
                    return ControlFlow::Break(Err(Ended::CallerGone));
                }
            }
            Err(Stopped::CallerGone) => {
                ctx.tried(Outcome::Cancelled, None);
                return ControlFlow::Break(Err(Ended::CallerGone));
            }
        }
    }
}

/// Whether one more attempt may be made after this failure: in time, and within the budget.
fn may_retry(ctx: &Ctx, upstream: &Upstream, budget: &RetryBudget, last: Option<&Failure>) -> bool {
    let (Some(failure), Some(from)) = (last, &ctx.outcome.upstream) else { return true };
    if ctx.begun.elapsed() >= upstream.config.timeouts.total.0 {
        return false;
    }
    if !failure.is_without_load() && !budget.withdraw(ctx.uptime()) {
        if budget.is_first_refusal() {
            tracing::warn!(upstream = %from, "no retry: the retry budget is spent");
        }
        return false;
    }
    true
}

/// The call goes on elsewhere after this failure; not before it does, since its caller may leave first.
fn count_failover(ctx: &Ctx, to: &Upstream, last: Option<&Failure>) {
    if let (Some(failure), Some(from)) = (last, &ctx.outcome.upstream)
        && *from != to.name
    {
        ctx.shared.metrics.failover(from, failure.outcome);
    }
}

/// Waits before the same upstream is asked again.
async fn rest(
    caller: &mut Caller<'_>,
    ctx: &Ctx,
    upstream: &Upstream,
    pause: Option<Duration>,
) -> Result<(), Interrupted> {
    let Some(pause) = pause else { return Ok(()) };
    let mut clock = Clock::new(&upstream.config.timeouts, ctx.begun);
    caller.until(&mut clock, pin!(tokio::time::sleep(pause))).await?;
    // One that left during the pause is not called for, even where a reply would be read to its end.
    if caller.is_gone() { Err(Interrupted::CallerGone) } else { Ok(()) }
}

/// An attempt has failed: everybody learns of it whom it concerns.
fn blame(ctx: &mut Ctx, upstream: &Upstream, failure: &Failure) {
    let (begun, now) = (ctx.trying_since(), ctx.uptime());
    match &ctx.outcome.trying {
        Some((_, model)) if failure.is_of_model => {
            upstream.model_rests(model, failure.retry_after.unwrap_or(SHORT_REST), now);
        }
        // Who has no credit left needs no rest but a person.
        _ if failure.trouble == Some(Trouble::Refused) => {}
        _ => upstream.rests(failure.retry_after, failure.status == Some(429), now),
    }
    if failure.trouble.is_some() {
        upstream.live.observe_failure(now.saturating_sub(begun), now);
    }
    ctx.tried(failure.outcome, Some(&failure.what));
    upstream.failed(failure.trouble, &failure.what, (begun, now));
}

/// What remains once the reply has been relayed, whole or not.
fn conclude(ctx: &mut Ctx, upstream: &Upstream, relayed: &Relayed) -> Result<(), Ended> {
    match *relayed {
        Relayed::Whole(outcome) => {
            ctx.tried(outcome, None);
            Ok(())
        }
        Relayed::Cut => {
            ctx.tried(Outcome::Ok, Some("cut at its reservation"));
            Ok(())
        }
        Relayed::Broken { reason, code, in_band } => {
            let what = format!("stream broken: {}", reason.as_str());
            ctx.shared.metrics.stream_broken(&upstream.name, reason);
            let trouble = match (reason, &ctx.outcome.reading.fault) {
                // Only `total` ends a stream by a timeout of ours, and no upstream is ill for that.
                (Broken::Timeout, _) => None,
                (Broken::ErrorBody, Some(fault)) => Failure::error_body(fault, "").trouble,
                _ => Some(Trouble::Failed),
            };
            upstream.failed(trouble, &what, (ctx.trying_since(), ctx.uptime()));
            ctx.tried(Outcome::StreamBroken, Some(&what));
            ctx.traced.told(&what);
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
    ctx.traced.told(&rejection.message);
    bill::settle(ctx);
    let last_words = errors::in_band(call.dialect, &rejection, caller.between_events);
    caller.end_with(last_words).await.map_err(|_| Ended::CallerGone)
}

async fn attempt(
    caller: &mut Caller<'_>,
    ctx: &mut Ctx,
    call: &mut Call,
    upstream: &Arc<Upstream>,
) -> Result<Relayed, Stopped> {
    let _gauge = ctx.shared.metrics.upstream_inflight(&upstream.name);
    ctx.attempt_begins(upstream, call.model());
    // Until the call is out there is nothing to be billed, and nothing to be read on for.
    caller.drain = false;
    let mut clock = Clock::new(&upstream.config.timeouts, ctx.begun);
    caller.write_by = Some(clock.total() + LAST_WORDS);
    let (mut connection, header) = reach(caller, ctx, call, upstream, &mut clock).await?;
    let reply = Reply { connection: &mut connection, header, upstream };
    let relayed = relay(caller, ctx, call, reply, &mut clock).await;
    let connectors = &ctx.shared.connectors;
    match &relayed {
        Ok(Relayed::Whole(_)) => connection.release(connectors).await,
        Ok(Relayed::Cut | Relayed::Broken { .. }) | Err(_) => connection.discard(connectors).await,
    }
    relayed
}

/// Sends the call and waits for the reply's header. Where nothing of it can have been begun, because
/// its connection was being closed just then, the same attempt goes on over another one, once. Any
/// other failure may have cost the upstream work, and is an attempt that counts.
async fn reach(
    caller: &mut Caller<'_>,
    ctx: &mut Ctx,
    call: &Call,
    upstream: &Upstream,
    clock: &mut Clock,
) -> Result<(Connection, Box<ResponseHeader>), Stopped> {
    let mut is_again = false;
    loop {
        let connectors = &ctx.shared.connectors;
        let mut connection = forward::connect(connectors, upstream, caller, clock).await?;
        let begun = Instant::now();
        let answered = talk(caller, ctx, call, upstream, (&mut connection, clock)).await;
        match answered {
            Ok(header) => {
                ctx.outcome.header_after = Some(begun.elapsed());
                upstream.live.quota.read(&header.headers, ctx.uptime(), SystemTime::now());
                return Ok((connection, header));
            }
            Err(stopped) => {
                let failure = match &stopped {
                    Stopped::Failed(failure) => Some(failure),
                    Stopped::CallerGone => None,
                };
                // Only `total` blames nobody: the attempts before may have used it up.
                let is_silent = |failure: &Failure| {
                    failure.outcome == Outcome::Timeout && failure.trouble.is_some()
                };
                if failure.is_some_and(is_silent) {
                    connection.retire();
                }
                let is_untouched = connection.is_reused && failure.is_some_and(|f| f.is_untouched);
                connection.discard(&ctx.shared.connectors).await;
                if is_again || !is_untouched {
                    return Err(stopped);
                }
                is_again = true;
                ctx.outcome.work.is_out = false;
            }
        }
    }
}

async fn talk(
    caller: &mut Caller<'_>,
    ctx: &mut Ctx,
    call: &Call,
    upstream: &Upstream,
    (connection, clock): (&mut Connection, &mut Clock),
) -> Result<Box<ResponseHeader>, Stopped> {
    let provider = upstream.config.provider.row();
    let body = call.body_for(upstream, &provider);
    let session_id = ctx.session_id.as_deref();
    let traceparent = ctx.traced.outgoing(ctx.trace_id, ctx.outcome.attempts);
    let ids = (session_id, traceparent);
    let mut request = forward::request(upstream, call, ids, caller.request(), body.len())
        .map_err(|_| Failure::new(Outcome::ErrorBody, "the request could not be built"))?;
    if connection.is_http2() {
        forward::for_http2(&mut request, upstream);
    }
    let timeouts = &upstream.config.timeouts;
    clock.request_sent(timeouts, call.stream(), Instant::now());
    let is_out = &mut ctx.outcome.work.is_out;
    let again = |clock: &mut Clock, now| clock.request_sent(timeouts, call.stream(), now);
    send::send(connection, (request, &body), caller, (clock, again), is_out).await?;
    caller.drain = upstream.config.on_disconnect == OnDisconnect::Drain;
    drop(body);
    // A large body may have taken long to send; the wait for its reply begins here.
    clock.request_sent(timeouts, call.stream(), Instant::now());
    let header = send::await_header(connection, caller, clock).await?;
    clock.header_came(Instant::now());
    Ok(header)
}

/// Judges a reply by its status and relays it, or says why the next upstream should be asked.
async fn relay(
    caller: &mut Caller<'_>,
    ctx: &mut Ctx,
    call: &mut Call,
    mut reply: Reply<'_>,
    clock: &mut Clock,
) -> Result<Relayed, Stopped> {
    let judgement = judge::status(reply.header.status.as_u16());
    let is_good = judgement == Judgement::Good;
    ctx.outcome.work.answer = if is_good { Answer::Good } else { Answer::Bad };
    let is_readable = reply.decode();
    match judgement {
        Judgement::Good if !is_readable => {
            let what = "the reply is compressed, unasked, in a way that cannot be read";
            Err(Failure::new(Outcome::ErrorBody, what).into())
        }
        Judgement::Good if relay::is_event_stream(&reply.header, call.stream()) => {
            relay::stream(caller, ctx, call, reply, clock).await
        }
        Judgement::Good | Judgement::CallersFault => {
            clock.token_came();
            let held = (!is_readable).then(Held::nothing);
            plain::plain(caller, ctx, call, reply, clock, held).await
        }
        Judgement::Next(outcome) => {
            clock.token_came();
            Box::pin(refused::refused(caller, ctx, call, (reply, outcome), clock)).await
        }
    }
}
