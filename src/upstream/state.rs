//! The one word for how an upstream stands, in `/status` and in the metrics.

use super::{Standing, Upstream};
use std::time::Duration;

/// How an upstream stands, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nothing speaks against it.
    Healthy,
    /// Its ejection is over, and one call decides about it.
    HalfOpen,
    /// It asked for a pause.
    Resting,
    /// It said 429 and for how long.
    RateLimited,
    /// Its probes fail.
    Unhealthy,
    /// The breaker keeps calls away.
    Ejected,
    /// Its name has no address.
    Unresolved,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 7] = [
        Self::Healthy,
        Self::HalfOpen,
        Self::Resting,
        Self::RateLimited,
        Self::Unhealthy,
        Self::Ejected,
        Self::Unresolved,
    ];

    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::HalfOpen => "half_open",
            Self::Resting => "resting",
            Self::RateLimited => "rate_limited",
            Self::Unhealthy => "unhealthy",
            Self::Ejected => "ejected",
            Self::Unresolved => "unresolved",
        }
    }
}

impl Upstream {
    /// How it stands, and until when where that is known; times count from the process's start.
    pub fn state(&self, now: Duration) -> (State, Option<Duration>) {
        match self.standing(now) {
            _ if self.is_unresolved() => (State::Unresolved, None),
            Standing::Ready => (State::Healthy, None),
            Standing::Trial => (State::HalfOpen, None),
            Standing::Resting { until } => (State::Resting, Some(until)),
            Standing::Unhealthy => (State::Unhealthy, None),
            Standing::Ejected { until } if until <= now => (State::HalfOpen, None),
            Standing::Ejected { until } => (State::Ejected, Some(until)),
            Standing::RateLimited { until } => (State::RateLimited, Some(until)),
        }
    }
}
