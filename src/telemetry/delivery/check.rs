//! Whether a destination would take traces, asked once for a person at the console.

use super::http;
use super::reply::{Reply, Verdict};
use crate::telemetry::langfuse::{Destination, DestinationKind};
use serde_json::Value;
use std::time::SystemTime;

/// An export of nothing, which any OTLP backend accepts.
const NOTHING: &str = r#"{"resourceSpans":[]}"#;
/// Where Langfuse takes the keys and says no more.
const TAKEN: &str = "it takes the keys";

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
    let is_taken = matches!(reply.verdict(SystemTime::now()), Verdict::Accepted { .. });
    match (reply.status, to.kind) {
        (200..=299, DestinationKind::Langfuse) => project(&reply),
        (200..=299, DestinationKind::Otlp) if is_taken => Ok("it takes traces".to_owned()),
        _ => Err(format!("{}; it says: {}", reply.words(), reply.said(to))),
    }
}

/// Where Langfuse tells which project a pair of keys belongs to: it answers without a trace.
fn projects(url: &str) -> String {
    let host = url.split_once("/api/public/").map_or(url, |(host, _)| host);
    format!("{host}/api/public/projects")
}

/// What is compatible with Langfuse may know no projects, and a page for people is none of these.
fn project(reply: &Reply) -> Result<String, String> {
    if reply.body.trim_ascii().is_empty() {
        return Ok(TAKEN.to_owned());
    }
    let Ok(body) = serde_json::from_slice::<Value>(&reply.body) else {
        return Err("this is no Langfuse: its answer is no JSON; check langfuse.host".to_owned());
    };
    let name = body.pointer("/data/0/name").and_then(Value::as_str);
    Ok(name.map_or_else(
        || TAKEN.to_owned(),
        |name| format!("the keys belong to the project `{name}`"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_json_is_a_langfuse_and_a_page_is_none() {
        let named = r#"{"data":[{"id":"p1","name":"edge"}]}"#;
        for (body, words) in [
            (named, Ok("the keys belong to the project `edge`")),
            ("{}", Ok(TAKEN)),
            (r#"{"data":[]}"#, Ok(TAKEN)),
            ("", Ok(TAKEN)),
            ("<!doctype html>", Err("this is no Langfuse")),
            ("OK", Err("this is no Langfuse")),
        ] {
            let found = project(&Reply { body: body.into(), ..Reply::default() });
            match words {
                Ok(words) => assert_eq!(found.as_deref(), Ok(words), "{body}"),
                Err(words) => assert!(found.unwrap_err().starts_with(words), "{body}"),
            }
        }
    }

    #[test]
    fn projects_stand_beside_the_traces() {
        for host in ["https://lf.example.com", "http://127.0.0.1:3000/base"] {
            let url = format!("{host}/api/public/otel/v1/traces");
            assert_eq!(projects(&url), format!("{host}/api/public/projects"));
        }
    }
}
