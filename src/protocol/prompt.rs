//! How many input tokens a request may be billed, at most and roughly, without a tokenizer.
//!
//! One pass over the body's bytes: all text, names and JSON included, by [`tokens`](super::tokens),
//! and a quarter more, because an estimate that reserves money must not be below. The JSON itself
//! stands for what providers add around messages. Images, audio and files are not counted as text:
//! see `Media`.

use super::tokens::Tally;
use super::word::equal;
use memchr::{memchr2, memmem};
use std::borrow::Cow;

/// What an image costs: `OpenAI` bills 85 to 1,536 tokens, Anthropic up to 1,600, Gemini 258 a tile.
const IMAGE: u64 = 2_000;
/// What anything behind a link, or kept as a file at the upstream, costs: nobody knows how large it is.
const LINKED: u64 = 4_000;
/// Bytes of base64 a token of audio or of a document takes at least: speech at 16 kbit/s, 32 tokens
/// a second (Gemini); a page of text in a PDF is 5 KiB and 1,500 tokens, which is a token for 3.
const BYTES_A_TOKEN: u64 = 5;
/// What providers add once a request defines tools (Anthropic: 346 with `tool_choice: auto`).
const TOOLS: u64 = 400;
const TOOLS_NAME: &[u8] = b"tools";
/// The member that names a file kept at the upstream.
const FILE: &[u8] = b"file_id";
/// What is added to every request.
const ALWAYS: u64 = 16;
/// Bytes of a string that are looked at before it is searched.
const NAME: usize = 16;
/// A shorter value of a media field is a name or a number, and counted as text.
const SHORTEST_MEDIA: usize = 64;

/// The bytes at the beginning of a value that tell what it is.
const HEAD: usize = 32;

/// What stands in a field for media.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Media {
    Image,
    Link,
    Other { bytes: u64 },
}

/// What a member may hold, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holds {
    /// Media, or a link to them.
    Link,
    /// Media, or a text of which some are links.
    Data,
}

/// How many input tokens a request may be billed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Estimate {
    /// About so many, for a bill that nobody else writes.
    pub likely: u64,
    /// Hardly more than so many, for a reservation.
    pub most: u64,
}

/// What a body has beside text, as far as the names of its members tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Beside {
    /// Whether some member may hold media or name a file.
    pub may_be_media: bool,
    /// How many members are named `tools`.
    pub tools: u64,
}

impl Beside {
    /// Looks at the name of one more member.
    pub fn note(&mut self, name: &[u8]) {
        self.may_be_media |= name == FILE || may_hold_media(name);
        self.tools += u64::from(name == TOOLS_NAME);
    }
}

/// The estimate for a body of valid JSON, of which this is known.
#[must_use]
pub fn estimate(body: &[u8], beside: Beside) -> Estimate {
    let (text, fixed) = if beside.may_be_media {
        count_strings(body)
    } else {
        (count_all(body), beside.tools.saturating_mul(TOOLS))
    };
    let tokens = text.tokens();
    let likely = fixed.saturating_add(ALWAYS).saturating_add(tokens);
    Estimate { likely, most: likely.saturating_add(tokens / 4) }
}

/// Counts a body in which all strings are text: nobody needs to know where they begin and end.
fn count_all(body: &[u8]) -> Tally {
    let mut text = Tally::default();
    let escaped = json_text(&mut text, body);
    // A byte each, so that it is done in vectors.
    let chunks = body.chunks(usize::from(u8::MAX));
    let quotes = chunks.map(|chunk| chunk.iter().map(|byte| u8::from(*byte == b'"')).sum::<u8>());
    text.forget_quotes(quotes.map(u64::from).sum::<u64>().saturating_sub(escaped));
    text
}

/// Counts a body string by string, and adds up what is no text.
fn count_strings(body: &[u8]) -> (Tally, u64) {
    let (mut text, mut strings) = (Tally::default(), 0);
    let mut fixed: u64 = 0;
    // What is not counted yet, and of that, what is not looked at yet.
    let (mut uncounted, mut rest) = (body, body);
    // The last string outside of which nothing but a colon has come: a member's name.
    let mut name = Cow::Borrowed(&b""[..]);
    while let Some(start) = quote(rest) {
        let quoted = rest.get(start + 1..).unwrap_or_default();
        let (inner, has_escapes) = string(quoted);
        let raw = rest.get(start..start + inner.len() + 2).unwrap_or_default();
        strings += 1;
        rest = quoted.get(inner.len() + 1..).unwrap_or_default();
        let is_name = rest.trim_ascii_start().first() == Some(&b':');
        let media = if is_name { None } else { media(&name, inner) };
        if is_name {
            let decoded = has_escapes.then(|| serde_json::from_slice::<String>(raw).ok()).flatten();
            name = decoded.map_or(Cow::Borrowed(inner), |name| Cow::Owned(name.into_bytes()));
            fixed += if *name == *TOOLS_NAME { TOOLS } else { 0 };
        } else if *name == *FILE {
            // As long as what is behind a link; and a text, should a model read it as one.
            fixed += LINKED;
        }
        // A link counts as text, too, should a model read it as one.
        let is_text = matches!(media, None | Some(Media::Link));
        if !is_text || has_escapes {
            let before = uncounted.len() - quoted.len();
            text.text(uncounted.get(..before).unwrap_or_default());
            uncounted = quoted.get(inner.len()..).unwrap_or_default();
        }
        if is_text && has_escapes {
            json_text(&mut text, inner);
        }
        fixed += match media {
            None => 0,
            Some(Media::Image) => IMAGE,
            Some(Media::Link) => LINKED,
            Some(Media::Other { bytes }) => bytes.div_ceil(BYTES_A_TOKEN),
        };
    }
    text.text(uncounted);
    text.forget_quotes(2 * strings);
    (text, fixed)
}

/// Where the next quote is: mostly behind a colon or a comma.
fn quote(text: &[u8]) -> Option<usize> {
    let mut skipped = 0;
    if let Some(near) = text.first_chunk::<8>() {
        if let Some(at) = first_byte(equal(u64::from_le_bytes(*near), b'"')) {
            return Some(at);
        }
        skipped = near.len();
    }
    Some(skipped + memchr::memchr(b'"', text.get(skipped..)?)?)
}

/// What a string holds, up to its closing quote, and whether there are escapes in it.
fn string(text: &[u8]) -> (&[u8], bool) {
    // Most strings are names, and a search takes longer to begin than to look at these.
    let (words, _) = text.get(..NAME).unwrap_or_default().as_chunks::<8>();
    let mut at = 0;
    for word in words {
        let word = u64::from_le_bytes(*word);
        match first_byte(equal(word, b'"') | equal(word, b'\\')) {
            Some(found) => {
                at += found;
                break;
            }
            None => at += 8,
        }
    }
    let mut has_escapes = false;
    loop {
        match text.get(at) {
            Some(b'"') => return (text.get(..at).unwrap_or_default(), has_escapes),
            Some(b'\\') => (has_escapes, at) = (true, at + 2),
            Some(_) | None => {}
        }
        match text.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
            Some(found) => at += found,
            None => return (text, has_escapes),
        }
    }
}

const fn first_byte(marks: u64) -> Option<usize> {
    if marks == 0 { None } else { Some(marks.trailing_zeros() as usize / 8) }
}

/// Counts the text of a JSON string, or of several, its escapes read; how many of these are quotes.
fn json_text(tally: &mut Tally, mut inner: &[u8]) -> u64 {
    let mut quotes = 0;
    while let Some(at) = memchr::memchr(b'\\', inner) {
        let (before, escape) = inner.split_at(at);
        tally.text(before);
        quotes += u64::from(escape.get(1) == Some(&b'"'));
        let (decoded, length) = decode(escape);
        let mut utf8 = [0; 4];
        tally.text(decoded.encode_utf8(&mut utf8).as_bytes());
        inner = escape.get(length..).unwrap_or_default();
    }
    tally.text(inner);
    quotes
}

/// The character of an escape and the bytes it takes. Half of a pair stands for a character of
/// three bytes: two halves are then about what an emoji is.
fn decode(escape: &[u8]) -> (char, usize) {
    match escape.get(1) {
        Some(b'n' | b'r') => ('\n', 2),
        Some(b't' | b'b' | b'f') => (' ', 2),
        Some(b'u') => {
            let digits = escape.get(2..6).and_then(|digits| std::str::from_utf8(digits).ok());
            let code = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
            (code.and_then(char::from_u32).unwrap_or('\u{fffd}'), 6)
        }
        Some(_) | None => ('"', 2),
    }
}

/// Whether this value of this member is media, and how much of it. Only fields that no model reads
/// as text are looked at, so that nobody can hide a text from the count.
fn media(name: &[u8], value: &[u8]) -> Option<Media> {
    let holds = holds(name)?;
    let mut head = [0; HEAD];
    let head = begin(value, &mut head);
    let begins = |with: &[u8]| head.get(..with.len()).is_some_and(|h| h.eq_ignore_ascii_case(with));
    if begins(b"data:") {
        let is_long = value.len() >= SHORTEST_MEDIA;
        return is_long.then(|| if begins(b"data:image/") { Media::Image } else { other(value) });
    }
    let is_base64 =
        |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=' | b'\\');
    if value.len() >= SHORTEST_MEDIA && value.iter().all(is_base64) {
        // The first bytes of PNG, JPEG, GIF and WebP.
        let is_image =
            [&b"iVBOR"[..], b"/9j/", b"R0lG"].iter().any(|magic| head.starts_with(magic))
                || head.starts_with(b"UklGR") && memmem::find(head.get(..24)?, b"XRUJQ").is_some();
        // A long path is made of the same letters.
        let least = if holds == Holds::Link { LINKED * BYTES_A_TOKEN } else { 0 };
        let bytes = least.max(value.len() as u64);
        return Some(if is_image { Media::Image } else { Media::Other { bytes } });
    }
    let is_link = match holds {
        Holds::Link => !head.is_empty(),
        Holds::Data => has_scheme(head),
    };
    is_link.then_some(Media::Link)
}

/// How a value begins, its escapes read, behind the blanks that readers of links pass over.
fn begin<'h>(mut value: &[u8], head: &'h mut [u8; HEAD]) -> &'h [u8] {
    let mut length = 0;
    while let (Some(first), Some(room)) = (value.first(), head.get_mut(length)) {
        let (byte, taken) = match (first, value.get(1)) {
            (b'\\', Some(same @ (b'/' | b'\\'))) => (*same, 2),
            (b'\\', _) => {
                let (decoded, taken) = decode(value);
                // No more than that it is none of ASCII matters of others.
                (u8::try_from(decoded).unwrap_or(u8::MAX), taken)
            }
            (byte, _) => (*byte, 1),
        };
        value = value.get(taken..).unwrap_or_default();
        if length > 0 || byte > b' ' {
            *room = byte;
            length += 1;
        }
    }
    head.get(..length).unwrap_or_default()
}

/// Whether it begins as links of any kind do: `https://`, `gs://`.
fn has_scheme(head: &[u8]) -> bool {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    let length = head.iter().take_while(|byte| is_part(byte)).count();
    length > 0 && head.get(length..).is_some_and(|rest| rest.starts_with(b"://"))
}

const fn may_hold_media(name: &[u8]) -> bool {
    holds(name).is_some()
}

const fn holds(name: &[u8]) -> Option<Holds> {
    match name {
        b"url" | b"image_url" | b"video_url" | b"audio_url" | b"file_url" | b"file_data" => {
            Some(Holds::Link)
        }
        b"data" => Some(Holds::Data),
        _ => None,
    }
}

const fn other(value: &[u8]) -> Media {
    Media::Other { bytes: value.len() as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::tokens::of_text;
    use crate::protocol::{Dialect, request};
    use proptest::prelude::{Just, any, prop_assert, prop_assert_eq, prop_assume, prop_oneof};
    use proptest::proptest;
    use serde_json::json;

    /// Nothing is known.
    const LOOKING: Beside = Beside { may_be_media: true, tools: 0 };

    fn tokens(body: &[u8]) -> u64 {
        super::estimate(body, LOOKING).most
    }

    /// What reading a request finds.
    fn beside(body: &str) -> Beside {
        request::read(body.as_bytes(), Dialect::Chat).unwrap().beside
    }

    fn estimate(body: &serde_json::Value) -> u64 {
        tokens(body.to_string().as_bytes())
    }

    fn message(content: &serde_json::Value) -> serde_json::Value {
        json!({"model": "m", "messages": [{"role": "user", "content": content}]})
    }

    #[test]
    fn text_counts_wherever_it_stands() {
        let long = "The supplier shall deliver within thirty days. ".repeat(50);
        let least = of_text(&long);
        for body in [
            message(&json!(long)),
            message(&json!([{"type": "text", "text": long}])),
            json!({"model": "m", "input": long}),
            json!({"model": "m", "prompt": [long]}),
            json!({"model": "m", "tools": [{"function": {"description": long}}]}),
            json!({"model": "m", "data": long}),
        ] {
            let estimate = estimate(&body);
            assert!(estimate > least && estimate < 2 * least + TOOLS, "{estimate} for {least}");
        }
    }

    #[test]
    fn escapes_count_as_what_they_mean() {
        let plain = message(&json!("Grüße,\n\"中文\" 🎉 ".repeat(40)));
        let plain = tokens(plain.to_string().as_bytes());
        let escaped = r#"{"model":"m","messages":[{"role":"user","content":"TEXT"}]}"#
            .replace("TEXT", &r#"Gr\u00fc\u00dfe,\n\"\u4e2d\u6587\" \ud83c\udf89 "#.repeat(40));
        let escaped = tokens(escaped.as_bytes());
        assert!(escaped.abs_diff(plain) * 20 < plain, "{escaped} and {plain}");
    }

    #[test]
    fn images_audio_and_files_are_no_text() {
        let base64 = "iVBORw0KGgoAAAANSUhEUgAA".repeat(10_000);
        let image = |url: &str| message(&json!([{"type": "image_url", "image_url": {"url": url}}]));
        let around = estimate(&image(""));
        let png = estimate(&image(&format!("data:image/png;base64,{base64}")));
        assert_eq!(png, around + IMAGE);
        let linked = estimate(&image("https://example.com/a.png"));
        assert!((LINKED..LINKED + 20).contains(&(linked - around)), "{linked}");
        let anthropic = json!([{"type": "image", "source":
            {"type": "base64", "media_type": "image/png", "data": base64}}]);
        assert!(estimate(&message(&anthropic)) < around + IMAGE + 100);
        let audio = json!([{"type": "input_audio", "input_audio":
            {"data": "SUQzBAAAAAAA".repeat(1_000), "format": "mp3"}}]);
        let estimate = estimate(&message(&audio));
        assert!((2_400..2_600).contains(&estimate), "{estimate}");
    }

    #[test]
    fn a_link_counts_however_it_is_written() {
        let places = [
            r#"{"image_url":{"url":"LINK"}}"#,
            r#"{"image_url":"LINK"}"#,
            r#"{"video_url":"LINK"}"#,
            r#"{"file_url":"LINK"}"#,
            r#"{"source":{"type":"url","url":"LINK"}}"#,
            r#"{"file":{"file_data":"LINK"}}"#,
            r#"{"\u0075rl":"LINK"}"#,
        ];
        let links = [
            "https://x/y.png",
            r"https:\/\/x\/y.png",
            "HTTPS://x/y.png",
            r"\u0068ttps://x/y.png",
            " https://x/y.png",
            r"\n\thttps://x/y.png",
            "gs://x/y.png",
            "file:///y.png",
            "s3://x/y.png",
            "//x/y.png",
            "y.png",
            "data/set.png",
        ];
        let of = |place: &str, link: &str| {
            let body = r#"{"model":"m","messages":[{"content":[PLACE]}]}"#;
            let body = body.replace("PLACE", &place.replace("LINK", link));
            super::estimate(body.as_bytes(), beside(&body)).most
        };
        for place in places {
            for link in links {
                let counted = of(place, link) - of(place, "");
                assert!((LINKED..LINKED + 40).contains(&counted), "{place} {link}: {counted}");
            }
            let long = format!("https://x/{}", "a".repeat(2_000));
            assert!(of(place, &long) > of(place, "https://x/") + 400, "{place}");
        }
        let data = r#"{"data":"LINK"}"#;
        assert!(of(data, r"HTTPS:\/\/x\/y.mp3") > LINKED && of(data, "a: b://") < 100);
    }

    #[test]
    fn media_in_the_body_are_known_however_they_are_written() {
        let base64 = "A".repeat(100_000);
        for (head, tokens) in [
            ("data:image/png;base64,", IMAGE),
            (r"data:image\/png;base64,", IMAGE),
            (r" DATA:\u0069mage/png;base64,", IMAGE),
            ("iVBORw0K", IMAGE),
            (r"\/9j\/", IMAGE),
            (r"data:video\/mp4;base64,", 20_000),
            ("", 20_000),
        ] {
            let body = format!(r#"{{"messages":[{{"url":"{head}{base64}"}}]}}"#);
            let counted = super::estimate(body.as_bytes(), LOOKING).most;
            assert!((tokens..tokens + 100).contains(&counted), "{head}: {counted}");
        }
    }

    #[test]
    fn names_tell_whether_there_may_be_media() {
        let of = |content: serde_json::Value| beside(&message(&content).to_string());
        assert_eq!(of(json!("a \"url\": and data")), Beside::default());
        let tools = json!([{"tools": [1], "content": {"tools": "data"}}]);
        assert_eq!(of(tools), Beside { may_be_media: false, tools: 2 });
        assert_eq!(beside(r#"{"model":"m","messages":[{"to\u006fls":1}]}"#).tools, 1);
        for name in [
            "url",
            "image_url",
            "video_url",
            "audio_url",
            "data",
            "file_data",
            "file_url",
            "file_id",
        ] {
            assert!(of(json!([[{ name: 1 }]])).may_be_media, "{name}");
            let mut body = message(&json!("hi"));
            body[name] = json!(null);
            assert!(beside(&body.to_string()).may_be_media, "{name}");
        }
    }

    #[test]
    fn escapes_in_a_name_hide_nothing() {
        let body = r#"{"model":"m","messages":[{"NAME":"file-0123456789"}]}"#;
        for (name, escaped) in [("file_id", r"file\u005fid"), ("tools", r"t\u006fol\u0073")] {
            let (plain, escaped) = (body.replace("NAME", name), body.replace("NAME", escaped));
            assert_eq!(beside(&plain), beside(&escaped), "{name}");
            let of = |body: &str| super::estimate(body.as_bytes(), beside(body)).most;
            assert!(of(&escaped) >= of(&plain), "{name}");
            assert!(tokens(escaped.as_bytes()) >= tokens(plain.as_bytes()), "{name}");
        }
    }

    #[test]
    fn a_text_in_a_field_for_media_counts_as_text() {
        let text = "no base64 here, but words. ".repeat(100);
        let body = json!([{"type": "input_audio", "input_audio": {"data": text}}]);
        assert!(estimate(&message(&body)) > of_text(&text));
    }

    proptest! {
        #[test]
        fn any_text_is_read_to_its_end(text in any::<String>(), name in any::<String>()) {
            let mark = "The supplier shall deliver within thirty days. ".repeat(4);
            let body = json!({ name: [text], "content": mark });
            prop_assert!(estimate(&body) >= of_text(&mark));
        }

        /// What is known of a body saves a look at each string, and changes nothing.
        #[test]
        fn without_media_all_of_a_body_counts_as_its_strings_do(
            text in "[a-zA-Z0-9é漢😀\"\\\\\n\t ,.]{0,80}",
            name in prop_oneof!["[a-z\"\\\\é]{0,9}", Just("tools".to_owned())],
            number: u32,
        ) {
            let inner = json!({ &name: text, "n": [number, null, "", { &name: [&text] }] });
            let body = json!({ "messages": [{ "role": "user", "content": inner }], "model": "m" });
            let body = body.to_string();
            let beside = beside(&body);
            prop_assume!(!beside.may_be_media);
            let looked_at = super::estimate(body.as_bytes(), LOOKING);
            prop_assert_eq!(super::estimate(body.as_bytes(), beside), looked_at, "{}", body);
        }

        #[test]
        fn strings_end_where_the_first_quote_is_that_no_escape_takes(
            text in "[a\"\\\\é]{0,12}[a-d]{0,20}[a\"\\\\ ]{0,12}",
        ) {
            let text = text.as_bytes();
            prop_assert_eq!(quote(text), text.iter().position(|byte| *byte == b'"'));
            let (mut end, mut has_escapes) = (0, false);
            while end < text.len() && text[end] != b'"' {
                let is_escape = text[end] == b'\\';
                has_escapes |= is_escape;
                end += if is_escape { 2 } else { 1 };
            }
            prop_assert_eq!(string(text), (&text[..end.min(text.len())], has_escapes));
        }

        #[test]
        fn no_bytes_make_it_fail(bytes: Vec<u8>) {
            let _any = (tokens(&bytes), super::estimate(&bytes, Beside::default()));
        }
    }
}
