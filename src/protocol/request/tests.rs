//! Requests as callers send them, and every way to get one wrong.

use super::*;
use crate::protocol::edit::Edits;
use bytes::Bytes;
use serde_json::{Value, json};

pub(super) const CHAT: &str = r#""messages":[{"role":"user","content":"hi"}]"#;

pub(super) fn chat(members: &str) -> String {
    format!(r#"{{{CHAT},"model":"m"{members}}}"#)
}

pub(super) fn facts(body: &str) -> RequestFacts {
    read(body.as_bytes(), Dialect::Chat).unwrap_or_else(|fault| panic!("{body}: {fault:?}"))
}

pub(super) fn other_names(facts: &RequestFacts) -> Vec<&str> {
    facts.other_models.iter().map(|other| other.name.as_str()).collect()
}

/// The code and the field of the refusal.
pub(super) fn refused(
    body: impl AsRef<[u8]>,
    dialect: Dialect,
) -> (&'static str, Option<&'static str>) {
    let body = body.as_ref();
    let fault =
        read(body, dialect).expect_err(&format!("accepted: {}", String::from_utf8_lossy(body)));
    (fault.kind.row().code, fault.param)
}

fn at<'b>(body: &'b str, span: &Range<usize>) -> &'b str {
    body.get(span.clone()).unwrap()
}

#[test]
fn the_facts_of_a_request_are_found_where_they_stand() {
    let body = r#" {"model" : "acme\/wisp" , "stream":true,
        "stream_options":{"include_usage":true,"x":1},"max_tokens":7,"max_completion_tokens":9,
        "user":"u","session_id":"s","metadata":{"session_id":"t","more":[1]},"n":3,
        "messages":[{"role":"user","content":"\ud83d\ude00 \"quoted\" \ud800"}],"preset":"p"} "#;
    let found = facts(body);
    assert_eq!(found.model, "acme/wisp");
    assert_eq!(at(body, &found.model_span), r#""acme\/wisp""#);
    assert!(found.stream && found.include_usage);
    let options = found.stream_options_span.unwrap();
    assert_eq!(at(body, &options), r#"{"include_usage":true,"x":1}"#);
    assert_eq!(at(body, &found.include_usage_span.unwrap()), "true");
    assert_eq!(found.max_output_tokens, Some(9));
    assert_eq!(found.choices, 3);
    assert_eq!(found.user.as_deref(), Some("u"));
    assert_eq!(found.session_id.as_deref(), Some("s"));
    assert_eq!(found.metadata_session_id.as_deref(), Some("t"));
    assert_eq!(found.preset.as_deref(), Some("p"));
    assert_eq!(found.object_start, 2);
}

/// The body less these members.
pub(super) fn without(body: &str, places: &[&MemberSpan]) -> Value {
    let mut edits = Edits::new();
    edits.remove(places.iter().copied());
    let left: Vec<u8> =
        edits.apply(&Bytes::copy_from_slice(body.as_bytes())).iter().flatten().copied().collect();
    let text = String::from_utf8(left).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{text}: {e}"))
}

#[test]
fn the_recorded_quirk_is_read() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/wire/request_seed_quirk.json");
    let body = std::fs::read_to_string(path).unwrap();
    let found = facts(&body);
    assert_eq!(found.model, "acme/wisp-2-mini");
    let format = found.response_format.unwrap();
    assert_eq!(format.kind.as_deref(), Some("session_123"));
    let left = without(&body, &[&format.place]);
    assert!(left.get("response_format").is_none());
    assert_eq!(left["stream_options"]["include_usage"], true);
}

#[test]
fn nulls_are_as_good_as_nothing() {
    let found = facts(&chat(
        r#","stream":null,"stream_options":null,"max_tokens":null,"user":null,"n":null,
        "session_id":null,"metadata":null,"response_format":null,"models":null,"preset":null,
        "tools":null,"plugins":null,"fallbacks":null"#,
    ));
    assert!(!found.stream && !found.include_usage);
    assert_eq!(found.max_output_tokens, None);
    assert_eq!(found.response_format, None);
    assert_eq!(found.preset, None);
    assert!(found.other_models.is_empty());
    assert_eq!(facts(&chat(r#","session_id":"","user":5"#)).session_id, None);
}

#[test]
fn cutting_the_format_leaves_valid_json() {
    for body in [
        format!(r#"{{"response_format" : {{"type":"session_1"}} , "model":"m",{CHAT}}}"#),
        format!(r#"{{"model":"m" , "response_format":{{"type":"session_1"}},{CHAT}}}"#),
        format!(r#"{{"model":"m",{CHAT} , "response_format":{{"type":"session_1"}} }}"#),
    ] {
        let format = facts(&body).response_format.unwrap();
        assert_eq!(format.kind.as_deref(), Some("session_1"));
        let left = without(&body, &[&format.place]);
        assert_eq!(left.as_object().unwrap().len(), 2, "{left}");
    }
    for (text, left) in [
        (r#"{"format":{"type":"session_1"}}"#, json!({})),
        (r#"{"format":{"type":"session_1"},"verbosity":"low"}"#, json!({"verbosity": "low"})),
        (r#"{"verbosity":"low","format":{"type":"session_1"}}"#, json!({"verbosity": "low"})),
    ] {
        let body = format!(r#"{{"model":"m","input":"x","text":{text}}}"#);
        let found = read(body.as_bytes(), Dialect::Responses).unwrap();
        let cut = without(&body, &[&found.response_format.unwrap().place]);
        assert_eq!(cut["text"], left);
        let body = body.replace("\"input\"", "\"messages\":[1],\"input\"");
        assert_eq!(facts(&body).response_format, None, "only on /responses");
    }
}

#[test]
fn text_format_goes_before_response_format() {
    for body in [
        r#"{"model":"m","input":"x","text":{"format":{"type":"a"}},"response_format":{"type":"b"}}"#,
        r#"{"model":"m","input":"x","response_format":{"type":"b"},"text":{"format":{"type":"a"}}}"#,
    ] {
        let format = read(body.as_bytes(), Dialect::Responses).unwrap().response_format.unwrap();
        assert_eq!(format.kind.as_deref(), Some("a"));
    }
}

#[test]
fn every_further_model_is_found() {
    let body = chat(
        r#","models":["a","b/c"],"fallbacks":["d",{"model":"e","x":{}},{}],
        "plugins":[{"id":"auto-router","allowed_models":["f/*"]},{"id":"fusion","model":"g",
            "analysis_models":["h"],"preset":"i"},"odd",{"id":"web","max_results":3}],
        "tools":[{"type":"function","function":{"name":"x","parameters":{"model":"no"}}},
            {"type":"openrouter:fusion","parameters":{"model":"j","analysis_models":["k",7]}},
            {"type":"advisor","model":"l"},
            {"type":"function","parameters":{"properties":{"model":{"type":"string"}}}}]"#,
    );
    let found = facts(&body);
    assert_eq!(other_names(&found), ["a", "b/c", "d", "e", "f/*", "g", "h", "i", "j", "k", "l"]);
    for other in &found.other_models {
        assert_eq!(at(&body, &other.place), format!("\"{}\"", other.name));
    }
    assert_eq!(other_names(&facts(&chat(r#","models":"one""#))), ["one"]);
}

#[test]
fn a_further_model_cannot_hide() {
    let both = chat(r#","plugins":[{"model":"a","model":"b"}]"#);
    assert_eq!(other_names(&facts(&both)), ["a", "b"]);
    for (members, field) in [
        (r#","models":[5]"#, "models"),
        (r#","models":{"0":"x"}"#, "models"),
        (r#","models":[["x"]]"#, "models"),
        (r#","models":[""]"#, "models"),
        (r#","fallbacks":[{"model":["x"]}]"#, "fallbacks"),
        (r#","fallbacks":true"#, "fallbacks"),
        (r#","preset":["x"]"#, "preset"),
        (r#","preset":"a\u0000b""#, "preset"),
    ] {
        assert_eq!(refused(chat(members), Dialect::Chat), ("invalid_request", Some(field)));
    }
    let many = format!(r#","models":["a"{}]"#, r#","a""#.repeat(64));
    assert_eq!(refused(chat(&many), Dialect::Chat), ("invalid_request", Some("models")));
}

#[test]
fn what_is_not_json_is_refused() {
    let levels = |count: usize| format!("{}{}", "[".repeat(count), "]".repeat(count));
    let deep = levels(128);
    for body in [
        "",
        " \n",
        "{",
        "{}}",
        "{} x",
        "{\"model\":\"m\",}",
        "{\"model\" \"m\"}",
        "{'model':1}",
        "{model:1}",
        "{\"a\":01}",
        "{\"a\":1.}",
        "{\"a\":.5}",
        "{\"a\":+1}",
        "{\"a\":1e}",
        "{\"a\":-}",
        "{\"a\":0x1}",
        "{\"a\":1e999}",
        "{\"a\":NaN}",
        "{\"a\":Infinity}",
        "{\"a\":nul}",
        "{\"a\":True}",
        "{\"a\":\"\t\"}",
        "{\"a\":\"\\x\"}",
        "{\"a\":\"\\u12g4\"}",
        "{\"a\":\"\\u123\"}",
        "{\"a\":\"b}",
        "{\"a\":\"b\\",
        "{\"a\":[1,]}",
        "{\"a\":[1 2]}",
        "{\"a\":[,1]}",
        "{\"a\":{\"b\":1,}}",
        "{\"a\":[}",
        "{\"a\":{]}",
        "{\"a\":1]",
        "{\"models\":[\"a\",]}",
        "{\"models\":[\"a\" \"b\"]}",
        "{\"tools\":[{\"a\":1 \"b\":2}]}",
        "{/**/}",
        "// x\n{}",
        &format!("{{\"a\":{deep}}}"),
        &format!("{{\"metadata\":{{\"a\":{}}}}}", &levels(127)),
        "{\"model\":\"\\ud800\"}",
        "{\"\\udc00\":1}",
        "hello",
        "\u{feff}{}",
    ] {
        assert_eq!(refused(body, Dialect::Chat), ("invalid_json", None), "{body}");
    }
    for body in
        [&b"{\"a\":\"\xff\"}"[..], b"{\"a\":\"\xed\xa0\x80\"}", b"\xff\xfe{\x00}\x00", b"{\0}"]
    {
        assert_eq!(refused(body, Dialect::Chat), ("invalid_json", None));
    }
    assert!(read(chat(&format!(",\"a\":{}", &levels(127))).as_bytes(), Dialect::Chat).is_ok());
}

#[test]
fn a_message_says_what_the_body_is_and_where_it_breaks() {
    let message = |body: &str| read(body.as_bytes(), Dialect::Chat).unwrap_err().message;
    assert_eq!(message("[1]"), "The body is a JSON array. Send one JSON object.");
    assert_eq!(message("\"x\""), "The body is a JSON string. Send one JSON object.");
    assert_eq!(message(" 5"), "The body is a number. Send one JSON object.");
    assert_eq!(message(""), "The body is empty. Send one JSON object.");
    assert_eq!(
        message("{\"secret\":\"text\" 5"),
        "The body is not valid JSON: a comma or a closing brace is missing at byte 17. \
         Send one JSON object."
    );
    assert!(message("{\"secret\":\"te").contains("closing quote at byte 13"));
}

#[test]
fn a_name_that_stands_twice_is_refused() {
    for (members, field) in [
        (r#","model":"x""#, Some("model")),
        (r#","mod\u0065l":"x""#, Some("model")),
        (r#","temperature":1,"temperature":1"#, Some("temperature")),
        (r#","secret":1,"secret":1"#, None),
        (r#","":1,"":1"#, None),
        (r#","metadata":{"a":1,"a":1}"#, Some("metadata")),
        (r#","response_format":{"type":"a","type":"b"}"#, Some("response_format")),
        (
            r#","stream_options":{"include_usage":true,"include_us\u0061ge":false}"#,
            Some("stream_options"),
        ),
        (r#","fallbacks":[{"model":"a","model":"b"}]"#, Some("fallbacks")),
    ] {
        assert_eq!(refused(chat(members), Dialect::Chat), ("duplicate_key", field), "{members}");
    }
    for text in [r#"{"a":1,"a":1}"#, r#"{"format":{"type":"a","type":"b"}}"#] {
        let body = format!(r#"{{"model":"m","input":"x","text":{text}}}"#);
        assert_eq!(refused(body, Dialect::Responses).0, "duplicate_key");
    }
    let fault = read(chat(r#","secret":1,"secret":2"#).as_bytes(), Dialect::Chat).unwrap_err();
    assert!(!fault.message.contains("secret"), "{}", fault.message);
    // Objects that are not read here are the upstream's business.
    facts(&chat(r#","logit_bias":{"a":1,"a":2},"tools":[{"function":{"a":1,"a":1}}]"#));
}

#[test]
fn broken_json_is_worse_than_a_fault_of_meaning() {
    assert_eq!(refused(r#"{"stream":5,"a":1,"a":2"#, Dialect::Chat).0, "invalid_json");
}

#[test]
fn a_flood_of_fields_is_refused() {
    let members = |count: usize| {
        let members: Vec<String> = (0..count).map(|n| format!(",\"k{n}\":0")).collect();
        members.concat()
    };
    facts(&chat(&members(1022)));
    assert_eq!(refused(chat(&members(1023)), Dialect::Chat), ("invalid_request", None));
}

#[test]
fn a_model_must_be_a_sensible_name() {
    for model in [
        "5".to_owned(),
        "null".to_owned(),
        "[\"m\"]".to_owned(),
        "\"\"".to_owned(),
        format!("\"{}\"", "m".repeat(257)),
        "\"a\\u0000b\"".to_owned(),
        "\"a\\nb\"".to_owned(),
        "\"a\u{7f}\"".to_owned(),
        "\"a\u{85}\"".to_owned(),
    ] {
        let body = format!(r#"{{"model":{model},{CHAT}}}"#);
        assert_eq!(refused(body, Dialect::Chat), ("invalid_request", Some("model")), "{model}");
    }
    assert_eq!(refused(format!("{{{CHAT}}}"), Dialect::Chat), ("invalid_request", Some("model")));
    assert_eq!(facts(&format!(r#"{{"model":"{}",{CHAT}}}"#, "m".repeat(256))).model.len(), 256);
}

#[test]
fn wrong_types_name_their_field() {
    for (members, field) in [
        (r#","stream":"true""#, "stream"),
        (r#","stream":1"#, "stream"),
        (r#","stream_options":true"#, "stream_options"),
        (r#","stream_options":{"include_usage":"yes"}"#, "stream_options.include_usage"),
        (r#","max_tokens":-1"#, "max_tokens"),
        (r#","max_tokens":1.5"#, "max_tokens"),
        (r#","max_tokens":"5""#, "max_tokens"),
        (r#","max_tokens":18446744073709551616"#, "max_tokens"),
        (r#","max_completion_tokens":-1"#, "max_completion_tokens"),
        (r#","max_output_tokens":[]"#, "max_output_tokens"),
        (r#","n":"2""#, "n"),
    ] {
        assert_eq!(refused(chat(members), Dialect::Chat), ("invalid_request", Some(field)));
    }
    let long = chat(&format!(r#","user":"{}""#, "u".repeat(4097)));
    assert_eq!(refused(long, Dialect::Chat), ("invalid_request", Some("user")));
}

#[test]
fn only_the_dialects_own_field_bounds_the_output() {
    let members = r#""model":"m","messages":[1],"input":"x","prompt":"x",
        "max_tokens":1,"max_completion_tokens":2,"max_output_tokens":3,"n":4,"best_of":5"#;
    let body = format!("{{{members}}}");
    for (dialect, tokens, choices) in [
        (Dialect::Chat, Some(2), 4),
        (Dialect::Completions, Some(1), 5),
        (Dialect::Responses, Some(3), 1),
        (Dialect::Messages, Some(1), 1),
        (Dialect::Embeddings, None, 1),
    ] {
        let found = read(body.as_bytes(), dialect).unwrap();
        assert_eq!((found.max_output_tokens, found.choices), (tokens, choices), "{dialect:?}");
    }
}

#[test]
fn each_dialect_requires_its_own_field() {
    use Dialect::{Chat, Completions, Embeddings, Messages, Responses};
    for (dialect, members, missing) in [
        (Chat, "", Some("messages")),
        (Chat, r#","messages":[]"#, Some("messages")),
        (Chat, r#","messages":[ ]"#, Some("messages")),
        (Chat, r#","messages":{}"#, Some("messages")),
        (Chat, r#","messages":"hi""#, Some("messages")),
        (Messages, r#","messages":null"#, Some("messages")),
        (Messages, r#","messages":[{}]"#, None),
        (Completions, r#","prompt":null"#, Some("prompt")),
        (Completions, r#","prompt":"""#, None),
        (Completions, r#","prompt":[1,2]"#, None),
        (Responses, "", Some("input")),
        (Responses, r#","input":{}"#, Some("input")),
        (Responses, r#","input":5,"prompt":{}"#, Some("input")),
        (Responses, r#","input":null,"prompt":{"id":"x"}"#, None),
        (Responses, r#","previous_response_id":"r""#, None),
        (Responses, r#","previous_response_id":null"#, Some("input")),
        (Responses, r#","input":[]"#, None),
        (Responses, r#","input":"""#, None),
        (Embeddings, "", Some("input")),
        (Embeddings, r#","input":"""#, Some("input")),
        (Embeddings, r#","input":[]"#, Some("input")),
        (Embeddings, r#","input":7"#, Some("input")),
        (Embeddings, r#","input":[1]"#, None),
        (Embeddings, r#","input":"x""#, None),
    ] {
        let body = format!(r#"{{"model":"m"{members}}}"#);
        match missing {
            None => assert!(read(body.as_bytes(), dialect).is_ok(), "{dialect:?} {members}"),
            Some(field) => {
                let want = ("invalid_request", Some(field));
                assert_eq!(refused(body, dialect), want, "{dialect:?} {members}");
            }
        }
    }
}

#[test]
fn a_hostile_depth_takes_no_stack() {
    for open in ["[", "{\"a\":"] {
        let body = format!("{{\"a\":{}", open.repeat(1_000_000));
        assert_eq!(refused(body, Dialect::Chat), ("invalid_json", None));
    }
}
