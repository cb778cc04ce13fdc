//! The four ways to load a target: closed loop, fixed rate, open streams, first answer.

use crate::client::{Answer, Connection};
use crate::process::{self, Cpu};
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::task::LocalSet;
use tokio::time::{MissedTickBehavior, interval_at, sleep, sleep_until};

/// Who is loaded, with what, and whose processor time is read.
#[derive(Clone)]
pub struct Plan {
    /// The gateway, or the origin itself.
    pub target: SocketAddr,
    /// One prepared call.
    pub call: Rc<Vec<u8>>,
    /// Connections at once.
    pub connections: usize,
    /// The measured window.
    pub window: Duration,
    /// Run before the window, not counted.
    pub warm_up: Duration,
    /// The gateway's process; 0 for none.
    pub pid: u32,
}

/// What the connections counted, warm-up included.
#[derive(Default)]
struct Counters {
    calls: Cell<u64>,
    events: Cell<u64>,
    failures: Cell<u64>,
    answers: RefCell<Vec<Answer>>,
    failure: RefCell<Option<String>>,
}

impl Counters {
    fn finish(&self, result: io::Result<Answer>) -> bool {
        match result {
            Ok(answer) => {
                self.calls.set(self.calls.get() + 1);
                self.answers.borrow_mut().push(answer);
                true
            }
            Err(error) => {
                self.failures.set(self.failures.get() + 1);
                self.failure.borrow_mut().get_or_insert_with(|| error.to_string());
                false
            }
        }
    }

    fn count_events(&self, events: u64) {
        self.events.set(self.events.get() + events);
    }
}

/// The value at this share of a sorted list, in microseconds.
fn percentile(sorted: &[Duration], share: f64) -> f64 {
    let at = ((sorted.len() as f64 - 1.0) * share).round().max(0.0);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rounded, non-negative index"
    )]
    let found = sorted.get(at as usize).copied().unwrap_or_default();
    found.as_secs_f64() * 1e6
}

/// The percentiles of a list of answers, as the report reads them.
fn times(answers: &[Answer]) -> Value {
    let sorted = |of: fn(&Answer) -> Duration| {
        let mut list: Vec<_> = answers.iter().map(of).collect();
        list.sort_unstable();
        list
    };
    let (whole, first) = (sorted(|answer| answer.whole), sorted(|answer| answer.first_byte));
    json!({
        "samples": answers.len(),
        "p50_us": percentile(&whole, 0.5),
        "p99_us": percentile(&whole, 0.99),
        "first_byte_p50_us": percentile(&first, 0.5),
        "first_byte_p99_us": percentile(&first, 0.99),
    })
}

/// Every connection sends its next call as soon as the last is answered.
pub async fn closed(plan: Plan) -> io::Result<Value> {
    let counters = Rc::new(Counters::default());
    let local = LocalSet::new();
    // Begun together, paced streams would tick together: half the warm-up spreads them.
    let spread = plan.warm_up.div_f64(2.0 * plan.connections as f64);
    for nth in 0..plan.connections {
        let (plan, counters) = (plan.clone(), Rc::clone(&counters));
        local.spawn_local(async move {
            sleep(spread.mul_f64(nth as f64)).await;
            while let Ok(mut connection) = Connection::open(plan.target).await {
                let again = |events| counters.count_events(events);
                while counters.finish(connection.exchange(&plan.call, again).await) {}
            }
        });
    }
    let window = async {
        sleep(plan.warm_up).await;
        counters.answers.borrow_mut().clear();
        let before = (counters.calls.get(), counters.events.get(), Cpu::of(plan.pid));
        let started = Instant::now();
        sleep(plan.window).await;
        let seconds = started.elapsed().as_secs_f64();
        let cpu_us = Cpu::of(plan.pid).since(&before.2).as_secs_f64() * 1e6;
        let calls = (counters.calls.get() - before.0) as f64;
        let chunks = (counters.events.get() - before.1) as f64;
        // None of a kind is no figure, rather than infinity.
        let each = |count: f64| (count > 0.0 && plan.pid != 0).then(|| cpu_us / count);
        json!({
            "calls_per_second": calls / seconds,
            "chunks_per_second": chunks / seconds,
            "cpu_us_per_call": each(calls),
            "cpu_us_per_chunk": each(chunks),
            "cpu_share": cpu_us / 1e6 / seconds,
            "times": times(&counters.answers.borrow()),
        })
    };
    let figures = local.run_until(window).await;
    refuse_failures(&counters).map(|()| figures)
}

/// Calls leave at a fixed rate, whatever the answers do.
pub async fn rate(plan: Plan, per_second: f64) -> io::Result<Value> {
    let counters = Rc::new(Counters::default());
    let gap = Duration::from_secs_f64(plan.connections as f64 / per_second);
    let begin = tokio::time::Instant::now();
    let (counted_from, end) = (begin + plan.warm_up, begin + plan.warm_up + plan.window);
    let local = LocalSet::new();
    for nth in 0..plan.connections {
        let (plan, counters) = (plan.clone(), Rc::clone(&counters));
        let first = begin + gap.mul_f64(nth as f64 / plan.connections as f64);
        local.spawn_local(async move {
            let Ok(mut connection) = Connection::open(plan.target).await else { return };
            let mut ticks = interval_at(first, gap);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                let at = ticks.tick().await;
                if at >= end {
                    return;
                }
                let answer = connection.exchange(&plan.call, |_| {}).await;
                if answer.is_ok() && at < counted_from {
                    continue;
                }
                if !counters.finish(answer) {
                    return;
                }
            }
        });
    }
    let used = local.spawn_local(async move {
        sleep_until(counted_from).await;
        let before = Cpu::of(plan.pid);
        sleep_until(end).await;
        Cpu::of(plan.pid).since(&before)
    });
    local.await;
    refuse_failures(&counters)?;
    let cpu_us = used.await.map_err(io::Error::other)?.as_secs_f64() * 1e6;
    let answers = counters.answers.borrow();
    let mut figures = times(&answers);
    if plan.pid != 0 && !answers.is_empty() {
        figures["cpu_us_per_call"] = (cpu_us / answers.len() as f64).into();
    }
    Ok(figures)
}

/// Opens a stream on every connection, waits for the first event of each, reads the gateway's
/// memory, waits for the end of all, and reads it again after a window of a few `after` calls.
pub async fn hold(plan: Plan, after: &[u8]) -> io::Result<Value> {
    let idle_kib = process::resident_kib(plan.pid);
    let counters = Rc::new(Counters::default());
    let local = LocalSet::new();
    for _ in 0..plan.connections {
        let (plan, counters) = (plan.clone(), Rc::clone(&counters));
        local.spawn_local(async move {
            let answer = async {
                let mut connection = Connection::open(plan.target).await?;
                connection.exchange(&plan.call, |events| counters.count_events(events)).await
            };
            counters.finish(answer.await);
        });
    }
    let wanted = plan.connections as u64;
    let opened = local.run_until(async {
        let began = Instant::now();
        while counters.events.get() < wanted && began.elapsed() < plan.warm_up {
            sleep(Duration::from_millis(20)).await;
        }
        // What opening them needed for a moment is not what holding them costs.
        sleep(Duration::from_secs(1)).await;
        (counters.calls.get() == 0 && counters.events.get() == wanted)
            .then(|| process::resident_kib(plan.pid))
    });
    let open_kib =
        opened.await.ok_or_else(|| io::Error::other("not all streams were open at once"))?;
    local.await;
    refuse_failures(&counters)?;
    trickle(&plan, after).await?;
    Ok(json!({
        "streams": wanted,
        "idle_kib": idle_kib,
        "open_kib": open_kib,
        "after_kib": process::resident_kib(plan.pid),
        "kib_per_stream": (open_kib.saturating_sub(idle_kib)) as f64 / plan.connections as f64,
    }))
}

/// Ten calls a second for the window: allocators return memory while they are used, not in sleep.
async fn trickle(plan: &Plan, call: &[u8]) -> io::Result<()> {
    let began = Instant::now();
    let mut connection = Connection::open(plan.target).await?;
    while began.elapsed() < plan.window {
        connection.exchange(call, |_| {}).await?;
        sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// Milliseconds until the target answers a call with 200, asked again every millisecond.
pub async fn ready(plan: Plan) -> io::Result<Value> {
    let began = Instant::now();
    loop {
        let answer =
            async { Connection::open(plan.target).await?.exchange(&plan.call, |_| {}).await };
        match answer.await {
            Ok(_) => return Ok(json!({ "ready_ms": began.elapsed().as_secs_f64() * 1e3 })),
            Err(error) if began.elapsed() > plan.window => return Err(error),
            Err(_) => sleep(Duration::from_millis(1)).await,
        }
    }
}

fn refuse_failures(counters: &Counters) -> io::Result<()> {
    match counters.failure.borrow().as_deref() {
        None => Ok(()),
        Some(first) => {
            let text = format!("{} calls failed, the first with: {first}", counters.failures.get());
            Err(io::Error::other(text))
        }
    }
}
