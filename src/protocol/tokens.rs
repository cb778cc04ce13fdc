//! How many tokens a text is, roughly and without a tokenizer: by the classes of its characters.
//!
//! Tokenizers cut at changes of class (letters, digits, signs, spaces) and merge what is frequent
//! within a class. So each character costs a part of a token and each change of class another, in
//! sixty-fourths of a token. Measured against `cl100k_base` and `o200k_base` in
//! `tests/tokens.rs`, which states how far the estimate may be off for which kind of text.

/// What a character is to a tokenizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Class {
    /// Before the first character.
    Nothing,
    Space,
    LineEnd,
    Lower,
    Upper,
    Digit,
    Sign,
    /// Two bytes in UTF-8: Latin with the marks of Western Europe.
    Western,
    /// Greek, Hebrew.
    Greek,
    Cyrillic,
    Arabic,
    /// Latin with other marks, and all else of two bytes.
    OtherTwo,
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

impl Class {
    const ALL: [Self; 15] = [
        Self::Nothing,
        Self::Space,
        Self::LineEnd,
        Self::Lower,
        Self::Upper,
        Self::Digit,
        Self::Sign,
        Self::Western,
        Self::Greek,
        Self::Cyrillic,
        Self::Arabic,
        Self::OtherTwo,
        Self::Three,
        Self::Four,
        Self::Rest,
    ];

    const fn of(byte: u8) -> Self {
        match byte {
            b'\n' => Self::LineEnd,
            b' ' | b'\t' | b'\r' => Self::Space,
            b'a'..=b'z' => Self::Lower,
            b'A'..=b'Z' => Self::Upper,
            b'0'..=b'9' => Self::Digit,
            0x80..=0xbf => Self::Rest,
            0xc2..=0xc3 => Self::Western,
            0xce..=0xcf | 0xd7 => Self::Greek,
            0xd0..=0xd1 => Self::Cyrillic,
            0xd8..=0xdb => Self::Arabic,
            0xc0..=0xdf => Self::OtherTwo,
            0xe0..=0xef => Self::Three,
            0xf0..=0xff => Self::Four,
            _ => Self::Sign,
        }
    }

    /// What a character of this class costs after one of another. Tokenizers know some scripts better.
    #[expect(clippy::match_same_arms, reason = "a table: one figure a class")]
    const fn parts_after(self, last: Self) -> u8 {
        let begins = self as u8 != last as u8;
        match self {
            Self::Nothing | Self::Rest => 0,
            // One space belongs to the word behind it; a line's end and indentation are a token.
            Self::LineEnd => 32,
            Self::Space if matches!(last, Self::LineEnd) || !begins => 6,
            Self::Space => 2,
            Self::Lower if matches!(last, Self::Upper) => 9,
            Self::Lower if begins => 32,
            Self::Lower => 11,
            Self::Upper if begins => 34,
            Self::Digit if begins => 58,
            Self::Upper | Self::Digit => 24,
            Self::Sign if begins => 48,
            Self::Sign => 33,
            Self::Western => 52,
            Self::Greek => 62,
            Self::Cyrillic => 32,
            Self::Arabic => 48,
            Self::OtherTwo => 100,
            Self::Three => 80,
            Self::Four => 160,
        }
    }
}

/// By byte, and by last class and class: a prompt is read at a few instructions a byte.
#[expect(clippy::indexing_slicing, reason = "at compile time, within bounds")]
#[expect(clippy::cast_possible_truncation, reason = "below 256")]
const CLASSES: [Class; 256] = {
    let mut classes = [Class::Nothing; 256];
    let mut byte = 0;
    while byte < 256 {
        classes[byte] = Class::of(byte as u8);
        byte += 1;
    }
    classes
};
#[expect(clippy::indexing_slicing, reason = "at compile time, within bounds")]
const PARTS: [[u8; 16]; 16] = {
    let mut parts = [[0; 16]; 16];
    let mut last = 0;
    while last < Class::ALL.len() {
        let mut class = 0;
        while class < Class::ALL.len() {
            parts[last][class] = Class::ALL[class].parts_after(Class::ALL[last]);
            class += 1;
        }
        last += 1;
    }
    parts
};

impl Tally {
    /// Counts on; a text may come in pieces.
    pub fn text(&mut self, text: &[u8]) {
        let (words, rest) = text.as_chunks::<8>();
        for word in words {
            // A branch a byte would be guessed wrong at every other one.
            if word.is_ascii() {
                for byte in word {
                    self.ascii(*byte);
                }
            } else {
                for byte in word {
                    self.byte(*byte);
                }
            }
        }
        for byte in rest {
            self.byte(*byte);
        }
    }

    fn byte(&mut self, byte: u8) {
        if !matches!(byte, 0x80..=0xbf) {
            self.ascii(byte);
        }
    }

    /// Counts the first byte of a character, without a branch.
    fn ascii(&mut self, byte: u8) {
        let class = CLASSES.get(usize::from(byte)).copied().unwrap_or(Class::Sign);
        let row = PARTS.get(self.last as usize & 15).unwrap_or(&[0; 16]);
        let cost = u64::from(row.get(class as usize & 15).copied().unwrap_or(0));
        let is_of_word = matches!(class, Class::Lower | Class::Upper | Class::Digit);
        self.word = (self.word + 1) & 0_u64.wrapping_sub(is_of_word.into());
        let is_too_long = 0_u64.wrapping_sub((self.word > LONGEST_WORD + 1).into());
        self.parts += (cost & !is_too_long) | (PARTS_OF_NO_WORD & is_too_long);
        self.last = class;
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
}

/// Tokens of one text.
#[must_use]
pub fn of_text(text: &str) -> u64 {
    let mut tally = Tally::default();
    tally.text(text.as_bytes());
    tally.tokens()
}
