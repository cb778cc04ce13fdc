//! How slow an upstream is, for balancing: quick to believe bad news, slow to forget it, but not for
//! ever.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What was seen this long ago counts for a third (1/e). Long enough to tell providers apart, whose
/// first bytes take seconds; short enough that a slow one is asked again within a minute.
const MEMORY: f64 = 10.0;

/// A peak-sensitive exponentially weighted mean of times to the first byte, in seconds.
///
/// `mean ← peak(mean·w + sample·(1 − w))` with `w = e^(−age/10 s)`: a sample above the mean replaces
/// it at once, one below pulls it down slowly, and without samples it falls towards zero, so that a
/// slow upstream is tried again. The idea is that of Finagle's peak EWMA balancer.
#[derive(Debug, Default)]
pub(super) struct PeakLatency {
    /// Bits of an `f64`, in seconds.
    mean: AtomicU64,
    /// When it was last changed, in microseconds.
    at: AtomicU64,
}

impl PeakLatency {
    /// Takes one time in. Two writers at once may lose one sample, which a mean can bear.
    pub(super) fn observe(&self, took: Duration, now: Duration) {
        let faded = self.seconds(now);
        let took = took.as_secs_f64();
        // The weight of the past is in `faded` already.
        let share = self.fading(now);
        let mean = if took > faded { took } else { faded + took * (1.0 - share) };
        self.mean.store(mean.to_bits(), Ordering::Relaxed);
        self.at.store(micros(now), Ordering::Relaxed);
    }

    /// The mean as it stands now; 0 where nothing is known.
    pub(super) fn seconds(&self, now: Duration) -> f64 {
        f64::from_bits(self.mean.load(Ordering::Relaxed)) * self.fading(now)
    }

    fn fading(&self, now: Duration) -> f64 {
        let age = micros(now).saturating_sub(self.at.load(Ordering::Relaxed));
        (-Duration::from_micros(age).as_secs_f64() / MEMORY).exp()
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_peak_counts_at_once_and_fades() {
        let latency = PeakLatency::default();
        latency.observe(ms(100), ms(1_000));
        latency.observe(ms(2_000), ms(1_100));
        assert!((latency.seconds(ms(1_100)) - 2.0).abs() < 1e-9);
        latency.observe(ms(100), ms(1_200));
        assert!(latency.seconds(ms(1_200)) > 1.9, "one quick reply does not excuse it");
        assert!(latency.seconds(ms(61_200)) < 0.01, "after a minute it is tried again");
    }

    #[test]
    fn the_mean_settles_at_what_is_steady() {
        let latency = PeakLatency::default();
        latency.observe(ms(5_000), ms(0));
        for at in (0..120_000).step_by(100) {
            latency.observe(ms(200), ms(at));
        }
        let settled = latency.seconds(ms(120_000));
        assert!((0.15..0.25).contains(&settled), "{settled}");
    }
}
