//! Usage: asked for where it has to be, hidden from who did not ask, and told by the ledger.

use crate::harness::{
    Config, FINISH, Gateway, KEY, Origin, Reply, chat, chat_stream, cirque, delta, eventually,
};
use serde_json::{Value, json};
use tempfile::TempDir;

const CHAT: &str = "/v1/chat/completions";
const USAGE: &str = "data: {\"id\":\"x\",\"choices\":[],\"usage\":{\"prompt_tokens\":100,\
                     \"completion_tokens\":20,\"total_tokens\":120}}\n\n";
const DONE: &str = "data: [DONE]\n\n";

async fn with_provider(provider: &str, key: &str) -> (Origin, Gateway) {
    let origin = Origin::start().await;
    let key = format!("name: tester, secret: \"{KEY}\", {key}");
    let extra = format!("provider: {provider}");
    let config =
        Config::new().without_keys().key(&key).upstream("main", &origin.base_url(), &extra);
    let gateway = Gateway::start(&config).await;
    (origin, gateway)
}

fn streamed(options: &Value) -> Value {
    let mut body = chat_stream();
    if !options.is_null() {
        body["stream_options"] = options.clone();
    }
    body
}

#[tokio::test]
async fn a_provider_that_needs_it_is_asked_and_the_extra_chunk_is_ours_alone() {
    let (origin, gateway) = with_provider("openai", "models: [\"*\"]").await;
    let stream = [&delta("hi"), FINISH, USAGE, DONE].concat();
    let hidden = [&delta("hi"), FINISH, DONE].concat();
    origin.always(Reply::sse(&stream));
    let asked = json!({"include_usage": true});
    for (number, (options, sent)) in [
        (Value::Null, &hidden),
        (json!({"include_usage": false}), &hidden),
        (json!({"include_obfuscation": false}), &hidden),
        (asked.clone(), &stream),
    ]
    .into_iter()
    .enumerate()
    {
        let reply = gateway.post(CHAT, &streamed(&options)).await;
        assert_eq!(&reply.text(), sent, "{options}");
        let went_out = origin.call(number).await.json()["stream_options"].clone();
        assert_eq!(went_out["include_usage"], true, "{options}");
        let line = gateway.log_of(&reply).await;
        assert_eq!((&line["input_tokens"], &line["output_tokens"]), (&json!(100), &json!(20)));
    }
    // Neither a plain call nor another dialect is asked.
    origin.next(Reply::json(200, &json!({"choices": [{"message": {"content": "hi"}}]})));
    gateway.post(CHAT, &chat()).await.assert_ok();
    assert_eq!(origin.call(4).await.json(), chat());
}

#[tokio::test]
async fn the_extra_chunk_is_hidden_wherever_the_stream_is_cut() {
    let (origin, gateway) = with_provider("openai", "models: [\"*\"]").await;
    let stream = [&delta("hi"), FINISH, USAGE, DONE].concat();
    let hidden = [&delta("hi"), FINISH, DONE].concat();
    for cut in (1..stream.len()).step_by(7) {
        origin.next(Reply::stream().cut(stream.as_bytes(), [cut]).end());
        assert_eq!(gateway.post(CHAT, &chat_stream()).await.text(), hidden, "cut at {cut}");
    }
}

#[tokio::test]
async fn a_provider_that_needs_no_asking_gets_the_body_as_it_came() {
    let (origin, gateway) = with_provider("openrouter", "budget: { usd: 5, per: day }").await;
    let usage = "data: {\"choices\":[{\"index\":0,\"delta\":{}}],\"usage\":{\"cost\":0.25}}\n\n";
    let stream = [&delta("hi"), FINISH, usage, DONE].concat();
    origin.always(Reply::sse(&stream));
    let reply = gateway.post(CHAT, &chat_stream()).await;
    assert_eq!(reply.text(), stream, "its usage comes with a choice and is for everybody");
    assert_eq!(origin.call(0).await.json(), chat_stream());
}

#[tokio::test]
async fn any_other_server_is_asked_only_where_a_limit_depends_on_it() {
    let (origin, gateway) = with_provider("custom", "models: [\"*\"]").await;
    origin.always(Reply::sse([&delta("hi"), FINISH, DONE].concat()));
    gateway.post(CHAT, &chat_stream()).await.assert_ok();
    assert_eq!(origin.call(0).await.json(), chat_stream());
    let (origin, gateway) = with_provider("custom", "limits: { tokens_per_minute: 90000 }").await;
    origin.always(Reply::sse([&delta("hi"), FINISH, USAGE, DONE].concat()));
    let reply = gateway.post(CHAT, &chat_stream()).await;
    assert_eq!(reply.text(), [&delta("hi"), FINISH, DONE].concat());
    let left = gateway.status().await["you"]["limits"]["tokens_per_minute"]["remaining"].clone();
    assert_eq!(left, 90_000 - 120, "by the upstream's own count");
}

async fn usage(folder: &TempDir, arguments: &[&str]) -> String {
    let path = folder.path().join("gateway.yaml").display().to_string();
    let arguments = [&["usage", "-c", &path], arguments].concat();
    let finished = cirque(&arguments, &[], None).await;
    assert_eq!(finished.code, 0, "{}", finished.output);
    finished.stdout
}

#[tokio::test]
async fn what_a_death_cut_off_is_in_the_ledger_once_the_gateway_is_back() {
    let origin = Origin::start().await;
    let folder = TempDir::new().unwrap();
    let key = format!("name: tester, secret: \"{KEY}\", budget: {{ usd: 5, per: day }}");
    let config = Config::to(&origin)
        .without_keys()
        .key(&key)
        .section("prices: { \"*\": { input_per_million: 0, output_per_million: 10 } }")
        .section(&format!("store: {{ path: \"{}\" }}", folder.path().join("data").display()));
    std::fs::write(folder.path().join("gateway.yaml"), config.text()).unwrap();
    let gateway = Gateway::start(&config).await;
    origin.next(Reply::costing(0.5));
    gateway.post(CHAT, &chat()).await.assert_ok();
    origin.next(Reply::silence());
    let mut body = chat();
    body["max_tokens"] = json!(1_000);
    let mut client = gateway.client().await;
    client.send_request(&crate::harness::Request::post(CHAT, &body)).await;
    origin.call(1).await;
    gateway.process.signal("KILL");
    client.closed().await;
    drop(gateway);
    let _back = Gateway::start(&config).await;
    let line = eventually("both calls in the ledger", || async {
        let text = usage(&folder, &["--by", "key", "--format", "json"]).await;
        let lines: Value = serde_json::from_str(&text).unwrap();
        (lines[0]["calls"] == 2).then(|| lines[0].clone())
    })
    .await;
    assert_eq!(line["cost_usd"], 0.51, "what was reserved for the one that ran counts: {line}");
}

#[tokio::test]
async fn the_ledger_tells_what_was_spent_on_what_while_the_gateway_runs() {
    let origin = Origin::start().await;
    let folder = TempDir::new().unwrap();
    let config = Config::to(&origin)
        .key("name: second, secret: sk-second")
        .section(&format!("store: {{ path: \"{}\" }}", folder.path().join("data").display()));
    std::fs::write(folder.path().join("gateway.yaml"), config.text()).unwrap();
    let gateway = Gateway::start(&config).await;
    let costing = |usd: f64| {
        let usage =
            json!({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15, "cost": usd});
        Reply::json(
            200,
            &json!({"id": "x", "choices": [{"message": {"content": "hi"}}], "usage": usage}),
        )
    };
    for (key, model, usd) in
        [(KEY, "acme/a", 0.25), (KEY, "acme/b", 0.5), ("sk-second", "acme/a", 0.000_000_1)]
    {
        origin.next(costing(usd));
        let mut body = chat();
        body["model"] = json!(model);
        let request = crate::harness::Request::post(CHAT, &body).header("x-api-key", key);
        gateway.call(&request).await.assert_ok();
    }
    let json = eventually("all of it in the ledger", || async {
        let text = usage(&folder, &["--by", "key", "--format", "json"]).await;
        let json: Value = serde_json::from_str(&text).unwrap();
        (json.as_array().unwrap().len() == 2).then_some(json)
    })
    .await;
    assert_eq!((&json[0]["key"], &json[0]["cost_usd"]), (&json!("tester"), &json!(0.75)));
    assert_eq!((&json[0]["calls"], &json[0]["input_tokens"]), (&json!(2), &json!(20)));
    assert_eq!((&json[1]["key"], &json[1]["cost_usd"]), (&json!("second"), &json!(0.000_000_1)));
    let csv = usage(&folder, &["--by", "model", "--format", "csv"]).await;
    assert_eq!(csv.lines().nth(1), Some("acme/b,1,10,0,5,0,0.500000000"), "{csv}");
    let table = usage(&folder, &["--by", "day"]).await;
    assert!(table.lines().last().unwrap().ends_with("0.750000100"), "{table}");
    let none =
        usage(&folder, &["--until", "2020-01-01", "--since", "2019-01-01", "--format", "json"])
            .await;
    assert_eq!(none.trim(), "[]");
    let wrong = cirque(&["usage", "--since", "tomorrow"], &[], None).await;
    assert_eq!(wrong.code, 64, "{}", wrong.output);
}
