//! What a destination may know of one call: with `capture: metadata` nothing that its caller, the
//! model or the upstream put into words.

use super::destination::Destination;
use super::input::{Input, Shown};
use super::media::without_media;
use super::output;
use super::secrets::Striker;
use super::trace::Trace;
use crate::protocol::Dialect;
use crate::protocol::tap::{MAX_MESSAGE, Transcript};
use std::borrow::Cow;

/// Longest model in a span's name, in characters.
const MAX_NAME: usize = 150;

/// One call, as one destination may see it.
pub(super) struct Facts<'t> {
    trace: &'t Trace,
    shown: Option<&'t Shown>,
    is_full: bool,
    /// Name of the spans and of the trace.
    pub(super) name: String,
    /// The input.
    pub(super) input: Option<Cow<'t, str>>,
    /// The output.
    pub(super) output: Option<String>,
    /// Why the call failed, if it did.
    pub(super) error: Option<String>,
    /// Whether its caller left before the end.
    pub(super) is_cancelled: bool,
}

impl<'t> Facts<'t> {
    pub(super) fn of(
        trace: &'t Trace,
        to: &Destination,
        is_full: bool,
        striker: &Striker<'_>,
    ) -> Self {
        let exchange = &trace.exchange;
        let shown = trace.input.as_deref().filter(|_| is_full).map(Input::shown);
        let input = shown.map(|shown| striker.fitting((&shown.input).into(), to.max_field));
        let said = trace.reading.output.as_deref().filter(|_| is_full);
        let output = said.map(|said| {
            let text = output::messages(said, exchange.finish.as_deref(), striker);
            striker.fitting(text.into(), to.max_field).into_owned()
        });
        // A response that was cancelled elsewhere ends with the same word, and its caller is there.
        let is_theirs = trace.reading.finish.as_deref() == Some("cancelled");
        let is_cancelled = exchange.finish.as_deref() == Some("cancelled") && !is_theirs;
        let model = exchange.model.as_deref().unwrap_or("unknown");
        Self {
            name: [operation(trace.dialect), " ", &striker.clamp(model, MAX_NAME)].concat(),
            input: input.filter(|text| !text.is_empty()),
            output: output.filter(|text| !text.is_empty()),
            error: error(trace, is_full, striker).filter(|_| !is_cancelled).map(without_media),
            is_cancelled,
            trace,
            shown,
            is_full,
        }
    }

    /// The caller's own metadata.
    pub(super) fn metadata(&self) -> impl Iterator<Item = (&str, &str)> {
        let ours = ["request_id", "route", "key"];
        let pairs = self.shown.into_iter().flat_map(|shown| &shown.metadata);
        pairs
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .filter(move |(name, _)| !ours.contains(name))
    }

    /// What was said, where it may be sent.
    pub(super) fn said(&self) -> Option<&'t Transcript> {
        self.trace.reading.output.as_deref().filter(|_| self.is_full)
    }

    /// The model's parameters as a JSON object. Without capture only what is no text is known.
    pub(super) fn parameters(&self) -> Cow<'t, str> {
        match self.shown {
            Some(shown) => Cow::Borrowed(&shown.parameters),
            None => self
                .trace
                .max_output_tokens
                .map_or(Cow::Borrowed(""), |most| format!(r#"{{"max_tokens":{most}}}"#).into()),
        }
    }
}

/// The first word of a span's name, as the semantic conventions have it.
pub(super) const fn operation(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Chat | Dialect::Responses | Dialect::Messages => "chat",
        Dialect::Completions => "text_completion",
        Dialect::Embeddings => "embeddings",
    }
}

/// Why a call failed. An upstream's own words may quote the prompt, so they are not metadata.
fn error(trace: &Trace, is_full: bool, striker: &Striker<'_>) -> Option<String> {
    let exchange = &trace.exchange;
    let code = exchange.error_code;
    let fault = trace.reading.fault.as_ref();
    if code.is_none() && exchange.status < 400 && fault.is_none() {
        return None;
    }
    let theirs = fault.filter(|_| is_full).and_then(|fault| fault.message.as_deref());
    let theirs = theirs.map(|words| striker.uncut(words, MAX_MESSAGE));
    let ours = trace.message.as_deref();
    let words = ours.or(theirs.as_deref()).map(str::to_owned);
    let words = words.unwrap_or_else(|| match exchange.status {
        status if status >= 400 => format!("status {status}"),
        _ => "an error in the reply".to_owned(),
    });
    let mut text = code.map_or_else(|| words.clone(), |code| format!("{code}: {words}"));
    if let Some(theirs) = theirs.as_deref().filter(|_| ours.is_some()) {
        text = format!("{text} (the upstream said: {theirs})");
    }
    Some(text)
}
