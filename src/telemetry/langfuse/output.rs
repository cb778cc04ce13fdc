//! What a call brought, as its trace shows it: one assistant's message an answer, whatever the
//! dialect and whether or not it was streamed.

use super::cut::join;
use super::media;
use super::scrub::quote;
use super::secrets::Striker;
use crate::protocol::tap::{Choice, Kept, MAX_WORD, Transcript};
use std::borrow::Cow;

/// Room beside what was said, for the JSON around it.
const ROOM: usize = 256;

/// The message of each answer as JSON, a list where there are several; empty where nothing was said.
/// `finish` stands where an answer does not say itself why it ended. Keys are not struck out yet,
/// except what a cut may have left of one.
pub(super) fn messages(said: &Transcript, finish: Option<&str>, striker: &Striker<'_>) -> String {
    let writer = Writer { striker };
    if let Some((count, length)) = said.vectors {
        return format!(r#"{{"embeddings":{count},"dimensions":{length}}}"#);
    }
    if let Some(raw) = &said.raw {
        return media::strip(&writer.text(raw)).into_owned();
    }
    let mut out = Vec::with_capacity(said.bytes() + ROOM);
    match said.choices() {
        [] => return String::new(),
        [only] => writer.message(&mut out, only, only.finish.as_deref().or(finish)),
        several => {
            for (nth, choice) in several.iter().enumerate() {
                out.push(if nth == 0 { b'[' } else { b',' });
                writer.message(&mut out, choice, choice.finish.as_deref());
            }
            out.push(b']');
        }
    }
    String::from_utf8(out).unwrap_or_default()
}

/// The same in the form of OpenTelemetry's `gen_ai.output.messages`: parts of a message, each with its
/// type.
pub(super) fn parts(said: &Transcript, finish: Option<&str>, striker: &Striker<'_>) -> String {
    let writer = Writer { striker };
    let mut out = b"[".to_vec();
    for choice in said.choices() {
        if out.len() > 1 {
            out.push(b',');
        }
        out.extend_from_slice(br#"{"role":"assistant","parts":["#);
        let start = out.len();
        let texts = [
            ("reasoning", choice.thoughts()),
            ("text", &choice.content),
            ("text", &choice.refusal),
            ("text", &choice.spoken),
        ];
        for (kind, kept) in texts.into_iter().filter(|(_, kept)| !kept.is_empty()) {
            separate(&mut out, start);
            out.extend_from_slice(br#"{"type":""#);
            out.extend_from_slice(kind.as_bytes());
            out.extend_from_slice(br#"","content":"#);
            writer.string(&mut out, kept);
            out.push(b'}');
        }
        for call in &choice.calls {
            separate(&mut out, start);
            out.extend_from_slice(br#"{"type":"tool_call","id":"#);
            writer.word(&mut out, &call.id);
            out.extend_from_slice(br#","name":"#);
            writer.word(&mut out, &call.name);
            out.extend_from_slice(br#","arguments":"#);
            writer.string(&mut out, &call.arguments);
            out.push(b'}');
        }
        out.extend_from_slice(br#"],"finish_reason":"#);
        writer.word(&mut out, choice.finish.as_deref().or(finish).unwrap_or("unknown"));
        out.push(b'}');
    }
    out.push(b']');
    String::from_utf8(out).unwrap_or_default()
}

fn separate(out: &mut Vec<u8>, start: usize) {
    if out.len() > start {
        out.push(b',');
    }
}

struct Writer<'s> {
    striker: &'s Striker<'s>,
}

impl Writer<'_> {
    /// A short text that the tap cut where it was too long.
    fn word(&self, out: &mut Vec<u8>, word: &str) {
        quote(out, &self.striker.uncut(word, MAX_WORD));
    }

    fn message(&self, out: &mut Vec<u8>, choice: &Choice, finish: Option<&str>) {
        out.extend_from_slice(br#"{"role":"assistant","content":"#);
        if choice.content.is_empty() {
            out.extend_from_slice(b"null");
        } else {
            self.string(out, &choice.content);
        }
        for (name, kept) in [("reasoning", choice.thoughts()), ("refusal", &choice.refusal)] {
            if !kept.is_empty() {
                member(out, name);
                self.string(out, kept);
            }
        }
        if !choice.spoken.is_empty() {
            member(out, "audio");
            out.extend_from_slice(br#"{"transcript":"#);
            self.string(out, &choice.spoken);
            out.push(b'}');
        }
        if !choice.images.is_empty() {
            member(out, "images");
            for (nth, image) in choice.images.iter().enumerate() {
                out.push(if nth == 0 { b'[' } else { b',' });
                self.string(out, image);
            }
            out.push(b']');
        }
        self.calls(out, choice);
        if let Some(finish) = finish {
            member(out, "finish_reason");
            self.word(out, finish);
        }
        out.push(b'}');
    }

    fn calls(&self, out: &mut Vec<u8>, choice: &Choice) {
        if choice.calls.is_empty() {
            return;
        }
        member(out, "tool_calls");
        for (nth, call) in choice.calls.iter().enumerate() {
            out.push(if nth == 0 { b'[' } else { b',' });
            out.extend_from_slice(br#"{"id":"#);
            self.word(out, &call.id);
            let (kind, text): (&[u8], &[u8]) = if call.is_custom {
                (br#","type":"custom","custom":{"name":"#, br#","input":"#)
            } else {
                (br#","type":"function","function":{"name":"#, br#","arguments":"#)
            };
            out.extend_from_slice(kind);
            self.word(out, &call.name);
            out.extend_from_slice(text);
            self.string(out, &call.arguments);
            out.extend_from_slice(b"}}");
        }
        out.push(b']');
    }

    fn string(&self, out: &mut Vec<u8>, kept: &Kept) {
        quote(out, &media::strip(&self.text(kept)));
    }

    fn text<'k>(&self, kept: &'k Kept) -> Cow<'k, str> {
        if kept.missing() == 0 {
            let is_one = kept.tail().is_empty();
            return if is_one {
                kept.head().into()
            } else {
                (kept.head().to_owned() + kept.tail()).into()
            };
        }
        let (head, tail) = (self.striker.head(kept.head()), self.striker.tail(kept.tail()));
        let all = kept.head().len() + kept.missing() + kept.tail().len();
        join(&head, all.saturating_sub(head.len() + tail.len()), &tail).into()
    }
}

fn member(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}
