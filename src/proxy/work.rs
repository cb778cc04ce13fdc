//! Any time: whether an upstream may have worked for a call, so that it may bill it.

use crate::telemetry::metrics::Outcome;

/// What has come of a reply.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nothing yet.
    #[default]
    Awaited,
    /// A status that promises an answer.
    Good,
    /// A status that says there will be none.
    Bad,
}

/// How far one upstream call has come.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Work {
    /// The last of the request has been handed to the connection: its upstream may act on it.
    pub(super) is_out: bool,
    /// Its reply.
    pub(super) answer: Answer,
    /// Our count of its output is of all that came, and what came is all there was: a stream that is
    /// read, or a plain reply that was read to its end.
    pub(super) is_measured: bool,
}

impl Work {
    /// Whether its upstream may bill it, though it has said nothing of it. `ended` is how the call
    /// ended, nothing while it runs.
    ///
    /// One that could not be reached or had not got all of the request has done nothing, and one
    /// that answered with an error, closed without a word, or broke a stream off before its first
    /// token bills nothing. One that was left, or that we did not wait for, works on.
    pub(super) const fn may_be_billed(self, ended: Option<Outcome>, is_stream: bool) -> bool {
        let may_work = match self.answer {
            Answer::Good => true,
            Answer::Awaited => self.is_out,
            Answer::Bad => false,
        };
        may_work
            && match ended {
                None => matches!(self.answer, Answer::Good),
                Some(Outcome::Ok | Outcome::Timeout | Outcome::Cancelled) => true,
                // A plain reply that had begun was ready; what a stream had said counts by itself.
                Some(Outcome::Reset | Outcome::StreamBroken) => {
                    matches!(self.answer, Answer::Good) && !is_stream
                }
                Some(
                    Outcome::ConnectError
                    | Outcome::TlsError
                    | Outcome::Status4xx
                    | Outcome::Status429
                    | Outcome::Status5xx
                    | Outcome::ErrorBody,
                ) => false,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNSENT: Work = Work { is_out: false, answer: Answer::Awaited, is_measured: false };
    const SENT: Work = Work { is_out: true, ..UNSENT };
    const BEGUN: Work = Work { answer: Answer::Good, ..SENT };
    const REFUSED: Work = Work { answer: Answer::Bad, ..SENT };

    #[test]
    fn what_never_left_and_what_was_refused_is_free() {
        for ended in [Outcome::Timeout, Outcome::Cancelled, Outcome::ConnectError, Outcome::Reset] {
            assert!(!UNSENT.may_be_billed(Some(ended), false), "{ended:?}");
            assert!(!REFUSED.may_be_billed(Some(ended), false), "{ended:?}");
        }
        for ended in [Outcome::Status5xx, Outcome::Status429, Outcome::ErrorBody, Outcome::Reset] {
            assert!(!SENT.may_be_billed(Some(ended), false), "{ended:?}");
        }
        assert!(!SENT.may_be_billed(None, false));
    }

    #[test]
    fn who_was_left_works_on() {
        for is_stream in [false, true] {
            assert!(SENT.may_be_billed(Some(Outcome::Timeout), is_stream));
            assert!(SENT.may_be_billed(Some(Outcome::Cancelled), is_stream));
            assert!(BEGUN.may_be_billed(None, is_stream));
        }
    }

    #[test]
    fn a_plain_reply_that_had_begun_was_ready() {
        for ended in [Outcome::Reset, Outcome::StreamBroken] {
            assert!(BEGUN.may_be_billed(Some(ended), false), "{ended:?}");
            assert!(!BEGUN.may_be_billed(Some(ended), true), "{ended:?}");
        }
    }
}
