//! May one more retry be sent: at most a share of recent requests, and always a few a second.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Retries a second that are always allowed, so that a quiet gateway can fail over at all.
const FLOOR_PER_SECOND: u64 = 3;
/// Requests of the last one to two of these count, so that the share is one of recent requests.
const HALF_WINDOW_SECONDS: u64 = 5;
/// One retry, in the unit balances are kept in.
const RETRY: u64 = 1_000_000;
/// Bits of a balance; above them stands the half window it belongs to.
const BALANCE_BITS: u32 = 40;
const BALANCE: u64 = (1 << BALANCE_BITS) - 1;

/// A balance that requests fill, retries empty and time forgets.
///
/// Each request adds `share` of a retry to the half window of 5 s it falls in; a retry takes one from
/// this half window or the one before. So within any time retries stay below `share` of the requests
/// of that time and of the 10 s before it, plus the floor: what a quiet day has saved up is no
/// licence for a storm.
#[derive(Debug)]
pub struct RetryBudget {
    per_request: u64,
    /// The half windows with an even and with an odd number, each packed as number and balance.
    halves: [AtomicU64; 2],
    /// Second and retries taken from the floor in it, packed as `second << 8 | taken`.
    floor: AtomicU64,
    /// Whether the last retry was refused.
    is_spent: AtomicBool,
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
        Self {
            per_request: (share.clamp(0.0, 1.0) * RETRY as f64).ceil() as u64,
            halves: [AtomicU64::new(0), AtomicU64::new(0)],
            floor: AtomicU64::new(0),
            is_spent: AtomicBool::new(false),
        }
    }

    /// Counts a request; the time is any monotonic one.
    pub fn deposit(&self, since_start: Duration) {
        let half = since_start.as_secs() / HALF_WINDOW_SECONDS;
        let add = |packed: u64| {
            let balance = balance_of(packed, half).unwrap_or_default() + self.per_request;
            Some(half << BALANCE_BITS | balance.min(BALANCE))
        };
        let _previous = self.place(half).fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// Takes one retry. With a share of 0 there are none.
    pub fn withdraw(&self, since_start: Duration) -> bool {
        if self.per_request == 0 {
            return false;
        }
        let second = since_start.as_secs();
        let half = second / HALF_WINDOW_SECONDS;
        let from_floor = |packed: u64| match (packed >> 8 == second, packed & 0xff) {
            (false, _) => Some(second << 8 | 1),
            (true, taken) if taken < FLOOR_PER_SECOND => Some(packed + 1),
            (true, _) => None,
        };
        let is_granted =
            self.floor.fetch_update(Ordering::Relaxed, Ordering::Relaxed, from_floor).is_ok()
                || self.take(half)
                || half.checked_sub(1).is_some_and(|before| self.take(before));
        if is_granted {
            self.is_spent.store(false, Ordering::Relaxed);
        }
        is_granted
    }

    /// Whether the retry that was just refused is the first one since one was granted: worth a word
    /// in the log, where each of a storm would not be.
    pub fn is_first_refusal(&self) -> bool {
        !self.is_spent.swap(true, Ordering::Relaxed)
    }

    fn take(&self, half: u64) -> bool {
        let take = |packed: u64| {
            let left = balance_of(packed, half)?.checked_sub(RETRY)?;
            Some(half << BALANCE_BITS | left)
        };
        self.place(half).fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    const fn place(&self, half: u64) -> &AtomicU64 {
        let [even, odd] = &self.halves;
        if half.is_multiple_of(2) { even } else { odd }
    }
}

/// The balance, where it is this half window's.
fn balance_of(packed: u64, half: u64) -> Option<u64> {
    (packed >> BALANCE_BITS == half & (u64::MAX >> BALANCE_BITS)).then_some(packed & BALANCE)
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
        budget.deposit(Duration::ZERO);
        assert!(!budget.withdraw(Duration::ZERO));
    }

    #[test]
    fn a_small_share_is_not_nothing() {
        assert!(RetryBudget::new(0.000_5).withdraw(Duration::ZERO));
    }

    #[test]
    fn what_a_quiet_day_saved_is_no_licence_for_a_storm() {
        let budget = RetryBudget::new(0.2);
        (0..10_000).for_each(|second| budget.deposit(Duration::from_secs(second)));
        let storm = Duration::from_secs(10_060);
        let granted = (0..10_000).filter(|_| budget.withdraw(storm)).count();
        assert_eq!(granted, 3, "the floor alone");
    }

    #[test]
    fn only_the_first_refusal_of_many_is_told() {
        let budget = RetryBudget::new(0.2);
        let at = Duration::from_secs(1);
        while budget.withdraw(at) {}
        assert!(budget.is_first_refusal() && !budget.is_first_refusal());
        assert!(budget.withdraw(at + at));
        while budget.withdraw(at + at) {}
        assert!(budget.is_first_refusal());
    }

    proptest! {
        #[test]
        fn retries_never_exceed_the_share_of_recent_requests_and_the_floor(
            percent in 1_u32..100,
            requests in proptest::collection::vec(0_u32..300, 1..40),
        ) {
            let share = f64::from(percent) / 100.0;
            let budget = RetryBudget::new(share);
            let mut recent = std::collections::VecDeque::new();
            for (second, count) in (0_u64..).zip(requests) {
                let now = Duration::from_secs(second);
                (0..count).for_each(|_| budget.deposit(now));
                recent.push_back(count);
                if recent.len() > 10 {
                    recent.pop_front();
                }
                let granted = (0..10_000).take_while(|_| budget.withdraw(now)).count();
                let granted = f64::from(u32::try_from(granted).unwrap());
                let allowed = share * f64::from(recent.iter().sum::<u32>()) + 3.0;
                prop_assert!(granted <= allowed + 1.0, "{granted} > {allowed}");
            }
        }
    }
}
