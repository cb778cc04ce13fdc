//! Which browser pages may read a reply, as headers to add: a pure function of origin and rules.

pub mod config;

use config::CorsConfig;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, VARY,
};
use http::{HeaderName, HeaderValue};
use std::collections::HashSet;

/// Reply headers that a page's script may read; without the list it sees none of ours.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "x-request-id, x-cirque-upstream, x-cirque-attempts, retry-after, retry-after-ms, \
     x-should-retry, x-ratelimit-limit-requests, x-ratelimit-remaining-requests, \
     x-ratelimit-reset-requests, x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, \
     x-ratelimit-reset-tokens, x-generation-id, openai-processing-ms",
);
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, OPTIONS");
/// Offered where a preflight names no headers of its own.
const USUAL_HEADERS: HeaderValue =
    HeaderValue::from_static("authorization, content-type, x-api-key, x-session-id");

/// The rules, ready for a look-up.
#[derive(Debug, Default)]
pub struct Cors {
    any: bool,
    exact: HashSet<String>,
    /// `https://` and `.example.com` of `https://*.example.com`.
    subdomains: Vec<(String, String)>,
    credentials: bool,
    max_age: Option<HeaderValue>,
}

/// Headers to add to a reply.
pub type Headers = Vec<(HeaderName, HeaderValue)>;

impl Cors {
    /// Prepares the configured rules, which validation has found well-formed.
    pub fn new(config: &CorsConfig) -> Self {
        let mut cors = Self {
            credentials: config.allow_credentials,
            max_age: HeaderValue::try_from(config.max_age.0.as_secs().to_string()).ok(),
            ..Self::default()
        };
        for origin in &config.allowed_origins {
            let origin = origin.to_ascii_lowercase();
            match origin.split_once("*.") {
                _ if origin == "*" => cors.any = true,
                Some((scheme, domain)) => {
                    cors.subdomains.push((scheme.into(), format!(".{domain}")));
                }
                None => {
                    cors.exact.insert(origin);
                }
            }
        }
        cors
    }

    fn is_on(&self) -> bool {
        self.any || !self.exact.is_empty() || !self.subdomains.is_empty()
    }

    /// Whether pages of this origin may call. `null` (files, sandboxed frames) only with `*`.
    pub fn allows(&self, origin: &[u8]) -> bool {
        if self.any {
            return true;
        }
        let Ok(origin) = std::str::from_utf8(origin) else { return false };
        let origin = origin.to_ascii_lowercase();
        self.exact.contains(&origin)
            || self.subdomains.iter().any(|(scheme, domain)| {
                origin
                    .strip_prefix(scheme.as_str())
                    .and_then(|host| host.strip_suffix(domain.as_str()))
                    .is_some_and(|sub| !sub.is_empty() && !sub.contains(['/', '@', ':']))
            })
    }

    /// What to add to any reply, errors and streams alike. `Vary` goes on every one, so that no
    /// cache serves one origin's reply to another.
    pub fn reply(&self, origin: Option<&HeaderValue>) -> Headers {
        if !self.is_on() {
            return Headers::new();
        }
        let mut headers = vec![(VARY, HeaderValue::from_static("Origin"))];
        self.grant(origin, &mut headers);
        if headers.len() > 1 {
            headers.push((ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED));
        }
        headers
    }

    /// What to add to the answer of a preflight: the asked-for headers are granted as asked, since
    /// the SDKs' own set changes with every version (WIRE section 7).
    pub fn preflight(&self, origin: Option<&HeaderValue>, asked: Option<&HeaderValue>) -> Headers {
        if !self.is_on() {
            return Headers::new();
        }
        let vary = HeaderValue::from_static("Origin, Access-Control-Request-Headers");
        let mut headers = vec![(VARY, vary)];
        self.grant(origin, &mut headers);
        if headers.len() > 1 {
            headers.push((ACCESS_CONTROL_ALLOW_METHODS, METHODS));
            headers.push((ACCESS_CONTROL_ALLOW_HEADERS, asked.cloned().unwrap_or(USUAL_HEADERS)));
            headers.extend(self.max_age.clone().map(|age| (ACCESS_CONTROL_MAX_AGE, age)));
        }
        headers
    }

    fn grant(&self, origin: Option<&HeaderValue>, headers: &mut Headers) {
        let Some(origin) = origin.filter(|origin| self.allows(origin.as_bytes())) else { return };
        let allowed = if self.any { HeaderValue::from_static("*") } else { origin.clone() };
        headers.push((ACCESS_CONTROL_ALLOW_ORIGIN, allowed));
        if self.credentials {
            headers.push((ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cors(origins: &[&str]) -> Cors {
        Cors::new(&CorsConfig {
            allowed_origins: origins.iter().map(ToString::to_string).collect(),
            ..CorsConfig::default()
        })
    }

    fn named<'h>(headers: &'h Headers, name: &HeaderName) -> Option<&'h str> {
        headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.to_str().unwrap())
    }

    #[test]
    fn origins_match_exactly_or_by_subdomain() {
        let cors = cors(&["https://chat.example.com", "https://*.apps.example.com"]);
        for good in [
            "https://chat.example.com",
            "https://a.apps.example.com",
            "https://a.b.apps.example.com",
        ] {
            assert!(cors.allows(good.as_bytes()), "{good}");
        }
        for bad in [
            "http://chat.example.com",
            "https://chat.example.com.evil.com",
            "https://apps.example.com",
            "https://evil.com/.apps.example.com",
            "https://evil.com:1.apps.example.com",
            "null",
            "",
        ] {
            assert!(!cors.allows(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn a_foreign_origin_is_granted_nothing_but_told_to_vary() {
        let reply = cors(&["https://a.example"])
            .reply(Some(&HeaderValue::from_static("https://b.example")));
        assert_eq!(reply.len(), 1);
        assert_eq!(named(&reply, &VARY), Some("Origin"));
        assert!(Cors::default().reply(None).is_empty());
    }

    #[test]
    fn a_preflight_grants_what_was_asked() {
        let asked = HeaderValue::from_static("authorization,x-stainless-lang");
        let origin = HeaderValue::from_static("https://a.example");
        let reply = cors(&["https://a.example"]).preflight(Some(&origin), Some(&asked));
        assert_eq!(
            named(&reply, &ACCESS_CONTROL_ALLOW_HEADERS),
            Some("authorization,x-stainless-lang")
        );
        assert_eq!(named(&reply, &ACCESS_CONTROL_ALLOW_ORIGIN), Some("https://a.example"));
        assert_eq!(named(&reply, &ACCESS_CONTROL_MAX_AGE), Some("600"));
    }
}
