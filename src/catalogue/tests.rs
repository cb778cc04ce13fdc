//! Lists as providers send them, merged and answered.

use super::*;
use serde_json::{Value, json};

const OPENROUTER: &[u8] = include_bytes!("../../tests/golden/wire/models_openrouter.json");
const OPENAI: &[u8] = include_bytes!("../../tests/golden/wire/models_openai.json");

static NO_ALIASES: BTreeMap<String, String> = BTreeMap::new();

fn view(name: &str) -> UpstreamView<'_> {
    UpstreamView { name, aliases: &NO_ALIASES, prefix_strip: None }
}

fn list(body: &[u8]) -> UpstreamList {
    UpstreamList::parse(body).unwrap()
}

fn single(body: &[u8]) -> Catalogue {
    Catalogue::merge([(&view("main"), &list(body))])
}

fn item(catalogue: &Catalogue, id: &str) -> Value {
    serde_json::from_slice(&catalogue.item(id).unwrap()).unwrap()
}

fn ids(catalogue: &Catalogue) -> Vec<&str> {
    catalogue.ids().collect()
}

#[test]
fn an_openrouter_item_keeps_its_fields_and_gains_those_of_openai() {
    let catalogue = single(OPENROUTER);
    let upstream: Value = serde_json::from_slice(OPENROUTER).unwrap();
    let mut expected = upstream["data"][0].clone();
    expected["object"] = json!("model");
    expected["owned_by"] = json!("acme");
    assert_eq!(item(&catalogue, "acme/wisp-2-mini"), expected);
}

#[test]
fn values_stay_as_they_were_written() {
    let body =
        br#"{"data":[{"id":"a","x":1.10,"big":123456789012345678901234567890,"s":"\u00e9"}]}"#;
    let json = single(body).item("a").unwrap();
    let text = std::str::from_utf8(&json).unwrap();
    assert_eq!(
        text,
        concat!(
            r#"{"id":"a","x":1.10,"big":123456789012345678901234567890,"s":"\u00e9","#,
            r#""object":"model","created":0,"name":"a","owned_by":"main"}"#
        )
    );
}

#[test]
fn prices_and_bounds_are_read() {
    let catalogue = single(OPENROUTER);
    let entry = catalogue.get("acme/wisp-2-mini").unwrap();
    assert_eq!(
        *entry,
        Entry {
            prices: Some(Prices {
                input: 0.000_001,
                output: 0.000_005,
                cached_input: Some(0.000_000_1),
                cache_write: Some(0.000_001_25),
                request: 0.0,
            }),
            max_output_tokens: Some(8192),
            context_length: Some(200_000),
            canonical_slug: Some("acme/wisp-2-mini-20260801".into()),
        }
    );
    assert_eq!(catalogue.get("nobody/knows"), None);
}

#[test]
fn a_price_that_is_none_is_unknown() {
    for pricing in [
        r#"{"prompt":"-1","completion":"-1"}"#,
        r#"{"prompt":"NaN","completion":"0"}"#,
        r#"{"prompt":"0"}"#,
        r#"{"input":1,"output":2}"#,
        r#""free""#,
        "null",
    ] {
        let body = format!(r#"{{"data":[{{"id":"a","pricing":{pricing}}}]}}"#);
        assert_eq!(single(body.as_bytes()).get("a").unwrap().prices, None, "{pricing}");
    }
    let numbers = br#"[{"id":"a","pricing":{"prompt":1e-6,"completion":0}}]"#;
    let prices = Prices {
        input: 0.000_001,
        output: 0.0,
        cached_input: None,
        cache_write: None,
        request: 0.0,
    };
    assert_eq!(single(numbers).get("a").unwrap().prices, Some(prices));
}

#[test]
fn an_openai_list_is_answered_as_it_came() {
    let catalogue = single(OPENAI);
    let body: Value = serde_json::from_slice(&catalogue.body(&|_| true)).unwrap();
    let mut expected: Value = serde_json::from_slice(OPENAI).unwrap();
    for item in expected["data"].as_array_mut().unwrap() {
        item["name"] = item["id"].clone();
    }
    assert_eq!(body, expected);
}

#[test]
fn other_shapes_are_lists_too() {
    assert_eq!(ids(&single(br#" [{"id":"a"},{"id":"b"}]"#)), ["a", "b"]);
    assert!(single(br#"{"object":"list","data":null}"#).is_empty());
    let gemini = br#"{"data":[{"id":"models/gemini-x","owned_by":"google"},{"id":"models/y"}]}"#;
    assert_eq!(ids(&single(gemini)), ["gemini-x", "y"]);
    let vllm = br#"{"data":[{"id":"models/llama","owned_by":"vllm","max_model_len":4096}]}"#;
    let catalogue = single(vllm);
    assert_eq!(item(&catalogue, "models/llama")["context_length"], 4096);
}

#[test]
fn a_bad_item_leaves_the_others_standing() {
    let mut body = br#"{"data":[1,null,{},{"id":7},{"id":""},{"id":"a","pricing":[],"created":"x"},
        {"id":"b","top_provider":7,"context_length":-1,"owned_by":null,"note":""#
        .to_vec();
    body.extend_from_slice(b"\xff\"},[\"c\"]]}");
    let catalogue = single(&body);
    assert_eq!(ids(&catalogue), ["a", "b"]);
    assert_eq!(*catalogue.get("b").unwrap(), Entry::default());
    let long = format!(r#"[{{"id":"{}"}}]"#, "x".repeat(257));
    assert!(single(long.as_bytes()).is_empty());
}

#[test]
fn what_is_no_list_is_a_fault_that_quotes_nothing() {
    for body in ["", "<html>secret</html>", r#"{"data":"secret"}"#, "\"secret\"", "[1,secret"] {
        let fault = UpstreamList::parse(body.as_bytes()).unwrap_err();
        assert!(fault.starts_with("not ") && !fault.contains("secret"), "{fault}");
    }
}

#[test]
fn the_first_upstream_wins_and_the_order_stays() {
    let (first, second) = (
        list(br#"[{"id":"b","n":1},{"id":"a","n":1}]"#),
        list(br#"[{"id":"c","n":2},{"id":"a","n":2}]"#),
    );
    let (main, spare) = (view("main"), view("spare"));
    let catalogue = Catalogue::merge([(&main, &first), (&spare, &second)]);
    assert_eq!(ids(&catalogue), ["b", "a", "c"]);
    assert_eq!(catalogue.len(), 3);
    assert_eq!(item(&catalogue, "a")["n"], 1);
    assert_eq!(item(&catalogue, "c")["owned_by"], "spare");
}

#[test]
fn each_upstream_has_prices_of_its_own() {
    let (first, second, third) = (
        list(br#"[{"id":"a","pricing":{"prompt":"0.1","completion":"0.2"}}]"#),
        list(br#"[{"id":"a"},{"id":"b","pricing":{"prompt":"1","completion":"1"}}]"#),
        list(br#"[{"id":"a","pricing":{"prompt":"0.3","completion":"0"}}]"#),
    );
    let views = ["one", "two", "three"].map(view);
    let catalogue = Catalogue::merge(views.iter().zip([&first, &second, &third]));
    let of = |id| {
        let offers = catalogue.offers(id).iter();
        offers.map(|o| (&*o.upstream, o.prices.input)).collect::<Vec<_>>()
    };
    assert_eq!(of("a"), [("one", 0.1), ("three", 0.3)]);
    assert_eq!(of("b"), [("two", 1.0)]);
    assert_eq!(of("c"), []);
}

#[test]
fn the_most_a_model_may_cost_is_known_or_nobody_knows_it() {
    let most = |pricing: &str| {
        let body = format!(r#"[{{"id":"a","pricing":{pricing}}}]"#);
        let catalogue = single(body.as_bytes());
        catalogue.offers("a").first().and_then(|offer| offer.most).map(|p| (p.input, p.output))
    };
    assert_eq!(most(r#"{"prompt":"1","completion":"2","image":"9"}"#), Some((1.0, 2.0)));
    assert_eq!(most(r#"{"prompt":"0","completion":"0"}"#), Some((0.0, 0.0)));
    assert_eq!(
        most(r#"{"prompt":"0","completion":"0","image":"0","discount":0.5}"#),
        Some((0.0, 0.0))
    );
    assert_eq!(most(r#"{"prompt":"0","completion":"0","image":"0.04"}"#), None);
    assert_eq!(most(r#"{"prompt":"0","completion":"0","audio":"0.01"}"#), None);
    let long = r#"{"prompt":"1","completion":"2","overrides":[
        {"min_prompt_tokens":200000,"prompt":"3"},{"completion":"1.5"},{"completion":"4"},7]}"#;
    assert_eq!(most(long), Some((3.0, 4.0)));
}

#[test]
fn models_are_listed_under_the_callers_names() {
    let aliases = BTreeMap::from([
        ("fast".to_owned(), "llama".to_owned()),
        ("local/qwen".to_owned(), "llama".to_owned()),
        ("soon".to_owned(), "not/listed-yet".to_owned()),
    ]);
    let view = UpstreamView { name: "vllm", aliases: &aliases, prefix_strip: Some("local/") };
    let list = list(br#"[{"id":"llama","context_length":9},{"id":"qwen","context_length":1}]"#);
    let catalogue = Catalogue::merge([(&view, &list)]);
    assert_eq!(ids(&catalogue), ["fast", "local/qwen", "soon", "local/llama"]);
    assert_eq!(item(&catalogue, "fast")["id"], "fast");
    assert_eq!(catalogue.get("fast").unwrap().context_length, Some(9));
    assert_eq!(catalogue.get("local/qwen").unwrap().context_length, Some(9));
    assert_eq!(item(&catalogue, "soon")["owned_by"], "not");
}

#[test]
fn a_list_holds_only_what_the_key_may_use() {
    let catalogue = single(OPENROUTER);
    let listed = |may_use: &dyn Fn(&str) -> bool| -> Vec<String> {
        let body: Value = serde_json::from_slice(&catalogue.body(may_use)).unwrap();
        assert_eq!(body["object"], "list");
        let data = body["data"].as_array().unwrap();
        data.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(listed(&|id| id.starts_with("borealis/")), ["borealis/atlas-pro"]);
    assert_eq!(listed(&|_| true).len(), 3);
    assert!(listed(&|_| false).is_empty());
}

#[test]
fn a_name_cannot_break_the_json() {
    let catalogue = single(br#"[{"id":"a\"b\n","k\"ey":1}]"#);
    let item = item(&catalogue, "a\"b\n");
    assert_eq!((&item["id"], &item["k\"ey"]), (&json!("a\"b\n"), &json!(1)));
}
