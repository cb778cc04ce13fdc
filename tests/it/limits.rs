//! Rates, concurrency and the throttle: exact at the last unit, told truthfully, and a refusal is free.

use crate::harness::{
    Config, Gate, Gateway, KEY, Origin, Reply, Request, Response, assert_anthropic_error,
    assert_openai_error, chat, chat_stream, eventually, sample,
};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::task::JoinSet;

const CHAT: &str = "/v1/chat/completions";
/// Callers at once on the last units of a limit.
const CROWD: usize = 200;
const CROWD_SIZE: f64 = 200.0;

async fn limited(limits: &str) -> (Origin, Gateway) {
    let origin = Origin::start().await;
    let key = format!("name: tester, secret: \"{KEY}\", limits: {{ {limits} }}");
    let config = Config::to(&origin).without_keys().key(&key);
    let gateway = Gateway::start(&config).await;
    (origin, gateway)
}

/// Everybody at once; the statuses.
async fn crowd(gateway: &Arc<Gateway>, body: &Value) -> Vec<Response> {
    let mut calls = JoinSet::new();
    for _ in 0..CROWD {
        let (gateway, body) = (Arc::clone(gateway), body.clone());
        calls.spawn(async move { gateway.post(CHAT, &body).await });
    }
    calls.join_all().await
}

fn admitted(replies: &[Response]) -> usize {
    replies.iter().filter(|reply| reply.status == 200).count()
}

fn number(reply: &Response, name: &str) -> u64 {
    let value = reply.header(name).unwrap_or_else(|| panic!("no {name}: {reply:?}"));
    value.parse().unwrap_or_else(|_| panic!("{name}: {value}"))
}

/// Seconds of a span such as `1m0.5s` or `20ms`.
fn seconds(span: &str) -> f64 {
    if let Some(ms) = span.strip_suffix("ms") {
        return ms.parse::<f64>().unwrap() / 1_000.0;
    }
    let span = span.strip_suffix('s').unwrap();
    let (minutes, rest) = span.split_once('m').unwrap_or(("0", span));
    minutes.parse::<f64>().unwrap() * 60.0 + rest.parse::<f64>().unwrap()
}

#[tokio::test]
async fn of_a_crowd_exactly_as_many_pass_as_calls_are_left() {
    let (origin, gateway) = limited("requests_per_minute: 17").await;
    let gateway = Arc::new(gateway);
    let replies = crowd(&gateway, &chat()).await;
    assert_eq!((admitted(&replies), origin.calls().len()), (17, 17));
    for refused in replies.iter().filter(|reply| reply.status != 200) {
        assert_openai_error(refused, 429, "rate_limit_exceeded");
        assert!((1..=60).contains(&number(refused, "retry-after")), "{refused:?}");
        assert_eq!(number(refused, "x-ratelimit-remaining-requests"), 0);
    }
    let counted = [("code", "rate_limit_exceeded"), ("key", "tester")];
    gateway.metric_becomes("cirque_rejections_total", &counted, CROWD_SIZE - 17.0).await;
}

#[tokio::test]
async fn of_a_crowd_exactly_as_many_run_at_once_as_may() {
    let (origin, gateway) = limited("concurrent: 5").await;
    let gateway = Arc::new(gateway);
    let gate = Gate::new();
    origin.always(Reply::json_text(200, sample("chat_response.json")).after(&gate));
    let running = tokio::spawn({
        let gateway = Arc::clone(&gateway);
        async move { crowd(&gateway, &chat()).await }
    });
    let refusals = [("code", "rate_limit_exceeded"), ("key", "tester")];
    gateway.metric_becomes("cirque_rejections_total", &refusals, CROWD_SIZE - 5.0).await;
    eventually("five are there", || async { (origin.calls().len() >= 5).then_some(()) }).await;
    assert_eq!(origin.calls().len(), 5);
    let you = gateway.status().await["you"].clone();
    assert_eq!(
        you["limits"]["concurrent"],
        json!({"limit": 5, "remaining": 0, "reset_seconds": null})
    );
    gate.open();
    assert_eq!(admitted(&running.await.unwrap()), 5);
    // Every slot has come back.
    assert_eq!(gateway.status().await["you"]["limits"]["concurrent"]["remaining"], 5);
}

#[tokio::test]
async fn of_a_crowd_no_more_tokens_pass_than_are_left() {
    let mut body = chat();
    body["max_tokens"] = json!(100);
    let (origin, gateway) = limited("tokens_per_minute: 1500").await;
    let gateway = Arc::new(gateway);
    let gate = Gate::new();
    origin.always(Reply::json_text(200, sample("chat_response.json")).after(&gate));
    let running = tokio::spawn({
        let (gateway, body) = (Arc::clone(&gateway), body.clone());
        async move { crowd(&gateway, &body).await }
    });
    let refusals = [("code", "rate_limit_exceeded"), ("key", "tester")];
    eventually("the crowd is through", || async {
        let refused = gateway.metric("cirque_rejections_total", &refusals).await?;
        let passed = u32::try_from(origin.calls().len()).unwrap();
        (refused + f64::from(passed) - CROWD_SIZE).abs().lt(&0.5).then_some(())
    })
    .await;
    let calls = origin.calls().len() as u64;
    let left = gateway.status().await["you"]["limits"]["tokens_per_minute"].clone();
    let left = left["remaining"].as_u64().unwrap();
    let each = (1_500 - left) / calls;
    assert!(each >= 100 && left < each, "{calls} calls of {each} tokens, {left} left");
    gate.open();
    assert_eq!(admitted(&running.await.unwrap()) as u64, calls);
    // The reply used 906 tokens, more than it had asked for: all of them count.
    assert_eq!(gateway.status().await["you"]["limits"]["tokens_per_minute"]["remaining"], 0);
}

#[tokio::test]
async fn real_tokens_take_the_place_of_the_estimate() {
    let mut body = chat();
    body["max_tokens"] = json!(5_000);
    let (_origin, gateway) = limited("tokens_per_minute: 10000").await;
    let first = gateway.post(CHAT, &body).await;
    assert!(number(&first, "x-ratelimit-remaining-tokens") < 5_000);
    let line = gateway.log_of(&first).await;
    let used = line["input_tokens"].as_u64().unwrap() + line["output_tokens"].as_u64().unwrap();
    let left = gateway.status().await["you"]["limits"]["tokens_per_minute"]["remaining"].clone();
    assert_eq!(left, 10_000 - used);
}

#[tokio::test]
async fn a_call_that_can_never_fit_is_told_so() {
    let (origin, gateway) = limited("tokens_per_minute: 1000").await;
    let mut body = chat();
    body["max_tokens"] = json!(2_000);
    let refused = gateway.post(CHAT, &body).await;
    assert_openai_error(&refused, 429, "rate_limit_exceeded");
    assert_eq!(refused.header("x-should-retry"), Some("false"), "waiting does not help");
    assert_eq!(refused.header("retry-after"), Some("3600"));
    let message = refused.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("1000") && message.contains("lower the maximum"), "{message}");
    assert_eq!(number(&refused, "x-ratelimit-remaining-tokens"), 1_000);
    assert!(origin.calls().is_empty());
}

#[tokio::test]
async fn a_refusal_takes_nothing_of_any_limit() {
    let limits = "requests_per_minute: 10, tokens_per_minute: 50000, concurrent: 1";
    let (origin, gateway) = limited(limits).await;
    let gate = Gate::new();
    origin.always(Reply::json_text(200, sample("chat_response.json")).after(&gate));
    let mut running = gateway.client().await;
    running.send_request(&Request::post(CHAT, &chat())).await;
    origin.call(0).await;
    let before = gateway.status().await["you"]["limits"].clone();
    for _ in 0..20 {
        assert_openai_error(&gateway.post(CHAT, &chat()).await, 429, "rate_limit_exceeded");
    }
    // Nor do calls that never come so far, nor those that ask for no inference.
    let unknown = json!({"messages": chat()["messages"]});
    assert_openai_error(&gateway.post(CHAT, &unknown).await, 400, "invalid_request");
    gateway.get("/v1/models").await.assert_ok();
    gateway.get("/health").await.assert_ok();
    let after = gateway.status().await["you"]["limits"].clone();
    for limit in ["requests_per_minute", "tokens_per_minute", "concurrent"] {
        assert_eq!(before[limit]["remaining"], after[limit]["remaining"], "{limit}");
    }
    gate.open();
    assert_eq!(running.reply().await.unwrap().status, 200);
    gateway.post(CHAT, &chat()).await.assert_ok();
}

#[tokio::test]
async fn a_call_counts_once_admitted_also_when_the_upstream_fails() {
    let (origin, gateway) = limited("requests_per_minute: 2").await;
    origin.always(Reply::error(500));
    let failed = gateway.post(CHAT, &chat()).await;
    assert_openai_error(&failed, 502, "upstream_error");
    assert_eq!(number(&failed, "x-ratelimit-remaining-requests"), 1);
    gateway.post(CHAT, &chat()).await;
    assert_openai_error(&gateway.post(CHAT, &chat()).await, 429, "rate_limit_exceeded");
}

#[tokio::test]
async fn headers_tell_the_truth_on_every_kind_of_reply() {
    let (origin, gateway) = limited("requests_per_minute: 10, tokens_per_minute: 100000").await;
    origin.always(
        Reply::sse(sample("chat_stream_openai.sse"))
            .header("x-ratelimit-remaining-requests", "9999")
            .header("x-ratelimit-reset-tokens", "9h"),
    );
    for left in (0..10).rev() {
        let reply = gateway.post(CHAT, &chat_stream()).await;
        assert_eq!(number(&reply, "x-ratelimit-limit-requests"), 10);
        assert_eq!(number(&reply, "x-ratelimit-remaining-requests"), left);
        assert_eq!(number(&reply, "x-ratelimit-limit-tokens"), 100_000);
        let reset = seconds(reply.header("x-ratelimit-reset-requests").unwrap());
        assert!(reset > 55.0 && reset <= 60.0, "{reset}");
        assert_eq!(reply.header("retry-after"), None);
    }
    let refused = gateway.post(CHAT, &chat_stream()).await;
    let after = number(&refused, "retry-after");
    assert!((40..=60).contains(&after), "{after}");
    let message = json!({"model": "m", "max_tokens": 5, "messages": chat()["messages"]});
    let refused = gateway.post("/v1/messages", &message).await;
    assert_anthropic_error(&refused, 429, "rate_limit_error");
}

#[tokio::test]
async fn every_reply_to_a_limited_key_says_how_its_limits_stand_and_counts_calls_alone() {
    let (origin, gateway) = limited("requests_per_minute: 10, tokens_per_minute: 5000").await;
    let mut long = chat();
    long["max_tokens"] = json!(9_000);
    let packed = Request::post(CHAT, &chat()).header("content-encoding", "gzip");
    for (status, reply) in [
        (400, gateway.post(CHAT, &json!({"messages": []})).await),
        (404, gateway.get("/v1/models/nobody/knows").await),
        (415, gateway.call(&packed).await),
        (429, gateway.post(CHAT, &long).await),
        (200, gateway.get("/v1/models").await),
        (200, gateway.get("/status").await),
    ] {
        assert_eq!(reply.status, status, "{}", reply.text());
        assert_eq!(number(&reply, "x-ratelimit-limit-requests"), 10, "{status}");
        assert_eq!(number(&reply, "x-ratelimit-remaining-requests"), 10, "{status}");
        assert_eq!(number(&reply, "x-ratelimit-remaining-tokens"), 5_000, "{status}");
    }
    assert!(origin.calls().is_empty());
}

#[tokio::test]
async fn a_key_without_limits_hears_of_none() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&Config::to(&origin)).await;
    let reply = gateway.post(CHAT, &chat()).await;
    reply.assert_ok();
    assert!(!format!("{:?}", reply.headers).contains("x-ratelimit"), "{:?}", reply.headers);
    let you = gateway.status().await["you"].clone();
    assert_eq!(you["limits"]["requests_per_minute"]["limit"], Value::Null);
    assert_eq!(you["budget"]["limit_usd"], Value::Null);
}

#[tokio::test]
async fn two_secrets_of_one_key_share_its_limits() {
    let origin = Origin::start().await;
    let key = "name: tester, secret: sk-old, secrets: [sk-new], limits: { requests_per_minute: 2 }";
    let config = Config::to(&origin).without_keys().key(key);
    let gateway = Gateway::start(&config).await;
    let call = |secret: &str, header: &str| {
        Request::post(CHAT, &chat()).anonymous().header(header, secret)
    };
    gateway.call(&call("sk-old", "x-api-key")).await.assert_ok();
    gateway.call(&call("Bearer sk-new", "authorization")).await.assert_ok();
    for request in [call("sk-old", "api-key"), call("bearer  sk-new", "authorization")] {
        assert_openai_error(&gateway.call(&request).await, 429, "rate_limit_exceeded");
    }
}

#[tokio::test]
async fn limits_change_with_a_reload_and_what_was_used_stays_used() {
    let (origin, gateway) = limited("requests_per_minute: 3, concurrent: 2").await;
    for _ in 0..3 {
        gateway.post(CHAT, &chat()).await.assert_ok();
    }
    assert_openai_error(&gateway.post(CHAT, &chat()).await, 429, "rate_limit_exceeded");
    let key = format!("name: tester, secret: \"{KEY}\", limits: {{ requests_per_minute: 4 }}");
    gateway.rewrite(&Config::to(&origin).without_keys().key(&key).text());
    assert_eq!(gateway.admin_call("POST", "/reload").await.status, 200);
    let reply = gateway.post(CHAT, &chat()).await;
    assert_eq!((reply.status, number(&reply, "x-ratelimit-remaining-requests")), (200, 0));
    assert_openai_error(&gateway.post(CHAT, &chat()).await, 429, "rate_limit_exceeded");
    let ratio = [("key", "tester"), ("limit", "requests_per_minute")];
    assert_eq!(gateway.metric("cirque_limit_used_ratio", &ratio).await, Some(1.0));
    let gone = [("key", "tester"), ("limit", "concurrent")];
    assert_eq!(gateway.metric("cirque_limit_used_ratio", &gone).await, None);
}

#[tokio::test]
async fn a_secret_that_a_reload_takes_out_is_refused_and_leaves_its_calls_behind() {
    let origin = Origin::start().await;
    let with = |secrets: &str| {
        let key = format!("name: tester, {secrets}, limits: {{ requests_per_minute: 3 }}");
        Config::to(&origin).without_keys().key(&key)
    };
    let gateway = Gateway::start(&with("secret: sk-old, secrets: [sk-new]")).await;
    let call = |secret: &str| Request::post(CHAT, &chat()).anonymous().header("x-api-key", secret);
    gateway.call(&call("sk-old")).await.assert_ok();
    gateway.call(&call("sk-old")).await.assert_ok();
    gateway.rewrite(&with("secret: sk-new").text());
    assert_eq!(gateway.admin_call("POST", "/reload").await.status, 200);
    assert_openai_error(&gateway.call(&call("sk-old")).await, 401, "invalid_api_key");
    gateway.call(&call("sk-new")).await.assert_ok();
    assert_openai_error(&gateway.call(&call("sk-new")).await, 429, "rate_limit_exceeded");
}

#[tokio::test]
async fn an_address_that_fails_too_often_waits_and_whoever_has_a_key_does_not() {
    let origin = Origin::start().await;
    let config = Config::to(&origin)
        .server("trusted_proxies: [\"127.0.0.1/32\"]")
        .section("limits: { auth_failures_per_minute: 3 }");
    let gateway = Gateway::start(&config).await;
    let from = |address: &str, key: &str| {
        let request = Request::post(CHAT, &chat()).anonymous();
        request.header("x-api-key", key).header("x-forwarded-for", address)
    };
    for _ in 0..3 {
        let failed = gateway.call(&from("192.0.2.1", "sk-guess")).await;
        assert_openai_error(&failed, 401, "invalid_api_key");
    }
    let throttled = gateway.call(&from("192.0.2.1", "sk-guess")).await;
    assert_openai_error(&throttled, 429, "rate_limit_exceeded");
    assert!((1..=70).contains(&number(&throttled, "retry-after")));
    gateway.call(&from("192.0.2.1", KEY)).await.assert_ok();
    let elsewhere = gateway.call(&from("192.0.2.2", "sk-guess")).await;
    assert_openai_error(&elsewhere, 401, "invalid_api_key");
    // One IPv6 network of 64 bits is one address.
    for host in 0..3 {
        let failed = gateway.call(&from(&format!("2001:db8::{host:x}"), "sk-guess")).await;
        assert_openai_error(&failed, 401, "invalid_api_key");
    }
    let throttled = gateway.call(&from("2001:db8::ffff:1", "sk-guess")).await;
    assert_openai_error(&throttled, 429, "rate_limit_exceeded");
}
