//! Any time: what a model costs, by the configuration first and by the catalogue else.

use crate::catalogue;
use crate::limits::prices::Rates;
use crate::protocol::usage::CostSource;
use crate::snapshot::Snapshot;
use crate::snapshot::models::Merged;
use crate::store::{NanoUsd, TokenPrice};

/// Where prices are looked up.
pub(super) struct Pricing<'a> {
    /// For `prices:`.
    pub(super) snapshot: &'a Snapshot,
    /// For what upstreams list.
    pub(super) models: &'a Merged,
}

impl Pricing<'_> {
    /// The price of the first of these names that has one, and who says so.
    pub(super) fn rates<'n, N>(
        &self,
        names: impl IntoIterator<Item = &'n N> + Clone,
    ) -> Option<(Rates, CostSource)>
    where
        N: AsRef<str> + ?Sized + 'n,
    {
        let configured = |name: &N| self.snapshot.prices.get(name.as_ref());
        let listed = |name: &N| self.models.get(name.as_ref())?.prices.as_ref().map(of_catalogue);
        let config = names.clone().into_iter().find_map(configured);
        let config = config.map(|rates| (rates, CostSource::Config));
        let catalogue = || names.into_iter().find_map(listed);
        config.or_else(|| Some((catalogue()?, CostSource::Catalogue)))
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
