//! The attributes of OpenTelemetry's semantic conventions for generative AI, for backends that know
//! no `langfuse.*`.

use super::destination::Destination;
use super::facts::operation;
use super::span::{Span, key};
use super::trace::Trace;
use crate::protocol::usage::Usage;
use crate::telemetry::exchange::Attempt;
use crate::telemetry::metrics::Outcome;
use serde_json::Value;

/// On every span; of an attempt that another one followed, how that ended, and of any other span how the
/// call did.
pub(super) fn common(
    span: &mut Span<'_, '_>,
    trace: &Trace,
    to: &Destination,
    followed: Option<&Attempt>,
) {
    let exchange = &trace.exchange;
    span.short(key!("deployment.environment.name"), &to.environment);
    span.short(key!("gen_ai.operation.name"), operation(trace.dialect));
    span.short(key!("gen_ai.conversation.id"), exchange.session_id.as_deref().unwrap_or_default());
    span.short(key!("http.route"), exchange.route);
    let (status, error) = match followed {
        None => (Some(exchange.status.into()), exchange.error_code),
        Some(attempt) => (status(attempt), error_type(attempt)),
    };
    if let Some(status) = status {
        span.whole(key!("http.response.status_code"), status);
    }
    span.short(key!("error.type"), error.unwrap_or_default());
}

/// The status an upstream refused with, as our words for it end.
fn status(attempt: &Attempt) -> Option<u64> {
    let (_, after) = attempt.what.as_deref()?.split_once("status ")?;
    after.get(..3)?.parse().ok()
}

fn error_type(attempt: &Attempt) -> Option<&'static str> {
    (attempt.outcome != Outcome::Ok).then(|| attempt.outcome.as_str())
}

/// On a call to one upstream; `answered` where what is known of the reply is this one's.
pub(super) fn generation(span: &mut Span<'_, '_>, trace: &Trace, parameters: &str, answered: bool) {
    let (exchange, reading) = (&trace.exchange, &trace.reading);
    if answered {
        span.short(key!("gen_ai.response.model"), reading.model.as_deref().unwrap_or_default());
        span.short(key!("gen_ai.response.id"), reading.id.as_deref().unwrap_or_default());
        if let Some(finish) = exchange.finish.as_deref() {
            span.list(key!("gen_ai.response.finish_reasons"), std::iter::once(("", finish)));
        }
    }
    if let Some(most) = trace.max_output_tokens {
        span.whole(key!("gen_ai.request.max_tokens"), most);
    }
    let parameters: Value = serde_json::from_str(parameters).unwrap_or_default();
    let number = |name: &str| parameters.get(name).and_then(Value::as_f64);
    for (key, name) in [
        (key!("gen_ai.request.temperature"), "temperature"),
        (key!("gen_ai.request.top_p"), "top_p"),
        (key!("gen_ai.request.top_k"), "top_k"),
        (key!("gen_ai.request.frequency_penalty"), "frequency_penalty"),
        (key!("gen_ai.request.presence_penalty"), "presence_penalty"),
    ] {
        if let Some(number) = number(name) {
            span.number(key, number);
        }
    }
}

/// Tokens, each side in full with its parts beside, and US dollars.
pub(super) fn usage(span: &mut Span<'_, '_>, usage: Usage, cost_usd: f64) {
    span.whole(key!("gen_ai.usage.input_tokens"), usage.input_total);
    span.whole(key!("gen_ai.usage.output_tokens"), usage.output_total);
    for (key, tokens) in [
        (key!("gen_ai.usage.cache_read.input_tokens"), usage.cached_input),
        (key!("gen_ai.usage.cache_creation.input_tokens"), usage.cache_write),
        (key!("gen_ai.usage.reasoning.output_tokens"), usage.reasoning),
    ] {
        if tokens > 0 {
            span.whole(key, tokens);
        }
    }
    span.number(key!("gen_ai.usage.cost"), cost_usd);
}
