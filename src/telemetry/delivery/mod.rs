//! How finished traces reach their destinations: a queue in memory, a spool on disk, an exporter each.
//!
//! A request hands its trace over and goes on. One thread encodes and appends to the spool of each
//! destination; one task a destination reads its spool and posts. Only what a destination has
//! accepted leaves the disk, so that neither an outage there nor a crash here loses a trace.

mod check;
mod ending;
mod exporter;
mod http;
mod outlet;
mod queue;
mod reply;
pub mod spool;
mod state;
mod writer;

pub use check::check;
pub use exporter::Going;
pub use outlet::Status;
pub use state::{Reason, State, Trouble};

use super::langfuse::{Destination, Trace};
use super::metrics::Metrics;
use arc_swap::ArcSwap;
use ending::Ending;
use outlet::Outlet;
use queue::{Held, Queue};
use spool::Spool;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use writer::Writer;

/// How long the thread lets traces gather after the first one, well below the 200 ms after which a
/// finished call must survive `kill -9`: each waking costs as much as a dozen traces.
const GATHER: Duration = Duration::from_millis(40);
/// Between two rounds that force to the disk what has waited there for so long: what a power cut may cost,
/// together. What is delivered before and deleted never needs the disk itself.
const SYNC: Duration = Duration::from_millis(500);
const SYNC_AFTER: Duration = Duration::from_secs(2);
/// How often exporters are looked after.
const LOOK: Duration = Duration::from_secs(1);
/// How often a flush looks whether all is sent.
const FLUSHED: Duration = Duration::from_millis(20);

/// Takes traces and delivers them; one a process.
pub struct Delivery {
    queue: Mutex<Queue>,
    /// There is something to write, or somebody waits for it.
    wake: Condvar,
    /// Something was written.
    done: Condvar,
    outlets: ArcSwap<Vec<Arc<Outlet>>>,
    /// The outlets are others.
    changed: Notify,
    ending: Arc<Ending>,
    metrics: Arc<Metrics>,
}

impl Delivery {
    /// A delivery to nowhere, until [`Delivery::apply`].
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            queue: Mutex::default(),
            wake: Condvar::new(),
            done: Condvar::new(),
            outlets: ArcSwap::default(),
            changed: Notify::new(),
            ending: Arc::default(),
            metrics,
        })
    }

    /// Takes a trace. Never waits and never fails: where the disk does not keep up, or once the
    /// process has ended, the trace is dropped and counted, and without destinations it is dropped.
    pub fn hand_over(&self, trace: Box<Trace>) {
        if self.outlets.load().is_empty() {
            return;
        }
        let held = Held { bytes: trace.bytes(), trace };
        let mut queue = self.lock();
        let put = queue.put(held);
        drop(queue);
        let Ok((is_due, spent)) = put else { return self.drop_one() };
        if is_due {
            self.wake.notify_one();
        }
        drop(spent);
    }

    /// A trace is lost before any destination had it.
    pub fn drop_one(&self) {
        for outlet in &**self.outlets.load() {
            outlet.state.add_dropped(Reason::Memory, 1);
        }
    }

    /// Sends to these from now on. What waits for one that stays goes to its new address, with its
    /// new keys; what waits for one that is gone stays on disk until it comes back.
    pub fn apply(self: &Arc<Self>, destinations: &[Arc<Destination>]) {
        let old = self.outlets.load_full();
        let outlet = |to: &Arc<Destination>| {
            let max_bytes = to.spool.max_bytes.0;
            if let Some(known) = old.iter().find(|outlet| outlet.name == to.name) {
                known.spool.bound(max_bytes);
                known.settings.send_replace(Arc::clone(to));
                return Arc::clone(known);
            }
            let new = Outlet {
                name: Arc::clone(&to.name),
                spool: Arc::new(Spool::new(to.spool.path.clone(), max_bytes)),
                state: State::new(Arc::clone(&self.metrics)),
                settings: watch::Sender::new(Arc::clone(to)),
                ending: Arc::clone(&self.ending),
            };
            // What a crash left is counted before anybody asks: it takes milliseconds, once.
            writer::note(&new, &new.spool.open());
            new.tell_use();
            Arc::new(new)
        };
        let outlets = destinations.iter().map(outlet).collect();
        // First, since what is handed over without them is lost.
        if !destinations.is_empty() {
            self.start_threads();
        }
        self.outlets.store(Arc::new(outlets));
        self.changed.notify_one();
    }

    /// The writer, and the one that makes the disk keep what is written: that may take a second on
    /// a slow disk, in which the writer must go on.
    fn start_threads(self: &Arc<Self>) {
        if std::mem::replace(&mut self.lock().is_running, true) {
            return;
        }
        let writer = Writer::new(Arc::clone(self));
        let weak = Arc::downgrade(self);
        let sync = move || {
            while let Some(delivery) = weak.upgrade() {
                delivery.sync(Some(SYNC_AFTER));
                if delivery.wait_for_close(SYNC) {
                    return;
                }
            }
        };
        let named = |name: &str| thread::Builder::new().name(name.to_owned());
        if let Err(error) = named("traces").spawn(move || writer.run()) {
            tracing::error!(%error, "traces cannot be written");
            self.ended();
        } else if let Err(error) = named("traces-sync").spawn(sync) {
            tracing::error!(%error, "a power cut may lose traces");
        }
    }

    /// Runs the exporters, for ever.
    pub async fn run(&self) {
        let mut running: Vec<(Arc<Outlet>, JoinHandle<()>)> = Vec::new();
        loop {
            let outlets = self.outlets.load_full();
            running.retain(|(outlet, task)| {
                let is_wanted = outlets.iter().any(|other| Arc::ptr_eq(outlet, other));
                if !is_wanted {
                    task.abort();
                }
                // One that panicked begins anew from what the spool knows.
                is_wanted && !task.is_finished()
            });
            for outlet in &*outlets {
                if !running.iter().any(|(other, _)| Arc::ptr_eq(outlet, other)) {
                    let task = tokio::spawn(exporter::run(Arc::clone(outlet)));
                    running.push((Arc::clone(outlet), task));
                }
            }
            tokio::select! {
                () = self.changed.notified() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Brings the gauges up to date: the destination that is furthest behind.
    pub fn observe(&self) {
        let statuses = self.status(SystemTime::now());
        let backlog = statuses.iter().map(|status| status.backlog).max();
        let lag = statuses.iter().filter_map(|status| status.lag).max();
        self.metrics.traces_waiting(backlog.unwrap_or_default(), lag.unwrap_or_default());
    }

    /// How each destination does, in configured order.
    #[must_use]
    pub fn status(&self, now: SystemTime) -> Vec<Status> {
        self.outlets.load().iter().map(|outlet| outlet.status(now)).collect()
    }

    /// Sends what is there without waiting for more, until all is sent, nothing can be, or the
    /// time is over. The rest stays in the spool.
    pub async fn flush(&self, until: Instant) {
        self.ending.flush();
        let goal = {
            let mut queue = self.lock();
            queue.is_flushing = true;
            queue.queued
        };
        self.wake.notify_one();
        let is_flushed = || {
            let is_written = !self.lock().is_running || self.lock().written >= goal;
            is_written && self.outlets.load().iter().all(|outlet| outlet.is_idle())
        };
        while !is_flushed() && Instant::now() < until {
            for outlet in &**self.outlets.load() {
                outlet.spool.look();
            }
            tokio::time::sleep(FLUSHED).await;
        }
    }

    /// Sends nothing more; what comes now stays in the spool. Waits for the answers to what is under
    /// way, but not longer than `within`: without its answer an export is sent again at the next start.
    pub async fn stop_sending(&self, within: Duration) {
        self.ending.stop();
        let until = Instant::now() + within;
        while self.ending.is_sending() && Instant::now() < until {
            tokio::time::sleep(FLUSHED).await;
        }
    }

    /// Takes nothing more, and waits until all is on disk, but not longer than `within`; what the disk
    /// does not take in half of that is dropped and counted. Blocks the thread; meant for the end of the
    /// process.
    pub fn close(&self, within: Duration) {
        let mut queue = self.lock();
        queue.is_closed = true;
        queue.write_until = Instant::now().checked_add(within / 2);
        let is_open = |queue: &mut Queue| queue.is_running;
        self.wake.notify_one();
        drop(self.done.wait_timeout_while(queue, within, is_open));
        self.sync(None);
        for outlet in &**self.outlets.load() {
            outlet.tell_losses();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Swaps the empty `batch` for the traces that wait; how many were ever queued, and whether
    /// none follows. Comes back after `at_most` in any case.
    fn take(&self, batch: &mut Vec<Held>, at_most: Duration) -> (u64, bool) {
        let idle = |queue: &mut Queue| queue.is_idle();
        let filling = |queue: &mut Queue| queue.is_filling();
        let queue = self.lock();
        let (queue, _) = self
            .wake
            .wait_timeout_while(queue, at_most, idle)
            .unwrap_or_else(PoisonError::into_inner);
        let (mut queue, _) = self
            .wake
            .wait_timeout_while(queue, GATHER, filling)
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut queue.waiting, batch);
        (queue.queued, queue.is_closed && queue.waiting.is_empty())
    }

    /// How long the writer may try, once the delivery is closed.
    fn write_until(&self) -> Option<Instant> {
        self.lock().write_until
    }

    /// Its memory may be used again.
    fn release(&self, bytes: usize) {
        let mut queue = self.lock();
        queue.bytes = queue.bytes.saturating_sub(bytes);
    }

    /// Swaps these for what is left of the ones before.
    fn spend(&self, spent: &mut Vec<Held>) {
        std::mem::swap(&mut self.lock().spent, spent);
    }

    fn written(&self, upto: u64) {
        self.lock().written = upto;
        self.done.notify_all();
    }

    /// The writer has ended.
    fn ended(&self) {
        self.lock().is_running = false;
        self.done.notify_all();
    }

    /// Forces what was written to the disk, where anything has waited for so long, or in any case.
    fn sync(&self, least: Option<Duration>) {
        let now = SystemTime::now();
        for outlet in &**self.outlets.load() {
            if least.is_some_and(|least| !outlet.has_waited(least, now)) {
                outlet.spool.forget_deleted();
                continue;
            }
            if let Err(error) = outlet.spool.sync() {
                tracing::warn!(destination = %outlet.name, %error, "traces are not forced to disk");
            }
        }
    }

    /// Whether the delivery was closed within this time.
    fn wait_for_close(&self, at_most: Duration) -> bool {
        let is_open = |queue: &mut Queue| !queue.is_closed;
        let waited = self.done.wait_timeout_while(self.lock(), at_most, is_open);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Dialect;
    use crate::telemetry::config::{LangfuseConfig, TelemetryConfig};
    use crate::telemetry::langfuse::Input;
    use crate::telemetry::sample;
    use tempfile::TempDir;

    fn destination(folder: &std::path::Path) -> Arc<Destination> {
        let mut config = LangfuseConfig {
            public_key: crate::secret::Secret::new("pk".into()),
            secret_key: crate::secret::Secret::new("sk".into()),
            ..LangfuseConfig::default()
        };
        config.spool.path = folder.to_owned();
        Destination::all(&config, &TelemetryConfig::default()).remove(0)
    }

    fn trace(message: &str) -> Box<Trace> {
        Box::new(Trace {
            exchange: sample::exchange(),
            span: crate::ids::SpanId::from_random(7),
            parent: None,
            dialect: Dialect::Chat,
            user: None,
            key: Arc::default(),
            opted_out: false,
            reading: crate::protocol::tap::Reading::default(),
            message: Some(message.to_owned()),
            max_output_tokens: None,
            input: None,
            presented: None,
            secrets: Arc::default(),
        })
    }

    /// A call with media, of which its trace keeps a few bytes.
    fn trace_with_media() -> Box<Trace> {
        let media = "iVBORw0KGgoAAAANSUhEUgAA".repeat(1_700);
        let body = format!(
            r#"{{"model":"m","stream":true,"messages":["data:image/png;base64,{media}"]}}"#
        );
        let input = Input::new(body.into(), 1 << 20, None, Arc::default());
        Box::new(Trace { input: Some(Arc::new(input)), ..*trace("") })
    }

    /// A prompt that no compression makes much smaller, also where it comes again and again: deflate looks
    /// back 32 KiB.
    fn incompressible() -> bytes::Bytes {
        let noise = spool::tests::noise("", 40_000);
        serde_json::json!({ "messages": [noise] }).to_string().into()
    }

    fn only(delivery: &Delivery) -> Status {
        delivery.status(SystemTime::now()).remove(0)
    }

    /// Looks again and again until it is so.
    fn eventually(what: &str, is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !is_so() {
            assert!(Instant::now() < deadline, "{what}");
            thread::park_timeout(Duration::from_millis(10));
        }
    }

    #[test]
    fn without_a_destination_nothing_is_kept() {
        let delivery = Delivery::new(Metrics::new("", ""));
        delivery.hand_over(trace(""));
        assert_eq!(delivery.lock().queued, 0);
        delivery.close(Duration::from_secs(1));
    }

    #[test]
    fn the_room_of_what_is_written_is_given_back_to_the_last_byte() {
        let folder = TempDir::new().unwrap();
        let delivery = Delivery::new(Metrics::new("", ""));
        delivery.apply(&[destination(&folder.path().join("spool"))]);
        for _ in 0..100 {
            delivery.hand_over(trace_with_media());
        }
        assert!(delivery.lock().bytes > 0);
        delivery.close(Duration::from_secs(20));
        assert_eq!((only(&delivery).backlog, delivery.lock().bytes), (100, 0));
    }

    #[test]
    fn what_waits_is_forced_to_the_disk() {
        let folder = TempDir::new().unwrap();
        let delivery = Delivery::new(Metrics::new("", ""));
        delivery.apply(&[destination(&folder.path().join("spool"))]);
        let spool = Arc::clone(&delivery.outlets.load()[0].spool);
        delivery.hand_over(trace(""));
        eventually("a trace that is written", || only(&delivery).backlog == 1);
        eventually("a disk that has it", || spool.unsynced() == 0);
        delivery.hand_over(trace(""));
        delivery.close(Duration::from_secs(20));
        assert_eq!((only(&delivery).backlog, spool.unsynced()), (2, 0));
    }

    #[test]
    fn what_waits_for_another_process_is_forced_to_the_disk_too() {
        let folder = TempDir::new().unwrap();
        let owner = Delivery::new(Metrics::new("", ""));
        owner.apply(&[destination(folder.path())]);
        let delivery = Delivery::new(Metrics::new("", ""));
        delivery.apply(&[destination(folder.path())]);
        let spool = Arc::clone(&delivery.outlets.load()[0].spool);
        delivery.hand_over(trace(""));
        eventually("a trace that is written", || only(&delivery).backlog == 1);
        assert_eq!(only(&delivery).state, "spool_in_use");
        eventually("a disk that has it", || spool.unsynced() == 0);
        delivery.close(Duration::from_secs(20));
        owner.close(Duration::from_secs(20));
    }

    #[test]
    fn a_trace_that_comes_after_the_end_is_counted() {
        let folder = TempDir::new().unwrap();
        let delivery = Delivery::new(Metrics::new("", ""));
        delivery.apply(&[destination(&folder.path().join("spool"))]);
        delivery.close(Duration::from_secs(20));
        delivery.hand_over(trace(""));
        assert_eq!(only(&delivery).dropped[0], (Reason::Memory, 1));
    }

    #[test]
    fn what_is_handed_over_is_on_disk_when_the_process_ends() {
        let folder = TempDir::new().unwrap();
        let spool = folder.path().join("spool");
        let delivery = Delivery::new(Metrics::new("", ""));
        delivery.apply(&[destination(&spool)]);
        for _ in 0..100 {
            delivery.hand_over(trace(""));
        }
        delivery.close(Duration::from_secs(20));
        assert_eq!((only(&delivery).backlog, only(&delivery).state), (100, "ok"));
        drop(delivery);
        let again = Delivery::new(Metrics::new("", ""));
        again.apply(&[destination(&spool)]);
        eventually("the backlog of before", || only(&again).backlog == 100);
        again.close(Duration::from_secs(20));
    }

    #[test]
    fn what_waits_for_the_disk_of_a_destination_that_goes_is_counted() {
        let folder = TempDir::new().unwrap();
        let spool = folder.path().join("spool");
        std::fs::write(&spool, "a file where the folder should be").unwrap();
        let delivery = Delivery::new(Metrics::new("", ""));
        delivery.apply(&[destination(&spool)]);
        let outlet = Arc::clone(&delivery.outlets.load()[0]);
        delivery.hand_over(trace(""));
        eventually("a trace in memory", || outlet.status(SystemTime::now()).backlog == 1);
        delivery.apply(&[]);
        let dropped = || outlet.status(SystemTime::now()).dropped[0];
        eventually("its loss", || dropped() == (Reason::Memory, 1));
        assert_eq!(outlet.status(SystemTime::now()).backlog, 0);
        delivery.close(Duration::from_secs(20));
    }

    #[test]
    fn more_than_is_kept_while_the_disk_is_away_is_dropped_and_counted() {
        let folder = TempDir::new().unwrap();
        let spool = folder.path().join("spool");
        std::fs::write(&spool, "a file where the folder should be").unwrap();
        let delivery = Delivery::new(Metrics::new("", ""));
        delivery.apply(&[destination(&spool)]);
        let (body, handed_over) = (incompressible(), std::cell::Cell::new(0));
        let lost = || only(&delivery).dropped.iter().map(|(_, count)| count).sum::<u64>();
        eventually("a loss", || {
            for _ in 0..20 {
                let input = Input::new(body.clone(), 1 << 20, None, Arc::default());
                let input = Some(Arc::new(input));
                delivery.hand_over(Box::new(Trace { input, ..*trace("") }));
            }
            handed_over.set(handed_over.get() + 20);
            lost() > 0
        });
        assert_eq!(only(&delivery).state, "spool_unusable");
        std::fs::remove_file(&spool).unwrap();
        eventually("the disk in use", || only(&delivery).state == "ok");
        delivery.close(Duration::from_secs(20));
        let dropped = only(&delivery).dropped;
        assert_eq!(
            dropped.iter().find(|(_, count)| *count > 0).map(|(why, _)| *why),
            Some(Reason::Memory)
        );
        assert_eq!(only(&delivery).backlog + lost(), handed_over.get());
    }
}
