//! The ledger: what was spent by day, key, model, upstream and source of the figure, in `SQLite`.

use super::super::period::Day;
use super::super::{NanoUsd, Purse};
use super::record::{Record, Settled};
use rusqlite::{Connection, OpenFlags, params};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS ledger (
  day INTEGER NOT NULL, key TEXT NOT NULL, model TEXT NOT NULL, upstream TEXT NOT NULL,
  source TEXT NOT NULL, calls INTEGER NOT NULL, input INTEGER NOT NULL,
  cached_input INTEGER NOT NULL, output INTEGER NOT NULL, reasoning INTEGER NOT NULL,
  nano_usd INTEGER NOT NULL,
  PRIMARY KEY (day, key, model, upstream, source)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS applied (
  only INTEGER PRIMARY KEY CHECK (only = 1), generation INTEGER NOT NULL, position INTEGER NOT NULL);
PRAGMA user_version = 1;";

const ADD: &str = "
INSERT INTO ledger VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11)
ON CONFLICT DO UPDATE SET calls = calls + excluded.calls, input = input + excluded.input,
  cached_input = cached_input + excluded.cached_input, output = output + excluded.output,
  reasoning = reasoning + excluded.reasoning, nano_usd = nano_usd + excluded.nano_usd";

/// A reader waits this long for a writer, and the other way round.
const BUSY: Duration = Duration::from_secs(2);

/// How far the journal has been taken over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Applied {
    pub(super) generation: u64,
    pub(super) position: u64,
}

/// The ledger, open for writing; one process at a time.
#[derive(Debug)]
pub(super) struct Ledger(Connection);

/// One line of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Key, model or date, as asked.
    pub name: String,
    /// Calls that used anything.
    pub calls: u64,
    /// Uncached input tokens.
    pub input: u64,
    /// Input tokens read from a cache.
    pub cached_input: u64,
    /// Output tokens without reasoning.
    pub output: u64,
    /// Reasoning tokens.
    pub reasoning: u64,
    /// What they cost.
    pub cost: NanoUsd,
}

/// What the lines of a report are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// A key each.
    Key,
    /// A model each.
    Model,
    /// A day each.
    Day,
}

fn path(folder: &Path) -> PathBuf {
    folder.join("ledger.sqlite")
}

/// Tells the disk all that was committed, also while somebody reads a report. Of the database itself
/// `SQLite` sees to that; and to close another handle of it would take its locks.
pub(super) fn sync(folder: &Path) -> io::Result<()> {
    match File::open(folder.join("ledger.sqlite-wal")) {
        Ok(changes) => changes.sync_all(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// The most that one line counts of anything: nine million dollars, or more tokens than there are.
/// `SQLite` refuses to add up what goes beyond a signed number; a thousand lines of this do not.
const MOST: i64 = 1 << 53;

/// As `SQLite` counts, in signed numbers.
fn signed(number: u64) -> i64 {
    i64::try_from(number).map_or(MOST, |number| number.min(MOST))
}

/// The sum of a column, whatever absurd figure an earlier version has let in.
fn sum(column: &str) -> String {
    format!("sum(min(CAST({column} AS INTEGER), {MOST}))")
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

impl Ledger {
    /// Opens the ledger of a folder, or makes one.
    pub(super) fn open(folder: &Path) -> rusqlite::Result<Self> {
        let connection = Connection::open(path(folder))?;
        connection.busy_timeout(BUSY)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.execute_batch(SCHEMA)?;
        Ok(Self(connection))
    }

    pub(super) fn applied(&self) -> rusqlite::Result<Applied> {
        let read = |row: &rusqlite::Row<'_>| {
            Ok(Applied { generation: unsigned(row.get(0)?), position: unsigned(row.get(1)?) })
        };
        let found = self.0.query_row("SELECT generation, position FROM applied", [], read);
        match found {
            Err(rusqlite::Error::QueryReturnedNoRows) => Ok(Applied::default()),
            other => other,
        }
    }

    /// Takes over ended calls and notes how far the journal has been read, both or neither.
    pub(super) fn apply(&mut self, records: &[Record], upto: Applied) -> rusqlite::Result<()> {
        let transaction = self.0.transaction()?;
        {
            let mut add = transaction.prepare(ADD)?;
            for (place, sum) in sums(records) {
                let (day, key, model, upstream, source) = place;
                add.execute(params![
                    day.0,
                    key,
                    model,
                    upstream,
                    source,
                    signed(sum.calls),
                    signed(sum.input),
                    signed(sum.cached_input),
                    signed(sum.output),
                    signed(sum.reasoning),
                    signed(sum.cost.0)
                ])?;
            }
            transaction.execute(
                "INSERT OR REPLACE INTO applied VALUES (1, ?1, ?2)",
                params![signed(upto.generation), signed(upto.position)],
            )?;
        }
        transaction.commit()
    }

    /// Puts everything on the disk itself, so that the journal may forget it; whether that was possible:
    /// not while somebody reads a report.
    pub(super) fn persist(&self) -> rusqlite::Result<bool> {
        self.0.query_row(
            "PRAGMA wal_checkpoint(TRUNCATE)",
            [],
            |row| Ok(row.get::<_, i64>(0)? == 0),
        )
    }

    /// What every key had spent, as of today or of the latest day on record.
    pub(super) fn purses(&self, now: SystemTime) -> rusqlite::Result<Vec<(String, Purse)>> {
        let latest: Option<i64> =
            self.0.query_row("SELECT max(day) FROM ledger", [], |row| row.get(0))?;
        let today = Day::of(now).max(Day(latest.unwrap_or_default()));
        let first = Day::from_date(today.date().replace_day(1).unwrap_or(today.date()));
        let mut query = self.0.prepare(&format!(
            "SELECT key, {}, {}, {} FROM ledger GROUP BY key",
            sum("CASE WHEN day = ?1 THEN nano_usd ELSE 0 END"),
            sum("CASE WHEN day >= ?2 THEN nano_usd ELSE 0 END"),
            sum("nano_usd"),
        ))?;
        let read = |row: &rusqlite::Row<'_>| {
            let nano = |place| Ok::<_, rusqlite::Error>(NanoUsd(unsigned(row.get(place)?)));
            Ok((row.get(0)?, Purse::restored(today, nano(1)?, nano(2)?, nano(3)?)))
        };
        query.query_map(params![today.0, first.0], read)?.collect()
    }
}

/// Reads a report from the ledger of a folder, also while a gateway writes it: what was spent from
/// `since` to `until`, both included.
///
/// # Errors
/// A text for the operator where there is no ledger or it cannot be read.
pub fn report(
    folder: &Path,
    by: By,
    since: Option<Day>,
    until: Option<Day>,
) -> Result<Vec<Line>, String> {
    let place = path(folder);
    if !place.exists() {
        return Err(format!("{}: there is no ledger yet", place.display()));
    }
    let failed = |error: rusqlite::Error| format!("{}: {error}", place.display());
    // Not read-only: reading a write-ahead log that no writer holds open may need to recover it.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(&place, flags).map_err(failed)?;
    connection.busy_timeout(BUSY).map_err(failed)?;
    let column = match by {
        By::Key => "key",
        By::Model => "model",
        By::Day => "day",
    };
    let order = if by == By::Day { "day" } else { "7 DESC, 1" };
    let sql = format!(
        "SELECT {column}, {} FROM ledger WHERE day >= ?1 AND day <= ?2
         GROUP BY {column} ORDER BY {order}",
        ["calls", "input", "cached_input", "output", "reasoning", "nano_usd"].map(sum).join(", "),
    );
    let mut query = connection.prepare(&sql).map_err(failed)?;
    let bounds = [since.map_or(0, |day| day.0), until.map_or(i64::MAX, |day| day.0)];
    let lines = query.query_map(bounds, |row| {
        let name = match by {
            By::Key | By::Model => row.get(0)?,
            By::Day => Day(row.get(0)?).date().to_string(),
        };
        let number = |place| Ok::<_, rusqlite::Error>(unsigned(row.get(place)?));
        Ok(Line {
            name,
            calls: number(1)?,
            input: number(2)?,
            cached_input: number(3)?,
            output: number(4)?,
            reasoning: number(5)?,
            cost: NanoUsd(number(6)?),
        })
    });
    lines.and_then(Iterator::collect).map_err(failed)
}

type Place<'r> = (Day, &'r str, &'r str, &'r str, &'static str);

#[derive(Default)]
struct Sums {
    calls: u64,
    input: u64,
    cached_input: u64,
    output: u64,
    reasoning: u64,
    cost: NanoUsd,
}

/// Adds up ended calls by their line in the ledger.
fn sums(records: &[Record]) -> BTreeMap<Place<'_>, Sums> {
    let mut sums = BTreeMap::<Place<'_>, Sums>::new();
    for record in records {
        let Record::Settled(settled) = record else { continue };
        if !settled.is_counted {
            continue;
        }
        let Settled { day, cost, source, usage, key, model, upstream, .. } = settled;
        let sum = sums.entry((*day, key, model, upstream, source.as_str())).or_default();
        sum.calls += 1;
        sum.input = sum.input.saturating_add(usage.input);
        sum.cached_input = sum.cached_input.saturating_add(usage.cached_input);
        sum.output = sum.output.saturating_add(usage.output);
        sum.reasoning = sum.reasoning.saturating_add(usage.reasoning);
        sum.cost = sum.cost.plus(*cost);
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_reads_cannot_be_put_on_the_disk_yet() {
        let folder = tempfile::TempDir::new().unwrap();
        let mut ledger = Ledger::open(folder.path()).unwrap();
        ledger.apply(&[], Applied { generation: 1, position: 16 }).unwrap();
        let reader = Connection::open(path(folder.path())).unwrap();
        let reading = "BEGIN; SELECT count(*) FROM ledger;";
        reader.execute_batch(reading).unwrap();
        ledger.apply(&[], Applied { generation: 1, position: 20 }).unwrap();
        assert!(!ledger.persist().unwrap());
        reader.execute_batch("COMMIT").unwrap();
        assert!(ledger.persist().unwrap());
        assert_eq!(ledger.applied().unwrap(), Applied { generation: 1, position: 20 });
    }
}
