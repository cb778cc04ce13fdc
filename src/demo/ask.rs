//! What a caller asks for, read from any of the dialects into one form.

use serde_json::Value;

/// Which API is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Surface {
    /// `/chat/completions`
    Chat,
    /// `/completions`
    Completions,
    /// `/responses`
    Responses,
    /// `/messages`
    Messages,
    /// `/embeddings`
    Embeddings,
}

/// When a chat stream tells what it used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UsageChunk {
    /// Not asked for: as OpenRouter does, in a chunk whose `choices` repeat the end.
    Unasked,
    /// `include_usage: true`: as OpenAI does, in a chunk without choices.
    Asked,
    /// `include_usage: false`: never.
    Declined,
}

/// A function the model may call.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tool {
    pub(super) name: String,
    /// JSON Schema of the arguments.
    pub(super) parameters: Value,
}

/// One call, whatever its dialect.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ask {
    pub(super) surface: Surface,
    pub(super) stream: bool,
    pub(super) usage_chunk: UsageChunk,
    /// What the user said last.
    pub(super) prompt: String,
    /// What a tool returned, where that is the last thing said.
    pub(super) tool_result: Option<String>,
    /// The tool to call now, where one is offered and wanted.
    pub(super) tool: Option<Tool>,
    /// JSON Schema that the answer must fit.
    pub(super) schema: Option<Value>,
    /// Upper bound on the answer, in tokens.
    pub(super) max_output: Option<u32>,
    /// Words of everything said so far.
    pub(super) input_tokens: u32,
}

/// One thing said.
struct Turn {
    speaker: Speaker,
    text: String,
}

#[derive(PartialEq, Eq)]
enum Speaker {
    User,
    Tool,
    Other,
}

impl Ask {
    /// Reads a call; `None` where nothing is said in it.
    pub(super) fn read(surface: Surface, body: &Value) -> Option<Self> {
        let turns = turns(surface, body);
        let last = turns.last()?;
        let prompt = turns.iter().rev().find(|turn| turn.speaker == Speaker::User);
        let system = ["/system", "/instructions"].iter().filter_map(|path| body.pointer(path));
        let words = turns.iter().map(|turn| tokens(&turn.text)).sum::<u32>()
            + system.map(|value| tokens(&text(value))).sum::<u32>();
        Some(Self {
            surface,
            stream: body.get("stream").and_then(Value::as_bool).unwrap_or_default(),
            usage_chunk: match body.pointer("/stream_options/include_usage").map(Value::as_bool) {
                Some(Some(true)) => UsageChunk::Asked,
                Some(Some(false)) => UsageChunk::Declined,
                Some(None) | None => UsageChunk::Unasked,
            },
            prompt: prompt.map(|turn| turn.text.clone()).unwrap_or_default(),
            tool_result: (last.speaker == Speaker::Tool).then(|| last.text.clone()),
            tool: tool(body),
            schema: schema(body),
            max_output: ["max_completion_tokens", "max_tokens", "max_output_tokens"]
                .iter()
                .find_map(|key| body.get(key)?.as_u64())
                .map(|limit| u32::try_from(limit).unwrap_or(u32::MAX)),
            input_tokens: words,
        })
    }
}

/// Tokens of a text: its words. A simulation; real tokenizers count about a third more.
pub(super) fn tokens(text: &str) -> u32 {
    u32::try_from(text.split_whitespace().count()).unwrap_or(u32::MAX)
}

/// The text of a string, of content parts, or of a list of either.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().map(text).collect::<Vec<_>>().join(" "),
        Value::Object(part) => {
            let inner = ["text", "content", "output"].iter().find_map(|key| part.get(*key));
            inner.map(text).unwrap_or_default()
        }
        Value::Number(token) => token.to_string(),
        Value::Null | Value::Bool(_) => String::new(),
    }
}

fn turns(surface: Surface, body: &Value) -> Vec<Turn> {
    let said = match surface {
        Surface::Chat | Surface::Messages => body.get("messages"),
        Surface::Completions => body.get("prompt"),
        Surface::Responses | Surface::Embeddings => body.get("input"),
    };
    match said {
        Some(Value::Array(items)) if items.iter().all(Value::is_object) => {
            items.iter().map(turn).collect()
        }
        Some(words @ (Value::String(_) | Value::Array(_))) => {
            vec![Turn { speaker: Speaker::User, text: text(words) }]
        }
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) | None => {
            Vec::new()
        }
    }
}

fn turn(item: &Value) -> Turn {
    let is = |path: &str, word: &str| item.pointer(path).and_then(Value::as_str) == Some(word);
    let returns = is("/role", "tool")
        || is("/type", "function_call_output")
        || is("/content/0/type", "tool_result");
    let speaker = match (returns, is("/role", "user")) {
        (true, _) => Speaker::Tool,
        (false, true) => Speaker::User,
        (false, false) => Speaker::Other,
    };
    Turn { speaker, text: text(item) }
}

/// The tool named by `tool_choice`, else the first one; none where the caller wants none.
fn tool(body: &Value) -> Option<Tool> {
    let choice = body.get("tool_choice");
    let is_off = |value: &Value| {
        [value.as_str(), value.get("type").and_then(Value::as_str)].contains(&Some("none"))
    };
    if choice.is_some_and(is_off) {
        return None;
    }
    let wanted = choice.and_then(function_name);
    let mut offered = body.get("tools")?.as_array()?.iter().filter_map(|tool| {
        let parameters = ["/function/parameters", "/parameters", "/input_schema"]
            .iter()
            .find_map(|path| tool.pointer(path));
        Some(Tool {
            name: function_name(tool)?.to_owned(),
            parameters: parameters.cloned().unwrap_or_default(),
        })
    });
    offered.find(|tool| wanted.is_none_or(|name| name == tool.name))
}

fn function_name(value: &Value) -> Option<&str> {
    value.pointer("/function/name").or_else(|| value.get("name"))?.as_str()
}

/// The schema of structured output; an open one where any JSON object will do.
fn schema(body: &Value) -> Option<Value> {
    let formats = ["/response_format", "/text/format", "/output_config/format", "/output_format"];
    let format = formats.iter().find_map(|path| body.pointer(path))?;
    match format.get("type")?.as_str()? {
        "json_object" => Some(serde_json::json!({
            "type": "object",
            "properties": { "answer": { "type": "string" } },
        })),
        "json_schema" => {
            format.pointer("/json_schema/schema").or_else(|| format.get("schema")).cloned()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_same_question_reads_the_same_in_every_dialect() {
        let bodies = [
            (
                Surface::Chat,
                json!({"messages": [
                {"role": "user", "content": [{"type": "text", "text": "Where is Oslo?"}]}]}),
            ),
            (
                Surface::Messages,
                json!({"messages": [{"role": "user", "content": "Where is Oslo?"}]}),
            ),
            (Surface::Responses, json!({"input": "Where is Oslo?"})),
            (
                Surface::Responses,
                json!({"input": [{"role": "user", "content": [
                {"type": "input_text", "text": "Where is Oslo?"}]}]}),
            ),
            (Surface::Completions, json!({"prompt": ["Where is Oslo?"]})),
        ];
        for (surface, body) in bodies {
            let ask = Ask::read(surface, &body).unwrap();
            assert_eq!((ask.prompt.as_str(), ask.input_tokens), ("Where is Oslo?", 3), "{body}");
        }
    }

    #[test]
    fn a_tool_is_read_in_every_dialect_and_can_be_declined() {
        let parameters = json!({"type": "object"});
        for tool in [
            json!({"type": "function", "function": {"name": "tide", "parameters": parameters}}),
            json!({"type": "function", "name": "tide", "parameters": parameters}),
            json!({"name": "tide", "input_schema": parameters}),
        ] {
            let offered = Tool { name: "tide".into(), parameters: parameters.clone() };
            let mut body = json!({"input": "?", "tools": [{"name": "other"}, tool],
                "tool_choice": {"type": "function", "name": "tide"}});
            let read = |body: &Value| Ask::read(Surface::Responses, body).unwrap().tool;
            assert_eq!(read(&body), Some(offered));
            for none in [json!("none"), json!({"type": "none"})] {
                body["tool_choice"] = none;
                assert_eq!(read(&body), None);
            }
        }
    }

    #[test]
    fn a_tool_result_is_read_in_every_dialect() {
        let asked = json!({"role": "user", "content": "Tide?"});
        for (surface, key, result) in [
            (Surface::Chat, "messages", json!({"role": "tool", "content": "06:12"})),
            (
                Surface::Responses,
                "input",
                json!({"type": "function_call_output", "output": "06:12"}),
            ),
            (
                Surface::Messages,
                "messages",
                json!({"role": "user", "content": [
                {"type": "tool_result", "content": [{"type": "text", "text": "06:12"}]}]}),
            ),
        ] {
            let ask = Ask::read(surface, &json!({ key: [asked, result] })).unwrap();
            assert_eq!((ask.prompt.as_str(), ask.tool_result.as_deref()), ("Tide?", Some("06:12")));
        }
    }

    #[test]
    fn a_call_that_says_nothing_is_none() {
        for body in [json!({}), json!({"messages": []}), json!({"messages": 1})] {
            assert_eq!(Ask::read(Surface::Chat, &body), None, "{body}");
        }
    }
}
