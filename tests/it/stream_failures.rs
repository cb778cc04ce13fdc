//! Broken streams: none ends like a good one, and a good one is never taken for broken.

use crate::harness::{
    FINISH, Fate, Framing, Gate, Reply, Request, assert_openai_error, chat, chat_stream, delta,
    events, in_order, last_event, sample, serving, serving_with, streamed,
};
use serde_json::json;

const CHAT: &str = "/v1/chat/completions";
const RESPONSES: &str = "/v1/responses";
const MESSAGES: &str = "/v1/messages";

/// The start of a healthy stream of this route, up to and with its first token.
fn first_token(path: &str) -> String {
    let (name, mark) = match path {
        RESPONSES => ("responses_stream_openai.sse", "event: response.output_text.delta"),
        MESSAGES => ("messages_stream_anthropic.sse", "event: content_block_delta"),
        _ => return delta("Ahoy"),
    };
    let stream = String::from_utf8(sample(name)).unwrap();
    let (before, from) = stream.split_at(stream.find(mark).unwrap());
    let (event, _) = from.split_once("\n\n").unwrap();
    format!("{before}{event}\n\n")
}

/// Fails the test unless `body` ends in the gateway's own error event, in the route's dialect.
#[track_caller]
fn assert_in_band_error(path: &str, body: &[u8], code: &str) {
    let text = String::from_utf8_lossy(body);
    assert!(!text.contains("[DONE]"), "a broken stream ended like a good one: {text}");
    assert!(text.ends_with("\n\n"), "an unfinished event: {text:?}");
    let event = last_event(body);
    let error = &event.json()["error"];
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{text}");
    match path {
        MESSAGES => {
            assert_eq!(event.name, "error", "{text}");
            assert_eq!(event.json()["type"], "error", "{text}");
            assert!(error["type"].is_string(), "{text}");
        }
        RESPONSES => {
            assert_eq!(event.name, "error", "{text}");
            assert_eq!(event.json()["type"], "error", "{text}");
            assert_eq!(error["code"], code, "{text}");
        }
        _ => {
            assert_eq!(event.name, "", "{text}");
            assert_eq!(error["code"], code, "{text}");
            assert!(error["type"].is_string() && error.get("param").is_some(), "{text}");
        }
    }
}

#[tokio::test]
async fn a_cut_stream_ends_with_an_error_event() {
    let (origin, gateway) = serving().await;
    for path in [CHAT, RESPONSES, MESSAGES] {
        let start = first_token(path);
        for cut in ["FIN", "RST", "clean end"] {
            let gate = Gate::new();
            let script = Reply::stream().piece(&start).wait(&gate);
            origin.next(match cut {
                "FIN" => script.close(),
                "RST" => script.reset(),
                _ => script.end(),
            });
            let mut client = gateway.client().await;
            let reply = client.open(&Request::post(path, &streamed(path))).await;
            let mut body = client.read_until(&start).await;
            gate.open();
            let (rest, _) = client.rest().await;
            body.extend(rest);
            assert_eq!(&body[..start.len()], start.as_bytes(), "{path} {cut}");
            assert_in_band_error(path, &body, "upstream_error");
            let line = gateway.log_of(&reply).await;
            assert_eq!(line["status"], 200, "{line}");
            assert_eq!(line["error_code"], "upstream_error", "{line}");
            assert_eq!(line["finish"], "error", "{line}");
        }
    }
}

#[tokio::test]
async fn the_recorded_truncations_end_with_an_error_event() {
    let (origin, gateway) = serving().await;
    for name in ["chat_stream_truncated_clean.sse", "chat_stream_truncated_partial.sse"] {
        for framing in [Framing::Chunked, Framing::UntilClose] {
            origin.next(Reply::sse(sample(name)).framed(framing));
            let reply = gateway.post(CHAT, &chat_stream()).await;
            assert_eq!(reply.status, 200, "{name}");
            assert_in_band_error(CHAT, &reply.body, "upstream_error");
        }
    }
}

#[tokio::test]
async fn a_stream_cut_over_http2_ends_with_an_error_event() {
    let (origin, gateway) = serving_with("http2: always", "").await;
    let gate = Gate::new();
    origin.next(Reply::stream().piece(delta("a")).wait(&gate).reset());
    let mut client = gateway.http2().await;
    let mut reply = client.open(&Request::post(CHAT, &chat_stream())).await;
    let mut body = reply.piece().await.expect("a piece").expect("no reset").to_vec();
    gate.open();
    body.extend(reply.whole().await.body);
    assert_in_band_error(CHAT, &body, "upstream_error");
}

#[tokio::test]
async fn a_stalled_stream_ends_with_an_error_event() {
    let (origin, gateway) = serving_with("timeouts: { idle: 2s }", "").await;
    for path in [CHAT, RESPONSES, MESSAGES] {
        origin.next(Reply::stream().piece(first_token(path)).hang());
        let reply = gateway.post(path, &streamed(path)).await;
        assert_eq!(reply.status, 200);
        assert_in_band_error(path, &reply.body, "upstream_timeout");
        let call = origin.calls().pop().expect("a call");
        assert_eq!(call.fate().await, Fate::CallerLeft);
    }
}

#[tokio::test]
async fn a_stream_that_only_comments_is_stalled_too() {
    let (origin, gateway) = serving_with("timeouts: { idle: 1s }", "").await;
    let mut script = Reply::stream().piece(delta("a"));
    let mut gates = Vec::new();
    for _ in 0..100 {
        let gate = Gate::new();
        script = script.wait(&gate).piece(": still here\n\n");
        gates.push(gate);
    }
    origin.next(script.hang());
    let request = Request::post(CHAT, &chat_stream());
    let opening = async {
        for gate in &gates {
            gate.open();
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    };
    let reply = tokio::select! {
        reply = gateway.call(&request) => reply,
        () = opening => panic!("twenty seconds of comments passed for data"),
    };
    assert_in_band_error(CHAT, &reply.body, "upstream_timeout");
}

#[tokio::test]
async fn a_call_is_cut_when_its_time_is_up() {
    let (origin, gateway) = serving_with("timeouts: { total: 3s }", "").await;
    origin.next(Reply::stream().piece(delta("a")).hang());
    let reply = gateway.post(CHAT, &chat_stream()).await;
    assert_in_band_error(CHAT, &reply.body, "upstream_timeout");
    origin.next(Reply::silence());
    let reply = gateway.post(CHAT, &chat()).await;
    assert_openai_error(&reply, 504, "upstream_timeout");
}

#[tokio::test]
async fn the_upstreams_own_error_event_is_passed_on_and_remembered() {
    let (origin, gateway) = serving().await;
    for (path, name) in
        [(CHAT, "chat_stream_mid_error.sse"), (CHAT, "chat_stream_mid_error_string_code.sse")]
    {
        let stream = sample(name);
        // Some end like a good stream all the same.
        origin.next(Reply::sse([&stream[..], b"data: [DONE]\n\n"].concat()));
        let reply = gateway.post(path, &streamed(path)).await;
        assert_eq!(reply.status, 200, "{name}");
        let sent = events(&stream);
        assert_eq!(events(&reply.body)[..sent.len()], sent[..], "{name}");
        assert!(last_event(&reply.body).json()["error"].is_object(), "{}", reply.text());
        assert!(!reply.text().contains("[DONE]"));
        assert_eq!(gateway.log_of(&reply).await["finish"], "error", "{name}");
    }
}

#[tokio::test]
async fn a_stream_without_its_end_mark_is_whole_once_it_said_why_it_stopped() {
    let (origin, gateway) = serving().await;
    let stream = [delta("a"), FINISH.to_owned()].concat();
    origin.next(Reply::sse(&stream));
    let reply = gateway.post(CHAT, &chat_stream()).await;
    assert_eq!(reply.assert_ok().text(), stream);
    let line = gateway.log_of(&reply).await;
    assert_eq!(line["finish"], "stop", "{line}");
    assert!(line["error_code"].is_null(), "{line}");
}

#[tokio::test]
async fn a_malformed_line_never_kills_a_good_stream() {
    let (origin, gateway) = serving().await;
    let stream = [
        delta("a"),
        "data: {not json}\n\n".to_owned(),
        "nonsense without a colon\n\n".to_owned(),
        "data:\n\n".to_owned(),
        delta("b"),
        FINISH.to_owned(),
        "data: [DONE]\n\n".to_owned(),
    ]
    .concat();
    origin.next(Reply::sse(&stream));
    let reply = gateway.post(CHAT, &chat_stream()).await;
    assert_eq!(reply.assert_ok().text(), stream);
    assert_eq!(gateway.log_of(&reply).await["finish"], "stop");
}

#[tokio::test]
async fn before_the_first_token_a_failure_has_a_true_status() {
    let (origin, gateway) = serving_with("timeouts: { first_byte: 1s, first_token: 1s }", "").await;
    let comments = ": OPENROUTER PROCESSING\n\n";
    let role = "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n";
    let error = "data: {\"error\":{\"code\":502,\"message\":\"no\"},\"choices\":[]}\n\n";
    let cases = [
        (502, Reply::error(500)),
        (502, Reply::stream().piece(comments).piece(error).end()),
        (502, Reply::stream().piece(comments).piece(role).close()),
        (502, Reply::stream().piece(comments).end()),
        (502, Reply::stream().end()),
        (502, Reply::stream().piece(comments).reset()),
        (504, Reply::silence()),
        (504, Reply::stream().piece(comments).hang()),
    ];
    for (number, (status, script)) in cases.into_iter().enumerate() {
        origin.always(script);
        let reply = gateway.post(CHAT, &chat_stream()).await;
        let code = if status == 504 { "upstream_timeout" } else { "upstream_error" };
        assert_eq!(reply.status, status, "case {number}: {}", reply.text());
        assert_openai_error(&reply, status, code);
    }
    origin.next(Reply::error(400));
    assert_eq!(gateway.post(CHAT, &chat_stream()).await.status, 400);
}

/// Errors that no SDK raises on, each after a token: ours must follow, and nothing that hides it.
#[tokio::test]
async fn an_error_that_no_client_would_notice_is_told_as_one() {
    let (origin, gateway) =
        serving_with("breaker: { failures: 1000, within: 30s, eject: 30s }", "").await;
    let quiet = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"error\"}]}\n\n";
    let in_choice =
        "data: {\"choices\":[{\"index\":0,\"delta\":{},\"error\":{\"message\":\"no\"}}]}\n\n";
    let gemini = "data: [{\"error\":{\"code\":500,\"message\":\"no\"}}]\n\n";
    for fault in [quiet, in_choice, gemini] {
        for is_one_burst in [true, false] {
            let stream = if is_one_burst {
                Reply::stream().piece(format!("{}{fault}data: [DONE]\n\n", delta("a")))
            } else {
                Reply::stream().piece(delta("a")).piece(fault).piece("data: [DONE]\n\n")
            };
            origin.next(stream.end());
            let reply = gateway.post(CHAT, &chat_stream()).await;
            let text = reply.assert_ok().text();
            assert!(text.contains("\"a\"") && !text.contains("[DONE]"), "{text}");
            assert_in_band_error(CHAT, text.as_bytes(), "upstream_error");
        }
    }
    let start = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\"}}\n\n\
                 event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"a\"}}\n\n";
    let openais = "data: {\"error\":{\"message\":\"no\",\"code\":500}}\n\n";
    origin.next(Reply::sse(format!("{start}{openais}")));
    let reply = gateway.post(MESSAGES, &streamed(MESSAGES)).await;
    assert_in_band_error(MESSAGES, reply.assert_ok().text().as_bytes(), "upstream_error");
}

#[tokio::test]
async fn an_answer_of_two_is_whole_only_with_both() {
    let (origin, gateway) = serving().await;
    let part = |index: u32, text: &str| {
        let choice = json!({"index": index, "delta": {"content": text}, "finish_reason": null});
        format!("data: {}\n\n", json!({ "choices": [choice] }))
    };
    let first = format!("{}{}{FINISH}", part(0, "a"), part(1, "b"));
    let mut body = chat_stream();
    body["n"] = json!(2);
    origin.next(Reply::stream().piece(&first).end());
    let cut = gateway.post(CHAT, &body).await;
    assert_in_band_error(CHAT, cut.assert_ok().text().as_bytes(), "upstream_error");
    let second = "data: {\"choices\":[{\"index\":1,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
    let whole = format!("{first}{second}");
    origin.next(Reply::stream().piece(&whole).end());
    assert_eq!(gateway.post(CHAT, &body).await.assert_ok().text(), whole);
}

#[tokio::test]
async fn half_an_event_behind_a_whole_answer_is_not_sent() {
    let (origin, gateway) = serving().await;
    let whole = format!("{}{FINISH}", delta("a"));
    origin.next(Reply::stream().piece(&whole).piece("data: {\"id\":\"gen-1\",\"usa").reset());
    assert_eq!(gateway.post(CHAT, &chat_stream()).await.assert_ok().text(), whole);
}

#[tokio::test]
async fn a_long_reply_that_only_its_connection_ends_is_no_whole_one_when_cut() {
    let (origin, gateway) = serving().await;
    let long = format!("{{\"choices\":[],\"x\":\"{}", "x".repeat(100_000));
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n";
    origin.next(Reply::recorded(format!("{head}{long}")));
    assert!(!gateway.post(CHAT, &chat()).await.complete);
    origin.next(Reply::recorded(format!("{head}{long}\"}}\n")));
    assert!(gateway.post(CHAT, &chat()).await.complete);
}

#[tokio::test]
async fn a_line_without_end_is_bounded_and_named() {
    let (origin, gateway) = serving().await;
    let endless = format!("data: {}", "x".repeat(3 << 20));
    origin.next(Reply::stream().piece(delta("a")).piece(endless).end());
    let reply = gateway.post(CHAT, &chat_stream()).await;
    assert_in_band_error(CHAT, reply.assert_ok().text().as_bytes(), "upstream_error");
    gateway.metric_becomes("cirque_streams_broken_total", &[("reason", "too_long")], 1.0).await;
}

#[tokio::test]
async fn after_a_comment_a_failure_is_told_in_band() {
    let (origin, gateway) = serving_with("", "keepalive_comment: 300ms").await;
    let gate = Gate::new();
    origin.always(Reply::error(500).after(&gate));
    let mut client = gateway.client().await;
    client.open(&Request::post(CHAT, &chat_stream())).await;
    client.read_until(": keepalive\n\n").await;
    gate.open();
    let (rest, _) = client.rest().await;
    assert_in_band_error(CHAT, &rest, "upstream_error");
}

#[tokio::test]
async fn an_error_event_arrives_whole_wherever_the_stream_breaks_behind_it() {
    let (origin, gateway) = serving().await;
    let error = "data: {\"error\":{\"message\":\"broken\",\"code\":500}}\n\n";
    for rest in ["", "d", "data: [DO", "data: [DONE]", "data: [DONE]\n", "data: {\"choices\":"] {
        let stream = [&delta("a"), error, rest].concat();
        origin.next(Reply::stream().piece(&stream).reset());
        let reply = gateway.post(CHAT, &chat_stream()).await;
        let text = reply.text();
        assert!(text.contains(error) && !text.contains("[DO"), "{rest:?}: {text}");
    }
}

#[tokio::test]
async fn an_error_without_a_wrapper_is_one_before_the_first_token_and_after_it() {
    let (first, second, gateway) = in_order().await;
    let bare =
        "data: {\"object\":\"error\",\"message\":\"overloaded\",\"type\":\"x\",\"code\":503}\n\n";
    first.next(Reply::sse(format!("{bare}data: [DONE]\n\n")));
    second.next(Reply::sse(sample("chat_stream_openai.sse")));
    let reply = gateway.post(CHAT, &chat_stream()).await;
    assert_eq!(reply.assert_ok().body, sample("chat_stream_openai.sse"));
    first.next(Reply::sse([&delta("a"), bare, "data: [DONE]\n\n"].concat()));
    let reply = gateway.post(CHAT, &chat_stream()).await;
    assert!(reply.text().contains(bare) && !reply.text().contains("[DONE]"), "{}", reply.text());
    assert!(last_event(&reply.body).json()["error"].is_object(), "{}", reply.text());
}

#[tokio::test]
async fn a_last_event_too_long_to_be_read_ends_a_response_all_the_same() {
    let (origin, gateway) = serving().await;
    let delta = "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"a\"}\n\n";
    let last = format!(
        "event: response.completed\ndata: {{\"type\":\"response.completed\",\"response\":{{\"output\":[{{\"result\":\"{}\"}}]}}}}\n\n",
        "A".repeat(1_500_000)
    );
    let stream = format!("{delta}{last}");
    origin.next(Reply::sse(&stream));
    let reply = gateway.post("/v1/responses", &streamed("/v1/responses")).await;
    assert!(reply.assert_ok().body == stream.as_bytes(), "byte for byte");
    let line = gateway.log_of(&reply).await;
    assert!(line["error_code"].is_null(), "{line}");
}
