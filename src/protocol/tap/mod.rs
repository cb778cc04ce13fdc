//! What a copy of the reply tells: its first token, its end, its usage, its errors.

mod anthropic;
mod fault;
mod heard;
mod items;
mod media;
mod noted;
mod openai;
mod outline;
mod plain;
mod produced;
mod reading;
mod responses;
mod said;
mod transcript;
mod vectors;

pub use fault::{MAX_MESSAGE, UpstreamFault, error_in_body};
pub use media::{BASE64, Media};
pub use plain::{Finished, Form, PlainTap};
pub use reading::Reading;
pub use transcript::{CUT, Choice, Kept, MAX_WORD, ToolCall, Transcript};

use super::Dialect;
use super::mend;
use super::sse::{Event, Framer};
use super::tokens::Tally;
use super::usage::{AnthropicCounts, Counted, OpenAiCounts};
use heard::Heard;
use said::Said;

/// Reads a stream as it passes. Nothing in the stream makes it fail.
#[derive(Debug)]
pub struct StreamTap {
    dialect: Dialect,
    framer: Framer,
    notes: Notes,
}

/// How far a stream has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Progress {
    /// A clean end here would be a truncation.
    #[default]
    Open,
    /// The answer is whole; usage may still follow.
    Complete,
    /// Nothing more is to come.
    Ended,
}

/// What has been read so far.
#[derive(Debug, Default)]
struct Notes {
    reading: Reading,
    has_token: bool,
    /// Whether an error came in the form that the dialect's clients raise on.
    is_loud: bool,
    /// How many answers were asked for, and a bit for each that has ended.
    choices: u64,
    finished: u64,
    progress: Progress,
    /// Half a character at the end of a text of the last event.
    half: Option<[u8; 6]>,
    /// Events with data, read or not.
    events: u64,
    garbled: u64,
    produced_bytes: u64,
    produced_tokens: Tally,
    /// Anthropic's blocks that have begun.
    blocks: u64,
    /// The number of the one that has not ended.
    open_block: Option<u64>,
    /// Anthropic's counts, whose parts come in several events.
    counts: AnthropicCounts,
    /// OpenAI's, which some send in parts, too.
    openai: OpenAiCounts,
    /// A response holds a call of a tool.
    has_tool_call: bool,
    /// Where the texts of an event are noted, while they are wanted.
    said: Said,
    /// Of a response, what it has said so far, while it is wanted.
    heard: Heard,
}

impl StreamTap {
    /// Of more answers than this the last ones are not told apart.
    pub const MOST_CHOICES: u64 = 64;

    /// At the start of a stream.
    #[must_use]
    pub fn new(dialect: Dialect) -> Self {
        Self { dialect, framer: Framer::new(), notes: Notes::default() }
    }

    /// Keeps what the stream says, too: of each text at most about so many bytes, of all together
    /// twice as many.
    #[must_use]
    pub fn keeping(mut self, limit: Option<usize>) -> Self {
        self.notes.keep(limit);
        self
    }

    /// Expects so many answers beside each other, the `n` of the request.
    #[must_use]
    pub fn of(mut self, choices: u64) -> Self {
        self.notes.choices = choices;
        self
    }

    /// Whether it carried an error in a form that the dialect's clients do not raise on.
    #[must_use]
    pub fn has_silent_fault(&self) -> bool {
        self.fault().is_some() && !self.notes.is_loud
    }

    /// Reads on.
    pub fn push(&mut self, chunk: &[u8]) {
        let Self { dialect, framer, notes } = self;
        framer.push(chunk, |event| notes.event(*dialect, event));
    }

    /// Whether text, reasoning, a tool call, a refusal, audio or an image has begun.
    #[must_use]
    pub fn first_token(&self) -> bool {
        self.notes.has_token
    }

    /// Whether the stream has said that it is complete: a finish reason or `[DONE]`, a response's
    /// last event, `message_stop`. A clean end of the connection without it is a truncation.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.notes.progress >= Progress::Complete
    }

    /// Whether nothing more is to come: `[DONE]`, or the event that ends the dialect's streams. A
    /// finish reason is not the end, since usage may follow it.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.notes.progress == Progress::Ended
    }

    /// A bit for each of the first answers that has ended.
    #[must_use]
    pub fn finished(&self) -> u64 {
        self.notes.finished
    }

    /// Events with data so far; comments are none.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.notes.events
    }

    /// The error the stream carried.
    #[must_use]
    pub fn fault(&self) -> Option<&UpstreamFault> {
        self.notes.reading.fault.as_ref()
    }

    /// Whether nothing of an unfinished event is pending, so that an event of our own may follow.
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        self.framer.at_boundary()
    }

    /// How many of the last bytes belong to an event that is not whole yet.
    #[must_use]
    pub fn unfinished(&self) -> usize {
        self.framer.unfinished()
    }

    /// Events that were read as data and are not JSON.
    #[must_use]
    pub fn garbled(&self) -> u64 {
        self.notes.garbled
    }

    /// Whether an event was too long to be read, be it one that has not ended.
    #[must_use]
    pub fn has_too_long(&self) -> bool {
        self.framer.skipped() > 0 || self.framer.is_skipping()
    }

    /// Bytes of text produced (UTF-8), reasoning and tool calls included: for estimates where no
    /// usage arrives.
    #[must_use]
    pub fn produced_bytes(&self) -> u64 {
        self.notes.produced_bytes
    }

    /// The same in tokens, roughly: for estimates, and for a stream that is cut at its reservation.
    #[must_use]
    pub fn produced_tokens(&self) -> u64 {
        self.notes.produced_tokens.tokens()
    }

    /// The number of Anthropic's block that has begun and not ended.
    #[must_use]
    pub fn open_block(&self) -> Option<u64> {
        self.notes.open_block
    }

    /// What has been read so far.
    #[must_use]
    pub fn reading(&self) -> &Reading {
        &self.notes.reading
    }

    /// Takes what has been read so far.
    pub fn take_reading(&mut self) -> Reading {
        if self.framer.is_skipping() && self.notes.is_loss(self.dialect, self.framer.pending_name())
        {
            self.notes.lose(self.framer.pending());
        }
        self.notes.take_reading()
    }

    /// What has been read.
    #[must_use]
    pub fn into_reading(mut self) -> Reading {
        self.take_reading()
    }
}

impl Notes {
    fn event(&mut self, dialect: Dialect, event: Event<'_>) {
        self.events += 1;
        if event.is_skipped {
            return self.skipped(dialect, event);
        }
        let data = event.data.trim_ascii();
        if data.starts_with(b"[DONE]") {
            // The other dialects end by an event of their own; OpenRouter adds this one to them.
            if matches!(dialect, Dialect::Chat | Dialect::Completions) {
                self.progress = Progress::Ended;
                self.reading.is_done = true;
            }
            return;
        }
        // Gemini wraps its errors in an array, in streams too.
        if data.starts_with(b"[") {
            self.fault(error_in_body(data));
        } else if !data.is_empty() && self.read(dialect, event.name, data).is_err() {
            let mended = mend::readable_event(data, &mut self.half);
            let read = mended.map(|data| self.read(dialect, event.name, &data));
            self.garbled += u64::from(read.is_none_or(|read| read.is_err()));
        } else {
            self.half = None;
        }
    }

    /// An event too long to be read: the one that repeats the whole answer says its usage at its end.
    fn skipped(&mut self, dialect: Dialect, event: Event<'_>) {
        if self.is_loss(dialect, event.name) {
            self.lose(event.bytes);
        }
        self.reading.goes_on();
        plain::read_end(self, dialect, event.data);
        if dialect == Dialect::Responses {
            responses::ended(self, event.name);
        }
    }

    /// Reads one event; nothing of one that cannot be read.
    fn read(&mut self, dialect: Dialect, name: &[u8], data: &[u8]) -> serde_json::Result<()> {
        match dialect {
            Dialect::Chat | Dialect::Completions | Dialect::Embeddings => {
                openai::event(self, name, data)
            }
            Dialect::Responses => responses::event(self, name, data),
            Dialect::Messages => anthropic::event(self, name, data),
        }
    }

    /// Keeps the first error and what follows from it.
    fn fault(&mut self, fault: Option<UpstreamFault>) {
        if fault.is_some() && self.reading.fault.is_none() {
            self.reading.fault = fault;
            self.reading.finish = Some("error".to_owned());
        }
    }

    /// Keeps why the reply ended; an error is the last word. `choices` has a bit for each answer that
    /// has ended: the reply is whole once all that were asked for have.
    fn finish(&mut self, finish: Option<String>, choices: u64) {
        match finish.as_deref() {
            None => {}
            Some("error") => self.fault(Some(UpstreamFault::unnamed())),
            Some(_) => {
                self.finished |= choices;
                if u64::from(self.finished.count_ones())
                    >= self.choices.min(StreamTap::MOST_CHOICES)
                {
                    self.progress = self.progress.max(Progress::Complete);
                }
                if self.reading.fault.is_none() {
                    self.reading.finish = finish;
                }
            }
        }
    }

    /// Keeps who answers, as the first event that knows it says; Azure's first one does not.
    fn names(&mut self, id: Option<String>, model: Option<String>) {
        let reading = &mut self.reading;
        reading.id = reading.id.take().or(id);
        reading.model = reading.model.take().or(model);
    }

    fn bill(&mut self, counted: Counted) {
        self.reading.bill(counted);
    }

    /// Keeps what a usage of OpenAI's dialects says.
    fn bill_openai(&mut self, counts: &OpenAiCounts) {
        self.openai.merge(counts);
        let counted = self.openai.counted();
        let usage = counted.usage.filter(|_| counts.has_any());
        self.bill(Counted { usage, names_output: counts.names_output(), ..counted });
    }

    fn count(&mut self, produced: &produced::Produced) {
        self.has_token |= produced.is_any;
        if produced.bytes > 0 {
            self.reading.goes_on();
        }
        self.produced_bytes = self.produced_bytes.saturating_add(produced.bytes);
        self.produced_tokens.add(&produced.tokens);
    }

    fn produce(&mut self, produced: produced::Produced) {
        self.count(&produced);
        self.transcribe(produced.said);
    }
}

#[cfg(test)]
mod counts;
#[cfg(test)]
mod recorded;
#[cfg(test)]
mod retold;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod transcripts;
