//! What a reload changes about a key while it is in use.

use super::super::lock;
use super::*;

/// The same key with another budget.
fn with_budget(account: &Account, limit: u64) -> Account {
    let budget = account.budget.map(|budget| Budget { limit: NanoUsd(limit), ..budget });
    Account { budget, ..account.clone() }
}

/// Calls that end at once, each of which leaves something for calls to come.
async fn spend(replica: &Replica, account: &Account, calls: u64) {
    for _ in 0..calls {
        let grant = granted(replica.surely(account, 10, 1_000).await.0);
        replica.settle(account, &grant.hold, 10, 400);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_that_was_lowered_is_not_spent_from_what_is_held() {
    let Some(server) = RedisServer::start().await else { return };
    let replicas = replicas(&server, 2, OnDown::Deny).await;
    let account = budget("k", 1_000_000);
    for left in [0, 999, 2_500] {
        for replica in &replicas {
            spend(replica, &account, 5).await;
            let entry = replica.store.0.entry(&account.key);
            let held = lock(&entry.books).lease.as_ref().unwrap().held();
            assert!(held >= 1_000, "{held}: nothing is held for calls to come");
        }
        let spent = eventually("all spend is told", || async {
            let is_told = replicas.iter().all(|replica| replica.store.health().untold.0 == 0);
            let funds = replicas[0].store.look(&account).await.budget?;
            is_told.then_some(funds.used.0)
        })
        .await;
        let lowered = with_budget(&account, spent + left);
        let mut running = Vec::new();
        for turn in 0..8 {
            let verdict = replicas[turn % 2].surely(&lowered, 10, 1_000).await.0;
            running.extend(is_admitted(&verdict).then(|| (turn % 2, granted(verdict))));
        }
        assert_eq!(running.len() as u64, left / 1_000, "of {left}");
        for (replica, grant) in running {
            replicas[replica].settle(&lowered, &grant.hold, 10, 1_000);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_a_budget_that_was_lowered_is_kept_as_far_as_is_known() {
    let Some(mut server) = RedisServer::start().await else { return };
    let replicas = replicas(&server, 1, OnDown::Local).await;
    let account = budget("k", 1_000_000);
    spend(&replicas[0], &account, 5).await;
    replicas[0].becomes("all is told", |health| health.untold.0 == 0).await;
    server.kill();
    replicas[0].becomes("Redis away", |health| !health.is_up).await;
    for limit in [0, 2_000, 2_999] {
        let verdict = replicas[0].admit(&with_budget(&account, limit), 10, 1_000).await;
        assert!(matches!(verdict, Verdict::Unavailable), "{limit}: {verdict:?}");
    }
    granted(replicas[0].admit(&with_budget(&account, 3_000), 10, 1_000).await);
    let verdict = replicas[0].admit(&with_budget(&account, 3_500), 10, 1_000).await;
    assert!(matches!(verdict, Verdict::Unavailable), "{verdict:?}");
    granted(replicas[0].admit(&account, 10, 1_000).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_spent_while_a_key_has_no_budget_counts_once_it_has_it_again() {
    let Some(server) = RedisServer::start().await else { return };
    let replicas = replicas(&server, 1, OnDown::Deny).await;
    for per in [Period::Day, Period::Month, Period::Total] {
        let budget = Some(Budget { limit: NanoUsd(1_000_000), per });
        let account = Account { key: format!("{per:?}").into(), budget, ..Account::default() };
        spend(&replicas[0], &account, 1).await;
        let free = Account { budget: None, ..account.clone() };
        let limited = Account { requests_per_minute: Some(100), ..free.clone() };
        spend(&replicas[0], &free, 3).await;
        spend(&replicas[0], &limited, 2).await;
        replicas[0].becomes("all is told", |health| health.untold.0 == 0).await;
        let other = Replica::start(&server, OnDown::Deny);
        other.becomes("connected", |health| health.is_up).await;
        assert_eq!(other.store.look(&account).await.budget.unwrap().used.0, 6 * 400, "{per:?}");
        spend(&replicas[0], &account, 1).await;
        eventually("all is told", || async {
            let used = other.store.look(&account).await.budget?.used.0;
            (used == 7 * 400).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_is_given_back_whatever_limits_the_key_has_when_its_call_ends() {
    let Some(server) = RedisServer::start().await else { return };
    let replicas = replicas(&server, 1, OnDown::Deny).await;
    let account = all_limits("k");
    let unlimited = budget("k", 1_000_000);
    let running = granted(replicas[0].surely(&account, 10, 100).await.0);
    spend(&replicas[0], &unlimited, 1).await;
    let begun = Instant::now();
    replicas[0].settle(&account, &running.hold, 3, 100);
    eventually("its slot is free and its tokens are counted", || async {
        let standing = replicas[0].store.look(&account).await;
        let used = (standing.concurrent?.remaining, standing.tokens?.remaining);
        (used == (100, 100_000 - 3)).then_some(())
    })
    .await;
    assert!(begun.elapsed() < super::super::script::CALL_LEASE / 2, "only its lease was over");
}
