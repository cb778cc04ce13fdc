//! How old the oldest record that waits is, within a bound of memory however many there are.

use std::collections::BTreeMap;

/// Marks closer than this to the one before say nothing new, in milliseconds, in a short backlog.
const APART_MS: u64 = 250;
/// Most marks; beyond it every second one goes, and new ones are set twice as far apart. The age of a
/// long backlog is then known to a thousandth of it.
const MOST: usize = 4_096;

/// When some of the records finished; those between two marks are taken to be as old as the first.
#[derive(Debug, Default)]
pub(super) struct Ages {
    marks: BTreeMap<u64, u64>,
    apart_ms: u64,
}

impl Ages {
    /// The record with this number finished at that time, in milliseconds since 1970; below `upto`
    /// all is done with.
    pub(super) fn note(&mut self, number: u64, finished_ms: u64, upto: u64) {
        let apart = self.apart_ms.max(APART_MS);
        if self.at(number).is_some_and(|known| finished_ms < known.saturating_add(apart)) {
            return;
        }
        self.mark(number, finished_ms);
        if let Some(first) = self.marks.range(..=upto).next_back().map(|(number, _)| *number) {
            self.marks = self.marks.split_off(&first);
        }
        if self.marks.len() > MOST {
            self.apart_ms = apart.saturating_mul(2);
            let mut is_kept = false;
            self.marks.retain(|_, _| {
                is_kept = !is_kept;
                is_kept
            });
        } else if self.marks.len() <= 2 {
            self.apart_ms = APART_MS;
        }
    }

    /// The same of a record of which it matters exactly.
    pub(super) fn mark(&mut self, number: u64, finished_ms: u64) {
        self.marks.insert(number, finished_ms);
    }

    /// When the record with this number finished, or a little before.
    pub(super) fn at(&self, number: u64) -> Option<u64> {
        self.marks.range(..=number).next_back().map(|(_, ms)| *ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backlog_of_any_length_has_an_age_and_few_marks() {
        let mut ages = Ages::default();
        for number in 0..100_000 {
            ages.note(number, 1_000 * number, 0);
        }
        assert!(ages.marks.len() <= MOST);
        for number in [0, 7, 50_000, 99_999] {
            let told = ages.at(number).unwrap();
            assert!((1_000 * number).saturating_sub(told) <= 100_000, "{number}: {told}");
        }
        ages.note(100_000, 100_000_000, 99_990);
        assert!(ages.marks.len() < 64, "what is delivered needs no marks");
        assert!(ages.at(99_990).is_some());
    }
}
