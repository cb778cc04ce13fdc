//! A reply before it is sent: its header, its pieces with the pauses between them, and its end.

use super::ask::Surface;
use super::refusal::{Refusal, Trouble};
use serde_json::Value;
use std::time::Duration;

/// Before the first token, or before a plain reply.
const FIRST_TOKEN: Duration = Duration::from_millis(250);
/// Between two tokens: thirty a second, about as fast as people read.
const TOKEN: Duration = Duration::from_millis(33);
/// Bytes in the first event of every stream, and now and then between tokens, as OpenRouter does.
const COMMENT: &str = ": SIMULATED PROVIDER PROCESSING\n\n";
/// Tokens from one comment to the next.
const COMMENT_EVERY: usize = 20;

/// Which of the two providers answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// Has the faults.
    Main,
    /// Takes over.
    Spare,
}

impl Side {
    /// The word in the path.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Spare => "spare",
        }
    }
}

/// What makes one reply different from the next: the provider's name, seconds since 1970, and a
/// running number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stamp<'a> {
    pub(super) provider: &'a str,
    pub(super) created: u64,
    pub(super) serial: u64,
}

impl Stamp<'_> {
    /// An id such as `gen-1790000001-000007`.
    pub(super) fn id(&self, kind: &str) -> String {
        format!("{kind}-{}-{:06}", self.created, self.serial)
    }

    /// An id such as `msg_0000006ab5d741000007`, as on `/responses` and `/messages`.
    pub(super) fn hex_id(&self, kind: &str) -> String {
        format!("{kind}_{:014x}{:06}", self.created, self.serial)
    }

    /// The name of one of the two providers, which is also the name of the gateway's upstream.
    pub(super) fn side(&self, side: Side) -> String {
        format!("{}-{}", self.provider, side.as_str())
    }
}

/// How a reply ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// As HTTP says: all bytes, or the last chunk.
    Complete,
    /// The connection closes without the last chunk.
    Cut,
    /// Nothing more comes, and the connection stays.
    Silence,
}

/// Some bytes, and the pause before them.
#[derive(Debug)]
pub(super) struct Beat {
    pub(super) after: Duration,
    pub(super) bytes: String,
}

/// Everything that goes over the wire.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) before_header: Duration,
    pub(super) beats: Vec<Beat>,
    pub(super) ending: Ending,
}

impl Reply {
    /// A whole JSON body, after the time a first token takes.
    pub(super) fn json(status: u16, body: &Value) -> Self {
        Self::text(status, body.to_string())
    }

    /// JSON that is already text.
    pub(super) fn text(status: u16, bytes: String) -> Self {
        let headers = vec![
            ("content-type", "application/json".to_owned()),
            ("content-length", bytes.len().to_string()),
        ];
        let beats = vec![Beat { after: Duration::ZERO, bytes }];
        Self { status, headers, before_header: Duration::ZERO, beats, ending: Ending::Complete }
    }

    /// An event stream at a human pace. The header goes at once, as real providers do it.
    pub(super) fn stream(events: Vec<Event>) -> Self {
        let mut beats = vec![Beat { after: Duration::ZERO, bytes: COMMENT.to_owned() }];
        let mut tokens = 0;
        for event in events {
            let after = match (event.is_token, tokens) {
                (false, _) => Duration::ZERO,
                (true, 0) => FIRST_TOKEN,
                (true, _) => TOKEN,
            };
            tokens += usize::from(event.is_token);
            beats.push(Beat { after, bytes: event.bytes });
            if event.is_token && tokens.is_multiple_of(COMMENT_EVERY) {
                beats.push(Beat { after: Duration::ZERO, bytes: COMMENT.to_owned() });
            }
        }
        let headers = vec![
            ("content-type", "text/event-stream".to_owned()),
            ("cache-control", "no-cache".to_owned()),
            // Pingora would end the body by closing the connection, which hides a cut.
            ("transfer-encoding", "chunked".to_owned()),
        ];
        Self {
            status: 200,
            headers,
            before_header: Duration::ZERO,
            beats,
            ending: Ending::Complete,
        }
    }

    /// A refusal in the shape of this API.
    pub(super) fn refusal(surface: Surface, refusal: &Refusal) -> Self {
        let mut reply = Self::json(refusal.trouble.row().status, &refusal.body(surface));
        if refusal.trouble == Trouble::RateLimited {
            reply.headers.push(("retry-after", "2".to_owned()));
        }
        reply
    }

    /// The same, after the time a model takes to think.
    #[must_use]
    pub(super) fn thought_over(mut self) -> Self {
        self.before_header = FIRST_TOKEN;
        self
    }
}

/// One piece of a stream.
#[derive(Debug)]
pub(super) struct Event {
    bytes: String,
    is_token: bool,
}

impl Event {
    /// `data:` with a token in it: it waits for its turn.
    pub(super) fn token(data: &Value) -> Self {
        Self { bytes: format!("data: {data}\n\n"), is_token: true }
    }

    /// `data:` that frames the tokens: it goes with the one before it.
    pub(super) fn frame(data: &Value) -> Self {
        Self { bytes: format!("data: {data}\n\n"), is_token: false }
    }

    /// The same with an `event:` line, named by the payload's `type`.
    pub(super) fn named(self, name: &str) -> Self {
        Self { bytes: format!("event: {name}\n{}", self.bytes), ..self }
    }

    /// The end mark of OpenAI's streams.
    pub(super) fn done() -> Self {
        Self { bytes: "data: [DONE]\n\n".to_owned(), is_token: false }
    }
}
