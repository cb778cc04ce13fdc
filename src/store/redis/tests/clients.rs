//! Several replicas on the last units of each limit, all at once.

use super::*;
use crate::store::Dimension;
use std::cell::Cell;
use std::sync::Arc;
use tokio::task::JoinSet;

/// So many calls at once through all replicas in turn; how many were admitted, and how often nobody knew.
/// All others were refused by this.
async fn rush(
    replicas: &Arc<Vec<Replica>>,
    account: &Account,
    calls: usize,
    by: Dimension,
) -> (usize, usize) {
    let mut set = JoinSet::new();
    for number in 0..calls {
        let (replicas, account) = (Arc::clone(replicas), account.clone());
        set.spawn(async move { replicas[number % replicas.len()].surely(&account, 10, 100).await });
    }
    let (mut admitted, mut unknown) = (0, 0);
    for (verdict, lost) in set.join_all().await {
        unknown += lost;
        match verdict {
            Verdict::Admitted(_) => admitted += 1,
            Verdict::Refused { refusal, .. } if refusal.by == by => {}
            Verdict::Refused { .. } | Verdict::Unavailable => panic!("{verdict:?}"),
        }
    }
    (admitted, unknown)
}

async fn the_last_units_go_to_as_many_as_there_are(number: usize) {
    let Some(server) = RedisServer::start().await else { return };
    let replicas = Arc::new(replicas(&server, number, OnDown::Deny).await);
    let limits = [
        (Account { requests_per_minute: Some(17), ..Account::default() }, Dimension::Requests),
        (Account { tokens_per_minute: Some(179), ..Account::default() }, Dimension::Tokens),
        (Account { concurrent: Some(17), ..Account::default() }, Dimension::Concurrent),
        (budget("", 1_799), Dimension::Budget),
    ];
    for (account, by) in limits {
        let account = Account { key: format!("{by:?}").into(), ..account };
        let (first, unknown) = rush(&replicas, &account, 200, by).await;
        // A refusal consumes nothing and frees nothing.
        let (later, also_unknown) = rush(&replicas, &account, 20, by).await;
        let (admitted, unknown) = (first + later, unknown + also_unknown);
        assert!(admitted <= 17, "{admitted}, {by:?} with {number} replicas");
        assert!(admitted + unknown >= 17, "{admitted}, {by:?} with {number} replicas");
        assert!(later <= unknown, "{later} of {admitted}, {by:?} with {number} replicas");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_share_the_last_units_exactly() {
    the_last_units_go_to_as_many_as_there_are(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_replicas_share_the_last_units_exactly() {
    the_last_units_go_to_as_many_as_there_are(4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_ends_at_one_replica_is_free_at_another() {
    let Some(server) = RedisServer::start().await else { return };
    let replicas = replicas(&server, 2, OnDown::Deny).await;
    let account = Account { key: "k".into(), concurrent: Some(1), ..Account::default() };
    for turn in 0..20 {
        let (here, there) = (&replicas[turn % 2], &replicas[(turn + 1) % 2]);
        let grant = eventually("a free slot", || async {
            match here.admit(&account, 0, 0).await {
                Verdict::Admitted(grant) => Some(grant),
                Verdict::Refused { .. } | Verdict::Unavailable => None,
            }
        })
        .await;
        assert!(!is_admitted(&there.admit(&account, 0, 0).await), "turn {turn}");
        here.settle(&account, &grant.hold, 0, 0);
    }
}

/// One caller that goes on until it was refused again and again; what it spent.
async fn spend(replicas: Arc<Vec<Replica>>, account: Account, caller: u64, worst: u64) -> u64 {
    let (mut spent, mut refused, mut turn) = (0, 0, caller);
    while refused < 20 {
        turn += 1;
        let replica = &replicas[usize::try_from(turn % 4).unwrap()];
        let (Verdict::Admitted(grant), _) = replica.surely(&account, 0, worst).await else {
            refused += 1;
            continue;
        };
        tokio::task::yield_now().await;
        let cost = (turn * 7_919) % (worst + 1);
        replica.settle(&account, &grant.hold, 0, cost);
        spent += cost;
    }
    spent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_under_load_is_used_up_by_all_and_never_overspent() {
    let Some(server) = RedisServer::start().await else { return };
    let replicas = Arc::new(replicas(&server, 4, OnDown::Deny).await);
    // A thousand calls' worth at the worst, and each costs between nothing and its worst.
    let (account, limit, worst) = (budget("k", 1_000_000), 1_000_000, 1_000);
    let mut callers = JoinSet::new();
    for caller in 0..32_u64 {
        let (replicas, account) = (Arc::clone(&replicas), account.clone());
        callers.spawn(spend(replicas, account, caller, worst));
    }
    let mut spent: u64 = callers.join_all().await.into_iter().sum();
    let told = async |spent: u64| {
        eventually("all spend is told", || async {
            let used = replicas[0].store.look(&account).await.budget?.used.0;
            (used == spent).then_some(())
        })
        .await;
    };
    told(spent).await;
    // What the last calls of the crowd did not need came back when nobody asked any more.
    spent += spend(Arc::clone(&replicas), account.clone(), 0, worst).await;
    assert!(spent <= limit, "{spent} of {limit}");
    assert!(spent + 2 * worst > limit, "only {spent} of {limit} could be used");
    told(spent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_replica_keeps_for_calls_to_come_goes_to_who_needs_it() {
    let Some(server) = RedisServer::start().await else { return };
    let replicas = replicas(&server, 2, OnDown::Local).await;
    let account = budget("k", 100_000);
    // The first one is busy and holds a store for calls to come.
    for _ in 0..10 {
        let grant = granted(replicas[0].admit(&account, 0, 1_000).await);
        replicas[0].settle(&account, &grant.hold, 0, 1_000);
    }
    let admitted = Cell::new(0);
    eventually("the other one gets all that is left, to the last cent", || async {
        let is_admitted = is_admitted(&replicas[1].admit(&account, 0, 1_000).await);
        admitted.set(admitted.get() + u32::from(is_admitted));
        (admitted.get() == 90).then_some(())
    })
    .await;
    assert!(!is_admitted(&replicas[1].admit(&account, 0, 1_000).await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_leaves_gives_its_money_back_and_one_that_dies_does_not() {
    let Some(server) = RedisServer::start().await else { return };
    let mut replicas = replicas(&server, 3, OnDown::Local).await;
    let account = budget("k", 100_000);
    for replica in &replicas {
        let grant = granted(replica.admit(&account, 0, 1_000).await);
        replica.settle(&account, &grant.hold, 0, 10);
    }
    replicas.pop().unwrap().stop().await;
    let dead = replicas.pop().unwrap();
    let open = granted(dead.admit(&account, 0, 5_000).await);
    assert_eq!(open.hold.reserved.0, 5_000);
    dead.keeper.abort();
    // Of the living: 30 spent; of the dead: what it held, at least the call that ran.
    let mut left = 0;
    while is_admitted(&replicas[0].admit(&account, 0, 10).await) {
        left += 10;
    }
    assert!(left <= 100_000 - 30 - 5_000, "{left}");
    assert!(
        left >= 100_000 - 30 - 5_000 - 2 * 5_000,
        "{left}: a store is no more than it used lately"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_price_one_call_at_a_time_may_have_all_there_is() {
    let Some(server) = RedisServer::start().await else { return };
    let replicas = replicas(&server, 2, OnDown::Local).await;
    let account = budget("k", 1_000);
    let ask = |call| Ask { call: CallId(call), tokens: 0, worst: None, model: "m".into() };
    let first = granted(replicas[0].store.admit(&account, &ask(u64::MAX), now()).await);
    assert_eq!(first.hold.reserved.0, 1_000);
    let second = replicas[1].store.admit(&account, &ask(u64::MAX - 1), now()).await;
    assert!(!is_admitted(&second));
    replicas[0].settle(&account, &first.hold, 0, 300);
    let next = eventually("the rest comes back", || async {
        match replicas[1].store.admit(&account, &ask(u64::MAX - 2), now()).await {
            Verdict::Admitted(grant) => Some(grant),
            Verdict::Refused { .. } | Verdict::Unavailable => None,
        }
    })
    .await;
    assert_eq!(next.hold.reserved.0, 700);
}

#[tokio::test]
async fn who_has_no_limits_asks_nobody() {
    let account = Account { key: "free".into(), ..Account::default() };
    let folder = TempDir::new().unwrap();
    let replica = Replica::start_in(folder, "redis://127.0.0.1:1", OnDown::Deny);
    let grant = granted(replica.admit(&account, 5, 5).await);
    replica.settle(&account, &grant.hold, 5, 5);
    assert!(!replica.store.health().is_up);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_stays_in_redis_for_ever_but_budgets_in_all_and_its_birth() {
    let Some(server) = RedisServer::start().await else { return };
    let replicas = replicas(&server, 1, OnDown::Deny).await;
    for per in [Period::Day, Period::Month, Period::Total] {
        let account = Account {
            key: format!("{per:?}").into(),
            requests_per_minute: Some(10),
            tokens_per_minute: Some(100),
            concurrent: Some(10),
            budget: Some(Budget { limit: NanoUsd(1_000), per }),
        };
        let grant = granted(replicas[0].admit(&account, 10, 10).await);
        replicas[0].settle(&account, &grant.hold, 5, 5);
        granted(replicas[0].admit(&account, 10, 10).await);
    }
    let names = server.say("KEYS *").await.unwrap();
    let names: Vec<_> = names.lines().filter(|line| line.starts_with("cirque:")).collect();
    assert_eq!(names.len(), 2 + 3 * 4, "{names:?}");
    for name in names {
        let answer = server.say(&format!("PTTL {name}")).await.unwrap();
        let ms: i64 = answer.lines().next().unwrap().trim_start_matches(':').parse().unwrap();
        let stays = name.ends_with(":total") || name.ends_with(":birth");
        assert_eq!(ms < 0, stays, "{name}: {ms}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_that_a_budget_just_covers_is_admitted_to_the_last_unit() {
    let Some(server) = RedisServer::start().await else { return };
    let replicas = Arc::new(replicas(&server, 4, OnDown::Deny).await);
    for round in 0..20 {
        let account = budget(&format!("crowd {round}"), 100);
        let mut crowd = JoinSet::new();
        for caller in 0..100_usize {
            let (replicas, account) = (Arc::clone(&replicas), account.clone());
            crowd.spawn(async move {
                is_admitted(&replicas[caller % 4].surely(&account, 0, 1).await.0)
            });
        }
        let admitted = crowd.join_all().await.into_iter().filter(|is_admitted| *is_admitted);
        assert_eq!(admitted.count(), 100, "round {round}");
    }
}
