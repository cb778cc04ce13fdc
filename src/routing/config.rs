//! `routes:`, which upstreams serve which models.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One route; the first whose `models` match serves the call.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteConfig {
    /// Globs over the model the caller asks for.
    pub models: Vec<String>,
    /// Names of upstreams.
    pub upstreams: Vec<String>,
    /// How the upstreams share the load.
    #[serde(default)]
    pub balance: Balance,
    /// How often a failed call is tried elsewhere.
    #[serde(default)]
    pub retry: RetryConfig,
    /// Models asked for when every upstream failed for the first one, in this order.
    #[serde(default)]
    pub fallback_models: Vec<String>,
}

/// How upstreams of one route share the load.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// In turn.
    #[default]
    RoundRobin,
    /// In turn, by `weight`.
    Weighted,
    /// The one with the fewest calls in flight.
    LeastBusy,
    /// The quicker of two, by time to first byte.
    Fastest,
    /// By `priority`, lower first.
    Priority,
}

/// Bounds on trying elsewhere.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RetryConfig {
    /// Tries in all, the first one included.
    #[schemars(range(min = 1, max = 10))]
    pub attempts: u32,
    /// Retries are at most this share of recent requests (at least 3 a second are allowed).
    #[schemars(range(min = 0.0, max = 1.0))]
    pub budget: f64,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self { attempts: 3, budget: 0.2 }
    }
}
