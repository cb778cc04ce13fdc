//! What a caller may use: every call is admitted once, settled once, and counted in between.

pub mod config;
pub mod headers;
mod permit;
pub mod prices;
pub mod throttle;
mod warnings;

pub use permit::Permit;

use crate::store::redis::Health;
use crate::store::{Account, Ask, Funds, Moment, Refusal, Standing, Store, Verdict};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use throttle::Throttle;
use warnings::Warnings;

/// The limits of this process: its store, its count of failing addresses, what operators were told.
#[derive(Debug)]
pub struct Limits {
    store: Store,
    throttle: Throttle,
    warnings: Warnings,
    begun: Instant,
}

/// Why a call may not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// A limit is in the way.
    Limit(Refusal),
    /// The store is away and nobody can say.
    Unavailable,
}

impl Limits {
    /// Limits over a store.
    #[must_use]
    pub fn new(store: Store) -> Arc<Self> {
        let (throttle, warnings) = (Throttle::default(), Warnings::default());
        Arc::new(Self { store, throttle, warnings, begun: Instant::now() })
    }

    /// Now, on both clocks.
    #[must_use]
    pub fn now(&self) -> Moment {
        Moment { mono: self.begun.elapsed(), wall: SystemTime::now() }
    }

    /// Admits a call or says why not, and how the account stands either way.
    pub async fn admit(
        self: &Arc<Self>,
        account: &Arc<Account>,
        ask: &Ask,
    ) -> (Result<Permit, Denied>, Standing) {
        let now = self.now();
        match self.store.admit(account, ask, now).await {
            Verdict::Admitted(grant) => {
                let (limits, account) = (Arc::clone(self), Arc::clone(account));
                let permit = Permit::new(limits, account, grant.hold, Arc::clone(&ask.model));
                (Ok(permit), grant.standing)
            }
            Verdict::Refused { refusal, standing } => {
                if let Some(funds) = standing.budget {
                    self.warnings.refused(account, &funds, &refusal);
                }
                (Err(Denied::Limit(refusal)), standing)
            }
            Verdict::Unavailable => (Err(Denied::Unavailable), self.store.peek(account, now)),
        }
    }

    /// How an account stands.
    #[must_use]
    pub fn standing(&self, account: &Account) -> Standing {
        self.store.peek(account, self.now())
    }

    /// How an account stands, asked of all gateways that share its limits.
    pub async fn look(&self, account: &Account) -> Standing {
        self.store.look(account, self.now()).await
    }

    /// How the shared store is, where there is one.
    #[must_use]
    pub fn health(&self) -> Option<Health> {
        self.store.health()
    }

    /// Whether this gateway's own folder of the store can be used.
    #[must_use]
    pub fn is_folder_up(&self) -> bool {
        self.store.is_up()
    }

    /// Whether what was spent earlier is known, so that there is something to show.
    #[must_use]
    pub fn knows_spend(&self, account: &Account) -> bool {
        self.store.knows_spend(account)
    }

    /// Keeps a shared store connected, for as long as it is awaited.
    pub async fn keep(&self) {
        self.store.keep().await;
    }

    /// Counts a failed authentication of an address; how long it has to wait where it has failed
    /// `limit` times within a minute.
    ///
    /// # Errors
    /// The wait.
    pub fn fail(&self, address: IpAddr, limit: u32) -> Result<(), Duration> {
        self.throttle.fail(address, limit, self.now().mono)
    }

    /// Writes down what is still to be written, and says farewell to a shared store; at the end of the
    /// process, outside of any runtime.
    pub fn close(&self) {
        self.store.close();
    }

    /// A call under a budget used tokens that nobody knows the price of; the operator is told once a model.
    pub fn unpriced(&self, account: &Account, model: &str) {
        self.warnings.unpriced(account, model);
    }

    fn spent(&self, account: &Account, funds: Option<Funds>) {
        if let Some(funds) = funds {
            self.warnings.spent(account, &funds);
        }
    }
}
