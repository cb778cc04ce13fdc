//! Which traces of a spool are done with, which are on their way, and which still wait.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A set of numbers, as stretches `from..to` that neither touch nor overlap.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
pub(super) struct Stretches(BTreeMap<u64, u64>);

impl From<Vec<(u64, u64)>> for Stretches {
    fn from(pairs: Vec<(u64, u64)>) -> Self {
        let mut all = Self::default();
        for (from, to) in pairs {
            all.insert(from, to);
        }
        all
    }
}

impl From<Stretches> for Vec<(u64, u64)> {
    fn from(stretches: Stretches) -> Self {
        stretches.0.into_iter().collect()
    }
}

impl Stretches {
    /// Adds `from..to`.
    pub(super) fn insert(&mut self, mut from: u64, mut to: u64) {
        if from >= to {
            return;
        }
        while let Some((start, end)) =
            self.last_before(to.saturating_add(1)).filter(|s| s.1 >= from)
        {
            self.0.remove(&start);
            (from, to) = (from.min(start), to.max(end));
        }
        self.0.insert(from, to);
    }

    /// Takes `from..to` away.
    pub(super) fn remove(&mut self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        while let Some((start, end)) = self.last_before(to).filter(|s| s.1 > from) {
            self.0.remove(&start);
            if end > to {
                self.0.insert(to, end);
            }
            if start < from {
                self.0.insert(start, from);
            }
        }
    }

    /// Whether the number is in the set.
    pub(super) fn contains(&self, number: u64) -> bool {
        self.last_before(number.saturating_add(1)).is_some_and(|(_, end)| end > number)
    }

    /// How many numbers of `from..to` are in the set.
    pub(super) fn count(&self, from: u64, to: u64) -> u64 {
        let overlap =
            |(start, end): (&u64, &u64)| (*end).min(to).saturating_sub((*start).max(from));
        self.0.range(..to).map(overlap).sum()
    }

    /// The last stretch that begins before this number.
    fn last_before(&self, number: u64) -> Option<(u64, u64)> {
        self.0.range(..number).next_back().map(|(start, end)| (*start, *end))
    }

    fn first(&self) -> Option<(u64, u64)> {
        self.0.first_key_value().map(|(start, end)| (*start, *end))
    }
}

/// How far one destination is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Progress {
    /// Everything below is done with.
    upto: u64,
    /// What is done with beyond: two exports are under way at a time, and one that is refused is
    /// halved, so the second may end before the first.
    done: Stretches,
    /// What an export has taken and not ended; forgotten at a restart, so that it is sent again.
    #[serde(skip)]
    claimed: Stretches,
}

impl Progress {
    /// The lowest number that is not done with.
    pub(super) const fn upto(&self) -> u64 {
        self.upto
    }

    /// One above the last record that is done with.
    pub(super) fn end(&self) -> u64 {
        self.done.0.last_key_value().map_or(self.upto, |(_, end)| *end)
    }

    /// Whether this record is done with.
    pub(super) fn is_done(&self, number: u64) -> bool {
        number < self.upto || self.done.contains(number)
    }

    /// The lowest number from this one on that is not done with.
    pub(super) fn next_undone(&self, number: u64) -> u64 {
        let number = number.max(self.upto);
        let around = self.done.last_before(number.saturating_add(1));
        around.map_or(number, |(_, end)| end.max(number))
    }

    /// An export has taken these.
    pub(super) fn claim(&mut self, from: u64, to: u64) {
        self.claimed.insert(from, to);
    }

    /// An export has let go of these. How many of them are done with all the same.
    pub(super) fn release(&mut self, from: u64, to: u64) -> u64 {
        self.unclaim(from, to);
        to.saturating_sub(from) - self.undone(from, to)
    }

    /// An export has ended these, or what is left of them.
    pub(super) fn unclaim(&mut self, from: u64, to: u64) {
        self.claimed.remove(from, to);
    }

    /// These are done with, well or not. Whether anything changed.
    pub(super) fn settle(&mut self, from: u64, to: u64) -> bool {
        self.claimed.remove(from, to);
        let before = (self.upto, self.done.count(0, u64::MAX));
        self.done.insert(from.max(self.upto), to);
        if let Some((start, end)) = self.done.first().filter(|(start, _)| *start <= self.upto) {
            self.done.remove(start, end);
            self.upto = end;
        }
        before != (self.upto, self.done.count(0, u64::MAX))
    }

    /// How many of `from..to` wait or are on their way.
    pub(super) fn undone(&self, from: u64, to: u64) -> u64 {
        let from = from.max(self.upto);
        to.saturating_sub(from).saturating_sub(self.done.count(from, to))
    }

    /// How many of `from..to` wait.
    pub(super) fn waiting(&self, from: u64, to: u64) -> u64 {
        let from = from.max(self.upto);
        self.undone(from, to).saturating_sub(self.claimed.count(from, to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn stretches_are_a_set_of_numbers(acts in prop::collection::vec((any::<bool>(), 0_u64..60, 0_u64..12), 0..60)) {
            let (mut stretches, mut numbers) = (Stretches::default(), BTreeSet::new());
            for (adds, from, length) in acts {
                if adds {
                    stretches.insert(from, from + length);
                    numbers.extend(from..from + length);
                } else {
                    stretches.remove(from, from + length);
                    numbers.retain(|n| !(from..from + length).contains(n));
                }
                for n in 0..80 {
                    prop_assert_eq!(stretches.contains(n), numbers.contains(&n));
                }
                let count = numbers.range(10..40).count() as u64;
                prop_assert_eq!(stretches.count(10, 40), count);
                let pairs = Vec::from(stretches.clone());
                prop_assert!(pairs.windows(2).all(|two| two[0].1 < two[1].0), "{:?}", pairs);
            }
        }

        #[test]
        fn whatever_the_order_all_ends_up_below(mut ends in prop::collection::btree_set(1_u64..50, 1..12), order in any::<u64>()) {
            ends.insert(50);
            let starts = std::iter::once(0).chain(ends.iter().copied());
            let mut lots: Vec<_> = starts.zip(ends.iter().copied()).collect();
            lots.sort_by_key(|(from, _)| (from ^ order).wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let mut progress = Progress::default();
            for (from, to) in &lots {
                progress.claim(*from, *to);
            }
            prop_assert_eq!((progress.undone(0, 50), progress.waiting(0, 50)), (50, 0));
            let mut left = 50;
            for (from, to) in lots {
                progress.settle(from, to);
                left -= to - from;
                prop_assert_eq!(progress.undone(0, 50), left);
                let text = serde_json::to_string(&progress).unwrap();
                let mut kept: Progress = serde_json::from_str(&text).unwrap();
                kept.claimed = progress.claimed.clone();
                prop_assert_eq!(&kept, &progress);
            }
            prop_assert_eq!((progress.upto(), progress.done.first()), (50, None));
        }
    }
}
