//! Budgets are hard: what may be spent is set aside first, what was spent survives everything.

use crate::harness::{
    Config, Fate, Gate, Gateway, KEY, Origin, Reply, Request, assert_openai_error, chat,
    chat_stream, delta, events, eventually, sample,
};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tempfile::TempDir;
use tokio::task::JoinSet;

const CHAT: &str = "/v1/chat/completions";
/// 1 $ a million tokens in, 10 $ a million out.
const PRICES: &str = "prices: { \"acme/*\": { input_per_million: 1, output_per_million: 10 } }";

fn config(origin: &Origin, budget: &str) -> Config {
    let key = format!("name: tester, secret: \"{KEY}\", budget: {{ {budget} }}");
    Config::to(origin).without_keys().key(&key).section(PRICES)
}

async fn budgeted(budget: &str) -> (Origin, Gateway) {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&config(&origin, budget)).await;
    (origin, gateway)
}

/// A call with at most so much output.
fn short(max_tokens: u64) -> Value {
    let mut body = chat();
    body["max_tokens"] = json!(max_tokens);
    body
}

/// Whether as many calls of a crowd were refused as did not pass.
fn through(refused: f64, passed: usize, crowd: usize) -> Option<()> {
    let passed = f64::from(u32::try_from(passed).unwrap());
    let crowd = f64::from(u32::try_from(crowd).unwrap());
    (refused + passed - crowd).abs().lt(&0.5).then_some(())
}

/// A call for a model whose price nobody knows.
fn unpriced() -> Value {
    let mut body = chat();
    body["model"] = json!("nobody/knows");
    body
}

#[tokio::test]
async fn of_a_crowd_on_the_last_cent_no_more_pass_than_it_covers() {
    // 100 tokens of output are 0.001 $ each and the prompt is about 0.00004 $.
    let (origin, gateway) = budgeted("usd: 0.01, per: day").await;
    let gateway = Arc::new(gateway);
    let gate = Gate::new();
    origin.always(Reply::costing(0.001).after(&gate));
    let mut calls = JoinSet::new();
    for _ in 0..200 {
        let gateway = Arc::clone(&gateway);
        calls.spawn(async move { gateway.post(CHAT, &short(100)).await });
    }
    let refused = [("code", "insufficient_quota"), ("key", "tester")];
    eventually("the crowd is through", || async {
        let refused = gateway.metric("cirque_rejections_total", &refused).await?;
        through(refused, origin.calls().len(), 200)
    })
    .await;
    assert_eq!(origin.calls().len(), 9, "a tenth would not be covered");
    assert!(gateway.used_usd().await < 1e-9);
    gate.open();
    let replies = calls.join_all().await;
    assert_eq!(replies.iter().filter(|reply| reply.status == 200).count(), 9);
    for reply in replies.iter().filter(|reply| reply.status != 200) {
        assert_openai_error(reply, 429, "insufficient_quota");
        assert_eq!(reply.header("x-should-retry"), Some("false"));
    }
    // Settled with what the upstream billed, and the rest given back.
    gateway.used_becomes(0.009).await;
    let key = [("key", "tester")];
    gateway.metric_becomes("cirque_budget_remaining_usd", &key, 0.001).await;
    let cost = [("source", "upstream"), ("key", "tester")];
    gateway.metric_becomes("cirque_cost_usd_total", &cost, 0.009).await;
}

#[tokio::test]
async fn without_a_known_price_a_crowd_goes_one_by_one_and_never_beyond() {
    let origin = Origin::start().await;
    let key = format!("name: tester, secret: \"{KEY}\", budget: {{ usd: 0.01, per: total }}");
    let gateway = Gateway::start(&Config::to(&origin).without_keys().key(&key)).await;
    origin.always(Reply::costing(0.001));
    let gateway = Arc::new(gateway);
    let mut calls = JoinSet::new();
    for _ in 0..200 {
        let gateway = Arc::clone(&gateway);
        calls.spawn(async move { gateway.post(CHAT, &unpriced()).await.status });
    }
    let statuses = calls.join_all().await;
    let passed = statuses.iter().filter(|status| **status == 200).count();
    assert!((1..=10).contains(&passed) && origin.calls().len() == passed, "{passed}");
    #[expect(clippy::cast_precision_loss, reason = "ten at most")]
    gateway.used_becomes(0.001 * passed as f64).await;
    while gateway.post(CHAT, &unpriced()).await.status == 200 {}
    gateway.used_becomes(0.01).await;
    let refused = gateway.post(CHAT, &unpriced()).await;
    assert_openai_error(&refused, 429, "insufficient_quota");
    assert_eq!(refused.header("retry-after"), Some("3600"), "a budget in all never starts again");
    assert_eq!(refused.header("x-should-retry"), Some("false"));
}

#[tokio::test]
async fn a_budget_of_nothing_lets_nothing_through() {
    let (origin, gateway) = budgeted("usd: 0, per: total").await;
    let reply = gateway.post(CHAT, &short(10)).await;
    assert_openai_error(&reply, 429, "insufficient_quota");
    assert_eq!(origin.calls().len(), 0);
    let left = [("key", "tester")];
    assert_eq!(gateway.metric("cirque_budget_remaining_usd", &left).await, Some(0.0));
}

#[tokio::test]
async fn a_stream_that_ends_without_a_reason_costs_what_its_upstream_says() {
    let (origin, gateway) = budgeted("usd: 1, per: day").await;
    let said = delta("far more words than the three tokens that its usage names below");
    let usage =
        r#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}"#;
    origin.always(Reply::sse(format!("{said}data: {usage}\n\ndata: [DONE]\n\n")));
    gateway.post(CHAT, &chat_stream()).await;
    // 7 and 3 tokens at 1 and 10 $ a million.
    gateway.used_becomes(0.000_037).await;
    let config = [("source", "config"), ("key", "tester")];
    gateway.metric_becomes("cirque_cost_usd_total", &config, 0.000_037).await;
}

#[tokio::test]
async fn a_refusal_names_the_budget_and_when_it_starts_again() {
    let (origin, gateway) = budgeted("usd: 0.002, per: day").await;
    origin.always(Reply::costing(0.0019));
    gateway.post(CHAT, &short(100)).await.assert_ok();
    let refused = gateway.post(CHAT, &short(100)).await;
    assert_openai_error(&refused, 429, "insufficient_quota");
    let message = refused.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("$0.002 a day"), "{message}");
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!(wait > 0 && wait <= 86_400, "{wait}");
    // What is cheaper still passes.
    gateway.post(CHAT, &short(2)).await.assert_ok();
}

#[tokio::test]
async fn every_source_of_a_cost_is_named() {
    let origin = Origin::start().await;
    origin.lists_reply(Reply::json(
        200,
        &json!({"data": [
            {"id": "listed/model", "pricing": {"prompt": "0.000002", "completion": "0.00001"}},
        ]}),
    ));
    let gateway = Gateway::start(&config(&origin, "usd: 5, per: month")).await;
    gateway.lists("listed/model").await;
    let reply = |usage: Value| {
        let choice =
            json!({"index": 0, "message": {"content": "hello there"}, "finish_reason": "stop"});
        Reply::json(200, &json!({"id": "x", "model": "m", "choices": [choice], "usage": usage}))
    };
    let usage = json!({"prompt_tokens": 1_000, "completion_tokens": 100, "total_tokens": 1_100});
    let mut billed = usage.clone();
    billed["cost"] = json!(0.5);
    for (model, usage, source, usd) in [
        ("acme/wisp", &billed, "upstream", Some(0.5)),
        ("acme/wisp", &usage, "config", Some(0.002)),
        ("listed/model", &usage, "catalogue", Some(0.003)),
        ("nobody/knows", &usage, "none", None),
        ("acme/wisp", &Value::Null, "estimate", None),
    ] {
        origin.next(reply(usage.clone()));
        let mut body = short(100);
        body["model"] = json!(model);
        let answer = gateway.post(CHAT, &body).await;
        answer.assert_ok();
        let line = gateway.log_of(&answer).await;
        match usd {
            Some(usd) => assert_eq!(line["cost_usd"], usd, "{source}: {line}"),
            None if source == "none" => assert_eq!(line["cost_usd"], Value::Null),
            None => assert!(line["cost_usd"].as_f64().unwrap() > 0.0),
        }
        assert_eq!(line["cost_source"], source, "{line}");
        let counted = gateway.metric("cirque_cost_usd_total", &[("source", source)]).await;
        assert!(counted.is_some(), "{source}");
    }
}

#[tokio::test]
async fn a_model_whose_tokens_are_free_and_whose_images_are_not_is_no_free_model() {
    let origin = Origin::start().await;
    let free = |image: &str| json!({"prompt": "0", "completion": "0", "image": image});
    origin.lists_reply(Reply::json(
        200,
        &json!({"data": [
            {"id": "draws", "pricing": free("0.04")}, {"id": "talks", "pricing": free("0")},
        ]}),
    ));
    let gateway = Gateway::start(&config(&origin, "usd: 0.1, per: day")).await;
    gateway.lists("talks").await;
    origin.always(Reply::costing(0.05));
    let mut body = chat();
    body["model"] = json!("draws");
    for _ in 0..2 {
        gateway.post(CHAT, &body).await.assert_ok();
    }
    assert_openai_error(&gateway.post(CHAT, &body).await, 429, "insufficient_quota");
    body["model"] = json!("talks");
    gateway.post(CHAT, &body).await.assert_ok();
}

#[tokio::test]
async fn the_dearest_that_any_upstream_lists_is_reserved_and_the_answering_ones_is_billed() {
    let (cheap, dear) = (Origin::start().await, Origin::start().await);
    let usage = json!({"prompt_tokens": 1_000, "completion_tokens": 100, "total_tokens": 1_100});
    for (origin, usd) in [(&cheap, "0.000001"), (&dear, "0.00001")] {
        let listed = json!({"id": "shared", "pricing": {"prompt": usd, "completion": usd}});
        origin.lists_reply(Reply::json(200, &json!({"data": [listed]})));
        let choice = json!({"message": {"content": "hi"}, "finish_reason": "stop"});
        origin.always(Reply::json(200, &json!({"choices": [choice], "usage": usage})));
    }
    let key = format!("name: tester, secret: \"{KEY}\", budget: {{ usd: 0.05, per: day }}");
    let config = Config::new()
        .without_keys()
        .key(&key)
        .upstream("cheap", &cheap.base_url(), "")
        .upstream("dear", &dear.base_url(), "")
        .route("models: [\"*\"], upstreams: [cheap, dear], balance: priority");
    let gateway = Gateway::start(&config).await;
    eventually("both lists", || async {
        let mut body = short(10_000);
        body["model"] = json!("shared");
        (gateway.post(CHAT, &body).await.status == 429).then_some(())
    })
    .await;
    let before = gateway.used_usd().await;
    let mut body = short(100);
    body["model"] = json!("shared");
    gateway.post(CHAT, &body).await.assert_ok();
    gateway.used_becomes(before + 0.001_1).await;
}

#[tokio::test]
async fn a_cost_that_cannot_be_in_dollars_is_none() {
    let (origin, gateway) = budgeted("usd: 5, per: day").await;
    origin.always(Reply::costing(1e10));
    let reply = gateway.post(CHAT, &short(100)).await;
    reply.assert_ok();
    // 10 tokens of the prompt and 5 of the answer.
    assert_eq!(gateway.log_of(&reply).await["cost_usd"], 0.000_06);
    gateway.used_becomes(0.000_06).await;
}

/// What providers say of caches, reasoning, keys of one's own and in units of their own.
#[tokio::test]
async fn every_way_to_say_a_cost_is_understood_end_to_end() {
    let origin = Origin::start().await;
    let prices = "prices: { \"acme/*\": { input_per_million: 1, output_per_million: 10, \
                  cached_input_per_million: 0.1 } }";
    let key = format!("name: tester, secret: \"{KEY}\", budget: {{ usd: 50, per: day }}");
    let gateway =
        Gateway::start(&Config::to(&origin).without_keys().key(&key).section(prices)).await;
    let details = json!({"cached_tokens": 600, "cache_write_tokens": 100});
    let counted = json!({"prompt_tokens": 1_000, "completion_tokens": 100, "total_tokens": 1_100,
        "prompt_tokens_details": details, "completion_tokens_details": {"reasoning_tokens": 60}});
    let with = |more: Value| {
        let mut usage = counted.clone();
        usage.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        usage
    };
    let own_key = json!({"cost": 0.05, "is_byok": true,
        "cost_details": {"upstream_inference_cost": 1.0}});
    let messages = json!({"input_tokens": 300, "cache_read_input_tokens": 600,
        "cache_creation_input_tokens": 100, "output_tokens": 100});
    let mut spent = 0.0;
    for (path, usage, source, usd) in [
        // 400 at 1 $, 600 at 0.1 $, 100 at 10 $ a million.
        (CHAT, counted.clone(), "config", 0.001_46),
        ("/v1/messages", messages, "config", 0.001_46),
        (CHAT, with(own_key), "upstream", 1.05),
        (CHAT, with(json!({"cost_in_usd_ticks": 5_000_000_000_u64})), "upstream", 0.5),
        (CHAT, with(json!({"cost": 0})), "upstream", 0.0),
    ] {
        let choice = json!({"message": {"content": "hi"}, "finish_reason": "stop"});
        let reply = json!({"type": "message", "choices": [choice], "content": [], "usage": usage});
        origin.next(Reply::json(200, &reply));
        let answer = gateway.post(path, &short(100)).await;
        answer.assert_ok();
        let line = gateway.log_of(&answer).await;
        assert!((line["cost_usd"].as_f64().unwrap() - usd).abs() < 1e-9, "{path} {source}: {line}");
        assert!(gateway.metric("cirque_cost_usd_total", &[("source", source)]).await.is_some());
        spent += usd;
        gateway.used_becomes(spent).await;
    }
}

/// For each dialect: its path, the beginning of a stream, an event with this text, and what stands at
/// the end of an answer that was too long.
fn endless(text: &str) -> [(&'static str, String, String, &'static str); 3] {
    let message = |event: &str, data: Value| format!("event: {event}\ndata: {data}\n\n");
    let anthropic_start = message(
        "message_start",
        json!({"type": "message_start", "message":
        {"id": "msg_1", "type": "message", "role": "assistant", "model": "acme/wisp-2-mini",
         "content": [], "usage": {"input_tokens": 9, "output_tokens": 1}}}),
    );
    [
        (CHAT, String::new(), delta(text), "\"finish_reason\":\"length\""),
        (
            "/v1/responses",
            message(
                "response.created",
                json!({"type": "response.created", "sequence_number": 0,
                "response": {"id": "resp_1", "model": "acme/wisp-2-mini", "status": "in_progress"}}),
            ),
            message(
                "response.output_text.delta",
                json!({"type": "response.output_text.delta",
                "sequence_number": 1, "delta": text}),
            ),
            "\"max_output_tokens\"",
        ),
        (
            "/v1/messages",
            anthropic_start,
            message(
                "content_block_delta",
                json!({"type": "content_block_delta", "index": 0,
                "delta": {"type": "text_delta", "text": text}}),
            ),
            "\"stop_reason\":\"max_tokens\"",
        ),
    ]
}

#[tokio::test]
async fn a_stream_that_reaches_its_reservation_ends_as_too_long_in_every_dialect() {
    let origin = Origin::start().await;
    let config =
        config(&origin, "usd: 5, per: day").section("limits: { default_max_output_tokens: 20 }");
    let gateway = Gateway::start(&config).await;
    let text = "never ending ";
    let cases = endless(text);
    for (number, (path, start, piece, mark)) in cases.into_iter().enumerate() {
        // A piece of nothing would end the body.
        let begun = Some(start).filter(|start| !start.is_empty());
        let begun = begun.into_iter().fold(Reply::stream(), Reply::piece);
        let endless = (0..20_000).fold(begun, |reply, _| reply.piece(&piece));
        origin.next(endless.hang());
        let mut body = crate::harness::streamed(path);
        // No catalogue names the longest answer of this one.
        body["model"] = json!("acme/unlisted");
        if path == "/v1/messages" {
            body["max_tokens"] = json!(20);
        }
        let reply = gateway.post(path, &body).await;
        assert!(reply.complete, "{path}");
        let stream = reply.text();
        let last = events(&reply.body);
        assert!(stream.contains(mark), "{path}: {:?}", last.last());
        // 20 tokens are nine texts, and half as much again and a word where the caller names the maximum.
        let texts = if path == "/v1/messages" { 17 } else { 9 };
        assert_eq!(stream.matches(text).count(), texts, "{path}");
        assert_eq!(origin.call(number).await.fate().await, Fate::CallerLeft, "{path}");
        let line = gateway.log_of(&reply).await;
        assert_eq!((&line["finish"], &line["error_code"]), (&json!("length"), &Value::Null));
        assert!(line["cost_usd"].as_f64().unwrap() > 0.000_1, "{line}");
    }
    assert!(gateway.used_usd().await > 0.000_3);
}

/// A stream of one piece that holds more than anybody has reserved.
fn burst() -> Reply {
    Reply::stream().piece(delta("never ending ").repeat(600)).hang()
}

#[tokio::test]
async fn a_burst_is_cut_where_it_has_used_up_its_reservation() {
    let (origin, gateway) = budgeted("usd: 0.0004, per: day").await;
    origin.next(burst());
    let mut body = chat_stream();
    body["max_tokens"] = json!(20);
    let reply = gateway.post(CHAT, &body).await;
    assert!(reply.complete && reply.text().contains("\"finish_reason\":\"length\""));
    assert_eq!(reply.text().matches("never ending").count(), 17);
    // Our count lies above the upstream's by half at most: what is billed is what was reserved.
    let used = gateway.used_usd().await;
    assert!((0.000_2..0.000_3).contains(&used), "{used}");
    assert_openai_error(&gateway.post(CHAT, &body).await, 429, "insufficient_quota");
}

#[tokio::test]
async fn a_list_of_prompts_has_an_answer_reserved_for_each() {
    let (origin, gateway) = budgeted("usd: 0.0105, per: day").await;
    origin.always(Reply::costing(0.0));
    let prompts = |count: usize| json!({"model": "acme/wisp", "max_tokens": 100, "prompt": vec!["hi"; count]});
    // 0.001 $ each.
    gateway.post("/v1/completions", &prompts(10)).await.assert_ok();
    let refused = gateway.post("/v1/completions", &prompts(11)).await;
    assert_openai_error(&refused, 429, "insufficient_quota");
}

#[tokio::test]
async fn each_model_that_a_tool_runs_is_reserved_for_beside_the_answer() {
    let (origin, gateway) = budgeted("usd: 0.02, per: day").await;
    origin.always(Reply::costing(0.0));
    let panel = |count: usize| {
        let mut body = short(100);
        let models = vec!["acme/wisp"; count];
        body["plugins"] = json!([{"id": "fusion", "analysis_models": models}]);
        body
    };
    // A little over 0.001 $ each, and as much for the answer.
    gateway.post(CHAT, &panel(8)).await.assert_ok();
    let refused = gateway.post(CHAT, &panel(24)).await;
    assert_openai_error(&refused, 429, "insufficient_quota");
}

#[tokio::test]
async fn what_is_kept_upstream_is_a_part_of_the_prompt() {
    let origin = Origin::start().await;
    let listed = json!({"data": [{"id": "acme/wisp", "context_length": 100_000}]});
    origin.lists_reply(Reply::json(200, &listed));
    let gateway = Gateway::start(&config(&origin, "usd: 0.05, per: day")).await;
    gateway.lists("acme/wisp").await;
    origin.always(Reply::costing(0.0));
    let body = json!({"model": "acme/wisp", "input": "go on", "max_output_tokens": 16});
    gateway.post("/v1/responses", &body).await.assert_ok();
    for (field, value) in [
        ("previous_response_id", json!("resp_1")),
        ("conversation", json!({"id": "conv_1"})),
        ("prompt", json!({"id": "pmpt_1"})),
    ] {
        let mut body = body.clone();
        body[field] = value;
        let refused = gateway.post("/v1/responses", &body).await;
        assert_openai_error(&refused, 429, "insufficient_quota");
        // How long what is kept may be nobody says: all that is left is reserved.
        body["model"] = json!("acme/unlisted");
        gateway.post("/v1/responses", &body).await.assert_ok();
    }
}

#[tokio::test]
async fn what_goes_on_behind_its_reply_costs_what_was_reserved() {
    let (origin, gateway) = budgeted("usd: 0.025, per: total").await;
    let queued = json!({ "id": "resp_1", "object": "response", "background": true,
        "status": "queued", "output": [], "usage": null });
    origin.always(Reply::json(200, &queued));
    let call = json!({ "model": "acme/wisp", "input": "hi", "background": true,
        "max_output_tokens": 1_000 });
    // A cent each, and a little for the prompt.
    for admitted in [true, true, false] {
        let reply = gateway.post("/v1/responses", &call).await;
        assert_eq!(reply.status == 200, admitted, "{}", reply.text());
    }
    assert!(gateway.used_usd().await > 0.02);
}

#[tokio::test]
async fn a_stream_whose_upstream_counts_more_than_was_reserved_is_cut() {
    for is_seen in [true, false] {
        is_cut_by_the_count_of_its_upstream(is_seen).await;
    }
}

/// `is_seen` says whether there is any text.
async fn is_cut_by_the_count_of_its_upstream(is_seen: bool) {
    let (origin, gateway) = budgeted("usd: 1, per: total").await;
    let mut reply = Reply::stream();
    for tokens in 1..=400 {
        let usage = json!({ "prompt_tokens": 10, "completion_tokens": tokens * 100 });
        let choice = json!({ "index": 0, "delta": { "reasoning": "" } });
        let event = json!({ "choices": [choice], "usage": usage });
        reply = reply.piece(format!("data: {event}\n\n"));
        if tokens == 1 && is_seen {
            reply = reply.piece(delta("A"));
        }
    }
    origin.next(reply.hang());
    let mut call = chat_stream();
    call["max_tokens"] = json!(1_000);
    let got = gateway.post(CHAT, &call).await;
    assert!(got.text().contains("\"finish_reason\":\"length\""), "{}", got.text());
    // A burst is read as one; a thousand tokens and what came with them are far from forty thousand.
    let used = gateway.used_usd().await;
    assert!((0.01..0.41).contains(&used), "{used}");
}

#[tokio::test]
async fn a_first_count_is_not_the_bill_of_a_stream_that_breaks() {
    let (origin, gateway) = budgeted("usd: 1, per: total").await;
    let event =
        |event: Value| format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap());
    let begin = json!({ "type": "message_start", "message": { "id": "m", "model": "acme/wisp",
        "usage": { "input_tokens": 10, "output_tokens": 1 } } });
    let block = json!({ "type": "content_block_start", "index": 0,
        "content_block": { "type": "text", "text": "" } });
    let text = json!({ "type": "content_block_delta", "index": 0,
        "delta": { "type": "text_delta", "text": "high water again ".repeat(200) } });
    let error =
        json!({ "type": "error", "error": { "type": "overloaded_error", "message": "no" } });
    let all = [begin, block, text, error].map(event).concat();
    origin.next(Reply::sse(all));
    let call = json!({ "model": "acme/wisp", "max_tokens": 2_000, "stream": true,
        "messages": [{ "role": "user", "content": "hi" }] });
    gateway.post("/v1/messages", &call).await;
    // Six hundred words at 10 $ a million tokens.
    let used = gateway.used_usd().await;
    assert!(used > 0.005, "{used}");
}

#[tokio::test]
async fn what_an_upstream_ends_by_itself_is_never_cut() {
    let (origin, gateway) = budgeted("usd: 5, per: day").await;
    // Ours counts about 13 tokens; the upstream, which holds to its maximum, ten.
    let words = "implementation considerations regarding authentication responsibilities";
    let stream = format!("{}{}data: [DONE]\n\n", delta(words), crate::harness::FINISH);
    origin.next(Reply::sse(&stream));
    let mut body = chat_stream();
    body["max_tokens"] = json!(10);
    assert_eq!(gateway.post(CHAT, &body).await.text(), stream);
}

#[tokio::test]
async fn a_maximum_of_a_token_or_none_ends_as_the_upstream_says() {
    let (origin, gateway) = budgeted("usd: 5, per: day").await;
    let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":1,\"cost\":0.5}}\n\n";
    for max_tokens in [0, 1, 2] {
        let said = if max_tokens == 0 { String::new() } else { delta("internationalization") };
        let stream =
            [": WAIT\n\n", &said, crate::harness::FINISH, usage, "data: [DONE]\n\n"].concat();
        origin.next(Reply::sse(&stream));
        let mut body = chat_stream();
        body["max_tokens"] = json!(max_tokens);
        body["stream_options"] = json!({"include_usage": true});
        let reply = gateway.post(CHAT, &body).await;
        assert_eq!(reply.assert_ok().text(), stream, "{max_tokens}");
        assert_eq!(gateway.log_of(&reply).await["cost_usd"], 0.5, "{max_tokens}");
    }
}

#[tokio::test]
async fn a_caller_that_leaves_pays_for_what_was_produced() {
    let (origin, gateway) = budgeted("usd: 5, per: day").await;
    let text = "The supplier shall deliver the goods within thirty days of the order. ";
    let stream = (0..40).fold(Reply::stream(), |reply, _| reply.piece(delta(text)));
    origin.next(stream.piece(delta("the end")).hang());
    let mut client = gateway.client().await;
    client.open(&Request::post(CHAT, &chat_stream())).await;
    client.read_until("the end").await;
    drop(client);
    // 40 sentences of 14 tokens are 560: 0.0056 $, give or take a fifth, and the prompt.
    let used = eventually("a bill", || async {
        let used = gateway.used_usd().await;
        (used > 0.0).then_some(used)
    })
    .await;
    assert!((0.005..0.007).contains(&used), "{used}");
    gateway.metric_becomes("cirque_cost_usd_total", &[("source", "estimate")], used).await;
    let left = gateway.status().await["you"]["budget"]["remaining_usd"].as_f64().unwrap();
    assert!((left + used - 5.0).abs() < 1e-9, "{left} left");
}

#[tokio::test]
async fn upstreams_that_fail_cost_nothing() {
    let (origin, gateway) = budgeted("usd: 5, per: day").await;
    for reply in [Reply::error(500), Reply::error(400), Reply::closed(), Reply::error(429)] {
        origin.always(reply);
        assert_ne!(gateway.post(CHAT, &chat()).await.status, 200);
    }
    origin.always(Reply::json_text(200, sample("error_200_in_body.txt")));
    assert_ne!(gateway.post(CHAT, &chat()).await.status, 200);
    let budget = gateway.status().await["you"]["budget"].clone();
    assert_eq!((&budget["used_usd"], &budget["remaining_usd"]), (&json!(0.0), &json!(5.0)));
}

#[tokio::test]
async fn spend_survives_a_restart_to_the_last_digit() {
    let origin = Origin::start().await;
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("data");
    let config = config(&origin, "usd: 5, per: month")
        .section(&format!("store: {{ path: \"{}\" }}", data.display()));
    origin.always(Reply::costing(0.000_123_456));
    for round in 1..=3 {
        let gateway = Gateway::start(&config).await;
        gateway.post(CHAT, &chat()).await.assert_ok();
        gateway.used_becomes(0.000_123_456 * f64::from(round)).await;
        gateway.process.signal("TERM");
        assert_eq!(gateway.process.exit_code().await, 0);
    }
}

/// Calls until the gateway dies; counts whole replies.
async fn call_on_and_on(gateway: Arc<Gateway>, done: Arc<AtomicUsize>) {
    let mut client = gateway.client().await;
    let request = Request::post(CHAT, &short(100));
    while let Some(reply) = client.try_call(&request).await {
        if !reply.complete || reply.status != 200 {
            return;
        }
        done.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_death_in_the_middle_of_load_forgets_no_cent() {
    let origin = Origin::start().await;
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("data");
    let config = config(&origin, "usd: 50, per: month")
        .section(&format!("store: {{ path: \"{}\" }}", data.display()));
    origin.always(Reply::costing(0.001));
    let (mut calls_before, mut spent_before) = (0, 0.0);
    for _ in 0..3 {
        let gateway = Arc::new(Gateway::start(&config).await);
        // What earlier rounds left over is known by now: each counts from here.
        let begun = gateway.used_usd().await;
        assert!(begun > spent_before - 1e-9, "{begun} after {spent_before}");
        let done = Arc::new(AtomicUsize::new(0));
        let mut load = JoinSet::new();
        for _ in 0..8 {
            let (gateway, done) = (Arc::clone(&gateway), Arc::clone(&done));
            load.spawn(call_on_and_on(gateway, done));
        }
        eventually("some load", || async {
            (origin.calls().len() - calls_before >= 300).then_some(())
        })
        .await;
        gateway.process.signal("KILL");
        load.join_all().await;
        let calls = origin.calls().len() - calls_before;
        let finished = done.load(Ordering::SeqCst);
        calls_before += calls;
        drop(gateway);
        let gateway = Gateway::start(&config).await;
        spent_before = gateway.used_usd().await;
        let spent = spent_before - begun;
        // Each call reserved 100 tokens of output and its prompt: less than 0.0011 $.
        let [calls, finished] =
            [calls, finished].map(|count| f64::from(u32::try_from(count).unwrap()));
        let billed = calls * 0.001;
        let most = finished * 0.001 + (calls - finished + 8.0) * 0.001_1;
        assert!(spent > billed - 1e-9, "{spent} spent, {billed} billed");
        assert!(spent < most + 1e-9, "{spent} spent, {billed} billed, at most {most}");
        gateway.post(CHAT, &short(100)).await.assert_ok();
        calls_before += 1;
        spent_before += 0.001;
        gateway.process.signal("TERM");
        gateway.process.exit_code().await;
    }
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_refuses_budgets_alone() {
    let origin = Origin::start().await;
    let folder = TempDir::new().unwrap();
    // A file where the folder should be: no user may write into it, not even root.
    let data = folder.path().join("data");
    std::fs::write(&data, "").unwrap();
    let config = config(&origin, "usd: 5, per: month")
        .key("name: free, secret: sk-free, limits: { requests_per_minute: 5 }")
        .section(&format!("store: {{ path: \"{}\" }}", data.display()));
    let gateway = Gateway::start(&config).await;
    let refused = gateway.post(CHAT, &chat()).await;
    assert_openai_error(&refused, 503, "limits_unavailable");
    assert_eq!(refused.header("retry-after"), Some("1"));
    let status = gateway.status().await;
    assert_eq!(status["store"], json!({"kind": "embedded", "state": "down"}));
    let unknown = json!({"limit_usd": 5.0, "used_usd": null, "remaining_usd": null,
        "resets_at": status["you"]["budget"]["resets_at"]});
    assert_eq!(status["you"]["budget"], unknown, "nobody knows what was spent");
    assert_eq!(gateway.metric("cirque_budget_remaining_usd", &[]).await, None);
    let free = Request::post(CHAT, &chat()).anonymous().header("x-api-key", "sk-free");
    gateway.call(&free).await.assert_ok();
    assert_eq!(origin.calls().len(), 1);
    std::fs::remove_file(&data).unwrap();
    eventually("the store is back", || async {
        (gateway.post(CHAT, &chat()).await.status == 200).then_some(())
    })
    .await;
    let status = gateway.status().await;
    assert_eq!(status["store"]["state"], "up");
    assert!(status["you"]["budget"]["used_usd"].is_number(), "{status}");
}

#[tokio::test]
async fn who_deletes_the_folder_under_a_gateway_is_told() {
    let origin = Origin::start().await;
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("data");
    let store = format!("store: {{ path: \"{}\" }}", data.display());
    let gateway = Gateway::start(&config(&origin, "usd: 5, per: month").section(&store)).await;
    gateway.post(CHAT, &chat()).await.assert_ok();
    std::fs::remove_dir_all(&data).unwrap();
    eventually("it is told", || async {
        gateway.process.stderr.text().contains("its files were deleted or moved").then_some(())
    })
    .await;
    assert_eq!(gateway.status().await["store"]["state"], "down");
    gateway.post(CHAT, &chat()).await.assert_ok();
}

#[tokio::test]
async fn who_moves_the_folder_away_may_put_it_back() {
    let origin = Origin::start().await;
    let folder = TempDir::new().unwrap();
    let (data, elsewhere) = (folder.path().join("data"), folder.path().join("elsewhere"));
    let store = format!("store: {{ path: \"{}\" }}", data.display());
    let gateway = Gateway::start(&config(&origin, "usd: 5, per: month").section(&store)).await;
    gateway.post(CHAT, &chat()).await.assert_ok();
    let becomes = async |state: &str| {
        eventually(state, || async {
            (gateway.status().await["store"]["state"] == state).then_some(())
        })
        .await;
    };
    std::fs::rename(&data, &elsewhere).unwrap();
    becomes("down").await;
    std::fs::rename(&elsewhere, &data).unwrap();
    becomes("up").await;
}

#[tokio::test]
async fn two_gateways_with_budgets_do_not_share_a_folder() {
    let origin = Origin::start().await;
    let folder = TempDir::new().unwrap();
    let store = format!("store: {{ path: \"{}\" }}", folder.path().display());
    let config = config(&origin, "usd: 5, per: month").section(&store);
    let _first = Gateway::start(&config).await;
    let second = TempDir::new().unwrap();
    let path = second.path().join("gateway.yaml");
    std::fs::write(&path, config.text()).unwrap();
    let text = path.display().to_string();
    let ended = crate::harness::cirque(&["run", "-c", &text], &[], None).await;
    assert_eq!(ended.code, 78, "{}", ended.output);
    assert!(
        ended.output.contains("store.path") && ended.output.contains("redis"),
        "{}",
        ended.output
    );
    // Without a budget there is nothing to overspend.
    let free = Config::to(&origin).section(&store);
    Gateway::start(&free).await.post(CHAT, &chat()).await.assert_ok();
}

#[tokio::test]
async fn an_operator_is_warned_at_80_and_at_100_percent_once() {
    let (origin, gateway) = budgeted("usd: 0.01, per: day").await;
    origin.always(Reply::costing(0.002));
    let warnings = |share: &str| {
        let text = gateway.process.stderr.text();
        text.lines().filter(|line| line.contains(share) && line.contains("tester")).count()
    };
    for _ in 0..3 {
        gateway.post(CHAT, &short(10)).await.assert_ok();
    }
    assert_eq!(warnings("80 %"), 0);
    gateway.post(CHAT, &short(10)).await.assert_ok();
    gateway.post(CHAT, &short(10)).await.assert_ok();
    gateway.used_becomes(0.01).await;
    for _ in 0..3 {
        assert_openai_error(&gateway.post(CHAT, &short(10)).await, 429, "insufficient_quota");
    }
    eventually("both warnings", || async {
        (warnings("80 %") == 1 && warnings("100 %") == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_budget_of_which_too_little_is_left_is_not_called_used_up() {
    let (origin, gateway) = budgeted("usd: 0.01, per: day").await;
    origin.always(Reply::costing(0.0099));
    gateway.post(CHAT, &short(10)).await.assert_ok();
    gateway.used_becomes(0.0099).await;
    let mut dear = short(1_000);
    for _ in 0..2 {
        assert_openai_error(&gateway.post(CHAT, &dear).await, 429, "insufficient_quota");
    }
    dear["max_tokens"] = json!(1);
    let warned = |what: &str| {
        let lines = gateway.process.stderr.json();
        lines.iter().filter(|line| line["message"] == what).count()
    };
    let rest = "100 % of the budget is used, but for what is too little for a call";
    eventually("what is left is told", || async { (warned(rest) == 1).then_some(()) }).await;
    assert_eq!(warned("100 % of the budget is used"), 0);
    origin.always(Reply::costing(0.001));
    gateway.post(CHAT, &dear).await.assert_ok();
    let all = "100 % of the budget is used";
    eventually("all is used now", || async { (warned(all) == 1).then_some(()) }).await;
}

#[tokio::test]
async fn every_endpoint_is_billed() {
    let (origin, gateway) = budgeted("usd: 5, per: day").await;
    let usage = json!({"prompt_tokens": 1_000, "completion_tokens": 100, "total_tokens": 1_100});
    let newer = json!({"input_tokens": 1_000, "output_tokens": 100, "total_tokens": 1_100});
    let text = json!({"content": "hi"});
    let cases = [
        (CHAT, json!({"choices": [{"message": text}], "usage": usage}), 0.002),
        ("/v1/completions", json!({"choices": [{"text": "hi"}], "usage": usage}), 0.002),
        ("/v1/responses", json!({"status": "completed", "output": [], "usage": newer}), 0.002),
        ("/v1/messages", json!({"type": "message", "content": [], "usage": newer}), 0.002),
        (
            "/v1/embeddings",
            json!({"data": [], "usage": {"prompt_tokens": 1_000, "total_tokens": 1_000}}),
            0.001,
        ),
    ];
    let mut spent = 0.0;
    for (path, reply, usd) in cases {
        origin.next(Reply::json(200, &reply));
        let body = match path {
            "/v1/completions" => json!({"model": "acme/wisp-2-mini", "prompt": "hi"}),
            "/v1/responses" | "/v1/embeddings" => {
                json!({"model": "acme/wisp-2-mini", "input": "hi"})
            }
            _ => short(100),
        };
        gateway.post(path, &body).await.assert_ok();
        spent += usd;
        gateway.used_becomes(spent).await;
    }
}

#[tokio::test]
async fn a_failover_is_billed_once_and_by_the_model_that_answered() {
    let (bad, good) = (Origin::start().await, Origin::start().await);
    bad.always(Reply::error(500));
    let key = format!("name: tester, secret: \"{KEY}\", budget: {{ usd: 5, per: day }}");
    let config = Config::new()
        .without_keys()
        .key(&key)
        .upstream("bad", &bad.base_url(), "")
        .upstream("good", &good.base_url(), "")
        .route("models: [\"acme/dear\"], upstreams: [bad], fallback_models: [\"acme/cheap\"]")
        .route("models: [\"*\"], upstreams: [bad, good], balance: priority, retry: { attempts: 3, budget: 1.0 }")
        .section(
            "prices: { \"acme/cheap\": { input_per_million: 1, output_per_million: 10 }, \
             \"acme/dear\": { input_per_million: 100, output_per_million: 1000 } }",
        );
    let gateway = Gateway::start(&config).await;
    let usage = json!({"prompt_tokens": 1_000, "completion_tokens": 100, "total_tokens": 1_100});
    good.always(Reply::json(
        200,
        &json!({"choices": [{"message": {"content": "hi"}}], "usage": usage}),
    ));
    let mut body = short(100);
    body["model"] = json!("acme/dear");
    let reply = gateway.post(CHAT, &body).await;
    reply.assert_ok();
    assert_eq!(gateway.log_of(&reply).await["cost_usd"], 0.002);
    gateway.used_becomes(0.002).await;
    // The dearest of both was set aside.
    body["max_tokens"] = json!(5_000);
    assert_openai_error(&gateway.post(CHAT, &body).await, 429, "insufficient_quota");
}

#[tokio::test]
async fn a_call_that_a_drain_cuts_is_billed_by_what_it_produced() {
    let origin = Origin::start().await;
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("data");
    let config = config(&origin, "usd: 5, per: month")
        .server("drain: 300ms")
        .section(&format!("store: {{ path: \"{}\" }}", data.display()));
    let gateway = Gateway::start(&config).await;
    let text = "The supplier shall deliver the goods within thirty days of the order. ";
    let stream = (0..40).fold(Reply::stream(), |reply, _| reply.piece(delta(text)));
    origin.next(stream.piece(delta("the end")).hang());
    let mut client = gateway.client().await;
    client.open(&Request::post(CHAT, &chat_stream())).await;
    client.read_until("the end").await;
    gateway.process.signal("TERM");
    gateway.process.exit_code().await;
    drop(gateway);
    let gateway = Gateway::start(&config).await;
    let used = gateway.used_usd().await;
    assert!((0.005..0.007).contains(&used), "{used}");
}
