//! Which upstreams may serve a model, and in which order they are asked.

mod budget;
pub mod config;

pub use budget::RetryBudget;

use crate::glob::Globs;
use config::{Balance, RetryConfig, RouteConfig};
use std::sync::atomic::{AtomicUsize, Ordering};

/// One route with its turn counter and its retry budget.
#[derive(Debug)]
pub struct Route {
    models: Globs,
    /// Positions of the route's upstreams in the snapshot's list: in configured order, or by
    /// priority.
    upstreams: Vec<usize>,
    takes_turns: bool,
    /// Bounds on trying elsewhere.
    pub retry: RetryConfig,
    /// Share of retries among recent requests.
    pub budget: RetryBudget,
    turn: AtomicUsize,
}

impl Route {
    /// Prepares a route; `find` gives an upstream's place in the snapshot, and its priority, by name.
    pub fn new(config: &RouteConfig, find: impl Fn(&str) -> Option<(usize, u32)>) -> Self {
        let takes_turns = config.balance != Balance::Priority;
        let mut found: Vec<_> = config.upstreams.iter().filter_map(|name| find(name)).collect();
        if !takes_turns {
            found.sort_by_key(|(_, priority)| *priority);
        }
        Self {
            models: Globs::new(&config.models),
            upstreams: found.into_iter().map(|(position, _)| position).collect(),
            takes_turns,
            retry: config.retry.clone(),
            budget: RetryBudget::new(config.retry.budget),
            turn: AtomicUsize::new(0),
        }
    }

    /// The upstreams in the order this call should try them: the next in turn first, or by priority.
    pub fn order(&self) -> impl Iterator<Item = usize> + '_ {
        let count = self.upstreams.len();
        let first = match count {
            0 | 1 => 0,
            _ if !self.takes_turns => 0,
            _ => self.turn.fetch_add(1, Ordering::Relaxed) % count,
        };
        self.upstreams.iter().cycle().skip(first).take(count).copied()
    }
}

/// The route that serves this model: the first that matches.
pub fn find<'r>(routes: &'r [Route], model: &str) -> Option<&'r Route> {
    routes.iter().find(|route| route.models.matches(model))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(models: &[&str], upstreams: &[&str], balance: Balance) -> Route {
        let text = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        let config = RouteConfig {
            models: text(models),
            upstreams: text(upstreams),
            balance,
            retry: RetryConfig::default(),
            fallback_models: Vec::new(),
        };
        let known = [("a", 2), ("b", 1), ("c", 1)];
        Route::new(&config, |name| {
            let position = known.iter().position(|(known, _)| *known == name)?;
            Some((position, known[position].1))
        })
    }

    #[test]
    fn upstreams_take_turns_and_each_is_asked_once() {
        let route = route(&["*"], &["a", "b", "c"], Balance::RoundRobin);
        let orders: Vec<Vec<usize>> = (0..4).map(|_| route.order().collect()).collect();
        assert_eq!(orders, [[0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 1, 2]]);
    }

    #[test]
    fn a_lower_priority_is_always_asked_first() {
        let route = route(&["*"], &["a", "b", "c"], Balance::Priority);
        for _ in 0..3 {
            assert_eq!(route.order().collect::<Vec<_>>(), [1, 2, 0]);
        }
    }

    #[test]
    fn the_first_matching_route_serves() {
        let turn = Balance::RoundRobin;
        let routes = [route(&["local/*"], &["c"], turn), route(&["*"], &["a"], turn)];
        let chosen = |model| find(&routes, model).map(|r| r.order().collect::<Vec<_>>());
        assert_eq!(chosen("local/llama"), Some(vec![2]));
        assert_eq!(chosen("openai/gpt"), Some(vec![0]));
        assert_eq!(find(&routes[..1], "openai/gpt").map(|_| ()), None);
    }
}
