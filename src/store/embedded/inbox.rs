//! What ended calls tell the keeper: gathered for an instant, so that it wakes now and then and not
//! once a call.

use super::lock;
use super::record::Record;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How long records gather after the first one: a waking costs as much as hundreds of them.
const GATHER: Duration = Duration::from_millis(20);
/// Most that gather, seconds of a busy gateway; further ones are counted as lost.
const MAX_RECORDS: usize = 100_000;

/// Records on their way to the keeper.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    gathered: Mutex<Gathered>,
    wake: Condvar,
}

/// What has gathered.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub(super) records: Vec<Record>,
    /// Records there was no room for.
    pub(super) lost: u64,
    /// The process ends.
    pub(super) is_closed: bool,
    /// Something waits elsewhere.
    is_nudged: bool,
}

impl Inbox {
    /// Takes a record; never waits for the keeper.
    pub(super) fn put(&self, record: Record) {
        let mut gathered = lock(&self.gathered);
        if gathered.records.len() >= MAX_RECORDS {
            gathered.lost += 1;
            return;
        }
        let was_empty = gathered.records.is_empty();
        gathered.records.push(record);
        drop(gathered);
        if was_empty {
            self.wake.notify_one();
        }
    }

    /// Wakes the keeper after the same instant, for what waits elsewhere.
    pub(super) fn nudge(&self) {
        lock(&self.gathered).is_nudged = true;
        self.wake.notify_one();
    }

    /// Nothing follows.
    pub(super) fn close(&self) {
        lock(&self.gathered).is_closed = true;
        self.wake.notify_one();
    }

    /// Exchanges what has gathered for the empty `records`; waits so long at most for a first one.
    pub(super) fn take(&self, records: Vec<Record>, at_most: Duration) -> Gathered {
        let is_empty = |now: &Gathered| now.records.is_empty() && !now.is_nudged;
        let idle = |now: &mut Gathered| is_empty(now) && !now.is_closed;
        let waited = self.wake.wait_timeout_while(lock(&self.gathered), at_most, idle);
        let (gathered, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let filling = |now: &mut Gathered| !is_empty(now) && !now.is_closed;
        let waited = self.wake.wait_timeout_while(gathered, GATHER, filling);
        let (mut gathered, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let is_closed = gathered.is_closed;
        std::mem::replace(&mut *gathered, Gathered { records, is_closed, ..Gathered::default() })
    }
}
