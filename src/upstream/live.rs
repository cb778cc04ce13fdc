//! What changes about an upstream while it runs; carried over a reload by name.

use arc_swap::{ArcSwap, ArcSwapOption};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;
use tokio::sync::watch;

/// Live state of one upstream. All of it may be read and written from any request at once.
#[derive(Debug)]
pub struct Live {
    /// IP addresses of the host, as last resolved.
    pub addresses: ArcSwap<Vec<IpAddr>>,
    /// Fires once the first resolution has ended, well or not.
    resolved: watch::Sender<bool>,
    inflight: AtomicU64,
    last_error: ArcSwapOption<LastError>,
    /// Exponentially weighted mean of the time to a reply's header, in microseconds; 0 is none yet.
    ewma_micros: AtomicU64,
}

/// The most recent failure of an upstream.
#[derive(Debug, Clone)]
pub struct LastError {
    /// When.
    pub at: SystemTime,
    /// What, in our words; never an address, a key or the upstream's bytes.
    pub what: String,
}

/// One call in flight; leaving any way gives the place back.
#[derive(Debug)]
pub struct CallGuard(std::sync::Arc<Live>);

impl Default for Live {
    fn default() -> Self {
        Self {
            addresses: ArcSwap::default(),
            resolved: watch::Sender::new(false),
            inflight: AtomicU64::new(0),
            last_error: ArcSwapOption::empty(),
            ewma_micros: AtomicU64::new(0),
        }
    }
}

impl Live {
    /// Counts a call in until the guard goes.
    pub fn enter(self: &std::sync::Arc<Self>) -> CallGuard {
        self.inflight.fetch_add(1, Ordering::Relaxed);
        CallGuard(std::sync::Arc::clone(self))
    }

    /// Calls in flight now.
    pub fn inflight(&self) -> u64 {
        self.inflight.load(Ordering::Relaxed)
    }

    /// Notes a failure for `/status`.
    pub fn failed(&self, what: impl Into<String>, at: SystemTime) {
        self.last_error.store(Some(LastError { at, what: what.into() }.into()));
    }

    /// The most recent failure.
    pub fn last_error(&self) -> Option<LastError> {
        self.last_error.load_full().map(|error| (*error).clone())
    }

    /// Takes one time to a reply's header into the mean, with a weight of one eighth. Two writers
    /// at once may lose one sample, which a mean can bear.
    pub fn observe_latency(&self, micros: u64) {
        let old = self.ewma_micros.load(Ordering::Relaxed);
        let mean = if old == 0 { micros } else { old - old / 8 + micros / 8 };
        self.ewma_micros.store(mean.max(1), Ordering::Relaxed);
    }

    /// The mean time to a reply's header in milliseconds.
    #[expect(clippy::cast_precision_loss, reason = "a display figure")]
    pub fn ewma_ms(&self) -> Option<f64> {
        match self.ewma_micros.load(Ordering::Relaxed) {
            0 => None,
            micros => Some(micros as f64 / 1_000.0),
        }
    }

    /// Says that a resolution has ended.
    pub fn mark_resolved(&self) {
        self.resolved.send_replace(true);
    }

    /// Waits until the first resolution has ended.
    ///
    /// # Cancel safety
    /// Safe: nothing is taken.
    pub async fn wait_resolved(&self) {
        let mut seen = self.resolved.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let _ended = seen.wait_for(|done| *done).await;
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        self.0.inflight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_call_gives_its_place_back_however_it_ends() {
        let live = Arc::new(Live::default());
        let guard = live.enter();
        assert_eq!(live.inflight(), 1);
        drop(guard);
        assert_eq!(live.inflight(), 0);
    }

    #[test]
    fn the_mean_follows_its_samples() {
        let live = Live::default();
        assert_eq!(live.ewma_ms(), None);
        (0..200).for_each(|_| live.observe_latency(8_000));
        assert_eq!(live.ewma_ms(), Some(8.0));
        (0..200).for_each(|_| live.observe_latency(16_000));
        assert!(live.ewma_ms().is_some_and(|ms| (15.9..=16.0).contains(&ms)));
    }
}
