//! What a call brought, as its trace shows it: one assistant's message an answer, whatever the
//! dialect and whether or not it was streamed.

use super::cut::{join, left_out, mark};
use super::media;
use super::scrub::quote;
use super::secrets::Striker;
use crate::protocol::tap::{Choice, Kept, MAX_WORD, ToolCall, Transcript};
use std::borrow::Cow;

/// Room beside what was said, for the JSON around it.
const ROOM: usize = 256;
/// The kind of a tool that takes plain text.
const CUSTOM: &str = "custom";

/// The message of each answer as JSON, a list where there are several; empty where nothing was said.
/// `finish` stands where an answer does not say itself why it ended. Keys are not struck out yet,
/// except what a cut may have left of one.
pub(super) fn messages(said: &Transcript, finish: Option<&str>, striker: &Striker<'_>) -> String {
    let writer = Writer { striker };
    if let Some((count, length)) = said.vectors {
        return format!(r#"{{"embeddings":{count},"dimensions":{length}}}"#);
    }
    if let Some(raw) = &said.raw {
        return media::strip(&writer.raw(raw)).into_owned();
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
            for mark in missing(said) {
                out.extend_from_slice(br#",{"role":"assistant","content":"#);
                quote(&mut out, &mark);
                out.push(b'}');
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
            writer.tool(&mut out, call);
            out.extend_from_slice(br#","arguments":"#);
            writer.string(&mut out, &call.arguments);
            out.push(b'}');
        }
        if let Some(mark) = cut_calls(choice) {
            out.extend_from_slice(br#",{"type":"text","content":"#);
            quote(&mut out, &mark);
            out.push(b'}');
        }
        out.extend_from_slice(br#"],"finish_reason":"#);
        writer.word(&mut out, choice.finish.as_deref().or(finish).unwrap_or("unknown"));
        out.push(b'}');
    }
    for mark in missing(said) {
        out.extend_from_slice(br#",{"role":"assistant","parts":[{"type":"text","content":"#);
        quote(&mut out, &mark);
        out.extend_from_slice(br#"}],"finish_reason":"unknown"}"#);
    }
    out.push(b']');
    String::from_utf8(out).unwrap_or_default()
}

/// What stands for answers that were too many, and for what could be of any of them.
fn missing(said: &Transcript) -> impl Iterator<Item = String> {
    let choices = (said.cut_choices() > 0).then(|| left_out(said.cut_choices(), "choices"));
    let bytes = (said.lost > 0).then(|| mark(said.lost));
    choices.into_iter().chain(bytes)
}

/// The same for calls of tools.
fn cut_calls(choice: &Choice) -> Option<String> {
    (choice.cut_calls() > 0).then(|| left_out(choice.cut_calls(), "tool calls"))
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

    /// The name of a tool; one of the upstream's own has it behind its kind, if it has any.
    fn tool(&self, out: &mut Vec<u8>, call: &ToolCall) {
        match (call.kind.as_str(), call.name.as_str()) {
            ("" | CUSTOM, name) => self.word(out, name),
            (kind, "") => self.word(out, kind),
            (kind, name) => {
                let name = self.striker.uncut(name, MAX_WORD);
                quote(out, &[&self.striker.uncut(kind, MAX_WORD), ".", &name].concat());
            }
        }
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
        self.media(out, choice);
        self.calls(out, choice);
        if let Some(finish) = finish {
            member(out, "finish_reason");
            self.word(out, finish);
        }
        out.push(b'}');
    }

    fn media(&self, out: &mut Vec<u8>, choice: &Choice) {
        if choice.sound.is_some() || !choice.spoken.is_empty() {
            member(out, "audio");
            let start = out.len();
            if !choice.spoken.is_empty() {
                out.extend_from_slice(br#"{"transcript":"#);
                self.string(out, &choice.spoken);
            }
            if let Some(sound) = &choice.sound {
                out.extend_from_slice(if out.len() == start { b"{" } else { b"," });
                out.extend_from_slice(br#""data":"#);
                quote(out, &media::passed(sound, "audio"));
            }
            out.push(b'}');
        }
        if choice.images.is_empty() && choice.drawn.is_empty() {
            return;
        }
        member(out, "images");
        out.push(b'[');
        let start = out.len();
        for image in &choice.images {
            separate(out, start);
            self.string(out, image);
        }
        for drawn in &choice.drawn {
            separate(out, start);
            quote(out, &media::passed(drawn, "image"));
        }
        out.push(b']');
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
            let (kind, text): (&[u8], &[u8]) = if call.kind == CUSTOM {
                (br#","type":"custom","custom":{"name":"#, br#","input":"#)
            } else {
                (br#","type":"function","function":{"name":"#, br#","arguments":"#)
            };
            out.extend_from_slice(kind);
            self.tool(out, call);
            out.extend_from_slice(text);
            self.string(out, &call.arguments);
            out.extend_from_slice(b"}}");
        }
        if let Some(mark) = cut_calls(choice) {
            out.extend_from_slice(br#",{"id":"","type":"function","function":{"name":"#);
            quote(out, &mark);
            out.extend_from_slice(br#","arguments":""}}"#);
        }
        out.push(b']');
    }

    fn string(&self, out: &mut Vec<u8>, kept: &Kept) {
        quote(out, &media::strip(&self.text(kept)));
    }

    /// A reply that was too long to be read, as it came.
    fn raw(&self, kept: &Kept) -> String {
        let (head, tail) = (unescaped(kept.head()), unescaped(kept.tail()));
        let (shown, end) = (self.striker.head(&head), self.striker.tail(&tail));
        let struck =
            head.len() + tail.len() - shown.len().min(head.len()) - end.len().min(tail.len());
        join(&shown, kept.missing() + struck, &end)
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

/// JSON as a key would stand in it: escapes that need not be are none.
fn unescaped(json: &str) -> String {
    let mut plain = String::with_capacity(json.len());
    let mut rest = json;
    while let Some((before, escape)) = rest.split_once('\\') {
        plain.push_str(before);
        let code = escape.strip_prefix('u').and_then(|digits| digits.get(..4));
        let code = code.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let decoded = code.and_then(char::from_u32);
        let decoded = decoded.filter(|c| matches!(c, ' '..='~') && !matches!(c, '"' | '\\'));
        let (text, length) = match (decoded, escape.chars().next()) {
            (Some(decoded), _) => (decoded.to_string(), 5),
            (None, Some('/')) => ("/".to_owned(), 1),
            (None, Some(other)) => (format!("\\{other}"), other.len_utf8()),
            (None, None) => ("\\".to_owned(), 0),
        };
        plain.push_str(&text);
        rest = escape.get(length..).unwrap_or_default();
    }
    plain.push_str(rest);
    plain
}

fn member(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

#[cfg(test)]
mod tests {
    use super::super::Secrets;
    use super::*;
    use crate::protocol::Dialect;
    use crate::protocol::tap::PlainTap;
    use bytes::Bytes;
    use proptest::prelude::{any, prop_assert_eq, proptest};
    use serde_json::{Value, json};

    /// What a plain reply is shown as.
    fn shown(dialect: Dialect, reply: &Value) -> Value {
        let mut tap = PlainTap::new(dialect).keeping(Some(1 << 20));
        tap.push(&Bytes::from(reply.to_string()));
        let said = tap.finish().output.unwrap();
        let secrets = Secrets::default();
        serde_json::from_str(&messages(&said, None, &secrets.striker(None))).unwrap()
    }

    #[test]
    fn media_and_tools_of_the_upstreams_own_are_shown() {
        let reply = json!({ "output": [
            { "type": "message", "content": [{ "type": "output_audio", "data": "AAAA", "transcript": "tide" }] },
            { "type": "image_generation_call", "id": "i", "result": "iVBORw0KGgo=" },
            { "type": "mcp_call", "id": "m", "name": "ask", "arguments": "{}" }] });
        let found = shown(Dialect::Responses, &reply);
        assert_eq!(found["audio"]["transcript"], "tide");
        let begins = |value: &Value, start: &str| {
            assert!(value.as_str().unwrap().starts_with(start), "{value}");
        };
        begins(&found["audio"]["data"], "[audio, 3 bytes, sha256 ");
        begins(&found["images"][0], "[image/png, 8 bytes, sha256 ");
        let function =
            |name: &str, arguments: &str| json!({ "name": name, "arguments": arguments });
        assert_eq!(found["tool_calls"][0]["function"], function("image_generation_call", ""));
        assert_eq!(found["tool_calls"][1]["function"], function("mcp_call.ask", "{}"));
        assert_eq!(found["tool_calls"][1]["id"], "m");
        let reply = json!({ "choices": [{ "message": { "audio": { "data": "AAAA" } } }] });
        let found = shown(Dialect::Chat, &reply);
        begins(&found["audio"]["data"], "[audio, 3 bytes, sha256 ");
    }

    #[test]
    fn what_is_too_many_is_counted() {
        let call = |nth: u64| json!({ "id": format!("c{nth}"), "function": { "name": "f", "arguments": "{}" } });
        let calls: Vec<Value> = (0..200).map(call).collect();
        let choices: Vec<Value> = (0..20)
            .map(|nth| json!({ "index": nth, "message": { "content": "a", "tool_calls": calls } }))
            .collect();
        let found = shown(Dialect::Chat, &json!({ "choices": choices }));
        assert_eq!(found.as_array().unwrap().len(), 17);
        assert_eq!(found[16], json!({ "role": "assistant", "content": "…[4 choices cut]…" }));
        let calls = found[15]["tool_calls"].as_array().unwrap();
        assert_eq!((calls.len(), &calls[127]["id"]), (129, &json!("c127")));
        assert_eq!(calls[128]["function"]["name"], "…[72 tool calls cut]…");
        let found = shown(Dialect::Chat, &json!({ "choices": choices[..16] }));
        assert_eq!(found.as_array().unwrap().len(), 16);
    }

    #[test]
    fn a_key_in_escapes_stands_there_as_it_is() {
        let json = r#"{"a":"CANARY\/slash\/\u006bey\\u006bey \"\n\u00e9 \ud83c\"}"#;
        let plain = r#"{"a":"CANARY/slash/key\\u006bey \"\n\u00e9 \ud83c\"}"#;
        assert_eq!(unescaped(json), plain);
        for cut in [r"\", r"\u", r"\u00", r"\u006"] {
            assert_eq!(unescaped(cut), cut);
        }
    }

    proptest! {
        #[test]
        fn json_means_the_same_with_fewer_escapes(text in any::<String>(), shift in 0_u32..3) {
            let inside = |c: char| {
                let json = serde_json::to_string(&c).unwrap();
                json.get(1..json.len() - 1).unwrap().to_owned()
            };
            let escape = |c: char| match (u32::from(c) + shift) % 3 {
                0 if u32::from(c) < 0xd800 => format!("\\u{:04x}", u32::from(c)),
                1 if c == '/' => "\\/".to_owned(),
                _ => inside(c),
            };
            let json = format!("\"{}\"", text.chars().map(escape).collect::<String>());
            let said = serde_json::from_str::<String>(&unescaped(&json)).unwrap();
            prop_assert_eq!(said, text);
        }
    }
}
