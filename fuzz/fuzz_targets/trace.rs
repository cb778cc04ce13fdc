//! Any bytes as a request body, a stream and a plain reply: the trace is good JSON, holds no key of
//! either side, and is the same however the stream is cut.
#![no_main]

use bytes::Bytes;
use cirque::ids::{RequestId, SpanId, TraceId};
use cirque::protocol::Dialect;
use cirque::protocol::tap::{PlainTap, Reading, StreamTap};
use cirque::secret::Secret;
use cirque::telemetry::config::{OtlpConfig, TelemetryConfig};
use cirque::telemetry::exchange::Exchange;
use cirque::telemetry::langfuse::{Destination, Input, Secrets, Trace, encode, envelope};
use cirque::units::OneOrMany;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

const DIALECTS: [Dialect; 5] = [
    Dialect::Chat,
    Dialect::Completions,
    Dialect::Responses,
    Dialect::Messages,
    Dialect::Embeddings,
];
const KEY: &str = "n8n\\key\"";
const UPSTREAM_KEY: &str = "u001fabc";

fn destination(max_field: usize) -> Arc<Destination> {
    let otlp: OtlpConfig = serde_json::from_value(
        json!({ "endpoint": "http://a", "max_field": format!("{max_field}") }),
    )
    .expect("a good configuration");
    let telemetry = TelemetryConfig { otlp: OneOrMany::One(otlp) };
    Destination::all(&Default::default(), &telemetry).remove(0)
}

fn streamed(dialect: Dialect, stream: &[u8], size: usize, limit: usize) -> Reading {
    let mut tap = StreamTap::new(dialect).keeping(Some(limit));
    for chunk in stream.chunks(size) {
        tap.push(chunk);
    }
    tap.into_reading()
}

fn plain(dialect: Dialect, body: &[u8], limit: usize) -> Reading {
    let mut tap = PlainTap::new(dialect).keeping(Some(limit));
    tap.push(&Bytes::copy_from_slice(body));
    tap.finish()
}

fn trace(dialect: Dialect, body: &[u8], reading: Reading, limit: usize) -> Trace {
    let presented = Some(Secret::new(KEY.to_owned()));
    let secrets = Arc::new(Secrets::new([UPSTREAM_KEY], []));
    let input = Input::new(Bytes::copy_from_slice(body), limit, presented.clone(), secrets.clone());
    Trace {
        exchange: Exchange {
            started: UNIX_EPOCH + Duration::from_secs(1),
            request_id: RequestId::from_random(1),
            trace_id: TraceId::from_random(2),
            client_ip: None,
            method: "POST".into(),
            path: "/".into(),
            route: dialect.route(),
            status: 200,
            key: Some("k".into()),
            model: Some(String::from_utf8_lossy(body).into_owned()),
            model_label: "other".into(),
            upstream: None,
            attempts: 0,
            tries: Vec::new(),
            stream: true,
            bytes_in: 0,
            bytes_out: 0,
            duration: Duration::from_secs(1),
            time_to_first_token: None,
            overhead: Duration::ZERO,
            usage: reading.usage,
            cost: None,
            session_id: Some(String::from_utf8_lossy(body).into_owned()),
            error_code: None,
            finish: reading.finish.clone(),
        },
        span: SpanId::from_random(3),
        parent: None,
        dialect,
        user: Some("u".into()),
        key: Arc::default(),
        opted_out: false,
        reading,
        message: None,
        max_output_tokens: None,
        input: Some(Arc::new(input)),
        presented,
        secrets,
    }
}

/// Whether a key can be read anywhere in the texts of a document.
fn shows_a_key(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains(KEY) || text.contains(UPSTREAM_KEY),
        Value::Array(items) => items.iter().any(shows_a_key),
        Value::Object(members) => members.iter().any(|(name, value)| {
            name.contains(KEY) || name.contains(UPSTREAM_KEY) || shows_a_key(value)
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fuzz_target!(|input: &[u8]| {
    let [choice, cut, limit, rest @ ..] = input else { return };
    let dialect = DIALECTS[usize::from(*choice) % DIALECTS.len()];
    let limit = usize::from(*limit) * 16;
    let (asked, said) = rest.split_at(rest.len() * usize::from(*cut) / 256);
    let to = destination(limit.max(64));
    let mut parts = Vec::new();
    for reading in [
        streamed(dialect, said, usize::MAX, limit),
        streamed(dialect, said, usize::from(*cut) + 1, limit),
        plain(dialect, said, limit),
    ] {
        let mut part = Vec::new();
        assert_eq!(encode(&trace(dialect, asked, reading, limit), &to, &mut part), 1);
        assert!(std::str::from_utf8(&part).is_ok());
        let (before, after) = envelope();
        let body: Value = serde_json::from_slice(&[before, &part, after].concat()).expect("JSON");
        assert!(!shows_a_key(&body), "{body}");
        parts.push(part);
    }
    assert_eq!(parts[0], parts[1]);
});
