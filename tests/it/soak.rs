//! Random faults, many callers, and books that balance afterwards: what callers saw, the access log
//! and the metrics tell the same.
//!
//! `CIRQUE_SOAK_SECONDS` says how long (default 20), `CIRQUE_SOAK_SEED` which faults; a failure
//! names its seed.

mod books;
mod caller;
mod dice;

use crate::harness::{Config, Gateway, Origin, within_time};
use books::Books;
use caller::{Caller, View};
use dice::Asked;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Callers at a time; each waits between two calls, so that other tests get their share.
const CALLERS: usize = 10;
/// Upstreams, and how the gateway talks to them.
const UPSTREAMS: [(&str, &str); 3] = [
    ("one", "http2: never"),
    ("two", "http2: always, on_disconnect: drain"),
    ("three", "http2: never, weight: 3"),
];
/// Keys by name; each caller has one of them.
const KEYS: [&str; 3] = ["app", "bot", "cron"];
/// Short, so that ejections begin and end; `idle` and `first_byte` so that silence ends.
const SETTINGS: &str = "timeouts: { first_byte: 2s, first_token: 2s, idle: 1s, total: 20s }, \
                        breaker: { failures: 15, within: 2s, eject: 1s }";

fn setting(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

/// Everything that was asked of upstreams, in order.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<Asked>>>);

async fn upstreams(seed: u64, seen: &Seen) -> Vec<Origin> {
    let mut origins = Vec::new();
    for (number, (name, _)) in UPSTREAMS.into_iter().enumerate() {
        let origin = Origin::start().await;
        origin.lists(&["acme/wisp-2-mini"]);
        let dice = Mutex::new(StdRng::seed_from_u64(seed + number as u64));
        let seen = seen.clone();
        origin.answer(move |call| {
            let asked = Asked::by(call, name);
            let reply = dice::reply(&mut dice.lock().unwrap(), &asked);
            seen.0.lock().unwrap().push(asked);
            reply
        });
        origins.push(origin);
    }
    origins
}

async fn gateway(origins: &[Origin]) -> Gateway {
    let mut config = Config::new().without_keys().route(
        "models: [\"*\"], upstreams: [one, two, three], balance: weighted, \
         retry: { attempts: 3, budget: 1.0 }",
    );
    for name in KEYS {
        config = config.key(&format!("name: {name}, secret: \"sk-soak-{name}\""));
    }
    for (origin, (name, extra)) in origins.iter().zip(UPSTREAMS) {
        config = config.upstream(name, &origin.base_url(), &format!("{SETTINGS}, {extra}"));
    }
    Gateway::start(&config).await
}

/// What the gateway's process holds.
#[derive(Debug, Clone, Copy)]
struct Held {
    files: usize,
    kib: u64,
}

impl Held {
    fn now(gateway: &Gateway) -> Self {
        let process = &gateway.process;
        Self { files: process.open_files(), kib: process.proc_status("VmRSS") }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_books_balance_after_random_faults() {
    let seconds = setting("CIRQUE_SOAK_SECONDS", 20);
    let seed = setting("CIRQUE_SOAK_SEED", 20_261_125);
    let seen = Seen::default();
    let origins = Arc::new(upstreams(seed, &seen).await);
    let gateway = Arc::new(gateway(&origins).await);
    let end = Instant::now() + Duration::from_secs(seconds);
    let warm = Instant::now() + Duration::from_secs(seconds / 4);

    let mut callers = JoinSet::new();
    for number in 0..CALLERS {
        let dice = StdRng::seed_from_u64(seed.wrapping_mul(31).wrapping_add(number as u64));
        let key = KEYS[number % KEYS.len()];
        let caller = Caller { number, key, gateway: gateway.clone(), dice };
        callers.spawn(caller.call_until(end));
    }
    let watching = tokio::spawn(watch(gateway.clone(), origins.clone(), warm, end));
    let mut views: Vec<View> = Vec::new();
    let limit = Duration::from_secs(seconds + 60);
    within_time(limit, &format!("the end of all calls, seed {seed}"), async {
        while let Some(caller) = callers.join_next().await {
            views.extend(caller.unwrap_or_else(|error| panic!("seed {seed}: {error}")));
        }
    })
    .await;
    let early = watching.await.expect("samples");

    gateway.metric_becomes("cirque_inflight_requests", &[], 0.0).await;
    gateway.metric_becomes("cirque_upstream_inflight", &[], 0.0).await;
    let seen = std::mem::take(&mut *seen.0.lock().unwrap());
    let books = Books::close(&gateway, views, &seen).await;
    let late = Held::now(&gateway);
    eprintln!("soak: {seconds} s, seed {seed}: {books}; first quarter {early:?}, end {late:?}");
    books.balance(seed);
    // Each caller may leave a connection with the gateway and one with each upstream behind.
    let may_grow = CALLERS * (1 + UPSTREAMS.len());
    assert!(late.files <= early.files + may_grow, "seed {seed}: {early:?} {late:?}");
    assert!(late.kib <= early.kib + (32 << 10), "seed {seed}: {early:?} {late:?}");
}

/// Forgets what origins keep of each call, and looks at the process once it is warm.
async fn watch(
    gateway: Arc<Gateway>,
    origins: Arc<Vec<Origin>>,
    warm: Instant,
    end: Instant,
) -> Held {
    let mut held = None;
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(100)).await;
        origins.iter().for_each(|origin| drop(origin.take_calls()));
        if Instant::now() >= warm && held.is_none() {
            held = Some(Held::now(&gateway));
        }
    }
    held.expect("a sample")
}

/// A number of milliseconds up to `most`, mostly small ones.
fn short_while(dice: &mut StdRng, most: u64) -> Duration {
    let share: f64 = dice.random();
    Duration::from_millis(most).mul_f64(share * share)
}
