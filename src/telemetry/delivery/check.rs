//! Whether a destination would take traces, asked once for a person at the console.

use super::http;
use super::reply::Reply;
use crate::telemetry::langfuse::{Destination, DestinationKind};
use serde_json::Value;

/// An export of nothing, which any OTLP backend accepts.
const NOTHING: &str = r#"{"resourceSpans":[]}"#;

/// Asks a destination, without leaving anything there; what it is, in words.
///
/// # Errors
/// Why it would take no traces, in words that say what to do.
pub async fn check(to: &Destination) -> Result<String, String> {
    let client = http::client().map_err(|error| error.to_string())?;
    let headers = to.headers.iter().cloned().collect();
    let request = match to.kind {
        DestinationKind::Langfuse => client.get(projects(&to.url)),
        DestinationKind::Otlp => {
            client.post(&to.url).header("content-type", "application/json").body(NOTHING)
        }
    };
    let reply = http::post(request.headers(headers)).await.map_err(|error| {
        let (words, details) = http::trouble(error);
        format!("{words} ({details})")
    })?;
    match (reply.status, to.kind) {
        (200..=299, DestinationKind::Langfuse) => project(&reply),
        (200..=299, DestinationKind::Otlp) => Ok("it takes traces".to_owned()),
        _ => Err(format!("{}; it says: {}", reply.words(), reply.said(to))),
    }
}

/// Where Langfuse tells which project a pair of keys belongs to: it answers without a trace.
fn projects(url: &str) -> String {
    let host = url.split_once("/api/public/").map_or(url, |(host, _)| host);
    format!("{host}/api/public/projects")
}

/// Something else may answer 200 to anything.
fn project(reply: &Reply) -> Result<String, String> {
    let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    let name = body.pointer("/data/0/name").and_then(Value::as_str);
    name.map(|name| format!("the keys belong to the project `{name}`"))
        .ok_or_else(|| "this is no Langfuse: it names no project; check langfuse.host".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn projects_stand_beside_the_traces() {
        for host in ["https://lf.example.com", "http://127.0.0.1:3000/base"] {
            let url = format!("{host}/api/public/otel/v1/traces");
            assert_eq!(projects(&url), format!("{host}/api/public/projects"));
        }
    }
}
