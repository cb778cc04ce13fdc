//! Traces compressed once, when they are written: what a record holds, and what exports are made of.
//!
//! The traces of a record are joined and become a stretch of deflate that begins and ends at a byte and
//! looks back at nothing before it. Such stretches make one stream when they stand side by side, so that
//! an export costs no compression, and on disk and in memory a trace is a fraction of what it says.

use crc32fast::Hasher;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use memchr::memmem;

/// Between two traces. A line never ends within one: in JSON texts that is an escape.
pub const BETWEEN: &[u8] = b",\n";
/// A longer trace is left out, in bytes: fields are cut long before (`langfuse.max_field`).
const MAX_TRACE: usize = 256 << 20;
/// A record that holds more is damage, in bytes.
pub const MAX_LENGTH: usize = MAX_TRACE + MOST_BYTES as usize;
/// And so is a longer one: text of other scripts that never repeats grows by an eighth at the fastest level.
pub const MAX_PACKED: usize = MAX_LENGTH / 8 * 9 + (1 << 20);
/// Bounds of one record: what a destination refuses is taken apart again, and several fill an export.
const MOST_TRACES: u32 = 128;
const MOST_BYTES: u32 = 448 << 10;
/// Short traces are gathered to so many bytes and then compressed, while they are in the cache.
const AT_ONCE: usize = 16 << 10;
/// Room for that which is kept, in bytes.
const KEPT: usize = 64 << 10;

/// What is packed into a record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Contents {
    /// Traces.
    pub traces: u32,
    /// Their bytes, with what stands between them.
    pub length: u32,
    /// The CRC-32 of these bytes.
    pub sum: u32,
}

/// What has become of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// It is packed.
    Packed,
    /// There was none.
    None,
    /// It is too long.
    TooLong,
}

/// Packs traces, record after record.
pub struct Packer {
    /// Not compressed yet.
    plain: Vec<u8>,
    deflate: Compress,
    sum: Hasher,
    contents: Contents,
}

impl Default for Packer {
    /// The fastest level: prompts shrink to a third with it, and the next level costs twice the time.
    fn default() -> Self {
        let deflate = Compress::new(Compression::fast(), false);
        Self { plain: Vec::new(), deflate, sum: Hasher::new(), contents: Contents::default() }
    }
}

impl Packer {
    /// Whether the record at hand has anything in it.
    pub const fn is_empty(&self) -> bool {
        self.contents.traces == 0
    }

    /// Whether the record at hand is large enough.
    pub const fn is_full(&self) -> bool {
        self.contents.traces >= MOST_TRACES || self.contents.length >= MOST_BYTES
    }

    /// Takes a trace, which `write` appends to what it is given unless there is none. What is compressed
    /// goes to `out`.
    pub fn add(&mut self, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> bool) -> Added {
        let start = self.plain.len();
        if !self.is_empty() {
            self.plain.extend_from_slice(BETWEEN);
        }
        let begun = self.plain.len();
        let is_one = write(&mut self.plain);
        debug_assert!(self.plain.get(begun..).and_then(|new| memmem::find(new, BETWEEN)).is_none());
        let length = self.plain.len() - start;
        let Some(length) = u32::try_from(length).ok().filter(|_| is_one && length <= MAX_TRACE)
        else {
            self.plain.truncate(start);
            self.plain.shrink_to(KEPT);
            return if is_one { Added::TooLong } else { Added::None };
        };
        self.contents.traces += 1;
        self.contents.length += length;
        if self.plain.len() >= AT_ONCE {
            self.compress(out, FlushCompress::None);
        }
        Added::Packed
    }

    /// Ends the record at hand; what is packed into it.
    pub fn finish(&mut self, out: &mut Vec<u8>) -> Contents {
        self.compress(out, FlushCompress::Sync);
        self.deflate.reset();
        let sum = std::mem::take(&mut self.sum).finalize();
        Contents { sum, ..std::mem::take(&mut self.contents) }
    }

    fn compress(&mut self, out: &mut Vec<u8>, flush: FlushCompress) {
        /// More than ends a record, and what no compression makes smaller.
        const MARGIN: usize = 1 << 10;
        self.sum.update(&self.plain);
        let mut rest = &*self.plain;
        loop {
            out.reserve(rest.len() / 4 + MARGIN);
            let before = (self.deflate.total_in(), out.len());
            // It fails only where it is used after its end.
            let outcome = self.deflate.compress_vec(rest, out, flush);
            let taken = usize::try_from(self.deflate.total_in() - before.0).unwrap_or(usize::MAX);
            rest = rest.get(taken..).unwrap_or_default();
            // It has said all there is where it leaves room.
            let is_done = rest.is_empty() && out.len() < out.capacity();
            if is_done || outcome.is_err() || (taken, out.len()) == (0, before.1) {
                break;
            }
        }
        self.plain.clear();
        self.plain.shrink_to(KEPT);
    }
}

/// The traces of a record as they were, joined; `None` where they are not what they are said to be.
pub fn unpack(packed: &[u8], contents: Contents) -> Option<Vec<u8>> {
    let length = contents.length as usize;
    // One more than is expected, to see whether there is more.
    let mut plain = Vec::with_capacity(length + 1);
    let mut inflate = Decompress::new(false);
    loop {
        let before = (inflate.total_in(), plain.len());
        let rest = packed.get(usize::try_from(before.0).ok()?..)?;
        let status = inflate.decompress_vec(rest, &mut plain, FlushDecompress::None).ok()?;
        let is_stuck = (inflate.total_in(), plain.len()) == before;
        if is_stuck || matches!(status, Status::StreamEnd) {
            break;
        }
    }
    let mut sum = Hasher::new();
    sum.update(&plain);
    (plain.len() == length && sum.finalize() == contents.sum).then_some(plain)
}

/// Each of some traces that are joined.
pub fn each(plain: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(plain);
    std::iter::from_fn(move || {
        let text = rest.take()?;
        let Some(at) = memmem::find(text, BETWEEN) else { return Some(text) };
        rest = text.get(at + BETWEEN.len()..);
        text.get(..at)
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::noise;
    use super::*;
    use proptest::prelude::{any, prop, prop_assert_eq, proptest};
    use std::io::Read as _;

    fn packed(packer: &mut Packer, traces: &[Vec<u8>]) -> (Vec<u8>, Contents) {
        let mut out = Vec::new();
        for trace in traces {
            let added = packer.add(&mut out, |plain| {
                plain.extend_from_slice(trace);
                true
            });
            assert_eq!(added, Added::Packed);
        }
        let contents = packer.finish(&mut out);
        (out, contents)
    }

    proptest! {
        #[test]
        fn what_is_packed_is_unpacked_and_stretches_make_one_stream(
            records in prop::collection::vec(
                prop::collection::vec((any::<u64>(), 1_usize..40_000), 1..6), 1..5,
            ),
        ) {
            // One that compresses badly, so that room runs out, and one that compresses well.
            let trace = |(seed, length): &(u64, usize)| -> Vec<u8> {
                if seed.is_multiple_of(2) {
                    return noise(&seed.to_string(), *length).into_bytes();
                }
                (b'a'..=b'g').cycle().take(*length).collect()
            };
            let mut packer = Packer::default();
            let (mut stream, mut all) = (Vec::new(), Vec::new());
            for record in records {
                let traces: Vec<Vec<u8>> = record.iter().map(trace).collect();
                let (bytes, contents) = packed(&mut packer, &traces);
                let plain = unpack(&bytes, contents).unwrap();
                prop_assert_eq!(&plain, &traces.join(BETWEEN));
                prop_assert_eq!(each(&plain).collect::<Vec<_>>().len(), contents.traces as usize);
                stream.extend(bytes);
                all.extend(plain);
            }
            // The last block of all: empty, and the end.
            stream.extend([1, 0, 0, 0xFF, 0xFF]);
            let mut read = Vec::new();
            flate2::read::DeflateDecoder::new(&*stream).read_to_end(&mut read).unwrap();
            prop_assert_eq!(read, all);
        }

        #[test]
        fn no_bytes_make_unpacking_panic_or_go_on(bytes in prop::collection::vec(any::<u8>(), 0..200), length in 0_u32..1_000) {
            prop_assert_eq!(unpack(&bytes, Contents { traces: 1, length, sum: 1 }), None);
        }
    }

    #[test]
    fn what_is_no_trace_leaves_nothing_behind() {
        let mut packer = Packer::default();
        let mut out = Vec::new();
        let mut add = |text: &str, is_one| {
            packer.add(&mut out, |plain| {
                plain.extend_from_slice(text.as_bytes());
                is_one
            })
        };
        assert_eq!((add("x", false), add("a", true)), (Added::None, Added::Packed));
        assert_eq!((add("y", false), add("b", true)), (Added::None, Added::Packed));
        let contents = packer.finish(&mut out);
        assert_eq!(contents.traces, 2);
        assert_eq!(unpack(&out, contents).unwrap(), b"a,\nb");
        assert!(packer.is_empty());
    }
}
