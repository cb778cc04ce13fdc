//! What this replica promised beyond its lease while Redis was away (`on_down: allow`), on disk, so
//! that not even a killed process lets spend be forgotten. A long file is written anew.

use super::claim::{Claim, largest};
use super::lock;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::PathBuf;
use std::sync::Mutex;

/// The file in the store's folder, and what takes its place.
const FILE: &str = "redis-promises";
const NEW_FILE: &str = "redis-promises.new";
/// A file this long is written anew with the largest claim of each record alone, once it has doubled
/// since the last time.
const LONG: u64 = 1 << 20;

/// The file, opened when it is first needed.
#[derive(Debug)]
pub(super) struct Claims {
    folder: PathBuf,
    file: Option<File>,
    is_empty: bool,
    /// Whether all that an earlier process wrote has been told.
    is_told: bool,
    /// Length of the file after it was last written anew, in bytes.
    shortest: u64,
    /// How often it was cleared.
    cleared: u64,
    is_shortening: bool,
}

/// What is to be written anew: the first bytes of the file, which nobody changes any more.
#[derive(Debug)]
struct Draft {
    folder: PathBuf,
    until: u64,
    cleared: u64,
}

impl Claims {
    /// Of this folder, which need not exist yet.
    pub(super) const fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            file: None,
            is_empty: false,
            is_told: false,
            shortest: 0,
            cleared: 0,
            is_shortening: false,
        }
    }

    fn file(&mut self) -> io::Result<&mut File> {
        if self.file.is_none() {
            std::fs::create_dir_all(&self.folder)?;
            let path = self.folder.join(FILE);
            let options = OpenOptions::new().read(true).append(true).create(true).open(path)?;
            self.file = Some(options);
        }
        self.file.as_mut().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Writes a claim down before its call goes out: into the system's hands, where it outlives
    /// this process, though not a loss of power.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn note(&mut self, claim: &Claim) -> io::Result<()> {
        let line = claim.line();
        self.is_empty = false;
        self.file()?.write_all(line.as_bytes())
    }

    /// What is written down, the largest claim of each record.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn all(&mut self) -> io::Result<Vec<Claim>> {
        if self.is_empty || (self.file.is_none() && !self.folder.join(FILE).try_exists()?) {
            self.is_empty = true;
            return Ok(Vec::new());
        }
        let file = self.file()?;
        let mut bytes = Vec::new();
        file.rewind()?;
        file.read_to_end(&mut bytes)?;
        Ok(largest(&bytes))
    }

    fn draft(&mut self) -> io::Result<Option<Draft>> {
        if self.file.is_none() {
            return Ok(None);
        }
        let until = self.file()?.metadata()?.len();
        let is_long = until >= LONG.max(2 * self.shortest);
        let cleared = self.cleared;
        Ok(is_long.then(|| Draft { folder: self.folder.clone(), until, cleared }))
    }

    /// Takes the new file, with what was noted meanwhile.
    fn adopt(&mut self, draft: &Draft, mut new: File) -> io::Result<()> {
        if draft.cleared != self.cleared {
            return Ok(());
        }
        let mut rest = Vec::new();
        let file = self.file()?;
        file.seek(SeekFrom::Start(draft.until))?;
        file.read_to_end(&mut rest)?;
        new.write_all(&rest)?;
        std::fs::rename(self.folder.join(NEW_FILE), self.folder.join(FILE))?;
        self.file = None;
        self.shortest = new.metadata()?.len();
        Ok(())
    }

    /// Whether the Redis that is connected has heard all that an earlier process wrote.
    pub(super) const fn are_told(&mut self, is_all: bool) {
        self.is_told = is_all;
    }

    /// Whether the file is to be looked at by [`shorten`]; it is not again until that is over.
    pub(super) const fn begin_shortening(&mut self) -> bool {
        self.file.is_some() && !self.is_empty && !std::mem::replace(&mut self.is_shortening, true)
    }

    /// Whether there is something, and all of it is told or in the books of this process.
    pub(super) const fn can_be_cleared(&self) -> bool {
        self.is_told && !self.is_empty
    }

    /// Redis knows everything.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        self.file()?.set_len(0)?;
        (self.is_empty, self.shortest) = (true, 0);
        self.cleared += 1;
        Ok(())
    }
}

/// Writes the file anew where it has grown long: a busy gateway adds a line a call for as long as Redis is
/// away, and of each record only one counts. Calls note theirs while the disk is waited for. Whatever
/// happens on the way, one of the two files is there whole.
///
/// # Errors
/// The system's; then the file goes on as it was.
pub(super) fn shorten(claims: &Mutex<Claims>) -> io::Result<()> {
    // Also where it panics.
    let _ended = Shortening(claims);
    let Some(draft) = lock(claims).draft()? else { return Ok(()) };
    let new = draft.write()?;
    lock(claims).adopt(&draft, new)
}

/// Somebody may shorten again once this is dropped.
struct Shortening<'a>(&'a Mutex<Claims>);

impl Drop for Shortening<'_> {
    fn drop(&mut self) {
        lock(self.0).is_shortening = false;
    }
}

impl Draft {
    fn write(&self) -> io::Result<File> {
        let mut bytes = Vec::new();
        File::open(self.folder.join(FILE))?.take(self.until).read_to_end(&mut bytes)?;
        let text: String = largest(&bytes).iter().map(Claim::line).collect();
        let mut options = OpenOptions::new();
        let path = self.folder.join(NEW_FILE);
        let mut new = options.write(true).create(true).truncate(true).open(path)?;
        new.write_all(text.as_bytes())?;
        new.sync_data()?;
        Ok(new)
    }
}

#[cfg(test)]
mod tests {
    use super::super::lease::Term;
    use super::*;
    use crate::store::Period;

    fn claim(record: &str, given: u64) -> Claim {
        let term = Term::at(Period::Month, 1_790_000_000_000);
        Claim { tag: "0123".into(), term, record: record.into(), given }
    }

    #[test]
    fn the_largest_claim_of_each_record_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut claims = Claims::new(folder.path().join("new"));
        assert_eq!(claims.all().unwrap(), []);
        for claim in [claim("a", 5), claim("b", 7), claim("a", 9), claim("a", 8)] {
            claims.note(&claim).unwrap();
        }
        claims.file().unwrap().write_all(b"0123 month 24312 17").unwrap();
        let mut later = Claims::new(folder.path().join("new"));
        assert_eq!(sorted(&mut later), [claim("a", 9), claim("b", 7)]);
        later.clear().unwrap();
        assert_eq!(Claims::new(folder.path().join("new")).all().unwrap(), []);
        later.note(&claim("c", 1)).unwrap();
        assert_eq!(later.all().unwrap(), [claim("c", 1)]);
    }

    #[test]
    fn what_is_torn_is_neither_misread_nor_in_the_way() {
        let spoilt = b"01\xff3 month 24312 0 1 x 5";
        for torn in [
            &b"01"[..],
            b"0123 month 24312 17",
            b"\0\0\0",
            b"\0\x000123 month 24312 0 1 x 5",
            spoilt,
        ] {
            let folder = tempfile::tempdir().unwrap();
            let mut claims = Claims::new(folder.path().to_owned());
            claims.note(&claim("a", 5)).unwrap();
            claims.file().unwrap().write_all(torn).unwrap();
            let mut later = Claims::new(folder.path().to_owned());
            assert_eq!(sorted(&mut later), [claim("a", 5)], "{torn:?}");
            later.note(&claim("b", 7)).unwrap();
            assert_eq!(sorted(&mut later), [claim("a", 5), claim("b", 7)], "{torn:?}");
        }
    }

    #[test]
    fn a_long_outage_fills_no_disk() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let claims = Mutex::new(Claims::new(folder.path().to_owned()));
        let length = || std::fs::metadata(&path).unwrap().len();
        let mut longest = 0;
        for given in 1..=60_000 {
            let record = if given % 2 == 0 { "a" } else { "b" };
            lock(&claims).note(&claim(record, given)).unwrap();
            longest = longest.max(length());
            shorten(&claims).unwrap();
        }
        assert!(longest < LONG + 200 && length() < LONG, "{longest} {}", length());
        assert_eq!(sorted(&mut lock(&claims)), [claim("a", 60_000), claim("b", 59_999)]);
        let later = Mutex::new(Claims::new(folder.path().to_owned()));
        assert_eq!(sorted(&mut lock(&later)), [claim("a", 60_000), claim("b", 59_999)]);
        // Where every line counts nothing is gained, and not tried again with each of them.
        lock(&later).clear().unwrap();
        for record in 0..20_000 {
            lock(&later).note(&claim(&format!("record-{record}"), 1)).unwrap();
        }
        shorten(&later).unwrap();
        let shortest = lock(&later).shortest;
        assert!(shortest > LONG && lock(&later).file.is_none(), "{shortest}");
        lock(&later).note(&claim("one-more", 1)).unwrap();
        shorten(&later).unwrap();
        assert!(lock(&later).shortest == shortest && lock(&later).file.is_some());
        assert_eq!(lock(&later).all().unwrap().len(), 20_001);
    }

    #[test]
    fn what_is_noted_or_cleared_while_the_file_is_written_anew_counts() {
        let folder = tempfile::tempdir().unwrap();
        let mut claims = Claims::new(folder.path().to_owned());
        let long = |claims: &mut Claims| {
            for given in 0..20_000 {
                claims.note(&claim("a", given)).unwrap();
            }
            claims.draft().unwrap().unwrap()
        };
        let draft = long(&mut claims);
        let new = draft.write().unwrap();
        claims.note(&claim("b", 1)).unwrap();
        claims.adopt(&draft, new).unwrap();
        assert_eq!(sorted(&mut claims), [claim("a", 19_999), claim("b", 1)]);
        let draft = long(&mut claims);
        let new = draft.write().unwrap();
        claims.clear().unwrap();
        claims.note(&claim("c", 1)).unwrap();
        claims.adopt(&draft, new).unwrap();
        assert_eq!(sorted(&mut claims), [claim("c", 1)], "nothing comes back");
    }

    fn sorted(claims: &mut Claims) -> Vec<Claim> {
        let mut found = claims.all().unwrap();
        found.sort_by_key(|claim| claim.record.to_string());
        found
    }
}
