//! The catalogue: one list of every upstream's models, from memory, as far as the key may see.

use crate::harness::{
    Config, Gateway, Origin, Reply, Request, UPSTREAM_KEY, assert_openai_error, chat, ids, sample,
    serving, within_time,
};
use serde_json::{Value, json};
use std::time::Duration;

/// A list is waited for by three seconds at most. `LibreChat` waits five, but no test measures that.
const PATIENCE: Duration = Duration::from_secs(10);

async fn list(gateway: &Gateway, request: &Request) -> Vec<String> {
    ids(&gateway.call(request).await.assert_ok().json())
}

#[tokio::test]
async fn the_list_is_the_union_of_every_upstreams_models() {
    let (one, two) = (Origin::start().await, Origin::start().await);
    two.lists(&["acme/wisp-2-mini", "extra/model"]);
    let config =
        Config::new().upstream("one", &one.base_url(), "").upstream("two", &two.base_url(), "");
    let gateway = Gateway::start(&config).await;
    gateway.lists("extra/model").await;
    gateway.lists("acme/wisp-2-mini").await;
    let mut found = list(&gateway, &Request::get("/v1/models")).await;
    found.sort();
    let expected =
        ["acme/wisp-2-mini", "borealis/atlas-pro", "extra/model", "openpine/sapling-8b:free"];
    assert_eq!(found, expected);
    assert!(one.calls().is_empty());
}

#[tokio::test]
async fn an_item_has_openrouters_shape_and_what_openai_clients_read() {
    let (_origin, gateway) = serving().await;
    gateway.lists("acme/wisp-2-mini").await;
    let recorded: Value = serde_json::from_slice(&sample("models_openrouter.json")).unwrap();
    let listed = gateway.get("/v1/models").await.json();
    assert_eq!(listed["object"], "list");
    let find = |list: &Value| {
        let mut items = list["data"].as_array().unwrap().clone().into_iter();
        items.find(|item| item["id"] == "acme/wisp-2-mini").unwrap()
    };
    let (item, wanted) = (find(&listed), find(&recorded));
    for field in ["name", "created", "context_length", "architecture", "pricing", "top_provider"] {
        assert_eq!(item[field], wanted[field], "{field}");
    }
    assert_eq!(item["object"], "model");
    assert!(item["owned_by"].is_string(), "{item}");
    let alone = gateway.get("/v1/models/acme/wisp-2-mini").await;
    assert_eq!(alone.assert_ok().json(), item);
}

#[tokio::test]
async fn an_id_may_be_written_with_an_escaped_slash() {
    let (_origin, gateway) = serving().await;
    gateway.lists("openpine/sapling-8b:free").await;
    for id in
        ["openpine/sapling-8b:free", "openpine%2Fsapling-8b:free", "openpine%2fsapling-8b%3Afree"]
    {
        let item = gateway.get(&format!("/v1/models/{id}")).await;
        assert_eq!(item.assert_ok().json()["id"], "openpine/sapling-8b:free", "{id}");
    }
    let unknown = gateway.get("/v1/models/nobody%2Fnothing").await;
    assert_openai_error(&unknown, 404, "model_not_found");
}

#[tokio::test]
async fn a_key_sees_only_what_it_may_use() {
    let origin = Origin::start().await;
    let narrow = "name: narrow, secret: sk-narrow, models: [\"acme/*\", \"openpine/*\"]";
    let gateway = Gateway::start(&Config::to(&origin).key(narrow)).await;
    gateway.lists("borealis/atlas-pro").await;
    let as_narrow = |path: &str| Request::get(path).anonymous().header("x-api-key", "sk-narrow");
    let mut found = list(&gateway, &as_narrow("/v1/models")).await;
    found.sort();
    assert_eq!(found, ["acme/wisp-2-mini", "openpine/sapling-8b:free"]);
    gateway.call(&as_narrow("/v1/models/acme%2Fwisp-2-mini")).await.assert_ok();
    let hidden = gateway.call(&as_narrow("/v1/models/borealis%2Fatlas-pro")).await;
    assert_openai_error(&hidden, 404, "model_not_found");
}

#[tokio::test]
async fn models_are_listed_and_called_by_the_callers_names() {
    let (aliased, local) = (Origin::start().await, Origin::start().await);
    local.lists(&["llama"]);
    let config = Config::new()
        .upstream("aliased", &aliased.base_url(), "models: { \"gpt-fast\": \"acme/wisp-2-mini\" }")
        .upstream("local", &local.base_url(), "prefix_strip: \"local/\"")
        .route("models: [\"local/*\"], upstreams: [local]")
        .route("models: [\"*\"], upstreams: [aliased]");
    let gateway = Gateway::start(&config).await;
    gateway.lists("gpt-fast").await;
    gateway.lists("local/llama").await;
    gateway.get("/v1/models/gpt-fast").await.assert_ok();
    let body =
        "{ \"model\" : \"gpt-fast\" , \"messages\":[{\"role\":\"user\",\"content\":\"gpt-fast\"}]}";
    let request = Request::new("POST", "/v1/chat/completions").json_text(body);
    let reply = gateway.call(&request).await;
    let sent = aliased.only_call();
    assert_eq!(
        String::from_utf8_lossy(&sent.body),
        body.replacen("gpt-fast", "acme/wisp-2-mini", 1),
        "every other byte stays"
    );
    assert_eq!(gateway.log_of(&reply).await["model"], "gpt-fast");
}

#[tokio::test]
async fn the_list_outlives_the_upstream() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&Config::to(&origin)).await;
    gateway.lists("acme/wisp-2-mini").await;
    drop(origin);
    gateway.admin_call("POST", "/reload").await;
    let found = list(&gateway, &Request::get("/v1/models")).await;
    assert_eq!(found.len(), 3);
}

#[tokio::test]
async fn a_hanging_upstream_holds_up_nobody() {
    let (hanging, fine) = (Origin::start().await, Origin::start().await);
    hanging.lists_reply(Reply::silence());
    let config = Config::new().upstream("hanging", &hanging.base_url(), "").upstream(
        "fine",
        &fine.base_url(),
        "",
    );
    let gateway = Gateway::start(&config).await;
    gateway.lists("acme/wisp-2-mini").await;
    let asking = gateway.get("/v1/models");
    within_time(PATIENCE, "a list", asking).await.assert_ok();
}

#[tokio::test]
async fn without_any_answer_the_list_is_short_but_quick() {
    let hanging = Origin::start().await;
    hanging.lists_reply(Reply::silence());
    let gateway = Gateway::start(&Config::to(&hanging)).await;
    let reply = within_time(PATIENCE, "a list", gateway.get("/v1/models")).await;
    assert_eq!(reply.assert_ok().json()["data"], json!([]));
    gateway.post("/v1/chat/completions", &chat()).await.assert_ok();
}

#[tokio::test]
async fn a_catalogue_that_is_no_catalogue_is_survived() {
    let (odd, fine) = (Origin::start().await, Origin::start().await);
    let config =
        Config::new().upstream("odd", &odd.base_url(), "").upstream("fine", &fine.base_url(), "");
    odd.lists_reply(Reply::json_text(
        200,
        "{\"data\":[7,{\"id\":\"\"},{\"id\":\"odd/one\"},null]}",
    ));
    let gateway = Gateway::start(&config).await;
    gateway.lists("odd/one").await;
    gateway.lists("acme/wisp-2-mini").await;
}

#[tokio::test]
async fn the_upstream_is_asked_with_its_own_key() {
    let (origin, gateway) = serving().await;
    gateway.lists("acme/wisp-2-mini").await;
    let asked = origin.catalogue_calls();
    let expected = format!("Bearer {UPSTREAM_KEY}");
    assert_eq!(asked[0].headers.get("authorization"), Some(expected.as_str()));
    assert_eq!(asked[0].target, "/v1/models");
}
