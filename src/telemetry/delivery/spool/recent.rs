//! What was written a moment ago and is still in memory: an exporter that follows closely need not
//! read it from the file again.

use bytes::Bytes;
use std::collections::VecDeque;

/// Bound on all of it, in bytes: an export's worth. What it keeps alive may be twice that, since chunks
/// that were written together are parts of one piece of memory.
pub(super) const MOST_RECENT: usize = 2 << 20;

/// The last chunks written, oldest first.
#[derive(Default)]
pub(super) struct Recent {
    chunks: VecDeque<Chunk>,
    bytes: usize,
}

struct Chunk {
    /// First number of its segment, and its place in the segment's file.
    segment: u64,
    offset: u64,
    bytes: Bytes,
}

impl Recent {
    /// Whole records that were written to this place of a segment.
    pub(super) fn put(&mut self, segment: u64, offset: u64, bytes: Bytes) {
        self.bytes += bytes.len();
        self.chunks.push_back(Chunk { segment, offset, bytes });
        while self.bytes > MOST_RECENT && self.forget_first() {}
    }

    /// What stands at this place of a segment and behind it, as far as it is here. What stands before
    /// is forgotten: there is one reader, and it does not come back but to the file.
    pub(super) fn at(&mut self, segment: u64, offset: u64) -> Option<Bytes> {
        loop {
            let first = self.chunks.front()?;
            let end = first.offset + first.bytes.len() as u64;
            if (first.segment, end) > (segment, offset) {
                let from = usize::try_from(offset.checked_sub(first.offset)?).ok()?;
                return (first.segment == segment).then(|| first.bytes.slice(from..));
            }
            self.forget_first();
        }
    }

    fn forget_first(&mut self) -> bool {
        let first = self.chunks.pop_front();
        self.bytes -= first.as_ref().map_or(0, |first| first.bytes.len());
        first.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_here_is_given_and_what_was_passed_is_forgotten() {
        let mut recent = Recent::default();
        assert_eq!(recent.at(0, 0), None);
        recent.put(7, 10, Bytes::from_static(b"abcd"));
        recent.put(7, 14, Bytes::from_static(b"ef"));
        recent.put(9, 0, Bytes::from_static(b"gh"));
        assert_eq!((recent.at(7, 0), recent.at(5, 12)), (None, None));
        assert_eq!(recent.at(7, 12).as_deref(), Some(&b"cd"[..]));
        assert_eq!(recent.at(7, 14).as_deref(), Some(&b"ef"[..]));
        assert_eq!(recent.at(7, 10), None, "passed");
        assert_eq!(recent.at(7, 16), None, "the other segment");
        assert_eq!(recent.at(9, 0).as_deref(), Some(&b"gh"[..]));
        assert_eq!((recent.at(9, 2), recent.bytes), (None, 0));
    }

    #[test]
    fn it_is_bounded() {
        let mut recent = Recent::default();
        let chunk = Bytes::from(vec![0; 256 << 10]);
        for number in 0..20 {
            recent.put(0, number * chunk.len() as u64, chunk.clone());
        }
        assert_eq!(recent.bytes, MOST_RECENT);
        assert_eq!(
            (recent.at(0, 0), recent.at(0, 12 * chunk.len() as u64).is_some()),
            (None, true)
        );
        recent.put(0, 0, Bytes::from(vec![0; 3 << 20]));
        assert_eq!((recent.bytes, recent.chunks.len()), (0, 0));
    }
}
