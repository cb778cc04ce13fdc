//! How much was admitted in the last 60 seconds, exactly: at most the limit in any 60 s.

use std::collections::VecDeque;
use std::time::Duration;

/// The length of every window.
pub const MINUTE: Duration = Duration::from_mins(1);
/// What is admitted within so short a time shares an entry, which leaves the window when the last
/// of it does. So a window holds at most 1,200 entries whatever the limit, is never too
/// generous, and loses less than a tenth of a percent of a limit.
const GRAIN: Duration = Duration::from_millis(50);

/// A sliding window over admitted units, each with the time of its admission.
#[derive(Debug, Clone, Default)]
pub struct Window {
    entries: VecDeque<Entry>,
    used: u64,
}

/// Units admitted from `first` to `last`.
#[derive(Debug, Clone, Copy)]
struct Entry {
    first: Duration,
    last: Duration,
    units: u64,
}

/// Where units were counted, for a correction later on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(Duration);

impl Window {
    /// Units in the window.
    pub fn used(&mut self, now: Duration) -> u64 {
        while let Some(oldest) = self.entries.front().filter(|entry| entry.is_over(now)) {
            self.used = self.used.saturating_sub(oldest.units);
            self.entries.pop_front();
        }
        self.used
    }

    /// How long until `units` more fit under `limit`: zero where they fit now, `None` where they
    /// are more than the whole limit.
    pub fn wait(&mut self, units: u64, limit: u64, now: Duration) -> Option<Duration> {
        let room_needed = limit.checked_sub(units)?;
        let mut used = self.used(now);
        let mut until = now;
        for entry in &self.entries {
            if used <= room_needed {
                break;
            }
            used = used.saturating_sub(entry.units);
            until = entry.last + MINUTE;
        }
        Some(until.saturating_sub(now))
    }

    /// Counts units without asking whether they fit.
    pub fn take(&mut self, units: u64, now: Duration) -> Ticket {
        self.used = self.used.saturating_add(units);
        match self.entries.back_mut() {
            // A clock read before the lock was ours may lie behind.
            Some(newest) if now < newest.first + GRAIN => {
                newest.last = newest.last.max(now);
                newest.units = newest.units.saturating_add(units);
                Ticket(newest.first)
            }
            Some(_) | None => {
                self.entries.push_back(Entry { first: now, last: now, units });
                Ticket(now)
            }
        }
    }

    /// Puts `now_known` in the place of `counted` units, unless they have left the window.
    pub fn correct(&mut self, ticket: Ticket, counted: u64, now_known: u64, now: Duration) {
        self.used(now);
        // Most calls end soon after they came.
        let newest = self.entries.len().saturating_sub(1);
        let place = match self.entries.back() {
            Some(entry) if entry.first == ticket.0 => newest,
            Some(_) | None => self.entries.partition_point(|entry| entry.first < ticket.0),
        };
        let Some(entry) = self.entries.get_mut(place).filter(|entry| entry.first == ticket.0)
        else {
            return;
        };
        let before = entry.units;
        entry.units = before.saturating_sub(counted).saturating_add(now_known);
        self.used = self.used.saturating_sub(before).saturating_add(entry.units);
    }

    /// What is in the window, and when the last of it was counted.
    pub fn counted(&self) -> impl Iterator<Item = (Duration, u64)> {
        self.entries.iter().filter(|entry| entry.units > 0).map(|entry| (entry.last, entry.units))
    }

    /// Takes one unit back that was counted just now.
    pub fn give_back(&mut self, now: Duration) {
        self.used(now);
        if let Some(newest) = self.entries.back_mut().filter(|newest| newest.units > 0) {
            newest.units -= 1;
            self.used = self.used.saturating_sub(1);
        }
    }

    /// How long until the window is empty.
    pub fn reset(&mut self, now: Duration) -> Duration {
        self.used(now);
        let newest = self.entries.iter().rev().find(|entry| entry.units > 0);
        newest.map_or(Duration::ZERO, |entry| (entry.last + MINUTE).saturating_sub(now))
    }
}

impl Entry {
    fn is_over(&self, now: Duration) -> bool {
        now >= self.last + MINUTE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_unit_comes_back_after_a_minute_and_not_before() {
        let mut window = Window::default();
        window.take(3, ms(0));
        window.take(2, ms(10_000));
        assert_eq!(window.wait(1, 5, ms(10_000)), Some(ms(50_000)));
        assert_eq!(window.wait(4, 5, ms(10_000)), Some(ms(60_000)));
        assert_eq!(window.wait(6, 5, ms(10_000)), None);
        assert_eq!(window.used(ms(59_999)), 5);
        assert_eq!(window.used(ms(60_000)), 2);
        assert_eq!(window.reset(ms(60_000)), ms(10_000));
        assert_eq!(window.used(ms(70_000)), 0);
        assert_eq!(window.reset(ms(70_000)), ms(0));
    }

    #[test]
    fn a_correction_counts_at_the_time_of_the_admission() {
        let mut window = Window::default();
        let early = window.take(100, ms(0));
        let late = window.take(100, ms(30_000));
        window.correct(early, 100, 20, ms(30_500));
        assert_eq!(window.used(ms(30_500)), 120);
        window.correct(late, 100, 150, ms(31_000));
        assert_eq!(window.used(ms(31_000)), 170);
        assert_eq!(window.used(ms(60_000)), 150);
        window.correct(early, 20, 500, ms(60_000));
        assert_eq!(window.used(ms(60_000)), 150, "it has left the window");
    }

    #[test]
    fn entries_are_few_whatever_the_rate() {
        let mut window = Window::default();
        for at in 0..200_000 {
            window.take(1, ms(at));
            window.used(ms(at));
        }
        assert!(window.entries.len() <= 1_202, "{}", window.entries.len());
    }

    proptest! {
        /// Against the plain definition: a list of every admission.
        #[test]
        fn never_more_than_the_limit_in_any_minute_and_nearly_all_of_it(
            steps in prop::collection::vec((0_u64..4_000, 1_u64..6), 1..400),
            limit in 5_u64..40,
        ) {
            let mut window = Window::default();
            let mut admitted: Vec<(u64, u64)> = Vec::new();
            let mut now = 0;
            for (step, units) in steps {
                now += step;
                let within = |from: u64| -> u64 {
                    admitted.iter().filter(|(at, _)| *at > from).map(|(_, units)| units).sum()
                };
                let exact = now.checked_sub(60_000).map_or_else(
                    || admitted.iter().map(|(_, units)| units).sum(),
                    within,
                );
                let wait = window.wait(units, limit, ms(now)).unwrap();
                if wait.is_zero() {
                    prop_assert!(exact + units <= limit);
                    window.take(units, ms(now));
                    admitted.push((now, units));
                } else {
                    // Refused though it would fit: only within the grain.
                    let grain = u64::try_from(GRAIN.as_millis()).unwrap();
                    let later = (now + grain).saturating_sub(60_000);
                    let generous: u64 = admitted
                        .iter()
                        .filter(|(at, _)| *at + 2 * grain > later.max(1) || now < 60_000)
                        .map(|(_, units)| units)
                        .sum();
                    prop_assert!(generous + units > limit);
                    let mut then = window.clone();
                    prop_assert_eq!(
                        then.wait(units, limit, ms(now) + wait), Some(Duration::ZERO)
                    );
                }
            }
        }

        #[test]
        fn corrections_lose_and_invent_nothing(
            calls in prop::collection::vec((0_u64..20_000, 0_u64..1_000, 0_u64..1_000, any::<bool>()), 1..60),
        ) {
            let mut window = Window::default();
            let mut model: Vec<(u64, u64)> = Vec::new();
            let mut now = 0;
            for (step, counted, real, settles) in calls {
                now += step;
                let ticket = window.take(counted, ms(now));
                if settles {
                    window.correct(ticket, counted, real, ms(now));
                }
                model.push((now, if settles { real } else { counted }));
                let last = |at: u64| model.iter().map(|(other, _)| *other)
                    .filter(|other| *other >= at && *other < at + 50).max().unwrap_or(at);
                let sure: u64 = model.iter()
                    .filter(|(at, _)| at + 60_000 > now).map(|(_, units)| units).sum();
                let most: u64 = model.iter()
                    .filter(|(at, _)| last(*at) + 60_000 + 50 > now).map(|(_, units)| units).sum();
                let used = window.used(ms(now));
                prop_assert!(used >= sure && used <= most, "{} <= {} <= {}", sure, used, most);
            }
        }
    }
}
