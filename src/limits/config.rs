//! `limits:`, `prices:` and the limits and budget of a key.

use crate::store::Period;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Rates and concurrency of one key; a missing one is no limit.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KeyLimits {
    /// Calls admitted in any 60 s.
    #[schemars(range(min = 1))]
    pub requests_per_minute: Option<u64>,
    /// Input and output tokens in any 60 s.
    #[schemars(range(min = 1))]
    pub tokens_per_minute: Option<u64>,
    /// Calls running at once.
    #[schemars(range(min = 1))]
    pub concurrent: Option<u64>,
}

impl KeyLimits {
    /// Whether nothing is limited.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A hard limit on money.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// US dollars a period.
    pub usd: f64,
    /// When it starts again, by the UTC calendar.
    pub per: Period,
}

/// US dollars per million tokens of one model.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Uncached input.
    pub input_per_million: f64,
    /// Output, reasoning included.
    pub output_per_million: f64,
    /// Input read from a cache; the input price by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_input_per_million: Option<f64>,
}

/// What holds for every caller.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Failed authentications a minute and client address; further failing ones get 429.
    #[schemars(range(min = 1))]
    pub auth_failures_per_minute: u32,
    /// Reserved where neither the request nor the catalogue names a maximum output, in tokens.
    #[schemars(range(min = 1))]
    pub default_max_output_tokens: u64,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self { auth_failures_per_minute: 60, default_max_output_tokens: 4096 }
    }
}
