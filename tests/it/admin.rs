//! The admin plane: probes, metrics, the configuration without its secrets, and reloading.

use crate::harness::{
    Config, Gateway, KEY, Origin, Request, UPSTREAM_KEY, assert_openai_error, chat, eventually,
    serving,
};
use serde_json::{Value, json};

#[tokio::test]
async fn the_probes_answer_once_it_serves() {
    let (_origin, gateway) = serving().await;
    gateway.admin_get("/live").await.assert_ok();
    eventually("readiness", || async {
        (gateway.admin_get("/ready").await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_configuration_is_shown_without_its_secrets() {
    let origin = Origin::start().await;
    let config = Config::to(&origin)
        .key("name: second, secret: sk-second-canary")
        .section("langfuse: { public_key: pk-lf-canary, secret_key: sk-lf-canary }");
    let gateway = Gateway::start(&config).await;
    let shown = gateway.admin_get("/config").await.assert_ok().text();
    for secret in [KEY, UPSTREAM_KEY, "sk-second-canary", "sk-lf-canary"] {
        assert!(!shown.contains(secret), "{secret}: {shown}");
    }
    for word in ["tester", "second", "main", &origin.base_url()] {
        assert!(shown.contains(word), "{word}: {shown}");
    }
}

#[tokio::test]
async fn the_admin_plane_serves_nothing_of_the_data_plane_and_the_other_way_round() {
    let (origin, gateway) = serving().await;
    for path in ["/v1/models", "/v1/chat/completions", "/status", "/nowhere"] {
        assert_eq!(gateway.admin_get(path).await.status, 404, "{path}");
    }
    for path in ["/metrics", "/live", "/ready", "/config"] {
        assert_openai_error(&gateway.get(path).await, 404, "not_found");
    }
    assert_openai_error(&gateway.call(&Request::new("POST", "/reload")).await, 404, "not_found");
    assert!(origin.calls().is_empty());
}

#[tokio::test]
async fn reloading_needs_a_post() {
    let (_origin, gateway) = serving().await;
    assert_eq!(gateway.admin_get("/reload").await.status, 405);
    assert_eq!(gateway.admin_call("POST", "/metrics").await.status, 405);
}

#[tokio::test]
async fn status_tells_a_caller_what_concerns_it() {
    let (origin, gateway) = serving().await;
    gateway.post("/v1/chat/completions", &chat()).await.assert_ok();
    let status = gateway.status().await;
    assert!(status["version"].is_string(), "{status}");
    assert!(status["uptime_seconds"].is_number(), "{status}");
    let upstream = &status["upstreams"][0];
    assert_eq!(upstream["name"], "main", "{status}");
    assert_eq!(upstream["healthy"], true, "{status}");
    for field in ["state", "inflight", "ewma_ms", "quota", "last_error", "ejected_until"] {
        assert!(upstream.get(field).is_some(), "{field}: {status}");
    }
    assert_eq!(status["you"]["key"], "tester", "{status}");
    assert!(status["langfuse"].is_object(), "{status}");
    let text = status.to_string();
    for private in [KEY, UPSTREAM_KEY, &origin.address().to_string()] {
        assert!(!text.contains(private), "{private}: {text}");
    }
}

#[tokio::test]
async fn status_tells_a_caller_its_limits_and_what_is_left() {
    let origin = Origin::start().await;
    let limited = "name: limited, secret: sk-limited, budget: {usd: 50, per: month}, \
                   limits: {requests_per_minute: 600, concurrent: 32}";
    let gateway = Gateway::start(&Config::to(&origin).key(limited)).await;
    let request = |path: &str| Request::post(path, &chat()).header("x-api-key", "sk-limited");
    gateway.call(&request("/v1/chat/completions")).await.assert_ok();
    let reply = gateway.call(&Request::get("/status").header("x-api-key", "sk-limited")).await;
    let you = &reply.assert_ok().json()["you"];
    let requests = &you["limits"]["requests_per_minute"];
    assert_eq!((&requests["limit"], &requests["remaining"]), (&json!(600), &json!(599)));
    let reset = requests["reset_seconds"].as_f64().expect("a figure");
    assert!(reset > 30.0 && reset <= 60.0, "{reset}");
    let none = json!({ "limit": null, "remaining": null, "reset_seconds": null });
    assert_eq!(you["limits"]["tokens_per_minute"], none);
    let idle = json!({ "limit": 32, "remaining": 32, "reset_seconds": null });
    assert_eq!(you["limits"]["concurrent"], idle);
    let budget = &you["budget"];
    let figure = |name: &str| budget[name].as_f64().expect("a figure");
    assert_eq!(budget["limit_usd"], json!(50.0));
    assert!((figure("used_usd") + figure("remaining_usd") - 50.0).abs() < 1e-9, "{budget}");
    assert!(budget["resets_at"].as_str().expect("a time").ends_with("-01T00:00:00Z"), "{budget}");
}

#[tokio::test]
async fn a_caller_does_not_see_other_callers() {
    let origin = Origin::start().await;
    let config = Config::to(&origin).key("name: somebody-else, secret: sk-else");
    let gateway = Gateway::start(&config).await;
    let status: Value = gateway.status().await;
    assert!(!status.to_string().contains("somebody-else"), "{status}");
}
