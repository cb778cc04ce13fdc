//! Eight bytes at a time: where in them a character stands.

/// Each byte one.
pub const ONES: u64 = u64::from_le_bytes([1; 8]);
/// The high bit of each byte.
pub const HIGH: u64 = ONES << 7;

/// The high bit of each of eight bytes that is this ASCII character, the first one lowest. Above the first
/// of them bits may be wrong: a borrow goes upwards.
#[must_use]
pub const fn equal(word: u64, wanted: u8) -> u64 {
    let differing = word ^ (ONES * wanted as u64);
    differing.wrapping_sub(ONES) & !differing & HIGH
}
