//! Replies in the caller's own dialect pass byte for byte, however the upstream cuts them.

use crate::harness::{
    Config, Framing, Gate, Gateway, Origin, Reply, Request, Response, assert_openai_error, chat,
    chat_stream, sample, serving, streamed,
};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const RESPONSES: &str = "/v1/responses";
const MESSAGES: &str = "/v1/messages";

/// Every recorded stream that ends well, and the route it belongs to.
const HEALTHY: [(&str, &str); 9] = [
    (CHAT, "chat_stream_openrouter.sse"),
    (CHAT, "chat_stream_openrouter_crlf.sse"),
    (CHAT, "chat_stream_tool_openrouter.sse"),
    (CHAT, "chat_stream_openai.sse"),
    (CHAT, "chat_stream_azure_head.sse"),
    (RESPONSES, "responses_stream_openrouter.sse"),
    (RESPONSES, "responses_stream_openai.sse"),
    (MESSAGES, "messages_stream_anthropic.sse"),
    (MESSAGES, "messages_stream_openrouter.sse"),
];

/// The stray end that breaks Anthropic's SDKs, in both line endings.
const STRAY: [&str; 2] = ["event: data\ndata: [DONE]\n\n", "event: data\r\ndata: [DONE]\r\n\r\n"];

/// How far apart the cuts of one reply are where every offset is tried.
const STRIDE: usize = 61;

fn with_crlf(stream: &[u8]) -> Vec<u8> {
    let text = String::from_utf8(stream.to_vec()).unwrap();
    text.replace("\r\n", "\n").replace('\n', "\r\n").into_bytes()
}

/// What the caller must get of a stream.
fn expected(path: &str, stream: &[u8]) -> Vec<u8> {
    let text = String::from_utf8(stream.to_vec()).unwrap();
    if path != MESSAGES {
        return text.into_bytes();
    }
    STRAY.iter().fold(text, |text, stray| text.replace(stray, "")).into_bytes()
}

/// Every healthy stream with its route, with LF and with CRLF.
fn streams() -> Vec<(&'static str, String, Vec<u8>)> {
    let mut all = Vec::new();
    for (path, name) in HEALTHY {
        let stream = sample(name);
        let crlf = with_crlf(&stream);
        if crlf != stream {
            all.push((path, format!("{name} with CRLF"), crlf));
        }
        all.push((path, name.to_owned(), stream));
    }
    all
}

#[track_caller]
fn assert_same(reply: &Response, wanted: &[u8], what: &str) {
    let (got, wanted) = (reply.text(), String::from_utf8_lossy(wanted));
    assert_eq!(got, wanted, "{what}");
    assert_eq!(reply.status, 200, "{what}");
    assert!(reply.complete, "{what}");
}

#[tokio::test]
async fn every_healthy_stream_passes_byte_for_byte() {
    let (origin, gateway) = serving().await;
    let mut http1 = gateway.client().await;
    let mut http2 = gateway.http2().await;
    for (path, name, stream) in streams() {
        for framing in [Framing::Chunked, Framing::UntilClose, Framing::Length(stream.len() as u64)]
        {
            origin.always(Reply::sse(&stream).framed(framing));
            let request = Request::post(path, &streamed(path));
            let what = format!("{name} {framing:?}");
            assert_same(&http1.call(&request).await, &expected(path, &stream), &what);
            assert_same(&http2.call(&request).await, &expected(path, &stream), &what);
        }
    }
}

#[tokio::test]
async fn a_stream_cut_at_every_byte_passes_byte_for_byte() {
    let (origin, gateway) = serving().await;
    let mut client = gateway.client().await;
    for (path, name, stream) in streams() {
        let request = Request::post(path, &streamed(path));
        origin.always(Reply::stream().cut(&stream, 1..stream.len()).end());
        let what = format!("{name} byte by byte");
        assert_same(&client.call(&request).await, &expected(path, &stream), &what);
        // Every offset is a cut in exactly one of these.
        for phase in 0..STRIDE {
            let cuts = (phase..stream.len()).step_by(STRIDE);
            origin.always(Reply::stream().cut(&stream, cuts).end());
            let what = format!("{name} cut at {phase} + n * {STRIDE}");
            assert_same(&client.call(&request).await, &expected(path, &stream), &what);
        }
    }
}

#[tokio::test]
async fn a_stream_in_two_pieces_passes_wherever_it_is_cut() {
    let (origin, gateway) = serving().await;
    let mut client = gateway.client().await;
    for (path, name) in [
        (CHAT, "chat_stream_openrouter.sse"),
        (CHAT, "chat_stream_azure_head.sse"),
        (MESSAGES, "messages_stream_openrouter.sse"),
    ] {
        let stream = sample(name);
        let request = Request::post(path, &streamed(path));
        for at in 1..stream.len() {
            origin.always(Reply::stream().cut(&stream, [at]).end());
            let reply = client.call(&request).await;
            assert_same(&reply, &expected(path, &stream), &format!("{name} cut at {at}"));
        }
    }
}

#[tokio::test]
async fn a_stream_passes_over_an_http2_upstream() {
    let origin = Origin::start().await;
    let config = Config::new().upstream("main", &origin.base_url(), "http2: always");
    let gateway = Gateway::start(&config).await;
    let mut client = gateway.client().await;
    for (path, name, stream) in streams() {
        origin.always(Reply::stream().cut(&stream, (7..stream.len()).step_by(50)).end());
        let reply = client.call(&Request::post(path, &streamed(path))).await;
        assert_same(&reply, &expected(path, &stream), &name);
    }
}

#[tokio::test]
async fn the_stray_end_is_dropped_on_messages_alone() {
    let (origin, gateway) = serving().await;
    let stray = "data: [DONE]\n\n";
    let messages = String::from_utf8(sample("messages_stream_anthropic.sse")).unwrap();
    for end in [stray, STRAY[0], STRAY[1]] {
        origin.always(Reply::sse(format!("{messages}{end}")));
        let reply = gateway.post(MESSAGES, &streamed(MESSAGES)).await;
        assert_same(&reply, messages.as_bytes(), end);
    }
    let responses = String::from_utf8(sample("responses_stream_openai.sse")).unwrap() + stray;
    origin.always(Reply::sse(&responses));
    let reply = gateway.post(RESPONSES, &streamed(RESPONSES)).await;
    assert_same(&reply, responses.as_bytes(), "responses");
}

#[tokio::test]
async fn unknown_events_fields_and_comments_are_left_alone() {
    let (origin, gateway) = serving().await;
    let stream = "retry: 3000\n: a note\n\nid: 7\nevent: novelty\ndata: {\"new\":[1.0e400,\"\\ud83c\"]}\n\n\
                  data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"x\": 1 }],\n\
                  data: \"y\":2}\n\n: \u{1f30a}\n\ndata:{\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n\
                  data: [DONE]\n\n: after the end\n\n";
    origin.always(Reply::sse(stream));
    let reply = gateway.post(CHAT, &chat_stream()).await;
    assert_same(&reply, stream.as_bytes(), "a stream with everything odd");
}

#[tokio::test]
async fn plain_replies_pass_byte_for_byte_however_framed() {
    let (origin, gateway) = serving().await;
    let mut http1 = gateway.client().await;
    let mut http2 = gateway.http2().await;
    let bodies = [
        sample("chat_response.json"),
        sample("chat_response_byok.json"),
        sample("chat_response_body_padded.txt"),
        b"{\"choices\":[],\"n\":1.000,\"big\":123456789012345678901234567890,\"e\":\"\\u00e9\"}"
            .to_vec(),
        b"\n\n {\"object\":\"list\",\"data\":[]} \r\n".to_vec(),
    ];
    for body in bodies {
        for framing in [Framing::Length(body.len() as u64), Framing::Chunked, Framing::UntilClose] {
            origin.always(Reply::json_text(200, &body).framed(framing));
            let request = Request::post(CHAT, &chat());
            let what = format!("{framing:?}");
            assert_same(&http1.call(&request).await, &body, &what);
            assert_same(&http2.call(&request).await, &body, &what);
        }
    }
}

#[tokio::test]
async fn padding_that_trickles_in_before_the_json_passes() {
    let (origin, gateway) = serving().await;
    let body = sample("chat_response_body_padded.txt");
    let gate = Gate::new();
    let padding = body.iter().position(|byte| *byte == b'{').unwrap();
    let head = Reply::head(200, "application/json", Framing::Chunked);
    origin.next(head.piece(&body[..padding]).wait(&gate).piece(&body[padding..]).end());
    let mut client = gateway.client().await;
    client.send_request(&Request::post(CHAT, &chat())).await;
    origin.call(0).await;
    gate.open();
    assert_same(&client.reply().await.expect("a reply"), &body, "padded");
}

#[tokio::test]
async fn plain_replies_of_every_route_pass() {
    let (origin, gateway) = serving().await;
    let cases: [(&str, Value, &str); 5] = [
        (CHAT, chat(), "{\"object\":\"chat.completion\",\"choices\":[]}"),
        (
            "/v1/completions",
            json!({"model": "m", "prompt": "p"}),
            "{\"choices\":[{\"text\":\"t\"}]}",
        ),
        (
            "/v1/embeddings",
            json!({"model": "m", "input": "p"}),
            "{\"data\":[{\"embedding\":[0.1]}]}",
        ),
        (RESPONSES, json!({"model": "m", "input": "p"}), "{\"object\":\"response\",\"output\":[]}"),
        (
            MESSAGES,
            {
                let mut body = streamed(MESSAGES);
                body["stream"] = json!(false);
                body
            },
            "{\"type\":\"message\",\"content\":[]}",
        ),
    ];
    for (path, body, reply) in cases {
        origin.always(Reply::json_text(200, reply));
        assert_same(&gateway.post(path, &body).await, reply.as_bytes(), path);
        let call = origin.calls().pop().expect("a call");
        assert_eq!((call.target.as_str(), call.json()), (path, body));
    }
}

#[tokio::test]
async fn the_callers_faults_come_back_as_the_upstream_said_them() {
    let (origin, gateway) = serving().await;
    for name in [
        "error_400_openai_response_format.http",
        "error_400_openai_unknown_arg.http",
        "error_413_openrouter.http",
    ] {
        let recorded = sample(name);
        origin.next(Reply::recorded(&recorded));
        let reply = gateway.post(CHAT, &chat()).await;
        let text = String::from_utf8(recorded).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert_eq!(reply.status.to_string(), head.split(' ').nth(1).unwrap(), "{name}");
        assert_eq!(reply.text(), body, "{name}");
        assert_eq!(reply.header("content-type"), Some("application/json"), "{name}");
        assert_eq!(reply.header("x-cirque-upstream"), Some("main"), "{name}");
    }
    assert_eq!(origin.calls().len(), 3);
}

#[tokio::test]
async fn errors_of_other_shapes_come_in_the_one_that_clients_read() {
    let (origin, gateway) = serving().await;
    for (name, said) in [
        ("error_400_gemini_array.http", "Unknown name \"session_id\""),
        ("error_422_mistral.http", "Extra inputs are not permitted"),
        ("error_422_cerebras.http", "is unsupported"),
    ] {
        origin.next(Reply::recorded(sample(name)));
        let reply = gateway.post(CHAT, &chat()).await;
        let error = &reply.json()["error"];
        assert!(error["message"].as_str().is_some_and(|m| m.contains(said)), "{name}: {error}");
        assert!(error["type"].is_string() && error["code"].is_string(), "{name}: {error}");
        assert_eq!(reply.header("content-type"), Some("application/json"), "{name}");
    }
    let html = Reply::head(413, "text/html", Framing::Chunked).piece("<h1>Too large</h1>").end();
    origin.next(html);
    let reply = gateway.post(CHAT, &chat()).await;
    assert_openai_error(&reply, 413, "request_too_large");
}

#[tokio::test]
async fn upstreams_are_asked_for_uncompressed_replies() {
    let (origin, gateway) = serving().await;
    let request = Request::post(CHAT, &chat()).header("accept-encoding", "gzip, deflate, br, zstd");
    gateway.call(&request).await.assert_ok();
    assert_eq!(origin.only_call().headers.get("accept-encoding"), Some("identity"));
}

#[tokio::test]
async fn a_reply_that_is_compressed_all_the_same_arrives_decoded() {
    let (origin, gateway) = serving().await;
    // {"object":"chat.completion","choices":[]} as gzip(1) packs it.
    let packed: &[u8] =
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\xab\x56\xca\x4f\xca\x4a\x4d\x2e\x51\xb2\
        \x52\x4a\xce\x48\x2c\xd1\x4b\xce\xcf\x2d\xc8\x49\x2d\xc9\xcc\xcf\x53\xd2\x01\x8a\
        \xe4\x67\x26\xa7\x16\x2b\x59\x45\xc7\xd6\x02\x00\xc6\xbd\x76\x5d\x29\x00\x00\x00";
    let length = Framing::Length(packed.len() as u64);
    let head = Reply::head(200, "application/json", length).header("content-encoding", "gzip");
    origin.next(head.piece(packed).end());
    let request = Request::post(CHAT, &chat()).header("accept-encoding", "gzip");
    let reply = gateway.call(&request).await;
    assert_eq!(reply.assert_ok().header("content-encoding"), None);
    assert_eq!(reply.text(), "{\"object\":\"chat.completion\",\"choices\":[]}");
}

#[tokio::test]
async fn requests_arrive_byte_for_byte_with_all_they_hold() {
    let (origin, gateway) = serving().await;
    let body = "\r\n {\"unknown\" : {\"deep\":[1e2, 1.0,\"\\u00e9\\/\"]},\t\"seed\":12345678901234567890123,\
                \"messages\":[ {\"role\":\"user\",\"content\":\"caf\u{e9} \u{1f30a}\"} ] ,\"model\":\"acme/wisp-2-mini\" } \n";
    for request in [
        Request::new("POST", CHAT).json_text(body),
        Request::new("POST", CHAT).json_text(body).chunked(11),
    ] {
        gateway.call(&request).await.assert_ok();
        let call = origin.calls().pop().expect("a call");
        assert_eq!(String::from_utf8_lossy(&call.body), body);
    }
}
