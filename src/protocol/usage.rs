//! Token counts and money as the upstream reports them, in disjoint buckets.

use super::lenient::{Amount, Count, Flag, Lenient, read, skip};
use serde::de::MapAccess;

/// Tokens of one call in disjoint buckets, and the upstream's own totals.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Uncached input.
    pub input: u64,
    /// Input read from a cache.
    pub cached_input: u64,
    /// Output without reasoning.
    pub output: u64,
    /// Reasoning.
    pub reasoning: u64,
    /// Of `input`: what was written to a cache.
    pub cache_write: u64,
    /// Of `input`: audio.
    pub input_audio: u64,
    /// Of `output`: audio.
    pub output_audio: u64,
    /// All input, as the upstream counts it (cached included).
    pub input_total: u64,
    /// All output, as the upstream counts it (reasoning included).
    pub output_total: u64,
}

impl Usage {
    /// The tokens of two calls together.
    #[must_use]
    pub const fn plus(&self, other: &Self) -> Self {
        Self {
            input: self.input.saturating_add(other.input),
            cached_input: self.cached_input.saturating_add(other.cached_input),
            output: self.output.saturating_add(other.output),
            reasoning: self.reasoning.saturating_add(other.reasoning),
            cache_write: self.cache_write.saturating_add(other.cache_write),
            input_audio: self.input_audio.saturating_add(other.input_audio),
            output_audio: self.output_audio.saturating_add(other.output_audio),
            input_total: self.input_total.saturating_add(other.input_total),
            output_total: self.output_total.saturating_add(other.output_total),
        }
    }
}

/// Money of one call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// US dollars.
    pub usd: f64,
    /// Who said so.
    pub source: CostSource,
}

/// What an upstream says of a call's price.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Counted {
    /// Tokens.
    pub usage: Option<Usage>,
    /// Whether the output is among them.
    pub names_output: bool,
    /// Money.
    pub cost: Option<UpstreamCost>,
}

/// Money of one call as its upstream counts it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct UpstreamCost {
    /// US dollars.
    pub usd: f64,
    /// Whether that is all, and not the least it costs: OpenRouter's fee where the provider bills the rest
    /// and nobody says how much, or a figure from before the end.
    pub is_all: bool,
    /// Of it, for input and for output, as far as it says; they need not be all of it.
    pub parts: Option<(f64, f64)>,
}

/// Where a cost figure comes from, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CostSource {
    /// The upstream's reply.
    Upstream,
    /// `prices:` in the configuration.
    Config,
    /// The catalogue's price.
    Catalogue,
    /// Our own count of an aborted or silent call.
    Estimate,
    /// Nobody knows.
    None,
}

impl CostSource {
    /// The word in metrics, log and traces.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Upstream => "upstream",
            Self::Config => "config",
            Self::Catalogue => "catalogue",
            Self::Estimate => "estimate",
            Self::None => "none",
        }
    }
}

/// xAI's unit of cost: this many are one US dollar (docs.x.ai, cost tracking).
const TICKS_PER_USD: f64 = 1e10;

/// A `usage` object of OpenAI's dialects: `prompt_tokens` is `input_tokens` on `/responses`, and so
/// on, with the details that providers add.
#[derive(Debug, Default, Clone)]
pub(super) struct OpenAiCounts {
    input: Count,
    output: Count,
    total: Count,
    cached: Count,
    cache_write: Count,
    input_audio: Count,
    reasoning: Count,
    output_audio: Count,
    money: Money,
}

/// Anthropic's `usage`, which comes in parts over a stream: what each part says is cumulative.
#[derive(Debug, Default, Clone)]
pub(super) struct AnthropicCounts {
    input: Count,
    cache_read: Count,
    cache_write: Count,
    output: Count,
    money: Money,
}

/// What a `usage` object says about money.
#[derive(Debug, Default, Clone)]
struct Money {
    cost: Amount,
    ticks: Amount,
    is_byok: Flag,
    details: CostDetails,
}

#[derive(Debug, Default, Clone)]
struct CostDetails {
    upstream: Amount,
    input: Amount,
    output: Amount,
}

/// `prompt_tokens_details`.
struct InputDetails<'c>(&'c mut OpenAiCounts);

/// `completion_tokens_details`.
struct OutputDetails<'c>(&'c mut OpenAiCounts);

impl OpenAiCounts {
    /// Takes over what a later usage says, as some name the input in one chunk and the output in another:
    /// each count replaces itself. A sum of older counts is none of newer ones.
    pub(super) fn merge(&mut self, later: &Self) {
        let Self { input, output, total, cached, cache_write, input_audio, .. } = later;
        let is_newer = input.0.or(output.0).is_some();
        self.total.0 = total.0.or(self.total.0.filter(|_| !is_newer));
        self.input.0 = input.0.or(self.input.0);
        self.output.0 = output.0.or(self.output.0);
        self.cached.0 = cached.0.or(self.cached.0);
        self.cache_write.0 = cache_write.0.or(self.cache_write.0);
        self.input_audio.0 = input_audio.0.or(self.input_audio.0);
        self.reasoning.0 = later.reasoning.0.or(self.reasoning.0);
        self.output_audio.0 = later.output_audio.0.or(self.output_audio.0);
        self.money = later.money.clone();
    }

    /// Whether the input, the output or their sum is among them.
    pub(super) fn has_any(&self) -> bool {
        self.input.0.or(self.output.0).or(self.total.0).is_some()
    }

    /// Whether the output is among them, be it by the sum.
    pub(super) fn names_output(&self) -> bool {
        self.output.0.or(self.total.0).is_some()
    }

    /// The counts, and money, once there is any.
    pub(super) fn counted(&self) -> Counted {
        let names_output = self.names_output();
        Counted { usage: self.usage(), names_output, cost: self.money.cost() }
    }

    /// The output is the larger of the output named and the total less the input, since xAI leaves
    /// reasoning out of `completion_tokens` and the others leave it in.
    fn usage(&self) -> Option<Usage> {
        let Self { input, output, total, .. } = self;
        let named = input.0.or(output.0).or(total.0);
        named?;
        let total = total.0.unwrap_or_default();
        let output = output.0.unwrap_or_default();
        let input_total = input.0.unwrap_or_else(|| total.saturating_sub(output));
        let output_total = output.max(total.saturating_sub(input_total));
        let cached_input = self.cached.0.unwrap_or_default().min(input_total);
        let reasoning = self.reasoning.0.unwrap_or_default().min(output_total);
        let (uncached, answer) = (input_total - cached_input, output_total - reasoning);
        let cache_write = self.cache_write.0.unwrap_or_default().min(uncached);
        Some(Usage {
            input: uncached,
            cached_input,
            output: answer,
            reasoning,
            cache_write,
            input_audio: self.input_audio.0.unwrap_or_default().min(uncached - cache_write),
            output_audio: self.output_audio.0.unwrap_or_default().min(answer),
            input_total,
            output_total,
        })
    }
}

impl AnthropicCounts {
    /// Takes over what a later part of the stream says.
    pub(super) fn merge(&mut self, later: &Self) {
        let Self { input, cache_read, cache_write, output, money } = later;
        self.input.0 = input.0.or(self.input.0);
        self.cache_read.0 = cache_read.0.or(self.cache_read.0);
        self.cache_write.0 = cache_write.0.or(self.cache_write.0);
        self.output.0 = output.0.or(self.output.0);
        self.money = money.clone();
    }

    /// The counts so far, and the money that the last part named.
    pub(super) fn counted(&self) -> Counted {
        let names_output = self.names_output();
        Counted { usage: self.usage(), names_output, cost: self.money.cost() }
    }

    /// Whether the output is among them.
    pub(super) const fn names_output(&self) -> bool {
        self.output.0.is_some()
    }

    /// `input_tokens` leaves out what the cache gave and took;
    /// reasoning is not told apart.
    fn usage(&self) -> Option<Usage> {
        let Self { input, cache_read, cache_write, output, .. } = self;
        let named = input.0.or(cache_read.0).or(cache_write.0).or(output.0);
        named?;
        let uncached = input.0.unwrap_or_default();
        let cache_write = cache_write.0.unwrap_or_default();
        let input = uncached.saturating_add(cache_write);
        let cached_input = cache_read.0.unwrap_or_default();
        let output = output.0.unwrap_or_default();
        Some(Usage {
            input,
            cached_input,
            output,
            reasoning: 0,
            cache_write,
            input_audio: 0,
            output_audio: 0,
            input_total: input.saturating_add(cached_input),
            output_total: output,
        })
    }
}

impl Money {
    /// With one's own key at the provider (`is_byok`), `cost` is OpenRouter's fee alone and the
    /// provider bills the rest; without, both figures are the same money.
    fn cost(&self) -> Option<UpstreamCost> {
        let cost = self.cost.0.or_else(|| self.ticks.0.map(|ticks| ticks / TICKS_PER_USD));
        let parts = self.details.input.0.zip(self.details.output.0);
        if !self.is_byok.0 {
            return cost.map(|usd| UpstreamCost { usd, is_all: true, parts });
        }
        let theirs =
            self.details.upstream.0.or_else(|| parts.map(|(input, output)| input + output));
        let usd = cost.into_iter().chain(theirs).reduce(|fee, rest| fee + rest)?;
        Some(UpstreamCost { usd, is_all: theirs.is_some(), parts })
    }

    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "cost" => read(map, &mut self.cost),
            "cost_in_usd_ticks" => read(map, &mut self.ticks),
            "is_byok" => read(map, &mut self.is_byok),
            "cost_details" => read(map, &mut self.details),
            _ => skip(map),
        }
    }
}

impl Lenient for OpenAiCounts {
    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "prompt_tokens" | "input_tokens" => read(map, &mut self.input),
            "completion_tokens" | "output_tokens" => read(map, &mut self.output),
            "total_tokens" => read(map, &mut self.total),
            "prompt_tokens_details" | "input_tokens_details" => read(map, &mut InputDetails(self)),
            // DeepSeek's name for it.
            "prompt_cache_hit_tokens" => read(map, &mut self.cached),
            "completion_tokens_details" | "output_tokens_details" => {
                read(map, &mut OutputDetails(self))
            }
            _ => self.money.member(name, map),
        }
    }
}

impl Lenient for AnthropicCounts {
    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "input_tokens" => read(map, &mut self.input),
            "cache_read_input_tokens" => read(map, &mut self.cache_read),
            "cache_creation_input_tokens" => read(map, &mut self.cache_write),
            "output_tokens" => read(map, &mut self.output),
            _ => self.money.member(name, map),
        }
    }
}

impl Lenient for CostDetails {
    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "upstream_inference_cost" => read(map, &mut self.upstream),
            "upstream_inference_prompt_cost" | "upstream_inference_input_cost" => {
                read(map, &mut self.input)
            }
            "upstream_inference_completions_cost" | "upstream_inference_output_cost" => {
                read(map, &mut self.output)
            }
            _ => skip(map),
        }
    }
}

impl Lenient for InputDetails<'_> {
    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "cached_tokens" => read(map, &mut self.0.cached),
            "cache_write_tokens" => read(map, &mut self.0.cache_write),
            "audio_tokens" => read(map, &mut self.0.input_audio),
            _ => skip(map),
        }
    }
}

impl Lenient for OutputDetails<'_> {
    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "reasoning_tokens" => read(map, &mut self.0.reasoning),
            "audio_tokens" => read(map, &mut self.0.output_audio),
            _ => skip(map),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::lenient::read_document;

    fn openai(json: &str) -> (Option<Usage>, Option<f64>) {
        let mut counts = OpenAiCounts::default();
        read_document(json.as_bytes(), &mut counts).unwrap();
        (counts.usage(), counts.money.cost().map(|cost| cost.usd))
    }

    fn buckets(json: &str) -> [u64; 6] {
        let usage = openai(json).0.unwrap();
        let sum = usage.input + usage.cached_input + usage.output + usage.reasoning;
        assert_eq!(sum, usage.input_total + usage.output_total, "the buckets add up");
        let Usage { input, cached_input, output, reasoning, input_total, output_total, .. } = usage;
        assert!(usage.cache_write + usage.input_audio <= input && usage.output_audio <= output);
        [input, cached_input, output, reasoning, input_total, output_total]
    }

    #[test]
    fn cached_and_reasoning_tokens_are_counted_once() {
        let chat = r#"{"prompt_tokens":812,"completion_tokens":94,"total_tokens":906,
            "prompt_tokens_details":{"cached_tokens":512},
            "completion_tokens_details":{"reasoning_tokens":31}}"#;
        assert_eq!(buckets(chat), [300, 512, 63, 31, 812, 94]);
        let responses = r#"{"input_tokens":120,"input_tokens_details":{"cached_tokens":20},
            "output_tokens":25,"output_tokens_details":{"reasoning_tokens":5},"total_tokens":145}"#;
        assert_eq!(buckets(responses), [100, 20, 20, 5, 120, 25]);
    }

    #[test]
    fn what_a_cache_took_and_audio_are_parts_of_their_side() {
        let json = r#"{"prompt_tokens":100,"completion_tokens":50,"total_tokens":150,
            "prompt_tokens_details":{"cached_tokens":20,"cache_write_tokens":30,"audio_tokens":90},
            "completion_tokens_details":{"reasoning_tokens":5,"audio_tokens":40}}"#;
        assert_eq!(buckets(json), [80, 20, 45, 5, 100, 50]);
        let usage = openai(json).0.unwrap();
        // The audio is more than what is left: some of it was cached.
        assert_eq!((usage.cache_write, usage.input_audio, usage.output_audio), (30, 50, 40));
    }

    #[test]
    fn xai_leaves_reasoning_out_of_completion_tokens() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/wire/usage_xai.json");
        let sample = std::fs::read_to_string(path).unwrap();
        assert_eq!(buckets(&sample), [5, 160, 2, 125, 165, 127]);
        let cost = openai(&sample).1.unwrap();
        assert!((cost - 0.000_071_2).abs() < 1e-12, "{cost}");
    }

    #[test]
    fn embeddings_have_no_output() {
        assert_eq!(buckets(r#"{"prompt_tokens":8,"total_tokens":8}"#), [8, 0, 0, 0, 8, 0]);
    }

    #[test]
    fn what_is_missing_follows_from_the_total() {
        assert_eq!(buckets(r#"{"completion_tokens":4,"total_tokens":10}"#), [6, 0, 4, 0, 6, 4]);
        assert_eq!(buckets(r#"{"prompt_tokens":6,"total_tokens":10}"#), [6, 0, 4, 0, 6, 4]);
    }

    #[test]
    fn garbage_loses_only_itself() {
        let usage = r#"{"prompt_tokens":-3,"completion_tokens":7,"total_tokens":"many",
            "prompt_tokens_details":[1],"completion_tokens_details":{"reasoning_tokens":1.5},
            "cost":"free","cost":0.5,"completion_tokens":9,"is_byok":null}"#;
        assert_eq!(buckets(usage), [0, 0, 9, 0, 0, 9]);
        assert_eq!(openai(usage).1, Some(0.5));
        for none in ["{}", "null", "[]", r#"{"prompt_tokens":null}"#, "17", r#""x""#] {
            assert_eq!(openai(none), (None, None), "{none}");
        }
        let large = format!(
            r#"{{"prompt_tokens":{0},"total_tokens":{0},"completion_tokens":{0},
            "prompt_tokens_details":{{"cached_tokens":{0}}}}}"#,
            u64::MAX
        );
        assert_eq!(openai(&large).0.unwrap().input, 0);
    }

    #[test]
    fn only_with_ones_own_key_is_the_providers_bill_added() {
        let cost = |json: &str| openai(json).1;
        let fee = r#"{"cost":0.95,"is_byok":true,"cost_details":{"upstream_inference_cost":19}}"#;
        assert_eq!(cost(fee), Some(19.95));
        assert_eq!(cost(&fee.replace("true", "false")), Some(0.95));
        assert_eq!(cost(&fee.replace("0.95", "null")), Some(19.0));
        assert_eq!(cost(&fee.replace("19", "null")), Some(0.95));
        assert_eq!(cost(r#"{"cost":-1}"#), None);
        assert_eq!(cost(r#"{"cost":0}"#), Some(0.0));
        assert_eq!(cost(r#"{"cost_details":{"upstream_inference_cost":2}}"#), None);
    }

    #[test]
    fn the_parts_of_a_cost_have_two_names() {
        let money = |json: &str| {
            let mut counts = AnthropicCounts::default();
            read_document(json.as_bytes(), &mut counts).unwrap();
            counts.counted().cost.unwrap()
        };
        let chat = r#"{"cost":1,"cost_details":{"upstream_inference_prompt_cost":0.25,"upstream_inference_completions_cost":0.5}}"#;
        assert_eq!(money(chat).parts, Some((0.25, 0.5)));
        let responses = r#"{"cost":1,"cost_details":{"upstream_inference_input_cost":1,"upstream_inference_output_cost":2}}"#;
        assert_eq!(money(responses).parts, Some((1.0, 2.0)));
        let half = r#"{"cost":1,"cost_details":{"upstream_inference_input_cost":1}}"#;
        assert_eq!(money(half).parts, None);
        // They are the provider's bill, where that is not named as a whole.
        let own_key = responses.replace("\"cost\":1", "\"cost\":0.5,\"is_byok\":true");
        assert_eq!((money(&own_key).usd, money(&own_key).is_all), (3.5, true));
        let fee = half.replace("\"cost\":1", "\"cost\":0.5,\"is_byok\":true");
        assert_eq!((money(&fee).usd, money(&fee).is_all), (0.5, false));
    }

    #[test]
    fn anthropic_counts_are_merged_and_its_cache_is_input_too() {
        let mut sum = AnthropicCounts::default();
        assert_eq!(sum.usage(), None);
        for part in [
            r#"{"input_tokens":120,"cache_read_input_tokens":64,"cache_creation_input_tokens":10,"output_tokens":1}"#,
            r#"{"input_tokens":null,"output_tokens":20}"#,
            r#"{"output_tokens":25}"#,
        ] {
            let mut counts = AnthropicCounts::default();
            read_document(part.as_bytes(), &mut counts).unwrap();
            sum.merge(&counts);
        }
        let expected = Usage {
            input: 130,
            cached_input: 64,
            output: 25,
            cache_write: 10,
            input_total: 194,
            output_total: 25,
            ..Usage::default()
        };
        assert_eq!(sum.usage(), Some(expected));
        assert_eq!(sum.counted().cost, None);
    }
}
