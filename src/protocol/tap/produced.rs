//! What counts as output of a model: the first of it is the first token.

use super::said::{CallIndex, Kind, Note, Said};
use crate::protocol::lenient::{Lenient, read, skip};
use crate::protocol::tokens::Tally;
use serde::Deserialize;
use serde::de::MapAccess;
use serde::de::value::MapAccessDeserializer;
use serde_json::Value;

/// Output found in the values read into it.
#[derive(Debug, Default)]
pub(super) struct Produced {
    /// There was some: a text that is not empty, an item of a list, an object that is not empty.
    pub(super) is_any: bool,
    /// Bytes of text.
    pub(super) bytes: u64,
    /// The same in tokens, roughly.
    pub(super) tokens: Tally,
    /// What is read now.
    kind: Kind,
    /// The texts themselves, where they are wanted.
    pub(super) said: Said,
}

impl Produced {
    /// Nothing yet, with a pad to note texts on.
    pub(super) fn noting(said: Said) -> Self {
        Self { said, ..Self::default() }
    }

    /// Reads a value that is output of this kind.
    pub(super) fn read<'de, A: MapAccess<'de>>(
        &mut self,
        map: &mut A,
        kind: Kind,
    ) -> Result<(), A::Error> {
        let outer = std::mem::replace(&mut self.kind, kind);
        let done = read(map, self);
        self.kind = outer;
        done
    }

    /// Reads a value that counts as nothing, or passes over it where no text is wanted.
    pub(super) fn note<'de, A: MapAccess<'de>>(
        &mut self,
        map: &mut A,
        kind: Kind,
    ) -> Result<(), A::Error> {
        if self.said.is_on() { read(map, &mut Note(&mut self.said, kind)) } else { skip(map) }
    }
}

impl Lenient for Produced {
    const READS_LISTS: bool = true;

    fn text(&mut self, text: &str) {
        self.is_any |= !text.is_empty();
        self.bytes = self.bytes.saturating_add(text.len() as u64);
        self.tokens.text(text.as_bytes());
        self.said.say(self.kind, text);
    }

    fn item(&mut self) {
        self.is_any = true;
        if self.kind == Kind::Arguments {
            self.said.begin_call();
        }
    }

    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        self.is_any = true;
        match name {
            // Tool calls, parts of a content list, a transcript beside audio.
            "function" | "text" => read(map, self),
            "arguments" => read(map, &mut Arguments(self)),
            // A tool that takes plain text.
            "custom" if self.kind == Kind::Arguments => {
                self.said.say(Kind::CallType, name);
                read(map, self)
            }
            "input" if self.kind == Kind::Arguments => read(map, self),
            "summary" if self.kind == Kind::Detail => read(map, self),
            "name" => self.read(map, Kind::CallName),
            "thinking" => self.read(map, Kind::Reasoning),
            "transcript" => self.read(map, Kind::Spoken),
            "data" if self.kind == Kind::Spoken => self.note(map, Kind::Sound),
            "index" if self.kind == Kind::Arguments && self.said.is_on() => {
                read(map, &mut CallIndex(&mut self.said))
            }
            "id" if self.kind == Kind::Arguments => self.note(map, Kind::CallId),
            "image_url" if self.kind == Kind::Image && self.said.is_on() => {
                read(map, &mut Image(&mut self.said))
            }
            _ => skip(map),
        }
    }
}

/// Arguments of a call: JSON as a text, or an object, as some servers of local models send it.
struct Arguments<'p>(&'p mut Produced);

impl Lenient for Arguments<'_> {
    fn text(&mut self, text: &str) {
        self.0.text(text);
    }

    fn object<'de, A: MapAccess<'de>>(&mut self, members: A) -> Result<(), A::Error> {
        let object = Value::deserialize(MapAccessDeserializer::new(members))?;
        self.0.text(&object.to_string());
        Ok(())
    }
}

/// An image's address, bare or in an object.
struct Image<'s>(&'s mut Said);

impl Lenient for Image<'_> {
    fn text(&mut self, address: &str) {
        self.0.say(Kind::Image, address);
    }

    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        if name == "url" { read(map, self) } else { skip(map) }
    }
}
