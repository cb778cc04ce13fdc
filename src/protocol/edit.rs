//! How a body is changed without being copied: slices of the original and inserted pieces, in order.

use bytes::Bytes;
use std::borrow::Cow;
use std::ops::Range;

/// Replacements to be made in one body, in any order.
#[derive(Debug, Default)]
pub struct Edits(Vec<(Range<usize>, Bytes)>);

/// Where a member of a JSON object stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberSpan {
    /// Its name, quotes included.
    pub key: Range<usize>,
    /// Just after its value.
    pub end: usize,
    /// The comma that stands before it, unless it is the first.
    pub comma_before: Option<usize>,
    /// The comma that stands behind it, unless it is the last.
    pub comma_after: Option<usize>,
}

impl MemberSpan {
    /// Its name in the body it stands in, escapes decoded.
    #[must_use]
    pub fn name<'b>(&self, body: &'b str) -> Cow<'b, str> {
        let token = body.get(self.key.clone()).unwrap_or_default();
        let inner = token.get(1..token.len().saturating_sub(1)).unwrap_or_default();
        if inner.contains('\\') {
            return serde_json::from_str::<String>(token).unwrap_or_default().into();
        }
        inner.into()
    }

    /// Its value in the body it stands in, as it stands there.
    #[must_use]
    pub fn value<'b>(&self, body: &'b str) -> &'b str {
        let is_blank = |char| matches!(char, ' ' | '\t' | '\n' | '\r');
        let behind = body.get(self.key.end..self.end).unwrap_or_default();
        let behind = behind.trim_start_matches(is_blank);
        behind.strip_prefix(':').unwrap_or_default().trim_matches(is_blank)
    }
}

/// A body in pieces; cloning it copies no byte of the body.
#[derive(Debug, Clone)]
pub struct Segments(Vec<Bytes>);

impl Edits {
    /// No replacement.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts `with` in the place of `range`: an empty range inserts, an empty `with` removes.
    pub fn replace(&mut self, range: Range<usize>, with: Bytes) {
        self.0.push((range, with));
    }

    /// Takes out members of one object, given in its order, so that what is left is a JSON object.
    ///
    /// Each goes with the comma before it; the first ones, which have none or whose comma is gone
    /// already, with the comma behind.
    pub fn remove<'m>(&mut self, members: impl IntoIterator<Item = &'m MemberSpan>) {
        let mut gone = None;
        for member in members {
            let cut = match member.comma_before {
                Some(comma) if gone != Some(comma) => comma..member.end,
                Some(_) | None => {
                    gone = member.comma_after;
                    member.key.start..member.comma_after.map_or(member.end, |comma| comma + 1)
                }
            };
            self.replace(cut, Bytes::new());
        }
    }

    /// Whether the body would stay as it is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The changed body. Insertions at one place keep their order; where ranges overlap, the later
    /// one begins where the earlier one ends; what lies beyond the body is cut off.
    #[must_use]
    pub fn apply(mut self, body: &Bytes) -> Segments {
        self.0.sort_by_key(|(range, _)| range.start);
        let mut pieces = Vec::with_capacity(2 * self.0.len() + 1);
        let mut done = 0;
        for (range, with) in self.0 {
            let start = range.start.clamp(done, body.len());
            pieces.push(body.slice(done..start));
            pieces.push(with);
            done = range.end.clamp(start, body.len());
        }
        pieces.push(body.slice(done..));
        pieces.retain(|piece| !piece.is_empty());
        Segments(pieces)
    }
}

impl Segments {
    /// A body in one piece.
    #[must_use]
    pub fn whole(body: Bytes) -> Self {
        Self(vec![body])
    }

    /// Bytes in all, for `Content-Length`.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.iter().map(|piece| piece.len() as u64).sum()
    }

    /// Whether there is no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The pieces in order.
    pub fn iter(&self) -> impl Iterator<Item = &Bytes> {
        self.0.iter()
    }
}

/// `text` as a JSON string token: quoted and escaped.
#[must_use]
pub fn json_string(text: &str) -> Bytes {
    Bytes::from(serde_json::Value::from(text).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop, prop_assert_eq, proptest};

    fn joined(segments: &Segments) -> Vec<u8> {
        let bytes: Vec<u8> = segments.iter().flatten().copied().collect();
        assert_eq!(segments.len(), bytes.len() as u64);
        bytes
    }

    fn applied(body: &'static str, edits: &[(Range<usize>, &'static str)]) -> String {
        let mut all = Edits::new();
        for (range, with) in edits {
            all.replace(range.clone(), Bytes::from_static(with.as_bytes()));
        }
        String::from_utf8(joined(&all.apply(&Bytes::from_static(body.as_bytes())))).unwrap()
    }

    #[test]
    fn edits_replace_insert_and_remove() {
        assert_eq!(applied("abcdef", &[]), "abcdef");
        assert_eq!(applied("abcdef", &[(4..5, "X"), (1..1, "--"), (0..1, "")]), "--bcdXf");
        assert_eq!(applied("abc", &[(1..1, "1"), (1..1, "2")]), "a12bc");
        assert_eq!(applied("abc", &[(0..3, "")]), "");
    }

    #[test]
    fn overlapping_and_outlying_edits_stay_within_the_body() {
        assert_eq!(applied("abcdef", &[(1..4, "x"), (3..5, "y")]), "axyf");
        assert_eq!(applied("abc", &[(2..9, "x"), (7..8, "y")]), "abxy");
    }

    #[test]
    fn the_original_is_shared_not_copied() {
        let body = Bytes::from(vec![7_u8; 1024]);
        let mut edits = Edits::new();
        assert!(edits.is_empty());
        edits.replace(10..20, Bytes::new());
        let segments = edits.apply(&body);
        let first = segments.iter().next().unwrap();
        assert_eq!(first.as_ptr(), body.as_ptr());
        assert_eq!(segments.clone().iter().next().unwrap().as_ptr(), body.as_ptr());
        assert!(Segments::whole(Bytes::new()).is_empty());
    }

    proptest! {
        #[test]
        fn disjoint_edits_do_what_splicing_does(
            body in prop::collection::vec(any::<u8>(), 0..200),
            cuts in prop::collection::btree_set(0_usize..200, 0..8),
            with in prop::collection::vec(any::<u8>(), 0..5),
        ) {
            let cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(body.len())).collect();
            let mut spliced = body.clone();
            let mut edits = Edits::new();
            for pair in cuts.chunks_exact(2).rev() {
                spliced.splice(pair[0]..pair[1], with.iter().copied());
                edits.replace(pair[0]..pair[1], Bytes::from(with.clone()));
            }
            prop_assert_eq!(joined(&edits.apply(&Bytes::from(body))), spliced);
        }

        #[test]
        fn a_json_string_reads_back(text in any::<String>()) {
            let back: String = serde_json::from_slice(&json_string(&text)).unwrap();
            prop_assert_eq!(back, text);
        }
    }
}
