//! The reading end of a spool: every trace once, in order, over damage and gaps.

use super::pack::{self, Contents, Packer};
use super::progress::Progress;
use super::record::{self, Head, Record, Step};
use super::{Segment, Spool};
use bytes::Bytes;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::sync::Arc;

/// Read with one call at least, in bytes.
const WINDOW: usize = 256 << 10;

/// Some traces on their way, as one record holds them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Which they are.
    pub head: Head,
    /// What was written: a part of the window it was read with, which stays as long as it does.
    pub packed: Bytes,
}

impl Part {
    /// One trace, packed.
    pub fn one(packer: &mut Packer, (number, finished_ms): (u64, u64), trace: &[u8]) -> Self {
        let mut packed = Vec::new();
        let _is_packed = packer.add(&mut packed, |plain| {
            plain.extend_from_slice(trace);
            true
        });
        let contents = packer.finish(&mut packed);
        Self { head: Head { number, finished_ms, contents }, packed: packed.into() }
    }

    /// Number of the first.
    pub const fn number(&self) -> u64 {
        self.head.number
    }

    /// How many there are.
    pub fn traces(&self) -> u64 {
        self.head.contents.traces.into()
    }

    /// Their bytes before they were packed.
    pub const fn length(&self) -> usize {
        self.head.contents.length as usize
    }

    /// The traces as they were, joined; `None` where they are damaged.
    pub fn plain(&self) -> Option<Vec<u8>> {
        pack::unpack(&self.packed, self.head.contents)
    }

    /// The same traces, each alone; `None` where they are damaged.
    pub fn singles(&self, packer: &mut Packer) -> Option<Vec<Self>> {
        let Head { number, finished_ms, contents: Contents { traces, .. } } = self.head;
        if traces == 1 {
            return Some(vec![self.clone()]);
        }
        let plain = self.plain()?;
        let one = |(number, trace)| Self::one(packer, (number, finished_ms), trace);
        let singles: Vec<Self> = (number..).zip(pack::each(&plain)).map(one).collect();
        (singles.len() == traces as usize).then_some(singles)
    }
}

/// A stretch of the spool that an export has taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lot {
    /// First number taken.
    pub from: u64,
    /// One above the last number taken.
    pub to: u64,
    /// The traces, in order.
    pub parts: Vec<Part>,
    /// Traces among them that damage has taken.
    pub lost: u64,
}

impl Lot {
    /// Stretches of it that hold no trace: what was there is damaged, or done with.
    pub fn gaps(&self) -> Vec<(u64, u64)> {
        let mut at = self.from;
        let mut gaps = Vec::new();
        for (from, to) in self.parts.iter().map(|part| (part.number(), part.head.end())) {
            gaps.push((at, from));
            at = to;
        }
        gaps.push((at, self.to));
        gaps.retain(|(from, to)| from < to);
        gaps
    }
}

/// Where the one exporter of a spool is.
pub struct Cursor {
    spool: Arc<Spool>,
    /// What an earlier process had done.
    before: Progress,
    /// One above the last number that a lot has taken.
    taken: u64,
    /// Next number to be read.
    next: u64,
    file: Option<Reading>,
    /// Read, and too much for the lot they were read for.
    held: VecDeque<Part>,
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
    /// Bytes of the traces that were read, before they were packed.
    length: u64,
}

impl Cursor {
    /// Reading begins where the position says; `None` while this process may not deliver.
    pub fn new(spool: Arc<Spool>) -> Option<Self> {
        let before = {
            let index = spool.lock_index();
            index.lock.as_ref().map(|_| index.progress.clone())?
        };
        Some(Self {
            taken: before.upto(),
            next: before.upto(),
            before,
            spool,
            file: None,
            held: VecDeque::new(),
            lost: 0,
        })
    }

    /// How many traces, and about how many bytes of them, nobody has taken yet.
    pub fn waiting(&self) -> (u64, u64) {
        let index = self.spool.lock_index();
        let (mut traces, mut bytes) = (0, 0);
        for (first, segment) in &index.segments {
            let left = segment.next.saturating_sub((*first).max(self.next));
            let read = self.file.as_ref().filter(|reading| reading.segment == *first);
            let read = read.map_or((0, 0), |reading| (reading.length, reading.place()));
            traces += left;
            if left > 0 {
                // Packed they are fewer, which is all that is known of what another process left.
                let packed = segment.bytes.saturating_sub(read.1);
                bytes += segment.length.saturating_sub(read.0).max(packed);
            }
        }
        let held = self.held.iter().map(|part| part.length() as u64).sum::<u64>();
        (traces + self.held.iter().map(Part::traces).sum::<u64>(), bytes + held)
    }

    /// Whether there is a loss that no lot has told.
    pub const fn has_lost(&self) -> bool {
        self.lost > 0
    }

    /// Takes what comes next: whole records until there are as many traces, unless the first has more, and at
    /// most so many bytes, unless one trace has more. `None` where nothing waits.
    ///
    /// # Errors
    /// A segment could not be read; trying again tries the same place.
    pub fn take(&mut self, most: u64, most_bytes: usize) -> io::Result<Option<Lot>> {
        let (mut parts, mut traces, mut bytes) = (Vec::new(), 0, 0);
        while traces < most {
            let part = match self.part() {
                Ok(Some(part)) => part,
                Err(error) if parts.is_empty() => return Err(error),
                // An error comes again once these are on their way.
                Ok(None) | Err(_) => break,
            };
            let is_too_much = part.traces() > most || bytes + part.length() > most_bytes;
            if is_too_much && !parts.is_empty() {
                self.held.push_front(part);
                break;
            }
            if is_too_much && part.traces() > 1 {
                self.hold(&part, |_| true);
                continue;
            }
            (traces, bytes) = (traces + part.traces(), bytes + part.length());
            parts.push(part);
        }
        let to = self.held.front().map_or(self.next, Part::number);
        let lost = std::mem::take(&mut self.lost);
        if parts.is_empty() && lost == 0 {
            return Ok(None);
        }
        let from = std::mem::replace(&mut self.taken, to);
        let first = parts.first().map(|part| (part.number(), part.head.finished_ms));
        let from = self.spool.claim(from, to, first);
        // Dropped, and counted, while they were read.
        parts.retain(|part| part.number() >= from);
        Ok(Some(Lot { from, to, parts, lost }))
    }

    /// What comes next.
    fn part(&mut self) -> io::Result<Option<Part>> {
        loop {
            if let Some(held) = self.held.pop_front() {
                return Ok(Some(held));
            }
            let Some(part) = self.record()? else { return Ok(None) };
            let undone = self.before.undone(part.number(), part.head.end());
            if undone == part.traces() {
                return Ok(Some(part));
            }
            if undone == 0 {
                continue;
            }
            // One of its traces was refused alone.
            let before = self.before.clone();
            self.hold(&part, |single| !before.is_done(single.number()));
        }
    }

    /// The next lots take the traces of this part one by one, as far as they are wanted.
    fn hold(&mut self, part: &Part, is_wanted: impl Fn(&Part) -> bool) {
        let Some(singles) = part.singles(&mut Packer::default()) else {
            self.lost += self.before.undone(part.number(), part.head.end());
            return;
        };
        for single in singles.into_iter().filter(is_wanted).rev() {
            self.held.push_front(single);
        }
    }

    /// Gives up the rest of the segment that cannot be read.
    pub fn skip_segment(&mut self) {
        if let Some((first, segment)) = self.segment() {
            self.lost += self.before.undone(self.next.max(first), segment.next);
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

    /// The next record, also where all in it is done with.
    fn record(&mut self) -> io::Result<Option<Part>> {
        // In the window mostly: found without a look at the spool.
        if let Some(part) = self.file.as_mut().and_then(|reading| reading.at_hand(self.next)) {
            self.next = part.head.end();
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
            while let Some(part) = reading.record(&self.spool, segment.bytes)? {
                if part.head.end() <= self.next {
                    continue;
                }
                self.lost += self.before.undone(self.next, part.number());
                self.next = part.head.end();
                self.file = Some(reading);
                return Ok(Some(part));
            }
            if segment.is_growing {
                self.file = Some(reading);
                return Ok(None);
            }
            self.lost += self.before.undone(self.next, segment.next);
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
        let (window, is_memory) = (Bytes::new(), false);
        Ok(Self { segment, file, offset: 0, window, is_memory, at: 0, length: 0 })
    }

    /// Where it is in the file.
    const fn place(&self) -> u64 {
        self.offset + self.at as u64
    }

    /// What stands here of the window.
    fn step(&self, left: u64) -> Step<'_> {
        let seen = self.window.get(self.at..).unwrap_or_default();
        if self.is_memory { record::step_in_memory(seen, left) } else { record::step(seen, left) }
    }

    /// The record that stands here, whole, if it begins with this number.
    fn at_hand(&mut self, number: u64) -> Option<Part> {
        match self.step(self.window.len().saturating_sub(self.at) as u64) {
            Step::Record(record, taken) if record.head.number == number => {
                let part = self.part(record);
                Some(self.pass(part, taken))
            }
            Step::Record(..) | Step::Skip(_) | Step::More(_) | Step::End => None,
        }
    }

    /// The next intact record of the first `bytes` of the file.
    fn record(&mut self, spool: &Spool, bytes: u64) -> io::Result<Option<Part>> {
        loop {
            match self.step(bytes.saturating_sub(self.place())) {
                Step::Record(record, taken) => {
                    let part = self.part(record);
                    return Ok(Some(self.pass(part, taken)));
                }
                Step::Skip(skipped) => self.at += skipped,
                Step::More(wanted) => self.fill(spool, wanted, bytes)?,
                Step::End => return Ok(None),
            }
        }
    }

    fn part(&self, record: Record<'_>) -> Part {
        Part { head: record.head, packed: self.window.slice_ref(record.body) }
    }

    /// Goes on behind a record of so many bytes.
    fn pass(&mut self, part: Part, taken: usize) -> Part {
        self.at += taken;
        self.length += part.length() as u64;
        part
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
