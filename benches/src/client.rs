//! One HTTP/1.1 connection that sends a prepared call and times the answer.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What an answer was like.
#[derive(Debug, Clone, Copy)]
pub struct Answer {
    /// From the first byte sent to the first byte of the answer's body.
    pub first_byte: Duration,
    /// From the first byte sent to the last byte of the answer.
    pub whole: Duration,
}

/// A kept connection.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// What the head of an answer says.
struct Head {
    /// Where the body begins in the buffer.
    end: usize,
    /// `content-length`; chunked without one.
    length: Option<usize>,
    /// Whether it is an event stream.
    stream: bool,
}

/// The end of an answer that is kept: enough for `[DONE]`, a usage event's last bytes and the
/// last chunk.
const TAIL: usize = 64;

/// What a prompt is filled with, all of it ASCII: a letter repeated would look like no text at all to
/// whatever reads words, keys or media.
const PROSE: &str = "Please compare the three offers in the attached tables, name what each of them \
    leaves out, and say in two sentences which one you would take and why. The first is from 2024. ";

/// The bytes of one chat call, as an OpenAI SDK would send it.
///
/// `bytes` is the length of the body, at least what an empty message needs.
#[must_use]
pub fn call(target: SocketAddr, key: &str, model: &str, bytes: usize) -> Vec<u8> {
    let stream = model != "plain";
    let start = format!(
        r#"{{"model":"{model}","stream":{stream},"max_tokens":256,"messages":[{{"role":"user","content":""#
    );
    let end = r#""}]}"#;
    let room = bytes.saturating_sub(start.len() + end.len());
    let filling: String = PROSE.chars().cycle().take(room).collect();
    let length = start.len() + filling.len() + end.len();
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {target}\r\nauthorization: Bearer {key}\r\n\
         content-type: application/json\r\naccept: application/json\r\n\
         accept-encoding: gzip, deflate\r\nuser-agent: OpenAI/Python 3.54.0\r\n\
         x-stainless-lang: python\r\nx-stainless-retry-count: 0\r\n\
         content-length: {length}\r\n\r\n{start}{filling}{end}"
    )
    .into_bytes()
}

impl Connection {
    /// Connects.
    pub async fn open(target: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(target).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: vec![0; 64 * 1024] })
    }

    /// Sends a call and reads the answer; `events` is told how many stream events each read held.
    ///
    /// # Errors
    /// Where the answer is not a 200, or a stream ends without `[DONE]`.
    pub async fn exchange(
        &mut self,
        call: &[u8],
        mut events: impl FnMut(u64),
    ) -> io::Result<Answer> {
        let started = Instant::now();
        self.stream.write_all(call).await?;
        let (head, mut filled) = self.head().await?;
        let (mut at, mut received, mut first_byte) = (head.end, 0, None);
        let (mut last, mut tail) = (0, Vec::with_capacity(2 * TAIL));
        loop {
            let piece = &self.buffer[at..filled];
            if !piece.is_empty() {
                first_byte.get_or_insert_with(|| started.elapsed());
                received += piece.len();
                events(count_events(piece, &mut last));
                keep_tail(&mut tail, piece);
            }
            let over = match head.length {
                Some(length) => received >= length,
                None => tail.ends_with(b"0\r\n\r\n"),
            };
            if over {
                break;
            }
            (at, filled) = (0, self.read(0).await?);
        }
        if head.stream && !tail.windows(6).any(|window| window == b"[DONE]") {
            return Err(io::Error::other("a stream ended without [DONE]"));
        }
        let whole = started.elapsed();
        Ok(Answer { first_byte: first_byte.unwrap_or(whole), whole })
    }

    /// Reads up to the end of the answer's head; how far the buffer is filled comes second.
    async fn head(&mut self) -> io::Result<(Head, usize)> {
        let mut filled = 0;
        loop {
            filled += self.read(filled).await?;
            let read = &self.buffer[..filled];
            if let Some(at) = read.windows(4).position(|window| window == b"\r\n\r\n") {
                return Ok((parse(&read[..at], at + 4)?, filled));
            }
        }
    }

    /// One read into the buffer from `at` on.
    async fn read(&mut self, at: usize) -> io::Result<usize> {
        match self.stream.read(&mut self.buffer[at..]).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => Ok(read),
        }
    }
}

/// Reads a head; anything but a 200 is an error with the head in it.
fn parse(head: &[u8], end: usize) -> io::Result<Head> {
    let text = String::from_utf8_lossy(head);
    if !text.starts_with("HTTP/1.1 200 ") {
        return Err(io::Error::other(text.into_owned()));
    }
    let value = |wanted: &str| {
        text.lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
            .map(|(_, value)| value.trim())
    };
    Ok(Head {
        end,
        length: value("content-length").and_then(|value| value.parse().ok()),
        stream: value("content-type").is_some_and(|value| value.starts_with("text/event-stream")),
    })
}

/// Events end with an empty line; chunk framing has `\r\n` and never makes one. `last` is the byte
/// before this piece.
fn count_events(piece: &[u8], last: &mut u8) -> u64 {
    let mut count = 0;
    for byte in piece {
        count += u64::from(*last == b'\n' && *byte == b'\n');
        *last = *byte;
    }
    count
}

fn keep_tail(tail: &mut Vec<u8>, piece: &[u8]) {
    tail.extend_from_slice(&piece[piece.len().saturating_sub(TAIL)..]);
    tail.drain(..tail.len().saturating_sub(TAIL));
}
