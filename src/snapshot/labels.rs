//! Which model names may become metric labels: those the operator wrote, never a caller's text.

use crate::config::sections::Config;
use std::collections::HashSet;
use std::sync::Arc;

/// Bounded by what the configuration names.
#[derive(Debug, Default)]
pub(super) struct Labels(HashSet<Arc<str>>);

impl Labels {
    /// Names that stand literally in routes, prices or an upstream's map, on either side of it.
    pub(super) fn of(config: &Config) -> Self {
        let routes = config.routes.iter().flat_map(|r| r.models.iter().chain(&r.fallback_models));
        let maps = config.upstreams.iter().flat_map(|u| u.models.iter()).flat_map(<[_; 2]>::from);
        let named = routes.chain(config.prices.keys()).chain(maps);
        Self(
            named
                .filter(|name| !name.contains(['*', '?']))
                .map(|name| Arc::from(name.as_str()))
                .collect(),
        )
    }

    /// Any names.
    pub(super) fn from_names<'n>(names: impl Iterator<Item = &'n str>) -> Self {
        Self(names.map(Arc::from).collect())
    }

    /// The name as a label, if it may be one.
    pub(super) fn get(&self, model: &str) -> Option<Arc<str>> {
        self.0.get(model).cloned()
    }

    /// The label of every other model.
    pub(super) fn other() -> Arc<str> {
        static OTHER: std::sync::LazyLock<Arc<str>> = std::sync::LazyLock::new(|| "other".into());
        Arc::clone(&OTHER)
    }
}
