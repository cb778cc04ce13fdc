//! Which upstreams may serve a model, and which of them is asked next.

mod budget;
pub mod config;
mod pick;

pub use budget::RetryBudget;
pub use pick::{Candidate, Draw, Member, hash};

use crate::glob::Globs;
use config::{RetryConfig, RouteConfig};
use pick::Balancer;
use std::sync::atomic::{AtomicUsize, Ordering};

/// One route with its turn counter and its retry budget.
#[derive(Debug)]
pub struct Route {
    models: Globs,
    balancer: Balancer,
    /// Bounds on trying elsewhere.
    pub retry: RetryConfig,
    /// Models asked for when every upstream failed for the first one.
    pub fallback_models: Vec<String>,
    /// Share of retries among recent requests.
    pub budget: RetryBudget,
    turn: AtomicUsize,
}

impl Route {
    /// Prepares a route; `find` gives what balancing knows of an upstream by its name.
    pub fn new(config: &RouteConfig, find: impl Fn(&str) -> Option<Member>) -> Self {
        let members = config.upstreams.iter().filter_map(|name| find(name)).collect();
        Self {
            models: Globs::new(&config.models),
            balancer: Balancer::new(config.balance, members),
            retry: config.retry.clone(),
            fallback_models: config.fallback_models.clone(),
            budget: RetryBudget::new(config.retry.budget),
            turn: AtomicUsize::new(0),
        }
    }

    /// A call begins: its turn.
    pub fn turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    /// Positions of the route's upstreams in the snapshot's list.
    pub fn upstreams(&self) -> impl Iterator<Item = usize> + '_ {
        self.balancer.positions()
    }

    /// The upstream to ask next; `look` says how one stands, `None` where it must not be asked.
    pub fn pick(&self, draw: &Draw, look: impl Fn(usize) -> Option<Candidate>) -> Option<usize> {
        self.balancer.pick(draw, look)
    }
}

/// The route that serves this model: the first that matches.
pub fn find<'r>(routes: &'r [Route], model: &str) -> Option<&'r Route> {
    routes.iter().find(|route| route.models.matches(model))
}

#[cfg(test)]
mod tests {
    use super::*;
    use config::Balance;

    fn route(models: &[&str], upstreams: &[&str]) -> Route {
        let text = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        let config = RouteConfig {
            models: text(models),
            upstreams: text(upstreams),
            balance: Balance::RoundRobin,
            retry: RetryConfig::default(),
            fallback_models: Vec::new(),
        };
        Route::new(&config, |name| {
            let position = ["a", "b", "c"].iter().position(|known| *known == name)?;
            Some(Member { position, weight: 1, priority: 0, hash: hash(name) })
        })
    }

    #[test]
    fn upstreams_take_turns() {
        let route = route(&["*"], &["a", "b", "c"]);
        let well = Candidate { rank: 0, inflight: 0, load: 0.0 };
        let pick = || {
            let draw = Draw { turn: route.turn(), random: (0, 0), session: None };
            route.pick(&draw, |_| Some(well))
        };
        let picks: Vec<_> = (0..4).filter_map(|_| pick()).collect();
        assert_eq!(picks, [0, 1, 2, 0]);
    }

    #[test]
    fn the_first_matching_route_serves() {
        let routes = [route(&["local/*"], &["c"]), route(&["*"], &["a"])];
        let chosen = |model| find(&routes, model).map(|r| r.upstreams().collect::<Vec<_>>());
        assert_eq!(chosen("local/llama"), Some(vec![2]));
        assert_eq!(chosen("openai/gpt"), Some(vec![0]));
        assert_eq!(find(&routes[..1], "openai/gpt").map(|_| ()), None);
    }
}
