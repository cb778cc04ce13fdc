//! `session:`, where a conversation's id comes from.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a call names the conversation it belongs to.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SessionConfig {
    /// Request header with the session id; it wins over the body.
    pub header: String,
    /// Regular expression: a `response_format.type` that matches is a session id, and the whole
    /// `response_format` is removed because providers refuse it.
    pub response_format_pattern: String,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self { header: "x-session-id".into(), response_format_pattern: "^session_".into() }
    }
}
