//! What a scripted origin answers: steps in order, with pauses that the test ends.

use super::wire::Framing;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;
use std::io::Write;
use std::time::Duration;
use tokio::sync::watch;

/// A door that a test opens once and a script waits at.
#[derive(Clone)]
pub(crate) struct Gate(watch::Sender<bool>);

impl Gate {
    /// A closed door.
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    /// Lets every script through, those still to come too.
    pub(crate) fn open(&self) {
        self.0.send_replace(true);
    }

    /// Waits until the door is open.
    pub(crate) async fn wait(&self) {
        let opened = self.0.subscribe().wait_for(|open| *open).await.map(|_| ());
        assert!(opened.is_ok(), "a gate outlives those who wait at it");
    }
}

/// One step of a reply.
#[derive(Clone)]
pub(crate) enum Step {
    /// A 1xx header.
    Interim(u16),
    /// The status, the fields and how the body will be delimited.
    Head(u16, Vec<(String, String)>, Framing),
    /// A piece of the body; with chunked framing exactly one chunk.
    Piece(Bytes),
    /// Bytes on the wire as they are; HTTP/1.1 only.
    Raw(Bytes),
    /// A pause until the test opens the gate or the caller leaves.
    Wait(Gate),
    /// A slow upstream's pause.
    Pause(Duration),
    /// Silence until the caller leaves.
    Hang,
    /// This piece again and again, with this pause between two, until the caller leaves.
    Repeat(Bytes, Duration),
    /// The proper end of the body.
    End,
    /// FIN, whatever was promised; over HTTP/2 the end of the whole connection.
    Close,
    /// RST; over HTTP/2 of the one stream.
    Reset,
}

/// A scripted reply.
#[derive(Clone)]
pub(crate) struct Reply {
    pub(crate) steps: Vec<Step>,
    /// Whether it is sent before the request's body is read.
    pub(crate) is_early: bool,
    /// The body before it was compressed.
    said: Option<Vec<u8>>,
}

fn pairs(fields: &[(&str, &str)]) -> Vec<(String, String)> {
    fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

impl Reply {
    fn steps(steps: Vec<Step>) -> Self {
        Self { steps, is_early: false, said: None }
    }

    /// A header alone: status, content type and framing; the pieces follow.
    pub(crate) fn head(status: u16, content_type: &str, framing: Framing) -> Self {
        Self::steps(vec![Step::Head(status, pairs(&[("content-type", content_type)]), framing)])
    }

    /// The header of a stream; the pieces follow.
    pub(crate) fn stream() -> Self {
        Self::head(200, "text/event-stream", Framing::Chunked)
    }

    /// A whole stream, each event its own chunk, properly ended.
    pub(crate) fn sse(body: impl AsRef<[u8]>) -> Self {
        Self::stream().piece(body).end()
    }

    /// A whole reply of JSON text with its length.
    pub(crate) fn json_text(status: u16, body: impl AsRef<[u8]>) -> Self {
        let length = Framing::Length(body.as_ref().len() as u64);
        Self::head(status, "application/json", length).piece(body).end()
    }

    /// A whole reply of JSON with its length.
    pub(crate) fn json(status: u16, body: &Value) -> Self {
        Self::json_text(status, body.to_string())
    }

    /// A chat reply that says what it cost.
    pub(crate) fn costing(usd: f64) -> Self {
        let message = serde_json::json!({"role": "assistant", "content": "hi"});
        let choice = serde_json::json!({"index": 0, "message": message, "finish_reason": "stop"});
        Self::json(
            200,
            &serde_json::json!({
                "id": "gen-1", "object": "chat.completion", "model": "acme/wisp-2-mini",
                "choices": [choice],
                "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15, "cost": usd},
            }),
        )
    }

    /// An upstream's own error in OpenAI's shape.
    pub(crate) fn error(status: u16) -> Self {
        let error = serde_json::json!({"message": "simulated", "type": "server_error",
            "param": null, "code": null});
        Self::json(status, &serde_json::json!({ "error": error }))
    }

    /// Bytes as recorded, status line included, and then the end of the connection.
    pub(crate) fn recorded(bytes: impl AsRef<[u8]>) -> Self {
        Self::bytes(bytes).close()
    }

    /// These bytes on an HTTP/1.1 wire, and no more is said.
    pub(crate) fn bytes(bytes: impl AsRef<[u8]>) -> Self {
        Self::steps(Vec::new()).raw(bytes)
    }

    /// Nothing but a pause that ends with the caller.
    pub(crate) fn silence() -> Self {
        Self::steps(vec![Step::Hang])
    }

    /// FIN instead of a reply.
    pub(crate) fn closed() -> Self {
        Self::steps(vec![Step::Close])
    }

    /// RST instead of a reply.
    pub(crate) fn reset_at_once() -> Self {
        Self::steps(vec![Step::Reset])
    }

    fn then(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    /// Whether it has this status.
    pub(crate) fn is(&self, status: u16) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Head(has, ..) if *has == status))
    }

    /// Adds a field to the header.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        for step in &mut self.steps {
            if let Step::Head(_, fields, _) = step {
                fields.push((name.to_owned(), value.to_owned()));
            }
        }
        self
    }

    /// Replaces how the body is delimited.
    pub(crate) fn framed(mut self, with: Framing) -> Self {
        for step in &mut self.steps {
            if let Step::Head(_, _, framing) = step {
                *framing = with;
            }
        }
        self
    }

    /// Compresses the body, each piece for itself to be read, whoever asked for it.
    pub(crate) fn gzipped(mut self) -> Self {
        self.said = Some(self.body());
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        let mut steps = Vec::new();
        for step in self.steps {
            if let Step::Head(status, mut fields, _) = step {
                fields.push(("content-encoding".to_owned(), "gzip".to_owned()));
                steps.push(Step::Head(status, fields, Framing::Chunked));
                continue;
            }
            if let Step::Piece(piece) = &step {
                gzip.write_all(piece).and_then(|()| gzip.flush()).unwrap();
                steps.push(Step::Piece(std::mem::take(gzip.get_mut()).into()));
                continue;
            }
            if matches!(step, Step::End) {
                gzip.try_finish().unwrap();
                steps.push(Step::Piece(std::mem::take(gzip.get_mut()).into()));
            }
            steps.push(step);
        }
        Self { steps, ..self }
    }

    /// Sends a 1xx header first.
    pub(crate) fn after_interim(mut self, status: u16) -> Self {
        self.steps.insert(0, Step::Interim(status));
        self
    }

    /// Waits at the gate first.
    pub(crate) fn after(mut self, gate: &Gate) -> Self {
        self.steps.insert(0, Step::Wait(gate.clone()));
        self
    }

    /// Answers before the request's body is read.
    pub(crate) fn early(mut self) -> Self {
        self.is_early = true;
        self
    }

    /// Sends a piece of the body.
    pub(crate) fn piece(self, bytes: impl AsRef<[u8]>) -> Self {
        self.then(Step::Piece(Bytes::copy_from_slice(bytes.as_ref())))
    }

    /// Sends a body cut at these offsets.
    pub(crate) fn cut(mut self, body: &[u8], offsets: impl IntoIterator<Item = usize>) -> Self {
        let mut start = 0;
        for end in offsets.into_iter().chain([body.len()]) {
            if end > start {
                self = self.piece(&body[start..end]);
                start = end;
            }
        }
        self
    }

    /// Sends bytes without any framing.
    pub(crate) fn raw(self, bytes: impl AsRef<[u8]>) -> Self {
        self.then(Step::Raw(Bytes::copy_from_slice(bytes.as_ref())))
    }

    /// Waits at a gate.
    pub(crate) fn wait(self, gate: &Gate) -> Self {
        self.then(Step::Wait(gate.clone()))
    }

    /// Takes its time.
    pub(crate) fn pause(self, length: Duration) -> Self {
        self.then(Step::Pause(length))
    }

    /// Says nothing more until the caller leaves.
    pub(crate) fn hang(self) -> Self {
        self.then(Step::Hang)
    }

    /// Says this again and again until the caller leaves.
    pub(crate) fn repeat(self, bytes: impl AsRef<[u8]>, pause: Duration) -> Self {
        self.then(Step::Repeat(Bytes::copy_from_slice(bytes.as_ref()), pause))
    }

    /// Ends the body properly.
    pub(crate) fn end(self) -> Self {
        self.then(Step::End)
    }

    /// Closes with FIN, whatever was promised.
    pub(crate) fn close(self) -> Self {
        self.then(Step::Close)
    }

    /// Closes with RST.
    pub(crate) fn reset(self) -> Self {
        self.then(Step::Reset)
    }

    /// The body as scripted, framing aside.
    pub(crate) fn body(&self) -> Vec<u8> {
        if let Some(said) = &self.said {
            return said.clone();
        }
        let mut body = Vec::new();
        for step in &self.steps {
            if let Step::Piece(bytes) = step {
                body.extend_from_slice(bytes);
            }
        }
        body
    }
}
