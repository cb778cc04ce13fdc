//! What one account, one number or one moment must not do to all others.

use super::super::keeper::clear_claims;
use super::super::link::Trouble;
use super::super::lock;
use super::*;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_spent_before_redis_was_ever_there_is_spent_today() {
    let Some(mut server) = RedisServer::start().await else { return };
    server.kill();
    let replica = Replica::start(&server, OnDown::Allow);
    for per in [Period::Day, Period::Month] {
        let budget = Some(Budget { limit: NanoUsd(1_000_000), per });
        let account = Account { key: format!("{per:?}").into(), budget, ..Account::default() };
        let grant = granted(replica.admit(&account, 0, 500).await);
        replica.settle(&account, &grant.hold, 0, 400);
        let resets_at = replica.store.peek(&account).budget.unwrap().resets_at;
        assert!(resets_at.unwrap() > SystemTime::now(), "{resets_at:?}");
    }
    server.restart().await;
    replica.becomes("all is told", |health| health.is_up && health.untold.0 == 0).await;
    let other = Replica::start(&server, OnDown::Deny);
    other.becomes("connected", |health| health.is_up).await;
    for per in [Period::Day, Period::Month] {
        let budget = Some(Budget { limit: NanoUsd(1_000_000), per });
        let account = Account { key: format!("{per:?}").into(), budget, ..Account::default() };
        assert_eq!(other.store.look(&account).await.budget.unwrap().used.0, 400, "{per:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_back_first_is_not_alone_for_that() {
    let Some(mut server) = RedisServer::start().await else { return };
    let mut replicas = replicas(&server, 2, OnDown::Local).await;
    // As after an outage longer than a beat counts, before the other one is back.
    let slow = replicas.pop().unwrap();
    slow.keeper.abort();
    let gone = format!("ZREM cirque:{{replicas}}:alive {}", slow.store.0.replica);
    server.say(&gone).await.unwrap();
    server.kill();
    replicas[0].becomes("Redis away", |health| !health.is_up).await;
    server.restart().await;
    replicas[0].becomes("connected again", |health| health.is_up).await;
    assert_eq!(replicas[0].store.health().replicas, 2);
    replicas[0].becomes("one that stays away is gone", |health| health.replicas == 1).await;
}

/// Three calls that end at once, each asked for so much later than the one before; how many were admitted.
async fn three_calls(replica: &Replica, account: &Account, apart: Duration) -> u64 {
    let ask = async |turn: u32| {
        sleep(apart * turn).await;
        replica.admit(account, 10, 0).await
    };
    let mut admitted = 0;
    for verdict in <[Verdict; 3]>::from(tokio::join!(ask(0), ask(1), ask(2))) {
        if let Verdict::Admitted(grant) = verdict {
            replica.settle(account, &grant.hold, 10, 0);
            admitted += 1;
        }
    }
    admitted
}

/// Three calls while Redis stands still, until none waits for it; whether then all that was admitted counts
/// once, and nothing else.
async fn is_counted_once(
    server: &RedisServer,
    on_down: OnDown,
    name: String,
    apart: Duration,
) -> bool {
    let mut replicas = replicas(server, 1, on_down).await;
    let account = Account {
        key: name.into(),
        concurrent: Some(4),
        requests_per_minute: Some(100),
        tokens_per_minute: Some(1_000),
        ..Account::default()
    };
    granted(replicas[0].surely(&account, 10, 0).await.0);
    server.pause();
    let admitted = three_calls(&replicas[0], &account, apart).await;
    assert_eq!(admitted, if on_down == OnDown::Local { 3 } else { 0 });
    server.resume();
    replicas[0].becomes("connected again", |health| health.is_up).await;
    let other = Replica::start(server, on_down);
    other.becomes("connected", |health| health.is_up).await;
    let deadline = Instant::now() + DEADLINE / 6;
    let is_so = loop {
        let standing = other.store.look(&account).await;
        let slots = standing.concurrent.unwrap().remaining;
        let requests = standing.requests.unwrap().remaining;
        let tokens = standing.tokens.unwrap().remaining;
        let is_so = (slots, requests, tokens) == (3, 99 - admitted, 990 - 10 * admitted);
        if is_so || Instant::now() > deadline {
            eprintln!(
                "{on_down:?}, {apart:?} apart: {slots} slots, {requests} requests, {tokens} tokens"
            );
            break is_so;
        }
        sleep(Duration::from_millis(5)).await;
    };
    other.stop().await;
    replicas.remove(0).stop().await;
    is_so
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_stood_still_counts_nothing_for_those_who_waited_no_longer() {
    let Some(server) = RedisServer::start().await else { return };
    for (on_down, apart) in [OnDown::Local, OnDown::Deny]
        .map(|on_down| [0, 40, 120].map(|ms| (on_down, Duration::from_millis(ms))))
        .as_flattened()
    {
        // A busy machine may keep one answer for longer than a call waits, and what it was about counts
        // twice for a minute then; but hardly time after time.
        let mut is_so = false;
        for turn in 0..3 {
            let name = format!("{on_down:?} {apart:?} {turn}");
            is_so = is_so || is_counted_once(&server, *on_down, name, *apart).await;
        }
        assert!(is_so, "{on_down:?}, {apart:?} apart: counted for nobody, or twice");
    }
}

#[tokio::test]
async fn a_clock_that_runs_ahead_of_redis_is_put_right() {
    let folder = TempDir::new().unwrap();
    let replica = Replica::start_in(folder, "redis://127.0.0.1:1", OnDown::Deny);
    let inner = &replica.store.0;
    let guessed = inner.when().redis_ms;
    // What is counted for a call goes by it: half a second more, and Redis counts what nobody waits for.
    let ahead = || {
        let real = guessed - 500 + i64::try_from(inner.started.elapsed().as_millis()).unwrap();
        (real, inner.when().redis_ms - real)
    };
    inner.set_clock(ahead().0);
    assert!(ahead().1 < 100, "{}", ahead().1);
    inner.set_clock(ahead().0 + 300);
    for _ in 0..1_000 {
        inner.set_clock(ahead().0);
    }
    assert!(ahead().1 < 100, "{}", ahead().1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_to_write_a_claim_keeps_nobody_from_the_books() {
    let folder = TempDir::new().unwrap();
    let config = StoreConfig {
        kind: StoreKind::Redis,
        path: folder.path().to_owned(),
        // Nobody connects.
        url: Some(Secret::new("redis://127.0.0.1:1".to_owned())),
        on_down: OnDown::Allow,
    };
    let store = Redis::open(&config).unwrap();
    let account = budget("k", 1_000);
    let entry = store.0.entry(&account.key);
    // As the keeper does before it looks into everyone's books.
    let inner = Arc::clone(&store.0);
    let held = lock(&inner.claims);
    let (asking, asked) = (store.clone(), account.clone());
    let call = std::thread::spawn(move || {
        let ask = Ask { call: CallId(1), tokens: 0, worst: Some(NanoUsd(500)), model: "m".into() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        is_admitted(&runtime.block_on(asking.admit(&asked, &ask, now())))
    });
    let deadline = Instant::now() + DEADLINE;
    while entry.books.try_lock().map_or(true, |books| books.running.is_empty()) {
        assert!(Instant::now() < deadline, "the books are held while the claims are waited for");
        std::thread::yield_now();
    }
    drop(held);
    assert!(call.join().unwrap());
    lock(&store.0.claims).are_told(true);
    clear_claims(&store.0);
    assert_eq!(lock(&store.0.claims).all().unwrap().len(), 1, "Redis does not know the promise");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promises_that_cannot_be_read_are_not_thrown_away() {
    let Some(server) = RedisServer::start().await else { return };
    let folder = TempDir::new().unwrap();
    std::fs::create_dir(folder.path().join("redis-promises")).unwrap();
    let replica = Replica::start_in(folder, &server.url(), OnDown::Allow);
    replica.becomes("connected", |health| health.is_up).await;
    assert!(!lock(&replica.store.0.claims).can_be_cleared());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promises_of_a_long_outage_stay_short() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("redis-promises");
    let length = || std::fs::metadata(&path).map_or(0, |file| file.len());
    let replica = Replica::start_in(folder, "redis://127.0.0.1:1", OnDown::Allow);
    let (account, mut promised) = (budget("k", 1_000), 0);
    for _ in 0..2 {
        while length() <= 1 << 20 {
            granted(replica.admit(&account, 0, 500).await);
            promised += 500;
        }
        eventually("written anew", || async { (length() < 1 << 19).then_some(()) }).await;
    }
    let all = lock(&replica.store.0.claims).all().unwrap();
    assert_eq!(all.iter().map(|claim| claim.given).collect::<Vec<_>>(), [promised]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_broke_at_the_end_keeps_nothing_from_being_told() {
    let Some(server) = RedisServer::start().await else { return };
    let replicas = replicas(&server, 2, OnDown::Local).await;
    let account = budget("k", 100_000);
    let grant = granted(replicas[0].admit(&account, 0, 5_000).await);
    replicas[0].keeper.abort();
    let inner = &replicas[0].store.0;
    let live = inner.link.live().unwrap();
    inner.link.give_up(&live, Trouble::TimedOut, inner.when().here);
    replicas[0].settle(&account, &grant.hold, 0, 70);
    replicas[0].store.leave().await;
    let funds = replicas[1].store.look(&account).await.budget.unwrap();
    assert_eq!((funds.used.0, funds.reserved.0), (70, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_foreign_under_one_keys_names_is_the_trouble_of_that_key_alone() {
    let Some(mut server) = RedisServer::start().await else { return };
    let replicas = replicas(&server, 1, OnDown::Deny).await;
    let (spoilt, other) = (all_limits("spoilt"), all_limits("other"));
    granted(replicas[0].admit(&spoilt, 10, 100).await);
    let entry = replicas[0].store.0.entry(&spoilt.key);
    let (tag, record) = {
        let books = lock(&entry.books);
        (books.tag().to_owned(), books.lease.as_ref().unwrap().record.to_string())
    };
    let name = |end: &str| format!("cirque:{{{tag}}}:{end}");
    let (requests, budget) = (name("requests"), name("budget:total"));
    let mut spoils = ["running", "requests", "tokens", "budget:total"]
        .map(|end| (format!("SET {} x", name(end)), format!("DEL {}", name(end))))
        .to_vec();
    // Without `head`, or the slot of now would be forgotten first.
    let slots = (0..241).fold(String::new(), |slots, slot| slots + &format!(" {slot} x"));
    spoils.push((format!("DEL {requests}\r\nHSET {requests}{slots}"), format!("DEL {requests}")));
    spoils.push((format!("HSET {budget} {record} x"), format!("HDEL {budget} {record}")));
    let since = replicas[0].store.0.link.condition().since;
    for (spoil, mend) in &spoils {
        server.say(spoil).await.unwrap();
        for _ in 0..3 {
            let verdict = replicas[0].admit(&spoilt, 10, 100).await;
            assert!(matches!(verdict, Verdict::Unavailable), "{spoil}: {verdict:?}");
            granted(replicas[0].admit(&other, 10, 100).await);
        }
        server.say(mend).await.unwrap();
        granted(replicas[0].admit(&spoilt, 10, 100).await);
    }
    assert_eq!(replicas[0].store.0.link.condition().since, since, "the connection was kept");
    server.say(&format!("SET {budget} x")).await.unwrap();
    server.kill();
    replicas[0].becomes("Redis away", |health| !health.is_up).await;
    server.restart().await;
    replicas[0].becomes("connected again", |health| health.is_up).await;
    granted(replicas[0].admit(&other, 10, 100).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_usage_beyond_all_numbers_is_told_like_any_other() {
    let Some(server) = RedisServer::start().await else { return };
    let replicas = replicas(&server, 1, OnDown::Deny).await;
    let account = Account { tokens_per_minute: Some(100), ..budget("k", 1_000_000) };
    let since = replicas[0].store.0.link.condition().since;
    for tokens in [u64::MAX, 0] {
        let account = Account { key: format!("{tokens}").into(), ..account.clone() };
        let grant = granted(replicas[0].admit(&account, 10, 100).await);
        replicas[0].settle(&account, &grant.hold, tokens, 70);
        replicas[0].becomes("told", |health| health.untold.0 == 0).await;
        let is_refused = !is_admitted(&replicas[0].admit(&account, 1, 1).await);
        assert_eq!(is_refused, tokens > 0);
    }
    assert_eq!(replicas[0].store.0.link.condition().since, since, "the connection was kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_never_rests_keeps_no_other_waiting_and_no_connection_from_coming_up() {
    let Some(mut server) = RedisServer::start().await else { return };
    let replicas = replicas(&server, 2, OnDown::Allow).await;
    let (busy, other) = (all_limits("busy"), budget("other", 1_000_000));
    let grant = granted(replicas[0].admit(&busy, 1, 1).await);
    replicas[0].settle(&busy, &grant.hold, 1, 1);
    let is_over = Arc::new(AtomicBool::new(false));
    let (over, store, name) = (Arc::clone(&is_over), replicas[0].store.clone(), busy.key.clone());
    let calls = std::thread::spawn(move || {
        let entry = store.0.entry(&name);
        let mut call = 1 << 32;
        while !over.load(Ordering::Relaxed) {
            call += 1;
            lock(&entry.books).abandon(call);
            store.0.tell(&entry);
            std::thread::yield_now();
        }
    });
    for spent in [400, 800] {
        let grant = granted(replicas[0].admit(&other, 0, 500).await);
        replicas[0].settle(&other, &grant.hold, 0, 400);
        eventually("the other key is told of", || async {
            let used = replicas[1].store.look(&other).await.budget?.used.0;
            (used == spent).then_some(())
        })
        .await;
        server.kill();
        replicas[0].becomes("Redis away", |health| !health.is_up).await;
        server.restart().await;
        replicas[0].becomes("connected again", |health| health.is_up).await;
        replicas[1].becomes("connected again", |health| health.is_up).await;
    }
    is_over.store(true, Ordering::Relaxed);
    calls.join().unwrap();
    let entry = replicas[0].store.0.entry(&busy.key);
    eventually("what was left is told without a further word", || async {
        lock(&entry.books).ended.is_empty().then_some(())
    })
    .await;
}
