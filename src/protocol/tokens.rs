//! How many tokens a text is, roughly and without a tokenizer: by the classes of its characters.
//!
//! Tokenizers cut at changes of class (letters, digits, signs, spaces) and merge what is frequent
//! within a class. So each character costs a part of a token and each change of class another, in
//! sixty-fourths of a token. Measured against `cl100k_base` and `o200k_base` in
//! `tests/tokens.rs`, which states how far the estimate may be off for which kind of text.

/// What a character is to a tokenizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Before the first character.
    Nothing,
    Space,
    Lower,
    Upper,
    Digit,
    Sign,
    /// Two bytes in UTF-8: Latin with marks, Greek, Cyrillic, Hebrew, Arabic.
    Two(u8),
    /// Three bytes: most scripts of Asia.
    Three,
    /// Four bytes: emoji, rare scripts.
    Four,
    /// The rest of a character of several bytes.
    Rest,
}

/// One token in the units of the tally.
const TOKEN: u64 = 64;

/// A word without an end is none, but a number, a hash or an encoded file: of those two characters
/// or fewer are a token.
const LONGEST_WORD: u64 = 24;
const PARTS_OF_NO_WORD: u64 = 50;

/// A running count.
#[derive(Debug, Clone, Copy)]
pub struct Tally {
    parts: u64,
    last: Class,
    /// Letters and digits since anything else.
    word: u64,
}

impl Default for Tally {
    fn default() -> Self {
        Self { parts: 0, last: Class::Nothing, word: 0 }
    }
}

/// The parts of a character of two bytes, by the first: tokenizers know some scripts better.
const fn parts_of_two(lead: u8) -> u8 {
    match lead {
        // Latin with the marks of Western Europe.
        0xc2..=0xc3 => 52,
        // Greek, Hebrew.
        0xce..=0xcf | 0xd7 => 62,
        // Cyrillic.
        0xd0..=0xd1 => 32,
        // Arabic.
        0xd8..=0xdb => 48,
        // Latin with other marks, and all else.
        _ => 100,
    }
}

const CLASSES: [Class; 256] = {
    let mut classes = [Class::Sign; 256];
    let mut byte = 0;
    while byte < 256 {
        #[expect(clippy::indexing_slicing, reason = "at compile time, within bounds")]
        #[expect(clippy::cast_possible_truncation, reason = "below 256")]
        {
            classes[byte] = match byte as u8 {
                b' ' | b'\t' | b'\n' | b'\r' => Class::Space,
                b'a'..=b'z' => Class::Lower,
                b'A'..=b'Z' => Class::Upper,
                b'0'..=b'9' => Class::Digit,
                0x80..=0xbf => Class::Rest,
                lead @ 0xc0..=0xdf => Class::Two(parts_of_two(lead)),
                0xe0..=0xef => Class::Three,
                0xf0..=0xff => Class::Four,
                _ => Class::Sign,
            };
        }
        byte += 1;
    }
    classes
};

impl Tally {
    /// Counts on; a text may come in pieces.
    pub fn text(&mut self, text: &[u8]) {
        for byte in text {
            self.byte(*byte);
        }
    }

    /// Adds what another text counted.
    pub fn add(&mut self, other: &Self) {
        self.parts += other.parts;
    }

    /// Tokens so far, rounded up.
    #[must_use]
    pub const fn tokens(&self) -> u64 {
        self.parts.div_ceil(TOKEN)
    }

    fn byte(&mut self, byte: u8) {
        let class = CLASSES.get(usize::from(byte)).copied().unwrap_or(Class::Sign);
        self.class(class, byte == b'\n');
    }

    fn class(&mut self, class: Class, is_line_end: bool) {
        let begins = class != self.last;
        let parts = match class {
            Class::Nothing | Class::Rest => return,
            // One space belongs to the word behind it; a line's end and indentation are a token.
            Class::Space if is_line_end => 32,
            Class::Space if begins => 2,
            Class::Space => 6,
            Class::Lower | Class::Upper | Class::Digit if self.word > LONGEST_WORD => {
                PARTS_OF_NO_WORD
            }
            Class::Lower if self.last == Class::Upper => 9,
            Class::Lower if begins => 32,
            Class::Lower => 11,
            Class::Upper if begins => 34,
            Class::Digit if begins => 58,
            Class::Upper | Class::Digit => 24,
            Class::Sign if begins => 48,
            Class::Sign => 33,
            Class::Two(parts) => parts.into(),
            Class::Three => 80,
            Class::Four => 160,
        };
        let is_of_word = matches!(class, Class::Lower | Class::Upper | Class::Digit);
        self.word = if is_of_word { self.word + 1 } else { 0 };
        self.parts += parts;
        self.last = class;
    }
}

/// Tokens of one text.
#[must_use]
pub fn of_text(text: &str) -> u64 {
    let mut tally = Tally::default();
    tally.text(text.as_bytes());
    tally.tokens()
}
