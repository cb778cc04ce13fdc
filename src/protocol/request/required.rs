//! Which fields a dialect cannot do without.

use super::faults::refusal;
use crate::error::Rejection;
use crate::protocol::Dialect;

/// What a field that is only looked at from outside holds.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Given {
    #[default]
    Nothing,
    EmptyText,
    Text,
    EmptyArray,
    Array,
    Other,
}

/// The fields a dialect may require.
#[derive(Debug, Default)]
pub(super) struct Required {
    pub(super) messages: Given,
    pub(super) prompt: Given,
    pub(super) input: Given,
    pub(super) previous_response_id: Given,
}

impl Required {
    /// What the dialect requires and the body lacks.
    pub(super) fn missing(&self, dialect: Dialect) -> Option<Rejection> {
        let (is_there, field, message) = match dialect {
            Dialect::Chat | Dialect::Messages => (
                self.messages == Given::Array,
                "messages",
                "`messages` must be an array of at least one message.",
            ),
            Dialect::Completions => {
                (self.prompt != Given::Nothing, "prompt", "`prompt` is missing.")
            }
            Dialect::Responses => (
                match self.input {
                    Given::Nothing => {
                        self.prompt != Given::Nothing || self.previous_response_id != Given::Nothing
                    }
                    Given::EmptyText | Given::Text | Given::EmptyArray | Given::Array => true,
                    Given::Other => false,
                },
                "input",
                "`input` must be a string or an array.",
            ),
            Dialect::Embeddings => (
                matches!(self.input, Given::Text | Given::Array),
                "input",
                "`input` must be a string or an array, and not empty.",
            ),
        };
        (!is_there).then(|| refusal(field, message))
    }
}
