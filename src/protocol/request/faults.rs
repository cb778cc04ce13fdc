//! How a fault of meaning in a request is put to the caller.

use super::members::MAX_MEMBERS;
use crate::error::{Kind, Rejection};
use std::borrow::Cow;

/// Names that may be repeated back to a caller: OpenAI's, Anthropic's and OpenRouter's own fields.
const KNOWN: &[&str] = &[
    "best_of",
    "fallbacks",
    "frequency_penalty",
    "input",
    "instructions",
    "logit_bias",
    "logprobs",
    "max_completion_tokens",
    "max_output_tokens",
    "max_tokens",
    "messages",
    "metadata",
    "model",
    "models",
    "n",
    "plugins",
    "presence_penalty",
    "preset",
    "previous_response_id",
    "prompt",
    "provider",
    "reasoning",
    "reasoning_effort",
    "response_format",
    "route",
    "seed",
    "session_id",
    "stop",
    "store",
    "stream",
    "stream_options",
    "system",
    "temperature",
    "text",
    "thinking",
    "tool_choice",
    "tools",
    "top_k",
    "top_p",
    "user",
];

/// A refusal of one field.
pub(super) fn refusal(field: &'static str, message: impl Into<Cow<'static, str>>) -> Rejection {
    Rejection::new(Kind::InvalidRequest, message).param(field)
}

/// A refusal of an object with too many fields.
pub(super) fn surplus() -> Rejection {
    let message = format!("The body has an object of more than {MAX_MEMBERS} fields.");
    Rejection::new(Kind::InvalidRequest, message)
}

/// A name that stands twice, at the top or inside `parent`; named only where it is a known field.
pub(super) fn repeated(name: &str, parent: Option<&'static str>, at: usize) -> Rejection {
    let known = KNOWN.iter().copied().find(|known| *known == name);
    let fault = |what: String, param: Option<&'static str>| {
        let message = format!("{what} stands twice, again before byte {at}. Send it once.");
        let fault = Rejection::new(Kind::DuplicateKey, message);
        match param {
            Some(param) => fault.param(param),
            None => fault,
        }
    };
    match (parent, known) {
        (Some(parent), _) => fault(format!("A field inside `{parent}`"), Some(parent)),
        (None, Some(known)) => fault(format!("`{known}`"), Some(known)),
        (None, None) => fault("A field of the body".to_owned(), None),
    }
}
