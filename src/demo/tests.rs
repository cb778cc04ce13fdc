//! The provider over a real connection: what each path answers, byte by byte.

use super::*;
use pingora::apps::ServerApp;
use pingora::protocols::l4::stream::Stream;
use serde_json::{Value, json};
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Longer than any reply that is not slow on purpose.
const PATIENCE: Duration = Duration::from_secs(20);

/// A reply as it came.
struct Reply {
    head: String,
    /// Chunk framing and all.
    raw: Vec<u8>,
}

impl Reply {
    fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.raw).unwrap()
    }

    /// The body of a chunked reply, and whether its last chunk came.
    fn chunks(&self) -> (String, bool) {
        let (mut rest, mut body) = (self.raw.as_slice(), Vec::new());
        while let Some(line) = rest.windows(2).position(|pair| pair == b"\r\n") {
            let size = std::str::from_utf8(&rest[..line]).unwrap();
            let size = usize::from_str_radix(size, 16).unwrap();
            if size == 0 {
                return (String::from_utf8(body).unwrap(), true);
            }
            let start = line + 2;
            body.extend_from_slice(&rest[start..start + size]);
            rest = &rest[start + size + 2..];
        }
        (String::from_utf8(body).unwrap(), false)
    }

    /// The payloads of the `data:` lines.
    fn data(&self) -> Vec<String> {
        let (body, _) = self.chunks();
        body.lines().filter_map(|line| line.strip_prefix("data: ")).map(str::to_owned).collect()
    }

    /// The same as JSON, without `[DONE]`.
    fn events(&self) -> Vec<Value> {
        let data = self.data();
        data.iter()
            .filter(|data| *data != "[DONE]")
            .map(|d| serde_json::from_str(d).unwrap())
            .collect()
    }
}

/// Serves one connection and gives back the caller's end of it.
async fn connection() -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let (_running, shutdown) = watch::channel(false);
        let provider = Arc::new(Provider::new("demo"));
        provider.process_new(Box::new(Stream::from(stream)), &shutdown).await;
    });
    TcpStream::connect(address).await.unwrap()
}

async fn send(method: &str, path: &str, key: &str, body: &str) -> TcpStream {
    let mut connection = connection().await;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: demo\r\nauthorization: Bearer {key}\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    connection.write_all(request.as_bytes()).await.unwrap();
    connection
}

async fn call(method: &str, path: &str, key: &str, body: &str) -> Reply {
    let mut connection = send(method, path, key, body).await;
    let mut bytes = Vec::new();
    let read = connection.read_to_end(&mut bytes);
    tokio::time::timeout(PATIENCE, read).await.expect("a reply that ends").unwrap();
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    Reply { head, raw: bytes[end + 4..].to_vec() }
}

/// A call with the right credential: `post("main", "responses", …)`.
async fn post(side: &str, path: &str, body: &Value) -> Reply {
    let key = format!("simulated-key-of-{side}");
    call("POST", &format!("/{side}/v1/{path}"), &key, &body.to_string()).await
}

fn chat(model: &str, stream: bool) -> Value {
    let question = json!([{"role": "user", "content": "Where is Oslo?"}]);
    json!({ "model": model, "stream": stream, "messages": question })
}

#[tokio::test]
async fn a_plain_chat_has_openrouters_shape() {
    let reply = post("main", "chat/completions", &chat("demo/chat", false)).await;
    let body = reply.json();
    assert_eq!(reply.status(), 200);
    assert!(reply.head.to_lowercase().contains("content-type: application/json"), "{}", reply.head);
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(
        (&body["model"], &body["provider"]),
        (&json!("demo/chat-20260801"), &json!("demo-main"))
    );
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
    let usage = &body["usage"];
    assert_eq!(usage["prompt_tokens"], 3);
    let cost = 3.0 * 150e-9 + usage["completion_tokens"].as_f64().unwrap() * 600e-9;
    assert!((usage["cost"].as_f64().unwrap() - cost).abs() < 1e-12, "{usage}");
}

#[tokio::test]
async fn a_streamed_chat_says_the_same_as_a_plain_one() {
    let plain = post("main", "chat/completions", &chat("demo/chat", false)).await.json();
    let begun = Instant::now();
    let stream = post("main", "chat/completions", &chat("demo/chat", true)).await;
    let (text, is_whole) = stream.chunks();
    let events = stream.events();
    let said = events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str());
    assert_eq!(
        said.collect::<String>(),
        plain["choices"][0]["message"]["content"].as_str().unwrap()
    );
    assert!(is_whole && text.starts_with(": ") && text.ends_with("data: [DONE]\n\n"));
    let last = events.last().unwrap();
    assert_eq!(
        (&last["usage"], &last["choices"][0]["finish_reason"]),
        (&plain["usage"], &json!("stop"))
    );
    let tokens = u32::try_from(plain["usage"]["completion_tokens"].as_u64().unwrap()).unwrap();
    assert!(begun.elapsed() > Duration::from_millis(33) * (tokens - 1), "faster than people read");
}

#[tokio::test]
async fn the_usage_chunk_comes_as_it_was_asked_for() {
    let mut body = chat("demo/chat", true);
    body["max_tokens"] = json!(2);
    body["stream_options"] = json!({ "include_usage": true });
    let asked = post("main", "chat/completions", &body).await.events();
    assert_eq!(asked.last().unwrap()["choices"], json!([]));
    assert_eq!(asked.last().unwrap()["usage"]["completion_tokens"], 2);
    body["stream_options"] = json!({ "include_usage": false });
    let declined = post("main", "chat/completions", &body).await.events();
    assert!(declined.iter().all(|event| event["usage"].is_null()));
    assert_eq!(declined.last().unwrap()["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn a_legacy_completion_has_its_own_shape() {
    let mut body = json!({ "model": "demo/chat", "prompt": "Once upon", "max_tokens": 3 });
    let plain = post("main", "completions", &body).await.json();
    assert_eq!(plain["object"], "text_completion");
    assert_eq!(plain["choices"][0]["text"], "You said: “Once ");
    body["stream"] = json!(true);
    let events = post("main", "completions", &body).await.events();
    let said = events.iter().filter_map(|event| event["choices"][0]["text"].as_str());
    assert_eq!(said.collect::<String>(), "You said: “Once ");
}

#[tokio::test]
async fn a_tool_call_streams_in_fragments_that_join_to_json() {
    let mut body = chat("demo/tools", true);
    let parameters =
        json!({"properties": {"city": {"type": "string"}, "day": {"type": "integer"}}});
    body["tools"] =
        json!([{"type": "function", "function": {"name": "tide", "parameters": parameters}}]);
    let events = post("main", "chat/completions", &body).await.events();
    let calls = events.iter().filter_map(|e| e["choices"][0]["delta"]["tool_calls"].get(0));
    let function = calls.map(|call| call["function"].clone()).collect::<Vec<_>>();
    assert_eq!(function[0], json!({ "name": "tide", "arguments": "" }));
    let arguments = function.iter().map(|f| f["arguments"].as_str().unwrap()).collect::<String>();
    assert_eq!(arguments, r#"{"city":"Oslo","day":1}"#);
    assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");
}

#[tokio::test]
async fn responses_events_are_named_numbered_and_end_in_the_whole() {
    let body = json!({ "model": "demo/reasoning", "stream": true, "input": "Where is Oslo?" });
    let reply = post("spare", "responses", &body).await;
    let (text, _) = reply.chunks();
    let names = text.lines().filter_map(|line| line.strip_prefix("event: "));
    let events = reply.events();
    for (number, (name, event)) in names.zip(&events).enumerate() {
        assert_eq!(
            (name, number.into()),
            (event["type"].as_str().unwrap(), event["sequence_number"].clone())
        );
    }
    let deltas = events.iter().filter(|event| event["type"] == "response.output_text.delta");
    let said = deltas.map(|event| event["delta"].as_str().unwrap()).collect::<String>();
    let whole = &events.last().unwrap()["response"];
    assert_eq!(
        (&whole["status"], &whole["output"][0]["type"]),
        (&json!("completed"), &json!("reasoning"))
    );
    assert_eq!(whole["output"][1]["content"][0]["text"], said);
    assert!(whole["usage"]["output_tokens_details"]["reasoning_tokens"].as_u64().unwrap() > 0);
    assert_eq!(reply.data().last().unwrap(), "[DONE]");
}

#[tokio::test]
async fn a_response_cut_at_its_maximum_is_incomplete() {
    let body = json!({ "model": "demo/chat", "max_output_tokens": 4, "input": "Hello" });
    let reply = post("main", "responses", &body).await.json();
    assert_eq!(reply["status"], "incomplete");
    assert_eq!(reply["incomplete_details"]["reason"], "max_output_tokens");
}

#[tokio::test]
async fn messages_events_build_the_blocks_of_the_plain_reply() {
    let mut body = chat("demo/reasoning", false);
    let plain = post("main", "messages", &body).await.json();
    assert_eq!(plain["content"][0]["type"], "thinking");
    assert_eq!(plain["stop_reason"], "end_turn");
    body["stream"] = json!(true);
    let reply = post("main", "messages", &body).await;
    let events = reply.events();
    let said = events.iter().filter_map(|event| event["delta"]["text"].as_str());
    assert_eq!(said.collect::<String>(), plain["content"][1]["text"].as_str().unwrap());
    assert_eq!((&events[0]["type"], &events[1]["type"]), (&json!("message_start"), &json!("ping")));
    let end = &events[events.len() - 2];
    assert_eq!(end["usage"]["output_tokens"], plain["usage"]["output_tokens"]);
    assert_eq!(reply.data().last().unwrap(), "[DONE]", "the stray end mark of OpenRouter");
}

#[tokio::test]
async fn faults_of_main_are_answered_by_spare() {
    for (model, status) in [
        ("demo/fails-503", 503),
        ("demo/fails-429", 429),
        ("demo/refuses-key", 401),
        ("demo/error-in-200", 200),
    ] {
        let main = post("main", "chat/completions", &chat(model, false)).await;
        assert_eq!(main.status(), status, "{model}");
        assert!(main.json()["error"]["message"].is_string(), "{model}");
        let limited = main.head.to_lowercase().contains("retry-after: 2");
        assert_eq!(limited, status == 429, "{model}");
        let spare = post("spare", "chat/completions", &chat(model, false)).await;
        assert_eq!(spare.json()["provider"], "demo-spare", "{model}");
    }
    let spare = post("spare", "messages", &chat("demo/fails-everywhere", false)).await;
    assert_eq!(spare.json()["error"]["type"], "overloaded_error");
}

#[tokio::test]
async fn an_error_in_a_stream_comes_before_any_word() {
    for (path, field) in [("chat/completions", "/error"), ("messages", "/error")] {
        let events = post("main", path, &chat("demo/error-in-200", true)).await.events();
        assert_eq!(events.len(), 1, "{path}");
        assert!(events[0].pointer(field).unwrap()["message"].is_string());
    }
    let body = json!({ "model": "demo/error-in-200", "stream": true, "input": "Hello" });
    let events = post("main", "responses", &body).await.events();
    assert_eq!(events[0]["response"]["status"], "failed");
}

#[tokio::test]
async fn broken_streams_break_as_their_names_say() {
    let cut = post("main", "chat/completions", &chat("demo/cut-mid-stream", true)).await;
    let (text, is_whole) = cut.chunks();
    assert!(!is_whole && !text.ends_with('\n') && text.contains("You "), "{text}");
    let truncated = post("main", "chat/completions", &chat("demo/truncates", true)).await;
    let (text, is_whole) = truncated.chunks();
    assert!(is_whole && text.ends_with("\n\n") && !text.contains("[DONE]"), "{text}");
    assert!(truncated.events().iter().all(|event| event["choices"][0]["finish_reason"].is_null()));
}

#[tokio::test]
async fn a_stalled_stream_stays_open_until_the_caller_leaves() {
    let body = chat("demo/stalls", true).to_string();
    let path = "/main/v1/chat/completions";
    let mut connection = send("POST", path, "simulated-key-of-main", &body).await;
    let mut bytes = vec![0_u8; 65_536];
    let silence = loop {
        let read = tokio::time::timeout(Duration::from_secs(1), connection.read(&mut bytes)).await;
        match read {
            Ok(read) => assert_ne!(read.unwrap(), 0, "ended"),
            Err(silence) => break silence,
        }
    };
    drop((silence, connection));
}

#[tokio::test]
async fn what_cannot_be_answered_is_refused_in_words() {
    let good = chat("demo/chat", false).to_string();
    let key = "simulated-key-of-main";
    for (method, path, key, body, status, words) in [
        ("POST", "/main/v1/chat/completions", "sk-the-callers-own", good.as_str(), 401, "key"),
        ("POST", "/main/v1/chat/completions", key, "{", 400, "not JSON"),
        ("POST", "/main/v1/chat/completions", key, r#"{"model":"demo/chat"}"#, 400, "nothing"),
        ("POST", "/main/v1/chat/completions", key, r#"{"model":"gpt-9"}"#, 404, "demo/chat"),
        ("GET", "/main/v1/chat/completions", key, "", 405, "POST"),
        ("POST", "/other/v1/chat/completions", key, "{}", 404, "no such path"),
        ("POST", "/main/v1/audio", key, "{}", 404, "no such path"),
    ] {
        let reply = call(method, path, key, body).await;
        assert_eq!(reply.status(), status, "{method} {path} {body}");
        let body = reply.json();
        let message = body["error"]["message"].as_str().unwrap();
        assert!(message.contains(words), "{message}");
    }
}

#[tokio::test]
async fn the_model_list_needs_no_key() {
    let reply = call("GET", "/spare/v1/models", "", "").await;
    assert_eq!(reply.json()["data"][0]["id"], "demo/chat");
}

#[tokio::test]
async fn a_connection_serves_one_call_after_another() {
    let mut connection = connection().await;
    let request = "GET /main/v1/models HTTP/1.1\r\nhost: demo\r\n\r\n";
    for _ in 0..3 {
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"{\"next\":null}}") {
            let read = connection.read_buf(&mut seen);
            let read = tokio::time::timeout(PATIENCE, read).await.expect("a reply").unwrap();
            assert_ne!(read, 0, "closed");
        }
    }
}
