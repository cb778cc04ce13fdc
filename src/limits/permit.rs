//! The permit of one call: settled once, on every way out.

use super::Limits;
use crate::protocol::usage::{CostSource, Usage};
use crate::store::{Account, Entry, Hold, NanoUsd, Settlement};
use std::sync::Arc;

/// An admitted call. Dropped without a word it gives everything back, or, where an upstream may
/// have worked for it, costs all it had reserved.
#[derive(Debug)]
#[must_use]
pub struct Permit {
    limits: Arc<Limits>,
    account: Arc<Account>,
    hold: Option<Hold>,
    model: Arc<str>,
    has_gone_out: bool,
}

impl Permit {
    pub(super) const fn new(
        limits: Arc<Limits>,
        account: Arc<Account>,
        hold: Hold,
        model: Arc<str>,
    ) -> Self {
        Self { limits, account, hold: Some(hold), model, has_gone_out: false }
    }

    /// The call is about to go to an upstream: from now on it may cost something.
    pub const fn goes_out(&mut self) {
        self.has_gone_out = true;
    }

    /// What was reserved for it.
    #[must_use]
    pub fn reserved(&self) -> NanoUsd {
        self.hold.as_ref().map_or(NanoUsd::ZERO, |hold| hold.reserved)
    }

    /// The model it asks for.
    #[must_use]
    pub const fn model(&self) -> &Arc<str> {
        &self.model
    }

    /// Ends the call.
    pub fn settle(mut self, settlement: &Settlement) {
        self.end(settlement);
    }

    fn end(&mut self, settlement: &Settlement) {
        let Some(hold) = self.hold.take() else { return };
        let now = self.limits.now();
        let funds = self.limits.store.settle(&self.account, &hold, settlement, now);
        self.limits.spent(&self.account, funds);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(hold) = &self.hold else { return };
        let settlement = if self.has_gone_out {
            let entry = Entry {
                model: Arc::clone(&self.model),
                upstream: "".into(),
                source: CostSource::Estimate,
                usage: Usage::default(),
            };
            Settlement { tokens: hold.tokens, cost: hold.reserved, entry: Some(entry) }
        } else {
            Settlement::nothing()
        };
        self.end(&settlement);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::embedded::Embedded;
    use crate::store::{Ask, Budget, CallId, Period, Store};
    use std::time::SystemTime;
    use tempfile::TempDir;

    #[tokio::test]
    async fn a_permit_is_settled_once_whatever_becomes_of_it() {
        let folder = TempDir::new().unwrap();
        let limits =
            Limits::new(Store::Embedded(Embedded::open(folder.path(), SystemTime::now()).0));
        let budget = Some(Budget { limit: NanoUsd(1_000), per: Period::Day });
        let account = Arc::new(Account {
            key: "k".into(),
            concurrent: Some(1),
            budget,
            ..Account::default()
        });
        let ask = |call| Ask {
            call: CallId(call),
            tokens: 1,
            worst: Some(NanoUsd(100)),
            model: "m".into(),
        };
        let used = || limits.standing(&account).budget.unwrap().used.0;
        let free = || limits.standing(&account).concurrent.unwrap().remaining;

        drop(limits.admit(&account, &ask(1)).await.0.unwrap());
        assert_eq!((used(), free()), (0, 1), "it never went out");
        let mut permit = limits.admit(&account, &ask(2)).await.0.unwrap();
        assert_eq!(free(), 0);
        permit.goes_out();
        drop(permit);
        assert_eq!((used(), free()), (100, 1), "nobody knows what it cost");
        let permit = limits.admit(&account, &ask(3)).await.0.unwrap();
        permit.settle(&Settlement { cost: NanoUsd(7), ..Settlement::nothing() });
        assert_eq!((used(), free()), (107, 1));
        limits.close();
    }
}
