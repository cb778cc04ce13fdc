//! What a reply that is no stream says, read from its beginning and its end.

use super::{Notes, Reading, anthropic, error_in_body, openai, responses};
use crate::protocol::Dialect;
use crate::protocol::lenient::{Lenient, Word, read_beginning};
use crate::protocol::usage::OpenAiCounts;
use bytes::Bytes;
use memchr::memmem;
use std::collections::VecDeque;

/// What is kept of either end, in bytes. Usage stands at the end, names at the beginning; between
/// them an embedding or an image may be megabytes long.
const KEPT_BYTES: usize = 64 << 10;

/// Pieces of the end above which they are joined, so that tiny chunks cost no more than large ones.
const MAX_PIECES: usize = 128;

/// Keeps both ends of a reply while it passes.
#[derive(Debug)]
pub struct PlainTap {
    dialect: Dialect,
    head: Vec<u8>,
    /// What follows the head: its last bytes, at least [`KEPT_BYTES`] where there are so many.
    tail: VecDeque<Bytes>,
    tail_bytes: usize,
    has_gap: bool,
}

impl PlainTap {
    /// At the start of a reply.
    #[must_use]
    pub fn new(dialect: Dialect) -> Self {
        let (head, tail) = (Vec::new(), VecDeque::new());
        Self { dialect, head, tail, tail_bytes: 0, has_gap: false }
    }

    /// Keeps what matters of a chunk.
    pub fn push(&mut self, chunk: &Bytes) {
        let room = KEPT_BYTES - self.head.len();
        let (head, tail) = chunk.split_at(room.min(chunk.len()));
        self.head.extend_from_slice(head);
        if tail.is_empty() {
            return;
        }
        self.tail.push_back(chunk.slice_ref(tail));
        self.tail_bytes += tail.len();
        while let Some(first) = self.tail.front()
            && self.tail_bytes - first.len() >= KEPT_BYTES
        {
            self.tail_bytes -= first.len();
            self.tail.pop_front();
            self.has_gap = true;
        }
        if self.tail.len() > MAX_PIECES {
            let joined = Bytes::from(self.joined_tail(Vec::new()));
            self.tail = VecDeque::from([joined]);
        }
    }

    /// Reads what was kept.
    #[must_use]
    pub fn finish(mut self) -> Reading {
        let mut notes = Notes::default();
        let head = std::mem::take(&mut self.head);
        if !self.has_gap {
            read_reply(&mut notes, self.dialect, &self.joined_tail(head));
            return notes.reading;
        }
        read_reply(&mut notes, self.dialect, &head);
        read_end(&mut notes, self.dialect, &self.joined_tail(Vec::new()));
        notes.reading
    }

    fn joined_tail(&self, mut start: Vec<u8>) -> Vec<u8> {
        start.reserve(self.tail_bytes);
        for piece in &self.tail {
            start.extend_from_slice(piece);
        }
        start
    }
}

/// Reads a whole reply, or its beginning.
fn read_reply(notes: &mut Notes, dialect: Dialect, body: &[u8]) {
    match dialect {
        Dialect::Chat | Dialect::Completions | Dialect::Embeddings => {
            read_into::<openai::Reply>(body).note(notes);
        }
        Dialect::Responses => read_into::<responses::Reply>(body).note(notes),
        Dialect::Messages => read_into::<anthropic::Reply>(body).note(notes),
    }
    // A reply that names itself or its usage and has no such member holds no error: most end here,
    // read once.
    let Reading { model, id, usage, fault, .. } = &notes.reading;
    let is_reply = model.is_some() || id.is_some() || usage.is_some();
    if fault.is_none() && (!is_reply || memmem::find(body, b"\"error\"").is_some()) {
        notes.fault(error_in_body(body));
    }
}

/// Reads the end of a long reply, by the names of its members: within a text a quote would be
/// escaped, so a name in plain quotes is one.
fn read_end(notes: &mut Notes, dialect: Dialect, end: &[u8]) {
    let usage = last_member(end, "usage").unwrap_or_default();
    if dialect == Dialect::Messages {
        anthropic::Reply::ended(word(end, "stop_reason"), read_into(usage)).note(notes);
        return;
    }
    let counts: OpenAiCounts = read_into(usage);
    notes.bill(counts.usage(), counts.cost_usd());
    if dialect != Dialect::Responses {
        notes.finish(word(end, "finish_reason").0);
    }
    if dialect == Dialect::Embeddings {
        notes.names(None, word(end, "model").0);
    }
}

fn read_into<T: Lenient + Default>(json: &[u8]) -> T {
    let mut place = T::default();
    read_beginning(json, &mut place);
    place
}

fn word(end: &[u8], name: &str) -> Word {
    read_into(last_member(end, name).unwrap_or_default())
}

/// What follows the colon of the last member of this name.
fn last_member<'b>(end: &'b [u8], name: &str) -> Option<&'b [u8]> {
    let quoted = format!("\"{name}\"");
    let at = memmem::rfind(end, quoted.as_bytes())?;
    end.get(at + quoted.len()..)?.trim_ascii_start().strip_prefix(b":")
}
