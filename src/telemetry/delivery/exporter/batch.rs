//! One export: which stretch of the spool it is, and the bytes that are sent, the same each time.

use super::super::spool::pack::Packer;
use super::super::spool::read::{Lot, Part};
use super::gzip::gzip;
use super::shorten::{KEPT, shorten};
use bytes::Bytes;

/// A lot, ready to be sent.
#[derive(Debug)]
pub(super) struct Batch {
    lot: Lot,
    /// What is sent: gzip.
    pub(super) bytes: Bytes,
    /// Its length before compression.
    pub(super) length: usize,
    /// How often its texts were cut.
    cuts: usize,
    /// Exports that had been started when these were refused first, if they were.
    pub(super) refused: Option<u64>,
}

impl Batch {
    /// Puts the body together.
    pub(super) fn new(lot: Lot) -> Self {
        let (bytes, length) = gzip(&lot.parts);
        Self { lot, bytes, length, cuts: 0, refused: None }
    }

    /// Traces inside.
    pub(super) fn traces(&self) -> u64 {
        self.lot.parts.iter().map(Part::traces).sum()
    }

    /// First number, and one above the last, of what is done with once this is.
    pub(super) const fn range(&self) -> (u64, u64) {
        (self.lot.from, self.lot.to)
    }

    /// Number of the first of them.
    pub(super) fn first(&self) -> u64 {
        self.lot.parts.first().map_or(self.lot.from, Part::number)
    }

    /// The numbers of its traces, as stretches.
    pub(super) fn stretches(&self) -> impl Iterator<Item = (u64, u64)> {
        self.lot.parts.iter().map(|part| (part.number(), part.head.end()))
    }

    /// These are refused, and so many exports have been started; how many it were when they were first.
    pub(super) fn refused(&mut self, started: u64) -> u64 {
        *self.refused.get_or_insert(started)
    }

    /// The same as two; as one, or none, where there is nothing to divide. And how many traces are lost by it,
    /// since they are damaged.
    pub(super) fn halves(self) -> (Vec<Self>, u64) {
        let (all, mut packer) = (self.traces(), Packer::default());
        let singles = self.lot.parts.iter().filter_map(|part| part.singles(&mut packer));
        let mut parts: Vec<Part> = singles.flatten().collect();
        let damaged = all - parts.len() as u64;
        let (Lot { from, to, lost, .. }, refused) = (self.lot, self.refused);
        let lot = |from, to, parts: Vec<Part>| Lot { from, to, parts, lost };
        let lots = match parts.len() {
            0 => Vec::new(),
            1 => vec![lot(from, to, parts)],
            count => {
                let second = parts.split_off(count / 2);
                let middle = second.first().map_or(to, Part::number);
                vec![lot(from, middle, parts), lot(middle, to, second)]
            }
        };
        let half = |lot| Self { refused, ..Self::new(lot) };
        (lots.into_iter().map(half).collect(), damaged)
    }

    /// The same with its long texts cut; shorter each time, and `None` where nothing is left to cut.
    pub(super) fn shortened(&self) -> Option<Self> {
        KEPT.iter().enumerate().skip(self.cuts).find_map(|(cuts, kept)| {
            let mut lot = self.lot.clone();
            for part in &mut lot.parts {
                let shorter = shorten(&part.plain()?, *kept)?;
                let about = (part.number(), part.head.finished_ms);
                *part = Part::one(&mut Packer::default(), about, &shorter);
            }
            Some(Self { cuts: cuts + 1, refused: self.refused, ..Self::new(lot) })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lot(numbers: &[u64], (from, to): (u64, u64)) -> Lot {
        let part = |number: &u64| {
            let text = format!("{{\"n\":{number}}}");
            Part::one(&mut Packer::default(), (*number, 1_000 + number), text.as_bytes())
        };
        Lot { from, to, parts: numbers.iter().map(part).collect(), lost: 0 }
    }

    #[test]
    fn halves_cover_the_same_stretch_and_gaps_belong_to_one_of_them() {
        let halves = Batch::new(lot(&[3, 4, 7, 9], (2, 12))).halves().0;
        let told: Vec<_> = halves.iter().map(|half| (half.range(), half.traces())).collect();
        assert_eq!(told, [((2, 7), 2), ((7, 12), 2)]);
        assert_eq!((halves[0].first(), halves[1].first()), (3, 7));
    }

    #[test]
    fn a_trace_is_cut_twice_at_most_and_less_at_first() {
        let body = format!(r#"{{"input":"{0}","output":"{0}"}}"#, "x".repeat(1 << 20));
        let part = Part::one(&mut Packer::default(), (1, 0), body.as_bytes());
        let whole = Batch::new(Lot { from: 1, to: 2, parts: vec![part], lost: 0 });
        let once = whole.shortened().unwrap();
        assert!((500 << 10..600 << 10).contains(&once.length), "{}", once.length);
        let twice = once.shortened().unwrap();
        assert!((64 << 10..70 << 10).contains(&twice.length), "{}", twice.length);
        assert!(twice.shortened().is_none());
        assert_eq!(Batch::new(lot(&[1], (1, 2))).shortened().map(|batch| batch.length), None);
    }

    #[test]
    fn the_same_lot_makes_the_same_bytes() {
        let lot = lot(&[1, 2], (1, 3));
        assert_eq!(Batch::new(lot.clone()).bytes, Batch::new(lot).bytes);
    }
}
