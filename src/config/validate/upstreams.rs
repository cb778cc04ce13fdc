//! Checks of `upstreams` and `routes`: every call has somewhere to go.

use super::{globs, note, values, wait, within};
use crate::config::fault::{Path, listed, nearest, shorten};
use crate::config::report::Report;
use crate::config::sections::Config;
use crate::routing::config::RouteConfig;
use crate::upstream::config::{HealthConfig, UpstreamConfig};
use std::collections::{BTreeSet, HashSet};

pub(super) fn check(upstreams: &[UpstreamConfig], report: &mut Report<'_>) {
    let root = Path::section("upstreams");
    if upstreams.is_empty() {
        let hint = "add one: `- { name: openrouter, provider: openrouter, api_key: \"${OPENROUTER_API_KEY}\" }`";
        report.fault(&root, "there is no upstream, so no call has anywhere to go", hint);
    }
    let mut names = BTreeSet::new();
    for (index, upstream) in upstreams.iter().enumerate() {
        if report.is_full() {
            return;
        }
        let path = root.index(index);
        note(values::name(&upstream.name), &path.key("name"), report);
        if !names.insert(&upstream.name) {
            let problem = format!("another upstream is called `{}`", shorten(&upstream.name));
            report.fault(&path.key("name"), problem, "give every upstream a name of its own");
        }
        address(upstream, &path, report);
        headers(upstream, &path, report);
        models(upstream, &path, report);
        resilience(upstream, &path, report);
    }
}

fn address(upstream: &UpstreamConfig, path: &Path<'_>, report: &mut Report<'_>) {
    let base_url = path.key("base_url");
    let Some(text) = &upstream.base_url else {
        if !report.did_read(&path.key("provider")) {
            return;
        }
        let hint = "write the address up to the version, such as http://127.0.0.1:8001/v1";
        report.fault(&base_url, "this provider has no public address", hint);
        return;
    };
    let url = note(values::base_url(text), &base_url, report);
    if let Some(key) = &upstream.api_key {
        note(values::credential(key.expose()), &path.key("api_key"), report);
    }
    let Some(tls) = &upstream.tls else { return };
    if url.is_some_and(|url| url.scheme() != "https") {
        let hint = "begin base_url with https://, or take `tls` out";
        report.fault(&path.key("tls"), "the address is not https", hint);
    }
    if tls.sni.as_deref().is_some_and(|sni| !values::is_host(sni)) {
        let hint = "write the name in the certificate, such as api.example.com";
        report.fault(&path.key("tls").key("sni"), "not a host name", hint);
    }
}

fn headers(upstream: &UpstreamConfig, path: &Path<'_>, report: &mut Report<'_>) {
    let headers = path.key("headers");
    let mut seen = HashSet::new();
    for (name, value) in &upstream.headers {
        let path = headers.key(name);
        let Some(header) = note(values::header_name(name), &path, report) else { continue };
        if let Some(hint) = values::reserved(header.as_str()) {
            report.fault(&path, "a header the gateway sets itself", hint);
        }
        note(values::header_value(value), &path, report);
        if !seen.insert(header) {
            report.fault(&path, "the header stands twice", "capital letters make no difference");
        }
    }
}

fn models(upstream: &UpstreamConfig, path: &Path<'_>, report: &mut Report<'_>) {
    for (ours, theirs) in &upstream.models {
        if ours.trim().is_empty() || theirs.trim().is_empty() {
            let hint = "write `\"caller's name\": \"this upstream's name\"`";
            report.fault(&path.key("models").key(ours), "an empty model name", hint);
        }
    }
    if upstream.prefix_strip.as_deref().is_some_and(|prefix| prefix.trim().is_empty()) {
        let hint = "write a prefix such as \"local/\", or remove the line";
        report.fault(&path.key("prefix_strip"), "the prefix is empty", hint);
    }
}

fn resilience(upstream: &UpstreamConfig, path: &Path<'_>, report: &mut Report<'_>) {
    within(upstream.weight.into(), (1, 1000), &path.key("weight"), report);
    within(
        upstream.max_concurrent.unwrap_or(1),
        (1, u64::MAX),
        &path.key("max_concurrent"),
        report,
    );
    let (timeouts, at) = (&upstream.timeouts, path.key("timeouts"));
    for (name, span) in [
        ("connect", timeouts.connect),
        ("first_byte", timeouts.first_byte),
        ("first_token", timeouts.first_token),
        ("idle", timeouts.idle),
        ("total", timeouts.total),
    ] {
        wait(span, &at.key(name), report);
    }
    if let HealthConfig::On(probe) = &upstream.health {
        let at = path.key("health");
        let is_path =
            |path: &String| path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic());
        if !probe.path.as_ref().is_none_or(is_path) {
            let hint = "write a path under base_url, such as /models";
            report.fault(&at.key("path"), "not a path that begins with /", hint);
        }
        wait(probe.interval, &at.key("interval"), report);
        wait(probe.timeout, &at.key("timeout"), report);
        let count = (1, u64::from(u32::MAX));
        within(probe.unhealthy_after.into(), count, &at.key("unhealthy_after"), report);
        within(probe.healthy_after.into(), count, &at.key("healthy_after"), report);
    }
    let (breaker, at) = (&upstream.breaker, path.key("breaker"));
    within(breaker.failures.into(), (1, u64::from(u32::MAX)), &at.key("failures"), report);
    wait(breaker.within, &at.key("within"), report);
    wait(breaker.eject, &at.key("eject"), report);
}

/// Checks `routes`, which name upstreams.
pub(super) fn check_routes(config: &Config, report: &mut Report<'_>) {
    let root = Path::section("routes");
    let known: BTreeSet<&str> = config.upstreams.iter().map(|u| u.name.as_str()).collect();
    for (index, route) in config.routes.iter().enumerate() {
        if report.is_full() {
            return;
        }
        let path = root.index(index);
        globs(&route.models, &path.key("models"), report);
        let upstreams = path.key("upstreams");
        if route.upstreams.is_empty() {
            report.fault(&upstreams, "the list is empty", "name at least one upstream");
        }
        for (index, name) in route.upstreams.iter().enumerate() {
            // An upstream that did not read may be the one that is meant.
            if known.contains(name.as_str()) || known.is_empty() || report.has_lost("upstreams") {
                continue;
            }
            let hint = nearest(name, known.iter().copied()).map_or_else(
                || format!("known upstreams: {}", listed(known.iter().copied())),
                |near| format!("did you mean `{near}`?"),
            );
            let problem = format!("no upstream is called `{}`", shorten(name));
            report.fault(&upstreams.index(index), problem, hint);
        }
        tries(route, &path, report);
    }
}

fn tries(route: &RouteConfig, path: &Path<'_>, report: &mut Report<'_>) {
    let retry = path.key("retry");
    within(route.retry.attempts.into(), (1, 10), &retry.key("attempts"), report);
    if !(0.0..=1.0).contains(&route.retry.budget) {
        report.fault(&retry.key("budget"), "not a share from 0 to 1", "write a share such as 0.2");
    }
    for (index, model) in route.fallback_models.iter().enumerate() {
        if model.trim().is_empty() || model.contains('*') {
            let path = path.key("fallback_models");
            let hint = "write the whole name of one model, such as openai/gpt-4o-mini";
            report.fault(&path.index(index), "not the name of one model", hint);
        }
    }
}
