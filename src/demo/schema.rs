//! A value that fits a JSON Schema: the arguments of a tool call, or structured output.

use serde_json::{Map, Value, json};

/// Deepest nesting that is filled in; a schema may refer to itself.
const DEPTH: u8 = 8;

/// A value that fits the schema as far as types, `enum`, `const`, `required` and simple bounds go;
/// `words` is what its strings say.
pub(super) fn sample(schema: &Value, words: &str) -> Value {
    fit(schema, schema, words, DEPTH)
}

fn fit(root: &Value, schema: &Value, words: &str, depth: u8) -> Value {
    let Some(depth) = depth.checked_sub(1) else { return Value::Null };
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        let target = reference.strip_prefix('#').and_then(|path| root.pointer(path));
        return target.map_or(Value::Null, |target| fit(root, target, words, depth));
    }
    let fixed = schema.get("const").or_else(|| schema.pointer("/enum/0"));
    if let Some(fixed) = fixed {
        return fixed.clone();
    }
    let choices = ["anyOf", "oneOf", "allOf"].iter().find_map(|key| schema.get(key)?.as_array());
    if let Some(choice) = choices.and_then(|all| all.iter().find(|one| kind(one) != "null")) {
        return fit(root, choice, words, depth);
    }
    match kind(schema) {
        "object" => Value::Object(object(root, schema, words, depth)),
        "array" => json!([schema.get("items").map(|item| fit(root, item, words, depth))]),
        "integer" => schema.get("minimum").cloned().unwrap_or_else(|| json!(1)),
        "number" => schema.get("minimum").cloned().unwrap_or_else(|| json!(1.5)),
        "boolean" => json!(true),
        "null" => Value::Null,
        _ => Value::String(string(schema, words)),
    }
}

/// The schema's type; the first of several that is not null.
fn kind(schema: &Value) -> &str {
    let implied = if schema.get("properties").is_some() { "object" } else { "string" };
    match schema.get("type") {
        Some(Value::String(kind)) => kind,
        Some(Value::Array(kinds)) => {
            let mut kinds = kinds.iter().filter_map(Value::as_str);
            kinds.find(|kind| *kind != "null").unwrap_or("null")
        }
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) | None => implied,
    }
}

fn object(root: &Value, schema: &Value, words: &str, depth: u8) -> Map<String, Value> {
    let properties = schema.get("properties").and_then(Value::as_object);
    let properties = properties.into_iter().flatten();
    properties.map(|(name, inner)| (name.clone(), fit(root, inner, words, depth))).collect()
}

fn string(schema: &Value, words: &str) -> String {
    let fixed = match schema.get("format").and_then(Value::as_str) {
        Some("date-time") => "2026-08-01T06:12:00Z",
        Some("date") => "2026-08-01",
        Some("time") => "06:12:00Z",
        Some("email") => "demo@example.com",
        Some("uri") => "https://example.com/",
        Some("uuid") => "00000000-0000-4000-8000-000000000000",
        Some(_) | None => words,
    };
    let longest = schema.get("maxLength").and_then(Value::as_u64);
    let longest = longest.and_then(|length| usize::try_from(length).ok()).unwrap_or(usize::MAX);
    fixed.chars().take(longest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_gets_a_value_that_fits() {
        let schema = json!({
            "type": "object",
            "$defs": {"mood": {"enum": ["calm", "wild"]}},
            "properties": {
                "port": {"type": "string", "maxLength": 4},
                "day": {"type": "string", "format": "date"},
                "sea": {"$ref": "#/$defs/mood"},
                "knots": {"type": ["null", "integer"], "minimum": 3},
                "depth": {"type": "number"},
                "safe": {"type": "boolean"},
                "tags": {"type": "array", "items": {"type": "string"}},
                "pilot": {"anyOf": [{"type": "null"}, {"properties": {"name": {}}}]},
            },
        });
        let value = sample(&schema, "Bergen");
        assert_eq!(
            value,
            json!({
                "port": "Berg", "day": "2026-08-01", "sea": "calm", "knots": 3, "depth": 1.5,
                "safe": true, "tags": ["Bergen"], "pilot": {"name": "Bergen"},
            })
        );
    }

    #[test]
    fn a_schema_that_contains_itself_ends() {
        let schema = json!({"type": "object", "properties": {"child": {"$ref": "#"}}});
        assert!(sample(&schema, "x").to_string().len() < 200);
    }
}
