//! Traces that were refused alone: whether the fault is theirs shows once others are accepted.

use super::super::state::Reason;
use super::batch::Batch;
use std::collections::{BTreeSet, VecDeque};

/// So many refused one by one, with nothing accepted in between, are no longer taken for traces
/// that cannot be read, but for a destination that reads none: then one is tried now and then.
const SUSPICIOUS: usize = 8;
/// Most of them that are remembered; the oldest are given up.
const MOST: usize = 10_000;

/// One trace that was refused alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refused {
    /// Its stretch of the spool.
    pub(super) range: (u64, u64),
    /// Why it is lost, once it is.
    pub(super) reason: Reason,
    number: u64,
    /// Whether it was refused before, and others accepted since.
    is_second: bool,
}

/// All of them, until others are accepted.
#[derive(Debug, Default)]
pub(super) struct Aside {
    refused: VecDeque<Refused>,
    /// Numbers of those that are being tried again.
    doubted: BTreeSet<u64>,
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

    /// One more; the one that has to be given up for it, if one has.
    pub(super) fn put(&mut self, batch: &Batch, reason: Reason) -> Option<Refused> {
        let (range, number) = (batch.range(), batch.first());
        let is_second = self.doubted.remove(&number);
        self.refused.push_back(Refused { range, reason, number, is_second });
        if self.refused.len() > MOST { self.refused.pop_front() } else { None }
    }

    /// This one was accepted. So it was not the destination, it was those that were refused, and
    /// they are given up. Unless there are so many that it may have been the destination for a
    /// while: then each is to be tried once more, beside others, which the flag says.
    pub(super) fn judge(&mut self, accepted: &Batch) -> (Vec<Refused>, bool) {
        let (from, to) = accepted.range();
        self.doubted.retain(|number| !(from..to).contains(number));
        let is_suspicious = self.is_suspicious();
        let all = std::mem::take(&mut self.refused).into_iter();
        let (lost, again): (Vec<_>, Vec<_>) =
            all.partition(|refused| !is_suspicious || refused.is_second);
        self.doubted.extend(again.iter().map(|refused| refused.number));
        (lost, !again.is_empty())
    }

    /// All is read anew.
    pub(super) fn clear(&mut self) {
        self.refused.clear();
    }

    /// The destination is another one.
    pub(super) fn forget(&mut self) {
        self.doubted.clear();
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

    fn numbers(lost: &[Refused]) -> Vec<u64> {
        lost.iter().map(|refused| refused.number).collect()
    }

    #[test]
    fn a_few_are_at_fault_themselves_and_many_are_tried_again() {
        let mut aside = Aside::default();
        for number in 0..3 {
            assert_eq!(aside.put(&one(number), Reason::Rejected), None);
        }
        let (lost, again) = aside.judge(&one(9));
        assert_eq!((numbers(&lost), again, aside.len()), (vec![0, 1, 2], false, 0));

        for number in 20..30 {
            aside.put(&one(number), Reason::Rejected);
        }
        assert!(aside.is_suspicious());
        let (lost, again) = aside.judge(&one(30));
        assert_eq!((numbers(&lost), again, aside.len()), (vec![], true, 0));

        // Now most are accepted; two of them are not, and a new one.
        for number in (20..28).chain([31]) {
            aside.judge(&one(number));
        }
        aside.put(&one(28), Reason::Rejected);
        aside.put(&one(29), Reason::TooLarge);
        aside.put(&one(40), Reason::Rejected);
        let (lost, again) = aside.judge(&one(41));
        assert_eq!((numbers(&lost), again), (vec![28, 29, 40], false));
    }

    #[test]
    fn traces_that_nobody_reads_are_tried_twice_and_not_for_ever() {
        let mut aside = Aside::default();
        for number in 0..20 {
            aside.put(&one(number), Reason::Rejected);
        }
        assert!(aside.judge(&one(20)).1);
        for number in 0..20 {
            aside.put(&one(number), Reason::Rejected);
        }
        let (lost, again) = aside.judge(&one(21));
        assert_eq!((lost.len(), again), (20, false));
    }
}
