//! Checks of `prices`, `limits`, `session`, `store` and `langfuse`.

use super::{note, values, within};
use crate::config::fault::Path;
use crate::config::report::Report;
use crate::config::sections::Config;
use crate::secret::Secret;
use crate::store::config::StoreKind;
use regex::RegexBuilder;

/// A pattern of a few dozen characters compiles to far less; more is a way to waste memory.
const PATTERN_BYTES: usize = 1 << 20;

pub(super) fn check(config: &Config, report: &mut Report<'_>) {
    prices(config, report);
    limits(config, report);
    session(config, report);
    store(config, report);
    langfuse(config, report);
}

fn prices(config: &Config, report: &mut Report<'_>) {
    let root = Path::section("prices");
    for (glob, price) in &config.prices {
        let path = root.key(glob);
        if glob.trim().is_empty() {
            report.fault(
                &path,
                "an empty model name",
                "write a name, or a glob such as \"local/*\"",
            );
        }
        for (name, dollars) in [
            ("input_per_million", Some(price.input_per_million)),
            ("output_per_million", Some(price.output_per_million)),
            ("cached_input_per_million", price.cached_input_per_million),
        ] {
            if dollars.is_some_and(|dollars| dollars < 0.0) {
                let hint = "write US dollars per million tokens, 0 or more";
                report.fault(&path.key(name), "a price below zero", hint);
            }
        }
    }
}

fn limits(config: &Config, report: &mut Report<'_>) {
    let (limits, path) = (&config.limits, Path::section("limits"));
    let failures = u64::from(limits.auth_failures_per_minute);
    within(failures, (1, u64::MAX), &path.key("auth_failures_per_minute"), report);
    let output = limits.default_max_output_tokens;
    within(output, (1, u64::MAX), &path.key("default_max_output_tokens"), report);
}

fn session(config: &Config, report: &mut Report<'_>) {
    let (session, path) = (&config.session, Path::section("session"));
    let at = path.key("header");
    if let Some(header) = note(values::header_name(&session.header), &at, report) {
        let holds_a_key = matches!(header.as_str(), "x-api-key" | "api-key" | "cookie");
        if holds_a_key || values::reserved(header.as_str()).is_some() {
            let hint = "write a header of its own, such as x-session-id";
            report.fault(&at, "a header that already means something else", hint);
        }
    }
    let pattern = &session.response_format_pattern;
    let built = RegexBuilder::new(pattern).size_limit(PATTERN_BYTES).build();
    if built.is_err() || pattern.is_empty() {
        let hint = "write a pattern such as ^session_";
        let at = path.key("response_format_pattern");
        report.fault(&at, "not a regular expression, or too large a one", hint);
    }
}

fn store(config: &Config, report: &mut Report<'_>) {
    let (store, path) = (&config.store, Path::section("store"));
    if store.path.as_os_str().is_empty() {
        report.fault(&path.key("path"), "the path is empty", "write a folder such as ./data");
    }
    let url = path.key("url");
    match (store.kind, &store.url) {
        (StoreKind::Embedded, None) => {}
        (StoreKind::Embedded, Some(_)) => {
            let hint = "add `kind: redis`, or remove the address";
            report.fault(&url, "the embedded store has no address", hint);
        }
        (StoreKind::Redis, None) => {
            let hint = "write `url: \"${REDIS_URL}\"`, such as redis://127.0.0.1:6379";
            report.fault(&url, "`kind: redis` needs an address", hint);
        }
        (StoreKind::Redis, Some(address)) if is_redis(address) => {}
        (StoreKind::Redis, Some(_)) => {
            let hint = "write an address such as redis://127.0.0.1:6379 or rediss://…";
            report.fault(&url, "not an address that begins with redis:// or rediss://", hint);
        }
    }
}

fn is_redis(address: &Secret) -> bool {
    url::Url::parse(address.expose())
        .is_ok_and(|url| matches!(url.scheme(), "redis" | "rediss") && url.has_host())
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
    let name = &langfuse.environment;
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    // The pattern is Langfuse's own; anything else lands in `default` there.
    if !(1..=40).contains(&name.len()) || !name.chars().all(fits) || name.starts_with("langfuse") {
        let hint = "write 1 to 40 of a-z, 0-9, `-` and `_`, not beginning with langfuse";
        report.fault(&path.key("environment"), "a name Langfuse does not accept", hint);
    }
    if !(0.0..=1.0).contains(&langfuse.sample_rate) {
        let at = path.key("sample_rate");
        report.fault(&at, "not a share from 0 to 1", "write a share such as 0.1");
    }
    if langfuse.max_field.0 < 1 << 10 {
        report.fault(&path.key("max_field"), "less than 1KiB", "write a size such as 1MiB");
    }
    let spool = path.key("spool");
    if langfuse.spool.path.as_os_str().is_empty() {
        report.fault(
            &spool.key("path"),
            "the path is empty",
            "write a folder such as ./data/spool",
        );
    }
    if langfuse.spool.max_bytes.0 < 1 << 20 {
        report.fault(&spool.key("max_bytes"), "less than 1MiB", "write a size such as 1GiB");
    }
}
