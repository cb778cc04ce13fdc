//! What crosses the gateway in a header and what does not, in either direction.

use crate::harness::{
    Config, Framing, Gateway, Origin, Reply, Request, assert_openai_error, chat, chat_stream,
    sample, serving, streamed,
};

const PATH: &str = "/v1/chat/completions";

#[tokio::test]
async fn what_concerns_the_caller_alone_is_not_sent_upstream() {
    let (origin, gateway) = serving().await;
    let private = [
        ("cookie", "session=1"),
        ("origin", "https://chat.example.com"),
        ("referer", "https://chat.example.com/page"),
        ("x-forwarded-for", "203.0.113.9"),
        ("x-forwarded-host", "gateway.example.com"),
        ("x-forwarded-proto", "https"),
        ("forwarded", "for=203.0.113.9"),
        ("x-real-ip", "203.0.113.9"),
        ("cf-connecting-ip", "203.0.113.9"),
        ("openai-organization", ""),
        ("openai-project", "p"),
        ("keep-alive", "timeout=5"),
        ("te", "trailers"),
        ("upgrade", "websocket"),
        ("proxy-authorization", "Basic x"),
        ("proxy-connection", "keep-alive"),
        ("x-hop", "1"),
    ];
    let mut request = Request::post(PATH, &chat()).header("connection", "keep-alive, x-hop");
    for (name, value) in private {
        request = request.header(name, value);
    }
    gateway.call(&request).await.assert_ok();
    let call = origin.only_call();
    call.headers.assert_none_of(&private.map(|(name, _)| name));
    assert!(!call.headers.words("connection").contains(&"x-hop".to_owned()), "{call:?}");
}

#[tokio::test]
async fn the_request_upstream_is_framed_once_and_names_the_upstreams_host() {
    let (origin, gateway) = serving().await;
    for request in [Request::post(PATH, &chat()), Request::post(PATH, &chat()).chunked(9)] {
        gateway.call(&request).await.assert_ok();
        let call = origin.calls().pop().expect("a call");
        let length = call.length.to_string();
        assert_eq!(call.headers.get("content-length"), Some(length.as_str()));
        assert_eq!(call.headers.get("host"), Some(origin.address().to_string().as_str()));
        assert_eq!(call.headers.get("content-type"), Some("application/json"));
        call.headers.assert_none_of(&["transfer-encoding"]);
    }
}

#[tokio::test]
async fn what_a_provider_understands_is_sent_on() {
    let (origin, gateway) = serving().await;
    let request = Request::post("/v1/messages", &streamed("/v1/messages"))
        .header("anthropic-version", "2023-06-01")
        .header("anthropic-beta", "context-1m")
        .header("user-agent", "Anthropic/Python 2.12.0");
    origin.next(Reply::sse(sample("messages_stream_anthropic.sse")));
    gateway.call(&request).await.assert_ok();
    let call = origin.only_call();
    assert_eq!(call.headers.get("anthropic-version"), Some("2023-06-01"));
    assert_eq!(call.headers.get("anthropic-beta"), Some("context-1m"));
}

#[tokio::test]
async fn configured_headers_are_sent_over_those_of_the_caller() {
    let origin = Origin::start().await;
    let extra = "provider: openrouter, headers: { X-Title: \"Example\", x-team: \"tides\" }";
    let config = Config::new().upstream("main", &origin.base_url(), extra);
    let gateway = Gateway::start(&config).await;
    let request = Request::post(PATH, &chat())
        .header("x-title", "Caller")
        .header("http-referer", "https://caller.example.com");
    gateway.call(&request).await.assert_ok();
    let call = origin.only_call();
    assert_eq!(call.headers.get("x-title"), Some("Example"));
    assert_eq!(call.headers.get("x-team"), Some("tides"));
    assert_eq!(call.headers.get("http-referer"), Some("https://caller.example.com"));
}

#[tokio::test]
async fn what_concerns_the_upstream_alone_is_not_sent_back() {
    let (origin, gateway) = serving().await;
    let private = [
        ("set-cookie", "__cf_bm=1; path=/"),
        ("alt-svc", "h3=\":443\""),
        ("strict-transport-security", "max-age=1"),
        ("access-control-allow-origin", "*"),
        ("access-control-allow-headers", "*"),
        ("openai-organization", "acme-inc"),
        ("nel", "{}"),
        ("report-to", "{}"),
        ("keep-alive", "timeout=9"),
        ("proxy-authenticate", "Basic"),
        ("x-hop", "1"),
    ];
    let mut plain = Reply::json_text(200, sample("chat_response.json"));
    let mut stream = Reply::sse(sample("chat_stream_openai.sse"));
    let mut error = Reply::error(400);
    for reply in [&mut plain, &mut stream, &mut error] {
        let with = private.iter().fold(reply.clone(), |r, (name, value)| r.header(name, value));
        *reply = with.header("connection", "keep-alive, x-hop").header("set-cookie", "b=2");
    }
    for (script, body) in [(plain, chat()), (stream, chat_stream()), (error, chat())] {
        origin.next(script);
        let reply = gateway.post(PATH, &body).await;
        reply.headers.assert_none_of(&private.map(|(name, _)| name));
    }
}

#[tokio::test]
async fn what_helps_the_caller_is_sent_back() {
    let (origin, gateway) = serving().await;
    let script = Reply::json_text(200, sample("chat_response.json"))
        .header("x-generation-id", "gen-1")
        .header("openai-processing-ms", "12");
    origin.next(script);
    let reply = gateway.post(PATH, &chat()).await;
    assert_eq!(reply.assert_ok().header("x-generation-id"), Some("gen-1"));
    assert_eq!(reply.header("openai-processing-ms"), Some("12"));
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert_eq!(reply.header("x-cirque-upstream"), Some("main"));
    assert_eq!(reply.header("x-cirque-attempts"), Some("1"));
}

#[tokio::test]
async fn every_reply_has_one_request_id_of_its_own() {
    let (origin, gateway) = serving().await;
    origin.always(Reply::json_text(200, "{}").header("x-request-id", "req_upstream"));
    let requests = [
        Request::post(PATH, &chat()),
        Request::post(PATH, &chat()),
        Request::post(PATH, &chat()).anonymous(),
        Request::new("POST", PATH).json_text("{"),
        Request::get("/nowhere"),
        Request::get(PATH),
        Request::get("/v1/models"),
        Request::get("/health").anonymous(),
        Request::get("/").anonymous(),
        Request::preflight(PATH, "https://chat.example.com", "a"),
    ];
    let mut seen = std::collections::BTreeSet::new();
    let mut http2 = gateway.http2().await;
    for request in &requests {
        for reply in [gateway.call(request).await, http2.call(request).await] {
            let id = reply.request_id();
            assert!(id != "req_upstream" && seen.insert(id), "{reply:?}");
        }
    }
}

#[tokio::test]
async fn a_reply_is_framed_once_and_never_hop_by_hop() {
    let (origin, gateway) = serving().await;
    for framing in [Framing::Chunked, Framing::UntilClose] {
        origin.next(Reply::json_text(200, sample("chat_response.json")).framed(framing));
        let reply = gateway.post(PATH, &chat()).await;
        let has_length = reply.assert_ok().header("content-length").is_some();
        let is_chunked = reply.header("transfer-encoding").is_some();
        assert!(has_length != is_chunked, "{reply:?}");
        assert_ne!(reply.header("connection"), Some("close"), "{reply:?}");
    }
}

#[tokio::test]
async fn the_server_is_not_named_after_its_library() {
    let (_origin, gateway) = serving().await;
    for reply in [gateway.get("/health").await, gateway.get("/nowhere").await] {
        let server = reply.header("server").unwrap_or_default().to_lowercase();
        assert!(!server.contains("pingora"), "{server}");
    }
}

#[tokio::test]
async fn interim_headers_are_swallowed_and_a_switch_of_protocol_is_refused() {
    let (origin, gateway) = serving().await;
    for status in [100, 102, 103] {
        origin.next(Reply::json_text(200, sample("chat_response.json")).after_interim(status));
        let reply = gateway.post(PATH, &chat()).await;
        assert_eq!(reply.assert_ok().body, sample("chat_response.json"), "{status}");
        assert!(reply.interim.is_empty(), "{status}");
        origin.next(Reply::sse(sample("chat_stream_openai.sse")).after_interim(status));
        gateway.post(PATH, &chat_stream()).await.assert_ok();
    }
    let switch = "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nraw";
    origin.next(Reply::recorded(switch));
    assert_openai_error(&gateway.post(PATH, &chat()).await, 502, "upstream_error");
    gateway.post(PATH, &chat()).await.assert_ok();
}

#[tokio::test]
async fn a_redirect_is_never_followed() {
    let (origin, gateway) = serving().await;
    let elsewhere = Origin::start().await;
    for status in [301, 302, 307, 308] {
        let location = format!("{}/chat/completions", elsewhere.base_url());
        origin.next(Reply::json_text(status, "{}").header("location", &location));
        let reply = gateway.post(PATH, &chat()).await;
        assert_openai_error(&reply, 502, "upstream_error");
        reply.headers.assert_none_of(&["location"]);
    }
    assert!(elsewhere.calls().is_empty() && elsewhere.catalogue_calls().is_empty());
}

#[tokio::test]
async fn a_garbled_reply_is_a_failure_and_none_of_it_is_shown() {
    let (origin, gateway) = serving().await;
    for garbage in [
        "\x01\x02 secret-garbage\r\n\r\n".to_owned(),
        "HTTP/1.1 999999 secret-garbage\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nsecret-garbage".to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 5\r\n\r\nsecret-garbage"
            .to_owned(),
    ] {
        origin.always(Reply::recorded(garbage.as_bytes()));
        let reply = gateway.post(PATH, &chat()).await;
        assert_openai_error(&reply, 502, "upstream_error");
        assert!(!reply.text().contains("secret-garbage"), "{}", reply.text());
        gateway.log_of(&reply).await;
    }
    assert!(!gateway.process.output().contains("secret-garbage"));
}
