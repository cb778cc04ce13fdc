//! Any time: what a model costs, by the configuration first and by the catalogue else.

use crate::catalogue;
use crate::limits::prices::Rates;
use crate::protocol::usage::CostSource;
use crate::snapshot::Snapshot;
use crate::snapshot::models::Merged;
use crate::store::{NanoUsd, TokenPrice};

/// The dearest model on sale, in dollars a million tokens of input and of output: `o1-pro`.
const DEAREST_ON_SALE: (f64, f64) = (150.0, 600.0);

/// Where prices are looked up.
pub(super) struct Pricing<'a> {
    /// For `prices:`.
    pub(super) snapshot: &'a Snapshot,
    /// For what upstreams list.
    pub(super) models: &'a Merged,
}

impl Pricing<'_> {
    /// The price of a model at an upstream, and who says so: by the caller's name for it, or by the
    /// name that its upstream knows.
    pub(super) fn rates(
        &self,
        model: &str,
        sent: &str,
        upstream: Option<&str>,
    ) -> Option<(Rates, CostSource)> {
        let prices = &self.snapshot.prices;
        let configured = prices.get(model).or_else(|| prices.get(sent));
        let listed = || self.listed(model, upstream).or_else(|| self.listed(sent, upstream));
        let config = configured.map(|rates| (rates, CostSource::Config));
        config.or_else(|| Some((listed()?, CostSource::Catalogue)))
    }

    /// Every price that may turn out to be a model's, whichever upstream answers; `None` where none
    /// is known.
    pub(super) fn may_apply(&self, model: &str) -> Option<Vec<Rates>> {
        let prices = &self.snapshot.prices;
        if let Some(rates) = prices.get(model) {
            return Some(vec![rates]);
        }
        let names = self.snapshot.upstreams.iter().map(|upstream| upstream.model_name(model));
        let by_name = names.filter(|name| *name != model).filter_map(|name| prices.get(name));
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
    fn listed(&self, model: &str, upstream: Option<&str>) -> Option<Rates> {
        let offers = self.models.offers(model);
        let own = offers.iter().find(|offer| Some(&*offer.upstream) == upstream);
        let rates = |offer: &catalogue::Offer| of_catalogue(&offer.prices);
        let dearest = || offers.iter().map(rates).reduce(|one, other| one.dearer(&other));
        own.map(rates).or_else(dearest)
    }
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
