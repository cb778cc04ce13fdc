//! Whether a JSON text has come whole, judged by its brackets alone, and how long its texts are: for
//! replies too long to be kept.

use super::Form;
use memchr::{memchr, memchr2};

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// So many bytes of ASCII without a blank are no words, but an image or a sound in base64.
const MEDIA: u64 = 2 << 10;

/// How far a JSON text has come.
#[derive(Debug, Default)]
pub(super) struct Outline {
    stage: Stage,
    depth: u64,
    in_text: bool,
    is_escaped: bool,
    /// Bytes within quotation marks, names of members included and media not.
    text_bytes: u64,
    /// Bytes behind them that may be media.
    run: u64,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing but blanks has come.
    #[default]
    Before,
    /// Its first bracket is open.
    Within,
    /// Its first bracket has been closed.
    After,
    /// Something stood where nothing may.
    Broken,
}

impl Outline {
    /// Reads on.
    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        if self.stage == Stage::Before {
            // Wherever the first piece may end: no text begins with a part of the mark.
            let mark = |byte: &u8| BYTE_ORDER_MARK.contains(byte);
            let text = bytes.iter().position(|byte| !mark(byte)).unwrap_or(bytes.len());
            bytes = bytes.get(text..).unwrap_or_default();
        }
        while !bytes.is_empty() {
            let read = match self.stage {
                Stage::Broken => return,
                Stage::Before | Stage::After => self.around(bytes),
                Stage::Within if self.in_text => self.text(bytes),
                Stage::Within => self.brackets(bytes),
            };
            bytes = bytes.get(read..).unwrap_or_default();
        }
    }

    /// What the text is if nothing follows.
    pub(super) fn form(&self) -> Form {
        match self.stage {
            Stage::Before | Stage::Within => Form::Cut,
            Stage::After => Form::Whole,
            Stage::Broken => Form::Garbled,
        }
    }

    /// How long its texts are, in bytes.
    pub(super) const fn text_bytes(&self) -> u64 {
        self.text_bytes + if self.run < MEDIA { self.run } else { 0 }
    }

    /// Counts the next bytes of a text, and whether a run ends behind them.
    fn count(&mut self, text: &[u8], ends: bool) {
        self.run += text.len() as u64;
        let is_words = memchr(b' ', text).is_some() || !text.is_ascii();
        if ends || is_words {
            self.text_bytes += if is_words || self.run < MEDIA { self.run } else { 0 };
            self.run = 0;
        }
    }

    /// Before and after there are but blanks. Returns how many bytes were read, as the others do.
    fn around(&mut self, bytes: &[u8]) -> usize {
        let Some(at) = bytes.iter().position(|byte| !byte.is_ascii_whitespace()) else {
            return bytes.len();
        };
        let begins = matches!(bytes.get(at), Some(b'{' | b'['));
        self.stage = match self.stage {
            Stage::Before if begins => Stage::Within,
            Stage::Before | Stage::Within | Stage::After | Stage::Broken => Stage::Broken,
        };
        self.depth = 1;
        at + 1
    }

    fn text(&mut self, bytes: &[u8]) -> usize {
        if std::mem::take(&mut self.is_escaped) {
            return 1;
        }
        let end = memchr2(b'"', b'\\', bytes);
        let text = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
        self.count(text, end.is_some());
        let Some(at) = end else { return bytes.len() };
        match bytes.get(at) {
            Some(b'"') => self.in_text = false,
            Some(_) | None => self.is_escaped = true,
        }
        at + 1
    }

    fn brackets(&mut self, bytes: &[u8]) -> usize {
        let Some(at) = first_mark(bytes) else { return bytes.len() };
        match bytes.get(at) {
            Some(b'"') => self.in_text = true,
            Some(b'{' | b'[') => self.depth += 1,
            Some(_) | None => self.depth -= 1,
        }
        if self.depth == 0 {
            self.stage = Stage::After;
        }
        at + 1
    }
}

/// Where the first bracket or quotation mark is. Embeddings are long lists of numbers, so that blocks
/// without one are passed over as a whole, which the compiler makes a few wide comparisons of.
fn first_mark(bytes: &[u8]) -> Option<usize> {
    const BLOCK: usize = 32;
    let is_mark = |byte: &u8| matches!(byte, b'"' | b'{' | b'[' | b'}' | b']');
    let has_mark = |block: &[u8]| block.iter().fold(false, |found, byte| found | is_mark(byte));
    let block = bytes.chunks(BLOCK).position(has_mark)?;
    let start = block * BLOCK;
    let rest = bytes.get(start..)?;
    rest.iter().position(is_mark).map(|at| start + at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WHOLE: &str = r#" {"a":[1,{"b":"}\"]\\"},"é\u0000"],"c":{}}  "#;

    fn form(json: &[u8], size: usize) -> Form {
        let mut outline = Outline::default();
        json.chunks(size).for_each(|piece| outline.push(piece));
        outline.form()
    }

    #[test]
    fn every_beginning_is_cut_and_only_the_end_is_whole() {
        let json = WHOLE.as_bytes();
        let end = WHOLE.trim_end().len();
        for size in 1..json.len() {
            for length in 0..=json.len() {
                let expected = if length < end { Form::Cut } else { Form::Whole };
                assert_eq!(form(&json[..length], size), expected, "{length} in pieces of {size}");
            }
        }
    }

    #[test]
    fn what_is_no_object_and_no_list_is_garbled() {
        for text in ["<html>{}</html>", "data: {}", "{} {}", "[]]", "1"] {
            assert_eq!(form(text.as_bytes(), 3), Form::Garbled, "{text}");
        }
    }

    proptest! {
        #[test]
        fn the_first_mark_is_found_wherever_it_is(before in 0_usize..100, after in 0_usize..100) {
            let text = format!("{}]{}\"", "1".repeat(before), "2".repeat(after));
            prop_assert_eq!(first_mark(text.as_bytes()), Some(before));
            prop_assert_eq!(first_mark(&text.as_bytes()[..before]), None);
        }

        #[test]
        fn any_bytes_can_be_read(bytes: Vec<u8>, size in 1_usize..9) {
            let _ = form(&bytes, size);
        }
    }
}
