//! What an event or a whole reply of the Responses API says.

use super::fault::ErrorValue;
use super::produced::Produced;
use super::{Notes, UpstreamFault};
use crate::protocol::lenient::{Lenient, Word, read, read_document, skip};
use crate::protocol::usage::OpenAiCounts;
use serde::de::MapAccess;

/// One event of a stream.
#[derive(Debug, Default)]
struct Message {
    kind: Word,
    response: Reply,
    item: Item,
    delta: Produced,
    error: ErrorValue,
    /// `code` and `message` of an `error` event, which stand at the top.
    bare: ErrorValue,
}

/// A whole reply, also the `response` of an event.
#[derive(Debug, Default)]
pub(super) struct Reply {
    id: Word,
    model: Word,
    status: Word,
    error: ErrorValue,
    incomplete: Incomplete,
    output: Item,
    counts: OpenAiCounts,
}

/// Items of the output.
#[derive(Debug, Default)]
struct Item {
    is_token: bool,
    is_tool_call: bool,
}

#[derive(Debug, Default)]
struct Incomplete(Word);

/// Reads one event of a stream.
pub(super) fn event(notes: &mut Notes, name: &[u8], data: &[u8]) -> serde_json::Result<()> {
    if is_repetition(name) && data.ends_with(b"}") {
        return Ok(());
    }
    let mut message = Message::default();
    read_document(data, &mut message)?;
    let kind = message.kind.0.as_deref().unwrap_or_default();
    notes.has_tool_call |= message.item.is_tool_call;
    notes.has_token |= message.item.is_token || kind == "response.output_item.done";
    match kind.rsplit('.').next() {
        Some("delta") => notes.produce(&message.delta),
        Some("partial_image") => notes.has_token = true,
        Some(_) | None => {}
    }
    notes.fault(message.error.fault());
    if matches!(kind, "error" | "response.error") {
        notes.fault(message.bare.fault().or_else(|| Some(UpstreamFault::unnamed())));
    }
    notes.is_complete |=
        matches!(kind, "response.completed" | "response.incomplete" | "response.failed");
    message.response.note(notes);
    Ok(())
}

/// Whether an event of this name only repeats what others say: the request, or text already sent.
/// These are the long ones, so they are passed over unread.
fn is_repetition(name: &[u8]) -> bool {
    let is_summary = name.ends_with(b".done") && name != b"response.output_item.done";
    is_summary
        || matches!(
            name,
            b"response.in_progress"
                | b"response.queued"
                | b"response.content_part.added"
                | b"keepalive"
        )
}

impl Reply {
    pub(super) fn note(self, notes: &mut Notes) {
        notes.names(self.id.0, self.model.0);
        notes.bill(self.counts.usage(), self.counts.cost_usd());
        notes.has_tool_call |= self.output.is_tool_call;
        notes.fault(self.error.fault());
        let finish = match self.status.0.as_deref() {
            Some("completed") if notes.has_tool_call => "tool_calls".to_owned(),
            Some("completed") => "stop".to_owned(),
            Some("incomplete") => match self.incomplete.0.0.as_deref() {
                Some("max_output_tokens") => "length".to_owned(),
                Some(reason) => reason.to_owned(),
                None => "incomplete".to_owned(),
            },
            Some("failed") => "error".to_owned(),
            Some("cancelled") => "cancelled".to_owned(),
            Some(_) | None => return,
        };
        notes.finish(Some(finish));
    }
}

impl Lenient for Message {
    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "type" => read(map, &mut self.kind),
            "response" => read(map, &mut self.response),
            "item" => read(map, &mut self.item),
            "delta" => read(map, &mut self.delta),
            "error" => read(map, &mut self.error),
            "code" | "message" => self.bare.member(name, map),
            _ => skip(map),
        }
    }
}

impl Lenient for Reply {
    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "id" => read(map, &mut self.id),
            "model" => read(map, &mut self.model),
            "status" => read(map, &mut self.status),
            "error" => read(map, &mut self.error),
            "incomplete_details" => read(map, &mut self.incomplete),
            "output" => read(map, &mut self.output),
            "usage" => read(map, &mut self.counts),
            _ => skip(map),
        }
    }
}

impl Lenient for Item {
    const READS_LISTS: bool = true;

    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        if name == "type" { read(map, &mut ItemKind(self)) } else { skip(map) }
    }
}

struct ItemKind<'i>(&'i mut Item);

impl Lenient for ItemKind<'_> {
    fn text(&mut self, kind: &str) {
        // A message or a thought begins empty; a call of a tool is itself the first token.
        self.0.is_token |= !matches!(kind, "message" | "reasoning");
        self.0.is_tool_call |= matches!(kind, "function_call" | "custom_tool_call");
    }
}

impl Lenient for Incomplete {
    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        if name == "reason" { read(map, &mut self.0) } else { skip(map) }
    }
}
