//! When an operator is told that a budget runs out, at 80 % and at its end, once a period; and that one
//! counts nothing, since no price is known.

use crate::store::{Account, Dimension, Funds, NanoUsd, Refusal};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// Of a hundred: the first warning.
const NEARLY: u64 = 80;

/// Most models that are told of: callers choose their names.
const MOST_UNPRICED: usize = 100;

/// What has been told.
#[derive(Debug, Default)]
pub(super) struct Warnings {
    told: Mutex<HashMap<Arc<str>, Told>>,
    /// Models without a price.
    unpriced: Mutex<HashSet<String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    /// Which period: the one that ends then.
    resets_at: Option<SystemTime>,
    /// Of which budget: one that is raised in between has its own eighty percent.
    limit: NanoUsd,
    share: Share,
}

/// How much of a budget is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Share {
    Nearly,
    /// What is left is too little for a call.
    Rest,
    All,
}

impl Warnings {
    /// Money was spent.
    pub(super) fn spent(&self, account: &Account, funds: &Funds) {
        let (used, limit) = (u128::from(funds.used.0), u128::from(funds.limit.0));
        if used * 100 < limit * u128::from(NEARLY) {
            return;
        }
        self.tell(account, funds, Share::Nearly);
        if used >= limit {
            self.tell(account, funds, Share::All);
        }
    }

    /// A call under a budget used tokens that nobody knows the price of.
    pub(super) fn unpriced(&self, account: &Account, model: &str) {
        let mut told = self.unpriced.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= MOST_UNPRICED || told.contains(model) {
            return;
        }
        told.insert(model.to_owned());
        drop(told);
        let key = &*account.key;
        tracing::warn!(
            key,
            model,
            "no price is known for a model, so that budgets count nothing for its calls; add it to `prices`"
        );
    }

    /// A call was refused. Where waiting for running calls would not help, what is left is too little for
    /// calls like this one, which is told once, too.
    pub(super) fn refused(&self, account: &Account, funds: &Funds, refusal: &Refusal) {
        let is_at_end = refusal.by == Dimension::Budget && funds.reserved.0 == 0;
        if is_at_end
            && u128::from(funds.used.0) * 100 >= u128::from(funds.limit.0) * u128::from(NEARLY)
        {
            self.tell(account, funds, Share::Rest);
        }
    }

    fn tell(&self, account: &Account, funds: &Funds, share: Share) {
        // Of a budget of nothing all is always used.
        if funds.limit.0 == 0 || !self.is_news(account, funds, share) {
            return;
        }
        let (key, used, budget) = (&*account.key, funds.used.usd(), funds.limit.usd());
        let words = match share {
            Share::Nearly => "80 % of the budget is used",
            Share::Rest => "100 % of the budget is used, but for what is too little for a call",
            Share::All => "100 % of the budget is used",
        };
        tracing::warn!(key, used_usd = used, budget_usd = budget, "{words}");
    }

    fn is_news(&self, account: &Account, funds: &Funds, share: Share) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Told { resets_at: funds.resets_at, limit: funds.limit, share };
        let is_same = |before: &Told| Told { share, ..*before } == now;
        match told.get(&account.key) {
            Some(before) if is_same(before) && before.share >= share => false,
            Some(_) | None => {
                told.insert(Arc::clone(&account.key), now);
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn funds(used: u64, period: u64) -> Funds {
        Funds {
            limit: NanoUsd(100),
            used: NanoUsd(used),
            reserved: NanoUsd::ZERO,
            resets_at: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(period)),
        }
    }

    #[test]
    fn each_threshold_is_news_once_a_period() {
        let (warnings, account) = (Warnings::default(), Account::default());
        let news = |used, period, share| warnings.is_news(&account, &funds(used, period), share);
        assert!(news(80, 1, Share::Nearly));
        assert!(!news(90, 1, Share::Nearly));
        assert!(news(100, 1, Share::All));
        assert!(!news(100, 1, Share::All));
        assert!(!news(100, 1, Share::Nearly));
        assert!(news(80, 2, Share::Nearly));
        assert!(news(85, 2, Share::Rest));
        assert!(!news(85, 2, Share::Nearly));
        assert!(news(100, 2, Share::All), "what was too little is used up now");
        let raised = Funds { limit: NanoUsd(1_000), ..funds(800, 2) };
        assert!(warnings.is_news(&account, &raised, Share::Nearly), "a raised budget");
        assert!(!warnings.is_news(&account, &raised, Share::Nearly));
    }
}
