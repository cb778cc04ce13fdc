//! Several upstreams: a failure before the first token moves on, and never after it.

use crate::harness::{
    Config, Framing, Gate, Gateway, Origin, RefusedPort, Reply, Request, Response,
    assert_openai_error, chat, chat_stream, events, in_order, last_event, sample, streamed,
};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const PATH: &str = "/v1/chat/completions";
/// So that a test may fail an upstream often without losing it.
const PATIENT: &str = "breaker: { failures: 1000, within: 30s, eject: 30s }";

/// Two upstreams in turn: `bad`, scripted by the test, and `good`.
struct Pair {
    bad: Origin,
    good: Origin,
    gateway: Gateway,
}

impl Pair {
    async fn start(bad_extra: &str) -> Self {
        let (bad, good) = (Origin::start().await, Origin::start().await);
        let config = Config::new()
            .upstream("bad", &bad.base_url(), &format!("{PATIENT}{bad_extra}"))
            .upstream("good", &good.base_url(), PATIENT)
            .route_over("bad, good");
        let gateway = Gateway::start(&config).await;
        Self { bad, good, gateway }
    }

    /// Calls until the turn was at `bad`, and returns that call's reply.
    async fn through_bad(&self, script: Reply, request: &Request) -> Response {
        let before = self.bad.calls().len();
        self.bad.next(script);
        for _ in 0..4 {
            let reply = self.gateway.call(request).await;
            if self.bad.calls().len() > before {
                return reply;
            }
        }
        panic!("four calls and never the first upstream's turn");
    }

    /// Fails the test unless this failure of `bad` is made good by `good`.
    async fn assert_moves_on(&self, what: &str, script: Reply, request: &Request) {
        let reply = self.through_bad(script, request).await;
        assert_eq!(reply.status, 200, "{what}: {}", reply.text());
        assert_eq!(reply.header("x-cirque-upstream"), Some("good"), "{what}");
        assert_eq!(reply.header("x-cirque-attempts"), Some("2"), "{what}");
        assert!(reply.complete, "{what}");
        let good = self.good.calls().pop().expect("a call");
        assert_eq!(good.body, request.payload_bytes(), "{what}");
    }
}

fn plain() -> Request {
    Request::post(PATH, &chat())
}

fn stream() -> Request {
    Request::post(PATH, &chat_stream())
}

#[tokio::test]
async fn upstreams_take_turns() {
    let (one, two) = (Origin::start().await, Origin::start().await);
    let config =
        Config::new().upstream("one", &one.base_url(), "").upstream("two", &two.base_url(), "");
    let gateway = Gateway::start(&config).await;
    for _ in 0..8 {
        gateway.call(&plain()).await.assert_ok();
    }
    assert_eq!((one.calls().len(), two.calls().len()), (4, 4));
}

#[tokio::test]
async fn a_refused_connection_moves_on_to_the_next() {
    let (refused, good) = (RefusedPort::take(), Origin::start().await);
    let config = Config::new()
        .upstream("refused", &refused.base_url(), PATIENT)
        .upstream("good", &good.base_url(), "")
        .route_over("refused, good");
    let gateway = Gateway::start(&config).await;
    let mut attempts = BTreeSet::new();
    for _ in 0..4 {
        let reply = gateway.call(&plain()).await;
        assert_eq!(reply.assert_ok().header("x-cirque-upstream"), Some("good"));
        attempts.insert(reply.header("x-cirque-attempts").expect("a count").to_owned());
    }
    assert_eq!(attempts, BTreeSet::from(["1".to_owned(), "2".to_owned()]));
}

#[tokio::test]
async fn a_failing_status_moves_on_to_the_next() {
    let pair = Pair::start("").await;
    for status in [408, 500, 502, 503, 504, 520, 524, 529] {
        let what = status.to_string();
        pair.assert_moves_on(&what, Reply::error(status), &plain()).await;
        pair.assert_moves_on(&what, Reply::error(status), &stream()).await;
    }
    for name in
        ["error_502_openrouter.http", "error_524_cloudflare_html.http", "error_529_anthropic.http"]
    {
        pair.assert_moves_on(name, Reply::recorded(sample(name)), &plain()).await;
    }
}

#[tokio::test]
async fn a_rate_limit_moves_on_to_the_next() {
    for (name, script) in [
        ("plain", Reply::error(429)),
        ("OpenAI", Reply::recorded(sample("error_429_openai_rate.http"))),
        ("OpenRouter", Reply::recorded(sample("error_429_openrouter_capacity.http"))),
        ("its platform", Reply::recorded(sample("error_429_openrouter_platform.http"))),
        ("no credit", Reply::recorded(sample("error_429_openai_quota.http"))),
    ] {
        // One that said so rests, so each needs a pair of its own.
        Pair::start("").await.assert_moves_on(name, script, &plain()).await;
    }
}

#[tokio::test]
async fn a_refused_credential_moves_on_to_the_next() {
    for status in [401, 402, 403] {
        let pair = Pair::start("").await;
        pair.assert_moves_on(&status.to_string(), Reply::error(status), &plain()).await;
    }
}

#[tokio::test]
async fn a_broken_exchange_moves_on_to_the_next() {
    let pair = Pair::start(", timeouts: { first_byte: 1s, first_token: 1s, idle: 1s }").await;
    let half = || Reply::head(200, "application/json", Framing::Length(100)).piece("{\"choices\"");
    let cases = [
        ("FIN at once", Reply::closed()),
        ("RST at once", Reply::reset_at_once()),
        ("silence", Reply::silence()),
        ("half a header", Reply::recorded("HTTP/1.1 200 OK\r\ncontent-")),
        ("garbage", Reply::recorded("garbage\r\n\r\n")),
        ("FIN in the body", half().close()),
        ("RST in the body", half().reset()),
        ("a stall in the body", half().hang()),
        ("FIN between chunks", half().framed(Framing::Chunked).close()),
    ];
    for (what, script) in cases {
        pair.assert_moves_on(what, script, &plain()).await;
    }
}

#[tokio::test]
async fn an_error_under_a_good_status_moves_on_to_the_next() {
    let pair = Pair::start("").await;
    for name in ["error_200_in_body.txt", "error_200_choice_error.json"] {
        for framing in [Framing::Chunked, Framing::Length(sample(name).len() as u64)] {
            let script = Reply::json_text(200, sample(name)).framed(framing);
            pair.assert_moves_on(name, script, &plain()).await;
        }
    }
    let html = Reply::head(200, "application/json", Framing::Chunked)
        .piece("{\"error\":{\"message\":\"no\"}}")
        .end();
    pair.assert_moves_on("an error instead of a stream", html, &stream()).await;
}

#[tokio::test]
async fn a_stream_that_fails_before_its_first_token_moves_on_to_the_next() {
    let pair = Pair::start(", timeouts: { first_token: 1s }").await;
    let body = sample("chat_stream_openai.sse");
    pair.good.always(Reply::sse(&body));
    let comment = ": OPENROUTER PROCESSING\n\n";
    let role = "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n";
    let error = "data: {\"error\":{\"code\":502,\"message\":\"no\"},\
                 \"choices\":[{\"delta\":{\"content\":\"\"},\"finish_reason\":\"error\"}]}\n\n";
    let cases = [
        ("an error event", Reply::stream().piece(comment).piece(error).end()),
        ("an error event after the role", Reply::stream().piece(role).piece(error).end()),
        ("FIN after comments", Reply::stream().piece(comment).close()),
        ("RST after the role", Reply::stream().piece(role).reset()),
        ("nothing but an end", Reply::stream().end()),
        ("an end after comments", Reply::stream().piece(comment).end()),
        ("comments and silence", Reply::stream().piece(comment).hang()),
    ];
    for (what, script) in cases {
        let reply = pair.through_bad(script, &stream()).await;
        assert_eq!(reply.assert_ok().header("x-cirque-attempts"), Some("2"), "{what}");
        assert_eq!(reply.text(), String::from_utf8_lossy(&body), "{what}");
    }
}

#[tokio::test]
async fn the_other_dialects_move_on_too() {
    for (path, broken, whole) in [
        ("/v1/messages", None, "messages_stream_anthropic.sse"),
        ("/v1/responses", Some("responses_stream_failed.sse"), "responses_stream_openai.sse"),
    ] {
        let pair = Pair::start("").await;
        pair.good.always(Reply::sse(sample(whole)));
        let overloaded = b"event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\
            \"overloaded_error\",\"message\":\"Overloaded\"}}\n\n";
        let broken = broken.map_or_else(|| overloaded.to_vec(), sample);
        let request = Request::post(path, &streamed(path));
        let reply = pair.through_bad(Reply::sse(broken), &request).await;
        assert_eq!(reply.assert_ok().body, sample(whole), "{path}");
        assert_eq!(reply.header("x-cirque-upstream"), Some("good"), "{path}");
    }
}

#[tokio::test]
async fn moving_on_still_works_after_a_comment_into_silence() {
    let (bad, good) = (Origin::start().await, Origin::start().await);
    let config = Config::new()
        .server("keepalive_comment: 300ms")
        .upstream("bad", &bad.base_url(), "")
        .upstream("good", &good.base_url(), "")
        .route_over("bad, good");
    let gateway = Gateway::start(&config).await;
    let body = sample("chat_stream_openai.sse");
    good.always(Reply::sse(&body));
    let gate = Gate::new();
    bad.always(Reply::error(500).after(&gate));
    let mut client = gateway.client().await;
    let mut other = gateway.client().await;
    // One of two calls in turn meets the silent upstream.
    client.send_request(&stream()).await;
    other.send_request(&stream()).await;
    let (one, two) = (client.opened().await, other.opened().await);
    assert_eq!((one.status, two.status), (200, 200));
    bad.call(0).await;
    let mut bridged = None;
    for candidate in [&mut client, &mut other] {
        let start = candidate.piece().await.expect("no cut").expect("a piece");
        if start.starts_with(b": keepalive") {
            bridged = Some(candidate);
        }
    }
    gate.open();
    let (rest, complete) = bridged.expect("a comment into the silence").rest().await;
    assert!(complete);
    assert_eq!(events(&rest), events(&body));
}

#[tokio::test]
async fn nothing_moves_on_after_the_first_token() {
    let pair = Pair::start("").await;
    let token = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n";
    for delta in ["content", "reasoning", "reasoning_content", "refusal"] {
        let before = pair.good.calls().len();
        let script = Reply::stream().piece(token.replace("content", delta)).close();
        let reply = pair.through_bad(script, &stream()).await;
        assert_eq!(reply.header("x-cirque-upstream"), Some("bad"), "{delta}");
        assert!(last_event(&reply.body).json()["error"].is_object(), "{}", reply.text());
        assert!(pair.good.calls().len() <= before + 1, "{delta}: the call was repeated");
    }
}

#[tokio::test]
async fn a_five_megabyte_body_is_replayed_to_every_upstream() {
    let origins = [Origin::start().await, Origin::start().await, Origin::start().await];
    let mut config = Config::new().route_over("one, two, three");
    for (origin, name) in origins.iter().zip(["one", "two", "three"]) {
        config = config.upstream(name, &origin.base_url(), PATIENT);
        origin.always(Reply::error(503));
    }
    let gateway = Gateway::start(&config).await;
    let mut body = chat();
    body["messages"][0]["content"] = json!("z".repeat(5_000_000));
    let request = Request::post(PATH, &body);
    for reply in
        [gateway.call(&request).await, gateway.call(&request.clone().chunked(30_000)).await]
    {
        assert_openai_error(&reply, 502, "upstream_error");
    }
    for origin in &origins {
        let calls = origin.calls();
        assert_eq!(calls.len(), 2);
        assert!(calls.iter().all(|call| call.body == request.payload_bytes()));
    }
}

#[tokio::test]
async fn tries_are_bounded() {
    let origins = [Origin::start().await, Origin::start().await, Origin::start().await];
    let mut config = Config::new().route(
        "models: [\"*\"], upstreams: [one, two, three], retry: { attempts: 2, budget: 1.0 }",
    );
    for (origin, name) in origins.iter().zip(["one", "two", "three"]) {
        config = config.upstream(name, &origin.base_url(), PATIENT);
        origin.always(Reply::error(503));
    }
    let gateway = Gateway::start(&config).await;
    assert_openai_error(&gateway.call(&plain()).await, 502, "upstream_error");
    assert_eq!(origins.iter().map(|origin| origin.calls().len()).sum::<usize>(), 2);
}

#[tokio::test]
async fn the_callers_own_fault_is_answered_at_once() {
    let pair = Pair::start("").await;
    for status in [400, 404, 413, 422] {
        let before = pair.good.calls().len();
        let error = json!({"error": {"message": "yours", "code": null, "param": "x"}});
        let reply = pair.through_bad(Reply::json(status, &error), &plain()).await;
        assert_eq!((reply.status, reply.json()), (status, error));
        assert_eq!(reply.header("x-cirque-upstream"), Some("bad"));
        assert!(pair.good.calls().len() <= before + 1);
    }
}

/// Two upstreams that always answer like this, and what the caller is told.
async fn both_answer(one: Reply, two: Reply, body: &Value) -> Response {
    let origins = [Origin::start().await, Origin::start().await];
    let timeouts = format!("{PATIENT}, timeouts: {{ first_byte: 1s }}");
    let mut config = Config::new()
        .route("models: [\"*\"], upstreams: [one, two], retry: { attempts: 2, budget: 1.0 }");
    for ((origin, name), reply) in origins.iter().zip(["one", "two"]).zip([one, two]) {
        config = config.upstream(name, &origin.base_url(), &timeouts);
        origin.always(reply);
    }
    let gateway = Gateway::start(&config).await;
    let reply = gateway.post(PATH, body).await;
    assert_eq!(reply.header("x-should-retry"), Some("false"), "{reply:?}");
    assert_eq!(reply.header("x-cirque-attempts"), Some("2"), "{reply:?}");
    assert_eq!(reply.header("x-cirque-upstream"), Some("two"), "{reply:?}");
    assert!(origins.iter().all(|origin| origin.calls().len() == 1), "each was asked once");
    assert!(!reply.text().contains("127.0.0.1"), "{}", reply.text());
    reply
}

#[tokio::test]
async fn when_all_are_busy_the_caller_is_told_to_wait_the_shortest_time() {
    let busy = |seconds: &str| Reply::error(429).header("retry-after", seconds);
    for (one, two) in [("40", "7"), ("7", "40")] {
        let reply = both_answer(busy(one), busy(two), &chat()).await;
        assert_openai_error(&reply, 429, "rate_limit_exceeded");
        assert_eq!(reply.header("retry-after"), Some("7"));
    }
}

#[tokio::test]
async fn when_all_time_out_the_caller_is_told_so() {
    let reply = both_answer(Reply::silence(), Reply::silence(), &chat()).await;
    assert_openai_error(&reply, 504, "upstream_timeout");
}

#[tokio::test]
async fn when_all_fail_otherwise_the_caller_gets_a_502() {
    let reply = both_answer(Reply::error(500), Reply::closed(), &chat_stream()).await;
    assert_openai_error(&reply, 502, "upstream_error");
    let reply = both_answer(Reply::error(401), Reply::error(401), &chat()).await;
    assert_openai_error(&reply, 502, "upstream_error");
    let reply = both_answer(Reply::error(429), Reply::error(500), &chat()).await;
    assert_openai_error(&reply, 502, "upstream_error");
}

#[tokio::test]
async fn when_nobody_listens_the_caller_gets_a_502() {
    let (one, two) = (RefusedPort::take(), RefusedPort::take());
    let config = Config::new().upstream("one", &one.base_url(), PATIENT).upstream(
        "two",
        &two.base_url(),
        PATIENT,
    );
    let gateway = Gateway::start(&config).await;
    let reply = gateway.call(&plain()).await;
    assert_openai_error(&reply, 502, "upstream_error");
    assert!(!reply.text().contains("127.0.0.1"), "{}", reply.text());
}

#[tokio::test]
async fn the_first_route_that_matches_decides() {
    let (local, other) = (Origin::start().await, Origin::start().await);
    let config = Config::new()
        .upstream("local", &local.base_url(), "prefix_strip: \"local/\"")
        .upstream("other", &other.base_url(), "")
        .route("models: [\"local/*\"], upstreams: [local]")
        .route("models: [\"acme/*\"], upstreams: [other]");
    let gateway = Gateway::start(&config).await;
    let call = |model: &str| {
        let mut body = chat();
        body["model"] = json!(model);
        Request::post(PATH, &body)
    };
    gateway.call(&call("local/llama")).await.assert_ok();
    assert_eq!(local.only_call().json()["model"], "llama");
    gateway.call(&call("acme/wisp-2-mini")).await.assert_ok();
    gateway.call(&call("acme/not-in-any-catalogue")).await.assert_ok();
    assert_eq!(other.calls().len(), 2);
    let reply = gateway.call(&call("nobody/nothing")).await;
    assert_openai_error(&reply, 404, "model_not_found");
}

#[tokio::test]
async fn a_rate_limit_within_a_good_status_is_one_where_all_have_it() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&Config::to(&origin)).await;
    let limited = json!({"error": {"code": 429, "message": "slow down"}});
    origin.always(Reply::json(200, &limited));
    let reply = gateway.post(PATH, &chat()).await;
    assert_openai_error(&reply, 429, "rate_limit_exceeded");
    assert!(reply.header("retry-after").is_some());
}

#[tokio::test]
async fn an_error_that_comes_after_our_own_tries_is_not_to_be_tried_again() {
    let (first, second, gateway) = in_order().await;
    first.next(Reply::json(500, &json!({"error": {"message": "broken"}})));
    let fault = json!({"error": {"message": "no such model", "code": "x"}});
    second.next(Reply::json(404, &fault).header("x-should-retry", "true"));
    let reply = gateway.post(PATH, &chat()).await;
    assert_eq!((reply.status, reply.header("x-should-retry")), (404, Some("false")));
}
