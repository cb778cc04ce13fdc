//! The body of one export: the spans of some traces, and who sends them.

use std::sync::LazyLock;

static BEFORE: LazyLock<String> = LazyLock::new(|| {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        r#"{{"resourceSpans":[{{"resource":{{"attributes":[{{"key":"service.name","value":{{"stringValue":"cirque"}}}},{{"key":"service.version","value":{{"stringValue":"{version}"}}}}]}},"scopeSpans":[{{"scope":{{"name":"cirque","version":"{version}"}},"spans":["#
    )
});
const AFTER: &str = "]}]}]}";

/// What stands before and behind the spans of an export. `encode` makes these, and commas are between them.
pub fn envelope() -> (&'static [u8], &'static [u8]) {
    (BEFORE.as_bytes(), AFTER.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_stand_side_by_side_in_one_document() {
        let (before, after) = envelope();
        let read = |spans: &[u8]| -> serde_json::Value {
            serde_json::from_slice(&[before, spans, after].concat()).unwrap()
        };
        let body = read(br#"{"a":1},{"b":2}"#);
        let spans = &body["resourceSpans"][0]["scopeSpans"][0]["spans"];
        assert_eq!(spans.to_string(), r#"[{"a":1},{"b":2}]"#);
        assert!(read(b"")["resourceSpans"][0]["resource"]["attributes"].is_array());
    }
}
