//! One span as OTLP's JSON, written piece by piece: every text that goes in passes one place, which
//! can strike keys out.

use super::scrub::quote;
use super::secrets::Striker;
use crate::ids::{SpanId, TraceId};
use crate::protocol::tap::MAX_WORD;
use std::io::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

/// Longest short attribute, in characters: Langfuse's SDKs drop longer ones (LANGFUSE section 2).
const SHORT_CHARS: usize = 200;
/// Longest text that is no input and no output, in characters.
const TEXT_CHARS: usize = 2_000;

/// OTLP's kinds of span that occur here.
#[derive(Debug, Clone, Copy)]
pub(super) enum SpanKind {
    /// Somebody called us.
    Server = 2,
    /// We called somebody.
    Client = 3,
}

/// What every span begins with.
pub(super) struct Start<'s> {
    pub(super) trace: TraceId,
    pub(super) span: SpanId,
    pub(super) parent: Option<SpanId>,
    pub(super) name: &'s str,
    pub(super) kind: SpanKind,
    pub(super) from: SystemTime,
    pub(super) to: SystemTime,
    /// The text of an error; `None` where there was none.
    pub(super) error: Option<&'s str>,
}

/// Whether texts are looked through for keys as they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Strike {
    /// No: whoever writes them looks through the whole once it is written.
    Afterwards,
    /// Yes, each of them.
    Each,
}

/// A span's attributes, one after the other.
pub(super) struct Span<'o, 's> {
    out: &'o mut Vec<u8>,
    striker: &'s Striker<'s>,
    strike: Strike,
    is_first: bool,
}

impl<'o, 's> Span<'o, 's> {
    /// Begins a span.
    pub(super) fn begin(
        out: &'o mut Vec<u8>,
        (striker, strike): (&'s Striker<'s>, Strike),
        start: &Start<'_>,
    ) -> Self {
        // Writing into memory does not fail.
        drop(write!(out, r#"{{"traceId":"{}","spanId":"{}""#, start.trace, start.span));
        if let Some(parent) = start.parent {
            drop(write!(out, r#","parentSpanId":"{parent}""#));
        }
        let mut span = Self { out, striker, strike, is_first: true };
        span.raw(br#","name":"#);
        span.value(start.name, SHORT_CHARS);
        drop(write!(
            span.out,
            r#","kind":{},"startTimeUnixNano":"{}","endTimeUnixNano":"{}""#,
            start.kind as u8,
            nanos(start.from),
            nanos(start.to.max(start.from)),
        ));
        // The code is a number: Langfuse passes over its name (LANGFUSE section 2).
        match start.error {
            None => span.raw(br#","status":{"code":0}"#),
            Some(error) => {
                span.raw(br#","status":{"code":2,"message":"#);
                span.value(error, TEXT_CHARS);
                span.raw(b"}");
            }
        }
        span.raw(br#","attributes":["#);
        span
    }

    /// Ends the span.
    pub(super) fn end(self) {
        self.out.extend_from_slice(b"]}");
    }

    /// A short text; none that is empty.
    pub(super) fn short(&mut self, key: &'static str, text: &str) {
        self.text(key, text, SHORT_CHARS);
    }

    /// A message to people.
    pub(super) fn message(&mut self, key: &'static str, text: &str) {
        self.text(key, text, TEXT_CHARS);
    }

    /// A text of any length.
    pub(super) fn long(&mut self, key: &'static str, text: &str) {
        self.text(key, text, usize::MAX);
    }

    fn text(&mut self, key: &'static str, text: &str, chars: usize) {
        if text.is_empty() {
            return;
        }
        self.key(key);
        self.raw(br#"{"stringValue":"#);
        self.value(text, chars);
        self.raw(b"}}");
    }

    /// A short text under a name that is the caller's own word.
    pub(super) fn named(&mut self, prefix: &'static str, name: &str, text: &str) {
        self.separate();
        self.raw(br#"{"key":"#);
        self.value(&[prefix, name].concat(), SHORT_CHARS);
        self.raw(br#","value":{"stringValue":"#);
        self.value(text, SHORT_CHARS);
        self.raw(b"}}");
    }

    /// A list of short texts.
    pub(super) fn list<'t>(&mut self, key: &'static str, texts: impl Iterator<Item = &'t str>) {
        self.key(key);
        self.raw(br#"{"arrayValue":{"values":["#);
        for (nth, text) in texts.enumerate() {
            self.raw(if nth == 0 { br#"{"stringValue":"# } else { br#",{"stringValue":"# });
            self.value(text, SHORT_CHARS);
            self.raw(b"}");
        }
        self.raw(b"]}}}");
    }

    /// A whole number; OTLP writes those as text.
    pub(super) fn whole(&mut self, key: &'static str, number: u64) {
        self.key(key);
        drop(write!(self.out, r#"{{"intValue":"{number}"}}}}"#));
    }

    /// A number.
    pub(super) fn number(&mut self, key: &'static str, number: f64) {
        self.key(key);
        let number = if number.is_finite() { number } else { 0.0 };
        drop(write!(self.out, r#"{{"doubleValue":{number:?}}}}}"#));
    }

    /// True or false.
    pub(super) fn flag(&mut self, key: &'static str, flag: bool) {
        self.key(key);
        drop(write!(self.out, r#"{{"boolValue":{flag}}}}}"#));
    }

    /// A JSON string. Keys are struck out of its inside alone, never of the JSON around it, which one
    /// that is called `stringValue` would break.
    fn value(&mut self, text: &str, chars: usize) {
        let start = self.out.len() + 1;
        // Most that are cut here were a tap's words, which have a bound, too.
        let text =
            if text.len() > chars { self.striker.uncut(text, MAX_WORD) } else { text.into() };
        quote(self.out, &self.striker.clamp(&text, chars));
        if self.strike == Strike::Each {
            self.out.pop();
            self.striker.strike_quoted(self.out, start);
            self.out.push(b'"');
        }
    }

    /// The key of an attribute, a word of our own.
    fn key(&mut self, key: &'static str) {
        self.separate();
        self.raw(br#"{"key":""#);
        self.raw(key.as_bytes());
        self.raw(br#"","value":"#);
    }

    fn separate(&mut self) {
        if !std::mem::take(&mut self.is_first) {
            self.raw(b",");
        }
    }

    fn raw(&mut self, json: &[u8]) {
        self.out.extend_from_slice(json);
    }
}

fn nanos(at: SystemTime) -> u128 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos()
}
