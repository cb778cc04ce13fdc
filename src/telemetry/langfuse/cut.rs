//! How a long text is shortened: both ends stay, and a mark says what is missing.

use crate::protocol::tap::CUT as MARK;
use std::borrow::Cow;

/// The text, or both its ends with a mark between them, in at most `max` bytes (or the mark alone).
#[must_use]
pub fn cut(text: &str, max: usize) -> Cow<'_, str> {
    if text.len() <= max {
        return Cow::Borrowed(text);
    }
    let room = max.saturating_sub(mark(text.len()).len());
    let (head, rest) = text.split_at(text.floor_char_boundary(room / 2));
    let (_, tail) = rest.split_at(rest.ceil_char_boundary(rest.len().saturating_sub(room / 2)));
    let gone = text.get(head.len()..text.len() - tail.len()).unwrap_or_default();
    Cow::Owned(join(head, missing_in(gone), tail))
}

/// Bytes of a text that are gone with it: those that marks in it stand for, too.
fn missing_in(gone: &str) -> usize {
    let mut missing = gone.len();
    for (at, _) in gone.match_indices(MARK.0) {
        let behind = gone.get(at + MARK.0.len()..).unwrap_or_default();
        let counted = behind.split_once(MARK.1).and_then(|(digits, _)| digits.parse().ok());
        if let Some(counted) = counted {
            missing = missing.saturating_add(counted).saturating_sub(mark(counted).len());
        }
    }
    missing
}

/// Both ends of a text of which `missing` bytes between them are gone.
pub(super) fn join(head: &str, missing: usize, tail: &str) -> String {
    [head, &mark(missing), tail].concat()
}

/// What stands for bytes that are missing.
pub(super) fn mark(missing: usize) -> String {
    [MARK.0, &missing.to_string(), MARK.1].concat()
}

/// What stands for so many things that are left out.
pub(super) fn left_out(count: usize, of_what: &str) -> String {
    format!("…[{count} {of_what} cut]…")
}

/// The first `chars` characters: what Langfuse's SDKs let through of a user, a session, a name or a
/// piece of metadata (LANGFUSE section 2).
pub(super) fn clamp(text: &str, chars: usize) -> &str {
    // No character takes more than four bytes, so most texts need not be counted.
    if text.len() <= chars {
        return text;
    }
    let end = text.char_indices().nth(chars).map(|(at, _)| at);
    end.and_then(|end| text.get(..end)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    #[test]
    fn a_long_text_keeps_both_ends_and_says_what_is_missing() {
        assert_eq!(cut("short", 5), "short");
        let long = format!("begin{}end", "x".repeat(1_000));
        let short = cut(&long, 100);
        assert!(short.starts_with("beginx") && short.ends_with("xend"), "{short}");
        assert!(short.contains("bytes cut") && short.len() <= 100);
        // What was cut before is gone all the same.
        let again = cut(&join(&"a".repeat(100), 5_000, &"b".repeat(100)), 100).into_owned();
        let (head, rest) = again.split_once(MARK.0).unwrap();
        let (count, tail) = rest.split_once(MARK.1).unwrap();
        assert_eq!(count.parse::<usize>().unwrap() + head.len() + tail.len(), 5_200);
        assert_eq!(clamp("äöü", 2), "äö");
        assert_eq!(clamp("äöü", 3), "äöü");
    }

    proptest! {
        #[test]
        fn no_bound_is_passed_and_nothing_is_cut_needlessly(text in ".{0,300}", max in 40_usize..400) {
            let short = cut(&text, max);
            prop_assert!(short.len() <= max);
            prop_assert_eq!(text.len() <= max, short == text);
        }
    }
}
