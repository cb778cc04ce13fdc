//! What is answered from memory: the root page, liveness, status and the model lists.

use super::context::{Ctx, Ended};
use super::respond;
use crate::auth::Caller;
use crate::error::{Kind, Rejection};
use crate::protocol::path::Endpoint;
use crate::store::Meter;
use crate::telemetry::delivery::Status as Delivered;
use crate::upstream::Upstream;
use bytes::Bytes;
use pingora::protocols::http::ServerSession;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A client that lists models right after the start waits this long for the first lists at most;
/// `LibreChat` gives up after 5 s.
const FIRST_LISTS: Duration = Duration::from_secs(3);

/// Answers a request for an endpoint that no upstream serves.
pub(super) async fn answer(
    caller: &mut ServerSession,
    ctx: &mut Ctx,
    endpoint: &Endpoint,
) -> Result<(), Ended> {
    let body = match endpoint {
        Endpoint::Root => text(&root()),
        Endpoint::Health => Bytes::from_static(br#"{"status":"ok"}"#),
        Endpoint::Status => text(&status(ctx).await),
        Endpoint::Models => {
            first_lists(ctx).await;
            let caller = ctx.caller.clone();
            let may_use = |model: &str| caller.as_ref().is_some_and(|c| c.models.matches(model));
            ctx.shared.current.models.load().body(&may_use)
        }
        Endpoint::Model(id) => {
            first_lists(ctx).await;
            model(ctx, id)?
        }
        Endpoint::Inference(_) => {
            let message = "this path is served by an upstream";
            return Err(Rejection::new(Kind::Internal, message).into());
        }
    };
    respond::json(caller, ctx, body).await
}

async fn first_lists(ctx: &mut Ctx) {
    let waiting = ctx.shared.current.models.wait_first(ctx.snapshot.upstreams.len(), FIRST_LISTS);
    Ctx::waiting(&mut ctx.waited, waiting).await;
}

/// One item. A model that the key may not use looks like one that does not exist.
fn model(ctx: &Ctx, id: &str) -> Result<Bytes, Rejection> {
    let allowed = ctx.caller.as_ref().is_some_and(|caller| caller.models.matches(id));
    let item = ctx.shared.current.models.load().item(id).filter(|_| allowed);
    item.ok_or_else(|| {
        let message = "there is no such model for this key; see GET /v1/models";
        Rejection::new(Kind::ModelNotFound, message).param("model")
    })
}

fn root() -> Value {
    json!({
        "name": "cirque",
        "version": env!("CARGO_PKG_VERSION"),
        "routes": [
            "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages",
            "/v1/embeddings", "/v1/models", "/v1/models/{id}", "/health", "/status",
        ],
        "documentation": "https://platform.openai.com/docs/api-reference",
    })
}

async fn status(ctx: &Ctx) -> Value {
    let current = &ctx.shared.current;
    let snapshot = &ctx.snapshot;
    let delivered = ctx.shared.delivery.status(SystemTime::now());
    let langfuse = delivered.iter().find(|status| status.is_langfuse).map_or_else(
        || {
            json!({
                "state": "off", "backlog": 0, "lag_seconds": null, "sent": 0, "dropped": 0,
                "last_error": null,
            })
        },
        destination,
    );
    let others = delivered.iter().filter(|status| !status.is_langfuse);
    let otlp: Vec<_> = others.map(destination).collect();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": current.begun.elapsed().as_secs(),
        "config": {
            "generation": snapshot.generation,
            "hash": snapshot.hash,
            "loaded_at": moment(snapshot.loaded_at),
            "last_error": current.last_fault().map(|fault| fault.to_string()),
            "not_yet": snapshot.not_yet,
        },
        "upstreams": snapshot.upstreams.iter().map(|u| upstream(u, ctx.uptime())).collect::<Vec<_>>(),
        "you": you(ctx).await,
        "store": store(ctx),
        "langfuse": langfuse,
        "otlp": otlp,
    })
}

/// The state of one destination of traces.
fn destination(status: &Delivered) -> Value {
    let dropped = status.dropped.iter().map(|(reason, traces)| (reason.as_str(), traces));
    let last = status.last_error.as_ref();
    json!({
        "name": status.name,
        "state": status.state,
        "backlog": status.backlog,
        "spool_bytes": status.spool_bytes,
        "lag_seconds": status.lag.map(|lag| lag.as_secs()),
        "sent": status.sent,
        "retried": status.retried,
        "dropped": status.dropped.iter().map(|(_, traces)| traces).sum::<u64>(),
        "dropped_by": dropped.collect::<BTreeMap<_, _>>(),
        "last_error": last.map(|error| json!({ "at": moment(error.at), "what": error.what })),
    })
}

/// Where limits and spend are counted, and whether it can be asked.
fn store(ctx: &Ctx) -> Value {
    ctx.shared.limits.health().map_or_else(
        || {
            let is_up = ctx.shared.limits.is_folder_up();
            json!({ "kind": "embedded", "state": if is_up { "up" } else { "down" } })
        },
        |health| {
            json!({
                "kind": "redis",
                "state": if health.is_up { "up" } else { "down" },
                "seconds": health.lasting.as_secs(),
                "replicas": health.replicas,
                "untold_usd": health.untold.usd(),
                "last_error": health.trouble,
            })
        },
    )
}

/// The caller's own limits and what is left of them, `null` where there is none.
async fn you(ctx: &Ctx) -> Value {
    let caller = ctx.caller.as_ref();
    let standing = match caller {
        Some(caller) => ctx.shared.limits.look(&caller.account).await,
        None => crate::store::Standing::default(),
    };
    let meter = |meter: Option<Meter>, has_reset: bool| {
        json!({
            "limit": meter.map(|meter| meter.limit),
            "remaining": meter.map(|meter| meter.remaining),
            "reset_seconds": meter.filter(|_| has_reset).map(|meter| meter.reset.as_secs_f64()),
        })
    };
    let funds = standing.budget;
    let knows_spend = |caller: &Arc<Caller>| ctx.shared.limits.knows_spend(&caller.account);
    let known = funds.filter(|_| caller.is_some_and(knows_spend));
    json!({
        "key": caller.map(|caller| &*caller.name),
        "limits": {
            "requests_per_minute": meter(standing.requests, true),
            "tokens_per_minute": meter(standing.tokens, true),
            // Nobody knows when a running call ends.
            "concurrent": meter(standing.concurrent, false),
        },
        "budget": {
            "limit_usd": funds.map(|funds| funds.limit.usd()),
            "used_usd": known.map(|funds| funds.used.usd()),
            // What running calls have reserved is not theirs yet and not free either.
            "remaining_usd": known.map(|funds| funds.left().usd()),
            "resets_at": funds.and_then(|funds| moment(funds.resets_at?)),
        },
    })
}

fn upstream(upstream: &Upstream, now: Duration) -> Value {
    let live = &upstream.live;
    let at = |until: Duration| moment(SystemTime::now() + until.saturating_sub(now));
    let (state, until) = upstream.state(now);
    let resting = live.resting_models(now);
    let resting =
        resting.iter().map(|(model, until)| json!({ "model": model, "until": at(*until) }));
    let known = live.quota.left(now).into_iter().filter_map(|(kind, left)| Some((kind, left?)));
    json!({
        "name": upstream.name,
        "healthy": upstream.is_healthy(),
        "state": state.as_str(),
        "inflight": live.inflight(),
        "ewma_ms": live.ewma_ms(),
        "quota": known.collect::<BTreeMap<_, _>>(),
        "last_error": live
            .last_error()
            .map(|error| json!({ "at": moment(error.at), "what": error.what })),
        "ejected_until": until.and_then(at),
        "resting_models": resting.collect::<Vec<_>>(),
    })
}

fn moment(at: SystemTime) -> Option<String> {
    OffsetDateTime::from(at).format(&Rfc3339).ok()
}

fn text(value: &Value) -> Bytes {
    Bytes::from(value.to_string())
}
