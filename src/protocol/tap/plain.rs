//! What a reply that is no stream says, read from its beginning and its end.

use super::fault::ErrorValue;
use super::outline::Outline;
use super::vectors::Vectors;
use super::{Notes, Reading, Transcript, anthropic, error_in_body, openai, responses};
use crate::protocol::Dialect;
use crate::protocol::lenient::{Lenient, Word, read_beginning, read_document};
use crate::protocol::mend;
use crate::protocol::usage::OpenAiCounts;
use bytes::Bytes;
use memchr::memmem;
use serde::de::IgnoredAny;
use std::collections::VecDeque;

/// What is kept of either end, in bytes. Usage stands at the end, names at the beginning; between
/// them an embedding or an image may be megabytes long.
const KEPT_BYTES: usize = 64 << 10;

/// Where what it says is kept, too, a reply of up to so many bytes is read whole, whatever is kept of its
/// texts: one with an image is some megabytes long.
const WHOLE_BYTES: usize = 4 << 20;

/// So many pieces smaller than this, one after the other, are joined, so that tiny chunks cost no more
/// than large ones.
const MAX_SMALL: usize = 128;
const SMALL_BYTES: usize = 1 << 10;

/// Of English text; any other has fewer.
const BYTES_A_TOKEN: u64 = 4;

/// Whether a reply is the JSON that it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// It is.
    Whole,
    /// It breaks off, or there is nothing of it.
    Cut,
    /// It is no JSON.
    Garbled,
}

/// What is known of a reply once it has ended.
#[derive(Debug)]
pub struct Finished {
    /// What it said about itself.
    pub reading: Reading,
    /// Tokens of output, roughly. Of one that was too long to be kept whole, or that breaks off behind
    /// its beginning, they are counted by the bytes of all texts in it, the names of members included:
    /// rather too many than too few.
    pub produced_tokens: u64,
    /// Whether it is whole. Of one too long to be kept the brackets tell.
    pub form: Form,
}

/// Keeps both ends of a reply while it passes, without the padding before it.
#[derive(Debug)]
pub struct PlainTap {
    dialect: Dialect,
    head: Vec<u8>,
    /// What follows the head: its last bytes, at least [`KEPT_BYTES`] where there are so many.
    tail: VecDeque<Bytes>,
    tail_bytes: usize,
    /// What the tail may hold.
    most_tail: usize,
    /// Bytes that are in neither.
    missing: usize,
    /// Follows a reply that is longer than the head, from its first byte on.
    outline: Outline,
    keeps: Option<usize>,
    /// Counts the embeddings of such a reply, where they are wanted.
    vectors: Option<Vectors>,
    /// How many of the last pieces are small.
    small: usize,
}

impl PlainTap {
    /// At the start of a reply.
    #[must_use]
    pub fn new(dialect: Dialect) -> Self {
        Self {
            dialect,
            head: Vec::new(),
            tail: VecDeque::new(),
            tail_bytes: 0,
            most_tail: KEPT_BYTES,
            missing: 0,
            outline: Outline::default(),
            keeps: None,
            vectors: None,
            small: 0,
        }
    }

    /// Keeps what the reply says, too, as [`super::StreamTap::keeping`] does: one of up to 4 MiB, or
    /// `limit` bytes, is read whole, of a longer one both ends are kept as they came.
    #[must_use]
    pub fn keeping(mut self, limit: Option<usize>) -> Self {
        self.keeps = limit;
        // Of embeddings only their number and their length are kept.
        if self.dialect == Dialect::Embeddings {
            self.vectors = limit.map(|_| Vectors::default());
        } else if let Some(limit) = limit {
            self.most_tail = WHOLE_BYTES.max(limit);
        }
        self
    }

    /// Keeps what matters of a chunk.
    pub fn push(&mut self, chunk: &Bytes) {
        let bytes = if self.head.is_empty() { chunk.trim_ascii_start() } else { chunk };
        let room = KEPT_BYTES - self.head.len();
        let (head, tail) = bytes.split_at(room.min(bytes.len()));
        self.head.extend_from_slice(head);
        if tail.is_empty() {
            return;
        }
        let is_first = self.tail.is_empty();
        for piece in [self.head.as_slice(), tail].into_iter().skip(usize::from(!is_first)) {
            self.outline.push(piece);
            if let Some(vectors) = &mut self.vectors {
                vectors.push(piece);
            }
        }
        self.tail.push_back(chunk.slice_ref(tail));
        self.tail_bytes += tail.len();
        while let Some(first) = self.tail.front()
            && self.tail_bytes - first.len() >= self.most_tail
        {
            self.tail_bytes -= first.len();
            self.missing += first.len();
            self.tail.pop_front();
        }
        self.small = if tail.len() < SMALL_BYTES { self.small + 1 } else { 0 };
        if self.small >= MAX_SMALL {
            let small = self.tail.split_off(self.tail.len().saturating_sub(self.small));
            let joined: Vec<u8> = small.iter().flatten().copied().collect();
            self.tail.push_back(joined.into());
            self.small = 0;
        }
    }

    /// Reads what was kept.
    #[must_use]
    pub fn finish(self) -> Reading {
        self.finish_counted().reading
    }

    /// Reads what was kept, and says how much was produced and whether it came whole.
    #[must_use]
    pub fn finish_counted(mut self) -> Finished {
        let keeps = self.keeps;
        let mut notes = Notes::keeping(keeps);
        let head = std::mem::take(&mut self.head);
        if self.missing == 0 {
            let body = self.joined_tail(head);
            let mut is_whole = read_reply(&mut notes, self.dialect, &body);
            if !is_whole && let Some(body) = mend::readable(&body) {
                notes = Notes::keeping(keeps);
                is_whole = read_reply(&mut notes, self.dialect, &body);
            }
            let form = if is_whole { Form::Whole } else { form(&body) };
            let mut produced_tokens = notes.produced_tokens.tokens();
            if form != Form::Whole {
                // The text that breaks off was not read.
                produced_tokens = produced_tokens.max(self.passed_tokens());
            }
            let mut reading = notes.take_reading();
            // Its caller has had all that came of it, and the text that breaks off was not read.
            if form == Form::Cut && self.tail_bytes > 0 {
                reading.output = keeps.map(|limit| self.cut_short(&body, limit));
            }
            return Finished { reading, produced_tokens, form };
        }
        let mut output = notes.reading.output.take();
        notes.keep(None);
        read_reply(&mut notes, self.dialect, &head);
        let tail = self.joined_tail(Vec::new());
        let end = tail.get(tail.len().saturating_sub(KEPT_BYTES)..).unwrap_or_default();
        read_end(&mut notes, self.dialect, end);
        if let Some(output) = &mut output {
            self.as_it_came(output, (&head, &tail));
        }
        notes.reading.output = output;
        let produced_tokens = self.passed_tokens();
        Finished { reading: notes.take_reading(), produced_tokens, form: self.outline.form() }
    }

    /// The tokens in all that passed of a reply that is longer than the head.
    const fn passed_tokens(&self) -> u64 {
        self.outline.text_bytes() / BYTES_A_TOKEN
    }

    /// What is kept of a reply that breaks off.
    fn cut_short(&self, body: &[u8], limit: usize) -> Box<Transcript> {
        let mut output = Box::new(Transcript::new(limit));
        let (_, end) = body.split_at(body.len() / 2);
        let half = without_half_start(end).len();
        self.as_it_came(&mut output, body.split_at(body.len() - half));
        output
    }

    /// Keeps both ends of a reply, of embeddings what was counted.
    fn as_it_came(&self, output: &mut Transcript, (head, tail): (&[u8], &[u8])) {
        if let Some(vectors) = &self.vectors {
            output.vectors = Some(vectors.counted()).filter(|(count, _)| *count > 0);
        } else if head.trim_ascii_start().starts_with(b"{") {
            let (whole_head, whole_tail) = (without_half_end(head), without_half_start(tail));
            let cut = head.len() - whole_head.len() + tail.len() - whole_tail.len();
            let text = String::from_utf8_lossy;
            output.take_raw(&text(whole_head), &text(whole_tail), self.missing + cut);
        }
    }

    fn joined_tail(&self, mut start: Vec<u8>) -> Vec<u8> {
        start.reserve(self.tail_bytes);
        for piece in &self.tail {
            start.extend_from_slice(piece);
        }
        start
    }
}

/// The text less the beginning of a character whose end was cut off.
fn without_half_end(text: &[u8]) -> &[u8] {
    match std::str::from_utf8(text) {
        Err(fault) if fault.error_len().is_none() => text.get(..fault.valid_up_to()),
        Ok(_) | Err(_) => None,
    }
    .unwrap_or(text)
}

/// The text less the end of a character whose beginning was cut off.
fn without_half_start(text: &[u8]) -> &[u8] {
    let rest = text.iter().take(3).take_while(|byte| **byte & 0xc0 == 0x80).count();
    text.get(rest..).unwrap_or_default()
}

/// What a body is that could not be read to its end. A reader of values stumbles over more than the
/// grammar forbids, as a text that is not UTF-8 or a number too large, which is the caller's to judge.
fn form(body: &[u8]) -> Form {
    // Clients skip the mark that some put before UTF-8.
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    match serde_json::from_slice::<IgnoredAny>(body) {
        Ok(_) => Form::Whole,
        Err(error) if error.is_eof() => Form::Cut,
        Err(_) => Form::Garbled,
    }
}

/// Reads a whole reply, or its beginning; whether it is one JSON document and nothing else.
fn read_reply(notes: &mut Notes, dialect: Dialect, body: &[u8]) -> bool {
    let is_whole = match dialect {
        Dialect::Chat | Dialect::Completions | Dialect::Embeddings => {
            let mut reply = openai::Reply::saying(notes.said());
            let read = read_document(body, &mut reply);
            reply.note(notes);
            read.is_ok()
        }
        Dialect::Responses => {
            let mut reply = responses::Reply::saying(notes.said());
            let read = read_document(body, &mut reply);
            reply.note(notes);
            read.is_ok()
        }
        Dialect::Messages => {
            let mut reply = anthropic::Reply::saying(notes.said());
            let read = read_document(body, &mut reply);
            reply.note(notes);
            read.is_ok()
        }
    };
    // A reply that names itself or its usage and has no such member holds no error: most end here,
    // read once.
    let Reading { model, id, usage, fault, .. } = &notes.reading;
    let is_reply = model.is_some() || id.is_some() || usage.is_some();
    if fault.is_none() && (!is_reply || memmem::find(body, b"\"error\"").is_some()) {
        notes.fault(error_in_body(body));
    }
    is_whole
}

/// Reads the end of a long reply or event, by the names of its members: within a text a quote would be
/// escaped, so a name in plain quotes is one.
pub(super) fn read_end(notes: &mut Notes, dialect: Dialect, end: &[u8]) {
    let usage = last_member(end, "usage").unwrap_or_default();
    if dialect == Dialect::Messages {
        anthropic::Reply::ended(word(end, "stop_reason"), read_into(usage)).note(notes);
        return;
    }
    let counts: OpenAiCounts = read_into(usage);
    notes.bill_openai(&counts);
    if dialect != Dialect::Responses {
        // The other dialects' results hold members of any name, and say early that they failed.
        let error: ErrorValue = read_into(last_member(end, "error").unwrap_or_default());
        notes.fault(error.fault());
        notes.finish(word(end, "finish_reason").0, 1);
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
