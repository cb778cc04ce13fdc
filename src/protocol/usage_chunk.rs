//! The extra chunk of usage that ends a stream when it was asked for: how it is asked for, and how it is
//! kept from a caller that did not ask.
//!
//! Many clients read `choices[0]` of every chunk and would fail on one without choices.

use super::edit::Edits;
use super::request::RequestFacts;
use super::sse::Framer;
use bytes::Bytes;
use memchr::memmem;
use serde::Deserialize;
use serde::de::IgnoredAny;

const ASKED: &[u8] = br#"{"include_usage":true}"#;

/// Asks for usage in a body that does not: wherever `stream_options` stands, or without any.
pub fn ask(edits: &mut Edits, facts: &RequestFacts, body: &[u8]) {
    if facts.include_usage {
        return;
    }
    if let Some(span) = &facts.include_usage_span {
        edits.replace(span.clone(), Bytes::from_static(b"true"));
        return;
    }
    let Some(span) = &facts.stream_options_span else {
        let at = facts.object_start..facts.object_start;
        edits.replace(at, Bytes::from_static(br#""stream_options":{"include_usage":true},"#));
        return;
    };
    let options = body.get(span.clone()).unwrap_or_default();
    let has_members =
        options.strip_prefix(b"{").is_some_and(|rest| !rest.trim_ascii_start().starts_with(b"}"));
    if has_members {
        let inside = span.start + 1..span.start + 1;
        edits.replace(inside, Bytes::from_static(br#""include_usage":true,"#));
    } else {
        edits.replace(span.clone(), Bytes::from_static(ASKED));
    }
}

/// What of a piece of a stream is left without the chunk that says nothing but usage. The piece holds
/// whole events.
#[must_use]
pub fn without(piece: Bytes) -> Vec<Bytes> {
    // A chunk without choices comes once a stream, if at all; every other piece ends here.
    if !has_no_choice(&piece) {
        return vec![piece];
    }
    let mut kept = Vec::new();
    let (mut from, mut at) = (0, 0);
    while let Some(length) = event_length(piece.get(at..).unwrap_or_default()) {
        let event = piece.slice(at..at + length);
        if is_usage_alone(&event) {
            kept.push(piece.slice(from..at));
            from = at + length;
        }
        at += length;
    }
    kept.push(piece.slice(from..));
    kept.retain(|piece| !piece.is_empty());
    kept
}

/// Whether a member `choices` with an empty array stands anywhere in it; within a text its quotes
/// would be escaped.
fn has_no_choice(text: &[u8]) -> bool {
    const CHOICES: &[u8] = b"\"choices\"";
    memmem::find_iter(text, CHOICES).any(|at| {
        let rest = text.get(at + CHOICES.len()..).unwrap_or_default().trim_ascii_start();
        let rest = rest.strip_prefix(b":").map(<[u8]>::trim_ascii_start);
        let rest = rest.and_then(|rest| rest.strip_prefix(b"[")).map(<[u8]>::trim_ascii_start);
        rest.is_some_and(|rest| rest.starts_with(b"]"))
    })
}

/// The first event and the empty line that ends it.
fn event_length(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    let mut is_empty = true;
    while let Some(end) = memchr::memchr2(b'\n', b'\r', text.get(at..)?) {
        let is_line_empty = end == 0;
        at += end + 1;
        if text.get(at - 1) == Some(&b'\r') && text.get(at) == Some(&b'\n') {
            at += 1;
        }
        if is_line_empty && !is_empty {
            return Some(at);
        }
        is_empty &= is_line_empty;
    }
    None
}

/// Whether the event is a chunk of usage without a choice. Azure sends one without either, which
/// says what its filters think of the prompt; OpenRouter's has a choice and is always sent.
fn is_usage_alone(event: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Chunk {
        choices: Vec<IgnoredAny>,
        usage: Option<IgnoredAny>,
    }
    if !has_no_choice(event) {
        return false;
    }
    let mut is_usage = false;
    Framer::new().push(event, |event| {
        let chunk = serde_json::from_slice::<Chunk>(event.data);
        is_usage = chunk.is_ok_and(|chunk| chunk.choices.is_empty() && chunk.usage.is_some());
    });
    is_usage
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Dialect;
    use crate::protocol::request;
    use serde_json::{Value, json};

    fn asked(body: &str) -> Value {
        let facts = request::read(body.as_bytes(), Dialect::Chat).unwrap();
        let body = Bytes::copy_from_slice(body.as_bytes());
        let mut edits = Edits::new();
        ask(&mut edits, &facts, &body);
        let bytes: Vec<u8> = edits.apply(&body).iter().flatten().copied().collect();
        // Read again, with all that is refused in a body.
        assert!(request::read(&bytes, Dialect::Chat).unwrap().include_usage);
        serde_json::from_slice(&bytes).unwrap()
    }

    #[test]
    fn usage_is_asked_for_whatever_the_options_are() {
        let rest = r#""model":"m","messages":[{"role":"user","content":"hi"}],"stream":true}"#;
        for (options, expected) in [
            ("", json!({"include_usage": true})),
            (r#""stream_options":null,"#, json!({"include_usage": true})),
            (r#""stream_options": { } ,"#, json!({"include_usage": true})),
            (r#""stream_options":{"include_usage":false},"#, json!({"include_usage": true})),
            (r#""stream_options":{"include_usage":true},"#, json!({"include_usage": true})),
            (r#""stream_options":{"include_usage":null},"#, json!({"include_usage": true})),
            (
                r#""stream_options":{ "include_obfuscation":false },"#,
                json!({"include_usage": true, "include_obfuscation": false}),
            ),
        ] {
            let body = asked(&format!("{{{options}{rest}"));
            assert_eq!(body["stream_options"], expected, "{options}");
            assert_eq!(body["model"], "m");
        }
    }

    fn left(stream: &str) -> String {
        let pieces = without(Bytes::copy_from_slice(stream.as_bytes()));
        String::from_utf8(pieces.concat()).unwrap()
    }

    #[test]
    fn only_the_chunk_without_choices_is_hidden() {
        let token =
            "data: {\"choices\":[{\"delta\":{\"content\":\"\\\"usage\\\"\"}}],\"usage\":null}\n\n";
        let usage = "data: {\"id\":\"x\",\"choices\": [],\"usage\": {\"prompt_tokens\":1}}\n\n";
        let done = "data: [DONE]\n\n";
        for end in ["\n", "\r\n", "\r"] {
            let [token, usage, done] = [token, usage, done].map(|text| text.replace('\n', end));
            let stream = format!("{token}: c{end}{end}{usage}{done}");
            assert_eq!(left(&stream), format!("{token}: c{end}{end}{done}"));
        }
        for kept in [
            token,
            "data: {\"choices\":[],\"prompt_filter_results\":[],\"usage\":null}\n\n",
            "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}],\"usage\":{\"cost\":1}}\n\n",
            "data: {\"usage\":{}}\n\n",
            "data: \"usage\"\n\n",
            "data: {\"choices\":[],\"usage\":{\"prompt_tokens\"",
        ] {
            assert_eq!(left(kept), kept);
        }
    }

    #[test]
    fn a_piece_without_it_is_passed_on_without_a_copy() {
        let piece = Bytes::from_static(b"data: {\"choices\":[{}],\"usage\":null}\n\n");
        let kept = without(piece.clone());
        assert_eq!((kept.len(), kept[0].as_ptr()), (1, piece.as_ptr()));
    }
}
