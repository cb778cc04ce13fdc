//! The wire form of `/responses`: a list of items, and numbered events that build it up.

use super::answer::{Bill, Call, Finish, Spoken};
use super::reply::{Event, Stamp};
use serde_json::{Value, json};

/// The whole reply.
pub(super) fn whole(spoken: &Spoken<'_>) -> Value {
    response(spoken, State::Ended)
}

/// The events of a stream, and OpenRouter's `[DONE]`.
pub(super) fn stream(spoken: &Spoken<'_>) -> Vec<Event> {
    let mut events = Numbered::default();
    events.frame("response.created", json!({ "response": response(spoken, State::Begun) }));
    events.frame("response.in_progress", json!({ "response": response(spoken, State::Begun) }));
    for (index, item) in items(spoken).iter().enumerate() {
        item.stream(&mut events, index, spoken);
    }
    let end = match spoken.answer.finish {
        Finish::Stop | Finish::ToolCall => "response.completed",
        Finish::Length => "response.incomplete",
    };
    events.frame(end, json!({ "response": response(spoken, State::Ended) }));
    events.list.push(Event::done());
    events.list
}

/// The event of a response that fails before its first word.
pub(super) fn failed(error: &Value, stamp: &Stamp<'_>) -> Event {
    let mut events = Numbered::default();
    events.frame(
        "response.failed",
        json!({ "response": {
            "id": stamp.hex_id("resp"), "object": "response", "created_at": stamp.created,
            "status": "failed", "error": error, "output": [], "usage": null,
        }}),
    );
    events.list.pop().unwrap_or_else(Event::done)
}

/// Events with their `type` and `sequence_number`.
#[derive(Default)]
struct Numbered {
    list: Vec<Event>,
}

impl Numbered {
    fn frame(&mut self, name: &str, fields: Value) {
        let data = self.number(name, fields);
        self.list.push(Event::frame(&data).named(name));
    }

    fn token(&mut self, name: &str, fields: Value) {
        let data = self.number(name, fields);
        self.list.push(Event::token(&data).named(name));
    }

    fn number(&self, name: &str, fields: Value) -> Value {
        let mut data = json!({ "type": name });
        if let (Some(data), Value::Object(fields)) = (data.as_object_mut(), fields) {
            data.extend(fields);
            data.insert("sequence_number".to_owned(), json!(self.list.len()));
        }
        data
    }
}

/// How far a response or an item is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Begun,
    Ended,
}

/// One thing in the output.
enum Item<'a> {
    Reasoning(&'a [String]),
    Message(&'a [String]),
    Call(&'a Call),
}

fn items<'a>(spoken: &'a Spoken<'_>) -> Vec<Item<'a>> {
    let answer = &spoken.answer;
    let thoughts = (!answer.reasoning.is_empty()).then_some(Item::Reasoning(&answer.reasoning));
    let words = match &answer.call {
        Some(call) => Item::Call(call),
        None => Item::Message(&answer.text),
    };
    thoughts.into_iter().chain([words]).collect()
}

impl Item<'_> {
    fn id(&self, stamp: &Stamp<'_>) -> String {
        stamp.hex_id(match self {
            Self::Reasoning(_) => "rs",
            Self::Message(_) => "msg",
            Self::Call(_) => "fc",
        })
    }

    fn json(&self, spoken: &Spoken<'_>, state: State) -> Value {
        let stamp = spoken.stamp;
        let id = self.id(stamp);
        let ended = state == State::Ended;
        let status = match (state, spoken.answer.finish) {
            (State::Begun, _) => "in_progress",
            (State::Ended, Finish::Length) => "incomplete",
            (State::Ended, Finish::Stop | Finish::ToolCall) => "completed",
        };
        match self {
            Self::Reasoning(thoughts) => {
                let summary = ended.then(|| summary(thoughts));
                let summary = summary.into_iter().collect::<Vec<_>>();
                json!({ "id": id, "type": "reasoning", "summary": summary })
            }
            Self::Message(words) => {
                let content = ended.then(|| text_part(&words.concat()));
                let content = content.into_iter().collect::<Vec<_>>();
                json!({
                    "id": id, "type": "message", "status": status,
                    "role": "assistant", "content": content,
                })
            }
            Self::Call(call) => json!({
                "id": id, "type": "function_call", "status": status,
                "call_id": stamp.hex_id("call"), "name": call.name,
                "arguments": if ended { call.arguments.as_str() } else { "" },
            }),
        }
    }

    fn stream(&self, events: &mut Numbered, index: usize, spoken: &Spoken<'_>) {
        let item = |state| json!({ "output_index": index, "item": self.json(spoken, state) });
        events.frame("response.output_item.added", item(State::Begun));
        let id = self.id(spoken.stamp);
        let at = |fields: Value| {
            let mut place = json!({ "item_id": id, "output_index": index });
            if let (Some(place), Value::Object(fields)) = (place.as_object_mut(), fields) {
                place.extend(fields);
            }
            place
        };
        match self {
            Self::Reasoning(thoughts) => stream_thoughts(events, thoughts, at),
            Self::Message(words) => stream_words(events, words, at),
            Self::Call(call) => {
                let fragments = call.arguments.split_inclusive([':', ',']);
                for fragment in fragments {
                    let delta = at(json!({ "delta": fragment }));
                    events.token("response.function_call_arguments.delta", delta);
                }
                let done = at(json!({ "name": call.name, "arguments": call.arguments }));
                events.frame("response.function_call_arguments.done", done);
            }
        }
        events.frame("response.output_item.done", item(State::Ended));
    }
}

fn stream_words(events: &mut Numbered, words: &[String], at: impl Fn(Value) -> Value) {
    let text = words.concat();
    let part = |text: &str| at(json!({ "content_index": 0, "part": text_part(text) }));
    events.frame("response.content_part.added", part(""));
    for word in words {
        let delta = json!({ "content_index": 0, "delta": word, "logprobs": [] });
        events.token("response.output_text.delta", at(delta));
    }
    let done = json!({ "content_index": 0, "text": text, "logprobs": [] });
    events.frame("response.output_text.done", at(done));
    events.frame("response.content_part.done", part(&text));
}

fn stream_thoughts(events: &mut Numbered, thoughts: &[String], at: impl Fn(Value) -> Value) {
    let part = |thoughts: &[String]| at(json!({ "summary_index": 0, "part": summary(thoughts) }));
    events.frame("response.reasoning_summary_part.added", part(&[]));
    for thought in thoughts {
        let delta = at(json!({ "summary_index": 0, "delta": thought }));
        events.token("response.reasoning_summary_text.delta", delta);
    }
    let done = at(json!({ "summary_index": 0, "text": thoughts.concat() }));
    events.frame("response.reasoning_summary_text.done", done);
    events.frame("response.reasoning_summary_part.done", part(thoughts));
}

fn summary(thoughts: &[String]) -> Value {
    json!({ "type": "summary_text", "text": thoughts.concat() })
}

fn text_part(text: &str) -> Value {
    json!({ "type": "output_text", "annotations": [], "logprobs": [], "text": text })
}

fn response(spoken: &Spoken<'_>, state: State) -> Value {
    let (answer, stamp) = (&spoken.answer, spoken.stamp);
    let items = items(spoken);
    let (status, output, usage) = match state {
        State::Begun => ("in_progress", Vec::new(), Value::Null),
        State::Ended => {
            let status = if answer.finish == Finish::Length { "incomplete" } else { "completed" };
            let output = items.iter().map(|item| item.json(spoken, state)).collect();
            (status, output, usage(&answer.bill))
        }
    };
    let reason = (status == "incomplete").then(|| json!({ "reason": "max_output_tokens" }));
    json!({
        "id": stamp.hex_id("resp"),
        "object": "response",
        "created_at": stamp.created,
        "status": status,
        "completed_at": (state == State::Ended).then_some(stamp.created),
        "error": null,
        "incomplete_details": reason,
        "instructions": null,
        "max_output_tokens": spoken.ask.max_output,
        "metadata": {},
        "model": spoken.model.id,
        "output": output,
        "parallel_tool_calls": true,
        "temperature": 1.0,
        "text": { "format": { "type": "text" } },
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": usage,
    })
}

fn usage(bill: &Bill) -> Value {
    let cost = bill.input_usd + bill.output_usd;
    json!({
        "input_tokens": bill.input,
        "input_tokens_details": { "cached_tokens": 0 },
        "output_tokens": bill.output,
        "output_tokens_details": { "reasoning_tokens": bill.reasoning },
        "total_tokens": bill.input + bill.output,
        "cost": cost,
        "is_byok": false,
        "cost_details": {
            "upstream_inference_cost": cost,
            "upstream_inference_input_cost": bill.input_usd,
            "upstream_inference_output_cost": bill.output_usd,
        },
    })
}
