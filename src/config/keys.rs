//! `keys:`, who may call and what each may use.

use crate::limits::config::{Budget, KeyLimits};
use crate::secret::{KeyHash, Secret};
use crate::units::OneOrMany;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One caller. At least one of `secret`, `secrets`, `sha256` is needed.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyConfig {
    /// Name in logs, metrics and traces; unique.
    pub name: String,
    /// The key itself; prefer `sha256`, which is useless to a reader of the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Secret>,
    /// Further keys that are valid at the same time, while callers move from one to the next.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<Secret>,
    /// SHA-256 of the key as 64 hexadecimal digits, or a list of them; `cirque keys new` prints it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<OneOrMany<KeyHash>>,
    /// Globs over the model the caller asks for.
    #[serde(default = "every_model")]
    pub models: Vec<String>,
    /// RFC 3339; from then on the key is refused. Never by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// Rates and concurrency; none by default.
    #[serde(default)]
    pub limits: KeyLimits,
    /// Money a calendar period; none by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// Free words that go to traces as tags.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
}

fn every_model() -> Vec<String> {
    vec!["*".into()]
}
