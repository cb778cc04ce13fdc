//! What keeps one record one line: its timestamp, and the text of strangers made harmless.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};
use time::OffsetDateTime;

/// RFC 3339 in UTC with microseconds, always 27 characters, so that lines sort as text.
pub(super) struct Timestamp(pub(super) SystemTime);

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        // Beyond the year 9999 there is no RFC 3339; a clock that wrong may as well say 1970.
        let utc = i64::try_from(since.as_secs())
            .ok()
            .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
            .unwrap_or(OffsetDateTime::UNIX_EPOCH);
        // Written once a line and a trace; the general way takes ten times as long.
        let mut text = *b"0000-00-00T00:00:00.000000Z";
        let mut put = |end: usize, count: usize, mut number: u32| {
            for digit in text.iter_mut().take(end).rev().take(count) {
                *digit = b'0' + u8::try_from(number % 10).unwrap_or_default();
                number /= 10;
            }
        };
        put(4, 4, utc.year().unsigned_abs());
        put(7, 2, u8::from(utc.month()).into());
        put(10, 2, utc.day().into());
        put(13, 2, utc.hour().into());
        put(16, 2, utc.minute().into());
        put(19, 2, utc.second().into());
        put(26, 6, since.subsec_micros());
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

/// Text without the characters that could break, colour or reorder a line on a terminal.
pub(super) struct Printable<'a>(pub(super) &'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;
        self.0.chars().filter(|c| prints(*c)).try_for_each(|c| f.write_char(c))
    }
}

/// Whether a character shows as itself: no control, no bidirectional or zero-width mark, no line
/// or paragraph separator, not the sign for bytes that were no text.
pub(super) fn prints(c: char) -> bool {
    !c.is_control()
        && !matches!(
            c,
            '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fffd}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_timestamp_is_rfc_3339() {
        let at = UNIX_EPOCH + Duration::from_micros(1_785_000_000_000_042);
        assert_eq!(Timestamp(at).to_string(), "2026-07-25T17:20:00.000042Z");
        let before = UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(Timestamp(before).to_string(), "1970-01-01T00:00:00.000000Z");
    }

    #[test]
    fn what_does_not_print_is_left_out() {
        assert_eq!(Printable("a\n\u{1b}[31mb\u{202e}é 漢\u{fffd}").to_string(), "a[31mbé 漢");
    }
}
