//! Settings that are read and checked, but whose machinery this version does not have yet.

use super::sections::Config;
use crate::store::config::StoreConfig;

/// Settings in use that do nothing yet, each with what that means: for a warning at start and for
/// `/status`, so that none is silently ignored.
#[must_use]
pub fn not_yet(config: &Config) -> Vec<String> {
    let keys = &config.keys;
    let rows = [
        (
            keys.iter().any(|key| !key.limits.is_empty()),
            "keys[].limits: rates and concurrency are not limited yet",
        ),
        (keys.iter().any(|key| key.budget.is_some()), "keys[].budget: spend is not limited yet"),
        (
            keys.iter().any(|key| !key.metadata.is_empty()),
            "keys[].metadata: it goes to no trace yet",
        ),
        (!config.prices.is_empty(), "prices: costs come from upstreams' replies alone so far"),
        (
            config.limits != crate::limits::config::LimitsConfig::default(),
            "limits: nothing is limited yet",
        ),
        (config.store != StoreConfig::default(), "store: nothing is kept across restarts yet"),
        (
            config.server.upgrade_sock.is_some(),
            "server.upgrade_sock: listeners are not handed to a successor yet",
        ),
    ];
    rows.iter().filter(|(is_used, _)| *is_used).map(|(_, why)| (*why).to_owned()).collect()
}
