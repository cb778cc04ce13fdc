//! Any time: what a model costs, by the configuration first and by the catalogue else.

use crate::catalogue;
use crate::limits::prices::Rates;
use crate::protocol::usage::CostSource;
use crate::snapshot::Snapshot;
use crate::snapshot::models::Merged;
use crate::store::{NanoUsd, TokenPrice};
use std::time::SystemTime;

/// The dearest model on sale, in dollars a million tokens of input and of output: `o1-pro`.
const DEAREST_ON_SALE: (f64, f64) = (150.0, 600.0);

/// Where prices are looked up.
pub(super) struct Pricing<'a> {
    /// For `prices:`.
    pub(super) snapshot: &'a Snapshot,
    /// For what upstreams list.
    pub(super) models: &'a Merged,
}

/// An upstream call that is billed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Billed<'a> {
    /// The model in the caller's name for it.
    pub(super) asked: &'a str,
    /// The same in its upstream's.
    pub(super) sent: &'a str,
    /// The one that answered, if the reply says so.
    pub(super) served: Option<&'a str>,
    /// Every model that the body names, where it names several.
    pub(super) named: &'a [String],
    pub(super) upstream: Option<&'a str>,
    /// When the call began.
    pub(super) at: SystemTime,
}

impl Pricing<'_> {
    /// The price of a call with so long a prompt, and who says so; that of the model that answered, where
    /// the body leaves the choice to the upstream.
    pub(super) fn rates(
        &self,
        call: &Billed<'_>,
        prompt_tokens: u64,
    ) -> Option<(Rates, CostSource)> {
        let of = |model: &str, sent: &str| self.of_model(call, (model, sent), prompt_tokens);
        let of_served = || call.served.and_then(|served| of(self.models.called(served), served));
        if call.named.is_empty() {
            return of(call.asked, call.sent).or_else(of_served);
        }
        let of_named = |model: &str| of(model, self.at_upstream(call, model));
        let dearest = |models: &mut dyn Iterator<Item = &str>| {
            let all = models.filter_map(of_named);
            all.reduce(|(one, source), (other, _)| (one.dearer(&other), source))
        };
        let exact = self.literally(call).and_then(of_named);
        exact
            .or_else(|| dearest(&mut names(call).filter(|model| self.is_dated(call, model))))
            .or_else(of_served)
            .or_else(|| self.by_beginning(call).and_then(of_named))
            .or_else(|| {
                // Whoever names one that nobody knows must not call for less by it.
                let is_known = names(call).all(|model| of_named(model).is_some());
                let unknown = || Some((self.dearest(), CostSource::Estimate));
                if is_known { dearest(&mut names(call)) } else { unknown() }
            })
    }

    /// Which of the models that the body names has answered; `None` where the reply does not say.
    pub(super) fn answered<'c>(&self, call: &Billed<'c>) -> Option<&'c str> {
        let several = !call.named.is_empty();
        let dated = || names(call).find(|model| self.is_dated(call, model));
        several.then(|| self.literally(call).or_else(dated)).flatten()
    }

    /// The one that the reply names as the body does, or as its upstream knows it.
    fn literally<'c>(&self, call: &Billed<'c>) -> Option<&'c str> {
        let served = call.served?;
        names(call).find(|model| [*model, self.at_upstream(call, model)].contains(&served))
    }

    /// Whether the reply names a model by its dated name, which variants of it share.
    fn is_dated(&self, call: &Billed<'_>, model: &str) -> bool {
        let dated = self.models.get(model).and_then(|entry| entry.canonical_slug.as_deref());
        dated.is_some() && dated == call.served
    }

    /// The one whose name is the longest with which the name of the one that answered begins, as dated names do.
    fn by_beginning<'c>(&self, call: &Billed<'c>) -> Option<&'c str> {
        let served = call.served?;
        let is_begun = |model: &&str| {
            let behind = served.strip_prefix(self.at_upstream(call, model));
            behind.is_some_and(|behind| behind.starts_with(['-', ':', '@']))
        };
        names(call).filter(is_begun).max_by_key(|model| self.at_upstream(call, model).len())
    }

    /// A model as the upstream of the call knows it.
    fn at_upstream<'m>(&'m self, call: &Billed<'_>, model: &'m str) -> &'m str {
        let upstreams = &self.snapshot.upstreams;
        let found = upstreams.iter().find(|upstream| Some(&*upstream.name) == call.upstream);
        found.map_or(model, |upstream| upstream.model_name(model))
    }

    /// The price of a model by the caller's name for it, or by the name that its upstream knows.
    fn of_model(
        &self,
        call: &Billed<'_>,
        (model, sent): (&str, &str),
        prompt_tokens: u64,
    ) -> Option<(Rates, CostSource)> {
        let prices = &self.snapshot.prices;
        let configured = prices.of([model, sent]);
        let config = configured.map(|rates| (rates, CostSource::Config));
        config.or_else(|| {
            let listed = |model| self.listed(call, model, prompt_tokens);
            Some((listed(model).or_else(|| listed(sent))?, CostSource::Catalogue))
        })
    }

    /// Every price that may turn out to be a model's, whichever upstream answers; `None` where none
    /// is known.
    pub(super) fn may_apply(&self, model: &str) -> Option<Vec<Rates>> {
        let prices = &self.snapshot.prices;
        if let Some(rates) = prices.named(model) {
            return Some(vec![rates]);
        }
        let names = || {
            let all = self.snapshot.upstreams.iter().map(|upstream| upstream.model_name(model));
            all.filter(|name| *name != model)
        };
        if let Some(rates) = prices.get(model) {
            // Where an upstream's own name has a price of its own, that one is billed.
            let named = names().filter_map(|name| prices.named(name));
            return Some(named.chain([rates]).collect());
        }
        // What is searched is billed beside the tokens.
        if model.ends_with(":online") {
            return None;
        }
        let by_name = names().filter_map(|name| prices.get(name));
        let listed =
            self.models.offers(model).iter().map(|offer| offer.most.as_ref().map(of_catalogue));
        let rates: Vec<Rates> = by_name.map(Some).chain(listed).collect::<Option<_>>()?;
        (!rates.is_empty()).then_some(rates)
    }

    /// The dearest price of any model that is known here; of any on sale where none is.
    pub(super) fn dearest(&self) -> Rates {
        let offers = self.models.all_offers();
        let listed = offers.map(|offer| of_catalogue(offer.most.as_ref().unwrap_or(&offer.prices)));
        let known = self.snapshot.prices.all().copied().chain(listed);
        known.reduce(|one, other| one.dearer(&other)).unwrap_or_else(|| {
            let (input, output) = DEAREST_ON_SALE;
            let input = TokenPrice::per_million(input);
            let output = TokenPrice::per_million(output);
            Rates { input, cached_input: input, cache_write: input, output, call: NanoUsd::ZERO }
        })
    }

    /// What the upstream lists that answered, else the dearest that any lists.
    fn listed(&self, call: &Billed<'_>, model: &str, prompt_tokens: u64) -> Option<Rates> {
        let offers = self.models.offers(model);
        let own = offers.iter().find(|offer| Some(&*offer.upstream) == call.upstream);
        let rates = |offer: &catalogue::Offer| of_catalogue(&offer.paid(prompt_tokens, call.at));
        let dearest = || offers.iter().map(rates).reduce(|one, other| one.dearer(&other));
        own.map(rates).or_else(dearest)
    }
}

/// Every model that may have answered, where there are several.
fn names<'c>(call: &Billed<'c>) -> impl Iterator<Item = &'c str> {
    call.named.iter().map(String::as_str).chain(std::iter::once(call.asked))
}

fn of_catalogue(prices: &catalogue::Prices) -> Rates {
    let input = TokenPrice::per_token(prices.input);
    let or_input = |price: Option<f64>| price.map_or(input, TokenPrice::per_token);
    Rates {
        input,
        cached_input: or_input(prices.cached_input),
        cache_write: or_input(prices.cache_write),
        output: TokenPrice::per_token(prices.output),
        call: NanoUsd::from_usd(prices.request),
    }
}
