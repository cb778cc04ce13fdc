//! Any bytes as a request body: what is accepted is JSON, and its facts are those of the document.
#![no_main]

use bytes::Bytes;
use cirque::protocol::Dialect;
use cirque::protocol::edit::{Edits, json_string};
use cirque::protocol::request;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use serde_json::value::RawValue;

const DIALECTS: [Dialect; 5] = [
    Dialect::Chat,
    Dialect::Completions,
    Dialect::Responses,
    Dialect::Messages,
    Dialect::Embeddings,
];

/// The document as `serde_json` reads it. It refuses more: half a surrogate pair in a text that
/// nobody reads, and the last level of nesting.
fn document(body: &[u8]) -> Option<Value> {
    serde_json::from_slice(body).ok()
}

fuzz_target!(|input: &[u8]| {
    let [choice, body @ ..] = input else { return };
    let dialect = DIALECTS[usize::from(*choice) % DIALECTS.len()];
    let Ok(facts) = request::read(body, dialect) else { return };
    assert!(serde_json::from_slice::<&RawValue>(body).is_ok());
    let Some(before) = document(body) else { return };
    assert_eq!(before["model"], facts.model);
    assert_eq!(before["stream"] == true, facts.stream);

    let mut edits = Edits::new();
    edits.replace(facts.model_span, json_string("other"));
    edits.replace(facts.object_start..facts.object_start, Bytes::from_static(b"\"new\":1,"));
    if let Some(format) = facts.response_format {
        edits.remove([&format.place]);
    }
    let after: Vec<u8> =
        edits.apply(&Bytes::copy_from_slice(body)).iter().flatten().copied().collect();
    let after = document(&after).expect("an edited document is one still");
    assert_eq!(after["model"], "other");
    assert_eq!(after["messages"], before["messages"]);
});
