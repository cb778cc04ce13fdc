//! What an upstream's reply is worth: good, the caller's own fault, or a reason to ask the next one.

use super::clock::Expired;
use crate::error::{Kind, Rejection};
use crate::telemetry::metrics::Outcome;
use http::HeaderMap;
use http::header::RETRY_AFTER;
use pingora::{ErrorType, RetryType};
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
    /// When the upstream wants to be asked again.
    pub(super) retry_after: Option<Duration>,
    /// For `/status` and our log; our own words only.
    pub(super) what: String,
    /// Whether a connection that had served before may have been dead before this call: closed
    /// without a byte of a reply, or refused by the other side's HTTP/2 before any work was done.
    pub(super) may_be_stale: bool,
}

impl Failure {
    /// A failure without a wish of the upstream.
    pub(super) fn new(outcome: Outcome, what: impl Into<String>) -> Self {
        Self { outcome, retry_after: None, what: what.into(), may_be_stale: false }
    }

    /// Whether the attempt put no load on any upstream, so that going on to the next one multiplies
    /// nothing and the retry budget need not pay for it.
    pub(super) fn is_without_load(&self) -> bool {
        matches!(self.outcome, Outcome::ConnectError | Outcome::TlsError)
    }

    /// The failure of an attempt that ran out of time.
    pub(super) fn expired(expired: Expired) -> Self {
        let what = match expired {
            Expired::FirstByte => "no reply within first_byte",
            Expired::FirstToken => "no token within first_token",
            Expired::Idle => "silence longer than idle",
            Expired::Total => "the whole call took longer than total",
        };
        Self::new(Outcome::Timeout, what)
    }

    /// The failure behind one of Pingora's errors. Its text may hold the upstream's bytes, so only
    /// its class is used.
    #[expect(clippy::wildcard_enum_match_arm, reason = "Pingora's list is open")]
    pub(super) fn of(error: &pingora::Error) -> Self {
        let may_be_stale = matches!(error.retry, RetryType::ReusedOnly | RetryType::Decided(true))
            && *error.etype() != ErrorType::InvalidH2;
        let failure = match error.etype() {
            ErrorType::ConnectTimedout => {
                Self::new(Outcome::Timeout, "no connection within connect")
            }
            ErrorType::TLSHandshakeTimedout => {
                Self::new(Outcome::Timeout, "no TLS handshake within connect")
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
        Self { may_be_stale, ..failure }
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
    const MARKS: [&[u8]; 4] =
        [b"flagged_input", b"moderation", b"content_policy", b"content_filter"];
    MARKS.iter().any(|mark| memchr::memmem::find(body, mark).is_some())
}

/// When the upstream wants to be asked again: `retry-after-ms`, else `retry-after` in seconds or as
/// a date.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    if let Some(millis) = text("retry-after-ms").and_then(|text| text.parse::<f64>().ok()) {
        return Duration::try_from_secs_f64(millis / 1_000.0).ok();
    }
    let value = text(RETRY_AFTER.as_str())?;
    if let Ok(seconds) = value.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    // An HTTP date is an RFC 2822 date whose zone is written GMT.
    let date = OffsetDateTime::parse(&value.replace("GMT", "+0000"), &Rfc2822).ok()?;
    SystemTime::from(date).duration_since(now).ok()
}

/// What the caller is told once every attempt has failed.
pub(super) fn verdict(failures: &[Failure]) -> Rejection {
    let Some(last) = failures.last() else {
        let message = "no upstream can take the request now; try again shortly";
        return Rejection::new(Kind::NoUpstreamAvailable, message)
            .retry_after(Duration::from_secs(1));
    };
    let tried = match failures.len() {
        1 => "the upstream failed".to_owned(),
        count => format!("all {count} upstream attempts failed"),
    };
    if failures.iter().all(|failure| failure.outcome == Outcome::Status429) {
        let shortest = failures.iter().filter_map(|failure| failure.retry_after).min();
        return Rejection::new(
            Kind::RateLimitExceeded,
            "every upstream is rate limited; try again after the time in retry-after",
        )
        .retry_after(shortest.unwrap_or(Duration::from_secs(1)));
    }
    if last.outcome == Outcome::Timeout {
        let message = format!("{tried}, the last by taking too long; try again");
        return Rejection::new(Kind::UpstreamTimeout, message);
    }
    Rejection::new(Kind::UpstreamError, format!("{tried} ({}); try again", last.what))
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

    #[test]
    fn the_last_failure_decides_unless_all_were_rate_limits() {
        let limited = |seconds| Failure {
            retry_after: Some(Duration::from_secs(seconds)),
            ..Failure::new(Outcome::Status429, "429")
        };
        let all_limited = verdict(&[limited(20), limited(7)]);
        assert_eq!(all_limited.kind, Kind::RateLimitExceeded);
        assert_eq!(all_limited.retry_after, Some(Duration::from_secs(7)));
        let late = Failure::expired(Expired::FirstByte);
        assert_eq!(verdict(&[limited(1), late]).kind, Kind::UpstreamTimeout);
        let late = Failure::expired(Expired::Idle);
        assert_eq!(verdict(&[late, limited(1)]).kind, Kind::UpstreamError);
        assert_eq!(verdict(&[]).kind, Kind::NoUpstreamAvailable);
    }
}
