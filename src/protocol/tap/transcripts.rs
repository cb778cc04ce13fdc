//! What replies say, streamed or not, in every cut and within bounds.

use super::tests::golden;
use super::{Choice, Kept, PlainTap, StreamTap, Transcript};
use crate::protocol::Dialect;
use bytes::Bytes;
use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

pub(super) const LIMIT: usize = 1 << 20;

pub(super) fn streamed(dialect: Dialect, stream: &[u8], size: usize, limit: usize) -> Transcript {
    let mut tap = StreamTap::new(dialect).keeping(Some(limit));
    for chunk in stream.chunks(size) {
        tap.push(chunk);
    }
    *tap.into_reading().output.unwrap()
}

pub(super) fn plain(dialect: Dialect, body: &str, limit: usize) -> Transcript {
    let mut tap = PlainTap::new(dialect).keeping(Some(limit));
    for chunk in body.as_bytes().chunks(700) {
        tap.push(&Bytes::copy_from_slice(chunk));
    }
    *tap.finish().output.unwrap()
}

pub(super) fn whole(kept: &Kept) -> String {
    assert_eq!(kept.missing(), 0);
    format!("{}{}", kept.head(), kept.tail())
}

/// Reasoning, content, refusal, finish and calls, in a line.
pub(super) fn line(choice: &Choice) -> String {
    let calls: Vec<String> = choice
        .calls
        .iter()
        .map(|call| {
            let kind = Some(call.kind.as_str()).filter(|kind| !matches!(*kind, "" | "custom"));
            let kind = kind.map(|kind| format!("{kind} ")).unwrap_or_default();
            format!("{}={kind}{}({})", call.id, call.name, whole(&call.arguments))
        })
        .collect();
    let finish = choice.finish.as_deref().unwrap_or("-");
    format!(
        "{}|{}|{}|{}|{finish}",
        whole(choice.thoughts()),
        whole(&choice.content),
        whole(&choice.refusal),
        calls.join(",")
    )
}

pub(super) fn lines(transcript: &Transcript) -> Vec<String> {
    transcript.choices().iter().map(line).collect()
}

#[test]
fn recorded_streams_are_put_together_again_in_every_cut() {
    use Dialect::{Chat, Messages, Responses};
    for (file, dialect, said) in [
        ("chat_stream_openrouter.sse", Chat, "Checking the|High water is at 06:12 — 🌊.||"),
        ("chat_stream_tool_openrouter.sse", Chat, "|||call_s4mple01=tide({\"port\":\"Oslo\"})"),
        ("responses_stream_openai.sse", Responses, "|High water is at 06:12.||"),
        ("messages_stream_anthropic.sse", Messages, "|High water is at 06:12.||"),
        ("chat_stream_mid_error.sse", Chat, ""),
        ("chat_stream_truncated_partial.sse", Chat, ""),
        ("responses_stream_openrouter.sse", Responses, ""),
        ("messages_stream_openrouter.sse", Messages, ""),
    ] {
        let stream = golden(file);
        let whole = streamed(dialect, stream.as_bytes(), usize::MAX, LIMIT);
        let found = lines(&whole);
        assert_eq!(found.len(), 1, "{file}");
        assert!(found[0].starts_with(said), "{file}: {found:?}");
        for size in 1..64 {
            assert_eq!(streamed(dialect, stream.as_bytes(), size, LIMIT), whole, "{file}, {size}");
        }
    }
}

#[test]
fn arguments_that_come_as_an_object_are_shown_as_the_text_they_should_be() {
    let call = r#"{"tool_calls":[{"id":"c1","function":{"name":"f","arguments":{"b":[1,"ä"],"a":null}}},
        {"id":"c2","function":{"name":"g","arguments":{}}}]}"#;
    let said = ["|||c1=f({\"b\":[1,\"ä\"],\"a\":null}),c2=g({})|-"];
    let reply = format!(r#"{{"choices":[{{"message":{call}}}]}}"#);
    assert_eq!(lines(&plain(Dialect::Chat, &reply, LIMIT)), said);
    let stream = format!("data: {{\"choices\":[{{\"delta\":{}}}]}}\n\n", call.replace('\n', ""));
    assert_eq!(lines(&streamed(Dialect::Chat, stream.as_bytes(), 7, LIMIT)), said);
}

#[test]
fn a_plain_reply_says_the_same_as_a_stream() {
    let chat = golden("chat_response.json");
    let said = "|The tide tables for Oslo list high water at 06:12.|||stop";
    assert_eq!(lines(&plain(Dialect::Chat, &chat, LIMIT)), [said]);
    let responses = r#"{"id":"r","output":[
        {"type":"reasoning","summary":[{"type":"summary_text","text":"Hm."}]},
        {"content":[{"type":"reasoning_text","text":" So."}],"type":"reasoning"},
        {"type":"message","content":[{"type":"output_text","text":"Two"},{"type":"refusal","refusal":"No"}]},
        {"type":"function_call","call_id":"c1","name":"f","arguments":"{}"},
        {"type":"web_search_call","id":"w"},
        {"call_id":"c2","arguments":"{\"a\":1}","name":"g","type":"function_call"}],"status":"completed"}"#;
    assert_eq!(
        lines(&plain(Dialect::Responses, responses, LIMIT)),
        ["Hm. So.|Two|No|c1=f({}),w=web_search_call (),c2=g({\"a\":1})|-"]
    );
    let messages = r#"{"content":[{"type":"thinking","thinking":"Hm."},{"type":"text","text":"Two"},
        {"type":"tool_use","id":"t1","name":"f","input":{"a": [1]}},
        {"type":"tool_use","id":"t2","name":"g","input":{}}],"stop_reason":"tool_use"}"#;
    assert_eq!(
        lines(&plain(Dialect::Messages, messages, LIMIT)),
        ["Hm.|Two||t1=f({\"a\": [1]}),t2=g({})|-"]
    );
    let completions =
        r#"{"choices":[{"text":"a","index":1,"finish_reason":"stop"},{"index":0,"text":"b"}]}"#;
    assert_eq!(lines(&plain(Dialect::Completions, completions, LIMIT)), ["|a|||stop", "|b|||-"]);
}

#[test]
fn embeddings_are_counted_and_not_kept() {
    let two = |embedding: &str| {
        format!(r#"{{"data":[{{"embedding":{embedding}}},{{"embedding":[]}}],"model":"m"}}"#)
    };
    assert_eq!(plain(Dialect::Embeddings, &two("[1,2,3]"), LIMIT).vectors, Some((2, 3)));
    let base64 = plain(Dialect::Embeddings, &two(r#""AAAAAAAAAAAAAAAA""#), LIMIT);
    assert_eq!(base64.vectors, Some((2, 3)));
    for (embedding, length) in [
        (format!("[{}0]", "0,".repeat(200_000)), 200_001),
        (format!("\"{}\"", "A".repeat(400_000)), 75_000),
    ] {
        let long = plain(Dialect::Embeddings, &two(&embedding), LIMIT);
        assert_eq!((long.vectors, long.raw), (Some((2, length)), None));
    }
}

#[test]
fn parts_find_their_answer_and_their_call_whatever_comes_first() {
    let event = |choices: &str| format!("data: {{\"choices\":[{choices}]}}\n\n");
    let stream = [
        event(r#"{"delta":{"content":"b"},"index":1},{"index":0,"delta":{"content":"a"}}"#),
        event(r#"{"delta":{"tool_calls":[{"function":{"arguments":"1"},"id":"x","index":1},{"index":0,"id":"y","function":{"name":"f"}}]}}"#),
        event(r#"{"delta":{"tool_calls":[{"index":1,"function":{"arguments":"2"}}]},"finish_reason":"tool_calls"}"#),
        event(r#"{"delta":{"reasoning":"r","reasoning_content":"r"}}"#),
        event(r#"{"delta":{"content":[{"type":"thinking","thinking":[{"text":"t"}]},{"type":"text","text":"c"}]}}"#),
        event(r#"{"delta":{"audio":{"data":"AAAA","transcript":"s"},"images":[{"image_url":{"url":"data:image/png;base64,AAAA"}}]}}"#),
    ]
    .concat();
    let said = streamed(Dialect::Chat, stream.as_bytes(), usize::MAX, LIMIT);
    assert_eq!(lines(&said), ["|b|||-", "rt|ac||x=(12),y=f()|tool_calls"]);
    let second = &said.choices()[1];
    assert_eq!(whole(&second.spoken), "s");
    assert_eq!(whole(&second.images[0]), "data:image/png;base64,AAAA");
}

#[test]
fn calls_that_nobody_numbers_are_told_apart_by_their_ids() {
    let call = |id: &str| {
        format!(
            "data: {{\"choices\":[{{\"delta\":{{\"tool_calls\":[{{\"id\":\"{id}\",\"function\":{{\"name\":\"f\",\"arguments\":\"{{}}\"}}}}]}}}}]}}\n\n"
        )
    };
    let stream = call("a") + &call("b");
    let said = streamed(Dialect::Chat, stream.as_bytes(), usize::MAX, LIMIT);
    assert_eq!(lines(&said), ["|||a=f({}),b=f({})|-"]);
    // Too many of them are counted, and change none of those that are kept.
    let many: String = (0..130).map(|nth| call(&format!("c{nth}"))).collect();
    let said = streamed(Dialect::Chat, many.as_bytes(), usize::MAX, LIMIT);
    let choice = &said.choices()[0];
    assert_eq!((choice.calls.len(), choice.cut_calls()), (128, 2));
    let last = choice.calls.last().unwrap();
    assert_eq!((last.name.as_str(), whole(&last.arguments).as_str()), ("f", "{}"));
}

#[test]
fn tools_that_take_plain_text_are_put_together_like_functions() {
    let reply = r#"{"choices":[{"message":{"content":null,"tool_calls":[
        {"id":"c1","type":"custom","custom":{"name":"cc","input":"raw \"text\""}},
        {"id":"c2","type":"function","function":{"name":"f","arguments":"{}"}}]},"finish_reason":"tool_calls"}]}"#;
    let said = plain(Dialect::Chat, reply, LIMIT);
    assert_eq!(lines(&said), [r#"|||c1=cc(raw "text"),c2=f({})|tool_calls"#]);
    let are_custom = |said: &Transcript| -> Vec<bool> {
        said.choices()[0].calls.iter().map(|call| call.kind == "custom").collect()
    };
    assert_eq!(are_custom(&said), [true, false]);

    let delta = |call: &str| {
        format!("data: {{\"choices\":[{{\"delta\":{{\"tool_calls\":[{call}]}}}}]}}\n\n")
    };
    let stream = [
        delta(r#"{"index":0,"id":"c1","type":"custom","custom":{"name":"cc","input":""}}"#),
        delta(r#"{"index":1,"id":"c2","type":"function","function":{"name":"f","arguments":""}}"#),
        delta(r#"{"custom":{"input":"raw "},"index":0}"#),
        delta(r#"{"index":0,"custom":{"input":"text"}}"#),
    ]
    .concat();
    let said = streamed(Dialect::Chat, stream.as_bytes(), 7, LIMIT);
    assert_eq!(lines(&said), ["|||c1=cc(raw text),c2=f()|-"]);
    assert_eq!(are_custom(&said), [true, false]);
}

#[test]
fn the_text_for_a_tool_counts_as_output() {
    let tokens = |call: &str| {
        let mut tap = PlainTap::new(Dialect::Chat);
        let reply = format!(r#"{{"choices":[{{"message":{{"tool_calls":[{call}]}}}}]}}"#);
        tap.push(&Bytes::from(reply));
        tap.finish_counted().produced_tokens
    };
    let text = "a few words for a tool, and some more of them";
    let function = tokens(&format!(r#"{{"function":{{"name":"f","arguments":"{text}"}}}}"#));
    let custom = tokens(&format!(r#"{{"custom":{{"name":"f","input":"{text}"}}}}"#));
    assert!(function > 5);
    assert_eq!(custom, function);
}

#[test]
fn tools_of_messages_and_responses_are_put_together_from_their_events() {
    let messages = concat!(
        "data: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"thinking\",\"thinking\":\"\"}}\n\n",
        "data: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"thinking_delta\",\"thinking\":\"Hm\"}}\n\n",
        "data: {\"type\":\"content_block_start\",\"content_block\":{\"name\":\"f\",\"id\":\"t1\",\"type\":\"tool_use\",\"input\":{}},\"index\":1}\n\n",
        "data: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"{\\\"a\\\":\"},\"index\":1}\n\n",
        "data: {\"type\":\"content_block_delta\",\"index\":1,\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"1}\"}}\n\n",
    );
    let said = streamed(Dialect::Messages, messages.as_bytes(), 5, LIMIT);
    assert_eq!(lines(&said), ["Hm|||t1=f({\"a\":1})|-"]);
    let responses = concat!(
        "data: {\"type\":\"response.output_item.added\",\"output_index\":1,\"item\":{\"type\":\"function_call\",\"call_id\":\"c\",\"name\":\"f\",\"arguments\":\"\"}}\n\n",
        "data: {\"type\":\"response.reasoning_summary_text.delta\",\"output_index\":0,\"delta\":\"Hm\"}\n\n",
        "data: {\"delta\":\"{\\\"a\\\":1}\",\"output_index\":1,\"type\":\"response.function_call_arguments.delta\"}\n\n",
        "data: {\"type\":\"response.audio.delta\",\"delta\":\"AAAA\"}\n\n",
        "data: {\"type\":\"response.output_item.done\",\"output_index\":1,\"item\":{\"type\":\"function_call\",\"call_id\":\"c\",\"name\":\"f\",\"arguments\":\"{}\"}}\n\n",
    );
    let said = streamed(Dialect::Responses, responses.as_bytes(), 5, LIMIT);
    assert_eq!(lines(&said), ["Hm|||c=f({\"a\":1})|-"]);
}

#[test]
fn a_long_text_keeps_both_ends_and_memory_is_bounded() {
    let event = |text: &str| {
        format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n")
    };
    let stream: String = (0..10_000).map(|n| event(&format!("{n:05},"))).collect();
    let said = streamed(Dialect::Chat, stream.as_bytes(), 4_096, 1_000);
    let content = &said.choices()[0].content;
    assert!(content.head().starts_with("00000,00001,") && content.tail().ends_with(",09999,"));
    assert_eq!(content.head().len() + content.missing() + content.tail().len(), 60_000);
    assert!((900..=1_500).contains(&(content.head().len() + content.tail().len())));
    // Many texts share one bound.
    let long = "x".repeat(500);
    let call = |n: u32| {
        format!(
            "data: {{\"choices\":[{{\"delta\":{{\"tool_calls\":[{{\"index\":{n},\"function\":{{\"arguments\":\"{long}\"}}}}]}}}}]}}\n\n"
        )
    };
    let many = (0..100).map(call).collect::<Vec<_>>().concat();
    let said = streamed(Dialect::Chat, many.as_bytes(), 4_096, 1_000);
    let calls = &said.choices()[0].calls;
    let kept: usize =
        calls.iter().map(|c| c.arguments.head().len() + c.arguments.tail().len()).sum();
    assert!(kept <= 2_000 && calls.len() == 100, "{kept}");
}

#[test]
fn a_plain_reply_beyond_the_bound_keeps_both_ends_as_they_came() {
    let text = "é".repeat(5_000_000);
    let body = format!(r#"{{"choices":[{{"message":{{"content":"{text}"}}}}],"usage":{{}}}}"#);
    let raw = plain(Dialect::Chat, &body, 100_000).raw.unwrap();
    assert!(raw.head().starts_with("{\"choices\"") && raw.tail().ends_with("\"usage\":{}}"));
    assert_eq!(raw.head().len() + raw.missing() + raw.tail().len(), body.len());
    assert!(raw.head().len() + raw.tail().len() <= 100_000);
    let text = "é".repeat(200_000);
    let body = format!(r#"{{"choices":[{{"message":{{"content":"{text}"}}}}],"usage":{{}}}}"#);
    for (limit, is_all) in [(1 << 20, true), (1_000, false)] {
        let said = plain(Dialect::Chat, &body, limit);
        let content = &said.choices()[0].content;
        assert_eq!(content.missing() == 0, is_all, "{limit}");
        assert_eq!(content.head().len() + content.missing() + content.tail().len(), text.len());
        assert_eq!(said.raw, None, "whatever is kept of its texts");
    }
}

#[test]
fn an_event_of_megabytes_is_read_like_any_other() {
    let image = "A".repeat(3 << 20);
    let usage = r#"{"input_tokens":50,"output_tokens":60,"cost":0.04}"#;
    let stream = format!(
        "data: {{\"type\":\"response.output_text.delta\",\"delta\":\"here\"}}\n\n\
         event: response.completed\n\
         data: {{\"type\":\"response.completed\",\"response\":{{\"output\":[{{\"type\":\
         \"image_generation_call\",\"result\":\"{image}\"}}],\"usage\":{usage}}}}}\n\n"
    );
    let mut tap = StreamTap::new(Dialect::Responses).keeping(Some(1_000));
    for chunk in stream.as_bytes().chunks(65_536) {
        tap.push(chunk);
    }
    let reading = tap.into_reading();
    assert_eq!(reading.usage.map(|usage| usage.output_total), Some(60));
    assert_eq!(reading.upstream_cost.map(|cost| cost.usd), Some(0.04));
    assert_eq!(whole(&reading.output.unwrap().choices()[0].content), "here");
}

#[test]
fn a_plain_reply_that_breaks_off_is_shown_as_it_came() {
    let text = "é".repeat(60_000);
    let body = format!(r#"{{"choices":[{{"message":{{"content":"a{text}"#);
    for limit in [1 << 20, 100_000] {
        let raw = plain(Dialect::Chat, &body, limit).raw.unwrap();
        assert_eq!(raw.head().len() + raw.missing() + raw.tail().len(), body.len());
        assert_eq!(raw.missing() == 0, limit > body.len());
        assert!(body.starts_with(raw.head()) && body.ends_with(raw.tail()));
    }
    // Of a short one nobody has had anything.
    assert_eq!(plain(Dialect::Chat, r#"{"choices":[{"message":{"content":"a"#, LIMIT).raw, None);
    let embeddings = format!(r#"{{"data":[{{"embedding":[{}"#, "0,".repeat(40_000));
    let cut = plain(Dialect::Embeddings, &embeddings, LIMIT);
    assert_eq!((cut.vectors, cut.raw), (Some((1, 40_001)), None));
}

#[test]
fn what_the_start_of_a_block_holds_is_said() {
    let start = |index: u64, block: &str| {
        format!(
            "data: {{\"type\":\"content_block_start\",\"index\":{index},\"content_block\":{block}}}\n\n"
        )
    };
    let delta = |index: u64, delta: &str| {
        format!(
            "data: {{\"type\":\"content_block_delta\",\"index\":{index},\"delta\":{delta}}}\n\n"
        )
    };
    let stream = [
        start(0, r#"{"type":"thinking","thinking":"H"}"#),
        delta(0, r#"{"thinking":"m"}"#),
        start(1, r#"{"type":"text","text":"pre"}"#),
        delta(1, r#"{"text":"fix"}"#),
        start(2, r#"{"type":"tool_use","id":"t1","name":"f","input":{"a":1}}"#),
        start(3, r#"{"type":"tool_use","id":"t2","name":"g","input":{"b":1}}"#),
        delta(3, r#"{"partial_json":"{\"b\":"}"#),
        delta(3, r#"{"partial_json":"1}"}"#),
        start(4, r#"{"type":"tool_use","id":"t3","name":"h","input":{}}"#),
    ]
    .concat();
    let said = streamed(Dialect::Messages, stream.as_bytes(), 9, LIMIT);
    assert_eq!(lines(&said), [r#"Hm|prefix||t1=f({"a":1}),t2=g({"b":1}),t3=h()|-"#]);
}

#[test]
fn details_are_the_reasoning_where_it_has_no_other_name() {
    let delta = |delta: &str| format!("data: {{\"choices\":[{{\"delta\":{delta}}}]}}\n\n");
    let details = r#""reasoning_details":[{"type":"reasoning.text","text":"H"},{"summary":"m"},{"data":"AAAA"}]"#;
    let both = delta(&format!("{{{details},\"reasoning\":\"Hm\"}}"));
    for (stream, said) in
        [(delta(&format!("{{{details}}}")).repeat(2), "HmHm||||-"), (both.repeat(2), "HmHm||||-")]
    {
        let said_so = streamed(Dialect::Chat, stream.as_bytes(), 9, LIMIT);
        assert_eq!(lines(&said_so), [said]);
        assert_eq!(said_so.bytes(), streamed(Dialect::Chat, stream.as_bytes(), 70, LIMIT).bytes());
    }
    let reply = format!("{{\"choices\":[{{\"message\":{{\"content\":\"x\",{details}}}}}]}}");
    assert_eq!(lines(&plain(Dialect::Chat, &reply, LIMIT)), ["Hm|x|||-"]);
}

#[test]
fn a_character_in_two_events_is_one() {
    let delta = |text: &str| {
        format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n")
    };
    let stream =
        [r"a\ud83c", r"\udf0ab\ud83c", r"\udf0a", r"c\ud83c", "d", r"\udf0a"].map(delta).concat();
    let said = streamed(Dialect::Chat, stream.as_bytes(), 9, LIMIT);
    assert_eq!(lines(&said), ["|a🌊b🌊c\u{fffd}d\u{fffd}|||-"]);
}

proptest! {
    #[test]
    fn any_mutation_in_any_cut_says_the_same(
        which in 0_usize..4,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        size in 1_usize..400,
        limit in 0_usize..64,
    ) {
        let (file, dialect) = [
            ("chat_stream_openrouter.sse", Dialect::Chat),
            ("chat_stream_tool_openrouter.sse", Dialect::Chat),
            ("responses_stream_openai.sse", Dialect::Responses),
            ("messages_stream_anthropic.sse", Dialect::Messages),
        ][which];
        let mut bytes = golden(file).into_bytes();
        for (place, byte) in edits {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        let whole = streamed(dialect, &bytes, usize::MAX, limit);
        prop_assert_eq!(&whole, &streamed(dialect, &bytes, size, limit));
        prop_assert!(whole.choices().iter().all(|c| c.content.head().len() <= limit));
    }
}
