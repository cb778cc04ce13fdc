//! Which texts are media in base64, and the placeholder that stands for one.

use crate::protocol::tap::{BASE64, Media};
use aho_corasick::packed;
use base64::Engine as _;
use memchr::memmem::{self, Finder};
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::iter;
use std::sync::LazyLock;

/// A bare run of base64 this long is media wherever it stands; shorter ones may be ids and hashes.
const LONG_RUN: usize = 1_024;
/// How far into a run its kinds of characters are looked at.
const LOOKED_AT: usize = 256;
/// A line of base64 is full from this length on: mail has 76, PEM 64.
const FULL_LINE: usize = 60;
/// How a line ends, also in the text of JSON that is not read as such.
const LINE_ENDS: [&[u8]; 4] = [b"\r\n", b"\n", b"\\r\\n", b"\\n"];
/// A slash as JSON may escape it.
const SLASH: &[u8] = b"\\/";
/// Shorter words after `;base64,` and a blank are no media.
const LEAST_AFTER_BLANK: usize = 16;
/// Longest media type in front of `;base64,`, with the `data:` before it.
const MAX_TYPE: usize = 136;
/// What the data of a data URI follow: its letters may be of either case, of which these have none.
const MARK: &str = "64,";
static FIND_MARK: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(MARK));
const SCHEME: &str = "data:";
/// The type of what begins like nothing known.
pub(super) const UNKNOWN: &str = "application/octet-stream";
/// A multiple of four characters, decoded at once.
const DECODED_AT_ONCE: usize = 64 << 10;

/// The same of a message, where an upstream may quote what it was sent.
pub(super) fn without_media(text: String) -> String {
    match strip(&text) {
        Cow::Owned(clean) => clean,
        Cow::Borrowed(_) => text,
    }
}

/// The text with a placeholder for each data URI and each long run of base64.
pub(super) fn strip(text: &str) -> Cow<'_, str> {
    let mut clean = String::new();
    let mut from = 0;
    let mut uri = next_uri(text, 0);
    loop {
        let before = uri.as_ref().map_or(text.len(), |(range, _)| range.start);
        let (range, kind) = match next_run(text.as_bytes(), from, before) {
            Some(run) => (run, None),
            None => match uri.take() {
                Some(found) => found,
                None => break,
            },
        };
        clean.push_str(text.get(from..range.start).unwrap_or_default());
        let media = text.get(range.clone()).unwrap_or_default();
        let data = media.rsplit_once(',').map_or(media, |(_, data)| data);
        clean.push_str(&placeholder(data, kind));
        from = range.end;
        // A long run before it leaves the one that is known in its place.
        uri = uri.or_else(|| next_uri(text, from));
    }
    if from == 0 {
        return Cow::Borrowed(text);
    }
    clean.push_str(text.get(from..).unwrap_or_default());
    Cow::Owned(clean)
}

/// Whether JSON may hold media, or spells a character by an escape that hides what it is: if not,
/// it need not be written anew.
pub(super) fn may_be_in(json: &[u8]) -> bool {
    const SIGNS: [&str; 3] = [MARK, r#"data""#, r#"b64_json""#];
    /// All at once, where the processor can do that.
    static FIND_SIGN: LazyLock<Option<packed::Searcher>> =
        LazyLock::new(|| packed::Searcher::new(SIGNS));
    let hides = |at: usize| matches!(json.get(at + 1), Some(b'u' | b'/'));
    // Numbers end like the mark, too.
    let is_sign = |at: usize| {
        !json.get(at..).is_some_and(|sign| sign.starts_with(MARK.as_bytes())) || {
            json.get(..at).is_some_and(|before| without_base(before).is_some())
        }
    };
    let has_sign = match &*FIND_SIGN {
        Some(sign) => sign.find_iter(json).any(|found| is_sign(found.start())),
        None => SIGNS.iter().any(|sign| memmem::find_iter(json, sign.as_bytes()).any(is_sign)),
    };
    has_sign
        || memchr::memchr_iter(b'\\', json).any(hides)
        || next_run(json, 0, json.len()).is_some()
}

/// What stands for media: its type, size and SHA-256, the last two of what the base64 stands for.
/// One that is cut, or no base64, has neither hash nor a size to rely on.
pub(super) fn placeholder(base64: &str, kind: Option<&str>) -> String {
    let kind = kind.filter(|kind| !kind.is_empty()).unwrap_or_else(|| sniff(base64));
    let kind =
        if kind.contains('/') { Cow::Borrowed(kind) } else { format!("media/{kind}").into() };
    described(&kind, digest(base64), base64.len())
}

/// The same for media that a reply brought, of this family where their beginning tells no more.
pub(super) fn passed(media: &Media, family: &str) -> String {
    let kind = match sniff(media.begun()) {
        UNKNOWN => family,
        known => known,
    };
    described(kind, media.digest(), media.chars())
}

fn described(kind: &str, digest: Option<(usize, Digested)>, chars: usize) -> String {
    match digest {
        Some((bytes, sha)) => format!("[{kind}, {bytes} bytes, sha256 {sha:x}]"),
        None => format!("[{kind}, about {} bytes]", chars / 4 * 3),
    }
}

/// Whether a text that may be media in base64, or anything else, is.
pub(super) fn is_media(text: &str) -> bool {
    let is_packed = !text.contains(' ') && text.trim_ascii_end().len() >= 4;
    is_packed
        && (sniff(text) != UNKNOWN || standard(text).len().is_multiple_of(4))
        && digest(text).is_some()
}

type Digested = sha2::digest::Output<Sha256>;

fn digest(base64: &str) -> Option<(usize, Digested)> {
    let mut sha = Sha256::new();
    let mut bytes = 0;
    let is_plain = base64.bytes().all(|byte| is_base64(byte) && !matches!(byte, b'-' | b'_'));
    let plain = if is_plain { Cow::Borrowed(base64) } else { standard(base64).into() };
    let mut decoded = Vec::new();
    for chunk in plain.as_bytes().chunks(DECODED_AT_ONCE) {
        decoded.clear();
        BASE64.decode_vec(chunk, &mut decoded).ok()?;
        bytes += decoded.len();
        sha.update(&decoded);
    }
    Some((bytes, sha.finalize()))
}

/// The same in the standard alphabet, without white space and without the escapes of JSON and of URIs.
fn standard(base64: &str) -> String {
    let mut plain = String::with_capacity(base64.len());
    let mut chars = base64.chars().filter(|c| !c.is_ascii_whitespace());
    while let Some(mut c) = chars.next() {
        if c == '%' {
            let escape: String = iter::once(c).chain(chars.by_ref().take(2)).collect();
            c = unescaped(escape.as_bytes()).map_or(c, char::from);
        }
        match c {
            '-' => plain.push('+'),
            '_' => plain.push('/'),
            '\\' => match chars.next() {
                Some('n' | 'r' | 't') | None => {}
                // No base64, unless it is the slash.
                Some(other) => plain.push(other),
            },
            other => plain.push(other),
        }
    }
    plain
}

/// The media type by the first characters, which are those of a file's magic number.
fn sniff(base64: &str) -> &'static str {
    const MAGIC: [(&str, &str); 9] = [
        ("iVBORw0KGgo", "image/png"),
        ("/9j/", "image/jpeg"),
        ("R0lGOD", "image/gif"),
        ("JVBERi0", "application/pdf"),
        ("UEsDB", "application/zip"),
        ("SUQz", "audio/mpeg"),
        ("T2dnUw", "audio/ogg"),
        ("ZkxhQw", "audio/flac"),
        ("UklGR", "audio/wav"),
    ];
    let begun = base64.trim_ascii_start();
    let found = MAGIC.iter().find(|(magic, _)| begun.starts_with(magic));
    found.map_or(UNKNOWN, |(_, kind)| kind)
}

const fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=' | b'-' | b'_')
}

/// The next data URI, with the type it names.
fn next_uri(text: &str, from: usize) -> Option<(std::ops::Range<usize>, Option<&str>)> {
    let mut at = from;
    loop {
        let mark = at + FIND_MARK.find(text.as_bytes().get(at..)?)?;
        at = mark + MARK.len();
        if let Some((start, kind)) = text.as_bytes().get(from..mark).and_then(begun_uri) {
            return Some((from + start..at + data_length(text.as_bytes().get(at..)?), Some(kind)));
        }
    }
}

/// Where a data URI begins that goes on with the mark, and the type it names.
fn begun_uri(before: &[u8]) -> Option<(usize, &str)> {
    let before = without_base(before)?.trim_ascii_end();
    let from = before.len().saturating_sub(MAX_TYPE);
    let near = before.get(from..)?;
    let is_scheme = |at: &[u8]| at.eq_ignore_ascii_case(SCHEME.as_bytes());
    let start = near.windows(SCHEME.len()).rposition(is_scheme)?;
    let kind = str::from_utf8(near.get(start + SCHEME.len()..)?).ok()?;
    let kind = if kind.is_empty() { kind } else { kind.strip_suffix(';')? };
    if kind.contains(|c: char| c.is_whitespace() || c == '"') {
        return None;
    }
    Some((from + start, kind.split(';').next().unwrap_or_default()))
}

/// What stands before the `base` that the mark needs.
fn without_base(before: &[u8]) -> Option<&[u8]> {
    let (rest, base) = before.split_last_chunk::<4>()?;
    base.eq_ignore_ascii_case(b"base").then_some(rest)
}

/// How far the data of a data URI reach: some senders put white space before them, or write them as
/// other parts of a URI.
fn data_length(data: &[u8]) -> usize {
    let blank = data.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
    let mut end = blank;
    loop {
        end += run_length(data.get(end..).unwrap_or_default());
        let rest = data.get(end..).unwrap_or_default();
        let escapes = rest.chunks(3).take_while(|escape| unescaped(escape).is_some()).count();
        if escapes == 0 {
            break;
        }
        end += 3 * escapes;
    }
    if blank > 0 && end - blank < LEAST_AFTER_BLANK { 0 } else { end }
}

/// The character of base64 that a URI has as `%` and two digits.
fn unescaped(escape: &[u8]) -> Option<u8> {
    let [b'%', digits @ ..] = escape else { return None };
    let digits = str::from_utf8(digits).ok().filter(|digits| digits.len() == 2)?;
    u8::from_str_radix(digits, 16).ok().filter(|byte| is_base64(*byte))
}

/// How far a run of base64 reaches: on the next line, where it has filled one, as it is wrapped in
/// mail and PEM; and, in the text of JSON, over the escapes of a slash and of a line's end.
fn run_length(text: &[u8]) -> usize {
    let (mut end, mut line) = (0, 0);
    loop {
        let rest = text.get(end..).unwrap_or_default();
        let plain = rest.iter().take_while(|byte| is_base64(**byte)).count();
        (end, line) = (end + plain, line + plain);
        let rest = rest.get(plain..).unwrap_or_default();
        if rest.starts_with(SLASH) {
            (end, line) = (end + SLASH.len(), line + 1);
            continue;
        }
        let Some(over) = LINE_ENDS.iter().find(|line_end| rest.starts_with(line_end)) else {
            return end;
        };
        if line < FULL_LINE || !rest.get(over.len()).is_some_and(|byte| is_base64(*byte)) {
            return end;
        }
        (end, line) = (end + over.len(), 0);
    }
}

/// Where the run begins that `at` stands in, at `from` or after it.
fn run_start(text: &[u8], from: usize, at: usize) -> usize {
    let before = |end: usize| {
        let head = text.get(from..end).unwrap_or_default();
        end - head.iter().rev().take_while(|byte| is_base64(**byte)).count()
    };
    let mut start = before(at);
    loop {
        let head = text.get(from..start).unwrap_or_default();
        let escape = |letter: u8| head.ends_with(b"\\") && text.get(start) == Some(&letter);
        if escape(b'/') {
            start = before(start - 1);
            continue;
        }
        // The letter of an escape was taken for one of the run.
        let is_escaped = escape(b'n');
        let line = if is_escaped { start + 1 } else { start };
        let end = match LINE_ENDS.iter().find(|line_end| head.ends_with(line_end)) {
            Some(over) => start - over.len(),
            None if is_escaped && head.ends_with(b"\\r\\") => start - 3,
            None if is_escaped => start - 1,
            None => return line,
        };
        let previous = before(end);
        if end - previous < FULL_LINE {
            return line;
        }
        start = previous;
    }
}

/// The next long run of base64 that begins before `to`. Bytes are looked at in
/// steps that no long run fits between.
fn next_run(text: &[u8], from: usize, to: usize) -> Option<std::ops::Range<usize>> {
    let mut at = from + LONG_RUN / 2;
    while at < to {
        if !text.get(at).is_some_and(|byte| is_base64(*byte)) {
            at += LONG_RUN / 2;
            continue;
        }
        let start = run_start(text, from, at);
        let run = start..start + run_length(text.get(start..)?);
        if run.len() >= LONG_RUN && is_mixed(text.get(run.clone())?) {
            return Some(run);
        }
        at = run.end.max(at + LONG_RUN / 2);
    }
    None
}

/// Whether letters of both cases and digits stand in the beginning: what one key held down, a long
/// number or a long path does not show.
fn is_mixed(run: &[u8]) -> bool {
    let head = run.get(..LOOKED_AT).unwrap_or(run);
    [u8::is_ascii_uppercase, u8::is_ascii_lowercase, u8::is_ascii_digit]
        .iter()
        .all(|is: &fn(&u8) -> bool| head.iter().filter(|byte| is(byte)).count() >= 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that show every kind of character in base64.
    fn noise(length: usize) -> Vec<u8> {
        let mut state = 7_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        (0..length).map(|_| next()).collect()
    }

    fn encoded(length: usize) -> String {
        BASE64.encode(noise(length))
    }

    fn hash(length: usize) -> String {
        format!("{:x}", Sha256::digest(noise(length)))
    }

    #[test]
    fn a_data_uri_of_any_length_becomes_its_type_size_and_hash() {
        for length in [0, 1, 70, 200_001] {
            let text = format!("see ![](data:image/png;base64,{}) and on", encoded(length));
            let sha = hash(length);
            let clean = format!("see ![]([image/png, {length} bytes, sha256 {sha}]) and on");
            assert_eq!(strip(&text), clean);
        }
        let two = "data:a/b;charset=x;base64,AAAA data:c/d;base64,AAAA";
        assert!(strip(two).starts_with("[a/b, 3 bytes") && strip(two).contains(" [c/d, 3 bytes"));
        for text in
            ["data:text/plain,hello", ";base64,AAAA", "a database64, b", "data: a;base64,AAAA"]
        {
            assert!(matches!(strip(text), Cow::Borrowed(_)), "{text}");
        }
    }

    #[test]
    fn a_long_bare_run_is_media_wherever_it_begins() {
        for before in [0, 1, 511, 512, 513, 1_500] {
            let text = format!("{} {} after", "x".repeat(before), encoded(768));
            let clean = strip(&text).into_owned();
            assert!(clean.contains(&hash(768)) && clean.ends_with(" after"), "{before}: {clean}");
        }
        for text in
            [encoded(300), "a".repeat(9_000), "/usr/share/".repeat(900), "0123456789".repeat(900)]
        {
            assert_eq!(strip(&text), text);
        }
    }

    /// In lines of so many characters.
    fn wrapped(base64: &str, line: usize, end: &str) -> String {
        let lines: Vec<_> = base64.as_bytes().chunks(line).map(String::from_utf8_lossy).collect();
        lines.join(end)
    }

    #[test]
    fn media_that_are_wrapped_or_escaped_go_whole() {
        for (line, end) in [(76, "\n"), (76, "\r\n"), (64, "\n"), (76, r"\n"), (76, r"\r\n")] {
            for length in [100, 1_000, 5_000] {
                let base64 = wrapped(&encoded(length), line, end);
                let text = format!("a data:image/png;base64,{base64} and on");
                let clean =
                    format!("a [image/png, {length} bytes, sha256 {}] and on", hash(length));
                assert_eq!(strip(&text), clean, "{line} {end:?}");
            }
            for before in [0, 1, 700] {
                let base64 = wrapped(&encoded(3_000), line, end);
                let text = format!("{}{end}{base64}{end}after", "x ".repeat(before));
                let clean = strip(&text).into_owned();
                assert!(clean.contains(&hash(3_000)), "{line} {end:?} {before}: {clean}");
                assert!(clean.len() < 2 * before + 140, "{clean}");
            }
        }
        let escaped = encoded(5_000).replace('/', r"\/");
        let clean = strip(&format!("data:image/png;base64,{escaped}\"")).into_owned();
        assert_eq!(clean, format!("[image/png, 5000 bytes, sha256 {}]\"", hash(5_000)));
        let clean = strip(&format!("{{\"b64\":\"{escaped}\"}}")).into_owned();
        assert!(clean.contains(&hash(5_000)) && clean.starts_with("{\"b64\":\"["), "{clean}");
        let blank = strip("data:image/png;base64, iVBORw0KGgoAAAANSUhEUg== !").into_owned();
        assert!(blank.starts_with("[image/png, 16 bytes") && blank.ends_with(" !"), "{blank}");
    }

    #[test]
    fn a_data_uri_may_be_written_in_any_letters_and_escapes() {
        let base64 = encoded(80);
        let escaped = |is: fn(&char) -> bool| -> String {
            let one = |c: char| if is(&c) { format!("%{:02x}", u32::from(c)) } else { c.into() };
            base64.chars().map(one).collect()
        };
        let marks = |c: &char| !c.is_alphanumeric();
        for uri in [
            format!("DATA:image/png;base64,{base64}"),
            format!("Data:image/png;Base64,{base64}"),
            format!("data:image/png;BASE64,{base64}"),
            format!("data:image/png; base64, {base64}"),
            format!("data:image/png;name=a.png;base64,{}", escaped(marks)),
            format!("data:image/png;base64,{}", escaped(|_| true)),
            format!("data:image/png;base64,{}", escaped(|c| *c < 'M')),
        ] {
            let clean = strip(&format!("a {uri} and on")).into_owned();
            assert_eq!(clean, format!("a [image/png, 80 bytes, sha256 {}] and on", hash(80)));
            assert!(may_be_in(uri.as_bytes()));
        }
        let untyped = strip(&format!("data:base64,{base64}")).into_owned();
        assert!(untyped.starts_with("[application/octet-stream, 80 bytes"), "{untyped}");
        for text in ["[164,64,2]", "database64, 1", "base 64,", "64,"] {
            assert_eq!(strip(text), text);
        }
        assert!(!may_be_in(b"[164,64,2]"));
        let after = strip("data:a/b;base64,AAAA%20and %zz").into_owned();
        assert!(after.ends_with("%20and %zz"), "{after}");
    }

    #[test]
    fn words_beside_media_stay() {
        for (text, clean) in [
            ("data:a/b;base64,AAAA\nand on", "\nand on"),
            ("data:a/b;base64,AAAA\\nand on", "\\nand on"),
            ("say data:a/b;base64, then the rest", " then the rest"),
        ] {
            assert!(strip(text).ends_with(clean), "{}", strip(text));
        }
        let hashes = format!("{}\n", "0123456789abcdef".repeat(4)).repeat(90);
        assert_eq!(strip(&hashes), hashes);
    }

    #[test]
    fn what_is_cut_or_no_base64_says_so() {
        assert_eq!(placeholder("A", Some("image/png")), "[image/png, about 0 bytes]");
        assert_eq!(placeholder("****", None), "[application/octet-stream, about 3 bytes]");
        assert!(placeholder("AA-_", Some("wav")).starts_with("[media/wav, 3 bytes, sha256 "));
        assert_eq!(placeholder("AA\nAA", None), placeholder("AAAA", None));
        assert!(placeholder("iVBORw0KGgo=", None).starts_with("[image/png, 8 bytes"));
    }
}
