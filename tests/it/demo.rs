//! `cirque demo`: every feature without a key, a provider or a network.

use crate::harness::{Gateway, Request, assert_openai_error, events, eventually, ids, last_event};
use regex::Regex;
use serde_json::json;
use std::collections::BTreeSet;
use tempfile::TempDir;

const CHAT: &str = "/v1/chat/completions";

/// A running demo, and the key that its printed example uses.
async fn demo() -> (Gateway, String) {
    let env = [("PROXY_PORT", "0"), ("ADMIN_LISTEN", "127.0.0.1:0")];
    let gateway = Gateway::launch(&["demo"], &env, TempDir::new().unwrap()).await;
    let bearer = Regex::new(r"(?i)bearer ([A-Za-z0-9._-]+)").unwrap();
    let key = eventually("a curl to try", || async {
        let output = gateway.process.output();
        let has_curl = output.contains("curl") && output.contains(&gateway.data.port().to_string());
        let key = bearer.captures(&output)?[1].to_owned();
        has_curl.then_some(key)
    })
    .await;
    (gateway, key)
}

fn call(key: &str, model: &str, stream: bool) -> Request {
    let body = json!({"model": model, "stream": stream,
        "messages": [{"role": "user", "content": "What is a cirque?"}]});
    Request::post(CHAT, &body).anonymous().header("authorization", &format!("Bearer {key}"))
}

#[tokio::test]
async fn the_demo_answers_streams_and_bills() {
    let (gateway, key) = demo().await;
    let plain = gateway.call(&call(&key, "demo/chat", false)).await;
    let answer = plain.assert_ok().json();
    assert!(answer["choices"][0]["message"]["content"].is_string(), "{answer}");
    assert!(answer["usage"]["total_tokens"].as_u64() > Some(0), "{answer}");
    let streamed = gateway.call(&call(&key, "demo/chat", true)).await;
    let events = events(&streamed.assert_ok().body);
    assert!(events.len() > 3, "{}", streamed.text());
    assert_eq!(last_event(&streamed.body).data, "[DONE]");
    let line = gateway.log_of(&streamed).await;
    assert!(line["output_tokens"].as_u64() > Some(0), "{line}");
    assert!(line["cost_usd"].as_f64() > Some(0.0), "{line}");
}

#[tokio::test]
async fn the_demo_speaks_every_dialect() {
    let (gateway, key) = demo().await;
    let bearer = format!("Bearer {key}");
    for (path, body, field) in [
        ("/v1/responses", json!({"model": "demo/chat", "input": "hi"}), "output"),
        (
            "/v1/messages",
            json!({"model": "demo/chat", "max_tokens": 50,
                "messages": [{"role": "user", "content": "hi"}]}),
            "content",
        ),
        ("/v1/embeddings", json!({"model": "demo/embed", "input": "hi"}), "data"),
    ] {
        let request = Request::post(path, &body).anonymous().header("authorization", &bearer);
        let reply = gateway.call(&request).await;
        assert!(reply.assert_ok().json()[field].is_array(), "{path}: {}", reply.text());
    }
}

#[tokio::test]
async fn the_demo_shows_failover() {
    let (gateway, key) = demo().await;
    let mut attempts = BTreeSet::new();
    for _ in 0..4 {
        let reply = gateway.call(&call(&key, "demo/fails-503", false)).await;
        attempts.extend(reply.assert_ok().header("x-cirque-attempts").map(str::to_owned));
    }
    assert!(attempts.contains("2"), "{attempts:?}");
    let failed = gateway.call(&call(&key, "demo/fails-everywhere", false)).await;
    assert_openai_error(&failed, 502, "upstream_error");
}

#[tokio::test]
async fn the_demo_shows_how_an_upstream_goes_and_comes_back() {
    let (gateway, key) = demo().await;
    let bearer = format!("Bearer {key}");
    let main = || async {
        let request = Request::get("/status").anonymous().header("authorization", &bearer);
        let status = gateway.call(&request).await.assert_ok().json();
        let upstreams = status["upstreams"].as_array().expect("a list").clone();
        upstreams.into_iter().find(|u| u["name"] == "demo-main").expect("demo-main")
    };
    let mut attempts = Vec::new();
    for _ in 0..7 {
        let reply = gateway.call(&call(&key, "demo/fails-503", false)).await;
        assert_eq!(reply.assert_ok().header("x-cirque-upstream"), Some("demo-spare"));
        attempts.push(reply.header("x-cirque-attempts").expect("a count").to_owned());
    }
    assert_eq!(attempts, ["2", "2", "2", "2", "2", "1", "1"]);
    let now = main().await;
    assert_eq!((&now["state"], &now["healthy"]), (&json!("ejected"), &json!(false)), "{now}");
    assert_eq!(now["last_error"]["what"], "status 503");
    let becomes = |wanted: &'static str| async move {
        eventually(wanted, || async { (main().await["state"] == wanted).then_some(()) }).await;
    };
    becomes("half_open").await;
    for _ in 0..2 {
        gateway.call(&call(&key, "demo/chat", false)).await.assert_ok();
    }
    assert_eq!(main().await["state"], "healthy");
}

#[tokio::test]
async fn the_demo_breaks_streams_on_request() {
    let (gateway, key) = demo().await;
    for model in ["demo/cut-mid-stream", "demo/truncates"] {
        let cut = gateway.call(&call(&key, model, true)).await;
        assert_eq!(cut.status, 200, "{model}: {}", cut.text());
        assert!(!cut.text().contains("[DONE]"), "{model}: {}", cut.text());
        assert!(last_event(&cut.body).json()["error"].is_object(), "{model}: {}", cut.text());
    }
}

#[tokio::test]
async fn the_demo_lists_its_models() {
    let (gateway, key) = demo().await;
    let bearer = format!("Bearer {key}");
    let request = Request::get("/v1/models").anonymous().header("authorization", &bearer);
    eventually("the demo's models", || async {
        let listed = ids(&gateway.call(&request).await.assert_ok().json());
        let wanted = ["demo/chat", "demo/embed", "demo/fails-503", "demo/slow"];
        wanted.iter().all(|id| listed.contains(&(*id).to_owned())).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_demo_serves_a_file_of_ones_own_without_its_upstreams() {
    let dir = TempDir::new().unwrap();
    let file = "keys: [{ name: mine, secret: sk-mine }]\n\
                upstreams: [{ name: far, base_url: \"http://far.invalid/v1\" }]\n\
                cors: { allowed_origins: [\"https://mine.example\"] }\n";
    std::fs::write(dir.path().join("mine.yaml"), file).unwrap();
    let env = [("PROXY_PORT", "0"), ("ADMIN_LISTEN", "127.0.0.1:0")];
    let gateway = Gateway::launch(&["demo", "-c", "mine.yaml"], &env, dir).await;
    let request = call("sk-mine", "demo/chat", false).header("origin", "https://mine.example");
    let reply = gateway.call(&request).await;
    let granted = reply.assert_ok().header("access-control-allow-origin");
    assert_eq!(granted, Some("https://mine.example"));
    let upstream = reply.header("x-cirque-upstream").unwrap();
    assert!(upstream.starts_with("demo-"), "{upstream}");
}

#[tokio::test]
async fn the_demos_key_comes_beside_those_of_a_file_and_loosens_none_of_their_limits() {
    let dir = TempDir::new().unwrap();
    let file = "keys:\n  - { name: mine, secret: \"${API_KEY}\", models: [\"other/*\"] }\n\
                upstreams: [{ name: far, base_url: \"http://far.invalid/v1\" }]\n";
    std::fs::write(dir.path().join("mine.yaml"), file).unwrap();
    let env = [("PROXY_PORT", "0"), ("ADMIN_LISTEN", "127.0.0.1:0"), ("API_KEY", "sk-both")];
    let gateway = Gateway::launch(&["demo", "-c", "mine.yaml"], &env, dir).await;
    let refused = gateway.call(&call("sk-both", "demo/chat", false)).await;
    assert_openai_error(&refused, 403, "model_not_allowed");

    let dir = TempDir::new().unwrap();
    let file = "keys: [{ name: demo, secret: sk-mine, models: [\"other/*\"] }]\n\
                upstreams: [{ name: far, base_url: \"http://far.invalid/v1\" }]\n";
    std::fs::write(dir.path().join("mine.yaml"), file).unwrap();
    let gateway = Gateway::launch(&["demo", "-c", "mine.yaml"], &env, dir).await;
    gateway.call(&call("sk-both", "demo/chat", false)).await.assert_ok();
    let refused = gateway.call(&call("sk-mine", "demo/chat", false)).await;
    assert_openai_error(&refused, 403, "model_not_allowed");
}
