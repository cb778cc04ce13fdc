//! From a loaded configuration to a snapshot; live state is carried over by name.

use super::Snapshot;
use super::labels::Labels;
use crate::auth::{Caller, Keys};
use crate::config::keys::KeyConfig;
use crate::config::sections::Config;
use crate::config::{Loaded, not_yet};
use crate::cors::Cors;
use crate::glob::Globs;
use crate::limits::prices::Prices;
use crate::routing::{self, Member, Route};
use crate::secret::Secret;
use crate::session::Sessions;
use crate::store::{Account, Budget, NanoUsd};
use crate::telemetry::langfuse::{Destination, KeyTraits, Plan, Secrets};
use crate::upstream::config::{HealthConfig, UpstreamConfig};
use crate::upstream::{Upstream, holds_credential, secrets_in};
use ipnet::IpNet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Builds the next snapshot.
///
/// # Errors
/// A text for the operator where a file that the configuration names cannot be used.
pub(super) fn snapshot(
    loaded: Loaded,
    previous: Option<&Snapshot>,
    now: SystemTime,
) -> Result<Snapshot, String> {
    let Loaded { config, hash, is_keyless, listener_files, .. } = loaded;
    let served = previous.map_or_else(|| listener_files.clone(), |p| p.listener_files.clone());
    let mut not_yet = not_yet(&config);
    if served != listener_files {
        not_yet.push("server.tls: its files are new; a restart is needed to serve them".to_owned());
    }
    let upstreams = upstreams(&config, previous)?;
    let find = |name: &str| {
        let named = |(_, upstream): &(usize, &Arc<Upstream>)| *upstream.name == *name;
        let (position, upstream) = upstreams.iter().enumerate().find(named)?;
        let UpstreamConfig { weight, priority, .. } = upstream.config;
        Some(Member { position, weight, priority, hash: routing::hash(name) })
    };
    let routes = config.routes.iter().map(|route| Route::new(route, find)).collect();
    let callers: Vec<_> = config.keys.iter().map(|key| (key, caller(key))).collect();
    let accounts = callers.iter().map(|(_, caller)| &caller.account);
    if let Some(previous) = previous {
        forget_what_is_void(&upstreams, previous);
    }
    Ok(Snapshot {
        generation: previous.map_or(1, |previous| previous.generation + 1),
        hash,
        loaded_at: now,
        limited: accounts.filter(|account| account.is_limited()).cloned().collect(),
        prices: Prices::new(&config.prices),
        keys: Keys::new(
            callers
                .iter()
                .flat_map(|(key, caller)| key.hashes().map(|hash| (hash, Arc::clone(caller)))),
        ),
        cors: Cors::new(&config.cors),
        sessions: Sessions::new(&config.session),
        routes,
        trusted: config.server.trusted_proxies.iter().filter_map(|text| network(text)).collect(),
        not_yet,
        is_keyless,
        listener_files: served,
        labels: Labels::of(&config),
        tracing: tracing(&config),
        upstreams,
        config,
    })
}

fn upstreams(config: &Config, previous: Option<&Snapshot>) -> Result<Vec<Arc<Upstream>>, String> {
    let namesake = |name: &str| previous?.upstreams.iter().find(|old| *old.name == *name);
    let build = |upstream: &UpstreamConfig| {
        let old = namesake(&upstream.name);
        let live = old.map(|old| Arc::clone(&old.live)).unwrap_or_default();
        let epoch = live.epoch() + u64::from(old.is_some_and(|old| has_other_key(old, upstream)));
        let new = Upstream::new(upstream.clone(), live, epoch)?;
        // The addresses of another host are not this one's.
        let same_host = old.filter(|old| old.base.host == new.base.host);
        if let Some(known) = same_host.filter(|old| old.peers.is_reachable()) {
            new.peers.publish(&known.peers.addresses());
        }
        Ok(Arc::new(new))
    };
    config.upstreams.iter().map(build).collect()
}

fn has_other_key(old: &Upstream, new: &UpstreamConfig) -> bool {
    old.config.api_key != new.api_key
}

/// Forgets of shared state what is void under the new configuration. The last step, after all that
/// may be refused: a rejected reload changes nothing.
fn forget_what_is_void(upstreams: &[Arc<Upstream>], previous: &Snapshot) {
    for upstream in upstreams {
        let Some(old) = previous.upstreams.iter().find(|old| old.name == upstream.name) else {
            continue;
        };
        if matches!(upstream.config.health, HealthConfig::Off(_)) {
            upstream.live.forget_probes();
        }
        if has_other_key(old, &upstream.config) {
            upstream.live.forget_credential(upstream.live.epoch() + 1);
        }
    }
}

/// Where traces go, and every key that is known, so that none is in them.
fn tracing(config: &Config) -> Plan {
    let destinations = Destination::all(&config.langfuse, &config.telemetry);
    if destinations.is_empty() {
        return Plan::default();
    }
    let langfuse = [&config.langfuse.public_key, &config.langfuse.secret_key];
    let upstreams = config.upstreams.iter().filter_map(|upstream| upstream.api_key.as_ref());
    let otlp = config.telemetry.otlp.as_slice().iter().flat_map(|otlp| otlp.headers.values());
    let headers = config.upstreams.iter().flat_map(|upstream| &upstream.headers);
    let credentials = headers.filter(|(name, _)| holds_credential(name)).map(|(_, value)| value);
    let values = otlp.map(Secret::expose).chain(credentials.map(String::as_str));
    let own = langfuse.into_iter().chain(upstreams).map(Secret::expose);
    let callers = config.keys.iter().flat_map(|key| key.secret.iter().chain(&key.secrets));
    let secrets = Secrets::new(own.chain(values.flat_map(secrets_in)), callers.map(Secret::expose));
    Plan::new(destinations, secrets)
}

fn caller(key: &KeyConfig) -> Arc<Caller> {
    let name: Arc<str> = key.name.as_str().into();
    let limits = &key.limits;
    let budget = |budget: &crate::limits::config::Budget| Budget {
        limit: NanoUsd::from_usd(budget.usd),
        per: budget.per,
    };
    Arc::new(Caller {
        name: Arc::clone(&name),
        models: Globs::new(&key.models),
        expires: key.expires.as_deref().and_then(moment),
        traits: Arc::new(KeyTraits {
            tags: key.metadata.iter().map(|(name, value)| format!("{name}:{value}")).collect(),
            capture: key.capture,
        }),
        account: Arc::new(Account {
            key: name,
            requests_per_minute: limits.requests_per_minute,
            tokens_per_minute: limits.tokens_per_minute,
            concurrent: limits.concurrent,
            budget: key.budget.as_ref().map(budget),
        }),
    })
}

fn moment(text: &str) -> Option<SystemTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok().map(SystemTime::from)
}

/// A network, or one address.
fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_in_headers_are_secrets_and_the_words_beside_them_are_not() {
        let yaml = "\
            upstreams: [{ name: a, base_url: 'http://a/v1', headers: { X-Api-Key: sk-in-a-header } }]\n\
            telemetry: { otlp: { endpoint: 'http://b', headers: { Authorization: Bearer sk-otlp-1 } } }\n";
        let config: Config = serde_yaml::from_str(yaml).unwrap();
        let plan = tracing(&config);
        for secret in ["sk-in-a-header", "sk-otlp-1", "Bearer sk-otlp-1"] {
            assert!(plan.secrets().knows(secret), "{secret}");
        }
        assert!(!plan.secrets().knows("Bearer"));
    }
}
