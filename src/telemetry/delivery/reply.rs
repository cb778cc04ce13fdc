//! What a destination's answer to an export means.

use crate::telemetry::langfuse::Destination;
use serde::Deserialize;
use serde_json::Value;
use std::time::{Duration, SystemTime};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

/// Longer waits than this are not believed (LANGFUSE section 4).
const LONGEST_WAIT: Duration = Duration::from_mins(1);

/// What is to be done about an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It has them. So many spans it took note of and did not want; they are not to be sent again.
    Accepted {
        /// Spans.
        rejected: u64,
    },
    /// Send the same again, not before so long.
    Later {
        /// As it asked.
        after: Option<Duration>,
    },
    /// Credentials, address or quota: nothing gets better by trying soon.
    Refused,
    /// Send less at once.
    TooLarge,
    /// It cannot read something in there.
    Unreadable,
}

/// An answer, as far as it matters.
#[derive(Debug, Clone, Default)]
pub(super) struct Reply {
    /// HTTP status.
    pub(super) status: u16,
    /// The header of that name.
    pub(super) retry_after: Option<String>,
    /// The beginning of the body.
    pub(super) body: Vec<u8>,
}

impl Reply {
    /// What it means.
    pub(super) fn verdict(&self, now: SystemTime) -> Verdict {
        match self.status {
            200..=299 if self.is_page() => Verdict::Refused,
            200..=299 => Verdict::Accepted { rejected: rejected_spans(&self.body) },
            400 | 415 | 422 => Verdict::Unreadable,
            413 => Verdict::TooLarge,
            408 | 425 | 429 | 500..=599 => {
                let after = self.retry_after.as_deref().and_then(|text| wait(text, now));
                Verdict::Later { after }
            }
            _ => Verdict::Refused,
        }
    }

    /// Whether a person is meant to read it: a log-in page, or whatever else stands at a wrong address.
    fn is_page(&self) -> bool {
        self.body.trim_ascii_start().starts_with(b"<")
    }

    /// The same in words of ours: also callers read them.
    pub(super) fn words(&self) -> String {
        let meaning = match self.status {
            200..=299 => "a web page, and none of what takes traces; check the host",
            300..=399 => "a redirect, which is not followed; check the address",
            400 | 415 | 422 => "it cannot read what we send",
            401 => "it does not accept the keys; check that they belong to this host",
            402 | 403 => "it refuses these keys, or their plan is used up",
            404 | 405 | 410 => "it takes no traces at this address; check the host",
            413 => "too much at once",
            429 => "too many requests",
            408 | 425 | 500..=599 => "it is in trouble",
            _ => "an answer that makes no sense here; check the address",
        };
        format!("status {}: {meaning}", self.status)
    }

    /// What it said itself, for the log alone: its message in a line, without our keys, else how its
    /// answer begins.
    pub(super) fn said(&self, to: &Destination) -> String {
        const LONGEST: usize = 300;
        let text = match serde_json::from_slice::<Value>(&self.body) {
            // Written anew where it is something else: what JSON escapes would hide a key.
            Ok(body) => message(&body).map_or_else(|| body.to_string(), str::to_owned),
            Err(_) => String::from_utf8_lossy(&self.body).into_owned(),
        };
        let text = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        // Before it is cut: half a key would be found no more.
        to.without_keys(text).trim().chars().take(LONGEST).collect()
    }
}

/// Where answers say what is wrong: Langfuse's, those of most others, and OTLP's own.
fn message(body: &Value) -> Option<&str> {
    let places = ["/message", "/error/message", "/error", "/partialSuccess/errorMessage"];
    places.into_iter().find_map(|place| body.pointer(place)?.as_str())
}

/// Seconds, or a date, as HTTP has it.
fn wait(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    let wait = if let Ok(seconds) = text.parse() {
        Duration::from_secs(seconds)
    } else {
        let date = OffsetDateTime::parse(text, &Rfc2822).ok()?;
        SystemTime::from(date).duration_since(now).unwrap_or_default()
    };
    Some(wait.min(LONGEST_WAIT))
}

/// OTLP's partial success. Langfuse answers with something else entirely: then there is none.
fn rejected_spans(body: &[u8]) -> u64 {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Response {
        partial_success: Partial,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Partial {
        rejected_spans: Value,
    }
    let Ok(response) = serde_json::from_slice::<Response>(body) else { return 0 };
    // A 64-bit integer, which OTLP's JSON writes as text.
    let spans = response.partial_success.rejected_spans;
    spans.as_u64().or_else(|| spans.as_str()?.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;
    use crate::telemetry::config::{LangfuseConfig, TelemetryConfig};

    fn verdict(status: u16) -> Verdict {
        Reply { status, ..Reply::default() }.verdict(SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn every_status_means_one_thing() {
        for status in [200, 202, 207] {
            assert_eq!(verdict(status), Verdict::Accepted { rejected: 0 });
        }
        for status in [408, 429, 500, 502, 503, 504, 521, 599] {
            assert_eq!(verdict(status), Verdict::Later { after: None });
        }
        for status in [301, 401, 402, 403, 404, 405, 418, 101] {
            assert_eq!(verdict(status), Verdict::Refused, "{status}");
        }
        assert_eq!(verdict(413), Verdict::TooLarge);
        let page =
            Reply { status: 200, body: b"\n<!doctype html><p>Log in".into(), ..Reply::default() };
        assert_eq!(page.verdict(SystemTime::UNIX_EPOCH), Verdict::Refused);
        assert_eq!(verdict(400), Verdict::Unreadable);
    }

    #[test]
    fn a_wait_is_seconds_or_a_date_and_never_absurd() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_700);
        let seconds = |text| wait(text, now).map(|wait| wait.as_secs());
        assert_eq!(seconds("7"), Some(7));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:48:37 GMT"), Some(17));
        assert_eq!(seconds("Sun, 06 Nov 1984 08:49:37 GMT"), Some(0));
        assert_eq!(seconds("99999999"), Some(60));
        for nonsense in ["", "-1", "soon", "1.5"] {
            assert_eq!(seconds(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn what_it_said_is_a_line_without_keys() {
        let config = LangfuseConfig {
            public_key: Secret::new("pk-lf-1".into()),
            secret_key: Secret::new("sk-lf-?>?".into()),
            ..LangfuseConfig::default()
        };
        let to = Destination::all(&config, &TelemetryConfig::default()).remove(0);
        let echo = r#"{"headers":{"authorization":"Basic cGstbGYtMTpzay1sZi0\/Pj8="},"body":"hi"}"#;
        for (body, said) in [
            (r#"{"message":"no\nkey sk-lf-?>?","input":"a prompt"}"#, "no key [redacted]"),
            (r#"{"error":"bad pair"}"#, "bad pair"),
            (r#"{"error":{"message":"worse","body":"a prompt"}}"#, "worse"),
            (r#"{"partialSuccess":{"errorMessage":"some"}}"#, "some"),
            (r#"{"error":"A","message":"B"}"#, "B"),
            (echo, r#"{"headers":{"authorization":"[redacted]"},"body":"hi"}"#),
            ("<p>\r\nno pk-lf-1</p>\n", "<p>  no [redacted]</p>"),
            ("", ""),
        ] {
            let reply = Reply { body: body.into(), ..Reply::default() };
            assert_eq!(reply.said(&to), said, "{body}");
        }
        let long = format!("{} pk-lf-1", "x".repeat(295));
        let said = Reply { body: long.into(), ..Reply::default() }.said(&to);
        assert!(said.len() == 300 && !said.contains("pk"), "{said}");
    }

    #[test]
    fn a_partial_success_is_counted_and_other_bodies_are_not_read() {
        for (body, rejected) in [
            (r#"{"partialSuccess":{"rejectedSpans":"3","errorMessage":"no"}}"#, 3),
            (r#"{"partialSuccess":{"rejectedSpans":2}}"#, 2),
            (r#"{"partialSuccess":{}}"#, 0),
            (r#"{"id":"7","name":"otel-ingestion-job","data":{"payload":[1]}}"#, 0),
            ("{}", 0),
            ("", 0),
            ("OK", 0),
        ] {
            assert_eq!(rejected_spans(body.as_bytes()), rejected, "{body}");
        }
    }
}
