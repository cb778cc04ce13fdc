//! Bodies of every size arrive at the upstream as they were sent, or not at all.

use crate::harness::{
    Config, Framing, Gateway, Origin, Reply, Request, assert_openai_error, chat, serving,
    within_time,
};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::time::Duration;

const PATH: &str = "/v1/chat/completions";
const MINUTES: Duration = Duration::from_mins(5);

/// A chat call of exactly so many bytes.
fn body_of(size: usize) -> Bytes {
    let empty = chat().to_string().replace("\"hi\"", "\"\"");
    let filler: String = ('a'..='z').cycle().take(size - empty.len()).collect();
    Bytes::from(empty.replace("\"\"", &format!("\"{filler}\"")))
}

fn smallest() -> usize {
    chat().to_string().len() - 2
}

fn hash(body: &[u8]) -> [u8; 32] {
    Sha256::digest(body).into()
}

#[track_caller]
fn assert_arrived(origin: &Origin, body: &Bytes, what: &str) {
    let call = origin.calls().pop().expect("a call");
    assert_eq!(call.length, body.len(), "{what}");
    assert_eq!(call.hash, hash(body), "{what}");
    let length = body.len().to_string();
    if !call.http2 {
        assert_eq!(call.headers.get("content-length"), Some(length.as_str()), "{what}");
        call.headers.assert_none_of(&["transfer-encoding", "expect"]);
    }
}

#[tokio::test]
async fn bodies_around_every_buffer_size_arrive_byte_for_byte() {
    let (origin, gateway) = serving().await;
    let mut http1 = gateway.client().await;
    let mut http2 = gateway.http2().await;
    for size in [smallest() + 1, 65_535, 65_536, 65_537, 5_000_000] {
        let body = body_of(size);
        assert_eq!(body.len(), size);
        let request = Request::new("POST", PATH).json_text(body.clone());
        http1.call(&request).await.assert_ok();
        assert_arrived(&origin, &body, &format!("{size} with its length"));
        http1.call(&request.clone().chunked(8_000)).await.assert_ok();
        assert_arrived(&origin, &body, &format!("{size} in chunks"));
        http2.call(&request).await.assert_ok();
        assert_arrived(&origin, &body, &format!("{size} over HTTP/2"));
    }
}

#[tokio::test]
async fn bodies_of_all_sizes_arrive_over_http2_to_an_http2_upstream() {
    let origin = Origin::start().await;
    let config = Config::new().upstream("main", &origin.base_url(), "http2: always");
    let gateway = Gateway::start(&config).await;
    let mut http2 = gateway.http2().await;
    for size in [smallest() + 1, 65_535, 65_536, 65_537, 5_000_000] {
        let body = body_of(size);
        http2.call(&Request::new("POST", PATH).json_text(body.clone())).await.assert_ok();
        assert_arrived(&origin, &body, &format!("{size} over HTTP/2 throughout"));
        assert!(origin.calls().pop().is_some_and(|call| call.http2));
    }
}

#[tokio::test]
async fn a_body_in_one_byte_chunks_arrives() {
    let (origin, gateway) = serving().await;
    let body = body_of(smallest() + 100);
    let request = Request::new("POST", PATH).json_text(body.clone()).chunked(1);
    gateway.call(&request).await.assert_ok();
    assert_arrived(&origin, &body, "one byte a chunk");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_megabytes_arrive_byte_for_byte() {
    let (origin, gateway) = serving().await;
    let body = body_of(100_000_000);
    let request = Request::new("POST", PATH).json_text(body.clone());
    let mut http1 = gateway.client().await;
    for (request, what) in
        [(request.clone(), "with its length"), (request.clone().chunked(60_000), "in chunks")]
    {
        let reply = within_time(MINUTES, what, http1.try_call(&request)).await;
        reply.expect("a reply").assert_ok();
        assert_arrived(&origin, &body, what);
    }
    let mut http2 = gateway.http2().await;
    http2.call_within(MINUTES, &request).await.assert_ok();
    assert_arrived(&origin, &body, "over HTTP/2");
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_however_it_comes() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&Config::to(&origin).server("max_body: 64KiB")).await;
    let largest = body_of(65_536);
    let request = Request::new("POST", PATH).json_text(largest.clone());
    for fits in [request.clone(), request.chunked(1_000)] {
        gateway.call(&fits).await.assert_ok();
        assert_arrived(&origin, &largest, "exactly the limit");
    }
    for size in [65_537, 1_000_000, 5_000_000] {
        let request = Request::new("POST", PATH).json_text(body_of(size));
        for large in [request.clone(), request.clone().chunked(10_000)] {
            let mut client = gateway.client().await;
            let reply = client.call(&large).await;
            assert_openai_error(&reply, 413, "request_too_large");
        }
        let reply = gateway.http2().await.call(&request).await;
        assert_openai_error(&reply, 413, "request_too_large");
    }
    assert_eq!(origin.calls().len(), 2);
}

#[tokio::test]
async fn an_upstream_that_answers_before_it_has_read_is_heard() {
    let (origin, gateway) = serving().await;
    let refusal = "{\"error\":{\"message\":\"too long\",\"code\":null}}";
    origin.next(Reply::json_text(400, refusal).early().close());
    let reply = gateway.call(&Request::new("POST", PATH).json_text(body_of(5_000_000))).await;
    assert_eq!((reply.status, reply.text().as_str()), (400, refusal));
}

#[tokio::test]
async fn large_replies_arrive_byte_for_byte() {
    let (origin, gateway) = serving().await;
    let mut http1 = gateway.client().await;
    let mut http2 = gateway.http2().await;
    for size in [65_535, 65_536, 65_537, 5_000_000] {
        let empty = "{\"object\":\"chat.completion\",\"choices\":[\"\"]}";
        let filler = format!("\"{}\"", "y".repeat(size - empty.len()));
        let reply = empty.replace("\"\"", &filler);
        for framing in [Framing::Length(reply.len() as u64), Framing::Chunked, Framing::UntilClose]
        {
            origin.always(Reply::json_text(200, &reply).framed(framing));
            let request = Request::post(PATH, &chat());
            let answer = http1.call(&request).await;
            assert_eq!(
                hash(&answer.assert_ok().body),
                hash(reply.as_bytes()),
                "{size} {framing:?}"
            );
            let answer = http2.call(&request).await;
            assert_eq!(
                hash(&answer.assert_ok().body),
                hash(reply.as_bytes()),
                "{size} {framing:?}"
            );
        }
    }
}
