//! A new configuration takes over between two requests, or not at all.

use crate::harness::{
    Config, Gate, Gateway, KEY, Origin, Reply, Request, assert_openai_error, chat, chat_stream,
    eventually, sample,
};
use serde_json::Value;

const CHAT: &str = "/v1/chat/completions";

fn with_key(key: &str) -> Request {
    Request::post(CHAT, &chat()).anonymous().header("x-api-key", key)
}

async fn generation(gateway: &Gateway) -> f64 {
    gateway.metric("cirque_config_generation", &[]).await.expect("a generation")
}

async fn reloads(gateway: &Gateway, outcome: &str) -> f64 {
    let labels = [("outcome", outcome)];
    gateway.metric("cirque_config_reloads_total", &labels).await.unwrap_or_default()
}

#[tokio::test]
async fn a_reload_swaps_keys_and_upstreams() {
    let (old, new) = (Origin::start().await, Origin::start().await);
    for by_signal in [false, true] {
        let gateway = Gateway::start(&Config::to(&old)).await;
        let before = generation(&gateway).await;
        let next = Config::to(&new).without_keys().key("name: fresh, secret: sk-fresh");
        gateway.rewrite(&next.text());
        if by_signal {
            gateway.process.signal("HUP");
        } else {
            let reply = gateway.admin_call("POST", "/reload").await;
            assert!((200..300).contains(&reply.status), "{reply:?}");
        }
        eventually("the new key", || async {
            (gateway.call(&with_key("sk-fresh")).await.status == 200).then_some(())
        })
        .await;
        assert_openai_error(&gateway.call(&with_key(KEY)).await, 401, "invalid_api_key");
        eventually("all of it", || async {
            let is_newer = generation(&gateway).await > before;
            (is_newer && reloads(&gateway, "applied").await >= 1.0).then_some(())
        })
        .await;
    }
    assert!(old.calls().is_empty());
    assert_eq!(new.calls().len(), 2);
}

#[tokio::test]
async fn an_open_stream_outlives_a_reload() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&Config::to(&origin)).await;
    let gate = Gate::new();
    let stream = sample("chat_stream_openai.sse");
    let middle = stream.len() / 2;
    let script = Reply::stream().piece(&stream[..middle]).wait(&gate).piece(&stream[middle..]);
    origin.next(script.end());
    let mut client = gateway.client().await;
    client.open(&Request::post(CHAT, &chat_stream())).await;
    let mut body = client.read_until("Ahoy").await;
    // Neither its key nor its upstream is configured any more.
    let elsewhere = Origin::start().await;
    let next = Config::new()
        .upstream("other", &elsewhere.base_url(), "")
        .without_keys()
        .key("name: fresh, secret: sk-fresh");
    gateway.rewrite(&next.text());
    gateway.admin_call("POST", "/reload").await;
    gateway.call(&with_key("sk-fresh")).await.assert_ok();
    gate.open();
    let (rest, complete) = client.rest().await;
    body.extend(rest);
    assert!(complete);
    assert_eq!(body, stream);
}

#[tokio::test]
async fn a_broken_file_changes_nothing_and_is_reported() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&Config::to(&origin)).await;
    let before = generation(&gateway).await;
    for broken in ["server: [", "unknown_section: {}", "keys: [{name: a, secret: \"${NOT_SET}\"}]"]
    {
        gateway.rewrite(broken);
        let reply = gateway.admin_call("POST", "/reload").await;
        assert!(reply.status >= 400, "{broken:?}: {reply:?}");
        gateway.call(&with_key(KEY)).await.assert_ok();
        let status = gateway.status().await;
        assert!(!status["config"]["last_error"].is_null(), "{status}");
    }
    assert!((generation(&gateway).await - before).abs() < 0.1);
    assert!(reloads(&gateway, "rejected").await >= 3.0);
    gateway.rewrite(&Config::to(&origin).section("# the same again").text());
    gateway.admin_call("POST", "/reload").await;
    let status = gateway.status().await;
    assert!(status["config"]["last_error"].is_null(), "{status}");
}

#[tokio::test]
async fn a_fault_is_named_with_its_place() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&Config::to(&origin)).await;
    gateway.rewrite(&Config::to(&origin).server("max_bdy: 5MiB").text());
    let reply = gateway.admin_call("POST", "/reload").await;
    let told = reply.text();
    assert!(told.contains("max_bdy") && told.contains("max_body"), "{told}");
    gateway
        .process
        .stderr
        .json_where("the fault in the log", |line| line.to_string().contains("max_bdy"))
        .await;
}

#[tokio::test]
async fn a_change_that_needs_a_restart_is_refused_by_name() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&Config::to(&origin)).await;
    let before = generation(&gateway).await;
    let moved = [
        ("listen", Config::to(&origin).listen("127.0.0.1:1")),
        ("threads", Config::to(&origin).server("threads: 7")),
        ("admin", Config::to(&origin).admin("127.0.0.1:1")),
    ];
    for (name, config) in moved {
        gateway.rewrite(&config.text());
        let reply = gateway.admin_call("POST", "/reload").await;
        assert!(reply.status >= 400, "{name}: {reply:?}");
        assert!(reply.text().contains(name), "{name}: {}", reply.text());
        gateway.call(&with_key(KEY)).await.assert_ok();
    }
    assert!((generation(&gateway).await - before).abs() < 0.1);
}

#[tokio::test]
async fn an_unchanged_file_is_no_new_generation() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&Config::to(&origin)).await;
    let before = generation(&gateway).await;
    gateway.admin_call("POST", "/reload").await;
    assert!(reloads(&gateway, "unchanged").await >= 1.0);
    assert!((generation(&gateway).await - before).abs() < 0.1);
}

#[tokio::test]
async fn a_secret_file_is_read_again() {
    let origin = Origin::start().await;
    let folder = tempfile::TempDir::new().unwrap();
    std::fs::write(folder.path().join("key"), "sk-from-file-1\n").unwrap();
    let path = folder.path().join("key");
    let extra = format!("api_key: \"${{file:{}}}\"", path.display());
    let config = Config::new().upstream("main", &origin.base_url(), &extra);
    let gateway = Gateway::start_in(folder, &config).await;
    gateway.call(&with_key(KEY)).await.assert_ok();
    std::fs::write(&path, "sk-from-file-2\n").unwrap();
    gateway.admin_call("POST", "/reload").await;
    gateway.call(&with_key(KEY)).await.assert_ok();
    let sent: Vec<_> = origin
        .calls()
        .iter()
        .map(|call| call.headers.get("authorization").unwrap_or_default().to_owned())
        .collect();
    assert_eq!(sent, ["Bearer sk-from-file-1", "Bearer sk-from-file-2"]);
}

#[tokio::test]
async fn status_names_the_configuration_that_is_live() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&Config::to(&origin)).await;
    let config = |status: &Value| status["config"].clone();
    let before = config(&gateway.status().await);
    for field in ["generation", "hash", "loaded_at", "last_error"] {
        assert!(before.get(field).is_some(), "{field}: {before}");
    }
    gateway.rewrite(&Config::to(&origin).server("max_body: 5MiB").text());
    gateway.admin_call("POST", "/reload").await;
    let after = config(&gateway.status().await);
    assert_ne!(before["hash"], after["hash"]);
    assert_ne!(before["generation"], after["generation"]);
}

#[tokio::test]
async fn a_call_waits_for_the_address_of_an_upstream_that_a_reload_moved() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&Config::to(&origin)).await;
    gateway.call(&with_key(KEY)).await.assert_ok();
    let named = origin.base_url().replace("127.0.0.1", "localhost");
    gateway.rewrite(&Config::new().upstream("main", &named, "").text());
    gateway.admin_call("POST", "/reload").await.assert_ok();
    gateway.call(&with_key(KEY)).await.assert_ok();
}

#[tokio::test]
async fn a_key_that_is_revoked_by_the_last_entry_does_not_come_back_without_its_limits() {
    let origin = Origin::start().await;
    let with = |keys: &str| Config::to(&origin).without_keys().section(keys).text();
    let dir = tempfile::TempDir::new().unwrap();
    let config = with("keys: [{ name: only, secret: \"${API_KEY}\", models: [\"other/*\"] }]");
    std::fs::write(dir.path().join("gateway.yaml"), &config).unwrap();
    let env = [("API_KEY", "sk-only")];
    let gateway = Gateway::launch(&["run", "-c", "gateway.yaml"], &env, dir).await;
    assert_openai_error(&gateway.call(&with_key("sk-only")).await, 403, "model_not_allowed");
    for keys in ["keys: []", ""] {
        gateway.rewrite(&with(keys));
        let reply = gateway.admin_call("POST", "/reload").await;
        assert_eq!(reply.status, 422, "{reply:?}");
        assert!(reply.text().contains("keys"), "{reply:?}");
        assert_openai_error(&gateway.call(&with_key("sk-only")).await, 403, "model_not_allowed");
    }
}
