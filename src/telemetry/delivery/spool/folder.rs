//! The files of a spool: how segments are named, who may deliver from the folder, where it stands.
//!
//! ```text
//! lock                                                       held by the process that delivers
//! numbers                                                    held while a process looks which are free
//! position                                                   how far it is
//! 00000000000000000000-00000000000000000420.spool            traces 0 to 420, not 420 itself
//! 00000000000000000420.open                                  being written, locked by its writer
//! ```

use super::progress::Progress;
use super::record::{self, Step};
use crate::locked::Locked;
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// Prompts and answers stand in these files: they are for the owner alone.
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// How often it is tried to be alone, and how long between.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(2);
const SEALED: &str = "spool";
const OPEN: &str = "open";

/// A segment as its name tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    /// Its file.
    pub(super) path: PathBuf,
    /// Number of its first record.
    pub(super) first: u64,
    /// One above its last; `None` while it is being written, or was when its writer died.
    pub(super) next: Option<u64>,
}

impl Named {
    fn read(path: PathBuf) -> Option<Self> {
        let stem = path.file_stem()?.to_str()?;
        let (first, next) = match path.extension()?.to_str()? {
            SEALED => {
                let (first, next) = stem.split_once('-')?;
                (first.parse().ok()?, Some(next.parse().ok()?))
            }
            OPEN => (stem.parse().ok()?, None),
            _ => return None,
        };
        (next.is_none_or(|next| next > first)).then_some(Self { path, first, next })
    }
}

/// Where a segment is written, and where it is once full.
pub(super) fn open_path(folder: &Path, first: u64) -> PathBuf {
    folder.join(format!("{first:020}.{OPEN}"))
}

fn sealed_path(folder: &Path, first: u64, next: u64) -> PathBuf {
    folder.join(format!("{first:020}-{next:020}.{SEALED}"))
}

/// Makes the folder where there is none, readable by its owner alone.
pub(super) fn create(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder)
}

/// The segments there are, the oldest first; other files are none of ours.
///
/// Read twice: one that its writer names for good meanwhile may be missing once.
pub(super) fn list(folder: &Path) -> io::Result<Vec<Named>> {
    let mut found = BTreeMap::new();
    for _ in 0..2 {
        for entry in fs::read_dir(folder)? {
            if let Some(named) = Named::read(entry?.path()) {
                let known = found.entry(named.first).or_insert_with(|| named.clone());
                if known.next.is_none() {
                    *known = named;
                }
            }
        }
    }
    Ok(found.into_values().collect())
}

/// The right to deliver from this folder, for as long as the file is kept; `None` while another
/// process has it.
pub(super) fn lock(folder: &Path) -> io::Result<Option<Locked>> {
    let path = folder.join("lock");
    Locked::take(options().create(true).write(true).truncate(false).open(path)?)
}

/// Nobody else gives numbers in this folder for as long as this is kept. Others have it for milliseconds,
/// so it is waited for, but never with the index locked.
///
/// # Errors
/// Somebody has it longer than that; try again later.
#[expect(clippy::disallowed_methods, reason = "the writer's thread, or a start, which reads files")]
pub(super) fn alone(folder: &Path) -> io::Result<Locked> {
    let path = folder.join("numbers");
    for _ in 0..TRIES {
        let file = options().create(true).write(true).truncate(false).open(&path)?;
        if let Some(locked) = Locked::take(file)? {
            return Ok(locked);
        }
        thread::sleep(PAUSE);
    }
    Err(io::Error::new(
        io::ErrorKind::WouldBlock,
        "another process keeps the file `numbers` locked",
    ))
}

/// A new segment, locked by its writer so that nobody takes it for a dead one's.
pub(super) fn begin(folder: &Path, first: u64) -> io::Result<Locked> {
    let file = options().create_new(true).write(true).open(open_path(folder, first))?;
    Locked::take(file)?.ok_or_else(|| io::ErrorKind::WouldBlock.into())
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(FILE_MODE);
    options
}

/// Names a segment for good; the new path.
pub(super) fn seal(folder: &Path, path: &Path, (first, next): (u64, u64)) -> io::Result<PathBuf> {
    let sealed = sealed_path(folder, first, next);
    fs::rename(path, &sealed)?;
    Ok(sealed)
}

/// Takes over a segment whose writer died: counted, named, or removed where nothing is in it.
/// `None` where there is nothing to take, or where its writer lives.
pub(super) fn take_over(folder: &Path, named: &Named) -> io::Result<Option<Named>> {
    if named.next.is_some() {
        return Ok(Some(named.clone()));
    }
    let Some(file) = Locked::take(File::open(&named.path)?)? else { return Ok(None) };
    let mut bytes = Vec::new();
    (&*file).read_to_end(&mut bytes)?;
    let (last, torn) = last_number(&bytes);
    if let Some(traces) = torn {
        let folder = folder.display();
        tracing::warn!(%folder, traces, "the end of a spool is torn; traces that were just being written are lost");
    }
    match last {
        Some(last) if last >= named.first => {
            let next = last.saturating_add(1);
            let path = seal(folder, &named.path, (named.first, next))?;
            Ok(Some(Named { path, next: Some(next), ..*named }))
        }
        Some(_) | None => fs::remove_file(&named.path).map(|()| None),
    }
}

/// The highest number of any trace in an intact record; and where the last record is not whole, how many
/// traces it had, as far as it says.
fn last_number(bytes: &[u8]) -> (Option<u64>, Option<u32>) {
    let (mut rest, mut last, mut torn) = (bytes, None, None);
    loop {
        let taken = match record::step(rest, rest.len() as u64) {
            Step::Record(record, taken) => {
                last = last.max(record.head.end().checked_sub(1));
                torn = None;
                taken
            }
            Step::Skip(bytes) => {
                let header = rest.first_chunk().and_then(record::peek);
                let cut = header.filter(|(_, length)| *length > rest.len());
                let traces = cut.map_or(0, |(head, _)| head.contents.traces);
                torn = torn.max(Some(traces));
                bytes
            }
            Step::More(_) | Step::End => {
                return (last, torn.max((!rest.is_empty()).then_some(0)));
            }
        };
        rest = rest.get(taken..).unwrap_or_default();
    }
}

/// When the first of a segment's traces with this number or a higher one finished, about; `None` where it
/// cannot be read, or damage is in the way. Reads headers alone.
pub(super) fn finished_ms(path: &Path, from: u64) -> Option<u64> {
    let file = File::open(path).ok()?;
    let (mut at, mut header) = (0, record::BLANK);
    loop {
        file.read_exact_at(&mut header, at).ok()?;
        let (head, length) = record::peek(&header)?;
        if head.end() > from {
            return Some(head.finished_ms);
        }
        at += length as u64;
    }
}

/// How far the destination was; from the start where nobody knows.
pub(super) fn load_position(folder: &Path) -> Progress {
    let text = fs::read(folder.join("position")).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// A note of this length is written by a disk as a whole or not at all, in bytes.
const SECTOR: usize = 512;

/// Notes how far the destination is. After a power cut it may be some seconds old: then a few
/// traces are sent a second time.
///
/// A short note is one write over the last one, in the file that is `known`: that survives the death of
/// the process, and takes a hundredth of what a new file does, which ext4 forces to the disk.
pub(super) fn save_position(
    known: &mut Option<File>,
    folder: &Path,
    progress: &Progress,
) -> io::Result<()> {
    let mut text = serde_json::to_vec(progress)?;
    if let Some((file, length)) = known.take().and_then(undeleted)
        && text.len().max(length) <= SECTOR
    {
        // Blanks over what a longer one has left.
        text.resize(text.len().max(length), b' ');
        file.write_all_at(&text, 0)?;
        *known = Some(file);
        return Ok(());
    }
    let (new, path) = (folder.join("position.new"), folder.join("position"));
    let file = options().create(true).write(true).truncate(true).open(&new)?;
    file.write_all_at(&text, 0)?;
    fs::rename(new, path)?;
    *known = Some(file);
    Ok(())
}

/// The file with its length, if it has a name yet.
fn undeleted(file: File) -> Option<(File, usize)> {
    let about = file.metadata().ok().filter(|about| about.nlink() > 0)?;
    let length = usize::try_from(about.len()).ok()?;
    Some((file, length))
}

#[cfg(test)]
mod tests {
    use super::super::append::Flushed;
    use super::super::tests::{Process, ROOMY, segments};
    use super::*;
    use tempfile::TempDir;

    #[test]
    fn names_tell_what_is_inside_and_strangers_are_left_alone() {
        let folder = TempDir::new().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["lock", "notes.txt", "7-3.spool", "x-9.spool", "-1.open"] {
            fs::write(at(name), "").unwrap();
        }
        fs::write(sealed_path(folder.path(), 7, 20), "").unwrap();
        fs::write(open_path(folder.path(), 3), "").unwrap();
        let found: Vec<_> =
            list(folder.path()).unwrap().iter().map(|named| (named.first, named.next)).collect();
        assert_eq!(found, [(3, None), (7, Some(20))]);
    }

    #[test]
    fn only_one_may_deliver_at_a_time() {
        let folder = TempDir::new().unwrap();
        let held = lock(folder.path()).unwrap();
        assert!(held.is_some());
        assert!(lock(folder.path()).unwrap().is_none());
        drop(held);
        assert!(lock(folder.path()).unwrap().is_some());
    }

    #[test]
    fn a_living_writers_segment_is_not_taken() {
        let folder = TempDir::new().unwrap();
        let file = begin(folder.path(), 5).unwrap();
        let named = list(folder.path()).unwrap().remove(0);
        assert_eq!(take_over(folder.path(), &named).unwrap(), None);
        drop(file);
        assert_eq!(take_over(folder.path(), &named).unwrap(), None, "nothing is in it");
        assert_eq!(list(folder.path()).unwrap(), []);
    }

    #[test]
    fn what_a_torn_record_had_is_known() {
        let folder = TempDir::new().unwrap();
        let mut process = Process::start(folder.path(), ROOMY);
        process.write("a");
        for text in ["b", "c"] {
            process.appender.take(0, text.as_bytes(), &mut Flushed::default());
        }
        process.flush();
        drop(process);
        let bytes = fs::read(segments(folder.path()).remove(0)).unwrap();
        assert_eq!(last_number(&bytes), (Some(2), None));
        let (torn, _) = bytes.split_at(bytes.len() - 3);
        assert_eq!(last_number(torn), (Some(0), Some(2)));
        assert_eq!(last_number(b"x"), (None, Some(0)));
    }

    #[test]
    fn a_position_that_cannot_be_read_is_the_start() {
        let folder = TempDir::new().unwrap();
        assert_eq!(load_position(folder.path()), Progress::default());
        let mut progress = Progress::default();
        progress.settle(0, 7);
        progress.settle(9, 12);
        save_position(&mut None, folder.path(), &progress).unwrap();
        assert_eq!(load_position(folder.path()), progress);
        fs::write(folder.path().join("position"), "{\"upto\":").unwrap();
        assert_eq!(load_position(folder.path()), Progress::default());
    }

    #[test]
    fn each_position_replaces_the_one_before_also_where_the_file_has_gone() {
        let folder = TempDir::new().unwrap();
        let (mut known, mut gaps) = (None, Progress::default());
        for number in 0..100 {
            let _is_at_the_start = gaps.settle(number * 3 + 2, number * 3 + 3);
        }
        let short = Progress::default();
        let mut some = Progress::default();
        let _is_at_the_start = some.settle(5, 6);
        for progress in [&short, &some, &short, &gaps, &short, &some] {
            save_position(&mut known, folder.path(), progress).unwrap();
            assert_eq!(load_position(folder.path()), *progress);
        }
        // By another process, after a longer one.
        save_position(&mut None, folder.path(), &short).unwrap();
        assert_eq!(load_position(folder.path()), short);
        fs::remove_file(folder.path().join("position")).unwrap();
        save_position(&mut known, folder.path(), &short).unwrap();
        assert_eq!(load_position(folder.path()), short);
    }
}
