//! The journal: what running calls may spend and what ended ones did, on file before it counts.
//!
//! A record is one `write` into the page cache: it survives the death of the process at any moment,
//! and costs microseconds. The disk itself is told once a second, by the keeper.

use super::super::CallId;
use super::record::{Record, Reserved};
use crate::folder;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"CIRQUEJ1";
/// Magic and generation.
pub(super) const HEADER: u64 = 16;
/// A journal this long is begun anew, without what the ledger has taken over.
pub(super) const ROTATE: u64 = 8 << 20;

/// Room for the records of a call, in bytes.
const ROOM: usize = 256;

/// An open journal.
#[derive(Debug)]
pub(super) struct Journal {
    folder: PathBuf,
    file: File,
    /// Number of this file in the row of those that bore its name.
    pub(super) generation: u64,
    /// Where the next record goes. What may lie behind is the torn rest of a failed write.
    pub(super) end: u64,
    /// Whether somebody took the file away: what is written to it is lost with the process.
    pub(super) has_gone: bool,
    buffer: Vec<u8>,
}

/// What an earlier process left.
#[derive(Debug, Default)]
pub(super) struct Left {
    pub(super) generation: u64,
    /// Every whole record and where it ends.
    pub(super) records: Vec<(Record, u64)>,
    pub(super) damage: Damage,
}

/// What of a part of the journal is no record.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Damage {
    pub(super) bytes: usize,
    /// Whole records behind the first of them.
    pub(super) records_behind: usize,
}

impl Damage {
    /// Tells it, if there is any.
    pub(super) fn tell(self, folder: &Path) {
        let Self { bytes, records_behind } = self;
        if bytes > 0 {
            tracing::warn!(
                folder = %folder.display(), bytes, records_behind,
                "the store's journal is damaged: calls written there may be missing in what was spent; \
                 the records behind are counted"
            );
        }
    }
}

fn path(folder: &Path) -> PathBuf {
    folder.join("journal")
}

fn new_path(folder: &Path) -> PathBuf {
    folder.join("journal.new")
}

/// Reads what an earlier process left. The last record may be torn: that one was never acted upon.
pub(super) fn read_left(folder: &Path) -> io::Result<Left> {
    let bytes = match std::fs::read(path(folder)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Left::default()),
        Err(error) => return Err(error),
    };
    if bytes.iter().all(|byte| *byte == 0) {
        // The power failed before it reached the disk.
        return Ok(Left::default());
    }
    let header = bytes.split_at_checked(16).and_then(|(header, rest)| {
        let (magic, generation) = header.split_at_checked(8)?;
        let generation = u64::from_le_bytes(generation.try_into().ok()?);
        (magic == MAGIC).then_some((generation, rest))
    });
    let Some((generation, rest)) = header else {
        let text = "the file `journal` in it is none of this version; move it away";
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    };
    let mut records = Vec::new();
    let damage = scan(rest, true, |record, end| records.push((record, HEADER + end as u64)));
    Ok(Left { generation, records, damage })
}

/// Reads all whole records and where each ends. Behind what is none it goes on with the next that is, which
/// its checksum tells. The last one may be torn where whoever wrote it may have died.
fn scan(bytes: &[u8], may_be_torn: bool, mut on: impl FnMut(Record, usize)) -> Damage {
    // Behind the last record are zeros.
    let written = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let (mut damage, mut at) = (Damage::default(), 0);
    while at < written {
        let rest = bytes.get(at..).unwrap_or_default();
        if let Some((record, length)) = Record::read(rest) {
            at += length;
            damage.records_behind += usize::from(damage.bytes > 0);
            on(record, at);
            continue;
        }
        let written = rest.get(..written - at).unwrap_or_default();
        let skipped = match next(rest, written.len()) {
            Some(length) => length,
            None if may_be_torn && Record::is_torn(written) => break,
            None => written.len(),
        };
        damage.bytes += skipped;
        at += skipped;
    }
    damage
}

/// How far away the next whole record is. One whose length is still there is passed over as a whole, so that
/// nothing that a text in it may say is taken for a record.
fn next(bytes: &[u8], written: usize) -> Option<usize> {
    let is_record = |at: &usize| bytes.get(*at..).and_then(Record::read).is_some();
    Record::length(bytes).filter(is_record).or_else(|| (1..written).find(is_record))
}

/// Whether what stands at the journal's path is this file, as far as the system says.
pub(super) fn is_in_place(folder: &Path, file: &File) -> bool {
    match (std::fs::metadata(path(folder)), file.metadata()) {
        (Ok(there), Ok(ours)) => (there.dev(), there.ino()) == (ours.dev(), ours.ino()),
        (Err(error), _) => error.kind() != io::ErrorKind::NotFound,
        (Ok(_), Err(_)) => true,
    }
}

impl Journal {
    /// Begins a journal that holds these records alone, on the disk itself and beside the one
    /// before, which [`Journal::replace`] puts it in the place of.
    pub(super) fn begin(folder: &Path, generation: u64, records: &[Record]) -> io::Result<Self> {
        let mut bytes = [&MAGIC[..], &generation.to_le_bytes()].concat();
        for record in records {
            record.write(&mut bytes);
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        let file = options.open(new_path(folder))?;
        // A file that need not grow with each record costs a third less to write to. What lies behind the
        // last one are zeros, of which no record is made, and take no room on the disk. Before there is
        // anything in it: some file systems write that out first.
        file.set_len(ROTATE).ok();
        file.write_all_at(&bytes, 0)?;
        file.sync_data()?;
        Ok(Self {
            folder: folder.to_owned(),
            file,
            generation,
            end: bytes.len() as u64,
            has_gone: false,
            buffer: Vec::with_capacity(ROOM),
        })
    }

    /// The same in the place of what an earlier process left, on the disk by that name.
    pub(super) fn succeed(folder: &Path, generation: u64, records: &[Record]) -> io::Result<Self> {
        let journal = Self::begin(folder, generation, records)?;
        journal.replace()?;
        folder::sync(folder)?;
        Ok(journal)
    }

    /// Writes records down, all of them with one call.
    ///
    /// # Errors
    /// Where the disk is full or the file has gone; then nothing was written.
    pub(super) fn append<'r>(
        &mut self,
        records: impl IntoIterator<Item = &'r Record>,
    ) -> io::Result<()> {
        self.buffer.clear();
        for record in records {
            record.write(&mut self.buffer);
        }
        if let Err(error) = self.file.write_all_at(&self.buffer, self.end) {
            // Nothing that was written of it may be found behind a shorter record later on.
            self.file.set_len(self.end).and_then(|()| self.file.set_len(ROTATE.max(self.end))).ok();
            return Err(error);
        }
        self.end += self.buffer.len() as u64;
        Ok(())
    }

    /// Another handle of the file, for the keeper to read and sync without our lock.
    pub(super) fn handle(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Goes by the name of the journal from now on.
    pub(super) fn replace(&self) -> io::Result<()> {
        std::fs::rename(new_path(&self.folder), path(&self.folder))
    }

    /// Goes on in another journal, which holds what is worth keeping of this one up to `known`.
    pub(super) fn rotate(&mut self, mut next: Self, known: u64) -> io::Result<()> {
        let (records, damage) = read_from(&self.file, known, self.end)?;
        damage.tell(&self.folder);
        next.append(&records)?;
        next.buffer = Vec::with_capacity(ROOM);
        next.replace()?;
        *self = next;
        Ok(())
    }
}

/// Calls whose end is not in the journal, as far as it has been read.
#[derive(Debug, Default)]
pub(super) struct Running(HashMap<CallId, Reserved>);

impl Running {
    /// Reads on.
    pub(super) fn follow(&mut self, records: &[Record]) {
        for record in records {
            match record {
                Record::Reserved(reserved) => drop(self.0.insert(reserved.call, reserved.clone())),
                Record::Settled(settled) => drop(self.0.remove(&settled.call)),
            }
        }
    }

    pub(super) fn records(&self) -> impl Iterator<Item = Record> {
        self.0.values().cloned().map(Record::Reserved)
    }
}

/// The records of a part of the file that begins and ends between records.
pub(super) fn read_from(file: &File, from: u64, to: u64) -> io::Result<(Vec<Record>, Damage)> {
    let length = usize::try_from(to.saturating_sub(from)).unwrap_or_default();
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, from)?;
    let mut records = Vec::new();
    let damage = scan(&bytes, false, |record, _| records.push(record));
    Ok((records, damage))
}

#[cfg(test)]
impl Journal {
    /// Puts another file in the place of this one; gives this one back.
    pub(super) fn swap_file(&mut self, file: File) -> File {
        std::mem::replace(&mut self.file, file)
    }
}
