//! What changes about an upstream while it runs; carried over a reload by name.

use super::condition::{Condition, LONGEST_REST, Standing, Transition, Trouble};
use super::config::{BreakerConfig, ProbeConfig};
use super::latency::PeakLatency;
use super::quota::Quota;
use arc_swap::ArcSwapOption;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// Live state of one upstream. All of it may be read and written from any request at once; times
/// count from the process's start.
#[derive(Debug, Default)]
pub struct Live {
    inflight: AtomicU64,
    last_error: ArcSwapOption<LastError>,
    /// Exponentially weighted mean of the time to a reply's header, in microseconds; 0 is none yet.
    ewma_micros: AtomicU64,
    peak: PeakLatency,
    /// What its replies said of its rate limits.
    pub quota: Quota,
    /// Touched by failures alone: while all is well, `is_clear` is all that a call reads.
    condition: Mutex<Condition>,
    is_troubled: AtomicBool,
    /// Models that it cannot serve for a while, though it can others; and whether there are any.
    resting_models: Mutex<Vec<(Box<str>, Duration)>>,
    has_resting_models: AtomicBool,
    /// Which credential this state is about, counted from 0.
    epoch: AtomicU64,
}

/// See [`Live::observe_failure`].
const FAILED: Duration = Duration::from_secs(5);
/// Most models that may rest at one upstream; beyond it the one that returns first is forgotten.
const RESTING_MODELS: usize = 64;

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
pub struct CallGuard {
    live: Arc<Live>,
    /// Since when the ejection lasts that it decides about.
    trial: Option<Duration>,
}

impl Live {
    /// Counts a call in until the guard goes, and says what that ends; `None` where `at_most` calls
    /// are in flight.
    pub(super) fn enter(
        self: &Arc<Self>,
        at_most: Option<u64>,
        now: Duration,
    ) -> Option<(CallGuard, Option<Transition>)> {
        let limit = at_most.unwrap_or(u64::MAX);
        let one_more = |inflight: u64| (inflight < limit).then_some(inflight + 1);
        self.inflight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        let (trial, rested) = if self.is_troubled() {
            self.change(|condition| (condition.call_begins(now), condition.has_rested(now)))
        } else {
            (None, None)
        };
        Some((CallGuard { live: Arc::clone(self), trial }, rested))
    }

    /// Calls in flight now.
    pub fn inflight(&self) -> u64 {
        self.inflight.load(Ordering::Relaxed)
    }

    /// How the upstream stands towards the next call.
    pub fn standing(&self, now: Duration) -> Standing {
        if self.is_troubled() { self.condition().standing(now) } else { Standing::Ready }
    }

    /// Notes a failure for `/status`.
    pub fn note(&self, what: impl Into<String>, at: SystemTime) {
        self.last_error.store(Some(LastError { at, what: what.into() }.into()));
    }

    /// The most recent failure.
    pub fn last_error(&self) -> Option<LastError> {
        self.last_error.load_full().map(|error| (*error).clone())
    }

    /// A reply proved good, of a call that began at `begun`.
    pub(super) fn succeeded(&self, begun: Duration, now: Duration) -> Option<Transition> {
        if !self.is_troubled() {
            return None;
        }
        self.change(|condition| condition.succeeded(begun, now))
    }

    /// A call failed by the upstream's fault.
    pub(super) fn failed(
        &self,
        trouble: Trouble,
        breaker: &BreakerConfig,
        times: (Duration, Duration),
    ) -> Option<Transition> {
        self.change(|condition| condition.failed(trouble, breaker, times))
    }

    /// Whether neither breaker nor probes keep calls away.
    pub(super) fn is_well(&self) -> bool {
        !self.is_troubled() || self.condition().is_well()
    }

    /// The upstream wants a pause.
    pub(super) fn rests(
        &self,
        wish: Option<Duration>,
        is_rate_limit: bool,
        now: Duration,
    ) -> Option<Transition> {
        self.change(|condition| condition.rests(wish, is_rate_limit, now))
    }

    /// Until when this model, in the upstream's name for it, is to be left alone.
    pub fn model_rests_until(&self, model: &str, now: Duration) -> Option<Duration> {
        let mut resting = self.lock_models();
        resting.retain(|(_, until)| now < *until);
        self.has_resting_models.store(!resting.is_empty(), Ordering::Release);
        resting.iter().find(|(name, _)| **name == *model).map(|(_, until)| *until)
    }

    /// Whether any model may be resting; where none is, nobody need look.
    pub fn has_resting_models(&self) -> bool {
        self.has_resting_models.load(Ordering::Acquire)
    }

    /// The models that are to be left alone, in the upstream's names for them, and until when.
    pub fn resting_models(&self, now: Duration) -> Vec<(Box<str>, Duration)> {
        if !self.has_resting_models() {
            return Vec::new();
        }
        let mut resting = self.lock_models().clone();
        resting.retain(|(_, until)| now < *until);
        resting
    }

    /// The upstream wants a pause for one model alone; whether that begins now.
    pub(super) fn model_rests(&self, model: &str, wish: Duration, now: Duration) -> bool {
        let mut resting = self.lock_models();
        let begins = !resting.iter().any(|(name, until)| now < *until && **name == *model);
        resting.retain(|(name, until)| now < *until && **name != *model);
        if resting.len() >= RESTING_MODELS {
            let soonest = resting.iter().enumerate().min_by_key(|(_, (_, until))| *until);
            if let Some(soonest) = soonest.map(|(index, _)| index) {
                resting.swap_remove(soonest);
            }
        }
        resting.push((model.into(), now + wish.min(LONGEST_REST)));
        self.has_resting_models.store(true, Ordering::Release);
        begins
    }

    /// A probe ended.
    pub(super) fn probed(
        &self,
        is_good: bool,
        probe: &ProbeConfig,
        now: Duration,
    ) -> [Option<Transition>; 2] {
        self.change(|condition| [condition.has_rested(now), condition.probed(is_good, probe, now)])
    }

    /// What probes said is void, since there are none any more.
    pub fn forget_probes(&self) {
        self.change(Condition::forget_probes);
    }

    /// Which credential this state is about.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// From now on this state is about another credential: what was said of the old one is void, and
    /// so is what calls still under way with it will say.
    pub fn forget_credential(&self, epoch: u64) {
        self.epoch.store(epoch, Ordering::Release);
        self.quota.forget();
        self.lock_models().clear();
        self.change(Condition::forget_credential);
    }

    fn lock_models(&self) -> MutexGuard<'_, Vec<(Box<str>, Duration)>> {
        self.resting_models.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_troubled(&self) -> bool {
        self.is_troubled.load(Ordering::Acquire)
    }

    fn condition(&self) -> MutexGuard<'_, Condition> {
        // A panic between two of its plain assignments is not possible; what is there is whole.
        self.condition.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Condition) -> T) -> T {
        let mut condition = self.condition();
        let result = change(&mut condition);
        self.is_troubled.store(!condition.is_clear(), Ordering::Release);
        result
    }

    /// Takes one time to a reply's header into the means, with a weight of one eighth in the one for
    /// people. Two writers at once may lose one sample, which a mean can bear.
    pub fn observe_latency(&self, took: Duration, now: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let old = self.ewma_micros.load(Ordering::Relaxed);
        let mean = if old == 0 { micros } else { old - old / 8 + micros / 8 };
        self.ewma_micros.store(mean.max(1), Ordering::Relaxed);
        self.peak.observe(took, now);
    }

    /// A call failed after this time. For balancing that is a reply that took `FAILED` at least:
    /// one that refuses within a millisecond must not look quick.
    pub fn observe_failure(&self, took: Duration, now: Duration) {
        self.peak.observe(took.max(FAILED), now);
    }

    /// What one more call here would wait, for comparison alone: the peak-weighted mean times the
    /// calls it would share the upstream with.
    #[expect(clippy::cast_precision_loss, reason = "a comparison of loads")]
    pub fn load(&self, now: Duration) -> f64 {
        self.peak.seconds(now) * (self.inflight() + 1) as f64
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

impl CallGuard {
    /// Whether this call decides about an ejection.
    pub const fn is_trial(&self) -> bool {
        self.trial.is_some()
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        self.live.inflight.fetch_sub(1, Ordering::Relaxed);
        if let Some(since) = self.trial {
            self.live.change(|condition| condition.trial_ended(since));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    #[test]
    fn a_call_gives_its_place_back_however_it_ends() {
        let live = Arc::new(Live::default());
        let guard = live.enter(None, NOW);
        assert_eq!(live.inflight(), 1);
        drop(guard);
        assert_eq!(live.inflight(), 0);
    }

    #[test]
    fn no_more_calls_enter_than_may() {
        let live = Arc::new(Live::default());
        let entered: Vec<_> = (0..5).filter_map(|_| live.enter(Some(2), NOW)).collect();
        assert_eq!(entered.len(), 2);
        drop(entered);
        let call = |_| {
            let _place = live.enter(Some(2), NOW);
            assert!(live.inflight() <= 2);
        };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..2_000).for_each(call));
            }
        });
        assert_eq!(live.inflight(), 0);
    }

    #[test]
    fn a_trial_that_is_given_up_lets_the_next_one_try() {
        let live = Arc::new(Live::default());
        let breaker = BreakerConfig { failures: 1, ..BreakerConfig::default() };
        live.failed(Trouble::Failed, &breaker, (NOW, NOW));
        let later = breaker.eject.0;
        assert_eq!(live.standing(later), Standing::Trial);
        let trial = live.enter(None, later);
        assert_eq!(live.standing(later), Standing::Ejected { until: later });
        drop(trial);
        assert_eq!(live.standing(later), Standing::Trial);
        let trial = live.enter(None, later);
        assert_eq!(live.succeeded(later, later), Some(Transition::Returned));
        drop(trial);
        assert_eq!(live.standing(later), Standing::Ready);
        assert!(!live.is_troubled());
    }

    #[test]
    fn one_model_rests_while_others_are_served() {
        let live = Live::default();
        let s = Duration::from_secs;
        assert_eq!(live.model_rests_until("a", NOW), None);
        assert!(live.model_rests("a", s(40), NOW));
        assert!(!live.model_rests("a", s(40), NOW), "it had begun");
        assert_eq!(live.resting_models(s(39)), [("a".into(), s(40))]);
        assert_eq!(live.model_rests_until("a", s(39)), Some(s(40)));
        assert_eq!(live.model_rests_until("b", s(39)), None);
        assert_eq!(live.model_rests_until("a", s(40)), None);
        assert!(!live.has_resting_models(), "the last one is over");
        for n in 0..200 {
            live.model_rests(&format!("m{n}"), s(n), NOW);
        }
        assert_eq!(live.resting_models.lock().unwrap().len(), RESTING_MODELS);
        assert_eq!(live.model_rests_until("m199", NOW), Some(s(199)));
    }

    #[test]
    fn the_mean_follows_its_samples() {
        let live = Live::default();
        assert_eq!(live.ewma_ms(), None);
        let observe = |millis| {
            (0..200).for_each(|_| live.observe_latency(Duration::from_millis(millis), NOW));
        };
        observe(8);
        assert_eq!(live.ewma_ms(), Some(8.0));
        observe(16);
        assert!(live.ewma_ms().is_some_and(|ms| (15.9..=16.0).contains(&ms)));
    }
}
