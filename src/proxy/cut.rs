//! Chapter 4, a stream that says more than was reserved for it: where it is cut, and how it ends then.

use super::caller::Caller;
use super::context::Call;
use crate::protocol::length::{self, SoFar};
use crate::protocol::tap::{Reading, StreamTap};
use bytes::Bytes;
use std::time::SystemTime;

/// How much of a stream was reserved.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reserved {
    /// Output tokens; `None` where nothing depends on them.
    pub(super) tokens: Option<u64>,
    /// The same as the upstream may count them.
    pub(super) said: Option<u64>,
    /// How many answers it has.
    pub(super) choices: u64,
}

impl Reserved {
    /// Reads the pieces from `from` on, event by event where they may reach what was reserved. What
    /// stands behind the event that does is thrown away; whether there was one.
    pub(super) fn read(self, tap: &mut StreamTap, pieces: &mut Vec<Bytes>, from: usize) -> bool {
        let bytes: usize = pieces.iter().skip(from).map(Bytes::len).sum();
        // No token is shorter than a byte.
        let at_most = tap.produced_tokens().saturating_add(bytes as u64 + 1);
        if self.tokens.is_none_or(|tokens| at_most < tokens) {
            pieces.iter().skip(from).for_each(|piece| tap.push(piece));
            // What its upstream has counted was not seen coming.
            return self.is_used_up(tap);
        }
        for number in from..pieces.len() {
            let Some(piece) = pieces.get_mut(number) else { break };
            let Some(end) = self.read_events(tap, piece) else { continue };
            piece.truncate(end);
            pieces.truncate(number + 1);
            return true;
        }
        false
    }

    /// Reads a piece up to the event that reaches what was reserved; where that ends.
    fn read_events(self, tap: &mut StreamTap, piece: &[u8]) -> Option<usize> {
        let mut rest = piece;
        while let Some(at) = memchr::memchr(b'\n', rest) {
            let (line, behind) = rest.split_at(at + 1);
            tap.push(line);
            rest = behind;
            if tap.at_boundary() && self.is_used_up(tap) {
                return Some(piece.len() - rest.len());
            }
        }
        tap.push(rest);
        // Lines may end by a carriage return alone.
        (tap.at_boundary() && self.is_used_up(tap)).then_some(piece.len())
    }

    /// Whether a stream that is not over has used up what was reserved for it. Of more answers than
    /// the tap tells apart the last may still run when it thinks that all have ended.
    fn is_used_up(self, tap: &StreamTap) -> bool {
        let may_tell = self.choices <= StreamTap::MOST_CHOICES;
        let is_over = tap.is_ended() || tap.fault().is_some() || tap.is_complete() && may_tell;
        let Reading { usage, finish, .. } = tap.reading();
        // Whoever keeps to the maximum may count up to it before it says why it ends.
        let counted = usage.filter(|_| finish.is_none()).map_or(0, |usage| usage.output_total);
        let is_reached = self.tokens.is_some_and(|tokens| tap.produced_tokens() >= tokens)
            || self.said.is_some_and(|most| counted > most);
        is_reached && !is_over
    }
}

/// The end of a stream whose reservation is used up, as of one that reached its maximum.
pub(super) fn last_events(caller: &Caller<'_>, call: &Call, tap: &StreamTap) -> Bytes {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let so_far = SoFar {
        reading: tap.reading(),
        events: tap.events(),
        produced: tap.produced_tokens(),
        choices: call.facts.answers,
        finished: tap.finished(),
        open_block: tap.open_block(),
        now: since_1970.unwrap_or_default().as_secs(),
    };
    let events = length::last_events(call.dialect, &so_far);
    if caller.between_events { events } else { [&b"\n\n"[..], &events].concat().into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Dialect;

    fn event(text: &str) -> String {
        format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n")
    }

    /// Reads a stream in pieces of this size, all of them at once.
    fn read(stream: &str, size: usize, tokens: u64) -> (bool, String, u64) {
        let mut tap = StreamTap::new(Dialect::Chat).of(1);
        let chunks = stream.as_bytes().chunks(size);
        let mut pieces: Vec<Bytes> = chunks.map(Bytes::copy_from_slice).collect();
        let reserved = Reserved { tokens: Some(tokens), said: None, choices: 1 };
        let is_cut = reserved.read(&mut tap, &mut pieces, 0);
        let left = String::from_utf8(pieces.concat()).unwrap();
        (is_cut, left, tap.produced_tokens())
    }

    #[test]
    fn a_burst_is_cut_behind_the_event_that_reaches_what_was_reserved() {
        let stream = event("word").repeat(400);
        let expected = event("word").repeat(5);
        let five = read(&expected, 1 << 20, 100).2;
        for size in [1, 7, 64, 1 << 20] {
            let (is_cut, left, produced) = read(&stream, size, five);
            assert!(is_cut && produced == five, "in pieces of {size}: {produced}");
            assert_eq!(left, expected, "in pieces of {size}");
        }
        let crlf = stream.replace('\n', "\r\n");
        assert_eq!(read(&crlf, 1 << 20, five).1, expected.replace('\n', "\r\n"));
    }

    #[test]
    fn what_ends_in_time_and_what_has_ended_is_never_cut() {
        let end = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
        let usage =
            "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":9}}\n\n";
        let stream = [&event("word").repeat(4), end, usage, "data: [DONE]\n\n"].concat();
        assert!(!read(&stream, 9, 6).0);
        assert_eq!(read(&stream, 9, 6).1, stream);
        let last = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"word\"},\"finish_reason\":\"stop\"}]}\n\n";
        let stream = [last, usage, "data: [DONE]\n\n"].concat();
        assert_eq!(read(&stream, 9, 1).1, stream, "it reached its end and its reservation at once");
    }

    #[test]
    fn what_the_upstream_counts_is_counted_though_nobody_sees_it() {
        let counting = |tokens: u64| {
            format!(
                "data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"\"}}}}],\"usage\":{{\"prompt_tokens\":1,\"completion_tokens\":{tokens}}}}}\n\n"
            )
        };
        let reserved = Reserved { tokens: Some(1_000), said: Some(300), choices: 1 };
        let mut tap = StreamTap::new(Dialect::Chat).of(1);
        for (tokens, is_cut) in [(100, false), (300, false), (301, true)] {
            let mut pieces = vec![Bytes::from(counting(tokens))];
            assert_eq!(reserved.read(&mut tap, &mut pieces, 0), is_cut, "{tokens}");
        }
        // One that has said why it ends has no more to say.
        let mut tap = StreamTap::new(Dialect::Messages).of(1);
        let end = "data: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":900}}\n\n";
        assert!(!reserved.read(&mut tap, &mut vec![Bytes::from(end)], 0));
    }

    #[test]
    fn without_a_reservation_nothing_is_cut() {
        let mut tap = StreamTap::new(Dialect::Chat).of(1);
        let mut pieces = vec![Bytes::from(event("word").repeat(1_000))];
        assert!(!Reserved { tokens: None, said: None, choices: 1 }.read(&mut tap, &mut pieces, 0));
        assert_eq!(pieces.concat().len(), 1_000 * event("word").len());
    }
}
