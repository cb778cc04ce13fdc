//! Browsers: preflights without a key, and the same headers on success, errors and streams.

use crate::harness::{
    Config, Gateway, KEY, Origin, Reply, Request, Response, assert_openai_error, chat, chat_stream,
    sample, serving,
};
use serde_json::json;

const PAGE: &str = "https://chat.example.com";
const ANYWHERE: &str = "/v1/chat/completions";

async fn gateway_for(origins: &str) -> (Origin, Gateway) {
    let origin = Origin::start().await;
    let config = Config::to(&origin)
        .server("max_body: 64KiB")
        .section(&format!("cors:\n  allowed_origins: {origins}\n  max_age: 10m"));
    let gateway = Gateway::start(&config).await;
    (origin, gateway)
}

#[track_caller]
fn assert_allowed(reply: &Response, page: &str) {
    assert_eq!(reply.header("access-control-allow-origin"), Some(page), "{reply:?}");
    assert!(reply.headers.words("vary").contains(&"origin".to_owned()), "{reply:?}");
    let exposed = reply.headers.words("access-control-expose-headers");
    let rates = ["limit", "remaining", "reset"].iter().flat_map(|kind| {
        ["requests", "tokens"].iter().map(move |unit| format!("x-ratelimit-{kind}-{unit}"))
    });
    let wanted = ["x-request-id", "retry-after"].map(str::to_owned).into_iter().chain(rates);
    for name in wanted {
        assert!(exposed.contains(&name), "{name} is not exposed: {exposed:?}");
    }
}

#[track_caller]
fn assert_not_allowed(reply: &Response) {
    let names = reply.headers.0.iter().map(|(name, _)| name.to_ascii_lowercase());
    let mut cors = names.filter(|name| name.starts_with("access-control-"));
    assert_eq!(cors.next(), None, "{reply:?}");
}

#[tokio::test]
async fn a_preflight_needs_no_key_and_gets_back_what_it_asked_for() {
    let (origin, gateway) = gateway_for("[\"https://chat.example.com\"]").await;
    let asked = "authorization,content-type,x-session-id,x-stainless-arch,x-stainless-timeout";
    for path in [ANYWHERE, "/v1/models", "/v1/messages", "/responses"] {
        let reply = gateway.call(&Request::preflight(path, PAGE, asked)).await;
        assert_eq!(reply.status, 204, "{path}: {reply:?}");
        assert_eq!(reply.header("access-control-allow-origin"), Some(PAGE));
        assert_eq!(reply.headers.words("access-control-allow-headers").join(","), asked);
        let methods = reply.headers.words("access-control-allow-methods");
        let method = if path == "/v1/models" { "get" } else { "post" };
        assert!(methods.contains(&method.to_owned()), "{path}: {methods:?}");
        assert_eq!(reply.header("access-control-max-age"), Some("600"));
        let vary = reply.headers.words("vary");
        assert!(vary.contains(&"origin".to_owned()), "{vary:?}");
        assert!(vary.contains(&"access-control-request-headers".to_owned()), "{vary:?}");
    }
    assert!(origin.calls().is_empty());
}

#[tokio::test]
async fn an_allowed_page_gets_the_headers_on_success() {
    let (_origin, gateway) = gateway_for("[\"https://chat.example.com\"]").await;
    for request in [
        Request::post(ANYWHERE, &chat()),
        Request::get("/v1/models"),
        Request::get("/status"),
        Request::get("/health"),
    ] {
        let reply = gateway.call(&request.header("origin", PAGE)).await;
        assert_allowed(reply.assert_ok(), PAGE);
    }
}

#[tokio::test]
async fn an_allowed_page_gets_the_headers_on_every_error() {
    let (origin, gateway) = gateway_for("[\"https://chat.example.com\"]").await;
    let large =
        json!({"model": "m", "messages": [{"role": "user", "content": "x".repeat(70_000)}]});
    let cases = [
        (401, Request::post(ANYWHERE, &chat()).anonymous()),
        (404, Request::get("/nowhere")),
        (405, Request::get(ANYWHERE)),
        (400, Request::new("POST", ANYWHERE).json_text("{")),
        (413, Request::post(ANYWHERE, &large)),
        (413, Request::post(ANYWHERE, &large).chunked(1000)),
        (404, Request::get("/v1/models/nobody%2Fnothing")),
    ];
    for (status, request) in cases {
        let reply = gateway.call(&request.header("origin", PAGE)).await;
        assert_eq!(reply.status, status, "{reply:?}");
        assert_allowed(&reply, PAGE);
    }
    origin.always(Reply::error(500));
    let reply = gateway.call(&Request::post(ANYWHERE, &chat()).header("origin", PAGE)).await;
    assert_eq!(reply.status, 502);
    assert_allowed(&reply, PAGE);
    origin.next(Reply::error(400));
    let reply = gateway.call(&Request::post(ANYWHERE, &chat()).header("origin", PAGE)).await;
    assert_eq!(reply.status, 400);
    assert_allowed(&reply, PAGE);
}

#[tokio::test]
async fn broken_framing_is_refused_with_the_headers_too() {
    let (_origin, gateway) = gateway_for("[\"https://chat.example.com\"]").await;
    let mut client = gateway.client().await;
    let head = format!(
        "POST {ANYWHERE} HTTP/1.1\r\nhost: x\r\norigin: {PAGE}\r\nauthorization: Bearer {KEY}\r\n\
         content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n"
    );
    client.send(head).await;
    let reply = client.reply().await.expect("a reply");
    assert_openai_error(&reply, 400, "invalid_request");
    assert_allowed(&reply, PAGE);
}

#[tokio::test]
async fn a_stream_carries_the_headers() {
    let (origin, gateway) = gateway_for("[\"https://chat.example.com\"]").await;
    origin.next(Reply::sse(sample("chat_stream_openai.sse")));
    let request = Request::post(ANYWHERE, &chat_stream()).header("origin", PAGE);
    assert_allowed(gateway.call(&request).await.assert_ok(), PAGE);
}

#[tokio::test]
async fn http2_carries_the_headers() {
    let (_origin, gateway) = gateway_for("[\"https://chat.example.com\"]").await;
    let mut client = gateway.http2().await;
    let request = Request::post(ANYWHERE, &chat()).header("origin", PAGE);
    assert_allowed(client.call(&request).await.assert_ok(), PAGE);
    assert_allowed(&client.call(&request.anonymous()).await, PAGE);
    let preflight = Request::preflight(ANYWHERE, PAGE, "authorization");
    assert_eq!(client.call(&preflight).await.status, 204);
}

#[tokio::test]
async fn a_wildcard_covers_subdomains_and_nothing_else() {
    let (_origin, gateway) = gateway_for("[\"https://*.example.org\"]").await;
    let from = |page: &str| Request::post(ANYWHERE, &chat()).header("origin", page);
    for page in ["https://a.example.org", "https://chat-2.example.org"] {
        assert_allowed(gateway.call(&from(page)).await.assert_ok(), page);
    }
    for page in [
        "http://a.example.org",
        "https://evilexample.org",
        "https://a.example.org.evil.net",
        "https://a.example.com",
        "https://evil.net/.example.org",
        "null",
    ] {
        assert_not_allowed(gateway.call(&from(page)).await.assert_ok());
    }
}

#[tokio::test]
async fn another_page_gets_no_header_that_would_let_it_read() {
    let (origin, gateway) = gateway_for("[\"https://chat.example.com\"]").await;
    let pages = [
        "https://chat.example.com.evil.net",
        "http://chat.example.com",
        "https://chat.example.com:8443",
        "https://example.com",
        "null",
    ];
    for page in pages {
        let request = Request::post(ANYWHERE, &chat()).header("origin", page);
        assert_not_allowed(&gateway.call(&request).await);
        assert_not_allowed(&gateway.call(&request.anonymous()).await);
        assert_not_allowed(&gateway.call(&Request::preflight(ANYWHERE, page, "a")).await);
    }
    assert_eq!(origin.calls().len(), pages.len());
}

#[tokio::test]
async fn without_any_allowed_origin_there_are_no_headers_at_all() {
    let (_origin, gateway) = serving().await;
    let request = Request::post(ANYWHERE, &chat()).header("origin", PAGE);
    assert_not_allowed(gateway.call(&request).await.assert_ok());
    assert_not_allowed(&gateway.call(&Request::preflight(ANYWHERE, PAGE, "a")).await);
}

#[tokio::test]
async fn a_star_lets_every_page_in_without_credentials() {
    let (_origin, gateway) = gateway_for("[\"*\"]").await;
    for page in [PAGE, "https://any.example.net", "http://localhost:5173"] {
        let reply = gateway.call(&Request::post(ANYWHERE, &chat()).header("origin", page)).await;
        let allowed = reply.assert_ok().header("access-control-allow-origin");
        assert!(allowed == Some("*") || allowed == Some(page), "{allowed:?}");
        reply.headers.assert_none_of(&["access-control-allow-credentials"]);
        assert_eq!(gateway.call(&Request::preflight(ANYWHERE, page, "a")).await.status, 204);
    }
}

#[tokio::test]
async fn the_upstreams_own_headers_are_replaced_not_doubled() {
    let (origin, gateway) = gateway_for("[\"https://chat.example.com\"]").await;
    let reply = Reply::json_text(200, sample("chat_response.json"))
        .header("access-control-allow-origin", "*")
        .header("access-control-allow-credentials", "true")
        .header("access-control-expose-headers", "x-upstream-only");
    origin.always(reply);
    let reply = gateway.call(&Request::post(ANYWHERE, &chat()).header("origin", PAGE)).await;
    assert_allowed(reply.assert_ok(), PAGE);
    reply.headers.assert_none_of(&["access-control-allow-credentials"]);
    let elsewhere = Request::post(ANYWHERE, &chat()).header("origin", "https://evil.net");
    assert_not_allowed(gateway.call(&elsewhere).await.assert_ok());
}

#[tokio::test]
async fn credentials_are_allowed_only_where_configured() {
    let origin = Origin::start().await;
    let cors = format!("cors:\n  allowed_origins: [\"{PAGE}\"]\n  allow_credentials: true");
    let gateway = Gateway::start(&Config::to(&origin).section(&cors)).await;
    let reply = gateway.call(&Request::post(ANYWHERE, &chat()).header("origin", PAGE)).await;
    assert_allowed(reply.assert_ok(), PAGE);
    assert_eq!(reply.header("access-control-allow-credentials"), Some("true"));
}
