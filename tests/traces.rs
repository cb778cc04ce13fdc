//! What becomes of a call at Langfuse and at another backend: recorded replies through the real taps,
//! compared with recorded spans, each of them linted.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "it/harness/otlp.rs"]
mod otlp;

use bytes::Bytes;
use cirque::ids::{RequestId, SpanId, TraceId};
use cirque::protocol::Dialect;
use cirque::protocol::tap::{PlainTap, Reading, StreamTap, UpstreamFault};
use cirque::protocol::usage::{Cost, CostSource};
use cirque::secret::Secret;
use cirque::telemetry::config::{Capture, LangfuseConfig, OtlpConfig, TelemetryConfig};
use cirque::telemetry::exchange::{Attempt, Exchange};
use cirque::telemetry::langfuse::{
    Destination, Input, KeyTraits, Secrets, Trace, encode, envelope,
};
use cirque::telemetry::metrics::Outcome;
use cirque::units::{ByteSize, OneOrMany};
use proptest::prelude::{ProptestConfig, any, prop, prop_assert, prop_assert_eq, proptest};
use serde_json::{Value, json};
use std::fs;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

/// Set to write the recorded files anew; look at the difference before committing it.
const REWRITE: &str = "CIRQUE_REWRITE_GOLDEN";
const CALLER: &str = "sk-canary-caller-1";
const UPSTREAM: &str = "sk-canary-upstream-2";
const PUBLIC: &str = "pk-canary-3";
const SECRET: &str = "sk-canary-4";
const LIMIT: usize = 1 << 20;
const PNG: &str = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
const CHAT: &str = r#"{"model":"acme/wisp-2-mini","messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"When is high water — in Oslo?"}],"temperature":0.2,"max_tokens":400,"stream":true,"metadata":{"topic":"tides"},"user":"u-17"}"#;

fn langfuse() -> LangfuseConfig {
    LangfuseConfig {
        host: "https://lf.example.com".into(),
        public_key: Secret::new(PUBLIC.into()),
        secret_key: Secret::new(SECRET.into()),
        environment: "production".into(),
        release: Some("2026.11".into()),
        ..LangfuseConfig::default()
    }
}

fn destination(config: &LangfuseConfig) -> Arc<Destination> {
    Destination::all(config, &TelemetryConfig::default()).remove(0)
}

fn collector() -> Arc<Destination> {
    let otlp =
        json!({ "endpoint": "http://c:4318", "environment": "production", "release": "2026.11" });
    let otlp: OtlpConfig = serde_json::from_value(otlp).unwrap();
    let telemetry = TelemetryConfig { otlp: OneOrMany::One(otlp) };
    Destination::all(&LangfuseConfig::default(), &telemetry).remove(0)
}

fn secrets() -> Arc<Secrets> {
    Arc::new(Secrets::new([UPSTREAM, PUBLIC, SECRET], [CALLER]))
}

fn golden(name: &str) -> String {
    let text = fs::read_to_string(format!("tests/golden/wire/{name}")).unwrap();
    text.split_once("\r\n\r\n").map_or(text.clone(), |(_, body)| body.to_owned())
}

fn streamed(dialect: Dialect, stream: &[u8], size: usize) -> Reading {
    let mut tap = StreamTap::new(dialect).keeping(Some(LIMIT));
    for chunk in stream.chunks(size) {
        tap.push(chunk);
    }
    tap.into_reading()
}

fn plain(dialect: Dialect, body: &str) -> Reading {
    let mut tap = PlainTap::new(dialect).keeping(Some(LIMIT));
    tap.push(&Bytes::copy_from_slice(body.as_bytes()));
    tap.finish()
}

/// A call of this dialect that got this reply.
fn call(dialect: Dialect, body: &str, reading: Reading) -> Trace {
    let stream = body.contains("\"stream\":true");
    let parsed: Value = serde_json::from_str(body).unwrap_or_default();
    let text = |name: &str| parsed.get(name).and_then(Value::as_str).map(str::to_owned);
    let cost =
        reading.upstream_cost.map(|said| Cost { usd: said.usd, source: CostSource::Upstream });
    let exchange = Exchange {
        started: UNIX_EPOCH + Duration::from_micros(1_790_000_001_123_456),
        request_id: RequestId::from_random(0xabc),
        trace_id: TraceId::from_random(0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c),
        client_ip: None,
        method: "POST".into(),
        path: dialect.route().into(),
        route: dialect.route(),
        status: 200,
        key: Some("n8n".into()),
        model: text("model"),
        model_label: "other".into(),
        upstream: Some("openrouter-main".into()),
        attempts: 1,
        tries: vec![attempt(0, 900, Outcome::Ok, None)],
        stream,
        bytes_in: body.len() as u64,
        bytes_out: 1_000,
        duration: Duration::from_micros(1_500_250),
        time_to_first_token: stream.then_some(Duration::from_millis(321)),
        overhead: Duration::from_micros(45),
        usage: reading.usage,
        cost,
        session_id: Some("conversation-1".into()),
        error_code: None,
        finish: reading.finish.clone(),
    };
    let presented = Some(Secret::new(CALLER.into()));
    Trace {
        user: Some(text("user").map_or_else(|| "n8n".into(), Into::into)),
        exchange,
        span: SpanId::from_random(0xb7ad_6b71_6920_3331),
        parent: None,
        dialect,
        key: Arc::new(KeyTraits { tags: vec!["team:automation".into()], capture: None }),
        opted_out: false,
        reading,
        message: None,
        max_output_tokens: parsed.get("max_tokens").and_then(Value::as_u64),
        input: Some(Arc::new(Input::new(
            Bytes::copy_from_slice(body.as_bytes()),
            LIMIT,
            presented.clone(),
            secrets(),
        ))),
        presented,
        secrets: secrets(),
    }
}

fn attempt(begun: u64, took: u64, outcome: Outcome, what: Option<&str>) -> Attempt {
    Attempt {
        upstream: if begun == 0 { "openrouter-main".into() } else { "openrouter-spare".into() },
        model: "acme/wisp-2-mini".into(),
        begun: Duration::from_millis(begun),
        took: Duration::from_millis(took),
        outcome,
        what: what.map(str::to_owned),
    }
}

/// A call that was refused before any upstream was asked.
fn refused(body: &str, status: u16, code: &'static str, message: &str) -> Trace {
    let mut trace = call(Dialect::Chat, body, Reading::default());
    trace.exchange = Exchange {
        status,
        error_code: Some(code),
        upstream: None,
        attempts: 0,
        tries: Vec::new(),
        duration: Duration::from_micros(310),
        time_to_first_token: None,
        finish: None,
        session_id: None,
        ..trace.exchange
    };
    trace.message = Some(message.into());
    trace
}

/// A call whose attempts ended like this.
fn tried(mut trace: Trace, tries: Vec<Attempt>) -> Trace {
    trace.exchange.attempts = u32::try_from(tries.len()).unwrap();
    trace.exchange.upstream = tries.last().map(|last| Arc::clone(&last.upstream));
    trace.exchange.tries = tries;
    trace
}

fn broken(mut trace: Trace, message: &str) -> Trace {
    trace.exchange.error_code = Some("upstream_error");
    trace.exchange.finish = Some("error".into());
    trace.message = Some(message.into());
    trace
}

fn body(trace: &Trace, to: &Destination) -> Value {
    let (before, after) = envelope();
    let mut body = before.to_vec();
    encode(trace, to, &mut body);
    body.extend_from_slice(after);
    serde_json::from_slice(&body).unwrap()
}

fn chats() -> Vec<(&'static str, Trace)> {
    use Dialect::{Chat, Completions, Embeddings};
    let stream = |file| streamed(Chat, golden(file).as_bytes(), 64);
    let tools = r#"{"model":"acme/wisp-2-mini","messages":[{"role":"user","content":"tide?"}],"tools":[{"type":"function","function":{"name":"tide"}}],"stream":true}"#;
    let once = CHAT.replace(",\"stream\":true", "");
    let custom = r#"{"id":"c","model":"wisp-2","choices":[{"message":{"content":null,"tool_calls":[{"id":"c1","type":"custom","custom":{"name":"shell","input":"cat \"a b\""}},{"id":"c2","type":"function","function":{"name":"tide","arguments":"{}"}}]},"finish_reason":"tool_calls"}],"usage":{"prompt_tokens":9,"completion_tokens":12,"total_tokens":21}}"#;
    let completion = r#"{"model":"m","prompt":"High water","max_tokens":3}"#;
    let completed = r#"{"id":"cmpl-1","model":"m-1","choices":[{"text":" is at 06:12","index":0,"finish_reason":"length"}],"usage":{"prompt_tokens":2,"completion_tokens":3,"total_tokens":5}}"#;
    let embedded = r#"{"object":"list","data":[{"embedding":[0.1,0.2,0.3],"index":0},{"embedding":[0,0,0],"index":1}],"model":"e-1","usage":{"prompt_tokens":8,"total_tokens":8}}"#;
    vec![
        ("chat_plain", call(Chat, &once, plain(Chat, &golden("chat_response.json")))),
        ("chat_byok", call(Chat, &once, plain(Chat, &golden("chat_response_byok.json")))),
        ("chat_stream", call(Chat, CHAT, stream("chat_stream_openrouter.sse"))),
        ("chat_stream_openai", call(Chat, CHAT, stream("chat_stream_openai.sse"))),
        ("chat_stream_tool", call(Chat, tools, stream("chat_stream_tool_openrouter.sse"))),
        (
            "chat_stream_mid_error",
            broken(call(Chat, CHAT, stream("chat_stream_mid_error.sse")), "the upstream broke off"),
        ),
        (
            "chat_stream_truncated",
            broken(
                call(Chat, CHAT, stream("chat_stream_truncated_partial.sse")),
                "the upstream broke off; the answer above is incomplete",
            ),
        ),
        ("completions_plain", call(Completions, completion, plain(Completions, completed))),
        (
            "embeddings_plain",
            call(Embeddings, r#"{"model":"e","input":["a","b"]}"#, plain(Embeddings, embedded)),
        ),
        ("chat_custom_tool", call(Chat, &once, plain(Chat, custom))),
    ]
}

fn others() -> Vec<(&'static str, Trace)> {
    use Dialect::{Messages, Responses};
    let stream = |dialect, file| streamed(dialect, golden(file).as_bytes(), 64);
    let responses = r#"{"model":"acme/wisp-2-mini","instructions":"Be brief.","input":"When?","reasoning":{"effort":"low"},"stream":true}"#;
    let messages = r#"{"model":"acme/wisp-2-mini","system":"Be brief.","messages":[{"role":"user","content":"When?"}],"max_tokens":99,"stream":true}"#;
    let answered = r#"{"id":"msg_1","type":"message","role":"assistant","model":"wisp-2","content":[{"type":"thinking","thinking":"Hm."},{"type":"text","text":"At 06:12."},{"type":"tool_use","id":"t1","name":"tide","input":{"port":"Oslo"}}],"stop_reason":"tool_use","usage":{"input_tokens":20,"cache_read_input_tokens":64,"cache_creation_input_tokens":10,"output_tokens":25}}"#;
    let response = r#"{"id":"resp_1","model":"wisp-2","status":"completed","output":[{"type":"reasoning","summary":[{"type":"summary_text","text":"Hm."}]},{"type":"message","content":[{"type":"output_text","text":"At 06:12."}]}],"usage":{"input_tokens":10,"output_tokens":5,"total_tokens":15}}"#;
    let once = |body: &str| body.replace(",\"stream\":true", "");
    vec![
        ("responses_plain", call(Responses, &once(responses), plain(Responses, response))),
        (
            "responses_stream",
            call(Responses, responses, stream(Responses, "responses_stream_openrouter.sse")),
        ),
        (
            "responses_stream_failed",
            broken(
                call(Responses, responses, stream(Responses, "responses_stream_failed.sse")),
                "the upstream broke off",
            ),
        ),
        ("messages_plain", call(Messages, &once(messages), plain(Messages, answered))),
        (
            "messages_stream",
            call(Messages, messages, stream(Messages, "messages_stream_anthropic.sse")),
        ),
        (
            "messages_stream_error",
            broken(
                call(Messages, messages, stream(Messages, "messages_stream_error.sse")),
                "the upstream broke off",
            ),
        ),
    ]
}

/// A good streamed chat call.
fn good() -> Trace {
    let stream = golden("chat_stream_openrouter.sse");
    call(Dialect::Chat, CHAT, streamed(Dialect::Chat, stream.as_bytes(), 64))
}

/// A chat call that brought nothing.
fn silent() -> Trace {
    let mut trace = call(Dialect::Chat, CHAT, Reading::default());
    trace.exchange.time_to_first_token = None;
    trace
}

fn aborted() -> Trace {
    let stream = golden("chat_stream_truncated_clean.sse");
    let mut trace = call(Dialect::Chat, CHAT, streamed(Dialect::Chat, stream.as_bytes(), 64));
    trace.exchange.finish = Some("cancelled".into());
    trace.exchange.cost = Some(Cost { usd: 0.000_012_5, source: CostSource::Estimate });
    trace.exchange.tries[0].outcome = Outcome::Cancelled;
    trace
}

fn callers_fault() -> Trace {
    let mut trace = silent();
    trace.exchange.status = 422;
    trace.reading.fault = Some(UpstreamFault {
        message: Some("max_tokens is too large".into()),
        code: Some("invalid_request_error".into()),
        status: None,
    });
    trace
}

fn failed_over() -> Trace {
    tried(
        good(),
        vec![
            attempt(0, 110, Outcome::Status429, Some("status 429")),
            attempt(120, 200, Outcome::Timeout, Some("no token within first_token")),
            attempt(330, 1_100, Outcome::Ok, None),
        ],
    )
}

fn failed_everywhere() -> Trace {
    let message = "all 2 upstream attempts failed (status 500); try again";
    let mut trace = broken(silent(), message);
    trace.exchange.status = 502;
    tried(
        trace,
        vec![
            attempt(0, 110, Outcome::ConnectError, Some("connection refused")),
            attempt(120, 200, Outcome::Status5xx, Some("status 500")),
        ],
    )
}

fn joined() -> Trace {
    Trace { parent: Some(SpanId::from_random(7)), ..good() }
}

fn unlucky() -> Vec<(&'static str, Trace)> {
    let unknown = "The model `acme/wisp-2-mini` is not known here.";
    let no_json = "The body is not JSON at byte 10.";
    vec![
        ("refused", refused(CHAT, 404, "model_not_found", unknown)),
        ("refused_no_json", refused("{\"model\": nonsense", 400, "invalid_json", no_json)),
        ("aborted", aborted()),
        ("callers_fault", callers_fault()),
        ("failed_over", failed_over()),
        ("failed_everywhere", failed_everywhere()),
        ("parent", joined()),
    ]
}

/// A call with every kind of secret and media in every place that a caller or a model can reach.
fn canaries() -> Trace {
    use Dialect::Chat;
    let keys = format!("{CALLER} {UPSTREAM} {PUBLIC} {SECRET}");
    let ours = format!("sk-cq-00000007-{:048x}", 9);
    let asked = json!({
        "model": format!("acme/{CALLER}"),
        "messages": [
            { "role": "user", "content": [
                { "type": "text", "text": format!("my keys are {keys} {ours}") },
                { "type": "image_url", "image_url": { "url": PNG } },
                { "type": "input_audio", "input_audio": { "format": "wav", "data": "UklGRiQAAABXQVZF" } },
                { "type": "file", "file": { "file_data": "data:application/pdf;base64,JVBERi0xLjcK" } },
            ] },
        ],
        "stop": [keys], "user": format!("u {CALLER}"), "stream": true,
        "metadata": { "topic": keys, CALLER: "x" },
    });
    let said = json!({ "id": UPSTREAM, "model": format!("m {UPSTREAM}"), "choices": [{ "index": 0,
        "finish_reason": "stop",
        "delta": { "content": format!("they are {keys} {ours} ![]({PNG})"), "reasoning": keys,
            "images": [{ "image_url": { "url": PNG } }],
            "tool_calls": [{ "index": 0, "id": SECRET, "function": { "name": "f", "arguments": json!({ "k": keys }).to_string() } }] } }],
        "error": { "message": format!("bad key {UPSTREAM}") } });
    let stream = format!("data: {said}\n\n");
    let mut trace = call(Chat, &asked.to_string(), streamed(Chat, stream.as_bytes(), 64));
    trace.exchange.session_id = Some(format!("s {CALLER}"));
    trace.message = Some(format!("failed with {SECRET}"));
    trace.exchange.error_code = Some("upstream_error");
    trace.exchange.finish = Some("error".into());
    trace.key = Arc::new(KeyTraits { tags: vec![format!("k:{CALLER}")], capture: None });
    tried(
        trace,
        vec![
            attempt(0, 10, Outcome::Reset, Some(&format!("said {UPSTREAM}"))),
            attempt(20, 30, Outcome::StreamBroken, Some(SECRET)),
        ],
    )
}

fn every() -> Vec<(&'static str, Trace, Arc<Destination>)> {
    let traces = chats().into_iter().chain(others()).chain(unlucky());
    let to = destination(&langfuse());
    let mut all: Vec<_> = traces.map(|(name, trace)| (name, trace, Arc::clone(&to))).collect();
    let metadata = LangfuseConfig { capture: Capture::Metadata, ..langfuse() };
    let short = LangfuseConfig { max_field: ByteSize(40), ..langfuse() };
    all.push(("redacted", canaries(), to));
    all.push(("metadata", good(), destination(&metadata)));
    all.push(("cut", good(), destination(&short)));
    all.push(("otlp", good(), collector()));
    all.push(("otlp_failed_over", failed_over(), collector()));
    all.push(("otlp_parent", joined(), collector()));
    all
}

#[test]
fn every_kind_of_call_becomes_the_recorded_spans() {
    let mut wrong = Vec::new();
    for (name, trace, to) in every() {
        let version = format!("\"{}\"", env!("CARGO_PKG_VERSION"));
        let now =
            serde_json::to_string_pretty(&body(&trace, &to)).unwrap().replace(&version, "\"0\"")
                + "\n";
        let path = format!("tests/golden/langfuse/{name}.json");
        if std::env::var_os(REWRITE).is_some() {
            fs::write(&path, &now).unwrap();
        }
        if fs::read_to_string(&path).unwrap_or_default() != now {
            wrong.push(format!("{path} differs; {REWRITE}=1 writes it anew"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_recorded_trace_passes_the_linter() {
    for (name, trace, to) in every() {
        assert_eq!(otlp::lint(&body(&trace, &to)), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn no_key_and_no_media_are_anywhere_in_a_trace() {
    for to in [destination(&langfuse()), collector()] {
        let text = body(&canaries(), &to).to_string();
        for canary in ["canary", "sk-cq-0", "iVBORw", "UklGR", "JVBERi"] {
            assert!(!text.contains(canary), "{canary} in {text}");
        }
        assert!(
            text.contains("image/png, 70 bytes, sha256 ") && text.contains("audio/wav, 12 bytes")
        );
    }
}

fn cut_by_the_tap(stream: &str) -> Reading {
    let mut tap = StreamTap::new(Dialect::Chat).keeping(Some(2_000));
    tap.push(stream.as_bytes());
    tap.into_reading()
}

/// A call whose texts all hold a key after so many other characters, as far as each place keeps them.
fn with_a_key_after(before: usize, key: &str) -> Trace {
    let keys = Arc::new(Secrets::new([key], []));
    let text = format!("{}{key}{}", "x".repeat(before), "y".repeat(3_000));
    let far = format!("{}{text}", "x".repeat(700));
    let name = text.split_at(256.min(before + key.len())).0;
    let asked = json!({ "model": name, "messages": ["hi"], "user": text, "stop": far,
        "metadata": { "note": text, text.as_str(): "1" }, text.as_str(): 1 });
    let said = json!({ "id": text, "model": text, "choices": [{ "index": 0, "finish_reason": text,
        "delta": { "content": far, "tool_calls": [{ "index": 0, "id": text,
            "function": { "name": text, "arguments": far } }] } }],
        "error": { "message": text } });
    let mut trace =
        call(Dialect::Chat, &asked.to_string(), cut_by_the_tap(&format!("data: {said}\n\n")));
    trace.exchange.session_id = Some(text.split_at(256).0.to_owned());
    trace.input =
        Some(Arc::new(Input::new(Bytes::from(asked.to_string()), 2_000, None, Arc::clone(&keys))));
    trace.secrets = keys;
    tried(
        trace,
        vec![
            attempt(0, 10, Outcome::Reset, Some(&text)),
            Attempt { model: text, ..attempt(20, 30, Outcome::StreamBroken, None) },
        ],
    )
}

#[test]
fn no_part_of_a_key_is_left_where_a_text_is_cut() {
    let key = format!("sk-canary-{}", "0123456789".repeat(6));
    let config = LangfuseConfig { max_field: ByteSize(2_000), ..langfuse() };
    for before in (0..2_100).step_by(11) {
        let trace = with_a_key_after(before, &key);
        for to in [destination(&config), collector()] {
            let body = body(&trace, &to);
            let text = body.to_string();
            assert!(!text.contains("sk-canary"), "after {before}: {text}");
            assert_eq!(otlp::lint(&body), Vec::<String>::new());
        }
    }
}

#[test]
fn with_metadata_alone_nothing_that_was_said_is_there() {
    let config = LangfuseConfig { capture: Capture::Metadata, ..langfuse() };
    let said =
        ["Be brief", "High water", "topic", "Checking", "too large", "temperature", "bad key"];
    for (name, trace) in chats().into_iter().chain(others()).chain(unlucky()) {
        let text = body(&trace, &destination(&config)).to_string();
        for word in said {
            assert!(!text.contains(word), "{word} in {name}: {text}");
        }
    }
    // A key's own word wins, either way.
    let mut trace = chats().remove(0).1;
    trace.key = Arc::new(KeyTraits { capture: Some(Capture::Full), ..KeyTraits::default() });
    assert!(body(&trace, &destination(&config)).to_string().contains("Be brief"));
    trace.key = Arc::new(KeyTraits { capture: Some(Capture::Metadata), ..KeyTraits::default() });
    assert!(!body(&trace, &destination(&langfuse())).to_string().contains("Be brief"));
}

#[test]
fn a_call_is_kept_out_only_where_that_is_allowed() {
    let mut trace = chats().remove(0).1;
    trace.opted_out = true;
    let mut part = Vec::new();
    assert_eq!(encode(&trace, &destination(&langfuse()), &mut part), 1);
    let allowing = LangfuseConfig { allow_opt_out: true, ..langfuse() };
    part.clear();
    assert_eq!((encode(&trace, &destination(&allowing), &mut part), part.len()), (0, 0));
    trace.opted_out = false;
    let none = LangfuseConfig { sample_rate: 0.0, ..langfuse() };
    assert_eq!((encode(&trace, &destination(&none), &mut part), part.len()), (0, 0));
}

#[test]
fn only_the_attempt_that_answered_is_billed() {
    let body = body(&failed_over(), &destination(&langfuse()));
    let spans = otlp::spans(&body, &mut Vec::new());
    let costs: Vec<_> = spans
        .iter()
        .map(|span| otlp::attribute(span, "langfuse.observation.cost_details"))
        .collect();
    let zero = Some("{\"total\":0.0}".to_owned());
    assert_eq!(
        costs,
        [
            None,
            zero.clone(),
            zero,
            Some(r#"{"input":0.0003512,"output":0.00047,"total":0.0008212}"#.to_owned())
        ]
    );
}

#[test]
fn each_attempt_tells_how_it_ended_itself() {
    let body = body(&failed_over(), &collector());
    let told = |name: &str| -> Vec<Option<String>> {
        let spans = otlp::spans(&body, &mut Vec::new());
        spans.iter().map(|span| otlp::attribute(span, name)).collect()
    };
    let some = |text: &str| Some(text.to_owned());
    let status = told("http.response.status_code");
    assert_eq!(status, [some("200"), some("429"), None, some("200")]);
    assert_eq!(told("error.type"), [None, some("status_429"), some("timeout"), None]);
    for name in ["gen_ai.response.finish_reasons", "gen_ai.response.model", "gen_ai.response.id"] {
        let told = told(name);
        assert!(told[1].is_none() && told[2].is_none() && told[3].is_some(), "{name}: {told:?}");
    }
}

#[test]
fn a_long_call_that_failed_over_is_written_out_once() {
    let long = |text: &str| {
        let mut trace = failed_over();
        let asked = json!({ "model": "m", "messages": [{ "role": "user", "content": text }] });
        let asked = Bytes::from(asked.to_string());
        trace.input = Some(Arc::new(Input::new(asked, LIMIT, None, secrets())));
        let written = body(&trace, &destination(&langfuse()));
        let mut spans = Vec::new();
        let spans = otlp::spans(&written, &mut spans).clone();
        let input = |span: &Value| otlp::attribute(span, "langfuse.observation.input").unwrap();
        (input(spans[0]), input(spans[3]))
    };
    let (root, last) = long("high water");
    assert_eq!(root, last);
    let (root, last) = long(&"high water".repeat(120_000));
    assert!(last.len() > 1_000_000 && root.len() < 200_000, "{} {}", root.len(), last.len());
    assert!(root.contains("bytes cut]") && root.contains("high water"));
}

#[test]
fn the_linter_finds_every_fault() {
    type Change = fn(&mut Value);
    fn at<'v>(span: &'v mut Value, key: &str) -> &'v mut Value {
        let attributes = span["attributes"].as_array_mut().unwrap();
        attributes.iter_mut().find(|attribute| attribute["key"] == key).unwrap()
    }
    fn put(span: &mut Value, key: &str, text: &str) {
        at(span, key)["value"]["stringValue"] = text.into();
    }
    let changes: &[(&str, Change)] = &[
        ("traceId", |span| span["traceId"] = "zz".into()),
        ("spanId", |span| span["spanId"] = "B7AD6B7169203331".into()),
        ("parentSpanId", |span| span["parentSpanId"] = "".into()),
        ("status.code", |span| span["status"]["code"] = "STATUS_CODE_ERROR".into()),
        ("do not agree", |span| span["status"]["code"] = 2.into()),
        ("times", |span| span["endTimeUnixNano"] = 7.into()),
        ("times", |span| span["endTimeUnixNano"] = "7".into()),
        ("no list", |span| span["attributes"] = json!({})),
        ("user.id is missing", |span| {
            *at(span, "user.id") = json!({ "key": "x", "value": { "stringValue": "y" } });
        }),
        ("twice", |span| at(span, "user.id")["key"] = "session.id".into()),
        ("not of its kind", |span| at(span, "user.id")["value"] = json!({ "kvlistValue": {} })),
        ("too long", |span| put(span, "user.id", &"x".repeat(201))),
        ("dropped", |span| at(span, "user.id")["key"] = "a.__proto__".into()),
        ("default", |span| put(span, "langfuse.environment", "Production")),
        ("default", |span| put(span, "langfuse.environment", "langfuse-x")),
        ("not known", |span| put(span, "langfuse.observation.type", "GENERATION")),
        ("add up", |span| {
            put(span, "langfuse.observation.usage_details", r#"{"input":1,"total":2}"#);
        }),
        ("whole numbers", |span| {
            put(span, "langfuse.observation.usage_details", r#"{"input":1.5,"total":1.5}"#);
        }),
        ("total", |span| put(span, "langfuse.observation.cost_details", r#"{"input":1}"#)),
        ("add up", |span| {
            put(span, "langfuse.observation.cost_details", r#"{"input":1,"total":2}"#);
        }),
        ("missing", |span| at(span, "langfuse.observation.cost_details")["key"] = "x".into()),
        ("outside", |span| put(span, "langfuse.observation.type", "span")),
        ("no JSON object", |span| put(span, "langfuse.observation.model.parameters", "[]")),
        ("not a time", |span| put(span, "langfuse.observation.completion_start_time", "yesterday")),
    ];
    let (_, trace) = chats().remove(2);
    let good = body(&trace, &destination(&langfuse()));
    for (says, change) in changes {
        let mut bad = good.clone();
        change(&mut bad["resourceSpans"][0]["scopeSpans"][0]["spans"][0]);
        let faults = otlp::lint(&bad).join("\n");
        assert!(faults.contains(says), "{says} not in {faults:?}");
    }
    assert!(!otlp::lint(&json!({ "resourceSpans": {} })).is_empty());
    let spans = &good["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
    let twice = json!({ "resourceSpans": [{ "scopeSpans": [{ "spans": [spans, spans] }] }] });
    assert!(otlp::lint(&twice).join("").contains("twice"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_stream_is_the_same_trace_however_it_is_cut(which in 0_usize..4, size in 1_usize..300) {
        let (file, dialect) = [
            ("chat_stream_openrouter.sse", Dialect::Chat),
            ("chat_stream_tool_openrouter.sse", Dialect::Chat),
            ("responses_stream_openrouter.sse", Dialect::Responses),
            ("messages_stream_openrouter.sse", Dialect::Messages),
        ][which];
        let stream = golden(file);
        let to = destination(&langfuse());
        let whole = call(dialect, CHAT, streamed(dialect, stream.as_bytes(), usize::MAX));
        let cut = call(dialect, CHAT, streamed(dialect, stream.as_bytes(), size));
        prop_assert_eq!(body(&whole, &to), body(&cut, &to));
    }

    /// Whatever callers, models and upstreams write, and whatever keys there are.
    #[test]
    fn any_text_anywhere_is_a_good_trace_without_keys(
        text in prop::collection::vec(any::<String>(), 6),
        key in r#"[nu0-9a-f"\\]{8,20}"#,
        noise in prop::collection::vec(any::<u8>(), 0..200),
        limit in 0_usize..300,
    ) {
        let mut asked = json!({ "model": text[0], "messages": [text[1], key], "stop": text[2],
            "metadata": { text[3].as_str(): text[4] } }).to_string().into_bytes();
        if noise.len() % 3 == 0 {
            asked.extend_from_slice(&noise);
        }
        let said = json!({ "choices": [{ "delta": { "content": format!("{}{key}{}", text[4], text[5]) } }] });
        let stream = format!("data: {said}\n\ndata: {}\n\n", String::from_utf8_lossy(&noise));
        let asked = String::from_utf8_lossy(&asked).into_owned();
        let mut trace = call(Dialect::Chat, &asked, streamed(Dialect::Chat, stream.as_bytes(), 7));
        trace.presented = Some(Secret::new(key.clone()));
        trace.input = Some(Arc::new(Input::new(Bytes::from(asked), LIMIT, trace.presented.clone(), secrets())));
        trace.exchange.session_id = Some(text[5].clone());
        trace.message = Some(format!("{key}{}", text[0]));
        trace.exchange.error_code = (limit % 2 == 0).then_some("upstream_error");
        let to = destination(&LangfuseConfig { max_field: ByteSize(limit as u64 + 40), ..langfuse() });
        let body = body(&trace, &to);
        prop_assert_eq!(otlp::lint(&body), Vec::<String>::new());
        for span in otlp::spans(&body, &mut Vec::new()) {
            for attribute in ["langfuse.observation.input", "langfuse.observation.output", "langfuse.observation.status_message"] {
                let value = otlp::attribute(span, attribute).unwrap_or_default();
                prop_assert!(!value.contains(&key), "{attribute}: {value}");
            }
        }
    }
}
