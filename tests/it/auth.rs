//! Who may call: three headers of which one decides, and one answer for all who may not.

use crate::harness::{
    Config, Gateway, KEY, Origin, Reply, Request, UPSTREAM_KEY, assert_anthropic_error,
    assert_openai_error, chat, serving, streamed,
};
use serde_json::{Value, json};

const OTHER: &str = "sk-other-canary-31b8";
const OTHER_SHA256: &str = "883f17f1be96ba7e628c87f218f5020433d510edd819507fa740262b236655e0";

fn call() -> Request {
    Request::post("/v1/chat/completions", &chat()).anonymous()
}

#[tokio::test]
async fn each_of_the_three_headers_carries_a_key() {
    let (origin, gateway) = serving().await;
    let bearer = format!("Bearer {KEY}");
    for (name, value) in [("x-api-key", KEY), ("authorization", bearer.as_str()), ("api-key", KEY)]
    {
        gateway.call(&call().header(name, value)).await.assert_ok();
    }
    assert_eq!(origin.calls().len(), 3);
}

#[tokio::test]
async fn x_api_key_alone_decides_where_it_is_present() {
    let (_origin, gateway) = serving().await;
    let bearer = format!("Bearer {KEY}");
    let dummy_bearer = call().header("x-api-key", KEY).header("authorization", "Bearer dummy");
    gateway.call(&dummy_bearer).await.assert_ok();
    let wrong = call().header("x-api-key", "dummy").header("authorization", &bearer);
    assert_openai_error(&gateway.call(&wrong.header("api-key", KEY)).await, 401, "invalid_api_key");
}

#[tokio::test]
async fn api_key_is_asked_only_without_the_other_two() {
    let (_origin, gateway) = serving().await;
    let bearer = format!("Bearer {KEY}");
    let right = call().header("authorization", &bearer).header("api-key", "dummy");
    gateway.call(&right).await.assert_ok();
    let wrong = call().header("authorization", "Bearer dummy").header("api-key", KEY);
    assert_openai_error(&gateway.call(&wrong).await, 401, "invalid_api_key");
}

#[tokio::test]
async fn the_bearer_scheme_is_read_without_regard_to_case() {
    let (_origin, gateway) = serving().await;
    for scheme in ["Bearer", "bearer", "BEARER"] {
        let request = call().header("authorization", &format!("{scheme} {KEY}"));
        gateway.call(&request).await.assert_ok();
    }
}

#[tokio::test]
async fn unknown_expired_and_malformed_keys_get_one_and_the_same_answer() {
    let origin = Origin::start().await;
    let expired = format!("name: gone, secret: \"{OTHER}\", expires: \"2020-01-01T00:00:00Z\"");
    let gateway = Gateway::start(&Config::to(&origin).key(&expired)).await;
    let unknown = gateway.call(&call().header("authorization", "Bearer sk-unknown")).await;
    assert_openai_error(&unknown, 401, "invalid_api_key");
    let values = [
        format!("Bearer {OTHER}"),
        format!("Basic {KEY}"),
        format!("Bearer {KEY}x"),
        format!("Bearer {}", KEY.trim_end_matches(char::is_alphanumeric)),
        format!("Bearer {KEY} {KEY}"),
        format!("x Bearer {KEY}"),
        KEY.to_uppercase(),
        "Bearer".to_owned(),
        "Bearer ".to_owned(),
        String::new(),
    ];
    for value in values {
        let refused = gateway.call(&call().header("authorization", &value)).await;
        assert_eq!(refused.status, 401, "{value:?}");
        assert_eq!(refused.text(), unknown.text(), "{value:?}");
    }
    assert_openai_error(&gateway.call(&call()).await, 401, "invalid_api_key");
    assert!(origin.calls().is_empty());
}

#[tokio::test]
async fn a_refusal_on_messages_has_anthropics_shape() {
    let (_origin, gateway) = serving().await;
    let request = Request::post("/v1/messages", &streamed("/v1/messages")).anonymous();
    assert_anthropic_error(&gateway.call(&request).await, 401, "authentication_error");
}

#[tokio::test]
async fn a_key_known_only_by_its_hash_works_and_so_do_several_at_once() {
    let origin = Origin::start().await;
    let config = Config::to(&origin)
        .key(&format!("name: hashed, sha256: \"{OTHER_SHA256}\""))
        .key("name: moving, secret: \"sk-old\", secrets: [\"sk-new\"]");
    let gateway = Gateway::start(&config).await;
    for (key, name) in [(OTHER, "hashed"), ("sk-old", "moving"), ("sk-new", "moving")] {
        let reply = gateway.call(&call().header("x-api-key", key)).await;
        reply.assert_ok();
        assert_eq!(gateway.log_of(&reply).await["key"], name);
    }
}

#[tokio::test]
async fn a_key_may_use_only_its_models() {
    let origin = Origin::start().await;
    let narrow = format!("name: narrow, secret: \"{OTHER}\", models: [\"openai/*\"]");
    let gateway = Gateway::start(&Config::to(&origin).key(&narrow)).await;
    let as_narrow = |model: &str| {
        let mut body = chat();
        body["model"] = json!(model);
        Request::post("/v1/chat/completions", &body).anonymous().header("x-api-key", OTHER)
    };
    gateway.call(&as_narrow("openai/gpt-4o-mini")).await.assert_ok();
    let refused = gateway.call(&as_narrow("acme/wisp-2-mini")).await;
    assert_openai_error(&refused, 403, "model_not_allowed");
    assert_eq!(origin.calls().len(), 1);
}

#[tokio::test]
async fn no_other_name_in_a_body_leads_past_the_models_of_a_key() {
    let origin = Origin::start().await;
    let key = format!("name: tester, secret: \"{KEY}\", models: [\"cheap/*\", \"mine\"]");
    let gateway = Gateway::start(&Config::to(&origin).without_keys().key(&key)).await;
    for (member, value) in [
        ("models", json!(["cheap/b", "dear/x"])),
        ("fallbacks", json!([{"model": "dear/x"}])),
        ("preset", json!("any")),
        ("tools", json!([{"type": "openrouter:fusion", "parameters": {"model": "dear/x"}}])),
        ("plugins", json!([{"id": "auto-router", "allowed_models": ["dear/*"]}])),
        (
            "tools",
            json!([{"type": "openrouter:advisor", "parameters": {"model": "cheap/b", "tools":
                [{"type": "openrouter:subagent", "parameters": {"model": "dear/x"}}]}}]),
        ),
        ("tools", json!([{"type": "openrouter:fusion"}])),
        ("plugins", json!([{"id": "fusion", "model": "cheap/b"}])),
        ("models", json!(["cheap/b@preset/any"])),
        ("model", json!("cheap/a@preset/any")),
        ("model", json!("@preset/any")),
        ("model", json!("dear/x@preset/mine")),
    ] {
        let mut body = chat();
        body["model"] = json!("cheap/a");
        body[member] = value;
        let refused = gateway.post("/v1/chat/completions", &body).await;
        assert_openai_error(&refused, 403, "model_not_allowed");
    }
    let mut body = chat();
    body["model"] = json!("cheap/a");
    body["Model"] = json!("dear/x");
    let refused = gateway.post("/v1/chat/completions", &body).await;
    assert_openai_error(&refused, 400, "invalid_request");
    assert!(origin.calls().is_empty());
    let own = json!([{"type": "function", "function": {"name": "f", "parameters":
        {"properties": {"car": {"default": {"model": "T"}}}}}},
        {"type": "openrouter:fusion", "parameters": {"analysis_models": ["cheap/b"]}}]);
    for model in ["cheap/a@preset/mine", "@preset/mine", "cheap/a"] {
        body = chat();
        body["tools"] = own.clone();
        body["model"] = json!(model);
        gateway.post("/v1/chat/completions", &body).await.assert_ok();
    }
}

#[tokio::test]
async fn the_callers_key_stays_here_and_the_upstreams_goes_there() {
    let (origin, gateway) = serving().await;
    let request = call()
        .header("x-api-key", KEY)
        .header("authorization", &format!("Bearer {KEY}"))
        .header("api-key", KEY);
    gateway.call(&request).await.assert_ok();
    let call = origin.only_call();
    let expected = format!("Bearer {UPSTREAM_KEY}");
    assert_eq!(call.headers.get("authorization"), Some(expected.as_str()));
    call.headers.assert_none_of(&["x-api-key", "api-key"]);
    assert!(!format!("{call:?}").contains(KEY), "{call:?}");
}

#[tokio::test]
async fn every_provider_gets_its_credential_where_it_wants_it() {
    for (provider, header) in [("azure", "api-key"), ("anthropic", "x-api-key")] {
        let origin = Origin::start().await;
        let extra = format!("provider: {provider}");
        let config = Config::new().upstream("main", &origin.base_url(), &extra);
        let gateway = Gateway::start(&config).await;
        gateway.post("/v1/chat/completions", &chat()).await.assert_ok();
        let call = origin.only_call();
        assert_eq!(call.headers.get(header), Some(UPSTREAM_KEY), "{provider}");
        call.headers.assert_none_of(&["authorization"]);
    }
}

#[tokio::test]
async fn an_upstream_that_refuses_our_credential_does_not_expose_it() {
    let (origin, gateway) = serving().await;
    let message = format!("Incorrect API key provided: {UPSTREAM_KEY}");
    origin.always(Reply::json(401, &json!({"error": {"message": message, "code": 401}})));
    let reply = gateway.post("/v1/chat/completions", &chat()).await;
    assert_openai_error(&reply, 502, "upstream_error");
    assert!(!reply.text().contains("canary"), "{}", reply.text());
}

#[tokio::test]
async fn an_error_that_is_the_callers_fault_passes_without_our_credential() {
    let (origin, gateway) = serving().await;
    let quoting =
        |key: &str| json!({"error": {"message": format!("no, Bearer {key}!"), "code": 1}});
    origin.always(Reply::json(400, &quoting(UPSTREAM_KEY)));
    let reply = gateway.post("/v1/chat/completions", &chat()).await;
    assert_eq!((reply.status, reply.complete), (400, true));
    assert_eq!(reply.json(), quoting(&"*".repeat(UPSTREAM_KEY.len())));
}

#[tokio::test]
async fn no_key_is_ever_printed() {
    let (origin, gateway) = serving().await;
    let wrong = "sk-wrong-canary-77aa";
    gateway.post("/v1/chat/completions", &chat()).await.assert_ok();
    gateway.call(&call().header("authorization", &format!("Bearer {wrong}"))).await;
    gateway.get(&format!("/v1/models?key={wrong}")).await;
    gateway.get(&format!("/nowhere?key={wrong}")).await;
    origin.next(Reply::recorded(format!("HTTP/1.1 garbage {UPSTREAM_KEY}\r\n\r\n")));
    gateway.post("/v1/chat/completions", &chat()).await;
    let mut client = gateway.client().await;
    client.send(format!("GET / HTTP/1.1\r\nx-api-key: {wrong}\nhost: x\r\n\r\n")).await;
    client.closed().await;
    let last = gateway.get("/v1/models").await;
    gateway.log_of(&last).await;
    let config = gateway.admin_get("/config").await.assert_ok().text();
    let status = gateway.status().await.to_string();
    let everything = [gateway.process.output(), gateway.metrics().await, config, status].join("\n");
    for key in [KEY, UPSTREAM_KEY, wrong] {
        assert!(!everything.contains(key), "{key} was printed");
    }
}

#[tokio::test]
async fn a_preset_that_is_allowed_allows_no_model_of_its_name() {
    let origin = Origin::start().await;
    let key = format!("name: tester, secret: \"{KEY}\", models: [\"small\", \"@preset/*\"]");
    let gateway = Gateway::start(&Config::to(&origin).without_keys().key(&key)).await;
    for (model, preset, status) in [
        ("small", Value::Null, 200),
        ("small", json!("own"), 200),
        ("small@preset/own", Value::Null, 200),
        ("@preset/own", Value::Null, 200),
        ("big", Value::Null, 403),
        ("big", json!("big"), 403),
        ("big@preset/big", Value::Null, 403),
    ] {
        let mut body = chat();
        body["model"] = json!(model);
        body["preset"] = preset;
        let reply = gateway.post("/v1/chat/completions", &body).await;
        assert_eq!(reply.status, status, "{body}");
    }
}
