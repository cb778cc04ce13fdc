//! Traces that were refused alone: whether the fault is theirs shows once others are accepted.

use super::super::state::Reason;
use super::batch::Batch;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use tokio::time::Instant;

/// So many refused one by one, with nothing accepted in between, are no longer taken for traces
/// that cannot be read, but for a destination that reads none: then a few are tried now and then.
const SUSPICIOUS: usize = 8;
/// So often one is refused again after others were accepted before it is given up: a destination that
/// is well only at times takes it at one of them.
const DOUBTS: u8 = 2;
/// Most of them that are remembered; the oldest are given up.
const MOST: usize = 10_000;
/// How long they wait where nothing else is to be sent; doubled from one time to the next, up to the second.
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
    /// It was refused often enough while others were accepted.
    Lost,
    /// Others were accepted since it was refused before: it is tried again.
    Again(Batch),
    /// Nothing was accepted since. The oldest of those that wait, if there are too many of them now.
    Waits(Option<Refused>),
}

/// All of them, until others are accepted.
#[derive(Debug, Default)]
pub(super) struct Aside {
    refused: VecDeque<Refused>,
    /// Numbers of those that were refused before others were accepted, and how often that was so.
    doubted: BTreeMap<u64, u8>,
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

    /// Whether so many more of them are refused that it is time to wait.
    pub(super) fn is_time_to_wait(&self) -> bool {
        self.is_suspicious() && self.refused.len().is_multiple_of(SUSPICIOUS)
    }

    /// When they are tried again, unless something else is to be sent.
    pub(super) const fn again_at(&self) -> Option<Instant> {
        self.again_at
    }

    /// Nothing was to be sent for a while, and they are tried again. A few that were refused again after
    /// others were accepted have their last try: nobody may come who shows it once more.
    pub(super) fn has_been_quiet(&mut self) {
        self.tries = self.tries.saturating_add(1);
        if self.is_suspicious() {
            return;
        }
        for refused in &self.refused {
            if let Some(doubts) = self.doubted.get_mut(&refused.number) {
                *doubts = DOUBTS;
            }
        }
    }

    /// One more, refused first, or since others were accepted, when the first of these numbers of exports had
    /// been started; now it is the second.
    pub(super) fn put(
        &mut self,
        mut batch: Batch,
        (since, started): (u64, u64),
        reason: Reason,
        now: Instant,
    ) -> Fate {
        let (range, number) = (batch.range(), batch.first());
        let doubts = self.doubted.get(&number).copied().unwrap_or_default();
        if doubts >= DOUBTS {
            self.doubted.remove(&number);
            return Fate::Lost;
        }
        if self.accepted > since {
            self.doubted.insert(number, doubts + 1);
            // The next doubt takes another one that is accepted.
            batch.refused = Some(started);
            return Fate::Again(batch);
        }
        self.refused.push_back(Refused { range, reason, number, since });
        let wait = QUIET.0.saturating_mul(1 << self.tries.min(16)).min(QUIET.1);
        self.again_at = now.checked_add(wait);
        Fate::Waits(if self.refused.len() > MOST { self.refused.pop_front() } else { None })
    }

    /// The export of this number was accepted. Whether any were refused before it started: all are to be
    /// read anew then, since it need not have been them, it may have been the destination for a while.
    pub(super) fn accepted(&mut self, number: u64, (from, to): (u64, u64)) -> bool {
        self.accepted = self.accepted.max(number);
        self.tries = 0;
        self.doubted.retain(|number, _| !(from..to).contains(number));
        let mut is_any = false;
        for refused in self.refused.iter_mut().filter(|refused| refused.since < number) {
            // Once, however much is accepted before they are read.
            refused.since = u64::MAX;
            *self.doubted.entry(refused.number).or_default() += 1;
            is_any = true;
        }
        is_any
    }

    /// All is read anew; the numbers of those that waited, as stretches.
    pub(super) fn clear(&mut self) -> Vec<(u64, u64)> {
        self.again_at = None;
        self.refused.drain(..).map(|refused| (refused.number, refused.number + 1)).collect()
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
        aside.put(one(number), (since, since), Reason::Rejected, Instant::now())
    }

    #[test]
    fn who_is_refused_beside_others_that_are_accepted_is_lost_after_some_tries() {
        let mut aside = Aside::default();
        // Export 1 was refused, 2 and 3 are its halves.
        assert!(!aside.accepted(3, (5, 9)));
        let mut since = 1;
        for number in (4..).step_by(2).take(usize::from(DOUBTS)) {
            let now = Instant::now();
            let fate = aside.put(one(4), (since, number), Reason::Rejected, now);
            let Fate::Again(mut batch) = fate else { panic!("{fate:?}") };
            since = batch.refused(99);
            assert_eq!((batch.first(), since), (4, number));
            assert!(!aside.accepted(number + 1, (9, 10)));
        }
        assert!(matches!(put(&mut aside, 4, since), Fate::Lost));
        assert_eq!(aside.len(), 0);
    }

    #[test]
    fn one_that_was_accepted_gives_one_more_try() {
        let mut aside = Aside::default();
        assert!(!aside.accepted(3, (5, 9)));
        let fate = aside.put(one(4), (1, 4), Reason::Rejected, Instant::now());
        let Fate::Again(mut batch) = fate else { panic!("{fate:?}") };
        assert!(matches!(put(&mut aside, 4, batch.refused(99)), Fate::Waits(None)));
    }

    #[test]
    fn what_was_accepted_before_convicts_nobody() {
        let mut aside = Aside::default();
        // Export 4 started after 3, which was accepted; 2 was under way all the time.
        assert!(!aside.accepted(3, (5, 9)));
        assert!(matches!(put(&mut aside, 10, 4), Fate::Waits(None)));
        assert!(!aside.accepted(2, (2, 5)));
        assert_eq!(aside.len(), 1);
        assert!(aside.accepted(5, (11, 12)), "others are taken now");
        assert!(!aside.accepted(6, (12, 13)), "that is known");
        assert_eq!((aside.clear().len(), aside.len()), (1, 0));
        assert!(
            matches!(put(&mut aside, 10, 6), Fate::Waits(None)),
            "it is taken as seldom as they"
        );
    }

    #[test]
    fn a_destination_that_is_well_at_times_costs_nothing_at_once() {
        let mut aside = Aside::default();
        for number in (1..).take(usize::from(DOUBTS)) {
            assert!(matches!(put(&mut aside, 10, number), Fate::Waits(None)));
            assert!(aside.accepted(number + 1, (20, 21)));
            aside.clear();
        }
        assert!(matches!(put(&mut aside, 10, 99), Fate::Lost));
    }

    #[test]
    fn on_a_quiet_gateway_one_that_was_accepted_suffices_for_a_few() {
        for (count, is_lost) in [(1, true), (SUSPICIOUS as u64, false)] {
            let mut aside = Aside::default();
            put(&mut aside, 1, 1);
            aside.has_been_quiet();
            aside.clear();
            assert!(matches!(put(&mut aside, 1, 1), Fate::Waits(None)), "nothing was accepted");
            assert!(aside.accepted(2, (20, 21)));
            aside.clear();
            for number in 1..=count {
                assert!(matches!(put(&mut aside, number, 3), Fate::Waits(None)));
            }
            aside.has_been_quiet();
            aside.clear();
            assert_eq!(matches!(put(&mut aside, 1, 4), Fate::Lost), is_lost);
        }
    }

    #[test]
    fn who_is_accepted_in_the_end_is_no_longer_doubted() {
        let mut aside = Aside::default();
        for number in 0..20 {
            assert!(matches!(put(&mut aside, number, 1), Fate::Waits(None)));
        }
        assert!(aside.is_suspicious() && !aside.is_time_to_wait());
        assert!(aside.accepted(2, (20, 21)));
        aside.clear();
        assert!(!aside.is_suspicious() && aside.doubted.len() == 20);
        assert!(!aside.accepted(3, (0, 20)));
        assert!(aside.doubted.is_empty());
    }

    #[test]
    fn another_destination_begins_anew() {
        let mut aside = Aside::default();
        put(&mut aside, 1, 1);
        assert!(aside.accepted(2, (2, 3)));
        aside.forget();
        assert!(matches!(put(&mut aside, 1, 1), Fate::Waits(None)));
    }

    #[test]
    fn the_oldest_of_too_many_is_given_up_and_they_are_tried_less_and_less_often() {
        let mut aside = Aside::default();
        for number in 0..MOST as u64 {
            assert!(matches!(put(&mut aside, number, 1), Fate::Waits(None)));
        }
        assert!(aside.is_time_to_wait());
        let last = put(&mut aside, MOST as u64, 1);
        assert!(matches!(last, Fate::Waits(Some(refused)) if refused.range == (0, 1)));
        let now = Instant::now();
        for seconds in [10, 20, 40, 60, 60] {
            aside.has_been_quiet();
            aside.clear();
            assert_eq!(aside.again_at(), None);
            aside.put(one(1), (1, 1), Reason::Rejected, now);
            assert_eq!(aside.again_at(), now.checked_add(Duration::from_secs(seconds)));
        }
    }
}
