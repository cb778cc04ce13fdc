//! Checks of `keys`: every caller has a name and a key of their own.

use super::{globs, note, values, within};
use crate::config::fault::{Path, shorten};
use crate::config::keys::KeyConfig;
use crate::config::report::Report;
use crate::secret::KeyHash;
use crate::units::OneOrMany;
use std::collections::HashMap;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Bounds of a budget: it is counted in billionths of a dollar, up to some 18 billion dollars.
const LEAST_USD: f64 = 1e-9;
const MOST_USD: f64 = 1e9;

pub(super) fn check(keys: &[KeyConfig], report: &mut Report<'_>) {
    let root = Path::section("keys");
    let mut names: HashMap<&str, usize> = HashMap::with_capacity(keys.len());
    let mut hashes: HashMap<KeyHash, usize> = HashMap::with_capacity(keys.len());
    for (index, key) in keys.iter().enumerate() {
        if report.is_full() {
            return;
        }
        let path = root.index(index);
        note(values::name(&key.name), &path.key("name"), report);
        if names.insert(&key.name, index).is_some() {
            let problem = format!("another key is called `{}`", shorten(&key.name));
            report.fault(&path.key("name"), problem, "give every key a name of its own");
        }
        secrets(key, &path, report);
        for hash in key.hashes() {
            if let Some(other) = hashes.insert(hash, index).filter(|other| *other != index) {
                let other = keys.get(other).map(|key| shorten(&key.name)).unwrap_or_default();
                let problem = format!("the same key as that of `{other}`");
                report.fault(&path, problem, "run `cirque keys new` for a key of its own");
            }
        }
        rules(key, &path, report);
    }
}

fn secrets(key: &KeyConfig, path: &Path<'_>, report: &mut Report<'_>) {
    let hashed = key.sha256.as_ref().map_or(&[][..], OneOrMany::as_slice);
    if key.secret.is_none() && key.secrets.is_empty() && hashed.is_empty() {
        let hint = "write `secret: \"${API_KEY}\"`, or the sha256 that `cirque keys new` prints";
        report.fault(path, "the key has no secret", hint);
    }
    if let Some(secret) = &key.secret {
        note(values::credential(secret.expose()), &path.key("secret"), report);
    }
    for (index, secret) in key.secrets.iter().enumerate() {
        note(values::credential(secret.expose()), &path.key("secrets").index(index), report);
    }
}

fn rules(key: &KeyConfig, path: &Path<'_>, report: &mut Report<'_>) {
    globs(&key.models, &path.key("models"), report);
    if key.expires.as_deref().is_some_and(|text| OffsetDateTime::parse(text, &Rfc3339).is_err()) {
        let hint = "write a date and time such as \"2030-01-01T00:00:00Z\"";
        report.fault(&path.key("expires"), "not a time as of RFC 3339", hint);
    }
    let limits = path.key("limits");
    for (name, limit) in [
        ("requests_per_minute", key.limits.requests_per_minute),
        ("tokens_per_minute", key.limits.tokens_per_minute),
        ("concurrent", key.limits.concurrent),
    ] {
        within(limit.unwrap_or(1), (1, u64::MAX), &limits.key(name), report);
    }
    let usd = key.budget.as_ref().map_or(0.0, |budget| budget.usd);
    let problem = if !usd.is_finite() || usd < 0.0 {
        "less than zero"
    } else if usd > MOST_USD {
        "more than a billion dollars"
    } else if usd > 0.0 && usd < LEAST_USD {
        "less than a billionth of a dollar, the least that is counted"
    } else {
        return;
    };
    let hint = "write an amount of dollars such as 50.0, or take the budget out";
    report.fault(&path.key("budget").key("usd"), problem, hint);
}
