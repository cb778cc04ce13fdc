//! What people are told of a destination: how it goes, what was sent, what was lost and why.

use super::exporter::Going;
use crate::telemetry::metrics::{Metrics, TraceOutcome};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// Why a trace was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It came faster than it could be written, or after the end.
    Memory,
    /// The spool was full; the oldest went.
    Room,
    /// It could not be encoded, or its record on disk was damaged.
    Damage,
    /// It was too large for the destination, even cut.
    TooLarge,
    /// The destination accepts others and not this one.
    Rejected,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Memory, Self::Room, Self::Damage, Self::TooLarge, Self::Rejected];

    /// The word in `/status` and the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Room => "room",
            Self::Damage => "damage",
            Self::TooLarge => "too_large",
            Self::Rejected => "rejected",
        }
    }
}

/// Something that went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// When.
    pub at: SystemTime,
    /// What, in our words: no address, no key.
    pub what: String,
}

/// The live state of one destination.
pub struct State {
    metrics: Arc<Metrics>,
    sent: AtomicU64,
    retried: AtomicU64,
    spooled: AtomicU64,
    dropped: [AtomicU64; Reason::ALL.len()],
    /// Dropped when that was last told.
    told: AtomicU64,
    /// Set aside after a refusal, until others are accepted.
    aside: AtomicU64,
    now: Mutex<Now>,
}

struct Now {
    going: Going,
    /// Why the spool cannot be used, while it cannot.
    disk: Option<Trouble>,
    last: Option<Trouble>,
}

impl State {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            sent: AtomicU64::default(),
            retried: AtomicU64::default(),
            spooled: AtomicU64::default(),
            dropped: Default::default(),
            told: AtomicU64::default(),
            aside: AtomicU64::default(),
            now: Mutex::new(Now { going: Going::Well, disk: None, last: None }),
        }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add_sent(&self, traces: u64) {
        self.sent.fetch_add(traces, Ordering::Relaxed);
        self.metrics.traces(TraceOutcome::Sent, traces);
    }

    pub(super) fn add_retried(&self, traces: u64) {
        self.retried.fetch_add(traces, Ordering::Relaxed);
        self.metrics.traces(TraceOutcome::Retried, traces);
    }

    pub(super) fn add_spooled(&self, traces: u64) {
        self.spooled.fetch_add(traces, Ordering::Relaxed);
        self.metrics.traces(TraceOutcome::Spooled, traces);
    }

    pub(super) fn add_dropped(&self, reason: Reason, traces: u64) {
        if traces == 0 {
            return;
        }
        if let Some(count) = self.dropped.get(reason as usize) {
            count.fetch_add(traces, Ordering::Relaxed);
        }
        self.metrics.traces(TraceOutcome::Dropped, traces);
    }

    pub(super) fn set_aside(&self, traces: usize) {
        self.aside.store(traces as u64, Ordering::Relaxed);
    }

    /// Notes how it goes; whether that is news.
    pub(super) fn set_going(&self, going: Going) -> bool {
        std::mem::replace(&mut self.now().going, going) != going
    }

    /// Notes what went wrong on the way to the destination.
    pub(super) fn failed(&self, what: String, at: SystemTime) {
        self.now().last = Some(Trouble { at, what });
    }

    /// Notes whether the spool can be used; whether that is news.
    pub(super) fn set_disk(&self, trouble: Option<String>, at: SystemTime) -> bool {
        let mut now = self.now();
        let is_news = now.disk.is_some() != trouble.is_some();
        now.disk = trouble.map(|what| Trouble { at, what });
        if let Some(trouble) = now.disk.clone() {
            now.last = Some(trouble);
        }
        is_news
    }

    /// How it goes with the destination.
    pub fn going(&self) -> Going {
        self.now().going
    }

    /// Whether the spool cannot be used.
    pub fn is_disk_bad(&self) -> bool {
        self.now().disk.is_some()
    }

    /// Why the spool cannot be used, else what went wrong last, if anything ever did.
    pub fn last(&self) -> Option<Trouble> {
        let now = self.now();
        now.disk.clone().or_else(|| now.last.clone())
    }

    /// Traces accepted by the destination.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Traces sent once more.
    pub fn retried(&self) -> u64 {
        self.retried.load(Ordering::Relaxed)
    }

    /// Traces written to disk.
    pub fn spooled(&self) -> u64 {
        self.spooled.load(Ordering::Relaxed)
    }

    /// Traces lost, by reason.
    pub fn dropped(&self) -> [(Reason, u64); Reason::ALL.len()] {
        let count = |reason: Reason| self.dropped.get(reason as usize);
        Reason::ALL.map(|reason| (reason, count(reason).map_or(0, |n| n.load(Ordering::Relaxed))))
    }

    /// Traces set aside.
    pub fn aside(&self) -> u64 {
        self.aside.load(Ordering::Relaxed)
    }

    /// Losses that nobody was told of yet, as a text for the log; they count as told from now on.
    pub(super) fn untold_losses(&self) -> Option<(u64, String)> {
        let dropped = self.dropped();
        let total = dropped.iter().map(|(_, count)| count).sum::<u64>();
        let news = total.saturating_sub(self.told.swap(total, Ordering::Relaxed));
        if news == 0 {
            return None;
        }
        let mut text = String::new();
        for (reason, count) in dropped.iter().filter(|(_, count)| *count > 0) {
            // Writing to a string cannot fail.
            write!(text, "{} {count}, ", reason.as_str()).ok();
        }
        Some((news, text.trim_end_matches(", ").to_owned()))
    }
}
