//! Settings that are read and checked, but whose machinery this version does not have yet.

use super::sections::Config;
use crate::routing::config::Balance;
use crate::store::config::StoreConfig;
use crate::upstream::config::{BreakerConfig, HealthConfig, ProbeConfig};

/// Settings in use that do nothing yet, each with what that means: for a warning at start and for
/// `/status`, so that none is silently ignored.
#[must_use]
pub fn not_yet(config: &Config) -> Vec<String> {
    let probe = ProbeConfig::default();
    let (keys, upstreams, routes) = (&config.keys, &config.upstreams, &config.routes);
    let is_probe_set = |health: &HealthConfig| match health {
        HealthConfig::On(on) => *on != probe,
        HealthConfig::Off(_) => false,
    };
    let works = |balance| matches!(balance, Balance::RoundRobin | Balance::Priority);
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
        (
            upstreams.iter().any(|u| u.weight != 1),
            "upstreams[].weight: calls are shared evenly so far",
        ),
        (
            upstreams.iter().any(|u| u.max_concurrent.is_some()),
            "upstreams[].max_concurrent: calls at once are not limited yet",
        ),
        (
            upstreams.iter().any(|u| is_probe_set(&u.health)),
            "upstreams[].health: upstreams are not probed yet",
        ),
        (
            upstreams.iter().any(|u| u.breaker != BreakerConfig::default()),
            "upstreams[].breaker: failing upstreams are not ejected yet",
        ),
        (
            routes.iter().any(|route| !works(route.balance)),
            "routes[].balance: this one takes its upstreams in turn so far",
        ),
        (
            routes.iter().any(|route| !route.fallback_models.is_empty()),
            "routes[].fallback_models: other models are not tried yet",
        ),
        (config.store != StoreConfig::default(), "store: nothing is kept across restarts yet"),
        (config.langfuse.is_on(), "langfuse: traces are not sent yet"),
        (!config.telemetry.otlp.as_slice().is_empty(), "telemetry.otlp: traces are not sent yet"),
        (
            config.server.upgrade_sock.is_some(),
            "server.upgrade_sock: listeners are not handed to a successor yet",
        ),
    ];
    rows.iter().filter(|(is_used, _)| *is_used).map(|(_, why)| (*why).to_owned()).collect()
}
