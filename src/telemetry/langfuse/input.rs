//! The request body of a call as its trace shows it: what was asked, with which parameters.

use super::cut::{clamp, cut};
use super::media;
use super::scrub::{Place, Scrub, quote};
use super::secrets::{Secrets, Striker};
use crate::protocol::edit::MemberSpan;
use crate::protocol::lenient::Name;
use crate::protocol::mend;
use crate::secret::Secret;
use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// A body up to this size is kept, in bytes: to let go of it earlier would be no gain.
pub const SMALL: usize = 8 << 10;
/// Longest parameter in full, and all of them together, in bytes: a schema may be long.
const MAX_PARAMETER: usize = 2_000;
const MAX_PARAMETERS: usize = 16 << 10;
/// Pieces of the caller's metadata taken over (providers allow 16), and their length in characters.
const MAX_METADATA: usize = 32;
const MAX_METADATA_CHARS: usize = 200;

/// A request body that waits to be shown. It is taken by reference, and let go of as soon as it has
/// been looked through, unless it is small.
pub struct Input {
    body: Mutex<Bytes>,
    /// Longest text that any destination wants, in bytes.
    limit: usize,
    presented: Option<Secret>,
    secrets: Arc<Secrets>,
    members: Option<Vec<MemberSpan>>,
    shown: OnceLock<Shown>,
}

/// What is shown of a body: no media, no part of a key, no more than the limit. Whole keys may be in it:
/// they are struck out of the spans once these are written.
#[derive(Clone, Default, PartialEq, Eq)]
#[cfg_attr(test, derive(Debug))]
pub struct Shown {
    /// The messages, the prompt or the input, with the tools and instructions beside where there are
    /// any: JSON, unless it had to be cut or was none.
    pub(super) input: String,
    /// What else the body asks for, one JSON object.
    pub(super) parameters: String,
    /// The caller's own metadata.
    pub(super) metadata: Vec<(String, String)>,
}

impl Input {
    /// A body, and the key its caller presented, which is struck out with the others.
    #[must_use]
    pub fn new(
        body: Bytes,
        limit: usize,
        presented: Option<Secret>,
        secrets: Arc<Secrets>,
    ) -> Self {
        let (body, shown) = (Mutex::new(body), OnceLock::new());
        Self { body, limit, presented, secrets, members: None, shown }
    }

    /// Bytes it keeps alive, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let body = self.unread();
        let shown = self.shown.get();
        body + shown.map_or(0, |shown| shown.input.len() + shown.parameters.len())
    }

    /// Bytes of a body that nobody has looked through yet, or that is small.
    #[must_use]
    pub fn unread(&self) -> usize {
        self.body.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// What is shown of it, made at the first call: that takes as long as reading it all, so it is
    /// not for a request's path.
    pub fn shown(&self) -> &Shown {
        self.shown.get_or_init(|| {
            let mut held = self.body.lock().unwrap_or_else(PoisonError::into_inner);
            // A small one goes with its trace.
            let body = if held.len() > SMALL { std::mem::take(&mut *held) } else { held.clone() };
            drop(held);
            self.show(&body)
        })
    }

    /// Where the members of the body stand: it is one JSON object, and was read before.
    pub fn read_before(&mut self, members: Option<Vec<MemberSpan>>) {
        self.members = members;
    }

    fn show(&self, body: &[u8]) -> Shown {
        let striker = self.secrets.striker(self.presented.as_ref());
        let parts = || Parts::new(&striker, media::may_be_in(body), body.len());
        let as_sent = std::str::from_utf8(body).ok().and_then(|text| match &self.members {
            Some(members) => parts().members(text, members),
            None => parts().whole(text),
        });
        let mended = || parts().whole(std::str::from_utf8(&mend::readable(body)?).ok()?);
        let short = |text: Cow<'_, str>| striker.fitting(text, self.limit).into_owned();
        let Some(mut parts) = as_sent.or_else(mended) else {
            let text = String::from_utf8_lossy(body);
            return Shown { input: short(media::strip(&text)), ..Shown::default() };
        };
        let metadata = tidy(std::mem::take(&mut parts.metadata));
        let mut parameters = std::mem::take(&mut parts.parameters);
        if !parameters.is_empty() {
            parameters.push('}');
        }
        Shown { input: short(parts.into_input().into()), parameters, metadata }
    }
}

/// The pairs of which name and value say something, each name once; what Langfuse drops is left out.
fn tidy(pairs: Vec<(String, String)>) -> Vec<(String, String)> {
    let is_trap = |part: &str| matches!(part, "" | "__proto__" | "constructor" | "prototype");
    let mut kept: Vec<(String, String)> = Vec::with_capacity(pairs.len());
    for (name, value) in pairs {
        let is_known = kept.iter().any(|(known, _)| *known == name);
        if !is_known && !value.is_empty() && !name.split('.').any(is_trap) {
            kept.push((name, value));
        }
    }
    kept
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Input").field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

/// The members of a body, sorted.
struct Parts<'s> {
    /// Keys are struck out of a text before it is cut, or a part of one would stay.
    striker: &'s Striker<'s>,
    /// Whether values must be looked through for media; if not, they are taken over as they stand.
    may_hold_media: bool,
    /// Members that are input, as `"name":value` each, and where each value begins and ends.
    input: String,
    values: Vec<std::ops::Range<usize>>,
    /// All others, an object that is not closed yet; empty where there are none.
    parameters: String,
    metadata: Vec<(String, String)>,
}

impl<'s> Parts<'s> {
    fn new(striker: &'s Striker<'s>, may_hold_media: bool, length: usize) -> Self {
        // A body without media is hardly more than its input.
        let room = if may_hold_media { 0 } else { length };
        Self {
            striker,
            may_hold_media,
            input: String::with_capacity(room),
            values: Vec::with_capacity(2),
            parameters: String::with_capacity(64),
            metadata: Vec::new(),
        }
    }

    /// Sorts a body whose members are known to stand there; `None` where one of them is not as JSON should be.
    fn members(mut self, text: &str, members: &[MemberSpan]) -> Option<Self> {
        for member in members {
            self.member(&member.name(text), member.value(text)).ok()?;
        }
        Some(self)
    }

    /// Sorts a body that nobody has read before; `None` where it is no JSON object.
    fn whole(mut self, text: &str) -> Option<Self> {
        let mut source = serde_json::Deserializer::from_str(text);
        (&mut source).deserialize_map(&mut self).ok()?;
        source.end().ok()?;
        Some(self)
    }

    /// The one value there is, or an object of all.
    fn into_input(mut self) -> String {
        match self.values.as_slice() {
            [] => String::new(),
            [only] => {
                self.input.truncate(only.end);
                self.input.drain(..only.start);
                // A stream holds it for as long as it lasts.
                self.input.shrink_to(self.input.len() * 2);
                self.input
            }
            _ => ["{", &self.input, "}"].concat(),
        }
    }

    /// Takes over one member of the body; its value is JSON.
    fn member(&mut self, name: &str, value: &str) -> serde_json::Result<()> {
        match name {
            "messages" | "prompt" | "input" | "system" | "instructions" | "tools" | "functions"
            | "suffix" | "prediction" => self.input(name, value),
            "metadata" => {
                let Self { striker, metadata: out, .. } = self;
                let mut source = serde_json::Deserializer::from_str(value);
                Metadata { out, striker }.deserialize(&mut source)
            }
            // They have places of their own in a trace.
            "model" | "stream" | "stream_options" | "user" | "session_id" => Ok(()),
            _ => self.parameter(name, value),
        }
    }

    fn input(&mut self, name: &str, value: &str) -> serde_json::Result<()> {
        let out = &mut self.input;
        if !out.is_empty() {
            out.push(',');
        }
        quoted(out, name);
        out.push(':');
        let start = out.len();
        push_value(self.may_hold_media, out, value)?;
        self.values.push(start..self.input.len());
        Ok(())
    }

    fn parameter(&mut self, name: &str, value: &str) -> serde_json::Result<()> {
        let out = &mut self.parameters;
        let begun = out.len();
        out.push(if begun == 0 { '{' } else { ',' });
        quoted(out, &self.striker.clamp(name, MAX_METADATA_CHARS));
        out.push(':');
        let start = out.len();
        push_value(self.may_hold_media, out, value)?;
        let length = out.len() - start;
        if begun + length.min(MAX_PARAMETER) > MAX_PARAMETERS {
            out.truncate(begun);
        } else if length > MAX_PARAMETER {
            let value = out.split_off(start);
            quoted(out, &cut(&self.striker.strike(value), MAX_PARAMETER));
        }
        Ok(())
    }
}

/// Writes a value of a body, without its media.
fn push_value(may_hold_media: bool, out: &mut String, value: &str) -> serde_json::Result<()> {
    if may_hold_media {
        let mut clean = Vec::new();
        let mut source = serde_json::Deserializer::from_str(value);
        Scrub { out: &mut clean, place: Place::Any }.deserialize(&mut source)?;
        push(out, clean);
    } else {
        out.push_str(value);
    }
    Ok(())
}

/// Writes a name as a JSON string.
fn quoted(out: &mut String, name: &str) {
    if name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        out.push('"');
        out.push_str(name);
        out.push('"');
        return;
    }
    let mut json = Vec::new();
    quote(&mut json, name);
    push(out, json);
}

fn push(out: &mut String, json: Vec<u8>) {
    out.push_str(&String::from_utf8(json).unwrap_or_default());
}

impl<'de> Visitor<'de> for &mut Parts<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key_seed(Name)? {
            let value: &RawValue = map.next_value()?;
            self.member(&name, value.get()).map_err(Error::custom)?;
        }
        Ok(())
    }
}

/// The caller's metadata: short values by name; what is no text becomes its JSON.
struct Metadata<'m> {
    out: &'m mut Vec<(String, String)>,
    striker: &'m Striker<'m>,
}

impl<'de> DeserializeSeed<'de> for Metadata<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<(), D::Error> {
        let mut json = Vec::new();
        Scrub { out: &mut json, place: Place::Any }.deserialize(source)?;
        let read = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&json);
        for (name, value) in read.unwrap_or_default().into_iter().take(MAX_METADATA) {
            let value = match value {
                serde_json::Value::String(text) => text,
                other @ (serde_json::Value::Null
                | serde_json::Value::Bool(_)
                | serde_json::Value::Number(_)
                | serde_json::Value::Array(_)
                | serde_json::Value::Object(_)) => other.to_string(),
            };
            let short = |text| {
                let clean = self.striker.strike(text);
                clamp(&clean, MAX_METADATA_CHARS).to_owned()
            };
            self.out.push((short(name), short(value)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Dialect;
    use crate::protocol::request;
    use proptest::prelude::{Strategy, any, prop, prop_assert, prop_oneof, proptest};

    #[test]
    fn a_body_without_media_is_taken_over_as_it_stands() {
        let messages = r#"[ {"role":"user", "content":"a \"quote\",\n1e400 and é"} ]"#;
        let body = format!(r#"{{"messages": {messages}, "temperature": 1.0e0}}"#);
        let plain = shown(&body, 1_000);
        assert_eq!(
            (plain.input.as_str(), plain.parameters.as_str()),
            (messages, r#"{"temperature":1.0e0}"#)
        );
        // A key that escapes hide is found all the same.
        for hidden in [r"sk-or\u002dupstream", r"sk-or-u\u0070stream"] {
            let seen = shown(&format!(r#"{{"messages":[{{"content":"{hidden}"}}]}}"#), 1_000);
            assert_eq!(seen.input, r#"[{"content":"[redacted]"}]"#);
        }
    }

    #[test]
    fn half_a_surrogate_pair_takes_nothing_else_with_it() {
        let seen = shown(
            r#"{"messages":[{"content":"cut \ud83c sk-presented"}],"temperature":0.5,"metadata":{"k":"v\udf0a"}}"#,
            1_000,
        );
        assert_eq!(seen.input, "[{\"content\":\"cut \u{fffd} [redacted]\"}]");
        assert_eq!(seen.parameters, r#"{"temperature":0.5}"#);
        assert_eq!(seen.metadata, [("k".to_owned(), "v\u{fffd}".to_owned())]);
    }

    fn shown(body: &str, limit: usize) -> Shown {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let presented = Some(Secret::new("sk-presented".into()));
        let secrets = Arc::new(Secrets::new(["sk-or-upstream"], []));
        let input = Input::new(body.clone(), limit, presented.clone(), Arc::clone(&secrets));
        // One that was read before is shown the same.
        let mut members = Vec::new();
        if request::read_noting(&body, Dialect::Responses, Some(&mut members)).is_ok() {
            let mut again = Input::new(body, limit, presented.clone(), Arc::clone(&secrets));
            again.read_before(Some(members));
            assert!(again.shown() == input.shown());
        }
        // As it reads in a span that holds it.
        let strike = |text: &str| -> String {
            let mut span = Vec::new();
            quote(&mut span, text);
            span.pop();
            secrets.striker(presented.as_ref()).strike_quoted(&mut span, 1);
            span.push(b'"');
            serde_json::from_slice(&span).unwrap()
        };
        let Shown { input, parameters, metadata } = input.shown();
        let metadata = metadata.iter().map(|(name, value)| (strike(name), strike(value))).collect();
        Shown { input: strike(input), parameters: strike(parameters), metadata }
    }

    #[test]
    fn what_is_asked_stands_apart_from_how() {
        let chat = shown(
            r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"temperature":0.2,"stream":true,
            "max_tokens":5,"stop":["a"],"user":"u","metadata":{"topic":"tides","n":1}}"#,
            1 << 20,
        );
        assert_eq!(chat.input, r#"[{"role":"user","content":"hi"}]"#);
        assert_eq!(chat.parameters, r#"{"temperature":0.2,"max_tokens":5,"stop":["a"]}"#);
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(chat.metadata, [pair("topic", "tides"), pair("n", "1")]);
        let messages = shown(r#"{"system":"s","messages":[],"tools":[]}"#, 1 << 20);
        assert_eq!(messages.input, r#"{"system":"s","messages":[],"tools":[]}"#);
        assert_eq!(messages.parameters, "");
        assert_eq!(shown(r#"{"input":"hello"}"#, 1 << 20).input, "\"hello\"");
    }

    #[test]
    fn keys_and_media_are_gone_also_from_what_is_no_json() {
        let data = "data:image/png;base64,AAAA";
        for body in [
            format!(r#"{{"messages":["sk-presented {data}"],"stop":"sk-or-upstream {data}"}}"#),
            format!(
                r#"{{"input":"sk\u002dpresented {data}","metadata":{{"sk-presented":"sk-or-upstream"}}}}"#
            ),
            format!(
                r#"{{"input":"{{\"arguments\":\"{{\\\"key\\\":\\\"sk-presented\\\"}}\",\"image\":\"{data}\"}}"}}"#
            ),
            format!("not json: sk-presented sk-or-upstream {data}"),
            format!(r#"["sk-presented", "sk-or-upstream", "{data}"]"#),
        ] {
            let seen = format!("{:?}", shown(&body, 1 << 20));
            assert!(!seen.contains("sk-"), "{seen}");
            assert!(!seen.contains("AAAA") && seen.contains("[redacted]"), "{seen}");
            assert!(seen.contains("image/png, 3 bytes"), "{seen}");
        }
    }

    #[test]
    fn long_input_and_long_parameters_are_cut() {
        let body = format!(r#"{{"input":"{}","schema":{{"a":"{0}"}},"b":1}}"#, "x".repeat(100_000));
        let seen = shown(&body, 5_000);
        assert!(seen.input.len() <= 5_000 && seen.input.contains("bytes cut"));
        let parameters: serde_json::Value = serde_json::from_str(&seen.parameters).unwrap();
        assert!(parameters["schema"].as_str().unwrap().len() <= MAX_PARAMETER);
        assert_eq!(parameters["b"], 1);
        let many: Vec<String> =
            (0..1_000).map(|n| format!(r#""p{n}":"{}""#, "y".repeat(500))).collect();
        let seen = shown(&format!("{{{}}}", many.join(",")), 5_000);
        assert!(seen.parameters.len() < 20_000);
        assert!(serde_json::from_str::<serde_json::Value>(&seen.parameters).is_ok());
    }

    #[test]
    fn the_body_is_let_go_of_once_it_was_looked_through() {
        let body = Bytes::from(format!(r#"{{"input":"{}"}}"#, "x".repeat(100_000)));
        let input = Input::new(body, 1_000, None, Arc::new(Secrets::default()));
        assert!(input.bytes() > 100_000);
        input.shown();
        assert!(input.bytes() < 2_000 && input.unread() == 0);
        assert!(!format!("{input:?}").contains("xxx"));
    }

    /// A member in one of the ways that JSON may be written in.
    fn member() -> impl Strategy<Value = String> {
        let name = prop_oneof![
            "input|prompt|tools|metadata|user|top_p|max_tokens|store",
            r"[a-zé]{1,3}|in\\u0070ut|\\n"
        ];
        let blank = "[ \t\n]{0,2}";
        let value = prop_oneof![
            r#"-?[1-9]{1,3}(\.[0-9]{1,3})?|true|null|"[a-zé ,:}]{0,9}""#,
            r#"\{"a":"b","data" : "iVBORw0KGgo="\}|\[ 1,\{\} \]|"data:image/png;base64,AAAA""#,
        ];
        (blank, name, blank, blank, value, blank)
            .prop_map(|(a, name, b, c, value, d)| format!("{a}\"{name}\"{b}:{c}{value}{d}"))
    }

    proptest! {
        #[test]
        fn what_was_read_before_is_shown_as_if_it_were_not(
            members in prop::collection::vec(member(), 0..6),
        ) {
            shown(&format!(r#"{{"model":"m","previous_response_id":"p",{}}}"#, members.join(",")), 300);
            shown(&format!(r#"{{{},"input":"p","model":"m"}}"#, members.join(",")), 300);
        }

        #[test]
        fn no_body_makes_it_panic_or_pass_the_limit(body in prop::collection::vec(any::<u8>(), 0..300)) {
            let input = Input::new(Bytes::from(body), 64, None, Arc::new(Secrets::default()));
            prop_assert!(input.shown().input.len() <= 64);
        }
    }
}
