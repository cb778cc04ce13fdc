//! What an event or a whole reply of the Responses API says.

use super::fault::ErrorValue;
use super::heard::{Heard, SUMMARY, Text};
use super::items::{Item, Items};
use super::produced::Produced;
use super::said::{Kind, Said};
use super::{Notes, Progress, UpstreamFault};
use crate::protocol::lenient::{Count, Flag, Lenient, Word, read, read_document, skip};
use crate::protocol::usage::OpenAiCounts;
use serde::de::MapAccess;

/// One event of a stream.
#[derive(Debug, Default)]
struct Message {
    kind: Word,
    response: Reply,
    item: Item,
    delta: Produced,
    /// The number of the item, and of the piece of it.
    index: Count,
    piece: Count,
    /// Whether its name says that it is the last.
    is_end: bool,
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
    /// Kinds of texts that came before it.
    heard: u32,
}

#[derive(Debug, Default)]
struct Incomplete(Word);

/// How the names of events begin that tell how an image gets on.
const DRAWING: &[u8] = b"response.image_generation_call.";

/// Reads one event of a stream.
pub(super) fn event(notes: &mut Notes, name: &[u8], data: &[u8]) -> serde_json::Result<()> {
    if is_repetition(name) && data.ends_with(b"}") && !is_news(notes, name) {
        return Ok(());
    }
    let mut message =
        Message { is_end: str::from_utf8(name).is_ok_and(is_end), ..Message::default() };
    message.response.heard = notes.heard.kinds();
    message.delta.said = notes.said();
    let read = read_document(data, &mut message);
    if read.is_err() {
        notes.give_back(message.delta.said);
        return read;
    }
    let kind = message.kind.0.as_deref().unwrap_or_default();
    let piece = message.piece.0.map(|piece| u32::try_from(piece).unwrap_or(u32::MAX));
    let place = (message.index.0, piece);
    settle(&mut message.delta.said, &mut notes.heard, kind, place);
    notes.transcribe(std::mem::take(&mut message.delta.said));
    if kind.as_bytes().starts_with(DRAWING) {
        notes.heard.draw();
    }
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
    if is_end(kind) {
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
    notes.reading.is_under_way = false;
}

/// Says what the noted texts of an event of this kind are. What came in deltas counts; of what ends or
/// repeats a text only what did not.
fn settle(said: &mut Said, heard: &mut Heard, kind: &str, place: (Option<u64>, Option<u32>)) {
    if !said.is_on() {
        return;
    }
    if kind == "response.output_item.added" {
        heard.end_item();
        // A tool of the upstream's own may not know yet what it is asked.
        said.forget(|_, _, kind| matches!(kind, Kind::Delta | Kind::Whole | Kind::Asked));
        return note_items(said, heard);
    }
    if kind == "response.output_item.done" {
        heard.end_item();
        said.forget(|item, piece, kind| {
            let text = Text { item: Some(item), kind: kind.text(), piece: Some(piece) };
            matches!(kind, Kind::Delta | Kind::Whole) || heard.has(&text)
        });
        return note_items(said, heard);
    }
    if is_end(kind) {
        // Its items may be fewer than were sent, and have other numbers then.
        return said.forget(|_, _, kind| {
            matches!(kind, Kind::Delta | Kind::Whole) || heard.has_any(kind.of_text())
        });
    }
    let (item, mut piece) = place;
    let stem = kind.strip_prefix("response.").unwrap_or_default();
    let (is, came) = match stem.rsplit_once('.') {
        Some((stem, "delta")) => (named(stem.as_bytes()), Kind::Delta),
        Some((stem, "done")) => (named(stem.as_bytes()), Kind::Whole),
        Some(_) | None => (None, Kind::Delta),
    };
    // What is not known, or nothing at all.
    let Some(is) = is else { return said.forget(|_, _, _| true) };
    said.forget(|_, _, kind| kind != came);
    if stem.contains("summary") {
        piece = piece.map(|piece| piece | SUMMARY);
    }
    if came == Kind::Delta {
        // Some send a summary and call it the reasoning, or the other way round.
        let piece = piece.filter(|_| !matches!(is, Kind::Reasoning | Kind::Arguments));
        said.each(|_, _, _| heard.delta(Text { item, kind: is, piece }));
    } else {
        let text = Text { item, kind: is, piece: piece.filter(|_| is != Kind::Arguments) };
        if heard.has(&text) {
            return said.forget(|_, _, _| true);
        }
        said.each(|_, _, _| heard.whole(text));
    }
    said.turn(came, is);
}

/// Notes which texts came with an item.
fn note_items(said: &Said, heard: &mut Heard) {
    said.each(|item, piece, kind| {
        // Names may come twice.
        if kind.text() == kind.of_text() {
            heard.whole(Text { item: Some(item), kind: kind.text(), piece: Some(piece) });
        }
    });
}

/// What the events of this name bring, less what follows the last dot.
fn named(stem: &[u8]) -> Option<Kind> {
    match stem {
        b"output_text" => Some(Kind::Content),
        b"reasoning_text" | b"reasoning_summary_text" | b"reasoning" | b"reasoning_summary" => {
            Some(Kind::Reasoning)
        }
        b"refusal" => Some(Kind::Refusal),
        b"audio.transcript" | b"audio_transcript" => Some(Kind::Spoken),
        b"audio" => Some(Kind::Sound),
        b"function_call_arguments"
        | b"custom_tool_call_input"
        | b"mcp_call_arguments"
        | b"code_interpreter_call_code" => Some(Kind::Arguments),
        _ => None,
    }
}

/// Whether an event that repeats a text is wanted, since no deltas brought it.
fn is_news(notes: &mut Notes, name: &[u8]) -> bool {
    if !notes.said.is_on() {
        return false;
    }
    let stem = name.strip_prefix(b"response.").and_then(|name| name.strip_suffix(b".done"));
    stem.and_then(named).is_some_and(|kind| !notes.heard.end(kind))
}

/// Whether an event of this name that is too long to be read had something that no other says.
pub(super) fn is_loss(notes: &mut Notes, name: &[u8]) -> bool {
    let is_lost = match name {
        b"response.output_item.done" => !notes.heard.end_item(),
        b"response.created" => false,
        // An image that is not done.
        name if name.starts_with(DRAWING) => {
            notes.heard.draw();
            false
        }
        name if str::from_utf8(name).is_ok_and(is_end) => notes.heard.lacks_any(),
        name => !is_repetition(name) || is_news(notes, name),
    };
    if is_lost {
        notes.heard.lose();
    }
    is_lost
}

/// Whether an event of this name is the last one, which has the whole reply.
fn is_end(name: &str) -> bool {
    matches!(name, "response.completed" | "response.incomplete" | "response.failed")
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
        notes.bill_openai(&self.counts);
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
            // The last event has the whole reply; of the others only the names are news.
            "response" if self.is_end || self.kind.0.as_deref().is_some_and(is_end) => {
                std::mem::swap(&mut self.response.said, &mut self.delta.said);
                let done = read(map, &mut self.response);
                std::mem::swap(&mut self.response.said, &mut self.delta.said);
                done
            }
            "response" => read(map, &mut self.response),
            "item" => read(map, &mut Items::new(&mut self.item, &mut self.delta.said, 0)),
            "delta" => self.delta.read(map, Kind::Delta),
            "text" | "refusal" | "arguments" | "input" => self.delta.note(map, Kind::Whole),
            "output_index" if self.delta.said.is_on() => {
                read(map, &mut self.index)?;
                self.index.0 = self.index.0.map(|index| index.min(u64::from(u32::MAX)));
                self.delta.said.call(self.index.0.unwrap_or_default());
                Ok(())
            }
            "content_index" | "summary_index" if self.delta.said.is_on() => {
                read(map, &mut self.piece)
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
            "output" => read(map, &mut Items::new(&mut self.output, &mut self.said, self.heard)),
            "usage" => read(map, &mut self.counts),
            _ => skip(map),
        }
    }
}

impl Lenient for Incomplete {
    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        if name == "reason" { read(map, &mut self.0) } else { skip(map) }
    }
}

#[cfg(test)]
mod tests {
    use crate::protocol::Dialect;
    use crate::protocol::tap::{PlainTap, StreamTap};
    use bytes::Bytes;

    fn is_under_way(events: &[&str]) -> bool {
        let mut tap = StreamTap::new(Dialect::Responses);
        for event in events {
            tap.push(format!("data: {event}\n\n").as_bytes());
        }
        tap.reading().is_under_way
    }

    #[test]
    fn what_goes_on_behind_the_reply_is_known_until_it_ends() {
        let response = |kind: &str, status: &str, more: &str| {
            format!(r#"{{"type":"response.{kind}","response":{{"status":"{status}"{more}}}}}"#)
        };
        let queued = response("created", "queued", r#","background":true"#);
        let done = response("completed", "completed", r#","background":true"#);
        assert!(is_under_way(&[&queued]));
        assert!(!is_under_way(&[&queued, &done]));
        // Every stream begins like that; what is left is stopped.
        assert!(!is_under_way(&[&response("created", "in_progress", "")]));
        // The last event may be too long to be read.
        let long = format!("event: response.completed\ndata: {}\n\n", "x".repeat(1 << 20));
        let mut tap = StreamTap::new(Dialect::Responses);
        tap.push(format!("data: {queued}\n\n{long}").as_bytes());
        assert!(tap.is_ended() && !tap.reading().is_under_way);
        let mut plain = PlainTap::new(Dialect::Responses);
        plain.push(&Bytes::from_static(br#"{"id":"r","status":"in_progress","output":[]}"#));
        assert!(plain.finish().is_under_way);
    }
}
