//! What an upstream does next: mostly its work, else one of the faults of the matrix.

use super::short_while;
use crate::harness::{Call, FINISH, Framing, Reply, delta};
use rand::Rng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// One call, as an upstream saw it.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    /// The caller's name for the call.
    pub(super) call: String,
    /// Who was asked.
    pub(super) upstream: &'static str,
    /// SHA-256 of what arrived, in hexadecimal: what a good answer says.
    hash: String,
    stream: bool,
}

impl Asked {
    pub(super) fn by(call: &Call, upstream: &'static str) -> Self {
        let name = call.headers.get("idempotency-key").unwrap_or_default().to_owned();
        let hash = hex(&call.hash);
        let start = &call.body[..call.body.len().min(200)];
        let stream = memchr::memmem::find(start, b"\"stream\":true").is_some();
        Self { call: name, upstream, hash, stream }
    }

    fn usage(&self) -> Value {
        let (prompt, completion) =
            (self.hash.len(), self.hash.bytes().filter(u8::is_ascii_digit).count());
        json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion})
    }

    fn plain(&self) -> String {
        let message = json!({"role": "assistant", "content": self.hash});
        let choice = json!({"index": 0, "message": message, "finish_reason": "stop"});
        json!({"object": "chat.completion", "choices": [choice], "usage": self.usage()}).to_string()
    }

    /// A whole stream, piece by piece.
    fn pieces(&self) -> Vec<String> {
        let (start, end) = self.hash.split_at(self.hash.len() / 2);
        let usage = json!({"choices": [], "usage": self.usage()});
        vec![
            ": OPENROUTER PROCESSING\n\n".to_owned(),
            delta(start),
            delta(end),
            FINISH.to_owned(),
            format!("data: {usage}\n\n"),
            "data: [DONE]\n\n".to_owned(),
        ]
    }
}

/// A hash as people write it.
pub(super) fn hex(hash: &[u8]) -> String {
    hash.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}

/// The next reply.
pub(super) fn reply(dice: &mut StdRng, asked: &Asked) -> Reply {
    match dice.random_range(0..100) {
        0..70 => good(dice, asked),
        70..82 => refusal(dice),
        82..88 => cut_before_a_reply(dice),
        _ if asked.stream => broken_stream(dice, asked),
        _ => broken_reply(dice, asked),
    }
}

fn good(dice: &mut StdRng, asked: &Asked) -> Reply {
    if !asked.stream {
        let body = asked.plain();
        let framing = match dice.random_range(0..3) {
            0 => Framing::Length(body.len() as u64),
            1 => Framing::Chunked,
            _ => Framing::UntilClose,
        };
        let head = Reply::head(200, "application/json", framing);
        return head.pause(short_while(dice, 100)).piece(body).end();
    }
    let mut reply = Reply::stream();
    for piece in asked.pieces() {
        reply = reply.piece(piece).pause(short_while(dice, 40));
    }
    reply.end()
}

fn refusal(dice: &mut StdRng) -> Reply {
    match dice.random_range(0..40) {
        0 => Reply::error(401),
        1 => Reply::error(429).header("retry-after", "1"),
        2..6 => Reply::error(400),
        6..10 => Reply::error(429),
        10..16 => Reply::error(408),
        16..24 => Reply::error(503),
        24..32 => Reply::json_text(200, "\n   \n{\"error\":{\"message\":\"no\",\"code\":502}}"),
        _ => Reply::error(500),
    }
}

fn cut_before_a_reply(dice: &mut StdRng) -> Reply {
    match dice.random_range(0..20) {
        0 => Reply::silence(),
        1..10 => Reply::closed(),
        _ => Reply::reset_at_once(),
    }
}

fn broken_stream(dice: &mut StdRng, asked: &Asked) -> Reply {
    let pieces = asked.pieces();
    // Up to and without the finish reason.
    let after = dice.random_range(0..4);
    let begun = pieces[..after]
        .iter()
        .fold(Reply::stream(), |reply, piece| reply.piece(piece).pause(short_while(dice, 20)));
    let next = pieces[after].as_bytes();
    match dice.random_range(0..20) {
        0 => begun.hang(),
        1..4 => begun.reset(),
        4..8 => begun.close(),
        8..12 => begun.end(),
        12..15 => begun.piece(&next[..next.len() / 2]).close(),
        15..18 => begun.piece("data: {\"error\":{\"message\":\"gone\",\"code\":502}}\n\n").end(),
        _ => begun.piece("data: {garbled\n\n").end(),
    }
}

fn broken_reply(dice: &mut StdRng, asked: &Asked) -> Reply {
    let whole = asked.plain();
    // Too large to be held, every now and then.
    let padding = if dice.random_bool(0.3) { " ".repeat(100_000) } else { String::new() };
    let length = Framing::Length((padding.len() + whole.len()) as u64);
    let half = Reply::head(200, "application/json", length)
        .piece(padding + whole.split_at(whole.len() / 2).0);
    match dice.random_range(0..20) {
        0 => half.hang(),
        1..10 => half.reset(),
        10..15 => half.framed(Framing::Chunked).close(),
        _ => half.close(),
    }
}
