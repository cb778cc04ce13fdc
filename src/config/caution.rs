//! What is allowed and probably not meant: told once at start, never a fault.

use super::sections::Config;
use super::validate::Listen;
use crate::store::config::{OnDown, StoreKind};
use std::collections::BTreeSet;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Cautions about a configuration without faults, each naming its setting.
pub(super) fn cautions(config: &Config, now: OffsetDateTime) -> Vec<String> {
    let mut found = Vec::new();
    let admin = config.admin.listen.as_deref().map(Listen::parse);
    if admin.is_some_and(|listen| listen.is_ok_and(|listen| !listen.is_local())) {
        found.push("admin.listen: other machines can reach it, and it asks for no key".to_owned());
    }
    if config.server.trusted_proxies.iter().any(|network| network.ends_with("/0")) {
        found.push("server.trusted_proxies: any client can claim any address".to_owned());
    }
    if config.langfuse.public_key.is_empty() != config.langfuse.secret_key.is_empty() {
        found.push("langfuse: off, because only one of its two keys is set".to_owned());
    }
    if config.store.kind == StoreKind::Embedded && config.store.on_down != OnDown::Local {
        found.push("store.on_down: means nothing without `kind: redis`".to_owned());
    }
    found.extend(expired(config, now));
    found.extend(upstreams(config));
    found.extend(unreachable_routes(config));
    found
}

fn expired(config: &Config, now: OffsetDateTime) -> impl Iterator<Item = String> {
    config.keys.iter().enumerate().filter_map(move |(index, key)| {
        let expires = OffsetDateTime::parse(key.expires.as_deref()?, &Rfc3339).ok()?;
        (expires <= now).then(|| format!("keys[{index}]: `{}` has expired", key.name))
    })
}

fn upstreams(config: &Config) -> Vec<String> {
    let routed: BTreeSet<&str> =
        config.routes.iter().flat_map(|route| &route.upstreams).map(String::as_str).collect();
    let mut found = Vec::new();
    for (index, upstream) in config.upstreams.iter().enumerate() {
        if !routed.contains(upstream.name.as_str()) {
            found.push(format!("upstreams[{index}]: no route uses `{}`", upstream.name));
        }
        if upstream.tls.as_ref().is_some_and(|tls| !tls.verify) {
            let what = "anyone in between can read the calls";
            found.push(format!("upstreams[{index}].tls.verify: {what}"));
        }
        let url = upstream.base_url.as_deref().and_then(|url| url::Url::parse(url).ok());
        let is_plain = url.is_some_and(|url| url.scheme() == "http" && !is_near(&url));
        if is_plain && upstream.api_key.is_some() {
            let what = "the credential travels unencrypted";
            found.push(format!("upstreams[{index}].base_url: {what}"));
        }
    }
    found
}

/// Whether the address is this machine, a private network or a bare name such as a container's.
fn is_near(url: &url::Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => !name.contains('.'),
        Some(url::Host::Ipv4(v4)) => v4.is_loopback() || v4.is_private(),
        Some(url::Host::Ipv6(v6)) => v6.is_loopback() || v6.is_unique_local(),
        None => false,
    }
}

/// Routes that stand behind one for every model.
fn unreachable_routes(config: &Config) -> impl Iterator<Item = String> {
    let catches_all = |models: &[String]| models.iter().any(|glob| glob == "*");
    let first = config.routes.iter().position(|route| catches_all(&route.models));
    let behind = first.map_or(config.routes.len(), |first| first + 1);
    (behind..config.routes.len()).map(move |index| {
        format!("routes[{index}]: routes[{}] takes every model first", behind - 1)
    })
}
