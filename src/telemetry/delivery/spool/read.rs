//! The reading end of a spool: every record once, in order, over damage and gaps.

use super::progress::Progress;
use super::record::{self, Step};
use super::{Segment, Spool};
use bytes::Bytes;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::sync::Arc;

/// Read with one call at least, in bytes.
const WINDOW: usize = 256 << 10;

/// One record on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its number in the spool.
    pub number: u64,
    /// When its call finished, in milliseconds since 1970.
    pub finished_ms: u64,
    /// What was written: a part of the window it was read with, which stays as long as it does.
    pub body: Bytes,
}

/// A stretch of the spool that an export has taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lot {
    /// First number taken.
    pub from: u64,
    /// One above the last number taken.
    pub to: u64,
    /// The records, in order.
    pub parts: Vec<Part>,
    /// Records among them that damage has taken.
    pub lost: u64,
}

/// Where the one exporter of a spool is.
pub struct Cursor {
    spool: Arc<Spool>,
    /// What an earlier process had done.
    before: Progress,
    /// Next number wanted.
    next: u64,
    file: Option<Reading>,
    /// Read, and too much for the lot it was read for.
    held: Option<Part>,
    lost: u64,
}

struct Reading {
    /// First number of the segment.
    segment: u64,
    file: File,
    /// Place of `window` in the file.
    offset: u64,
    window: Bytes,
    /// Whether that is what was written, and not what was read.
    is_memory: bool,
    /// Place in `window`.
    at: usize,
}

impl Cursor {
    /// Reading begins where the position says; `None` while this process may not deliver.
    pub fn new(spool: Arc<Spool>) -> Option<Self> {
        let before = {
            let index = spool.lock_index();
            index.lock.as_ref().map(|_| index.progress.clone())?
        };
        Some(Self { next: before.upto(), before, spool, file: None, held: None, lost: 0 })
    }

    /// How many records, and about how many bytes, nobody has taken yet.
    pub fn waiting(&self) -> (u64, u64) {
        let index = self.spool.lock_index();
        let (mut records, mut bytes) = (0, 0);
        for (first, segment) in &index.segments {
            let left = segment.next.saturating_sub((*first).max(self.next));
            let read = self.file.as_ref().filter(|reading| reading.segment == *first);
            let read = read.map_or(0, |reading| reading.offset + reading.at as u64);
            records += left;
            bytes += if left > 0 { segment.bytes.saturating_sub(read) } else { 0 };
        }
        let held = self.held.as_ref().map_or(0, |part| part.body.len() as u64);
        (records + u64::from(self.held.is_some()), bytes + held)
    }

    /// Takes what comes next, at most so many records and, with more than one, bytes. `None` where
    /// nothing waits.
    ///
    /// # Errors
    /// A segment could not be read; trying again tries the same place.
    pub fn take(&mut self, most: usize, most_bytes: usize) -> io::Result<Option<Lot>> {
        let from = self.held.as_ref().map_or(self.next, |part| part.number);
        let (mut parts, mut bytes) = (Vec::new(), 0);
        while parts.len() < most {
            let part = match self.held.take().map_or_else(|| self.record(), |part| Ok(Some(part))) {
                Ok(Some(part)) => part,
                Err(error) if parts.is_empty() => return Err(error),
                // An error comes again once these are on their way.
                Ok(None) | Err(_) => break,
            };
            if !parts.is_empty() && bytes + part.body.len() > most_bytes {
                self.held = Some(part);
                break;
            }
            bytes += part.body.len();
            parts.push(part);
        }
        let to = self.held.as_ref().map_or(self.next, |part| part.number);
        let lost = std::mem::take(&mut self.lost);
        if parts.is_empty() && lost == 0 {
            return Ok(None);
        }
        let first = parts.first().map(|part| (part.number, part.finished_ms));
        let from = self.spool.claim(from, to, first);
        // Dropped, and counted, while they were read.
        parts.retain(|part| part.number >= from);
        Ok(Some(Lot { from, to, parts, lost }))
    }

    /// Gives up the rest of the segment that cannot be read.
    pub fn skip_segment(&mut self) {
        if let Some((first, segment)) = self.segment() {
            self.lost += segment.next.saturating_sub(self.next.max(first));
            self.next = segment.next;
        }
        self.file = None;
    }

    /// The segment that has the next number, or the next one that there is.
    fn segment(&self) -> Option<(u64, Segment)> {
        let index = self.spool.lock_index();
        let next = self.next.max(index.progress.upto());
        let mut segments = index.segments.iter();
        let found = segments.find(|(_, segment)| segment.next > next || segment.is_growing);
        found.map(|(first, segment)| (*first, segment.clone()))
    }

    /// The next record, if it is in the window: found without a look at the spool.
    fn at_hand(&mut self) -> Option<Part> {
        let number = self.next;
        let reading = self.file.as_mut().filter(|_| !self.before.is_done(number))?;
        let (finished_ms, body) = reading.at_hand(number)?;
        self.next = number.saturating_add(1);
        Some(Part { number, finished_ms, body })
    }

    fn record(&mut self) -> io::Result<Option<Part>> {
        if let Some(part) = self.at_hand() {
            return Ok(Some(part));
        }
        while let Some((first, segment)) = self.segment() {
            // Across a gap, or what was dropped for want of room.
            let upto = self.spool.lock_index().progress.upto();
            self.next = self.next.max(first).max(upto.min(segment.next));
            let Some(mut reading) = self.reading(first, &segment)? else {
                if segment.is_growing && self.next >= segment.next {
                    return Ok(None);
                }
                continue;
            };
            while let Some((number, finished_ms, body)) =
                reading.record(&self.spool, segment.bytes)?
            {
                if number < self.next {
                    continue;
                }
                self.lost += number - self.next;
                self.next = number.saturating_add(1);
                if !self.before.is_done(number) {
                    self.file = Some(reading);
                    return Ok(Some(Part { number, finished_ms, body }));
                }
            }
            if segment.is_growing {
                self.file = Some(reading);
                return Ok(None);
            }
            self.lost += segment.next.saturating_sub(self.next);
            self.next = self.next.max(segment.next);
        }
        Ok(None)
    }

    /// The segment's file, opened where it is not; `None` where it was renamed just now, or is
    /// gone for good and its records with it.
    fn reading(&mut self, first: u64, segment: &Segment) -> io::Result<Option<Reading>> {
        if let Some(reading) = self.file.take().filter(|reading| reading.segment == first) {
            return Ok(Some(reading));
        }
        match Reading::open(first, segment) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if self.is_gone(first, segment) {
                    self.skip_segment();
                }
                Ok(None)
            }
            opened => opened.map(Some),
        }
    }

    /// Whether the file is gone though the index has it: somebody removed it by hand.
    fn is_gone(&self, first: u64, segment: &Segment) -> bool {
        let index = self.spool.lock_index();
        index.segments.get(&first).is_some_and(|now| now.path == segment.path)
            && !segment.path.exists()
    }
}

impl Reading {
    fn open(segment: u64, named: &Segment) -> io::Result<Self> {
        let file = File::open(&named.path)?;
        Ok(Self { segment, file, offset: 0, window: Bytes::new(), is_memory: false, at: 0 })
    }

    /// What stands here of the window.
    fn step(&self, left: u64) -> Step<'_> {
        let seen = self.window.get(self.at..).unwrap_or_default();
        if self.is_memory { record::step_in_memory(seen, left) } else { record::step(seen, left) }
    }

    /// The record that stands here, whole, if it is the one with this number.
    fn at_hand(&mut self, number: u64) -> Option<(u64, Bytes)> {
        match self.step(self.window.len().saturating_sub(self.at) as u64) {
            Step::Record(record, taken) if record.number == number => {
                let found = (record.finished_ms, self.window.slice_ref(record.body));
                self.at += taken;
                Some(found)
            }
            Step::Record(..) | Step::Skip(_) | Step::More(_) | Step::End => None,
        }
    }

    /// The next intact record of the first `bytes` of the file.
    fn record(&mut self, spool: &Spool, bytes: u64) -> io::Result<Option<(u64, u64, Bytes)>> {
        loop {
            let here = self.offset + self.at as u64;
            match self.step(bytes.saturating_sub(here)) {
                Step::Record(record, taken) => {
                    let body = self.window.slice_ref(record.body);
                    let found = (record.number, record.finished_ms, body);
                    self.at += taken;
                    return Ok(Some(found));
                }
                Step::Skip(skipped) => self.at += skipped,
                Step::More(wanted) => self.fill(spool, wanted, bytes)?,
                Step::End => return Ok(None),
            }
        }
    }

    /// Sees at least `wanted` bytes from here, of which there are so many.
    fn fill(&mut self, spool: &Spool, wanted: usize, bytes: u64) -> io::Result<()> {
        self.offset += self.at as u64;
        self.at = 0;
        let left = usize::try_from(bytes.saturating_sub(self.offset)).unwrap_or(usize::MAX);
        if let Some(mut recent) = spool.lock_index().recent.at(self.segment, self.offset)
            && recent.len() >= wanted
        {
            recent.truncate(left);
            (self.window, self.is_memory) = (recent, true);
            return Ok(());
        }
        let length = wanted.max(WINDOW).min(left);
        let mut window = Vec::with_capacity(length);
        // Also what was seen before: the last record of a window is read twice at most.
        self.file.seek(SeekFrom::Start(self.offset))?;
        let read = (&mut self.file).take(length as u64).read_to_end(&mut window)?;
        (self.window, self.is_memory) = (window.into(), false);
        if read < length { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }
}
