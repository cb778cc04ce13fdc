//! `log:`, `langfuse:` and `telemetry:`, what operators are told and where.

use crate::secret::Secret;
use crate::units::{ByteSize, OneOrMany};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
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
    /// What Langfuse shows as the release; Cirque's version by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// Whether inputs and outputs are sent; a key may say otherwise for itself.
    pub capture: Capture,
    /// Share of calls that are traced, 0 to 1.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub sample_rate: f64,
    /// Longer inputs or outputs keep head and tail.
    pub max_field: ByteSize,
    /// Whether a caller may keep a call out with `x-cirque-trace: off`.
    pub allow_opt_out: bool,
    /// Whether our trace hangs below the span a caller's `traceparent` names: only where callers
    /// export to the same project, since Langfuse lists no trace whose parent it has never seen.
    pub join_parent: bool,
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
            release: None,
            capture: Capture::Full,
            sample_rate: 1.0,
            max_field: ByteSize(1 << 20),
            allow_opt_out: false,
            join_parent: false,
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

/// Traces for anything but Langfuse.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetryConfig {
    /// OTLP/HTTP backends, one or a list; none by default.
    pub otlp: OneOrMany<OtlpConfig>,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self { otlp: OneOrMany::Many(Vec::new()) }
    }
}

/// One OTLP/HTTP backend: it gets the same traces as Langfuse, with the `gen_ai.*`
/// attributes of OpenTelemetry's semantic conventions beside.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OtlpConfig {
    /// Name in logs, metrics and `/status`; unique.
    #[serde(default = "otlp")]
    pub name: String,
    /// Base address; `/v1/traces` is added unless it ends with that.
    pub endpoint: String,
    /// Added to every export; empty ones are left out.
    #[serde(default)]
    pub headers: BTreeMap<String, Secret>,
    /// Name of the environment; as that of `langfuse`.
    #[serde(default = "default_environment")]
    pub environment: String,
    /// The release; Cirque's version by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// Whether inputs and outputs are sent; a key may say otherwise for itself.
    #[serde(default = "full")]
    pub capture: Capture,
    /// Share of calls that are traced, 0 to 1.
    #[serde(default = "every_call")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub sample_rate: f64,
    /// Longer inputs or outputs keep head and tail.
    #[serde(default = "one_mebibyte")]
    pub max_field: ByteSize,
    /// Whether a caller may keep a call out with `x-cirque-trace: off`.
    #[serde(default)]
    pub allow_opt_out: bool,
    /// Whether our trace hangs below the span a caller's `traceparent` names.
    #[serde(default = "yes")]
    pub join_parent: bool,
    /// Where traces wait for delivery; `./data/spool-<name>` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spool: Option<SpoolConfig>,
}

impl OtlpConfig {
    /// Where its traces wait.
    #[must_use]
    pub fn spool(&self) -> SpoolConfig {
        self.spool.clone().unwrap_or_else(|| SpoolConfig {
            path: format!("./data/spool-{}", self.name).into(),
            ..SpoolConfig::default()
        })
    }
}

fn otlp() -> String {
    "otlp".into()
}

fn default_environment() -> String {
    LangfuseConfig::default().environment
}

const fn full() -> Capture {
    Capture::Full
}

const fn every_call() -> f64 {
    1.0
}

const fn one_mebibyte() -> ByteSize {
    ByteSize(1 << 20)
}

const fn yes() -> bool {
    true
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
