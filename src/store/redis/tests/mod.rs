//! The shared store against a real Redis.

mod clients;
mod edges;
mod emptied;
mod faults;
mod model;
#[path = "../../../../tests/it/harness/redis_server.rs"]
mod redis_server;
mod reloads;

use super::Redis;
use crate::secret::Secret;
use crate::store::config::{OnDown, StoreConfig, StoreKind};
use crate::store::{
    Account, Ask, Budget, CallId, Grant, Hold, Moment, NanoUsd, Period, Settlement, Verdict,
};
use redis_server::RedisServer;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// How long anything may take before a test gives up; generous, because the machine is shared.
const DEADLINE: Duration = Duration::from_secs(30);

/// One gateway's store, connected in the background.
struct Replica {
    store: Redis,
    keeper: JoinHandle<()>,
    _folder: TempDir,
}

impl Replica {
    fn start(server: &RedisServer, on_down: OnDown) -> Self {
        Self::start_in(TempDir::new().unwrap(), &server.url(), on_down)
    }

    fn start_in(folder: TempDir, url: &str, on_down: OnDown) -> Self {
        let store = Redis::open(&StoreConfig {
            kind: StoreKind::Redis,
            path: folder.path().to_owned(),
            url: Some(Secret::new(url.to_owned())),
            on_down,
        })
        .unwrap();
        let kept = store.clone();
        let keeper = tokio::spawn(async move { kept.keep().await });
        Self { store, keeper, _folder: folder }
    }

    /// As SIGTERM.
    async fn stop(self) {
        self.store.leave().await;
        self.keeper.abort();
    }

    async fn admit(&self, account: &Account, tokens: u64, worst: u64) -> Verdict {
        static CALLS: AtomicU64 = AtomicU64::new(1);
        let call = CallId(CALLS.fetch_add(1, Ordering::Relaxed));
        let ask = Ask { call, tokens, worst: Some(NanoUsd(worst)), model: "m".into() };
        self.store.admit(account, &ask, now()).await
    }

    /// Asks until somebody knows, and how often nobody did: a busy machine may keep an answer for longer
    /// than a call waits, and then Redis may have counted it.
    async fn surely(&self, account: &Account, tokens: u64, worst: u64) -> (Verdict, usize) {
        let mut lost = 0;
        loop {
            match self.admit(account, tokens, worst).await {
                Verdict::Unavailable => lost += 1,
                verdict @ (Verdict::Admitted(_) | Verdict::Refused { .. }) => {
                    return (verdict, lost);
                }
            }
            self.becomes("up again", |health| health.is_up).await;
        }
    }

    fn settle(&self, account: &Account, hold: &Hold, tokens: u64, cost: u64) {
        let settlement = Settlement { tokens, cost: NanoUsd(cost), entry: None };
        self.store.settle(account, hold, &settlement);
    }

    async fn becomes(&self, what: &str, is_so: impl Fn(&super::Health) -> bool) {
        eventually(what, || async { is_so(&self.store.health()).then_some(()) }).await;
    }
}

/// Replicas that know of each other.
async fn replicas(server: &RedisServer, number: usize, on_down: OnDown) -> Vec<Replica> {
    let replicas: Vec<_> = (0..number).map(|_| Replica::start(server, on_down)).collect();
    for replica in &replicas {
        let all = |health: &super::Health| health.is_up && health.replicas == number as u64;
        replica.becomes("all replicas alive", all).await;
    }
    replicas
}

fn now() -> Moment {
    Moment { mono: Duration::ZERO, wall: SystemTime::now() }
}

async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, probe: impl Fn() -> F) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(Instant::now() < deadline, "{what}: not within {DEADLINE:?}");
        sleep(Duration::from_millis(5)).await;
    }
}

fn granted(verdict: Verdict) -> Grant {
    match verdict {
        Verdict::Admitted(grant) => grant,
        verdict @ (Verdict::Refused { .. } | Verdict::Unavailable) => panic!("{verdict:?}"),
    }
}

const fn is_admitted(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Admitted(_))
}

/// An account with nothing but a budget in all.
fn budget(key: &str, limit: u64) -> Account {
    let budget = Budget { limit: NanoUsd(limit), per: Period::Total };
    Account { key: key.into(), budget: Some(budget), ..Account::default() }
}

/// An account with a limit of every kind.
fn all_limits(key: &str) -> Account {
    Account {
        requests_per_minute: Some(1_000),
        tokens_per_minute: Some(100_000),
        concurrent: Some(100),
        ..budget(key, 1_000_000)
    }
}
