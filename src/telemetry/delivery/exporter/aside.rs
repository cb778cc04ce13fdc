//! Traces that were refused alone: whether the fault is theirs shows once others are accepted.

use super::super::state::Reason;
use super::batch::Batch;
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;
use tokio::time::Instant;

/// So many refused one by one, with nothing accepted in between, are no longer taken for traces
/// that cannot be read, but for a destination that reads none: then one is tried now and then.
const SUSPICIOUS: usize = 8;
/// Most of them that are remembered; the oldest are given up.
const MOST: usize = 10_000;
/// How long they wait where nothing else is sent; doubled from one time to the next, up to the second.
const QUIET: (Duration, Duration) = (Duration::from_secs(5), Duration::from_mins(1));

/// One trace that was refused alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refused {
    /// Its stretch of the spool.
    pub(super) range: (u64, u64),
    /// Why it is lost, once it is.
    pub(super) reason: Reason,
    number: u64,
    /// Exports that had been started when it was refused first, alone or with others.
    since: u64,
}

/// What becomes of a trace that was refused alone.
#[derive(Debug)]
pub(super) enum Fate {
    /// Others were accepted since it was refused first, and it was tried once more since then.
    Lost,
    /// Others were accepted since it was refused first: it gets its last try.
    Again(Batch),
    /// Nothing was accepted since. The oldest of those that wait, if there are too many of them now.
    Waits(Option<Refused>),
}

/// All of them, until others are accepted.
#[derive(Debug, Default)]
pub(super) struct Aside {
    refused: VecDeque<Refused>,
    /// Numbers of those that are being tried for the last time.
    doubted: BTreeSet<u64>,
    /// Number of the newest export that was accepted.
    accepted: u64,
    /// When all of them are tried again, though nothing else was accepted; and how often they were.
    again_at: Option<Instant>,
    tries: u32,
}

impl Aside {
    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.refused.len()
    }

    /// Whether it is rather the destination that is at fault.
    pub(super) fn is_suspicious(&self) -> bool {
        self.refused.len() >= SUSPICIOUS
    }

    /// When they are tried again, whatever else is sent until then.
    pub(super) const fn again_at(&self) -> Option<Instant> {
        self.again_at
    }

    /// One more, refused first when so many exports had been started.
    pub(super) fn put(&mut self, batch: Batch, since: u64, reason: Reason, now: Instant) -> Fate {
        let (range, number) = (batch.range(), batch.first());
        if self.doubted.remove(&number) {
            return Fate::Lost;
        }
        if self.accepted > since {
            self.doubted.insert(number);
            return Fate::Again(batch);
        }
        self.refused.push_back(Refused { range, reason, number, since });
        let wait = QUIET.0.saturating_mul(1 << self.tries.min(16)).min(QUIET.1);
        self.again_at = now.checked_add(wait);
        Fate::Waits(if self.refused.len() > MOST { self.refused.pop_front() } else { None })
    }

    /// The export of this number was accepted. Whether those that were refused before it started get
    /// their last try now: it need not have been them, it may have been the destination for a while.
    pub(super) fn accepted(&mut self, number: u64, (from, to): (u64, u64)) -> bool {
        self.accepted = self.accepted.max(number);
        self.tries = 0;
        self.doubted.retain(|number| !(from..to).contains(number));
        let before = self.refused.iter().filter(|refused| refused.since < number);
        let count = self.doubted.len();
        self.doubted.extend(before.map(|refused| refused.number));
        self.doubted.len() > count
    }

    /// All is read anew.
    pub(super) fn clear(&mut self) {
        self.refused.clear();
        self.again_at = None;
        self.tries = self.tries.saturating_add(1);
    }

    /// The destination is another one: what the old one took or refused says nothing of it.
    pub(super) fn forget(&mut self) {
        self.doubted.clear();
        (self.accepted, self.tries) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::spool::pack::Packer;
    use super::super::super::spool::read::{Lot, Part};
    use super::*;

    fn one(number: u64) -> Batch {
        let part = Part::one(&mut Packer::default(), (number, 0), b"{}");
        Batch::new(Lot { from: number, to: number + 1, parts: vec![part], lost: 0 })
    }

    /// Puts one aside that was refused first when so many exports had been started.
    fn put(aside: &mut Aside, number: u64, since: u64) -> Fate {
        aside.put(one(number), since, Reason::Rejected, Instant::now())
    }

    #[test]
    fn who_is_refused_beside_others_that_are_accepted_has_one_more_try() {
        let mut aside = Aside::default();
        // Export 1 was refused, 2 and 3 are its halves.
        assert!(!aside.accepted(3, (5, 9)));
        assert!(matches!(put(&mut aside, 4, 1), Fate::Again(batch) if batch.first() == 4));
        assert!(matches!(put(&mut aside, 4, 1), Fate::Lost));
        assert_eq!(aside.len(), 0);
    }

    #[test]
    fn what_was_accepted_before_convicts_nobody() {
        let mut aside = Aside::default();
        // Export 4 started after 3, which was accepted; 2 was under way all the time.
        assert!(!aside.accepted(3, (5, 9)));
        assert!(matches!(put(&mut aside, 10, 4), Fate::Waits(None)));
        assert!(!aside.accepted(2, (2, 5)));
        assert_eq!(aside.len(), 1);
        assert!(aside.accepted(5, (11, 12)), "its last try, since others are taken now");
        aside.clear();
        assert!(matches!(put(&mut aside, 10, 6), Fate::Lost));
    }

    #[test]
    fn who_is_accepted_at_the_last_try_is_no_longer_doubted() {
        let mut aside = Aside::default();
        for number in 0..20 {
            assert!(matches!(put(&mut aside, number, 1), Fate::Waits(None)));
        }
        assert!(aside.is_suspicious());
        assert!(aside.accepted(2, (20, 21)));
        aside.clear();
        assert!(!aside.accepted(3, (0, 20)));
        assert!(matches!(put(&mut aside, 7, 3), Fate::Waits(None)));
    }

    #[test]
    fn another_destination_begins_anew() {
        let mut aside = Aside::default();
        put(&mut aside, 1, 1);
        assert!(aside.accepted(2, (2, 3)));
        aside.forget();
        aside.clear();
        assert!(matches!(put(&mut aside, 1, 1), Fate::Waits(None)));
    }

    #[test]
    fn the_oldest_of_too_many_is_given_up_and_they_are_tried_less_and_less_often() {
        let mut aside = Aside::default();
        for number in 0..MOST as u64 {
            assert!(matches!(put(&mut aside, number, 1), Fate::Waits(None)));
        }
        let last = put(&mut aside, MOST as u64, 1);
        assert!(matches!(last, Fate::Waits(Some(refused)) if refused.range == (0, 1)));
        let now = Instant::now();
        for seconds in [10, 20, 40, 60, 60] {
            aside.clear();
            assert_eq!(aside.again_at(), None);
            aside.put(one(1), 1, Reason::Rejected, now);
            assert_eq!(aside.again_at(), now.checked_add(Duration::from_secs(seconds)));
        }
    }
}
