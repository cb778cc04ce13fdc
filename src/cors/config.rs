//! `cors:`, which browser pages may call.

use crate::units::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Cross-origin rules; without an origin no CORS header is sent and browsers refuse the reply.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CorsConfig {
    /// Exact origins (`https://chat.example.com`), `https://*.example.com`, or `*`.
    pub allowed_origins: Vec<String>,
    /// Whether a page may send cookies and HTTP authentication; not together with `*`.
    pub allow_credentials: bool,
    /// How long a browser may keep a preflight's answer.
    pub max_age: Span,
}

impl Default for CorsConfig {
    fn default() -> Self {
        Self { allowed_origins: Vec::new(), allow_credentials: false, max_age: Span::seconds(600) }
    }
}
