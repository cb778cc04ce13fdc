//! The wire form of `/messages`: Anthropic's content blocks, as OpenRouter sends them.

use super::answer::{Bill, Call, Finish, Spoken};
use super::reply::Event;
use serde_json::{Value, json};

/// The whole reply.
pub(super) fn whole(spoken: &Spoken<'_>) -> Value {
    let blocks = blocks(spoken);
    let content = blocks.iter().map(|block| block.whole(spoken)).collect::<Vec<_>>();
    message(spoken, &content, Some(spoken.answer.finish), spoken.answer.bill.output)
}

/// The events of a stream, and OpenRouter's stray `[DONE]`, which Anthropic's own clients choke on
/// (WIRE section 2): it shows that the gateway drops it.
pub(super) fn stream(spoken: &Spoken<'_>) -> Vec<Event> {
    let start = json!({ "message": message(spoken, &[], None, 1) });
    let mut events = vec![frame("message_start", start), frame("ping", json!({}))];
    for (index, block) in blocks(spoken).iter().enumerate() {
        let opening = json!({ "index": index, "content_block": block.opening(spoken) });
        events.push(frame("content_block_start", opening));
        for delta in block.deltas() {
            let data = typed("content_block_delta", json!({ "index": index, "delta": delta }));
            events.push(Event::token(&data).named("content_block_delta"));
        }
        events.push(frame("content_block_stop", json!({ "index": index })));
    }
    let bill = &spoken.answer.bill;
    let end = json!({
        "delta": { "stop_reason": stop_reason(spoken.answer.finish), "stop_sequence": null },
        "usage": {
            "input_tokens": bill.input, "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0, "output_tokens": bill.output,
        },
    });
    events.push(frame("message_delta", end));
    events.push(frame("message_stop", json!({})));
    events.push(Event::done().named("data"));
    events
}

/// One content block.
enum Block<'a> {
    Thinking(&'a [String]),
    Text(&'a [String]),
    ToolUse(&'a Call),
}

fn blocks<'a>(spoken: &'a Spoken<'_>) -> Vec<Block<'a>> {
    let answer = &spoken.answer;
    let thoughts = (!answer.reasoning.is_empty()).then_some(Block::Thinking(&answer.reasoning));
    let words = match &answer.call {
        Some(call) => Block::ToolUse(call),
        None => Block::Text(&answer.text),
    };
    thoughts.into_iter().chain([words]).collect()
}

impl Block<'_> {
    fn whole(&self, spoken: &Spoken<'_>) -> Value {
        match self {
            Self::Thinking(thoughts) => {
                json!({ "type": "thinking", "thinking": thoughts.concat(), "signature": SIGNATURE })
            }
            Self::Text(words) => json!({ "type": "text", "text": words.concat() }),
            Self::ToolUse(call) => {
                let input = serde_json::from_str::<Value>(&call.arguments).unwrap_or_default();
                tool_use(call, spoken, &input)
            }
        }
    }

    fn opening(&self, spoken: &Spoken<'_>) -> Value {
        match self {
            Self::Thinking(_) => json!({ "type": "thinking", "thinking": "", "signature": "" }),
            Self::Text(_) => json!({ "type": "text", "text": "" }),
            Self::ToolUse(call) => tool_use(call, spoken, &json!({})),
        }
    }

    fn deltas(&self) -> Vec<Value> {
        match self {
            Self::Thinking(thoughts) => {
                let thoughts = thoughts
                    .iter()
                    .map(|thought| json!({ "type": "thinking_delta", "thinking": thought }));
                let signature = json!({ "type": "signature_delta", "signature": SIGNATURE });
                thoughts.chain([signature]).collect()
            }
            Self::Text(words) => {
                words.iter().map(|word| json!({ "type": "text_delta", "text": word })).collect()
            }
            Self::ToolUse(call) => {
                let fragments = call.arguments.split_inclusive([':', ',']);
                let delta = |json| json!({ "type": "input_json_delta", "partial_json": json });
                fragments.map(delta).collect()
            }
        }
    }
}

/// Stands where Anthropic signs its thoughts.
const SIGNATURE: &str = "c2ltdWxhdGVk";

fn tool_use(call: &Call, spoken: &Spoken<'_>, input: &Value) -> Value {
    json!({
        "type": "tool_use", "id": spoken.stamp.hex_id("toolu"),
        "name": call.name, "input": input,
    })
}

fn message(
    spoken: &Spoken<'_>,
    content: &[Value],
    finish: Option<Finish>,
    output_tokens: u32,
) -> Value {
    let Bill { input, .. } = spoken.answer.bill;
    json!({
        "id": spoken.stamp.hex_id("msg"),
        "type": "message",
        "role": "assistant",
        "model": spoken.model.id,
        "content": content,
        "stop_reason": finish.map(stop_reason),
        "stop_sequence": null,
        "usage": {
            "input_tokens": input,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "cache_creation": { "ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0 },
            "output_tokens": output_tokens,
            "service_tier": "standard",
        },
    })
}

const fn stop_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "end_turn",
        Finish::Length => "max_tokens",
        Finish::ToolCall => "tool_use",
    }
}

fn frame(name: &str, fields: Value) -> Event {
    Event::frame(&typed(name, fields)).named(name)
}

fn typed(name: &str, fields: Value) -> Value {
    let mut data = json!({ "type": name });
    if let (Some(data), Value::Object(fields)) = (data.as_object_mut(), fields) {
        data.extend(fields);
    }
    data
}
