//! What a call leaves behind at a backend of traces: all of it, joined to its caller's and its
//! upstream's, and none of what must not be seen.

use crate::harness::otlp::{attribute, lint, spans};
use crate::harness::{
    Config, Gateway, KEY, Origin, Reply, Request, UPSTREAM_KEY, chat, chat_stream, eventually,
    sample,
};
use bytes::Bytes;
use flate2::read::GzDecoder;
use serde_json::{Value, json};
use std::io::Read as _;

const CHAT: &str = "/v1/chat/completions";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const THEIRS: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
const SECRET: &str = "sk-lf-canary-19fa";
const INPUT: &str = "langfuse.observation.input";
const OUTPUT: &str = "langfuse.observation.output";

/// A Langfuse that keeps what it gets.
struct Collector(Origin);

impl Collector {
    async fn start() -> Self {
        let origin = Origin::start().await;
        origin.answer(|_| Reply::json(200, &json!({})));
        Self(origin)
    }

    /// The `langfuse` section that points here, with more of its flow mapping.
    fn section(&self, extra: &str) -> String {
        format!(
            "langfuse: {{ host: \"http://{}\", public_key: pk-lf-canary-7, secret_key: {SECRET}, \
             spool: {{ path: ./spool }}{extra} }}",
            self.0.address()
        )
    }

    fn spans(&self) -> Vec<Value> {
        let mut all = Vec::new();
        for call in self.0.calls() {
            let mut text = Vec::new();
            GzDecoder::new(&*call.body).read_to_end(&mut text).expect("gzip");
            let body: Value = serde_json::from_slice(&text).expect("JSON");
            assert_eq!(lint(&body), Vec::<String>::new());
            all.extend(spans(&body, &mut Vec::new()).into_iter().cloned());
        }
        all
    }

    /// Waits for so many spans, root first.
    async fn has(&self, count: usize) -> Vec<Value> {
        let enough = || async { Some(self.spans()).filter(|spans| spans.len() >= count) };
        let found = eventually(&format!("{count} spans"), enough).await;
        assert_eq!(found.len(), count, "{found:?}");
        found
    }
}

async fn started(extra: &str) -> (Origin, Collector, Gateway) {
    let (origin, collector) = (Origin::start().await, Collector::start().await);
    let gateway = Gateway::start(&Config::to(&origin).section(&collector.section(extra))).await;
    (origin, collector, gateway)
}

fn get(span: &Value, key: &str) -> String {
    attribute(span, key).unwrap_or_default()
}

#[tokio::test]
async fn one_trace_joins_caller_log_and_upstream() {
    let (origin, collector, gateway) = started("").await;
    origin.next(Reply::sse(sample("chat_stream_openrouter.sse")));
    let request = Request::post(CHAT, &chat_stream())
        .header("traceparent", THEIRS)
        .header("tracestate", "a=b")
        .header("x-session-id", "conversation-7");
    let reply = gateway.call(&request).await;
    let span = collector.has(1).await.remove(0);
    assert_eq!(span["traceId"], TRACE);
    assert_eq!(span.get("parentSpanId"), None);
    let sent = origin.only_call();
    let outgoing = format!("00-{TRACE}-{}-01", span["spanId"].as_str().unwrap());
    assert_eq!(sent.headers.get("traceparent"), Some(outgoing.as_str()));
    assert_eq!(sent.headers.get("tracestate"), Some("a=b"));
    let line = gateway.log_of(reply.assert_ok()).await;
    assert_eq!(line["trace_id"], TRACE);
    assert_eq!(get(&span, "session.id"), "conversation-7");
    assert_eq!(get(&span, "user.id"), "tester");
    assert_eq!(
        get(&span, "langfuse.trace.metadata.request_id"),
        line["request_id"].as_str().unwrap()
    );
    assert_eq!(
        get(&span, OUTPUT),
        r#"{"role":"assistant","content":"High water is at 06:12 — 🌊.","reasoning":"Checking the","finish_reason":"stop"}"#
    );
    assert!(get(&span, INPUT).contains("role"));
    assert_eq!(
        get(&span, "langfuse.observation.cost_details"),
        r#"{"input":0.0003512,"output":0.00047,"total":0.0008212}"#
    );
    assert!(!get(&span, "langfuse.observation.completion_start_time").is_empty());
}

#[tokio::test]
async fn a_tracestate_goes_upstream_only_with_the_trace_it_belongs_to() {
    let (origin, _collector, gateway) = started("").await;
    let good = Request::post(CHAT, &chat()).header("tracestate", "a=b");
    for (traceparent, state) in [(Some(THEIRS), Some("a=b")), (Some("00-bad"), None), (None, None)]
    {
        let request = good.clone();
        let request = match traceparent {
            Some(traceparent) => request.header("traceparent", traceparent),
            None => request,
        };
        gateway.call(&request).await.assert_ok();
        let calls = origin.calls();
        let sent = &calls.last().expect("a call").headers;
        assert!(sent.get("traceparent").is_some());
        assert_eq!(sent.get("tracestate"), state, "{traceparent:?}");
    }
}

#[tokio::test]
async fn a_failover_is_one_trace_with_a_generation_an_attempt() {
    let (bad, good, collector) =
        (Origin::start().await, Origin::start().await, Collector::start().await);
    bad.always(Reply::error(500));
    let config = Config::new()
        .upstream("bad", &bad.base_url(), "priority: 0")
        .upstream("good", &good.base_url(), "priority: 1")
        .route("models: [\"*\"], upstreams: [bad, good], balance: priority, retry: { attempts: 3, budget: 1.0 }")
        .section(&collector.section(""));
    let gateway = Gateway::start(&config).await;
    gateway.post(CHAT, &chat()).await.assert_ok();
    let spans = collector.has(3).await;
    let upstreams: Vec<_> =
        spans.iter().map(|span| get(span, "langfuse.observation.metadata.upstream")).collect();
    assert_eq!(upstreams, ["", "bad", "good"]);
    assert!(spans[1..].iter().all(|span| span["parentSpanId"] == spans[0]["spanId"]));
    assert_eq!(get(&spans[1], "langfuse.observation.level"), "ERROR");
    assert_eq!(
        get(&spans[1], "langfuse.observation.usage_details"),
        r#"{"input":0,"output":0,"total":0}"#
    );
    let second = good.only_call().headers.get("traceparent").unwrap().to_owned();
    assert!(second.contains(spans[2]["spanId"].as_str().unwrap()), "{second}");
}

#[tokio::test]
async fn what_a_failed_attempt_had_said_is_not_told_of_the_last() {
    let (bad, worse, collector) =
        (Origin::start().await, Origin::start().await, Collector::start().await);
    let begun = "data: {\"id\":\"gen-bad\",\"model\":\"bad-model\",\"choices\":[],\
        \"usage\":{\"prompt_tokens\":120,\"completion_tokens\":0,\"total_tokens\":120}}\n\n\
        data: {\"error\":{\"message\":\"overloaded just now\",\"code\":529}}\n\n";
    bad.always(Reply::sse(begun));
    worse.always(Reply::error(500));
    let config = Config::new()
        .upstream("bad", &bad.base_url(), "priority: 0")
        .upstream("worse", &worse.base_url(), "priority: 1")
        .route("models: [\"*\"], upstreams: [bad, worse], balance: priority, retry: { attempts: 2, budget: 1.0 }")
        .section(&collector.section(""));
    let gateway = Gateway::start(&config).await;
    assert_eq!(gateway.post(CHAT, &chat_stream()).await.status, 502);
    let spans = collector.has(3).await;
    let text = serde_json::to_string(&spans).unwrap();
    // Digits alone may stand in an id or a time.
    for word in ["bad-model", "gen-bad", "overloaded just now", r#"\"input\":120"#] {
        assert!(!text.contains(word), "{word} in {text}");
    }
    assert_eq!(
        get(&spans[2], "langfuse.observation.usage_details"),
        r#"{"input":0,"output":0,"total":0}"#
    );
}

#[tokio::test]
async fn calls_that_a_drain_cuts_are_traced_with_what_they_had() {
    const STREAMS: usize = 60;
    let (origin, collector) = (Origin::start().await, Collector::start().await);
    let config = Config::to(&origin).server("drain: 1s").section(&collector.section(""));
    let gateway = Gateway::start(&config).await;
    let first =
        "data: {\"model\":\"wisp\",\"choices\":[{\"delta\":{\"content\":\"Half an ans\"}}]}\n\n";
    let mut clients = Vec::new();
    for _ in 0..STREAMS {
        origin.next(Reply::stream().piece(first).hang());
        let mut client = gateway.client().await;
        client.open(&Request::post(CHAT, &chat_stream())).await;
        client.read_until("Half an ans").await;
        clients.push(client);
    }
    // A large body whose call waits for its answer.
    origin.next(Reply::silence());
    let body = json!({ "model": "m", "messages": ["x".repeat(300 << 10)] }).to_string();
    let mut waiting = gateway.client().await;
    waiting.send_request(&Request::post(CHAT, &json!(0)).json_text(Bytes::from(body))).await;
    origin.call(STREAMS).await;
    gateway.process.signal("TERM");
    assert_eq!(gateway.process.exit_code().await, 0);

    let _again = Gateway::start_in(gateway.process.kill(), &config).await;
    let mut halves = 0;
    for span in collector.has(STREAMS + 1).await {
        let message = get(&span, "langfuse.observation.status_message");
        assert_eq!(message, "draining: the gateway was stopped before the call had ended");
        if get(&span, "langfuse.observation.metadata.stream") == "true" {
            assert!(get(&span, OUTPUT).contains("Half an ans"), "{span}");
            assert_eq!(get(&span, "langfuse.observation.model.name"), "wisp");
            halves += 1;
        } else {
            assert!(get(&span, INPUT).contains("xxxx"), "{span}");
        }
    }
    assert_eq!(halves, STREAMS);
}

#[tokio::test]
async fn a_drain_waits_until_the_large_bodies_of_calls_that_it_cuts_are_looked_through() {
    const CALLS: usize = 8;
    let (origin, collector) = (Origin::start().await, Collector::start().await);
    let config = Config::to(&origin).server("drain: 1s").section(&collector.section(""));
    let gateway = Gateway::start(&config).await;
    let image = format!("data:image/png;base64,{}", "iVBORw0KGgoA".repeat(600_000));
    let part = json!({ "type": "image_url", "image_url": { "url": image } });
    let body = json!({ "model": "m", "messages": [{ "role": "user", "content": [part] }] });
    let body = Bytes::from(body.to_string());
    let mut clients = Vec::new();
    for _ in 0..CALLS {
        origin.next(Reply::silence());
        let mut client = gateway.client().await;
        let request = Request::post(CHAT, &json!(0)).json_text(body.clone());
        client.send_request(&request).await;
        clients.push(client);
    }
    origin.call(CALLS - 1).await;
    gateway.process.signal("TERM");
    assert_eq!(gateway.process.exit_code().await, 0);
    let log = gateway.log();
    let is_cut = |line: &Value| line["status"] == 503 && line["error_code"] == "draining";
    assert!(log.len() == CALLS && log.iter().all(is_cut), "{log:?}");
    let _again = Gateway::start_in(gateway.process.kill(), &config).await;
    for span in collector.has(CALLS).await {
        assert!(get(&span, INPUT).contains("image/png"), "{span}");
    }
}

#[tokio::test]
async fn refused_calls_are_traced_once_their_caller_is_known() {
    let (origin, collector, gateway) = started("").await;
    gateway.call(&Request::post(CHAT, &chat()).anonymous()).await;
    gateway.call(&Request::post(CHAT, &json!(0)).json_text("{\"model\": nonsense")).await;
    gateway.get("/v1/models").await.assert_ok();
    let span = collector.has(1).await.remove(0);
    assert!(get(&span, "langfuse.observation.status_message").starts_with("invalid_json: "));
    assert_eq!(get(&span, "langfuse.observation.cost_details"), r#"{"total":0.0}"#);
    assert_eq!(get(&span, INPUT), "{\"model\": nonsense");
    // What can be read of a body is known, also where it is refused.
    let empty = json!({ "model": "acme/wisp", "user": "u-7", "session_id": "s-7", "messages": [] });
    gateway.post(CHAT, &empty).await;
    let mut spans = collector.has(2).await;
    let span = spans.remove(1);
    assert!(get(&span, "langfuse.observation.status_message").starts_with("invalid_request: "));
    assert_eq!(get(&span, "langfuse.observation.metadata.requested_model"), "acme/wisp");
    assert_eq!((get(&span, "user.id"), get(&span, "session.id")), ("u-7".into(), "s-7".into()));
    assert!(origin.calls().is_empty());
}

#[tokio::test]
async fn a_call_whose_caller_leaves_is_traced_with_what_it_got() {
    let (origin, collector, gateway) = started("").await;
    let first = "data: {\"choices\":[{\"delta\":{\"content\":\"Half an ans\"}}]}\n\n";
    origin.next(Reply::stream().piece(first).hang());
    let mut client = gateway.client().await;
    client.open(&Request::post(CHAT, &chat_stream())).await;
    client.read_until("Half an ans").await;
    client.reset();
    let span = collector.has(1).await.remove(0);
    assert_eq!(get(&span, "langfuse.observation.level"), "WARNING");
    assert!(get(&span, OUTPUT).contains("Half an ans"));
    assert_eq!(get(&span, "langfuse.observation.metadata.finish"), "cancelled");
}

#[tokio::test]
async fn no_key_and_no_media_reach_a_backend() {
    let (origin, collector, gateway) = started("").await;
    let keys = format!("{KEY} {UPSTREAM_KEY} pk-lf-canary-7 {SECRET}");
    let png = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUg==";
    let asked = json!({ "model": "acme/wisp", "user": KEY, "stop": keys,
        "metadata": { "topic": keys },
        "messages": [{ "role": "user", "content": [
            { "type": "text", "text": keys }, { "type": "image_url", "image_url": { "url": png } },
        ] }] });
    origin.next(Reply::json(
        200,
        &json!({ "id": UPSTREAM_KEY, "model": "m",
        "choices": [{ "message": { "content": keys }, "finish_reason": "stop" }] }),
    ));
    let request = Request::post(CHAT, &asked).header("x-session-id", KEY);
    gateway.call(&request).await.assert_ok();
    origin.next(Reply::json(
        422,
        &json!({ "error": { "message": format!("bad key {UPSTREAM_KEY} or {KEY}") } }),
    ));
    gateway.call(&request).await;
    let spans = collector.has(2).await;
    let text = serde_json::to_string(&spans).unwrap();
    for canary in ["canary", "iVBOR"] {
        assert!(!text.contains(canary), "{canary} in {text}");
    }
    assert!(text.contains("[redacted]") && text.contains("image/png, 16 bytes, sha256 "), "{text}");
    let message = "langfuse.observation.status_message";
    let messages: Vec<_> = spans.iter().filter_map(|span| attribute(span, message)).collect();
    assert!(messages.iter().any(|text| text.contains("bad key [redacted]")), "{messages:?}");
}

#[tokio::test]
async fn a_key_may_keep_its_prompts_and_a_caller_a_call_to_itself() {
    let (origin, collector) = (Origin::start().await, Collector::start().await);
    let section = collector.section(", allow_opt_out: true");
    let config = Config::to(&origin)
        .key("name: quiet, secret: sk-quiet-canary, capture: metadata, metadata: { team: law }")
        .section(&section);
    let gateway = Gateway::start(&config).await;
    let out =
        Request::post(CHAT, &chat()).header("x-cirque-trace", "off").header("traceparent", THEIRS);
    gateway.call(&out).await.assert_ok();
    // Not traced: the caller's header goes on as it came.
    assert_eq!(origin.only_call().headers.get("traceparent"), Some(THEIRS));
    let quiet = Request::post(CHAT, &chat()).anonymous().header("x-api-key", "sk-quiet-canary");
    gateway.call(&quiet).await.assert_ok();
    let span = collector.has(1).await.remove(0);
    assert_eq!((attribute(&span, INPUT), attribute(&span, OUTPUT)), (None, None));
    assert!(get(&span, "langfuse.trace.tags").contains("team:law"));
    assert!(get(&span, "langfuse.observation.usage_details").contains("total"));
}

#[tokio::test]
async fn many_large_bodies_at_once_are_all_traced() {
    let (_origin, collector, gateway) = started("").await;
    let body = json!({ "model": "m", "messages": ["x".repeat(20 << 20)] }).to_string();
    let request = Request::post(CHAT, &json!(0)).json_text(Bytes::from(body));
    let (one, two, three) =
        tokio::join!(gateway.call(&request), gateway.call(&request), gateway.call(&request));
    for reply in [one, two, three] {
        reply.assert_ok();
    }
    for span in collector.has(3).await {
        assert!(get(&span, INPUT).contains("bytes cut"));
    }
}

#[tokio::test]
async fn a_large_body_is_let_go_of_while_its_stream_goes_on() {
    let (origin, collector, gateway) = started(", max_field: 4KiB").await;
    let first = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
    origin.next(Reply::stream().piece(first).hang());
    let body =
        json!({ "model": "m", "stream": true, "messages": ["x".repeat(6 << 20)] }).to_string();
    let mut client = gateway.client().await;
    client.open(&Request::post(CHAT, &json!(0)).json_text(Bytes::from(body))).await;
    client.read_until("\"a\"").await;
    client.reset();
    let span = collector.has(1).await.remove(0);
    let input = get(&span, INPUT);
    assert!(input.len() <= 4 << 10 && input.contains("bytes cut"), "{}", input.len());
}
