//! How a long text is shortened: both ends stay, and a mark says what is missing.

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
    Cow::Owned(join(head, text.len() - head.len() - tail.len(), tail))
}

/// Both ends of a text of which `missing` bytes between them are gone.
pub(super) fn join(head: &str, missing: usize, tail: &str) -> String {
    [head, &mark(missing), tail].concat()
}

fn mark(missing: usize) -> String {
    format!("…[{missing} bytes cut]…")
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
