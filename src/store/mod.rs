//! Where counters and spend live: what a call asks for, what it is answered, how it is settled.

pub mod config;
pub mod embedded;
mod money;
mod period;
mod purse;
pub mod redis;
mod seat;
mod window;

pub use money::{NanoUsd, TokenPrice};
pub use period::{Day, Period};
pub use purse::{Budget, Funds, Purse, Reservation};
pub use seat::{Refusal, Seat};
pub use window::{MINUTE, Ticket, Window};

use crate::protocol::usage::{CostSource, Usage};
use embedded::Embedded;
use redis::Redis;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

/// A moment on both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Since the process began, on a clock that never goes back: for windows.
    pub mono: Duration,
    /// The calendar's: for budgets.
    pub wall: SystemTime,
}

/// One admitted call, unlike any other of any replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CallId(pub u64);

/// What a key may use; without any limit everything is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    /// The key's name, under which everything is counted.
    pub key: Arc<str>,
    /// Calls admitted in any 60 s.
    pub requests_per_minute: Option<u64>,
    /// Tokens admitted in any 60 s.
    pub tokens_per_minute: Option<u64>,
    /// Calls running at once.
    pub concurrent: Option<u64>,
    /// Money.
    pub budget: Option<Budget>,
}

impl Account {
    /// Whether a limit depends on what a call uses.
    #[must_use]
    pub const fn is_metered(&self) -> bool {
        self.budget.is_some() || self.tokens_per_minute.is_some()
    }

    /// Whether anything is limited.
    #[must_use]
    pub const fn is_limited(&self) -> bool {
        self.requests_per_minute.is_some()
            || self.tokens_per_minute.is_some()
            || self.concurrent.is_some()
            || self.budget.is_some()
    }
}

/// What can be in the way, in the order in which it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dimension {
    /// Calls running at once.
    Concurrent,
    /// Calls a minute.
    Requests,
    /// Tokens a minute.
    Tokens,
    /// Money.
    Budget,
}

impl Dimension {
    /// The word in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Concurrent => "concurrent",
            Self::Requests => "requests_per_minute",
            Self::Tokens => "tokens_per_minute",
            Self::Budget => "budget",
        }
    }
}

/// What a call asks for.
#[derive(Debug, Clone)]
pub struct Ask {
    /// Its name.
    pub call: CallId,
    /// The most tokens it may use: the prompt's estimate and the longest output.
    pub tokens: u64,
    /// The most it may cost; `None` where no price is known, which reserves all that is left.
    pub worst: Option<NanoUsd>,
    /// The model it asks for, for the ledger should its end never be known.
    pub model: Arc<str>,
}

/// An admitted call, until it is settled.
#[derive(Debug, Clone)]
pub struct Hold {
    /// Its name.
    pub call: CallId,
    /// Tokens counted for it.
    pub tokens: u64,
    /// Money reserved for it.
    pub reserved: NanoUsd,
    /// The day it was admitted on, to which its cost belongs.
    pub day: Day,
    pub(crate) counted: seat::Counted,
    /// Where it was counted, so that its end need not look for it again; `None` where that is elsewhere.
    pub(crate) seat: Option<Arc<Mutex<Seat>>>,
}

/// How a rate or concurrency limit stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meter {
    /// The whole limit.
    pub limit: u64,
    /// What is left of it.
    pub remaining: u64,
    /// Until all of it is free again; zero for concurrency, where nobody knows.
    pub reset: Duration,
}

/// How every limit of a key stands; `None` where there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standing {
    /// Calls a minute.
    pub requests: Option<Meter>,
    /// Tokens a minute.
    pub tokens: Option<Meter>,
    /// Calls running at once.
    pub concurrent: Option<Meter>,
    /// Money.
    pub budget: Option<Funds>,
}

impl Standing {
    /// The used share of every limit there is, from 0 to 1.
    pub fn used_ratios(&self) -> impl Iterator<Item = (Dimension, f64)> {
        let meter = |meter: Option<Meter>| {
            let Meter { limit, remaining, .. } = meter?;
            Some(ratio(limit.saturating_sub(remaining), limit))
        };
        let funds = |funds: Funds| ratio(funds.limit.minus(funds.left()).0, funds.limit.0);
        [
            (Dimension::Concurrent, meter(self.concurrent)),
            (Dimension::Requests, meter(self.requests)),
            (Dimension::Tokens, meter(self.tokens)),
            (Dimension::Budget, self.budget.map(funds)),
        ]
        .into_iter()
        .filter_map(|(dimension, ratio)| Some((dimension, ratio?)))
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown, never computed with")]
fn ratio(used: u64, limit: u64) -> f64 {
    if limit == 0 { 1.0 } else { used as f64 / limit as f64 }
}

/// What the store answers.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// The call may go on; it is counted.
    Admitted(Grant),
    /// A limit is in the way; nothing is counted.
    Refused {
        /// Which limit, and when trying again may help.
        refusal: Refusal,
        /// How everything stands.
        standing: Standing,
    },
    /// Nobody can say: the store is away.
    Unavailable,
}

/// An admission.
#[derive(Debug, Clone)]
pub struct Grant {
    /// How everything stands with the call counted.
    pub standing: Standing,
    /// To be settled once.
    pub hold: Hold,
}

/// How a call ended.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// Tokens it used, in the place of those counted at admission.
    pub tokens: u64,
    /// What it cost.
    pub cost: NanoUsd,
    /// Its line in the ledger; `None` where nothing was used.
    pub entry: Option<Entry>,
}

/// What a call used, for the ledger.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The model asked for.
    pub model: Arc<str>,
    /// The upstream that answered.
    pub upstream: Arc<str>,
    /// Where the figure of the cost comes from.
    pub source: CostSource,
    /// Tokens by kind.
    pub usage: Usage,
}

impl Settlement {
    /// Nothing was used and nothing is owed.
    #[must_use]
    pub const fn nothing() -> Self {
        Self { tokens: 0, cost: NanoUsd::ZERO, entry: None }
    }
}

/// Where this gateway counts.
#[derive(Debug)]
pub enum Store {
    /// In memory and in files of its own.
    Embedded(Embedded),
    /// In Redis, with others.
    Redis {
        /// Counters and money.
        shared: Redis,
        /// The lines of this gateway's own calls.
        ledger: Embedded,
    },
}

impl Store {
    /// Counts the call against every limit of the account, or against none.
    pub async fn admit(&self, account: &Account, ask: &Ask, now: Moment) -> Verdict {
        match self {
            Self::Embedded(embedded) => embedded.admit(account, ask, now),
            Self::Redis { shared, .. } => shared.admit(account, ask, now).await,
        }
    }

    /// Ends a call, once; never waits. How the budget stands then, where that is known at once.
    pub fn settle(
        &self,
        account: &Account,
        hold: &Hold,
        settlement: &Settlement,
        now: Moment,
    ) -> Option<Funds> {
        match self {
            Self::Embedded(embedded) => embedded.settle(account, hold, settlement, now),
            Self::Redis { shared, ledger } => {
                ledger.enter(account, hold, settlement);
                shared.settle(account, hold, settlement)
            }
        }
    }

    /// How the account stands as far as is known here; consumes nothing and never waits.
    pub fn peek(&self, account: &Account, now: Moment) -> Standing {
        match self {
            Self::Embedded(embedded) => embedded.peek(account, now),
            Self::Redis { shared, .. } => shared.peek(account),
        }
    }

    /// How the account stands, asked of all who count; consumes nothing and waits 250 ms at most.
    pub async fn look(&self, account: &Account, now: Moment) -> Standing {
        match self {
            Self::Embedded(embedded) => embedded.look(account, now),
            Self::Redis { shared, .. } => shared.look(account).await,
        }
    }

    /// How the shared store is, where there is one.
    pub fn health(&self) -> Option<redis::Health> {
        match self {
            Self::Embedded(_) => None,
            Self::Redis { shared, .. } => Some(shared.health()),
        }
    }

    /// Whether this gateway's own folder can be used.
    pub fn is_up(&self) -> bool {
        match self {
            Self::Embedded(books) | Self::Redis { ledger: books, .. } => books.is_up(),
        }
    }

    /// Whether what was spent before this process began is known; not before the folder can be
    /// read, or Redis was asked.
    pub fn knows_spend(&self, account: &Account) -> bool {
        match self {
            Self::Embedded(books) => books.knows_spend(),
            Self::Redis { shared, .. } => shared.knows_spend(account),
        }
    }

    /// Stays connected to a shared store, for as long as it is awaited.
    pub async fn keep(&self) {
        match self {
            Self::Embedded(_) => std::future::pending().await,
            Self::Redis { shared, .. } => shared.keep().await,
        }
    }

    /// Writes down what is still to be written, and gives back to a shared store what only calls to
    /// come would need; at the end of the process, once no call runs and outside of any runtime. Within
    /// a second, where the disk does not hang.
    pub fn close(&self) {
        match self {
            Self::Embedded(books) => books.close(),
            Self::Redis { shared, ledger } => {
                match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                    Ok(runtime) => {
                        runtime.block_on(shared.leave());
                        // A name that is still looked up is not waited for.
                        runtime.shutdown_background();
                    }
                    Err(error) => {
                        tracing::error!(%error, "the shared store is not told of the end");
                    }
                }
                ledger.close();
            }
        }
    }
}
