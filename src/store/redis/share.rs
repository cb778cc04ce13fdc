//! How much of a shared limit one replica may use while Redis is away.

use crate::store::MINUTE;
use std::time::Duration;

/// This replica's place among those last seen alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    /// How many there are.
    pub(super) replicas: u64,
    /// Which of them this is, from 0.
    pub(super) place: u64,
}

/// How a window stood when Redis went away: for a minute what others had used before still counts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Straddle {
    /// When Redis went away; tells one time from the next.
    pub(super) since: Duration,
    /// Admitted here at that time, and left of the limit for all.
    pub(super) requests: (u64, u64),
    pub(super) tokens: (u64, u64),
}

impl Share {
    /// From the replicas that are alive; `None` where this one is not among them.
    pub(super) fn of(replica: &str, alive: &[String]) -> Option<Self> {
        let mut alive: Vec<&str> = alive.iter().map(String::as_str).collect();
        alive.sort_unstable();
        let place = alive.iter().position(|other| *other == replica)?;
        Some(Self { replicas: u64::try_from(alive.len()).ok()?, place: u64::try_from(place).ok()? })
    }

    /// This replica's part of a limit; the parts of all add up to it.
    pub(super) const fn part(self, limit: u64) -> u64 {
        let replicas = if self.replicas == 0 { 1 } else { self.replicas };
        limit / replicas + if self.place < limit % replicas { 1 } else { 0 }
    }

    /// The most that may stand in this replica's window: its part, and for the first minute no more
    /// than its part of what was left on top of what it had. So all together stay under the limit
    /// also across the moment when Redis went away.
    pub(super) fn most(self, limit: u64, had: u64, left: u64, away: Duration) -> u64 {
        let part = self.part(limit);
        if away >= MINUTE { part } else { part.min(had.saturating_add(self.part(left))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{prop, prop_assert, prop_assert_eq, proptest};

    #[test]
    fn a_replica_knows_its_place() {
        let alive = ["b".to_owned(), "a".to_owned()];
        assert_eq!(Share::of("b", &alive), Some(Share { replicas: 2, place: 1 }));
        assert_eq!(Share::of("c", &alive), None);
    }

    proptest! {
        #[test]
        fn parts_add_up_to_the_limit(limit in 0_u64..1_000, replicas in 1_u64..9) {
            let parts = (0..replicas).map(|place| Share { replicas, place }.part(limit));
            prop_assert_eq!(parts.sum::<u64>(), limit);
        }

        #[test]
        fn all_together_stay_under_the_limit_when_redis_goes_away(
            had in prop::collection::vec(0_u64..50, 1..6),
            slack in 0_u64..100,
        ) {
            let used: u64 = had.iter().sum();
            let limit = used + slack;
            let replicas = u64::try_from(had.len()).unwrap();
            let after: u64 = had
                .iter()
                .zip(0..)
                .map(|(had, place)| {
                    let share = Share { replicas, place };
                    share.most(limit, *had, slack, Duration::from_secs(1)).max(*had)
                })
                .sum();
            prop_assert!(after <= limit, "{} > {}", after, limit);
        }
    }
}
