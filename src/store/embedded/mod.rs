//! The store of one machine: decisions in memory, a journal so that no spend is forgotten, a ledger.

mod desk;
mod inbox;
mod journal;
mod keeper;
mod ledger;
mod record;

pub use ledger::{By, Line, report};

use super::{Account, Ask, Funds, Grant, Hold, Moment, Purse, Seat, Settlement, Standing, Verdict};
use desk::Desk;
use inbox::Inbox;
use journal::Journal;
use keeper::Keeper;
use record::{Record, Reserved, Settled};
use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::SystemTime;

/// The embedded store.
#[derive(Debug)]
pub struct Embedded {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Counters by key; each part of them has a lock of its own, held for a look-up alone.
type Seats = HashMap<Arc<str>, Arc<Mutex<Seat>>>;
const SHARDS: usize = 16;

/// What requests and the keeper share.
#[derive(Debug, Default)]
struct Shared {
    seats: [Mutex<Seats>; SHARDS],
    hasher: RandomState,
    desk: Mutex<Desk>,
    /// Ended calls without a reservation, which nobody waits for.
    inbox: Inbox,
}

/// Why the folder cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// Another process uses it.
    InUse(String),
    /// The system says so.
    Failed(String),
}

impl Embedded {
    /// Opens the store of a folder and starts its keeper. Where the folder cannot be used, calls of
    /// keys with a budget are refused until it can; the keeper tries again and again. The problem
    /// is returned beside the store, for the caller to judge.
    #[must_use]
    pub fn open(folder: &Path, now: SystemTime) -> (Self, Option<Problem>) {
        let shared = Arc::new(Shared::default());
        let mut keeper = Keeper::new(folder, Arc::clone(&shared));
        let problem = keeper.open(now).err();
        let thread = std::thread::Builder::new().name("store".into());
        let thread = thread.spawn(move || keeper.run());
        if let Err(error) = &thread {
            tracing::error!(%error, "the store's thread could not be started");
        }
        (Self { shared, thread: Mutex::new(thread.ok()) }, problem)
    }

    /// See [`super::Store::admit`].
    pub fn admit(&self, account: &Account, ask: &Ask, now: Moment) -> Verdict {
        let seat = self.shared.seat(&account.key);
        let mut counters = lock(&seat);
        let admitted = counters.admit(account, ask, now);
        let standing = counters.standing(account, now);
        drop(counters);
        let mut hold = match admitted {
            Ok(hold) => hold,
            Err(refusal) => return Verdict::Refused { refusal, standing },
        };
        if account.budget.is_some() {
            let reserved = Record::Reserved(Reserved {
                call: ask.call,
                day: hold.day,
                amount: hold.reserved,
                key: Arc::clone(&account.key),
                model: Arc::clone(&ask.model),
            });
            if !lock(&self.shared.desk).reserve(&reserved, now.mono) {
                lock(&seat).withdraw(account, &hold, now);
                return Verdict::Unavailable;
            }
        }
        hold.seat = Some(seat);
        Verdict::Admitted(Grant { standing, hold })
    }

    /// See [`super::Store::settle`].
    pub fn settle(
        &self,
        account: &Account,
        hold: &Hold,
        settlement: &Settlement,
        now: Moment,
    ) -> Option<Funds> {
        let look_up = || self.shared.seat(&account.key);
        let seat = hold.seat.as_ref().map_or_else(|| Cow::Owned(look_up()), Cow::Borrowed);
        let mut counters = lock(&seat);
        counters.settle(hold, settlement.tokens, settlement.cost, now);
        let funds = counters.funds(account, now.wall);
        drop(counters);
        if account.budget.is_some() {
            let record = settled(account, hold, settlement);
            let is_left = lock(&self.shared.desk).settle(record, hold.reserved, now.mono);
            if is_left {
                self.shared.inbox.nudge();
            }
        } else if settlement.entry.is_some() {
            // Nothing is reserved, so that nothing is lost but a line of the ledger should the
            // process die within the next milliseconds.
            self.shared.inbox.put(Record::Settled(settled(account, hold, settlement)));
        }
        funds
    }

    /// Writes down the line of an ended call alone, for a store that counts elsewhere.
    pub fn enter(&self, account: &Account, hold: &Hold, settlement: &Settlement) {
        if settlement.entry.is_some() {
            self.shared.inbox.put(Record::Settled(settled(account, hold, settlement)));
        }
    }

    /// See [`super::Store::look`]. What it tells of ended calls is on file, where the disk
    /// takes it, but for those that end at this very moment.
    pub fn look(&self, account: &Account, now: Moment) -> Standing {
        let standing = self.peek(account, now);
        self.shared.catch_up();
        standing
    }

    /// See [`super::Store::peek`].
    pub fn peek(&self, account: &Account, now: Moment) -> Standing {
        match self.shared.known(&account.key) {
            Some(seat) => lock(&seat).standing(account, now),
            None => Seat::default().standing(account, now),
        }
    }

    /// See [`super::Store::is_up`].
    pub fn is_up(&self) -> bool {
        lock(&self.shared.desk).is_up()
    }

    /// See [`super::Store::knows_spend`].
    pub fn knows_spend(&self) -> bool {
        lock(&self.shared.desk).journal.is_some()
    }

    /// See [`super::Store::close`].
    pub fn close(&self) {
        self.shared.inbox.close();
        if let Some(thread) = lock(&self.thread).take() {
            thread.join().ok();
        }
        // All is written, unless the keeper went before its time.
        self.shared.catch_up();
    }
}

impl Shared {
    fn seats(&self, key: &str) -> MutexGuard<'_, Seats> {
        let [first, rest @ ..] = &self.seats;
        let place = self.hasher.hash_one(key) % SHARDS as u64;
        let place = usize::try_from(place).unwrap_or_default();
        lock(place.checked_sub(1).and_then(|place| rest.get(place)).unwrap_or(first))
    }

    fn known(&self, key: &str) -> Option<Arc<Mutex<Seat>>> {
        self.seats(key).get(key).cloned()
    }

    fn seat(&self, key: &Arc<str>) -> Arc<Mutex<Seat>> {
        let mut seats = self.seats(key);
        if let Some(seat) = seats.get(key) {
            return Arc::clone(seat);
        }
        Arc::clone(seats.entry(Arc::clone(key)).or_default())
    }

    /// Writes what waits as long as that works; a request that comes meanwhile waits for one write.
    fn catch_up(&self) {
        while lock(&self.desk).catch_up() {}
    }

    /// Takes over what an earlier process left.
    fn restore(&self, purses: &[(String, Purse)], journal: Journal) {
        for (key, purse) in purses {
            lock(&self.seat(&key.as_str().into())).restore(purse);
        }
        lock(&self.desk).journal = Some(journal);
    }
}

fn settled(account: &Account, hold: &Hold, settlement: &Settlement) -> Settled {
    let entry = settlement.entry.as_ref();
    Settled {
        call: hold.call,
        day: hold.day,
        cost: settlement.cost,
        source: entry.map_or(crate::protocol::usage::CostSource::None, |entry| entry.source),
        is_counted: entry.is_some(),
        usage: entry.map(|entry| entry.usage).unwrap_or_default(),
        key: Arc::clone(&account.key),
        model: entry.map(|entry| Arc::clone(&entry.model)).unwrap_or_default(),
        upstream: entry.map(|entry| Arc::clone(&entry.upstream)).unwrap_or_default(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
