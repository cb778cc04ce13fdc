//! What this replica promised beyond its lease while Redis was away (`on_down: allow`), on disk, so
//! that not even a killed process lets spend be forgotten.
//!
//! One line a promise: what Redis must have given to a record at least. The largest counts, and
//! telling Redis again changes nothing, so lines may be told by whichever process finds them.

use super::books::{Books, Report};
use super::lease::{Term, Word};
use super::names::Names;
use crate::store::Period;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

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
    /// Length of the file after it was last written anew, in bytes.
    shortest: u64,
}

/// One record's claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) tag: String,
    pub(super) term: Term,
    pub(super) record: Arc<str>,
    /// What Redis must have given.
    pub(super) given: u64,
}

impl Claims {
    /// Of this folder, which need not exist yet.
    pub(super) const fn new(folder: PathBuf) -> Self {
        Self { folder, file: None, is_empty: false, shortest: 0 }
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
        if self.is_empty || (self.file.is_none() && !self.folder.join(FILE).exists()) {
            self.is_empty = true;
            return Ok(Vec::new());
        }
        let file = self.file()?;
        let mut bytes = Vec::new();
        file.rewind()?;
        file.read_to_end(&mut bytes)?;
        // What a failing disk made of one line must not hide the others.
        let text = String::from_utf8_lossy(&bytes);
        let mut all = HashMap::<(String, String, Arc<str>), Claim>::new();
        for claim in text.lines().filter_map(Claim::read) {
            let key = (claim.tag.clone(), claim.term.name(), Arc::clone(&claim.record));
            let known = all.entry(key).or_insert_with(|| claim.clone());
            known.given = known.given.max(claim.given);
        }
        Ok(all.into_values().collect())
    }

    /// Writes the file anew where it has grown long: a busy gateway adds a line a call for as long as
    /// Redis is away, and of each record only one counts. Whatever happens on the way, one of the two
    /// files is there whole.
    ///
    /// # Errors
    /// The system's; then the file goes on as it was.
    pub(super) fn shorten(&mut self) -> io::Result<()> {
        if self.file.is_none() || self.file()?.metadata()?.len() < LONG.max(2 * self.shortest) {
            return Ok(());
        }
        let text: String = self.all()?.iter().map(Claim::line).collect();
        let (path, new_path) = (self.folder.join(FILE), self.folder.join(NEW_FILE));
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).open(&new_path)?;
        file.write_all(text.as_bytes())?;
        file.sync_data()?;
        std::fs::rename(new_path, path)?;
        self.file = None;
        self.shortest = text.len() as u64;
        Ok(())
    }

    /// Whether nothing is written down.
    pub(super) const fn is_empty(&self) -> bool {
        self.is_empty
    }

    /// Redis knows everything.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        self.file()?.set_len(0)?;
        (self.is_empty, self.shortest) = (true, 0);
        Ok(())
    }
}

impl Claim {
    /// What these books promise beyond their lease, if they do.
    pub(super) fn of(books: &Books) -> Option<Self> {
        let (term, record, given) = books.overdrawn()?;
        Some(Self { tag: books.tag().to_owned(), term, record: Arc::clone(record), given })
    }

    fn line(&self) -> String {
        let Self { tag, term, record, given } = self;
        let per = match term.per {
            Period::Day => "day",
            Period::Month => "month",
            Period::Total => "total",
        };
        let (number, begins, ends) = (term.number, term.begins_ms, term.ends_ms);
        // The first line end closes what a full disk or a death may have left of the line before.
        format!("\n{tag} {per} {number} {begins} {ends} {record} {given}\n")
    }

    /// `None` where the line is not whole: its process was killed before its call went out. One that
    /// lacks the last digits of its amount claims less, which changes nothing.
    fn read(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split(' ').collect();
        let [tag, per, number, begins, ends, record, given] = words.as_slice() else { return None };
        let per = match *per {
            "day" => Period::Day,
            "month" => Period::Month,
            "total" => Period::Total,
            _ => return None,
        };
        let term = Term {
            per,
            number: number.parse().ok()?,
            begins_ms: begins.parse().ok()?,
            ends_ms: ends.parse().ok()?,
        };
        let (tag, record) = ((*tag).to_owned(), (*record).into());
        Some(Self { tag, term, record, given: given.parse().ok()? })
    }

    /// As a word to Redis.
    pub(super) fn report(&self, now: Duration) -> Report {
        Report {
            names: Arc::new(Names::with_tag(self.tag.clone())),
            term: Some(self.term),
            record: Arc::clone(&self.record),
            word: Some(Word { given: self.given, spent: 0, returned: 0, idle: 0 }),
            ended: Vec::new(),
            running: Vec::new(),
            away: Vec::new(),
            at: now,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        later.note(&claim("d", 3)).unwrap();
        later.file().unwrap().write_all(b"\n\xff\xfe 0123 month 24312 17").unwrap();
        later.note(&claim("d", 4)).unwrap();
        assert_eq!(
            sorted(&mut later),
            [claim("a", 9), claim("b", 7), claim("d", 4)],
            "what stands behind a torn line"
        );
        later.clear().unwrap();
        assert_eq!(Claims::new(folder.path().join("new")).all().unwrap(), []);
        later.note(&claim("c", 1)).unwrap();
        assert_eq!(later.all().unwrap(), [claim("c", 1)]);
    }

    #[test]
    fn a_long_outage_fills_no_disk() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let mut claims = Claims::new(folder.path().to_owned());
        let length = || std::fs::metadata(&path).unwrap().len();
        let mut given = 0;
        let mut longest = 0;
        for _ in 0..60_000 {
            given += 1;
            claims.note(&claim(if given % 2 == 0 { "a" } else { "b" }, given)).unwrap();
            longest = longest.max(length());
            claims.shorten().unwrap();
        }
        assert!(longest < LONG + 200 && length() < LONG, "{longest} {}", length());
        assert_eq!(sorted(&mut claims), [claim("a", 60_000), claim("b", 59_999)]);
        let mut later = Claims::new(folder.path().to_owned());
        assert_eq!(sorted(&mut later), [claim("a", 60_000), claim("b", 59_999)]);
        // Where every line counts nothing is gained, and not tried again with each of them.
        later.clear().unwrap();
        for record in 0..20_000 {
            later.note(&claim(&format!("record-{record}"), 1)).unwrap();
        }
        later.shorten().unwrap();
        let (shortest, is_new) = (later.shortest, later.file.is_none());
        assert!(shortest > LONG && is_new, "{shortest}");
        later.note(&claim("one-more", 1)).unwrap();
        later.shorten().unwrap();
        assert_eq!((later.shortest, later.file.is_none()), (shortest, false));
        assert_eq!(later.all().unwrap().len(), 20_001);
    }

    fn sorted(claims: &mut Claims) -> Vec<Claim> {
        let mut found = claims.all().unwrap();
        found.sort_by_key(|claim| claim.record.to_string());
        found
    }
}
