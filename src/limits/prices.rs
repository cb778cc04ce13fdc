//! What a model's tokens cost, and what a call costs at most.

use super::config::Price;
use crate::protocol::usage::Usage;
use crate::store::{NanoUsd, TokenPrice};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use wildmatch::WildMatch;

/// What one model's tokens cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rates {
    /// Uncached input.
    pub input: TokenPrice,
    /// Input read from a cache.
    pub cached_input: TokenPrice,
    /// Input written to a cache.
    pub cache_write: TokenPrice,
    /// Output, reasoning included.
    pub output: TokenPrice,
    /// The call itself.
    pub call: NanoUsd,
}

impl Rates {
    /// What this usage costs, rounded up once.
    #[must_use]
    pub fn cost(&self, usage: &Usage) -> NanoUsd {
        let written = usage.cache_write.min(usage.input);
        let fine = self.input.of(usage.input - written)
            + self.cache_write.of(written)
            + self.cached_input.of(usage.cached_input)
            + self.output.of(usage.output)
            + self.output.of(usage.reasoning);
        self.call.plus(NanoUsd::of_fine(fine))
    }

    /// The dearer of both, price by price.
    #[must_use]
    pub fn dearer(&self, other: &Self) -> Self {
        Self {
            input: self.input.max(other.input),
            cached_input: self.cached_input.max(other.cached_input),
            cache_write: self.cache_write.max(other.cache_write),
            output: self.output.max(other.output),
            call: self.call.max(other.call),
        }
    }

    /// The most that so many tokens can cost, whatever a cache does.
    #[must_use]
    pub fn worst(&self, input: u64, output: u64) -> NanoUsd {
        let dearest = self.input.max(self.cached_input).max(self.cache_write);
        self.call.plus(NanoUsd::of_fine(dearest.of(input) + self.output.of(output)))
    }
}

impl From<&Price> for Rates {
    fn from(price: &Price) -> Self {
        let input = TokenPrice::per_million(price.input_per_million);
        let cached = price.cached_input_per_million.map(TokenPrice::per_million);
        Self {
            input,
            cached_input: cached.unwrap_or(input),
            cache_write: input,
            output: TokenPrice::per_million(price.output_per_million),
            call: NanoUsd::ZERO,
        }
    }
}

/// The configured prices: a name wins over a pattern, a longer pattern over a shorter one.
#[derive(Debug, Default)]
pub struct Prices {
    by_name: HashMap<String, Rates>,
    patterns: Vec<(WildMatch, Rates)>,
}

impl Prices {
    /// Prepares `prices:`.
    #[must_use]
    pub fn new(prices: &BTreeMap<String, Price>) -> Self {
        let is_pattern = |name: &str| name.contains(['*', '?']);
        let (patterns, names): (Vec<_>, Vec<_>) =
            prices.iter().partition(|(name, _)| is_pattern(name));
        let mut patterns: Vec<_> = patterns;
        // What stands between the stars is what a pattern says; the map's order settles a tie.
        patterns.sort_by_key(|(name, _)| {
            Reverse(name.chars().filter(|c| !matches!(c, '*' | '?')).count())
        });
        let patterns =
            patterns.into_iter().map(|(name, price)| (WildMatch::new(name), price.into()));
        Self {
            by_name: names.into_iter().map(|(name, price)| (name.clone(), price.into())).collect(),
            patterns: patterns.collect(),
        }
    }

    /// Every price there is.
    pub fn all(&self) -> impl Iterator<Item = &Rates> {
        self.by_name.values().chain(self.patterns.iter().map(|(_, rates)| rates))
    }

    /// The price of a model.
    #[must_use]
    pub fn get(&self, model: &str) -> Option<Rates> {
        self.of([model])
    }

    /// The price of a model by any of its names, the caller's for it and its upstream's: a name wins over a
    /// pattern, an earlier one over a later one.
    #[must_use]
    pub fn of<const NAMES: usize>(&self, names: [&str; NAMES]) -> Option<Rates> {
        let named = names.iter().find_map(|name| self.by_name.get(*name));
        let matching =
            |name: &&str| self.patterns.iter().find(|(pattern, _)| pattern.matches(name));
        let matching = || names.iter().find_map(|name| Some(&matching(name)?.1));
        named.or_else(matching).copied()
    }

    /// The price under exactly this name.
    #[must_use]
    pub fn named(&self, model: &str) -> Option<Rates> {
        self.by_name.get(model).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn price(input: f64, output: f64, cached: Option<f64>) -> Price {
        Price {
            input_per_million: input,
            output_per_million: output,
            cached_input_per_million: cached,
        }
    }

    #[test]
    fn every_kind_of_token_has_its_price() {
        let usage = Usage {
            input: 300,
            cached_input: 512,
            output: 63,
            reasoning: 31,
            input_total: 812,
            output_total: 94,
            ..Usage::default()
        };
        let rates = Rates::from(&price(0.15, 0.6, Some(0.075)));
        // 300 × 0.15 + 512 × 0.075 + 94 × 0.60 = 139.8 millionths of a dollar.
        assert_eq!(rates.cost(&usage), NanoUsd(139_800));
        assert_eq!(Rates::from(&price(0.15, 0.6, None)).cost(&usage), NanoUsd(178_200));
        let written = Usage { cache_write: 100, ..usage };
        let dear = Rates { cache_write: TokenPrice::per_million(1.15), ..rates };
        assert_eq!(dear.cost(&written), NanoUsd(239_800));
        let with_fee = Rates { call: NanoUsd(5), ..rates };
        assert_eq!(with_fee.cost(&Usage::default()), NanoUsd(5));
    }

    #[test]
    fn the_worst_case_is_never_below_the_cost() {
        let rates = Rates {
            cache_write: TokenPrice::per_million(0.2),
            ..Rates::from(&price(0.15, 0.6, Some(0.3)))
        };
        let usage = Usage {
            input: 10,
            cached_input: 20,
            output: 30,
            reasoning: 40,
            cache_write: 5,
            ..Usage::default()
        };
        assert!(rates.worst(30, 70) >= rates.cost(&usage));
    }

    #[test]
    fn a_name_wins_and_then_the_pattern_that_says_most() {
        let prices = BTreeMap::from([
            ("*".to_owned(), price(9.0, 9.0, None)),
            ("openai/*".to_owned(), price(2.0, 2.0, None)),
            ("openai/gpt-*".to_owned(), price(3.0, 3.0, None)),
            ("openai/gpt-x".to_owned(), price(4.0, 4.0, None)),
        ]);
        let prices = Prices::new(&prices);
        for (model, dollars) in
            [("openai/gpt-x", 4.0), ("openai/gpt-y", 3.0), ("openai/o", 2.0), ("else", 9.0)]
        {
            let found = prices.get(model).unwrap();
            assert_eq!(found.input, TokenPrice::per_million(dollars), "{model}");
        }
        assert_eq!(Prices::default().get("any"), None);
        for (names, dollars) in [
            (["else", "openai/gpt-x"], 4.0),
            (["openai/gpt-x", "else"], 4.0),
            (["openai/gpt-y", "openai/o"], 3.0),
            (["else", "openai/o"], 9.0),
        ] {
            let found = prices.of(names).unwrap();
            assert_eq!(found.input, TokenPrice::per_million(dollars), "{names:?}");
        }
    }
}
