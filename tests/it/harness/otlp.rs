//! What a body of OTLP JSON must be for Langfuse to store it as it was meant: many of these faults are
//! answered with 200 and lose the trace, or bill it twice.

use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// Types of an observation that Langfuse knows; it passes over any other.
const TYPES: [&str; 3] = ["generation", "span", "embedding"];
/// Attributes that must stand on every span, because Langfuse 4 looks at spans alone.
const EVERYWHERE: [&str; 6] = [
    "langfuse.trace.name",
    "langfuse.trace.tags",
    "langfuse.environment",
    "langfuse.release",
    "langfuse.observation.type",
    "user.id",
];
/// Attributes of any length.
const LONG: [&str; 8] = [
    "langfuse.observation.input",
    "langfuse.observation.output",
    "langfuse.observation.model.parameters",
    "langfuse.observation.usage_details",
    "langfuse.observation.cost_details",
    "langfuse.observation.status_message",
    "gen_ai.input.messages",
    "gen_ai.output.messages",
];

/// Everything that is wrong with the body of one export; nothing where it is good.
pub(crate) fn lint(body: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    let spans = spans(body, &mut faults);
    let mut ids = BTreeSet::new();
    let mut roots: BTreeMap<&str, usize> = BTreeMap::new();
    for span in &spans {
        let id = text(span, "spanId");
        let mut found = Vec::new();
        span_itself(span, &mut found);
        match attributes(span, &mut found) {
            Some(attributes) => meaning(span, &attributes, &mut found),
            None => found.push("attributes are no list".to_owned()),
        }
        if !ids.insert((text(span, "traceId"), id)) {
            found.push("stands twice in one body".to_owned());
        }
        let is_known = |parent: &str| spans.iter().any(|other| text(other, "spanId") == parent);
        let has_parent = span.get("parentSpanId").and_then(Value::as_str).is_some_and(is_known);
        *roots.entry(text(span, "traceId")).or_default() += usize::from(!has_parent);
        faults.extend(found.into_iter().map(|fault| format!("span {id}: {fault}")));
    }
    for (trace, roots) in roots.iter().filter(|(_, roots)| **roots == 0) {
        faults.push(format!("trace {trace}: {roots} roots"));
    }
    faults
}

/// Every span of a body.
pub(crate) fn spans<'b>(body: &'b Value, faults: &mut Vec<String>) -> Vec<&'b Value> {
    let mut found = Vec::new();
    let mut list = |value: &'b Value, name: &str| {
        let list = value.get(name).and_then(Value::as_array);
        if list.is_none() {
            faults.push(format!("{name} is no list"));
        }
        list.map_or(&[][..], Vec::as_slice)
    };
    for resource in list(body, "resourceSpans") {
        for scope in list(resource, "scopeSpans") {
            found.extend(list(scope, "spans"));
        }
    }
    found
}

/// The string value of an attribute, or the JSON of another value.
pub(crate) fn attribute(span: &Value, key: &str) -> Option<String> {
    let attributes = span.get("attributes")?.as_array()?;
    let value = attributes.iter().find(|a| text(a, "key") == key)?.get("value")?;
    let only = value.as_object()?.values().next()?;
    Some(only.as_str().map_or_else(|| only.to_string(), str::to_owned))
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn is_hex(text: &str, length: usize) -> bool {
    let is_digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    text.len() == length && text.bytes().all(is_digit) && text.bytes().any(|b| b != b'0')
}

fn span_itself(span: &Value, faults: &mut Vec<String>) {
    if !is_hex(text(span, "traceId"), 32) {
        faults.push("traceId is not 32 lower-case hexadecimal digits".to_owned());
    }
    if !is_hex(text(span, "spanId"), 16) {
        faults.push("spanId is not 16 lower-case hexadecimal digits".to_owned());
    }
    if span.get("parentSpanId").is_some_and(|id| !is_hex(id.as_str().unwrap_or_default(), 16)) {
        faults.push("parentSpanId is not 16 lower-case hexadecimal digits".to_owned());
    }
    if text(span, "name").is_empty() {
        faults.push("no name".to_owned());
    }
    if !span.get("kind").and_then(Value::as_u64).is_some_and(|kind| (1..=5).contains(&kind)) {
        faults.push("kind is not a number from 1 to 5".to_owned());
    }
    let (from, to) = (nanos(span, "startTimeUnixNano"), nanos(span, "endTimeUnixNano"));
    if from.is_none() || to.is_none() || from > to {
        faults.push("times are not two decimal texts in order".to_owned());
    }
    let code = span.pointer("/status/code").and_then(Value::as_u64);
    if code.is_none_or(|code| code > 2) {
        faults.push("status.code is not 0, 1 or 2".to_owned());
    }
}

fn nanos(span: &Value, key: &str) -> Option<u128> {
    span.get(key)?.as_str()?.parse().ok()
}

type Attributes<'s> = BTreeMap<&'s str, &'s Value>;

/// The attributes by name, each looked at by itself.
fn attributes<'s>(span: &'s Value, faults: &mut Vec<String>) -> Option<Attributes<'s>> {
    let mut found = Attributes::new();
    for attribute in span.get("attributes")?.as_array()? {
        let key = text(attribute, "key");
        let only =
            attribute.get("value").and_then(Value::as_object).filter(|value| value.len() == 1);
        let Some((kind, value)) = only.and_then(|value| value.iter().next()) else {
            faults.push(format!("{key} has not one value"));
            continue;
        };
        let fits = match kind.as_str() {
            "stringValue" => value.as_str().is_some_and(|text| {
                !text.is_empty() && (LONG.contains(&key) || text.chars().count() <= 200)
            }),
            "boolValue" => value.is_boolean(),
            "doubleValue" => value.is_number(),
            "intValue" => value.as_str().is_some_and(|text| text.parse::<i64>().is_ok()),
            "arrayValue" => value.get("values").and_then(Value::as_array).is_some_and(|values| {
                values.iter().all(|value| value.get("stringValue").is_some_and(Value::is_string))
            }),
            _ => false,
        };
        if !fits {
            faults.push(format!("{key} is empty, too long or not of its kind"));
        }
        let is_trap = |part: &str| matches!(part, "__proto__" | "constructor" | "prototype");
        if key.is_empty() || key.split('.').any(is_trap) {
            faults.push(format!("{key:?} is a key that is dropped"));
        }
        if found.insert(key, value).is_some() {
            faults.push(format!("{key} stands twice"));
        }
    }
    Some(found)
}

/// What the attributes say together.
fn meaning(span: &Value, attributes: &Attributes<'_>, faults: &mut Vec<String>) {
    for key in EVERYWHERE {
        if !attributes.contains_key(key) {
            faults.push(format!("{key} is missing"));
        }
    }
    let get = |key: &str| attributes.get(key).and_then(|value| value.as_str());
    let environment = get("langfuse.environment").unwrap_or_default();
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    if environment.len() > 40
        || !environment.chars().all(fits)
        || environment.starts_with("langfuse")
    {
        faults.push("langfuse.environment becomes `default`".to_owned());
    }
    let kind = get("langfuse.observation.type").unwrap_or_default();
    if !TYPES.contains(&kind) {
        faults.push(format!("langfuse.observation.type {kind} is not known"));
    }
    let usage = get("langfuse.observation.usage_details");
    let cost = get("langfuse.observation.cost_details");
    if kind == "generation" {
        // Without them Langfuse bills what it guesses.
        faults.extend(usage_fault(usage));
        faults.extend(cost_fault(cost));
    } else if usage.is_some() || cost.is_some() {
        faults.push("usage or cost outside a generation is counted twice".to_owned());
    }
    if let Some(parameters) = get("langfuse.observation.model.parameters")
        && serde_json::from_str::<Map<String, Value>>(parameters).is_err()
    {
        faults.push("model.parameters are no JSON object".to_owned());
    }
    let level = get("langfuse.observation.level");
    if level.is_some_and(|level| !matches!(level, "DEBUG" | "DEFAULT" | "WARNING" | "ERROR")) {
        faults.push("level is not known".to_owned());
    }
    let code = span.pointer("/status/code").and_then(Value::as_u64);
    if (level == Some("ERROR")) != (code == Some(2)) {
        faults.push("level and status.code do not agree".to_owned());
    }
    if let Some(at) = get("langfuse.observation.completion_start_time")
        && !(at.len() == 27 && at.ends_with('Z') && at.as_bytes()[10] == b'T')
    {
        faults.push("completion_start_time is not a time".to_owned());
    }
}

fn usage_fault(usage: Option<&str>) -> Option<String> {
    let Some(usage) = usage else { return Some("usage_details are missing".to_owned()) };
    let Ok(buckets) = serde_json::from_str::<BTreeMap<String, u64>>(usage) else {
        return Some("usage_details are not whole numbers by name".to_owned());
    };
    let total = buckets.get("total").copied();
    let sum: u64 = buckets.iter().filter(|(name, _)| *name != "total").map(|(_, n)| n).sum();
    (total != Some(sum)).then(|| format!("usage_details add up to {sum}, not to {total:?}"))
}

fn cost_fault(cost: Option<&str>) -> Option<String> {
    let Some(cost) = cost else { return Some("cost_details are missing".to_owned()) };
    let read = serde_json::from_str::<BTreeMap<String, f64>>(cost);
    let has_total = read.as_ref().is_ok_and(|parts| {
        parts.contains_key("total") && parts.values().all(|dollars| *dollars >= 0.0)
    });
    if !has_total {
        return Some("cost_details are not dollars with a total".to_owned());
    }
    let parts = read.unwrap_or_default();
    let sum: f64 = parts.iter().filter(|(name, _)| *name != "total").map(|(_, usd)| usd).sum();
    let adds_up = parts.len() == 1 || (sum - parts["total"]).abs() < 1e-9;
    (!adds_up).then(|| format!("cost_details add up to {sum}"))
}
