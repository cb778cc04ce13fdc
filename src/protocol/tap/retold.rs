//! Responses whose streams say only at the end of a text, of an item or of all what it was, or say it twice.

use super::transcripts::{LIMIT, lines, plain, streamed};
use super::{Dialect, StreamTap};
use serde_json::{Value, json};

/// A stream, with the names of its events or without.
fn stream(events: &[Value], is_named: bool) -> String {
    let event = |event: &Value| {
        let name = event["type"].as_str().filter(|_| is_named);
        let name = name.map(|name| format!("event: {name}\n")).unwrap_or_default();
        format!("{name}data: {event}\n\n")
    };
    events.iter().map(event).collect()
}

fn said(events: &[Value]) -> Vec<String> {
    let named = stream(events, true);
    let found = streamed(Dialect::Responses, named.as_bytes(), 7, LIMIT);
    let unnamed = stream(events, false);
    assert_eq!(streamed(Dialect::Responses, unnamed.as_bytes(), usize::MAX, LIMIT), found);
    lines(&found)
}

fn text(item: u64, piece: u64, kind: &str, text: &str) -> Value {
    let member = match kind.rsplit_once('.').unwrap() {
        (_, "delta") => "delta",
        ("output_text" | "reasoning_text" | "reasoning_summary_text", _) => "text",
        ("refusal", _) => "refusal",
        ("custom_tool_call_input", _) => "input",
        _ => "arguments",
    };
    let place = if kind.contains("summary") { "summary_index" } else { "content_index" };
    json!({ "type": format!("response.{kind}"), "output_index": item, place: piece, member: text })
}

fn added(at: u64, item: &Value) -> Value {
    json!({ "type": "response.output_item.added", "output_index": at, "item": item })
}

fn done(at: u64, item: &Value) -> Value {
    json!({ "type": "response.output_item.done", "item": item, "output_index": at })
}

fn completed(output: &Value) -> Value {
    let response = json!({ "output": output, "status": "completed" });
    json!({ "type": "response.completed", "response": response })
}

fn output() -> Value {
    json!([
        { "type": "reasoning", "id": "rs", "summary": [{ "type": "summary_text", "text": "Hm." }] },
        { "id": "ms", "content": [{ "type": "output_text", "text": "One" },
            { "type": "refusal", "refusal": "No" }, { "type": "output_text", "text": "Two" }],
          "type": "message" },
        { "id": "fc", "type": "function_call", "call_id": "c1", "name": "f", "arguments": "{\"a\":1}" },
        { "id": "ct", "type": "custom_tool_call", "call_id": "c2", "name": "g", "input": "as it is" },
    ])
}

const ALL: &str = "Hm.|OneTwo|No|c1=f({\"a\":1}),c2=g(as it is)|-";

/// The same in deltas, in the ends of its texts, in its items and in the whole reply.
fn told() -> [Vec<Value>; 4] {
    let output = output();
    let heads = [
        (2, json!({ "type": "function_call", "call_id": "c1", "name": "f", "arguments": "" })),
        (3, json!({ "type": "custom_tool_call", "call_id": "c2", "name": "g", "input": "" })),
    ];
    let heads = heads.iter().map(|(at, item)| added(*at, item));
    let texts = |end: &str| {
        [
            (0, 0, "reasoning_summary_text", "Hm."),
            (1, 0, "output_text", "One"),
            (1, 1, "refusal", "No"),
            (1, 2, "output_text", "Two"),
            (2, 0, "function_call_arguments", "{\"a\":1}"),
            (3, 0, "custom_tool_call_input", "as it is"),
        ]
        .map(|(at, piece, kind, said)| text(at, piece, &format!("{kind}.{end}"), said))
    };
    let items = output.as_array().unwrap().iter().zip(0..).map(|(item, at)| done(at, item));
    [
        heads.clone().chain(texts("delta")).collect(),
        heads.chain(texts("done")).collect(),
        items.collect(),
        vec![completed(&output)],
    ]
}

#[test]
fn what_comes_in_any_of_four_ways_is_said_once() {
    let told = told();
    for which in 1_u8..16 {
        let chosen = told.iter().enumerate().filter(|(way, _)| which & (1 << way) != 0);
        let events: Vec<Value> = chosen.flat_map(|(_, events)| events).cloned().collect();
        assert_eq!(said(&events), [ALL], "{which:04b}");
    }
    assert_eq!(
        lines(&plain(Dialect::Responses, &json!({ "output": output() }).to_string(), LIMIT)),
        [ALL]
    );
}

#[test]
fn what_deltas_did_not_bring_is_taken_from_what_follows() {
    let output = output();
    let items = output.as_array().unwrap();
    // One of two texts in deltas; a call with its arguments at the end; the rest with the whole reply.
    let events = [
        added(1, &json!({ "type": "message", "content": [] })),
        text(1, 0, "output_text.delta", "On"),
        text(1, 0, "output_text.delta", "e"),
        text(1, 0, "output_text.done", "One"),
        done(1, &items[1]),
        added(
            2,
            &json!({ "type": "function_call", "call_id": "c1", "name": "f", "arguments": "" }),
        ),
        text(2, 0, "function_call_arguments.done", "{\"a\":1}"),
        completed(&output),
    ];
    assert_eq!(said(&events), ["Hm.|OneTwo|No|c1=f({\"a\":1})|-"]);
    // An end that says nothing says nothing of what follows.
    let tool = json!({ "id": "ci", "type": "code_interpreter_call", "code": "1 + 1" });
    let events = [
        text(0, 0, "code_interpreter_call_code.done", ""),
        text(1, 0, "output_text.done", ""),
        done(0, &tool),
        done(1, &items[1]),
    ];
    assert_eq!(said(&events), ["|OneTwo|No|ci=code_interpreter_call (1 + 1)|-"]);
    // Neither items nor pieces are numbered, and there are fewer at the end.
    let events = [
        json!({ "type": "response.reasoning_text.delta", "delta": "Hm." }),
        json!({ "type": "response.output_text.delta", "delta": "One" }),
        json!({ "type": "response.output_text.done", "text": "One" }),
        json!({ "type": "response.output_item.done", "item": { "type": "message",
            "content": [{ "type": "output_text", "text": "One" }] } }),
        completed(&json!([items[1].clone()])),
    ];
    assert_eq!(said(&events), ["Hm.|One|No||-"]);
}

#[test]
fn ends_of_what_came_in_deltas_are_not_read() {
    let mut tap = StreamTap::new(Dialect::Responses).keeping(Some(LIMIT));
    let delta = stream(&[text(0, 0, "output_text.delta", "One")], true);
    tap.push(delta.as_bytes());
    tap.push(b"event: response.output_text.done\ndata: {not read}\n\n");
    tap.push(b"event: response.content_part.done\ndata: {not read}\n\n");
    assert_eq!(tap.garbled(), 0);
    // The next text may come whole.
    tap.push(b"event: response.output_text.done\ndata: {read}\n\n");
    assert_eq!(tap.garbled(), 1);
    let mut off = StreamTap::new(Dialect::Responses);
    off.push(b"event: response.output_text.done\ndata: {not read}\n\n");
    assert_eq!(off.garbled(), 0);
}

#[test]
fn tools_of_the_upstreams_own_say_what_they_were_asked_streamed_or_not() {
    let output = json!([
        { "id": "ws", "type": "web_search_call", "action": { "query": "Q" } },
        { "type": "file_search_call", "id": "fs", "queries": ["q"], "results": null },
        { "type": "code_interpreter_call", "id": "ci", "code": "print(1)", "outputs": [] },
        { "name": "ask", "arguments": "{\"m\":1}", "type": "mcp_call", "id": "mc", "output": "MO" },
        { "type": "mcp_approval_request", "id": "ma", "name": "may", "arguments": "{}" },
        { "id": "ls", "type": "local_shell_call", "call_id": "cl", "action": { "command": ["ls"] } },
        { "type": "computer_call", "call_id": "cc", "id": "x", "action": { "type": "screenshot" } },
        { "result": "iVBORw0KGgo=", "type": "image_generation_call", "id": "ig" },
    ]);
    let want = "|||ws=web_search_call ({\"query\":\"Q\"}),fs=file_search_call ([\"q\"]),\
        ci=code_interpreter_call (print(1)),mc=mcp_call ask({\"m\":1}),ma=mcp_approval_request may({}),\
        cl=local_shell_call ({\"command\":[\"ls\"]}),cc=computer_call ({\"type\":\"screenshot\"}),\
        ig=image_generation_call ()|-";
    let reply = plain(Dialect::Responses, &json!({ "output": output }).to_string(), LIMIT);
    assert_eq!(lines(&reply), [want]);
    let drawn = &reply.choices()[0].drawn;
    assert_eq!((drawn.len(), drawn[0].digest().map(|(bytes, _)| bytes)), (1, Some(8)));

    let items = output.as_array().unwrap();
    let keys = ["type", "id", "call_id", "name", "action"];
    let head = |item: &Value| -> Value {
        let members = item.as_object().unwrap().iter();
        members
            .filter(|(name, _)| keys.contains(&name.as_str()))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    };
    let mut events: Vec<Value> = Vec::new();
    for (at, item) in (0..).zip(items) {
        events.push(added(at, &head(item)));
        if at == 3 {
            events.push(text(at, 0, "mcp_call_arguments.delta", "{\"m\":1}"));
        }
        events.push(done(at, item));
    }
    for end in [vec![], vec![completed(&output)]] {
        let events = [events.clone(), end].concat();
        assert_eq!(said(&events), lines(&reply));
        let found = streamed(Dialect::Responses, stream(&events, true).as_bytes(), 9, LIMIT);
        assert_eq!(found.choices(), reply.choices());
    }
}

#[test]
fn sound_is_told_and_not_kept() {
    let events = [
        json!({ "type": "response.audio.delta", "delta": "AAEC" }),
        json!({ "type": "response.audio.transcript.delta", "delta": "tide" }),
        json!({ "type": "response.audio.delta", "delta": "AwQF" }),
    ];
    let found = streamed(Dialect::Responses, stream(&events, true).as_bytes(), 5, LIMIT);
    let sound = found.choices()[0].sound.as_ref().unwrap();
    assert_eq!((sound.digest().map(|(bytes, _)| bytes), sound.chars()), (Some(6), 8));
    let chat =
        |audio: &str| format!("data: {{\"choices\":[{{\"delta\":{{\"audio\":{audio}}}}}]}}\n\n");
    let events = chat("{\"data\":\"AAEC\"}") + &chat("{\"data\":\"AwQF\",\"transcript\":\"tide\"}");
    let chat = streamed(Dialect::Chat, events.as_bytes(), 5, LIMIT);
    assert_eq!(chat.choices(), found.choices());
}

#[test]
fn what_is_too_long_to_be_read_leaves_a_mark_unless_it_is_said_elsewhere() {
    let long = "A".repeat(1 << 20);
    let image = json!({ "id": "ig", "type": "image_generation_call", "result": long });
    let message =
        json!({ "type": "message", "content": [{ "type": "output_text", "text": long }] });
    let drawn = [
        added(0, &json!({ "id": "ig", "type": "image_generation_call" })),
        json!({ "type": "response.image_generation_call.partial_image", "partial_image_b64": long }),
        done(0, &image),
        text(1, 0, "output_text.delta", "here"),
        completed(&json!([image])),
    ];
    let size = stream(&drawn[2..3], true).len() - "\n\n\n".len();
    let mark = format!("…[{size} bytes cut]…");
    let found = |events: &[Value]| {
        let said = streamed(Dialect::Responses, stream(events, true).as_bytes(), 65_536, LIMIT);
        lines(&said)
    };
    assert_eq!(found(&drawn), [format!("|{mark}here||ig=image_generation_call ()|-")]);
    // Without the event that ends the item the last one alone has the image.
    let late = [drawn[1].clone(), drawn[3].clone(), drawn[4].clone()];
    let size = stream(&late[2..], true).len() - "\n\n\n".len();
    assert_eq!(found(&late), [format!("|here…[{size} bytes cut]…|||-")]);
    let told = [
        json!({ "type": "response.created", "response": { "instructions": long } }),
        text(0, 0, "output_text.delta", "here"),
        text(0, 0, "output_text.done", &long),
        done(0, &message),
        completed(&json!([message])),
    ];
    assert_eq!(found(&told), ["|here|||-"]);
    assert!(found(&told[4..])[0].contains(" bytes cut]"));

    let chunk = |index: u64, text: &str| {
        format!(
            "data: {{\"choices\":[{{\"index\":{index},\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n"
        )
    };
    let size = chunk(0, &long).len() - 2;
    let one = chunk(0, "pre ") + &chunk(0, &long) + &chunk(0, " post");
    for (stream, want) in [
        (one.as_str(), format!("pre …[{size} bytes cut]… post")),
        // It has not ended.
        (
            one.split_at(one.len() - chunk(0, " post").len() - 3).0,
            format!("pre …[{} bytes cut]…", size - 1),
        ),
    ] {
        let said = streamed(Dialect::Chat, stream.as_bytes(), 65_536, LIMIT);
        assert_eq!(lines(&said), [format!("|{want}|||-")]);
    }
    let two = chunk(0, "a") + &chunk(1, "b") + &chunk(1, &long);
    let said = streamed(Dialect::Chat, two.as_bytes(), 65_536, LIMIT);
    assert_eq!((lines(&said), said.lost), (vec!["|a|||-".to_owned(), "|b|||-".to_owned()], size));
}
