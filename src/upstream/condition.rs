//! Whether an upstream is offered calls: what probes, failures, refusals and rate limits say, with
//! time as an argument.

use super::config::{BreakerConfig, ProbeConfig};
use std::collections::VecDeque;
use std::time::Duration;

/// No ejection is longer, however often it doubles (DESIGN section 5).
const LONGEST_EJECTION: Duration = Duration::from_mins(10);
/// A rate limit is believed this long: a free tier's "tomorrow" must not outlive its repair.
pub(super) const LONGEST_REST: Duration = Duration::from_mins(10);
/// How long an upstream rests that is rate limited and does not say how long.
const SHORT_REST: Duration = Duration::from_secs(1);

/// Everything that can keep calls away from one upstream. All times count from the process's start.
#[derive(Debug, Default)]
pub(super) struct Condition {
    /// When it failed, within the breaker's window.
    failures: VecDeque<Duration>,
    ejection: Option<Ejection>,
    /// Ejections one after the other; each is twice as long as the one before.
    ejections: u32,
    /// When the last ejection ended well, and how long it had been.
    returned: Option<(Duration, Duration)>,
    rest: Option<Rest>,
    probes: Probes,
}

#[derive(Debug, Clone, Copy)]
struct Ejection {
    since: Duration,
    until: Duration,
    /// A call is on its way that decides whether it ends.
    on_trial: bool,
}

/// A time in which the upstream has asked not to be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rest {
    until: Duration,
    is_rate_limit: bool,
}

#[derive(Debug, Default)]
struct Probes {
    failed: u32,
    succeeded: u32,
    is_unhealthy: bool,
}

/// Why an upstream is taken out at once, or counted against it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// A failure that counts within the breaker's window.
    Failed,
    /// The credential is refused or has no credit left: nothing will work until a person acts.
    Refused,
}

/// A change of state that an operator should hear of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transition {
    /// Out for this long.
    Ejected(Duration),
    /// A trial call went well: it is back.
    Returned,
    /// Probes found it unusable.
    Unhealthy,
    /// Probes found it usable again.
    Healthy,
}

/// How an upstream stands towards the next call, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It is offered calls.
    Ready,
    /// Its ejection is over, and the next call is its trial.
    Trial,
    /// It asked for a pause; asked only where nothing better is left.
    Resting {
        /// When the pause ends.
        until: Duration,
    },
    /// Probes fail; asked only where nothing better is left.
    Unhealthy,
    /// Out, or on trial with another call; asked only where nothing better is left.
    Ejected {
        /// When its trial may come.
        until: Duration,
    },
    /// It said 429 and for how long; not asked before.
    RateLimited {
        /// When it may be asked again.
        until: Duration,
    },
}

impl Condition {
    /// Whether there is anything to know; where there is not, nobody need look.
    pub(super) fn is_clear(&self) -> bool {
        self.ejection.is_none() && self.rest.is_none() && !self.probes.is_unhealthy
    }

    /// How it stands now.
    pub(super) fn standing(&self, now: Duration) -> Standing {
        let rest = self.rest.filter(|rest| now < rest.until);
        if let Some(Rest { until, is_rate_limit: true }) = rest {
            return Standing::RateLimited { until };
        }
        match self.ejection {
            Some(out) if now < out.until || out.on_trial => {
                return Standing::Ejected { until: out.until };
            }
            Some(_) | None => {}
        }
        if self.probes.is_unhealthy {
            return Standing::Unhealthy;
        }
        match (rest, self.ejection) {
            (Some(Rest { until, .. }), _) => Standing::Resting { until },
            (None, Some(_)) => Standing::Trial,
            (None, None) => Standing::Ready,
        }
    }

    /// A call begins; whether it is the trial that decides about an ejection.
    pub(super) fn call_begins(&mut self, now: Duration) -> bool {
        match &mut self.ejection {
            Some(out) if now >= out.until && !out.on_trial => {
                out.on_trial = true;
                true
            }
            Some(_) | None => false,
        }
    }

    /// A trial ended without a verdict: the caller left, or the fault was its own.
    pub(super) fn trial_ended(&mut self) {
        if let Some(out) = &mut self.ejection {
            out.on_trial = false;
        }
    }

    /// A reply proved good, of a call that began at `begun`. It ends an ejection that it began after:
    /// as its trial, or as a call that had nowhere better to go. One that was under way before says
    /// nothing about what happened since.
    pub(super) fn succeeded(&mut self, begun: Duration, now: Duration) -> Option<Transition> {
        if self.rest.is_some_and(|rest| now >= rest.until) {
            self.rest = None;
        }
        let out = self.ejection.filter(|out| begun >= out.since)?;
        self.ejection = None;
        self.failures.clear();
        self.returned = Some((now, out.until.saturating_sub(out.since)));
        Some(Transition::Returned)
    }

    /// A call failed by the upstream's fault. A success in between changes nothing: an upstream that
    /// fails every second call is no good one.
    pub(super) fn failed(
        &mut self,
        trouble: Trouble,
        breaker: &BreakerConfig,
        now: Duration,
    ) -> Option<Transition> {
        match self.ejection {
            // Calls that were under way when it was ejected add nothing.
            Some(out) if now < out.until => return None,
            Some(_) => return Some(self.eject(breaker, now)),
            None => {}
        }
        while self.failures.front().is_some_and(|at| now.saturating_sub(*at) > breaker.within.0) {
            self.failures.pop_front();
        }
        self.failures.push_back(now);
        let limit = usize::try_from(breaker.failures).unwrap_or(usize::MAX);
        let is_out = match trouble {
            Trouble::Refused => true,
            Trouble::Failed => self.failures.len() >= limit,
        };
        is_out.then(|| self.eject(breaker, now))
    }

    fn eject(&mut self, breaker: &BreakerConfig, now: Duration) -> Transition {
        // Once it has stayed in for as long as it was out, its past is forgotten.
        let is_forgiven =
            self.returned.is_some_and(|(at, length)| now.saturating_sub(at) >= length);
        let doublings = if is_forgiven { 0 } else { self.ejections };
        let longest = LONGEST_EJECTION.max(breaker.eject.0);
        let length = breaker.eject.0.saturating_mul(1 << doublings.min(20)).min(longest);
        self.ejections = doublings.saturating_add(1);
        self.failures.clear();
        self.returned = None;
        self.ejection = Some(Ejection { since: now, until: now + length, on_trial: false });
        Transition::Ejected(length)
    }

    /// The upstream wants a pause: after 429 it gets one in any case, after anything else only where
    /// it says how long. Whether a rate limit begins that keeps calls away.
    pub(super) fn rests(
        &mut self,
        wish: Option<Duration>,
        is_rate_limit: bool,
        now: Duration,
    ) -> bool {
        let Some(length) = wish.or(is_rate_limit.then_some(SHORT_REST)) else { return false };
        // A pause that we chose ourselves is no reason to refuse a call.
        let is_rate_limit = is_rate_limit && wish.is_some();
        let rest = Rest { until: now + length.min(LONGEST_REST), is_rate_limit };
        let old = self.rest.filter(|old| now < old.until);
        if old.is_none_or(|old| old.until <= rest.until || !old.is_rate_limit) {
            self.rest = Some(rest);
        }
        is_rate_limit && !old.is_some_and(|old| old.is_rate_limit)
    }

    /// A probe ended.
    pub(super) fn probed(&mut self, is_good: bool, probe: &ProbeConfig) -> Option<Transition> {
        let probes = &mut self.probes;
        if is_good {
            probes.succeeded = probes.succeeded.saturating_add(1);
            probes.failed = 0;
        } else {
            probes.failed = probes.failed.saturating_add(1);
            probes.succeeded = 0;
        }
        if probes.is_unhealthy && probes.succeeded >= probe.healthy_after {
            probes.is_unhealthy = false;
            return Some(Transition::Healthy);
        }
        if !probes.is_unhealthy && probes.failed >= probe.unhealthy_after {
            probes.is_unhealthy = true;
            return Some(Transition::Unhealthy);
        }
        None
    }

    /// Probes are switched off: what they said is void.
    pub(super) fn forget_probes(&mut self) {
        self.probes = Probes::default();
    }

    /// The credential is another one: what was said of the old one is void.
    pub(super) fn forget_ejection(&mut self) {
        self.ejection = None;
        self.ejections = 0;
        self.rest = None;
        self.failures.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Span;
    use proptest::prelude::*;

    const BREAKER: BreakerConfig =
        BreakerConfig { failures: 3, within: Span::seconds(10), eject: Span::seconds(30) };

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn fail(condition: &mut Condition, at: u64) -> Option<Transition> {
        condition.failed(Trouble::Failed, &BREAKER, s(at))
    }

    #[test]
    fn failures_within_the_window_eject_and_a_success_between_them_does_not_help() {
        let mut condition = Condition::default();
        assert_eq!(fail(&mut condition, 0), None);
        assert_eq!(condition.succeeded(s(1), s(1)), None);
        assert_eq!(fail(&mut condition, 2), None);
        assert_eq!(fail(&mut condition, 3), Some(Transition::Ejected(s(30))));
        assert_eq!(condition.standing(s(4)), Standing::Ejected { until: s(33) });
    }

    #[test]
    fn failures_far_apart_do_not_eject() {
        let mut condition = Condition::default();
        for at in [0, 6, 12, 18, 24] {
            assert_eq!(fail(&mut condition, at), None, "{at}");
        }
        assert_eq!(condition.standing(s(24)), Standing::Ready);
    }

    #[test]
    fn one_trial_decides_and_a_failed_one_doubles_the_ejection() {
        let mut condition = Condition::default();
        (0..3).for_each(|at| {
            fail(&mut condition, at);
        });
        assert_eq!(condition.standing(s(32)), Standing::Trial);
        assert!(condition.call_begins(s(32)));
        assert!(!condition.call_begins(s(32)), "one call at a time is the trial");
        assert_eq!(condition.standing(s(32)), Standing::Ejected { until: s(32) });
        assert_eq!(fail(&mut condition, 33), Some(Transition::Ejected(s(60))));
        assert!(condition.call_begins(s(93)));
        assert_eq!(condition.succeeded(s(2), s(94)), None, "it began before");
        assert_eq!(condition.succeeded(s(93), s(94)), Some(Transition::Returned));
        assert_eq!(condition.standing(s(94)), Standing::Ready);
        // Soon after its return it is still known as one that fails.
        (95..97).for_each(|at| {
            fail(&mut condition, at);
        });
        assert_eq!(fail(&mut condition, 97), Some(Transition::Ejected(s(120))));
    }

    #[test]
    fn the_past_is_forgotten_after_a_good_time_as_long_as_the_ejection() {
        let mut condition = Condition::default();
        (0..3).for_each(|at| {
            fail(&mut condition, at);
        });
        condition.call_begins(s(40));
        condition.succeeded(s(40), s(40));
        (71..73).for_each(|at| {
            fail(&mut condition, at);
        });
        assert_eq!(fail(&mut condition, 73), Some(Transition::Ejected(s(30))));
    }

    #[test]
    fn a_trial_without_a_verdict_leaves_the_question_open() {
        let mut condition = Condition::default();
        (0..3).for_each(|at| {
            fail(&mut condition, at);
        });
        assert!(condition.call_begins(s(40)));
        condition.trial_ended();
        assert_eq!(condition.standing(s(40)), Standing::Trial);
    }

    #[test]
    fn an_ejection_never_exceeds_ten_minutes() {
        let mut condition = Condition::default();
        let mut now = 0;
        for _ in 0..40 {
            let Some(Transition::Ejected(length)) =
                condition.failed(Trouble::Refused, &BREAKER, s(now))
            else {
                panic!("a refused credential ejects at once");
            };
            assert!(length <= s(600), "{length:?}");
            now += length.as_secs();
        }
        assert_eq!(condition.standing(s(now - 1)), Standing::Ejected { until: s(now) });
    }

    #[test]
    fn a_rate_limited_upstream_gets_nothing_for_as_long_as_it_said() {
        let mut condition = Condition::default();
        condition.rests(Some(s(20)), true, s(5));
        assert_eq!(condition.standing(s(24)), Standing::RateLimited { until: s(25) });
        assert_eq!(condition.standing(s(25)), Standing::Ready);
        // A later and shorter word of another call does not shorten it.
        condition.rests(Some(s(1)), true, s(6));
        assert_eq!(condition.standing(s(24)), Standing::RateLimited { until: s(25) });
    }

    #[test]
    fn other_pauses_only_make_it_the_last_choice() {
        let mut condition = Condition::default();
        condition.rests(None, true, s(0));
        assert_eq!(condition.standing(s(0)), Standing::Resting { until: s(1) });
        condition.rests(Some(s(5)), false, s(0));
        assert_eq!(condition.standing(s(1)), Standing::Resting { until: s(5) });
        condition.rests(None, false, s(9));
        assert_eq!(condition.standing(s(9)), Standing::Ready);
    }

    #[test]
    fn probes_take_it_out_and_bring_it_back() {
        let probe = ProbeConfig { unhealthy_after: 2, healthy_after: 2, ..ProbeConfig::default() };
        let mut condition = Condition::default();
        assert_eq!(condition.probed(false, &probe), None);
        assert_eq!(condition.probed(true, &probe), None);
        assert_eq!(condition.probed(false, &probe), None);
        assert_eq!(condition.probed(false, &probe), Some(Transition::Unhealthy));
        assert_eq!(condition.standing(s(0)), Standing::Unhealthy);
        assert_eq!(condition.probed(true, &probe), None);
        assert_eq!(condition.probed(true, &probe), Some(Transition::Healthy));
        assert!(condition.is_clear());
    }

    proptest! {
        /// Whatever happens, no upstream is lost for ever, and what is out says until when.
        #[test]
        fn every_upstream_gets_another_chance(
            steps in proptest::collection::vec((0_u8..6, 0_u64..40), 1..80),
        ) {
            let mut condition = Condition::default();
            let mut now = 0;
            let mut trials = 0_u32;
            for (step, seconds) in steps {
                now += seconds;
                match step {
                    0 => { condition.failed(Trouble::Failed, &BREAKER, s(now)); },
                    1 => { condition.failed(Trouble::Refused, &BREAKER, s(now)); },
                    2 => { condition.succeeded(s(now), s(now)); },
                    3 => {
                        condition.rests(Some(s(seconds)), seconds % 2 == 0, s(now));
                    }
                    4 => trials += u32::from(condition.call_begins(s(now))),
                    _ => condition.trial_ended(),
                }
            }
            condition.trial_ended();
            prop_assert!(trials <= 80);
            prop_assert!(matches!(
                condition.standing(s(now + 601)),
                Standing::Ready | Standing::Trial
            ));
        }
    }
}
