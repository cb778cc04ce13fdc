//! Admitting calls of one account while Redis is away.

use super::books::{Away, Books, Running, When, is_tracked};
use super::lease::Term;
use super::share::{Share, Straddle};
use super::view::SOON;
use crate::store::{Account, Ask, Budget, Dimension, MINUTE, NanoUsd, Refusal};
use std::sync::Arc;
use std::time::Duration;

/// What is admitted without Redis is told in grains of this length.
const GRAIN: Duration = Duration::from_millis(250);

/// Why a call is not admitted without Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denial {
    /// This replica's share of a limit is used up.
    Refused(Refusal),
    /// Only Redis can say.
    Unknown,
}

impl Books {
    /// Admits a call without Redis, on this replica's share and lease.
    pub(super) fn admit_alone(
        &mut self,
        account: &Account,
        ask: &Ask,
        when: When,
        share: Share,
        since: Duration,
    ) -> Result<NanoUsd, Denial> {
        self.check_alone(account, ask, when.here, share, since)?;
        let reserved = match account.budget {
            None => NanoUsd::ZERO,
            Some(budget) => {
                let term = Term::at(budget.per, when.redis_ms);
                // Where the limit was lowered below what all replicas hold, it alone is what counts.
                let most = (self.used() > budget.limit).then(|| self.left(budget, term));
                let lease = self.lease_of(Some(term)).ok_or(Denial::Unknown)?;
                let wanted = ask.worst.unwrap_or_else(|| NanoUsd(lease.idle()));
                if most.is_some_and(|most| wanted > most) {
                    return Err(Denial::Unknown);
                }
                lease.take(ask.worst, when.here).ok_or(Denial::Unknown)?
            }
        };
        self.run_alone(account, ask, reserved, when);
        Ok(reserved)
    }

    /// What is left of a budget, as far as is known here.
    fn left(&mut self, budget: Budget, term: Term) -> NanoUsd {
        let spent = NanoUsd(self.known.map_or(0, |known| known.spent));
        let own = self.lease_of(Some(term)).map_or(NanoUsd::ZERO, |lease| lease.owed());
        budget.limit.minus(spent).minus(own)
    }

    fn check_alone(
        &mut self,
        account: &Account,
        ask: &Ask,
        now: Duration,
        share: Share,
        since: Duration,
    ) -> Result<(), Denial> {
        let refused = |by, retry_after| Err(Denial::Refused(Refusal { by, retry_after }));
        if let Some(limit) = account.concurrent {
            let part = share.part(limit);
            if part == 0 {
                return Err(Denial::Unknown);
            }
            if u64::try_from(self.running.len()).unwrap_or(u64::MAX) >= part {
                return refused(Dimension::Concurrent, Some(SOON));
            }
        }
        let straddle = self.straddle(account, now, since);
        let away = now.saturating_sub(since);
        for (by, units, limit, (had, left), window) in [
            (
                Dimension::Requests,
                1,
                account.requests_per_minute,
                straddle.requests,
                &mut self.requests,
            ),
            (
                Dimension::Tokens,
                ask.tokens,
                account.tokens_per_minute,
                straddle.tokens,
                &mut self.tokens,
            ),
        ] {
            let Some(limit) = limit else { continue };
            if units > share.part(limit) {
                return Err(Denial::Unknown);
            }
            let most = share.most(limit, had, left, away);
            // For a minute less may fit than this replica's part.
            let wait = window.wait(units, most, now).unwrap_or(MINUTE.saturating_sub(away));
            if !wait.is_zero() {
                return refused(by, Some(wait));
            }
        }
        Ok(())
    }

    /// How the windows stood when Redis went away.
    fn straddle(&mut self, account: &Account, now: Duration, since: Duration) -> Straddle {
        if let Some(straddle) = self.straddle.filter(|straddle| straddle.since == since) {
            return straddle;
        }
        // What was said over a minute before has left the windows, and of what others did since
        // nothing is known: their parts must do.
        let known = self.known.filter(|known| known.at + MINUTE > since).unwrap_or_default();
        let left = |limit: Option<u64>, used| limit.unwrap_or_default().saturating_sub(used);
        let straddle = Straddle {
            since,
            requests: (self.requests.used(now), left(account.requests_per_minute, known.requests)),
            tokens: (self.tokens.used(now), left(account.tokens_per_minute, known.tokens)),
        };
        self.straddle = Some(straddle);
        straddle
    }

    /// Admits a call without Redis and without asking whether it fits; what it reserves.
    pub(super) fn admit_anyway(
        &mut self,
        account: &Account,
        ask: &Ask,
        when: When,
        record: impl FnOnce() -> Arc<str>,
    ) -> NanoUsd {
        let reserved = self.lease(account, when, record).map_or(NanoUsd::ZERO, |lease| {
            let amount = ask.worst.unwrap_or_else(|| NanoUsd(lease.idle()));
            lease.promise(amount, when.here)
        });
        self.run_alone(account, ask, reserved, when);
        reserved
    }

    fn run_alone(&mut self, account: &Account, ask: &Ask, reserved: NanoUsd, when: When) {
        let now = when.here;
        self.is_tracked = is_tracked(account);
        let requests = u64::from(account.requests_per_minute.is_some());
        let tokens = account.tokens_per_minute.map_or(0, |_| ask.tokens);
        if requests + tokens > 0 {
            self.note_away(Away { at: now, requests, tokens });
        }
        let running = Running {
            tokens: ask.tokens,
            reserved,
            term: account.budget.map(|budget| Term::at(budget.per, when.redis_ms)),
            slot: None,
            ticket: self.count(account, ask.tokens, now),
            told: Duration::ZERO,
        };
        self.running.insert(ask.call.0, running);
    }

    fn note_away(&mut self, new: Away) {
        while self.away.front().is_some_and(|away| away.at + MINUTE + GRAIN < new.at) {
            self.away.pop_front();
        }
        match self.away.back_mut() {
            Some(last) if new.at < last.at + GRAIN => {
                last.requests += new.requests;
                last.tokens = last.tokens.saturating_add(new.tokens);
            }
            Some(_) | None => self.away.push_back(new),
        }
    }
}
