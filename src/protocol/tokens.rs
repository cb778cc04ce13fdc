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
const LONGEST_WORD: usize = 24;
const PARTS_OF_NO_WORD: u64 = 50;
/// Characters counted together: where a word ends among any so many, none is too long.
const BLOCK: usize = LONGEST_WORD / 2;

/// A running count.
#[derive(Debug, Clone, Copy)]
pub struct Tally {
    parts: u64,
    last: Class,
    /// Letters and digits since anything else.
    word: usize,
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

    /// Whether words are made of it.
    const fn is_of_word(self) -> bool {
        matches!(self, Self::Lower | Self::Upper | Self::Digit)
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

/// By byte.
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

/// By last class and class, four bits each: parts, and [`BREAK`] where the character ends a word.
#[expect(clippy::indexing_slicing, reason = "at compile time, within bounds")]
const PARTS: [u32; 256] = {
    let mut parts = [0; 256];
    let mut last = 0;
    while last < Class::ALL.len() {
        let mut class = 0;
        while class < Class::ALL.len() {
            let now = Class::ALL[class];
            let ends = if now.is_of_word() { 0 } else { BREAK };
            parts[last << 4 | class] = now.parts_after(Class::ALL[last]) as u32 | ends;
            class += 1;
        }
        last += 1;
    }
    parts
};

/// Above the parts of some characters: how many of them end a word.
const BREAK: u32 = 1 << 10;
/// Above that: how many pairs are not of ASCII.
const WIDE: u32 = 1 << 15;

/// The same by two characters as they stand in memory, the first one the lower byte: text is read without
/// a look at each character's class. Of its 128 KiB a language uses a few cache lines.
#[expect(clippy::indexing_slicing, reason = "at compile time, within bounds")]
#[expect(clippy::cast_possible_truncation, reason = "at most WIDE")]
static PAIRS: [u16; 1 << 16] = {
    let mut pairs = [WIDE as u16; 1 << 16];
    let mut pair = 0;
    while pair < pairs.len() {
        let (first, second) = (pair & 0xff, pair >> 8);
        if first < 0x80 && second < 0x80 {
            pairs[pair] = PARTS[(CLASSES[first] as usize) << 4 | CLASSES[second] as usize] as u16;
        }
        pair += 1;
    }
    pairs
};

impl Tally {
    /// Counts on; a text may come in pieces.
    ///
    /// By pairs, at a few instructions a byte, wherever it is ASCII and no long word, as hardly any part
    /// of a prompt is not; else a byte at a time.
    pub fn text(&mut self, text: &[u8]) {
        let (mut at, mut step) = (0, 1);
        while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
            for byte in rest.iter().take(step) {
                self.byte(*byte);
            }
            at = text.len().min(at + step);
            at += self.pairs(text.get(at - 1..).unwrap_or_default());
            step = 8;
        }
    }

    /// Counts what comes behind the first byte of a text, as far as pairs tell all; how many bytes.
    fn pairs(&mut self, text: &[u8]) -> usize {
        let (mut rest, mut parts) = (text, 0);
        // No shorter than the word so far.
        let mut word = self.word;
        while word + BLOCK <= LONGEST_WORD {
            let block = rest.first_chunk::<{ BLOCK + 1 }>();
            let now: u32 = match block {
                Some(block) => block.array_windows().copied().map(pair).sum(),
                None => rest.array_windows().copied().map(pair).sum(),
            };
            if now >= WIDE {
                break;
            }
            parts += u64::from(now % BREAK);
            word = if now < BREAK { word + BLOCK } else { BLOCK - 1 };
            rest = rest.get(BLOCK..).unwrap_or_default();
            if block.is_none() {
                break;
            }
        }
        let counted = text.len() - 1 - rest.len().saturating_sub(1);
        self.parts += parts;
        self.catch_up(text.get(1..=counted).unwrap_or_default());
        counted
    }

    /// Brings what is known of the last character and its word to the end of bytes that are counted.
    fn catch_up(&mut self, counted: &[u8]) {
        let Some(last) = counted.last() else { return };
        self.last = class(*last);
        for (word, byte) in (0..).zip(counted.iter().rev()) {
            if !class(*byte).is_of_word() {
                self.word = word;
                return;
            }
        }
        self.word += counted.len();
    }

    /// Counts the first byte of a character.
    fn byte(&mut self, byte: u8) {
        let class = class(byte);
        if class == Class::Rest {
            return;
        }
        self.word = if class.is_of_word() { self.word + 1 } else { 0 };
        let is_too_long = self.word > LONGEST_WORD + 1;
        let cost = u64::from(parts(self.last, class) % BREAK);
        self.parts += if is_too_long { PARTS_OF_NO_WORD } else { cost };
        self.last = class;
    }

    /// Takes back what so many of the quotes cost that JSON has around its strings: they are no text. They
    /// end a word as the sign does that stands outside of them.
    pub const fn forget_quotes(&mut self, quotes: u64) {
        let each = Class::Sign.parts_after(Class::Sign) as u64;
        self.parts = self.parts.saturating_sub(quotes * each);
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

fn class(byte: u8) -> Class {
    CLASSES.get(usize::from(byte)).copied().unwrap_or(Class::Sign)
}

fn parts(last: Class, class: Class) -> u32 {
    PARTS.get(usize::from((last as u8) << 4 | class as u8)).copied().unwrap_or(0)
}

/// What a character costs behind another.
fn pair(pair: [u8; 2]) -> u32 {
    let pair = u16::from_le_bytes(pair);
    PAIRS.get(usize::from(pair)).map_or(WIDE, |parts| u32::from(*parts))
}

/// Tokens of one text.
#[must_use]
pub fn of_text(text: &str) -> u64 {
    let mut tally = Tally::default();
    tally.text(text.as_bytes());
    tally.tokens()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{prop, prop_assert_eq, prop_oneof, proptest};
    use proptest::strategy::Strategy as _;

    /// The same count, a byte at a time.
    fn by_byte(text: &str) -> u64 {
        let mut tally = Tally::default();
        text.bytes().for_each(|byte| tally.byte(byte));
        tally.parts
    }

    proptest! {
        #[test]
        fn pairs_and_pieces_count_like_bytes(
            pieces in prop::collection::vec(
                prop_oneof!["[a-zA-Z0-9]{0,40}", "[ a-z]{0,30}", "[a-zé漢😀 \n\"]{0,30}", ".{0,30}"],
                0..12,
            ).prop_map(|pieces: Vec<String>| pieces),
        ) {
            let mut tally = Tally::default();
            for piece in &pieces {
                tally.text(piece.as_bytes());
            }
            prop_assert_eq!(tally.parts, by_byte(&pieces.concat()));
        }
    }
}
