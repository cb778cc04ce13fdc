//! One place that traces are sent to: its address and headers, and what it wants of each call.

use super::secrets::Secrets;
use crate::ids::TraceId;
use crate::secret::Secret;
use crate::telemetry::config::{Capture, LangfuseConfig, OtlpConfig, SpoolConfig, TelemetryConfig};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderName, HeaderValue};
use std::sync::Arc;

/// Where Langfuse takes traces, under its base address.
const LANGFUSE_PATH: &str = "/api/public/otel/v1/traces";
/// Where any OTLP/HTTP backend does.
const OTLP_PATH: &str = "/v1/traces";
/// How a header begins that holds a user and a password.
const BASIC: &str = "Basic ";
/// The destination of `langfuse:`.
const LANGFUSE: &str = "langfuse";

/// Which attributes a backend reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DestinationKind {
    /// `langfuse.*` alone.
    Langfuse,
    /// Those, and `gen_ai.*` of the semantic conventions.
    Otlp,
}

/// One place that traces are sent to, as the configuration has it.
#[derive(Debug, Clone)]
pub struct Destination {
    /// Unique; `langfuse`, or the name of a `telemetry.otlp` entry.
    pub name: Arc<str>,
    /// Which attributes it reads.
    pub kind: DestinationKind,
    /// Where exports are posted to, the whole address.
    pub url: String,
    /// Headers of every export, credentials included; those that describe the body are not here.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Name of the environment.
    pub environment: Arc<str>,
    /// What is shown as the release.
    pub release: Arc<str>,
    /// Whether inputs and outputs are sent, unless the caller's key says otherwise.
    pub capture: Capture,
    /// Share of calls that are sent, 0 to 1.
    pub sample_rate: f64,
    /// Longest input or output, in bytes.
    pub max_field: usize,
    /// Whether a caller may keep a call out.
    pub allow_opt_out: bool,
    /// Whether a root hangs below the caller's own span.
    pub join_parent: bool,
    /// Where traces wait for delivery.
    pub spool: SpoolConfig,
    /// Its own keys, in every form in which it may quote them.
    secrets: Secrets,
}

impl Destination {
    /// Every destination of a configuration; none where tracing is off.
    #[must_use]
    pub fn all(langfuse: &LangfuseConfig, telemetry: &TelemetryConfig) -> Vec<Arc<Self>> {
        let langfuse = langfuse.is_on().then(|| Self::langfuse(langfuse));
        let others = telemetry.otlp.as_slice().iter().map(Self::otlp);
        langfuse.into_iter().chain(others).map(Arc::new).collect()
    }

    fn langfuse(config: &LangfuseConfig) -> Self {
        let (user, password) = (config.public_key.expose(), config.secret_key.expose());
        let basic = format!("{BASIC}{}", STANDARD.encode(format!("{user}:{password}")));
        let version = env!("CARGO_PKG_VERSION");
        let headers = [
            ("authorization", basic.as_str()),
            // Without it a server may take minutes to show a trace (LANGFUSE section 2).
            ("x-langfuse-ingestion-version", "4"),
            ("x-langfuse-sdk-name", "cirque"),
            ("x-langfuse-sdk-version", version),
        ];
        Self {
            secrets: secrets([basic.as_str()]),
            name: LANGFUSE.into(),
            kind: DestinationKind::Langfuse,
            url: format!("{}{LANGFUSE_PATH}", config.host.trim_end_matches('/')),
            headers: headers.iter().filter_map(|(name, value)| header(name, value)).collect(),
            environment: config.environment.as_str().into(),
            release: release(config.release.as_deref()),
            capture: config.capture,
            sample_rate: config.sample_rate,
            max_field: usize::try_from(config.max_field.0).unwrap_or(usize::MAX),
            allow_opt_out: config.allow_opt_out,
            join_parent: config.join_parent,
            spool: config.spool.clone(),
        }
    }

    fn otlp(config: &OtlpConfig) -> Self {
        let base = config.endpoint.trim_end_matches('/');
        let path = if base.ends_with(OTLP_PATH) { "" } else { OTLP_PATH };
        let given = config.headers.iter().filter(|(_, value)| !value.is_empty());
        Self {
            secrets: secrets(config.headers.values().map(Secret::expose)),
            name: config.name.as_str().into(),
            kind: DestinationKind::Otlp,
            url: format!("{base}{path}"),
            headers: given.filter_map(|(name, value)| header(name, value.expose())).collect(),
            environment: config.environment.as_str().into(),
            release: release(config.release.as_deref()),
            capture: config.capture,
            sample_rate: config.sample_rate,
            max_field: usize::try_from(config.max_field.0).unwrap_or(usize::MAX),
            allow_opt_out: config.allow_opt_out,
            join_parent: config.join_parent,
            spool: config.spool(),
        }
    }

    /// What it said, without its own keys: a proxy that looks for faults may answer with all it was sent.
    #[must_use]
    pub fn without_keys(&self, said: String) -> String {
        self.secrets.striker(None).strike(said)
    }

    /// Whether a call with this trace is among those sent: the same answer wherever it is asked, so
    /// that every span of a trace is sent, or none.
    #[must_use]
    pub fn samples(&self, trace: TraceId) -> bool {
        /// 2^56, one more than the largest place.
        const PLACES: f64 = 72_057_594_037_927_936.0;
        #[expect(clippy::cast_precision_loss, reason = "a share needs no 56 bits")]
        let place = trace.random_bits() as f64;
        place < self.sample_rate * PLACES
    }

    /// Whether it wants this call at all.
    #[must_use]
    pub fn wants(&self, trace: TraceId, opted_out: bool) -> bool {
        self.samples(trace) && !(opted_out && self.allow_opt_out)
    }

    /// Whether it gets inputs and outputs of a caller whose key may say otherwise.
    #[must_use]
    pub fn is_full(&self, by_key: Option<Capture>) -> bool {
        by_key.unwrap_or(self.capture) == Capture::Full
    }
}

fn release(given: Option<&str>) -> Arc<str> {
    given.filter(|given| !given.is_empty()).unwrap_or(env!("CARGO_PKG_VERSION")).into()
}

/// What of these headers' values is not to be seen: the whole, each word, and what `Basic` encodes.
fn secrets<'v>(values: impl IntoIterator<Item = &'v str>) -> Secrets {
    /// Shorter words are no secrets, as `Bearer`.
    const SHORTEST: usize = 8;
    let mut all = Vec::new();
    for value in values {
        let decoded = value.strip_prefix(BASIC).and_then(|pair| STANDARD.decode(pair).ok());
        let pair = decoded.and_then(|pair| String::from_utf8(pair).ok()).unwrap_or_default();
        if let Some((user, password)) = pair.split_once(':') {
            all.extend([&pair, user, password].map(str::to_owned));
        }
        let words = value.split(' ').chain([value]).filter(|word| word.len() >= SHORTEST);
        all.extend(words.map(str::to_owned));
    }
    Secrets::new(all.iter().map(String::as_str), [])
}

/// A header whose value no log prints.
fn header(name: &str, value: &str) -> Option<(HeaderName, HeaderValue)> {
    let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
    let mut value = HeaderValue::from_str(value).ok()?;
    value.set_sensitive(true);
    Some((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::OneOrMany;

    fn otlp(endpoint: &str) -> OtlpConfig {
        serde_json::from_value(serde_json::json!({ "endpoint": endpoint })).unwrap()
    }

    #[test]
    fn nothing_is_sent_anywhere_while_a_key_is_missing() {
        let mut langfuse = LangfuseConfig::default();
        assert!(Destination::all(&langfuse, &TelemetryConfig::default()).is_empty());
        langfuse.public_key = Secret::new("pk-lf-1".into());
        assert!(Destination::all(&langfuse, &TelemetryConfig::default()).is_empty());
    }

    #[test]
    fn langfuse_is_addressed_as_it_expects_and_its_keys_are_never_printed() {
        let langfuse = LangfuseConfig {
            host: "https://lf.example.com/".into(),
            public_key: Secret::new("pk-lf-1".into()),
            secret_key: Secret::new("sk-lf-2".into()),
            ..LangfuseConfig::default()
        };
        let to = Destination::langfuse(&langfuse);
        assert_eq!(to.url, "https://lf.example.com/api/public/otel/v1/traces");
        let value = |name: &str| &to.headers.iter().find(|(n, _)| n == name).unwrap().1;
        assert_eq!(value("authorization"), "Basic cGstbGYtMTpzay1sZi0y");
        assert_eq!(value("x-langfuse-ingestion-version"), "4");
        assert!(!format!("{to:?}").contains("cGst"));
    }

    #[test]
    fn what_a_destination_says_is_shown_without_its_keys() {
        let langfuse = LangfuseConfig {
            public_key: Secret::new("pk-lf-1".into()),
            secret_key: Secret::new("sk-lf-2".into()),
            ..LangfuseConfig::default()
        };
        let clean = |to: &Destination, said: &str| to.without_keys(said.to_owned());
        let to = Destination::langfuse(&langfuse);
        assert_eq!(clean(&to, "Basic cGstbGYtMTpzay1sZi0y!"), "[redacted]!");
        assert_eq!(clean(&to, "cGstbGYtMTpzay1sZi0y"), "[redacted]");
        assert_eq!(clean(&to, "pk-lf-1 and sk-lf-2."), "[redacted] and [redacted].");
        let mut config = otlp("http://a");
        config.headers.insert("authorization".into(), Secret::new("Bearer token-12345".into()));
        config.headers.insert("x-scope".into(), Secret::new("edge".into()));
        let to = Destination::otlp(&config);
        assert_eq!(clean(&to, "Bearer no, token-12345 at edge"), "Bearer no, [redacted] at edge");
    }

    #[test]
    fn an_endpoint_is_a_base_or_the_whole_address() {
        for endpoint in ["http://a:4318", "http://a:4318/", "http://a:4318/v1/traces"] {
            assert_eq!(Destination::otlp(&otlp(endpoint)).url, "http://a:4318/v1/traces");
        }
        let several = OneOrMany::Many(vec![otlp("http://a"), otlp("http://b")]);
        let all = Destination::all(&LangfuseConfig::default(), &TelemetryConfig { otlp: several });
        assert_eq!(all.len(), 2);
    }

    #[test]
    fn the_share_of_sampled_traces_is_the_one_asked_for_and_the_same_each_time() {
        let mut to = Destination::otlp(&otlp("http://a"));
        for (rate, least, most) in [(0.0, 0, 0), (0.25, 2_300, 2_700), (1.0, 10_000, 10_000)] {
            to.sample_rate = rate;
            let ids = || {
                (1..=10_000_u128).map(|n| {
                    TraceId::from_random(n.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835))
                })
            };
            let sampled: Vec<bool> = ids().map(|id| to.samples(id)).collect();
            assert_eq!(sampled, ids().map(|id| to.samples(id)).collect::<Vec<_>>());
            let count = sampled.into_iter().filter(|is| *is).count();
            assert!((least..=most).contains(&count), "{rate}: {count}");
        }
    }
}
