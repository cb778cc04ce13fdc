//! Where calls go: one endpoint of one provider, its addresses, its credential and its live state.

mod base;
mod client;
mod condition;
pub mod config;
pub mod dns;
mod latency;
pub mod live;
pub mod peer;
pub mod provider;
pub mod quota;
mod state;

pub use base::BaseUrl;
pub use client::Fetcher;
pub use condition::{Standing, Trouble};
pub use state::State;

use crate::secret::Secret;
use condition::Transition;
use config::{ProbeConfig, UpstreamConfig};
use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue};
use live::{CallGuard, Live};
use memchr::memmem;
use peer::Peers;
use provider::Credential;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// One upstream, ready to be called. Everything but `live` is fixed for a configuration.
#[derive(Debug)]
pub struct Upstream {
    /// Name in routes, logs, metrics and `x-cirque-upstream`.
    pub name: Arc<str>,
    /// As configured, defaults filled in.
    pub config: UpstreamConfig,
    /// Scheme, host, port and path of the address.
    pub base: BaseUrl,
    /// Headers that every request carries: the credential first, then the configured ones.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Where to connect to, and how.
    pub peers: Peers,
    /// What changes while it runs; outlives a reload.
    pub live: Arc<Live>,
    /// What is struck out of its errors: its credential, the longest part first.
    struck: Vec<Secret>,
    /// Which credential of `live` is this one's.
    epoch: u64,
}

impl Upstream {
    /// Prepares an upstream; `live` is the state of its namesake before a reload, and `epoch` says
    /// which credential this one has, as that state counts them.
    ///
    /// # Errors
    /// A text for the operator where the address, a header or the CA file is unusable. Validation
    /// finds the first two earlier; a file may change in between.
    pub fn new(config: UpstreamConfig, live: Arc<Live>, epoch: u64) -> Result<Self, String> {
        let row = config.provider.row();
        let address = config.base_url.as_deref().or(row.base_url).unwrap_or_default();
        let base = BaseUrl::parse(address)
            .ok_or_else(|| format!("upstream {}: the base_url cannot be used", config.name))?;
        let headers = headers(&config)?;
        let struck = struck(&config);
        let peers = Peers::new(&config, &base)?;
        if let Ok(address) = base.host.parse::<IpAddr>() {
            // Needs no look-up: it can be called before any background work has begun.
            peers.publish(&[address]);
        }
        let name = config.name.as_str().into();
        Ok(Self { name, config, base, headers, peers, live, struck, epoch })
    }

    /// How it stands towards the next call; `now` counts from the process's start.
    pub fn standing(&self, now: Duration) -> Standing {
        let standing = self.live.standing(now);
        if standing == Standing::Ready && self.is_unresolved() {
            Standing::Unhealthy
        } else {
            standing
        }
    }

    /// Whether its name has been looked up and has no address.
    pub fn is_unresolved(&self) -> bool {
        !self.peers.is_reachable() && self.peers.is_resolved()
    }

    /// Whether it is held for good: neither probes nor the breaker keep calls away. A rate limit is
    /// no illness.
    pub fn is_healthy(&self) -> bool {
        self.peers.is_reachable() && self.live.is_well()
    }

    /// Whether a call may go to it without being a last resort: what readiness is about.
    pub fn may_serve(&self, now: Duration) -> bool {
        match self.standing(now) {
            Standing::Ready
            | Standing::Trial
            | Standing::Resting { .. }
            | Standing::RateLimited { .. } => self.peers.is_reachable(),
            Standing::Unhealthy | Standing::Ejected { .. } => false,
        }
    }

    /// Whether its credential is still the one in force: what a call says that went out with an
    /// older one must not be held against the new.
    fn is_current(&self) -> bool {
        self.epoch == self.live.epoch()
    }

    /// Takes a place for a call until the guard goes; `None` where it has as many as it may have.
    pub fn enter(&self, now: Duration) -> Option<CallGuard> {
        let (place, rested) = self.live.enter(self.config.max_concurrent, now)?;
        if let Some(rested) = rested {
            self.tell(rested, "its pause is over");
        }
        if place.is_trial() {
            tracing::info!(upstream = &*self.name, "upstream on trial");
        }
        Some(place)
    }

    /// A reply proved good, of a call that began at `begun`.
    pub fn succeeded(&self, begun: Duration, now: Duration) {
        if !self.is_current() {
            return;
        }
        if let Some(transition) = self.live.succeeded(begun, now) {
            self.tell(transition, "a call went well");
        }
    }

    /// A call failed by this upstream's fault; `what` says how, in our own words. The times are those
    /// of its beginning and of now.
    pub fn failed(&self, trouble: Option<Trouble>, what: &str, times: (Duration, Duration)) {
        self.live.note(what, SystemTime::now());
        let Some(trouble) = trouble.filter(|_| self.is_current()) else { return };
        if let Some(transition) = self.live.failed(trouble, &self.config.breaker, times) {
            self.tell(transition, what);
        }
    }

    /// It wants a pause: for so long, where it says so.
    pub fn rests(&self, wish: Option<Duration>, is_rate_limit: bool, now: Duration) {
        if self.is_current()
            && let Some(transition) = self.live.rests(wish, is_rate_limit, now)
        {
            self.tell(transition, "it asked for a pause");
        }
    }

    /// It wants a pause for one model alone, in its own name for it.
    pub fn model_rests(&self, model: &str, wish: Duration, now: Duration) {
        if self.is_current() && self.live.model_rests(model, wish, now) {
            let seconds = wish.as_secs_f64();
            tracing::warn!(upstream = &*self.name, model, seconds, "model rests");
        }
    }

    /// A probe went well, or failed in the way that is told.
    pub fn probed(&self, result: Result<(), &str>, probe: &ProbeConfig, now: Duration) {
        if let Err(what) = result {
            self.live.note(format!("probe: {what}"), SystemTime::now());
        }
        for transition in self.live.probed(result.is_ok(), probe, now).into_iter().flatten() {
            self.tell(transition, result.err().unwrap_or("a probe went well"));
        }
    }

    fn tell(&self, transition: Transition, why: &str) {
        let upstream = &*self.name;
        match transition {
            Transition::Ejected(length) => {
                let seconds = length.as_secs_f64();
                tracing::warn!(upstream, seconds, why, "upstream ejected");
            }
            Transition::RateLimited(length) => {
                let seconds = length.as_secs_f64();
                tracing::warn!(upstream, seconds, why, "upstream rate limited");
            }
            Transition::Rests(length) => {
                let seconds = length.as_secs_f64();
                tracing::info!(upstream, seconds, why, "upstream resting");
            }
            Transition::Rested => tracing::info!(upstream, why, "upstream rested"),
            Transition::Vouched => tracing::info!(upstream, why, "upstream awaits its trial"),
            Transition::Unhealthy => tracing::warn!(upstream, why, "upstream unhealthy"),
            Transition::Returned => tracing::info!(upstream, why, "upstream back"),
            Transition::Healthy => tracing::info!(upstream, why, "upstream healthy"),
        }
    }

    /// What this upstream calls the caller's model: by its map, else less its prefix.
    pub fn model_name<'m>(&'m self, model: &'m str) -> &'m str {
        if let Some(name) = self.config.models.get(model) {
            return name;
        }
        let prefix = self.config.prefix_strip.as_deref().unwrap_or_default();
        model.strip_prefix(prefix).filter(|rest| !rest.is_empty()).unwrap_or(model)
    }

    /// The body of an error with our credential struck out, where the upstream quotes it: it is not
    /// the caller's to know. The length stays.
    pub fn without_credential(&self, mut body: Vec<u8>) -> Vec<u8> {
        for secret in self.struck.iter().map(Secret::expose) {
            let quoted: Vec<usize> = memmem::find_iter(&body, secret.as_bytes()).collect();
            for at in quoted {
                body.iter_mut().skip(at).take(secret.len()).for_each(|byte| *byte = b'*');
            }
        }
        body
    }
}

/// What of a header's value may be a secret: the whole and each word of it. Shorter ones are no secrets,
/// as `Bearer`.
pub fn secrets_in(value: &str) -> impl Iterator<Item = &str> {
    const SHORTEST: usize = 8;
    value.split(' ').chain([value]).filter(|part| part.len() >= SHORTEST)
}

/// Whether a header that an operator adds to calls probably holds a credential: some providers take
/// theirs in one of their own.
pub fn holds_credential(name: &str) -> bool {
    const WORDS: [&str; 8] =
        ["key", "token", "auth", "secret", "cookie", "password", "credential", "signature"];
    let name = name.to_ascii_lowercase();
    WORDS.iter().any(|word| name.contains(word))
}

/// All that is a credential: the key, and what configured headers hold, whole and word by word.
fn struck(config: &UpstreamConfig) -> Vec<Secret> {
    let key = config.api_key.as_ref().map(Secret::expose).filter(|key| !key.is_empty());
    let headers = config.headers.iter().filter(|(name, _)| holds_credential(name));
    let parts = headers.flat_map(|(_, value)| secrets_in(value));
    let mut struck: Vec<&str> = key.into_iter().chain(parts).collect();
    struck.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    struck.dedup();
    struck.into_iter().map(|secret| Secret::new(secret.to_owned())).collect()
}

/// The fixed headers: credential, then configured ones, which win over it where they share a name.
fn headers(config: &UpstreamConfig) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let mut headers = Vec::new();
    if let Some(key) = config.api_key.as_ref().filter(|key| !key.is_empty()) {
        let (name, text) = match config.provider.row().credential {
            Credential::Bearer => (AUTHORIZATION, format!("Bearer {}", key.expose())),
            Credential::ApiKey => (HeaderName::from_static("api-key"), key.expose().to_owned()),
            Credential::XApiKey => (HeaderName::from_static("x-api-key"), key.expose().to_owned()),
        };
        let mut value = HeaderValue::try_from(text).map_err(|_| {
            format!("upstream {}: the api_key has characters that no header may", config.name)
        })?;
        value.set_sensitive(true);
        headers.push((name, value));
    }
    for (name, value) in &config.headers {
        match (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            (Ok(name), Ok(value)) => headers.push((name, value)),
            _ => return Err(format!("upstream {}: header {name} cannot be sent", config.name)),
        }
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(yaml: &str) -> UpstreamConfig {
        serde_yaml::from_str(yaml).unwrap()
    }

    #[test]
    fn an_address_in_the_place_of_a_name_can_be_called_at_once() {
        for (base_url, known) in [
            ("http://127.0.0.1:1/v1", true),
            ("http://[::1]:1/v1", true),
            ("http://localhost:1/v1", false),
        ] {
            let config = config(&format!("{{name: u, base_url: '{base_url}'}}"));
            let upstream = Upstream::new(config, Arc::default(), 0).unwrap();
            assert_eq!(upstream.peers.is_reachable(), known, "{base_url}");
            assert_eq!(upstream.peers.is_resolved(), known, "{base_url}");
        }
    }

    #[test]
    fn a_model_is_renamed_by_map_then_by_prefix() {
        let config = config(
            "{name: u, base_url: 'http://127.0.0.1:1/v1', prefix_strip: local/, models: {fast: big}}",
        );
        let upstream = Upstream::new(config, Arc::default(), 0).unwrap();
        assert_eq!(upstream.model_name("fast"), "big");
        assert_eq!(upstream.model_name("local/llama"), "llama");
        assert_eq!(upstream.model_name("local/"), "local/");
        assert_eq!(upstream.model_name("other"), "other");
    }

    #[test]
    fn a_quoted_credential_is_struck_out_of_an_error() {
        let mut config = config("{name: u, base_url: 'http://127.0.0.1:1/v1'}");
        let body = || b"bad key sk-1, sk-1!".to_vec();
        let keyless = Upstream::new(config.clone(), Arc::default(), 0).unwrap();
        assert_eq!(keyless.without_credential(body()), body());
        config.api_key = Some(Secret::new("sk-1".into()));
        let upstream = Upstream::new(config, Arc::default(), 0).unwrap();
        assert_eq!(upstream.without_credential(body()), b"bad key ****, ****!");
    }

    #[test]
    fn a_credential_in_a_header_of_the_operators_is_struck_out_as_well() {
        let config = config(
            "{name: u, base_url: 'http://127.0.0.1:1/v1', headers: {x-portkey-api-key: pk-12345678, \
             x-auth: 'Bearer abcdefgh', x-title: no-secret-at-all}}",
        );
        let upstream = Upstream::new(config, Arc::default(), 0).unwrap();
        let body = b"pk-12345678 Bearer abcdefgh, Bearer, abcdefgh no-secret-at-all".to_vec();
        let struck = upstream.without_credential(body);
        let expected = "*********** ***************, Bearer, ******** no-secret-at-all";
        assert_eq!(String::from_utf8(struck).unwrap(), expected);
    }

    #[test]
    fn the_credential_goes_where_the_provider_wants_it() {
        for (provider, name, value) in [
            ("openrouter", "authorization", "Bearer k"),
            ("azure", "api-key", "k"),
            ("anthropic", "x-api-key", "k"),
        ] {
            let mut config = config(&format!(
                "{{name: u, provider: {provider}, base_url: 'http://127.0.0.1:1/v1'}}"
            ));
            config.api_key = Some(Secret::new("k".into()));
            let headers = headers(&config).unwrap();
            assert_eq!(headers[0].0, name);
            assert_eq!(headers[0].1, value);
            assert!(headers[0].1.is_sensitive());
        }
    }
}
