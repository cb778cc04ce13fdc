//! Every answer the gateway makes itself: one table of status, code and type, one row a kind.

use std::borrow::Cow;
use std::time::Duration;

/// Why a request was refused or failed; each kind has exactly one row in [`Kind::row`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// No key, an unknown one, an expired one or a malformed header: one generic answer for all.
    InvalidApiKey,
    /// The key may not use this model.
    ModelNotAllowed,
    /// No route matches the model, or the catalogue does not list it.
    ModelNotFound,
    /// No such path.
    NotFound,
    /// The path exists, the method does not.
    MethodNotAllowed,
    /// The body is not one JSON object.
    InvalidJson,
    /// Well-formed, but not a request we can forward; also broken HTTP framing.
    InvalidRequest,
    /// A top-level key stands twice: two readers could disagree about it.
    DuplicateKey,
    /// The body is longer than `server.max_body`.
    RequestTooLarge,
    /// The request line or the headers are too long or too many.
    HeadersTooLarge,
    /// The request body carries a `Content-Encoding`.
    UnsupportedEncoding,
    /// The caller sent too slowly.
    RequestTimeout,
    /// A rate or concurrency limit, or too many failed authentications.
    RateLimitExceeded,
    /// The key's budget is used up.
    InsufficientQuota,
    /// The limits store is away and the configuration says to refuse.
    LimitsUnavailable,
    /// Nothing to send the call to.
    NoUpstreamAvailable,
    /// Every upstream failed.
    UpstreamError,
    /// Every upstream failed and the last one by taking too long.
    UpstreamTimeout,
    /// The process is shutting down.
    Draining,
    /// A fault of ours.
    Internal,
}

/// One row of the table: what a caller and a dashboard see of a [`Kind`].
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// HTTP status.
    pub status: u16,
    /// OpenAI's `error.code`; also the `code` label of `cirque_rejections_total`.
    pub code: &'static str,
    /// OpenAI's `error.type`.
    pub openai_type: &'static str,
    /// Anthropic's `error.type`, used on `/v1/messages`.
    pub anthropic_type: &'static str,
}

impl Kind {
    /// The row of this kind. A new kind does not compile until it has one.
    #[must_use]
    pub const fn row(self) -> Row {
        const fn row(
            status: u16,
            code: &'static str,
            openai_type: &'static str,
            anthropic_type: &'static str,
        ) -> Row {
            Row { status, code, openai_type, anthropic_type }
        }
        const BAD: &str = "invalid_request_error";
        match self {
            Self::InvalidApiKey => row(401, "invalid_api_key", BAD, "authentication_error"),
            Self::ModelNotAllowed => row(403, "model_not_allowed", BAD, "permission_error"),
            Self::ModelNotFound => row(404, "model_not_found", BAD, "not_found_error"),
            Self::NotFound => row(404, "not_found", BAD, "not_found_error"),
            Self::MethodNotAllowed => row(405, "method_not_allowed", BAD, BAD),
            Self::InvalidJson => row(400, "invalid_json", BAD, BAD),
            Self::InvalidRequest => row(400, "invalid_request", BAD, BAD),
            Self::DuplicateKey => row(400, "duplicate_key", BAD, BAD),
            Self::RequestTooLarge => row(413, "request_too_large", BAD, "request_too_large"),
            Self::HeadersTooLarge => row(431, "headers_too_large", BAD, BAD),
            Self::UnsupportedEncoding => row(415, "unsupported_encoding", BAD, BAD),
            Self::RequestTimeout => row(408, "request_timeout", BAD, BAD),
            Self::RateLimitExceeded => {
                row(429, "rate_limit_exceeded", "rate_limit_error", "rate_limit_error")
            }
            Self::InsufficientQuota => {
                row(429, "insufficient_quota", "insufficient_quota", "rate_limit_error")
            }
            Self::LimitsUnavailable => {
                row(503, "limits_unavailable", "server_error", "overloaded_error")
            }
            Self::NoUpstreamAvailable => {
                row(503, "no_upstream_available", "server_error", "overloaded_error")
            }
            Self::UpstreamError => row(502, "upstream_error", "server_error", "api_error"),
            Self::UpstreamTimeout => row(504, "upstream_timeout", "server_error", "timeout_error"),
            Self::Draining => row(503, "draining", "server_error", "overloaded_error"),
            Self::Internal => row(500, "internal_error", "server_error", "api_error"),
        }
    }
}

/// An answer of the gateway itself: what was wrong and what to do, never a key, an address, a
/// stack or a prompt.
#[derive(Debug, Clone)]
pub struct Rejection {
    /// Which row of the table.
    pub kind: Kind,
    /// For the caller, one or two sentences.
    pub message: Cow<'static, str>,
    /// The request field at fault, in OpenAI's `error.param`.
    pub param: Option<&'static str>,
    /// When trying again may help; becomes `retry-after`, rounded up to whole seconds.
    pub retry_after: Option<Duration>,
}

impl Rejection {
    /// A rejection of this kind with this message.
    pub fn new(kind: Kind, message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, message: message.into(), param: None, retry_after: None }
    }

    /// Names the request field at fault.
    #[must_use]
    pub fn param(mut self, param: &'static str) -> Self {
        self.param = Some(param);
        self
    }

    /// Says when trying again may help.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }
}
