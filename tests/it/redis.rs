//! Several gateways with one Redis: limits and budgets hold over all of them, whatever happens to it.

use crate::harness::{
    Authority, Config, Gate, Gateway, KEY, Origin, RedisServer, Reply, Request, Response,
    assert_openai_error, chat, chat_stream, eventually,
};
use serde_json::{Value, json};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::sleep;

const CHAT: &str = "/v1/chat/completions";
/// 1 $ a million tokens in, 10 $ a million out.
const PRICES: &str = "prices: { \"acme/*\": { input_per_million: 1, output_per_million: 10 } }";
/// Well over what a call may wait for Redis, far under any other timer.
const AT_ONCE: Duration = Duration::from_millis(1_500);

fn config(origin: &Origin, url: &str, on_down: &str, key: &str) -> Config {
    let key = format!("name: tester, secret: \"{KEY}\", {key}");
    let store = format!("store: {{ kind: redis, url: \"{url}\", on_down: {on_down} }}");
    Config::to(origin).without_keys().key(&key).section(PRICES).section(&store)
}

/// Gateways that know of each other.
async fn gateways(number: usize, config: &Config) -> Arc<Vec<Gateway>> {
    let mut gateways = Vec::new();
    for _ in 0..number {
        gateways.push(Gateway::start(config).await);
    }
    for gateway in &gateways {
        let all = |store: &Value| store["state"] == "up" && store["replicas"] == number;
        store_becomes(gateway, "all gateways alive", all).await;
    }
    Arc::new(gateways)
}

async fn store_becomes(gateway: &Gateway, what: &str, is_so: impl Fn(&Value) -> bool) {
    eventually(what, || async { is_so(&gateway.status().await["store"]).then_some(()) }).await;
}

/// A call with at most a hundred tokens of output: about 0.00104 $ at the worst.
fn call() -> Value {
    let mut body = chat();
    body["max_tokens"] = json!(100);
    body
}

/// What became of a crowd's calls.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Rush {
    passed: usize,
    refused: usize,
    /// How often nobody knew: a busy machine may keep Redis' answer for longer than a call waits, and Redis may
    /// have counted it. Such a call comes again.
    unknown: usize,
}

/// A call that is admitted or refused, and how often before an answer of Redis came too late.
async fn decided(gateway: &Gateway) -> (Response, usize) {
    let mut unknown = 0;
    loop {
        let reply = gateway.post(CHAT, &call()).await;
        if reply.status != 503 {
            return (reply, unknown);
        }
        unknown += 1;
        store_becomes(gateway, "up again", |store| store["state"] == "up").await;
    }
}

/// So many calls at once over all gateways in turn.
async fn rush(gateways: &Arc<Vec<Gateway>>, calls: usize) -> Rush {
    let mut set = JoinSet::new();
    for number in 0..calls {
        let gateways = Arc::clone(gateways);
        set.spawn(async move {
            let (reply, unknown) = decided(&gateways[number % gateways.len()]).await;
            (reply.status, unknown)
        });
    }
    let mut rush = Rush::default();
    for (status, unknown) in set.join_all().await {
        rush.unknown += unknown;
        match status {
            200 => rush.passed += 1,
            429 => rush.refused += 1,
            _ => panic!("status {status}"),
        }
    }
    rush
}

#[expect(clippy::cast_precision_loss, reason = "a few hundred calls")]
fn cost_of(calls: usize, usd: f64) -> f64 {
    calls as f64 * usd
}

async fn share_a_limit(number: usize) {
    let Some(redis) = RedisServer::start().await else { return };
    let origin = Origin::start().await;
    origin.always(Reply::costing(0.001));
    let key = "limits: { requests_per_minute: 23 }";
    let gateways = gateways(number, &config(&origin, &redis.url(), "deny", key)).await;
    let rush = rush(&gateways, 150).await;
    assert!(rush.passed <= 23 && rush.passed + rush.unknown >= 23, "{rush:?}");
    assert_eq!(origin.calls().len(), rush.passed);
    let (refused, _) = decided(&gateways[0]).await;
    assert_openai_error(&refused, 429, "rate_limit_exceeded");
    let after: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=61).contains(&after), "{after}");
    for gateway in gateways.iter() {
        let limits = &gateway.status().await["you"]["limits"]["requests_per_minute"];
        assert_eq!((limits["limit"].as_u64(), limits["remaining"].as_u64()), (Some(23), Some(0)));
    }
}

#[tokio::test]
async fn two_gateways_share_a_limit_exactly() {
    share_a_limit(2).await;
}

#[tokio::test]
async fn four_gateways_share_a_limit_exactly() {
    share_a_limit(4).await;
}

#[tokio::test]
async fn two_gateways_share_slots() {
    let Some(redis) = RedisServer::start().await else { return };
    let origin = Origin::start().await;
    let gate = Gate::new();
    origin.always(Reply::costing(0.001).after(&gate));
    let key = "limits: { concurrent: 5 }";
    let gateways = gateways(2, &config(&origin, &redis.url(), "deny", key)).await;
    let crowd = tokio::spawn({
        let gateways = Arc::clone(&gateways);
        async move { rush(&gateways, 60).await }
    });
    eventually("the crowd is through", || async {
        let mut refused = 0.0;
        for gateway in gateways.iter() {
            let code = [("code", "rate_limit_exceeded")];
            refused += gateway.metric("cirque_rejections_total", &code).await.unwrap_or_default();
        }
        (refused + cost_of(origin.calls().len(), 1.0) > 59.5).then_some(())
    })
    .await;
    gate.open();
    let rush = crowd.await.unwrap();
    // A slot whose answer came too late is held until Redis is told.
    assert!(rush.passed <= 5 && rush.passed + rush.unknown >= 5, "{rush:?}");
    assert_eq!((rush.passed + rush.refused, origin.calls().len()), (60, rush.passed));
    eventually("the slots come back", || async {
        (gateways[1].post(CHAT, &call()).await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn four_gateways_never_overspend_a_budget_and_use_all_of_it() {
    let Some(redis) = RedisServer::start().await else { return };
    let origin = Origin::start().await;
    origin.always(Reply::costing(0.0007));
    let key = "budget: { usd: 0.05, per: total }";
    let gateways = gateways(4, &config(&origin, &redis.url(), "deny", key)).await;
    let mut passed = 0;
    // What one of them keeps for calls to come it gives back in its time.
    for _ in 0..100 {
        // Less is left than a call may cost at the worst.
        if cost_of(passed, 0.0007) > 0.05 - 0.0011 {
            break;
        }
        passed += rush(&gateways, 80).await.passed;
        assert!(cost_of(passed, 0.0007) <= 0.05, "{passed} calls");
    }
    assert!(cost_of(passed, 0.0007) > 0.05 - 0.0011, "{passed} calls");
    assert_eq!(rush(&gateways, 80).await.passed, 0);
    assert_eq!(origin.calls().len(), passed);
    for gateway in gateways.iter() {
        gateway.used_becomes(cost_of(passed, 0.0007)).await;
        assert_openai_error(&decided(gateway).await.0, 429, "insufficient_quota");
    }
}

#[tokio::test]
async fn a_killed_gateway_loses_no_spend_and_one_that_ends_holds_none() {
    let Some(redis) = RedisServer::start().await else { return };
    let origin = Origin::start().await;
    origin.always(Reply::costing(0.001));
    let key = "budget: { usd: 1, per: month }";
    let config = config(&origin, &redis.url(), "local", key);
    let (first, second) = (Gateway::start(&config).await, Gateway::start(&config).await);
    for gateway in [&first, &second] {
        store_becomes(gateway, "up", |store| store["state"] == "up").await;
        gateway.post(CHAT, &call()).await.assert_ok();
    }
    second.used_becomes(0.002).await;
    first.process.signal("TERM");
    assert_eq!(first.process.exit_code().await, 0);
    let left = async |gateway: &Gateway| {
        let budget = &gateway.status().await["you"]["budget"];
        budget["remaining_usd"].as_f64().unwrap()
    };
    // What the second one holds for calls to come is a call's worth.
    eventually("the first has returned what it held", || async {
        (left(&second).await > 1.0 - 0.002 - 0.0011).then_some(())
    })
    .await;
    let third = Gateway::start(&config).await;
    store_becomes(&third, "up", |store| store["state"] == "up").await;
    let never = Gate::new();
    origin.always(Reply::costing(0.001).after(&never));
    let open = third.client().await;
    let running = tokio::spawn(async move {
        let mut open = open;
        open.call(&Request::post(CHAT, &call())).await.status
    });
    eventually("the call is at the origin", || async { (origin.calls().len() == 3).then_some(()) })
        .await;
    third.process.signal("KILL");
    third.process.exit_code().await;
    running.abort();
    eventually("what the running call had reserved counts", || async {
        (left(&second).await < 1.0 - 0.002 - 0.001).then_some(())
    })
    .await;
    second.used_becomes(0.002).await;
}

#[tokio::test]
async fn a_call_that_a_drain_cuts_leaves_no_reservation_behind() {
    let Some(redis) = RedisServer::start().await else { return };
    let origin = Origin::start().await;
    let key = "budget: { usd: 1, per: month }, limits: { concurrent: 2 }";
    let config = config(&origin, &redis.url(), "local", key).server("drain: 300ms");
    let gateways = gateways(2, &config).await;
    let (first, second) = (&gateways[0], &gateways[1]);
    let token = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n";
    origin.next(Reply::stream().piece(token).hang());
    let mut client = first.client().await;
    let mut stream = chat_stream();
    // Half a dollar is reserved.
    stream["max_tokens"] = json!(50_000);
    client.open(&Request::post(CHAT, &stream)).await;
    client.read_until(token).await;
    let you = async || second.status().await["you"].clone();
    let left = |you: &Value| you["budget"]["remaining_usd"].as_f64().unwrap();
    eventually("the reservation counts", || async { (left(&you().await) < 0.51).then_some(()) })
        .await;
    first.process.signal("TERM");
    assert_eq!(first.process.exit_code().await, 0);
    eventually("it cost a token and holds no more", || async {
        let after = you().await;
        let has_slots = after["limits"]["concurrent"]["remaining"] == 2;
        (has_slots && left(&after) > 0.999 && left(&after) < 1.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn deny_refuses_at_once_while_redis_hangs_and_serves_again_by_itself() {
    let Some(redis) = RedisServer::start().await else { return };
    let origin = Origin::start().await;
    origin.always(Reply::costing(0.001));
    let key = "limits: { requests_per_minute: 1000 }";
    let config = config(&origin, &redis.url(), "deny", key)
        .key("name: free, secret: \"sk-free-canary-0123456789\"");
    let gateways = gateways(1, &config).await;
    decided(&gateways[0]).await.0.assert_ok();
    redis.pause();
    for _ in 0..3 {
        let begun = Instant::now();
        let refused = gateways[0].post(CHAT, &call()).await;
        assert_openai_error(&refused, 503, "limits_unavailable");
        assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    }
    let free = Request::post(CHAT, &call()).anonymous();
    let free = free.header("authorization", "Bearer sk-free-canary-0123456789");
    gateways[0].call(&free).await.assert_ok();
    store_becomes(&gateways[0], "down", |store| store["state"] == "down").await;
    redis.resume();
    store_becomes(&gateways[0], "up", |store| store["state"] == "up").await;
    decided(&gateways[0]).await.0.assert_ok();
    for what in ["the shared store is away; `store.on_down` decides", "the shared store is back"] {
        let is_it = |line: &Value| line["message"] == what && line["level"] == "warn";
        gateways[0].process.stderr.json_where(what, is_it).await;
    }
}

#[tokio::test]
async fn allow_lets_pass_and_charges_later() {
    let Some(mut redis) = RedisServer::start().await else { return };
    let origin = Origin::start().await;
    origin.always(Reply::costing(0.001));
    let key = "budget: { usd: 0.003, per: total }";
    let gateways = gateways(1, &config(&origin, &redis.url(), "allow", key)).await;
    redis.kill();
    store_becomes(&gateways[0], "down", |store| store["state"] == "down").await;
    for _ in 0..6 {
        gateways[0].post(CHAT, &call()).await.assert_ok();
    }
    redis.restart().await;
    store_becomes(&gateways[0], "up", |store| store["state"] == "up").await;
    gateways[0].used_becomes(0.006).await;
    // An answer that comes too late lets one more pass.
    let refused = eventually("a refusal", || async {
        let reply = gateways[0].post(CHAT, &call()).await;
        (reply.status != 200).then_some(reply)
    })
    .await;
    assert_openai_error(&refused, 429, "insufficient_quota");
}

#[tokio::test]
async fn a_budget_holds_while_redis_is_killed_and_stopped_under_load() {
    let Some(mut redis) = RedisServer::start().await else { return };
    let origin = Origin::start().await;
    origin.always(Reply::costing(0.0007));
    let key = "budget: { usd: 0.4, per: total }";
    let gateways = gateways(2, &config(&origin, &redis.url(), "local", key)).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let mut callers = JoinSet::new();
    for caller in 0..6 {
        let (gateways, is_over) = (Arc::clone(&gateways), Arc::clone(&is_over));
        callers.spawn(async move {
            let mut passed = 0;
            while !is_over.load(Ordering::Relaxed) {
                let reply = gateways[caller % 2].post(CHAT, &call()).await;
                assert!([200, 429, 503].contains(&reply.status), "{}", reply.status);
                passed += usize::from(reply.status == 200);
                // So seldom that the budget lasts to the end.
                sleep(Duration::from_millis(50)).await;
            }
            passed
        });
    }
    for round in 0..4 {
        let before = origin.calls().len();
        eventually("load", || async { (origin.calls().len() > before + 10).then_some(()) }).await;
        if round % 2 == 0 {
            redis.kill();
        } else {
            redis.pause();
        }
        for gateway in gateways.iter() {
            store_becomes(gateway, "down", |store| store["state"] == "down").await;
        }
        if round % 2 == 0 {
            redis.restart().await;
        } else {
            redis.resume();
        }
        for gateway in gateways.iter() {
            store_becomes(gateway, "up", |store| store["state"] == "up").await;
        }
    }
    is_over.store(true, Ordering::Relaxed);
    let passed = Cell::new(callers.join_all().await.into_iter().sum::<usize>());
    // What the one holds for calls to come reaches the other an instant after it was asked for.
    eventually("the last units are used", || async {
        passed.set(passed.get() + rush(&gateways, 40).await.passed);
        (cost_of(passed.get(), 0.0007) > 0.4 - 0.0011).then_some(())
    })
    .await;
    let passed = passed.get();
    assert!(cost_of(passed, 0.0007) <= 0.4, "{passed} calls");
    gateways[0].used_becomes(cost_of(passed, 0.0007)).await;
}

#[tokio::test]
async fn redis_with_tls_and_a_password_is_trusted_and_the_password_told_to_nobody() {
    const PASSWORD: &str = "canary-r3d1s-5up3r";
    let authority = Authority::new();
    let Some(redis) = RedisServer::start_with(|folder| {
        let (cert, key) = authority.write_pair(folder, "localhost");
        let ca = authority.write_ca(folder);
        let text = |path: std::path::PathBuf| path.to_string_lossy().into_owned();
        let args = [
            ("--tls-port", "0".to_owned()),
            ("--tls-cert-file", text(cert)),
            ("--tls-key-file", text(key)),
            ("--tls-ca-cert-file", text(ca)),
            ("--tls-auth-clients", "no".to_owned()),
            ("--requirepass", PASSWORD.to_owned()),
        ];
        args.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect()
    })
    .await
    else {
        return;
    };
    let origin = Origin::start().await;
    origin.always(Reply::costing(0.001));
    let url = format!("rediss://default:{PASSWORD}@localhost:{}/2", redis.port());
    let config = config(&origin, &url, "deny", "budget: { usd: 1, per: day }");
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("gateway.yaml"), config.text()).unwrap();
    let roots = authority.write_ca(folder.path()).to_string_lossy().into_owned();
    let env = [("SSL_CERT_FILE", roots.as_str())];
    let gateway = Gateway::launch(&["run", "-c", "gateway.yaml"], &env, folder).await;
    store_becomes(&gateway, "up", |store| store["state"] == "up").await;
    decided(&gateway).await.0.assert_ok();
    gateway.used_becomes(0.001).await;
    // Whoever does not know the authority does not talk to it.
    let stranger = Gateway::start(&config).await;
    store_becomes(&stranger, "not trusted", |store| store["last_error"].is_string()).await;
    assert_openai_error(&stranger.post(CHAT, &call()).await, 503, "limits_unavailable");
    for gateway in [&gateway, &stranger] {
        let shown = [
            gateway.status().await.to_string(),
            gateway.admin_get("/config").await.text(),
            gateway.metrics().await,
            gateway.process.output(),
        ];
        assert!(shown.iter().all(|text| !text.contains(PASSWORD)), "{shown:?}");
    }
}

#[tokio::test]
async fn who_has_no_key_leaves_no_trace_in_redis() {
    let Some(redis) = RedisServer::start().await else { return };
    let origin = Origin::start().await;
    origin.always(Reply::costing(0.001));
    let key = "limits: { requests_per_minute: 1000 }";
    let gateways = gateways(1, &config(&origin, &redis.url(), "deny", key)).await;
    decided(&gateways[0]).await.0.assert_ok();
    let keys = || async { redis.say("DBSIZE").await.unwrap() };
    let before = keys().await;
    for number in 0..30 {
        let request = Request::post(CHAT, &call()).anonymous();
        let request = request.header("authorization", &format!("Bearer x}} *{number}\" FLUSHALL"));
        assert_eq!(gateways[0].call(&request).await.status, 401);
    }
    assert_eq!(keys().await, before);
    let names = redis.say("KEYS *").await.unwrap();
    assert!(!names.contains("tester") && !names.contains(KEY), "{names}");
}
