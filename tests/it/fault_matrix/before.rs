//! Faults before a reply has proved good: each moves on to the next upstream.

use super::fault::{BOTH, Fault, Http, PLAIN, STREAM, expires, moves};
use crate::harness::{FINISH, Framing, Reply, sample};
use std::time::Duration;

const COMMENT: &str = ": OPENROUTER PROCESSING\n\n";
const ROLE: &str =
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n";
const ERROR_EVENT: &str = "data: {\"error\":{\"code\":502,\"message\":\"no\"},\"choices\":[]}\n\n";
const PADDING: &str = "\n         \n";
const BROKE: &str = "the connection broke";
const NO_TOKEN: &str = "the stream ended before its first token";

/// The beginning of a JSON reply that promises 100 bytes.
fn half() -> Reply {
    Reply::head(200, "application/json", Framing::Length(100)).piece("{\"choices\":[")
}

/// A JSON reply of unknown length that has only been padding so far.
fn padding() -> Reply {
    Reply::head(200, "application/json", Framing::Chunked).piece(PADDING)
}

/// A stream that has only been a comment so far.
fn comments() -> Reply {
    Reply::stream().piece(COMMENT)
}

pub(super) const CONNECTION: &[Fault] = &[
    Fault::refuses("a refused connection", moves("connect_error", "connection refused")),
    Fault::new("RST before the header", BOTH, |_| Reply::reset_at_once(), moves("reset", BROKE)),
    Fault::new("FIN before the header", BOTH, |_| Reply::closed(), moves("reset", BROKE)),
    Fault::new(
        "RST in the header",
        BOTH,
        |_| Reply::bytes("HTTP/1.1 200 OK\r\ncontent-").reset(),
        moves("reset", BROKE),
    )
    .http1_only(),
    Fault::new(
        "FIN in the header",
        BOTH,
        |_| Reply::recorded("HTTP/1.1 200 OK\r\ncontent-"),
        moves("reset", BROKE),
    )
    .http1_only(),
    Fault::new(
        "garbage instead of a header",
        BOTH,
        |_| Reply::recorded("garbage\r\n\r\n"),
        moves("reset", "the reply's header cannot be read"),
    )
    .http1_only(),
    Fault::new(
        "RST while the body is sent",
        BOTH,
        |_| Reply::reset_at_once().early(),
        moves("reset", BROKE),
    ),
    Fault::new(
        "503 while the body is sent, and FIN",
        BOTH,
        |scene| match scene.http {
            Http::One => Reply::error(503).early().close(),
            Http::Two => Reply::error(503).early(),
        },
        moves("status_5xx", "status 503"),
    ),
    Fault::new(
        "FIN after a 1xx",
        BOTH,
        |_| Reply::closed().after_interim(103),
        moves("reset", BROKE),
    )
    .http1_only(),
];

pub(super) const ERROR: &[Fault] = &[
    Fault::new(
        "an error under 200",
        BOTH,
        |_| Reply::json_text(200, "{\"error\":{\"message\":\"overloaded\",\"code\":502}}"),
        moves("error_body", "an error in a 200 reply"),
    ),
    Fault::new(
        "a padded error under 200",
        BOTH,
        |_| {
            let padded = (0..40).fold(padding(), |reply, _| reply.piece(PADDING));
            padded.piece(sample("error_200_in_body.txt")).end()
        },
        moves("error_body", "an error in a 200 reply"),
    ),
    Fault::new(
        "an error under 200 behind more padding than is held of a reply",
        PLAIN,
        |_| padding().piece(" ".repeat(150_000)).piece(sample("error_200_in_body.txt")).end(),
        moves("error_body", "an error in a 200 reply"),
    ),
    Fault::new(
        "an error under 200 in gzip",
        BOTH,
        |_| Reply::json_text(200, sample("error_200_in_body.txt")).gzipped(),
        moves("error_body", "an error in a 200 reply"),
    ),
    Fault::new(
        "an error in a choice under 200",
        BOTH,
        |_| Reply::json_text(200, sample("error_200_choice_error.json")),
        moves("error_body", "an error in a 200 reply"),
    ),
    Fault::new(
        "an error event",
        STREAM,
        |_| Reply::sse(ERROR_EVENT),
        moves("error_body", "an error before the first token"),
    ),
    Fault::new(
        "comments, then an error event",
        STREAM,
        |_| comments().piece(COMMENT).piece(ERROR_EVENT).end(),
        moves("error_body", "an error before the first token"),
    ),
    Fault::new(
        "a role, then an error event and the end mark",
        STREAM,
        |_| Reply::stream().piece(ROLE).piece(ERROR_EVENT).piece("data: [DONE]\n\n").end(),
        moves("error_body", "an error before the first token"),
    ),
];

pub(super) const REPLY: &[Fault] = &[
    Fault::new(
        "a whole reply where a stream was asked for",
        STREAM,
        |_| Reply::json_text(200, sample("chat_response.json")),
        moves("error_body", "no stream where one was asked for"),
    ),
    Fault::new(
        "half a JSON body in a whole reply",
        BOTH,
        |_| Reply::json_text(200, "{\"choices\":["),
        moves("reset", "the reply was cut"),
    ),
    Fault::new(
        "half a JSON body in a proper chunk",
        PLAIN,
        |_| padding().piece("{\"choices\":[").end(),
        moves("reset", "the reply was cut"),
    ),
    Fault::new("nothing", BOTH, |_| Reply::json_text(200, ""), moves("reset", "the reply was cut")),
    Fault::new("padding alone", PLAIN, |_| padding().end(), moves("reset", "the reply was cut")),
    Fault::new(
        "HTML",
        BOTH,
        |_| Reply::head(200, "text/html", Framing::Chunked).piece("<html>").end(),
        moves("error_body", "the reply is no JSON"),
    ),
    Fault::new(
        "garbled JSON",
        PLAIN,
        |_| Reply::json_text(200, "{\"choices\":[{]}}"),
        moves("error_body", "the reply is no JSON"),
    ),
    Fault::new(
        "gzip that is cut",
        PLAIN,
        |_| half().framed(Framing::Chunked).gzipped().piece("").end(),
        moves("reset", "the reply was cut"),
    ),
    Fault::new(
        "a coding that nobody asked for and nobody knows",
        BOTH,
        |_| Reply::json_text(200, "??").header("content-encoding", "br"),
        moves("error_body", "the reply is compressed, unasked, in a way that cannot be read"),
    ),
    Fault::new("FIN in the body", PLAIN, |_| half().close(), moves("reset", BROKE)),
    Fault::new("RST in the body", PLAIN, |_| half().reset(), moves("reset", BROKE)),
    Fault::new("FIN after padding", PLAIN, |_| padding().close(), moves("reset", BROKE)),
    Fault::new("RST after padding", PLAIN, |_| padding().reset(), moves("reset", BROKE)),
    Fault::new(
        "a body shorter than its length",
        PLAIN,
        |scene| match scene.http {
            Http::One => half().close(),
            Http::Two => half().end(),
        },
        moves("reset", BROKE),
    ),
    Fault::new(
        "a chunk without a size",
        BOTH,
        |_| padding().raw("huh\r\n{}\r\n0\r\n\r\n").close(),
        moves("reset", BROKE),
    )
    .http1_only(),
    Fault::new(
        "a chunk shorter than its size",
        BOTH,
        |_| padding().raw("20\r\n{}\r\n0\r\n\r\n").close(),
        moves("reset", BROKE),
    )
    .http1_only(),
    Fault::new(
        "half a JSON body that only FIN ends",
        PLAIN,
        |_| half().framed(Framing::UntilClose).close(),
        moves("reset", "the reply was cut"),
    )
    .http1_only(),
    Fault::new("FIN after comments", STREAM, |_| comments().close(), moves("reset", BROKE)),
    Fault::new("RST after comments", STREAM, |_| comments().reset(), moves("reset", BROKE)),
    Fault::new(
        "FIN after the role",
        STREAM,
        |_| comments().piece(ROLE).close(),
        moves("reset", BROKE),
    ),
    Fault::new(
        "an empty stream",
        STREAM,
        |_| Reply::stream().end(),
        moves("stream_broken", NO_TOKEN),
    ),
    Fault::new(
        "an end after comments",
        STREAM,
        |_| comments().end(),
        moves("stream_broken", NO_TOKEN),
    ),
    Fault::new(
        "garbled events alone",
        STREAM,
        |_| Reply::sse("data: {not json\n\n<html>\n\ndata: }{\n\n"),
        moves("stream_broken", NO_TOKEN),
    ),
    Fault::new(
        "FIN in the first token",
        STREAM,
        |_| Reply::stream().piece(&FINISH.as_bytes()[..40]).close(),
        moves("reset", BROKE),
    ),
];

const HASTE: &str = "timeouts: { first_byte: 2s, first_token: 2s, idle: 1s }";

pub(super) const SILENCE: &[Fault] = &[
    Fault::new("silence", BOTH, |_| Reply::silence(), expires("no reply within first_byte"))
        .with(HASTE)
        .alone(),
    Fault::new(
        "silence in the body",
        PLAIN,
        |_| half().hang(),
        expires("silence longer than idle"),
    )
    .with(HASTE)
    .alone(),
    Fault::new(
        "silence after padding",
        PLAIN,
        |_| padding().hang(),
        expires("silence longer than idle"),
    )
    .with(HASTE)
    .alone(),
    Fault::new(
        "silence after comments",
        STREAM,
        |_| comments().hang(),
        expires("no token within first_token"),
    )
    .with("timeouts: { first_token: 2s }")
    .alone(),
    Fault::new(
        "comments without end",
        STREAM,
        |_| comments().repeat(COMMENT, Duration::from_millis(50)),
        expires("no token within first_token"),
    )
    .with(HASTE)
    .alone(),
];
