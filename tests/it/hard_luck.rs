//! An unlucky world: upstreams that refuse to read, lie about lengths or die quietly, and callers
//! that are old, slow or gone.

use crate::harness::{
    Authority, Config, FINISH, Framing, Gate, Gateway, Origin, Reply, Request, assert_openai_error,
    chat, chat_stream, delta, last_event, serving, serving_with, within_time,
};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

const PATH: &str = "/v1/chat/completions";
/// Far below every deadline that is not meant to decide a test.
const SOON: Duration = Duration::from_secs(8);

/// A call too large for the buffers of any socket.
fn huge() -> Request {
    let filler = "x".repeat(20_000_000);
    Request::new("POST", PATH)
        .json_text(chat().to_string().replace("\"hi\"", &format!("\"{filler}\"")))
}

/// A call's reply, long before the deadlines of the upstream.
async fn soon(gateway: &Gateway, request: &Request) -> crate::harness::Response {
    let mut client = gateway.client().await;
    within_time(SOON, "a reply", client.try_call(request)).await.expect("a reply")
}

/// An upstream that reads the beginning of one request, says `answer`, and then neither reads nor
/// writes nor closes.
async fn deaf(answer: &'static str, tls: Option<TlsAcceptor>) -> String {
    async fn play(mut io: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin, answer: &str) {
        let mut begin = [0; 1024];
        if io.read(&mut begin).await.is_ok() && !begin.starts_with(b"GET") {
            io.write_all(answer.as_bytes()).await.unwrap();
            io.flush().await.unwrap();
            std::future::pending::<()>().await;
        }
    }
    async fn serve(tcp: TcpStream, tls: Option<TlsAcceptor>, answer: &str) {
        match tls {
            Some(tls) => play(tls.accept(tcp).await.unwrap(), answer).await,
            None => play(tcp, answer).await,
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let scheme = if tls.is_some() { "https" } else { "http" };
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(serve(tcp, tls.clone(), answer));
        }
    });
    format!("{scheme}://{address}/v1")
}

/// An HTTP/2 upstream that answers every request with this body and trailers behind it.
async fn trailing(body: &'static str) -> String {
    async fn play(tcp: TcpStream, body: &'static str) {
        let Ok(mut http2) = h2::server::handshake(tcp).await else { return };
        while let Some(Ok((_request, mut respond))) = http2.accept().await {
            let head = http::Response::builder().header("content-type", "application/json");
            let mut reply = respond.send_response(head.body(()).unwrap(), false).unwrap();
            reply.send_data(body.into(), false).unwrap();
            reply.send_trailers(http::HeaderMap::new()).unwrap();
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(play(tcp, body));
        }
    });
    format!("http://{address}/v1")
}

const REFUSAL: &str = "HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\n{}";

#[tokio::test]
async fn an_upstream_that_answers_and_reads_no_further_is_heard() {
    let gateway =
        Gateway::start(&Config::new().upstream("main", &deaf(REFUSAL, None).await, "")).await;
    let reply = soon(&gateway, &huge()).await;
    assert_openai_error(&reply, 413, "request_too_large");
}

#[tokio::test]
async fn an_http2_upstream_that_answers_and_reads_no_further_is_heard() {
    let (origin, gateway) = serving_with("http2: always", "read_timeout: 30s").await;
    origin.next(Reply::json_text(413, "{}").early().hang());
    let reply = soon(&gateway, &huge()).await;
    assert_openai_error(&reply, 413, "request_too_large");
}

#[tokio::test]
async fn an_upstream_that_reads_nothing_over_tls_is_left_in_time() {
    let authority = Authority::new();
    let tls = TlsAcceptor::from(Arc::new(authority.server("127.0.0.1", &["http/1.1"])));
    let folder = TempDir::new().unwrap();
    let ca = authority.write_ca(folder.path());
    let extra = format!("tls: {{ ca: \"{}\" }}, timeouts: {{ first_byte: 1s }}", ca.display());
    let config = Config::new().upstream("main", &deaf("", Some(tls)).await, &extra);
    let gateway = Gateway::start_in(folder, &config).await;
    let reply = soon(&gateway, &huge()).await;
    assert_openai_error(&reply, 504, "upstream_timeout");
    gateway.metric_becomes("cirque_inflight_requests", &[], 0.0).await;
}

#[tokio::test]
async fn a_failing_status_moves_on_without_waiting_for_its_body() {
    let (bad, good) = (Origin::start().await, Origin::start().await);
    let config = Config::new()
        .upstream("bad", &bad.base_url(), "")
        .upstream("good", &good.base_url(), "")
        .route_over("bad, good");
    let gateway = Gateway::start(&config).await;
    for body in [chat(), chat_stream()] {
        bad.always(Reply::head(503, "application/json", Framing::Length(100)).piece("{").hang());
        for _ in 0..2 {
            soon(&gateway, &Request::post(PATH, &body)).await.assert_ok();
        }
    }
    assert_eq!(bad.calls().len(), 2);
}

#[tokio::test]
async fn a_long_json_reply_to_a_stream_call_is_refused_before_it_has_ended() {
    let (origin, gateway) = serving().await;
    let filler = "y".repeat(70_000);
    for framing in [Framing::Length(100_000), Framing::Chunked] {
        let script = Reply::head(200, "application/json", framing).piece("{\"choices\":[\"");
        origin.always(script.piece(&filler).hang());
        let reply = soon(&gateway, &Request::post(PATH, &chat_stream())).await;
        assert_openai_error(&reply, 502, "upstream_error");
        assert!(reply.text().contains("no stream where one was asked for"), "{framing:?}");
    }
}

#[tokio::test]
async fn a_used_connection_is_no_excuse_to_ask_a_failing_upstream_again() {
    for (http2, failure) in [
        ("always", Reply::reset_at_once()),
        ("always", Reply::closed()),
        ("never", Reply::reset_at_once()),
        ("never", Reply::closed()),
        ("never", Reply::recorded("garbage\r\n\r\n")),
        ("never", Reply::recorded("HTTP/1.1 200 OK\r\ncontent-")),
        ("never", Reply::closed().after_interim(103)),
    ] {
        for attempts in [1, 2] {
            let origin = Origin::start().await;
            let config = Config::new()
                .upstream("main", &origin.base_url(), &format!("http2: {http2}"))
                .route(&format!(
                    "models: [\"*\"], upstreams: [main], retry: {{ attempts: {attempts} }}"
                ));
            let gateway = Gateway::start(&config).await;
            for _ in 0..3 {
                // So that there are used connections for each attempt.
                let (one, two) = (chat(), chat());
                let (one, two) = tokio::join!(gateway.post(PATH, &one), gateway.post(PATH, &two));
                one.assert_ok();
                two.assert_ok();
            }
            origin.take_calls();
            origin.always(failure.clone());
            let reply = gateway.post(PATH, &chat()).await;
            assert_openai_error(&reply, 502, "upstream_error");
            assert_eq!(origin.calls().len(), attempts, "http2: {http2}: each is counted");
            let said = attempts.to_string();
            assert_eq!(reply.header("x-cirque-attempts"), Some(&*said), "http2: {http2}");
        }
    }
}

#[tokio::test]
async fn an_http2_connection_that_gave_no_answer_in_time_gets_no_more_calls() {
    let (origin, gateway) =
        serving_with("http2: always, timeouts: { first_byte: 1s }", "read_timeout: 30s").await;
    origin.next(Reply::silence());
    assert_openai_error(&gateway.post(PATH, &chat()).await, 504, "upstream_timeout");
    gateway.post(PATH, &chat()).await.assert_ok();
    let connections: Vec<_> = origin.calls().iter().map(|call| call.connection).collect();
    assert_ne!(connections[0], connections[1]);
}

#[tokio::test]
async fn no_upstream_is_asked_once_the_time_of_the_whole_call_is_over() {
    let (slow, good) = (Origin::start().await, Origin::start().await);
    let total = "timeouts: { first_byte: 1s, first_token: 1s, idle: 1s, total: 1s }";
    let config = Config::new()
        .upstream("slow", &slow.base_url(), total)
        .upstream("good", &good.base_url(), total)
        .route_over("slow, good");
    let gateway = Gateway::start(&config).await;
    slow.always(Reply::silence());
    good.always(Reply::silence());
    let reply = gateway.post(PATH, &chat()).await;
    assert_openai_error(&reply, 504, "upstream_timeout");
    assert_eq!(gateway.log_of(&reply).await["attempts"], 1);
    assert_eq!(slow.calls().len() + good.calls().len(), 1);
}

#[tokio::test]
async fn a_caller_that_reads_slowly_has_no_longer_than_the_whole_call_may_take() {
    let (origin, gateway) = serving_with("timeouts: { idle: 1s, total: 2s }", "").await;
    origin.always(Reply::stream().repeat(delta("token").repeat(100), Duration::ZERO));
    let mut slow = gateway.client().await;
    let reply = slow.open(&Request::post(PATH, &chat_stream())).await;
    let mut deaf = gateway.client().await;
    deaf.open(&Request::post(PATH, &chat_stream())).await;
    let reading = async {
        let mut body = Vec::new();
        while let Some(piece) = slow.piece().await.expect("a proper end") {
            body.extend_from_slice(&piece);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        body
    };
    let body = within_time(SOON, "the end of an endless stream", reading).await;
    assert_eq!(last_event(&body).json()["error"]["code"], "upstream_timeout");
    assert_eq!(gateway.log_of(&reply).await["error_code"], "upstream_timeout");
    // One that reads nothing at all is left alone, in every sense.
    let over = gateway.metric_becomes("cirque_inflight_requests", &[], 0.0);
    within_time(2 * SOON, "the end of the other", over).await;
}

#[tokio::test]
async fn nobody_is_asked_for_a_caller_that_has_left() {
    let (bad, good) = (Origin::start().await, Origin::start().await);
    let config = Config::new()
        .upstream("bad", &bad.base_url(), "on_disconnect: drain, priority: 1")
        .upstream("good", &good.base_url(), "on_disconnect: drain, priority: 2")
        .route(
            "models: [\"*\"], upstreams: [bad, good], balance: priority, \
             retry: { attempts: 3, budget: 1.0 }",
        );
    let gateway = Gateway::start(&config).await;
    let gate = Gate::new();
    bad.next(Reply::error(503).after(&gate));
    let mut client = gateway.client().await;
    client.send_request(&Request::post(PATH, &chat())).await;
    bad.call(0).await;
    drop(client);
    // The gateway sees the caller leave before the test goes on.
    tokio::time::sleep(Duration::from_secs(2)).await;
    gate.open();
    let line = gateway.log_where(|line| line["finish"] == "cancelled").await;
    assert_eq!(line["attempts"], 1, "{line}");
    assert!(good.calls().is_empty());
}

#[tokio::test]
async fn one_content_length_reaches_the_caller() {
    let (origin, gateway) = serving().await;
    let body = format!("{{\"choices\":[\"{}\"]}}", "y".repeat(70_000));
    let twice = format!("content-length: {}\r\n", body.len()).repeat(2);
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{twice}\r\n");
    origin.next(Reply::recorded(head + &body));
    let reply = gateway.post(PATH, &chat()).await;
    assert_eq!(reply.headers.all("content-length").len(), 1);
    assert_eq!(reply.text(), body);
}

#[tokio::test]
async fn a_json_reply_without_a_length_that_is_cut_moves_on() {
    let (bad, good) = (Origin::start().await, Origin::start().await);
    let config = Config::new()
        .upstream("bad", &bad.base_url(), "")
        .upstream("good", &good.base_url(), "")
        .route_over("bad, good");
    let gateway = Gateway::start(&config).await;
    let half = Reply::head(200, "application/json", Framing::UntilClose).piece("{\"choices\":[");
    bad.always(half.close());
    for _ in 0..2 {
        let reply = gateway.post(PATH, &chat()).await;
        assert_eq!(reply.assert_ok().header("x-cirque-upstream"), Some("good"));
    }
    assert_eq!(bad.calls().len(), 1);
}

#[tokio::test]
async fn an_http10_caller_that_keeps_its_connection_learns_where_a_stream_ends() {
    let (origin, gateway) = serving().await;
    origin.next(Reply::sse([delta("a"), FINISH.to_owned()].concat()));
    let mut client = gateway.client().await;
    let request = Request::post(PATH, &chat_stream()).header("connection", "keep-alive");
    let bytes = String::from_utf8(request.encode("x")).unwrap();
    client.send(bytes.replacen("HTTP/1.1", "HTTP/1.0", 1)).await;
    let reply = client.reply().await.expect("a reply");
    assert_eq!(reply.text(), [delta("a"), FINISH.to_owned()].concat());
    assert_ne!(reply.header("connection"), Some("keep-alive"));
}

#[tokio::test]
async fn an_http10_caller_is_never_told_to_continue() {
    let (_origin, gateway) = serving().await;
    let mut client = gateway.client().await;
    let request = Request::post(PATH, &chat()).header("expect", "100-continue");
    let bytes = String::from_utf8(request.encode("x")).unwrap();
    client.send(bytes.replacen("HTTP/1.1", "HTTP/1.0", 1)).await;
    let reply = client.reply().await.expect("a reply");
    assert_eq!(reply.assert_ok().interim, [0; 0]);
}

#[tokio::test]
async fn empty_lines_do_not_keep_a_connection_open() {
    let (_origin, gateway) = serving_with("", "read_timeout: 1s").await;
    let mut client = gateway.client().await;
    let lines = "\r\n".repeat(100);
    let dripping = client.drip(lines.as_bytes(), Duration::from_millis(100));
    within_time(SOON, "the end of the dripping", dripping).await;
    within_time(Duration::from_secs(1), "the end of the connection", client.closed()).await;
}

#[tokio::test]
async fn the_callers_own_fault_moves_on_to_nobody_after_a_comment_either() {
    let (one, two) = (Origin::start().await, Origin::start().await);
    let config = Config::new()
        .server("keepalive_comment: 1s")
        .upstream("one", &one.base_url(), "")
        .upstream("two", &two.base_url(), "")
        .route_over("one, two");
    let gateway = Gateway::start(&config).await;
    let gate = Gate::new();
    for origin in [&one, &two] {
        origin.always(Reply::error(400).after(&gate));
    }
    let mut client = gateway.client().await;
    let reply = client.open(&Request::post(PATH, &chat_stream())).await;
    client.read_until(": keepalive\n\n").await;
    gate.open();
    let (rest, complete) = client.rest().await;
    assert!(complete);
    let error = last_event(&rest).json()["error"].clone();
    assert_eq!(
        (&error["code"], &error["message"]),
        (&json!("invalid_request"), &json!("simulated"))
    );
    assert_eq!(one.calls().len() + two.calls().len(), 1);
    let line = gateway.log_of(&reply).await;
    assert_eq!(line["error_code"], "invalid_request", "{line}");
}

#[tokio::test]
async fn a_plain_reply_on_messages_passes_whatever_its_text_looks_like() {
    let (origin, gateway) = serving().await;
    let text = "{\"content\":[{\"text\":\"\"}],\n\n\"a\":\n\"data: [DONE]\"\n\n}";
    origin.next(Reply::json_text(200, text));
    let mut body = chat();
    body["max_tokens"] = json!(64);
    let reply = gateway.post("/v1/messages", &body).await;
    assert_eq!((reply.status, reply.text().as_str()), (200, text));
}

#[tokio::test]
async fn an_error_under_a_good_status_moves_on_though_trailers_follow() {
    let good = Origin::start().await;
    let bad = trailing("{\"error\":{\"message\":\"overloaded\",\"code\":502}}").await;
    let config = Config::new()
        .upstream("bad", &bad, "http2: always")
        .upstream("good", &good.base_url(), "")
        .route_over("bad, good");
    let gateway = Gateway::start(&config).await;
    for _ in 0..2 {
        let reply = gateway.post(PATH, &chat()).await;
        assert_eq!(reply.assert_ok().header("x-cirque-upstream"), Some("good"));
    }
}

#[tokio::test]
async fn a_stream_that_comes_compressed_unasked_is_not_held() {
    let (origin, gateway) = serving().await;
    let gate = Gate::new();
    let script = Reply::stream().piece(delta("a")).wait(&gate).piece(FINISH).end();
    origin.next(script.gzipped());
    let mut client = gateway.client().await;
    let reply = client.open(&Request::post(PATH, &chat_stream())).await;
    assert_eq!(reply.header("content-encoding"), None);
    assert_eq!(reply.header("x-accel-buffering"), Some("no"));
    assert_eq!(client.piece().await.unwrap().unwrap(), delta("a").as_bytes());
    gate.open();
    assert_eq!(client.rest().await, (FINISH.as_bytes().to_vec(), true));
}
