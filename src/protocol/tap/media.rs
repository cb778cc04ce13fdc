//! What is kept of media in base64 while they pass: how they begin, their size and their hash.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use sha2::{Digest, Sha256};

/// Characters that tell the type.
const MAGIC: usize = 16;
/// Characters decoded at once.
const AT_ONCE: usize = 16 << 10;

/// Base64 as media come in it: with padding or without.
pub const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Media of which pieces come one after the other.
#[derive(Debug, Clone, Default)]
pub struct Media {
    begun: String,
    /// Characters that make no whole group yet.
    rest: Vec<u8>,
    chars: usize,
    bytes: usize,
    hash: Sha256,
    is_broken: bool,
}

impl Media {
    /// Takes the next piece.
    pub(super) fn push(&mut self, base64: &str) {
        self.chars += base64.len();
        let (begun, _) = base64.split_at(base64.floor_char_boundary(MAGIC - self.begun.len()));
        self.begun.push_str(begun);
        for piece in base64.as_bytes().chunks(AT_ONCE) {
            let mut chars = std::mem::take(&mut self.rest);
            chars.extend(
                piece.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).map(standard),
            );
            self.rest = chars.split_off(chars.len() & !3);
            self.decode(&chars);
        }
    }

    fn decode(&mut self, chars: &[u8]) {
        match BASE64.decode(chars) {
            Ok(bytes) => {
                self.bytes += bytes.len();
                self.hash.update(&bytes);
            }
            Err(_) => self.is_broken = true,
        }
    }

    /// The first characters.
    #[must_use]
    pub fn begun(&self) -> &str {
        &self.begun
    }

    /// Characters in all.
    #[must_use]
    pub const fn chars(&self) -> usize {
        self.chars
    }

    /// Size and SHA-256 of what the base64 stands for; none where it is no base64.
    #[must_use]
    pub fn digest(&self) -> Option<(usize, sha2::digest::Output<Sha256>)> {
        let mut whole = self.clone();
        whole.decode(&self.rest);
        (!whole.is_broken).then(|| (whole.bytes, whole.hash.finalize()))
    }
}

impl PartialEq for Media {
    fn eq(&self, other: &Self) -> bool {
        (self.begun(), self.chars, self.digest()) == (other.begun(), other.chars, other.digest())
    }
}

impl Eq for Media {}

const fn standard(byte: u8) -> u8 {
    match byte {
        b'-' => b'+',
        b'_' => b'/',
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{prop_assert_eq, proptest};

    fn media<'p>(pieces: impl IntoIterator<Item = &'p str>) -> Media {
        let mut media = Media::default();
        pieces.into_iter().for_each(|piece| media.push(piece));
        media
    }

    #[test]
    fn pieces_with_padding_of_their_own_make_one() {
        let whole = media(["AAECAwQF"]);
        assert_eq!(whole.digest().map(|(bytes, _)| bytes), Some(6));
        assert_eq!(media(["AA==", "AQI=", "AwQF"]).digest(), whole.digest());
        assert_eq!(media(["AAEC\nAw", "QF"]).digest(), whole.digest());
        assert_eq!(media(["*"]).digest(), None);
        assert_eq!(media(["é".repeat(20).as_str()]).begun(), "é".repeat(8));
    }

    proptest! {
        #[test]
        fn every_cut_gives_the_same(bytes: Vec<u8>, size in 1_usize..9) {
            let base64 = BASE64.encode(&bytes);
            let pieces = base64.as_bytes().chunks(size).map(|piece| str::from_utf8(piece).unwrap());
            let found = media(pieces);
            prop_assert_eq!(&found, &media([base64.as_str()]));
            prop_assert_eq!(found.digest(), Some((bytes.len(), Sha256::digest(&bytes))));
        }
    }
}
