//! What an event or a whole reply of Anthropic's Messages API says.

use super::fault::ErrorValue;
use super::produced::Produced;
use super::said::{CallIndex, Kind, Note, Said};
use super::{Notes, Progress, UpstreamFault};
use crate::protocol::lenient::{Lenient, Word, read, read_document, skip};
use crate::protocol::usage::{AnthropicCounts, Counted};
use serde::de::MapAccess;
use serde_json::value::RawValue;

/// One event of a stream.
#[derive(Debug, Default)]
struct Message {
    kind: Word,
    reply: Reply,
    block: Block,
    delta: Delta,
    counts: AnthropicCounts,
    error: ErrorValue,
}

/// A whole reply, also the `message` of the first event.
#[derive(Debug, Default)]
pub(super) struct Reply {
    id: Word,
    model: Word,
    stop_reason: Word,
    counts: AnthropicCounts,
    error: ErrorValue,
    said: Said,
}

/// The beginning of a block.
#[derive(Debug, Default)]
struct Block(Word);

/// A block of a stream's event: its kind, and what is noted of it.
struct Begun<'b>(&'b mut Word, &'b mut Said);

/// The blocks of a whole reply.
struct Content<'s>(&'s mut Said);

#[derive(Debug, Default)]
struct Delta {
    produced: Produced,
    stop_reason: Word,
}

/// Reads one event of a stream.
pub(super) fn event(notes: &mut Notes, name: &[u8], data: &[u8]) -> serde_json::Result<()> {
    if name == b"content_block_stop" {
        notes.open_block = None;
    }
    if matches!(name, b"ping" | b"content_block_stop") && data.ends_with(b"}") {
        return Ok(());
    }
    let mut message = Message::default();
    message.delta.produced.said = notes.said();
    // What is noted before the block's number belongs to it, too.
    message.delta.produced.said.begin_call();
    let read = read_document(data, &mut message);
    if read.is_err() {
        notes.give_back(message.delta.produced.said);
        return read;
    }
    let kind = message.kind.0.as_deref().unwrap_or_default();
    // Text and thinking begin empty; a call of a tool is itself the first token.
    let block = message.block.0.0.as_deref();
    notes.has_token |= block.is_some_and(|kind| !matches!(kind, "text" | "thinking"));
    if kind == "content_block_start" {
        notes.open_block = Some(notes.blocks);
        notes.blocks += 1;
    }
    if kind == "content_block_delta" {
        notes.produce(message.delta.produced);
    } else {
        notes.transcribe(message.delta.produced.said);
    }
    notes.fault(message.error.fault());
    // SDKs look at the event's name (WIRE section 7).
    notes.is_loud |= name == b"error";
    if kind == "error" {
        notes.fault(Some(UpstreamFault::unnamed()));
    }
    let progress = if kind == "message_stop" { Progress::Ended } else { notes.progress };
    message.reply.stop_reason.0 = message.delta.stop_reason.0;
    message.reply.counts.merge(&message.counts);
    message.reply.note(notes);
    // A stop reason is not the end here: `message_stop` is.
    notes.progress = progress;
    Ok(())
}

impl Reply {
    /// A reply of which only this much is known.
    pub(super) fn ended(stop_reason: Word, counts: AnthropicCounts) -> Self {
        Self { stop_reason, counts, ..Self::default() }
    }

    /// A reply to be read, whose texts are noted.
    pub(super) fn saying(said: Said) -> Self {
        Self { said, ..Self::default() }
    }

    pub(super) fn note(self, notes: &mut Notes) {
        notes.transcribe(self.said);
        notes.names(self.id.0, self.model.0);
        notes.counts.merge(&self.counts);
        // An event that says nothing of the output leaves open whether there was more of it.
        let names_output = self.counts.names_output();
        notes.bill(Counted { names_output, ..notes.counts.counted() });
        notes.fault(self.error.fault());
        let finish = self.stop_reason.0.map(|reason| {
            match reason.as_str() {
                "end_turn" | "stop_sequence" => "stop",
                "max_tokens" | "model_context_window_exceeded" => "length",
                "tool_use" => "tool_calls",
                "refusal" => "content_filter",
                other => other,
            }
            .to_owned()
        });
        notes.finish(finish, 1);
    }
}

impl Lenient for Message {
    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "type" => read(map, &mut self.kind),
            "message" => read(map, &mut self.reply),
            "content_block" => {
                read(map, &mut Begun(&mut self.block.0, &mut self.delta.produced.said))
            }
            "index" if self.delta.produced.said.is_on() => {
                read(map, &mut CallIndex(&mut self.delta.produced.said))
            }
            "delta" => read(map, &mut self.delta),
            "usage" => read(map, &mut self.counts),
            "error" => read(map, &mut self.error),
            _ => skip(map),
        }
    }
}

impl Lenient for Reply {
    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "id" => read(map, &mut self.id),
            "model" => read(map, &mut self.model),
            "stop_reason" => read(map, &mut self.stop_reason),
            "usage" => read(map, &mut self.counts),
            "error" => read(map, &mut self.error),
            "content" if self.said.is_on() => read(map, &mut Content(&mut self.said)),
            _ => skip(map),
        }
    }
}

impl Lenient for Begun<'_> {
    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "type" => read(map, self.0),
            "id" if self.1.is_on() => read(map, &mut Note(self.1, Kind::CallId)),
            "name" if self.1.is_on() => read(map, &mut Note(self.1, Kind::CallName)),
            // Mostly empty, for the deltas to fill.
            "text" if self.1.is_on() => read(map, &mut Note(self.1, Kind::Content)),
            "thinking" if self.1.is_on() => read(map, &mut Note(self.1, Kind::Reasoning)),
            "input" if self.1.is_on() => {
                let input = map.next_value::<Box<RawValue>>()?;
                if !matches!(input.get(), "{}" | "null" | "\"\"") {
                    self.1.say(Kind::Given, input.get());
                }
                Ok(())
            }
            _ => skip(map),
        }
    }
}

impl Lenient for Content<'_> {
    const READS_LISTS: bool = true;

    fn item(&mut self) {
        self.0.begin_call();
    }

    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "text" => read(map, &mut Note(self.0, Kind::Content)),
            "thinking" => read(map, &mut Note(self.0, Kind::Reasoning)),
            "id" => read(map, &mut Note(self.0, Kind::CallId)),
            "name" => read(map, &mut Note(self.0, Kind::CallName)),
            "input" => {
                let input = map.next_value::<Box<RawValue>>()?;
                self.0.say(Kind::Arguments, input.get());
                Ok(())
            }
            _ => skip(map),
        }
    }
}

impl Lenient for Delta {
    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "text" => self.produced.read(map, Kind::Content),
            "thinking" => self.produced.read(map, Kind::Reasoning),
            "partial_json" => {
                // It stands in no list, so it begins no call.
                self.produced.read(map, Kind::Arguments)
            }
            "stop_reason" => read(map, &mut self.stop_reason),
            _ => skip(map),
        }
    }
}
