//! What an event or a whole reply of the Responses API says.

use super::fault::ErrorValue;
use super::produced::Produced;
use super::said::{CallIndex, Kind, Note, Said};
use super::{Notes, Progress, UpstreamFault};
use crate::protocol::lenient::{Flag, Lenient, Word, read, read_document, skip};
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
    background: Flag,
    /// Whether nothing follows it.
    is_plain: bool,
    error: ErrorValue,
    incomplete: Incomplete,
    output: Item,
    counts: OpenAiCounts,
    said: Said,
}

/// Items of the output.
#[derive(Debug, Default)]
struct Item {
    is_token: bool,
    is_tool_call: bool,
    is_reasoning: bool,
}

/// Items while they are read, and what is noted of them.
struct Items<'i>(&'i mut Item, &'i mut Said);

/// Parts of an item's content.
struct Parts<'s>(&'s mut Said, Kind);

#[derive(Debug, Default)]
struct Incomplete(Word);

/// Reads one event of a stream.
pub(super) fn event(notes: &mut Notes, name: &[u8], data: &[u8]) -> serde_json::Result<()> {
    if is_repetition(name) && data.ends_with(b"}") {
        return Ok(());
    }
    let mut message = Message::default();
    message.delta.said = notes.said();
    let read = read_document(data, &mut message);
    if read.is_err() {
        notes.give_back(message.delta.said);
        return read;
    }
    let kind = message.kind.0.as_deref().unwrap_or_default();
    settle(&mut message.delta.said, kind);
    notes.transcribe(std::mem::take(&mut message.delta.said));
    notes.has_tool_call |= message.item.is_tool_call;
    notes.has_token |= message.item.is_token || kind == "response.output_item.done";
    match kind.rsplit('.').next() {
        Some("delta") => notes.count(&message.delta),
        Some("partial_image") => notes.has_token = true,
        Some(_) | None => {}
    }
    notes.fault(message.error.fault());
    // Events of the protocol itself, which say that there is no whole answer.
    notes.is_loud |= matches!(kind, "error" | "response.failed");
    if matches!(kind, "error" | "response.error") {
        notes.fault(message.bare.fault().or_else(|| Some(UpstreamFault::unnamed())));
    }
    if matches!(kind, "response.completed" | "response.incomplete" | "response.failed") {
        notes.progress = Progress::Ended;
        // A response that does not say how it stands ends as its event says.
        let said = kind.strip_prefix("response.").map(str::to_owned);
        message.response.status.0 = message.response.status.0.take().or(said);
    }
    message.response.note(notes);
    Ok(())
}

/// Notes an event that ends the stream, of which no more than the name is known.
pub(super) fn ended(notes: &mut Notes, name: &[u8]) {
    let finish = match name {
        b"response.completed" if notes.has_tool_call => "tool_calls",
        b"response.completed" => "stop",
        b"response.incomplete" => "length",
        b"response.failed" => "error",
        _ => return,
    };
    notes.is_loud |= finish == "error";
    notes.finish(Some(finish.to_owned()), 1);
    notes.progress = Progress::Ended;
}

/// Says what the noted texts of an event of this kind are. Of items only the beginning counts: their
/// texts come in deltas, and the end repeats them.
fn settle(said: &mut Said, kind: &str) {
    if kind != "response.output_item.added" {
        said.forget(|part| part != Kind::Delta);
    }
    let is = match kind.strip_prefix("response.").and_then(|kind| kind.strip_suffix(".delta")) {
        Some("output_text") => Kind::Content,
        Some("reasoning_text" | "reasoning_summary_text" | "reasoning" | "reasoning_summary") => {
            Kind::Reasoning
        }
        Some("refusal") => Kind::Refusal,
        Some("audio.transcript" | "audio_transcript") => Kind::Spoken,
        Some(
            "function_call_arguments"
            | "custom_tool_call_input"
            | "mcp_call_arguments"
            | "code_interpreter_call_code",
        ) => Kind::Arguments,
        // Audio itself, and what is not known.
        Some(_) | None => return said.forget(|part| part == Kind::Delta),
    };
    said.turn(Kind::Delta, is);
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
    /// A plain reply to be read, whose texts are noted.
    pub(super) fn saying(said: Said) -> Self {
        Self { said, is_plain: true, ..Self::default() }
    }

    pub(super) fn note(self, notes: &mut Notes) {
        notes.transcribe(self.said);
        notes.names(self.id.0, self.model.0);
        notes.bill(self.counts.counted());
        notes.has_tool_call |= self.output.is_tool_call;
        notes.fault(self.error.fault());
        let status = self.status.0.as_deref();
        if status.is_some() {
            let is_waited_for = matches!(status, Some("queued" | "in_progress"));
            notes.reading.is_under_way = is_waited_for && (self.is_plain || self.background.0);
        }
        let finish = match status {
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
        notes.finish(Some(finish), 1);
    }
}

impl Lenient for Message {
    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "type" => read(map, &mut self.kind),
            "response" => read(map, &mut self.response),
            "item" => read(map, &mut Items(&mut self.item, &mut self.delta.said)),
            "delta" => self.delta.read(map, Kind::Delta),
            "output_index" if self.delta.said.is_on() => {
                read(map, &mut CallIndex(&mut self.delta.said))
            }
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
            "background" => read(map, &mut self.background),
            "error" => read(map, &mut self.error),
            "incomplete_details" => read(map, &mut self.incomplete),
            "output" => read(map, &mut Items(&mut self.output, &mut self.said)),
            "usage" => read(map, &mut self.counts),
            _ => skip(map),
        }
    }
}

impl Lenient for Items<'_> {
    const READS_LISTS: bool = true;

    fn item(&mut self) {
        self.0.is_reasoning = false;
        self.1.begin_call();
    }

    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        if name == "type" {
            return read(map, self);
        }
        if !self.1.is_on() {
            return skip(map);
        }
        match name {
            "content" if self.0.is_reasoning => read(map, &mut Parts(self.1, Kind::Reasoning)),
            "content" => read(map, &mut Parts(self.1, Kind::Content)),
            "summary" => read(map, &mut Parts(self.1, Kind::Reasoning)),
            "name" => read(map, &mut Note(self.1, Kind::CallName)),
            "arguments" | "input" => read(map, &mut Note(self.1, Kind::Arguments)),
            "call_id" => read(map, &mut Note(self.1, Kind::CallId)),
            _ => skip(map),
        }
    }

    /// The item's type.
    fn text(&mut self, kind: &str) {
        // A message or a thought begins empty; a call of a tool is itself the first token.
        self.0.is_token |= !matches!(kind, "message" | "reasoning");
        let has_name = matches!(kind, "function_call" | "custom_tool_call" | "mcp_call");
        self.0.is_tool_call |= has_name && kind != "mcp_call";
        if kind == "reasoning" {
            self.0.is_reasoning = true;
            self.1.turn(Kind::Content, Kind::Reasoning);
        } else if !has_name && kind.ends_with("_call") {
            // A tool of the upstream's own is named by its type alone.
            self.1.say(Kind::CallName, kind);
        }
    }
}

impl Lenient for Parts<'_> {
    const READS_LISTS: bool = true;

    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "text" => read(map, &mut Note(self.0, self.1)),
            "refusal" => read(map, &mut Note(self.0, Kind::Refusal)),
            "transcript" => read(map, &mut Note(self.0, Kind::Spoken)),
            _ => skip(map),
        }
    }
}

impl Lenient for Incomplete {
    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        if name == "reason" { read(map, &mut self.0) } else { skip(map) }
    }
}
