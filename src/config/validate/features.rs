//! Checks of `prices`, `limits`, `session` and `store`.

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
            if dollars.is_some_and(|dollars| !dollars.is_finite() || dollars < 0.0) {
                let hint = "write US dollars per million tokens, 0 or more";
                report.fault(&path.key(name), "not a price of zero or more", hint);
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
        (StoreKind::Redis, Some(address)) if !is_redis(address) => {
            let hint = "write an address such as redis://127.0.0.1:6379 or rediss://…";
            report.fault(&url, "not an address that begins with redis:// or rediss://", hint);
        }
        (StoreKind::Redis, Some(address)) => {
            if address.expose().parse::<redis::ConnectionInfo>().is_err() {
                let hint =
                    "write redis://[user:password@]host[:port][/database], the last a number";
                report.fault(&url, "the address cannot be read", hint);
            }
        }
    }
}

fn is_redis(address: &Secret) -> bool {
    url::Url::parse(address.expose())
        .is_ok_and(|url| matches!(url.scheme(), "redis" | "rediss") && url.has_host())
}
