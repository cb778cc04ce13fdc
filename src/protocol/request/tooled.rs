//! What tools and plugins name, wherever it stands in them, and which leave the choice to the provider.

use super::tests::{chat, facts, other_names, refused};
use super::*;

/// What a body with such tools names.
fn of_tools(tools: &str) -> Vec<String> {
    let found = facts(&chat(&format!(r#","tools":{tools}"#)));
    other_names(&found).into_iter().map(ToOwned::to_owned).collect()
}

fn of_plugins(plugins: &str) -> Vec<String> {
    let found = facts(&chat(&format!(r#","plugins":{plugins}"#)));
    other_names(&found).into_iter().map(ToOwned::to_owned).collect()
}

#[test]
fn a_tool_within_a_tool_names_as_one_alone() {
    let within = |inner: &str| {
        of_tools(&format!(
            r#"[{{"type":"openrouter:advisor","parameters":{{"model":"a","tools":[{inner}]}}}}]"#
        ))
    };
    for (inner, names) in [
        (r#"{"type":"openrouter:subagent","parameters":{"model":"b"}}"#, &["a", "b"][..]),
        (r#"{"parameters":{"mod\u0065l":"b"},"type":"openrouter:subagent"}"#, &["a", "b"]),
        (
            r#"{"type":"openrouter:fusion","parameters":{"analysis_models":["b"],"model":"c"}}"#,
            &["a", "b", "c"],
        ),
        (r#"{"type":"advisor_20260301","name":"x","model":"b"}"#, &["a", "b"]),
        (r#"{"type":"x","parameters":{"a":[[{"b":{"judge_model":"b"}}]]}}"#, &["a", "b"]),
        (r#"{"type":"x","parameters":{"fallbacks":["b",{"Model":"c"}]}}"#, &["a", "b", "c"]),
        (r#"{"type":"function","function":{"parameters":{"model":"no"}}}"#, &["a"]),
        (r#"{"type":"openrouter:advisor"}"#, &["a", "openrouter:advisor"]),
        (r#"{"type":"openrouter:subagent"}"#, &["a"]),
        // A function that does not say so: words of its schema name nothing.
        (
            r#"{"name":"f","parameters":{"properties":{"model":{"id":"no","default":"no"}},
                "examples":[{"model":"no"}],"default":{"base_model":""}}}"#,
            &["a"],
        ),
        (r#"{"name":"f","inputSchema":{"x":{"model":"no"}}}"#, &["a"]),
    ] {
        assert_eq!(within(inner), names, "{inner}");
    }
    assert_eq!(of_tools(r#"{"type":"x","parameters":{"model":"a"}}"#), ["a"]);
    assert_eq!(of_plugins(r#"{"id":"x","config":{"judge":{"Model":"a"}}}"#), ["a"]);
    let list =
        r#"[{"id":"x","models":[{"model":"a"},{"id":"b"},["c"]],"allowed_models":[["d/*"]]}]"#;
    assert_eq!(of_plugins(list), ["a", "b", "c", "d/*"]);
}

#[test]
fn what_describes_a_callers_own_function_names_no_model() {
    for tool in [
        r#"{"type":"function","parameters":{"properties":{"x":{"default":{"model":"no"}}}}}"#,
        r#"{"parameters":{"model":"no","examples":[{"models":["no",""]}]},"type":"function"}"#,
        r#"{"type":"function","function":{"name":"f","parameters":{"model":"no"}}}"#,
        r#"{"function":{"parameters":{"model":"no"}},"type":"function"}"#,
        r#"{"name":"f","input_schema":{"model":"no"},"input_examples":[{"model":"no"}]}"#,
        r#"{"type":"namespace","tools":[{"parameters":{"model":"no"},"type":"function"}]}"#,
    ] {
        assert!(of_tools(&format!("[{tool}]")).is_empty(), "{tool}");
    }
    // What comes before and behind such a schema counts.
    let mixed = r#"[{"model":"a","parameters":{"model":"no"},"type":"function","models":["b"]}]"#;
    assert_eq!(of_tools(mixed), ["a", "b"]);
    let empty = r#","tools":[{"parameters":{"model":""},"type":"x"}]"#;
    assert_eq!(refused(chat(empty), Dialect::Chat), ("invalid_request", Some("tools")));
}

#[test]
fn nobody_knows_which_of_two_types_or_parameters_is_read() {
    for tool in [
        r#"{"type":"function","parameters":{"model":"x"},"typ\u0065":"openrouter:advisor"}"#,
        r#"{"type":"openrouter:advisor","parameters":{"model":"x"},"parameters":{}}"#,
    ] {
        let body = chat(&format!(r#","tools":[{tool}]"#));
        assert_eq!(refused(body, Dialect::Chat), ("duplicate_key", Some("tools")), "{tool}");
    }
}

#[test]
fn a_tool_that_leaves_the_choice_to_the_provider_is_named_itself() {
    for (tools, names) in [
        (r#"[{"type":"openrouter:fusion"}]"#, &["openrouter:fusion"][..]),
        (r#"[{"type":"openrouter:advisor"}]"#, &["openrouter:advisor"]),
        (
            r#"[{"type":"openrouter:image_generation","parameters":{"size":"1"}}]"#,
            &["openrouter:image_generation"],
        ),
        (
            r#"[{"type":"openrouter:fusion","parameters":{"model":"a"}}]"#,
            &["a", "openrouter:fusion"],
        ),
        (
            r#"[{"type":"openrouter:fusion","parameters":{"analysis_models":[]}}]"#,
            &["openrouter:fusion"],
        ),
        (
            r#"[{"type":"openrouter:fusion","parameters":{"Analysis_Models":["a"]}}]"#,
            &["a", "openrouter:fusion"],
        ),
        (
            r#"[{"type":"openrouter:fusion","parameters":{"analysis_models":["a"],"analysis_models":null}}]"#,
            &["a", "openrouter:fusion"],
        ),
        (r#"[{"parameters":{"analysis_models":["a"]},"type":"openrouter:fusion"}]"#, &["a"]),
        (r#"[{"type":"openrouter:advisor","parameters":{"model":null}}]"#, &["openrouter:advisor"]),
        (
            r#"[{"type":"openrouter:advisor","parameters":{"advisors":[{"name":"n","model":"a"}]}}]"#,
            &["a"],
        ),
        (
            r#"[{"type":"openrouter:advisor","parameters":{"advisors":[{"model":"a"},{"name":"n"}]}}]"#,
            &["a", "openrouter:advisor"],
        ),
        (
            r#"[{"type":"openrouter:advisor","parameters":{"tools":[{"type":"x","model":"a"}]}}]"#,
            &["a", "openrouter:advisor"],
        ),
        // No upstream reads these two.
        (r#"[{"type":"openrouter:advisor","model":"a"}]"#, &["a", "openrouter:advisor"]),
        (
            r#"[{"type":"openrouter:advisor","parameters":{"parameters":{"model":"a"}}}]"#,
            &["a", "openrouter:advisor"],
        ),
        (r#"[{"type":"openrouter:web_search"},{"type":"function"}]"#, &[]),
    ] {
        assert_eq!(of_tools(tools), names, "{tools}");
    }
    for (plugins, names) in [
        (r#"[{"id":"fusion"}]"#, &["openrouter:fusion"][..]),
        (r#"[{"id":"\u0066usion","model":"a"}]"#, &["a", "openrouter:fusion"]),
        (r#"[{"id":"fusion","preset":"general-high"}]"#, &["general-high"]),
        (r#"[{"id":"fusion","analysis_models":["a","a"]}]"#, &["a", "a"]),
        (r#"[{"id":"fusion","enabled":false}]"#, &[]),
        (r#"[{"id":"fusion","enabled":true,"enabled":false}]"#, &["openrouter:fusion"]),
        (r#"[{"id":"fusion","id":"web"}]"#, &["openrouter:fusion"]),
        (r#"[{"id":"web"},{"id":"auto-router"}]"#, &[]),
    ] {
        assert_eq!(of_plugins(plugins), names, "{plugins}");
    }
}

#[test]
fn what_a_tool_runs_is_told_from_what_may_answer() {
    let found = facts(&chat(
        r#","models":["a"],"plugins":[{"id":"fusion","analysis_models":["b"]},{"id":"auto-router","allowed_models":["c/*"]}],
        "tools":[{"type":"openrouter:advisor"}]"#,
    ));
    let named: Vec<_> = found.named().map(|named| (named.text, named.role)).collect();
    let expected = [
        ("m", Role::Answers),
        ("a", Role::Answers),
        ("b", Role::Helps),
        ("c/*", Role::Answers),
        ("openrouter:advisor", Role::Tool),
    ];
    assert_eq!(named, expected);
}

#[test]
fn tools_of_any_depth_are_read_on_a_small_stack() {
    for open in [r#"{"parameters":"#, r#"{"models":"#, r#"{"advisors":["#, "["] {
        let close: String = open
            .chars()
            .rev()
            .filter_map(|c| "{[".contains(c).then_some(if c == '{' { '}' } else { ']' }))
            .collect();
        let levels = 120 / close.len();
        let body = chat(&format!(r#","tools":{}"a"{}"#, open.repeat(levels), close.repeat(levels)));
        facts(&body);
        let deep = chat(&format!(r#","tools":{}"#, open.repeat(1_000_000)));
        assert_eq!(refused(deep, Dialect::Chat), ("invalid_json", None));
    }
}
