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

    /// An ASCII character of this class.
    const fn example(self) -> Option<u8> {
        match self {
            Self::Space => Some(b' '),
            Self::LineEnd => Some(b'\n'),
            Self::Lower => Some(b'a'),
            Self::Upper => Some(b'A'),
            Self::Digit => Some(b'0'),
            Self::Sign => Some(b'.'),
            Self::Nothing
            | Self::Western
            | Self::Greek
            | Self::Cyrillic
            | Self::Arabic
            | Self::OtherTwo
            | Self::Three
            | Self::Four
            | Self::Rest => None,
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
const BREAK: u32 = 1 << 12;

/// The high bit of each of eight bytes.
const NOT_ASCII: u64 = u64::from_le_bytes([0x80; 8]);

/// The same by two ASCII characters as they stand in memory, the first one the lower byte: text is read
/// without a look at each character's class. Of its 64 KiB a language uses a few cache lines.
#[expect(clippy::indexing_slicing, reason = "at compile time, within bounds")]
#[expect(clippy::cast_possible_truncation, reason = "below 2 * BREAK")]
static PAIRS: [u16; 1 << 15] = {
    let mut pairs = [0; 1 << 15];
    let mut pair = 0;
    while pair < pairs.len() {
        let (first, second) = (pair & 0xff, pair >> 8);
        if first < 0x80 {
            pairs[pair] = PARTS[(CLASSES[first] as usize) << 4 | CLASSES[second] as usize] as u16;
        }
        pair += 1;
    }
    pairs
};

impl Tally {
    /// Counts on; a text may come in pieces.
    ///
    /// Eight characters at a time where they are ASCII and a word ends among them, as hardly any eight
    /// in a prompt do not: with a look at pairs alone, at a few instructions a byte.
    pub fn text(&mut self, text: &[u8]) {
        if text.len() < 8 {
            return text.iter().for_each(|byte| self.byte(*byte));
        }
        let (eights, rest) = text.as_chunks::<8>();
        let mut before = self.last.example();
        // Whether `self.word` is behind: it is no longer than eight then.
        let mut is_behind = false;
        for (number, eight) in eights.iter().enumerate() {
            let characters = u64::from_le_bytes(*eight);
            if let Some(last) = before
                && characters & NOT_ASCII == 0
                && (is_behind || self.word + 8 <= LONGEST_WORD)
                && let parts = parts_of(last, characters)
                && parts >= BREAK
            {
                self.parts += u64::from(parts % BREAK);
                before = eight.last().copied();
                is_behind = true;
                continue;
            }
            self.catch_up(text, number * 8, is_behind);
            self.eight(*eight);
            before = self.last.example();
            is_behind = false;
        }
        self.catch_up(text, eights.len() * 8, is_behind);
        for byte in rest {
            self.byte(*byte);
        }
    }

    /// Brings what is known of the last character and its word up to this place of the text.
    fn catch_up(&mut self, text: &[u8], place: usize, is_behind: bool) {
        let before = text.get(..place).filter(|_| is_behind).unwrap_or_default();
        if let Some(last) = before.last() {
            self.last = class(*last);
            let of_word = |byte: &&u8| class(**byte).is_of_word();
            self.word = before.iter().rev().take_while(of_word).count() as u64;
        }
    }

    /// Counts eight bytes that are not all ASCII, or among which no word ends.
    #[inline(never)]
    fn eight(&mut self, eight: [u8; 8]) {
        if let Some(last) = self.last.example()
            && eight.is_ascii()
            && self.word + 8 <= LONGEST_WORD
            && let parts = parts_of(last, u64::from_le_bytes(eight))
            && parts < BREAK
        {
            self.parts += u64::from(parts);
            self.word += 8;
            self.last = eight.last().map_or(self.last, |last| class(*last));
            return;
        }
        for byte in eight {
            self.byte(byte);
        }
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

/// What eight ASCII characters cost together after this one, the first one in the lowest byte.
fn parts_of(last: u8, eight: u64) -> u32 {
    let pair = |pair: u64| PAIRS.get((pair & 0x7fff) as usize).map_or(0, |parts| u32::from(*parts));
    let first = pair(eight << 8 | u64::from(last));
    (0..7).fold(first, |sum, number| sum + pair(eight >> (8 * number)))
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
        fn eight_bytes_at_once_and_pieces_count_like_bytes(
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
