//! JSON that its grammar allows and no reader of text takes: mended, so that what stands beside it is read.
//!
//! Programs cut texts between the two halves of a surrogate pair (JavaScript counts in such halves), and
//! some servers send bytes that are not UTF-8. Clients read on, so must whoever counts what it cost.

use memchr::memchr;

/// What every half of a pair, and every byte that belongs to no character, becomes.
const UNKNOWN: &[u8; 6] = b"\\ufffd";

/// The same JSON with nothing in its texts that is no character; `None` where there was nothing of the kind.
pub(crate) fn readable(json: &[u8]) -> Option<Vec<u8>> {
    let is_text = std::str::from_utf8(json).is_ok();
    let mut mended = if is_text {
        json.to_vec()
    } else {
        String::from_utf8_lossy(json).into_owned().into_bytes()
    };
    let mut is_mended = !is_text;
    let mut at = 0;
    while let Some(found) = memchr(b'\\', mended.get(at..).unwrap_or_default()) {
        at += found;
        let half = unit(mended.get(at..));
        let next = unit(mended.get(at + UNKNOWN.len()..));
        at += match (half, next) {
            (Some(0xd800..0xdc00), Some(0xdc00..0xe000)) => 2 * UNKNOWN.len(),
            (Some(0xd800..0xe000), _) => {
                if let Some(escape) = mended.get_mut(at..at + UNKNOWN.len()) {
                    escape.copy_from_slice(UNKNOWN);
                }
                is_mended = true;
                UNKNOWN.len()
            }
            // An escaped backslash begins no escape.
            (Some(_) | None, _) => 2,
        };
    }
    is_mended.then_some(mended)
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
