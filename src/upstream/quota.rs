//! How much an upstream's own rate limits leave, as its replies say.

use http::{HeaderMap, HeaderName};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A limit without a word about its reset is believed this long.
const USUAL_WINDOW: Duration = Duration::from_mins(1);
/// Nothing known.
const UNKNOWN: u64 = u64::MAX;
/// A number of this size is a moment (the year 2001), no time to wait: in seconds, or in milliseconds.
const EPOCH_SECONDS: f64 = 1e9;
const EPOCH_MILLIS: f64 = 1e12;
/// No limit of a provider lasts longer than its day; a longer one is a mistake, or malice.
const LONGEST_WINDOW: Duration = Duration::from_hours(24);
/// Calls that may be under way without being in the provider's count yet.
const UNCOUNTED: u64 = 8;

/// What is left of one limit, and when it is whole again.
#[derive(Debug)]
struct Left {
    remaining: AtomicU64,
    /// In microseconds since the process began.
    resets: AtomicU64,
}

/// What is left of an upstream's limits.
#[derive(Debug, Default)]
pub struct Quota {
    requests: Left,
    tokens: Left,
    /// US dollars, as the bits of an `f64`; OpenRouter's `GET /key` says so.
    credits: Credits,
}

#[derive(Debug)]
struct Credits(AtomicU64);

impl Default for Left {
    fn default() -> Self {
        Self { remaining: AtomicU64::new(UNKNOWN), resets: AtomicU64::new(0) }
    }
}

impl Default for Credits {
    fn default() -> Self {
        Self(AtomicU64::new(f64::NAN.to_bits()))
    }
}

/// One way of naming the headers: remaining and reset, for requests and for tokens.
struct Names([(HeaderName, HeaderName); 2]);

const fn header(name: &'static str) -> HeaderName {
    HeaderName::from_static(name)
}

/// OpenAI's, which most others took over; OpenRouter's, which name no kind and count requests;
/// Anthropic's (WIRE section 3).
static NAMES: [Names; 3] = [
    Names([
        (header("x-ratelimit-remaining-requests"), header("x-ratelimit-reset-requests")),
        (header("x-ratelimit-remaining-tokens"), header("x-ratelimit-reset-tokens")),
    ]),
    Names([
        (header("x-ratelimit-remaining"), header("x-ratelimit-reset")),
        (header("x-ratelimit-remaining-tokens"), header("x-ratelimit-reset-tokens")),
    ]),
    Names([
        (
            header("anthropic-ratelimit-requests-remaining"),
            header("anthropic-ratelimit-requests-reset"),
        ),
        (
            header("anthropic-ratelimit-tokens-remaining"),
            header("anthropic-ratelimit-tokens-reset"),
        ),
    ]),
];

impl Quota {
    /// Reads what a reply says.
    pub fn read(&self, headers: &HeaderMap, now: Duration, wall: SystemTime) {
        for Names([requests, tokens]) in &NAMES {
            let mut is_known = false;
            for (left, (remaining, reset)) in [(&self.requests, requests), (&self.tokens, tokens)] {
                let Some(value) = headers.get(remaining) else { continue };
                is_known = true;
                // Azure's Responses say -1, which says nothing.
                let Some(count) = value.to_str().ok().and_then(|text| text.trim().parse().ok())
                else {
                    continue;
                };
                let text = headers.get(reset).and_then(|reset| reset.to_str().ok());
                let resets = text.and_then(|text| reset_after(text, wall)).unwrap_or(USUAL_WINDOW);
                left.store(count, now + resets);
            }
            if is_known {
                return;
            }
        }
    }

    /// Notes the US dollars left; `None` where there is no limit.
    pub fn set_credits(&self, usd: Option<f64>) {
        self.credits.0.store(usd.unwrap_or(f64::NAN).to_bits(), Ordering::Relaxed);
    }

    /// What was said is void: the credential is another one.
    pub fn forget(&self) {
        self.requests.store(UNKNOWN, Duration::ZERO);
        self.tokens.store(UNKNOWN, Duration::ZERO);
        self.set_credits(None);
    }

    /// Requests left, while that is still true.
    pub fn requests(&self, now: Duration) -> Option<u64> {
        self.requests.load(now)
    }

    /// Tokens left, while that is still true.
    pub fn tokens(&self, now: Duration) -> Option<u64> {
        self.tokens.load(now)
    }

    /// US dollars left.
    pub fn credits(&self) -> Option<f64> {
        let usd = f64::from_bits(self.credits.0.load(Ordering::Relaxed));
        usd.is_finite().then_some(usd)
    }

    /// All that is known, by the word for its kind; `None` where nothing is.
    #[expect(clippy::cast_precision_loss, reason = "a display figure")]
    pub fn left(&self, now: Duration) -> [(&'static str, Option<f64>); 3] {
        let count = |left: Option<u64>| left.map(|left| left as f64);
        [
            ("requests", count(self.requests(now))),
            ("tokens", count(self.tokens(now))),
            ("credits", self.credits()),
        ]
    }

    /// Whether the next call would likely be refused: no more is left than may be on its way. Calls
    /// whose reply has come are in the provider's count already, so few of those in flight count here.
    pub fn is_low(&self, inflight: u64, now: Duration) -> bool {
        self.requests(now).is_some_and(|left| left <= inflight.min(UNCOUNTED))
            || self.tokens(now) == Some(0)
            || self.credits().is_some_and(|usd| usd <= 0.0)
    }
}

impl Left {
    fn store(&self, remaining: u64, resets: Duration) {
        let micros = u64::try_from(resets.as_micros()).unwrap_or(u64::MAX);
        self.resets.store(micros, Ordering::Relaxed);
        self.remaining.store(remaining, Ordering::Relaxed);
    }

    fn load(&self, now: Duration) -> Option<u64> {
        let remaining = self.remaining.load(Ordering::Relaxed);
        let resets = Duration::from_micros(self.resets.load(Ordering::Relaxed));
        (remaining != UNKNOWN && now < resets).then_some(remaining)
    }
}

/// When a limit that a reply names is whole again, whichever kind of limit that is: for a 429 that
/// has no `retry-after`.
pub fn reset_of_exhausted(headers: &HeaderMap, wall: SystemTime) -> Option<Duration> {
    let text = |name: &HeaderName| headers.get(name)?.to_str().ok();
    let pairs = NAMES.iter().flat_map(|Names(pairs)| pairs);
    let exhausted = pairs.filter(|(remaining, _)| text(remaining).map(str::trim) == Some("0"));
    exhausted.filter_map(|(_, reset)| reset_after(text(reset)?, wall)).max()
}

/// The time until a reset: `1.25s`, `6m0s`, `270ms`, plain seconds, an RFC 3339 moment (Anthropic)
/// or one in milliseconds since 1970 (OpenRouter).
fn reset_after(text: &str, wall: SystemTime) -> Option<Duration> {
    let text = text.trim();
    let after = if let Ok(number) = text.parse::<f64>() {
        let is_millis = number >= EPOCH_MILLIS;
        let seconds = if is_millis { number / 1_000.0 } else { number };
        let span = Duration::try_from_secs_f64(seconds).ok()?;
        let now = wall.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        if number >= EPOCH_SECONDS { span.saturating_sub(now) } else { span }
    } else if let Ok(moment) = OffsetDateTime::parse(text, &Rfc3339) {
        SystemTime::from(moment).duration_since(wall).unwrap_or_default()
    } else {
        spans(text)?
    };
    Some(after.min(LONGEST_WINDOW))
}

/// A sum of numbers with units, as Go prints durations.
fn spans(mut text: &str) -> Option<Duration> {
    let mut sum = Duration::ZERO;
    while !text.is_empty() {
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, rest) = text.split_at_checked(digits)?;
        let end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (unit, rest) = rest.split_at_checked(end)?;
        let seconds = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3_600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        let span = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?;
        sum = sum.checked_add(span)?;
        text = rest;
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, proptest};

    const WALL: SystemTime = SystemTime::UNIX_EPOCH;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (header(name), value.parse().unwrap())).collect()
    }

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn every_form_of_a_reset_is_read() {
        let wall = WALL + Duration::from_secs(1_790_000_000);
        for (text, wanted) in [
            ("1.25s", Some(ms(1_250))),
            ("6m0s", Some(ms(360_000))),
            ("270ms", Some(ms(270))),
            ("1h2m3.5s", Some(ms(3_723_500))),
            ("12", Some(ms(12_000))),
            ("1790000060000", Some(ms(60_000))),
            ("1790000060", Some(ms(60_000))),
            ("99999999h", Some(LONGEST_WINDOW)),
            ("5000000000000000h5000000000000000h", None),
            ("2026-09-21T14:14:20Z", Some(ms(1_000 * (1_790_000_060 - 1_790_000_000)))),
            ("soon", None),
            ("-3", None),
            ("3 apples", None),
        ] {
            assert_eq!(reset_after(text, wall), wanted, "{text}");
        }
    }

    #[test]
    fn replies_say_what_is_left_until_the_reset() {
        let quota = Quota::default();
        assert_eq!((quota.requests(ms(0)), quota.tokens(ms(0))), (None, None));
        let reply = headers(&[
            ("x-ratelimit-remaining-requests", "0"),
            ("x-ratelimit-reset-requests", "1.25s"),
            ("x-ratelimit-remaining-tokens", "199100"),
            ("x-ratelimit-reset-tokens", "270ms"),
        ]);
        quota.read(&reply, ms(1_000), WALL);
        assert_eq!((quota.requests(ms(1_100)), quota.tokens(ms(1_100))), (Some(0), Some(199_100)));
        assert!(quota.is_low(0, ms(2_000)));
        assert_eq!((quota.requests(ms(2_300)), quota.tokens(ms(1_300))), (None, None));
        assert!(!quota.is_low(0, ms(2_300)));
        assert_eq!(reset_of_exhausted(&reply, WALL), Some(ms(1_250)));
    }

    #[test]
    fn anthropics_and_openrouters_headers_are_read_and_azures_minus_one_is_not() {
        let quota = Quota::default();
        quota.read(&headers(&[("anthropic-ratelimit-requests-remaining", "7")]), ms(0), WALL);
        assert_eq!(quota.requests(ms(0)), Some(7));
        assert!(quota.is_low(7, ms(0)) && !quota.is_low(6, ms(0)));
        quota.read(&headers(&[("x-ratelimit-remaining", "3")]), ms(0), WALL);
        assert_eq!(quota.requests(ms(0)), Some(3));
        quota.read(&headers(&[("x-ratelimit-remaining-requests", "-1")]), ms(0), WALL);
        assert_eq!(quota.requests(ms(0)), Some(3));
    }

    #[test]
    fn an_account_without_credit_is_low() {
        let quota = Quota::default();
        quota.set_credits(Some(0.5));
        assert!(!quota.is_low(0, ms(0)));
        quota.set_credits(Some(0.0));
        assert!(quota.is_low(0, ms(0)));
        quota.set_credits(None);
        assert!(!quota.is_low(0, ms(0)), "its limit was lifted");
    }

    proptest! {
        #[test]
        fn no_text_of_a_reset_harms(
            text in proptest::prop_oneof![any::<String>(), "([0-9]{1,22}(ms|s|m|h|d)){1,4}", "[0-9e.]{1,12}"],
        ) {
            if let Some(after) = reset_after(&text, WALL) {
                proptest::prop_assert!(after <= LONGEST_WINDOW);
            }
        }
    }
}
