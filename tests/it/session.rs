//! Which conversation a call belongs to, and who upstream is told.

use crate::harness::{Config, Gateway, Origin, Reply, Request, chat, sample, serving};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";

async fn openrouter() -> (Origin, Gateway) {
    let origin = Origin::start().await;
    let config = Config::new().upstream("main", &origin.base_url(), "provider: openrouter");
    let gateway = Gateway::start(&config).await;
    (origin, gateway)
}

fn with(fields: &Value) -> Value {
    let mut body = chat();
    for (name, value) in fields.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

/// Calls, and fails the test unless log and upstream agree on this session.
async fn assert_session(origin: &Origin, gateway: &Gateway, request: &Request, id: Option<&str>) {
    let reply = gateway.call(request).await;
    let line = gateway.log_of(reply.assert_ok()).await;
    assert_eq!(line["session_id"].as_str(), id, "{line}");
    let call = origin.calls().pop().expect("a call");
    assert_eq!(call.headers.get("x-session-id"), id, "{call:?}");
}

#[tokio::test]
async fn the_first_source_that_names_a_session_wins() {
    let (origin, gateway) = openrouter().await;
    let everything = with(&json!({
        "session_id": "from-body",
        "metadata": {"session_id": "from-metadata"},
        "response_format": {"type": "session_from-format"},
    }));
    let header = Request::post(CHAT, &everything).header("X-Session-Id", "from-header");
    assert_session(&origin, &gateway, &header, Some("from-header")).await;
    let mut body = everything;
    for (field, id) in [
        ("session_id", "from-body"),
        ("metadata", "from-metadata"),
        ("response_format", "session_from-format"),
    ] {
        let request = Request::post(CHAT, &body);
        assert_session(&origin, &gateway, &request, Some(id)).await;
        body.as_object_mut().unwrap().remove(field);
    }
    assert_session(&origin, &gateway, &Request::post(CHAT, &body), None).await;
}

#[tokio::test]
async fn a_session_in_the_response_format_is_taken_out_of_the_body() {
    let (origin, gateway) = openrouter().await;
    let seed: Value = serde_json::from_slice(&sample("request_seed_quirk.json")).unwrap();
    origin.always(Reply::sse(sample("chat_stream_openai.sse")));
    let request = Request::new("POST", CHAT).json_text(sample("request_seed_quirk.json"));
    assert_session(&origin, &gateway, &request, Some("session_123")).await;
    let mut expected = seed;
    expected.as_object_mut().unwrap().remove("response_format");
    assert_eq!(origin.only_call().json(), expected);
}

#[tokio::test]
async fn it_is_taken_out_wherever_it_stands_and_leaves_valid_json() {
    let (origin, gateway) = openrouter().await;
    let format = "\"response_format\":{\"type\":\"session_1\",\"x\":{\"y\":[1,\"}\"]}}";
    let model = "\"model\":\"acme/wisp-2-mini\"";
    let messages = "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]";
    for body in [
        format!("{{{format},{model},{messages}}}"),
        format!("{{{model},{format},{messages}}}"),
        format!("{{{model},{messages},{format}}}"),
        format!("{{ {model} ,\n {messages} ,\n {} \n}}", format.replace(':', " : ")),
        format!("{{{model},{messages},{}}}", format.replace("response_f", "response\\u005ff")),
    ] {
        let request = Request::new("POST", CHAT).json_text(body);
        assert_session(&origin, &gateway, &request, Some("session_1")).await;
        assert_eq!(origin.calls().pop().expect("a call").json(), chat());
    }
}

#[tokio::test]
async fn it_is_taken_out_also_when_a_header_named_the_session() {
    let (origin, gateway) = openrouter().await;
    let body = with(&json!({"response_format": {"type": "session_123"}}));
    let request = Request::post(CHAT, &body).header("x-session-id", "from-header");
    assert_session(&origin, &gateway, &request, Some("from-header")).await;
    assert_eq!(origin.only_call().json(), chat());
}

#[tokio::test]
async fn it_is_taken_out_for_every_provider_and_the_header_goes_to_openrouter_alone() {
    let (origin, gateway) = serving().await;
    let body = with(&json!({"response_format": {"type": "session_123"}}));
    let reply = gateway.post(CHAT, &body).await;
    assert_eq!(gateway.log_of(reply.assert_ok()).await["session_id"], "session_123");
    let request = Request::post(CHAT, &chat()).header("x-session-id", "mine");
    gateway.call(&request).await.assert_ok();
    for call in origin.calls() {
        assert_eq!(call.json(), chat());
        call.headers.assert_none_of(&["x-session-id"]);
    }
}

#[tokio::test]
async fn the_same_trick_works_in_the_text_format_of_responses() {
    let (origin, gateway) = openrouter().await;
    let body = json!({"model": "acme/wisp-2-mini", "input": "hi",
        "text": {"format": {"type": "session_9"}}});
    let request = Request::post("/v1/responses", &body);
    assert_session(&origin, &gateway, &request, Some("session_9")).await;
    let sent = origin.only_call().json();
    assert_eq!((&sent["model"], &sent["input"]), (&body["model"], &body["input"]));
    assert!(sent["text"]["format"].is_null(), "{sent}");
    assert!(!sent.to_string().contains("session_9"), "{sent}");
}

#[tokio::test]
async fn real_response_formats_and_typos_are_left_alone() {
    let (origin, gateway) = openrouter().await;
    for format in [
        json!({"type": "json_object"}),
        json!({"type": "json_schema", "json_schema": {"name": "session_x", "schema": {}}}),
        json!({"type": "text"}),
        json!({"type": "sesion_123"}),
        json!({"type": "my_session_123"}),
    ] {
        let body = with(&json!({ "response_format": format }));
        assert_session(&origin, &gateway, &Request::post(CHAT, &body), None).await;
        assert_eq!(origin.calls().pop().expect("a call").json(), body);
    }
}

#[tokio::test]
async fn header_and_pattern_are_settings() {
    let origin = Origin::start().await;
    let config = Config::new()
        .upstream("main", &origin.base_url(), "provider: openrouter")
        .section("session:\n  header: x-conversation\n  response_format_pattern: \"^chat-\"");
    let gateway = Gateway::start(&config).await;
    let request = Request::post(CHAT, &chat()).header("x-conversation", "mine");
    assert_session(&origin, &gateway, &request, Some("mine")).await;
    let body = with(&json!({"response_format": {"type": "chat-7"}}));
    assert_session(&origin, &gateway, &Request::post(CHAT, &body), Some("chat-7")).await;
    assert_eq!(origin.calls()[1].json(), chat());
}
