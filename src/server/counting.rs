//! The store of limits and spend: opened before anything listens, kept beside the requests.

use crate::config::sections::Config;
use crate::limits::Limits;
use crate::store::Store;
use crate::store::config::StoreKind;
use crate::store::embedded::{Embedded, Problem};
use crate::store::redis::Redis;
use async_trait::async_trait;
use pingora::server::ShutdownWatch;
use pingora::services::background::{BackgroundService, GenBackgroundService, background_service};
use std::sync::Arc;
use std::time::SystemTime;

/// Opens the store. A folder that cannot be used is no reason not to start: where budgets are kept
/// in it their calls are refused until it can. One that another gateway uses is, where there are
/// such budgets: the two would not know of each other's spend. A Redis that is away is none either.
///
/// # Errors
/// A text for the operator.
pub(super) fn open(config: &Config) -> Result<Arc<Limits>, String> {
    let (folder, problem) = Embedded::open(&config.store.path, SystemTime::now());
    let is_shared = config.store.kind == StoreKind::Redis;
    let has_budgets = !is_shared && config.keys.iter().any(|key| key.budget.is_some());
    match problem {
        None => {}
        Some(Problem::InUse(problem)) if has_budgets => {
            return Err(format!("store.path: {problem}"));
        }
        Some(problem) => {
            let effect = if has_budgets {
                "calls of keys with a budget are refused"
            } else {
                "no ledger is kept"
            };
            tracing::warn!(%problem, effect, "the store cannot be used; it is tried again and again");
        }
    }
    Ok(Limits::new(match config.store.kind {
        StoreKind::Embedded => Store::Embedded(folder),
        StoreKind::Redis => Store::Redis { shared: Redis::open(&config.store)?, ledger: folder },
    }))
}

/// Keeps a shared store connected: on a thread of its own, because requests wait for it.
pub(super) struct Counting {
    limits: Arc<Limits>,
}

impl Counting {
    /// As a Pingora service of one thread.
    pub(super) fn service(limits: Arc<Limits>) -> GenBackgroundService<Self> {
        let mut service = background_service("counting", Self { limits });
        service.threads = Some(1);
        service
    }
}

#[async_trait]
impl BackgroundService for Counting {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        tokio::select! {
            () = self.limits.keep() => {}
            _ = shutdown.changed() => {}
        }
    }
}
