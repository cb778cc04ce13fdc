//! What an upstream lists as the price of a model, and when it takes another one.

use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// US dollars; each figure as close to the decimal the upstream wrote as a double can be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prices {
    /// A token of uncached input.
    pub input: f64,
    /// A token of output, reasoning included.
    pub output: f64,
    /// A token of input read from a cache; the input price where there is none.
    pub cached_input: Option<f64>,
    /// A token of input written to a cache; the input price where there is none.
    pub cache_write: Option<f64>,
    /// A call.
    pub request: f64,
}

/// Prices that hold for some calls alone, in the place of those they name (WIRE section 4).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Override {
    /// Only for prompts of more tokens.
    over: Option<u64>,
    /// Whether there is a condition that cannot be read: then nobody knows for whom it holds.
    is_unclear: bool,
    /// Only between these times of day in UTC, as 24 hours are written in four digits; over midnight where
    /// the first is the later one.
    hours: Option<(u64, u64)>,
    input: Option<f64>,
    output: Option<f64>,
    cached_input: Option<f64>,
    cache_write: Option<f64>,
    request: Option<f64>,
}

/// The prices that are read; what else stands there is billed by the upstream alone.
const TOKEN_PRICES: [&str; 5] =
    ["prompt", "completion", "input_cache_read", "input_cache_write", "request"];

/// An amount of dollars, as a number or as a text.
fn usd(value: &Value) -> Option<f64> {
    let usd = value.as_str().map_or_else(|| value.as_f64(), |text| text.parse().ok())?;
    (usd.is_finite() && usd >= 0.0).then_some(usd)
}

/// What stands in `overrides`; what is no override is passed over.
pub(super) fn overrides(pricing: &Map<String, Value>) -> Arc<[Override]> {
    let all = pricing.get("overrides").and_then(Value::as_array);
    all.into_iter().flatten().filter_map(Value::as_object).map(Override::of).collect()
}

impl Override {
    fn of(fields: &Map<String, Value>) -> Self {
        let price = |name: &str| fields.get(name).and_then(usd);
        let condition = |name: &str| fields.get(name).and_then(whole);
        let is_unread = |name: &String| match name.as_str() {
            "min_prompt_tokens" => condition(name).is_none(),
            "utc_start" | "utc_end" => {
                condition("utc_start").is_none() || condition("utc_end").is_none()
            }
            name => ["min_", "max_", "utc_"].iter().any(|begin| name.starts_with(begin)),
        };
        let is_said = |name: &&String| !fields.get(*name).is_some_and(Value::is_null);
        Self {
            over: condition("min_prompt_tokens"),
            is_unclear: fields.keys().filter(is_said).any(is_unread),
            hours: condition("utc_start").zip(condition("utc_end")),
            input: price("prompt"),
            output: price("completion"),
            cached_input: price("input_cache_read"),
            cache_write: price("input_cache_write"),
            request: price("request"),
        }
    }

    fn holds_for(&self, prompt_tokens: u64, time: u64) -> bool {
        let is_time = self.hours.is_none_or(|(start, end)| {
            if start <= end { (start..end).contains(&time) } else { time >= start || time < end }
        });
        !self.is_unclear && is_time && self.over.is_none_or(|over| prompt_tokens > over)
    }
}

/// A time of day in UTC, in four digits: 24 hours and minutes.
fn time_of_day(at: SystemTime) -> u64 {
    let minutes = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / 60;
    minutes / 60 % 24 * 100 + minutes % 60
}

impl Prices {
    pub(super) fn of(pricing: &Map<String, Value>) -> Option<Self> {
        let price = |name: &str| usd(pricing.get(name)?);
        Some(Self {
            input: price("prompt")?,
            output: price("completion")?,
            cached_input: price("input_cache_read"),
            cache_write: price("input_cache_write"),
            request: price("request").unwrap_or_default(),
        })
    }

    /// What a call pays that has so long a prompt and was made at that time; of several overrides the later
    /// one wins, price by price.
    pub(super) fn after(self, overrides: &[Override], prompt_tokens: u64, at: SystemTime) -> Self {
        let time = time_of_day(at);
        let hold = overrides.iter().filter(|over| over.holds_for(prompt_tokens, time));
        hold.fold(self, |prices, over| Self {
            input: over.input.unwrap_or(prices.input),
            output: over.output.unwrap_or(prices.output),
            cached_input: over.cached_input.or(prices.cached_input),
            cache_write: over.cache_write.or(prices.cache_write),
            request: over.request.unwrap_or(prices.request),
        })
    }

    /// The dearest they may become by overrides, for long prompts or at certain hours. `None` for a
    /// model whose tokens are free and which bills images, searches or minutes instead.
    pub(super) fn most(self, pricing: &Map<String, Value>, overrides: &[Override]) -> Option<Self> {
        let most = overrides.iter().fold(self, |most, over| {
            let dearer = |other: Option<f64>, than: f64| other.map_or(than, |usd| usd.max(than));
            let input = dearer(over.input, most.input);
            Self {
                input,
                output: dearer(over.output, most.output),
                cached_input: Some(dearer(over.cached_input, most.cached_input.unwrap_or(input))),
                cache_write: Some(dearer(over.cache_write, most.cache_write.unwrap_or(input))),
                request: dearer(over.request, most.request),
            }
        });
        let is_free = [most.input, most.output, most.request].iter().all(|usd| *usd <= 0.0);
        let is_other = |name: &str| !TOKEN_PRICES.contains(&name) && name != "discount";
        let has_other = pricing
            .iter()
            .any(|(name, value)| is_other(name) && usd(value).is_some_and(|usd| usd > 0.0));
        (!is_free || !has_other).then_some(most)
    }
}

/// A whole number, or a time of day with or without a colon.
fn whole(value: &Value) -> Option<u64> {
    match value.as_str() {
        Some(text) => text.replacen(':', "", 1).parse().ok(),
        None => value.as_u64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::Duration;

    fn paid(pricing: &Value, prompt_tokens: u64, minutes: u64) -> (f64, f64) {
        let pricing = pricing.as_object().unwrap();
        let at = UNIX_EPOCH + Duration::from_secs((20_000 * 24 * 60 + minutes) * 60);
        let prices = Prices::of(pricing).unwrap();
        let prices = prices.after(&overrides(pricing), prompt_tokens, at);
        (prices.input, prices.output)
    }

    #[test]
    fn a_long_prompt_pays_the_price_of_long_prompts() {
        let pricing = json!({"prompt": "1", "completion": "2", "overrides": [
            {"min_prompt_tokens": 100, "prompt": "10", "completion": "20"},
            {"min_prompt_tokens": "1000", "utc_start": null, "prompt": 30}, 7,
        ]});
        assert_eq!(paid(&pricing, 100, 0), (1.0, 2.0), "more, and not as many");
        assert_eq!(paid(&pricing, 101, 0), (10.0, 20.0));
        assert_eq!(paid(&pricing, 1_001, 0), (30.0, 20.0), "the later one wins, price by price");
    }

    #[test]
    fn a_price_for_nobody_knows_whom_holds_for_nobody() {
        for condition in ["\"min_prompt_tokens\":1.5", "\"utc_start\":\"0100\"", "\"max_images\":1"]
        {
            let text = format!(
                r#"{{"prompt":"1","completion":"2","overrides":[{{{condition},"prompt":"5"}}]}}"#
            );
            let pricing: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(paid(&pricing, 9, 90), (1.0, 2.0), "{condition}");
            let pricing = pricing.as_object().unwrap();
            let most = Prices::of(pricing).unwrap().most(pricing, &overrides(pricing));
            assert!(most.unwrap().input > 4.0, "it may");
        }
    }

    #[test]
    fn a_price_of_certain_hours_holds_in_them_alone() {
        let is_dear = |start: &str, end: &str, minutes| {
            let over = json!([{"utc_start": start, "utc_end": end, "prompt": "5"}]);
            paid(&json!({"prompt": "1", "completion": "2", "overrides": over}), 1, minutes).0 > 1.0
        };
        let (half_past_eight, nine) = (8 * 60 + 30, 9 * 60);
        let times = [0, half_past_eight, nine];
        assert_eq!(times.map(|now| is_dear("0830", "0900", now)), [false, true, false]);
        assert_eq!(times.map(|now| is_dear("0900", "0830", now)), [true, false, true]);
        assert_eq!(times.map(|now| is_dear("08:30", "09:00", now)), [false, true, false]);
    }
}
