//! The end of a request, the money: what the call used and cost, settled exactly once.

use super::admission::Admission;
use super::context::Ctx;
use super::context::Unbilled;
use super::pricing::{Billed, Pricing};
use super::work::Answer;
use crate::limits::prices::Rates;
use crate::protocol::Dialect;
use crate::protocol::prompt::Estimate;
use crate::protocol::tap::Reading;
use crate::protocol::usage::{Cost, CostSource, UpstreamCost, Usage};
use crate::store::{Entry, NanoUsd, Settlement};
use std::sync::Arc;

/// No call costs so much. Who says so counts in another unit, and sums of such figures would end what
/// the ledger can add up.
const MOST_USD: f64 = 1e6;

/// What is known of a call that has ended.
#[derive(Debug, Clone, Copy)]
struct Used {
    /// Tokens as the upstream counted them.
    usage: Option<Usage>,
    /// Whether that count may lack the end: a stream was left, and some begin with a first count.
    is_open: bool,
    /// Whether there was output after it. Money says by itself whether it is all.
    is_early: bool,
    /// Money as the upstream counted it.
    upstream: Option<UpstreamCost>,
    /// Output tokens by our estimate; `None` where nobody has seen the reply, or all of it.
    produced: Option<u64>,
    /// The same of what was seen of it.
    seen: u64,
    /// Whether an upstream may have worked for it.
    has_worked: bool,
}

/// What a call was admitted with.
#[derive(Debug, Clone, Copy)]
struct Stake {
    /// Input tokens.
    prompt: Estimate,
    /// The longest output.
    output: u64,
    /// What was reserved; nothing without a budget.
    reserved: NanoUsd,
    /// Whether a budget stands behind it.
    has_budget: bool,
    /// Whether what is reserved is the most it can cost, and not all that was left.
    is_priced: bool,
}

impl Stake {
    /// Whether so many output tokens by our count may be those of a call that kept to what was reserved.
    const fn may_cover(&self, produced: u64) -> bool {
        const AN_EVENT: u64 = 64;
        let most = self.output.saturating_mul(2).saturating_add(AN_EVENT);
        self.has_budget && self.is_priced && produced <= most
    }

    /// The longest output of a call whose end nobody has seen, of which so much was.
    fn longest(&self, seen: u64) -> u64 {
        if self.may_cover(seen) { self.output } else { self.output.max(seen) }
    }
}

/// The prices that may be asked for.
struct Prices<R, D> {
    /// The model's own, and who says so.
    of_model: R,
    /// The dearest of any model.
    dearest: D,
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
    let Admission { permit, prompt, output, is_priced, named, .. } = admission;
    let outcome = &ctx.outcome;
    let account = ctx.caller.as_ref().map(|caller| &caller.account);
    let has_budget = account.is_some_and(|account| account.budget.is_some());
    let stake = Stake { prompt, output, reserved: permit.reserved(), has_budget, is_priced };
    let used = used(ctx, reading);
    let asked = outcome.fallback_model.as_deref().unwrap_or(permit.model());
    // The call under way is among those tried only once it has ended.
    let last = || outcome.tries.last().map(|attempt| &attempt.model);
    let sent = outcome.trying.as_ref().map(|(_, model)| model).or_else(last);
    let models = ctx.shared.current.models.load();
    let pricing = Pricing { snapshot: &ctx.snapshot, models: &models };
    let priced = |used: &Used, call: &Billed<'_>| {
        let of_model = |usage: &Usage| pricing.rates(call, usage.input_total);
        bill(used, &stake, Prices { of_model, dearest: || pricing.dearest() })
    };
    let call = Billed {
        asked,
        sent: sent.map_or(asked, String::as_str),
        served: reading.model.as_deref(),
        named: &named,
        upstream: outcome.upstream.as_deref(),
        at: ctx.started,
    };
    let last = priced(&used, &call);
    let earlier = outcome.unbilled.iter().filter_map(|failed| {
        let Unbilled { asked, sent, upstream, reading } = failed;
        let (served, upstream) = (reading.model.as_deref(), Some(&**upstream));
        priced(&left_behind(ctx, reading), &Billed { asked, sent, served, upstream, ..call })
    });
    let bill = earlier.fold(last, |bill, earlier| Some(together(bill, earlier)));
    let model = pricing.answered(&call).unwrap_or(asked);
    drop(models);
    let Some(bill) = bill else {
        permit.settle(&Settlement::nothing());
        return None;
    };
    let tokens = bill.usage.input_total.saturating_add(bill.usage.output_total);
    if let Some(account) =
        account.filter(|_| has_budget && bill.source == CostSource::None && tokens > 0)
    {
        ctx.shared.limits.unpriced(account, model);
    }
    let entry = Entry {
        model: if *model == **permit.model() { Arc::clone(permit.model()) } else { model.into() },
        upstream: outcome.upstream.clone().unwrap_or_default(),
        source: bill.source,
        usage: bill.usage,
    };
    let cost = bill.cost.min(NanoUsd::from_usd(MOST_USD));
    permit.settle(&Settlement { tokens, cost, entry: Some(entry) });
    let is_all = bill.source == CostSource::Upstream && outcome.unbilled.is_empty();
    let said = used.upstream.filter(|_| is_all);
    let usd = said.map_or_else(|| cost.usd(), |said| said.usd);
    Some(Cost { usd, source: bill.source })
}

fn is_embedding(ctx: &Ctx) -> bool {
    ctx.dialect() == Some(Dialect::Embeddings)
}

/// What is known of the upstream call that was the last.
fn used(ctx: &Ctx, reading: &Reading) -> Used {
    if reading.is_under_way {
        // However the call ended here, its upstream goes on to the end.
        return unseen(false);
    }
    let outcome = &ctx.outcome;
    let work = outcome.work;
    // Of a call that runs nothing is known but what its reply has said.
    let ended = match &outcome.trying {
        Some(_) => None,
        None => outcome.tries.last().map(|attempt| attempt.outcome),
    };
    let has_worked = outcome.attempts > 0
        && (work.may_be_billed(ended, ctx.stream) || outcome.produced_tokens > 0);
    let is_counted = work.is_measured || ctx.stream && work.answer != Answer::Good;
    // Of embeddings no byte is output.
    let produced = if is_embedding(ctx) { 0 } else { outcome.produced_tokens };
    // Some begin with a first count, which has no output yet, and some count nothing at all.
    let says_output = reading.usage.is_some_and(|usage| usage.output_total > 0);
    let has_broken = reading.fault.is_some();
    let is_over = reading.finish.is_some() && !has_broken || reading.is_done;
    let is_whole = is_over && (says_output || produced == 0);
    let seen = produced;
    let produced = (is_counted || is_embedding(ctx)).then_some(produced);
    Used {
        usage: reading.usage.filter(is_any),
        is_open: ctx.stream && !is_whole
            || !says_output && produced.is_some_and(|tokens| tokens > 0),
        is_early: reading.is_early,
        upstream: money(ctx, reading),
        produced,
        seen,
        has_worked,
    }
}

/// Whether it counts anything: no call has neither input nor output.
const fn is_any(usage: &Usage) -> bool {
    usage.input_total > 0 || usage.output_total > 0
}

/// What the upstream says of money, as far as it can be.
fn money(ctx: &Ctx, reading: &Reading) -> Option<UpstreamCost> {
    reading.upstream_cost.filter(|said| is_likely(ctx, said.usd))
}

/// Whether an upstream's own figure can be dollars at all.
fn is_likely(ctx: &Ctx, usd: f64) -> bool {
    let is_likely = usd <= MOST_USD;
    if !is_likely {
        let upstream = ctx.outcome.upstream.as_deref().unwrap_or_default();
        tracing::warn!(upstream, usd, "a cost that cannot be in dollars; prices are used instead");
    }
    is_likely
}

/// What is known of a call that failed before another one was made: what it said, or nothing.
fn left_behind(ctx: &Ctx, reading: &Reading) -> Used {
    let has_no_output = (ctx.stream || is_embedding(ctx)) && !reading.is_under_way;
    let (usage, upstream) = (reading.usage.filter(is_any), money(ctx, reading));
    Used { usage, upstream, ..unseen(has_no_output) }
}

/// What is known of a call that was sent and not waited for: a stream stops where it is left, before
/// its first token, and a plain reply is written to its end.
const fn unseen(has_no_output: bool) -> Used {
    let produced = if has_no_output { Some(0) } else { None };
    let (usage, upstream, is_open, is_early) = (None, None, false, false);
    Used { usage, is_open, is_early, upstream, produced, seen: 0, has_worked: true }
}

/// One bill for two upstream calls; the more certain of two sources is none of both, unless one is of nothing.
fn together(bill: Option<Bill>, earlier: Bill) -> Bill {
    bill.map_or(earlier, |bill| Bill {
        usage: bill.usage.plus(&earlier.usage),
        cost: bill.cost.plus(earlier.cost),
        source: match (bill.source, earlier.source) {
            (source, CostSource::None) if earlier.cost == NanoUsd::default() => source,
            (source, other) if source == other => source,
            _ => CostSource::Estimate,
        },
    })
}

/// What the call cost: by the upstream's own figure, else by its tokens and the price that is
/// known. Where it named no tokens, ours are estimates and so is the cost; where nobody has seen
/// what it wrote, it is the most it may have written. `None` where nothing was used.
fn bill<R, D>(used: &Used, stake: &Stake, prices: Prices<R, D>) -> Option<Bill>
where
    R: FnOnce(&Usage) -> Option<(Rates, CostSource)>,
    D: FnOnce() -> Rates,
{
    if !used.has_worked && used.usage.is_none() && used.upstream.is_none() {
        return None;
    }
    let counted = counted(used, stake, prices);
    Some(match used.upstream {
        Some(said) => {
            let cost = NanoUsd::from_usd(said.usd);
            let is_all = said.is_all && !used.is_open || cost >= counted.cost;
            if is_all { Bill { cost, source: CostSource::Upstream, ..counted } } else { counted }
        }
        None => counted,
    })
}

/// What it costs by its tokens.
fn counted<R, D>(used: &Used, stake: &Stake, prices: Prices<R, D>) -> Bill
where
    R: FnOnce(&Usage) -> Option<(Rates, CostSource)>,
    D: FnOnce() -> Rates,
{
    let produced = used.produced.unwrap_or_default();
    // What was named before the end may not be all; nor is it, where nobody has seen how much there was.
    let is_all = |usage: &Usage| used.produced.is_some() && usage.output_total >= produced;
    let may_lack = used.is_open || used.is_early;
    let named = used.usage.filter(|usage| !may_lack || is_all(usage));
    let usage = named.unwrap_or_else(|| estimated(used, stake));
    let known = (prices.of_model)(&usage);
    let cost = match (known, named) {
        (Some((rates, source)), Some(_)) => {
            return Bill { usage, cost: rates.cost(&usage), source };
        }
        // What the whole reservation was made for.
        (Some((rates, _)), None) if used.produced.is_none() && stake.is_priced => {
            rates.worst(usage.input_total, usage.output_total).max(stake.reserved)
        }
        // Our count may lie above the upstream's, which was told the most it may write, and a stream is cut
        // behind the event that reaches it; but not so far.
        (Some((rates, _)), None) if stake.may_cover(produced) => {
            rates.cost(&usage).min(stake.reserved)
        }
        (Some((rates, _)), None) => rates.cost(&usage),
        // Its end would have said the price, or not; who leaves before it must not call for free.
        (None, None) if stake.has_budget => {
            let cost = (prices.dearest)().cost(&usage);
            if stake.is_priced { cost } else { cost.min(stake.reserved) }
        }
        (None, _) => {
            return Bill { usage, cost: NanoUsd::ZERO, source: CostSource::None };
        }
    };
    Bill { usage, cost, source: CostSource::Estimate }
}

/// The upstream's count of the input, where it has named one, and our own of what it produced.
fn estimated(used: &Used, stake: &Stake) -> Usage {
    let Some(produced) = used.produced else {
        return of_ours(stake.prompt.most, stake.longest(used.seen));
    };
    match used.usage.filter(|usage| usage.input_total > 0) {
        Some(begun) => Usage { output: produced, reasoning: 0, output_total: produced, ..begun },
        None => of_ours(stake.prompt.likely, produced),
    }
}

/// Tokens of which only the side is known.
fn of_ours(input: u64, output: u64) -> Usage {
    Usage { input, output, input_total: input, output_total: output, ..Usage::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::TokenPrice;

    const SILENT: Used = Used { produced: Some(50), ..UNSEEN };
    const UNSEEN: Used = unseen(false);
    /// A millionth of a dollar a token: 125 + 400 tokens.
    const STAKE: Stake = Stake {
        prompt: Estimate { likely: 100, most: 125 },
        output: 400,
        reserved: NanoUsd(525_000),
        has_budget: true,
        is_priced: true,
    };
    const FREE: Stake = Stake { reserved: NanoUsd::ZERO, has_budget: false, ..STAKE };
    /// No price was known: all that was left is reserved.
    const UNPRICED: Stake = Stake { reserved: NanoUsd(9_000_000), is_priced: false, ..STAKE };

    fn usage() -> Usage {
        Usage { input: 10, output: 5, input_total: 10, output_total: 5, ..Usage::default() }
    }

    fn at(usd_per_million: f64) -> Rates {
        let price = TokenPrice::per_million(usd_per_million);
        Rates { input: price, output: price, ..Rates::default() }
    }

    #[expect(clippy::unnecessary_wraps, reason = "what is looked up is an option")]
    fn rates() -> Option<(Rates, CostSource)> {
        Some((at(1.0), CostSource::Config))
    }

    #[expect(clippy::unnecessary_wraps, reason = "what is known is an option")]
    const fn whole(usd: f64) -> Option<UpstreamCost> {
        Some(UpstreamCost { usd, is_all: true, parts: None })
    }

    fn said_for(
        stake: &Stake,
        used: &Used,
        rates: Option<(Rates, CostSource)>,
    ) -> Option<(u64, CostSource, u64)> {
        let bill = bill(used, stake, Prices { of_model: |_: &Usage| rates, dearest: || at(10.0) })?;
        Some((bill.cost.0, bill.source, bill.usage.input_total))
    }

    fn said(used: &Used, rates: Option<(Rates, CostSource)>) -> Option<(u64, CostSource, u64)> {
        said_for(&STAKE, used, rates)
    }

    #[test]
    fn the_upstreams_own_figure_comes_first() {
        let used = Used { upstream: whole(0.000_821_2), usage: Some(usage()), ..SILENT };
        assert_eq!(said(&used, rates()), Some((821_200, CostSource::Upstream, 10)));
        let used = Used { usage: Some(usage()), ..SILENT };
        assert_eq!(said(&used, rates()), Some((15_000, CostSource::Config, 10)));
        assert_eq!(said(&used, None), Some((0, CostSource::None, 10)));
    }

    #[test]
    fn a_figure_that_may_not_be_all_is_the_least() {
        let fee = |usd| Some(UpstreamCost { usd, is_all: false, parts: None });
        let cheap = Used { upstream: fee(0.000_001), usage: Some(usage()), ..SILENT };
        assert_eq!(said(&cheap, rates()), Some((15_000, CostSource::Config, 10)));
        assert_eq!(said(&cheap, None), Some((1_000, CostSource::Upstream, 10)));
        let dear = Used { upstream: fee(0.5), ..cheap };
        assert_eq!(said(&dear, rates()), Some((500_000_000, CostSource::Upstream, 10)));
        // From before the end, and then the caller left.
        let left = Used { upstream: whole(0.000_001), is_open: true, ..SILENT };
        assert_eq!(said(&left, rates()), Some((150_000, CostSource::Estimate, 100)));
    }

    #[test]
    fn who_names_no_tokens_is_billed_by_what_was_produced() {
        assert_eq!(said(&SILENT, rates()), Some((150_000, CostSource::Estimate, 100)));
        let before_the_first = Used { produced: Some(0), ..SILENT };
        assert_eq!(said(&before_the_first, rates()), Some((100_000, CostSource::Estimate, 100)));
    }

    #[test]
    fn who_goes_far_beyond_what_was_reserved_pays_for_it() {
        let produced = |tokens| said(&Used { produced: Some(tokens), ..SILENT }, rates());
        assert_eq!(produced(450), Some((525_000, CostSource::Estimate, 100)), "by our count alone");
        assert_eq!(produced(20_000), Some((20_100_000, CostSource::Estimate, 100)));
    }

    #[test]
    fn what_nobody_has_seen_costs_all_that_was_reserved_for_it() {
        assert_eq!(said(&UNSEEN, rates()), Some((525_000, CostSource::Estimate, 125)));
        let dearer = Stake { reserved: NanoUsd(700_000), ..STAKE };
        let said = |stake: &Stake| said_for(stake, &UNSEEN, rates());
        assert_eq!(said(&dearer), Some((700_000, CostSource::Estimate, 125)), "another model's");
        assert_eq!(said(&FREE), Some((525_000, CostSource::Estimate, 125)));
        let late = said(&UNPRICED);
        assert_eq!(late, Some((525_000, CostSource::Estimate, 125)), "the price came meanwhile");
        let told = Used { usage: Some(usage()), ..UNSEEN };
        assert_eq!(said_for(&STAKE, &told, rates()), Some((15_000, CostSource::Config, 10)));
    }

    #[test]
    fn what_was_seen_of_a_call_is_the_least_it_costs() {
        let seen = |stake: &Stake, seen| said_for(stake, &Used { seen, ..UNSEEN }, rates());
        assert_eq!(seen(&STAKE, 50), said(&UNSEEN, rates()));
        assert_eq!(seen(&STAKE, 450), said(&UNSEEN, rates()), "by our count alone");
        assert_eq!(seen(&STAKE, 20_000), Some((20_125_000, CostSource::Estimate, 125)));
        assert_eq!(seen(&FREE, 450), Some((575_000, CostSource::Estimate, 125)));
    }

    #[test]
    fn who_leaves_before_a_price_is_known_pays_the_dearest() {
        let said = |stake: &Stake, used: &Used| said_for(stake, used, None);
        assert_eq!(said(&UNPRICED, &SILENT), Some((1_500_000, CostSource::Estimate, 100)));
        assert_eq!(said(&UNPRICED, &UNSEEN), Some((5_250_000, CostSource::Estimate, 125)));
        let last_cent = Stake { reserved: NanoUsd(7), ..UNPRICED };
        assert_eq!(said(&last_cent, &SILENT), Some((7, CostSource::Estimate, 100)));
        assert_eq!(said(&FREE, &SILENT), Some((0, CostSource::None, 100)), "nobody's budget");
    }

    #[test]
    fn calls_before_the_last_are_added_as_an_estimate() {
        let named = Used { usage: Some(usage()), ..SILENT };
        let prices = || Prices { of_model: |_: &Usage| rates(), dearest: || at(10.0) };
        let last = bill(&named, &STAKE, prices());
        let earlier = bill(&UNSEEN, &STAKE, prices()).unwrap();
        let sum = together(last, earlier);
        assert_eq!((sum.cost, sum.source), (NanoUsd(540_000), CostSource::Estimate));
        assert_eq!((sum.usage.input_total, sum.usage.output_total), (135, 405));
        assert_eq!(together(None, earlier), earlier);
        let figure = bill(&Used { upstream: whole(0.5), ..SILENT }, &STAKE, prices());
        let both = together(figure, figure.unwrap());
        assert_eq!((both.cost, both.source), (NanoUsd(1_000_000_000), CostSource::Upstream));
        let nothing = Bill { cost: NanoUsd(0), source: CostSource::None, ..earlier };
        assert_eq!(together(figure, nothing).source, CostSource::Upstream);
        let stream = bill(&unseen(true), &STAKE, prices()).unwrap();
        assert_eq!((stream.cost, stream.usage.output_total), (NanoUsd(100_000), 0));
    }

    #[test]
    fn a_count_from_before_the_end_is_not_the_last_word() {
        let left = Used { usage: Some(usage()), is_open: true, ..SILENT };
        assert_eq!(said(&left, rates()), Some((60_000, CostSource::Estimate, 10)));
        let counted = Used { produced: Some(4), ..left };
        assert_eq!(said(&counted, rates()), Some((15_000, CostSource::Config, 10)));
        // Of an event that was too long to be read nobody knows how much it was.
        let unread = Used { produced: None, ..left };
        assert_eq!(said(&unread, rates()), said(&UNSEEN, rates()));
        // From before more output, whatever the end says.
        let early = Used { is_open: false, is_early: true, ..left };
        assert_eq!(said(&early, rates()), said(&left, rates()));
        let paid = Used { upstream: whole(0.000_02), ..early };
        assert_eq!(said(&paid, rates()), Some((20_000, CostSource::Upstream, 10)));
    }

    #[test]
    fn an_error_costs_nothing_unless_it_names_a_price() {
        let failed = Used { has_worked: false, ..SILENT };
        assert_eq!(said(&failed, rates()), None);
        let named = Used { usage: Some(usage()), ..failed };
        assert_eq!(said(&named, rates()), Some((15_000, CostSource::Config, 10)));
    }
}
