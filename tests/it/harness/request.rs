//! A request as a test says it, and its exact bytes over HTTP/1.1.

use super::config::KEY;
use bytes::Bytes;
use serde_json::Value;

/// How a body travels over HTTP/1.1.
#[derive(Debug, Clone)]
enum Payload {
    Nothing,
    Length(Bytes),
    Chunked(Vec<Bytes>),
}

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    payload: Payload,
}

impl Request {
    /// Any method, with the usual caller's key.
    pub(crate) fn new(method: &str, target: &str) -> Self {
        let request = Self {
            method: method.to_owned(),
            target: target.to_owned(),
            headers: Vec::new(),
            payload: Payload::Nothing,
        };
        request.header("authorization", &format!("Bearer {KEY}"))
    }

    /// A GET with the usual caller's key.
    pub(crate) fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    /// A POST of JSON with the usual caller's key.
    pub(crate) fn post(target: &str, body: &Value) -> Self {
        Self::new("POST", target).json_text(body.to_string())
    }

    /// A browser's preflight: no key.
    pub(crate) fn preflight(target: &str, origin: &str, headers: &str) -> Self {
        Self::new("OPTIONS", target)
            .anonymous()
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", headers)
    }

    /// With another caller's key.
    pub(crate) fn key(self, secret: &str) -> Self {
        self.anonymous().header("authorization", &format!("Bearer {secret}"))
    }

    /// Without any key.
    pub(crate) fn anonymous(mut self) -> Self {
        self.headers.retain(|(name, _)| name != "authorization");
        self
    }

    /// Adds a field.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With this body, its length and JSON's content type.
    pub(crate) fn json_text(self, body: impl Into<Bytes>) -> Self {
        self.header("content-type", "application/json").body(body)
    }

    /// With this body and its length.
    pub(crate) fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.payload = Payload::Length(body.into());
        self
    }

    /// Cuts the body into chunks of at most `size` bytes instead of announcing its length.
    pub(crate) fn chunked(mut self, size: usize) -> Self {
        let body = self.payload_bytes();
        let mut chunks = Vec::new();
        for start in (0..body.len()).step_by(size) {
            chunks.push(body.slice(start..body.len().min(start + size)));
        }
        self.payload = Payload::Chunked(chunks);
        self
    }

    /// The body, framing aside.
    pub(crate) fn payload_bytes(&self) -> Bytes {
        match &self.payload {
            Payload::Nothing => Bytes::new(),
            Payload::Length(body) => body.clone(),
            Payload::Chunked(chunks) => chunks.concat().into(),
        }
    }

    /// The start line and the fields, up to and with the empty line.
    pub(crate) fn head(&self, host: &str) -> String {
        let mut lines =
            vec![format!("{} {} HTTP/1.1", self.method, self.target), format!("host: {host}")];
        lines.extend(self.headers.iter().map(|(name, value)| format!("{name}: {value}")));
        match &self.payload {
            Payload::Nothing => {}
            Payload::Length(body) => lines.push(format!("content-length: {}", body.len())),
            Payload::Chunked(_) => lines.push("transfer-encoding: chunked".to_owned()),
        }
        lines.join("\r\n") + "\r\n\r\n"
    }

    /// All its bytes.
    pub(crate) fn encode(&self, host: &str) -> Vec<u8> {
        let mut bytes = self.head(host).into_bytes();
        match &self.payload {
            Payload::Nothing => {}
            Payload::Length(body) => bytes.extend_from_slice(body),
            Payload::Chunked(chunks) => {
                for chunk in chunks {
                    bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                    bytes.extend_from_slice(chunk);
                    bytes.extend_from_slice(b"\r\n");
                }
                bytes.extend_from_slice(b"0\r\n\r\n");
            }
        }
        bytes
    }
}
