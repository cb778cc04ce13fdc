//! One finished call as it is handed over: owned, and cheap to make. Nothing here is JSON yet.

use super::input::Input;
use super::secrets::Secrets;
use crate::ids::SpanId;
use crate::protocol::Dialect;
use crate::protocol::tap::Reading;
use crate::secret::Secret;
use crate::telemetry::config::Capture;
use crate::telemetry::exchange::Exchange;
use std::sync::Arc;

/// One finished call. It holds what every destination may want; what one of them gets is decided
/// when it is encoded.
#[derive(Debug)]
pub struct Trace {
    /// The flat facts, the trace id among them.
    pub exchange: Exchange,
    /// The root span's id.
    pub span: SpanId,
    /// The caller's own span, where it sent a `traceparent`.
    pub parent: Option<SpanId>,
    /// Which API was spoken.
    pub dialect: Dialect,
    /// The body's `user`, else the key's name.
    pub user: Option<Arc<str>>,
    /// The caller's key: what its configuration says of its traces.
    pub key: Arc<KeyTraits>,
    /// Whether the caller asked not to be traced.
    pub opted_out: bool,
    /// What a copy of the reply told: the model that answered, its error, and what it said.
    pub reading: Reading,
    /// Our own words to the caller, where we refused or broke off.
    pub message: Option<String>,
    /// The most output tokens asked for.
    pub max_output_tokens: Option<u64>,
    /// The request body, where it is captured.
    pub input: Option<Arc<Input>>,
    /// The key this caller presented, to be struck out, where it is not among `secrets`.
    pub presented: Option<Secret>,
    /// Every other key that must not be seen.
    pub secrets: Arc<Secrets>,
}

/// What a caller's key says of its traces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyTraits {
    /// Its metadata, such as `team:automation`.
    pub tags: Vec<String>,
    /// Its own word on inputs and outputs.
    pub capture: Option<Capture>,
}

impl Trace {
    /// Bytes it keeps alive, about: what a queue of them is bounded by.
    #[must_use]
    pub fn bytes(&self) -> usize {
        /// The record itself with its short texts.
        const FIXED: usize = 2_048;
        let input = self.input.as_ref().map_or(0, |input| input.bytes());
        let output = self.reading.output.as_ref().map_or(0, |output| output.bytes());
        FIXED + input + output
    }
}
