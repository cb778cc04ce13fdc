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
    /// Without the letters that only other languages than Arabic have.
    Arabic,
    /// Latin with other marks, and all else of two bytes.
    OtherTwo,
    /// Three bytes that begin with `0xe0`: the scripts of India, Thai, Lao, Tibetan.
    Indian,
    /// With `0xe1`: Georgian, Burmese, Khmer, Ethiopic, and the marked letters of Vietnamese.
    Rare,
    /// All else of three bytes: Chinese, Japanese, Korean, symbols.
    Three,
    /// Four bytes: emoji, rare scripts.
    Four,
    /// The rest of a character of several bytes. As the last one: none before.
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
/// Stands for a last byte where none is: no character begins with it.
const NONE: u8 = 0x80;
/// What a letter costs behind another of its case that it rarely follows: words of such are cut there.
const UNUSUAL: u8 = 36;

/// A running count.
#[derive(Debug, Clone, Copy)]
pub struct Tally {
    parts: u64,
    /// The first byte of the last character.
    last: u8,
    /// Letters and digits since anything else.
    word: usize,
}

impl Default for Tally {
    fn default() -> Self {
        Self { parts: 0, last: NONE, word: 0 }
    }
}

impl Class {
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
            0xd8..=0xd9 => Self::Arabic,
            0xc0..=0xdf => Self::OtherTwo,
            0xe0 => Self::Indian,
            0xe1 => Self::Rare,
            0xe2..=0xef => Self::Three,
            0xf0..=0xff => Self::Four,
            _ => Self::Sign,
        }
    }

    /// Whether words are made of it.
    const fn is_of_word(self) -> bool {
        matches!(self, Self::Lower | Self::Upper | Self::Digit)
    }

    /// What a character of this class costs after one of another: no more than 85 where both are of ASCII,
    /// see [`BREAK`]. Tokenizers know some scripts better.
    #[expect(clippy::match_same_arms, reason = "a table: one figure a class")]
    const fn parts_after(self, last: Self) -> u8 {
        match (last, self) {
            (_, Self::Rest) => 0,
            // A line's end is a token, together with more of them or with signs before it.
            (Self::LineEnd, Self::LineEnd) => 4,
            (Self::Sign, Self::LineEnd) => 8,
            (_, Self::LineEnd) => 60,
            // One space belongs to the word behind it. Indentation is about a token, however deep; and a
            // space between numbers: a part of it is counted with the digit behind it.
            (Self::LineEnd, Self::Space) => 36,
            (Self::Digit, Self::Space) => 20,
            (_, Self::Space) => 2,
            // Most words are a token. They take in the sign before them, but no digit.
            (Self::Lower, Self::Lower) => 5,
            (Self::Upper, Self::Upper) => 12,
            (Self::Upper, Self::Lower) => 26,
            (Self::Digit, Self::Lower | Self::Upper) => 64,
            (Self::Space | Self::LineEnd | Self::Rest, Self::Lower) => 46,
            (Self::Space | Self::LineEnd | Self::Rest | Self::Lower, Self::Upper) => 44,
            (_, Self::Lower | Self::Upper) => 20,
            // Up to three digits are a token, and nothing else is in it.
            (Self::Digit, Self::Digit) => 16,
            (Self::Space, Self::Digit) => 85,
            (_, Self::Digit) => 52,
            (Self::Sign, Self::Sign) => 32,
            (Self::Digit, Self::Sign) => 66,
            (Self::Space | Self::LineEnd | Self::Rest, Self::Sign) => 56,
            (_, Self::Sign) => 40,
            (_, Self::Western) => 52,
            (_, Self::Greek) => 66,
            (_, Self::Cyrillic) => 34,
            (_, Self::Arabic) => 50,
            // Among themselves they are a script that tokenizers hardly know, else letters of a language
            // that they do know, as Polish and Vietnamese are.
            (Self::OtherTwo, Self::OtherTwo) => 128,
            (_, Self::OtherTwo) => 100,
            (Self::Rare, Self::Rare) => 160,
            (_, Self::Rare) => 100,
            // More at the beginning: of these, what puts spaces between words is known less than Thai.
            (Self::Indian, Self::Indian) => 100,
            (_, Self::Indian) => 130,
            (_, Self::Three) => 86,
            (_, Self::Four) => 160,
        }
    }
}

/// The letters that often follow one within a token: found by what the tokens of English, of program text
/// and of twenty other languages are, and of random letters.
const fn usual(first: u8) -> &'static [u8] {
    match first {
        b'a' => b"bcdgiklmnprstuwy",
        b'b' => b"aejloruy",
        b'c' => b"acehklortu",
        b'd' => b"adeisy",
        b'e' => b"acdflmnpqrstvwxy",
        b'f' => b"aefilortu",
        b'g' => b"ehirsu",
        b'h' => b"aeiortu",
        b'i' => b"abcdfglmnoprstvz",
        b'j' => b"su",
        b'k' => b"es",
        b'l' => b"defilostuy",
        b'm' => b"abeilops",
        b'n' => b"cdefgknostuv",
        b'o' => b"abcdfgilmnoprtuvw",
        b'p' => b"aeiloprstuy",
        b'q' => b"u",
        b'r' => b"cdegikmnostuvy",
        b's' => b"cehipstuwy",
        b't' => b"ehioprswy",
        b'u' => b"bdeglmnprst",
        b'v' => b"ae",
        b'w' => b"aehinor",
        b'x' => b"pt",
        b'y' => b"o",
        _ => b"",
    }
}

const fn is_usual(first: u8, second: u8) -> bool {
    let mut letters = usual(first);
    while let [letter, others @ ..] = letters {
        if *letter == second {
            return true;
        }
        letters = others;
    }
    false
}

/// By byte.
#[expect(clippy::indexing_slicing, reason = "at compile time, within bounds")]
#[expect(clippy::cast_possible_truncation, reason = "below 256")]
const CLASSES: [Class; 256] = {
    let mut classes = [Class::Rest; 256];
    let mut byte = 0;
    while byte < 256 {
        classes[byte] = Class::of(byte as u8);
        byte += 1;
    }
    classes
};

/// What the second of two characters costs, by the first bytes of both, with the marks below.
#[expect(clippy::indexing_slicing, reason = "at compile time, within bounds")]
const fn marked(first: u8, second: u8) -> u16 {
    let (last, class) = (CLASSES[first as usize], CLASSES[second as usize]);
    let is_cased = matches!(class, Class::Lower | Class::Upper) && last as u8 == class as u8;
    let is_unusual = is_cased && !is_usual(first.to_ascii_lowercase(), second.to_ascii_lowercase());
    let mut parts = if is_unusual { UNUSUAL } else { class.parts_after(last) } as u16;
    if !class.is_of_word() {
        parts |= BREAK;
    }
    if !first.is_ascii() || !second.is_ascii() {
        parts |= WIDE;
    }
    parts
}

/// Above the parts of some characters of ASCII: how many of them end a word.
const BREAK: u16 = 1 << 10;
/// Above that: how many pairs are not of ASCII.
const WIDE: u16 = 1 << 15;

/// The same by two bytes as they stand in memory, the first one the lower byte: text is read without a
/// look at each character's class. Of its 128 KiB a language uses a few cache lines.
#[expect(clippy::indexing_slicing, reason = "at compile time, within bounds")]
#[expect(clippy::cast_possible_truncation, reason = "two bytes")]
static PAIRS: [u16; 1 << 16] = {
    let mut pairs = [0; 1 << 16];
    let mut pair = 0;
    while pair < pairs.len() {
        pairs[pair] = marked(pair as u8, (pair >> 8) as u8);
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
            if now >= u32::from(WIDE) {
                break;
            }
            parts += u64::from(now % u32::from(BREAK));
            word = if now < u32::from(BREAK) { word + BLOCK } else { BLOCK - 1 };
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
        self.last = *last;
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
        let cost = u64::from(pair([self.last, byte]) % u32::from(BREAK));
        self.parts += if is_too_long { PARTS_OF_NO_WORD } else { cost };
        self.last = byte;
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

/// What a character costs behind another, with the marks.
fn pair(pair: [u8; 2]) -> u32 {
    let pair = u16::from_le_bytes(pair);
    PAIRS.get(usize::from(pair)).copied().unwrap_or(WIDE).into()
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
