//! Which lease a call's money comes from, and where spend goes that no lease was asked for.

use super::books::{Books, When};
use super::lease::{Lease, Term, millis};
use crate::store::{Account, Day, NanoUsd};
use std::sync::Arc;
use std::time::Duration;

impl Books {
    /// The lease of the budget's term, a new one where there is none.
    pub(super) fn lease(
        &mut self,
        account: &Account,
        when: When,
        record: impl FnOnce() -> Arc<str>,
    ) -> Option<&mut Lease> {
        self.budget = account.budget;
        let term = Term::at(account.budget?.per, when.redis_ms);
        if self.lease.as_ref().is_none_or(|lease| lease.term != term) {
            self.turn_to(term, when.here, record);
        }
        self.lease.as_mut()
    }

    /// Money comes from the lease of this term from now on.
    fn turn_to(&mut self, term: Term, now: Duration, record: impl FnOnce() -> Arc<str>) {
        let known = self.past.iter().position(|lease| lease.term == term);
        let next = known.map(|place| self.past.swap_remove(place));
        let next = next.unwrap_or_else(|| Lease::new(term, record(), now));
        self.past.extend(self.lease.replace(next));
        if let Some(known) = &mut self.known {
            known.lost = 0;
        }
    }

    pub(super) fn lease_of(&mut self, term: Option<Term>) -> Option<&mut Lease> {
        let term = term?;
        let all = self.lease.iter_mut().chain(&mut self.past);
        all.into_iter().find(|lease| lease.term == term)
    }

    /// A call was admitted on this day while the key had no budget: its cost counts in the period of the
    /// budget that the key had before, should it come back. Whether it had one.
    pub(super) fn spend(
        &mut self,
        day: Day,
        cost: NanoUsd,
        now: Duration,
        record: impl FnOnce() -> Arc<str>,
    ) -> bool {
        let Some(current) = self.lease.as_ref().map(|lease| lease.term) else { return false };
        if cost == NanoUsd::ZERO {
            return false;
        }
        // Nothing is kept for calls that need no money.
        self.budget = None;
        let term = Term::at(current.per, millis(day.begins()));
        if self.lease_of(Some(term)).is_none() {
            if term.number > current.number {
                self.turn_to(term, now, record);
            } else {
                self.past.push(Lease::new(term, record(), now));
            }
        }
        if let Some(lease) = self.lease_of(Some(term)) {
            lease.settle(NanoUsd::ZERO, cost);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Budget, Period};

    #[test]
    fn what_is_spent_without_a_budget_goes_into_the_period_of_its_day() {
        let noon = |day: i64| When {
            here: Duration::ZERO,
            redis_ms: millis(Day(day).begins()) + 12 * 3_600_000,
        };
        let mut books = Books::new("k");
        assert!(!books.spend(Day(5), NanoUsd(7), Duration::ZERO, || "none".into()));
        let budget = Some(Budget { limit: NanoUsd(1_000), per: Period::Day });
        let account = Account { key: "k".into(), budget, ..Account::default() };
        books.lease(&account, noon(5), || "first".into()).unwrap();
        for (day, cost) in [(5, 10), (6, 20), (5, 30), (4, 40), (6, 50), (6, 0)] {
            let name = || format!("of {day}").into();
            let is_noted = books.spend(Day(day), NanoUsd(cost), Duration::ZERO, name);
            assert_eq!(is_noted, cost > 0);
        }
        let mut spent = |day: i64| {
            let term = Term::at(Period::Day, noon(day).redis_ms);
            let lease = books.lease_of(Some(term)).unwrap();
            (lease.record.to_string(), lease.word().spent, lease.word().given)
        };
        assert_eq!(spent(4), ("of 4".to_owned(), 40, 40));
        assert_eq!(spent(5), ("first".to_owned(), 40, 40));
        assert_eq!(spent(6), ("of 6".to_owned(), 70, 70));
        let again = books.lease(&account, noon(6), || "again".into()).unwrap();
        assert_eq!(&*again.record, "of 6");
    }
}
