//! What one key has spent and what its running calls may still spend, by day, by month and in all.

use super::money::NanoUsd;
use super::period::{Day, Period};
use std::time::SystemTime;

/// The money of one key. All three periods are kept whatever the budget says, so that a reload may
/// change it without losing anything.
#[derive(Debug, Clone, Default)]
pub struct Purse {
    /// The latest day seen; a clock that is set back does not bring an old period back.
    today: Day,
    /// When its month is over, worked out once a day.
    month_ends: Option<SystemTime>,
    day: Money,
    month: Money,
    total: Money,
}

/// One period's money.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Money {
    spent: NanoUsd,
    reserved: NanoUsd,
}

/// Money that a running call may spend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reservation {
    /// The day it was admitted on; it belongs to that day and its month for good.
    pub day: Day,
    /// How much.
    pub amount: NanoUsd,
}

/// A hard limit on money.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// How much a period.
    pub limit: NanoUsd,
    /// When it starts again.
    pub per: Period,
}

/// How a budget stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Funds {
    /// The whole budget.
    pub limit: NanoUsd,
    /// Spent in this period.
    pub used: NanoUsd,
    /// What running calls may still spend.
    pub reserved: NanoUsd,
    /// When it starts again; never with a budget in all.
    pub resets_at: Option<SystemTime>,
}

impl Funds {
    /// What a new call may reserve.
    #[must_use]
    pub const fn left(&self) -> NanoUsd {
        self.limit.minus(self.used).minus(self.reserved)
    }
}

impl Purse {
    /// A purse as it was left: what was spent on this day, in its month, and in all.
    #[must_use]
    pub fn restored(today: Day, day: NanoUsd, month: NanoUsd, total: NanoUsd) -> Self {
        let money = |spent| Money { spent, reserved: NanoUsd::ZERO };
        let month_ends = Period::Month.ends(today);
        Self { today, month_ends, day: money(day), month: money(month), total: money(total) }
    }

    /// How the budget stands.
    pub fn funds(&mut self, budget: Budget, now: SystemTime) -> Funds {
        self.roll(now);
        let (money, resets_at) = match budget.per {
            Period::Day => (self.day, Period::Day.ends(self.today)),
            Period::Month => (self.month, self.month_ends),
            Period::Total => (self.total, None),
        };
        Funds { limit: budget.limit, used: money.spent, reserved: money.reserved, resets_at }
    }

    /// Sets money aside, without asking whether it is there.
    pub fn reserve(&mut self, amount: NanoUsd, now: SystemTime) -> Reservation {
        self.roll(now);
        for money in [&mut self.day, &mut self.month, &mut self.total] {
            money.reserved = money.reserved.plus(amount);
        }
        Reservation { day: self.today, amount }
    }

    /// Puts what was spent in the place of what was reserved, in the periods it was reserved in.
    pub fn settle(&mut self, reservation: Reservation, spent: NanoUsd) {
        let Reservation { day, amount } = reservation;
        let is_current = [
            (&mut self.day, day == self.today),
            (&mut self.month, day == self.today || day.month() == self.today.month()),
            (&mut self.total, true),
        ];
        for (money, _) in is_current.into_iter().filter(|(_, is_current)| *is_current) {
            money.reserved = money.reserved.minus(amount);
            money.spent = money.spent.plus(spent);
        }
    }

    /// Adds what an earlier process had spent, which only now could be read.
    pub fn add(&mut self, earlier: &Self) {
        self.roll(earlier.today.begins());
        let is_current = [
            (&mut self.day, earlier.day, earlier.today == self.today),
            (&mut self.month, earlier.month, earlier.today.month() == self.today.month()),
            (&mut self.total, earlier.total, true),
        ];
        for (money, earlier, _) in is_current.into_iter().filter(|(.., is_current)| *is_current) {
            money.spent = money.spent.plus(earlier.spent);
        }
    }

    fn roll(&mut self, now: SystemTime) {
        let now = Day::of(now);
        if now <= self.today {
            return;
        }
        self.day = Money::default();
        if now.month() != self.today.month() {
            self.month = Money::default();
        }
        self.today = now;
        self.month_ends = Period::Month.ends(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop, prop_assert_eq, proptest};
    use std::time::Duration;

    fn at(day: i64) -> SystemTime {
        Day(day).begins() + Duration::from_hours(1)
    }

    fn budget(per: Period) -> Budget {
        Budget { limit: NanoUsd(1_000), per }
    }

    #[test]
    fn a_new_day_starts_empty_and_the_month_goes_on() {
        // 2026-11-25 and the day after.
        let mut purse = Purse::default();
        let reserved = purse.reserve(NanoUsd(300), at(20_782));
        purse.settle(reserved, NanoUsd(200));
        purse.reserve(NanoUsd(50), at(20_782));
        let funds = purse.funds(budget(Period::Day), at(20_782));
        assert_eq!(
            (funds.used, funds.reserved, funds.left()),
            (NanoUsd(200), NanoUsd(50), NanoUsd(750))
        );
        let funds = purse.funds(budget(Period::Day), at(20_783));
        assert_eq!((funds.used, funds.left()), (NanoUsd(0), NanoUsd(1_000)));
        let funds = purse.funds(budget(Period::Month), at(20_783));
        assert_eq!((funds.used, funds.reserved), (NanoUsd(200), NanoUsd(50)));
    }

    #[test]
    fn a_call_that_ends_tomorrow_is_paid_today() {
        let mut purse = Purse::default();
        let reserved = purse.reserve(NanoUsd(300), at(100));
        purse.funds(budget(Period::Day), at(101));
        purse.settle(reserved, NanoUsd(200));
        assert_eq!(purse.funds(budget(Period::Day), at(101)).used, NanoUsd::ZERO);
        assert_eq!(purse.funds(budget(Period::Total), at(101)).used, NanoUsd(200));
    }

    #[test]
    fn a_clock_set_back_brings_no_money_back() {
        let mut purse = Purse::restored(Day(101), NanoUsd(900), NanoUsd(900), NanoUsd(900));
        assert_eq!(purse.funds(budget(Period::Day), at(100)).used, NanoUsd(900));
        assert_eq!(purse.funds(budget(Period::Day), at(101)).used, NanoUsd(900));
    }

    proptest! {
        /// Against a list of every call: what is used is what was settled in the period, what is
        /// reserved is what still runs.
        #[test]
        fn no_unit_is_lost_or_invented(
            calls in prop::collection::vec((0_i64..9, 0_u64..500, 0_u64..700, any::<bool>()), 1..60),
        ) {
            let mut purse = Purse::default();
            let (mut day, mut running, mut paid) = (20_000, Vec::new(), Vec::new());
            for (step, amount, cost, ends) in calls {
                day += step / 3;
                running.push((purse.reserve(NanoUsd(amount), at(day)), cost));
                if ends {
                    let (reservation, cost) = running.swap_remove(running.len() / 2);
                    purse.settle(reservation, NanoUsd(cost));
                    paid.push((reservation.day, cost));
                }
                for per in [Period::Day, Period::Month, Period::Total] {
                    let now = per.number(Day(day));
                    let used = paid.iter().filter(|(day, _)| per.number(*day) == now);
                    let held = running.iter().filter(|(r, _)| per.number(r.day) == now);
                    let funds = purse.funds(budget(per), at(day));
                    prop_assert_eq!(funds.used, used.map(|(_, cost)| NanoUsd(*cost)).sum());
                    prop_assert_eq!(funds.reserved, held.map(|(r, _)| r.amount).sum());
                }
            }
        }
    }
}
