//! Whether an item of the Responses API's `input` stands for one that is kept upstream.

use super::reader::{Reader, Step};
use super::required::Given;
use super::scan::Value;
use crate::protocol::Dialect;

impl Reader<'_> {
    /// What is asked. How long a part of it is that is named by its id alone, nobody here knows.
    pub(super) fn input(&mut self) -> Step {
        if self.dialect != Dialect::Responses || self.scan.peek() != Some(b'[') {
            self.required.input = self.given()?;
            return Ok(());
        }
        self.required.input = Given::EmptyArray;
        let mut items = self.scan.enter_array(1)?;
        while self.scan.next_item(&mut items)? {
            self.required.input = Given::Array;
            if self.scan.peek() == Some(b'{') {
                self.facts.is_continued |= self.is_reference()?;
            } else {
                self.skip(2)?;
            }
        }
        Ok(())
    }

    /// By its type, which may be left out, or for want of anything but an id.
    fn is_reference(&mut self) -> Step<bool> {
        let (mut is_one, mut has_id, mut has_more) = (false, false, false);
        let mut members = self.scan.enter_loosely(2)?;
        while let Some(member) = self.scan.next_member(&mut members)? {
            match (&*member.name, self.scan.value(3)?) {
                ("type", Value::Text(kind)) if kind.text()? == "item_reference" => is_one = true,
                ("id", _) => has_id = true,
                ("type", Value::Null) => {}
                _ => has_more = true,
            }
        }
        Ok(is_one || has_id && !has_more)
    }
}
