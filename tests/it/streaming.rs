//! Streams: every token at once, and no silence that looks dead.

use crate::harness::{
    FINISH, Gate, Reply, Request, chat, chat_stream, delta, events, sample, serving, serving_with,
    streamed,
};
use serde_json::json;
use std::collections::BTreeSet;

const CHAT: &str = "/v1/chat/completions";
const RESPONSES: &str = "/v1/responses";
const MESSAGES: &str = "/v1/messages";

#[tokio::test]
async fn a_stream_has_the_headers_that_keep_proxies_from_holding_it() {
    let (origin, gateway) = serving().await;
    for (path, name) in [
        (CHAT, "chat_stream_openrouter.sse"),
        (RESPONSES, "responses_stream_openai.sse"),
        (MESSAGES, "messages_stream_anthropic.sse"),
    ] {
        origin.next(Reply::sse(sample(name)).header("cache-control", "public, max-age=60"));
        let reply = gateway.post(path, &streamed(path)).await;
        let content_type = reply.assert_ok().header("content-type").expect("a content type");
        assert!(content_type.starts_with("text/event-stream"), "{content_type}");
        let cache = reply.headers.words("cache-control");
        assert_eq!(cache, ["no-cache", "no-transform"], "{path}");
        assert_eq!(reply.header("x-accel-buffering"), Some("no"), "{path}");
        reply.headers.assert_none_of(&["content-length", "content-encoding"]);
    }
}

#[tokio::test]
async fn every_token_is_sent_on_at_once() {
    let (origin, gateway) = serving().await;
    let (second, third) = (Gate::new(), Gate::new());
    let script = Reply::stream()
        .piece(delta("one"))
        .wait(&second)
        .piece(delta("two"))
        .wait(&third)
        .piece(FINISH)
        .piece("data: [DONE]\n\n")
        .end();
    origin.next(script.clone());
    let mut client = gateway.client().await;
    client.open(&Request::post(CHAT, &chat_stream())).await;
    assert_eq!(client.read_until("one").await, delta("one").as_bytes());
    second.open();
    assert_eq!(client.read_until("two").await, delta("two").as_bytes());
    third.open();
    let (rest, complete) = client.rest().await;
    assert_eq!(String::from_utf8_lossy(&rest), format!("{FINISH}data: [DONE]\n\n"));
    assert!(complete);
}

#[tokio::test]
async fn every_token_is_sent_on_at_once_over_http2() {
    let (origin, gateway) = serving().await;
    let gate = Gate::new();
    origin.next(Reply::stream().piece(delta("one")).wait(&gate).piece(FINISH).end());
    let mut client = gateway.http2().await;
    let mut reply = client.open(&Request::post(CHAT, &chat_stream())).await;
    let piece = reply.piece().await.expect("a piece").expect("no reset");
    assert_eq!(piece, delta("one").as_bytes());
    gate.open();
    assert!(reply.whole().await.complete);
}

#[tokio::test]
async fn reasoning_tool_calls_and_refusals_are_first_tokens_too() {
    let (origin, gateway) = serving().await;
    for delta in [
        json!({"reasoning": "hm"}),
        json!({"reasoning_content": "hm"}),
        json!({"refusal": "no"}),
        json!({"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": ""}}]}),
    ] {
        let gate = Gate::new();
        let event = json!({"choices": [{"index": 0, "delta": delta, "finish_reason": null}]});
        let event = format!("data: {event}\n\n");
        origin.next(Reply::stream().piece(&event).wait(&gate).piece(FINISH).end());
        let mut client = gateway.client().await;
        client.open(&Request::post(CHAT, &chat_stream())).await;
        assert_eq!(client.read_until("\n\n").await, event.as_bytes());
        gate.open();
        assert!(client.rest().await.1);
    }
}

#[tokio::test]
async fn a_silent_upstream_is_bridged_by_comments_before_the_first_token() {
    let (origin, gateway) = serving_with("", "keepalive_comment: 1s").await;
    let gate = Gate::new();
    let stream = sample("chat_stream_openai.sse");
    origin.next(Reply::sse(&stream).after(&gate));
    let mut client = gateway.client().await;
    let reply = client.open(&Request::post(CHAT, &chat_stream())).await;
    assert_eq!(reply.status, 200);
    let bridged = client.read_until(": keepalive\n\n").await;
    assert!(events(&bridged).is_empty(), "{}", String::from_utf8_lossy(&bridged));
    gate.open();
    let (rest, complete) = client.rest().await;
    assert!(complete);
    assert_eq!(events(&rest), events(&stream));
}

#[tokio::test]
async fn a_silent_upstream_is_bridged_by_comments_after_the_first_token() {
    let (origin, gateway) = serving_with("", "keepalive_comment: 1s").await;
    let gate = Gate::new();
    // Silent in the middle of an event: a comment there would break it in two.
    let (half, other) =
        ("data: {\"choices\":[{\"index\":0,", "\"delta\":{\"content\":\"b\"}}]}\n\n");
    let script = Reply::stream().piece(delta("a")).wait(&gate).piece(half);
    let second = Gate::new();
    origin.next(script.wait(&second).piece(other).piece(FINISH).end());
    let mut client = gateway.client().await;
    client.open(&Request::post(CHAT, &chat_stream())).await;
    let mut body = client.read_until(": keepalive\n\n").await;
    gate.open();
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    second.open();
    let (rest, complete) = client.rest().await;
    body.extend(rest);
    assert!(complete);
    let whole = [delta("a"), format!("{half}{other}"), FINISH.to_owned()].concat();
    assert_eq!(events(&body), events(whole.as_bytes()), "{}", String::from_utf8_lossy(&body));
}

#[tokio::test]
async fn a_plain_reply_is_never_given_comments() {
    let (origin, gateway) = serving_with("", "keepalive_comment: 300ms").await;
    let gate = Gate::new();
    origin.next(Reply::json_text(200, sample("chat_response.json")).after(&gate));
    let mut client = gateway.client().await;
    client.send_request(&Request::post(CHAT, &chat())).await;
    origin.call(0).await;
    tokio::time::sleep(std::time::Duration::from_millis(900)).await;
    gate.open();
    let reply = client.reply().await.expect("a reply");
    assert_eq!(reply.assert_ok().body, sample("chat_response.json"));
}

#[tokio::test]
async fn a_header_is_not_held_for_ever() {
    let (origin, gateway) = serving().await;
    let gate = Gate::new();
    let comments = ": OPENROUTER PROCESSING\n\n".repeat(12_000);
    assert!(comments.len() > 256 << 10);
    let script = Reply::stream().piece(&comments).wait(&gate).piece(delta("a")).piece(FINISH);
    origin.next(script.end());
    let mut client = gateway.client().await;
    let reply = client.open(&Request::post(CHAT, &chat_stream())).await;
    assert_eq!(reply.status, 200);
    gate.open();
    let (body, complete) = client.rest().await;
    assert!(complete);
    assert_eq!(body, [comments, delta("a"), FINISH.to_owned()].concat().as_bytes());
}

#[tokio::test]
async fn a_connection_serves_the_next_call_after_a_stream() {
    let (origin, gateway) = serving().await;
    let mut client = gateway.client().await;
    for _ in 0..3 {
        origin.next(Reply::sse(sample("chat_stream_openai.sse")));
        client.call(&Request::post(CHAT, &chat_stream())).await.assert_ok();
        client.call(&Request::post(CHAT, &chat())).await.assert_ok();
    }
    let connections: Vec<_> = origin.calls().iter().map(|call| call.connection).collect();
    // Pingora's pool sometimes fails to hand out a connection in the very moment it is put there.
    let distinct: BTreeSet<_> = connections.iter().collect();
    assert!(distinct.len() < connections.len(), "no reuse upstream: {connections:?}");
}
