//! TLS on either side, and which version of HTTP it carries.

use crate::harness::{
    Authority, Client, Config, Gateway, Http2Client, Origin, Reply, Request, assert_openai_error,
    chat, chat_stream, cirque, sample,
};
use tempfile::TempDir;

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn our_listener_serves_both_versions_over_tls() {
    let origin = Origin::start().await;
    let folder = TempDir::new().unwrap();
    let authority = Authority::new();
    let (cert, key) = authority.write_pair(folder.path(), "127.0.0.1");
    let tls = format!("tls: {{ cert: \"{}\", key: \"{}\" }}", cert.display(), key.display());
    let gateway = Gateway::start_in(folder, &Config::to(&origin).server(&tls)).await;
    let mut http1 = Client::connect_tls(gateway.data, &authority).await;
    let mut http2 = Http2Client::connect_tls(gateway.data, &authority).await;
    for _ in 0..2 {
        http1.call(&Request::post(CHAT, &chat())).await.assert_ok();
        http2.call(&Request::post(CHAT, &chat())).await.assert_ok();
    }
    origin.next(Reply::sse(sample("chat_stream_openai.sse")));
    let reply = http2.call(&Request::post(CHAT, &chat_stream())).await;
    assert_eq!(reply.assert_ok().body, sample("chat_stream_openai.sse"));
    assert_openai_error(&http1.call(&Request::get("/nowhere")).await, 404, "not_found");
}

#[tokio::test]
async fn the_health_check_knows_of_tls_and_a_renewed_certificate_is_named() {
    let origin = Origin::start().await;
    let folder = TempDir::new().unwrap();
    let authority = Authority::new();
    let (cert, key) = authority.write_pair(folder.path(), "127.0.0.1");
    let tls = format!("tls: {{ cert: \"{}\", key: \"{}\" }}", cert.display(), key.display());
    let config = Config::to(&origin).server(&tls);
    let gateway = Gateway::start_in(folder, &config).await;
    let well = cirque(
        &["health", "-c", "gateway.yaml", "--address", &gateway.data.to_string()],
        &[],
        Some(&config.text()),
    )
    .await;
    assert_eq!(well.code, 0, "{}", well.output);
    // Renewed under the same names: the rest of the configuration is applied all the same.
    authority.write_pair(gateway.process.folder(), "127.0.0.1");
    gateway.rewrite(&config.key("name: fresh, secret: sk-fresh").text());
    let reply = gateway.admin_call("POST", "/reload").await;
    assert_eq!(reply.json()["outcome"], "applied");
    let mut client = Client::connect_tls(gateway.data, &authority).await;
    let fresh = Request::post(CHAT, &chat()).anonymous().header("x-api-key", "sk-fresh");
    client.call(&fresh).await.assert_ok();
    let warned =
        |line: &serde_json::Value| line.to_string().contains("server.tls: its files are new");
    gateway.process.stderr.json_where("a warning", warned).await;
}

#[tokio::test]
async fn h2c_can_be_switched_off() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&Config::to(&origin).server("h2c: false")).await;
    gateway.post(CHAT, &chat()).await.assert_ok();
    let mut client = gateway.client().await;
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    if let Some(reply) = client.reply().await {
        assert!(reply.status >= 400, "{reply:?}");
    }
}

/// A gateway to one origin over TLS, with these settings besides the authority's file.
async fn upstream_tls(name: &str, alpn: &[&str], tls: &str, extra: &str) -> (Origin, Gateway) {
    let authority = Authority::new();
    let origin = Origin::start_tls(authority.server(name, alpn)).await;
    let folder = TempDir::new().unwrap();
    let ca = authority.write_ca(folder.path());
    let extra = format!("tls: {{ ca: \"{}\"{tls} }}{extra}", ca.display());
    let config = Config::new().upstream("main", &origin.base_url(), &extra);
    let gateway = Gateway::start_in(folder, &config).await;
    (origin, gateway)
}

#[tokio::test]
async fn an_upstream_with_a_private_authority_is_reached() {
    let (origin, gateway) = upstream_tls("127.0.0.1", &["http/1.1"], "", "").await;
    gateway.post(CHAT, &chat()).await.assert_ok();
    gateway.lists("acme/wisp-2-mini").await;
    assert!(!origin.only_call().http2);
}

#[tokio::test]
async fn http2_is_used_where_offered_unless_told_otherwise() {
    let both = ["h2", "http/1.1"];
    for (alpn, extra, http2) in [
        (&both[..], "", true),
        (&both[..], ", http2: auto", true),
        (&both[..], ", http2: never", false),
        (&both[..], ", http2: always", true),
        (&["http/1.1"][..], ", http2: auto", false),
        (&[][..], ", http2: auto", false),
    ] {
        let (origin, gateway) = upstream_tls("127.0.0.1", alpn, "", extra).await;
        origin.next(Reply::sse(sample("chat_stream_openai.sse")));
        let reply = gateway.post(CHAT, &chat_stream()).await;
        assert_eq!(reply.assert_ok().body, sample("chat_stream_openai.sse"));
        gateway.post(CHAT, &chat()).await.assert_ok();
        let versions: Vec<_> = origin.calls().iter().map(|call| call.http2).collect();
        assert_eq!(versions, [http2, http2], "{alpn:?}{extra}");
    }
}

#[tokio::test]
async fn http2_without_tls_is_spoken_only_when_told() {
    for (extra, http2) in [("http2: always", true), ("http2: auto", false), ("http2: never", false)]
    {
        let origin = Origin::start().await;
        let config = Config::new().upstream("main", &origin.base_url(), extra);
        let gateway = Gateway::start(&config).await;
        gateway.post(CHAT, &chat()).await.assert_ok();
        assert_eq!(origin.only_call().http2, http2, "{extra}");
    }
}

#[tokio::test]
async fn an_upstream_that_nobody_vouches_for_is_not_spoken_to() {
    let (stranger, known) = (Authority::new(), Authority::new());
    let origin = Origin::start_tls(stranger.server("127.0.0.1", &["http/1.1"])).await;
    let folder = TempDir::new().unwrap();
    let ca = known.write_ca(folder.path());
    let with_ca = format!("tls: {{ ca: \"{}\" }}", ca.display());
    let base = || Config::new();
    for config in [
        base().upstream("main", &origin.base_url(), &with_ca),
        base().upstream("main", &origin.base_url(), ""),
    ] {
        let gateway = Gateway::start(&config).await;
        let reply = gateway.post(CHAT, &chat()).await;
        assert_openai_error(&reply, 502, "upstream_error");
    }
    let unverified = base().upstream("main", &origin.base_url(), "tls: { verify: false }");
    let gateway = Gateway::start(&unverified).await;
    gateway.post(CHAT, &chat()).await.assert_ok();
    assert_eq!(origin.calls().len(), 1);
}

#[tokio::test]
async fn the_name_to_ask_for_and_check_can_be_set() {
    let name = "provider.example.com";
    let (origin, gateway) =
        upstream_tls(name, &["http/1.1"], ", sni: provider.example.com", "").await;
    gateway.post(CHAT, &chat()).await.assert_ok();
    assert_eq!(origin.calls().len(), 1);
    let (origin, gateway) = upstream_tls(name, &["http/1.1"], "", "").await;
    let reply = gateway.post(CHAT, &chat()).await;
    assert_openai_error(&reply, 502, "upstream_error");
    assert!(origin.calls().is_empty());
}
