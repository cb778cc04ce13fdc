//! The names a request carries: its own id, its trace id, and the W3C `traceparent` it may join.

use std::fmt;

/// `req-` and 24 lower-case hexadecimal digits; echoed as `x-request-id`.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestId([u8; 28]);

/// A W3C trace id: 32 lower-case hexadecimal digits, not all zero.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TraceId(u128);

/// A W3C span id: 16 lower-case hexadecimal digits, not all zero.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SpanId(u64);

const HEX: &[u8; 16] = b"0123456789abcdef";

/// The lowest digit.
fn digit_of(number: u128) -> u8 {
    HEX.get((number & 15) as usize).copied().unwrap_or(b'0')
}

/// The lowest `N` digits, highest first. Written for each span, where the formatter takes ten times as
/// long.
fn hex<const N: usize>(number: u128) -> [u8; N] {
    let mut rest = number;
    let mut digits = [b'0'; N];
    for digit in digits.iter_mut().rev() {
        *digit = digit_of(rest);
        rest >>= 4;
    }
    digits
}

impl RequestId {
    /// An id from 96 random bits.
    #[must_use]
    pub fn from_random(random: u128) -> Self {
        let mut text = *b"req-000000000000000000000000";
        let mut rest = random;
        for digit in text.iter_mut().skip(4) {
            *digit = digit_of(rest);
            rest >>= 4;
        }
        Self(text)
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl TraceId {
    /// A trace id from random bits; zero, which W3C forbids, becomes one.
    #[must_use]
    pub fn from_random(random: u128) -> Self {
        Self(random.max(1))
    }

    /// Its digits.
    #[must_use]
    pub fn digits(self) -> [u8; 32] {
        hex(self.0)
    }

    /// The last 56 bits, which every maker of ids draws at random (W3C Trace Context level 2).
    #[must_use]
    pub const fn random_bits(self) -> u64 {
        (self.0 & ((1 << 56) - 1)) as u64
    }
}

impl SpanId {
    /// A span id from random bits; zero, which W3C forbids, becomes one.
    #[must_use]
    pub fn from_random(random: u64) -> Self {
        Self(random.max(1))
    }

    /// Its digits.
    #[must_use]
    pub fn digits(self) -> [u8; 16] {
        hex(self.0.into())
    }

    /// The id of a span below this one, the same for the same number; well mixed, so that no two
    /// spans of a trace share one.
    #[must_use]
    pub const fn child(self, number: u32) -> Self {
        // SplitMix64's step and finaliser (Steele, Lea, Flood 2014): a bijection for each number.
        let mut mixed = self.0.wrapping_add((number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        Self(if mixed == 0 { 1 } else { mixed })
    }
}

/// Reads a `traceparent` header: trace id, parent span id and the `sampled` flag.
///
/// `None` where it is not as <https://www.w3.org/TR/trace-context/#traceparent-header> says; a
/// version above 00 is read by its first four fields, `ff` is refused.
#[must_use]
pub fn parse_traceparent(header: &[u8]) -> Option<(TraceId, SpanId, bool)> {
    let text = std::str::from_utf8(header).ok()?.trim();
    let mut fields = text.split('-');
    let (version, trace, span, flags) =
        (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let hex = |field: &str, length: usize| {
        (field.len() == length
            && field.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)))
        .then(|| u128::from_str_radix(field, 16).ok())
        .flatten()
    };
    let version = hex(version, 2)?;
    if version == 0xff || (version == 0 && fields.next().is_some()) {
        return None;
    }
    let trace = hex(trace, 32).filter(|id| *id != 0)?;
    let span = u64::try_from(hex(span, 16)?).ok().filter(|id| *id != 0)?;
    Some((TraceId(trace), SpanId(span), hex(flags, 2)? & 1 == 1))
}

/// Writes a `traceparent` header of version 00: ASCII.
#[must_use]
pub fn traceparent(trace: TraceId, span: SpanId, sampled: bool) -> [u8; 55] {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    text[3..35].copy_from_slice(&trace.digits());
    text[36..52].copy_from_slice(&span.digits());
    text[54] += u8::from(sampled);
    text
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.digits()).unwrap_or_default())
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.digits()).unwrap_or_default())
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_read_and_written_back() {
        let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let (trace, span, sampled) = parse_traceparent(text.as_bytes()).unwrap();
        assert!(sampled);
        assert_eq!(traceparent(trace, span, sampled), text.as_bytes());
        assert_eq!(traceparent(trace, span, false)[..54], text.as_bytes()[..54]);
        assert!(parse_traceparent(text.replacen("00", "01", 1).as_bytes()).is_some());
    }

    #[test]
    fn a_broken_traceparent_is_ignored() {
        for wrong in [
            "",
            "00",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333-01",
        ] {
            assert!(parse_traceparent(wrong.as_bytes()).is_none(), "{wrong:?}");
        }
    }

    #[test]
    fn spans_below_one_have_ids_of_their_own() {
        let root = SpanId::from_random(7);
        let ids: std::collections::HashSet<String> =
            (1..1_000).map(|number| root.child(number).to_string()).collect();
        assert_eq!(ids.len(), 999);
        assert!(!ids.contains(&root.to_string()));
        assert_eq!(root.child(3), SpanId::from_random(7).child(3));
    }

    #[test]
    fn ids_have_their_shape() {
        let id = RequestId::from_random(0xabc);
        assert_eq!(id.as_str(), "req-cba000000000000000000000");
        assert_eq!(TraceId::from_random(0).to_string(), format!("{:032x}", 1));
    }
}
