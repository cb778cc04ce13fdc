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
    /// It said 429 and for how long; not to be asked before.
    limited_until: Option<Duration>,
    /// It named another pause; not to be asked before while others are there.
    rests_until: Option<Duration>,
    probes: Probes,
}

#[derive(Debug, Clone, Copy)]
struct Ejection {
    since: Duration,
    until: Duration,
    /// A call is on its way that decides whether it ends.
    on_trial: bool,
    /// The credential was refused: a probe, which may need none, says nothing about that.
    is_refused: bool,
    /// Its time is over, and a probe went well since.
    is_vouched: bool,
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
    /// Its ejection is over and probes answer: the next call is its trial.
    Vouched,
    /// A trial call went well: it is back.
    Returned,
    /// It wants to be left alone for this long.
    Rests(Duration),
    /// It said 429, and that for this long.
    RateLimited(Duration),
    /// The pause it asked for is over.
    Rested,
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
        let rests = self.limited_until.is_some() || self.rests_until.is_some();
        self.ejection.is_none() && !rests && !self.probes.is_unhealthy
    }

    /// Whether neither breaker nor probes keep calls away, whatever it says of its own limits. After
    /// an ejection a good probe will do, though the trial is still to come: where nobody calls,
    /// because another one serves or a balancer has taken us out, no call could tell.
    pub(super) fn is_well(&self) -> bool {
        self.ejection.is_none_or(|out| out.is_vouched) && !self.probes.is_unhealthy
    }

    /// How it stands now.
    pub(super) fn standing(&self, now: Duration) -> Standing {
        if let Some(until) = self.limited_until.filter(|until| now < *until) {
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
        match (self.rests_until.filter(|until| now < *until), self.ejection) {
            (Some(until), _) => Standing::Resting { until },
            (None, Some(_)) => Standing::Trial,
            (None, None) => Standing::Ready,
        }
    }

    /// A call begins; where it is the trial that decides about an ejection, since when that lasts.
    pub(super) fn call_begins(&mut self, now: Duration) -> Option<Duration> {
        let out = self.ejection.as_mut().filter(|out| now >= out.until && !out.on_trial)?;
        out.on_trial = true;
        Some(out.since)
    }

    /// Whether a pause that it asked for has ended since this was last asked.
    pub(super) fn has_rested(&mut self, now: Duration) -> Option<Transition> {
        let was_resting = self.limited_until.is_some() || self.rests_until.is_some();
        self.limited_until = self.limited_until.filter(|until| now < *until);
        self.rests_until = self.rests_until.filter(|until| now < *until);
        let rests = self.limited_until.is_some() || self.rests_until.is_some();
        (was_resting && !rests).then_some(Transition::Rested)
    }

    /// The trial of the ejection that began then is over. Without a verdict (the caller left, or the
    /// fault was its own) the next call is one.
    pub(super) fn trial_ended(&mut self, since: Duration) {
        if let Some(out) = self.ejection.as_mut().filter(|out| out.since == since) {
            out.on_trial = false;
        }
    }

    /// A reply proved good, of a call that began at `begun`. It ends an ejection that it began after:
    /// as its trial, or as a call that had nowhere better to go. One that was under way before says
    /// nothing about what happened since.
    pub(super) fn succeeded(&mut self, begun: Duration, now: Duration) -> Option<Transition> {
        let out = self.ejection.filter(|out| begun >= out.since)?;
        self.ejection = None;
        self.failures.clear();
        self.returned = Some((now, out.until.saturating_sub(out.since)));
        Some(Transition::Returned)
    }

    /// A call that began at `begun` failed by the upstream's fault. A success in between changes
    /// nothing: an upstream that fails every second call is no good one.
    pub(super) fn failed(
        &mut self,
        trouble: Trouble,
        breaker: &BreakerConfig,
        (begun, now): (Duration, Duration),
    ) -> Option<Transition> {
        match self.ejection {
            // Calls that were under way when it was ejected add nothing, however late they fail.
            Some(out) if begun < out.since || now < out.until => return None,
            Some(_) => return Some(self.eject(trouble, breaker, now)),
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
        is_out.then(|| self.eject(trouble, breaker, now))
    }

    fn eject(&mut self, trouble: Trouble, breaker: &BreakerConfig, now: Duration) -> Transition {
        // Once it has stayed in for as long as it was out, its past is forgotten.
        let is_forgiven =
            self.returned.is_some_and(|(at, length)| now.saturating_sub(at) >= length);
        let doublings = if is_forgiven { 0 } else { self.ejections };
        let longest = LONGEST_EJECTION.max(breaker.eject.0);
        let length = breaker.eject.0.saturating_mul(1 << doublings.min(20)).min(longest);
        self.ejections = doublings.saturating_add(1);
        self.failures.clear();
        self.returned = None;
        self.ejection = Some(Ejection {
            since: now,
            until: now + length,
            on_trial: false,
            is_refused: trouble == Trouble::Refused,
            is_vouched: false,
        });
        Transition::Ejected(length)
    }

    /// The upstream wants a pause: after 429 it gets one in any case, after anything else only where
    /// it says how long. What begins by that, where none had begun.
    pub(super) fn rests(
        &mut self,
        wish: Option<Duration>,
        is_rate_limit: bool,
        now: Duration,
    ) -> Option<Transition> {
        let length = wish.or(is_rate_limit.then_some(SHORT_REST))?.min(LONGEST_REST);
        let until = now + length;
        // A pause that we chose ourselves is no reason to refuse a call.
        let is_told = is_rate_limit && wish.is_some();
        let place = if is_told { &mut self.limited_until } else { &mut self.rests_until };
        let was_resting = place.is_some_and(|until| now < until);
        *place = Some(place.map_or(until, |old| old.max(until)));
        let begins = if is_told { Transition::RateLimited } else { Transition::Rests };
        (!was_resting).then(|| begins(length))
    }

    /// A probe ended. A good one does not end an ejection, since what is free may work while calls do
    /// not; but once its time is over it says that the next call, its trial, may well do.
    pub(super) fn probed(
        &mut self,
        is_good: bool,
        probe: &ProbeConfig,
        now: Duration,
    ) -> Option<Transition> {
        let was_vouched = self.ejection.is_none_or(|out| out.is_vouched);
        if let Some(out) = &mut self.ejection {
            out.is_vouched = is_good && now >= out.until && !out.is_refused;
        }
        let is_vouched = self.ejection.is_some_and(|out| out.is_vouched);
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
        (is_vouched && !was_vouched && !probes.is_unhealthy).then_some(Transition::Vouched)
    }

    /// Probes are switched off: what they said is void.
    pub(super) fn forget_probes(&mut self) {
        self.probes = Probes::default();
    }

    /// The credential is another one: what was said of the old one is void.
    pub(super) fn forget_credential(&mut self) {
        *self = Self { probes: std::mem::take(&mut self.probes), ..Self::default() };
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
        condition.failed(Trouble::Failed, &BREAKER, (s(at), s(at)))
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
        assert_eq!(condition.call_begins(s(32)), Some(s(2)));
        assert_eq!(condition.call_begins(s(32)), None, "one call at a time is the trial");
        assert_eq!(condition.standing(s(32)), Standing::Ejected { until: s(32) });
        assert_eq!(fail(&mut condition, 33), Some(Transition::Ejected(s(60))));
        assert_eq!(condition.call_begins(s(93)), Some(s(33)));
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
        let trial = condition.call_begins(s(40)).unwrap();
        condition.trial_ended(trial + s(1));
        assert_eq!(condition.standing(s(40)), Standing::Ejected { until: s(32) }, "another's");
        condition.trial_ended(trial);
        assert_eq!(condition.standing(s(40)), Standing::Trial);
    }

    #[test]
    fn an_ejection_never_exceeds_ten_minutes() {
        let mut condition = Condition::default();
        let mut now = 0;
        for _ in 0..40 {
            let Some(Transition::Ejected(length)) =
                condition.failed(Trouble::Refused, &BREAKER, (s(now), s(now)))
            else {
                panic!("a refused credential ejects at once");
            };
            assert!(length <= s(600), "{length:?}");
            now += length.as_secs();
        }
        assert_eq!(condition.standing(s(now - 1)), Standing::Ejected { until: s(now) });
    }

    #[test]
    fn a_call_from_before_the_ejection_decides_nothing_however_late_it_fails() {
        let mut condition = Condition::default();
        (10..13).for_each(|at| {
            fail(&mut condition, at);
        });
        condition.call_begins(s(43));
        assert_eq!(condition.failed(Trouble::Failed, &BREAKER, (s(1), s(44))), None);
        assert_eq!(condition.succeeded(s(43), s(45)), Some(Transition::Returned));
    }

    #[test]
    fn a_good_probe_speaks_for_an_ejected_upstream_and_the_next_call_is_its_trial_all_the_same() {
        let mut condition = Condition::default();
        (0..3).for_each(|at| {
            fail(&mut condition, at);
        });
        let probe = ProbeConfig::default();
        assert_eq!(condition.probed(true, &probe, s(31)), None, "it is not over");
        assert!(!condition.is_well());
        assert_eq!(condition.probed(true, &probe, s(32)), Some(Transition::Vouched));
        assert_eq!(condition.probed(true, &probe, s(33)), None, "once will do");
        assert!(condition.is_well());
        assert_eq!(condition.standing(s(33)), Standing::Trial);
        assert_eq!(condition.probed(false, &probe, s(34)), None);
        assert!(!condition.is_well(), "no more");
        condition.probed(true, &probe, s(35));
        assert_eq!(condition.call_begins(s(36)), Some(s(2)));
        assert_eq!(fail(&mut condition, 37), Some(Transition::Ejected(s(60))), "one is enough");
        assert!(!condition.is_well());
    }

    #[test]
    fn no_probe_speaks_for_a_credential_that_was_refused() {
        let mut condition = Condition::default();
        condition.failed(Trouble::Refused, &BREAKER, (s(0), s(0)));
        assert_eq!(condition.probed(true, &ProbeConfig::default(), s(31)), None);
        assert!(!condition.is_well());
        assert_eq!(condition.standing(s(31)), Standing::Trial);
    }

    #[test]
    fn both_ends_of_a_rest_are_told_once() {
        let mut condition = Condition::default();
        assert_eq!(condition.rests(Some(s(20)), true, s(0)), Some(Transition::RateLimited(s(20))));
        assert_eq!(condition.rests(Some(s(30)), true, s(1)), None, "it had begun");
        assert_eq!(condition.rests(None, true, s(1)), Some(Transition::Rests(s(1))));
        assert_eq!(condition.has_rested(s(30)), None, "the longer one is not over");
        assert_eq!(condition.has_rested(s(31)), Some(Transition::Rested));
        assert_eq!(condition.has_rested(s(32)), None);
        assert!(condition.is_clear());
        assert_eq!(condition.rests(None, false, s(33)), None, "it asked for none");
    }

    #[test]
    fn a_rate_limit_is_not_forgotten_over_another_pause() {
        let mut condition = Condition::default();
        assert_eq!(condition.rests(Some(s(20)), true, s(5)), Some(Transition::RateLimited(s(20))));
        assert_eq!(condition.rests(Some(s(60)), false, s(6)), Some(Transition::Rests(s(60))));
        assert_eq!(condition.standing(s(24)), Standing::RateLimited { until: s(25) });
        assert_eq!(condition.standing(s(25)), Standing::Resting { until: s(66) });
        assert!(condition.is_well(), "neither is an illness");
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
        assert_eq!(condition.probed(false, &probe, s(0)), None);
        assert_eq!(condition.probed(true, &probe, s(0)), None);
        assert_eq!(condition.probed(false, &probe, s(0)), None);
        assert_eq!(condition.probed(false, &probe, s(0)), Some(Transition::Unhealthy));
        assert_eq!(condition.standing(s(0)), Standing::Unhealthy);
        assert_eq!(condition.probed(true, &probe, s(0)), None);
        assert_eq!(condition.probed(true, &probe, s(0)), Some(Transition::Healthy));
        assert!(condition.is_clear());
    }

    proptest! {
        /// Whatever happens, one call at a time is the trial, and no upstream is lost for ever.
        #[test]
        fn every_upstream_gets_another_chance(
            steps in proptest::collection::vec((0_u8..6, 0_u64..40), 1..80),
        ) {
            let mut condition = Condition::default();
            let mut now = 0;
            let mut trial = None;
            for (step, seconds) in steps {
                now += seconds;
                let trouble = if step == 0 { Trouble::Failed } else { Trouble::Refused };
                match step {
                    0 | 1 => if condition.failed(trouble, &BREAKER, (s(now), s(now))).is_some() {
                        trial = None;
                    },
                    2 => if condition.succeeded(s(now), s(now)).is_some() {
                        trial = None;
                    },
                    3 => {
                        condition.rests(Some(s(seconds)), seconds % 2 == 0, s(now));
                    }
                    4 => if let Some(since) = condition.call_begins(s(now)) {
                        prop_assert_eq!(trial.replace(since), None, "two trials at once");
                    },
                    _ => if let Some(since) = trial.take() {
                        condition.trial_ended(since);
                    },
                }
            }
            if let Some(since) = trial {
                condition.trial_ended(since);
            }
            prop_assert!(matches!(
                condition.standing(s(now + 601)),
                Standing::Ready | Standing::Trial
            ));
        }
    }
}
