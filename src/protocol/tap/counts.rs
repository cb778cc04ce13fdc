//! Tests of what is counted: usages in parts, and what passed of replies that break off.

use super::tests::{read_events, usage};
use super::*;
use bytes::Bytes;

fn produced(dialect: Dialect, body: &str) -> u64 {
    let mut tap = PlainTap::new(dialect);
    body.as_bytes().chunks(9_000).for_each(|piece| tap.push(&Bytes::copy_from_slice(piece)));
    tap.finish_counted().produced_tokens
}

#[test]
fn what_passed_of_a_long_reply_that_breaks_off_counts() {
    for words in [14_000, 20_000, 50_000] {
        let text = "word ".repeat(words);
        for (dialect, start) in [
            (Dialect::Chat, r#"{"choices":[{"index":0,"message":{"content":""#),
            (Dialect::Messages, r#"{"content":[{"type":"text","text":""#),
            (Dialect::Responses, r#"{"output":[{"content":[{"text":""#),
        ] {
            let tokens = produced(dialect, &[start, &text].concat());
            let expected = words as u64 * 5 / 4;
            assert!((expected..expected + 20).contains(&tokens), "{dialect:?} {words} {tokens}");
        }
    }
    // What is held until it is whole was not sent.
    assert_eq!(produced(Dialect::Chat, r#"{"choices":[{"message":{"content":"word "#), 0);
}

#[test]
fn an_image_in_a_long_reply_is_no_text() {
    let image = "iVBORw0KGgo".repeat(50_000);
    let start = r#"{"choices":[{"message":{"content":"a few words","images":[{"image_url":{"url":"data:image/png;base64,"#;
    for end in ["", r#""}}]}}]}"#] {
        let tokens = produced(Dialect::Chat, &[start, &image, end].concat());
        assert!(tokens < 100, "{tokens}");
    }
}

#[test]
fn a_usage_in_two_parts_is_one() {
    for (first, second, expected) in [
        (r#"{"prompt_tokens":10}"#, r#"{"completion_tokens":5}"#, [10, 0, 5, 0, 10, 5]),
        (
            r#"{"prompt_tokens":10,"prompt_tokens_details":{"cached_tokens":4}}"#,
            r#"{"completion_tokens":5,"completion_tokens_details":{"reasoning_tokens":2}}"#,
            [6, 4, 3, 2, 10, 5],
        ),
        // A total of before is none of what comes later.
        (
            r#"{"prompt_tokens":10,"completion_tokens":9,"total_tokens":19}"#,
            r#"{"prompt_tokens":10,"completion_tokens":5}"#,
            [10, 0, 5, 0, 10, 5],
        ),
        (r#"{"prompt_tokens":10,"completion_tokens":9}"#, "null", [10, 0, 9, 0, 10, 9]),
    ] {
        let events = [first, second].map(|part| format!(r#"{{"choices":[],"usage":{part}}}"#));
        let tap = read_events(Dialect::Chat, &[&events[0], &events[1]]);
        assert_eq!(tap.reading().usage, usage(expected), "{first} {second}");
    }
}
