//! Where records are written down, and when: a reservation before its call goes out, an ended call at
//! once or, where calls follow each other closely, together with the next reservation.

use super::super::NanoUsd;
use super::journal::Journal;
use super::record::{Record, Settled};
use std::collections::VecDeque;
use std::time::Duration;

/// Most ended calls of keys without a budget that wait for a disk that is full or away; further ones are
/// counted as lost. Those of keys with one are as few as were running: without the disk none is admitted.
const MAX_WAITING: usize = 100_000;
/// Records written to the journal at once: what a request that finds others waiting does for them.
const CHUNK: usize = 256;

/// What requests and the keeper write with.
#[derive(Debug, Default)]
pub(super) struct Desk {
    /// `None` while the folder cannot be used.
    pub(super) journal: Option<Journal>,
    /// Ended calls that are not written yet, oldest first: the journal could not take them, or the next
    /// reservation takes them along.
    pub(super) waiting: VecDeque<Record>,
    /// Ended calls there was no room for.
    pub(super) lost: u64,
    /// Whether the last write was refused by the disk.
    is_refused: bool,
    /// Whether there is a keeper, to write what no reservation takes along.
    pub(super) is_kept: bool,
    /// Whether it knows that something waits.
    is_told: bool,
    pace: Pace,
}

impl Desk {
    /// Writes a reservation down, and what waits before it; whether that worked. Where more waits than
    /// one write takes, a disk that has room again is first to be known to have enough of it.
    pub(super) fn reserve(&mut self, record: &Record, now: Duration) -> bool {
        self.pace.admitted(now);
        if self.waiting.len() > CHUNK {
            self.write_chunk();
            return false;
        }
        let Some(journal) = &mut self.journal else { return false };
        let is_written = journal.append(self.waiting.iter().chain([record])).is_ok();
        self.is_refused = !is_written;
        if is_written {
            self.waiting.clear();
        }
        is_written
    }

    /// Whether what happens now can be written down.
    pub(super) fn is_up(&self) -> bool {
        self.journal.as_ref().is_some_and(|journal| !journal.has_gone) && !self.is_refused
    }

    /// Writes an ended call down, now or once it can be; or leaves it for the next reservation, where
    /// one is about to come. Whether the keeper is to be told of it.
    ///
    /// Where a death comes before that, the call is charged what it had reserved, as if it still ran: so
    /// one that cost more is never left.
    pub(super) fn settle(&mut self, record: Settled, reserved: NanoUsd, now: Duration) -> bool {
        let is_covered = record.cost <= reserved;
        self.waiting.push_back(Record::Settled(record));
        let may_be_left =
            is_covered && self.is_kept && self.journal.is_some() && self.waiting.len() < CHUNK;
        if may_be_left && self.pace.is_quick(now) {
            return !std::mem::replace(&mut self.is_told, true);
        }
        self.write_chunk();
        false
    }

    /// Writes some of the ended calls that nobody waits for, from the front of `records`; whether there
    /// are more. What the disk does not take waits.
    pub(super) fn enter(&mut self, records: &mut VecDeque<Record>) -> bool {
        let count = records.len().min(CHUNK);
        for record in records.drain(..count) {
            if self.waiting.len() < MAX_WAITING {
                self.waiting.push_back(record);
            } else {
                self.lost += 1;
            }
        }
        self.write_chunk();
        !records.is_empty()
    }

    /// Writes some of what waits; whether more of it can be written.
    pub(super) fn write_chunk(&mut self) -> bool {
        let count = self.waiting.len().min(CHUNK);
        let Some(journal) = self.journal.as_mut().filter(|_| count > 0) else { return false };
        self.is_refused = journal.append(self.waiting.iter().take(count)).is_err();
        if self.is_refused {
            return false;
        }
        self.waiting.drain(..count);
        !self.waiting.is_empty()
    }

    /// The same for the keeper, who is to be told again of what comes after.
    pub(super) fn catch_up(&mut self) -> bool {
        self.is_told = false;
        self.write_chunk()
    }
}

/// How closely admissions follow each other.
#[derive(Debug, Default)]
struct Pace {
    /// When they began to be counted.
    since: Duration,
    count: u32,
    is_quick: bool,
}

/// For so long they are counted.
const SPAN: Duration = Duration::from_millis(10);
/// So many in it, two a millisecond, are more than one caller makes after the other: the next one is about
/// to come.
const QUICK: u32 = 20;

impl Pace {
    fn admitted(&mut self, now: Duration) {
        self.count += 1;
        let took = now.saturating_sub(self.since);
        if took >= SPAN {
            self.is_quick = self.count >= QUICK && took < SPAN * 2;
            (self.since, self.count) = (now, 0);
        }
    }

    fn is_quick(&self, now: Duration) -> bool {
        self.is_quick && now.saturating_sub(self.since) < SPAN * 2
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::CallId;
    use super::super::super::period::Day;
    use super::*;
    use crate::protocol::usage::{CostSource, Usage};

    /// The pace after admissions that are so far apart, in microseconds.
    fn pace(apart: u64, count: u64) -> (Pace, u64) {
        let mut pace = Pace::default();
        for number in 1..=count {
            pace.admitted(Duration::from_micros(1_000_000 + number * apart));
        }
        (pace, 1_000_000 + count * apart)
    }

    #[test]
    fn the_keeper_is_told_once_until_it_comes() {
        let folder = tempfile::TempDir::new().unwrap();
        let journal = Journal::succeed(folder.path(), 1, &[]).unwrap();
        let mut desk = Desk { journal: Some(journal), is_kept: true, ..Desk::default() };
        desk.pace = pace(100, 1_000).0;
        let now = Duration::from_millis(1_100);
        let ended = |cost| Settled {
            call: CallId(1),
            day: Day(1),
            cost: NanoUsd(cost),
            source: CostSource::Upstream,
            is_counted: true,
            usage: Usage::default(),
            key: "k".into(),
            model: "m".into(),
            upstream: "u".into(),
        };
        assert!(desk.settle(ended(5), NanoUsd(5), now));
        assert!(!desk.settle(ended(5), NanoUsd(5), now), "it knows");
        assert_eq!(desk.waiting.len(), 2);
        desk.catch_up();
        assert!(desk.waiting.is_empty());
        assert!(desk.settle(ended(5), NanoUsd(5), now), "something new");
        assert!(!desk.settle(ended(6), NanoUsd(5), now));
        assert!(
            desk.waiting.is_empty(),
            "one that cost more than it had reserved is written at once"
        );
    }

    #[test]
    fn only_where_calls_follow_each_other_closely_one_is_about_to_come() {
        for (apart, is_quick) in
            [(50, true), (200, true), (490, true), (600, false), (5_000, false)]
        {
            let (pace, now) = pace(apart, 1_000);
            assert_eq!(pace.is_quick(Duration::from_micros(now)), is_quick, "{apart}");
        }
        let (pace, _) = pace(200, 1);
        assert!(!pace.is_quick(Duration::from_secs(1)), "the first one");
    }

    #[test]
    fn after_a_rush_the_pace_is_soon_that_of_before() {
        let (mut pace, now) = pace(100, 1_000);
        assert!(pace.is_quick(Duration::from_micros(now + 1_000)));
        assert!(!pace.is_quick(Duration::from_micros(now + 20_000)), "none came");
        // The first ones after a rest say nothing yet.
        pace.admitted(Duration::from_micros(now + 500_000));
        pace.admitted(Duration::from_micros(now + 500_100));
        assert!(!pace.is_quick(Duration::from_micros(now + 500_200)));
    }
}
