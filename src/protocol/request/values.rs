//! What a single value of a request may be.

use super::reader::{Reader, Step};
use super::required::Given;
use super::scan::{Token, Value};
use crate::protocol::lenient::whole;

/// Longest name of a model or preset, in bytes.
const MAX_NAME_BYTES: usize = 256;
/// Longest user or session id that is taken over, in bytes; providers stop at 128 to 512.
const MAX_ID_BYTES: usize = 4096;
impl<'a> Reader<'a> {
    /// The name of a model or preset.
    pub(super) fn name(&mut self, token: Token<'a>, field: &'static str) -> Step<Option<String>> {
        let text = token.text()?;
        let problem = if text.is_empty() {
            "is empty."
        } else if text.len() > MAX_NAME_BYTES {
            "is longer than 256 bytes."
        } else if text.chars().any(char::is_control) {
            "holds a control character."
        } else {
            return Ok(Some(text.into_owned()));
        };
        self.refuse(field, format!("A name in `{field}` {problem}"));
        Ok(None)
    }

    /// An identifier the caller chose; what is no text is the upstream's to judge.
    pub(super) fn id(&mut self, field: &'static str, depth: usize) -> Step<Option<String>> {
        match self.scan.value(depth)? {
            Value::Text(token) => Ok(self.short(token, field)?.filter(|id| !id.is_empty())),
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::Array { .. }
            | Value::Object => Ok(None),
        }
    }

    /// A text the caller chose, which is taken over.
    pub(super) fn short(&mut self, token: Token<'a>, field: &'static str) -> Step<Option<String>> {
        let text = token.text()?;
        if text.len() > MAX_ID_BYTES {
            self.refuse(field, format!("`{field}` is longer than {MAX_ID_BYTES} bytes."));
            return Ok(None);
        }
        Ok(Some(text.into_owned()))
    }

    /// True or false; null is neither.
    pub(super) fn flag(&mut self, field: &'static str, depth: usize) -> Step<Option<bool>> {
        match self.scan.value(depth)? {
            Value::Bool(flag) => return Ok(Some(flag)),
            Value::Null => {}
            Value::Number(_) | Value::Text(_) | Value::Array { .. } | Value::Object => {
                self.refuse(field, format!("`{field}` must be true or false."));
            }
        }
        Ok(None)
    }

    /// A whole number, zero or more.
    pub(super) fn whole(&mut self, field: &'static str) -> Step<Option<u64>> {
        let value = self.scan.value(1)?;
        if let Value::Number(number) = value
            && let Some(whole) = number.parse().ok().or_else(|| whole(number.parse().ok()?))
        {
            return Ok(Some(whole));
        }
        if !matches!(value, Value::Null) {
            self.refuse(field, format!("`{field}` must be a whole number, zero or more."));
        }
        Ok(None)
    }

    /// What there is, looked at from outside.
    pub(super) fn given(&mut self) -> Step<Given> {
        Ok(match self.scan.value(1)? {
            Value::Null => Given::Nothing,
            Value::Text(token) if token.is_empty() => Given::EmptyText,
            Value::Text(_) => Given::Text,
            Value::Array { is_empty: true } => Given::EmptyArray,
            Value::Array { is_empty: false } => Given::Array,
            Value::Bool(_) | Value::Number(_) | Value::Object => Given::Other,
        })
    }
}
