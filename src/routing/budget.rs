//! May one more retry be sent: at most a share of recent requests, and always a few a second.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Retries a second that are always allowed, so that a quiet gateway can fail over at all.
const FLOOR_PER_SECOND: u64 = 3;
/// The share is counted over this many seconds of requests.
const WINDOW_SECONDS: f64 = 10.0;
/// One retry, in the unit both balances are kept in.
const RETRY: u64 = 1_000;

/// A balance that requests fill and retries empty.
///
/// Each request adds `share` of a retry, up to what ten seconds of 1,000 requests a second
/// would add; so over any longer time retries stay within `share` of requests plus the floor.
#[derive(Debug)]
pub struct RetryBudget {
    per_request: u64,
    ceiling: u64,
    balance: AtomicU64,
    /// Second and retries taken from the floor in it, packed as `second << 8 | taken`.
    floor: AtomicU64,
}

impl RetryBudget {
    /// `share` is 0 to 1.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "clamped to 0..=1 first"
    )]
    pub fn new(share: f64) -> Self {
        let per_request = (share.clamp(0.0, 1.0) * RETRY as f64) as u64;
        Self {
            per_request,
            ceiling: (WINDOW_SECONDS as u64) * 1_000 * per_request,
            balance: AtomicU64::new(0),
            floor: AtomicU64::new(0),
        }
    }

    /// Counts a request.
    pub fn deposit(&self) {
        let add = |balance: u64| Some((balance + self.per_request).min(self.ceiling));
        let _previous = self.balance.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// Takes one retry; `since_start` is any monotonic time. With a share of 0 there are none.
    pub fn withdraw(&self, since_start: Duration) -> bool {
        if self.per_request == 0 {
            return false;
        }
        let second = since_start.as_secs();
        let from_floor = |packed: u64| match (packed >> 8 == second, packed & 0xff) {
            (false, _) => Some(second << 8 | 1),
            (true, taken) if taken < FLOOR_PER_SECOND => Some(packed + 1),
            (true, _) => None,
        };
        let take = |balance: u64| balance.checked_sub(RETRY);
        self.floor.fetch_update(Ordering::Relaxed, Ordering::Relaxed, from_floor).is_ok()
            || self.balance.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_quiet_gateway_may_retry_three_times_a_second() {
        let budget = RetryBudget::new(0.2);
        let at = Duration::from_secs(7);
        let granted = (0..10).filter(|_| budget.withdraw(at)).count();
        assert_eq!(granted, 3);
        assert!(budget.withdraw(at + Duration::from_secs(1)));
    }

    #[test]
    fn a_share_of_nothing_is_nothing() {
        let budget = RetryBudget::new(0.0);
        budget.deposit();
        assert!(!budget.withdraw(Duration::ZERO));
    }

    proptest! {
        #[test]
        fn retries_never_exceed_the_share_and_the_floor(
            percent in 1_u32..100, requests in 0_u32..5_000, seconds in 1_u32..20,
        ) {
            let share = f64::from(percent) / 100.0;
            let budget = RetryBudget::new(share);
            for _ in 0..requests {
                budget.deposit();
            }
            let granted = (0..seconds)
                .map(|s| (0..10_000).filter(|_| budget.withdraw(Duration::from_secs(s.into()))).count())
                .sum::<usize>();
            let granted = f64::from(u32::try_from(granted).unwrap());
            let allowed = share * f64::from(requests) + f64::from(3 * seconds);
            prop_assert!(granted <= allowed + 1.0, "{granted} > {allowed}");
        }
    }
}
