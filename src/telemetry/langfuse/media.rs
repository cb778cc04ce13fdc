//! Which texts are media in base64, and the placeholder that stands for one.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use memchr::memmem::Finder;
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::sync::LazyLock;

/// A bare run of base64 this long is media wherever it stands; shorter ones may be ids and hashes.
const LONG_RUN: usize = 1_024;
/// How far into a run its kinds of characters are looked at.
const LOOKED_AT: usize = 256;
/// Longest media type in front of `;base64,`.
const MAX_TYPE: usize = 128;
const BASE64: &str = ";base64,";
static FIND_BASE64: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(BASE64));
/// A multiple of four characters, decoded at once.
const DECODED_AT_ONCE: usize = 64 << 10;

const ENGINE: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

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
    static SIGNS: LazyLock<[Finder<'static>; 3]> =
        LazyLock::new(|| ["base64", r#"data""#, r#"b64_json""#].map(Finder::new));
    let hides = |at: usize| matches!(json.get(at + 1), Some(b'u' | b'/'));
    SIGNS.iter().any(|sign| sign.find(json).is_some())
        || memchr::memchr_iter(b'\\', json).any(hides)
        || next_run(json, 0, json.len()).is_some()
}

/// What stands for media: its type, size and SHA-256, the last two of what the base64 stands for.
/// One that is cut, or no base64, has neither hash nor a size to rely on.
pub(super) fn placeholder(base64: &str, kind: Option<&str>) -> String {
    let kind = kind.filter(|kind| !kind.is_empty()).unwrap_or_else(|| sniff(base64));
    let kind =
        if kind.contains('/') { Cow::Borrowed(kind) } else { format!("media/{kind}").into() };
    match digest(base64) {
        Some((bytes, sha)) => format!("[{kind}, {bytes} bytes, sha256 {sha:x}]"),
        None => format!("[{kind}, about {} bytes]", base64.len() / 4 * 3),
    }
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
        ENGINE.decode_vec(chunk, &mut decoded).ok()?;
        bytes += decoded.len();
        sha.update(&decoded);
    }
    Some((bytes, sha.finalize()))
}

/// The same in the standard alphabet, without white space.
fn standard(base64: &str) -> String {
    let chars = base64.chars().filter(|c| !c.is_ascii_whitespace());
    chars
        .map(|c| match c {
            '-' => '+',
            '_' => '/',
            other => other,
        })
        .collect()
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
    let found = MAGIC.iter().find(|(magic, _)| base64.starts_with(magic));
    found.map_or("application/octet-stream", |(_, kind)| kind)
}

const fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=' | b'-' | b'_')
}

/// The next data URI, with the type it names.
fn next_uri(text: &str, from: usize) -> Option<(std::ops::Range<usize>, Option<&str>)> {
    let mut at = from;
    loop {
        let mark = at + FIND_BASE64.find(text.as_bytes().get(at..)?)?;
        let data = mark + BASE64.len();
        let before =
            text.get(text.floor_char_boundary(mark.saturating_sub(MAX_TYPE)).max(from)..mark);
        if let Some((_, kind)) = before.and_then(|before| before.rsplit_once("data:"))
            && !kind.contains(|c: char| c.is_whitespace() || c == '"')
        {
            let run = text.as_bytes().get(data..)?.iter().take_while(|byte| is_base64(**byte));
            let start = mark - kind.len() - "data:".len();
            let kind = kind.split(';').next();
            return Some((start..data + run.count(), kind));
        }
        at = data;
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
        let before = text.get(from..at)?.iter().rev().take_while(|byte| is_base64(**byte)).count();
        let after = text.get(at..)?.iter().take_while(|byte| is_base64(**byte)).count();
        let run = at - before..at + after;
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
        ENGINE.encode(noise(length))
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

    #[test]
    fn what_is_cut_or_no_base64_says_so() {
        assert_eq!(placeholder("A", Some("image/png")), "[image/png, about 0 bytes]");
        assert_eq!(placeholder("****", None), "[application/octet-stream, about 3 bytes]");
        assert!(placeholder("AA-_", Some("wav")).starts_with("[media/wav, 3 bytes, sha256 "));
        assert_eq!(placeholder("AA\nAA", None), placeholder("AAAA", None));
        assert!(placeholder("iVBORw0KGgo=", None).starts_with("[image/png, 8 bytes"));
    }
}
