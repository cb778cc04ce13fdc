//! Recorded streams, whole and in every cut, and what is to be read from them.

use super::tests::{ID, golden, tapped, usage};
use super::{Dialect, Reading, StreamTap, UpstreamFault};
use crate::protocol::usage::{UpstreamCost, Usage};
use proptest::prelude::{any, prop, prop_assert_eq, proptest};

/// What each recorded stream says, and whether it is complete and how much text it holds.
struct Expected {
    file: &'static str,
    dialect: Dialect,
    id: &'static str,
    model: &'static str,
    usage: Option<Usage>,
    cost_usd: Option<f64>,
    finish: Option<&'static str>,
    fault: Option<(&'static str, &'static str, Option<u16>)>,
    is_complete: bool,
    produced_bytes: u64,
    at_boundary: bool,
}

impl Expected {
    fn of(file: &'static str, dialect: Dialect, id: &'static str, model: &'static str) -> Self {
        Self {
            file,
            dialect,
            id,
            model,
            usage: None,
            cost_usd: None,
            finish: None,
            fault: None,
            is_complete: true,
            produced_bytes: 0,
            at_boundary: true,
        }
    }

    fn reading(&self) -> Reading {
        Reading {
            model: Some(self.model.to_owned()),
            id: Some(self.id.to_owned()),
            usage: self.usage,
            upstream_cost: self.cost_usd.map(|usd| UpstreamCost { usd, is_all: true, parts: None }),
            finish: self.finish.map(str::to_owned),
            is_early: false,
            is_done: false,
            is_under_way: false,
            fault: self.fault.map(|(message, code, status)| UpstreamFault {
                message: Some(message.to_owned()),
                code: Some(code.to_owned()),
                status,
            }),
            output: None,
        }
    }

    fn check(&self, tap: &StreamTap, how: &str) {
        let what = format!("{} {how}", self.file);
        let mut reading = tap.reading().clone();
        // Wherever a recorded reply names them they add up.
        let parts = reading.upstream_cost.as_mut().and_then(|cost| cost.parts.take());
        let parts = parts.map(|(input, output)| input + output);
        let differs = |sum: f64| self.cost_usd.is_none_or(|all| (all - sum).abs() > 1e-12);
        assert!(!parts.is_some_and(differs), "{what}");
        assert!(!std::mem::take(&mut reading.is_done) || self.is_complete, "{what}");
        assert_eq!(reading, self.reading(), "{what}");
        assert_eq!(tap.is_complete(), self.is_complete, "{what}");
        assert_eq!(tap.produced_bytes(), self.produced_bytes, "{what}");
        assert_eq!(tap.first_token(), self.produced_bytes > 0, "{what}");
        assert_eq!(tap.at_boundary(), self.at_boundary, "{what}");
        assert_eq!(tap.garbled(), 0, "{what}");
        assert_eq!(tap.fault().is_some(), self.fault.is_some(), "{what}");
    }
}

const DATED: &str = "acme/wisp-2-mini-20260801";
const WISP: &str = "acme/wisp-2-mini";

fn recorded() -> Vec<Expected> {
    recorded_chats().into_iter().chain(recorded_others()).collect()
}

fn recorded_chats() -> Vec<Expected> {
    use Dialect::Chat;
    let openrouter = |file| Expected {
        usage: usage([300, 512, 63, 31, 812, 94]),
        cost_usd: Some(0.000_821_2),
        finish: Some("stop"),
        produced_bytes: "Checking theHigh water is at 06:12 — 🌊.".len() as u64,
        ..Expected::of(file, Chat, ID, DATED)
    };
    let cut = |file| Expected {
        is_complete: false,
        produced_bytes: 8,
        ..Expected::of(file, Chat, ID, DATED)
    };
    vec![
        openrouter("chat_stream_openrouter.sse"),
        openrouter("chat_stream_openrouter_crlf.sse"),
        Expected {
            usage: usage([240, 0, 22, 0, 240, 22]),
            cost_usd: Some(0.000_35),
            finish: Some("tool_calls"),
            produced_bytes: "tide{\"port\":\"Oslo\"}".len() as u64,
            ..Expected::of("chat_stream_tool_openrouter.sse", Chat, ID, DATED)
        },
        Expected {
            usage: usage([19, 0, 11, 64, 19, 75]),
            finish: Some("stop"),
            produced_bytes: 4,
            ..Expected::of(
                "chat_stream_openai.sse",
                Chat,
                "chatcmpl-Sample0001",
                "gpt-x-mini-2026-07-01",
            )
        },
        Expected {
            finish: Some("stop"),
            produced_bytes: 4,
            ..Expected::of(
                "chat_stream_azure_head.sse",
                Chat,
                "chatcmpl-Sample0001",
                "gpt-x-mini-2026-07-01",
            )
        },
        Expected {
            finish: Some("error"),
            fault: Some(("Provider disconnected mid-stream", "502", Some(502))),
            ..cut("chat_stream_mid_error.sse")
        },
        Expected {
            finish: Some("error"),
            fault: Some(("Provider disconnected unexpectedly", "server_error", None)),
            produced_bytes: 2,
            ..cut("chat_stream_mid_error_string_code.sse")
        },
        cut("chat_stream_truncated_clean.sse"),
        Expected { at_boundary: false, ..cut("chat_stream_truncated_partial.sse") },
    ]
}

fn recorded_others() -> Vec<Expected> {
    use Dialect::{Messages, Responses};
    let responses = |file| Expected {
        usage: usage([120, 0, 25, 0, 120, 25]),
        cost_usd: Some(0.000_245),
        finish: Some("stop"),
        produced_bytes: 23,
        ..Expected::of(file, Responses, "resp_sample0001", WISP)
    };
    let messages = |file| Expected {
        usage: usage([120, 64, 25, 0, 184, 25]),
        finish: Some("stop"),
        produced_bytes: 23,
        ..Expected::of(file, Messages, "msg_sample0002", WISP)
    };
    vec![
        responses("responses_stream_openai.sse"),
        responses("responses_stream_openrouter.sse"),
        Expected {
            finish: Some("error"),
            fault: Some(("Internal server error", "server_error", None)),
            ..Expected::of("responses_stream_failed.sse", Responses, "resp_sample0001", WISP)
        },
        messages("messages_stream_anthropic.sse"),
        messages("messages_stream_openrouter.sse"),
        Expected {
            usage: usage([120, 64, 1, 0, 184, 1]),
            finish: Some("error"),
            fault: Some(("Provider is temporarily overloaded", "overloaded_error", None)),
            is_complete: false,
            ..Expected::of("messages_stream_error.sse", Messages, "msg_sample0003", WISP)
        },
    ]
}

#[test]
fn a_recorded_stream_reads_the_same_in_every_cut() {
    for expected in recorded() {
        let stream = golden(expected.file);
        let bytes = stream.as_bytes();
        expected.check(&tapped(expected.dialect, [bytes]), "whole");
        expected.check(&tapped(expected.dialect, bytes.chunks(1)), "byte by byte");
        for cut in 0..=bytes.len() {
            let (head, tail) = bytes.split_at(cut);
            expected.check(&tapped(expected.dialect, [head, tail]), &format!("cut at {cut}"));
        }
        let lf = stream.replace("\r\n", "\n");
        for end in ["\r\n", "\r"] {
            let other = lf.replace('\n', end);
            expected
                .check(&tapped(expected.dialect, other.as_bytes().chunks(7)), "other line ends");
        }
    }
}

proptest! {
    #[test]
    fn any_mutation_in_any_cut_reads_the_same(
        which in 0_usize..15,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        size in 1_usize..400,
    ) {
        let expected = &recorded()[which];
        let mut bytes = golden(expected.file).into_bytes();
        for (place, byte) in edits {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        let whole = tapped(expected.dialect, [&bytes[..]]);
        let cut = tapped(expected.dialect, bytes.chunks(size));
        prop_assert_eq!(whole.reading(), cut.reading());
        prop_assert_eq!(whole.garbled(), cut.garbled());
        prop_assert_eq!(whole.produced_bytes(), cut.produced_bytes());
        prop_assert_eq!(whole.is_complete(), cut.is_complete());
    }
}
