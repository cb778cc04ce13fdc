//! What changes about an upstream while it runs; carried over a reload by name.

use arc_swap::ArcSwapOption;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

/// Live state of one upstream. All of it may be read and written from any request at once.
#[derive(Debug, Default)]
pub struct Live {
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
