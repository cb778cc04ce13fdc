//! What an upstream's reply is worth: good, the caller's own fault, or a reason to ask the next one.

use super::clock::Expired;
use super::round::Nobody;
use crate::error::{Kind, Rejection};
use crate::protocol::tap::UpstreamFault;
use crate::telemetry::metrics::Outcome;
use crate::upstream::Trouble;
use http::HeaderMap;
use http::header::RETRY_AFTER;
use memchr::memmem;
use pingora::{ErrorType, RetryType};
use std::borrow::Cow;
use std::time::{Duration, SystemTime};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

/// What a status says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judgement {
    /// A reply to relay.
    Good,
    /// The caller's own fault: relayed as it is, at once.
    CallersFault,
    /// The upstream's fault: the next one may do better.
    Next(Outcome),
}

/// One failed attempt.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    /// The word for metrics.
    pub(super) outcome: Outcome,
    /// The status of the reply, or the one that an error in its body names.
    pub(super) status: Option<u16>,
    /// When the upstream wants to be asked again.
    pub(super) retry_after: Option<Duration>,
    /// For `/status` and our log; our own words only.
    pub(super) what: Cow<'static, str>,
    /// What the breaker makes of it.
    pub(super) trouble: Option<Trouble>,
    /// Whether it concerns one model and not the upstream: that of those behind a router.
    pub(super) is_of_model: bool,
    /// Whether it failed before a connection stood.
    pub(super) is_unconnected: bool,
    /// Whether nothing of the call can have been begun: it was not sent, its connection was closed
    /// before it arrived, or the other side's HTTP/2 says so.
    pub(super) is_untouched: bool,
}

/// A wish of at most this long is waited out where the same upstream must be asked again: a caller
/// that gives up at once on a 429, as n8n does, never learns of it.
const SHORT_WISH: Duration = Duration::from_secs(2);

impl Failure {
    /// A failure that counts against the upstream and has no status.
    pub(super) fn new(outcome: Outcome, what: impl Into<Cow<'static, str>>) -> Self {
        Self {
            outcome,
            status: None,
            retry_after: None,
            what: what.into(),
            trouble: Some(Trouble::Failed),
            is_of_model: false,
            is_unconnected: false,
            is_untouched: false,
        }
    }

    /// The failure that a status says.
    pub(super) fn status(outcome: Outcome, status: u16, retry_after: Option<Duration>) -> Self {
        let (what, trouble): (Cow<'static, str>, _) = match status {
            401 => ("the credential was refused (status 401)".into(), Some(Trouble::Refused)),
            402 => ("no credit is left (status 402)".into(), Some(Trouble::Refused)),
            403 => ("the credential may not do this (status 403)".into(), Some(Trouble::Refused)),
            // It works and has enough to do: it rests, and is not ill.
            429 => ("rate limited (status 429)".into(), None),
            _ => (format!("status {status}").into(), Some(Trouble::Failed)),
        };
        Self { status: Some(status), retry_after, trouble, ..Self::new(outcome, what) }
    }

    /// The failure of a reply of good status that holds an error.
    pub(super) fn error_body(fault: &UpstreamFault, what: &'static str) -> Self {
        let trouble = match fault.status {
            // What a caller did wrong, or too often, makes no upstream ill; 403 is moderation.
            Some(400 | 403 | 404 | 413 | 422 | 429) => None,
            Some(401 | 402) => Some(Trouble::Refused),
            Some(_) | None => Some(Trouble::Failed),
        };
        Self { status: fault.status, trouble, ..Self::new(Outcome::ErrorBody, what) }
    }

    /// Whether the attempt put no load on any upstream, so that going on to the next one multiplies
    /// nothing and the retry budget need not pay for it.
    pub(super) fn is_without_load(&self) -> bool {
        self.is_unconnected || matches!(self.outcome, Outcome::ConnectError | Outcome::TlsError)
    }

    /// No connection within the time for one.
    pub(super) fn unconnected() -> Self {
        let failure = Self::new(Outcome::Timeout, "no connection within connect");
        Self { is_unconnected: true, ..failure }
    }

    /// Whether the same upstream may do better a moment later, and how long it wants to be left
    /// alone (the last column of WIRE section 3). A timeout has cost the caller enough.
    pub(super) fn may_be_repeated_after(&self) -> Option<Duration> {
        let passes = match self.outcome {
            Outcome::ConnectError | Outcome::Reset | Outcome::StreamBroken | Outcome::Status5xx => {
                true
            }
            Outcome::Status4xx => matches!(self.status, Some(408 | 409 | 425 | 498)),
            Outcome::Status429 => self.retry_after.is_some() && self.trouble.is_none(),
            Outcome::ErrorBody => matches!(self.status, None | Some(408 | 409 | 429 | 500..)),
            Outcome::Ok | Outcome::TlsError | Outcome::Timeout | Outcome::Cancelled => false,
        };
        let wish = self.retry_after.unwrap_or_default();
        (passes && wish <= SHORT_WISH).then_some(wish)
    }

    /// The failure of an attempt that ran out of time.
    pub(super) fn expired(expired: Expired) -> Self {
        let what = match expired {
            Expired::FirstByte => "no reply within first_byte",
            Expired::FirstToken => "no token within first_token",
            Expired::Idle => "silence longer than idle",
            Expired::Total => "the whole call took longer than total",
        };
        let failure = Self::new(Outcome::Timeout, what);
        match expired {
            // The attempts before may have taken most of it.
            Expired::Total => Self { trouble: None, ..failure },
            Expired::FirstByte | Expired::FirstToken | Expired::Idle => failure,
        }
    }

    /// The failure behind one of Pingora's errors. Its text may hold the upstream's bytes, so only
    /// its class is used.
    #[expect(clippy::wildcard_enum_match_arm, reason = "Pingora's list is open")]
    pub(super) fn of(error: &pingora::Error) -> Self {
        // GOAWAY and REFUSED_STREAM (RFC 9113 section 8.7). What Pingora would repeat on any used
        // connection besides, an upstream may well have begun.
        let is_untouched =
            *error.etype() == ErrorType::H2Error && error.retry == RetryType::Decided(true);
        let failure = match error.etype() {
            ErrorType::ConnectTimedout => Self::unconnected(),
            ErrorType::TLSHandshakeTimedout => {
                Self { what: "no TLS handshake within connect".into(), ..Self::unconnected() }
            }
            ErrorType::TLSHandshakeFailure | ErrorType::InvalidCert | ErrorType::HandshakeError => {
                Self::new(Outcome::TlsError, "the TLS handshake failed")
            }
            ErrorType::ConnectRefused => Self::new(Outcome::ConnectError, "connection refused"),
            ErrorType::ConnectError
            | ErrorType::ConnectNoRoute
            | ErrorType::BindError
            | ErrorType::SocketError
            | ErrorType::ConnectProxyFailure => {
                Self::new(Outcome::ConnectError, "no connection could be made")
            }
            ErrorType::ReadTimedout | ErrorType::WriteTimedout => {
                Self::new(Outcome::Timeout, "the connection stood still")
            }
            ErrorType::InvalidHTTPHeader => {
                Self::new(Outcome::Reset, "the reply's header cannot be read")
            }
            _ => Self::new(Outcome::Reset, "the connection broke"),
        };
        Self { is_untouched, ..failure }
    }
}

/// Judges a final status (DESIGN section 5, WIRE section 3).
pub(super) const fn status(status: u16) -> Judgement {
    match status {
        200..=299 => Judgement::Good,
        429 => Judgement::Next(Outcome::Status429),
        // The credential's fault (401, 402, 403), a timeout or a lock (408, 409, 425), Groq's
        // capacity (498): all the upstream's.
        401 | 402 | 403 | 408 | 409 | 425 | 498 => Judgement::Next(Outcome::Status4xx),
        400..=499 => Judgement::CallersFault,
        500..=599 => Judgement::Next(Outcome::Status5xx),
        // 101 would open a tunnel, 3xx is never followed, anything else is no HTTP.
        _ => Judgement::Next(Outcome::ErrorBody),
    }
}

/// Whether a 403 is about what the caller wrote and not about our credential: OpenRouter names the
/// flagged input, others the policy.
pub(super) fn is_moderation(body: &[u8]) -> bool {
    const MARKS: [&[u8]; 5] =
        [b"flagged_input", b"moderation", b"content_policy", b"content_filter", b"guardrail"];
    MARKS.iter().any(|mark| memmem::find(body, mark).is_some())
}

/// Whether a 429 is about those who serve one model behind a router, while the router has others:
/// OpenRouter names them (WIRE section 3).
pub(super) fn is_of_one_model(body: &[u8]) -> bool {
    const MARKS: [&[u8]; 3] =
        [b"\"affected_providers\"", b"\"provider_name\"", b"\"requested_models\""];
    MARKS.iter().any(|mark| memmem::find(body, mark).is_some())
}

/// Whether a 429 is about credit: no waiting helps (OpenAI's second kind, WIRE section 3).
pub(super) fn is_out_of_quota(body: &[u8]) -> bool {
    memmem::find(body, b"insufficient_quota").is_some()
}

/// When the upstream wants to be asked again: `retry-after-ms`, else `retry-after` in seconds or as
/// a date.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let millis = text("retry-after-ms").and_then(|text| text.parse::<f64>().ok());
    let wish = millis.and_then(|millis| Duration::try_from_secs_f64(millis / 1_000.0).ok());
    if wish.is_some() {
        return wish;
    }
    let value = text(RETRY_AFTER.as_str())?;
    if let Ok(seconds) = value.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    // An HTTP date is an RFC 2822 date whose zone is written GMT.
    let date = OffsetDateTime::parse(&value.replace("GMT", "+0000"), &Rfc2822).ok()?;
    SystemTime::from(date).duration_since(now).ok()
}

/// What the caller is told once every attempt has failed, or none could be made.
pub(super) fn verdict(failures: &[Failure], nobody: Nobody) -> Rejection {
    let waiting = match nobody {
        Nobody::RateLimited(left) => Some(left),
        Nobody::Asked | Nobody::Full => None,
    };
    let Some(last) = failures.last() else {
        return match nobody {
            Nobody::RateLimited(left) => rate_limited(left),
            Nobody::Full => not_now("every upstream has as many calls as it may have; try again"),
            Nobody::Asked => not_now("no upstream can take the request now; try again shortly"),
        };
    };
    let tried = match failures.len() {
        1 => "the upstream failed".to_owned(),
        count => format!("all {count} upstream attempts failed"),
    };
    // Some say so within a 200.
    let is_limited =
        |failure: &Failure| failure.outcome == Outcome::Status429 || failure.status == Some(429);
    if failures.iter().all(is_limited) {
        let wishes = failures.iter().filter_map(|failure| failure.retry_after).chain(waiting);
        if failures.iter().all(|failure| failure.trouble == Some(Trouble::Refused)) {
            // Credit does not come back by waiting, unless somebody says when.
            let message = "no upstream has quota left; its operator has to see to that";
            let rejection = Rejection::new(Kind::RateLimitExceeded, message);
            return Rejection { retry_after: wishes.min(), ..rejection };
        }
        return rate_limited(wishes.min().unwrap_or(Duration::from_secs(1)));
    }
    if last.outcome == Outcome::Timeout {
        let message = format!("{tried}, the last by taking too long ({}); try again", last.what);
        return Rejection::new(Kind::UpstreamTimeout, message);
    }
    Rejection::new(Kind::UpstreamError, format!("{tried} ({}); try again", last.what))
}

fn rate_limited(shortest: Duration) -> Rejection {
    let message = "every upstream is rate limited; try again after the time in retry-after";
    Rejection::new(Kind::RateLimitExceeded, message).retry_after(shortest)
}

fn not_now(message: &'static str) -> Rejection {
    Rejection::new(Kind::NoUpstreamAvailable, message).retry_after(Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_judged_as_the_contract_says() {
        for (code, judgement) in [
            (200, Judgement::Good),
            (201, Judgement::Good),
            (101, Judgement::Next(Outcome::ErrorBody)),
            (302, Judgement::Next(Outcome::ErrorBody)),
            (400, Judgement::CallersFault),
            (401, Judgement::Next(Outcome::Status4xx)),
            (404, Judgement::CallersFault),
            (408, Judgement::Next(Outcome::Status4xx)),
            (413, Judgement::CallersFault),
            (422, Judgement::CallersFault),
            (429, Judgement::Next(Outcome::Status429)),
            (500, Judgement::Next(Outcome::Status5xx)),
            (524, Judgement::Next(Outcome::Status5xx)),
            (529, Judgement::Next(Outcome::Status5xx)),
            (600, Judgement::Next(Outcome::ErrorBody)),
        ] {
            assert_eq!(status(code), judgement, "{code}");
        }
    }

    #[test]
    fn retry_after_is_read_in_all_its_forms() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let read = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            retry_after(&headers, now)
        };
        assert_eq!(read("retry-after", "20"), Some(Duration::from_secs(20)));
        assert_eq!(read("retry-after-ms", "1500"), Some(Duration::from_millis(1500)));
        assert_eq!(
            read("retry-after", "Sun, 06 Nov 1994 08:50:37 GMT"),
            Some(Duration::from_mins(1))
        );
        for wrong in ["-1", "soon", "", "Sun, 06 Nov 1994 08:00:00 GMT", "NaN"] {
            assert_eq!(read("retry-after", wrong), None, "{wrong}");
        }
    }

    fn limited(seconds: u64) -> Failure {
        Failure::status(Outcome::Status429, 429, Some(Duration::from_secs(seconds)))
    }

    #[test]
    fn the_last_failure_decides_unless_all_were_rate_limits() {
        let verdict = |failures: &[Failure]| verdict(failures, Nobody::Asked);
        let all_limited = verdict(&[limited(20), limited(7)]);
        assert_eq!(all_limited.kind, Kind::RateLimitExceeded);
        assert_eq!(all_limited.retry_after, Some(Duration::from_secs(7)));
        let late = Failure::expired(Expired::FirstByte);
        assert_eq!(verdict(&[limited(1), late]).kind, Kind::UpstreamTimeout);
        let late = Failure::expired(Expired::Idle);
        assert_eq!(verdict(&[late, limited(1)]).kind, Kind::UpstreamError);
        assert_eq!(verdict(&[]).kind, Kind::NoUpstreamAvailable);
        let broke =
            |retry_after| Failure { trouble: Some(Trouble::Refused), retry_after, ..limited(1) };
        assert_eq!(verdict(&[broke(None), broke(None)]).retry_after, None, "no waiting helps");
        let wish = Some(Duration::from_secs(9));
        assert_eq!(verdict(&[broke(None), broke(wish)]).retry_after, wish);
        assert_eq!(verdict(&[broke(None), limited(1)]).retry_after, Some(Duration::from_secs(1)));
    }

    #[test]
    fn those_that_wait_out_a_rate_limit_count_as_limited() {
        let waiting = Nobody::RateLimited(Duration::from_secs(3));
        for failures in [&[][..], &[limited(20)]] {
            let said = verdict(failures, waiting);
            assert_eq!(said.kind, Kind::RateLimitExceeded);
            assert_eq!(said.retry_after, Some(Duration::from_secs(3)));
        }
        assert_eq!(verdict(&[], Nobody::Full).kind, Kind::NoUpstreamAvailable);
    }

    #[test]
    fn only_what_may_pass_is_tried_again_at_the_same_upstream() {
        let again = |failure: Failure| failure.may_be_repeated_after();
        let status = |code| match status(code) {
            Judgement::Next(outcome) => again(Failure::status(outcome, code, None)),
            Judgement::Good | Judgement::CallersFault => panic!("{code}"),
        };
        let now = Some(Duration::ZERO);
        for code in [408, 409, 425, 498, 500, 502, 503, 524, 529] {
            assert_eq!(status(code), now, "{code}");
        }
        for code in [401, 402, 403, 429, 302] {
            assert_eq!(status(code), None, "{code}");
        }
        assert_eq!(again(limited(1)), Some(Duration::from_secs(1)));
        assert_eq!(again(limited(20)), None);
        assert_eq!(again(Failure::new(Outcome::ConnectError, "refused")), now);
        assert_eq!(again(Failure::expired(Expired::FirstByte)), None);
    }

    #[test]
    fn a_credential_is_blamed_at_once_and_a_rate_limit_never() {
        let trouble = |code| Failure::status(Outcome::Status4xx, code, None).trouble;
        for code in [401, 402, 403] {
            assert_eq!(trouble(code), Some(Trouble::Refused), "{code}");
        }
        assert_eq!(trouble(429), None);
        assert_eq!(trouble(500), Some(Trouble::Failed));
        assert_eq!(Failure::expired(Expired::Total).trouble, None);
    }
}
