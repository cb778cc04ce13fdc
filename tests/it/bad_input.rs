//! What cannot be forwarded: a clear 4xx, nothing sent upstream, the connection in a sane state.

use crate::harness::{
    Client, Config, Gateway, KEY, Origin, Request, Response, assert_anthropic_error,
    assert_openai_error, chat, serving, within_time,
};
use serde_json::json;
use std::time::Duration;

const PATH: &str = "/v1/chat/completions";

/// Calls on a connection and replaces it where the reply announced its end; otherwise the next
/// call on it must work.
async fn refused(gateway: &Gateway, client: &mut Client, request: &Request) -> Response {
    let reply = client.call(request).await;
    if reply.headers.words("connection").contains(&"close".to_owned()) {
        client.closed().await;
        *client = gateway.client().await;
    }
    client.call(&Request::get("/health").anonymous()).await.assert_ok();
    reply
}

#[tokio::test]
async fn a_body_that_is_not_one_json_object_is_refused() {
    let (origin, gateway) = serving().await;
    let mut client = gateway.client().await;
    let bodies: [&[u8]; 14] = [
        b"",
        b" ",
        b"not json",
        b"{",
        b"{\"model\":\"m\",\"messages\":[{\"role\":\"user\"",
        b"{\"model\":\"m\",\"messages\":[]} trailing",
        b"{\"model\":\"m\",\"messages\":[]}{}",
        b"[]",
        b"\"text\"",
        b"null",
        b"{'model':'m'}",
        b"{\"model\":NaN,\"messages\":[{}]}",
        b"\xef\xbb\xbf{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}",
        b"\xff\xfe{\0}\0",
    ];
    for body in bodies {
        let request = Request::new("POST", PATH).json_text(body.to_vec());
        let reply = refused(&gateway, &mut client, &request).await;
        let shown = String::from_utf8_lossy(body);
        assert_eq!(reply.status, 400, "{shown}: {}", reply.text());
        assert_openai_error(&reply, 400, "invalid_json");
        if !body.is_empty() {
            assert_openai_error(&client.call(&request.chunked(3)).await, 400, "invalid_json");
        }
    }
    assert!(origin.calls().is_empty());
}

#[tokio::test]
async fn invalid_utf_8_is_refused() {
    let (origin, gateway) = serving().await;
    let mut body = chat().to_string().replace("\"hi\"", "\"h?i\"").into_bytes();
    let at = body.iter().position(|byte| *byte == b'?').unwrap();
    body[at] = 0xff;
    let reply = gateway.call(&Request::new("POST", PATH).json_text(body)).await;
    assert_openai_error(&reply, 400, "invalid_json");
    assert!(origin.calls().is_empty());
}

#[tokio::test]
async fn a_model_and_messages_are_needed() {
    let (origin, gateway) = serving().await;
    let mut client = gateway.client().await;
    let messages = json!([{"role": "user", "content": "hi"}]);
    let bodies = [
        json!({}),
        json!({"messages": messages}),
        json!({"model": "", "messages": messages}),
        json!({"model": null, "messages": messages}),
        json!({"model": 7, "messages": messages}),
        json!({"model": ["m"], "messages": messages}),
        json!({"model": "m"}),
        json!({"model": "m", "messages": []}),
        json!({"model": "m", "messages": "hi"}),
        json!({"model": "m", "messages": null}),
        json!({"model": "m", "messages": messages, "stream": "yes"}),
    ];
    for body in bodies {
        let reply = refused(&gateway, &mut client, &Request::post(PATH, &body)).await;
        assert_eq!(reply.status, 400, "{body}: {}", reply.text());
        assert_openai_error(&reply, 400, "invalid_request");
        let messages = refused(&gateway, &mut client, &Request::post("/v1/messages", &body)).await;
        assert_anthropic_error(&messages, 400, "invalid_request_error");
    }
    assert!(origin.calls().is_empty());
}

#[tokio::test]
async fn a_refusal_names_the_field_at_fault() {
    let (_origin, gateway) = serving().await;
    let reply = gateway.post(PATH, &json!({"model": "m"})).await;
    assert!(reply.text().contains("messages"), "{}", reply.text());
    let reply = gateway.post(PATH, &json!({"messages": [{}]})).await;
    assert!(reply.text().contains("model"), "{}", reply.text());
}

#[tokio::test]
async fn a_top_level_key_may_stand_only_once() {
    let (origin, gateway) = serving().await;
    let mut client = gateway.client().await;
    let messages = "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]";
    for body in [
        format!("{{\"model\":\"a\",{messages},\"model\":\"b\"}}"),
        format!("{{\"model\":\"a\",{messages},\"mod\\u0065l\":\"b\"}}"),
        format!("{{\"model\":\"a\",{messages},{messages}}}"),
        format!("{{\"x\":1,\"model\":\"a\",{messages},\"x\":2}}"),
    ] {
        let request = Request::new("POST", PATH).json_text(body.clone());
        let reply = refused(&gateway, &mut client, &request).await;
        assert_eq!(reply.status, 400, "{body}: {}", reply.text());
        assert_openai_error(&reply, 400, "duplicate_key");
    }
    assert!(origin.calls().is_empty());
}

#[tokio::test]
async fn nesting_is_bounded() {
    let (origin, gateway) = serving().await;
    let nested = |depth: usize| {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        let body = chat().to_string();
        format!("{},\"x\":{open}{close}}}", body.strip_suffix('}').unwrap())
    };
    let deep = Request::new("POST", PATH).json_text(nested(100));
    gateway.call(&deep).await.assert_ok();
    for depth in [200, 100_000] {
        let reply = gateway.call(&Request::new("POST", PATH).json_text(nested(depth))).await;
        assert_eq!(reply.status, 400, "{}", reply.text());
        let code = reply.json()["error"]["code"].as_str().unwrap_or_default().to_owned();
        assert_openai_error(&reply, 400, &code);
    }
    assert_eq!(origin.calls().len(), 1);
}

#[tokio::test]
async fn a_compressed_request_is_refused() {
    let (origin, gateway) = serving().await;
    for encoding in ["gzip", "br", "zstd"] {
        let request = Request::post(PATH, &chat()).header("content-encoding", encoding);
        assert_openai_error(&gateway.call(&request).await, 415, "unsupported_encoding");
    }
    assert!(origin.calls().is_empty());
}

#[tokio::test]
async fn the_same_refusals_hold_over_http2() {
    let (origin, gateway) = serving().await;
    let mut client = gateway.http2().await;
    let not_json = Request::new("POST", PATH).json_text("{");
    assert_openai_error(&client.call(&not_json).await, 400, "invalid_json");
    let empty = Request::post(PATH, &json!({}));
    assert_openai_error(&client.call(&empty).await, 400, "invalid_request");
    assert_openai_error(&client.call(&Request::get("/nowhere")).await, 404, "not_found");
    assert_openai_error(&client.call(&Request::get(PATH)).await, 405, "method_not_allowed");
    let unknown = Request::post(PATH, &chat()).anonymous();
    assert_openai_error(&client.call(&unknown).await, 401, "invalid_api_key");
    client.call(&Request::post(PATH, &chat())).await.assert_ok();
    assert_eq!(origin.calls().len(), 1);
}

/// Sends raw bytes and expects the framing's refusal and then the connection's end.
async fn assert_broken(gateway: &Gateway, request: &[u8]) {
    let shown = String::from_utf8_lossy(&request[..request.len().min(200)]).into_owned();
    let mut client = gateway.client().await;
    client.send(request).await;
    let Some(reply) = client.reply().await else { panic!("closed without a reply to {shown:?}") };
    assert_eq!(reply.status, 400, "{shown:?}: {}", reply.text());
    assert_openai_error(&reply, 400, "invalid_request");
    client.closed().await;
}

#[tokio::test]
async fn a_body_with_unclear_length_is_refused_and_the_connection_closed() {
    let (origin, gateway) = serving().await;
    let body = chat().to_string();
    let length = body.len();
    let chunked = format!("{length:x}\r\n{body}\r\n0\r\n\r\n");
    let fields = [
        (format!("content-length: {length}\r\ntransfer-encoding: chunked"), &chunked),
        (format!("transfer-encoding: chunked\r\ncontent-length: {length}"), &chunked),
        (format!("content-length: {length}\r\ncontent-length: {}", length + 1), &body),
        (format!("content-length: {length}\r\ncontent-length: {length}"), &body),
        (format!("content-length: {length}, {length}"), &body),
        ("content-length: abc".to_owned(), &body),
        ("content-length: -1".to_owned(), &body),
        (format!("content-length: +{length}"), &body),
        ("content-length: 99999999999999999999999".to_owned(), &body),
        ("content-length:".to_owned(), &body),
    ];
    for (field, body) in fields {
        let request = format!(
            "POST {PATH} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n\
             content-type: application/json\r\n{field}\r\n\r\n{body}"
        );
        assert_broken(&gateway, request.as_bytes()).await;
    }
    assert!(origin.calls().is_empty());
}

#[tokio::test]
async fn a_broken_chunk_is_refused_and_the_connection_closed() {
    let (origin, gateway) = serving().await;
    let body = chat().to_string();
    let size = body.len();
    for chunks in [
        format!("zz\r\n{body}\r\n0\r\n\r\n"),
        format!("-1\r\n{body}\r\n0\r\n\r\n"),
        format!("{size:x}\r\n{body}XX0\r\n\r\n"),
        "ffffffffffffffffff\r\n".to_owned(),
    ] {
        let request = format!(
            "POST {PATH} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n\
             content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n{chunks}"
        );
        assert_broken(&gateway, request.as_bytes()).await;
    }
    assert!(origin.calls().is_empty());
}

#[tokio::test]
async fn a_broken_header_is_refused_and_the_connection_closed() {
    let (origin, gateway) = serving().await;
    let heads: [&[u8]; 14] = [
        b"GET http://elsewhere/health HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost: somebody@x\r\n\r\n",
        b"GET /<>| HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost: x\r\nx-a: 1\nx-injected: 1\r\n\r\n",
        b"GET /health HTTP/1.1\nhost: x\n\n",
        b"GET /health HTTP/1.1\r\nx-a: 1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost: x\r\nx-a: 1\r\n folded\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost : x\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost: x\r\nx a: 1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost: x\r\nno-colon\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost: x\r\nx-a: 1\x002\r\n\r\n",
        b"GARBAGE\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.0\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ];
    for head in heads {
        assert_broken(&gateway, head).await;
    }
    assert!(origin.calls().is_empty());
}

#[tokio::test]
async fn absurd_headers_are_refused_and_large_ones_are_not() {
    let (origin, gateway) = serving().await;
    let large = Request::post(PATH, &chat()).header("x-large", &"x".repeat(40_000));
    gateway.call(&large).await.assert_ok();
    let larger = Request::post(PATH, &chat()).header("x-larger", &"x".repeat(70_000));
    let reply = gateway.call(&larger).await;
    assert_openai_error(&reply, 431, "headers_too_large");
    let mut many = Request::post(PATH, &chat());
    for number in 0..300 {
        many = many.header(&format!("x-{number}"), "1");
    }
    assert_openai_error(&gateway.call(&many).await, 431, "headers_too_large");
    let long = Request::get(&format!("/v1/models/{}", "x".repeat(70_000)));
    let reply = gateway.call(&long).await;
    assert!([414, 431].contains(&reply.status), "{reply:?}");
    assert_eq!(origin.calls().len(), 1);
}

async fn impatient() -> (Origin, Gateway) {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&Config::to(&origin).server("read_timeout: 1s")).await;
    (origin, gateway)
}

async fn assert_cut(mut client: Client) {
    let reply = client.reply().await.expect("a reply before the end");
    assert_openai_error(&reply, 408, "request_timeout");
    client.closed().await;
}

#[tokio::test]
async fn a_header_sent_byte_by_byte_is_cut() {
    let (_origin, gateway) = impatient().await;
    let mut client = gateway.client().await;
    let head = format!("GET /health HTTP/1.1\r\nhost: x\r\nx-slow: {}\r\n\r\n", "x".repeat(100));
    let sending = client.drip(head.as_bytes(), Duration::from_millis(300));
    within_time(Duration::from_secs(10), "the end of a slow header", sending).await;
    assert_cut(client).await;
}

#[tokio::test]
async fn a_second_request_sent_byte_by_byte_is_cut_too() {
    let (_origin, gateway) = impatient().await;
    let mut client = gateway.client().await;
    client.call(&Request::get("/health")).await.assert_ok();
    let head = format!("GET /health HTTP/1.1\r\nhost: x\r\nx-slow: {}\r\n\r\n", "x".repeat(100));
    let sending = client.drip(head.as_bytes(), Duration::from_millis(300));
    within_time(Duration::from_secs(10), "the end of a slow header", sending).await;
    assert_cut(client).await;
}

#[tokio::test]
async fn a_body_sent_byte_by_byte_is_cut() {
    let (origin, gateway) = impatient().await;
    for request in [Request::post(PATH, &chat()), Request::post(PATH, &chat()).chunked(1)] {
        let mut client = gateway.client().await;
        let bytes = request.encode("x");
        let head = client.head_of(&request);
        client.send(&head).await;
        let body = &bytes[request.head("x").len()..];
        let sending = client.drip(body, Duration::from_millis(300));
        within_time(Duration::from_secs(10), "the end of a slow body", sending).await;
        assert_cut(client).await;
    }
    assert!(origin.calls().is_empty());
}

#[tokio::test]
async fn a_body_that_stops_half_way_is_cut() {
    let (origin, gateway) = impatient().await;
    let mut client = gateway.client().await;
    let bytes = Request::post(PATH, &chat()).encode("x");
    client.send(&bytes[..bytes.len() - 5]).await;
    assert_cut(client).await;
    assert!(origin.calls().is_empty());
}

#[tokio::test]
async fn a_client_that_asks_before_sending_is_told_to_go_on() {
    let (origin, gateway) = serving().await;
    for request in [Request::post(PATH, &chat()), Request::post(PATH, &chat()).chunked(9)] {
        let request = request.header("expect", "100-continue");
        let mut client = gateway.client().await;
        let head = client.head_of(&request);
        client.send(&head).await;
        assert_eq!(client.next_status().await, 100);
        let bytes = request.encode("x");
        client.send(&bytes[request.head("x").len()..]).await;
        client.reply().await.expect("a reply").assert_ok();
    }
    for call in origin.calls() {
        call.headers.assert_none_of(&["expect"]);
    }
}

#[tokio::test]
async fn a_client_that_asks_before_sending_can_be_refused_at_once() {
    let (_origin, gateway) = serving().await;
    let request = Request::post(PATH, &chat()).anonymous().header("expect", "100-continue");
    let mut client = gateway.client().await;
    let head = client.head_of(&request);
    client.send(&head).await;
    let reply = client.reply().await.expect("a reply");
    assert_openai_error(&reply, 401, "invalid_api_key");
    assert!(reply.interim.is_empty(), "{reply:?}");
}
