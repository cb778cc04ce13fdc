//! Tests of what is counted: what passed of replies that break off.

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
