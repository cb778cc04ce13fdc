//! What waits for the writer, within bounds, and what is written and waits to be freed.

use crate::telemetry::langfuse::Trace;
use std::time::Instant;

/// Bounds on traces not yet written: at a thousand calls a second, seconds of a disk that hangs.
const MOST_WAITING: usize = 16_384;
const MOST_WAITING_BYTES: usize = 16 << 20;
/// So many need not wait for more: they and what becomes of them still fit into a core's cache.
const ENOUGH: usize = 128;

/// What requests leave and the writer takes.
#[derive(Default)]
pub(super) struct Queue {
    pub(super) waiting: Vec<Held>,
    /// Small ones that are written. Memory is cheapest to free on the thread it was taken on, and then at
    /// hand for the next call: so calls that end take these along.
    pub(super) spent: Vec<Held>,
    /// Bytes held by what is not written yet.
    pub(super) bytes: usize,
    /// Traces ever queued, and how many of them are written.
    pub(super) queued: u64,
    pub(super) written: u64,
    /// Whether the thread runs.
    pub(super) is_running: bool,
    pub(super) is_flushing: bool,
    /// No trace follows.
    pub(super) is_closed: bool,
    /// Once it is closed, how long the writer may try a disk that does not take what waits.
    pub(super) write_until: Option<Instant>,
}

/// A trace that waits. Under the lock a pointer is moved, not a record.
pub(super) struct Held {
    pub(super) trace: Box<Trace>,
    /// What it was counted with: encoding lets go of the body, so that it is smaller afterwards.
    pub(super) bytes: usize,
}

impl Queue {
    /// Takes a trace. Whether the writer is to be woken, and what the caller is to free once the lock is.
    ///
    /// # Errors
    /// The trace, where there is no room for it, or nobody to write it.
    pub(super) fn put(&mut self, held: Held) -> Result<(bool, [Option<Held>; 2]), Held> {
        let bytes = held.bytes;
        let is_full = self.waiting.len() >= MOST_WAITING || self.bytes + bytes > MOST_WAITING_BYTES;
        if is_full || !self.is_running || self.is_closed {
            return Err(held);
        }
        let is_due = self.waiting.is_empty() || self.waiting.len() + 1 == ENOUGH;
        self.waiting.push(held);
        (self.bytes, self.queued) = (self.bytes + bytes, self.queued + 1);
        Ok((is_due, [self.spent.pop(), self.spent.pop()]))
    }

    /// Whether there is nothing to write.
    pub(super) const fn is_idle(&self) -> bool {
        self.waiting.is_empty() && !self.is_closed
    }

    /// Whether the writer had better wait for more.
    pub(super) const fn is_filling(&self) -> bool {
        !self.is_closed
            && !self.is_flushing
            && !self.waiting.is_empty()
            && self.bytes < MOST_WAITING_BYTES / 4
            && self.waiting.len() < ENOUGH
    }
}
