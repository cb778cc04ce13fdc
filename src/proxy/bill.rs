//! The end of a request, the money: what the call used and cost, settled exactly once.

use super::admission::Admission;
use super::context::Ctx;
use super::pricing::Pricing;
use crate::error::Kind;
use crate::limits::prices::Rates;
use crate::protocol::tap::Reading;
use crate::protocol::usage::{Cost, CostSource, Usage};
use crate::store::{Entry, NanoUsd, Settlement};
use std::sync::Arc;

/// What is known of a call that has ended.
#[derive(Debug, Clone, Copy)]
struct Used {
    /// Tokens as the upstream counted them.
    usage: Option<Usage>,
    /// Whether that count may lack the end: a stream was left, and some begin with a first count.
    is_open: bool,
    /// Dollars as the upstream counted them.
    upstream_usd: Option<f64>,
    /// Input tokens by our estimate.
    prompt: u64,
    /// Output tokens by our estimate.
    produced: u64,
    /// Whether an upstream may have worked for it: it answered, or it was left in the middle.
    has_worked: bool,
}

/// What a call costs, and who says so.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Bill {
    usage: Usage,
    cost: NanoUsd,
    source: CostSource,
}

/// Settles the call of a request, if it had one that was admitted; a second time does nothing. It is
/// done before the last of a reply goes out: who has all of it may call again at once.
pub(super) fn settle(ctx: &mut Ctx) {
    let reading = std::mem::take(&mut ctx.outcome.reading);
    settle_by(ctx, &reading);
    ctx.outcome.reading = reading;
}

/// The same by a reading that is still going on.
pub(super) fn settle_by(ctx: &mut Ctx, reading: &Reading) {
    let Some(admission) = ctx.admission.take() else { return };
    ctx.outcome.cost = settled(ctx, admission, reading);
}

/// The cost for the record; `None` where nothing was used.
fn settled(ctx: &Ctx, admission: Admission, reading: &Reading) -> Option<Cost> {
    let Admission { permit, prompt, .. } = admission;
    let outcome = &ctx.outcome;
    let used = Used {
        usage: reading.usage,
        is_open: ctx.stream && reading.finish.is_none(),
        upstream_usd: reading.upstream_cost_usd,
        prompt,
        produced: outcome.produced_tokens,
        has_worked: has_worked(ctx),
    };
    let models = ctx.shared.current.models.load();
    let pricing = Pricing { snapshot: &ctx.snapshot, models: &models };
    let asked = outcome.fallback_model.as_deref().unwrap_or(permit.model());
    // The call under way is among those tried only once it has ended.
    let last = || outcome.tries.last().map(|attempt| &attempt.model);
    let sent = outcome.trying.as_ref().map(|(_, model)| model).or_else(last);
    let sent = sent.map_or(asked, String::as_str);
    let bill = bill(&used, || pricing.rates(asked, sent));
    drop(models);
    let Some(bill) = bill else {
        permit.settle(&Settlement::nothing());
        return None;
    };
    let entry = Entry {
        model: if asked == &**permit.model() { Arc::clone(permit.model()) } else { asked.into() },
        upstream: outcome.upstream.clone().unwrap_or_default(),
        source: bill.source,
        usage: bill.usage,
    };
    let tokens = bill.usage.input_total.saturating_add(bill.usage.output_total);
    permit.settle(&Settlement { tokens, cost: bill.cost, entry: Some(entry) });
    let usd = used.upstream_usd.unwrap_or_else(|| bill.cost.usd());
    Some(Cost { usd, source: bill.source })
}

/// Whether an upstream may have worked for the call. One that answered with an error has not, one
/// that was left, or kept us waiting for too long, has.
fn has_worked(ctx: &Ctx) -> bool {
    let outcome = &ctx.outcome;
    if outcome.attempts == 0 {
        return false;
    }
    let was_left = [Kind::UpstreamTimeout, Kind::Draining, Kind::Internal];
    let was_left = outcome.cancelled
        || was_left.iter().any(|kind| outcome.error_code == Some(kind.row().code));
    let is_error = outcome.error_code.is_some() || outcome.status.is_none_or(|s| s >= 400);
    was_left || !is_error || outcome.produced_tokens > 0
}

/// What the call cost: by the upstream's own figure, else by its tokens and the price that is
/// known. Where it named no tokens, ours are estimates and so is the cost. `None` where nothing was
/// used.
fn bill(used: &Used, rates: impl FnOnce() -> Option<(Rates, CostSource)>) -> Option<Bill> {
    if !used.has_worked && used.usage.is_none() && used.upstream_usd.is_none() {
        return None;
    }
    let named = used.usage.filter(|usage| !used.is_open || usage.output_total >= used.produced);
    let usage = named.unwrap_or_else(|| estimated(used));
    if let Some(usd) = used.upstream_usd {
        let cost = NanoUsd::from_usd(usd);
        return Some(Bill { usage, cost, source: CostSource::Upstream });
    }
    let Some((rates, said_by)) = rates() else {
        return Some(Bill { usage, cost: NanoUsd::ZERO, source: CostSource::None });
    };
    let source = if named.is_some() { said_by } else { CostSource::Estimate };
    Some(Bill { usage, cost: rates.cost(&usage), source })
}

/// The upstream's count of the input, where it has named one, and our own of what it produced.
fn estimated(used: &Used) -> Usage {
    let input = Usage { input: used.prompt, input_total: used.prompt, ..Usage::default() };
    let begun = used.usage.filter(|usage| usage.input_total > 0).unwrap_or(input);
    Usage { output: used.produced, reasoning: 0, output_total: used.produced, ..begun }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::TokenPrice;

    const SILENT: Used = Used {
        usage: None,
        is_open: false,
        upstream_usd: None,
        prompt: 100,
        produced: 50,
        has_worked: true,
    };

    fn usage() -> Usage {
        Usage { input: 10, output: 5, input_total: 10, output_total: 5, ..Usage::default() }
    }

    #[expect(clippy::unnecessary_wraps, reason = "what is looked up is an option")]
    fn rates() -> Option<(Rates, CostSource)> {
        let price = TokenPrice::per_million(1.0);
        let rates = Rates { input: price, output: price, ..Rates::default() };
        Some((rates, CostSource::Config))
    }

    fn said(used: &Used, rates: Option<(Rates, CostSource)>) -> Option<(u64, CostSource, u64)> {
        let bill = bill(used, || rates)?;
        Some((bill.cost.0, bill.source, bill.usage.input_total))
    }

    #[test]
    fn the_upstreams_own_figure_comes_first() {
        let used = Used { upstream_usd: Some(0.000_821_2), usage: Some(usage()), ..SILENT };
        assert_eq!(said(&used, rates()), Some((821_200, CostSource::Upstream, 10)));
        let used = Used { usage: Some(usage()), ..SILENT };
        assert_eq!(said(&used, rates()), Some((15_000, CostSource::Config, 10)));
        assert_eq!(said(&used, None), Some((0, CostSource::None, 10)));
    }

    #[test]
    fn who_names_no_tokens_is_billed_by_what_was_produced() {
        assert_eq!(said(&SILENT, rates()), Some((150_000, CostSource::Estimate, 100)));
        let before_the_first = Used { produced: 0, ..SILENT };
        assert_eq!(said(&before_the_first, rates()), Some((100_000, CostSource::Estimate, 100)));
    }

    #[test]
    fn a_count_from_before_the_end_is_not_the_last_word() {
        let left = Used { usage: Some(usage()), is_open: true, ..SILENT };
        assert_eq!(said(&left, rates()), Some((60_000, CostSource::Estimate, 10)));
        let counted = Used { produced: 4, ..left };
        assert_eq!(said(&counted, rates()), Some((15_000, CostSource::Config, 10)));
    }

    #[test]
    fn an_error_costs_nothing_unless_it_names_a_price() {
        let failed = Used { has_worked: false, ..SILENT };
        assert_eq!(said(&failed, rates()), None);
        let named = Used { usage: Some(usage()), ..failed };
        assert_eq!(said(&named, rates()), Some((15_000, CostSource::Config, 10)));
    }
}
