//! Token counts and money as the upstream reports them, in disjoint buckets.

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
    /// All input, as the upstream counts it (cached included).
    pub input_total: u64,
    /// All output, as the upstream counts it (reasoning included).
    pub output_total: u64,
}

/// Money of one call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// US dollars.
    pub usd: f64,
    /// Who said so.
    pub source: CostSource,
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
