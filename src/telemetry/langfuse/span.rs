//! One span as OTLP's JSON, written piece by piece: every text that goes in passes one place, which
//! can strike keys out.

use super::scrub::quote_inside;
use super::secrets::Striker;
use crate::ids::{SpanId, TraceId};
use crate::protocol::tap::MAX_WORD;
use itoa::Buffer;
use std::time::{SystemTime, UNIX_EPOCH};

/// Longest short attribute, in characters: Langfuse's SDKs drop longer ones (LANGFUSE section 2).
const SHORT_CHARS: usize = 200;
/// Longest text that is no input and no output, in characters.
const TEXT_CHARS: usize = 2_000;

/// The name of an attribute, a word of our own, as it stands in JSON.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key {
    /// Up to the kind of its value.
    pub(super) any: &'static str,
    /// Up to the first character of a text.
    pub(super) text: &'static str,
}

/// A [`Key`] from its name, put together at compile time: a span has some thirty of them.
macro_rules! key {
    ($name:literal) => {
        $crate::telemetry::langfuse::span::Key {
            any: concat!(",{\"key\":\"", $name, "\",\"value\":{\""),
            text: concat!(",{\"key\":\"", $name, "\",\"value\":{\"stringValue\":\""),
        }
    };
}
pub(super) use key;

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
        let mut span = Self { out, striker, strike, is_first: true };
        span.raw(br#"{"traceId":""#);
        span.raw(&start.trace.digits());
        span.raw(br#"","spanId":""#);
        span.raw(&start.span.digits());
        if let Some(parent) = start.parent {
            span.raw(br#"","parentSpanId":""#);
            span.raw(&parent.digits());
        }
        span.raw(br#"","name":"#);
        span.value(start.name, SHORT_CHARS);
        span.raw(br#","kind":"#);
        span.digits(start.kind as u64);
        span.raw(br#","startTimeUnixNano":""#);
        span.digits(nanos(start.from));
        span.raw(br#"","endTimeUnixNano":""#);
        span.digits(nanos(start.to.max(start.from)));
        span.raw(b"\"");
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
    pub(super) fn short(&mut self, key: Key, text: &str) {
        self.text(key, text, SHORT_CHARS);
    }

    /// A message to people.
    pub(super) fn message(&mut self, key: Key, text: &str) {
        self.text(key, text, TEXT_CHARS);
    }

    /// A text of any length.
    pub(super) fn long(&mut self, key: Key, text: &str) {
        self.text(key, text, usize::MAX);
    }

    fn text(&mut self, key: Key, text: &str, chars: usize) {
        if text.is_empty() {
            return;
        }
        self.key(key.text);
        self.inside(text, chars);
        self.raw(br#""}}"#);
    }

    /// A short text under a name that is the caller's own word.
    pub(super) fn named(&mut self, prefix: &'static str, name: &str, text: &str) {
        let is_first = std::mem::take(&mut self.is_first);
        self.raw(if is_first { br#"{"key":"# } else { br#",{"key":"# });
        self.value(&[prefix, name].concat(), SHORT_CHARS);
        self.raw(br#","value":{"stringValue":"#);
        self.value(text, SHORT_CHARS);
        self.raw(b"}}");
    }

    /// A list of short texts, each behind a word of ours.
    pub(super) fn list<'t>(
        &mut self,
        key: Key,
        texts: impl Iterator<Item = (&'static str, &'t str)>,
    ) {
        self.key(key.any);
        self.raw(br#"arrayValue":{"values":["#);
        for (nth, (word, text)) in texts.enumerate() {
            self.raw(if nth == 0 { br#"{"stringValue":""# } else { br#",{"stringValue":""# });
            self.raw(word.as_bytes());
            self.inside(text, SHORT_CHARS - word.len());
            self.raw(br#""}"#);
        }
        self.raw(b"]}}}");
    }

    /// A whole number; OTLP writes those as text.
    pub(super) fn whole(&mut self, key: Key, number: u64) {
        self.key(key.any);
        self.raw(br#"intValue":""#);
        self.digits(number);
        self.raw(br#""}}"#);
    }

    /// A text that is itself a JSON object, of whole numbers by name.
    pub(super) fn counts<'n>(&mut self, key: Key, counts: impl Iterator<Item = (&'n str, u64)>) {
        self.object(key, counts, Self::digits);
    }

    /// The same of any numbers.
    pub(super) fn numbers<'n>(&mut self, key: Key, numbers: impl Iterator<Item = (&'n str, f64)>) {
        self.object(key, numbers, Self::float);
    }

    fn object<'n, N>(
        &mut self,
        key: Key,
        members: impl Iterator<Item = (&'n str, N)>,
        write: impl Fn(&mut Self, N),
    ) {
        self.key(key.text);
        self.raw(b"{");
        for (nth, (name, number)) in members.enumerate() {
            self.raw(if nth == 0 { br#"\""# } else { br#",\""# });
            self.raw(name.as_bytes());
            self.raw(br#"\":"#);
            write(self, number);
        }
        self.raw(br#"}"}}"#);
    }

    /// A number.
    pub(super) fn number(&mut self, key: Key, number: f64) {
        self.key(key.any);
        self.raw(br#"doubleValue":"#);
        self.float(if number.is_finite() { number } else { 0.0 });
        self.raw(b"}}");
    }

    /// True or false.
    pub(super) fn flag(&mut self, key: Key, flag: bool) {
        self.key(key.any);
        self.raw(if flag { br#"boolValue":true}}"# } else { br#"boolValue":false}}"# });
    }

    /// A JSON string.
    fn value(&mut self, text: &str, chars: usize) {
        self.raw(b"\"");
        self.inside(text, chars);
        self.raw(b"\"");
    }

    /// The inside of a JSON string. Keys are struck out of it alone, never of the JSON around it, which one
    /// that is called `stringValue` would break.
    fn inside(&mut self, text: &str, chars: usize) {
        let start = self.out.len();
        if text.len() <= chars {
            quote_inside(self.out, text);
        } else {
            // Most that are cut here were a tap's words, which have a bound, too.
            let text = self.striker.uncut(text, MAX_WORD);
            quote_inside(self.out, &self.striker.clamp(&text, chars));
        }
        if self.strike == Strike::Each {
            self.striker.strike_quoted(self.out, start);
        }
    }

    fn key(&mut self, json: &'static str) {
        let without_comma = usize::from(std::mem::take(&mut self.is_first));
        self.raw(json.as_bytes().get(without_comma..).unwrap_or_default());
    }

    fn digits(&mut self, number: u64) {
        self.raw(Buffer::new().format(number).as_bytes());
    }

    fn float(&mut self, number: f64) {
        // Writing into memory does not fail.
        drop(serde_json::to_writer(&mut *self.out, &number));
    }

    fn raw(&mut self, json: &[u8]) {
        self.out.extend_from_slice(json);
    }
}

/// Until the year 2554.
fn nanos(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
