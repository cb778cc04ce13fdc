//! Money, exactly: whole billionths of a US dollar, and prices that turn tokens into them.

use std::fmt;
use std::iter::Sum;

/// Billionths of a US dollar; a tenth of the cheapest token on sale is still more than one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NanoUsd(pub u64);

const PER_USD: f64 = 1e9;
/// Prices are per this many tokens.
const MILLION: u128 = 1_000_000;
/// How far a product of doubles may lie from the whole number that the decimals meant: far more
/// than the error of a double below a million dollars, far less than a billionth.
const NOISE: f64 = 1e-3;

impl NanoUsd {
    /// No money.
    pub const ZERO: Self = Self(0);

    /// The amount of dollars, rounded up to a whole billionth. What is no amount is zero, what is
    /// too much the largest one.
    #[must_use]
    pub fn from_usd(usd: f64) -> Self {
        Self(whole(usd * PER_USD))
    }

    /// A sum of what [`TokenPrice::of`] gave, in millionths of a billionth, rounded up once.
    #[must_use]
    pub fn of_fine(fine: u128) -> Self {
        Self(u64::try_from(fine.div_ceil(MILLION)).unwrap_or(u64::MAX))
    }

    /// Dollars, for people and metrics.
    #[must_use]
    pub fn usd(self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "shown, never computed with")]
        let nano = self.0 as f64;
        nano / PER_USD
    }

    /// The sum, at most the largest amount.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference, at least nothing.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Sum for NanoUsd {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Self::plus)
    }
}

impl fmt::Display for NanoUsd {
    /// Dollars with all nine digits, without rounding.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = self.0 / 1_000_000_000;
        let rest = self.0 % 1_000_000_000;
        write!(f, "{whole}.{rest:09}")
    }
}

/// The price of a token: billionths of a US dollar per million tokens, that is to the fifteenth
/// decimal of a dollar.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenPrice(u64);

impl TokenPrice {
    /// From dollars per million tokens, as `prices:` says them.
    #[must_use]
    pub fn per_million(usd: f64) -> Self {
        Self(whole(usd * PER_USD))
    }

    /// From dollars per token, as catalogues say them.
    #[must_use]
    pub fn per_token(usd: f64) -> Self {
        Self(whole(usd * PER_USD * 1e6))
    }

    /// What this many tokens cost, for [`NanoUsd::of_fine`].
    #[must_use]
    pub fn of(self, tokens: u64) -> u128 {
        u128::from(self.0) * u128::from(tokens)
    }
}

/// The next whole number, where `value` is not one already but for the noise of doubles.
fn whole(value: f64) -> u64 {
    if value.is_nan() || value <= 0.0 {
        return 0;
    }
    let nearest = value.round();
    let whole = if (value - nearest).abs() < NOISE { nearest } else { value.ceil() };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "positive; a cast from a double saturates"
    )]
    let whole = whole as u64;
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_stay_exact() {
        assert_eq!(NanoUsd::from_usd(0.000_821_2), NanoUsd(821_200));
        assert_eq!(NanoUsd::from_usd(50.0), NanoUsd(50_000_000_000));
        assert_eq!(NanoUsd::from_usd(0.1 + 0.2), NanoUsd(300_000_000));
        assert_eq!(TokenPrice::per_million(0.15), TokenPrice(150_000_000));
        assert_eq!(TokenPrice::per_token(0.000_000_037_5), TokenPrice(37_500_000));
        assert_eq!(NanoUsd(1_500_000_001).to_string(), "1.500000001");
    }

    #[test]
    fn what_is_left_over_is_rounded_up_and_nonsense_is_nothing() {
        assert_eq!(NanoUsd::from_usd(1e-12), NanoUsd(1));
        for nothing in [0.0, -1.0, f64::NAN, f64::NEG_INFINITY] {
            assert_eq!(NanoUsd::from_usd(nothing), NanoUsd::ZERO);
        }
        assert_eq!(NanoUsd::from_usd(f64::INFINITY), NanoUsd(u64::MAX));
    }

    #[test]
    fn tokens_are_summed_before_they_are_rounded() {
        let cheap = TokenPrice::per_million(0.037_5);
        assert_eq!(NanoUsd::of_fine(cheap.of(1)), NanoUsd(38));
        assert_eq!(NanoUsd::of_fine(cheap.of(2)), NanoUsd(75));
        assert_eq!(NanoUsd::of_fine(cheap.of(1_000_000)), NanoUsd(37_500_000));
        assert_eq!(NanoUsd::of_fine(TokenPrice(u64::MAX).of(u64::MAX)), NanoUsd(u64::MAX));
    }
}
