//! `log:` and `langfuse:`, what operators are told and where.

use crate::secret::Secret;
use crate::units::ByteSize;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The logs: access log on stdout, everything else on stderr.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// JSON lines, or text for people.
    pub format: LogFormat,
    /// The least severe message on stderr; the access log is always written.
    pub level: LogLevel,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Json, level: LogLevel::Info }
    }
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For a terminal.
    Text,
}

/// Severity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// Needs a person.
    Error,
    /// Recovered.
    Warn,
    /// Changes of state.
    Info,
    /// For developers.
    Debug,
    /// Everything.
    Trace,
}

/// Langfuse; off while either key is empty.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LangfuseConfig {
    /// Base address of the Langfuse server.
    pub host: String,
    /// `pk-lf-…`.
    pub public_key: Secret,
    /// `sk-lf-…`.
    pub secret_key: Secret,
    /// Lower-case name of the environment; letters, digits, `-`, `_`, 40 at most.
    pub environment: String,
    /// Whether inputs and outputs are sent.
    pub capture: Capture,
    /// Share of calls that are traced, 0 to 1.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub sample_rate: f64,
    /// Longer inputs or outputs keep head and tail.
    pub max_field: ByteSize,
    /// Where traces wait for delivery.
    pub spool: SpoolConfig,
}

impl Default for LangfuseConfig {
    fn default() -> Self {
        Self {
            host: "https://cloud.langfuse.com".into(),
            public_key: Secret::new(String::new()),
            secret_key: Secret::new(String::new()),
            environment: "default".into(),
            capture: Capture::Full,
            sample_rate: 1.0,
            max_field: ByteSize(1 << 20),
            spool: SpoolConfig::default(),
        }
    }
}

impl LangfuseConfig {
    /// Whether both keys are there.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !self.public_key.is_empty() && !self.secret_key.is_empty()
    }
}

/// What a trace holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Capture {
    /// Inputs and outputs too.
    Full,
    /// Neither.
    Metadata,
}

/// Traces on disk, waiting for delivery.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SpoolConfig {
    /// Folder.
    pub path: PathBuf,
    /// Bound on disk; the oldest traces go first, counted.
    pub max_bytes: ByteSize,
}

impl Default for SpoolConfig {
    fn default() -> Self {
        Self { path: "./data/spool".into(), max_bytes: ByteSize(1 << 30) }
    }
}
