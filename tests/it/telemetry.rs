//! What operators see: one whole log line a call, and metrics that add up.

use crate::harness::{
    Config, Gate, Gateway, KEY, Origin, Reply, Request, assert_openai_error, chat, chat_stream,
    sample, serving, streamed,
};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const FIELDS: [&str; 25] = [
    "ts",
    "request_id",
    "trace_id",
    "client_ip",
    "method",
    "path",
    "route",
    "status",
    "key",
    "model",
    "upstream",
    "attempts",
    "stream",
    "bytes_in",
    "bytes_out",
    "duration_ms",
    "ttft_ms",
    "overhead_ms",
    "input_tokens",
    "output_tokens",
    "cost_usd",
    "cost_source",
    "session_id",
    "error_code",
    "finish",
];

/// Who, what and how much of the usual recorded stream.
const BY_KEY: [(&str, &str); 2] = [("key", "tester"), ("model", "acme/wisp-2-mini")];

fn with<'a>(labels: &[(&'a str, &'a str)], more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [labels, more].concat()
}

async fn listed() -> (Origin, Gateway) {
    let (origin, gateway) = serving().await;
    gateway.lists("acme/wisp-2-mini").await;
    (origin, gateway)
}

#[tokio::test]
async fn a_log_line_holds_every_field_in_order() {
    let (origin, gateway) = serving().await;
    origin.next(Reply::sse(sample("chat_stream_openrouter.sse")));
    let replies = [
        gateway.post(CHAT, &chat_stream()).await,
        gateway.post(CHAT, &chat()).await,
        gateway.call(&Request::post(CHAT, &chat()).anonymous()).await,
        gateway.get("/nowhere").await,
        gateway.get("/v1/models").await,
    ];
    for reply in replies {
        let line = gateway.log_of(&reply).await;
        let fields: Vec<_> = line.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(fields, FIELDS);
        assert_eq!(line["status"], reply.status);
        assert!(line["duration_ms"].is_number(), "{line}");
        let at = line["ts"].as_str().expect("a time");
        let format = &time::format_description::well_known::Rfc3339;
        time::OffsetDateTime::parse(at, format).expect("RFC 3339");
    }
}

#[tokio::test]
async fn a_streams_line_tells_its_story() {
    let (origin, gateway) = serving().await;
    origin.next(Reply::sse(sample("chat_stream_openrouter.sse")));
    let body = chat_stream();
    let request = Request::post(CHAT, &body).header("x-session-id", "tides");
    let reply = gateway.call(&request).await;
    let line = gateway.log_of(reply.assert_ok()).await;
    for (field, value) in [
        ("client_ip", json!("127.0.0.1")),
        ("method", json!("POST")),
        ("path", json!(CHAT)),
        ("route", json!(CHAT)),
        ("status", json!(200)),
        ("key", json!("tester")),
        ("model", json!("acme/wisp-2-mini")),
        ("upstream", json!("main")),
        ("attempts", json!(1)),
        ("stream", json!(true)),
        ("bytes_in", json!(body.to_string().len())),
        ("bytes_out", json!(reply.body.len())),
        ("input_tokens", json!(812)),
        ("output_tokens", json!(94)),
        ("cost_usd", json!(0.000_821_2)),
        ("cost_source", json!("upstream")),
        ("session_id", json!("tides")),
        ("error_code", Value::Null),
        ("finish", json!("stop")),
    ] {
        assert_eq!(line[field], value, "{field}: {line}");
    }
    let (duration, first) = (line["duration_ms"].as_f64(), line["ttft_ms"].as_f64());
    assert!(first > Some(0.0) && first <= duration, "{line}");
    assert!(line["overhead_ms"].as_f64() <= duration, "{line}");
}

#[tokio::test]
async fn what_is_unknown_is_null() {
    let (_origin, gateway) = serving().await;
    let reply = gateway.call(&Request::post(CHAT, &chat()).anonymous()).await;
    let line = gateway.log_of(&reply).await;
    for field in
        ["key", "upstream", "ttft_ms", "input_tokens", "output_tokens", "cost_usd", "session_id"]
    {
        assert!(line[field].is_null(), "{field}: {line}");
    }
    assert_eq!(line["error_code"], "invalid_api_key");
    assert_eq!(line["attempts"], 0);
}

#[tokio::test]
async fn every_call_is_logged_exactly_once() {
    let (origin, gateway) = serving().await;
    origin.next(Reply::error(500));
    let mut ids = Vec::new();
    for request in [
        Request::post(CHAT, &chat()),
        Request::post(CHAT, &chat()),
        Request::new("POST", CHAT).json_text("{"),
        Request::get("/health"),
    ] {
        ids.push(gateway.call(&request).await.request_id());
    }
    let last = gateway.get("/v1/models").await;
    gateway.log_of(&last).await;
    for id in ids {
        let lines = gateway.log().into_iter().filter(|line| line["request_id"] == id.as_str());
        assert!(lines.count() <= 1, "{id} was logged twice");
        gateway.log_where(|line| line["request_id"] == id.as_str()).await;
    }
}

#[tokio::test]
async fn usage_is_read_in_every_dialect_streamed_or_not() {
    let (origin, gateway) = serving().await;
    let cases = [
        (streamed(CHAT), Reply::sse(sample("chat_stream_openai.sse")), 19, 75, "stop"),
        (
            streamed(CHAT),
            Reply::sse(sample("chat_stream_tool_openrouter.sse")),
            240,
            22,
            "tool_calls",
        ),
        (chat(), Reply::json_text(200, sample("chat_response.json")), 812, 94, "stop"),
        (chat(), Reply::json_text(200, sample("chat_response_body_padded.txt")), 812, 94, "stop"),
    ];
    for (number, (body, script, input, output, finish)) in cases.into_iter().enumerate() {
        origin.next(script);
        let reply = gateway.post(CHAT, &body).await;
        let line = gateway.log_of(reply.assert_ok()).await;
        assert_eq!(line["input_tokens"], input, "case {number}: {line}");
        assert_eq!(line["output_tokens"], output, "case {number}: {line}");
        assert_eq!(line["finish"], finish, "case {number}: {line}");
    }
    for (path, name) in [
        ("/v1/responses", "responses_stream_openai.sse"),
        ("/v1/responses", "responses_stream_openrouter.sse"),
        ("/v1/messages", "messages_stream_anthropic.sse"),
    ] {
        origin.next(Reply::sse(sample(name)));
        let reply = gateway.post(path, &streamed(path)).await;
        let line = gateway.log_of(reply.assert_ok()).await;
        assert!(line["input_tokens"].as_u64() >= Some(120), "{name}: {line}");
        assert_eq!(line["output_tokens"], 25, "{name}: {line}");
        assert!(line["error_code"].is_null() && line["finish"].is_string(), "{name}: {line}");
    }
}

#[tokio::test]
async fn with_a_key_of_ones_own_both_bills_are_added() {
    let (origin, gateway) = serving().await;
    origin.next(Reply::json_text(200, sample("chat_response_byok.json")));
    let reply = gateway.post(CHAT, &chat()).await;
    let line = gateway.log_of(reply.assert_ok()).await;
    let cost = line["cost_usd"].as_f64().expect("a cost");
    assert!((cost - 0.001_346_1).abs() < 1e-12, "{line}");
}

#[tokio::test]
async fn a_trace_the_caller_began_is_joined() {
    let (_origin, gateway) = serving().await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    let joined = gateway.call(&Request::post(CHAT, &chat()).header("traceparent", &parent)).await;
    assert_eq!(gateway.log_of(&joined).await["trace_id"], trace);
    let fresh = gateway.post(CHAT, &chat()).await;
    let line = gateway.log_of(&fresh).await;
    let id = line["trace_id"].as_str().expect("a trace id");
    assert!(id.len() == 32 && id != trace, "{id}");
}

#[tokio::test]
async fn a_forwarded_address_is_believed_only_from_a_trusted_proxy() {
    let origin = Origin::start().await;
    let forwarded = Request::get("/v1/models").header("x-forwarded-for", "10.1.1.1, 203.0.113.9");
    for (line, address) in [
        ("trusted_proxies: [\"127.0.0.1/32\"]", "203.0.113.9"),
        ("trusted_proxies: []", "127.0.0.1"),
    ] {
        let gateway = Gateway::start(&Config::to(&origin).server(line)).await;
        let reply = gateway.call(&forwarded).await;
        assert_eq!(gateway.log_of(&reply).await["client_ip"], address, "{line}");
    }
}

#[tokio::test]
async fn tokens_are_counted_in_disjoint_kinds() {
    let (origin, gateway) = listed().await;
    for (script, body) in [
        (Reply::sse(sample("chat_stream_openrouter.sse")), chat_stream()),
        (Reply::json_text(200, sample("chat_response.json")), chat()),
    ] {
        origin.next(script);
        gateway.post(CHAT, &body).await.assert_ok();
    }
    let name = "cirque_tokens_total";
    for (kind, tokens) in
        [("cached_input", 1024.0), ("input", 600.0), ("reasoning", 62.0), ("output", 126.0)]
    {
        gateway.metric_becomes(name, &with(&BY_KEY, &[("type", kind)]), tokens).await;
    }
    let paid = with(&BY_KEY, &[("upstream", "main"), ("source", "upstream")]);
    gateway.metric_becomes("cirque_cost_usd_total", &paid, 0.001_642_4).await;
}

#[tokio::test]
async fn requests_are_counted_and_timed() {
    let (origin, gateway) = listed().await;
    origin.next(Reply::sse(sample("chat_stream_openrouter.sse")));
    gateway.post(CHAT, &chat_stream()).await.assert_ok();
    gateway.call(&Request::new("POST", CHAT).json_text("{")).await;
    let route = [("route", CHAT)];
    let good = with(&BY_KEY, &[("route", CHAT), ("code", "200")]);
    gateway.metric_becomes("cirque_requests_total", &good, 1.0).await;
    let bad = with(&route, &[("key", "tester"), ("code", "400")]);
    gateway.metric_becomes("cirque_requests_total", &bad, 1.0).await;
    let timed = with(&route, &[("model", "acme/wisp-2-mini")]);
    gateway.metric_becomes("cirque_request_duration_seconds_count", &timed, 1.0).await;
    let first = [("upstream", "main"), ("model", "acme/wisp-2-mini")];
    gateway.metric_becomes("cirque_time_to_first_token_seconds_count", &first, 1.0).await;
    let overhead = gateway.metric("cirque_overhead_seconds_count", &[]).await;
    assert!(overhead >= Some(1.0), "{overhead:?}");
    let build = gateway.metrics().await;
    let line = build.lines().find(|line| line.starts_with("cirque_build_info{"));
    let line = line.expect("cirque_build_info");
    assert!(line.contains("version=\"") && line.contains("revision=\""), "{line}");
}

#[tokio::test]
async fn what_is_in_flight_goes_up_and_down() {
    let (origin, gateway) = serving().await;
    gateway.metric_becomes("cirque_inflight_requests", &[], 0.0).await;
    let gate = Gate::new();
    origin.always(Reply::json_text(200, sample("chat_response.json")).after(&gate));
    let mut clients = Vec::new();
    for number in 0..3 {
        let mut client = gateway.client().await;
        client.send_request(&Request::post(CHAT, &chat())).await;
        origin.call(number).await;
        clients.push(client);
    }
    gateway.metric_becomes("cirque_inflight_requests", &[], 3.0).await;
    gate.open();
    for mut client in clients {
        client.reply().await.expect("a reply").assert_ok();
    }
    gateway.metric_becomes("cirque_inflight_requests", &[], 0.0).await;
}

#[tokio::test]
async fn labels_never_hold_what_callers_write() {
    let (_origin, gateway) = serving().await;
    for number in 0..20 {
        let mut body = chat();
        body["model"] = json!(format!("invented/model-{number}"));
        gateway.post(CHAT, &body).await.assert_ok();
        gateway.get(&format!("/invented/path-{number}")).await;
        gateway.call(&Request::new(&format!("INVENTED{number}"), CHAT)).await;
    }
    let other = [("route", CHAT), ("model", "other"), ("code", "200")];
    gateway.metric_becomes("cirque_requests_total", &other, 20.0).await;
    let text = gateway.metrics().await;
    assert!(!text.to_lowercase().contains("invented"), "{text}");
}

#[tokio::test]
async fn every_metric_is_explained_and_well_formed() {
    let (_origin, gateway) = listed().await;
    gateway.post(CHAT, &chat()).await.assert_ok();
    let page = gateway.admin_get("/metrics").await;
    let content_type = page.assert_ok().header("content-type").unwrap_or_default();
    assert!(content_type.starts_with("text/plain"), "{content_type}");
    let text = page.text();
    let explained: Vec<_> =
        text.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split_once(' ')).collect();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let name = line.split(['{', ' ']).next().unwrap();
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        let has_help = |name: &str| explained.iter().any(|(n, help)| *n == name && help.len() > 5);
        assert!(has_help(name) || base.is_some_and(has_help), "no HELP for {name}");
    }
}

#[tokio::test]
async fn the_metric_of_an_upstreams_health_says_what_status_says() {
    let origin = Origin::start().await;
    let config = Config::new().upstream("main", &origin.base_url(), "").upstream(
        "lost",
        "http://nowhere.invalid:81/v1",
        "",
    );
    let gateway = Gateway::start(&config).await;
    gateway.metric_becomes("cirque_upstream_healthy", &[("upstream", "main")], 1.0).await;
    gateway.metric_becomes("cirque_upstream_healthy", &[("upstream", "lost")], 0.0).await;
    let status = gateway.status().await;
    let healthy = |at: usize| status["upstreams"][at]["healthy"].as_bool();
    assert_eq!((healthy(0), healthy(1)), (Some(true), Some(false)), "{status}");
}

#[tokio::test]
async fn neither_prompts_nor_answers_are_logged() {
    let (origin, gateway) = serving().await;
    origin.next(Reply::json_text(
        200,
        "{\"choices\":[{\"message\":{\"content\":\"canary-answer\"}}]}",
    ));
    let mut body = chat();
    body["messages"][0]["content"] = json!("canary-prompt");
    let reply = gateway.post(CHAT, &body).await;
    gateway.log_of(reply.assert_ok()).await;
    origin.next(Reply::json(500, &json!({"error": {"message": "canary-failure"}})));
    let reply = gateway.post(CHAT, &body).await;
    gateway.log_of(&reply).await;
    let broken = Request::new("POST", CHAT).json_text("{\"model\": canary-broken");
    let reply = gateway.call(&broken).await;
    assert!(!reply.text().contains("canary"), "{}", reply.text());
    gateway.log_of(&reply).await;
    assert!(!gateway.process.output().contains("canary-"), "{}", gateway.process.output());
}

#[tokio::test]
async fn a_key_in_the_wrong_place_is_in_no_log_and_in_no_ledger() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&Config::to(&origin)).await;
    for name in [KEY.to_owned(), format!("acme/{KEY}")] {
        let mut body = chat();
        body["model"] = json!(name);
        let reply = gateway.post(CHAT, &body).await;
        assert_openai_error(&reply, 400, "invalid_request");
        assert!(!gateway.log_of(&reply).await.to_string().contains(KEY));
    }
    let request = Request::post(CHAT, &chat());
    let request = request.header("x-session-id", &format!("of {KEY}"));
    let reply = gateway.call(&request).await;
    reply.assert_ok();
    assert_eq!(gateway.log_of(&reply).await["session_id"], Value::Null);
    assert!(!gateway.process.stderr.text().contains(KEY));
}
