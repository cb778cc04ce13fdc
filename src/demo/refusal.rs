//! The simulated provider's errors, in the three shapes that real providers use.

use super::ask::Surface;
use serde_json::{Value, json};

/// Why a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// 503
    Unavailable,
    /// 429
    RateLimited,
    /// 401
    WrongKey,
    /// 404
    NotFound,
    /// 405
    Method,
    /// 400
    Invalid,
}

/// How one trouble is named in each dialect (WIRE section 3).
pub(super) struct Row {
    pub(super) status: u16,
    openrouter: &'static str,
    responses: &'static str,
    anthropic: &'static str,
}

impl Trouble {
    pub(super) const fn row(self) -> Row {
        let (status, openrouter, responses, anthropic) = match self {
            Self::Unavailable => (503, "provider_unavailable", "server_error", "overloaded_error"),
            Self::RateLimited => {
                (429, "rate_limit_exceeded", "rate_limit_exceeded", "rate_limit_error")
            }
            Self::WrongKey => (401, "authentication", "server_error", "authentication_error"),
            Self::NotFound => (404, "not_found", "invalid_prompt", "not_found_error"),
            Self::Method => (405, "invalid_request", "invalid_prompt", "invalid_request_error"),
            Self::Invalid => (400, "invalid_request", "invalid_prompt", "invalid_request_error"),
        };
        Row { status, openrouter, responses, anthropic }
    }
}

/// A trouble and what is said about it.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) trouble: Trouble,
    message: String,
}

impl Refusal {
    pub(super) fn new(trouble: Trouble, message: impl Into<String>) -> Self {
        Self { trouble, message: message.into() }
    }

    /// The body of a reply that is nothing but this error.
    pub(super) fn body(&self, surface: Surface) -> Value {
        let error = self.error(surface);
        match surface {
            Surface::Chat | Surface::Completions | Surface::Embeddings => {
                json!({ "error": error, "user_id": "user_demo" })
            }
            Surface::Responses => json!({ "error": error, "metadata": null }),
            Surface::Messages => json!({ "type": "error", "error": error, "request_id": null }),
        }
    }

    /// The error itself, as streams carry it too.
    pub(super) fn error(&self, surface: Surface) -> Value {
        let (row, message) = (self.trouble.row(), &self.message);
        match surface {
            Surface::Chat | Surface::Completions | Surface::Embeddings => json!({
                "message": message,
                "code": row.status,
                "metadata": { "error_type": row.openrouter, "provider_name": "Simulated" },
            }),
            Surface::Responses => json!({ "code": row.responses, "message": message }),
            Surface::Messages => {
                json!({ "type": row.anthropic, "message": message, "error_type": row.openrouter })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_dialect_gets_its_own_shape() {
        let refusal = Refusal::new(Trouble::RateLimited, "slowly");
        let body = refusal.body(Surface::Chat);
        assert_eq!(body["error"]["code"], 429);
        assert_eq!(body["error"]["metadata"]["error_type"], "rate_limit_exceeded");
        assert_eq!(refusal.body(Surface::Responses)["error"]["code"], "rate_limit_exceeded");
        let body = refusal.body(Surface::Messages);
        assert_eq!(
            (&body["type"], &body["error"]["type"]),
            (&json!("error"), &json!("rate_limit_error"))
        );
    }
}
