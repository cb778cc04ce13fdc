//! What an exporter sends next: what it has in hand, what is new, or all that is left, anew.

use super::super::spool::read::Cursor;
use super::super::state::Reason;
use super::batch::Batch;
use super::{Exporter, GATHER, MOST_TRACES, READ_AGAIN, READS};
use std::sync::Arc;
use std::time::SystemTime;
use tokio::time::Instant;

/// Most traces of an export that is a try whether anything is accepted: of few all may well be readable.
const A_FEW: u64 = 8;

impl Exporter {
    /// Whether there is nothing to be sent but what was refused.
    pub(super) fn is_idle(&self) -> bool {
        self.under_way.is_empty() && self.again.is_empty() && self.cursor.waiting().0 == 0
    }

    /// What is sent next. Where all is refused, what is new and the most that is in hand, in turn: if it is
    /// traces that are at fault, others stand there.
    pub(super) fn pick(&mut self, now: Instant) -> Option<Batch> {
        if !self.aside.is_suspicious() {
            return self.again.pop_front().or_else(|| self.next(now));
        }
        if self.pace.started().is_multiple_of(2) {
            return self.most_in_hand().or_else(|| self.next(now));
        }
        self.next(now).or_else(|| self.most_in_hand())
    }

    fn most_in_hand(&mut self) -> Option<Batch> {
        let most = self.again.iter().enumerate().max_by_key(|(_, batch)| batch.traces());
        let most = most.map(|(place, _)| place)?;
        self.again.remove(most)
    }

    /// A new batch from the spool, once it is full or traces have gathered for long enough.
    fn next(&mut self, now: Instant) -> Option<Batch> {
        let (traces, bytes) = self.cursor.waiting();
        if traces == 0 && !self.cursor.has_lost() {
            self.gathering = None;
            return None;
        }
        let is_full = traces >= MOST_TRACES || bytes >= self.most_bytes as u64;
        let until = *self.gathering.get_or_insert(now + GATHER);
        if !is_full && now < until && !self.outlet.ending.is_flushing() {
            return None;
        }
        let most = if self.aside.is_suspicious() { A_FEW } else { MOST_TRACES };
        let taken = self.cursor.take(most, self.most_bytes);
        self.gathering = None;
        match taken {
            Ok(lot) => {
                self.failed_reads = 0;
                let lot = lot?;
                self.outlet.state.add_dropped(Reason::Damage, lot.lost);
                if lot.lost > 0 {
                    // At once: whoever reads this stretch again would count them again.
                    lot.gaps().into_iter().for_each(|gap| self.settle(gap));
                }
                if lot.parts.is_empty() {
                    self.settle((lot.from, lot.to));
                    return self.next(now);
                }
                Some(Batch::new(lot))
            }
            Err(error) => {
                self.unreadable(&error, now);
                None
            }
        }
    }

    fn unreadable(&mut self, error: &std::io::Error, now: Instant) {
        tracing::error!(destination = %self.outlet.name, %error, "traces on disk cannot be read");
        self.outlet.state.failed(format!("the spool cannot be read: {error}"), SystemTime::now());
        self.failed_reads += 1;
        if self.failed_reads >= READS {
            self.failed_reads = 0;
            self.cursor.skip_segment();
        }
        self.gathering = Some(now + READ_AGAIN);
    }

    /// Whether reading has begun anew.
    pub(super) fn rewind(&mut self) -> bool {
        if !self.under_way.is_empty() {
            return false;
        }
        if let Some(cursor) = Cursor::new(Arc::clone(&self.outlet.spool)) {
            self.cursor = cursor;
            let mut waiting = self.aside.clear();
            for batch in self.again.drain(..) {
                waiting.extend(batch.stretches());
            }
            self.let_go(waiting.into_iter());
        }
        self.is_rewinding = false;
        true
    }

    /// These are not in hand any more, and are read again if they are still there.
    pub(super) fn let_go(&self, stretches: impl Iterator<Item = (u64, u64)>) {
        let dropped = self.outlet.spool.release(stretches);
        self.outlet.state.add_dropped(Reason::Room, dropped);
    }
}
