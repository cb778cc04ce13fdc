//! The wire form of `/chat/completions` and `/completions`, as OpenRouter sends it.

use super::answer::{Answer, Bill, Finish, Spoken};
use super::ask::{Surface, UsageChunk};
use super::reply::Event;
use serde_json::{Value, json};

/// The whole reply.
pub(super) fn whole(spoken: &Spoken<'_>) -> Value {
    let answer = &spoken.answer;
    let mut choice = match spoken.ask.surface {
        Surface::Completions => json!({ "index": 0, "text": answer.text.concat() }),
        Surface::Chat | Surface::Responses | Surface::Messages | Surface::Embeddings => {
            json!({ "index": 0, "message": message(answer, &call_id(spoken)) })
        }
    };
    merge(&mut choice, json!({ "logprobs": null }));
    merge(&mut choice, finish(Some(answer.finish)));
    let mut body = envelope(spoken, &choice);
    merge(&mut body, json!({ "system_fingerprint": null, "usage": usage(&answer.bill) }));
    body
}

/// The events of a stream, up to `[DONE]`.
pub(super) fn stream(spoken: &Spoken<'_>) -> Vec<Event> {
    let answer = &spoken.answer;
    let chunk = |delta: Value, end: Option<Finish>| {
        let mut choice = delta;
        merge(&mut choice, json!({ "index": 0 }));
        merge(&mut choice, finish(end));
        envelope(spoken, &choice)
    };
    let mut events = Vec::new();
    for thought in &answer.reasoning {
        let detail = json!({
            "type": "reasoning.text", "text": thought, "format": "unknown", "index": 0,
        });
        let delta = json!({ "delta": {
            "content": "", "role": "assistant",
            "reasoning": thought, "reasoning_details": [detail],
        }});
        events.push(Event::token(&chunk(delta, None)));
    }
    for word in &answer.text {
        events.push(Event::token(&chunk(said(spoken, word), None)));
    }
    for delta in call_deltas(spoken) {
        events.push(Event::token(&chunk(delta, None)));
    }
    events.push(Event::frame(&chunk(said(spoken, ""), Some(answer.finish))));
    let mut last = chunk(said(spoken, ""), Some(answer.finish));
    merge(&mut last, json!({ "usage": usage(&answer.bill) }));
    match spoken.ask.usage_chunk {
        UsageChunk::Unasked => events.push(Event::frame(&last)),
        UsageChunk::Asked => {
            merge(&mut last, json!({ "choices": [] }));
            events.push(Event::frame(&last));
        }
        UsageChunk::Declined => {}
    }
    events.push(Event::done());
    events
}

fn envelope(spoken: &Spoken<'_>, choice: &Value) -> Value {
    let object = match (spoken.ask.surface, spoken.ask.stream) {
        (Surface::Completions, _) => "text_completion",
        (_, true) => "chat.completion.chunk",
        (_, false) => "chat.completion",
    };
    json!({
        "id": spoken.stamp.id("gen"),
        "object": object,
        "created": spoken.stamp.created,
        "model": spoken.model.dated(),
        "provider": spoken.provider,
        "choices": [choice],
    })
}

fn message(answer: &Answer, call_id: &str) -> Value {
    let reasoning = (!answer.reasoning.is_empty()).then(|| answer.reasoning.concat());
    let Some(call) = &answer.call else {
        return json!({
            "role": "assistant", "content": answer.text.concat(),
            "refusal": null, "reasoning": reasoning,
        });
    };
    let function = json!({ "name": call.name, "arguments": call.arguments });
    json!({
        "role": "assistant", "content": null, "refusal": null, "reasoning": reasoning,
        "tool_calls": [{ "index": 0, "id": call_id, "type": "function", "function": function }],
    })
}

/// The delta of one word, in the form of this API.
fn said(spoken: &Spoken<'_>, word: &str) -> Value {
    if spoken.ask.surface == Surface::Completions {
        return json!({ "text": word });
    }
    json!({ "delta": { "content": word, "role": "assistant" } })
}

/// The name first, then the arguments in fragments.
fn call_deltas(spoken: &Spoken<'_>) -> Vec<Value> {
    let Some(call) = &spoken.answer.call else { return Vec::new() };
    let delta = |call: Value| json!({ "delta": { "content": null, "role": "assistant", "tool_calls": [call] } });
    let opening = json!({
        "index": 0, "id": call_id(spoken), "type": "function",
        "function": { "name": call.name, "arguments": "" },
    });
    let fragments = call.arguments.split_inclusive([':', ',']);
    let fragments =
        fragments.map(|fragment| json!({ "index": 0, "function": { "arguments": fragment } }));
    std::iter::once(opening).chain(fragments).map(delta).collect()
}

fn call_id(spoken: &Spoken<'_>) -> String {
    spoken.stamp.hex_id("call")
}

fn finish(end: Option<Finish>) -> Value {
    let (finish, native) = match end {
        None => (None, None),
        Some(Finish::Stop) => (Some("stop"), Some("end_turn")),
        Some(Finish::Length) => (Some("length"), Some("max_tokens")),
        Some(Finish::ToolCall) => (Some("tool_calls"), Some("tool_use")),
    };
    json!({ "finish_reason": finish, "native_finish_reason": native })
}

fn usage(bill: &Bill) -> Value {
    let cost = bill.input_usd + bill.output_usd;
    json!({
        "prompt_tokens": bill.input,
        "completion_tokens": bill.output,
        "total_tokens": bill.input + bill.output,
        "cost": cost,
        "is_byok": false,
        "prompt_tokens_details": {
            "cached_tokens": 0, "cache_write_tokens": 0, "audio_tokens": 0, "video_tokens": 0,
        },
        "cost_details": {
            "upstream_inference_cost": cost,
            "upstream_inference_prompt_cost": bill.input_usd,
            "upstream_inference_completions_cost": bill.output_usd,
        },
        "completion_tokens_details": {
            "reasoning_tokens": bill.reasoning, "image_tokens": 0, "audio_tokens": 0,
        },
    })
}

/// Sets the keys of the second object in the first.
fn merge(into: &mut Value, from: Value) {
    if let (Some(into), Value::Object(from)) = (into.as_object_mut(), from) {
        into.extend(from);
    }
}
