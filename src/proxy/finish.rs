//! The end of a request, however it came: one record to the metrics and the access log, exactly once.

use super::context::{self, Ctx};
use super::{bill, looking, traced};
use crate::protocol::path::Endpoint;
use crate::protocol::tap::Reading;
use crate::telemetry::exchange::Exchange;
use crate::telemetry::metrics::Outcome;
use std::time::Instant;

/// Status of a request whose caller left before one was sent (nginx's number for it).
const CALLER_GONE: u16 = 499;
/// Longest path and model name kept in a record, in bytes.
const MAX_TEXT: usize = 256;

/// Writes the record; a second call does nothing.
pub(super) fn finish(ctx: &mut Ctx) {
    if std::mem::replace(&mut ctx.recorded, true) {
        return;
    }
    // A call that was under way when its task was cut.
    ctx.tried(Outcome::Cancelled, None);
    bill::settle(ctx);
    let mut outcome = std::mem::take(&mut ctx.outcome);
    let reading = std::mem::take(&mut outcome.reading);
    let exchange = record(ctx, outcome, &reading);
    ctx.shared.metrics.observe(&exchange);
    ctx.shared.access_log.write(&exchange);
    if let Some(trace) = traced::finished(ctx, exchange, reading) {
        looking::hand_over(&ctx.shared, trace);
    }
}

fn record(ctx: &mut Ctx, outcome: context::Outcome, reading: &Reading) -> Exchange {
    let duration = ctx.begun.elapsed();
    let model = ctx.model.take().map(cut);
    let label = model.as_deref().unwrap_or_default();
    let since_begun = |at: Instant| at.saturating_duration_since(ctx.begun);
    let finish = match (outcome.cancelled, outcome.error_code) {
        (true, _) => Some("cancelled".to_owned()),
        (false, Some(_)) if outcome.attempts > 0 => Some("error".to_owned()),
        (false, _) => reading.finish.clone(),
    };
    Exchange {
        started: ctx.started,
        request_id: ctx.request_id.clone(),
        trace_id: ctx.trace_id,
        client_ip: ctx.client_ip,
        method: std::mem::take(&mut ctx.method),
        path: cut(std::mem::take(&mut ctx.path)),
        route: ctx.endpoint.as_ref().map_or("other", Endpoint::route),
        status: outcome.status.unwrap_or(CALLER_GONE),
        key: ctx.caller.as_ref().map(|caller| caller.name.clone()),
        model_label: ctx.shared.current.model_label(&ctx.snapshot, label),
        model,
        upstream: outcome.upstream,
        attempts: outcome.attempts,
        tries: outcome.tries,
        stream: ctx.stream,
        bytes_in: outcome.bytes_in,
        bytes_out: outcome.bytes_out,
        duration,
        time_to_first_token: outcome.first_token.map(since_begun),
        overhead: duration.saturating_sub(ctx.waited),
        usage: reading.usage,
        cost: outcome.cost,
        session_id: ctx.session_id.take(),
        error_code: outcome.error_code,
        finish,
    }
}

/// The text, cut at a character's border.
fn cut(mut text: String) -> String {
    let mut end = MAX_TEXT.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}
