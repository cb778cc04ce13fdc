//! JSON that its grammar allows and no reader of text takes: mended, so that what stands beside it is read.
//!
//! Programs cut texts between the two halves of a surrogate pair (JavaScript counts in such halves), and
//! some servers send bytes that are not UTF-8. Clients read on, so must whoever counts what it cost.

use memchr::memchr;

/// What every half of a pair, and every byte that belongs to no character, becomes.
const UNKNOWN: &[u8; 6] = b"\\ufffd";

/// No character: it says that the one behind it stands for the unknown one before it, too.
pub(crate) const JOINS: char = '\u{ffff}';

/// The same JSON with nothing in its texts that is no character; `None` where there was nothing of the kind.
pub(crate) fn readable(json: &[u8]) -> Option<Vec<u8>> {
    mended(json, None)
}

/// The same of one event of a stream: a half at the end of a text is kept for the next event, where the
/// other one may stand at the beginning of a text. Both together stand there behind [`JOINS`].
pub(crate) fn readable_event(json: &[u8], half: &mut Option<[u8; 6]>) -> Option<Vec<u8>> {
    mended(json, Some(half))
}

fn mended(json: &[u8], mut half: Option<&mut Option<[u8; 6]>>) -> Option<Vec<u8>> {
    let is_text = std::str::from_utf8(json).is_ok();
    let mut mended = if is_text {
        json.to_vec()
    } else {
        String::from_utf8_lossy(json).into_owned().into_bytes()
    };
    let mut before = half.as_deref_mut().and_then(Option::take);
    let mut is_mended = !is_text;
    let mut at = 0;
    while let Some(found) = memchr(b'\\', mended.get(at..).unwrap_or_default()) {
        at += found;
        let escape: Option<[u8; 6]> = mended.get(at..).and_then(<[u8]>::first_chunk).copied();
        let (Some(escape), Some(unit)) = (escape, unit(mended.get(at..))) else {
            // An escaped backslash begins no escape.
            at += 2;
            continue;
        };
        let end = at + escape.len();
        let is_pair = matches!(self::unit(mended.get(end..)), Some(0xdc00..0xe000));
        let joins = matches!(unit, 0xdc00..0xe000) && ends_with_quote(mended.get(..at));
        let before = if joins { before.take() } else { None };
        let instead: &[u8] = match (unit, half.as_deref_mut(), &before) {
            (0xd800..0xdc00, _, _) if is_pair => {
                at = end + escape.len();
                continue;
            }
            (0xd800..0xdc00, Some(half), _) if mended.get(end) == Some(&b'"') => {
                *half = Some(escape);
                UNKNOWN
            }
            (_, _, Some(before)) => &[b"\\uffff", before.as_slice(), &escape].concat(),
            (0xd800..0xe000, _, _) => UNKNOWN,
            _ => {
                at += 2;
                continue;
            }
        };
        mended.splice(at..end, instead.iter().copied());
        at += instead.len();
        is_mended = true;
    }
    is_mended.then_some(mended)
}

fn ends_with_quote(json: Option<&[u8]>) -> bool {
    json.is_some_and(|json| json.ends_with(b"\""))
}

/// The number of an escape `\uXXXX` that these bytes begin with.
fn unit(bytes: Option<&[u8]>) -> Option<u16> {
    let digits: &[u8; 4] = bytes?.strip_prefix(b"\\u")?.first_chunk()?;
    let digits = std::str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+'))?;
    u16::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mended(json: &str) -> Option<String> {
        readable(json.as_bytes()).map(|json| String::from_utf8(json).unwrap())
    }

    #[test]
    fn halves_of_pairs_are_unknown_characters_and_pairs_stay() {
        for (json, expected) in [
            (r#"{"a":"x \ud83c"}"#, r#"{"a":"x \ufffd"}"#),
            (r#"["\udf0a","\uD83C\ud83c\udf0a"]"#, r#"["\ufffd","\ufffd\ud83c\udf0a"]"#),
            (r#"{"\ud800":1}"#, r#"{"\ufffd":1}"#),
            (r#""\ud83c\n""#, r#""\ufffd\n""#),
        ] {
            assert_eq!(mended(json).as_deref(), Some(expected), "{json}");
        }
        for whole in
            [r#""\ud83c\udf0a""#, r#""\\ud83c""#, r#""\u00e9 \\""#, "\"é\"", "", "\\", "\\u12"]
        {
            assert_eq!(mended(whole), None, "{whole}");
        }
    }

    #[test]
    fn halves_in_two_events_are_one_character() {
        let mut half = None;
        let mut event = |json: &str| {
            readable_event(json.as_bytes(), &mut half).map(|json| String::from_utf8(json).unwrap())
        };
        assert_eq!(event(r#"["a\ud83c","\ud83cb"]"#).as_deref(), Some(r#"["a\ufffd","\ufffdb"]"#));
        assert_eq!(
            event(r#"["\udf0ac","c\udf0a"]"#).as_deref(),
            Some(r#"["\uffff\ud83c\udf0ac","c\ufffd"]"#)
        );
        assert_eq!(event(r#"["\udf0a"]"#).as_deref(), Some(r#"["\ufffd"]"#));
    }

    #[test]
    fn bytes_that_are_no_text_are_unknown_characters() {
        assert_eq!(
            readable(b"{\"a\":\"\xff\"}").as_deref(),
            Some("{\"a\":\"\u{fffd}\"}".as_bytes())
        );
    }

    proptest! {
        #[test]
        fn what_the_grammar_allows_is_read_once_it_is_mended(
            text in r#"([a-zé漢 ]|\\\\|\\n|\\"|\\u[d][89a-f][0-9a-f]{2}|\\u00e[0-9]){0,24}"#,
        ) {
            let json = format!("\"{text}\"");
            let mended = mended(&json).unwrap_or_else(|| json.clone());
            prop_assert!(serde_json::from_str::<String>(&mended).is_ok(), "{} from {}", mended, json);
        }

        #[test]
        fn no_bytes_make_it_panic_and_nothing_is_left_to_mend(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            if let Some(mended) = readable(&bytes) {
                prop_assert_eq!(readable(&mended), None);
            }
        }
    }
}
