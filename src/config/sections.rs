//! `server:` and `admin:`, and the whole file as one value.

use super::keys::KeyConfig;
use crate::cors::config::CorsConfig;
use crate::limits::config::{LimitsConfig, Price};
use crate::routing::config::RouteConfig;
use crate::session::config::SessionConfig;
use crate::store::config::StoreConfig;
use crate::telemetry::config::{LangfuseConfig, LogConfig, TelemetryConfig};
use crate::units::{ByteSize, OneOrMany, Span};
use crate::upstream::config::UpstreamConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The whole configuration; every section may be left out.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The data plane's listener.
    pub server: ServerConfig,
    /// The admin plane's listener.
    pub admin: AdminConfig,
    /// Browsers.
    pub cors: CorsConfig,
    /// Callers.
    pub keys: Vec<KeyConfig>,
    /// Where calls go.
    pub upstreams: Vec<UpstreamConfig>,
    /// Which upstreams serve which models; by default one route for every model over every
    /// upstream.
    pub routes: Vec<RouteConfig>,
    /// US dollars by model glob; overrides the catalogue.
    pub prices: BTreeMap<String, Price>,
    /// What holds for every caller.
    pub limits: LimitsConfig,
    /// Conversations.
    pub session: SessionConfig,
    /// Where counters and spend live.
    pub store: StoreConfig,
    /// Traces.
    pub langfuse: LangfuseConfig,
    /// Traces for anything but Langfuse.
    pub telemetry: TelemetryConfig,
    /// Logs.
    pub log: LogConfig,
}

/// The data plane.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ServerConfig {
    /// One address or a list; `0.0.0.0` with `PROXY_PORT`, else `PORT`, else 8000 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<OneOrMany<String>>,
    /// Worker threads; 0 is one a core.
    #[schemars(range(max = 1024))]
    pub threads: usize,
    /// HTTP/2 without TLS as well as HTTP/1.1.
    pub h2c: bool,
    /// Where a successor fetches the listeners; in `store.path` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upgrade_sock: Option<PathBuf>,
    /// HTTPS with HTTP/2; off by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTls>,
    /// Larger request bodies get 413.
    pub max_body: ByteSize,
    /// Slowest allowed gap while a caller sends.
    pub read_timeout: Span,
    /// Silence after which a stream gets a comment.
    pub keepalive_comment: Span,
    /// Longest wait for open requests at shutdown.
    pub drain: Span,
    /// Networks whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<String>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: None,
            threads: 0,
            h2c: true,
            upgrade_sock: None,
            tls: None,
            max_body: ByteSize(100 << 20),
            read_timeout: Span::seconds(60),
            keepalive_comment: Span::seconds(15),
            drain: Span::seconds(30),
            trusted_proxies: Vec::new(),
        }
    }
}

/// Certificate and key of our own listener, as PEM files.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenerTls {
    /// Certificate chain.
    pub cert: PathBuf,
    /// Private key.
    pub key: PathBuf,
}

/// The admin plane.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AdminConfig {
    /// Address; `ADMIN_LISTEN`, else `127.0.0.1:9090` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
}
