//! Replies of every dialect, and what is to be read from them.

use super::*;
use crate::protocol::usage::Usage;
use bytes::Bytes;
use proptest::prelude::{prop, prop_assert, prop_assert_eq, proptest};

pub(super) const ID: &str = "gen-1790000001-Sampl3AbcDefGhiJklMn";

pub(super) fn golden(name: &str) -> String {
    let path = format!("{}/tests/golden/wire/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).unwrap()
}

pub(super) fn tapped<'c>(
    dialect: Dialect,
    chunks: impl IntoIterator<Item = &'c [u8]>,
) -> StreamTap {
    let mut tap = StreamTap::new(dialect);
    for chunk in chunks {
        tap.push(chunk);
    }
    tap
}

fn plain(dialect: Dialect, body: &str, size: usize) -> Reading {
    let body = Bytes::copy_from_slice(body.as_bytes());
    let mut tap = PlainTap::new(dialect);
    for start in (0..body.len()).step_by(size) {
        tap.push(&body.slice(start..(start + size).min(body.len())));
    }
    tap.finish()
}

#[expect(clippy::unnecessary_wraps, reason = "what a reading holds is an option")]
pub(super) fn usage(buckets: [u64; 6]) -> Option<Usage> {
    let [input, cached_input, output, reasoning, input_total, output_total] = buckets;
    let parts = Usage::default();
    Some(Usage { input, cached_input, output, reasoning, input_total, output_total, ..parts })
}

#[test]
fn every_kind_of_delta_is_a_first_token() {
    let chat = |delta: &str| format!(r#"{{"choices":[{{"delta":{delta}}}]}}"#);
    for delta in [
        r#"{"content":"a"}"#,
        r#"{"content":[{"type":"text","text":"a"}]}"#,
        r#"{"reasoning":"a"}"#,
        r#"{"reasoning_content":"a"}"#,
        r#"{"reasoning_details":[{"type":"reasoning.encrypted","data":"x"}]}"#,
        r#"{"refusal":"a"}"#,
        r#"{"tool_calls":[{"index":0,"function":{"name":"f","arguments":""}}]}"#,
        r#"{"function_call":{"name":"f"}}"#,
        r#"{"audio":{"data":"AAAA"}}"#,
        r#"{"images":[{"image_url":{"url":"data:"}}]}"#,
    ] {
        assert!(has_token(Dialect::Chat, &chat(delta)), "{delta}");
    }
    for delta in [
        "{}",
        "null",
        r#"{"role":"assistant","content":"","refusal":null}"#,
        r#"{"content":null,"tool_calls":[],"reasoning_details":[],"audio":null}"#,
        r#"{"content":[],"reasoning":7}"#,
    ] {
        assert!(!has_token(Dialect::Chat, &chat(delta)), "{delta}");
    }
    assert!(has_token(Dialect::Completions, r#"{"choices":[{"text":"a"}]}"#));
    assert!(!has_token(Dialect::Completions, r#"{"choices":[{"text":""}]}"#));
}

#[test]
fn the_other_dialects_have_first_tokens_of_their_own() {
    for (kind, more, is_token) in [
        ("response.created", r#""response":{"output":[]}"#, false),
        ("response.output_item.added", r#""item":{"type":"message"}"#, false),
        ("response.output_item.added", r#""item":{"type":"reasoning"}"#, false),
        ("response.output_item.added", r#""item":{"type":"function_call"}"#, true),
        ("response.output_text.delta", r#""delta":"a""#, true),
        ("response.output_text.delta", r#""delta":"""#, false),
        ("response.refusal.delta", r#""delta":"a""#, true),
        ("response.reasoning_summary_text.delta", r#""delta":"a""#, true),
        ("response.function_call_arguments.delta", r#""delta":"{""#, true),
        ("response.image_generation_call.partial_image", r#""x":1"#, true),
        ("response.output_item.done", r#""item":{"type":"message"}"#, true),
        ("response.output_text.done", r#""text":"a""#, false),
    ] {
        let data = format!(r#"{{"type":"{kind}",{more}}}"#);
        assert_eq!(has_token(Dialect::Responses, &data), is_token, "{data}");
    }
    for (kind, more, is_token) in [
        ("message_start", r#""message":{"content":[]}"#, false),
        ("content_block_start", r#""content_block":{"type":"text","text":""}"#, false),
        ("content_block_start", r#""content_block":{"type":"thinking"}"#, false),
        ("content_block_start", r#""content_block":{"type":"tool_use"}"#, true),
        ("content_block_delta", r#""delta":{"type":"text_delta","text":"a"}"#, true),
        ("content_block_delta", r#""delta":{"type":"thinking_delta","thinking":"a"}"#, true),
        ("content_block_delta", r#""delta":{"type":"input_json_delta","partial_json":"{"}"#, true),
        ("content_block_delta", r#""delta":{"type":"text_delta","text":""}"#, false),
        ("ping", r#""x":1"#, false),
    ] {
        let data = format!(r#"{{"type":"{kind}",{more}}}"#);
        assert_eq!(has_token(Dialect::Messages, &data), is_token, "{data}");
    }
}

fn has_token(dialect: Dialect, data: &str) -> bool {
    let tap = tapped(dialect, [format!("data: {data}\n\n").as_bytes()]);
    assert_eq!(tap.garbled(), 0, "{data}");
    tap.first_token()
}

pub(super) fn read_events(dialect: Dialect, events: &[&str]) -> StreamTap {
    let stream: Vec<String> = events.iter().map(|data| format!("data: {data}\n\n")).collect();
    tapped(dialect, [stream.concat().as_bytes()])
}

#[test]
fn garbage_is_counted_and_the_stream_goes_on() {
    let tap = read_events(
        Dialect::Chat,
        &[
            "{\"choices\":[{\"delta\":{\"content\":\"lost\"",
            "not json",
            "",
            "5",
            "[]",
            r#"{"id":7,"model":["x"],"choices":"none","usage":5,"error":null}"#,
            r#"{"id":"a","id":"b","model":"m","choices":[{"delta":{"role":"x","role":"y","content":"hi"}}]}"#,
            r#"{"choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":1}}"#,
        ],
    );
    assert_eq!(tap.garbled(), 2);
    assert_eq!(tap.produced_bytes(), 2);
    assert!(tap.is_complete() && tap.fault().is_none());
    let reading = tap.into_reading();
    assert_eq!(reading.model.as_deref(), Some("m"));
    assert_eq!(reading.usage.map(|usage| usage.input), Some(1));
}

#[test]
fn groq_sends_its_usage_twice_and_it_counts_once() {
    let tap = read_events(
        Dialect::Chat,
        &[
            r#"{"choices":[{"delta":{},"finish_reason":"stop"}],"x_groq":{"id":"r","usage":{"prompt_tokens":9,"completion_tokens":4}},"usage":{"prompt_tokens":9,"completion_tokens":4}}"#,
            r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":5}}"#,
        ],
    );
    assert_eq!(tap.reading().usage, usage([9, 0, 5, 0, 9, 5]));
    let only_inside = r#"{"x_groq":{"usage":{"prompt_tokens":9}}}"#;
    assert!(read_events(Dialect::Chat, &[only_inside]).reading().usage.is_some());
    let stopped = r#"{"choices":[],"x_groq":{"error":"over capacity"}}"#;
    assert!(read_events(Dialect::Chat, &[stopped]).fault().is_some());
}

#[test]
fn an_error_in_any_form_is_a_fault_and_the_first_one_stays() {
    for (dialect, event) in [
        (Dialect::Chat, r#"{"error":{"message":"first","code":429}}"#),
        (Dialect::Chat, r#"[{"error":{"message":"first","code":429}}]"#),
        (Dialect::Chat, r#"{"choices":[{"error":{"message":"first","code":429}}]}"#),
        (Dialect::Messages, r#"{"error":{"message":"first","code":429}}"#),
        (Dialect::Responses, r#"{"type":"error","code":"429","message":"first"}"#),
        (Dialect::Responses, r#"{"type":"error","error":{"code":"429","message":"first"}}"#),
        (
            Dialect::Responses,
            r#"{"type":"response.failed","response":{"error":{"message":"first","code":"429"}}}"#,
        ),
    ] {
        let second = r#"{"error":{"message":"second"}}"#;
        let tap = read_events(dialect, &[event, second]);
        let fault = tap.fault().unwrap();
        assert_eq!(fault.message.as_deref(), Some("first"), "{event}");
        assert_eq!(fault.status, Some(429), "{event}");
        assert_eq!(tap.reading().finish.as_deref(), Some("error"));
    }
    let silent = read_events(Dialect::Chat, &[r#"{"choices":[{"finish_reason":"error"}]}"#]);
    assert!(silent.fault().is_some() && !silent.is_complete());
    for nothing in [r#"{"type":"error"}"#, r#"{"type":"response.error"}"#] {
        assert!(read_events(Dialect::Responses, &[nothing]).fault().is_some());
    }
}

#[test]
fn reasons_to_end_are_told_in_openais_words() {
    let finish = |dialect, event: &str| read_events(dialect, &[event]).into_reading().finish;
    for (reason, word) in [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
        ("pause_turn", "pause_turn"),
    ] {
        let event = format!(r#"{{"type":"message_delta","delta":{{"stop_reason":"{reason}"}}}}"#);
        assert_eq!(finish(Dialect::Messages, &event).as_deref(), Some(word));
    }
    for (response, word) in [
        (r#""status":"completed","output":[{"type":"message"}]"#, "stop"),
        (r#""status":"completed","output":[{"type":"function_call"}]"#, "tool_calls"),
        (r#""status":"incomplete","incomplete_details":{"reason":"max_output_tokens"}"#, "length"),
        (r#""status":"incomplete","incomplete_details":null"#, "incomplete"),
        (r#""status":"failed""#, "error"),
    ] {
        let event = format!(r#"{{"type":"response.x","response":{{{response}}}}}"#);
        assert_eq!(finish(Dialect::Responses, &event).as_deref(), Some(word));
    }
}

#[test]
fn the_end_of_each_dialect_is_its_own() {
    let done = |dialect| read_events(dialect, &["[DONE]"]).is_complete();
    assert!(done(Dialect::Chat) && done(Dialect::Completions));
    assert!(!done(Dialect::Messages) && !done(Dialect::Responses));
    let delta = r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"}}"#;
    assert!(!read_events(Dialect::Messages, &[delta]).is_complete());
    assert!(read_events(Dialect::Messages, &[delta, r#"{"type":"message_stop"}"#]).is_ended());
    let finished = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
    let tap = read_events(Dialect::Chat, &[finished]);
    assert!(tap.is_complete() && !tap.is_ended());
    assert!(read_events(Dialect::Chat, &[finished, "[DONE]"]).is_ended());
}

#[test]
fn whole_replies_are_read_in_every_cut() {
    for (file, usage_buckets, cost_usd) in [
        ("chat_response.json", [300, 512, 63, 31, 812, 94], 0.000_821_2),
        ("chat_response_body_padded.txt", [300, 512, 63, 31, 812, 94], 0.000_821_2),
        ("chat_response_byok.json", [812, 0, 94, 0, 812, 94], 0.001_346_1),
    ] {
        let body = golden(file);
        for size in [body.len(), 1, 100] {
            let reading = plain(Dialect::Chat, &body, size);
            assert_eq!(reading.id.as_deref(), Some(ID), "{file}");
            assert_eq!(reading.model.as_deref(), Some("acme/wisp-2-mini-20260801"));
            assert_eq!(reading.finish.as_deref(), Some("stop"));
            assert_eq!(reading.usage, usage(usage_buckets), "{file}");
            assert!((reading.upstream_cost.unwrap().usd - cost_usd).abs() < 1e-12, "{file}");
            assert_eq!(reading.fault, None);
        }
    }
    for file in ["error_200_in_body.txt", "error_200_choice_error.json"] {
        let reading = plain(Dialect::Chat, &golden(file), 64);
        assert_eq!(reading.fault.unwrap().status, Some(502));
        assert_eq!(reading.finish.as_deref(), Some("error"));
    }
    assert_eq!(plain(Dialect::Chat, "<html>", 2), Reading::default());
}

#[test]
fn a_long_reply_is_read_from_both_ends() {
    for size in [70_000, 200_000, 1_000_000] {
        let long = r#"quoted \"usage\": {\"prompt_tokens\":1} "#.repeat(size / 39);
        let counts = r#"{"prompt_tokens":5,"completion_tokens":3,"total_tokens":8}"#;
        let body = format!(
            r#"{{"id":"i","model":"m","choices":[{{"message":{{"content":"{long}"}},"finish_reason":"length"}}],"usage" : {counts}}}"#
        );
        let counts = r#"{"input_tokens":5,"output_tokens":3}"#;
        let messages = format!(
            r#"{{"id":"i","model":"m","content":[{{"text":"{long}"}}],"stop_reason":"max_tokens","usage":{counts}}}"#
        );
        let responses = format!(
            r#"{{"id":"i","status":"incomplete","incomplete_details":{{"reason":"max_output_tokens"}},"model":"m","output":[{{"text":"{long}"}}],"usage":{counts}}}"#
        );
        let vector = "0.125,".repeat(size / 6);
        let embeddings = format!(
            r#"{{"data":[{{"embedding":[{vector}0]}}],"model":"m","usage":{{"prompt_tokens":5,"total_tokens":5}}}}"#
        );
        for (dialect, body, output) in [
            (Dialect::Chat, body, 3),
            (Dialect::Messages, messages, 3),
            (Dialect::Responses, responses, 3),
            (Dialect::Embeddings, embeddings, 0),
        ] {
            for chunk in [body.len(), 65_536, 1_000, 7] {
                let reading = plain(dialect, &body, chunk);
                let what = format!("{dialect:?} {size} {chunk}");
                assert_eq!(reading.usage, usage([5, 0, output, 0, 5, output]), "{what}");
                assert_eq!(reading.model.as_deref(), Some("m"), "{what}");
                assert_eq!(reading.fault, None, "{what}");
                if dialect != Dialect::Embeddings {
                    assert_eq!(reading.id.as_deref(), Some("i"), "{what}");
                    assert_eq!(reading.finish.as_deref(), Some("length"), "{what}");
                }
            }
        }
    }
}

#[test]
fn a_reply_is_whole_cut_or_garbled_however_long_it_is() {
    let form = |body: &str| {
        let mut tap = PlainTap::new(Dialect::Chat);
        body.as_bytes().chunks(9_000).for_each(|piece| tap.push(&Bytes::copy_from_slice(piece)));
        tap.finish_counted().form
    };
    for length in [0, 70_000, 200_000] {
        let filler = "x".repeat(length);
        let reply = |end: &str| form(&format!("\n  {{\"choices\":[\"{filler}{end}"));
        assert_eq!(reply("\"]} \n"), Form::Whole, "{length}");
        assert_eq!(reply(""), Form::Cut, "{length}");
        assert_eq!(reply("\"]"), Form::Cut, "{length}");
        assert_eq!(reply("\"]} <html>"), Form::Garbled, "{length}");
        assert_eq!(form(&format!("<html>{filler}")), Form::Garbled, "{length}");
        assert_eq!(form(&" ".repeat(length)), Form::Cut, "{length}");
    }
    for odd in ["\u{feff}{}", "{\"a\":1e999}", "{\"a\":\"\\ud800\"}", "[]"] {
        assert_eq!(form(odd), Form::Whole, "{odd}");
    }
}

#[test]
fn a_text_cut_within_a_character_takes_neither_usage_nor_text_with_it() {
    let said = |reading: &Reading| {
        let output = reading.output.as_ref().unwrap();
        output.choices().iter().map(|choice| choice.content.head().to_owned()).collect::<String>()
    };
    let usage = r#""usage":{"prompt_tokens":1000,"completion_tokens":100}"#;
    for end in [&br"\ud83c"[..], b"\xff"] {
        let start =
            br#"{"id":"g","choices":[{"index":0,"finish_reason":"stop","message":{"content":"42 "#;
        let body = [start, end, br#""}}],"#, usage.as_bytes(), b"}"].concat();
        let mut tap = PlainTap::new(Dialect::Chat).keeping(Some(1_000));
        tap.push(&Bytes::from(body));
        let finished = tap.finish_counted();
        let reading = &finished.reading;
        assert_eq!((said(reading).as_str(), finished.form), ("42 \u{fffd}", Form::Whole));
        assert_eq!(reading.usage.map(|usage| usage.output_total), Some(100));
        assert_eq!(reading.finish.as_deref(), Some("stop"));
    }
    let mut tap = StreamTap::new(Dialect::Chat).keeping(Some(1_000));
    for half in [r"\ud83c", r"\udf0a"] {
        let event = format!(
            "data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"a{half}\"}}}}],{usage}}}\n\n"
        );
        tap.push(event.as_bytes());
    }
    assert_eq!(tap.garbled(), 0);
    let reading = tap.into_reading();
    assert_eq!(said(&reading), "a\u{fffd}a\u{fffd}");
    assert_eq!(reading.usage.map(|usage| usage.input_total), Some(1_000));
}

#[test]
fn an_error_at_the_end_of_a_long_reply_is_found() {
    for length in [10, 300_000] {
        let filler = "x".repeat(length);
        let with = |end: &str| {
            plain(Dialect::Chat, &format!("{{\"choices\":[\"{filler}\"]{end}}}"), 9_000)
        };
        let error = with(",\"error\":{\"code\":502,\"message\":\"gone\"}");
        assert_eq!(error.fault.and_then(|fault| fault.status), Some(502), "{length}");
        assert_eq!(with(",\"error\":null").fault, None, "{length}");
        let padded = format!("{}{{\"error\":{{\"code\":502}}}}", " ".repeat(length));
        assert!(plain(Dialect::Chat, &padded, 9_000).fault.is_some(), "{length}");
    }
}

proptest! {
    #[test]
    fn both_ends_of_a_reply_are_kept_whatever_the_cuts(
        sizes in prop::collection::vec(1_usize..30_000, 1..20),
    ) {
        let total: usize = sizes.iter().sum();
        let filler = " ".repeat(total);
        let body = format!(r#"{{"id":"i",{filler}"usage":{{"prompt_tokens":5}}}}"#);
        let mut tap = PlainTap::new(Dialect::Chat);
        let bytes = Bytes::from(body);
        let mut start = 0;
        for size in sizes.into_iter().chain([bytes.len()]) {
            let end = (start + size).min(bytes.len());
            tap.push(&bytes.slice(start..end));
            start = end;
        }
        let reading = tap.finish();
        prop_assert_eq!(reading.usage, usage([5, 0, 0, 0, 5, 0]));
        prop_assert!(reading.id.is_some());
    }
}

#[test]
fn a_response_that_does_not_say_how_it_stands_ends_as_its_event_says() {
    for (event, finish) in
        [("completed", "stop"), ("incomplete", "incomplete"), ("failed", "error")]
    {
        let kind = format!("response.{event}");
        let usage = r#"{"input_tokens":7,"output_tokens":3}"#;
        let end = format!(
            "event: {kind}\ndata: {{\"type\":\"{kind}\",\"response\":{{\"usage\":{usage}}}}}\n\n"
        );
        let mut tap = StreamTap::new(Dialect::Responses);
        tap.push(end.as_bytes());
        assert!(tap.is_complete());
        let reading = tap.into_reading();
        assert_eq!(reading.finish.as_deref(), Some(finish));
        assert_eq!(reading.usage.map(|usage| usage.output_total), Some(3));
    }
}
