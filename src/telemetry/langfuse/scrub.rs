//! JSON written anew without its media: one pass from text to text, no tree between.

use super::media;
use crate::protocol::lenient::Name;
use crate::protocol::word::{HIGH, ONES, equal};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::fmt;
use std::io::Write as _;

/// Where a value stands, as far as that says whether it is media.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place<'p> {
    /// Anywhere else: media only if it looks so.
    Any,
    /// In an object that holds media in its `data`; the family of types, such as `audio`, that a bare
    /// format belongs to.
    Holder(&'p str),
    /// Media in base64, whatever it looks like; the type that stood before it, if one did.
    Media(&'p str, Option<&'p str>),
    /// Media, unless it cannot be: what it is has not been said yet.
    Unsaid,
}

/// One JSON value on its way into `out`.
pub(super) struct Scrub<'o, 'p> {
    /// Where it goes.
    pub(super) out: &'o mut Vec<u8>,
    /// Where it stands.
    pub(super) place: Place<'p>,
}

/// Writes a text as a JSON string.
pub(super) fn quote(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    quote_inside(out, text);
    out.push(b'"');
}

/// The same without the quotes around it: what needs no escape is copied at once, up to what does.
pub(super) fn quote_inside(out: &mut Vec<u8>, text: &str) {
    let mut rest = text.as_bytes();
    out.reserve(rest.len());
    loop {
        let (plain, marked) = rest.split_at(plain_run(rest));
        out.extend_from_slice(plain);
        let Some((mark, after)) = marked.split_first() else { return };
        escape(out, *mark);
        rest = after;
    }
}

fn escape(out: &mut Vec<u8>, mark: u8) {
    let short = match mark {
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        0x08 => b'b',
        0x0c => b'f',
        // Writing into memory does not fail.
        0..0x20 => return drop(write!(out, "\\u{mark:04x}")),
        0x20.. => mark,
    };
    out.extend_from_slice(&[b'\\', short]);
}

/// Bytes looked at by the word before they are by the block: marks stand close together, as in JSON, or
/// hardly at all.
const NEAR: usize = 32;

/// Length of the text before the first byte that needs an escape.
fn plain_run(text: &[u8]) -> usize {
    let mut at = 0;
    while let Some(word) = text.get(at..).and_then(<[u8]>::first_chunk) {
        if let Some(mark) = first_mark(*word) {
            return at + mark;
        }
        at += word.len();
        if at == NEAR {
            let (blocks, _) = text.get(at..).unwrap_or_default().as_chunks();
            at += 64 * blocks.iter().take_while(|block| is_plain(block)).count();
        }
    }
    // The last eight are looked at once more, rather than each of what is left.
    if let Some(last) = text.last_chunk() {
        return first_mark(*last).map_or(text.len(), |mark| text.len() - last.len() + mark);
    }
    text.iter().position(|byte| is_mark(*byte)).unwrap_or(text.len())
}

const fn is_mark(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

fn first_mark(word: [u8; 8]) -> Option<usize> {
    let marks = marks(u64::from_le_bytes(word));
    (marks != 0).then_some(marks.trailing_zeros() as usize / 8)
}

/// Whether a block can be in a JSON string as it is; without a branch, so that it takes a handful of
/// vector instructions.
fn is_plain(block: &[u8; 64]) -> bool {
    let mark =
        |byte: &u8| u8::from(*byte < 0x20) | u8::from(*byte == b'"') | u8::from(*byte == b'\\');
    block.iter().fold(0, |marks, byte| marks | mark(byte)) == 0
}

/// The high bit of each byte that is a quote, a backslash or a control character, as far as the first of
/// them: see [`equal`].
const fn marks(word: u64) -> u64 {
    let control = word.wrapping_sub(ONES * 0x20) & !word & HIGH;
    control | equal(word, b'"') | equal(word, b'\\')
}

impl<'de> DeserializeSeed<'de> for Scrub<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<(), D::Error> {
        source.deserialize_any(self)
    }
}

impl Scrub<'_, '_> {
    fn plain(self, value: &impl serde::Serialize) {
        drop(serde_json::to_writer(self.out, value));
    }
}

impl<'de> Visitor<'de> for Scrub<'_, '_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.plain(&());
        Ok(())
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<(), E> {
        self.plain(&flag);
        Ok(())
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<(), E> {
        self.plain(&number);
        Ok(())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<(), E> {
        self.plain(&number);
        Ok(())
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<(), E> {
        self.plain(&number);
        Ok(())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        let clean = match self.place {
            Place::Media(family, kind) if !is_address(text) => Cow::Owned(bare(text, family, kind)),
            Place::Unsaid if media::is_media(text) => Cow::Owned(bare(text, "", None)),
            Place::Any | Place::Holder(_) | Place::Media(..) | Place::Unsaid => media::strip(text),
        };
        quote(self.out, &clean);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Self { out, .. } = self;
        out.push(b'[');
        let first = out.len();
        loop {
            let at = out.len();
            if at > first {
                out.push(b',');
            }
            if items.next_element_seed(Scrub { out, place: Place::Any })?.is_none() {
                out.truncate(at);
                break;
            }
        }
        out.push(b']');
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let Self { out, place } = self;
        out.push(b'{');
        let mut is_first = true;
        // What the object has said so far of the type of its media, and of the form they are in.
        let (mut kind, mut form): (Option<String>, Option<String>) = (None, None);
        // Where media stand of which it had not said it yet.
        let mut untyped = None;
        while let Some(name) = members.next_key_seed(Name)? {
            if !std::mem::replace(&mut is_first, false) {
                out.push(b',');
            }
            quote(out, &media::strip(&name));
            out.push(b':');
            let inner = inner(place, &name, (kind.as_deref(), form.as_deref()));
            let start = out.len();
            members.next_value_seed(Scrub { out, place: inner })?;
            if matches!(inner, Place::Media(_, None) | Place::Unsaid) {
                untyped = Some(start);
            }
            let said = match (place, &*name) {
                (Place::Holder(_), "format" | "media_type" | "mime_type") => &mut kind,
                (Place::Holder(_), "type") => &mut form,
                _ => continue,
            };
            *said = out.get(start..).and_then(|json| serde_json::from_slice(json).ok());
            if let (Place::Holder(family), Some(kind), Some(at)) = (place, &kind, untyped) {
                untyped = None;
                name_type(out, at, &typed(kind, family));
            }
        }
        out.push(b'}');
        Ok(())
    }
}

/// Where a member of an object stands.
fn inner<'p>(
    place: Place<'_>,
    name: &str,
    (kind, form): (Option<&'p str>, Option<&str>),
) -> Place<'p> {
    match (place, name) {
        (Place::Holder(""), "data") => match (form, kind) {
            (Some("base64"), _) => Place::Media("", kind),
            // Anthropic's documents may be text.
            (Some(_), _) => Place::Any,
            (None, Some(kind)) if kind.starts_with("text/") => Place::Any,
            (None, Some(_)) => Place::Media("", kind),
            (None, None) => Place::Unsaid,
        },
        (Place::Holder(family), "data") => Place::Media(static_family(family), kind),
        (_, "input_audio" | "audio") => Place::Holder("audio"),
        (_, "source" | "inline_data" | "inlineData") => Place::Holder(""),
        (_, "file_data" | "b64_json") => Place::Media("", None),
        _ => Place::Any,
    }
}

fn static_family(family: &str) -> &'static str {
    if family == "audio" { "audio" } else { "" }
}

/// Whether a value says where its media are instead of holding them.
fn is_address(text: &str) -> bool {
    let begins = |scheme: &str| {
        text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    };
    ["data:", "https://", "http://"].into_iter().any(begins)
}

fn bare(base64: &str, family: &str, kind: Option<&str>) -> String {
    media::placeholder(base64, kind.map(|kind| typed(kind, family)).as_deref())
}

/// A type, or a format as the type that it is in its family.
fn typed<'k>(kind: &'k str, family: &str) -> Cow<'k, str> {
    let is_format = !kind.contains('/') && !kind.is_empty() && !family.is_empty();
    if is_format { format!("{family}/{kind}").into() } else { kind.into() }
}

/// Says in the placeholder that was written at a place what type it is of, unless its beginning told.
fn name_type(out: &mut Vec<u8>, at: usize, kind: &str) {
    let unknown = format!("\"[{}", media::UNKNOWN).into_bytes();
    if kind.contains('/') && out.get(at..).is_some_and(|json| json.starts_with(&unknown)) {
        let mut json = b"\"[".to_vec();
        quote_inside(&mut json, kind);
        out.splice(at..at + unknown.len(), json);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop, prop_assert_eq, prop_oneof, proptest};
    use proptest::strategy::{Just, Strategy};
    use serde_json::{Value, json};

    fn document(json: &[u8], out: &mut Vec<u8>) -> serde_json::Result<()> {
        let mut source = serde_json::Deserializer::from_slice(json);
        Scrub { out, place: Place::Any }.deserialize(&mut source)?;
        source.end()
    }

    fn scrubbed(json: &str) -> String {
        let mut out = Vec::new();
        document(json.as_bytes(), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn media_are_found_where_each_dialect_puts_them() {
        for (json, kind) in [
            (
                r#"{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}"#,
                "image/png",
            ),
            (r#"{"type":"input_image","image_url":"data:image\/webp;base64,AA\/A"}"#, "image/webp"),
            (r#"{"input_audio":{"data":"AAAA","format":"wav"}}"#, "audio/wav"),
            (r#"{"source":{"data":"AAAA","type":"base64","media_type":"image/x"}}"#, "image/x"),
            (r#"{"input_audio":{"format":"wav","data":"AAAA"}}"#, "audio/wav"),
            (r#"{"source":{"type":"base64","media_type":"image/gif","data":"AAAA"}}"#, "image/gif"),
            (r#"{"source":{"data":"R0lGODlh","media_type":"image/gif"}}"#, "image/gif"),
            (r#"{"file":{"file_data":"JVBERi0x"}}"#, "application/pdf"),
            (
                r#"{"type":"input_file","file_data":"data:application/pdf;base64,AAAA"}"#,
                "application/pdf",
            ),
            (r#"{"inlineData":{"mimeType":"x","data":"AAAA"}}"#, "application/octet-stream"),
        ] {
            let clean = scrubbed(json);
            assert!(clean.contains(&format!("[{kind}, ")), "{clean}");
            assert!(clean.contains("bytes, sha256 "), "{clean}");
            assert!(!clean.contains("AAAA") && !clean.contains("AA\\/A"), "{clean}");
        }
    }

    #[test]
    fn addresses_texts_and_ordinary_data_stay() {
        for json in [
            r#"{"source":{"type":"text","media_type":"text/plain","data":"The grass is green."}}"#,
            r#"{"source":{"data":"The grass is green","type":"text","media_type":"text/plain"}}"#,
            r#"{"source":{"media_type":"text/markdown","data":"Grass"}}"#,
            r#"{"image_url":{"url":"https://example.com/a.png"}}"#,
            r#"{"source":{"type":"url","data":"https://example.com/a.png"}}"#,
            r#"{"metadata":{"data":"AAAA"},"source":"AAAA"}"#,
            r#"[1,-2,0.5,1e300,true,null,"é\n\u0000",[],{}]"#,
        ] {
            let same: Value = serde_json::from_str(json).unwrap();
            assert_eq!(serde_json::from_str::<Value>(&scrubbed(json)).unwrap(), same);
        }
    }

    #[test]
    fn what_is_no_json_is_an_error() {
        for json in ["", "{", "[1,", "{\"a\"}", "1 2", "1e999", "\"\\ud800\""] {
            assert!(document(json.as_bytes(), &mut Vec::new()).is_err(), "{json}");
        }
        let deep = "[".repeat(200) + &"]".repeat(200);
        assert!(document(deep.as_bytes(), &mut Vec::new()).is_err());
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<i32>().prop_map(|number| Value::from(f64::from(number) / 8.0)),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 48, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::vec((any::<String>(), inner), 0..6)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_text_is_quoted_as_serde_does(text in r#"[a-zé漢\x00-\x1f"\\\x7f]{0,40}|[a-z"]{0,9}|([a-z ]{30,90}["\\\n]){0,4}"#) {
            let mut out = Vec::new();
            quote(&mut out, &text);
            prop_assert_eq!(out, serde_json::to_vec(&text).unwrap());
        }

        #[test]
        fn without_media_a_document_stays_what_it_was(value in value()) {
            let clean = scrubbed(&json!([value]).to_string());
            prop_assert_eq!(serde_json::from_str::<Value>(&clean).unwrap(), json!([value]));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(document(&bytes, &mut Vec::new()));
        }
    }
}
