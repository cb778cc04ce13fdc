//! When an export may start: two at a time while all is well, one to try while it is not.

use rand::Rng;
use std::time::Duration;
use tokio::time::Instant;

/// Exports under way at once.
const AT_ONCE: usize = 2;
/// Bounds of the wait after a failure; doubled from one to the next.
const WAIT: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));
/// The least wait, so that jitter never becomes a loop without one.
const LEAST: Duration = Duration::from_millis(50);
/// The same while keys or address are refused: mostly somebody has to act first, and a reload that changes
/// them tries at once; but a proxy on the way may refuse for a moment.
const REFUSED: (Duration, Duration) = (Duration::from_secs(5), Duration::from_mins(1));

/// How it goes with a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Going {
    /// Exports are accepted, as far as there were any.
    Well,
    /// It does not answer, or asks to come later.
    Away,
    /// It refuses keys, address, or all that is sent.
    Refused,
}

/// Decides when the next export starts.
#[derive(Debug)]
pub(super) struct Pace {
    going: Going,
    failures: u32,
    not_before: Option<Instant>,
    /// Exports ever started, and how many of them when the last one failed.
    started: u64,
    started_before: u64,
}

impl Pace {
    /// All is well until something is not.
    pub(super) const fn new() -> Self {
        let (started, started_before) = (0, 0);
        Self { going: Going::Well, failures: 0, not_before: None, started, started_before }
    }

    /// How it goes.
    pub(super) const fn going(&self) -> Going {
        self.going
    }

    /// Whether one more export may start beside those under way.
    pub(super) fn may_start(&self, under_way: usize, now: Instant) -> bool {
        let at_once = if self.going == Going::Well { AT_ONCE } else { 1 };
        under_way < at_once && self.not_before.is_none_or(|at| now >= at)
    }

    /// Another destination: what is known of the old one, and what is under way there, says nothing.
    pub(super) const fn forget(&mut self) {
        (self.going, self.failures, self.not_before) = (Going::Well, 0, None);
        self.started_before = self.started;
    }

    /// An export starts; its number.
    pub(super) const fn starts(&mut self) -> u64 {
        self.started += 1;
        self.started
    }

    /// Exports started so far: the number of the newest.
    pub(super) const fn started(&self) -> u64 {
        self.started
    }

    /// When to look again, where something must be waited for.
    pub(super) const fn not_before(&self) -> Option<Instant> {
        self.not_before
    }

    /// The export of this number was accepted. One that was under way already when another failed
    /// says nothing of how it goes now, and takes back no wait.
    pub(super) const fn accepted(&mut self, number: u64) {
        if number > self.started_before {
            (self.going, self.failures, self.not_before) = (Going::Well, 0, None);
        }
    }

    /// Somebody acted: what was refused may be tried at once. A wait the destination named holds.
    pub(super) fn hurry(&mut self) {
        if self.going == Going::Refused {
            (self.failures, self.not_before) = (0, None);
        }
    }

    /// One failed and may do better later: full jitter, so that many gateways do not come back at
    /// the same instant, and never before the time the destination named.
    pub(super) fn later(&mut self, after: Option<Duration>, now: Instant, random: &mut impl Rng) {
        let most = self.doubled(Going::Away, WAIT);
        let wait = random.random_range(Duration::ZERO..=most).max(LEAST);
        self.wait(Going::Away, wait.max(after.unwrap_or_default()), now);
    }

    /// One was refused, and so will be the next.
    pub(super) fn refused(&mut self, now: Instant) {
        // One that was under way beside it says nothing new.
        if self.going != Going::Refused || self.not_before.is_none_or(|at| now >= at) {
            let wait = self.doubled(Going::Refused, REFUSED);
            self.wait(Going::Refused, wait, now);
        }
    }

    /// The next wait between these bounds, by how often it went like that in a row.
    fn doubled(&mut self, going: Going, (least, most): (Duration, Duration)) -> Duration {
        let before = if self.going == going { self.failures } else { 0 };
        self.failures = before.saturating_add(1);
        least.saturating_mul(1 << before.min(16)).min(most)
    }

    fn wait(&mut self, going: Going, wait: Duration, now: Instant) {
        self.going = going;
        self.started_before = self.started;
        // Two may fail at once; the longer wait holds.
        self.not_before = self.not_before.max(now.checked_add(wait));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    #[test]
    fn waits_grow_are_bounded_and_differ() {
        let (now, mut random) = (Instant::now(), SmallRng::seed_from_u64(7));
        let mut longest = vec![Duration::ZERO; 12];
        for _ in 0..200 {
            let mut pace = Pace::new();
            for longest in &mut longest {
                pace.not_before = None;
                pace.later(None, now, &mut random);
                let wait = pace.not_before().unwrap() - now;
                assert!(wait >= LEAST && wait <= WAIT.1);
                *longest = wait.max(*longest);
            }
        }
        assert!(longest[0] <= WAIT.0 && longest[3] > WAIT.0 * 4, "{longest:?}");
        assert!(longest[11] > WAIT.1 / 2);
    }

    #[test]
    fn in_trouble_one_export_tries_and_success_ends_it() {
        let (now, mut random) = (Instant::now(), SmallRng::seed_from_u64(7));
        let mut pace = Pace::new();
        assert!(pace.may_start(1, now) && !pace.may_start(2, now));
        pace.later(Some(Duration::from_secs(30)), now, &mut random);
        assert!(!pace.may_start(0, now + Duration::from_secs(29)));
        let then = now + Duration::from_secs(30);
        assert!(pace.may_start(0, then) && !pace.may_start(1, then));
        pace.later(None, now, &mut random);
        assert!(!pace.may_start(0, now + Duration::from_secs(29)), "what it asked for still holds");
        let number = pace.starts();
        pace.accepted(number);
        assert!(pace.may_start(1, now) && pace.going() == Going::Well);
        let mut then = now;
        pace.later(None, then, &mut random);
        for seconds in [5, 10, 20, 40, 60, 60] {
            pace.refused(then);
            pace.refused(then);
            let next = then + Duration::from_secs(seconds);
            assert!(!pace.may_start(0, next - Duration::from_secs(1)) && pace.may_start(0, next));
            then = next;
        }
        assert_eq!(pace.going(), Going::Refused);
        pace.hurry();
        assert!(pace.may_start(0, now) && !pace.may_start(1, now));
    }

    #[test]
    fn what_was_sent_before_a_failure_takes_no_wait_back() {
        let (now, mut random) = (Instant::now(), SmallRng::seed_from_u64(7));
        let mut pace = Pace::new();
        let (_failing, good) = (pace.starts(), pace.starts());
        pace.later(Some(Duration::from_secs(30)), now, &mut random);
        pace.accepted(good);
        pace.hurry();
        assert!(!pace.may_start(0, now + Duration::from_secs(29)) && pace.going() == Going::Away);
        let next = pace.starts();
        pace.accepted(next);
        assert!(pace.may_start(1, now) && pace.going() == Going::Well);
    }
}
