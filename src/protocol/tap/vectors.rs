//! How many embeddings a reply holds and how long they are, counted while it passes.

use memchr::{memchr, memchr_iter, memchr2};

/// The member that holds one.
const NAME: &[u8] = b"embedding";

/// What has been counted of a reply that is too long to be kept.
#[derive(Debug, Default)]
pub(super) struct Vectors {
    stage: Stage,
    is_escaped: bool,
    /// How much of the member's name the text is so far; none where it is another.
    matched: Option<usize>,
    count: u64,
    /// Of the first one, in numbers and in characters of base64: one is as long as any other.
    commas: u64,
    has_number: bool,
    chars: u64,
}

/// Where in the reply the next byte stands.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Outside of texts.
    #[default]
    Between,
    Text,
    /// Behind a text that may be the name of the member.
    Named,
    /// Behind the colon.
    Valued,
    /// In the first list of numbers.
    List,
    /// In the first list of numbers, as base64.
    Base64,
}

impl Vectors {
    /// Reads on.
    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let read = match self.stage {
                Stage::Between => self.between(bytes),
                Stage::Text | Stage::Base64 => self.text(bytes),
                Stage::Named | Stage::Valued => self.after_name(bytes),
                Stage::List => self.list(bytes),
            };
            bytes = bytes.get(read..).unwrap_or_default();
        }
    }

    /// How many there are, and how many numbers the first one has.
    pub(super) fn counted(&self) -> (u64, u64) {
        // Four bytes a number, three bytes in four characters.
        let length = if self.has_number { self.commas + 1 } else { self.chars * 3 / 16 };
        (self.count, length)
    }

    /// Returns how many bytes were read, as the others do.
    fn between(&mut self, bytes: &[u8]) -> usize {
        let Some(at) = memchr(b'"', bytes) else { return bytes.len() };
        self.stage = Stage::Text;
        self.matched = Some(0);
        at + 1
    }

    fn text(&mut self, bytes: &[u8]) -> usize {
        if std::mem::take(&mut self.is_escaped) {
            // In base64 it is a slash.
            self.chars += u64::from(self.stage == Stage::Base64);
            return 1;
        }
        let end = memchr2(b'"', b'\\', bytes);
        let piece = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
        if self.stage == Stage::Base64 {
            self.chars += piece.iter().filter(|byte| **byte != b'=').count() as u64;
        } else {
            let is_name =
                |from: &usize| NAME.get(*from..).is_some_and(|rest| rest.starts_with(piece));
            self.matched = self.matched.filter(is_name).map(|from| from + piece.len());
        }
        let Some(at) = end else { return bytes.len() };
        if bytes.get(at) == Some(&b'\\') {
            self.is_escaped = true;
            self.matched = None;
        } else {
            let is_name = self.stage == Stage::Text && self.matched == Some(NAME.len());
            self.stage = if is_name { Stage::Named } else { Stage::Between };
        }
        at + 1
    }

    fn after_name(&mut self, bytes: &[u8]) -> usize {
        let Some(at) = bytes.iter().position(|byte| !byte.is_ascii_whitespace()) else {
            return bytes.len();
        };
        let is_first = self.count == 1;
        self.stage = match (self.stage, bytes.get(at)) {
            (Stage::Named, Some(b':')) => {
                self.count += 1;
                Stage::Valued
            }
            (Stage::Valued, Some(b'[')) if is_first => Stage::List,
            (Stage::Valued, Some(b'"')) if is_first => Stage::Base64,
            // A text begins, which is read as such.
            (_, Some(b'"')) => {
                self.stage = Stage::Between;
                return at;
            }
            _ => Stage::Between,
        };
        at + 1
    }

    fn list(&mut self, bytes: &[u8]) -> usize {
        let end = memchr(b']', bytes);
        let numbers = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
        self.commas += memchr_iter(b',', numbers).count() as u64;
        self.has_number |= numbers.iter().any(|byte| !byte.is_ascii_whitespace());
        let Some(at) = end else { return bytes.len() };
        self.stage = Stage::Between;
        at + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counted(json: &str, size: usize) -> (u64, u64) {
        let mut vectors = Vectors::default();
        json.as_bytes().chunks(size).for_each(|piece| vectors.push(piece));
        vectors.counted()
    }

    #[test]
    fn lists_and_base64_are_counted_in_every_cut() {
        for (one, length) in [
            ("[ 1.5,-2e-3 , 3 ]", 3),
            ("[]", 0),
            ("[ ]", 0),
            ("[7]", 1),
            ("\"AAAAAAAAAAAAAAAA\"", 3),
            (r#""AAAA\/AAAAA==""#, 1),
            ("null", 0),
        ] {
            let json = format!(
                r#"{{"object" : "list","data":[{{"object":"embedding","embedding" : {one},"index":0}},
                {{"embedding":[1,2,3,4,5,6],"object":"embedding"}}],"a\"embedding":"embedding","x":"\\","embeddings":1}}"#
            );
            for size in 1..json.len() {
                assert_eq!(counted(&json, size), (2, length), "{one} in pieces of {size}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_read(bytes: Vec<u8>, size in 1_usize..9) {
            let mut vectors = Vectors::default();
            bytes.chunks(size).for_each(|piece| vectors.push(piece));
        }
    }
}
