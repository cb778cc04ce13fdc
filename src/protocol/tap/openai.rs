//! What a chunk or a whole reply of chat completions, completions and embeddings says.

use super::Notes;
use super::fault::ErrorValue;
use super::produced::Produced;
use crate::protocol::lenient::{Lenient, Word, read, read_document, skip};
use crate::protocol::usage::OpenAiCounts;
use serde::de::MapAccess;

/// A chunk of a stream, or a whole reply: they differ in `delta` and `message` alone.
#[derive(Debug, Default)]
pub(super) struct Reply {
    /// Names are looked for only until they are known, since every chunk repeats them.
    skips_names: bool,
    id: Word,
    model: Word,
    error: ErrorValue,
    choices: Choices,
    counts: OpenAiCounts,
    groq: Groq,
}

#[derive(Debug, Default)]
struct Choices {
    produced: Produced,
    finish: Word,
    error: ErrorValue,
}

/// Groq's own member of the last chunk.
#[derive(Debug, Default)]
struct Groq {
    counts: OpenAiCounts,
    error: ErrorValue,
}

struct Delta<'p>(&'p mut Produced);

/// Reads one chunk of a stream.
pub(super) fn event(notes: &mut Notes, data: &[u8]) -> serde_json::Result<()> {
    let reading = &notes.reading;
    let skips_names = reading.id.is_some() && reading.model.is_some();
    let mut reply = Reply { skips_names, ..Reply::default() };
    read_document(data, &mut reply)?;
    reply.note(notes);
    Ok(())
}

impl Reply {
    pub(super) fn note(self, notes: &mut Notes) {
        notes.names(self.id.0, self.model.0);
        notes.produce(&self.choices.produced);
        let fault = self.error.fault().or_else(|| self.choices.error.fault());
        notes.fault(fault.or_else(|| self.groq.error.fault()));
        notes.finish(self.choices.finish.0);
        let counts = self.counts;
        notes.bill(
            counts.usage().or_else(|| self.groq.counts.usage()),
            counts.cost_usd().or_else(|| self.groq.counts.cost_usd()),
        );
    }
}

impl Lenient for Reply {
    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "id" if !self.skips_names => read(map, &mut self.id),
            "model" if !self.skips_names => read(map, &mut self.model),
            "error" => read(map, &mut self.error),
            "choices" => read(map, &mut self.choices),
            "usage" => read(map, &mut self.counts),
            "x_groq" => read(map, &mut self.groq),
            _ => skip(map),
        }
    }
}

impl Lenient for Choices {
    const READS_LISTS: bool = true;

    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "delta" | "message" => read(map, &mut Delta(&mut self.produced)),
            "text" => read(map, &mut self.produced),
            "finish_reason" => read(map, &mut self.finish),
            "error" => read(map, &mut self.error),
            _ => skip(map),
        }
    }
}

impl Lenient for Delta<'_> {
    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "content" | "reasoning" | "reasoning_content" | "refusal" | "tool_calls"
            | "function_call" | "audio" | "images" => read(map, self.0),
            // It repeats `reasoning`, unless that is encrypted: a token, but no text to count.
            "reasoning_details" => {
                let mut details = Produced::default();
                read(map, &mut details)?;
                self.0.is_any |= details.is_any;
                Ok(())
            }
            _ => skip(map),
        }
    }
}

impl Lenient for Groq {
    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "usage" => read(map, &mut self.counts),
            "error" => read(map, &mut self.error),
            _ => skip(map),
        }
    }
}
