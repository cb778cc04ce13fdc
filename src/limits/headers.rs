//! What a caller is told of its limits, in `OpenAI`'s headers.

use crate::store::{Meter, Standing};
use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use std::io::{Cursor, Write as _};
use std::time::Duration;

static REQUESTS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-requests"),
    HeaderName::from_static("x-ratelimit-remaining-requests"),
    HeaderName::from_static("x-ratelimit-reset-requests"),
];
static TOKENS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-tokens"),
    HeaderName::from_static("x-ratelimit-remaining-tokens"),
    HeaderName::from_static("x-ratelimit-reset-tokens"),
];

/// Tells `add` the headers of this standing; none for what is not limited.
pub fn headers(standing: &Standing, mut add: impl FnMut(HeaderName, HeaderValue)) {
    let meters = [(&REQUESTS, standing.requests), (&TOKENS, standing.tokens)];
    // All values are parts of one piece of memory.
    let mut text = String::with_capacity(meters.len() * (2 * DIGITS + SPAN));
    let mut lengths = [[0; 3]; 2];
    for ((_, meter), lengths) in meters.iter().zip(&mut lengths) {
        let Some(Meter { limit, remaining, reset }) = *meter else { continue };
        let mut digits = itoa::Buffer::new();
        let mut put = |part: &str| {
            text.push_str(part);
            part.len()
        };
        *lengths = [
            put(digits.format(limit)),
            put(digits.format(remaining)),
            put(span(reset, &mut [0; SPAN])),
        ];
    }
    let mut rest = Bytes::from(text);
    for ((names, _), lengths) in meters.into_iter().zip(lengths) {
        for (name, length) in names.iter().zip(lengths).filter(|(_, length)| *length > 0) {
            // Digits and letters cannot be refused.
            if let Ok(value) = HeaderValue::from_maybe_shared(rest.split_to(length)) {
                add(name.clone(), value);
            }
        }
    }
}

/// Digits of the largest number.
const DIGITS: usize = 20;
/// Room for any span: 20 digits of minutes, 2 of seconds, 3 of milliseconds and the signs between.
const SPAN: usize = 32;

/// A duration as `OpenAI` writes it: `0s`, `20ms`, `1.25s`, `6m0s`. Rounded up, so that who waits so
/// long has waited long enough. Written for every call: without the formatter, into the caller's room.
fn span(span: Duration, room: &mut [u8; SPAN]) -> &str {
    let ms = u64::try_from(span.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
    let mut digits = itoa::Buffer::new();
    let mut text = Cursor::new(&mut room[..]);
    // There is room for all of it.
    let mut put = |part: &str| drop(text.write_all(part.as_bytes()));
    if ms > 0 && ms < 1_000 {
        put(digits.format(ms));
        put("ms");
    } else {
        let (minutes, seconds, rest) = (ms / 60_000, ms / 1_000 % 60, ms % 1_000);
        if minutes > 0 {
            put(digits.format(minutes));
            put("m");
        }
        put(digits.format(seconds));
        if rest > 0 {
            // Its digits with the zeros before them.
            put(".");
            put(digits.format(1_000 + rest).get(1..).unwrap_or_default().trim_end_matches('0'));
        }
        put("s");
    }
    let length = usize::try_from(text.position()).unwrap_or_default();
    room.get(..length).and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_as_openai_writes_them() {
        for (ms, text) in [
            (0.0, "0s"),
            (0.2, "1ms"),
            (20.0, "20ms"),
            (999.1, "1s"),
            (1_000.0, "1s"),
            (1_250.0, "1.25s"),
            (59_001.0, "59.001s"),
            (60_000.0, "1m0s"),
            (360_000.0, "6m0s"),
            (61_500.0, "1m1.5s"),
        ] {
            let span = Duration::from_secs_f64(ms / 1_000.0);
            assert_eq!(super::span(span, &mut [0; SPAN]), text, "{ms}");
        }
    }

    #[test]
    fn only_what_is_limited_is_told() {
        let meter = Meter { limit: 10, remaining: 3, reset: Duration::from_millis(1_250) };
        let standing = Standing { tokens: Some(meter), ..Standing::default() };
        let mut told = Vec::new();
        headers(&standing, |name, value| {
            told.push(format!("{name}: {}", value.to_str().unwrap()));
        });
        let expected = [
            "x-ratelimit-limit-tokens: 10",
            "x-ratelimit-remaining-tokens: 3",
            "x-ratelimit-reset-tokens: 1.25s",
        ];
        assert_eq!(told, expected);
        headers(&Standing::default(), |name, _| panic!("{name}"));
        assert_eq!(span(Duration::MAX, &mut [0; SPAN]), "307445734561825m51.615s");
    }
}
