//! One destination as the delivery keeps it, and how it does.

use super::ending::Ending;
use super::exporter::Going;
use super::spool::{Holds, Spool};
use super::state::{Reason, State, Trouble};
use crate::telemetry::langfuse::{Destination, DestinationKind};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;

/// One destination with all that outlives its settings.
pub(super) struct Outlet {
    pub(super) name: Arc<str>,
    pub(super) spool: Arc<Spool>,
    pub(super) state: State,
    pub(super) settings: watch::Sender<Arc<Destination>>,
    pub(super) ending: Arc<Ending>,
}

impl Outlet {
    /// Whether waiting longer would bring nothing more to the destination.
    pub(super) fn is_idle(&self) -> bool {
        // While somebody is at the disk, that one may be about to write what waits in memory.
        let Some(holds) = self.spool.holds_now() else { return false };
        let is_well = self.state.going() == Going::Well && holds.is_ours;
        // What is on disk survives the process, what waits in memory does not.
        holds.unwritten == 0 && (!is_well || holds.records <= self.state.aside())
    }

    /// Whether there was anything to tell.
    pub(super) fn tell_losses(&self) -> bool {
        let Some((traces, so_far)) = self.state.untold_losses() else { return false };
        tracing::warn!(destination = %self.name, traces, so_far, "traces were dropped");
        true
    }

    /// Whether a trace has waited for so long; also where nobody knows: the clock was set back, or another
    /// process delivers from this spool.
    pub(super) fn has_waited(&self, least: Duration, now: SystemTime) -> bool {
        let holds = self.spool.holds();
        let age = oldest(&holds).and_then(|at| now.duration_since(at).ok());
        holds.records > 0 && age.is_none_or(|age| age >= least)
    }

    /// Tells where another process delivers from this spool: what is written here waits for its end.
    pub(super) fn tell_use(&self) {
        let holds = self.spool.holds();
        if holds.is_open && !holds.is_ours {
            let (name, folder) = (&self.name, self.spool.folder().display());
            tracing::warn!(destination = %name, %folder, "another process delivers from this spool; traces wait until it ends");
        }
    }

    pub(super) fn status(&self, now: SystemTime) -> Status {
        let holds = self.spool.holds();
        let state = match (self.state.is_disk_bad(), holds.is_ours, self.state.going()) {
            (true, ..) => "spool_unusable",
            (false, false, _) if holds.is_open => "spool_in_use",
            (false, _, Going::Well) => "ok",
            (false, _, Going::Away) => "retrying",
            (false, _, Going::Refused) => "refused",
        };
        Status {
            name: Arc::clone(&self.name),
            is_langfuse: self.settings.borrow().kind == DestinationKind::Langfuse,
            state,
            backlog: holds.records,
            spool_bytes: holds.bytes,
            // A clock that was set back makes no negative age.
            lag: oldest(&holds).map(|at| now.duration_since(at).unwrap_or_default()),
            sent: self.state.sent(),
            retried: self.state.retried(),
            dropped: self.state.dropped(),
            last_error: self.state.last(),
        }
    }
}

/// When the oldest trace that waits has finished.
fn oldest(holds: &Holds) -> Option<SystemTime> {
    let oldest = holds.oldest_ms.filter(|_| holds.records > 0)?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_millis(oldest))
}

/// How a destination does, for `/status`.
#[derive(Debug, Clone)]
pub struct Status {
    /// Its name.
    pub name: Arc<str>,
    /// Whether it is the one of `langfuse:`.
    pub is_langfuse: bool,
    /// `ok`, `retrying`, `refused`, `spool_unusable` or `spool_in_use`.
    pub state: &'static str,
    /// Traces not accepted yet, on disk or waiting for it.
    pub backlog: u64,
    /// Bytes on disk.
    pub spool_bytes: u64,
    /// Age of the oldest of them; `None` without any.
    pub lag: Option<Duration>,
    /// Traces accepted, since the start.
    pub sent: u64,
    /// Traces sent once more, since the start.
    pub retried: u64,
    /// Traces lost, since the start.
    pub dropped: [(Reason, u64); Reason::ALL.len()],
    /// What went wrong last.
    pub last_error: Option<Trouble>,
}
