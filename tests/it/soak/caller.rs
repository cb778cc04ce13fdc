//! A caller that asks again and again, now patiently and now not, and remembers what it saw.

use super::dice::hex;
use super::short_while;
use crate::harness::{Client, Gateway, Request, Response, events};
use rand::Rng as _;
use rand::rngs::StdRng;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::time::Instant;

const PATH: &str = "/v1/chat/completions";

/// One caller.
pub(super) struct Caller {
    pub(super) number: usize,
    pub(super) key: &'static str,
    pub(super) gateway: Arc<Gateway>,
    pub(super) dice: StdRng,
}

/// One call, as its caller saw it.
#[derive(Debug)]
pub(super) struct View {
    /// The caller's name for it; also its session.
    pub(super) call: String,
    pub(super) key: &'static str,
    pub(super) end: End,
}

/// How a call ended for its caller.
#[derive(Debug)]
pub(super) enum End {
    /// It did not wait for the end.
    Left,
    /// With a reply.
    Replied(Replied),
}

/// A reply.
#[derive(Debug)]
pub(super) struct Replied {
    pub(super) request_id: String,
    pub(super) status: u16,
    /// The error it told, in its body or as its last event.
    pub(super) code: Option<String>,
    /// Whether its body ended as HTTP says.
    pub(super) complete: bool,
    /// Whether it is an answer to just this request, from beginning to end.
    pub(super) is_whole_answer: bool,
    pub(super) attempts: u64,
    pub(super) tokens: Option<(u64, u64)>,
    pub(super) bytes: usize,
}

impl Caller {
    /// Calls until the time is over.
    pub(super) async fn call_until(mut self, end: Instant) -> Vec<View> {
        let mut views = Vec::new();
        let mut kept = None;
        while Instant::now() < end {
            let call = format!("call-{}-{}", self.number, views.len());
            let stream = self.dice.random();
            let request = self.request(&call, stream);
            let end = match self.dice.random_range(0..10) {
                0 => self.leave(&request).await,
                1..4 => End::Replied(self.over_http2(&request).await),
                _ => End::Replied(self.over_http1(&request, &mut kept).await),
            };
            views.push(View { call, key: self.key, end });
            tokio::time::sleep(short_while(&mut self.dice, 60)).await;
        }
        views
    }

    fn request(&mut self, call: &str, stream: bool) -> Request {
        let size = match self.dice.random_range(0..20) {
            0 => 1_000_000,
            1..4 => 200_000,
            _ => 500,
        };
        let content = "x".repeat(self.dice.random_range(0..size));
        let body = format!(
            "{{\"model\":\"acme/wisp-2-mini\",\"stream\":{stream},\"messages\":\
             [{{\"role\":\"user\",\"content\":\"{call} {content}\"}}]}}"
        );
        let request = Request::new("POST", PATH)
            .key(&format!("sk-soak-{}", self.key))
            .header("x-session-id", call)
            .header("idempotency-key", call)
            .json_text(body);
        if self.dice.random_bool(0.2) { request.chunked(50_000) } else { request }
    }

    async fn over_http1(&self, request: &Request, kept: &mut Option<Client>) -> Replied {
        let mut client = match kept.take() {
            Some(client) => client,
            None => self.gateway.client().await,
        };
        let reply = client.call(request).await;
        let may_stay = reply.header("connection").is_none_or(|word| word != "close");
        *kept = (reply.complete && may_stay).then_some(client);
        Replied::of(request, &reply)
    }

    async fn over_http2(&self, request: &Request) -> Replied {
        let reply = self.gateway.http2().await.call(request).await;
        Replied::of(request, &reply)
    }

    /// Sends the request and goes: at once, soon, or in the middle of the reply.
    async fn leave(&mut self, request: &Request) -> End {
        let wait = short_while(&mut self.dice, 60);
        if self.dice.random() {
            let mut client = self.gateway.http2().await;
            let pending = client.send_request(request).await;
            tokio::time::sleep(wait).await;
            drop(pending);
            return End::Left;
        }
        let mut client = self.gateway.client().await;
        client.send_request(request).await;
        tokio::time::sleep(wait).await;
        if self.dice.random() {
            client.reset();
        }
        End::Left
    }
}

impl Replied {
    fn of(request: &Request, reply: &Response) -> Self {
        let is_stream =
            reply.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream"));
        let (said, told, usage) = if is_stream { of_stream(reply) } else { of_json(reply) };
        let hash = hex(&Sha256::digest(request.payload_bytes()));
        let count = |name: &str| usage.as_ref().and_then(|usage| usage[name].as_u64());
        Self {
            request_id: reply.request_id(),
            status: reply.status,
            code: told,
            complete: reply.complete,
            is_whole_answer: reply.complete && said == hash,
            attempts: reply.header("x-cirque-attempts").map_or(0, |count| count.parse().unwrap()),
            tokens: count("prompt_tokens").zip(count("completion_tokens")),
            bytes: reply.body.len(),
        }
    }
}

/// What a stream said, the error it ended with, its usage. One that neither says why it stopped nor
/// has an end mark said nothing.
fn of_stream(reply: &Response) -> (String, Option<String>, Option<Value>) {
    let (mut said, mut told, mut usage, mut is_done) = (String::new(), None, None, false);
    for event in events(&reply.body) {
        is_done |= event.data == "[DONE]";
        let Ok(chunk) = serde_json::from_str::<Value>(&event.data) else { continue };
        said += chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default();
        told = code(&chunk);
        is_done |= chunk["choices"][0]["finish_reason"].is_string();
        usage = usage.or_else(|| Some(chunk["usage"].clone()).filter(Value::is_object));
    }
    (if is_done { said } else { String::new() }, told, usage)
}

fn of_json(reply: &Response) -> (String, Option<String>, Option<Value>) {
    let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    let said = body["choices"][0]["message"]["content"].as_str().unwrap_or_default().to_owned();
    (said, code(&body), Some(body["usage"].clone()).filter(Value::is_object))
}

fn code(body: &Value) -> Option<String> {
    let error = body.get("error").filter(|error| error.is_object())?;
    let word = error["code"].as_str().map(ToOwned::to_owned);
    Some(word.unwrap_or_else(|| error["code"].to_string()))
}
