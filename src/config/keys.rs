//! `keys:`, who may call and what each may use.

use crate::limits::config::{Budget, KeyLimits};
use crate::secret::{KeyHash, Secret};
use crate::telemetry::config::Capture;
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
    /// Whether its traces hold inputs and outputs, whatever `langfuse` and `telemetry` say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capture: Option<Capture>,
}

impl KeyConfig {
    /// A caller with this key and no restriction.
    #[must_use]
    pub fn with_secret(name: &str, secret: Secret) -> Self {
        Self {
            name: name.to_owned(),
            secret: Some(secret),
            secrets: Vec::new(),
            sha256: None,
            models: every_model(),
            expires: None,
            limits: KeyLimits::default(),
            budget: None,
            metadata: BTreeMap::new(),
            capture: None,
        }
    }

    /// The hash of every key that names this caller.
    pub fn hashes(&self) -> impl Iterator<Item = KeyHash> {
        let plain = self.secret.iter().chain(&self.secrets);
        let hashed = self.sha256.iter().flat_map(OneOrMany::as_slice).copied();
        plain.map(|secret| KeyHash::of(secret.expose().as_bytes())).chain(hashed)
    }
}

/// A new caller's key, `sk-cq-<public id>-<secret>`: 32 bits that may be shown and 192 that may
/// not, from the system's generator, in hexadecimal.
#[must_use]
pub fn new_key() -> Secret {
    let (id, high, low): (u32, u128, u64) = rand::random();
    Secret::new(format!("sk-cq-{id:08x}-{high:032x}{low:016x}"))
}

fn every_model() -> Vec<String> {
    vec!["*".into()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_keys_have_their_form_and_never_repeat() {
        let (one, other) = (new_key(), new_key());
        assert_ne!(one, other);
        let parts: Vec<&str> = one.expose().split('-').collect();
        let [sk, cq, id, secret] = parts.as_slice() else { panic!("{} parts", parts.len()) };
        assert_eq!((*sk, *cq, id.len(), secret.len()), ("sk", "cq", 8, 48));
    }
}
