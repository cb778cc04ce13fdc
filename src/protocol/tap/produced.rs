//! What counts as output of a model: the first of it is the first token.

use crate::protocol::lenient::{Lenient, read, skip};
use serde::de::MapAccess;

/// Output found in the values read into it.
#[derive(Debug, Default)]
pub(super) struct Produced {
    /// There was some: a text that is not empty, an item of a list, an object that is not empty.
    pub(super) is_any: bool,
    /// Bytes of text.
    pub(super) bytes: u64,
}

impl Lenient for Produced {
    const READS_LISTS: bool = true;

    fn text(&mut self, text: &str) {
        self.is_any |= !text.is_empty();
        self.bytes = self.bytes.saturating_add(text.len() as u64);
    }

    fn item(&mut self) {
        self.is_any = true;
    }

    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        self.is_any = true;
        match name {
            // Tool calls, parts of a content list, a transcript beside audio.
            "function" | "name" | "arguments" | "text" | "thinking" | "transcript" => {
                read(map, self)
            }
            _ => skip(map),
        }
    }
}
