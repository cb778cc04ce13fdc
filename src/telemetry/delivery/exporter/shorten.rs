//! A record that is too large even alone: its longest texts keep head and tail.

use crate::telemetry::langfuse::cut;
use serde_json::Value;
use std::borrow::Cow;

/// What is left of a text, in bytes, at the first try and at the second. A call that failed over holds
/// its texts twice, and each goes into JSON: at a quarter of a megabyte it fits Langfuse's cloud.
pub(super) const KEPT: [usize; 2] = [256 << 10, 32 << 10];

/// Cuts texts of more than `kept` bytes in span objects that commas join; `None` where that makes
/// nothing shorter.
pub(super) fn shorten(spans: &[u8], kept: usize) -> Option<Vec<u8>> {
    let joined = [b"[", spans, b"]"].concat();
    let mut all: Vec<Value> = serde_json::from_slice(&joined).ok()?;
    for span in &mut all {
        cut_texts(span, kept);
    }
    let text = serde_json::to_vec(&all).ok()?;
    let inside = text.strip_prefix(b"[")?.strip_suffix(b"]")?;
    (inside.len() < spans.len()).then(|| inside.to_vec())
}

fn cut_texts(value: &mut Value, kept: usize) {
    match value {
        Value::String(text) => {
            if let Cow::Owned(shorter) = cut(text, kept) {
                *text = shorter;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| cut_texts(item, kept)),
        Value::Object(members) => members.values_mut().for_each(|item| cut_texts(item, kept)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn long_texts_keep_head_and_tail_and_all_else_stays() {
        let long = format!("first{}last", "ä".repeat(100_000));
        let span = |input: &str| json!({"traceId": "ab", "attributes": [{"key": "k", "value": {"stringValue": input}}]});
        let spans = format!("{},{}", span(&long), span("short"));
        let short = shorten(spans.as_bytes(), 32 << 10).unwrap();
        let all: Value = serde_json::from_slice(&[b"[", &*short, b"]"].concat()).unwrap();
        let text = all[0]["attributes"][0]["value"]["stringValue"].as_str().unwrap();
        assert!(text.starts_with("first") && text.ends_with("last") && text.len() < 40_000);
        assert!(text.contains("bytes cut"));
        assert_eq!(all[1], span("short"));
    }

    #[test]
    fn what_cannot_be_cut_is_given_up() {
        assert_eq!(shorten(br#"{"a":"b"}"#, 9), None);
        assert_eq!(shorten(b"{\"a\":", 9), None);
    }
}
