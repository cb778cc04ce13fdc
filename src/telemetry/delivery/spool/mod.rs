//! Traces on disk until their destination has accepted them: what is there, what goes, what goes first.

mod ages;
#[cfg(test)]
mod any_order;
pub mod append;
#[cfg(test)]
mod bad_disk;
mod folder;
mod numbers;
pub mod pack;
mod progress;
pub mod read;
mod recent;
pub mod record;
#[cfg(test)]
mod sharing;
#[cfg(test)]
pub(super) mod tests;

use crate::locked::Locked;
use ages::Ages;
use progress::Progress;
use recent::Recent;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use tokio::sync::Notify;

/// Segments are this share of the spool, so that one that must go for want of room is a small part.
const SEGMENTS: u64 = 8;
/// Bounds of a segment, in bytes.
const SEGMENT_BYTES: (u64, u64) = (64 << 10, 16 << 20);

/// One destination's spool: a writer appends, an exporter reads and settles.
pub struct Spool {
    folder: PathBuf,
    max_bytes: AtomicU64,
    index: Mutex<Index>,
    /// What was seen last.
    seen: Mutex<Holds>,
    /// There is something to read, or the right to deliver has come.
    grown: Notify,
    /// Written and not yet forced to the disk.
    unsynced: Mutex<Vec<Arc<Locked>>>,
}

#[derive(Default)]
struct Index {
    /// By the number of the first record.
    segments: BTreeMap<u64, Segment>,
    progress: Progress,
    ages: Ages,
    recent: Recent,
    /// The file of the last note of it.
    position: Option<File>,
    /// Number of the next trace.
    next: u64,
    /// Traces that the writer holds because the disk does not take them, and when the first of them
    /// finished.
    unwritten: u64,
    unwritten_ms: Option<u64>,
    /// Held while this process may deliver.
    lock: Option<Locked>,
    is_open: bool,
}

#[derive(Debug, Clone)]
struct Segment {
    path: PathBuf,
    /// One above its last trace.
    next: u64,
    /// Bytes that are written in full.
    bytes: u64,
    /// Bytes of the traces in it before they were packed; 0 where another process left it.
    length: u64,
    /// Whether more may come.
    is_growing: bool,
}

/// What a spool holds, for people.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Holds {
    /// Traces not delivered, on disk or not.
    pub records: u64,
    /// Those of them that the disk has not taken yet.
    pub unwritten: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// When the oldest of them finished, in milliseconds since 1970.
    pub oldest_ms: Option<u64>,
    /// Whether this process may deliver from here.
    pub is_ours: bool,
    /// Whether the folder could be used at all.
    pub is_open: bool,
}

impl Spool {
    /// A spool in this folder, which is not touched before [`Spool::open`].
    pub fn new(folder: PathBuf, max_bytes: u64) -> Self {
        Self {
            folder,
            max_bytes: AtomicU64::new(max_bytes),
            index: Mutex::default(),
            seen: Mutex::default(),
            grown: Notify::new(),
            unsynced: Mutex::default(),
        }
    }

    /// A new bound, in bytes; it holds from the next record on.
    pub fn bound(&self, max_bytes: u64) {
        self.max_bytes.store(max_bytes, Ordering::Relaxed);
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Opens the folder, and takes the right to deliver from it as soon as no other process has it.
    /// Cheap once both is done; call it again and again until then.
    ///
    /// # Errors
    /// The folder cannot be made, read or written.
    pub fn open(&self) -> io::Result<()> {
        let index = self.lock_index();
        let (is_open, is_ours) = (index.is_open, index.lock.is_some());
        drop(index);
        if is_ours {
            return Ok(());
        }
        if !is_open {
            folder::create(&self.folder)?;
        }
        let lock = folder::lock(&self.folder)?;
        if lock.is_some() || !is_open {
            // Nobody who asks for the index waits meanwhile.
            let alone = folder::alone(&self.folder)?;
            let mut index = self.lock_index();
            self.take_part(&mut index, lock.is_some(), &alone)?;
            (index.is_open, index.lock) = (true, lock);
        }
        self.grown.notify_one();
        Ok(())
    }

    fn adopt(&self, index: &mut Index, named: &folder::Named) -> io::Result<()> {
        let Some(taken) = folder::take_over(&self.folder, named)? else { return Ok(()) };
        let Some(next) = taken.next else { return Ok(()) };
        let bytes = fs::metadata(&taken.path)?.len();
        let segment = Segment { path: taken.path, next, bytes, length: 0, is_growing: false };
        index.next = index.next.max(next);
        index.segments.insert(named.first, segment);
        Ok(())
    }

    /// Whether the folder could be used.
    pub fn is_open(&self) -> bool {
        self.lock_index().is_open
    }

    /// What it holds now; what it held when last asked, while the disk is being waited for: a
    /// request asks for this, and must not hang with a disk that does.
    pub fn holds(&self) -> Holds {
        self.holds_now().unwrap_or_else(|| *lock(&self.seen))
    }

    /// What it holds now; `None` while the disk is being waited for.
    pub fn holds_now(&self) -> Option<Holds> {
        let index = match self.index.try_lock() {
            Ok(index) => index,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        let mut holds = Holds::default();
        for (first, segment) in &index.segments {
            holds.bytes += segment.bytes;
            holds.records += index.progress.undone(*first, segment.next);
        }
        if holds.records > 0 {
            let oldest = index.undone().next().map(|(number, _)| number);
            holds.oldest_ms = oldest.and_then(|number| index.ages.at(number));
        }
        if index.unwritten > 0 {
            holds.unwritten = index.unwritten;
            holds.records += index.unwritten;
            holds.oldest_ms = [holds.oldest_ms, index.unwritten_ms].into_iter().flatten().min();
        }
        (holds.is_ours, holds.is_open) = (index.lock.is_some(), index.is_open);
        drop(index);
        *lock(&self.seen) = holds;
        Some(holds)
    }

    /// Waits until there may be something new to read.
    pub async fn grown(&self) {
        self.grown.notified().await;
    }

    /// Makes the exporter look, though nothing has come.
    pub fn look(&self) {
        self.grown.notify_one();
    }

    /// An export has taken `from..to`, of which the `first` record has this number and finished at
    /// that time. The lowest number that is left: what was dropped meanwhile for want of room has
    /// been counted and stays dropped.
    fn claim(&self, from: u64, to: u64, first: Option<(u64, u64)>) -> u64 {
        let mut index = self.lock_index();
        if let Some((number, finished_ms)) = first {
            index.ages.mark(number, finished_ms);
        }
        let from = from.max(index.progress.upto());
        index.progress.claim(from, to);
        from
    }

    /// An export has let go of these, which are read anew. How many of them it held when they went for want
    /// of room, and nobody has counted.
    pub fn release(&self, stretches: impl Iterator<Item = (u64, u64)>) -> u64 {
        let mut index = self.lock_index();
        stretches.map(|(from, to)| index.progress.release(from, to)).sum()
    }

    /// `from..to` are done with; whole segments of them are deleted.
    ///
    /// # Errors
    /// The position could not be written, or a file not deleted. All the same they are done with
    /// for this process.
    pub fn settle(&self, from: u64, to: u64) -> io::Result<()> {
        let mut index = self.lock_index();
        if !index.settle(from, to) {
            return Ok(());
        }
        // On a full disk the position cannot be noted, and deleting files makes room for it.
        let Index { position, progress, .. } = &mut *index;
        let noted = folder::save_position(position, &self.folder, progress);
        noted.and(index.delete_done())
    }

    /// Forces to the disk what was written since the last time; what takes long waits here alone.
    ///
    /// # Errors
    /// The disk says no.
    pub fn sync(&self) -> io::Result<()> {
        let files = std::mem::take(&mut *lock(&self.unsynced));
        if files.is_empty() {
            return Ok(());
        }
        let synced = files.iter().try_for_each(|file| file.sync_data());
        // The names of new segments stand in the folder.
        synced.and_then(|()| crate::folder::sync(&self.folder))
    }

    /// Lets go of what was written and is deleted already: it needs no disk.
    pub fn forget_deleted(&self) {
        let is_there = |file: &Arc<Locked>| file.metadata().is_ok_and(|file| file.nlink() > 0);
        lock(&self.unsynced).retain(is_there);
    }

    /// Files that are not forced to the disk yet.
    #[cfg(test)]
    pub(super) fn unsynced(&self) -> usize {
        lock(&self.unsynced).len()
    }

    fn lock_index(&self) -> MutexGuard<'_, Index> {
        lock(&self.index)
    }

    fn segment_bytes(&self) -> u64 {
        let share = self.max_bytes.load(Ordering::Relaxed) / SEGMENTS;
        share.clamp(SEGMENT_BYTES.0, SEGMENT_BYTES.1)
    }
}

impl Index {
    /// Deletes the oldest segment; how many records are lost with it that no export had taken.
    /// `None` where there is none.
    fn drop_oldest(&mut self) -> io::Result<Option<u64>> {
        let Some((first, segment)) = self.segments.pop_first() else { return Ok(None) };
        let lost = self.progress.waiting(first, segment.next);
        self.progress.settle(first, segment.next);
        remove(&segment.path).map(|()| Some(lost))
    }

    /// `from..to` are done with, as far as they are in segments: what is between them may be another's.
    /// Whether anything changed.
    fn settle(&mut self, from: u64, to: u64) -> bool {
        self.progress.unclaim(from, to);
        let mut has_changed = false;
        for (first, segment) in self.segments.range(..to).filter(|(_, one)| one.next > from) {
            has_changed |= self.progress.settle(from.max(*first), to.min(segment.next));
        }
        has_changed
    }

    /// Segments that are not done with, and the first number in each that is not.
    fn undone(&self) -> impl Iterator<Item = (u64, &Segment)> {
        let segments = self.segments.iter();
        let from = segments.map(|(first, segment)| (self.progress.next_undone(*first), segment));
        from.filter(|(number, segment)| *number < segment.next)
    }

    /// How old what another process left is: exactly for the first record that is not done with.
    fn look_up_ages(&mut self) {
        let mut marks = Vec::new();
        for (number, segment) in self.undone() {
            marks.extend(folder::finished_ms(&segment.path, number).map(|ms| (number, ms)));
        }
        for (number, finished_ms) in marks {
            self.ages.mark(number, finished_ms);
        }
    }

    /// Also those above what another process has yet to do.
    fn delete_done(&mut self) -> io::Result<()> {
        let is_done = |(first, segment): &(&u64, &Segment)| {
            !segment.is_growing && self.progress.undone(**first, segment.next) == 0
        };
        let done: Vec<_> = self.segments.iter().filter(is_done).map(|(first, _)| *first).collect();
        for path in done.iter().filter_map(|first| self.segments.remove(first)).map(|one| one.path)
        {
            empty(&path);
            remove(&path)?;
        }
        Ok(())
    }
}

/// Frees the blocks of a file that is about to be deleted: who read it may have it open still, and on a
/// full disk nothing more comes that would make it look on. Where this fails deleting it may do.
fn empty(path: &Path) {
    drop(File::options().write(true).open(path).and_then(|file| file.set_len(0)));
}

/// Deletes a file; one that is gone already is as good.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
