//! Where things are: every spelling that real clients produce, and a clear answer everywhere else.

use crate::harness::{
    KEY, Reply, Request, assert_anthropic_error, assert_openai_error, chat, chat_stream, ids,
    sample, serving,
};
use serde_json::{Value, json};

const INFERENCE: [&str; 5] =
    ["/chat/completions", "/completions", "/responses", "/messages", "/embeddings"];

fn body_for(path: &str) -> Value {
    match path {
        "/completions" => json!({"model": "acme/wisp-2-mini", "prompt": "hi"}),
        "/responses" | "/embeddings" => json!({"model": "acme/wisp-2-mini", "input": "hi"}),
        "/messages" => json!({"model": "acme/wisp-2-mini", "max_tokens": 9,
            "messages": [{"role": "user", "content": "hi"}]}),
        _ => chat(),
    }
}

#[tokio::test]
async fn every_route_is_served_under_every_prefix() {
    let (origin, gateway) = serving().await;
    origin.always(Reply::json_text(200, "{\"object\":\"anything\"}"));
    let mut client = gateway.client().await;
    for path in INFERENCE {
        for prefix in ["/v1", "", "/api/v1", "/v1/v1", "//v1", "/v1/", "/api//v1//"] {
            let target = format!("{prefix}{path}");
            let reply = client.call(&Request::post(&target, &body_for(path))).await;
            assert_eq!(reply.status, 200, "{target}: {}", reply.text());
            let call = origin.calls().pop().expect("a call");
            assert_eq!(call.target, format!("/v1{path}"), "{target}");
            let line = gateway.log_of(&reply).await;
            assert_eq!(line["route"], format!("/v1{path}"), "{target}");
        }
    }
}

#[tokio::test]
async fn models_health_and_status_are_served_under_every_prefix() {
    let (_origin, gateway) = serving().await;
    gateway.lists("acme/wisp-2-mini").await;
    for prefix in ["/v1", "", "/api/v1", "/v1/v1", "/"] {
        let list = gateway.get(&format!("{prefix}/models")).await;
        assert!(ids(&list.assert_ok().json()).contains(&"acme/wisp-2-mini".into()), "{prefix}");
        for id in ["acme/wisp-2-mini", "acme%2Fwisp-2-mini", "acme%2fwisp-2-mini"] {
            let item = gateway.get(&format!("{prefix}/models/{id}")).await;
            assert_eq!(item.assert_ok().json()["id"], "acme/wisp-2-mini", "{prefix} {id}");
        }
    }
    for path in ["/health", "/status", "/"] {
        gateway.get(path).await.assert_ok();
    }
}

#[tokio::test]
async fn the_front_page_and_health_need_no_key_and_the_rest_does() {
    let (_origin, gateway) = serving().await;
    let front = gateway.call(&Request::get("/").anonymous()).await;
    let page = front.assert_ok().text().to_lowercase();
    assert!(page.contains("cirque"), "{page}");
    assert!(page.contains("/v1/chat/completions"), "{page}");
    gateway.call(&Request::get("/health").anonymous()).await.assert_ok();
    for path in ["/status", "/v1/models", "/v1/models/acme%2Fwisp-2-mini"] {
        let refused = gateway.call(&Request::get(path).anonymous()).await;
        assert_openai_error(&refused, 401, "invalid_api_key");
    }
}

#[tokio::test]
async fn health_says_nothing_about_the_inside() {
    let (origin, gateway) = serving().await;
    let reply = gateway.call(&Request::get("/health").anonymous()).await;
    let text = reply.assert_ok().text();
    assert!(text.len() < 200 && !text.contains(&origin.address().to_string()), "{text}");
    assert!(!text.contains("main"), "{text}");
}

#[tokio::test]
async fn an_unknown_path_is_a_clear_404_and_reaches_no_upstream() {
    let (origin, gateway) = serving().await;
    let unknown = [
        "/v2/chat/completions",
        "/v1/chat",
        "/v1/images/generations",
        "/v1/chat/completions/extra",
        "/v1",
        "/metrics",
        "/live",
        "/ready",
        "/config",
        "/reload",
        "/v1/key",
    ];
    for path in unknown {
        assert_openai_error(&gateway.get(path).await, 404, "not_found");
        let reply = gateway.post(path, &chat()).await;
        assert_openai_error(&reply, 404, "not_found");
    }
    assert!(origin.calls().is_empty());
}

#[tokio::test]
async fn a_path_cannot_climb_out_of_its_route() {
    let (origin, gateway) = serving().await;
    for path in ["/v1/../config", "/v1/models/../../key", "/v1/%2e%2e/config"] {
        let reply = gateway.get(path).await;
        assert!((400..500).contains(&reply.status), "{path}: {reply:?}");
    }
    let asked: Vec<_> = origin.catalogue_calls().into_iter().map(|call| call.target).collect();
    assert!(asked.iter().all(|target| target == "/v1/models"), "{asked:?}");
}

#[tokio::test]
async fn a_wrong_method_is_told_the_right_one() {
    let (origin, gateway) = serving().await;
    for path in INFERENCE {
        for method in ["GET", "PUT", "DELETE", "PATCH"] {
            let reply = gateway.call(&Request::new(method, &format!("/v1{path}"))).await;
            if path == "/messages" {
                assert_anthropic_error(&reply, 405, "invalid_request_error");
            } else {
                assert_openai_error(&reply, 405, "method_not_allowed");
            }
            assert!(reply.headers.words("allow").contains(&"post".to_owned()), "{reply:?}");
        }
    }
    for path in ["/v1/models", "/health", "/status", "/"] {
        let reply = gateway.post(path, &chat()).await;
        assert_openai_error(&reply, 405, "method_not_allowed");
        assert!(reply.headers.words("allow").contains(&"get".to_owned()), "{reply:?}");
    }
    assert!(origin.calls().is_empty());
}

#[tokio::test]
async fn head_answers_like_get_without_the_body() {
    let (_origin, gateway) = serving().await;
    let mut client = gateway.client().await;
    for path in ["/", "/health", "/status", "/v1/models"] {
        let reply = client.call(&Request::new("HEAD", path)).await;
        assert_eq!((reply.status, reply.body.len()), (200, 0), "{path}");
        client.call(&Request::get(path)).await.assert_ok();
    }
}

#[tokio::test]
async fn a_query_is_accepted_and_kept_out_of_the_log() {
    let (origin, gateway) = serving().await;
    let reply = gateway.post("/v1/chat/completions?beta=true&key=sk-in-query", &chat()).await;
    let line = gateway.log_of(reply.assert_ok()).await;
    assert_eq!(line["path"], "/v1/chat/completions");
    assert_eq!(line["route"], "/v1/chat/completions");
    assert!(!gateway.process.output().contains("sk-in-query"));
    assert!(!origin.only_call().target.contains("sk-in-query"));
}

#[tokio::test]
async fn a_proxy_in_front_that_speaks_http_1_0_gets_whole_replies() {
    let (origin, gateway) = serving().await;
    origin.next(Reply::sse(sample("chat_stream_openai.sse")));
    for (body, expected) in
        [(chat_stream(), sample("chat_stream_openai.sse")), (chat(), sample("chat_response.json"))]
    {
        let body = body.to_string();
        let mut client = gateway.client().await;
        let head = format!(
            "POST /v1/chat/completions HTTP/1.0\r\nhost: x\r\nconnection: close\r\n\
             authorization: Bearer {KEY}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        );
        client.send(head + &body).await;
        let reply = client.reply().await.expect("a reply");
        assert_eq!(reply.assert_ok().body, expected);
        client.closed().await;
    }
}

#[tokio::test]
async fn requests_sent_without_waiting_are_answered_in_order() {
    let (origin, gateway) = serving().await;
    origin.next(Reply::json_text(200, "{\"n\":1}"));
    origin.next(Reply::json_text(200, "{\"n\":2}"));
    let mut client = gateway.client().await;
    let first = Request::post("/v1/chat/completions", &chat());
    let both = [first.encode("x"), first.chunked(7).encode("x")].concat();
    client.send(both).await;
    for n in [1, 2] {
        let reply = client.reply().await.expect("a reply");
        assert_eq!(reply.assert_ok().json()["n"], n);
    }
}
