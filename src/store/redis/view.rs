//! How an account stands, as far as this replica knows, and when a refused call may try again.

use super::books::{Books, When};
use super::lease::Lease;
use super::script::{Answer, CALL_LEASE, Decision};
use crate::store::{
    Account, Ask, Budget, Dimension, Funds, Meter, NanoUsd, Refusal, Standing, Window,
};
use std::time::Duration;

/// When a call that waits for another one's end may try again.
pub(super) const SOON: Duration = Duration::from_secs(1);

impl Books {
    /// How everything stands: what Redis last said, aged, and never less than what was done here.
    pub(super) fn standing(&mut self, account: &Account, when: When) -> Standing {
        let known = self.known.unwrap_or_default();
        let age = when.here.saturating_sub(known.at);
        let meter = |limit: Option<u64>, window: &mut Window, used: u64, reset: Duration| {
            let limit = limit?;
            let known = if reset > age { used } else { 0 };
            let own = window.used(when.here);
            let reset = reset.saturating_sub(age).max(window.reset(when.here));
            Some(Meter { limit, remaining: limit.saturating_sub(known.max(own)), reset })
        };
        let own = u64::try_from(self.running.len()).unwrap_or(u64::MAX);
        let running = if age < CALL_LEASE { known.running.max(own) } else { own };
        Standing {
            requests: meter(
                account.requests_per_minute,
                &mut self.requests,
                known.requests,
                known.requests_reset,
            ),
            tokens: meter(
                account.tokens_per_minute,
                &mut self.tokens,
                known.tokens,
                known.tokens_reset,
            ),
            concurrent: account.concurrent.map(|limit| Meter {
                limit,
                remaining: limit.saturating_sub(running),
                reset: Duration::ZERO,
            }),
            budget: account.budget.map(|budget| self.shown(budget)),
        }
    }

    /// How the budget stands for whoever looks: what replicas hold that are gone is as good as spent.
    fn shown(&self, budget: Budget) -> Funds {
        let lost = NanoUsd(self.known.map_or(0, |known| known.lost));
        let funds = self.funds(budget);
        Funds { used: funds.used.plus(lost), reserved: funds.reserved.minus(lost), ..funds }
    }

    /// How the budget stands, what this replica has not told yet included.
    pub(super) fn funds(&self, budget: Budget) -> Funds {
        let known = self.known.unwrap_or_default();
        let lease = self.lease.as_ref().filter(|lease| lease.term.per == budget.per);
        let untold = lease.map_or(NanoUsd::ZERO, Lease::untold);
        let used = NanoUsd(known.spent).plus(untold);
        Funds {
            limit: budget.limit,
            used,
            reserved: NanoUsd(known.used).minus(used),
            resets_at: lease.and_then(|lease| lease.term.ends()),
        }
    }
}

/// Why Redis refused a call, and when it may try again; `None` where it did not.
pub(super) fn refusal(account: &Account, ask: &Ask, answer: &Answer) -> Option<Refusal> {
    let fits = u64::try_from(answer.retry_ms).ok().map(Duration::from_millis);
    let (by, retry_after) = match answer.decision {
        Decision::Admitted | Decision::Stale | Decision::Emptied => return None,
        Decision::Concurrent => (Dimension::Concurrent, Some(SOON)),
        Decision::Requests => (Dimension::Requests, fits),
        Decision::Tokens => (Dimension::Tokens, fits),
        Decision::Budget => (Dimension::Budget, money_after(account.budget?, ask, answer)),
    };
    Some(Refusal { by, retry_after })
}

/// Soon, where running calls may give back enough; else when the budget starts again.
fn money_after(budget: Budget, ask: &Ask, answer: &Answer) -> Option<Duration> {
    let least = ask.worst.unwrap_or(NanoUsd(1));
    if least > budget.limit {
        return None;
    }
    if least <= budget.limit.minus(NanoUsd(answer.spent)) {
        return Some(SOON);
    }
    u64::try_from(answer.retry_ms).ok().map(Duration::from_millis)
}
