//! The keeper: the one thread that opens the folder, carries the journal into the ledger and tells
//! the disk; no request waits for it.

use super::journal::{self, HEADER, Journal, ROTATE, Running};
use super::ledger::{self, Applied, Ledger};
use super::record::{Record, Settled};
use super::{Problem, Shared, lock};
use crate::folder;
use crate::locked::Locked;
use crate::protocol::usage::{CostSource, Usage};
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// How often the ledger takes over, the disk is told, and a folder that failed is tried again.
const BEAT: Duration = Duration::from_secs(1);

/// The keeper of one folder.
#[derive(Debug)]
pub(super) struct Keeper {
    folder: PathBuf,
    shared: Arc<Shared>,
    open: Option<Open>,
    /// Whether the last beat failed, so that a failure is told once.
    is_troubled: bool,
}

/// As long as it lives there is somebody who writes what requests leave; also where that one panics.
struct Keeping(Arc<Shared>);

impl Keeping {
    fn begin(shared: &Arc<Shared>) -> Self {
        lock(&shared.desk).is_kept = true;
        Self(Arc::clone(shared))
    }
}

impl Drop for Keeping {
    fn drop(&mut self) {
        lock(&self.0.desk).is_kept = false;
    }
}

/// A folder in use.
#[derive(Debug)]
struct Open {
    ledger: Ledger,
    applied: Applied,
    /// Kept here and not by those who write: their calls do not wait for it.
    running: Running,
    /// Whether the disk knows this journal by its name, which another one had. Before that the ledger
    /// must not go on: after a power cut it would not know the one that is found.
    is_named: bool,
    /// Whether the disk has all that the journal says up to there.
    is_synced: bool,
    /// Whether a file can be told from another one at its path, so that this means that it has gone.
    can_be_told: bool,
    /// Held as long as the process lives, so that no other one uses the folder.
    _lock: Locked,
}

impl Keeper {
    /// Of a folder that is not open yet.
    pub(super) fn new(folder: &Path, shared: Arc<Shared>) -> Self {
        Self { folder: folder.to_owned(), shared, open: None, is_troubled: false }
    }

    /// Opens the folder and takes over what an earlier process left: ended calls go to the ledger,
    /// those whose end nobody knows are charged what they had reserved.
    pub(super) fn open(&mut self, now: SystemTime) -> Result<(), Problem> {
        let failed = |error: &dyn std::fmt::Display| {
            Problem::Failed(format!("{}: {error}", self.folder.display()))
        };
        std::fs::create_dir_all(&self.folder).map_err(|error| failed(&error))?;
        let lock = self.lock()?;
        let mut ledger = Ledger::open(&self.folder).map_err(|error| failed(&error))?;
        // The journal is about to forget what the ledger has, which may have seen no disk yet.
        ledger::sync(&self.folder).map_err(|error| failed(&error))?;
        let left = journal::read_left(&self.folder).map_err(|error| failed(&error))?;
        let applied = ledger.applied().map_err(|error| failed(&error))?;
        let from = if applied.generation == left.generation { applied.position } else { 0 };
        let unapplied = unapplied(&left.records, from);
        // A new generation in any case: the ledger may know of more than a disk that lost power.
        let generation = left.generation.max(applied.generation) + 1;
        let journal = Journal::succeed(&self.folder, generation, &unapplied);
        let journal = journal.map_err(|error| failed(&error))?;
        let applied = Applied { generation, position: journal.end };
        ledger.apply(&unapplied, applied).map_err(|error| failed(&error))?;
        let purses = ledger.purses(now).map_err(|error| failed(&error))?;
        let file = journal.handle().map_err(|error| failed(&error))?;
        let can_be_told = journal::is_in_place(&self.folder, &file);
        left.damage.tell(&self.folder);
        self.shared.restore(&purses, journal);
        self.open = Some(Open {
            ledger,
            applied,
            running: Running::default(),
            is_named: true,
            is_synced: true,
            can_be_told,
            _lock: lock,
        });
        Ok(())
    }

    fn lock(&self) -> Result<Locked, Problem> {
        let path = self.folder.join("lock");
        let failed =
            |error: &std::io::Error| Problem::Failed(format!("{}: {error}", path.display()));
        let mut options = File::options();
        options.write(true).create(true).truncate(false);
        let file = options.open(&path).map_err(|error| failed(&error))?;
        let Some(file) = Locked::take(file).map_err(|error| failed(&error))? else {
            let owner = std::fs::read_to_string(&path).unwrap_or_default();
            let owner = owner.trim();
            return Err(Problem::InUse(format!(
                "{}: process {owner} uses this folder; give every gateway a `store.path` of its \
                 own, or share one store with `store.kind: redis`",
                self.folder.display()
            )));
        };
        file.set_len(0).map_err(|error| failed(&error))?;
        writeln!(&*file, "{}", std::process::id()).map_err(|error| failed(&error))?;
        Ok(file)
    }

    /// Works until told to stop.
    pub(super) fn run(mut self) {
        let mut next = Instant::now() + BEAT;
        let mut records = Vec::new();
        let keeping = Keeping::begin(&self.shared);
        loop {
            let at_most = next.saturating_duration_since(Instant::now());
            let gathered = self.shared.inbox.take(records, at_most);
            lock(&self.shared.desk).lost += gathered.lost;
            let mut ended = VecDeque::from(gathered.records);
            while lock(&self.shared.desk).enter(&mut ended) {}
            if gathered.is_closed {
                drop(keeping);
                self.shared.catch_up();
                self.beat();
                return;
            }
            self.shared.catch_up();
            if Instant::now() >= next {
                self.beat();
                next = Instant::now() + BEAT;
            }
            records = Vec::from(ended);
        }
    }

    fn beat(&mut self) {
        let worked = match &mut self.open {
            None => self.open(SystemTime::now()).map_err(|problem| problem.to_string()),
            Some(open) => open.beat(&self.folder, &self.shared),
        };
        match worked {
            Ok(()) if self.is_troubled => {
                tracing::info!("the store works again");
                self.is_troubled = false;
            }
            Ok(()) => {}
            Err(problem) => {
                if !self.is_troubled {
                    tracing::error!(
                        problem,
                        "the store cannot be written; calls of keys with a budget may be refused"
                    );
                }
                self.is_troubled = true;
            }
        }
        let lost = std::mem::take(&mut lock(&self.shared.desk).lost);
        if lost > 0 {
            tracing::error!(lost, "ended calls are missing in the ledger: too many waited");
        }
    }
}

impl Open {
    /// Carries what is new in the journal into the ledger, tells the disk, and begins the journal
    /// anew where it has grown long.
    fn beat(&mut self, folder: &Path, shared: &Shared) -> Result<(), String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        shared.catch_up();
        let mut desk = lock(&shared.desk);
        // Calls may have ended since.
        desk.write_chunk();
        let is_behind = !desk.waiting.is_empty();
        let Some(journal) = &desk.journal else { return Ok(()) };
        let (end, file) = (journal.end, journal.handle().map_err(|error| text(&error))?);
        drop(desk);
        let has_gone = self.can_be_told && !journal::is_in_place(folder, &file);
        if let Some(journal) = &mut lock(&shared.desk).journal {
            journal.has_gone = has_gone;
        }
        if is_behind {
            return Err("the journal cannot be written".to_owned());
        }
        if has_gone {
            // Calls go on by what is in memory, and are written to what nobody will find again.
            return Err(format!(
                "{}: its files were deleted or moved; put them back, or restart the gateway, which \
                 forgets all spend",
                folder.display()
            ));
        }
        if !self.is_named {
            folder::sync(folder).map_err(|error| text(&error))?;
            self.is_named = true;
        }
        if end > self.applied.position {
            let records = journal::read_from(&file, self.applied.position, end);
            let (records, damage) = records.map_err(|error| text(&error))?;
            damage.tell(folder);
            let upto = Applied { position: end, ..self.applied };
            self.ledger.apply(&records, upto).map_err(|error| text(&error))?;
            self.applied = upto;
            self.running.follow(&records);
            self.is_synced = false;
        }
        if !self.is_synced {
            file.sync_data().map_err(|error| text(&error))?;
            self.is_synced = true;
        }
        if end < ROTATE {
            return Ok(());
        }
        // What the journal forgets must be on the disk itself; else it goes on a little longer.
        if !self.ledger.persist().map_err(|error| text(&error))? {
            return Ok(());
        }
        let generation = self.applied.generation + 1;
        let running: Vec<Record> = self.running.records().collect();
        let next = Journal::begin(folder, generation, &running).map_err(|error| text(&error))?;
        let mut desk = lock(&shared.desk);
        let Some(journal) = &mut desk.journal else { return Ok(()) };
        journal.rotate(next, end).map_err(|error| text(&error))?;
        // The ledger still names the old generation: until its next turn all of this is new to it.
        self.applied = Applied { generation: journal.generation, position: HEADER };
        self.is_named = false;
        Ok(())
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::InUse(text) | Self::Failed(text) => f.write_str(text),
        }
    }
}

/// What the ledger lacks of an earlier process' journal: ended calls behind `from`, and the calls
/// without an end, which count as having cost all they had reserved.
fn unapplied(records: &[(Record, u64)], from: u64) -> Vec<Record> {
    let mut running = HashMap::new();
    let mut lacking = Vec::new();
    for (record, end) in records {
        match record {
            Record::Reserved(reserved) => {
                running.insert(reserved.call, reserved);
            }
            Record::Settled(settled) => {
                running.remove(&settled.call);
                if *end > from {
                    lacking.push(record.clone());
                }
            }
        }
    }
    let lost = running.into_values().map(|reserved| {
        Record::Settled(Settled {
            call: reserved.call,
            day: reserved.day,
            cost: reserved.amount,
            source: CostSource::Estimate,
            is_counted: true,
            usage: Usage::default(),
            key: Arc::clone(&reserved.key),
            model: Arc::clone(&reserved.model),
            upstream: "".into(),
        })
    });
    lacking.extend(lost);
    lacking
}
