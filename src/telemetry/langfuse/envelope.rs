//! The body of one export: the spans of some traces, and who sends them.

use std::io::{self, Write};
use std::sync::LazyLock;

static BEFORE: LazyLock<String> = LazyLock::new(|| {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        r#"{{"resourceSpans":[{{"resource":{{"attributes":[{{"key":"service.name","value":{{"stringValue":"cirque"}}}},{{"key":"service.version","value":{{"stringValue":"{version}"}}}}]}},"scopeSpans":[{{"scope":{{"name":"cirque","version":"{version}"}},"spans":["#
    )
});
const AFTER: &str = "]}]}]}";

/// Writes the body of one export of these parts, each of which `encode` has made; its length.
///
/// # Errors
/// Those of `out`.
pub fn envelope<'p>(
    parts: impl IntoIterator<Item = &'p [u8]>,
    out: &mut impl Write,
) -> io::Result<usize> {
    let mut length = BEFORE.len() + AFTER.len();
    out.write_all(BEFORE.as_bytes())?;
    for (nth, part) in parts.into_iter().enumerate() {
        if nth > 0 {
            out.write_all(b",")?;
            length += 1;
        }
        out.write_all(part)?;
        length += part.len();
    }
    out.write_all(AFTER.as_bytes())?;
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_stand_side_by_side_in_one_document() {
        let written = |parts: &[&[u8]]| {
            let mut body = Vec::new();
            let length = envelope(parts.iter().copied(), &mut body).unwrap();
            assert_eq!(length, body.len());
            body
        };
        let body = written(&[br#"{"a":1},{"b":2}"#, br#"{"c":3}"#]);
        let read: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let spans = &read["resourceSpans"][0]["scopeSpans"][0]["spans"];
        assert_eq!(spans.to_string(), r#"[{"a":1},{"b":2},{"c":3}]"#);
        let none: serde_json::Value = serde_json::from_slice(&written(&[])).unwrap();
        assert!(none["resourceSpans"][0]["resource"]["attributes"].is_array());
    }
}
