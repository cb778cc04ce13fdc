//! What a request is weighed and admitted by: how many answers, what is kept upstream, every name.

use super::tests::{chat, facts, other_names, refused};
use super::*;

#[test]
fn every_prompt_of_a_list_has_answers_of_its_own() {
    for (prompt, prompts) in [
        (r#""a""#, 1),
        (r#"["a"]"#, 1),
        (r#"["a","b","c"]"#, 3),
        ("[[1,2],[3]]", 2),
        ("[1,2,3]", 1),
        ("[]", 1),
    ] {
        for (body, answers) in [
            (format!(r#"{{"model":"m","n":2,"best_of":6,"prompt":{prompt}}}"#), 2),
            (format!(r#"{{"prompt":{prompt},"model":"m","best_of":6}}"#), 1),
        ] {
            let found = read(body.as_bytes(), Dialect::Completions).unwrap();
            assert_eq!(found.choices, 6 * prompts, "{body}");
            assert_eq!(found.answers, answers * prompts, "{body}");
        }
    }
    let broken = r#"{"model":"m","prompt":["a",]}"#;
    assert_eq!(refused(broken, Dialect::Completions), ("invalid_json", None));
}

#[test]
fn what_is_kept_upstream_is_noticed() {
    for (members, is_continued) in [
        (r#""input":"x""#, false),
        (r#""input":"x","previous_response_id":null,"conversation":null,"prompt":null"#, false),
        (r#""input":"x","previous_response_id":"r""#, true),
        (r#""input":"x","conversation":{"id":"c"}"#, true),
        (r#""prompt":{"id":"p"}"#, true),
        (
            r#""input":[{"type":"message","id":"m","content":"x"},"text",{"role":"user","content":[]}]"#,
            false,
        ),
        (r#""input":[{"role":"user","content":"x"},{"type":"item_reference","id":"m"}]"#, true),
        (r#""input":[{"type":"item\u005freference","id":"m"}]"#, true),
        (r#""input":[{"id":"m","type":null}]"#, true),
    ] {
        let body = format!(r#"{{"model":"m",{members}}}"#);
        let found = read(body.as_bytes(), Dialect::Responses).unwrap();
        assert_eq!(found.is_continued, is_continued, "{members}");
    }
    let elsewhere = chat(r#","previous_response_id":"r","prompt":"p""#);
    assert!(!facts(&elsewhere).is_continued);
}

#[test]
fn a_name_in_other_letters_is_refused_where_it_decides() {
    for (more, field) in [
        (r#","Model":"dear""#, "model"),
        (r#","MODELS":["dear"]"#, "models"),
        (",\"model\u{17f}\":[\"dear\"]", "models"),
        (r#","model\u017f":["dear"]"#, "models"),
        (r#","MAX_TOKENS":9000"#, "max_tokens"),
        (r#","stream_options":{"Include_Usage":false}"#, "include_usage"),
        (r#","models":[{"Model":"dear"}]"#, "model"),
    ] {
        assert_eq!(refused(chat(more), Dialect::Chat), ("invalid_request", Some(field)), "{more}");
    }
    let own = r#","metadata":{"Model":"x","N":"1"},"User":"u","Temperature":1"#;
    assert!(facts(&chat(own)).other_models.is_empty());
    let tool = r#","tools":[{"type":"advisor","Analysis_Models":["dear"],"Model":"k"}]"#;
    assert_eq!(other_names(&facts(&chat(tool))), ["dear", "k"]);
}

#[test]
fn a_preset_behind_a_model_is_a_name_of_its_own() {
    let body = chat(r#","models":["a/b@preset/c","@preset/d","e@f"],"preset":"g""#)
        .replace(r#""model":"m""#, r#""model":"m@Preset/n""#);
    let found = facts(&body);
    let names: Vec<&str> = found.names().collect();
    assert_eq!(names, ["m", "n", "a/b", "c", "d", "e@f", "g"]);
}

#[test]
fn of_a_body_with_a_fault_no_more_is_noted() {
    let body = format!(r#"{{"store":0,{}"model":"m"}}"#, r#""store":0,"#.repeat(10_000));
    let mut members = Vec::new();
    let read = read_noting(body.as_bytes(), Dialect::Chat, Some(&mut members));
    assert!(read.is_err() && members.len() < 3, "{}", members.len());
}

#[test]
fn a_preset_is_told_from_a_model_of_the_same_name() {
    let found = facts(&chat(
        r#","preset":"m","models":["a@preset/a","@PRESET/alone"],"plugins":[{"preset":"p","model":"p"}]"#,
    ));
    let named: Vec<_> = found.named().map(|named| (named.text, named.role)).collect();
    let expected = [
        ("m", Role::Answers),
        ("a", Role::Answers),
        ("a", Role::Preset),
        ("alone", Role::Preset),
        ("p", Role::Preset),
        ("p", Role::Helps),
        ("m", Role::Preset),
    ];
    assert_eq!(named, expected);
}

#[test]
fn a_whole_number_may_be_written_as_a_fraction() {
    for (number, whole) in [("10.0", 10), ("1e3", 1_000), ("2.5E1", 25), ("-0", 0)] {
        let found = facts(&chat(&format!(r#","max_tokens":{number}"#)));
        assert_eq!(found.max_output_tokens, Some(whole), "{number}");
    }
    for number in ["10.5", "-1.0", "1e-1", "1e16"] {
        let body = chat(&format!(r#","max_tokens":{number}"#));
        assert_eq!(
            refused(body, Dialect::Chat),
            ("invalid_request", Some("max_tokens")),
            "{number}"
        );
    }
}
