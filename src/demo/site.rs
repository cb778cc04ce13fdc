//! Which path leads to which answer: the simulated provider as a function of one request.

use super::answer::{self, Spoken};
use super::ask::{Ask, Surface};
use super::models;
use super::refusal::{Refusal, Trouble};
use super::reply::{Reply, Side, Stamp};
use super::{chat, embeddings, faults, messages, responses};
use http::Method;
use serde_json::Value;

/// One request, as far as the provider looks at it.
pub(super) struct Request<'a> {
    pub(super) method: &'a Method,
    pub(super) path: &'a str,
    pub(super) authorization: Option<&'a [u8]>,
    pub(super) body: &'a [u8],
}

/// What a path leads to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Page {
    Models,
    Call(Surface),
}

/// The credential of one side, which the demonstration's configuration gives to the gateway: who
/// calls with anything else, such as the caller's own key, is refused.
pub(super) fn credential(side: Side) -> String {
    format!("simulated-key-of-{}", side.as_str())
}

/// The reply to a request. Total: whatever is asked, something is answered.
pub(super) fn answer(request: &Request<'_>, stamp: &Stamp<'_>) -> Reply {
    let Some((side, page)) = page(request.path) else {
        let message = "the simulated provider has no such path";
        return Reply::refusal(Surface::Chat, &Refusal::new(Trouble::NotFound, message));
    };
    let (surface, method) = match page {
        Page::Models => (Surface::Chat, Method::GET),
        Page::Call(surface) => (surface, Method::POST),
    };
    let refused = |refusal: &Refusal| Reply::refusal(surface, refusal);
    if request.method != method {
        return refused(&Refusal::new(Trouble::Method, format!("this path wants {method}")));
    }
    match page {
        // Public, as OpenRouter's list is: it proves reachability, not the credential.
        Page::Models => Reply::json(200, &models::list()),
        Page::Call(_) if !is_authorized(request, side) => refused(&faults::wrong_key()),
        Page::Call(surface) => {
            call(surface, side, request.body, stamp).unwrap_or_else(|refusal| refused(&refusal))
        }
    }
}

fn page(path: &str) -> Option<(Side, Page)> {
    let (side, rest) = path.strip_prefix('/')?.split_once('/')?;
    let side = [Side::Main, Side::Spare].into_iter().find(|known| known.as_str() == side)?;
    let page = match rest.strip_prefix("v1/")? {
        "models" => Page::Models,
        "chat/completions" => Page::Call(Surface::Chat),
        "completions" => Page::Call(Surface::Completions),
        "responses" => Page::Call(Surface::Responses),
        "messages" => Page::Call(Surface::Messages),
        "embeddings" => Page::Call(Surface::Embeddings),
        _ => return None,
    };
    Some((side, page))
}

fn is_authorized(request: &Request<'_>, side: Side) -> bool {
    request.authorization == Some(format!("Bearer {}", credential(side)).as_bytes())
}

fn call(surface: Surface, side: Side, body: &[u8], stamp: &Stamp<'_>) -> Result<Reply, Refusal> {
    let invalid = |message: String| Refusal::new(Trouble::Invalid, message);
    let body: Value =
        serde_json::from_slice(body).map_err(|error| invalid(format!("not JSON: {error}")))?;
    let wanted = body.get("model").and_then(Value::as_str).unwrap_or_default();
    let model = models::find(wanted).ok_or_else(|| models::unknown(wanted))?;
    let ask = Ask::read(surface, &body);
    let ask = ask.ok_or_else(|| invalid("there is nothing to answer in this call".to_owned()))?;
    let failed = model.fault.and_then(|fault| fault.instead(side, &ask, stamp));
    if let Some(reply) = failed {
        return Ok(reply);
    }
    let mut reply = if surface == Surface::Embeddings {
        Reply::json(200, &embeddings::whole(model, &body)).thought_over()
    } else {
        let provider = stamp.side(side);
        let answer = answer::compose(&ask, model, &provider);
        speak(&Spoken { model, ask: &ask, answer, provider, stamp })
    };
    reply.headers.push(("x-generation-id", stamp.id("gen")));
    let is_stream = ask.stream && surface != Surface::Embeddings;
    Ok(match model.fault {
        Some(fault) => fault.spoil(reply, is_stream),
        None => reply,
    })
}

fn speak(spoken: &Spoken<'_>) -> Reply {
    let whole = |body: &Value| Reply::json(200, body).thought_over();
    match (spoken.ask.surface, spoken.ask.stream) {
        (Surface::Responses, true) => Reply::stream(responses::stream(spoken)),
        (Surface::Responses, false) => whole(&responses::whole(spoken)),
        (Surface::Messages, true) => Reply::stream(messages::stream(spoken)),
        (Surface::Messages, false) => whole(&messages::whole(spoken)),
        (Surface::Chat | Surface::Completions | Surface::Embeddings, true) => {
            Reply::stream(chat::stream(spoken))
        }
        (Surface::Chat | Surface::Completions | Surface::Embeddings, false) => {
            whole(&chat::whole(spoken))
        }
    }
}
