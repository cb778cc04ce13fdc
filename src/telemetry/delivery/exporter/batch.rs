//! One export: which stretch of the spool it is, and the bytes that are sent, the same each time.

use super::super::spool::read::{Lot, Part};
use super::shorten::{KEPT, shorten};
use crate::telemetry::langfuse::envelope;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::{BufWriter, IntoInnerError};

/// Small traces are gathered to so many bytes and then compressed, while they are in the cache.
const AT_ONCE: usize = 16 << 10;

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
}

impl Batch {
    /// Envelope and compression; takes milliseconds for megabytes.
    pub(super) fn new(lot: Lot) -> Self {
        let (bytes, length) = gzip(&lot.parts);
        Self { lot, bytes, length, cuts: 0 }
    }

    /// Traces inside.
    pub(super) const fn traces(&self) -> u64 {
        self.lot.parts.len() as u64
    }

    /// First number, and one above the last, of what is done with once this is.
    pub(super) const fn range(&self) -> (u64, u64) {
        (self.lot.from, self.lot.to)
    }

    /// Number of the first of them.
    pub(super) fn first(&self) -> u64 {
        self.lot.parts.first().map_or(self.lot.from, |part| part.number)
    }

    /// The same as two; as one where there is nothing to divide.
    pub(super) fn halves(self) -> Vec<Self> {
        let Lot { from, to, mut parts, lost } = self.lot;
        let second = parts.split_off(parts.len() / 2);
        let middle = second.first().map_or(to, |part| part.number);
        let lot = |from, to, parts: Vec<Part>| Lot { from, to, parts, lost };
        let both = [lot(from, middle, parts), lot(middle, to, second)];
        both.into_iter().filter(|lot| lot.from < lot.to).map(Self::new).collect()
    }

    /// The same with its long texts cut; shorter each time, and `None` where nothing is left to cut.
    pub(super) fn shortened(&self) -> Option<Self> {
        KEPT.iter().enumerate().skip(self.cuts).find_map(|(cuts, kept)| {
            let mut lot = self.lot.clone();
            for part in &mut lot.parts {
                part.body = shorten(&part.body, *kept)?.into();
            }
            Some(Self { cuts: cuts + 1, ..Self::new(lot) })
        })
    }
}

/// The export of these, compressed, and its length before. The fastest level: prompts shrink to a third
/// with it, and the next level costs twice the time.
fn gzip(parts: &[Part]) -> (Bytes, usize) {
    let about: usize = parts.iter().map(|part| part.body.len()).sum();
    let encoder = GzEncoder::new(Vec::with_capacity(about / 4), Compression::fast());
    let mut encoder = BufWriter::with_capacity(AT_ONCE, encoder);
    let length = envelope(parts.iter().map(|part| &*part.body), &mut encoder);
    // Writing to memory cannot fail.
    let encoder = encoder.into_inner().map_err(IntoInnerError::into_error);
    let bytes = encoder.and_then(GzEncoder::finish).unwrap_or_default();
    (bytes.into(), length.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lot(numbers: &[u64], (from, to): (u64, u64)) -> Lot {
        let part = |number: &u64| Part {
            number: *number,
            finished_ms: 1_000 + number,
            body: format!("{{\"n\":{number}}}").into(),
        };
        Lot { from, to, parts: numbers.iter().map(part).collect(), lost: 0 }
    }

    #[test]
    fn halves_cover_the_same_stretch_and_gaps_belong_to_one_of_them() {
        let halves = Batch::new(lot(&[3, 4, 7, 9], (2, 12))).halves();
        let told: Vec<_> = halves.iter().map(|half| (half.range(), half.traces())).collect();
        assert_eq!(told, [((2, 7), 2), ((7, 12), 2)]);
        assert_eq!((halves[0].first(), halves[1].first()), (3, 7));
    }

    #[test]
    fn a_trace_is_cut_twice_at_most_and_less_at_first() {
        let body = format!(r#"{{"input":"{0}","output":"{0}"}}"#, "x".repeat(1 << 20));
        let part = Part { number: 1, finished_ms: 0, body: body.into() };
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
