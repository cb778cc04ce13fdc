//! What an event or a whole reply of Anthropic's Messages API says.

use super::fault::ErrorValue;
use super::produced::Produced;
use super::{Notes, UpstreamFault};
use crate::protocol::lenient::{Lenient, Word, read, read_document, skip};
use crate::protocol::usage::AnthropicCounts;
use serde::de::MapAccess;

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
}

/// The beginning of a block.
#[derive(Debug, Default)]
struct Block(Word);

#[derive(Debug, Default)]
struct Delta {
    produced: Produced,
    stop_reason: Word,
}

/// Reads one event of a stream.
pub(super) fn event(notes: &mut Notes, name: &[u8], data: &[u8]) -> serde_json::Result<()> {
    if matches!(name, b"ping" | b"content_block_stop") && data.ends_with(b"}") {
        return Ok(());
    }
    let mut message = Message::default();
    read_document(data, &mut message)?;
    let kind = message.kind.0.as_deref().unwrap_or_default();
    // Text and thinking begin empty; a call of a tool is itself the first token.
    let block = message.block.0.0.as_deref();
    notes.has_token |= block.is_some_and(|kind| !matches!(kind, "text" | "thinking"));
    if kind == "content_block_delta" {
        notes.produce(&message.delta.produced);
    }
    notes.fault(message.error.fault());
    if kind == "error" {
        notes.fault(Some(UpstreamFault::unnamed()));
    }
    let is_complete = notes.is_complete || kind == "message_stop";
    message.reply.stop_reason.0 = message.delta.stop_reason.0;
    message.reply.counts.merge(&message.counts);
    message.reply.note(notes);
    // A stop reason is not the end here: `message_stop` is.
    notes.is_complete = is_complete;
    Ok(())
}

impl Reply {
    /// A reply of which only this much is known.
    pub(super) fn ended(stop_reason: Word, counts: AnthropicCounts) -> Self {
        Self { stop_reason, counts, ..Self::default() }
    }

    pub(super) fn note(self, notes: &mut Notes) {
        notes.names(self.id.0, self.model.0);
        notes.counts.merge(&self.counts);
        notes.bill(notes.counts.usage(), notes.counts.cost_usd());
        notes.fault(self.error.fault());
        notes.finish(self.stop_reason.0.map(|reason| {
            match reason.as_str() {
                "end_turn" | "stop_sequence" => "stop",
                "max_tokens" | "model_context_window_exceeded" => "length",
                "tool_use" => "tool_calls",
                "refusal" => "content_filter",
                other => other,
            }
            .to_owned()
        }));
    }
}

impl Lenient for Message {
    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "type" => read(map, &mut self.kind),
            "message" => read(map, &mut self.reply),
            "content_block" => read(map, &mut self.block),
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
            _ => skip(map),
        }
    }
}

impl Lenient for Block {
    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        if name == "type" { read(map, &mut self.0) } else { skip(map) }
    }
}

impl Lenient for Delta {
    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "text" | "thinking" | "partial_json" => read(map, &mut self.produced),
            "stop_reason" => read(map, &mut self.stop_reason),
            _ => skip(map),
        }
    }
}
