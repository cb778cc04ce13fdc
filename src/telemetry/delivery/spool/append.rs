//! The writing end of a spool: traces gather in memory for an instant, then go to a segment at once.

use super::pack::{Added, Contents, Packer};
use super::recent::MOST_RECENT;
use super::record::{self, BLANK, Head};
use super::{Segment, Spool, folder, lock};
use crate::locked::Locked;
use bytes::Bytes;
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Written with one call at most, in bytes; a longer record goes alone.
const CHUNK: usize = 256 << 10;
/// Bound on records that could not be written, in bytes; beyond it the oldest are dropped and counted.
const MAX_PENDING: usize = 16 << 20;
/// Dropped at once, in bytes: taking from the front moves all that stays.
const DROPPED_AT_ONCE: usize = 1 << 20;

/// Writes to one spool; there is one for each.
pub struct Appender {
    spool: Arc<Spool>,
    /// Records without their headers, joined; traces are packed into the last one as they come.
    pending: Vec<u8>,
    packer: Packer,
    /// Where that one begins, and when the first of its calls finished.
    begun: (usize, u64),
    /// Every record before it.
    waiting: VecDeque<Waiting>,
    active: Option<Active>,
    /// The disk was full when it was last tried, and dropping what is on it may make room.
    may_drop: bool,
    /// Whether others were told last that something waits.
    has_told: bool,
}

/// A record in memory.
struct Waiting {
    /// Of the whole, in bytes.
    length: usize,
    /// When the first of its calls finished, in milliseconds since 1970.
    finished_ms: u64,
    contents: Contents,
}

impl Waiting {
    fn traces(&self) -> u64 {
        self.contents.traces.into()
    }
}

struct Active {
    file: Arc<Locked>,
    first: u64,
    bytes: u64,
    /// When it was last written to.
    written: Instant,
}

/// What a flush did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flushed {
    /// Traces written.
    pub written: u64,
    /// Traces deleted on disk to make room, that nobody had sent yet.
    pub dropped: u64,
    /// Traces dropped from memory: the disk does not take them, or they are too long.
    pub overflown: u64,
}

impl Appender {
    /// A writer to this spool.
    pub fn new(spool: Arc<Spool>) -> Self {
        Self {
            spool,
            pending: Vec::new(),
            packer: Packer::default(),
            begun: (0, 0),
            waiting: VecDeque::new(),
            active: None,
            may_drop: false,
            has_told: false,
        }
    }

    /// Takes a trace, which `write` appends to what it is given; none where it says so. Where the disk does
    /// not take what came before, and memory is full of it, the oldest goes, which is added to `flushed`.
    pub fn push(
        &mut self,
        finished_ms: u64,
        flushed: &mut Flushed,
        write: impl FnOnce(&mut Vec<u8>) -> bool,
    ) {
        if self.pending.len() > MAX_PENDING {
            self.make_way(flushed);
        }
        let is_first = self.packer.is_empty();
        if is_first {
            self.begun = (self.pending.len(), finished_ms);
            self.pending.extend_from_slice(&BLANK);
        }
        let added = self.packer.add(&mut self.pending, write);
        if is_first && added != Added::Packed {
            self.pending.truncate(self.begun.0);
        }
        flushed.overflown += u64::from(added == Added::TooLong);
        if self.packer.is_full() {
            self.end_record();
        }
    }

    /// What comes next goes into a record of its own.
    fn end_record(&mut self) {
        if self.packer.is_empty() {
            return;
        }
        let contents = self.packer.finish(&mut self.pending);
        let (start, finished_ms) = self.begun;
        let length = self.pending.len() - start;
        self.waiting.push_back(Waiting { length, finished_ms, contents });
    }

    /// Takes a trace as it stands.
    #[cfg(test)]
    pub(super) fn take(&mut self, finished_ms: u64, body: &[u8], flushed: &mut Flushed) {
        self.push(finished_ms, flushed, |out| {
            out.extend_from_slice(body);
            true
        });
    }

    /// On a full disk the oldest are those on it; without one that helps, those that wait longest.
    fn make_way(&mut self, flushed: &mut Flushed) {
        self.end_record();
        if std::mem::take(&mut self.may_drop) && self.drop_segment(flushed) {
            let before = self.pending.len();
            // How it went shows in what is left; the next regular try tells of it.
            let outcome = self.write_out(flushed);
            self.may_drop = outcome.is_err() && self.pending.len() < before;
        }
        if self.pending.len() <= MAX_PENDING {
            return;
        }
        let (mut count, mut bytes) = (0, 0);
        for record in &self.waiting {
            if bytes >= DROPPED_AT_ONCE {
                break;
            }
            (count, bytes) = (count + 1, bytes + record.length);
        }
        flushed.overflown += self.waiting.drain(..count).map(|record| record.traces()).sum::<u64>();
        self.pending.drain(..bytes);
    }

    /// Drops the oldest segment; whether there was one.
    fn drop_segment(&self, flushed: &mut Flushed) -> bool {
        let mut index = self.spool.lock_index();
        if let Some((_, oldest)) = index.segments.first_key_value() {
            super::empty(&oldest.path);
        }
        let lost = index.drop_oldest().ok().flatten();
        flushed.dropped += lost.unwrap_or_default();
        lost.is_some()
    }

    /// Whether enough has gathered to be worth a write.
    pub const fn is_worth_a_write(&self) -> bool {
        self.pending.len() >= CHUNK
    }

    /// Bytes not written yet.
    pub const fn pending_bytes(&self) -> usize {
        self.pending.len()
    }

    /// Writes what has gathered. What was done is added to `flushed`, also where it fails.
    ///
    /// # Errors
    /// The folder or the disk says no; what is not written is kept, so try again.
    pub fn flush(&mut self, flushed: &mut Flushed) -> io::Result<()> {
        self.end_record();
        let outcome = self.write_out(flushed);
        let is_full = |error: &io::Error| {
            matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
        };
        self.may_drop = outcome.as_ref().is_err_and(is_full);
        if self.may_drop
            && let Some(active) = self.active.take()
        {
            // One that grows is not deleted, also where all in it is delivered.
            self.seal(active, flushed)?;
        }
        outcome
    }

    fn write_out(&mut self, flushed: &mut Flushed) -> io::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        if !self.spool.is_open() {
            self.spool.open()?;
        }
        let mut written = 0;
        let mut places = Vec::new();
        let outcome = loop {
            let (count, length) = self.chunk();
            if count == 0 {
                break Ok(());
            }
            match self.write(written, (count, length), flushed) {
                Ok((segment, offset)) => places.push((segment, offset, written..written + length)),
                Err(error) => break Err(error),
            }
            written += length;
            flushed.written +=
                self.waiting.drain(..count).map(|record| record.traces()).sum::<u64>();
        };
        if outcome.is_err() {
            self.pending.drain(..written);
            self.pending.shrink_to(MOST_RECENT);
            return outcome;
        }
        if self.pending.capacity() > MOST_RECENT {
            // After an outage: its memory is given back.
            self.pending = Vec::new();
            return Ok(());
        }
        let next = Vec::with_capacity(self.pending.len());
        let all = Bytes::from(std::mem::replace(&mut self.pending, next));
        let mut index = self.spool.lock_index();
        for (segment, offset, range) in places {
            index.recent.put(segment, offset, all.slice(range));
        }
        Ok(())
    }

    /// How many records, and bytes, the next write takes.
    fn chunk(&self) -> (usize, usize) {
        let (mut count, mut bytes) = (0, 0);
        for record in &self.waiting {
            if count > 0 && bytes + record.length > CHUNK {
                break;
            }
            (count, bytes) = (count + 1, bytes + record.length);
        }
        (count, bytes)
    }

    /// Writes some records; to which segment, and where in it.
    fn write(
        &mut self,
        from: usize,
        (count, length): (usize, usize),
        flushed: &mut Flushed,
    ) -> io::Result<(u64, u64)> {
        self.make_room(length as u64, flushed)?;
        let mut active = self.active(flushed)?;
        let chunk = self.pending.get_mut(from..from + length).unwrap_or_default();
        let mut rest = &mut *chunk;
        let mut number = lock(&self.spool.index).next;
        for waiting in self.waiting.iter().take(count) {
            let Some((record, after)) = rest.split_at_mut_checked(waiting.length) else { break };
            let Waiting { finished_ms, contents, .. } = *waiting;
            record::seal(record, &Head { number, finished_ms, contents });
            number += waiting.traces();
            rest = after;
        }
        let place = (active.first, active.bytes);
        // At a place, not at the end: a write that fails half-way is written over by the next.
        let outcome = active.file.write_all_at(chunk, active.bytes).map(|()| place);
        if outcome.is_ok() {
            active.bytes += length as u64;
            active.written = Instant::now();
            // Only now: the syncer may have taken it for what was written before.
            let mut unsynced = lock(&self.spool.unsynced);
            if !unsynced.iter().any(|file| Arc::ptr_eq(file, &active.file)) {
                unsynced.push(Arc::clone(&active.file));
            }
            drop(unsynced);
            self.commit(&active, count);
        }
        if outcome.is_err() {
            // Whole records of what it left would be read at a restart, under numbers that others get.
            drop(active.file.set_len(active.bytes));
        }
        self.active = Some(active);
        outcome
    }

    /// From now on the exporter sees them.
    fn commit(&self, active: &Active, count: usize) {
        let written = || self.waiting.iter().take(count);
        let traces: u64 = written().map(Waiting::traces).sum();
        let length: u64 = written().map(|record| u64::from(record.contents.length)).sum();
        let mut index = self.spool.lock_index();
        let (first, upto) = (index.next, index.progress.upto());
        if let Some(oldest) = self.waiting.front() {
            index.ages.note(first, oldest.finished_ms, upto);
        }
        index.next = first + traces;
        // What others were told of as waiting is on disk now.
        index.unwritten = index.unwritten.saturating_sub(traces);
        if let Some(segment) = index.segments.get_mut(&active.first) {
            (segment.next, segment.bytes) = (first + traces, active.bytes);
            segment.length += length;
        }
        drop(index);
        self.spool.grown.notify_one();
    }

    /// Drops the oldest segments until there is room.
    fn make_room(&self, length: u64, flushed: &mut Flushed) -> io::Result<()> {
        let most = self.spool.max_bytes.load(Ordering::Relaxed);
        let mut index = self.spool.lock_index();
        loop {
            let held: u64 = index.segments.values().map(|segment| segment.bytes).sum();
            if held + length <= most {
                return Ok(());
            }
            let Some(lost) = index.drop_oldest()? else { return Ok(()) };
            flushed.dropped += lost;
        }
    }

    /// The segment to write to: the one so far, unless it is full or gone.
    fn active(&mut self, flushed: &mut Flushed) -> io::Result<Active> {
        if let Some(active) = self.active.take() {
            let index = self.spool.lock_index();
            let known = index.segments.get(&active.first);
            let is_known = known.is_some_and(|one| one.is_growing && one.next == index.next);
            drop(index);
            let is_there = active.file.metadata().is_ok_and(|file| file.nlink() > 0);
            if is_known && is_there && active.bytes < self.spool.segment_bytes() {
                return Ok(active);
            }
            self.seal(active, flushed)?;
        }
        folder::create(&self.spool.folder)?;
        let alone = folder::alone(&self.spool.folder)?;
        let mut index = self.spool.lock_index();
        let (first, file) = self.spool.begin(&mut index, &alone)?;
        let file = Arc::new(file);
        let path = folder::open_path(&self.spool.folder, first);
        let segment = Segment { path, next: first, bytes: 0, length: 0, is_growing: true };
        index.segments.insert(first, segment);
        Ok(Active { file, first, bytes: 0, written: Instant::now() })
    }

    /// Nothing more comes into this segment; where that cannot be said it stays the active one.
    fn seal(&mut self, active: Active, flushed: &mut Flushed) -> io::Result<()> {
        let spool = Arc::clone(&self.spool);
        let mut index = spool.lock_index();
        let Some(segment) = index.segments.get_mut(&active.first) else { return Ok(()) };
        let (first, next) = (active.first, segment.next);
        let sealed = if first == next {
            super::remove(&segment.path).map(|()| None)
        } else {
            folder::seal(&spool.folder, &segment.path, (first, next)).map(Some)
        };
        match sealed {
            Ok(Some(path)) => (segment.path, segment.is_growing) = (path, false),
            Ok(None) => {
                index.segments.remove(&first);
            }
            // Removed by somebody else: what was in it is lost, and no longer waits.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                index.segments.remove(&first);
                flushed.dropped += index.progress.waiting(first, next);
                index.progress.settle(first, next);
            }
            Err(error) => {
                self.active = Some(active);
                return Err(error);
            }
        }
        index.delete_done()
    }

    /// Lets go of the segment that grows once all in it is delivered and nothing was added for so long: what
    /// callers wrote is not to stay on disk until there is more of it.
    ///
    /// # Errors
    /// The disk says no; it is tried again.
    pub fn let_go(&mut self, idle: Duration, flushed: &mut Flushed) -> io::Result<()> {
        let Some(active) = self.active.take_if(|active| active.written.elapsed() >= idle) else {
            return Ok(());
        };
        let index = self.spool.lock_index();
        let segment = index.segments.get(&active.first);
        let is_done =
            segment.is_none_or(|segment| index.progress.undone(active.first, segment.next) == 0);
        drop(index);
        if !is_done {
            self.active = Some(active);
            return Ok(());
        }
        self.seal(active, flushed)
    }

    /// Lets others know how much waits in memory for a disk that does not take it.
    pub fn tell(&mut self) {
        self.end_record();
        let is_waiting = !self.waiting.is_empty();
        if is_waiting || self.has_told {
            let mut index = self.spool.lock_index();
            index.unwritten = self.waiting.iter().map(Waiting::traces).sum();
            index.unwritten_ms = self.waiting.front().map(|record| record.finished_ms);
        }
        self.has_told = is_waiting;
    }

    /// Writes what it can and names the last segment for good, for the end of the process.
    ///
    /// # Errors
    /// As for [`Appender::flush`]; what is not written is lost, and counted as dropped from memory.
    pub fn close(&mut self, flushed: &mut Flushed) -> io::Result<()> {
        let written = self.flush(flushed);
        flushed.overflown += self.waiting.drain(..).map(|record| record.traces()).sum::<u64>();
        self.pending = Vec::new();
        self.tell();
        let sealed = self.active.take().map_or(Ok(()), |active| self.seal(active, flushed));
        self.spool.grown.notify_one();
        written.and(sealed)
    }
}
