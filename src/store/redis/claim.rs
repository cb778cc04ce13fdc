//! A promise beyond the lease, made while Redis was away (`on_down: allow`), and its line in a file.
//!
//! One line a promise: what Redis must have given to a record at least. The largest counts, and
//! telling Redis again changes nothing, so lines may be told by whichever process finds them.

use super::books::{Books, Report};
use super::lease::{Term, Word};
use super::names::Names;
use crate::store::Period;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// One record's claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) tag: String,
    pub(super) term: Term,
    pub(super) record: Arc<str>,
    /// What Redis must have given.
    pub(super) given: u64,
}

impl Claim {
    /// What these books promise beyond their lease, if they do.
    pub(super) fn of(books: &Books) -> Option<Self> {
        let (term, record, given) = books.overdrawn()?;
        Some(Self { tag: books.tag().to_owned(), term, record: Arc::clone(record), given })
    }

    /// Its line, closed at both ends.
    pub(super) fn line(&self) -> String {
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
        // What a lost block or a failing disk left of a line is nobody's.
        if !line.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
            return None;
        }
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

/// The largest claim of each record.
pub(super) fn largest(bytes: &[u8]) -> Vec<Claim> {
    // What a failing disk made of one line must not hide the others.
    let text = String::from_utf8_lossy(bytes);
    let mut all = HashMap::<(String, String, Arc<str>), Claim>::new();
    for claim in text.lines().filter_map(Claim::read) {
        let key = (claim.tag.clone(), claim.term.name(), Arc::clone(&claim.record));
        let known = all.entry(key).or_insert_with(|| claim.clone());
        known.given = known.given.max(claim.given);
    }
    all.into_values().collect()
}
