//! How long one attempt may still take: which deadline comes next, and what its passing means.

use crate::upstream::config::TimeoutsConfig;
use std::pin::Pin;
use std::time::{Duration, Instant};
use tokio::time::Sleep;

/// A deadline that has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expired {
    /// No byte of a reply came.
    FirstByte,
    /// A stream brought no token.
    FirstToken,
    /// A reply fell silent.
    Idle,
    /// The whole call took too long.
    Total,
}

/// What is due next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// The caller has waited in silence: a comment.
    Comment,
    /// A deadline.
    Expired(Expired),
}

/// The deadlines of one attempt.
#[derive(Debug)]
pub(super) struct Clock {
    idle_span: Duration,
    total: Instant,
    first_byte: Option<Instant>,
    first_token: Option<Instant>,
    idle: Option<Instant>,
    /// One timer for all of them. It is moved only to be earlier; when it rings too early it is set
    /// anew, so that a chunk costs no timer work.
    timer: Pin<Box<Sleep>>,
}

impl Clock {
    /// An attempt within a call that began at `begun`.
    pub(super) fn new(timeouts: &TimeoutsConfig, begun: Instant) -> Self {
        let total = begun + timeouts.total.0;
        Self {
            idle_span: timeouts.idle.0,
            total,
            first_byte: None,
            first_token: None,
            idle: None,
            timer: Box::pin(tokio::time::sleep_until(total.into())),
        }
    }

    /// When the whole call has taken too long.
    pub(super) const fn total(&self) -> Instant {
        self.total
    }

    /// The request goes out: its reply is awaited from here.
    pub(super) fn request_sent(&mut self, timeouts: &TimeoutsConfig, stream: bool, now: Instant) {
        self.first_byte = Some(now + timeouts.first_byte.0);
        self.first_token = stream.then(|| now + timeouts.first_token.0);
    }

    /// The reply's header came.
    pub(super) fn header_came(&mut self, now: Instant) {
        self.first_byte = None;
        self.idle = Some(now + self.idle_span);
    }

    /// Data of the reply came; `at_most` bounds the next silence where the reply has said all.
    pub(super) fn data_came(&mut self, now: Instant, at_most: Option<Duration>) {
        self.idle = Some(now + at_most.unwrap_or(self.idle_span));
    }

    /// The first token came, or none is to be waited for.
    pub(super) fn token_came(&mut self) {
        self.first_token = None;
    }

    /// The earliest moment something is due, and what; `comment` is when the caller should hear
    /// from us.
    pub(super) fn next(&self, comment: Option<Instant>) -> (Instant, Due) {
        [
            (self.first_byte, Due::Expired(Expired::FirstByte)),
            (self.first_token, Due::Expired(Expired::FirstToken)),
            (self.idle, Due::Expired(Expired::Idle)),
            (comment, Due::Comment),
        ]
        .into_iter()
        .filter_map(|(at, due)| Some((at?, due)))
        .fold((self.total, Due::Expired(Expired::Total)), |soonest, candidate| {
            if candidate.0 < soonest.0 { candidate } else { soonest }
        })
    }

    /// The timer, set to ring at `at` or before.
    pub(super) fn timer(&mut self, at: Instant) -> Pin<&mut Sleep> {
        if self.timer.deadline().into_std() > at || self.timer.is_elapsed() {
            self.timer.as_mut().reset(at.into());
        }
        self.timer.as_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_soonest_deadline_is_next() {
        let timeouts = TimeoutsConfig::default();
        let now = Instant::now();
        let mut clock = Clock::new(&timeouts, now);
        assert_eq!(clock.next(None), (now + timeouts.total.0, Due::Expired(Expired::Total)));
        clock.request_sent(&timeouts, true, now);
        assert_eq!(clock.next(None).1, Due::Expired(Expired::FirstByte));
        let comment = now + Duration::from_secs(1);
        assert_eq!(clock.next(Some(comment)), (comment, Due::Comment));
        let later = now + Duration::from_mins(1);
        clock.header_came(later);
        assert_eq!(clock.next(None).1, Due::Expired(Expired::FirstToken));
        clock.token_came();
        assert_eq!(clock.next(None), (later + timeouts.idle.0, Due::Expired(Expired::Idle)));
    }
}
