//! What one finished call becomes at one destination: the spans of its trace, as OTLP's JSON.
//!
//! One root generation; or, where several upstreams were asked, a root span with one generation an
//! attempt, of which only the one that answered has usage and cost, since totals are sums over
//! generations. What belongs to the trace stands on every span (LANGFUSE sections 2, 3 and 6).

use super::conversation;
use super::destination::{Destination, DestinationKind};
use super::facts::Facts;
use super::media::without_media;
use super::output;
use super::secrets::Striker;
use super::semconv;
use super::span::{Key, Span, SpanKind, Start, Strike, key};
use super::trace::Trace;
use crate::protocol::usage::{Cost, CostSource, Usage};
use crate::telemetry::exchange::{Attempt, Exchange};
use crate::telemetry::line::Timestamp;
use crate::telemetry::metrics::Outcome;
use std::time::SystemTime;

/// Appends the spans of one call, joined by commas, and says how many; none where this destination does
/// not want the call.
///
/// The same call and the same destination give the same bytes. They are UTF-8, and hold no key.
pub fn encode(trace: &Trace, to: &Destination, out: &mut Vec<u8>) -> usize {
    if !to.wants(trace.exchange.trace_id, trace.opted_out) {
        return 0;
    }
    let striker = trace.secrets.striker(trace.presented.as_ref());
    let is_full = to.is_full(trace.key.capture);
    let facts = Facts::of(trace, to, is_full, &striker);
    let mut encoder =
        Encoder { trace, to, striker: &striker, strike: Strike::Afterwards, facts: &facts };
    let start = out.len();
    let count = encoder.all(out);
    // Hardly any call quotes a key, and one look at the whole costs less than one at each text. A key
    // within a text stands within the whole in the same bytes.
    if out.get(start..).is_some_and(|written| striker.finds_any(written)) {
        out.truncate(start);
        encoder.strike = Strike::Each;
        return encoder.all(out);
    }
    count
}

/// So much of input and output, in bytes, stands in full on the span around several attempts, too; of more
/// the last attempt's has it all. A trace of 4 MB must not become one of 8 (LANGFUSE section 4).
const MOST_TWICE: usize = 1 << 20;

struct Encoder<'e> {
    trace: &'e Trace,
    to: &'e Destination,
    striker: &'e Striker<'e>,
    strike: Strike,
    facts: &'e Facts<'e>,
}

impl Encoder<'_> {
    /// Every span of the call; how many there are.
    fn all(&self, out: &mut Vec<u8>) -> usize {
        let tries = self.trace.exchange.tries.as_slice();
        if tries.len() < 2 {
            self.single(out);
            return 1;
        }
        self.root(out);
        for (number, attempt) in (1..).zip(tries) {
            out.push(b',');
            self.attempt(out, number, attempt);
        }
        1 + tries.len()
    }

    /// A call that at most one upstream was asked for.
    fn single(&self, out: &mut Vec<u8>) {
        let exchange = &self.trace.exchange;
        let mut span = self.begin(out, SpanKind::Client);
        self.common(&mut span, None);
        span.short(TYPE, GENERATION);
        self.verdict(&mut span);
        let asked = self.trace.exchange.model.as_deref();
        self.model(&mut span, (asked, self.served_model()), true);
        self.input_and_output(&mut span, usize::MAX);
        self.money(&mut span, exchange.usage, exchange.cost);
        self.first_token(&mut span);
        self.upstream(&mut span, exchange.upstream.as_deref().unwrap_or_default());
        span.end();
    }

    /// The span around several attempts.
    fn root(&self, out: &mut Vec<u8>) {
        let mut span = self.begin(out, SpanKind::Server);
        self.common(&mut span, None);
        span.short(TYPE, "span");
        self.verdict(&mut span);
        self.input_and_output(&mut span, MOST_TWICE);
        span.end();
    }

    fn attempt(&self, out: &mut Vec<u8>, number: u32, attempt: &Attempt) {
        let Trace { exchange, span, .. } = self.trace;
        let from = exchange.started + attempt.begun;
        let is_last = number as usize == exchange.tries.len();
        // How the last one ended for the caller, who may have left meanwhile, is the call's verdict.
        let failure = if is_last { self.facts.error.clone() } else { failure(attempt) };
        let start = Start {
            trace: exchange.trace_id,
            span: span.child(number),
            parent: Some(*span),
            name: &self.facts.name,
            kind: SpanKind::Client,
            from,
            to: from + attempt.took,
            error: failure.as_deref(),
        };
        let mut span = Span::begin(out, (self.striker, self.strike), &start);
        self.common(&mut span, Some(attempt).filter(|_| !is_last));
        span.short(TYPE, GENERATION);
        let asked = Some(attempt.model.as_str());
        if is_last {
            let served = self.trace.reading.model.as_deref();
            self.verdict(&mut span);
            self.model(&mut span, (asked, served.or(asked)), true);
            self.input_and_output(&mut span, usize::MAX);
            self.money(&mut span, exchange.usage, exchange.cost);
            self.first_token(&mut span);
        } else {
            if let Some(failure) = &failure {
                level(&mut span, "ERROR", failure);
            }
            self.model(&mut span, (asked, asked), false);
            self.money(&mut span, None, None);
        }
        self.upstream(&mut span, &attempt.upstream);
        span.whole(key!("langfuse.observation.metadata.attempt"), number.into());
        span.end();
    }

    fn begin<'o>(&'o self, out: &'o mut Vec<u8>, kind: SpanKind) -> Span<'o, 'o> {
        let Trace { exchange, span, parent, .. } = self.trace;
        let start = Start {
            trace: exchange.trace_id,
            span: *span,
            parent: parent.filter(|_| self.to.join_parent),
            name: &self.facts.name,
            kind,
            from: exchange.started,
            to: exchange.started + exchange.duration,
            error: self.facts.error.as_deref(),
        };
        Span::begin(out, (self.striker, self.strike), &start)
    }

    /// What belongs to the trace, on every span: Langfuse 4 looks at spans alone. Of an attempt that
    /// another one `followed` OTLP backends are told how that ended.
    fn common(&self, span: &mut Span<'_, '_>, followed: Option<&Attempt>) {
        let Trace { exchange, user, key, .. } = self.trace;
        span.short(key!("langfuse.trace.name"), &self.facts.name);
        span.short(key!("user.id"), user.as_deref().unwrap_or_default());
        span.short(key!("session.id"), exchange.session_id.as_deref().unwrap_or_default());
        let name = exchange.key.as_deref().unwrap_or_default();
        let theirs = key.tags.iter().map(|tag| ("", tag.as_str()));
        let tags = [("route:", exchange.route), ("key:", name)].into_iter().chain(theirs);
        span.list(key!("langfuse.trace.tags"), tags);
        span.short(key!("langfuse.environment"), &self.to.environment);
        span.short(key!("langfuse.release"), &self.to.release);
        span.short(key!("langfuse.trace.metadata.request_id"), exchange.request_id.as_str());
        span.short(key!("langfuse.trace.metadata.route"), exchange.route);
        span.short(key!("langfuse.trace.metadata.key"), name);
        for (name, value) in self.facts.metadata() {
            span.named("langfuse.trace.metadata.", name, value);
        }
        if self.to.kind == DestinationKind::Otlp {
            semconv::common(span, self.trace, self.to, followed);
        }
    }

    /// How the call ended.
    fn verdict(&self, span: &mut Span<'_, '_>) {
        let exchange = &self.trace.exchange;
        match (&self.facts.error, self.facts.is_cancelled) {
            (Some(error), _) => level(span, "ERROR", error),
            (None, true) => level(span, "WARNING", "the caller left before the end"),
            (None, false) => {}
        }
        span.whole(key!("langfuse.observation.metadata.status"), exchange.status.into());
        let texts = [
            (key!("langfuse.observation.metadata.finish"), exchange.finish.as_deref()),
            (key!("langfuse.observation.metadata.error_code"), exchange.error_code),
            (key!("langfuse.observation.metadata.requested_model"), exchange.model.as_deref()),
            (key!("langfuse.observation.metadata.reply_id"), self.trace.reading.id.as_deref()),
        ];
        for (key, text) in texts {
            span.short(key, text.unwrap_or_default());
        }
        span.flag(key!("langfuse.observation.metadata.stream"), exchange.stream);
        span.whole(key!("langfuse.observation.metadata.attempts"), exchange.attempts.into());
    }

    /// Who answered; else who was asked, by the upstream's name, as with several attempts.
    fn served_model(&self) -> Option<&str> {
        let Trace { exchange, reading, .. } = self.trace;
        let asked = || exchange.tries.last().map(|attempt| attempt.model.as_str());
        reading.model.as_deref().or_else(asked).or(exchange.model.as_deref())
    }

    /// The model that was asked for, and the one that answered.
    fn model(
        &self,
        span: &mut Span<'_, '_>,
        (asked, model): (Option<&str>, Option<&str>),
        answered: bool,
    ) {
        span.short(key!("langfuse.observation.model.name"), model.unwrap_or_default());
        span.long(key!("langfuse.observation.model.parameters"), &self.facts.parameters());
        if self.to.kind == DestinationKind::Otlp {
            span.short(key!("gen_ai.request.model"), asked.unwrap_or_default());
            semconv::generation(span, self.trace, &self.facts.parameters(), answered);
        }
    }

    /// Shortened where together they are longer than `most`.
    fn input_and_output(&self, span: &mut Span<'_, '_>, most: usize) {
        let (input, output) = (self.facts.input.as_deref(), self.facts.output.as_deref());
        let bytes = input.map_or(0, str::len) + output.map_or(0, str::len);
        let each = if bytes > most { most / 8 } else { usize::MAX };
        let fields = [
            (key!("langfuse.observation.input"), input),
            (key!("langfuse.observation.output"), output),
        ];
        for (key, text) in fields {
            if let Some(text) = text {
                span.long(key, &self.striker.fitting(text.into(), each));
            }
        }
        if bytes > most {
            return;
        }
        if self.to.kind == DestinationKind::Otlp {
            self.messages(span);
        }
    }

    /// Input and output once more, in the form of the semantic conventions; JSON that would have to be
    /// cut is left out, since nobody could read it.
    fn messages(&self, span: &mut Span<'_, '_>) {
        let fits = |text: &String| text.len() <= self.to.max_field;
        let asked = self.facts.input.as_deref().and_then(conversation::messages);
        if let Some(asked) = asked.filter(fits) {
            span.long(key!("gen_ai.input.messages"), &asked);
        }
        let finish = self.trace.exchange.finish.as_deref();
        let said = self.facts.said().map(|said| output::parts(said, finish, self.striker));
        if let Some(said) = said.filter(fits) {
            span.long(key!("gen_ai.output.messages"), &said);
        }
    }

    /// Always said, also where it is nothing: Langfuse bills what it guesses of a generation that has
    /// neither, of a failed one too.
    fn money(&self, span: &mut Span<'_, '_>, usage: Option<Usage>, cost: Option<Cost>) {
        let usage = usage.unwrap_or_default();
        let cost = cost.unwrap_or(Cost { usd: 0.0, source: CostSource::None });
        let usd = if cost.usd.is_finite() { cost.usd.max(0.0) } else { 0.0 };
        span.counts(key!("langfuse.observation.usage_details"), usage_details(usage));
        let said = self.trace.reading.upstream_cost;
        let parts =
            said.filter(|_| cost.source == CostSource::Upstream).and_then(|said| said.parts);
        span.numbers(key!("langfuse.observation.cost_details"), cost_details(usd, parts));
        span.short(key!("langfuse.observation.metadata.cost_source"), cost.source.as_str());
        if self.to.kind == DestinationKind::Otlp {
            semconv::usage(span, usage, usd);
        }
    }

    fn first_token(&self, span: &mut Span<'_, '_>) {
        let Exchange { started, time_to_first_token, .. } = &self.trace.exchange;
        let at = time_to_first_token.and_then(|after| started.checked_add(after));
        if let Some(at) = at {
            span.short(key!("langfuse.observation.completion_start_time"), &moment(at));
        }
    }

    fn upstream(&self, span: &mut Span<'_, '_>, upstream: &str) {
        span.short(key!("langfuse.observation.metadata.upstream"), upstream);
        if self.to.kind == DestinationKind::Otlp {
            span.short(key!("gen_ai.provider.name"), upstream);
        }
    }
}

fn level(span: &mut Span<'_, '_>, level: &str, message: &str) {
    span.short(key!("langfuse.observation.level"), level);
    span.message(key!("langfuse.observation.status_message"), message);
}

/// How an attempt failed, if it did.
fn failure(attempt: &Attempt) -> Option<String> {
    let word = attempt.outcome.as_str();
    match (&attempt.outcome, &attempt.what) {
        (Outcome::Ok, _) => None,
        (_, Some(what)) => Some(without_media(format!("{word}: {what}"))),
        (_, None) => Some(word.to_owned()),
    }
}

const TYPE: Key = key!("langfuse.observation.type");
const GENERATION: &str = "generation";

fn moment(at: SystemTime) -> String {
    Timestamp(at).to_string()
}

/// Dollars in all; and for input and output, where these are all: Langfuse adds up what it is told.
fn cost_details(usd: f64, parts: Option<(f64, f64)>) -> impl Iterator<Item = (&'static str, f64)> {
    /// Of a sum of two figures that are written with a few digits.
    const ROUNDING: f64 = 1e-6;
    let parts = parts.filter(|(input, output)| (input + output - usd).abs() <= usd * ROUNDING);
    let parts =
        parts.into_iter().flat_map(|(input, output)| [("input", input), ("output", output)]);
    parts.chain([("total", usd)])
}

/// Tokens in disjoint buckets and their sum, by the names Langfuse has prices for.
fn usage_details(usage: Usage) -> impl Iterator<Item = (&'static str, u64)> {
    let Usage { input, cached_input, output, reasoning, cache_write, .. } = usage;
    let Usage { input_audio, output_audio, .. } = usage;
    let text = input.saturating_sub(cache_write).saturating_sub(input_audio);
    let buckets = [
        ("input", text, true),
        ("input_cached_tokens", cached_input, false),
        ("input_cache_creation", cache_write, false),
        ("input_audio_tokens", input_audio, false),
        ("output", output.saturating_sub(output_audio), true),
        ("output_reasoning_tokens", reasoning, false),
        ("output_audio_tokens", output_audio, false),
    ];
    let total = buckets.iter().fold(0_u64, |sum, (_, tokens, _)| sum.saturating_add(*tokens));
    let said = buckets.into_iter().filter(|(_, tokens, is_always)| *is_always || *tokens > 0);
    said.map(|(name, tokens, _)| (name, tokens)).chain([("total", total)])
}
