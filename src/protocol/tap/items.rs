//! What the items of a response's output say, in an event or in a whole reply.

use super::heard::{SUMMARY, bit};
use super::said::{Kind, Note, Said};
use crate::protocol::lenient::{Lenient, read, skip};
use serde::de::MapAccess;
use serde_json::value::RawValue;

/// What items tell of a reply.
#[derive(Debug, Default)]
pub(super) struct Item {
    pub(super) is_token: bool,
    pub(super) is_tool_call: bool,
}

/// Items while they are read, and what is noted of them.
pub(super) struct Items<'i> {
    item: &'i mut Item,
    said: &'i mut Said,
    /// Kinds of texts that came before and are passed over.
    heard: u32,
    kind: ItemKind,
    has_call_id: bool,
    has_arguments: bool,
}

/// What the item that is being read is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ItemKind {
    Unsaid,
    Message,
    Reasoning,
    /// A call of a tool of the upstream's own.
    Hosted,
    /// The one of these that draws.
    Drawing,
    Other,
}

/// Parts of an item's content, and the number of the next one.
struct Parts<'s>(&'s mut Said, Kind, u32);

impl<'i> Items<'i> {
    pub(super) fn new(item: &'i mut Item, said: &'i mut Said, heard: u32) -> Self {
        let kind = ItemKind::Unsaid;
        Self { item, said, heard, kind, has_call_id: false, has_arguments: false }
    }

    const fn has_heard(&self, kind: Kind) -> bool {
        self.heard & bit(kind) != 0
    }

    const fn is_hosted(&self) -> bool {
        matches!(self.kind, ItemKind::Hosted | ItemKind::Drawing)
    }

    fn parts<'de, A: MapAccess<'de>>(
        &mut self,
        map: &mut A,
        (kind, first): (Kind, u32),
    ) -> Result<(), A::Error> {
        let done = read(map, &mut Parts(self.said, kind, first));
        self.said.piece(0);
        done
    }

    fn note<'de, A: MapAccess<'de>>(&mut self, map: &mut A, kind: Kind) -> Result<(), A::Error> {
        read(map, &mut Note(self.said, kind))
    }

    /// What a tool of the upstream's own is asked, as it stands there.
    fn asked<'de, A: MapAccess<'de>>(&mut self, map: &mut A) -> Result<(), A::Error> {
        let asked = map.next_value::<Box<RawValue>>()?;
        self.has_arguments = asked.get() != "null";
        if self.has_arguments {
            self.said.say(Kind::Asked, asked.get());
        }
        Ok(())
    }
}

impl Lenient for Items<'_> {
    const READS_LISTS: bool = true;

    fn item(&mut self) {
        self.kind = ItemKind::Unsaid;
        self.has_call_id = false;
        self.has_arguments = false;
        self.said.begin_call();
    }

    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        if name == "type" {
            return read(map, self);
        }
        if !self.said.is_on() {
            return skip(map);
        }
        match name {
            "content" if self.kind == ItemKind::Message && self.has_heard(Kind::Content) => {
                skip(map)
            }
            "content" if self.kind == ItemKind::Reasoning => self.parts(map, (Kind::Reasoning, 0)),
            "content" => self.parts(map, (Kind::Content, 0)),
            "summary" => self.parts(map, (Kind::Reasoning, SUMMARY)),
            "name" => self.note(map, Kind::CallName),
            "arguments" | "input" | "code" if !self.has_arguments => {
                self.has_arguments = true;
                self.note(map, Kind::Arguments)
            }
            "action" | "actions" | "queries" | "query" | "operation" if !self.has_arguments => {
                self.asked(map)
            }
            "result" if matches!(self.kind, ItemKind::Unsaid | ItemKind::Drawing) => {
                if self.has_heard(Kind::Drawn) { skip(map) } else { self.note(map, Kind::Drawn) }
            }
            "call_id" => {
                self.has_call_id = true;
                self.said.turn(Kind::ItemId, Kind::Nothing);
                self.note(map, Kind::CallId)
            }
            "id" if self.is_hosted() && !self.has_call_id => self.note(map, Kind::ItemId),
            "id" if self.kind == ItemKind::Unsaid => self.note(map, Kind::Id),
            _ => skip(map),
        }
    }

    /// The item's type.
    fn text(&mut self, kind: &str) {
        // A message or a thought begins empty; a call of a tool is itself the first token.
        self.item.is_token |= !matches!(kind, "message" | "reasoning");
        self.item.is_tool_call |= matches!(kind, "function_call" | "custom_tool_call");
        self.kind = match kind {
            "message" => ItemKind::Message,
            "reasoning" => ItemKind::Reasoning,
            "image_generation_call" => ItemKind::Drawing,
            "function_call" | "custom_tool_call" => ItemKind::Other,
            "mcp_approval_request" => ItemKind::Hosted,
            other if other.ends_with("_call") => ItemKind::Hosted,
            _ => ItemKind::Other,
        };
        if self.kind == ItemKind::Reasoning {
            self.said.turn(Kind::Content, Kind::Reasoning);
        }
        if self.kind != ItemKind::Drawing {
            self.said.turn(Kind::Drawn, Kind::Nothing);
        }
        if self.is_hosted() {
            self.said.say(Kind::CallType, kind);
            if !self.has_call_id {
                self.said.turn(Kind::Id, Kind::ItemId);
            }
        } else {
            self.said.turn(Kind::Asked, Kind::Nothing);
        }
    }
}

impl Lenient for Parts<'_> {
    const READS_LISTS: bool = true;

    fn item(&mut self) {
        self.0.piece(self.2);
        self.2 = self.2.wrapping_add(1);
    }

    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "text" => read(map, &mut Note(self.0, self.1)),
            "refusal" => read(map, &mut Note(self.0, Kind::Refusal)),
            "transcript" => read(map, &mut Note(self.0, Kind::Spoken)),
            "data" => read(map, &mut Note(self.0, Kind::Sound)),
            _ => skip(map),
        }
    }
}
