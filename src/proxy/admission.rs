//! Chapter 2, its end: the call is weighed and admitted, or refused by the limit that is in the way.

use super::context::{Call, Ctx};
use super::pricing::Pricing;
use crate::error::{Kind, Rejection};
use crate::limits::{Denied, Permit};
use crate::protocol::Dialect;
use crate::protocol::prompt::{self, Estimate};
use crate::protocol::request::{Named, RequestFacts, Role};
use crate::store::{Account, Ask, CallId, Dimension, NanoUsd, Period, Refusal};
use std::time::Duration;

/// The store is tried again about every second.
const STORE_IS_BACK: Duration = Duration::from_secs(1);
/// Bytes of a token where nothing depends on the count.
const BYTES_A_TOKEN: u64 = 4;
/// How far a short stream may go beyond its maximum, in tokens: a word or two, which are one for some
/// tokenizer.
const A_WORD: u64 = 8;

/// A call that was admitted.
#[derive(Debug)]
pub(super) struct Admission {
    /// To be settled when the call ends.
    pub(super) permit: Permit,
    /// Input tokens.
    pub(super) prompt: Estimate,
    /// The longest output, all choices together.
    pub(super) output: u64,
    /// Whether the price was known, so that what is reserved is the most it can cost.
    pub(super) is_priced: bool,
    /// Output tokens, roughly, at which its stream is cut.
    pub(super) cap: Option<u64>,
    /// Every model that the body names, where it leaves the choice to the upstream.
    pub(super) named: Vec<String>,
}

/// What a call may use at most.
struct Weight {
    prompt: Estimate,
    /// The longest output, all choices together.
    output: u64,
    /// Output tokens by our own count, at which a stream is cut.
    cap: u64,
    /// At the dearest price that may apply; `None` where one is not known.
    worst: Option<NanoUsd>,
}

/// Counts the call against every limit of its key, or refuses it and counts nothing.
pub(super) async fn admit(ctx: &mut Ctx, call: &Call) -> Result<(), Rejection> {
    let Some(caller) = ctx.caller.clone() else { return Ok(()) };
    let account = &caller.account;
    let weight = weigh(ctx, call, account);
    let tokens = weight.prompt.most.saturating_add(weight.output);
    let ask = Ask {
        call: CallId(rand::random()),
        tokens,
        worst: weight.worst,
        model: call.facts.model.as_str().into(),
    };
    let (admitted, standing) = ctx.shared.limits.admit(account, &ask).await;
    ctx.standing = Some(standing);
    let permit = admitted.map_err(|denied| match denied {
        Denied::Limit(refusal) => refuse(account, &refusal, tokens),
        Denied::Unavailable => unavailable(),
    })?;
    let is_paid = account.budget.is_some() && weight.worst != Some(NanoUsd::ZERO);
    let cap = is_paid.then_some(weight.cap);
    let Weight { prompt, output, .. } = weight;
    let is_priced = weight.worst.is_some();
    let named = may_answer(&call.facts);
    ctx.admission = Some(Admission { permit, prompt, output, is_priced, cap, named });
    Ok(())
}

/// Every model that may answer, where the body names several. One that a tool runs does not.
fn may_answer(facts: &RequestFacts) -> Vec<String> {
    if !facts.names_several() {
        return Vec::new();
    }
    let named = facts.named().filter(|named| !is_beside(named)).map(|named| named.text.to_owned());
    let named: Vec<_> = named.collect();
    if named == [facts.model.as_str()] { Vec::new() } else { named }
}

/// Whether a model that the body names is billed beside the one that answers.
const fn is_beside(named: &Named<'_>) -> bool {
    matches!(named.role, Role::Helps | Role::Tool)
}

fn weigh(ctx: &Ctx, call: &Call, account: &Account) -> Weight {
    let facts = &call.facts;
    let default = ctx.snapshot.config.limits.default_max_output_tokens;
    if !account.is_metered() {
        let likely = call.body.len() as u64 / BYTES_A_TOKEN;
        let prompt = Estimate { likely, most: likely };
        // Only for the ledger, should nobody say it: no caller may write there what it likes.
        let output = facts.max_output_tokens.map_or(default, |named| named.min(default));
        let output = if call.dialect == Dialect::Embeddings { 0 } else { output };
        return Weight { prompt, output, cap: output, worst: Some(NanoUsd::ZERO) };
    }
    let prompt = prompt::estimate(&call.body, facts.beside);
    let models = ctx.shared.current.models.load();
    let pricing = Pricing { snapshot: &ctx.snapshot, models: &models };
    let routes = &ctx.snapshot.routes;
    let fallbacks = routes.get(call.route).map_or(&[][..], |route| &route.fallback_models);
    let may_use = |model: &&str| ctx.caller.as_ref().is_some_and(|c| c.models.matches(model));
    let fallbacks = fallbacks.iter().map(String::as_str).filter(may_use);
    let named = || facts.names().chain(fallbacks.clone());
    let output = match call.dialect {
        Dialect::Embeddings => 0,
        Dialect::Chat | Dialect::Completions | Dialect::Responses | Dialect::Messages => {
            // Whichever of them answers may write as much as the one that may write most.
            let of = |model| models.get(model).and_then(|model| model.max_output_tokens);
            let longest = || named().map(|model| of(model).unwrap_or(default)).max();
            let longest = facts.max_output_tokens.or_else(longest).unwrap_or(default);
            longest.saturating_mul(facts.choices.max(1))
        }
    };
    // Before its first token a stream is not cut: there would be nothing to end.
    let cap = output.saturating_add(slack(call, output)).max(1);
    let worst = |model: &str| {
        let input = if facts.is_continued {
            // What is kept upstream is a part of the prompt, and no longer than the model can read.
            prompt.most.max(models.get(model)?.context_length?)
        } else {
            prompt.most
        };
        let rates = pricing.may_apply(model)?;
        rates.iter().map(|rates| rates.worst(input, output)).max()
    };
    let may_answer = facts.named().filter(|named| !is_beside(named)).map(|named| named.text);
    // The dearest that may answer, and all that tools run beside it; of which one is not known, none is.
    let answer = may_answer.chain(fallbacks.clone()).map(worst);
    let answer = answer.reduce(|one, other| Some(one?.max(other?))).flatten();
    let beside = facts.named().filter(is_beside).map(|named| worst(named.text));
    let worst = std::iter::once(answer).chain(beside).sum();
    Weight { prompt, output, cap, worst }
}

/// How far beyond the maximum that its caller names a stream may go before it is cut. Upstreams hold to
/// that by their own count; by ours, which decides where a stream is cut, the same text may be half as
/// much again, and what they would have ended by themselves must not be cut.
fn slack(call: &Call, output: u64) -> u64 {
    let may_end_itself = call.stream() && call.facts.max_output_tokens.is_some();
    if may_end_itself {
        (output / 2).saturating_add(A_WORD.saturating_mul(call.facts.choices.max(1)))
    } else {
        0
    }
}

fn unavailable() -> Rejection {
    let message = "limits cannot be checked at the moment; send the request again";
    Rejection::new(Kind::LimitsUnavailable, message).retry_after(STORE_IS_BACK)
}

/// The refusal in words: which limit, and what to do.
fn refuse(account: &Account, refusal: &Refusal, tokens: u64) -> Rejection {
    let limit = |limit: Option<u64>| limit.unwrap_or_default();
    let is_final = refusal.retry_after.is_none();
    let (kind, message) = match refusal.by {
        Dimension::Concurrent => {
            let limit = limit(account.concurrent);
            let message =
                format!("this key may run {limit} calls at once; wait until one has ended");
            (Kind::RateLimitExceeded, message)
        }
        Dimension::Requests => {
            let limit = limit(account.requests_per_minute);
            let message = format!("this key may make {limit} calls a minute; wait and send again");
            (Kind::RateLimitExceeded, message)
        }
        Dimension::Tokens => {
            let limit = limit(account.tokens_per_minute);
            let what = if is_final {
                "shorten the prompt or lower the maximum output"
            } else {
                "wait and send again"
            };
            let message = format!(
                "the call may use {tokens} tokens and this key {limit} tokens a minute; {what}"
            );
            (Kind::RateLimitExceeded, message)
        }
        Dimension::Budget => (Kind::InsufficientQuota, poor(account, is_final)),
    };
    let rejection = Rejection::new(kind, message);
    match refusal.retry_after {
        Some(after) => rejection.retry_after(after),
        None => rejection,
    }
}

fn poor(account: &Account, is_final: bool) -> String {
    let Some(budget) = account.budget else { return String::new() };
    let per = match budget.per {
        Period::Day => " a day",
        Period::Month => " a month",
        Period::Total => " in all",
    };
    let what = if is_final {
        "lower the maximum output, or have the budget raised"
    } else {
        "wait, or lower the maximum output"
    };
    let dollars = budget.limit.usd();
    format!(
        "the budget of this key (${dollars}{per}) does not cover what the call may cost; {what}"
    )
}
