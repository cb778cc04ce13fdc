//! Any request at all: judged as `serde_json` judges it, and never a panic.

use super::tests::{CHAT, facts, without};
use super::{Dialect, read};
use crate::error::Kind;
use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::strategy::{Just, Strategy};
use serde_json::{Value, json};

/// What `serde_json` says about the same bytes, levels over 127 and huge numbers aside.
fn is_json_object(body: &[u8]) -> bool {
    std::str::from_utf8(body).is_ok()
        && serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok()
        && body.trim_ascii_start().starts_with(b"{")
}

fn is_taken_as_json(body: &[u8]) -> bool {
    match read(body, Dialect::Chat) {
        Ok(_) => true,
        Err(fault) => fault.kind != Kind::InvalidJson,
    }
}

fn document() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    let name = prop_oneof![
        "model|stream|messages|input|tools|models|metadata|text|n|response_format|stream_options",
        any::<String>(),
    ];
    leaf.prop_recursive(5, 48, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((name.clone(), inner), 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn every_json_object_is_read_and_nothing_else(value in document(), pretty in any::<bool>()) {
        let body = if pretty { format!("{value:#}") } else { value.to_string() };
        prop_assert_eq!(is_taken_as_json(body.as_bytes()), value.is_object(), "{}", body);
    }

    #[test]
    fn a_mutated_document_is_judged_as_serde_json_does(
        value in document(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![
            any::<u8>(), prop::sample::select(b"{}[],:\"\\0123456789.eE+-tfnu \n\t\x1f".to_vec()),
        ], 0_u8..3), 0..4),
    ) {
        let mut body = json!({ "model": value }).to_string().into_bytes();
        for (place, byte, kind) in edits {
            let place = place.index(body.len().max(1));
            match kind {
                0 => body.insert(place, byte),
                1 => { body.splice(place..(place + 1).min(body.len()), [byte]); }
                _ => { body.splice(place..(place + 1).min(body.len()), []); }
            }
        }
        let fault = read(&body, Dialect::Chat).err();
        let is_ours_alone = fault.as_ref().is_some_and(|fault| {
            ["surrogate", "too large", "byte order"].iter().any(|why| fault.message.contains(why))
        });
        prop_assert!(
            is_ours_alone || is_taken_as_json(&body) == is_json_object(&body),
            "{:?} {}", fault, String::from_utf8_lossy(&body)
        );
    }

    #[test]
    fn the_model_and_the_stream_flag_are_those_serde_json_reads(
        model in "[^\\p{Cc}]{1,40}",
        stream in any::<Option<bool>>(),
        other in document(),
        first in any::<bool>(),
    ) {
        let body = if first {
            json!({"model": model, "other": other, "stream": stream, "messages": [other]})
        } else {
            json!({"messages": [other], "stream": stream, "x": other, "model": model})
        };
        let body = body.to_string();
        let found = read(body.as_bytes(), Dialect::Chat).unwrap();
        prop_assert_eq!(&found.model, &model);
        prop_assert_eq!(found.stream, stream == Some(true));
        let token: String = serde_json::from_slice(&body.as_bytes()[found.model_span.clone()]).unwrap();
        prop_assert_eq!(token, model);
    }

    #[test]
    fn no_bytes_make_it_panic(
        body in prop::collection::vec(any::<u8>(), 0..200),
        dialect in prop::sample::select(vec![Dialect::Chat, Dialect::Responses, Dialect::Embeddings]),
    ) {
        prop_assert_eq!(read(&body, dialect).is_ok(), false);
    }
}

#[test]
fn members_that_some_providers_refuse_are_found_and_can_all_be_taken_out() {
    let members = [
        r#""session_id":"s""#,
        r#""model":"m""#,
        r#""provider" : {"order":["a"]}"#,
        CHAT,
        r#""trace":{}"#,
        r#""temperature":1"#,
    ];
    // Every selection of members in every rotation, so that the first, the last and neighbours go.
    for turn in 0..members.len() {
        for selection in 0..1_u32 << members.len() {
            let mut chosen: Vec<&str> = members
                .iter()
                .enumerate()
                .filter(|(i, m)| selection >> i & 1 == 1 || m.contains("model") || **m == CHAT)
                .map(|(_, member)| *member)
                .collect();
            let count = chosen.len();
            chosen.rotate_left(turn % count);
            let body = format!("{{ {} }}", chosen.join(" , "));
            let found = facts(&body);
            let places: Vec<_> = found.optional.iter().map(|optional| &optional.place).collect();
            let left = without(&body, &places);
            let kept = chosen.iter().filter(|m| {
                !["session_id", "provider", "trace"].iter().any(|name| m.contains(name))
            });
            assert_eq!(left.as_object().unwrap().len(), kept.count(), "{body} -> {left}");
        }
    }
}
