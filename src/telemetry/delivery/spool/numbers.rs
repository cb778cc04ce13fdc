//! Whose a number is, where several processes write to one folder.
//!
//! Whoever begins a segment, or gets the right to deliver, is alone with the numbers while it looks at what
//! there is. So only then is it said that a gap is done with: what another has, or may still write, is none.

use super::folder::{self, Named};
use super::{Index, Spool};
use crate::locked::Locked;
use std::io;

/// Who waits numbers its traces so far above the highest that it sees that the one below never gets there.
const LEAP: u64 = 1 << 32;
/// No segment gets so long: an open one of another process ends below this.
const REACH: u64 = LEAP / 2;

impl Spool {
    /// Takes part in the folder: with the right to deliver, what others have left is taken over.
    pub(super) fn take_part(
        &self,
        index: &mut Index,
        may_deliver: bool,
        _alone: &Locked,
    ) -> io::Result<()> {
        let named = folder::list(&self.folder)?;
        let position = folder::load_position(&self.folder);
        if !may_deliver {
            index.next = end(&named).max(position.end()).saturating_add(LEAP);
            return Ok(());
        }
        for named in named {
            if !index.segments.contains_key(&named.first) {
                self.adopt(index, &named)?;
            }
        }
        // What is noted may have reached the disk without what was written, and no number twice.
        index.next = index.next.max(position.end());
        for segment in index.segments.values_mut() {
            // Ours that grows ends here if others are above it.
            segment.is_growing &= segment.next == index.next;
        }
        index.progress = position;
        let others = self.others(index)?;
        // Where this cannot be noted the gaps stay until a segment is begun, and delivering makes room.
        self.skip_gaps(index, &others).ok();
        index.delete_done()?;
        index.look_up_ages();
        Ok(())
    }

    /// A new segment for what comes next, above all that others have or are past; its first number.
    pub(super) fn begin(&self, index: &mut Index, _alone: &Locked) -> io::Result<(u64, Locked)> {
        let others = self.others(index)?;
        let position = folder::load_position(&self.folder);
        let may_deliver = index.lock.is_some();
        let is_past = !may_deliver && position.end() > index.next;
        if is_past || others.iter().any(|other| is_in_the_way(other, index.next, may_deliver)) {
            let highest = end(&others).max(position.end()).max(index.next);
            index.next = highest.saturating_add(LEAP);
        }
        if may_deliver {
            self.skip_gaps(index, &others)?;
        }
        Ok((index.next, folder::begin(&self.folder, index.next)?))
    }

    /// Segments of other processes, whether they live or not.
    fn others(&self, index: &Index) -> io::Result<Vec<Named>> {
        let mut named = folder::list(&self.folder)?;
        named.retain(|named| !index.segments.contains_key(&named.first));
        Ok(named)
    }

    /// Numbers that no segment holds are done with: they were dropped, or never given. It is noted before it
    /// holds, since others go by the note.
    fn skip_gaps(&self, index: &mut Index, others: &[Named]) -> io::Result<()> {
        let ours = index.segments.iter().map(|(first, segment)| (*first, Some(segment.next)));
        let mut held: Vec<_> = others.iter().map(|other| (other.first, other.next)).collect();
        held.extend(ours);
        held.sort_unstable();
        let starts = held.iter().map(|(first, _)| *first).skip(1).chain([u64::MAX]);
        let (mut progress, mut has_changed) = (index.progress.clone(), false);
        let mut at = progress.upto();
        for ((first, next), after) in held.iter().zip(starts) {
            if *first > at {
                has_changed |= progress.settle(at, (*first).min(index.next));
            }
            // An open one may hold all up to what comes next.
            at = at.max(next.unwrap_or(after));
        }
        has_changed |= progress.settle(at, index.next);
        if has_changed {
            folder::save_position(&mut index.position, &self.folder, &progress)?;
            index.progress = progress;
        }
        Ok(())
    }
}

/// One above the highest number that is known to be given.
fn end(named: &[Named]) -> u64 {
    let ends = named.iter().map(|named| named.next.unwrap_or(named.first));
    ends.max().unwrap_or_default()
}

/// Whether who goes on with this number may meet this segment. Who delivers stays below those that wait, and
/// only near ones matter; who waits is to be above all, since a gap below others may be done with.
fn is_in_the_way(other: &Named, number: u64, may_deliver: bool) -> bool {
    let end = other.next.unwrap_or(other.first.saturating_add(REACH));
    end > number && (!may_deliver || other.first < number.saturating_add(REACH))
}
