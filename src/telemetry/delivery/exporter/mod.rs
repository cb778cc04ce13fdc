//! One destination's exporter: takes lots from its spool, posts them, and settles what was accepted.
//!
//! The bytes of an export are put together once and sent again unchanged: Langfuse knows a span that comes
//! twice by its id and start (LANGFUSE section 4). It never gives up on its own; a trace is dropped only
//! where the destination takes others and not this one.

mod aside;
mod batch;
mod gzip;
mod pace;
mod shorten;
mod source;
mod target;

pub use pace::Going;

use super::ending::Sending;
use super::reply::{Reply, Verdict};
use super::spool::read::Cursor;
use super::state::Reason;
use super::{Outlet, http};
use crate::telemetry::langfuse::Destination;
use aside::{Aside, Fate};
use batch::Batch;
use pace::Pace;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use target::{is_same, is_taken, moved};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Traces that fill an export: with two under way, 100 ms of network carry 10,000 a second.
const MOST_TRACES: u64 = 512;
/// Most bytes of one export, uncompressed; a larger trace goes alone. Langfuse's cloud takes 5 MB.
const MOST_BYTES: usize = 2 << 20;
/// However small a destination wants it, in bytes.
const LEAST_BYTES: usize = 16 << 10;
/// After so many accepted exports twice as much is tried, up to the bound: one that was too large
/// for a moment does not make small ones for ever.
const WIDEN_AFTER: u32 = 256;
/// How long traces gather before an export that is not full.
const GATHER: Duration = Duration::from_secs(1);
/// The same problem is told again after so long.
const TELL_EVERY: Duration = Duration::from_mins(1);
/// Tries to read a segment before the rest of it is given up, and the time between them.
const READS: u32 = 5;
const READ_AGAIN: Duration = Duration::from_secs(1);

/// Exports until the outlet closes.
pub(super) async fn run(outlet: Arc<Outlet>) {
    let cursor = loop {
        if let Some(cursor) = Cursor::new(Arc::clone(&outlet.spool)) {
            break cursor;
        }
        outlet.spool.grown().await;
    };
    let client = match http::client() {
        Ok(client) => client,
        Err(error) => {
            tracing::error!(destination = %outlet.name, %error, "no HTTP client for traces");
            outlet.state.failed("no HTTP client could be built".into(), SystemTime::now());
            return std::future::pending().await;
        }
    };
    let settings = outlet.settings.subscribe();
    let known = settings.borrow().clone();
    Exporter {
        outlet,
        client,
        settings,
        known,
        cursor,
        pace: Pace::new(),
        under_way: JoinSet::new(),
        again: VecDeque::new(),
        aside: Aside::default(),
        most_bytes: MOST_BYTES,
        fitting: 0,
        gathering: None,
        failed_reads: 0,
        is_rewinding: false,
        told: None,
    }
    .run()
    .await;
}

struct Exporter {
    outlet: Arc<Outlet>,
    client: reqwest::Client,
    settings: watch::Receiver<Arc<Destination>>,
    /// The settings that were looked at last.
    known: Arc<Destination>,
    cursor: Cursor,
    pace: Pace,
    under_way: JoinSet<Ended>,
    /// To be sent before anything new.
    again: VecDeque<Batch>,
    /// Single traces that were refused, until others are accepted.
    aside: Aside,
    /// Lowered where the destination says that it is too much.
    most_bytes: usize,
    /// Exports accepted since it was.
    fitting: u32,
    /// Until when traces gather.
    gathering: Option<Instant>,
    failed_reads: u32,
    /// Whether everything that is not done with is to be read again, once nothing is under way.
    is_rewinding: bool,
    /// The problem told last, and when.
    told: Option<(String, Instant)>,
}

struct Ended {
    /// Of the export, by [`Pace::starts`].
    number: u64,
    batch: Batch,
    /// Where it went.
    to: Arc<Destination>,
    /// `None` where it was let go of, since it would go elsewhere now.
    outcome: Option<Result<Reply, reqwest::Error>>,
    sending: Sending,
}

impl Exporter {
    async fn run(mut self) {
        loop {
            let now = Instant::now();
            self.start(now);
            self.tell();
            let wake = [self.pace.not_before(), self.gathering, self.aside.again_at()];
            let wake = wake.into_iter().flatten();
            let wake = wake.filter(|at| *at > now).min();
            tokio::select! {
                Some(ended) = self.under_way.join_next() => match ended {
                    Ok(ended) => self.ended(ended),
                    // It panicked; what it held is read anew.
                    Err(_) => self.is_rewinding = true,
                },
                () = tokio::time::sleep_until(wake.unwrap_or(now)), if wake.is_some() => {}
                () = self.outlet.spool.grown() => {}
                changed = self.settings.changed() => match changed {
                    Ok(()) => self.reset(),
                    Err(_) => return,
                },
            }
        }
    }

    /// Starts what may start.
    fn start(&mut self, now: Instant) {
        let is_due = !self.is_rewinding && self.aside.again_at().is_some_and(|at| now >= at);
        if is_due && self.is_idle() {
            self.aside.has_been_quiet();
            self.is_rewinding = true;
        }
        if self.is_rewinding && !self.rewind() {
            return;
        }
        while self.pace.may_start(self.under_way.len(), now) {
            let Some(sending) = self.outlet.ending.start() else { return };
            let Some(batch) = self.pick(now) else { return };
            let to = self.settings.borrow().clone();
            let request = target::request(&self.client, &to, batch.bytes.clone());
            let number = self.pace.starts();
            let settings = self.settings.clone();
            self.under_way.spawn(async move {
                let outcome = tokio::select! {
                    outcome = http::post(request) => Some(outcome),
                    () = moved(settings, &to) => None,
                };
                Ended { number, batch, to, outcome, sending }
            });
        }
    }

    fn ended(&mut self, Ended { number, batch, to, outcome, sending: _sending }: Ended) {
        let (now, wall) = (Instant::now(), SystemTime::now());
        let is_elsewhere = !is_same(&to, &self.known);
        // What an old place says of an export says nothing of the new one, unless it has taken it.
        if is_elsewhere && !outcome.as_ref().is_some_and(|outcome| is_taken(outcome, wall)) {
            return self.once_more(batch);
        }
        match outcome {
            Some(Ok(reply)) => {
                let verdict = reply.verdict(wall);
                if !matches!(verdict, Verdict::Accepted { .. }) {
                    self.failed(reply.words(), &reply.said(&to));
                }
                match verdict {
                    Verdict::Accepted { rejected } => {
                        self.pace.accepted(number);
                        self.accepted(&batch, rejected, || reply.said(&to));
                        if !is_elsewhere {
                            self.fits();
                            self.is_rewinding |= self.aside.accepted(number, batch.range());
                        }
                    }
                    Verdict::Later { after } => {
                        self.pace.later(after, now, &mut rand::rng());
                        self.once_more(batch);
                    }
                    Verdict::Refused => {
                        self.pace.refused(now);
                        self.once_more(batch);
                    }
                    Verdict::TooLarge => self.too_large(batch, now),
                    Verdict::Unreadable => self.not_understood(batch, now),
                }
            }
            None => self.once_more(batch),
            Some(Err(error)) => {
                let (words, details) = http::trouble(error);
                self.failed(words, &details);
                self.pace.later(None, now, &mut rand::rng());
                self.once_more(batch);
            }
        }
    }

    fn once_more(&mut self, batch: Batch) {
        self.outlet.state.add_retried(batch.traces());
        self.again.push_front(batch);
    }

    fn accepted(&mut self, batch: &Batch, rejected: u64, said: impl FnOnce() -> String) {
        let rejected = rejected.min(batch.traces());
        self.outlet.state.add_sent(batch.traces() - rejected);
        if rejected > 0 {
            self.failed("it accepted an export and rejected some of it".into(), &said());
            self.outlet.state.add_dropped(Reason::Rejected, rejected);
        }
        // Counted first: who sees an empty backlog sees all of them as sent.
        self.settle(batch.range());
    }

    /// An export was not too large.
    fn fits(&mut self) {
        self.fitting = self.fitting.saturating_add(1);
        if self.fitting.is_multiple_of(WIDEN_AFTER) {
            self.most_bytes = (self.most_bytes * 2).min(MOST_BYTES);
        }
    }

    fn too_large(&mut self, mut batch: Batch, now: Instant) {
        let since = batch.refused(self.pace.started());
        if batch.traces() > 1 {
            self.most_bytes = (batch.length / 2).clamp(LEAST_BYTES, self.most_bytes);
            self.fitting = 0;
            self.split(batch, now);
        } else if let Some(shorter) = batch.shortened() {
            self.again.push_front(shorter);
        } else {
            self.refused_alone(batch, since, Reason::TooLarge, now);
        }
    }

    /// One bad trace must not cost its neighbours: halve until it stands alone.
    fn not_understood(&mut self, mut batch: Batch, now: Instant) {
        let since = batch.refused(self.pace.started());
        if batch.traces() > 1 {
            self.split(batch, now);
        } else {
            self.refused_alone(batch, since, Reason::Rejected, now);
        }
    }

    fn refused_alone(&mut self, batch: Batch, since: u64, reason: Reason, now: Instant) {
        let range = batch.range();
        match self.aside.put(batch, (since, self.pace.started()), reason, now) {
            Fate::Lost => self.give_up(range, reason),
            // Behind the others: what is accepted of them tells more.
            Fate::Again(batch) => self.again.push_back(batch),
            Fate::Waits(oldest) => {
                if let Some(oldest) = oldest {
                    self.give_up(oldest.range, oldest.reason);
                }
                if self.aside.is_time_to_wait() {
                    self.pace.refused(now);
                }
            }
        }
    }

    /// More than one are refused: halved, unless all is refused and this was a try. Then they wait in the
    /// spool alone, and are read anew once something is accepted.
    fn split(&mut self, batch: Batch, now: Instant) {
        if self.aside.is_suspicious() {
            self.let_go(batch.stretches());
            return self.pace.refused(now);
        }
        let (range, (halves, damaged)) = (batch.range(), batch.halves());
        self.outlet.state.add_dropped(Reason::Damage, damaged);
        if halves.is_empty() {
            self.settle(range);
        }
        halves.into_iter().rev().for_each(|half| self.again.push_front(half));
    }

    /// One trace is lost.
    fn give_up(&mut self, range: (u64, u64), reason: Reason) {
        self.outlet.state.add_dropped(reason, 1);
        self.settle(range);
    }

    fn settle(&mut self, (from, to): (u64, u64)) {
        if let Err(error) = self.outlet.spool.settle(from, to) {
            // After a crash these would be sent again.
            self.failed("the spool's position cannot be noted".into(), &error.to_string());
        }
    }

    /// Somebody changed something. With other keys or another address everything is tried anew, at
    /// once; else only what is refused is, since a wait the destination asked for still holds.
    fn reset(&mut self) {
        let to = self.settings.borrow_and_update().clone();
        let is_same = is_same(&to, &self.known);
        self.known = to;
        if is_same {
            self.pace.hurry();
            return;
        }
        self.pace.forget();
        self.most_bytes = MOST_BYTES;
        self.aside.forget();
        self.again.iter_mut().for_each(|batch| batch.refused = None);
        self.is_rewinding |= self.aside.len() > 0;
    }

    fn failed(&mut self, words: String, details: &str) {
        let now = Instant::now();
        let is_old = |(told, at): &(String, Instant)| *told == words && now - *at <= TELL_EVERY;
        if !self.told.as_ref().is_some_and(is_old) {
            let destination = &self.outlet.name;
            tracing::warn!(%destination, problem = words, details, "traces not accepted");
            self.told = Some((words.clone(), now));
        }
        self.outlet.state.failed(words, SystemTime::now());
    }

    /// Lets others see how it goes.
    fn tell(&self) {
        let (state, name) = (&self.outlet.state, &self.outlet.name);
        state.set_aside(self.aside.len());
        if state.set_going(self.pace.going()) {
            match self.pace.going() {
                Going::Well => tracing::info!(destination = %name, "traces are accepted again"),
                // What is wrong has just been told.
                Going::Away => {}
                Going::Refused => {
                    tracing::error!(destination = %name, "traces are refused and wait in the spool");
                }
            }
        }
    }
}
