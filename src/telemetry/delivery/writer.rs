//! The one thread that turns traces into records and writes them: off every request's path.

use super::spool::append::{Appender, Flushed};
use super::state::Reason;
use super::{Delivery, Outlet};
use crate::telemetry::langfuse::{Destination, SMALL, Trace, encode};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// After so long without a trace the segment that is delivered goes.
const IDLE: Duration = Duration::from_secs(5);
/// How often what failed is tried again, and losses may be told.
const TICK: Duration = Duration::from_secs(1);
/// The same while the process ends: what waits in memory has no other chance.
const LAST_TICK: Duration = Duration::from_millis(100);
/// At most one line about losses in this time.
const WARN_EVERY: Duration = Duration::from_mins(1);

/// Room in the queue is given back in steps of so many bytes: each takes the lock that requests take.
const FREED_AT_ONCE: usize = 1 << 20;

/// So many traces at most, all of them small, are left for calls to free.
const MOST_SPENT: usize = 512;

/// The thread behind a [`Delivery`].
pub(super) struct Writer {
    delivery: Arc<Delivery>,
    writing: Vec<(Arc<Outlet>, Appender)>,
    ticked: Option<Instant>,
    warned: Option<Instant>,
}

impl Writer {
    pub(super) const fn new(delivery: Arc<Delivery>) -> Self {
        Self { delivery, writing: Vec::new(), ticked: None, warned: None }
    }

    /// Writes until the delivery is closed and all is written.
    pub(super) fn run(mut self) {
        let (mut batch, mut spent) = (Vec::new(), Vec::new());
        loop {
            // Nobody wakes it where a drain begins.
            let at_most = if self.is_waiting() { LAST_TICK } else { TICK };
            let (last, is_closed) = self.delivery.take(&mut batch, at_most);
            self.begin_new();
            let finished = SystemTime::now();
            let finished_ms = finished.duration_since(SystemTime::UNIX_EPOCH);
            let finished_ms =
                finished_ms.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or_default());
            let mut freed = 0;
            let settings = |outlet: &Outlet| outlet.settings.borrow().clone();
            let to: Vec<_> = self.writing.iter().map(|(outlet, _)| settings(outlet)).collect();
            for mut held in batch.drain(..) {
                for ((outlet, appender), to) in self.writing.iter_mut().zip(&to) {
                    push((outlet, to), appender, &held.trace, finished_ms);
                }
                freed += held.bytes;
                if held.bytes <= SMALL && spent.len() < MOST_SPENT {
                    held.trace.presented = None;
                    spent.push(held);
                }
                if freed >= FREED_AT_ONCE {
                    self.delivery.release(std::mem::take(&mut freed));
                }
            }
            self.delivery.release(freed);
            self.delivery.spend(&mut spent);
            // Nobody has taken them along.
            spent.clear();
            let tick = if self.delivery.ending.is_flushing() { LAST_TICK } else { TICK };
            let is_due = self.ticked.is_none_or(|last| last.elapsed() >= tick);
            for (outlet, appender) in &mut self.writing {
                // A spool in trouble is tried again each second, and meanwhile kept in memory.
                if appender.pending_bytes() > 0 && (is_due || !outlet.state.is_disk_bad()) {
                    flush(outlet, appender);
                }
                appender.tell();
            }
            if is_due {
                self.tick();
            }
            self.end_gone();
            self.delivery.written(last);
            if is_closed {
                self.close();
                self.delivery.ended();
                return;
            }
        }
    }

    /// Whether anything waits in memory for a disk.
    fn is_waiting(&self) -> bool {
        self.writing.iter().any(|(_, appender)| appender.pending_bytes() > 0)
    }

    /// New destinations get an appender; one that went and has come back takes over from itself.
    fn begin_new(&mut self) {
        let outlets = self.delivery.outlets.load_full();
        self.end(|outlet| {
            let is_other = |one: &Arc<Outlet>| one.name == outlet.name && !Arc::ptr_eq(one, outlet);
            outlets.iter().any(is_other)
        });
        for outlet in &*outlets {
            if !self.writing.iter().any(|(other, _)| Arc::ptr_eq(outlet, other)) {
                let appender = Appender::new(Arc::clone(&outlet.spool));
                self.writing.push((Arc::clone(outlet), appender));
            }
        }
    }

    /// Those that are gone are closed, once what ended before they went is written.
    fn end_gone(&mut self) {
        let outlets = self.delivery.outlets.load_full();
        self.end(|outlet| !outlets.iter().any(|other| Arc::ptr_eq(outlet, other)));
    }

    fn end(&mut self, is_over: impl Fn(&Arc<Outlet>) -> bool) {
        for (outlet, appender) in &mut self.writing {
            if is_over(outlet) {
                close(outlet, appender);
                // Nobody else comes to tell them.
                outlet.tell_losses();
            }
        }
        self.writing.retain(|(outlet, _)| !is_over(outlet));
    }

    fn tick(&mut self) {
        let now = Instant::now();
        self.ticked = Some(now);
        for (outlet, appender) in &mut self.writing {
            let opened = outlet.spool.open();
            // While something waits to be written, only writing it shows that all is well.
            if opened.is_err() || appender.pending_bytes() == 0 {
                note(outlet, &opened);
            }
            let mut flushed = Flushed::default();
            // What cannot be deleted now is tried again, and writing shows how the disk is.
            appender.let_go(IDLE, &mut flushed).ok();
            count(outlet, flushed);
        }
        if self.warned.is_some_and(|last| now.duration_since(last) < WARN_EVERY) {
            return;
        }
        for (outlet, _) in &self.writing {
            if outlet.tell_losses() {
                self.warned = Some(now);
            }
        }
    }

    /// Tries as long as it may to write all, and lets go of the rest.
    fn close(&mut self) {
        let until = self.delivery.write_until();
        while self.is_waiting() && until.is_some_and(|until| Instant::now() < until) {
            for (outlet, appender) in &mut self.writing {
                if appender.pending_bytes() > 0 {
                    flush(outlet, appender);
                }
            }
            if self.is_waiting() {
                thread::park_timeout(LAST_TICK);
            }
        }
        for (outlet, appender) in &mut self.writing {
            close(outlet, appender);
        }
    }
}

/// Appends what this destination gets of a call, if it wants it.
fn push(
    (outlet, to): (&Outlet, &Destination),
    appender: &mut Appender,
    trace: &Trace,
    finished_ms: u64,
) {
    if !to.wants(trace.exchange.trace_id, trace.opted_out) {
        return;
    }
    let mut flushed = Flushed::default();
    appender.push(finished_ms, &mut flushed, |out| {
        catch_unwind(AssertUnwindSafe(|| encode(trace, to, out) > 0)).unwrap_or_else(|_| {
            // One call that cannot be written must not end tracing. The panic itself is in the log.
            outlet.state.add_dropped(Reason::Damage, 1);
            false
        })
    });
    count(outlet, flushed);
    if appender.is_worth_a_write() && !outlet.state.is_disk_bad() {
        flush(outlet, appender);
    }
}

fn flush(outlet: &Outlet, appender: &mut Appender) {
    let mut flushed = Flushed::default();
    let outcome = appender.flush(&mut flushed);
    count(outlet, flushed);
    note(outlet, &outcome);
}

fn close(outlet: &Outlet, appender: &mut Appender) {
    let mut flushed = Flushed::default();
    let outcome = appender.close(&mut flushed);
    count(outlet, flushed);
    note(outlet, &outcome);
}

fn count(outlet: &Outlet, flushed: Flushed) {
    if flushed.written > 0 {
        outlet.state.add_spooled(flushed.written);
    }
    outlet.state.add_dropped(Reason::Room, flushed.dropped);
    outlet.state.add_dropped(Reason::Memory, flushed.overflown);
}

/// Notes whether the spool can be used; told when that changes.
pub(super) fn note(outlet: &Outlet, outcome: &io::Result<()>) {
    let trouble = outcome.as_ref().err();
    let words = trouble.map(|error| format!("the spool cannot be used: {error}"));
    if outlet.state.set_disk(words, SystemTime::now()) {
        let (name, folder) = (&outlet.name, outlet.spool.folder().display());
        if let Some(error) = trouble {
            tracing::error!(destination = %name, %folder, %error, "the spool cannot be used");
        } else {
            tracing::info!(destination = %name, %folder, "the spool can be used again");
        }
    }
}
