//! Traces reach Langfuse: each once, whatever happens on the way, and no call ever waits for it.

use crate::harness::{
    Config, Framing, Gate, Gateway, Langfuse, Origin, RefusedPort, Reply, Request, chat, cirque,
    eventually, serving, span_ids,
};
use cirque::telemetry::delivery::spool::pack::unpack;
use cirque::telemetry::delivery::spool::record::{Step, step};
use serde_json::{Value, json};
use std::cell::Cell;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const CHAT: &str = "/v1/chat/completions";

async fn started() -> (Origin, Langfuse, Gateway) {
    let (origin, langfuse) = (Origin::start().await, Langfuse::start().await);
    let gateway = Gateway::start(&Config::to(&origin).section(&langfuse.section(""))).await;
    (origin, langfuse, gateway)
}

/// A gateway whose Langfuse is away, until somebody listens at the port.
async fn started_without() -> (Origin, RefusedPort, Config, Gateway) {
    let (origin, port) = (Origin::start().await, RefusedPort::take());
    let section = Langfuse::section_for(&format!("http://{}", port.address()), "");
    let config = Config::to(&origin).section(&section);
    let gateway = Gateway::start(&config).await;
    (origin, port, config, gateway)
}

/// One call that joins this trace.
async fn call_in(gateway: &Gateway, trace: u32) {
    let traceparent = format!("00-{trace:032x}-00000000000000a1-01");
    let request = Request::post(CHAT, &chat()).header("traceparent", &traceparent);
    gateway.call(&request).await.assert_ok();
}

fn trace_id(trace: u32) -> String {
    format!("{trace:032x}")
}

/// The only segment in a spool folder.
fn segment(folder: &Path) -> PathBuf {
    let files = std::fs::read_dir(folder).expect("a spool").map(|entry| entry.unwrap().path());
    let is_segment =
        |path: &PathBuf| path.extension().is_some_and(|end| end == "open" || end == "spool");
    let mut found: Vec<_> = files.filter(is_segment).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

/// Where the record with this trace stands in a segment.
fn record_of(segment: &[u8], trace: u32) -> Range<usize> {
    let mut at = 0;
    while let Step::Record(record, taken) = step(&segment[at..], (segment.len() - at) as u64) {
        let plain = unpack(record.body, record.head.contents).expect("traces");
        if memchr::memmem::find(&plain, trace_id(trace).as_bytes()).is_some() {
            return at..at + taken;
        }
        at += taken;
    }
    panic!("no record with trace {trace}");
}

/// Replaces the configuration and applies it.
async fn reload(gateway: &Gateway, config: &Config) {
    gateway.rewrite(&config.text());
    gateway.admin_call("POST", "/reload").await.assert_ok();
}

/// Makes so many calls over a few connections, one after the other on each.
async fn calls(gateway: &Gateway, count: usize) {
    const CONNECTIONS: usize = 8;
    let connection = |number: usize| async move {
        let mut client = gateway.client().await;
        for _ in (number..count).step_by(CONNECTIONS) {
            client.call(&Request::post(CHAT, &chat())).await.assert_ok();
        }
    };
    let all: Vec<_> = (0..CONNECTIONS).map(connection).collect();
    all_of(all).await;
}

/// Awaits all of them at once, on this task.
async fn all_of(all: Vec<impl Future<Output = ()>>) {
    let mut all: Vec<_> = all.into_iter().map(Box::pin).map(Some).collect();
    std::future::poll_fn(|context| {
        for one in &mut all {
            if one.as_mut().is_some_and(|future| future.as_mut().poll(context).is_ready()) {
                *one = None;
            }
        }
        if all.iter().all(Option::is_none) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
}

/// Waits until `/status` says so of Langfuse.
async fn told(gateway: &Gateway, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    eventually(what, || async {
        let status = gateway.status().await["langfuse"].clone();
        wanted(&status).then_some(status)
    })
    .await
}

/// Waits until so many traces are in the spool: at most 200 ms on an idle machine.
async fn spooled(gateway: &Gateway, count: usize) {
    let (labels, count) = ([("outcome", "spooled")], u32::try_from(count).expect("a few"));
    gateway.metric_becomes("cirque_langfuse_traces_total", &labels, f64::from(count)).await;
}

#[tokio::test]
async fn calls_are_delivered_and_told() {
    let (_origin, langfuse, gateway) = started().await;
    calls(&gateway, 25).await;
    langfuse.has(25).await;
    let status = told(&gateway, "an empty backlog", |status| status["backlog"] == 0).await;
    assert_eq!(
        (&status["state"], &status["sent"], &status["dropped"], &status["lag_seconds"]),
        (&json!("ok"), &json!(25), &json!(0), &Value::Null),
        "{status}"
    );
    for (outcome, count) in [("sent", 25.0), ("spooled", 25.0), ("dropped", 0.0), ("retried", 0.0)]
    {
        gateway
            .metric_becomes("cirque_langfuse_traces_total", &[("outcome", outcome)], count)
            .await;
    }
    gateway.metric_becomes("cirque_langfuse_backlog", &[], 0.0).await;
}

/// By how many bytes the process grows over these calls, once it has made a few.
async fn growth(gateway: &Gateway, count: usize) -> u64 {
    const FIRST: usize = 100;
    calls(gateway, FIRST).await;
    let before = gateway.process.resident_bytes();
    calls(gateway, count - FIRST).await;
    gateway.process.resident_bytes().saturating_sub(before)
}

#[tokio::test]
async fn ten_thousand_calls_around_a_crash_wait_for_a_langfuse_that_is_away() {
    const CALLS: usize = 10_000;
    const MOST_GROWTH: u64 = 32 << 20;
    let (_origin, port, config, gateway) = started_without().await;
    let grown = growth(&gateway, CALLS / 2).await;
    assert!(grown < MOST_GROWTH, "memory has grown by {grown} bytes");
    spooled(&gateway, CALLS / 2).await;
    let gateway = Gateway::start_in(gateway.process.kill(), &config).await;
    told(&gateway, "the backlog of before", |s| s["backlog"] == CALLS / 2).await;
    let grown = growth(&gateway, CALLS / 2).await;
    assert!(grown < MOST_GROWTH, "memory has grown by {grown} bytes");
    let status = told(&gateway, "all of them in the backlog", |s| s["backlog"] == CALLS).await;
    assert_eq!((&status["state"], &status["dropped"]), (&json!("retrying"), &json!(0)));
    assert_eq!(status["last_error"]["what"], "no connection");
    assert!(status["lag_seconds"].as_f64().is_some_and(|lag| lag > 0.1), "{status}");

    let langfuse = Langfuse::at(port);
    langfuse.has(CALLS).await;
    told(&gateway, "an empty backlog", |s| s["backlog"] == 0 && s["state"] == "ok").await;
    langfuse.assert_sound();
}

#[tokio::test]
async fn two_exports_at_most_are_under_way() {
    const EXPORTS: usize = 6;
    // Each has 512 at least, and whole records.
    const CALLS: usize = EXPORTS * 640;
    let (_origin, port, config, gateway) = started_without().await;
    calls(&gateway, CALLS).await;
    told(&gateway, "the backlog", |status| status["backlog"] == CALLS).await;
    let folder = gateway.process.kill();
    let (langfuse, gates) = (Langfuse::at(port), [(); EXPORTS].map(|()| Gate::new()));
    for gate in &gates {
        langfuse.next_accepted(Reply::json(200, &json!({})).after(gate));
    }
    let gateway = Gateway::start_in(folder, &config).await;
    for (done, gate) in gates.iter().enumerate() {
        let least = EXPORTS.min(done + 2);
        let has_come = || async { (langfuse.arrived() >= least).then_some(()) };
        eventually(&format!("export {least}"), has_come).await;
        // A third would be there by now.
        for _ in 0..5 {
            gateway.status().await;
        }
        assert!(langfuse.arrived() <= done + 2);
        gate.open();
    }
    langfuse.has(CALLS).await;
}

#[tokio::test]
async fn killing_the_process_loses_nothing_that_finished_a_moment_before() {
    let (_origin, port, config, gateway) = started_without().await;
    calls(&gateway, 300).await;
    spooled(&gateway, 300).await;
    let folder = gateway.process.kill();
    let gateway = Gateway::start_in(folder, &config).await;
    told(&gateway, "the backlog of before", |status| status["backlog"] == 300).await;
    calls(&gateway, 5).await;
    Langfuse::at(port).has(305).await;
}

#[tokio::test]
async fn killing_the_process_while_it_delivers_repeats_at_most_what_was_under_way() {
    const CALLS: usize = 3_000;
    let (_origin, port, config, gateway) = started_without().await;
    calls(&gateway, CALLS).await;
    told(&gateway, "the backlog", |status| status["backlog"] == CALLS).await;
    let langfuse = Langfuse::at(port);
    eventually("a first delivery", || async { (!langfuse.traces().is_empty()).then_some(()) })
        .await;
    let gateway = Gateway::start_in(gateway.process.kill(), &config).await;
    told(&gateway, "nothing left", |status| status["backlog"] == 0).await;
    assert_eq!(langfuse.traces().len(), CALLS);
    // Two exports of 512 and a record.
    assert!(langfuse.repeated() <= 1_280, "{}", langfuse.repeated());
    assert_eq!(gateway.status().await["langfuse"]["dropped"], 0);
}

#[tokio::test]
async fn a_torn_tail_and_damage_cost_only_what_they_touch() {
    let (_origin, port, config, gateway) = started_without().await;
    for trace in 1..=20 {
        call_in(&gateway, trace).await;
        // Each in a record of its own.
        told(&gateway, "the backlog", |status| status["backlog"] == trace).await;
    }
    let backlog = gateway.metric("cirque_langfuse_backlog", &[]).await;
    assert_eq!(backlog, Some(20.0), "read when it is asked for");
    let folder = gateway.process.kill();
    let path = segment(&folder.path().join("spool"));
    let mut bytes = std::fs::read(&path).expect("a segment");
    let seventh = record_of(&bytes, 7);
    bytes[usize::midpoint(seventh.start, seventh.end)] ^= 1;
    bytes.truncate(bytes.len() - 5);
    std::fs::write(&path, bytes).expect("a writable folder");

    let gateway = Gateway::start_in(folder, &config).await;
    let langfuse = Langfuse::at(port);
    langfuse.has(18).await;
    let traces = langfuse.traces();
    assert!(!traces.contains(&trace_id(7)) && !traces.contains(&trace_id(20)));
    let status = told(&gateway, "nothing left", |status| status["backlog"] == 0).await;
    assert_eq!((&status["dropped"], &status["dropped_by"]["damage"]), (&json!(1), &json!(1)));
}

#[tokio::test]
async fn refused_keys_are_told_and_rotated_by_a_reload() {
    let (origin, langfuse, gateway) = started().await;
    langfuse.rotate();
    calls(&gateway, 10).await;
    let status = told(&gateway, "refusal", |status| status["state"] == "refused").await;
    let words = status["last_error"]["what"].as_str().expect("words");
    assert!(words.starts_with("status 401: ") && words.contains("keys"), "{words}");
    assert_eq!(langfuse.arrived(), 1, "no use in asking again soon");

    let section = langfuse.section("").replace("canary-77aa01", "canary-rotated");
    reload(&gateway, &Config::to(&origin).section(&section)).await;
    langfuse.has(10).await;
    told(&gateway, "all well", |status| status["state"] == "ok" && status["backlog"] == 0).await;
    let printed = gateway.process.output();
    assert!(!printed.contains("canary-77aa01") && !printed.contains("canary-rotated"));
}

#[tokio::test]
async fn another_host_gets_the_backlog_after_a_reload() {
    let (origin, _port, _, gateway) = started_without().await;
    calls(&gateway, 10).await;
    told(&gateway, "the backlog", |status| status["backlog"] == 10).await;
    let langfuse = Langfuse::start().await;
    reload(&gateway, &Config::to(&origin).section(&langfuse.section(""))).await;
    langfuse.has(10).await;
}

#[tokio::test]
async fn another_host_gets_what_hangs_at_the_old_one_after_a_reload() {
    let (origin, langfuse, gateway) = started().await;
    langfuse.refuse(|_, _| Some(Reply::silence()));
    calls(&gateway, 10).await;
    eventually("an export that hangs", || async { (langfuse.arrived() > 0).then_some(()) }).await;
    let other = Langfuse::start().await;
    reload(&gateway, &Config::to(&origin).section(&other.section(""))).await;
    // Sooner than the ten seconds after which the old one would be given up.
    other.has(10).await;
    assert_eq!(gateway.status().await["langfuse"]["last_error"], Value::Null);
}

#[tokio::test]
async fn an_answer_that_echoes_what_was_sent_shows_no_key() {
    let (_origin, langfuse, gateway) = started().await;
    let echoed = AtomicUsize::new(0);
    langfuse.refuse(move |body, call| {
        let headers = format!("{:?} sk-lf-canary-77aa01", call.headers);
        Some(match echoed.fetch_add(1, Ordering::SeqCst) {
            0 => Reply::json(
                500,
                &json!({ "message": format!("no luck with {headers}"), "sent": body }),
            ),
            1 => Reply::json(502, &json!({ "headers": headers })),
            _ => return None,
        })
    });
    calls(&gateway, 1).await;
    langfuse.has(1).await;
    let printed = gateway.process.output() + &gateway.status().await.to_string();
    assert!(printed.contains("no luck with"), "{printed}");
    for key in ["cGstbGYtdGVzdDpz", "canary-77aa01", "pk-lf-test"] {
        assert!(!printed.contains(key), "{key} in {printed}");
    }
}

#[tokio::test]
async fn tracing_begins_and_ends_with_a_reload() {
    let (origin, gateway) = serving().await;
    calls(&gateway, 3).await;
    assert_eq!(gateway.status().await["langfuse"]["state"], "off");
    let langfuse = Langfuse::start().await;
    reload(&gateway, &Config::to(&origin).section(&langfuse.section(""))).await;
    calls(&gateway, 4).await;
    langfuse.has(4).await;
    // What has ended before tracing does is kept, though it was not written yet.
    calls(&gateway, 3).await;
    gateway.metric_becomes("cirque_inflight_requests", &[], 0.0).await;
    reload(&gateway, &Config::to(&origin)).await;
    calls(&gateway, 5).await;
    assert_eq!(gateway.status().await["langfuse"]["state"], "off");
    reload(&gateway, &Config::to(&origin).section(&langfuse.section(""))).await;
    calls(&gateway, 6).await;
    langfuse.has(13).await;
}

#[tokio::test]
async fn whatever_langfuse_answers_each_trace_is_delivered_once() {
    let text = |status| Reply::json(status, &json!({ "message": "simulated" }));
    let faults: [(&str, Vec<Reply>); 6] = [
        ("5xx", vec![text(500), text(502), text(503)]),
        ("429 with its wait", vec![text(429).header("retry-after", "1")]),
        ("408", vec![text(408)]),
        ("a reset", vec![Reply::reset_at_once(), Reply::reset_at_once()]),
        ("an end without an answer", vec![Reply::closed()]),
        (
            "a reset within an answer that is none",
            vec![Reply::head(503, "text/plain", Framing::Length(99)).piece("par").reset()],
        ),
    ];
    for (what, replies) in faults {
        let (_origin, langfuse, gateway) = started().await;
        let count = replies.len();
        for reply in replies {
            langfuse.next(reply);
        }
        calls(&gateway, 10).await;
        langfuse.has(10).await;
        assert!(langfuse.arrived() > count, "{what}");
        let status = told(&gateway, what, |s| s["state"] == "ok" && s["backlog"] == 0).await;
        assert_eq!((&status["sent"], &status["dropped"]), (&json!(10), &json!(0)), "{what}");
        assert!(
            status["retried"].as_u64() >= Some(1) && status["last_error"].is_object(),
            "{what}"
        );
    }
}

#[tokio::test]
async fn an_accepted_export_is_not_sent_again_when_the_rest_of_its_answer_is_missing() {
    let (_origin, langfuse, gateway) = started().await;
    let length = Framing::Length(99);
    langfuse.next_accepted(Reply::head(200, "application/json", length).piece("{\"id\":").reset());
    calls(&gateway, 10).await;
    langfuse.has(10).await;
    told(&gateway, "nothing left", |status| status["backlog"] == 0).await;
    langfuse.assert_sound();
}

#[tokio::test]
async fn a_wait_that_langfuse_names_is_kept() {
    let (_origin, langfuse, gateway) = started().await;
    langfuse.next(Reply::json(429, &json!({})).header("retry-after", "3"));
    let since = Instant::now();
    calls(&gateway, 1).await;
    langfuse.has(1).await;
    assert!(since.elapsed() >= Duration::from_secs(3), "{:?}", since.elapsed());
}

#[tokio::test]
async fn an_export_that_is_accepted_meanwhile_shortens_no_wait() {
    let (_origin, port, config, gateway) = started_without().await;
    calls(&gateway, 1_200).await;
    told(&gateway, "the backlog", |status| status["backlog"] == 1_200).await;
    let folder = gateway.process.kill();
    // Two exports begin at once: the first is told to wait, the second accepted after that.
    let (langfuse, gate) = (Langfuse::at(port), Gate::new());
    langfuse.next(Reply::json(429, &json!({})).header("retry-after", "3"));
    langfuse.next_accepted(Reply::json(200, &json!({})).after(&gate));
    let since = Instant::now();
    let gateway = Gateway::start_in(folder, &config).await;
    told(&gateway, "a wait", |status| status["state"] == "retrying").await;
    gate.open();
    let status = told(&gateway, "an accepted export", |status| status["sent"] != 0).await;
    assert_eq!((&status["state"], langfuse.arrived()), (&json!("retrying"), 2), "{status}");
    // A reload of other things takes nothing back either.
    reload(&gateway, &config.section("log: { level: debug }")).await;
    langfuse.has(1_200).await;
    assert!(since.elapsed() >= Duration::from_secs(3), "{:?}", since.elapsed());
}

#[tokio::test]
async fn a_langfuse_that_hangs_slows_no_call_and_no_shutdown() {
    let (_origin, langfuse, gateway) = started().await;
    langfuse.next(Reply::silence());
    calls(&gateway, 1).await;
    eventually("an export that hangs", || async { (langfuse.arrived() == 1).then_some(()) }).await;
    let since = Instant::now();
    calls(&gateway, 200).await;
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
    let since = Instant::now();
    gateway.process.signal("TERM");
    assert_eq!(gateway.process.exit_code().await, 0);
    assert!(since.elapsed() < Duration::from_secs(15), "{:?}", since.elapsed());
}

#[tokio::test]
async fn an_export_that_is_too_large_is_halved_until_it_fits() {
    let (_origin, langfuse, gateway) = started().await;
    langfuse.refuse(|body, _| (span_ids(body).len() > 3).then(|| Reply::json(413, &json!({}))));
    calls(&gateway, 40).await;
    langfuse.has(40).await;
    let status = told(&gateway, "nothing left", |status| status["backlog"] == 0).await;
    assert_eq!((&status["dropped"], &status["state"]), (&json!(0), &json!("ok")));
}

#[tokio::test]
async fn a_trace_that_is_too_large_alone_is_cut_and_marked_or_dropped_and_counted() {
    for (most, dropped) in [(200_000, 0), (20_000, 1)] {
        let (_origin, langfuse, gateway) = started().await;
        let cut = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&cut);
        langfuse.refuse(move |body, _| {
            let text = body.to_string();
            if text.len() > most {
                return Some(Reply::json(413, &json!({})));
            }
            seen.fetch_add(usize::from(text.contains("bytes cut")), Ordering::SeqCst);
            None
        });
        let mut body = chat();
        body["messages"][0]["content"] = json!("a long story ".repeat(30_000));
        gateway.post(CHAT, &body).await.assert_ok();
        eventually("a refusal", || async { (langfuse.arrived() > 0).then_some(()) }).await;
        // Another that is accepted shows that the destination is well.
        calls(&gateway, 1).await;
        let sent = 2 - dropped;
        let is_over = |status: &Value| status["backlog"] == 0 && status["sent"] == sent;
        let status = told(&gateway, "nothing left", is_over).await;
        assert_eq!(status["dropped_by"]["too_large"], dropped, "{status}");
        assert_eq!(cut.load(Ordering::SeqCst), 1 - dropped);
        langfuse.assert_sound();
    }
}

#[tokio::test]
async fn a_trace_that_cannot_be_read_does_not_cost_its_neighbours() {
    let (_origin, langfuse, gateway) = started().await;
    let is_poison = |(trace, _): &(String, String)| [trace_id(5), trace_id(17)].contains(trace);
    langfuse.refuse(move |body, _| {
        span_ids(body).iter().any(is_poison).then(|| Reply::json(400, &json!({})))
    });
    for trace in 1..=30 {
        call_in(&gateway, trace).await;
    }
    langfuse.has(28).await;
    let status = told(&gateway, "nothing left", |status| status["backlog"] == 0).await;
    assert_eq!((&status["dropped_by"]["rejected"], &status["sent"]), (&json!(2), &json!(28)));
}

#[tokio::test]
async fn traces_that_cannot_be_read_do_not_wait_where_their_neighbours_were_accepted() {
    let (_origin, port, _config, gateway) = started_without().await;
    for trace in 1..=4 {
        call_in(&gateway, trace).await;
    }
    told(&gateway, "all in the spool", |status| status["backlog"] == 4).await;
    // Of one export the first half is accepted, then nothing is any more.
    let langfuse = Langfuse::at(port);
    let is_poison = |(trace, _): &(String, String)| [trace_id(3), trace_id(4)].contains(trace);
    langfuse.refuse(move |body, _| {
        span_ids(body).iter().any(is_poison).then(|| Reply::json(400, &json!({})))
    });
    let status = told(&gateway, "nothing left", |status| status["backlog"] == 0).await;
    assert_eq!((&status["dropped_by"]["rejected"], &status["sent"]), (&json!(2), &json!(2)));
}

#[tokio::test]
async fn many_traces_in_a_row_that_cannot_be_read_keep_none_behind_them_back() {
    for status in [400, 413] {
        let (_origin, port, _config, gateway) = started_without().await;
        for trace in 1..=12 {
            call_in(&gateway, trace).await;
        }
        calls(&gateway, 80).await;
        told(&gateway, "all in the spool", |status| status["backlog"] == 92).await;
        let langfuse = Langfuse::at(port);
        let is_poison =
            |(trace, _): &(String, String)| (1..=12).map(trace_id).any(|id| id == *trace);
        langfuse.refuse(move |body, _| {
            span_ids(body).iter().any(is_poison).then(|| Reply::json(status, &json!({})))
        });
        told(&gateway, "all that can be read", |status| status["sent"] == 80).await;
        // So many at once wait for what comes, and more than once.
        let made = Cell::new(80);
        for least in [1, 8, 12] {
            eventually("those that cannot be read are given up", || async {
                calls(&gateway, 1).await;
                made.set(made.get() + 1);
                let dropped = gateway.status().await["langfuse"]["dropped"].as_u64();
                (dropped >= Some(least)).then_some(())
            })
            .await;
        }
        let is_over = |status: &Value| status["backlog"] == 0 && status["sent"] == made.get();
        assert_eq!(told(&gateway, "nothing left", is_over).await["dropped"], 12);
        langfuse.assert_sound();
    }
}

#[tokio::test]
async fn a_trace_refused_for_a_moment_is_delivered_though_no_other_follows() {
    let (_origin, langfuse, gateway) = started().await;
    langfuse.refuse(|_, _| Some(Reply::json(400, &json!({}))));
    call_in(&gateway, 1).await;
    eventually("a refusal", || async { (langfuse.arrived() > 0).then_some(()) }).await;
    langfuse.refuse(|_, _| None);
    langfuse.has(1).await;
    let status = told(&gateway, "nothing left", |status| status["backlog"] == 0).await;
    assert_eq!((&status["dropped"], &status["sent"]), (&json!(0), &json!(1)));
}

#[tokio::test]
async fn a_langfuse_that_takes_nothing_for_a_while_loses_nothing() {
    for status in [400, 413] {
        let (origin, langfuse, gateway) = started().await;
        langfuse.refuse(move |_, _| Some(Reply::json(status, &json!({}))));
        calls(&gateway, 30).await;
        let told_of = told(&gateway, "refusal", |status| status["state"] == "refused").await;
        assert_eq!((&told_of["backlog"], &told_of["dropped"]), (&json!(30), &json!(0)));
        // Repaired. Those that were refused are not given up because another one is accepted now.
        langfuse.refuse(|_, _| None);
        let section = langfuse.section(", environment: repaired");
        reload(&gateway, &Config::to(&origin).section(&section)).await;
        langfuse.has(30).await;
        let told_of = told(&gateway, "nothing left", |status| status["backlog"] == 0).await;
        assert_eq!((&told_of["sent"], &told_of["dropped"]), (&json!(30), &json!(0)), "{status}");
    }
}

#[tokio::test]
async fn what_an_answer_says_was_rejected_is_counted_and_not_sent_again() {
    let (_origin, langfuse, gateway) = started().await;
    let partial = json!({ "partialSuccess": { "rejectedSpans": "3", "errorMessage": "no" } });
    langfuse.next_accepted(Reply::json(200, &partial));
    calls(&gateway, 10).await;
    langfuse.has(10).await;
    let status = told(&gateway, "nothing left", |status| status["backlog"] == 0).await;
    let (sent, dropped) = (status["sent"].as_u64(), status["dropped_by"]["rejected"].as_u64());
    assert_eq!((sent, dropped), (Some(7), Some(3)), "{status}");
    langfuse.assert_sound();
}

#[tokio::test]
async fn several_destinations_each_get_every_trace_at_their_own_pace() {
    let (origin, langfuse, other) =
        (Origin::start().await, Langfuse::start().await, Langfuse::plain().await);
    let port = RefusedPort::take();
    let otlp = format!(
        "telemetry:\n  otlp:\n    - {{ name: tempo, endpoint: \"{}\", headers: {{ x-scope: edge }} }}\n    - {{ name: away, endpoint: \"http://{}\" }}",
        other.host(),
        port.address()
    );
    let config = Config::to(&origin).section(&langfuse.section("")).section(&otlp);
    let gateway = Gateway::start(&config).await;
    calls(&gateway, 20).await;
    langfuse.has(20).await;
    other.has(20).await;
    let status = eventually("a backlog of one alone", || async {
        let status = gateway.status().await;
        let is_so = status["langfuse"]["backlog"] == 0 && status["otlp"][0]["backlog"] == 0;
        (is_so && status["otlp"][1]["backlog"] == 20).then_some(status)
    })
    .await;
    assert_eq!(
        (&status["otlp"][0]["name"], &status["otlp"][0]["state"]),
        (&json!("tempo"), &json!("ok"))
    );
    gateway.metric_becomes("cirque_langfuse_backlog", &[], 20.0).await;
    let away = Langfuse::plain_at(port);
    away.has(20).await;
    gateway.metric_becomes("cirque_langfuse_backlog", &[], 0.0).await;
}

#[tokio::test]
async fn a_shutdown_sends_what_it_can_and_leaves_the_rest() {
    let (_origin, langfuse, gateway) = started().await;
    calls(&gateway, 30).await;
    gateway.process.signal("TERM");
    assert_eq!(gateway.process.exit_code().await, 0);
    langfuse.assert_sound();
    assert_eq!(langfuse.traces().len(), 30, "sent before the end, without waiting to gather more");

    let (_origin, port, config, gateway) = started_without().await;
    calls(&gateway, 30).await;
    let since = Instant::now();
    gateway.process.signal("TERM");
    assert_eq!(gateway.process.exit_code().await, 0);
    assert!(since.elapsed() < Duration::from_secs(5), "nothing to wait for: {:?}", since.elapsed());
    let _again = Gateway::start_in(gateway.process.kill(), &config).await;
    Langfuse::at(port).has(30).await;
}

#[tokio::test]
async fn a_second_process_in_the_same_folder_writes_and_waits_for_its_turn() {
    let (_origin, port, config, first) = started_without().await;
    calls(&first, 10).await;
    let spool = first.process.path("spool").display().to_string();
    let elsewhere = TempDir::new().expect("a temporary folder");
    let text = config.text().replace("./spool", &spool);
    std::fs::write(elsewhere.path().join("gateway.yaml"), text).expect("a writable folder");
    let second = Gateway::launch(&["run", "-c", "gateway.yaml"], &[], elsewhere).await;
    calls(&second, 10).await;
    let is_waiting = |status: &Value| status["state"] == "spool_in_use" && status["backlog"] == 10;
    let status = told(&second, "its own backlog", is_waiting).await;
    assert!(status["lag_seconds"].is_number(), "{status}");
    let _folder = first.process.kill();
    told(&second, "both backlogs", |status| status["backlog"] == 20).await;
    Langfuse::at(port).has(20).await;
}

#[tokio::test]
async fn a_spool_that_cannot_be_used_harms_no_call_and_recovers() {
    let (origin, langfuse) = (Origin::start().await, Langfuse::start().await);
    let folder = TempDir::new().expect("a temporary folder");
    let in_the_way = folder.path().join("spool");
    std::fs::write(&in_the_way, "a file where the folder should be").expect("a writable folder");
    let config = Config::to(&origin).section(&langfuse.section(""));
    let gateway = Gateway::start_in(folder, &config).await;
    calls(&gateway, 20).await;
    let is_waiting =
        |status: &Value| status["state"] == "spool_unusable" && status["backlog"] == 20;
    let status = told(&gateway, "trouble", is_waiting).await;
    let words = status["last_error"]["what"].as_str().expect("words");
    assert!(words.starts_with("the spool cannot be used: "), "{words}");
    assert!(status["lag_seconds"].is_number(), "{status}");
    gateway.metric_becomes("cirque_langfuse_backlog", &[], 20.0).await;
    std::fs::remove_file(in_the_way).expect("a writable folder");
    langfuse.has(20).await;
    let status = told(&gateway, "all well", |status| status["state"] == "ok").await;
    assert_eq!(status["dropped"], 0);
}

/// A gateway with a spool that cannot be used, what is in its way, and calls whose traces wait.
async fn started_without_a_spool(config: &Config, waiting: usize) -> (PathBuf, Gateway) {
    let folder = TempDir::new().expect("a temporary folder");
    let in_the_way = folder.path().join("spool");
    std::fs::write(&in_the_way, "a file where the folder should be").expect("a writable folder");
    let gateway = Gateway::start_in(folder, config).await;
    calls(&gateway, waiting).await;
    told(&gateway, "trouble", |status| status["state"] == "spool_unusable").await;
    (in_the_way, gateway)
}

/// Waits until the gateway has begun to send the rest.
async fn drained(gateway: &Gateway) {
    let has_drained = || async { gateway.process.output().contains("drained").then_some(()) };
    eventually("the end of the last call", has_drained).await;
}

#[tokio::test]
async fn a_spool_that_recovers_while_the_process_drains_loses_nothing() {
    let (origin, langfuse) = (Origin::start().await, Langfuse::start().await);
    let config = Config::to(&origin).section(&langfuse.section(""));
    let (in_the_way, gateway) = started_without_a_spool(&config, 20).await;
    gateway.process.signal("TERM");
    drained(&gateway).await;
    std::fs::remove_file(in_the_way).expect("a writable folder");
    assert_eq!(gateway.process.exit_code().await, 0);
    langfuse.assert_sound();
    assert_eq!(langfuse.traces().len(), 20, "{}", gateway.process.output());
}

#[tokio::test]
async fn what_a_spool_never_took_is_counted_and_told_at_the_end() {
    let (origin, langfuse) = (Origin::start().await, Langfuse::start().await);
    let config = Config::to(&origin).server("drain: 2s").section(&langfuse.section(""));
    let (_in_the_way, gateway) = started_without_a_spool(&config, 20).await;
    let since = Instant::now();
    gateway.process.signal("TERM");
    assert_eq!(gateway.process.exit_code().await, 0);
    assert!(since.elapsed() > Duration::from_millis(1_500), "{:?}", since.elapsed());
    assert!(since.elapsed() < Duration::from_secs(15), "{:?}", since.elapsed());
    let printed = gateway.process.output();
    let lines: Vec<_> =
        printed.lines().filter(|line| line.contains("traces were dropped")).collect();
    assert!(lines.len() == 1 && lines[0].contains("memory 20"), "{printed}");
}

/// A file system of 8 MiB; unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` where this user may not mount.
    fn mount(at: PathBuf) -> Option<Self> {
        std::fs::create_dir_all(&at).expect("a writable folder");
        let mut mount = std::process::Command::new("mount");
        let mount = mount.args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"]).arg(&at);
        let is_mounted = mount.output().is_ok_and(|ended| ended.status.success());
        is_mounted.then_some(Self(at))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        std::process::Command::new("umount").arg("-l").arg(&self.0).status().ok();
    }
}

#[tokio::test]
async fn a_full_disk_harms_no_call_and_what_it_kept_waiting_is_delivered() {
    let (origin, port) = (Origin::start().await, RefusedPort::take());
    let folder = TempDir::new().expect("a temporary folder");
    let Some(disk) = SmallDisk::mount(folder.path().join("spool")) else {
        eprintln!("skipped: only root may mount a small disk");
        return;
    };
    let filler = disk.0.join("filler");
    std::fs::write(&filler, vec![0; (8 << 20) - (16 << 10)]).expect("a disk with room");
    let section = Langfuse::section_for(&format!("http://{}", port.address()), "");
    let gateway = Gateway::start_in(folder, &Config::to(&origin).section(&section)).await;
    calls(&gateway, 1_000).await;
    let is_full = |status: &Value| status["state"] == "spool_unusable";
    let status = told(&gateway, "a full disk", is_full).await;
    let words = status["last_error"]["what"].as_str().expect("words");
    assert!(words.contains("No space left"), "{words}");
    calls(&gateway, 100).await;

    std::fs::remove_file(filler).expect("our own file");
    let since = Instant::now();
    let is_written =
        |status: &Value| status["backlog"] == 1_100 && status["state"] != "spool_unusable";
    told(&gateway, "the disk in use again", is_written).await;
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    Langfuse::at(port).has(1_100).await;
    let status = told(&gateway, "all well", |status| status["state"] == "ok").await;
    assert_eq!(status["dropped"], 0);
}

#[tokio::test]
async fn a_full_disk_that_gets_room_while_the_process_drains_takes_what_waits() {
    const CALLS: usize = 300;
    let (origin, port) = (Origin::start().await, RefusedPort::take());
    let folder = TempDir::new().expect("a temporary folder");
    let Some(disk) = SmallDisk::mount(folder.path().join("spool")) else {
        eprintln!("skipped: only root may mount a small disk");
        return;
    };
    let filler = disk.0.join("filler");
    std::fs::write(&filler, vec![0; (8 << 20) - (16 << 10)]).expect("a disk with room");
    let section = Langfuse::section_for(&format!("http://{}", port.address()), "");
    let config = Config::to(&origin).section(&section);
    let gateway = Gateway::start_in(folder, &config).await;
    calls(&gateway, CALLS).await;
    let is_full =
        |status: &Value| status["state"] == "spool_unusable" && status["backlog"] == CALLS;
    told(&gateway, "a full disk", is_full).await;
    gateway.process.signal("TERM");
    drained(&gateway).await;
    std::fs::remove_file(filler).expect("our own file");
    assert_eq!(gateway.process.exit_code().await, 0);
    let _again = Gateway::start_in(gateway.process.kill(), &config).await;
    Langfuse::at(port).has(CALLS).await;
}

#[tokio::test]
async fn what_exceeds_the_spool_goes_oldest_first_and_is_counted() {
    let (origin, port) = (Origin::start().await, RefusedPort::take());
    let host = format!("http://{}", port.address());
    let section = Langfuse::section_for(&host, "").replace("./spool", "./spool, max_bytes: 1MiB");
    let gateway = Gateway::start(&Config::to(&origin).section(&section)).await;
    let full = |status: &Value| status["dropped"].as_u64() > Some(0);
    let mut made: usize = 0;
    let status = loop {
        calls(&gateway, 500).await;
        made += 500;
        let status = gateway.status().await["langfuse"].clone();
        if full(&status) {
            break status;
        }
        assert!(made < 20_000, "{status}");
    };
    assert!(status["spool_bytes"].as_u64() <= Some(1 << 20), "{status}");
    spooled(&gateway, made).await;
    let status = gateway.status().await["langfuse"].clone();
    assert_eq!(status["dropped"], status["dropped_by"]["room"]);
    let dropped = status["dropped"].as_u64().and_then(|count| usize::try_from(count).ok());
    // What an export had taken when its segment went is not lost.
    Langfuse::at(port).has(made - dropped.expect("a count")).await;
    told(&gateway, "all sent", |status| status["backlog"] == 0).await;
}

#[tokio::test]
async fn what_goes_for_want_of_room_while_it_is_refused_is_counted_once() {
    let (origin, langfuse) = (Origin::start().await, Langfuse::start().await);
    langfuse.refuse(|_, _| Some(Reply::json(400, &json!({}))));
    let section =
        |more: &str| langfuse.section(more).replace("./spool", "./spool, max_bytes: 1MiB");
    let gateway = Gateway::start(&Config::to(&origin).section(&section(""))).await;
    let mut made: usize = 0;
    while gateway.status().await["langfuse"]["dropped_by"]["room"].as_u64() < Some(1_000) {
        calls(&gateway, 500).await;
        made += 500;
        assert!(made < 20_000, "the spool is bounded");
    }
    langfuse.refuse(|_, _| None);
    reload(&gateway, &Config::to(&origin).section(&section(", environment: repaired"))).await;
    let status = told(&gateway, "nothing left", |status| status["backlog"] == 0).await;
    let count = |name: &str| status[name].as_u64().and_then(|count| usize::try_from(count).ok());
    assert_eq!(count("sent").zip(count("dropped")).map(|(sent, lost)| sent + lost), Some(made));
    assert_eq!(Some(langfuse.traces().len()), count("sent"));
    langfuse.assert_sound();
}

#[tokio::test]
async fn check_online_tells_whether_host_and_keys_work() {
    let (origin, langfuse) = (Origin::start().await, Langfuse::start().await);
    let (backend, failing) = (Langfuse::plain().await, Origin::start().await);
    failing.always(Reply::error(503));
    let page = Origin::start().await;
    page.always(Reply::head(200, "text/html", Framing::Length(15)).piece("<!doctype html>").end());
    let refused = RefusedPort::take();
    let otlp = |at: SocketAddr| {
        format!("telemetry: {{ otlp: {{ name: tempo, endpoint: \"http://{at}\" }} }}")
    };
    let check = async |config: Config| {
        cirque(&["check", "--online", "-c", "gateway.yaml"], &[], Some(&config.text())).await
    };
    let good = Config::to(&origin).section(&langfuse.section(""));
    let checked = check(good.clone().section(&otlp(backend.address()))).await;
    assert_eq!(checked.code, 0, "{}", checked.output);
    assert!(checked.stdout.contains("ok: upstream `main`: it answers"), "{}", checked.output);
    assert!(checked.stdout.contains("`tempo` at"), "{}", checked.output);
    assert!(checked.stdout.contains("the keys belong to the project `edge`"), "{}", checked.output);

    langfuse.rotate();
    let away = Langfuse::section_for(&format!("http://{}", refused.address()), "");
    let elsewhere = Langfuse::section_for(&format!("http://{}", origin.address()), "");
    for (config, words) in [
        (good, "status 401: it does not accept the keys"),
        (Config::to(&origin).section(&elsewhere), "status 404: it takes no traces"),
        (Config::to(&origin).section(&away), "no connection"),
        (Config::to(&origin).section(&otlp(failing.address())), "status 503: it is in trouble"),
        (Config::to(&origin).section(&otlp(page.address())), "status 200: a web page"),
        (Config::new().upstream("main", &refused.base_url(), ""), "FAILED: upstream `main`"),
        (Config::new().upstream("main", &refused.base_url(), ""), "off: traces to `langfuse`"),
    ] {
        let checked = check(config).await;
        assert_eq!(checked.code, 1, "{}", checked.output);
        assert!(checked.output.contains(words), "{words}: {}", checked.output);
        assert!(!checked.output.contains("canary"), "{}", checked.output);
    }
}
