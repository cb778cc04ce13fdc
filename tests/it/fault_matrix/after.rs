//! Faults after a reply has proved good, where nobody else can be asked, and what is no fault.

use super::fault::Told::{ByTheCut, ByTheUpstream, InBand, InBandAfterMore};
use super::fault::{Fault, Http, PLAIN, STREAM, broken, good};
use crate::harness::{FINISH, Framing, Gate, Reply, delta, sample};
use std::time::Duration;

const TOKEN: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Ahoy\"}}]}\n\n";
const COMMENT: &str = ": still here\n\n";
/// More than a plain reply is held for.
const LARGE: usize = 200_000;
/// So much of such a reply reaches the caller before all of it has come: not its last piece.
const SENT: usize = 16 << 10;
const STREAM_HELD: usize = 256 << 10;

/// A stream after its first token.
fn begun(gate: &Gate) -> Reply {
    Reply::stream().piece(TOKEN).wait(gate)
}

/// A JSON reply too large to be held, of which a half has been said.
fn large(gate: &Gate, framing: Framing) -> Reply {
    let half = format!("{{\"choices\":[\"{}", "y".repeat(LARGE / 2));
    Reply::head(200, "application/json", framing).piece(half).wait(gate)
}

fn promised() -> Framing {
    Framing::Length(LARGE as u64)
}

pub(super) const BROKEN: &[Fault] = &[
    Fault::new("FIN", STREAM, |s| begun(s.gate).close(), broken("reset", InBand, TOKEN.len())),
    Fault::new("RST", STREAM, |s| begun(s.gate).reset(), broken("reset", InBand, TOKEN.len())),
    Fault::new(
        "an early end",
        STREAM,
        |s| begun(s.gate).end(),
        broken("truncated", InBand, TOKEN.len()),
    ),
    Fault::new(
        "an early end that FIN alone tells",
        STREAM,
        |s| begun(s.gate).framed(Framing::UntilClose).end(),
        broken("truncated", InBand, TOKEN.len()),
    )
    .http1_only(),
    Fault::new(
        "FIN in an event",
        STREAM,
        |s| begun(s.gate).piece(&TOKEN.as_bytes()[..30]).close(),
        broken("reset", InBand, TOKEN.len()),
    ),
    Fault::new(
        "an end in an event",
        STREAM,
        |s| begun(s.gate).piece(&TOKEN.as_bytes()[..30]).end(),
        broken("truncated", InBand, TOKEN.len()),
    ),
    Fault::new(
        "garbled events and an end",
        STREAM,
        |s| begun(s.gate).piece("data: {not json}\n\n<html>\n\n").end(),
        broken("garbled", InBand, TOKEN.len()),
    ),
    Fault::new(
        "a chunk without a size",
        STREAM,
        |s| begun(s.gate).raw("huh\r\n\r\n0\r\n\r\n").close(),
        broken("reset", InBand, TOKEN.len()),
    )
    .http1_only(),
    Fault::new(
        "a chunk shorter than its size",
        STREAM,
        |s| begun(s.gate).raw("ff\r\n: ?\n\n\r\n0\r\n\r\n").close(),
        broken("reset", InBand, TOKEN.len()),
    )
    .http1_only(),
    Fault::new(
        "an error event",
        STREAM,
        |s| {
            let choice = "[{\"index\":0,\"delta\":{\"content\":\"\"},\"finish_reason\":\"error\"}]";
            let error = format!(
                "data: {{\"error\":{{\"code\":502,\"message\":\"gone\"}},\"choices\":{choice}}}\n\n"
            );
            begun(s.gate).piece(error).end()
        },
        broken("error_body", ByTheUpstream, TOKEN.len()),
    ),
    Fault::new(
        "a line without an end, and FIN",
        STREAM,
        |s| {
            let endless = format!("data: {}", "x".repeat(STREAM_HELD + 10));
            Reply::stream().piece(endless).wait(s.gate).close()
        },
        broken("reset", InBandAfterMore, STREAM_HELD),
    ),
    Fault::new(
        "FIN in gzip",
        STREAM,
        |s| begun(s.gate).gzipped().close(),
        broken("reset", InBand, TOKEN.len()),
    ),
    Fault::new(
        "an end in gzip",
        STREAM,
        |s| begun(s.gate).gzipped().end(),
        broken("reset", InBand, TOKEN.len()),
    ),
    Fault::new(
        "no gzip after all",
        STREAM,
        |s| begun(s.gate).gzipped().piece("garbage").end(),
        broken("reset", InBand, TOKEN.len()),
    ),
    Fault::new(
        "FIN",
        PLAIN,
        |s| large(s.gate, promised()).close(),
        broken("reset", ByTheCut, SENT),
    ),
    Fault::new(
        "RST",
        PLAIN,
        |s| large(s.gate, promised()).reset(),
        broken("reset", ByTheCut, SENT),
    ),
    Fault::new(
        "FIN between chunks",
        PLAIN,
        |s| large(s.gate, Framing::Chunked).close(),
        broken("reset", ByTheCut, SENT),
    ),
    Fault::new(
        "a chunk without a size",
        PLAIN,
        |s| large(s.gate, Framing::Chunked).raw("huh\r\n\r\n0\r\n\r\n").close(),
        broken("reset", ByTheCut, SENT),
    )
    .http1_only(),
    Fault::new(
        "a body shorter than its length",
        PLAIN,
        |s| match s.http {
            Http::One => large(s.gate, promised()).close(),
            Http::Two => large(s.gate, promised()).end(),
        },
        broken("reset", ByTheCut, SENT),
    ),
    Fault::new(
        "an early end",
        PLAIN,
        |s| large(s.gate, Framing::Chunked).end(),
        broken("truncated", ByTheCut, SENT),
    ),
    Fault::new(
        "an early end at a bracket",
        PLAIN,
        |s| large(s.gate, Framing::Chunked).piece("\"]").end(),
        broken("truncated", ByTheCut, SENT),
    ),
    Fault::new(
        "an early end that its length tells",
        PLAIN,
        |s| {
            let half = large(s.gate, Framing::Chunked).body().len() as u64;
            large(s.gate, Framing::Length(half + 2)).piece("\"]").end()
        },
        broken("truncated", ByTheCut, SENT),
    ),
    Fault::new(
        "an end after the end",
        PLAIN,
        |s| large(s.gate, Framing::Chunked).piece("\"]} and more").end(),
        broken("garbled", ByTheCut, SENT),
    ),
    Fault::new(
        "an error at the end",
        PLAIN,
        |s| {
            let error = "\"],\"error\":{\"code\":502,\"message\":\"gone\"}}";
            large(s.gate, Framing::Chunked).piece("y".repeat(LARGE / 2)).piece(error).end()
        },
        broken("error_body", ByTheCut, SENT),
    ),
];

const HASTE: &str = "timeouts: { idle: 1s }";

pub(super) const SILENCE: &[Fault] = &[
    Fault::new("silence", STREAM, |s| begun(s.gate).hang(), broken("stalled", InBand, TOKEN.len()))
        .with(HASTE)
        .alone(),
    Fault::new(
        "comments without end",
        STREAM,
        |s| begun(s.gate).repeat(COMMENT, Duration::from_millis(50)),
        broken("stalled", InBand, TOKEN.len()),
    )
    .with(HASTE)
    .alone(),
    Fault::new(
        "tokens without end",
        STREAM,
        |s| begun(s.gate).repeat(TOKEN, Duration::from_millis(50)),
        broken("timeout", InBandAfterMore, TOKEN.len()),
    )
    .with("timeouts: { total: 4s }")
    .alone(),
    Fault::new(
        "silence",
        PLAIN,
        |s| large(s.gate, promised()).hang(),
        broken("stalled", ByTheCut, SENT),
    )
    .with(HASTE)
    .alone(),
];

pub(super) const ODD: &[Fault] = &[
    Fault::new(
        "padded lines, CRLF and lone CR",
        STREAM,
        |_| {
            let blank = "\n\n\n   \n\r\n";
            let crlf = delta("a").replace('\n', "\r\n");
            let cr = delta("b").replace('\n', "\r");
            let padded = FINISH.replacen("data: ", &format!("data: {}", " ".repeat(5_000)), 1);
            Reply::sse([blank, &crlf, blank, &cr, blank, &padded, "data: [DONE]\n\n"].concat())
        },
        good(Some("stop")),
    ),
    Fault::new(
        "garbled events between good ones",
        STREAM,
        |_| {
            let garbled = "data: {not json}\n\nnonsense\n\ndata:\n\n";
            Reply::sse([&*delta("a"), garbled, FINISH, garbled, "data: [DONE]\n\n"].concat())
        },
        good(Some("stop")),
    ),
    Fault::new(
        "one byte a chunk",
        STREAM,
        |_| {
            let stream = [&*delta("a"), FINISH, "data: [DONE]\n\n"].concat();
            Reply::stream().cut(stream.as_bytes(), 1..stream.len()).end()
        },
        good(Some("stop")),
    ),
    Fault::new(
        "FIN after the finish reason",
        STREAM,
        |s| {
            let stream = Reply::stream().piece(delta("a")).piece(FINISH);
            stream.wait(s.gate).close()
        },
        good(Some("stop")),
    ),
    Fault::new(
        "silence after the end mark",
        STREAM,
        |_| Reply::stream().piece([&*delta("a"), FINISH, "data: [DONE]\n\n"].concat()).hang(),
        good(Some("stop")),
    )
    .alone(),
    Fault::new(
        "gzip unasked",
        PLAIN,
        |_| Reply::json_text(200, sample("chat_response.json")).gzipped(),
        good(Some("stop")),
    ),
    Fault::new(
        "gzip unasked",
        STREAM,
        |_| Reply::sse(sample("chat_stream_openai.sse")).gzipped(),
        good(Some("stop")),
    ),
    Fault::new(
        "a stream that does not say it is one",
        STREAM,
        |_| {
            let stream = Reply::head(200, "text/plain", Framing::Chunked);
            stream.piece(sample("chat_stream_openai.sse")).end()
        },
        good(Some("stop")),
    ),
    Fault::new(
        "text that is not UTF-8",
        PLAIN,
        |_| {
            let text = b"{\"choices\":[{\"message\":{\"content\":\"\xff\"}}]}";
            Reply::json_text(200, text)
        },
        good(None),
    ),
    Fault::new(
        "padding before a good reply",
        PLAIN,
        |_| {
            let padded = Reply::head(200, "application/json", Framing::Chunked).piece("\n    \n");
            padded.piece("   \n").piece(sample("chat_response.json")).end()
        },
        good(Some("stop")),
    ),
];
