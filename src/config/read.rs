//! A tree read into typed settings by serde, with errors that know their place.

use super::schema::required;
use super::tree::{Entry, Node, Value};
use super::trouble::Trouble;
use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use std::collections::BTreeSet;
use std::slice::Iter;

/// Reads one value; entries whose id is in `left_out` are as if they were not there.
#[derive(Clone, Copy)]
pub(super) struct Reader<'de> {
    pub(super) node: &'de Node,
    pub(super) left_out: &'de BTreeSet<u32>,
}

impl<'de> Reader<'de> {
    /// What stands here, for a message: never the value itself.
    fn found(&self) -> &'static str {
        match &self.node.value {
            Value::Null { written: true } => "null",
            Value::Null { written: false } => "nothing",
            Value::Text { text, .. } if text.is_empty() => "an empty text",
            Value::Text { text, typed: true } if text.parse::<f64>().is_ok() => "a number",
            Value::Text { .. } => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    fn misfit(&self, expected: &str, hint: &str) -> Trouble {
        let hint = match &self.node.value {
            Value::Null { .. } => "write a value, or remove the line",
            Value::Text { .. } | Value::List(_) | Value::Map(_) => hint,
        };
        let problem = format!("expected {expected}, found {}", self.found());
        Trouble::misfit(problem, (!hint.is_empty()).then_some(hint)).at(self.node.at)
    }

    fn text(&self, expected: &str, hint: &str) -> Result<&'de str, Trouble> {
        match &self.node.value {
            Value::Text { text, .. } => Ok(text),
            Value::Null { .. } | Value::List(_) | Value::Map(_) => Err(self.misfit(expected, hint)),
        }
    }

    /// A number or a boolean: text that is not in quotes, or came from a reference.
    fn typed<T>(
        &self,
        expected: &str,
        hint: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, Trouble> {
        match &self.node.value {
            Value::Text { text, typed: true } => {
                parse(text).ok_or_else(|| self.misfit(expected, hint))
            }
            Value::Text { text, typed: false } if parse(text).is_some() => {
                Err(self.misfit(expected, "remove the quotes"))
            }
            Value::Null { .. } | Value::Text { .. } | Value::List(_) | Value::Map(_) => {
                Err(self.misfit(expected, hint))
            }
        }
    }

    fn list<V: Visitor<'de>>(self, items: &'de [Node], visitor: V) -> Result<V::Value, Trouble> {
        visitor.visit_seq(Items { rest: items.iter(), index: 0, left_out: self.left_out })
    }

    fn map<V: Visitor<'de>>(self, entries: &'de [Entry], visitor: V) -> Result<V::Value, Trouble> {
        let access = Entries { rest: entries.iter(), current: None, left_out: self.left_out };
        visitor.visit_map(access)
    }

    /// The entries of a mapping; none for a section whose lines are all commented out.
    fn entries(&self) -> Result<&'de [Entry], Trouble> {
        match &self.node.value {
            Value::Map(entries) => Ok(entries),
            Value::Null { .. } => Ok(&[]),
            Value::Text { .. } | Value::List(_) => {
                Err(self.misfit("a mapping", "write `key: value` lines, indented"))
            }
        }
    }
}

/// Whole numbers of every width, with the range in the message.
macro_rules! whole_numbers {
    ($($method:ident $visit:ident $type:ty),*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Trouble> {
            let expected = if <$type>::BITS == 64 {
                "a whole number, zero or more".to_owned()
            } else {
                format!("a whole number from {} to {}", <$type>::MIN, <$type>::MAX)
            };
            visitor.$visit(self.typed(&expected, "write a number such as 10", |text| text.parse::<$type>().ok())?)
        }
    )*};
}

impl<'de> de::Deserializer<'de> for Reader<'de> {
    type Error = Trouble;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Trouble> {
        match &self.node.value {
            Value::Null { .. } => visitor.visit_unit(),
            Value::Text { text, .. } => visitor.visit_borrowed_str(text),
            Value::List(items) => self.list(items, visitor),
            Value::Map(entries) => self.map(entries, visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Trouble> {
        let flag = self.typed("true or false", "write true or false", |text| match text {
            "true" | "True" | "TRUE" => Some(true),
            "false" | "False" | "FALSE" => Some(false),
            _ => None,
        })?;
        visitor.visit_bool(flag)
    }

    whole_numbers!(
        deserialize_u8 visit_u8 u8, deserialize_u16 visit_u16 u16,
        deserialize_u32 visit_u32 u32, deserialize_u64 visit_u64 u64,
        deserialize_i8 visit_i8 i8, deserialize_i16 visit_i16 i16,
        deserialize_i32 visit_i32 i32, deserialize_i64 visit_i64 i64
    );

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Trouble> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Trouble> {
        let finite = |text: &str| text.parse::<f64>().ok().filter(|number| number.is_finite());
        visitor.visit_f64(self.typed("a number", "write a number such as 0.5", finite)?)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Trouble> {
        self.deserialize_str(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Trouble> {
        visitor.visit_borrowed_str(self.text("text", "write one value here")?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Trouble> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Trouble> {
        match &self.node.value {
            Value::Null { written: true } => visitor.visit_none(),
            // Nothing after a colon is a forgotten value more often than a wish for none.
            Value::Null { written: false }
            | Value::Text { .. }
            | Value::List(_)
            | Value::Map(_) => visitor.visit_some(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Trouble> {
        match &self.node.value {
            Value::List(items) => self.list(items, visitor),
            Value::Null { .. } | Value::Text { .. } | Value::Map(_) => {
                Err(self.misfit("a list", "write [a, b], or one `- a` a line"))
            }
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Trouble> {
        self.map(self.entries()?, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Trouble> {
        let entries = self.entries()?;
        let is_absent = |field: &String| entries.iter().all(|entry| entry.key != *field);
        let missing = || required(name).into_iter().filter(is_absent).collect();
        self.map(entries, visitor).map_err(|trouble| trouble.with_missing(missing).at(self.node.at))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Trouble> {
        let word = self.text(&format!("one of {}", variants.join(", ")), "write one word here")?;
        let word: StrDeserializer<'_, Trouble> = word.into_deserializer();
        visitor.visit_enum(word).map_err(|trouble| trouble.at(self.node.at))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Trouble> {
        visitor.visit_newtype_struct(self)
    }

    serde::forward_to_deserialize_any! {
        bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

struct Items<'de> {
    rest: Iter<'de, Node>,
    index: usize,
    left_out: &'de BTreeSet<u32>,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Trouble;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Trouble> {
        let Some(node) = self.rest.next() else { return Ok(None) };
        let index = self.index;
        self.index += 1;
        let reader = Reader { node, left_out: self.left_out };
        seed.deserialize(reader).map(Some).map_err(|trouble| trouble.at(node.at).inside(index))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.rest.len())
    }
}

struct Entries<'de> {
    rest: Iter<'de, Entry>,
    current: Option<&'de Entry>,
    left_out: &'de BTreeSet<u32>,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = Trouble;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Trouble> {
        let left_out = self.left_out;
        let Some(entry) = self.rest.find(|entry| !left_out.contains(&entry.node.id)) else {
            return Ok(None);
        };
        self.current = Some(entry);
        let key: StrDeserializer<'_, Trouble> = entry.key.as_str().into_deserializer();
        seed.deserialize(key)
            .map(Some)
            .map_err(|trouble| trouble.at(entry.key_at).under(&entry.key, entry.node.id))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Trouble> {
        let Some(entry) = self.current.take() else {
            return Err(Trouble::misfit("a value without a key", None));
        };
        let reader = Reader { node: &entry.node, left_out: self.left_out };
        seed.deserialize(reader)
            .map_err(|trouble| trouble.at(entry.node.at).under(&entry.key, entry.node.id))
    }
}
