//! `store:`, where counters and spend live.

use crate::secret::Secret;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The store of limits and budgets.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// One machine or several.
    pub kind: StoreKind,
    /// Folder of the embedded store and of what else must survive a restart.
    pub path: PathBuf,
    /// `redis://` or `rediss://` address; only with `kind: redis`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<Secret>,
    /// What happens to calls while Redis is away.
    pub on_down: OnDown,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self { kind: StoreKind::Embedded, path: "./data".into(), url: None, on_down: OnDown::Local }
    }
}

/// Where counters live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StoreKind {
    /// Files in `path`; one gateway.
    Embedded,
    /// Redis or Valkey; several gateways share limits and budgets.
    Redis,
}

/// What happens while a shared store is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnDown {
    /// Live on this replica's leased slice and share, then refuse.
    Local,
    /// Refuse at once.
    Deny,
    /// Admit, and settle later.
    Allow,
}
