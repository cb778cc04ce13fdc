//! Faults on request: what each does instead of an answer, and to an answer under way.

use super::ask::{Ask, Surface};
use super::refusal::{Refusal, Trouble};
use super::reply::{Ending, Event, Reply, Side, Stamp};
use super::responses;
use serde_json::json;
use std::time::Duration;

/// How long the slow model thinks.
const THOUGHT: Duration = Duration::from_secs(4);
/// What OpenRouter sends before a body whose end it does not know yet (WIRE section 2).
const PADDING: &str = "\n         \n";

/// A fault; the model's name asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Main answers 503.
    Fails503,
    /// Main answers 429.
    Fails429,
    /// Main answers 401.
    RefusesKey,
    /// Main answers 200 with an error in it, before any content.
    ErrorIn200,
    /// Both answer 503.
    FailsEverywhere,
    /// Both think long.
    Slow,
    /// A stream of either ends without its last chunk, in the middle of an event.
    CutMidStream,
    /// A stream of either goes silent.
    Stalls,
    /// A stream of either ends without an end mark, as if all were well.
    Truncates,
}

/// What is said to a caller whose credential is not the one in the configuration.
pub(super) fn wrong_key() -> Refusal {
    Refusal::new(Trouble::WrongKey, "the simulated provider does not know this key")
}

impl Fault {
    /// The reply that this side gives instead of an answer; `None` where it answers.
    pub(super) fn instead(self, side: Side, ask: &Ask, stamp: &Stamp<'_>) -> Option<Reply> {
        let unavailable = || Refusal::new(Trouble::Unavailable, "simulated: out of order");
        let refusal = match (self, side) {
            (Self::Fails503, Side::Main) | (Self::FailsEverywhere, _) => unavailable(),
            (Self::Fails429, Side::Main) => {
                Refusal::new(Trouble::RateLimited, "simulated: at capacity, retry after 2 seconds")
            }
            (Self::RefusesKey, Side::Main) => wrong_key(),
            (Self::ErrorIn200, Side::Main) => {
                return Some(error_in_200(&unavailable(), ask, stamp));
            }
            (
                Self::Fails503 | Self::Fails429 | Self::RefusesKey | Self::ErrorIn200,
                Side::Spare,
            )
            | (Self::Slow | Self::CutMidStream | Self::Stalls | Self::Truncates, _) => return None,
        };
        Some(Reply::refusal(ask.surface, &refusal))
    }

    /// Does to a good reply what this fault does; plain replies are only ever late.
    pub(super) fn spoil(self, reply: Reply, is_stream: bool) -> Reply {
        match (self, is_stream) {
            (Self::Slow, false) => Reply { before_header: THOUGHT, ..reply },
            (Self::Slow, true) => late(reply),
            (Self::CutMidStream, true) => Reply { ending: Ending::Cut, ..half(reply, true) },
            (Self::Stalls, true) => Reply { ending: Ending::Silence, ..half(reply, false) },
            (Self::Truncates, true) => half(reply, false),
            (Self::CutMidStream | Self::Stalls | Self::Truncates, false)
            | (
                Self::Fails503
                | Self::Fails429
                | Self::RefusesKey
                | Self::ErrorIn200
                | Self::FailsEverywhere,
                _,
            ) => reply,
        }
    }
}

/// A reply whose header promises well.
fn error_in_200(refusal: &Refusal, ask: &Ask, stamp: &Stamp<'_>) -> Reply {
    if !ask.stream {
        return Reply::text(200, format!("{PADDING}{PADDING}{}", refusal.body(ask.surface)));
    }
    let error = refusal.error(ask.surface);
    let event = match ask.surface {
        Surface::Chat | Surface::Completions | Surface::Embeddings => Event::frame(&json!({
            "id": stamp.id("gen"),
            "object": "chat.completion.chunk",
            "created": stamp.created,
            "error": error,
            "choices": [{ "index": 0, "delta": { "content": "" }, "finish_reason": "error" }],
        })),
        Surface::Responses => responses::failed(&error, stamp),
        Surface::Messages => {
            Event::frame(&json!({ "type": "error", "error": error })).named("error")
        }
    };
    Reply::stream(vec![event])
}

/// The first half; with half of the next event where the cut goes through one.
fn half(mut reply: Reply, through_an_event: bool) -> Reply {
    let kept = reply.beats.len() / 2;
    reply.beats.truncate(kept + usize::from(through_an_event));
    if through_an_event && let Some(last) = reply.beats.last_mut() {
        let middle = last.bytes.len() / 2;
        let middle = (0..=middle).rev().find(|at| last.bytes.is_char_boundary(*at));
        last.bytes.truncate(middle.unwrap_or_default());
    }
    reply
}

/// The first token late, after whatever came at once.
fn late(mut reply: Reply) -> Reply {
    if let Some(first) = reply.beats.iter_mut().find(|beat| !beat.after.is_zero()) {
        first.after = THOUGHT;
    }
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream() -> Reply {
        Reply::stream((0..10).map(|n| Event::token(&json!({ "n": n }))).collect())
    }

    #[test]
    fn a_cut_goes_through_the_middle_of_an_event() {
        let reply = Fault::CutMidStream.spoil(stream(), true);
        let last = reply.beats.last().unwrap();
        assert_eq!(reply.ending, Ending::Cut);
        assert!(last.bytes.starts_with("data: ") && !last.bytes.ends_with('\n'));
    }

    #[test]
    fn a_truncated_stream_ends_as_http_says_and_nothing_else() {
        let reply = Fault::Truncates.spoil(stream(), true);
        assert_eq!((reply.ending, reply.beats.len()), (Ending::Complete, 5));
    }

    #[test]
    fn a_slow_reply_only_starts_late() {
        let reply = Fault::Slow.spoil(stream(), true);
        assert_eq!(reply.beats[1].after, THOUGHT);
        assert_eq!(reply.beats.len(), stream().beats.len());
    }

    #[test]
    fn plain_replies_are_not_broken() {
        for fault in [Fault::CutMidStream, Fault::Stalls, Fault::Truncates] {
            let reply = fault.spoil(Reply::json(200, &json!({})), false);
            assert_eq!((reply.ending, reply.beats.len()), (Ending::Complete, 1));
        }
    }
}
