//! What Redis is still to be told of an account, and what follows from its answers.

use super::books::{Away, Books, Known, Report};
use super::lease::{Lease, Term, Word};
use super::script::Receipt;
use crate::store::NanoUsd;
use std::sync::Arc;
use std::time::Duration;

/// Ended calls and running ones in one report, at most, so that no script runs long.
const MAX_REPORTED: usize = 200;
/// How often Redis hears of a call that runs; its lease is three times as long.
const RENEWAL: Duration = Duration::from_secs(10);

/// How much is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tell {
    /// What is new.
    News,
    /// The same, and money for calls to come is given back.
    Return,
}

impl Books {
    /// After a new connection all is told again: Redis may have lost its last second, or everything.
    pub(super) fn retell(&mut self) {
        for lease in self.leases_mut() {
            lease.retell();
        }
        for running in self.running.values_mut() {
            running.told = Duration::ZERO;
        }
    }

    /// Redis has lost what it had counted: all that was admitted here in the last minute is told again.
    pub(super) fn recount(&mut self, now: Duration) {
        self.requests.used(now);
        self.tokens.used(now);
        let requests =
            self.requests.counted().map(|(at, requests)| Away { at, requests, tokens: 0 });
        let tokens = self.tokens.counted().map(|(at, tokens)| Away { at, requests: 0, tokens });
        // What was admitted without Redis is among them.
        self.away = requests.chain(tokens).collect();
        if let Some(known) = &mut self.known {
            known.lost = 0;
        }
    }

    /// Whether there is nothing to tell and nothing that could come to be told by itself.
    pub(super) fn is_quiet(&self, now: Duration) -> bool {
        let is_settled = |lease: &Lease| lease.is_told() && lease.is_empty() && !lease.is_due(now);
        self.running.is_empty()
            && self.ended.is_empty()
            && self.away.is_empty()
            && self.lease.iter().chain(&self.past).all(is_settled)
    }

    /// Reports that tell all there is to tell now, at most.
    pub(super) fn reports_due(&self, now: Duration) -> usize {
        let running = self.running.values().filter(|running| is_due(running.told, now));
        let running = if self.is_tracked { running.count() } else { 0 };
        // Each takes so many of both, and one lease; the first takes what was admitted without Redis, too.
        self.ended.len().max(running).div_ceil(MAX_REPORTED).max(1 + self.past.len())
    }

    /// The next report, if there is something to tell. To be closed with [`Books::reported`] or
    /// [`Books::unreported`].
    pub(super) fn report(&mut self, tell: Tell, replicas: u64, now: Duration) -> Option<Report> {
        self.trim(tell, replicas, now);
        let ended = self.ended.drain(..self.ended.len().min(MAX_REPORTED)).collect::<Vec<_>>();
        let mut running = Vec::new();
        if self.is_tracked {
            let due = self.running.iter_mut().filter(|(_, running)| is_due(running.told, now));
            for (call, running_call) in due.take(MAX_REPORTED) {
                running_call.slot.get_or_insert(-1);
                running.push(*call);
            }
        }
        let away = std::mem::take(&mut self.away).into();
        let lease = self.lease.iter().chain(&self.past).find(|lease| !lease.is_told());
        let report = Report {
            names: Arc::clone(&self.names),
            term: lease.map(|lease| lease.term),
            record: lease.map_or_else(|| "".into(), |lease| lease.record.clone()),
            word: lease.map(Lease::word),
            ended,
            running,
            away,
            at: now,
        };
        (!report.is_empty()).then_some(report)
    }

    fn trim(&mut self, tell: Tell, replicas: u64, now: Duration) {
        let known = self.known.unwrap_or_default();
        // Under a limit that was lowered, or without one, nothing is kept.
        let free = self.budget.and_then(|budget| budget.limit.0.checked_sub(known.used));
        let free = free.filter(|_| !known.is_scarce && tell == Tell::News);
        if let Some(lease) = &mut self.lease {
            lease.trim(free, replicas, now);
            lease.refresh(now);
        }
        for lease in &mut self.past {
            lease.trim(None, replicas, now);
        }
    }

    /// Redis has heard a report.
    pub(super) fn reported(&mut self, report: &Report, receipt: &Receipt, now: Duration) {
        for call in &report.running {
            if let Some(running) = self.running.get_mut(call) {
                running.told = now;
            }
        }
        let (Some(word), Some(term)) = (report.word, report.term) else { return };
        let is_current = self.lease.as_ref().is_some_and(|lease| lease.term == term);
        if let Some(lease) = self.leases_mut().find(|lease| lease.record == report.record) {
            lease.learn(receipt.given);
            lease.heard(Word { given: word.given.max(receipt.given), ..word }, now);
        }
        self.past.retain(|lease| !(lease.is_empty() && lease.is_told()));
        if is_current {
            let known = self.known.get_or_insert_with(Known::default);
            known.used = receipt.used;
            known.spent = receipt.spent;
            known.is_scarce = receipt.is_scarce;
        }
    }

    /// A report may not have been heard.
    pub(super) fn unreported(&mut self, report: Report) {
        for ended in report.ended.into_iter().rev() {
            self.ended.push_front(ended);
        }
        for away in report.away.into_iter().rev() {
            self.away.push_front(away);
        }
    }

    /// Spend that Redis has not heard of.
    pub(super) fn untold(&self) -> NanoUsd {
        self.lease.iter().chain(&self.past).map(Lease::untold).sum()
    }

    /// What is promised beyond what Redis has given: the lease's term, its record, all it must
    /// have given, where that is more than it has.
    pub(super) fn overdrawn(&self) -> Option<(Term, &Arc<str>, u64)> {
        let lease = self.lease.as_ref().filter(|lease| lease.overdrawn() > 0)?;
        Some((lease.term, &lease.record, lease.word().given))
    }

    /// Whether more is promised than Redis has given, in a period that is over, too.
    pub(super) fn is_overdrawn(&self) -> bool {
        self.lease.iter().chain(&self.past).any(|lease| lease.overdrawn() > 0)
    }

    fn leases_mut(&mut self) -> impl Iterator<Item = &mut Lease> {
        self.lease.iter_mut().chain(&mut self.past)
    }
}

/// Whether Redis is to hear again that a call runs.
fn is_due(told: Duration, now: Duration) -> bool {
    told.is_zero() || told + RENEWAL < now
}

impl Report {
    const fn is_empty(&self) -> bool {
        self.word.is_none()
            && self.ended.is_empty()
            && self.running.is_empty()
            && self.away.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::super::books::When;
    use super::*;
    use crate::store::{Account, Budget, Period};

    fn hours(hours: u64) -> Duration {
        Duration::from_hours(hours)
    }

    /// Tells what there is to tell; what Redis says it has given.
    fn tell(books: &mut Books, now: Duration, given: u64) -> Option<Word> {
        let report = books.report(Tell::News, 1, now)?;
        books.reported(&report, &Receipt { given, used: given, spent: 0, is_scarce: false }, now);
        report.word
    }

    #[test]
    fn an_idle_night_neither_forgets_a_lease_nor_lets_redis_forget_it() {
        let budget = Some(Budget { limit: NanoUsd(1_000), per: Period::Total });
        let account = Account { key: "k".into(), budget, ..Account::default() };
        let mut books = Books::new("k");
        let at = |here| When { here, redis_ms: 0 };
        let lease = books.lease(&account, at(Duration::ZERO), || "first".into()).unwrap();
        lease.learn(100);
        lease.promise(NanoUsd(100), Duration::ZERO);
        lease.settle(NanoUsd(100), NanoUsd(100));
        assert_eq!(tell(&mut books, hours(0), 100).unwrap().spent, 100);
        assert!(books.is_quiet(hours(5)) && tell(&mut books, hours(5), 100).is_none());
        // Redis takes a replica for dead after a day without a word.
        for night in 1..=4 {
            let now = hours(7 * night);
            assert!(!books.is_quiet(now), "{now:?}");
            assert_eq!(tell(&mut books, now, 100).unwrap().spent, 100);
            assert!(books.is_quiet(now));
            let lease = books.lease(&account, at(now), || "second".into()).unwrap();
            assert_eq!(&*lease.record, "first", "its spend would be counted nowhere, or twice");
        }
        books.retell();
        assert_eq!(tell(&mut books, hours(29), 0).unwrap().spent, 100);
    }

    #[test]
    fn reports_that_are_due_tell_all_there_was() {
        for ended in [0, 1, 200, 201, 999] {
            let mut books = Books::new("k");
            (0..ended).for_each(|call| books.abandon(call));
            let due = books.reports_due(hours(1));
            for _ in 0..due {
                tell(&mut books, hours(1), 0);
                // As busy as can be.
                books.abandon(u64::MAX);
            }
            assert!(books.ended.iter().all(|ended| ended.call == u64::MAX), "{ended}");
            assert!(due <= 5, "{due}");
        }
    }
}
