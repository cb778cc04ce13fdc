//! The harness against itself: an origin and the clients face each other without a gateway.

use super::{
    Authority, Client, Config, Fate, Framing, Gate, Http2Client, KEY, Origin, RefusedPort, Reply,
    Request, chat, events, ids, metrics,
};
use bytes::Bytes;

async fn pair() -> (Origin, Client) {
    let origin = Origin::start().await;
    let client = Client::connect(origin.address()).await;
    (origin, client)
}

#[tokio::test]
async fn the_origin_answers_and_remembers() {
    let (origin, mut client) = pair().await;
    origin.next(Reply::json_text(418, "{}").header("x-mark", "yes"));
    let request = Request::post("/v1/chat/completions", &chat()).header("x-seen", "1");
    let reply = client.call(&request.clone().chunked(5)).await;
    assert_eq!((reply.status, reply.text().as_str()), (418, "{}"));
    assert_eq!(reply.header("x-mark"), Some("yes"));
    client.call(&request).await.assert_ok();
    let calls = origin.calls();
    assert_eq!(calls.len(), 2);
    assert_eq!(calls[0].json(), chat());
    assert_eq!(calls[0].hash, calls[1].hash);
    assert_eq!((calls[0].connection, calls[1].connection), (0, 0));
    assert_eq!(calls[1].headers.get("x-seen"), Some("1"));
    assert_eq!(calls[1].fate().await, Fate::Answered);
}

#[tokio::test]
async fn the_catalogue_does_not_count_as_a_call() {
    let (origin, mut client) = pair().await;
    let list = client.call(&Request::get("/v1/models")).await;
    assert_eq!(ids(&list.json()).len(), 3);
    assert!(origin.calls().is_empty());
    assert_eq!(origin.catalogue_calls().len(), 1);
}

#[tokio::test]
async fn a_script_pauses_until_the_test_lets_it_go_on() {
    let (origin, mut client) = pair().await;
    let gate = Gate::new();
    origin.next(Reply::stream().piece("data: 1\n\n").wait(&gate).piece("data: 2\n\n").end());
    client.open(&Request::post("/v1/chat/completions", &chat())).await;
    assert_eq!(client.read_until("\n\n").await, b"data: 1\n\n");
    gate.open();
    assert_eq!(client.rest().await, (b"data: 2\n\n".to_vec(), true));
}

#[tokio::test]
async fn a_cut_reply_is_seen_as_cut() {
    let (origin, mut client) = pair().await;
    origin.next(Reply::stream().piece("data: 1\n\n").reset());
    let reply = client.call(&Request::post("/x", &chat())).await;
    assert!(!reply.complete);
    let mut client = Client::connect(origin.address()).await;
    origin.next(Reply::head(200, "text/plain", Framing::Length(9)).piece("abc").close());
    let reply = client.call(&Request::post("/x", &chat())).await;
    assert_eq!((reply.text().as_str(), reply.complete), ("abc", false));
    let mut client = Client::connect(origin.address()).await;
    origin.next(Reply::closed());
    assert!(client.try_call(&Request::post("/x", &chat())).await.is_none());
}

#[tokio::test]
async fn the_origin_notices_a_caller_that_leaves() {
    let (origin, mut client) = pair().await;
    origin.next(Reply::silence());
    client.send_request(&Request::post("/x", &chat())).await;
    let call = origin.call(0).await;
    drop(client);
    assert_eq!(call.fate().await, Fate::CallerLeft);

    let mut client = Client::connect(origin.address()).await;
    origin.next(Reply::stream().piece("data: 1\n\n").hang());
    client.open(&Request::post("/x", &chat())).await;
    let call = origin.call(1).await;
    client.reset();
    assert_eq!(call.fate().await, Fate::CallerLeft);
}

#[tokio::test]
async fn interim_headers_and_early_answers_reach_the_client() {
    let (origin, mut client) = pair().await;
    origin.next(Reply::json_text(200, "{}").after_interim(103));
    let reply = client.call(&Request::post("/x", &chat())).await;
    assert_eq!((reply.interim, reply.status), (vec![103], 200));
    origin.next(Reply::json_text(413, "{}").early().close());
    let large = Request::new("POST", "/x").body(Bytes::from(vec![b'x'; 4 << 20]));
    assert_eq!(client.call(&large).await.status, 413);
}

#[tokio::test]
async fn http2_carries_the_same_scripts() {
    let origin = Origin::start().await;
    let mut client = Http2Client::connect(origin.address()).await;
    origin.next(Reply::sse("data: 1\n\n"));
    let reply = client.call(&Request::post("/v1/chat/completions?a=b", &chat())).await;
    assert_eq!(reply.assert_ok().body, b"data: 1\n\n");
    let call = origin.only_call();
    assert!(call.http2);
    assert_eq!(call.target, "/v1/chat/completions?a=b");
    assert_eq!(call.json(), chat());

    origin.next(Reply::stream().piece("data: 1\n\n").hang());
    let reply = client.open(&Request::post("/x", &chat())).await;
    let call = origin.call(1).await;
    drop(reply);
    assert_eq!(call.fate().await, Fate::CallerLeft);
    // RST_STREAM overtakes what is still queued: the first piece must have arrived.
    let gate = Gate::new();
    origin.next(Reply::stream().piece("data: 1\n\n").wait(&gate).reset());
    let mut reply = client.open(&Request::post("/x", &chat())).await;
    assert!(matches!(reply.piece().await, Some(Ok(_))));
    gate.open();
    assert!(!reply.whole().await.complete);
}

#[tokio::test]
async fn tls_carries_both_versions() {
    let authority = Authority::new();
    let origin = Origin::start_tls(authority.server("127.0.0.1", &["h2", "http/1.1"])).await;
    let mut old = Client::connect_tls(origin.address(), &authority).await;
    old.call(&Request::post("/x", &chat())).await.assert_ok();
    let mut new = Http2Client::connect_tls(origin.address(), &authority).await;
    new.call(&Request::post("/x", &chat())).await.assert_ok();
    let versions: Vec<bool> = origin.calls().iter().map(|call| call.http2).collect();
    assert_eq!(versions, [false, true]);
}

#[tokio::test]
async fn a_refused_port_refuses() {
    let port = RefusedPort::take();
    let url = port.base_url();
    let address = url.strip_prefix("http://").and_then(|url| url.strip_suffix("/v1"));
    assert!(tokio::net::TcpStream::connect(address.expect("an address")).await.is_err());
}

#[test]
fn a_configuration_is_the_yaml_it_was_meant_to_be() {
    let config = Config::new()
        .server("max_body: ${LARGEST:-1KiB} # a comment")
        .key("name: b, secret: sk-b, budget: { usd: 1.0, per: day }")
        .upstream("main", "http://127.0.0.1:1/v1", "models: { \"a\": \"b/c\" }, health: off")
        .route_over("main")
        .section("cors:\n  allowed_origins: [\"*\"]");
    let read: serde_json::Value = serde_yaml::from_str(&config.text()).expect("YAML");
    assert_eq!(read["server"]["listen"], "127.0.0.1:0");
    assert_eq!(read["server"]["max_body"], "${LARGEST:-1KiB}");
    assert_eq!(read["keys"][0]["secret"], KEY);
    assert_eq!(read["keys"][1]["budget"]["usd"], 1.0);
    assert_eq!(read["upstreams"][0]["models"]["a"], "b/c");
    assert_eq!(read["routes"][0]["retry"]["attempts"], 3);
    assert_eq!(read["cors"]["allowed_origins"][0], "*");
}

#[test]
fn events_are_read_as_a_browser_reads_them() {
    let body = b": note\r\n\r\nevent: a\r\ndata: 1\r\ndata:2\r\n\r\ndata: 3\n\ndata: unfinished\n";
    let read: Vec<_> = events(body).into_iter().map(|e| (e.name, e.data)).collect();
    assert_eq!(read, [("a".into(), "1\n2".into()), (String::new(), "3".into())]);
}

#[test]
fn metrics_are_read_as_a_scraper_reads_them() {
    let text = "# HELP x y\nx{a=\"1\",b=\"q\\\"{,}\"} 2\nx{a=\"1\",b=\"z\"} 3\ny 4e-2\n";
    assert_eq!(metrics::total(text, "x", &[("a", "1")]), Some(5.0));
    assert_eq!(metrics::total(text, "x", &[("b", "q\"{,}")]), Some(2.0));
    assert_eq!(metrics::total(text, "x", &[("a", "2")]), None);
    assert_eq!(metrics::total(text, "y", &[]), Some(0.04));
}
