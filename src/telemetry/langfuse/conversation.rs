//! The input of a call in the form of OpenTelemetry's `gen_ai.input.messages`: a role and parts a
//! message, whatever the dialect it came in.

use serde_json::{Map, Value, json};

/// The messages of an input as [`super::input::Input`] shows it; `None` where it had to be cut or was
/// no JSON in the first place.
pub(super) fn messages(input: &str) -> Option<String> {
    let mut out = Vec::new();
    match serde_json::from_str(input).ok()? {
        Value::Object(mut members) => {
            for name in ["system", "instructions"] {
                if let Some(system) = members.remove(name) {
                    out.push(message("system", &parts(system)));
                }
            }
            for name in ["messages", "input", "prompt"] {
                out.extend(members.remove(name).into_iter().flat_map(conversation));
            }
        }
        other @ (Value::Array(_) | Value::String(_)) => out.extend(conversation(other)),
        Value::Null | Value::Bool(_) | Value::Number(_) => return None,
    }
    (!out.is_empty()).then(|| Value::from(out).to_string())
}

fn message(role: &str, parts: &[Value]) -> Value {
    json!({ "role": role, "parts": parts })
}

/// A list of messages, a list of prompts, or one prompt.
fn conversation(value: Value) -> Vec<Value> {
    match value {
        Value::Array(items) => items.into_iter().map(one).collect(),
        other @ (Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Object(_)) => vec![one(other)],
    }
}

/// One message or item.
fn one(value: Value) -> Value {
    let Value::Object(mut members) = value else { return message("user", &parts(value)) };
    let text = |members: &Map<String, Value>, name: &str| {
        members.get(name).and_then(Value::as_str).map(str::to_owned)
    };
    let content = members.remove("content").filter(|content| !content.is_null());
    let role = text(&members, "role");
    if role.as_deref() == Some("tool") {
        let id = text(&members, "tool_call_id");
        let answer = json!({ "type": "tool_call_response", "id": id, "response": content });
        return message("tool", &[answer]);
    }
    let Some(role) = role else {
        // Items of `/responses`: a call of a tool, its output, a thought.
        return item(members, content);
    };
    let mut all = content.map(parts).unwrap_or_default();
    if let Some(Value::Array(calls)) = members.remove("tool_calls") {
        all.extend(calls.iter().map(call));
    }
    message(&role, &all)
}

fn item(members: Map<String, Value>, content: Option<Value>) -> Value {
    let get = |name: &str| members.get(name).cloned().unwrap_or_default();
    match members.get("type").and_then(Value::as_str) {
        Some("function_call" | "custom_tool_call") => {
            let arguments = members.get("arguments").or(members.get("input"));
            let part = json!({ "type": "tool_call", "id": get("call_id"), "name": get("name"),
                "arguments": arguments });
            message("assistant", &[part])
        }
        Some("function_call_output" | "custom_tool_call_output") => {
            let part = json!({ "type": "tool_call_response", "id": get("call_id"),
                "response": get("output") });
            message("tool", &[part])
        }
        Some(_) | None => {
            let mut part = members;
            if let Some(content) = content {
                part.insert("content".to_owned(), content);
            }
            message("user", &[Value::Object(part)])
        }
    }
}

fn call(call: &Value) -> Value {
    let of = |places: [&str; 2]| places.into_iter().find_map(|place| call.pointer(place));
    json!({ "type": "tool_call", "id": call.get("id"),
        "name": of(["/function/name", "/custom/name"]),
        "arguments": of(["/function/arguments", "/custom/input"]) })
}

/// The parts of a content: a text, or a list of which texts become texts and the rest stays.
fn parts(content: Value) -> Vec<Value> {
    match content {
        Value::Array(items) => items.into_iter().map(part).collect(),
        other @ (Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Object(_)) => vec![part(other)],
    }
}

fn part(value: Value) -> Value {
    match value {
        Value::String(text) => json!({ "type": "text", "content": text }),
        Value::Object(members) => {
            match (members.get("type").and_then(Value::as_str), members.get("text")) {
                (Some("text" | "input_text" | "output_text"), Some(text)) => {
                    json!({ "type": "text", "content": text })
                }
                (Some(_) | None, _) => Value::Object(members),
            }
        }
        other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_)) => {
            json!({ "type": "text", "content": other.to_string() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(input: &Value) -> Value {
        serde_json::from_str(&messages(&input.to_string()).unwrap()).unwrap()
    }

    fn text(text: &str) -> Value {
        json!({ "type": "text", "content": text })
    }

    #[test]
    fn every_dialect_becomes_roles_and_parts() {
        let chat = json!([
            { "role": "user", "content": "When?" },
            { "role": "assistant", "content": null, "tool_calls": [
                { "id": "c1", "type": "function", "function": { "name": "tide", "arguments": "{}" } },
                { "id": "c2", "type": "custom", "custom": { "name": "shell", "input": "ls" } }] },
            { "role": "tool", "tool_call_id": "c1", "content": "06:12" },
            { "role": "user", "content": [{ "type": "text", "text": "Sure?" },
                { "type": "image_url", "image_url": { "url": "[image/png, 3 bytes]" } }] },
        ]);
        assert_eq!(
            read(&chat),
            json!([
                { "role": "user", "parts": [text("When?")] },
                { "role": "assistant", "parts": [
                    { "type": "tool_call", "id": "c1", "name": "tide", "arguments": "{}" },
                    { "type": "tool_call", "id": "c2", "name": "shell", "arguments": "ls" }] },
                { "role": "tool", "parts": [
                    { "type": "tool_call_response", "id": "c1", "response": "06:12" }] },
                { "role": "user", "parts": [text("Sure?"),
                    { "type": "image_url", "image_url": { "url": "[image/png, 3 bytes]" } }] },
            ])
        );
        let responses = json!({ "instructions": "Be brief.", "tools": [], "input": [
            { "role": "user", "content": [{ "type": "input_text", "text": "When?" }] },
            { "type": "function_call", "call_id": "c1", "name": "tide", "arguments": "{}" },
            { "type": "function_call_output", "call_id": "c1", "output": "06:12" }] });
        let roles = ["system", "user", "assistant", "tool"];
        let found = read(&responses);
        assert!(roles.iter().enumerate().all(|(at, role)| found[at]["role"] == *role), "{found}");
        let messages = json!({ "system": [{ "type": "text", "text": "Be brief." }],
            "messages": [{ "role": "user", "content": "When?" }] });
        assert_eq!(read(&messages)[0], json!({ "role": "system", "parts": [text("Be brief.")] }));
        for prompt in
            [json!("When?"), json!(["When?"]), json!({ "prompt": "When?", "suffix": "x" })]
        {
            assert_eq!(read(&prompt), json!([{ "role": "user", "parts": [text("When?")] }]));
        }
    }

    #[test]
    fn what_was_cut_or_says_nothing_has_no_messages() {
        for input in ["", "[{\"role\":…[9 bytes cut]…\"}]", "7", "null", "{}", "[]"] {
            assert_eq!(messages(input), None, "{input}");
        }
    }
}
