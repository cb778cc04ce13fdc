//! Which models a body names besides `model`: all of them must be allowed, wherever they hide.

use super::reader::{Reader, Step};
use super::scan::Value;
use super::{OtherModel, Role};
use std::ops::Range;

/// Most further models one body may name; OpenRouter itself takes a handful.
const MAX_OTHER_MODELS: usize = 64;

impl Reader<'_> {
    /// Reads `models` or `fallbacks`: a name, or an array of names and of objects with a `model`.
    pub(super) fn models(&mut self, field: &'static str) -> Step {
        if self.scan.peek() != Some(b'[') {
            return self.other_model(field, 1);
        }
        let mut items = self.scan.enter_array(1)?;
        while self.scan.next_item(&mut items)? {
            if self.scan.peek() != Some(b'{') {
                self.other_model(field, 2)?;
                continue;
            }
            let mut members = self.scan.enter_object(2)?;
            while let Some(member) = self.next(&mut members, Some(field))? {
                if member.name == "model" {
                    self.other_model(field, 3)?;
                } else {
                    self.skip(3)?;
                }
            }
        }
        Ok(())
    }

    /// Takes one further model that may answer; what is no text has no meaning there.
    fn other_model(&mut self, field: &'static str, depth: usize) -> Step {
        match self.scan.value(depth)? {
            Value::Text(token) => {
                let place = token.span();
                if let Some(name) = self.name(token, field)? {
                    self.note(field, name, place, Role::Answers);
                }
            }
            Value::Null => {}
            Value::Bool(_) | Value::Number(_) | Value::Array { .. } | Value::Object => {
                self.refuse(field, format!("`{field}` must hold model names."));
            }
        }
        Ok(())
    }

    /// Keeps one further name.
    pub(super) fn note(
        &mut self,
        field: &'static str,
        name: String,
        place: Range<usize>,
        role: Role,
    ) {
        if self.facts.other_models.len() < MAX_OTHER_MODELS {
            self.facts.other_models.push(OtherModel { name, place, role });
        } else {
            self.refuse(field, format!("`{field}` names more than 64 models."));
        }
    }
}
