//! Callers that leave: the upstream learns it at once, or its answer is read for the bill.

use crate::harness::{
    Client, Config, Fate, Framing, Gate, Gateway, Origin, Reply, Request, chat, chat_stream,
    eventually, sample, serving,
};

const PATH: &str = "/v1/chat/completions";
const TOKEN: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n";

fn leave(client: Client, how: &str) {
    match how {
        "FIN" => drop(client),
        _ => client.reset(),
    }
}

async fn assert_nothing_left_open(gateway: &Gateway) {
    gateway.metric_becomes("cirque_inflight_requests", &[], 0.0).await;
}

#[tokio::test]
async fn a_caller_that_leaves_before_any_reply_ends_the_upstreams_work() {
    let (origin, gateway) = serving().await;
    origin.always(Reply::silence());
    let mut number = 0;
    for body in [chat(), chat_stream()] {
        for how in ["FIN", "RST"] {
            let mut client = gateway.client().await;
            client.send_request(&Request::post(PATH, &body)).await;
            let call = origin.call(number).await;
            leave(client, how);
            assert_eq!(call.fate().await, Fate::CallerLeft, "{how}");
            number += 1;
        }
    }
    let lines = || gateway.log().into_iter().filter(|line| line["status"] == 499);
    eventually("four lines about callers that left", || async {
        (lines().count() == 4).then_some(())
    })
    .await;
    assert!(lines().all(|line| line["finish"] == "cancelled" && line["upstream"] == "main"));
    assert_nothing_left_open(&gateway).await;
}

#[tokio::test]
async fn a_caller_that_leaves_in_the_middle_of_a_stream_ends_the_upstreams_work() {
    let (origin, gateway) = serving().await;
    origin.always(Reply::stream().piece(TOKEN).hang());
    for (number, how) in ["FIN", "RST"].into_iter().enumerate() {
        let mut client = gateway.client().await;
        let reply = client.open(&Request::post(PATH, &chat_stream())).await;
        client.read_until(TOKEN).await;
        let call = origin.call(number).await;
        leave(client, how);
        assert_eq!(call.fate().await, Fate::CallerLeft, "{how}");
        let line = gateway.log_of(&reply).await;
        assert_eq!(line["finish"], "cancelled", "{line}");
        assert_eq!(line["status"], 200, "{line}");
    }
    assert_nothing_left_open(&gateway).await;
}

#[tokio::test]
async fn a_caller_that_leaves_a_talking_upstream_ends_its_work() {
    let (origin, gateway) = serving().await;
    let endless = (0..200_000).fold(Reply::stream(), |reply, _| reply.piece(TOKEN));
    origin.next(endless.end());
    let mut client = gateway.client().await;
    client.open(&Request::post(PATH, &chat_stream())).await;
    client.read_until(TOKEN).await;
    let call = origin.call(0).await;
    drop(client);
    assert_eq!(call.fate().await, Fate::CallerLeft);
    assert_nothing_left_open(&gateway).await;
}

#[tokio::test]
async fn a_caller_that_leaves_a_half_sent_plain_reply_ends_the_upstreams_work() {
    let (origin, gateway) = serving().await;
    let head = Reply::head(200, "application/json", Framing::Length(1000));
    origin.next(head.piece("{\"choices\":").hang());
    let mut client = gateway.client().await;
    client.send_request(&Request::post(PATH, &chat())).await;
    let call = origin.call(0).await;
    drop(client);
    assert_eq!(call.fate().await, Fate::CallerLeft);
    let line = gateway.log_where(|line| line["finish"] == "cancelled").await;
    assert_eq!(line["status"], 499, "{line}");
}

#[tokio::test]
async fn a_stream_reset_over_http2_ends_the_upstreams_work() {
    let (origin, gateway) = serving().await;
    let mut client = gateway.http2().await;
    origin.next(Reply::silence());
    let pending = client.send_request(&Request::post(PATH, &chat())).await;
    let silent = origin.call(0).await;
    drop(pending);
    assert_eq!(silent.fate().await, Fate::CallerLeft);

    origin.next(Reply::stream().piece(TOKEN).hang());
    let mut reply = client.open(&Request::post(PATH, &chat_stream())).await;
    reply.piece().await.expect("a piece").expect("no reset");
    let streaming = origin.call(1).await;
    drop(reply);
    assert_eq!(streaming.fate().await, Fate::CallerLeft);
    // The connection and its other streams live on.
    client.call(&Request::post(PATH, &chat())).await.assert_ok();
    assert_nothing_left_open(&gateway).await;
}

#[tokio::test]
async fn a_caller_that_leaves_an_http2_upstream_ends_its_work() {
    let origin = Origin::start().await;
    let config = Config::new().upstream("main", &origin.base_url(), "http2: always");
    let gateway = Gateway::start(&config).await;
    origin.always(Reply::silence());
    let mut client = gateway.client().await;
    client.send_request(&Request::post(PATH, &chat())).await;
    let silent = origin.call(0).await;
    drop(client);
    assert_eq!(silent.fate().await, Fate::CallerLeft);
    origin.always(Reply::stream().piece(TOKEN).hang());
    let mut client = gateway.client().await;
    client.open(&Request::post(PATH, &chat_stream())).await;
    let streaming = origin.call(1).await;
    drop(client);
    assert_eq!(streaming.fate().await, Fate::CallerLeft);
}

#[tokio::test]
async fn a_caller_that_leaves_while_sending_starts_no_work() {
    let (origin, gateway) = serving().await;
    let mut client = gateway.client().await;
    let bytes = Request::post(PATH, &chat()).encode("x");
    client.send(&bytes[..bytes.len() - 3]).await;
    drop(client);
    gateway.log_where(|line| line["route"] == PATH).await;
    assert_nothing_left_open(&gateway).await;
    assert!(origin.calls().is_empty());
}

#[tokio::test]
async fn draining_reads_on_for_the_bill() {
    let origin = Origin::start().await;
    let config = Config::new().upstream("main", &origin.base_url(), "on_disconnect: drain");
    let gateway = Gateway::start(&config).await;
    let stream = sample("chat_stream_openrouter.sse");
    let middle = stream.len() / 2;
    let gate = Gate::new();
    let script = Reply::stream().piece(&stream[..middle]).wait(&gate).piece(&stream[middle..]);
    origin.next(script.end());
    let mut client = gateway.client().await;
    let reply = client.open(&Request::post(PATH, &chat_stream())).await;
    client.read_until("reasoning").await;
    client.reset();
    gate.open();
    assert_eq!(origin.call(0).await.fate().await, Fate::Answered);
    let line = gateway.log_of(&reply).await;
    assert_eq!(line["output_tokens"], 94, "{line}");
    assert_eq!(line["cost_usd"], 0.000_821_2, "{line}");
}

#[tokio::test]
async fn draining_reads_a_plain_reply_too() {
    let origin = Origin::start().await;
    let config = Config::new().upstream("main", &origin.base_url(), "on_disconnect: drain");
    let gateway = Gateway::start(&config).await;
    let gate = Gate::new();
    origin.next(Reply::json_text(200, sample("chat_response.json")).after(&gate));
    let mut client = gateway.client().await;
    client.send_request(&Request::post(PATH, &chat())).await;
    let call = origin.call(0).await;
    drop(client);
    gate.open();
    assert_eq!(call.fate().await, Fate::Answered);
    let line = gateway.log_where(|line| line["output_tokens"] == 94).await;
    assert_eq!(line["input_tokens"], 812, "{line}");
}
