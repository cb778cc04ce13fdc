//! Who is calling: the key of a request, looked up by its hash.

use crate::glob::Globs;
use crate::secret::KeyHash;
use crate::store::Account;
use crate::telemetry::langfuse::KeyTraits;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const API_KEY: HeaderName = HeaderName::from_static("api-key");

/// One caller, as configured.
#[derive(Debug)]
pub struct Caller {
    /// Name in logs, metrics and traces.
    pub name: Arc<str>,
    /// Models it may ask for.
    pub models: Globs,
    /// From then on its keys are refused.
    pub expires: Option<SystemTime>,
    /// What its key says of its traces.
    pub traits: Arc<KeyTraits>,
    /// What it may use.
    pub account: Arc<Account>,
}

/// Every caller by the SHA-256 of its key.
///
/// A look-up hashes what came in and compares hashes in constant time, so neither its duration nor
/// this table tells anything about a key.
#[derive(Debug, Default)]
pub struct Keys {
    by_hash: HashMap<KeyHash, Arc<Caller>>,
}

impl Keys {
    /// A table of these hashes; several may belong to one caller.
    pub fn new(entries: impl IntoIterator<Item = (KeyHash, Arc<Caller>)>) -> Self {
        Self { by_hash: entries.into_iter().collect() }
    }

    /// The caller of this request, or `None`: no key, an unknown one, an expired one, or a header
    /// that is not one. The four must look the same from outside.
    pub fn identify(&self, headers: &HeaderMap, now: SystemTime) -> Option<&Arc<Caller>> {
        let caller = self.by_hash.get(&KeyHash::of(credential(headers)?))?;
        caller.expires.is_none_or(|expires| now < expires).then_some(caller)
    }
}

/// The key a request presents: `x-api-key` alone where it is there (n8n sends a dummy Bearer beside
/// it), else `Authorization: Bearer`, else `api-key`. A header that stands twice is no key: two
/// readers could take different ones.
pub fn credential(headers: &HeaderMap) -> Option<&[u8]> {
    if headers.contains_key(X_API_KEY) {
        return single(headers, &X_API_KEY);
    }
    if let Some(token) = single(headers, &AUTHORIZATION).and_then(bearer) {
        return Some(token);
    }
    single(headers, &API_KEY)
}

fn single<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h [u8]> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.as_bytes().trim_ascii();
    (values.next().is_none() && !value.is_empty()).then_some(value)
}

/// The token of `Bearer token`; the scheme's case does not matter (RFC 9110 section 11.1).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(6)?;
    let token = token.trim_ascii_start();
    (scheme.eq_ignore_ascii_case(b"bearer") && token.len() + 6 < value.len() && !token.is_empty())
        .then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    fn key_of(pairs: &[(&'static str, &'static str)]) -> Option<String> {
        credential(&headers(pairs)).map(|k| String::from_utf8_lossy(k).into_owned())
    }

    #[test]
    fn x_api_key_alone_decides_where_it_is_there() {
        assert_eq!(
            key_of(&[("authorization", "Bearer b"), ("x-api-key", "x"), ("api-key", "a")]),
            Some("x".into())
        );
        assert_eq!(key_of(&[("authorization", "Bearer b"), ("x-api-key", "")]), None);
        assert_eq!(key_of(&[("x-api-key", "x"), ("x-api-key", "y")]), None);
    }

    #[test]
    fn bearer_wins_over_api_key_and_its_case_does_not_matter() {
        assert_eq!(key_of(&[("authorization", "Bearer b"), ("api-key", "a")]), Some("b".into()));
        assert_eq!(key_of(&[("authorization", "bEARER   b")]), Some("b".into()));
        assert_eq!(key_of(&[("authorization", "Basic eDp5"), ("api-key", "a")]), Some("a".into()));
        for wrong in ["Bearer", "Bearer ", "Bearerb", "b", ""] {
            assert_eq!(key_of(&[("authorization", wrong)]), None, "{wrong:?}");
        }
    }

    #[test]
    fn an_expired_key_is_as_unknown_as_any_other() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let caller = |expires| {
            let (models, traits, account) = (Globs::new(&["*"]), Arc::default(), Arc::default());
            Arc::new(Caller { name: "n8n".into(), models, expires, traits, account })
        };
        let keys = Keys::new([
            (KeyHash::of(b"old"), caller(Some(now))),
            (KeyHash::of(b"new"), caller(Some(now + Duration::from_secs(1)))),
        ]);
        assert!(keys.identify(&headers(&[("x-api-key", "old")]), now).is_none());
        assert!(keys.identify(&headers(&[("x-api-key", "new")]), now).is_some());
        assert!(keys.identify(&headers(&[("x-api-key", "other")]), now).is_none());
        assert!(keys.identify(&headers(&[]), now).is_none());
    }
}
