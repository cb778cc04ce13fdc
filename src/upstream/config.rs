//! `upstreams:`, where calls go.

use super::provider::Provider;
use crate::secret::Secret;
use crate::units::Span;
use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// One endpoint of one provider, with one credential.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpstreamConfig {
    /// Name in routes, logs, metrics and `x-cirque-upstream`; unique.
    pub name: String,
    /// Sets the credential's header, field policy and quirks.
    #[serde(default)]
    pub provider: Provider,
    /// Base address up to and with the version, such as `https://openrouter.ai/api/v1`; the
    /// provider's public one by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_url: Option<String>,
    /// The credential; none by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<Secret>,
    /// Headers added to every request, over those of the caller.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Share under `balance: weighted`.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1000))]
    pub weight: u32,
    /// Lower is tried first under `balance: priority`.
    #[serde(default)]
    pub priority: u32,
    /// Calls at once; no limit by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_concurrent: Option<u64>,
    /// Caller's model name to this upstream's name.
    #[serde(default)]
    pub models: BTreeMap<String, String>,
    /// Prefix of the caller's model name that this upstream does not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix_strip: Option<String>,
    /// How long each step may take.
    #[serde(default)]
    pub timeouts: TimeoutsConfig,
    /// Active probes; `off`, or how.
    #[serde(default)]
    pub health: HealthConfig,
    /// When failures take the upstream out.
    #[serde(default)]
    pub breaker: BreakerConfig,
    /// What happens to the upstream's work when the caller leaves.
    #[serde(default)]
    pub on_disconnect: OnDisconnect,
    /// HTTP/2 to this upstream.
    #[serde(default)]
    pub http2: Http2,
    /// TLS details; only for `https`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<UpstreamTls>,
}

impl UpstreamConfig {
    /// An upstream of this provider with every default.
    #[must_use]
    pub fn new(name: &str, provider: Provider) -> Self {
        Self {
            name: name.to_owned(),
            provider,
            base_url: None,
            api_key: None,
            headers: BTreeMap::new(),
            weight: one(),
            priority: 0,
            max_concurrent: None,
            models: BTreeMap::new(),
            prefix_strip: None,
            timeouts: TimeoutsConfig::default(),
            health: HealthConfig::default(),
            breaker: BreakerConfig::default(),
            on_disconnect: OnDisconnect::default(),
            http2: Http2::default(),
            tls: None,
        }
    }
}

const fn one() -> u32 {
    1
}

/// How long each step of an attempt may take.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TimeoutsConfig {
    /// TCP and TLS.
    pub connect: Span,
    /// From the request to the first byte of the reply.
    pub first_byte: Span,
    /// From the request to the first token of a stream; comments do not count.
    pub first_token: Span,
    /// Longest gap between data of a reply.
    pub idle: Span,
    /// The whole call.
    pub total: Span,
}

impl Default for TimeoutsConfig {
    fn default() -> Self {
        Self {
            connect: Span::seconds(5),
            first_byte: Span::seconds(120),
            first_token: Span::seconds(120),
            idle: Span::seconds(120),
            total: Span::seconds(1_800),
        }
    }
}

/// `off`, or the probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum HealthConfig {
    /// No probes.
    Off(Off),
    /// How the upstream is probed.
    On(ProbeConfig),
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self::On(ProbeConfig::default())
    }
}

/// By hand, because serde's own reading of an untagged enum forgets which key was wrong.
impl<'de> Deserialize<'de> for HealthConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OffOrProbe;

        impl<'de> Visitor<'de> for OffOrProbe {
            type Value = HealthConfig;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`off` or a mapping such as { interval: 10s }")
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<HealthConfig, E> {
                // Tools of YAML 1.1, Helm among them, write `off` back as `false`.
                if word == "off" || word == "false" {
                    return Ok(HealthConfig::Off(Off::Off));
                }
                Err(E::custom("neither `off` nor a mapping; write off, or { interval: 10s }"))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<HealthConfig, A::Error> {
                ProbeConfig::deserialize(MapAccessDeserializer::new(map)).map(HealthConfig::On)
            }
        }

        deserializer.deserialize_any(OffOrProbe)
    }
}

/// The word `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Off {
    /// No probes.
    Off,
}

/// An active probe.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ProbeConfig {
    /// Path under the base address, fetched with GET; by default what the provider answers for free,
    /// `/models` for most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Between two probes.
    pub interval: Span,
    /// For the whole probe.
    pub timeout: Span,
    /// Failures in a row that make an upstream unhealthy.
    #[schemars(range(min = 1))]
    pub unhealthy_after: u32,
    /// Successes in a row that make it healthy again.
    #[schemars(range(min = 1))]
    pub healthy_after: u32,
}

impl Default for ProbeConfig {
    fn default() -> Self {
        Self {
            path: None,
            interval: Span::seconds(10),
            timeout: Span::seconds(2),
            unhealthy_after: 3,
            healthy_after: 2,
        }
    }
}

/// Passive ejection.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BreakerConfig {
    /// Failures within the window that eject.
    #[schemars(range(min = 1))]
    pub failures: u32,
    /// The window.
    pub within: Span,
    /// First ejection; it doubles up to ten minutes.
    pub eject: Span,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self { failures: 5, within: Span::seconds(30), eject: Span::seconds(30) }
    }
}

/// What a caller's disconnect does upstream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnDisconnect {
    /// Close at once, so that generation stops.
    #[default]
    Cancel,
    /// Read to the end, so that the real usage is known.
    Drain,
}

/// HTTP/2 to an upstream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Http2 {
    /// Where TLS offers it.
    #[default]
    Auto,
    /// HTTP/1.1 only.
    Never,
    /// HTTP/2 only; without TLS by prior knowledge.
    Always,
}

/// TLS to an upstream.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct UpstreamTls {
    /// PEM file with the certificate authorities to trust instead of the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// Whether the certificate is checked at all.
    pub verify: bool,
    /// Name to ask for and to check, instead of the host of the address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
}

impl Default for UpstreamTls {
    fn default() -> Self {
        Self { ca: None, verify: true, sni: None }
    }
}
