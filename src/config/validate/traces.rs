//! Checks of `langfuse` and `telemetry`: where traces go, and where they wait.

use super::{note, values};
use crate::config::fault::Path;
use crate::config::report::Report;
use crate::config::sections::Config;
use crate::telemetry::config::{OtlpConfig, SpoolConfig};
use crate::units::{ByteSize, OneOrMany};
use std::collections::HashSet;
use std::path::{Component, PathBuf};

pub(super) fn check(config: &Config, report: &mut Report<'_>) {
    langfuse(config, report);
    let root = Path::section("telemetry");
    let root = root.key("otlp");
    let mut names = HashSet::from(["langfuse"]);
    // Also while `langfuse` is off: what waits in its folder is for nobody else.
    let mut spools = HashSet::from([plain(&config.langfuse.spool.path)]);
    let is_list = matches!(config.telemetry.otlp, OneOrMany::Many(_));
    for (index, entry) in config.telemetry.otlp.as_slice().iter().enumerate() {
        let item = root.index(index);
        let path = if is_list { &item } else { &root };
        otlp(entry, path, report);
        if !names.insert(&entry.name) {
            let hint = "give every destination a name of its own";
            report.fault(&path.key("name"), "another destination has this name", hint);
        } else if !spools.insert(plain(&entry.spool().path)) {
            let hint = "give every destination a folder of its own";
            report.fault(&path.key("spool"), "another destination has this folder", hint);
        }
    }
}

/// The path without its `.`, so that one folder has one name.
fn plain(path: &std::path::Path) -> PathBuf {
    path.components().filter(|part| *part != Component::CurDir).collect()
}

fn langfuse(config: &Config, report: &mut Report<'_>) {
    let (langfuse, path) = (&config.langfuse, Path::section("langfuse"));
    note(values::base_url(&langfuse.host), &path.key("host"), report);
    for (name, key) in [("public_key", &langfuse.public_key), ("secret_key", &langfuse.secret_key)]
    {
        if !key.is_empty() {
            note(values::credential(key.expose()), &path.key(name), report);
        }
    }
    environment(&langfuse.environment, &path, report);
    bounds(langfuse.sample_rate, langfuse.max_field, &path, report);
    spool(&langfuse.spool, &path, report);
}

fn otlp(otlp: &OtlpConfig, path: &Path<'_>, report: &mut Report<'_>) {
    note(values::name(&otlp.name), &path.key("name"), report);
    if otlp.name.contains('/') && otlp.spool.is_none() {
        let hint = "take the `/` out, or name a folder as `spool.path`";
        report.fault(&path.key("name"), "the name cannot become that of a folder", hint);
    }
    note(values::base_url(&otlp.endpoint), &path.key("endpoint"), report);
    let headers = path.key("headers");
    for (name, value) in &otlp.headers {
        let at = headers.key(name);
        note(values::header_name(name), &at, report);
        note(values::header_value(value.expose()), &at, report);
        if is_framing(&name.to_ascii_lowercase()) {
            report.fault(&at, "a header the gateway sets itself", "remove it");
        }
    }
    environment(&otlp.environment, path, report);
    bounds(otlp.sample_rate, otlp.max_field, path, report);
    if let Some(given) = &otlp.spool {
        spool(given, path, report);
    }
}

/// Credentials are welcome here, in any header; what describes the body is not.
fn is_framing(name: &str) -> bool {
    values::reserved(name).is_some() && !matches!(name, "authorization" | "proxy-authorization")
}

fn environment(name: &str, path: &Path<'_>, report: &mut Report<'_>) {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    // The pattern is Langfuse's own; anything else lands in `default` there.
    if !(1..=40).contains(&name.len()) || !name.chars().all(fits) || name.starts_with("langfuse") {
        let hint = "write 1 to 40 of a-z, 0-9, `-` and `_`, not beginning with langfuse";
        report.fault(&path.key("environment"), "a name Langfuse does not accept", hint);
    }
}

fn bounds(sample_rate: f64, max_field: ByteSize, path: &Path<'_>, report: &mut Report<'_>) {
    if !(0.0..=1.0).contains(&sample_rate) {
        let at = path.key("sample_rate");
        report.fault(&at, "not a share from 0 to 1", "write a share such as 0.1");
    }
    if max_field.0 < 1 << 10 {
        report.fault(&path.key("max_field"), "less than 1KiB", "write a size such as 1MiB");
    }
}

fn spool(spool: &SpoolConfig, path: &Path<'_>, report: &mut Report<'_>) {
    let at = path.key("spool");
    if spool.path.as_os_str().is_empty() {
        let hint = "write a folder such as ./data/spool";
        report.fault(&at.key("path"), "the path is empty", hint);
    }
    if spool.max_bytes.0 < 1 << 20 {
        report.fault(&at.key("max_bytes"), "less than 1MiB", "write a size such as 1GiB");
    }
}
