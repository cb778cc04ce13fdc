//! Which endpoint a request path means, in every spelling real clients produce.

use super::Dialect;

/// Longest model id taken from a path, in bytes; the same bound as in a body.
const MAX_ID_BYTES: usize = 256;

/// What a path on the data plane asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A call to a model.
    Inference(Dialect),
    /// The list of models.
    Models,
    /// One model, by its decoded id.
    Model(String),
    /// The state of the gateway, for a key's holder.
    Status,
    /// Liveness.
    Health,
    /// Name, version and routes.
    Root,
}

impl Endpoint {
    /// Reads a raw path without its query; `None` where nothing is served.
    ///
    /// The prefix may be absent, `/v1`, `/v1/v1` (n8n derives it from a base URL with a trailing
    /// slash) or `/api/v1`; empty segments count for nothing, so double and trailing slashes are
    /// harmless. Only a model id may hold percent escapes.
    #[must_use]
    pub fn resolve(path: &str) -> Option<Self> {
        let rest = path.strip_prefix('/')?;
        let mut segments = rest.split('/').filter(|segment| !segment.is_empty());
        let Some(mut first) = segments.next() else {
            return Some(Self::Root);
        };
        if first == "api" {
            first = segments.next().filter(|segment| *segment == "v1")?;
        }
        for _ in 0..2 {
            if first == "v1" {
                first = segments.next()?;
            }
        }
        let Some(second) = segments.next() else {
            return Self::of_one_segment(first);
        };
        match (first, second) {
            ("models", _) => model_id(std::iter::once(second).chain(segments)).map(Self::Model),
            ("chat", "completions") if segments.next().is_none() => {
                Some(Self::Inference(Dialect::Chat))
            }
            _ => None,
        }
    }

    fn of_one_segment(segment: &str) -> Option<Self> {
        match segment {
            "completions" => Some(Self::Inference(Dialect::Completions)),
            "responses" => Some(Self::Inference(Dialect::Responses)),
            "messages" => Some(Self::Inference(Dialect::Messages)),
            "embeddings" => Some(Self::Inference(Dialect::Embeddings)),
            "models" => Some(Self::Models),
            "status" => Some(Self::Status),
            "health" => Some(Self::Health),
            _ => None,
        }
    }

    /// The path as metrics and the log name it.
    #[must_use]
    pub fn route(&self) -> &'static str {
        match self {
            Self::Inference(dialect) => dialect.route(),
            Self::Models => "/v1/models",
            Self::Model(_) => "/v1/models/{id}",
            Self::Status => "/status",
            Self::Health => "/health",
            Self::Root => "/",
        }
    }

    /// The methods served, for the `Allow` header.
    #[must_use]
    pub fn allow(&self) -> &'static str {
        match self {
            Self::Inference(_) => "POST, OPTIONS",
            Self::Models | Self::Model(_) | Self::Status | Self::Health | Self::Root => {
                "GET, HEAD, OPTIONS"
            }
        }
    }

    /// Whether a caller must show a key.
    #[must_use]
    pub fn needs_key(&self) -> bool {
        match self {
            Self::Inference(_) | Self::Models | Self::Model(_) | Self::Status => true,
            Self::Health | Self::Root => false,
        }
    }
}

/// Joins and decodes the segments of a model id; `None` where an escape is broken, the result is
/// not printable UTF-8 of sensible length, or a part of it is empty, `.` or `..`.
fn model_id<'a>(segments: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut id = Vec::new();
    for segment in segments {
        if !id.is_empty() {
            id.push(b'/');
        }
        unescape(segment, &mut id)?;
        if id.len() > MAX_ID_BYTES {
            return None;
        }
    }
    let id = String::from_utf8(id).ok()?;
    let is_part = |part: &str| !matches!(part, "" | "." | "..");
    (id.split('/').all(is_part) && !id.chars().any(char::is_control)).then_some(id)
}

/// Appends `segment` with its percent escapes decoded once; `None` for a broken one.
fn unescape(segment: &str, decoded: &mut Vec<u8>) -> Option<()> {
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        let value = digit()? * 16 + digit()?;
        decoded.push(u8::try_from(value).ok()?);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(path: &str) -> String {
        match Endpoint::resolve(path) {
            Some(Endpoint::Model(id)) => id,
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn every_spelling_of_a_route_resolves() {
        for path in [
            "/v1/chat/completions",
            "/chat/completions",
            "/api/v1/chat/completions",
            "/v1/v1/chat/completions",
            "//v1///chat//completions/",
            "/api/v1/v1/chat/completions",
        ] {
            assert_eq!(Endpoint::resolve(path), Some(Endpoint::Inference(Dialect::Chat)), "{path}");
        }
        for dialect in
            [Dialect::Completions, Dialect::Responses, Dialect::Messages, Dialect::Embeddings]
        {
            for path in [dialect.route(), dialect.path()] {
                assert_eq!(Endpoint::resolve(path), Some(Endpoint::Inference(dialect)), "{path}");
            }
        }
        assert_eq!(Endpoint::resolve("/v1/v1/models"), Some(Endpoint::Models));
        assert_eq!(Endpoint::resolve("//models/"), Some(Endpoint::Models));
        assert_eq!(Endpoint::resolve("/v1/status"), Some(Endpoint::Status));
        assert_eq!(Endpoint::resolve("/health"), Some(Endpoint::Health));
        assert_eq!(Endpoint::resolve("/"), Some(Endpoint::Root));
        assert_eq!(Endpoint::resolve("//"), Some(Endpoint::Root));
    }

    #[test]
    fn anything_else_is_not_served() {
        for path in [
            "",
            "*",
            "v1/models",
            "/v1",
            "/v1/",
            "/v1/v1",
            "/api",
            "/api/models",
            "/api/v1",
            "/v1/v1/v1/models",
            "/v2/models",
            "/chat",
            "/v1/chat/completions/x",
            "/v1/Chat/completions",
            "/v1/chat%2Fcompletions",
            "/v1/embeddings/x",
            "/health/x",
            "/metrics",
            "/v1/chat/../models",
        ] {
            assert_eq!(Endpoint::resolve(path), None, "{path}");
        }
    }

    #[test]
    fn a_model_id_keeps_its_segments_and_loses_its_escapes() {
        assert_eq!(model("/v1/models/gpt-x"), "gpt-x");
        assert_eq!(model("/v1/models/acme%2Fwisp%3Afree"), "acme/wisp:free");
        assert_eq!(model("/models/acme/wisp:free/"), "acme/wisp:free");
        assert_eq!(model("/models/a//b/c"), "a/b/c");
        assert_eq!(model("/models/%7Eacme/%C3%A9"), "~acme/é");
        assert_eq!(model("/models/a%252Fb"), "a%2Fb", "decoded once");
    }

    #[test]
    fn a_hostile_model_id_is_not_served() {
        for id in [
            "%",
            "%2",
            "%2x",
            "%zz",
            "%+1",
            "..",
            "a/../b",
            "a%2F..%2Fb",
            "%2e%2E",
            "a%2F",
            "%2Fa",
            "a%2F%2Fb",
            "a%00",
            "a%0d%0ab",
            "%ff",
            "%C3",
        ] {
            assert_eq!(Endpoint::resolve(&format!("/v1/models/{id}")), None, "{id}");
        }
        assert_eq!(Endpoint::resolve(&format!("/v1/models/{}", "a".repeat(257))), None);
        assert!(Endpoint::resolve(&format!("/v1/models/{}", "a".repeat(256))).is_some());
    }

    #[test]
    fn only_liveness_and_the_front_page_are_open() {
        let keyed = |path: &str| Endpoint::resolve(path).map(|endpoint| endpoint.needs_key());
        assert_eq!(keyed("/"), Some(false));
        assert_eq!(keyed("/health"), Some(false));
        for path in ["/status", "/v1/models", "/v1/models/x", "/v1/chat/completions"] {
            assert_eq!(keyed(path), Some(true), "{path}");
        }
    }
}
