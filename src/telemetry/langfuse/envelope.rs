//! The body of one export: the spans of some traces, and who sends them.

use std::sync::LazyLock;

static BEFORE: LazyLock<String> = LazyLock::new(|| {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        r#"{{"resourceSpans":[{{"resource":{{"attributes":[{{"key":"service.name","value":{{"stringValue":"cirque"}}}},{{"key":"service.version","value":{{"stringValue":"{version}"}}}}]}},"scopeSpans":[{{"scope":{{"name":"cirque","version":"{version}"}},"spans":["#
    )
});
const AFTER: &str = "]}]}]}";

/// The body of one export of these parts, each of which `encode` has made.
pub fn envelope<'p>(parts: impl IntoIterator<Item = &'p [u8]>) -> Vec<u8> {
    let mut body = BEFORE.as_bytes().to_vec();
    for (nth, part) in parts.into_iter().enumerate() {
        if nth > 0 {
            body.push(b',');
        }
        body.extend_from_slice(part);
    }
    body.extend_from_slice(AFTER.as_bytes());
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_stand_side_by_side_in_one_document() {
        let body = envelope([&br#"{"a":1},{"b":2}"#[..], br#"{"c":3}"#]);
        let read: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let spans = &read["resourceSpans"][0]["scopeSpans"][0]["spans"];
        assert_eq!(spans.to_string(), r#"[{"a":1},{"b":2},{"c":3}]"#);
        let none: serde_json::Value = serde_json::from_slice(&envelope([])).unwrap();
        assert!(none["resourceSpans"][0]["resource"]["attributes"].is_array());
    }
}
