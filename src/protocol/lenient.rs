//! How replies are read: field by field, where a wrong type or a repeated name loses only itself.
//!
//! Derived deserialisers fail as a whole on either, and providers send both.

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::fmt;

/// Something read from JSON of any type; what it does not expect it ignores.
pub(super) trait Lenient {
    /// Whether an array is read item by item, each into the same place.
    const READS_LISTS: bool = false;

    fn text(&mut self, _: &str) {}
    fn flag(&mut self, _: bool) {}
    /// A whole number, zero or more; [`Self::number`] is called as well.
    fn whole(&mut self, _: u64) {}
    fn number(&mut self, _: f64) {}
    /// One item of an array, before it is read.
    fn item(&mut self) {}
    /// One member of an object, whose value must be consumed with [`read`] or [`skip`].
    fn member<'de, A: MapAccess<'de>>(&mut self, _: &str, map: &mut A) -> Result<(), A::Error> {
        skip(map)
    }
    /// An object, member by member.
    fn object<'de, A: MapAccess<'de>>(&mut self, mut members: A) -> Result<(), A::Error> {
        while let Some(name) = members.next_key_seed(Name)? {
            self.member(&name, &mut members)?;
        }
        Ok(())
    }
}

/// Reads a member's value into its place.
pub(super) fn read<'de, A: MapAccess<'de>>(
    map: &mut A,
    place: &mut impl Lenient,
) -> Result<(), A::Error> {
    map.next_value_seed(Place(place))
}

/// Passes over a member's value.
pub(super) fn skip<'de, A: MapAccess<'de>>(map: &mut A) -> Result<(), A::Error> {
    map.next_value::<IgnoredAny>().map(|_| ())
}

/// Reads one JSON document.
pub(super) fn read_document(json: &[u8], place: &mut impl Lenient) -> serde_json::Result<()> {
    let mut source = serde_json::Deserializer::from_slice(json);
    Place(place).deserialize(&mut source)?;
    source.end()
}

/// Reads the JSON value at the beginning, as far as it goes: what was read before it breaks off
/// stays.
pub(super) fn read_beginning(json: &[u8], place: &mut impl Lenient) {
    let mut source = serde_json::Deserializer::from_slice(json);
    // A broken end is what this is for.
    drop(Place(place).deserialize(&mut source));
}

/// A text that is not empty, cut to a length that fits any name; the last one stays.
#[derive(Debug, Default, Clone)]
pub(super) struct Word(pub(super) Option<String>);

/// A whole number, zero or more.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Count(pub(super) Option<u64>);

/// An amount, zero or more and finite.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Amount(pub(super) Option<f64>);

/// True where it says so.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Flag(pub(super) bool);

/// Longest [`Word`], in characters.
pub(super) const MAX_WORD_CHARS: usize = 256;

impl Lenient for Word {
    fn text(&mut self, text: &str) {
        if !text.is_empty() {
            self.0 = Some(cut(text, MAX_WORD_CHARS).to_owned());
        }
    }
}

impl Lenient for Count {
    fn whole(&mut self, whole: u64) {
        self.0 = Some(whole);
    }
}

impl Lenient for Amount {
    fn number(&mut self, number: f64) {
        if number.is_finite() && number >= 0.0 {
            self.0 = Some(number);
        }
    }
}

impl Lenient for Flag {
    fn flag(&mut self, flag: bool) {
        self.0 = flag;
    }
}

/// The whole number that a float is, as languages without such write it: `10.0`, `1e3`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "only what is whole and within these bounds"
)]
pub(super) fn whole(float: f64) -> Option<u64> {
    // Above this not every whole number is a float.
    const MOST: f64 = 9_007_199_254_740_992.0;
    let is_whole = (0.0..MOST).contains(&float) && float.fract() == 0.0;
    is_whole.then_some(float as u64)
}

/// The first `chars` characters of a text.
pub(super) fn cut(text: &str, chars: usize) -> &str {
    let end = text.char_indices().nth(chars).map(|(at, _)| at);
    end.and_then(|end| text.get(..end)).unwrap_or(text)
}

struct Place<'t, T>(&'t mut T);

impl<'de, T: Lenient> DeserializeSeed<'de> for Place<'_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<(), D::Error> {
        source.deserialize_any(self)
    }
}

impl<'de, T: Lenient> Visitor<'de> for Place<'_, T> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<(), E> {
        self.0.flag(flag);
        Ok(())
    }

    #[expect(clippy::cast_precision_loss, reason = "money and codes are far below 2^53")]
    fn visit_u64<E: Error>(self, whole: u64) -> Result<(), E> {
        self.0.whole(whole);
        self.0.number(whole as f64);
        Ok(())
    }

    fn visit_i64<E: Error>(self, negative: i64) -> Result<(), E> {
        match u64::try_from(negative) {
            Ok(whole) => self.visit_u64(whole),
            Err(_) => Ok(()),
        }
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<(), E> {
        // Some servers write counts as `10.0`.
        if let Some(whole) = whole(number) {
            self.0.whole(whole);
        }
        self.0.number(number);
        Ok(())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.0.text(text);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        if !T::READS_LISTS {
            while items.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(());
        }
        while items.next_element_seed(Item(self.0))?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<(), A::Error> {
        self.0.object(members)
    }
}

/// One item of a list.
struct Item<'t, T>(&'t mut T);

impl<'de, T: Lenient> DeserializeSeed<'de> for Item<'_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<(), D::Error> {
        self.0.item();
        Place(self.0).deserialize(source)
    }
}

/// A member's name, borrowed where it holds no escape.
pub(crate) struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<Cow<'de, str>, D::Error> {
        source.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Cow<'de, str>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a member's name")
    }

    fn visit_borrowed_str<E: Error>(self, name: &'de str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Borrowed(name))
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_any_whole_number_however_it_is_written() {
        for (json, count) in [
            ("10", Some(10)),
            ("10.0", Some(10)),
            ("1e3", Some(1_000)),
            ("-0.0", Some(0)),
            ("1e15", Some(1_000_000_000_000_000)),
            ("9007199254740992.0", None),
            ("1e300", None),
            ("10.5", None),
            ("-1.0", None),
            ("-1", None),
            ("\"10\"", None),
        ] {
            let mut found = Count::default();
            read_document(json.as_bytes(), &mut found).unwrap();
            assert_eq!(found.0, count, "{json}");
        }
    }
}
