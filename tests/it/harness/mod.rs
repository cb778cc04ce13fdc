//! What the tests stand on: the real binary, a scripted origin, and clients that see every byte.

mod cli;
mod client;
mod client_http2;
mod config;
mod error_shape;
mod gateway;
mod langfuse;
mod lines;
mod metrics;
mod origin;
mod origin_http1;
mod origin_http2;
pub(crate) mod otlp;
mod process;
mod redis_server;
mod reply;
mod request;
mod response;
mod selftest;
mod sse;
mod tls;
mod wire;

pub(crate) use cli::cirque;
pub(crate) use client::Client;
pub(crate) use client_http2::{Http2Client, Http2Reply};
pub(crate) use config::{Config, KEY, UPSTREAM_KEY};
pub(crate) use error_shape::{assert_anthropic_error, assert_openai_error};
pub(crate) use gateway::{Gateway, ids};
pub(crate) use langfuse::{Langfuse, span_ids};
pub(crate) use metrics::{Sample, samples};
pub(crate) use origin::{Call, Fate, Origin, RefusedPort};
pub(crate) use redis_server::RedisServer;
pub(crate) use reply::{Gate, Reply};
pub(crate) use request::Request;
pub(crate) use response::Response;
pub(crate) use sse::{events, last_event};
pub(crate) use tls::Authority;
pub(crate) use wire::Framing;

use serde_json::{Value, json};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long anything may take before a test gives up; generous, because the machine is shared.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Awaits `future`, or fails the test naming `what` never happened.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    within_time(DEADLINE, what, future).await
}

/// [`within`] with its own deadline.
pub(crate) async fn within_time<T>(
    limit: Duration,
    what: &str,
    future: impl Future<Output = T>,
) -> T {
    let outcome = tokio::time::timeout(limit, future).await;
    outcome.unwrap_or_else(|_| panic!("{what}: not within {limit:?}"))
}

/// Asks `probe` again and again until it answers, or fails the test naming `what`.
pub(crate) async fn eventually<T, F>(what: &str, mut probe: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    within(what, async {
        loop {
            if let Some(value) = probe().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
}

/// A gateway with one caller in front of one origin.
pub(crate) async fn serving() -> (Origin, Gateway) {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&Config::to(&origin)).await;
    (origin, gateway)
}

/// The same with these further settings of the upstream and this line of the `server` section.
pub(crate) async fn serving_with(upstream: &str, server: &str) -> (Origin, Gateway) {
    let origin = Origin::start().await;
    let config = Config::new().upstream("main", &origin.base_url(), upstream).server(server);
    let gateway = Gateway::start(&config).await;
    (origin, gateway)
}

/// A gateway that asks the second origin where the first one fails.
pub(crate) async fn in_order() -> (Origin, Origin, Gateway) {
    let (first, second) = (Origin::start().await, Origin::start().await);
    let config = Config::new()
        .upstream("first", &first.base_url(), "")
        .upstream("second", &second.base_url(), "")
        .route("models: [\"*\"], upstreams: [first, second], balance: priority");
    let gateway = Gateway::start(&config).await;
    (first, second, gateway)
}

/// A chunk of a chat stream that holds this text.
pub(crate) fn delta(text: &str) -> String {
    let delta = json!({"index": 0, "delta": {"content": text}, "finish_reason": null});
    format!("data: {}\n\n", json!({"choices": [delta]}))
}

/// The chunk that says why a chat stream stopped.
pub(crate) const FINISH: &str =
    "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";

/// The folder of recorded wire payloads.
pub(crate) fn wire_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/wire")
}

/// One recorded wire payload.
pub(crate) fn sample(name: &str) -> Vec<u8> {
    let path = wire_folder().join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A small chat call that every upstream in these tests accepts.
pub(crate) fn chat() -> Value {
    json!({"model": "acme/wisp-2-mini", "messages": [{"role": "user", "content": "hi"}]})
}

/// The same call, streamed.
pub(crate) fn chat_stream() -> Value {
    let mut body = chat();
    body["stream"] = json!(true);
    body
}

/// A streamed call in the dialect of `path`.
pub(crate) fn streamed(path: &str) -> Value {
    if path.ends_with("/responses") {
        return json!({"model": "acme/wisp-2-mini", "input": "hi", "stream": true});
    }
    let mut body = chat_stream();
    if path.ends_with("/messages") {
        body["max_tokens"] = json!(64);
    }
    body
}
