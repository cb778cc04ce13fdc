//! What an access log line holds: the contract's fields in the contract's order, and who says what it cost.

use crate::protocol::usage::CostSource;
use crate::telemetry::config::LogFormat;
use crate::telemetry::exchange::Exchange;
use crate::telemetry::line::{Printable, Timestamp};
use serde::{Serialize, Serializer};
use std::fmt::Display;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::time::Duration;

/// Room for all but the caller's own words, so that a line is one allocation.
const FIXED_BYTES: usize = 768;

/// The line of one request, newline included.
pub(super) fn line(format: LogFormat, x: &Exchange) -> Vec<u8> {
    let words = [x.model.as_deref(), x.session_id.as_deref(), x.finish.as_deref()];
    let words: usize = words.into_iter().flatten().map(str::len).sum();
    let mut line = Vec::with_capacity(FIXED_BYTES + x.path.len() + words);
    let done = match format {
        LogFormat::Json => serde_json::to_writer(&mut line, &Entry::of(x)).map_err(io::Error::from),
        LogFormat::Text => text(&mut line, x),
    };
    // Neither can fail on memory; an empty line would at least show that a request was there.
    done.ok();
    line.push(b'\n');
    line
}

/// The JSON object; every field always present, null when unknown.
#[derive(Serialize)]
struct Entry<'a> {
    #[serde(serialize_with = "shown")]
    ts: Timestamp,
    #[serde(serialize_with = "shown")]
    request_id: &'a crate::ids::RequestId,
    #[serde(serialize_with = "shown")]
    trace_id: crate::ids::TraceId,
    client_ip: Option<IpAddr>,
    method: &'a str,
    path: &'a str,
    route: &'a str,
    status: u16,
    key: Option<&'a str>,
    model: Option<&'a str>,
    upstream: Option<&'a str>,
    attempts: u32,
    stream: bool,
    bytes_in: u64,
    bytes_out: u64,
    duration_ms: f64,
    ttft_ms: Option<f64>,
    overhead_ms: f64,
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cost_usd: Option<f64>,
    cost_source: Option<&'static str>,
    session_id: Option<&'a str>,
    error_code: Option<&'a str>,
    finish: Option<&'a str>,
}

impl<'a> Entry<'a> {
    fn of(x: &'a Exchange) -> Self {
        Self {
            ts: Timestamp(x.started),
            request_id: &x.request_id,
            trace_id: x.trace_id,
            client_ip: x.client_ip,
            method: &x.method,
            path: &x.path,
            route: x.route,
            status: x.status,
            key: x.key.as_deref(),
            model: x.model.as_deref(),
            upstream: x.upstream.as_deref(),
            attempts: x.attempts,
            stream: x.stream,
            bytes_in: x.bytes_in,
            bytes_out: x.bytes_out,
            duration_ms: millis(x.duration),
            ttft_ms: x.time_to_first_token.map(millis),
            overhead_ms: millis(x.overhead),
            input_tokens: x.usage.map(|usage| usage.input_total),
            output_tokens: x.usage.map(|usage| usage.output_total),
            cost_usd: known_cost(x),
            cost_source: x.cost.map(|cost| cost.source.as_str()),
            session_id: x.session_id.as_deref(),
            error_code: x.error_code,
            finish: x.finish.as_deref(),
        }
    }
}

/// What it cost, where anybody knows a price.
fn known_cost(x: &Exchange) -> Option<f64> {
    x.cost.filter(|cost| cost.source != CostSource::None).map(|cost| cost.usd)
}

fn shown<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// Milliseconds with three decimals.
fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// For a terminal: what happened, to whom, where, how long; then what only some calls have.
fn text(line: &mut Vec<u8>, x: &Exchange) -> io::Result<()> {
    let or_dash = |word: Option<&'_ str>| Printable(word.unwrap_or("-")).to_string();
    write!(
        line,
        "{} {} {} {} key={} model={} upstream={} {:.1}ms",
        Timestamp(x.started),
        x.status,
        Printable(&x.method),
        Printable(&x.path),
        or_dash(x.key.as_deref()),
        or_dash(x.model.as_deref()),
        or_dash(x.upstream.as_deref()),
        millis(x.duration),
    )?;
    if x.attempts > 1 {
        write!(line, " attempts={}", x.attempts)?;
    }
    if let Some(wait) = x.time_to_first_token {
        write!(line, " ttft={:.1}ms", millis(wait))?;
    }
    if let Some(usage) = x.usage {
        write!(line, " tokens={}+{}", usage.input_total, usage.output_total)?;
    }
    if let Some(usd) = known_cost(x) {
        write!(line, " cost=${usd:.6}")?;
    }
    for (name, word) in [("error", x.error_code), ("finish", x.finish.as_deref())] {
        if let Some(word) = word {
            write!(line, " {name}={}", Printable(word))?;
        }
    }
    write!(line, " {}", x.request_id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::sample;

    fn told(format: LogFormat, x: &Exchange) -> String {
        String::from_utf8(line(format, x)).unwrap()
    }

    #[test]
    fn a_line_is_the_golden_one() {
        let golden = include_str!("../../../tests/golden/access_log/call.jsonl");
        assert_eq!(told(LogFormat::Json, &sample::exchange()), golden);
    }

    #[test]
    fn every_field_is_there_when_nothing_is_known() {
        let golden = include_str!("../../../tests/golden/access_log/refused.jsonl");
        assert_eq!(told(LogFormat::Json, &sample::refused()), golden);
    }

    #[test]
    fn a_caller_cannot_break_the_line() {
        let mut x = sample::exchange();
        x.path = "/v1/a\n{\"ts\":1}\u{1b}[2J".into();
        x.model = Some("\"\\\r\n".into());
        for format in [LogFormat::Json, LogFormat::Text] {
            let line = told(format, &x);
            assert_eq!(line.lines().count(), 1, "{line}");
            assert!(!line.contains('\u{1b}'), "{line}");
        }
        let json: serde_json::Value = serde_json::from_str(&told(LogFormat::Json, &x)).unwrap();
        assert_eq!(json["model"], "\"\\\r\n");
    }

    #[test]
    fn text_is_for_people() {
        assert_eq!(
            told(LogFormat::Text, &sample::exchange()),
            "2026-07-25T17:20:00.123456Z 200 POST /api/v1/chat/completions key=n8n \
             model=acme/wisp-2-mini upstream=openrouter-main 2345.7ms attempts=2 ttft=321.0ms \
             tokens=100+50 cost=$0.001250 finish=stop req-cba000000000000000000000\n"
        );
    }

    #[test]
    fn a_usual_line_is_one_allocation() {
        let x = sample::exchange();
        let line = line(LogFormat::Json, &x);
        assert!(line.len() < FIXED_BYTES, "{}", line.len());
    }
}
