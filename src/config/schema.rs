//! The configuration's shape as JSON Schema, and a configuration as JSON that anybody may see.

use super::sections::Config;
use schemars::Schema;
use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use serde_json::{Value, json};

/// A text with a reference in it; JSON Schema applies a pattern to text alone.
const REFERENCE: &str = r"\$\{";

/// The JSON Schema (draft 2020-12) of the configuration file, for editors.
#[must_use]
pub fn schema() -> Value {
    let settings = SchemaSettings::draft2020_12().with_transform(RecursiveTransform(adapt));
    let mut schema = settings.into_generator().into_root_schema_for::<Config>();
    schema.insert("title".into(), "Cirque's configuration".into());
    schema.into()
}

/// Says of one part what its Rust type cannot: that `${…}` may stand in any value.
fn adapt(schema: &mut Schema) {
    if let Some(text) = schema.get("description").and_then(Value::as_str) {
        let one_line = text.replace('\n', " ");
        schema.insert("description".into(), one_line.into());
    }
    // Defaults of whole sections repeat those of their settings, and show secrets as `[redacted]`.
    let is_noise = |value: &Value| value.is_object() || value == "[redacted]";
    if schema.get("default").is_some_and(is_noise) {
        schema.remove("default");
    }
    if let Some(words) = schema.get_mut("oneOf").and_then(Value::as_array_mut)
        && words.iter().all(|word| word.get("const").is_some())
    {
        words.push(json!({ "type": "string", "pattern": REFERENCE }));
    }
    if let Some(pattern) = schema.get("pattern").and_then(Value::as_str)
        && pattern != REFERENCE
    {
        let pattern = format!("{pattern}|{REFERENCE}");
        schema.insert("pattern".into(), pattern.into());
    }
    if let Some(types) = schema.get("type").map(typed)
        && !types.is_empty()
    {
        schema.insert("type".into(), types.into());
        schema.insert("pattern".into(), REFERENCE.into());
    }
}

/// The types of a number or a boolean with text added; nothing for what is text already.
fn typed(types: &Value) -> Vec<Value> {
    let mut types = types.as_array().cloned().unwrap_or_else(|| vec![types.clone()]);
    let is_typed = |name: &Value| name == "integer" || name == "number" || name == "boolean";
    if !types.iter().any(is_typed) || types.iter().any(|name| name == "string") {
        return Vec::new();
    }
    types.push("string".into());
    types
}

/// The keys that the mapping with this name must have.
pub(super) fn required(name: &str) -> Vec<String> {
    let schema = schemars::schema_for!(Config);
    let required = schema.pointer(&format!("/$defs/{name}/required")).and_then(Value::as_array);
    let names = required.into_iter().flatten().filter_map(Value::as_str);
    names.map(Into::into).collect()
}

/// The configuration as JSON without secrets; upstreams' header values count as such, because some
/// providers take a credential there.
#[must_use]
pub fn redacted(config: &Config) -> Value {
    let mut value = serde_json::to_value(config).unwrap_or_default();
    let upstreams = value.get_mut("upstreams").and_then(Value::as_array_mut);
    for upstream in upstreams.into_iter().flatten() {
        let headers = upstream.get_mut("headers").and_then(Value::as_object_mut);
        for (_, header) in headers.into_iter().flatten() {
            *header = json!("[redacted]");
        }
    }
    value
}
