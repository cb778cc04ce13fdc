//! Redis killed, stopped and started again, emptied, and guarded by a password.

use super::*;
use crate::store::Dimension;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tokio::task::JoinSet;

/// Well over what a busy machine takes beside a wait, under any other timer here.
const AT_ONCE: Duration = Duration::from_secs(1);

async fn timed(replica: &Replica, account: &Account) -> (Verdict, Duration) {
    let begun = Instant::now();
    (replica.admit(account, 10, 100).await, begun.elapsed())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_hangs_costs_the_first_calls_a_quarter_of_a_second_and_the_next_nothing() {
    let Some(server) = RedisServer::start().await else { return };
    let replicas = Arc::new(replicas(&server, 1, OnDown::Deny).await);
    let account = all_limits("k");
    granted(replicas[0].admit(&account, 10, 100).await);
    server.pause();
    let mut first = JoinSet::new();
    for _ in 0..20 {
        let (replicas, account) = (Arc::clone(&replicas), account.clone());
        first.spawn(async move { timed(&replicas[0], &account).await });
    }
    for (verdict, took) in first.join_all().await {
        assert!(matches!(verdict, Verdict::Unavailable), "{verdict:?}");
        assert!(took < super::super::WAIT + AT_ONCE, "{took:?}");
    }
    for _ in 0..20 {
        let (verdict, took) = timed(&replicas[0], &account).await;
        assert!(matches!(verdict, Verdict::Unavailable), "{verdict:?}");
        assert!(took < AT_ONCE, "{took:?}");
    }
    server.resume();
    replicas[0].becomes("connected again", |health| health.is_up).await;
    granted(replicas[0].admit(&account, 10, 100).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local_lives_on_its_share_and_its_lease_and_then_refuses() {
    let Some(mut server) = RedisServer::start().await else { return };
    let replicas = replicas(&server, 2, OnDown::Local).await;
    let shared = Account { key: "s".into(), requests_per_minute: Some(21), ..Account::default() };
    let running = Account { key: "c".into(), concurrent: Some(5), ..Account::default() };
    let money = budget("m", 100_000);
    for replica in &replicas {
        for account in [&shared, &money] {
            let grant = granted(replica.admit(account, 0, 1_000).await);
            replica.settle(account, &grant.hold, 0, 1_000);
        }
    }
    server.kill();
    let (mut requests, mut slots, mut spent) = (2, 0, 2_000);
    for replica in &replicas {
        replica.becomes("Redis away", |health| !health.is_up).await;
        loop {
            match replica.admit(&shared, 0, 0).await {
                Verdict::Admitted(_) => requests += 1,
                Verdict::Refused { refusal, .. } => {
                    assert_eq!(refusal.by, Dimension::Requests);
                    assert!(refusal.retry_after.is_some_and(|after| after <= crate::store::MINUTE));
                    break;
                }
                Verdict::Unavailable => panic!("a share is left"),
            }
        }
        while is_admitted(&replica.admit(&running, 0, 0).await) {
            slots += 1;
        }
        let mut alone = 0;
        loop {
            match replica.admit(&money, 0, 1_000).await {
                Verdict::Admitted(grant) => {
                    replica.settle(&money, &grant.hold, 0, 1_000);
                    alone += 1_000;
                }
                Verdict::Unavailable => break,
                verdict @ Verdict::Refused { .. } => panic!("{verdict:?}"),
            }
        }
        assert!(alone > 0, "the lease holds money for calls to come");
        spent += alone;
    }
    // What was told last may be a call older for one of them, which then takes half a call less.
    assert!((20..=21).contains(&requests), "{requests}");
    assert_eq!(slots, 5);
    assert!(spent < 20_000, "a lease is a small part of a budget");
    server.restart().await;
    for replica in &replicas {
        replica.becomes("connected again", |health| health.is_up).await;
    }
    eventually("nothing was forgotten and nothing counted twice", || async {
        let used = replicas[0].store.look(&money).await.budget?.used.0;
        (used == spent).then_some(())
    })
    .await;
    let left = replicas[1].store.look(&shared).await.requests.unwrap().remaining;
    assert_eq!(left, 21 - requests, "what was admitted without Redis counts for a minute");
    let verdict = replicas[0].admit(&running, 0, 0).await;
    assert!(matches!(verdict, Verdict::Refused { .. }), "calls that still run hold their slots");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn allow_admits_and_settles_later() {
    let Some(mut server) = RedisServer::start().await else { return };
    let replicas = replicas(&server, 1, OnDown::Allow).await;
    let account = Account { requests_per_minute: Some(3), ..budget("k", 1_000) };
    server.kill();
    replicas[0].becomes("Redis away", |health| !health.is_up).await;
    for _ in 0..5 {
        let grant = granted(replicas[0].admit(&account, 0, 500).await);
        replicas[0].settle(&account, &grant.hold, 0, 400);
    }
    assert_eq!(replicas[0].store.health().untold.0, 2_000);
    server.restart().await;
    replicas[0].becomes("all is told", |health| health.is_up && health.untold.0 == 0).await;
    let standing = replicas[0].store.look(&account).await;
    assert_eq!(standing.budget.unwrap().used.0, 2_000);
    assert_eq!(standing.requests.unwrap().remaining, 0);
    assert!(!is_admitted(&replicas[0].admit(&account, 0, 1).await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_allowed_without_redis_survives_the_death_of_the_process() {
    let Some(mut server) = RedisServer::start().await else { return };
    let folder = TempDir::new().unwrap();
    let config = StoreConfig {
        kind: StoreKind::Redis,
        path: folder.path().to_owned(),
        url: Some(Secret::new(server.url())),
        on_down: OnDown::Allow,
    };
    let account = budget("k", 1_000_000);
    server.kill();
    let dying = Redis::open(&config).unwrap();
    let ask =
        |call| Ask { call: CallId(call), tokens: 0, worst: Some(NanoUsd(500)), model: "m".into() };
    for call in 0..4 {
        granted(dying.admit(&account, &ask(call), now()).await);
    }
    drop(dying);
    server.restart().await;
    for _ in 0..2 {
        let replica = Replica::start_in(TempDir::new().unwrap(), &server.url(), OnDown::Allow);
        drop(replica);
        let next = Redis::open(&config).unwrap();
        let kept = next.clone();
        let keeper = tokio::spawn(async move { kept.keep().await });
        eventually("what was promised counts, and once", || async {
            let funds = next.look(&account).await.budget?;
            (funds.used.plus(funds.reserved).0 == 2_000).then_some(())
        })
        .await;
        keeper.abort();
    }
}

/// One caller that goes on until it is over; what it spent.
async fn spend_until(
    is_over: Arc<AtomicBool>,
    replicas: Arc<Vec<Replica>>,
    account: Account,
    caller: u64,
) -> u64 {
    let (mut spent, mut turn) = (0, caller);
    while !is_over.load(Ordering::Relaxed) {
        turn += 1;
        let replica = &replicas[usize::try_from(turn % 2).unwrap()];
        let Verdict::Admitted(grant) = replica.admit(&account, 0, 1_000).await else {
            sleep(Duration::from_millis(1)).await;
            continue;
        };
        sleep(Duration::from_millis(turn % 5)).await;
        let cost = (turn * 7_919) % 1_001;
        replica.settle(&account, &grant.hold, 0, cost);
        spent += cost;
    }
    spent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_holds_while_redis_is_killed_stopped_and_started_under_load() {
    let Some(mut server) = RedisServer::start().await else { return };
    let replicas = Arc::new(replicas(&server, 2, OnDown::Local).await);
    let (account, limit) = (budget("k", 2_000_000), 2_000_000);
    let is_over = Arc::new(AtomicBool::new(false));
    let mut callers = JoinSet::new();
    for caller in 0..16_u64 {
        let (replicas, account) = (Arc::clone(&replicas), account.clone());
        let is_over = Arc::clone(&is_over);
        callers.spawn(spend_until(is_over, replicas, account, caller));
    }
    for round in 0..4 {
        sleep(Duration::from_millis(150)).await;
        if round % 2 == 0 {
            server.kill();
            sleep(Duration::from_millis(100)).await;
            server.restart().await;
        } else {
            server.pause();
            sleep(Duration::from_millis(400)).await;
            server.resume();
        }
        for replica in replicas.iter() {
            replica.becomes("connected again", |health| health.is_up).await;
        }
    }
    is_over.store(true, Ordering::Relaxed);
    let mut spent: u64 = callers.join_all().await.into_iter().sum();
    // The rest of the budget, with Redis there all the time.
    let mut refused = 0;
    while refused < 50 {
        match replicas[refused % 2].admit(&account, 0, 1_000).await {
            Verdict::Admitted(grant) => {
                replicas[refused % 2].settle(&account, &grant.hold, 0, 1_000);
                spent += 1_000;
            }
            Verdict::Refused { .. } | Verdict::Unavailable => refused += 1,
        }
    }
    assert!(spent <= limit, "{spent} of {limit}");
    assert!(spent + 2_000 > limit, "only {spent} of {limit} could be used");
    let used = replicas[0].store.look(&account).await.budget.unwrap().used.0;
    assert_eq!(used, spent, "nothing was forgotten and nothing counted twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_gateway_held_is_shown_as_spent_and_what_a_quiet_one_holds_is_not() {
    let Some(server) = RedisServer::start().await else { return };
    let mut replicas = replicas(&server, 3, OnDown::Deny).await;
    let account = budget("k", 100_000);
    let _quiet = granted(replicas[1].admit(&account, 0, 500).await);
    let dying = replicas.remove(0);
    granted(dying.admit(&account, 0, 1_000).await);
    // As `kill -9`.
    dying.keeper.abort();
    drop(dying);
    let spent = eventually("the dead one's is spent", || async {
        let used = replicas[1].store.look(&account).await.budget?.used.0;
        (used > 0).then_some(used)
    })
    .await;
    // What its call had reserved, and as much again for the next one.
    assert_eq!(spent, 2_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_with_few_rights_is_enough_and_its_password_never_told() {
    // With the rights that docs/OPERATIONS.md names, and no others.
    let rights = "+@read +@write +@scripting +@pubsub +@connection +time";
    let user = format!("cirque on >canary-5up3r ~cirque:* &cirque:wanted -@all {rights}");
    let args = |_: &std::path::Path| {
        let user = user.split(' ').map(str::to_owned);
        let others = ["--requirepass".to_owned(), "canary-0ther".to_owned()];
        ["--user".to_owned()].into_iter().chain(user).chain(others).collect()
    };
    let Some(server) = RedisServer::start_with(args).await else { return };
    let url = |password: &str| format!("redis://cirque:{password}@127.0.0.1:{}/3", server.port());
    let replica = Replica::start_in(TempDir::new().unwrap(), &url("canary-5up3r"), OnDown::Deny);
    replica.becomes("connected", |health| health.is_up).await;
    let account = all_limits("k");
    let grant = granted(replica.admit(&account, 1, 1).await);
    replica.settle(&account, &grant.hold, 1, 1);
    replica.becomes("told", |health| health.untold.0 == 0).await;
    let wrong = Replica::start_in(TempDir::new().unwrap(), &url("canary-wr0ng"), OnDown::Deny);
    wrong.becomes("refused", |health| health.trouble.is_some()).await;
    let health = wrong.store.health();
    assert_eq!(health.trouble.as_deref(), Some("the user or the password is not accepted"));
    assert!(matches!(wrong.admit(&account, 1, 1).await, Verdict::Unavailable));
    for store in [&replica.store, &wrong.store] {
        assert!(!format!("{store:?}").contains("canary"), "{store:?}");
    }
}

#[test]
fn an_address_that_cannot_be_used_is_not_quoted() {
    for url in ["http://canary:6379", "canary", "redis://", "rediss://h/#canary"] {
        let config =
            StoreConfig { url: Some(Secret::new(url.to_owned())), ..StoreConfig::default() };
        if let Err(problem) = Redis::open(&config) {
            assert!(problem.starts_with("store.url") && !problem.contains("canary"), "{problem}");
        }
    }
    let missing = Redis::open(&StoreConfig::default()).unwrap_err();
    assert!(missing.contains("missing"), "{missing}");
}
