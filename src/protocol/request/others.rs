//! Which models a body names besides `model`: all of them must be allowed, wherever they hide.

use super::OtherModel;
use super::folded::{is_plain, plain};
use super::reader::{Reader, Step};
use super::scan::Value;

/// Most further models one body may name; OpenRouter itself takes a handful.
const MAX_OTHER_MODELS: usize = 64;

/// What stands in a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hint {
    /// A model, or the body is wrong.
    Model,
    /// A model, if it is a text.
    MaybeModel,
    /// A preset, if it is a text.
    MaybePreset,
}

impl Reader<'_> {
    /// Reads `models` or `fallbacks`: a name, or an array of names and of objects with a `model`.
    pub(super) fn models(&mut self, field: &'static str) -> Step {
        if self.scan.peek() != Some(b'[') {
            return self.other_model(field, 1, Hint::Model);
        }
        let mut items = self.scan.enter_array(1)?;
        while self.scan.next_item(&mut items)? {
            if self.scan.peek() != Some(b'{') {
                self.other_model(field, 2, Hint::Model)?;
                continue;
            }
            let mut members = self.scan.enter_object(2)?;
            while let Some(member) = self.next(&mut members, Some(field))? {
                if member.name == "model" {
                    self.other_model(field, 3, Hint::Model)?;
                } else {
                    self.skip(3)?;
                }
            }
        }
        Ok(())
    }

    /// Reads `tools` or `plugins` for the models that OpenRouter's own ones (auto-router, fusion,
    /// advisor, image generation) and Anthropic's advisor name.
    pub(super) fn entries(&mut self, field: &'static str) -> Step {
        if self.scan.peek() != Some(b'[') {
            return self.skip(1);
        }
        let mut items = self.scan.enter_array(1)?;
        while self.scan.next_item(&mut items)? {
            self.entry(field, 2)?;
        }
        Ok(())
    }

    /// A JSON schema stands under `parameters` too, but there no member of these names is text.
    fn entry(&mut self, field: &'static str, depth: usize) -> Step {
        if self.scan.peek() != Some(b'{') {
            return self.skip(depth);
        }
        let mut members = self.scan.enter_loosely(depth)?;
        while let Some(member) = self.next(&mut members, Some(field))? {
            let folded = (!is_plain(&member.name)).then(|| plain(&member.name));
            let name = folded.as_deref().unwrap_or(&member.name);
            let hint = if name == "preset" { Hint::MaybePreset } else { Hint::MaybeModel };
            if name == "parameters" && depth == 2 {
                self.entry(field, depth + 1)?;
            } else if !is_model_field(name) {
                self.skip(depth + 1)?;
            } else if self.scan.peek() == Some(b'[') {
                let mut items = self.scan.enter_array(depth + 1)?;
                while self.scan.next_item(&mut items)? {
                    self.other_model(field, depth + 2, hint)?;
                }
            } else {
                self.other_model(field, depth + 1, hint)?;
            }
        }
        Ok(())
    }

    /// Takes one further model; what is no text is refused where only text has a meaning.
    fn other_model(&mut self, field: &'static str, depth: usize, hint: Hint) -> Step {
        match self.scan.value(depth)? {
            Value::Text(token) => {
                let place = token.span();
                let Some(name) = self.name(token, field)? else { return Ok(()) };
                if self.facts.other_models.len() < MAX_OTHER_MODELS {
                    let is_preset = hint == Hint::MaybePreset;
                    self.facts.other_models.push(OtherModel { name, place, is_preset });
                } else {
                    self.refuse(field, format!("`{field}` names more than 64 models."));
                }
            }
            Value::Null => {}
            Value::Bool(_) | Value::Number(_) | Value::Array { .. } | Value::Object => {
                if hint == Hint::Model {
                    self.refuse(field, format!("`{field}` must hold model names."));
                }
            }
        }
        Ok(())
    }
}

fn is_model_field(name: &str) -> bool {
    matches!(name, "model" | "models" | "preset")
        || name.ends_with("_model")
        || name.ends_with("_models")
}
