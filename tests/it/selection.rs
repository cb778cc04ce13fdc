//! Which upstream a call goes to: balance, sessions, limits on calls at once, fallback models.

use crate::harness::{
    Config, FINISH, Gate, Gateway, Origin, Reply, Request, Response, assert_openai_error, chat,
    chat_stream, delta, eventually,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const PATH: &str = "/v1/chat/completions";

/// Two upstreams, `one` and `two`, behind one route.
struct Pair {
    one: Origin,
    two: Origin,
    gateway: Gateway,
}

impl Pair {
    async fn start(route: &str, one_extra: &str, two_extra: &str) -> Self {
        let (one, two) = (Origin::start().await, Origin::start().await);
        let config = Config::new()
            .upstream("one", &one.base_url(), one_extra)
            .upstream("two", &two.base_url(), two_extra)
            .route(&format!("models: [\"*\"], upstreams: [one, two], {route}"));
        let gateway = Gateway::start(&config).await;
        Self { one, two, gateway }
    }

    fn counts(&self) -> (usize, usize) {
        (self.one.calls().len(), self.two.calls().len())
    }
}

fn by(reply: &Response) -> String {
    reply.assert_ok().header("x-cirque-upstream").expect("an upstream").to_owned()
}

#[tokio::test]
async fn weights_are_kept() {
    let pair = Pair::start("balance: weighted", "weight: 3", "").await;
    for _ in 0..8 {
        pair.gateway.post(PATH, &chat()).await.assert_ok();
    }
    assert_eq!(pair.counts(), (6, 2));
}

#[tokio::test]
async fn the_least_busy_upstream_is_asked() {
    let pair = Pair::start("balance: least_busy", "", "").await;
    let gate = Gate::new();
    pair.one.always(Reply::json_text(200, "{\"choices\":[]}").after(&gate));
    pair.two.always(Reply::json_text(200, "{\"choices\":[]}").after(&gate));
    let mut waiting = Vec::new();
    for number in 0..4 {
        let mut client = pair.gateway.client().await;
        waiting.push(tokio::spawn(async move { client.call(&Request::post(PATH, &chat())).await }));
        eventually("the call upstream", || async {
            let (one, two) = pair.counts();
            (one + two > number).then_some(())
        })
        .await;
    }
    assert_eq!(pair.counts(), (2, 2));
    gate.open();
    for call in waiting {
        call.await.expect("a reply").assert_ok();
    }
}

#[tokio::test]
async fn a_slow_upstream_gets_nothing_under_fastest_while_a_quick_one_is_there() {
    let patient = "breaker: { failures: 1000, within: 30s, eject: 30s }";
    let slow = format!("timeouts: {{ first_byte: 1s }}, {patient}");
    let pair = Pair::start("balance: fastest", &slow, patient).await;
    pair.one.next(Reply::silence());
    // Of two that nobody knows chance takes one; the quick one is soon known as quicker than that.
    eventually("a call at the slow one", || async {
        pair.gateway.post(PATH, &chat()).await.assert_ok();
        (pair.counts().0 == 1).then_some(())
    })
    .await;
    let before = pair.counts();
    for _ in 0..20 {
        pair.gateway.post(PATH, &chat()).await.assert_ok();
    }
    assert_eq!(pair.counts(), (before.0, before.1 + 20));
}

#[tokio::test]
async fn a_session_stays_at_one_upstream_and_others_spread() {
    let pair = Pair::start("balance: round_robin", "", "").await;
    let mut homes = BTreeMap::<String, u32>::new();
    for session in 0..24 {
        let call = Request::post(PATH, &chat()).header("x-session-id", &format!("s{session}"));
        let home = by(&pair.gateway.call(&call).await);
        assert_eq!(by(&pair.gateway.call(&call).await), home, "s{session}");
        *homes.entry(home).or_default() += 1;
    }
    assert_eq!(homes.len(), 2, "{homes:?}");
}

#[tokio::test]
async fn a_session_moves_when_its_upstream_fails_and_comes_home() {
    let patient = "breaker: { failures: 1000, within: 30s, eject: 30s }";
    let pair = Pair::start("retry: { attempts: 3, budget: 1.0 }", patient, patient).await;
    let call = Request::post(PATH, &chat()).header("x-session-id", "s");
    let home = by(&pair.gateway.call(&call).await);
    let origin = if home == "one" { &pair.one } else { &pair.two };
    origin.next(Reply::error(503));
    assert_ne!(by(&pair.gateway.call(&call).await), home);
    assert_eq!(by(&pair.gateway.call(&call).await), home);
}

#[tokio::test]
async fn no_more_calls_at_once_than_an_upstream_may_have() {
    let pair =
        Pair::start("balance: priority", "max_concurrent: 1", "max_concurrent: 1, priority: 1")
            .await;
    let gate = Gate::new();
    let stream = || Reply::stream().piece(delta("a")).wait(&gate).piece(FINISH).end();
    pair.one.always(stream());
    pair.two.always(stream());
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut client = pair.gateway.client().await;
        client.open(&Request::post(PATH, &chat_stream())).await;
        client.read_until("\"a\"").await;
        clients.push(client);
    }
    assert_eq!(pair.counts(), (1, 1), "the second call found the first upstream full");
    let refused = pair.gateway.post(PATH, &chat()).await;
    assert_openai_error(&refused, 503, "no_upstream_available");
    assert!(refused.header("retry-after").is_some());
    assert_eq!(pair.counts(), (1, 1), "nobody was asked beyond its limit");
    gate.open();
    for client in &mut clients {
        client.rest().await;
    }
    pair.gateway.metric_becomes("cirque_upstream_inflight", &[], 0.0).await;
    eventually("a place", || async {
        (pair.gateway.post(PATH, &chat_stream()).await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_fallback_model_is_asked_for_once_every_upstream_failed() {
    let origin = Origin::start().await;
    let config = Config::new()
        .key("name: narrow, secret: sk-narrow-1, models: [\"acme/*\"]")
        .upstream("main", &origin.base_url(), "models: { \"acme/spare\": \"real-spare\" }")
        .route(
            "models: [\"*\"], upstreams: [main], retry: { attempts: 1, budget: 1.0 }, \
             fallback_models: [\"other/spare\", \"acme/spare\"]",
        );
    let gateway = Gateway::start(&config).await;
    origin.answer(|call| match call.json()["model"].as_str() {
        Some("acme/wisp-2-mini" | "other/spare") => Reply::error(503),
        _ => Reply::json_text(200, "{\"choices\":[]}"),
    });
    let reply = gateway.post(PATH, &chat()).await;
    assert_eq!(reply.assert_ok().header("x-cirque-attempts"), Some("3"));
    let models = |origin: &Origin| -> Vec<Value> {
        origin.calls().iter().map(|call| call.json()["model"].clone()).collect()
    };
    assert_eq!(models(&origin), ["acme/wisp-2-mini", "other/spare", "real-spare"]);
    // A key is never given a model outside its own list.
    let narrow = Request::post(PATH, &chat()).anonymous().header("x-api-key", "sk-narrow-1");
    gateway.call(&narrow).await.assert_ok();
    assert_eq!(models(&origin)[3..], ["acme/wisp-2-mini", "real-spare"]);
    let line = gateway.log_of(&reply).await;
    assert_eq!((&line["model"], &line["attempts"]), (&json!("acme/wisp-2-mini"), &json!(3)));
}

#[tokio::test]
async fn a_busy_upstream_is_no_reason_to_ask_for_another_model() {
    let origin = Origin::start().await;
    let config = Config::new()
        .upstream("main", &origin.base_url(), "max_concurrent: 1")
        .upstream("spare", &origin.base_url(), "")
        .route(
            "models: [\"acme/*\"], upstreams: [main], fallback_models: [\"other/spare\"], \
             retry: { budget: 1.0 }",
        )
        .route("models: [\"*\"], upstreams: [spare]");
    let gateway = Gateway::start(&config).await;
    let gate = Gate::new();
    origin.next(Reply::error(400).after(&gate));
    let mut client = gateway.client().await;
    client.send_request(&Request::post(PATH, &chat())).await;
    origin.call(0).await;
    let reply = gateway.post(PATH, &chat()).await;
    assert_openai_error(&reply, 503, "no_upstream_available");
    gate.open();
    assert_eq!(origin.calls().len(), 1);
}

#[tokio::test]
async fn a_callers_own_fault_asks_for_no_other_model() {
    let origin = Origin::start().await;
    let config = Config::to(&origin)
        .route("models: [\"*\"], upstreams: [main], fallback_models: [\"acme/spare\"]");
    let gateway = Gateway::start(&config).await;
    for status in [400, 404, 413, 422] {
        origin.next(Reply::error(status));
        assert_eq!(gateway.post(PATH, &chat()).await.status, status);
    }
    assert_eq!(origin.calls().len(), 4);
}

#[tokio::test]
async fn one_upstream_alone_is_asked_once_more_after_a_failure_that_passes() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&Config::to(&origin)).await;
    for script in [Reply::error(503), Reply::reset_at_once(), Reply::closed()] {
        let before = origin.calls().len();
        origin.next(script);
        let reply = gateway.post(PATH, &chat()).await;
        assert_eq!(reply.assert_ok().header("x-cirque-attempts"), Some("2"));
        assert_eq!(origin.calls().len() - before, 2);
    }
    let refused = [("outcome", "status_5xx")];
    assert_eq!(gateway.metric("cirque_upstream_requests_total", &refused).await, Some(1.0));
    assert_eq!(gateway.metric("cirque_failovers_total", &[]).await, None, "it went nowhere else");
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_costs_no_attempt() {
    let origin = Origin::start().await;
    let config = Config::to(&origin)
        .route("models: [\"*\"], upstreams: [main], retry: { attempts: 1, budget: 0 }");
    let gateway = Gateway::start(&config).await;
    gateway.post(PATH, &chat()).await.assert_ok();
    let origin = origin.restart().await;
    let reply = gateway.post(PATH, &chat()).await;
    assert_eq!(reply.assert_ok().header("x-cirque-attempts"), Some("1"));
    assert_eq!(origin.calls().len(), 1);
}

#[tokio::test]
async fn strict_providers_get_no_members_that_they_refuse() {
    let (strict, open) = (Origin::start().await, Origin::start().await);
    let config = Config::new()
        .upstream("strict", &strict.base_url(), "provider: openai")
        .upstream("mistral", &strict.base_url(), "provider: mistral")
        .upstream("open", &open.base_url(), "provider: openrouter")
        .route("models: [\"strict\"], upstreams: [strict]")
        .route("models: [\"mistral\"], upstreams: [mistral]")
        .route("models: [\"*\"], upstreams: [open]");
    let gateway = Gateway::start(&config).await;
    let thoughtful = json!({"role": "assistant", "reasoning_content": "hm", "content": "hi"});
    let body = |model: &str| {
        json!({
            "session_id": "s", "model": model, "provider": {"order": ["a"]},
            "messages": [thoughtful], "max_completion_tokens": 9,
            "reasoning": {"effort": "low"}, "temperature": 0.5, "usage": {"include": true},
        })
    };
    for model in ["strict", "mistral", "any"] {
        gateway.post(PATH, &body(model)).await.assert_ok();
    }
    let sent = |model: &str, message: &Value, tokens: &str| json!({"model": model, "messages": [message], tokens: 9, "temperature": 0.5});
    let thoughtless = json!({"role": "assistant", "content": "hi"});
    assert_eq!(strict.calls()[0].json(), sent("strict", &thoughtful, "max_completion_tokens"));
    assert_eq!(strict.calls()[1].json(), sent("mistral", &thoughtless, "max_tokens"));
    assert_eq!(open.only_call().json(), body("any"), "who knows them gets them");
}
