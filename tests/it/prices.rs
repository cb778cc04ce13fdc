//! What a call is billed at: the price of the model that answered, at its length, and never less than what
//! the upstream itself has named.

use crate::harness::{Config, Gateway, KEY, Origin, Reply, assert_openai_error, chat, eventually};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";

async fn start(origin: &Origin, upstream: &str, budget: &str, rest: &str) -> Gateway {
    let key = format!("name: tester, secret: \"{KEY}\", budget: {{ {budget} }}");
    let config = Config::new().without_keys().key(&key);
    let config = config.upstream("main", &origin.base_url(), upstream);
    Gateway::start(&if rest.is_empty() { config } else { config.section(rest) }).await
}

fn answer(model: &str, usage: &Value) -> Reply {
    let choice = json!({"index": 0, "message": {"content": "hi"}, "finish_reason": "stop"});
    Reply::json(200, &json!({"id": "x", "model": model, "choices": [choice], "usage": usage}))
}

fn tokens(input: u64, output: u64) -> Value {
    json!({"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output})
}

fn asking(model: &str, rest: &Value) -> Value {
    let mut body = chat();
    body["model"] = json!(model);
    body["max_tokens"] = json!(100);
    body.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    body
}

const CHEAP_AND_DEAR: &str = "prices: { cheap: { input_per_million: 1, output_per_million: 1 }, \
    dear: { input_per_million: 100, output_per_million: 100 }, \
    cheap-pro: { input_per_million: 100, output_per_million: 100 } }";

#[tokio::test]
async fn where_the_upstream_may_choose_the_model_that_answered_is_billed() {
    let origin = Origin::start().await;
    let upstream = "provider: openrouter, models: { slow: dear }";
    let gateway = start(&origin, upstream, "usd: 5, per: total", CHEAP_AND_DEAR).await;
    let mut spent = 0.0;
    for (served, named, usd) in [
        ("dear", json!({"models": ["dear"]}), 0.02),
        ("dear-20261101", json!({"models": ["dear"]}), 0.02),
        ("dear", json!({"models": ["slow"]}), 0.02),
        ("cheap", json!({"models": ["dear"]}), 0.000_2),
        ("who knows", json!({"models": ["dear"]}), 0.02),
        // A name without a price of its own is no way to call for free, nor is one that begins alike.
        ("cheap-2026", json!({"models": ["cheap-2026"]}), 0.000_2),
        ("cheap-pro", json!({"preset": "any"}), 0.02),
        // What the caller asked for and nothing else, whatever the reply calls it.
        ("dear", json!({}), 0.000_2),
    ] {
        origin.next(answer(served, &tokens(100, 100)));
        let reply = gateway.post(CHAT, &asking("cheap", &named)).await;
        reply.assert_ok();
        assert_eq!(gateway.log_of(&reply).await["cost_usd"], usd, "{served}");
        spent += usd;
        gateway.used_becomes(spent).await;
    }
    let sent = &origin.calls()[2];
    assert_eq!(sent.json()["models"], json!(["dear"]), "by the upstream's own name");
    let message = json!({"type": "message", "role": "assistant", "model": "dear", "content": [],
        "stop_reason": "end_turn", "usage": {"input_tokens": 100, "output_tokens": 100}});
    origin.next(Reply::json(200, &message));
    let body = asking("cheap", &json!({"fallbacks": [{"model": "dear"}]}));
    gateway.post("/v1/messages", &body).await.assert_ok();
    gateway.used_becomes(spent + 0.02).await;
}

#[tokio::test]
async fn a_long_prompt_is_billed_at_the_price_of_long_prompts() {
    let origin = Origin::start().await;
    let pricing = json!({"prompt": "0.000001", "completion": "0.000002", "overrides": [
        {"min_prompt_tokens": 100, "prompt": "0.00001", "completion": "0.00002"}]});
    let listed = json!({"id": "long", "canonical_slug": "long-20261101", "pricing": pricing});
    origin.lists_reply(Reply::json(200, &json!({"data": [listed]})));
    let gateway = start(&origin, "", "usd: 50, per: total", "").await;
    gateway.lists("long").await;
    for (model, input, usd) in [
        ("long", 100, 0.000_11),
        ("long", 101, 0.001_11),
        ("long", 100_000, 1.000_1),
        ("long-20261101", 100, 0.000_11),
        ("long:nitro", 101, 0.001_11),
    ] {
        origin.next(answer("x", &tokens(input, 5)));
        let reply = gateway.post(CHAT, &asking(model, &json!({}))).await;
        reply.assert_ok();
        assert_eq!(gateway.log_of(&reply).await["cost_usd"], usd, "{model}, {input} tokens");
    }
}

#[tokio::test]
async fn a_failure_that_names_its_cost_is_billed_alone_and_before_another_call() {
    let mut billed = tokens(10, 5);
    billed["cost"] = json!(0.7);
    let failures = [
        (CHAT, json!({"error": {"message": "x", "code": 500}, "usage": billed})),
        (
            CHAT,
            json!({"choices": [{"index": 0, "message": {"content": ""}, "finish_reason": "error",
            "error": {"message": "x"}}], "usage": billed}),
        ),
    ];
    for (path, failure) in failures {
        let (bad, good) = (Origin::start().await, Origin::start().await);
        let key = format!("name: tester, secret: \"{KEY}\", budget: {{ usd: 50, per: total }}");
        let config = Config::new()
            .without_keys()
            .key(&key)
            .upstream("bad", &bad.base_url(), "")
            .upstream("good", &good.base_url(), "")
            .route("models: [alone], upstreams: [bad], retry: { attempts: 1 }")
            .route("models: [\"*\"], upstreams: [bad, good], balance: priority")
            .section("prices: { \"*\": { input_per_million: 1, output_per_million: 1 } }");
        let gateway = Gateway::start(&config).await;
        bad.always(Reply::json(200, &failure));
        good.always(Reply::costing(0.1));
        let reply = gateway.post(path, &asking("alone", &json!({}))).await;
        assert_openai_error(&reply, 502, "upstream_error");
        assert_eq!(gateway.log_of(&reply).await["cost_usd"], 0.7);
        gateway.used_becomes(0.7).await;
        let reply = gateway.post(path, &asking("both", &json!({}))).await;
        reply.assert_ok();
        assert_eq!(gateway.log_of(&reply).await["cost_usd"], 0.8);
        gateway.used_becomes(1.5).await;
    }
}

#[tokio::test]
async fn what_has_no_price_is_told_once() {
    let origin = Origin::start().await;
    let gateway = start(&origin, "", "usd: 1, per: total", "").await;
    origin.always(answer("m", &tokens(10, 5)));
    for _ in 0..3 {
        gateway.post(CHAT, &asking("nobody/knows", &json!({}))).await.assert_ok();
    }
    gateway.post(CHAT, &asking("nobody/else", &json!({}))).await.assert_ok();
    let told = |model: &str| {
        let text = gateway.process.stderr.text();
        text.lines()
            .filter(|line| line.contains("no price is known") && line.contains(model))
            .count()
    };
    eventually("both are told", || async {
        (told("nobody/knows") == 1 && told("nobody/else") == 1).then_some(())
    })
    .await;
}
