//! Shutting down: what is open ends well, what is new is turned away, and the exit is clean.

use crate::harness::{
    Config, Gate, Gateway, Origin, Reply, Request, assert_openai_error, chat, chat_stream,
    eventually, last_event, sample, serving,
};
use serde_json::json;

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn an_open_stream_finishes_while_new_calls_are_turned_away() {
    for signal in ["TERM", "INT"] {
        let (origin, gateway) = serving().await;
        let gate = Gate::new();
        let stream = sample("chat_stream_openai.sse");
        let middle = stream.len() / 2;
        let script = Reply::stream().piece(&stream[..middle]).wait(&gate).piece(&stream[middle..]);
        origin.next(script.end());
        let mut idle = gateway.client().await;
        idle.call(&Request::get("/health")).await.assert_ok();
        let mut client = gateway.client().await;
        client.open(&Request::post(CHAT, &chat_stream())).await;
        let mut body = client.read_until("Ahoy").await;

        gateway.process.signal(signal);
        eventually("the end of readiness", || async {
            (gateway.admin_get("/ready").await.status == 503).then_some(())
        })
        .await;
        let refused = idle.call(&Request::post(CHAT, &chat())).await;
        assert_openai_error(&refused, 503, "draining");
        assert!(refused.header("retry-after").is_some(), "{refused:?}");

        gate.open();
        let (rest, complete) = client.rest().await;
        body.extend(rest);
        assert!(complete, "{signal}");
        assert_eq!(body, stream, "{signal}");
        assert_eq!(gateway.process.exit_code().await, 0, "{signal}");
        assert_eq!(origin.calls().len(), 1);
    }
}

#[tokio::test]
async fn an_idle_gateway_exits_at_once() {
    let (_origin, gateway) = serving().await;
    let mut idle = gateway.client().await;
    idle.call(&Request::get("/health")).await.assert_ok();
    let begun = std::time::Instant::now();
    gateway.process.signal("TERM");
    assert_eq!(gateway.process.exit_code().await, 0);
    assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_stream_that_outlasts_the_drain_is_cut_honestly() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&Config::to(&origin).server("drain: 1s")).await;
    let token = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n";
    origin.next(Reply::stream().piece(token).hang());
    let mut client = gateway.client().await;
    let reply = client.open(&Request::post(CHAT, &chat_stream())).await;
    client.read_until(token).await;
    gateway.process.signal("TERM");
    let (rest, complete) = client.rest().await;
    let is_told = !rest.is_empty() && last_event(&rest).json()["error"].is_object();
    assert!(is_told || !complete, "a cut stream ended like a good one");
    assert_eq!(gateway.process.exit_code().await, 0);
    let line = gateway.log_of(&reply).await;
    assert_eq!((&line["model"], &line["stream"]), (&chat()["model"], &json!(true)), "{line}");
    assert_eq!(
        (&line["finish"], &line["error_code"]),
        (&json!("error"), &json!("draining")),
        "{line}"
    );
}

#[tokio::test]
async fn a_second_signal_ends_the_wait() {
    let (origin, gateway) = serving().await;
    origin.next(Reply::silence());
    let mut client = gateway.client().await;
    client.send_request(&Request::post(CHAT, &chat())).await;
    origin.call(0).await;
    gateway.process.signal("TERM");
    eventually("the end of readiness", || async {
        (gateway.admin_get("/ready").await.status == 503).then_some(())
    })
    .await;
    gateway.process.signal("TERM");
    gateway.process.exit_code().await;
}
