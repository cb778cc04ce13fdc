//! A reply as a client saw it, over either version of HTTP.

use super::wire::Headers;
use serde_json::Value;

/// One reply.
#[derive(Debug, Clone)]
pub(crate) struct Response {
    /// HTTP status.
    pub(crate) status: u16,
    /// Fields.
    pub(crate) headers: Headers,
    /// Statuses of the 1xx headers before it.
    pub(crate) interim: Vec<u16>,
    /// The body, as far as it came.
    pub(crate) body: Vec<u8>,
    /// Whether the body ended as its framing promised.
    pub(crate) complete: bool,
}

impl Response {
    /// The only value of a field.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; a failed test where it is none.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {} {:?}", self.status, self.text()))
    }

    /// The id the gateway gave the request.
    pub(crate) fn request_id(&self) -> String {
        self.header("x-request-id").expect("x-request-id on every reply").to_owned()
    }

    /// Fails the test unless this is a whole reply with status 200.
    pub(crate) fn assert_ok(&self) -> &Self {
        assert_eq!(self.status, 200, "{:?} {}", self.headers, self.text());
        assert!(self.complete, "the reply was cut: {}", self.text());
        self
    }
}
