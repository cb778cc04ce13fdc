//! Calls that nobody waited for: what an upstream may bill is charged, and nothing else.

use crate::harness::{
    Config, FINISH, Fate, Framing, Gate, Gateway, KEY, Origin, Reply, Request, assert_openai_error,
    chat, chat_stream, delta, eventually,
};
use serde_json::{Value, json};
use std::net::SocketAddr;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

const CHAT: &str = "/v1/chat/completions";
const MESSAGES: &str = "/v1/messages";
const RESPONSES: &str = "/v1/responses";
/// 1 $ a million tokens in, 10 $ a million out.
const PRICES: &str = "prices: { \"acme/*\": { input_per_million: 1, output_per_million: 10 } }";

/// A key with 5 $ and the prices above.
fn budgeted() -> Config {
    let key = format!("name: tester, secret: \"{KEY}\", budget: {{ usd: 5, per: day }}");
    Config::new().without_keys().key(&key).section(PRICES)
}

/// A call of 1,000 tokens of output at most: 0.01 $, and its prompt's 0.00004 $.
fn long() -> Value {
    let mut body = chat();
    body["max_tokens"] = json!(1_000);
    body
}

fn streamed() -> Value {
    let mut body = chat_stream();
    body["max_tokens"] = json!(1_000);
    body
}

fn is_reservation(usd: f64) -> bool {
    (0.010_01..0.010_1).contains(&usd)
}

fn is_prompt(usd: f64) -> bool {
    (0.000_005..0.000_1).contains(&usd)
}

async fn budget(gateway: &Gateway) -> Value {
    gateway.status().await["you"]["budget"].clone()
}

/// What was charged in the end, nothing being held back any more.
async fn charged(gateway: &Gateway) -> f64 {
    gateway.metric_becomes("cirque_inflight_requests", &[], 0.0).await;
    eventually("nothing held back", || async {
        let budget = budget(gateway).await;
        let used = budget["used_usd"].as_f64()?;
        let left = budget["remaining_usd"].as_f64()?;
        ((used + left - 5.0).abs() < 1e-9).then_some(used)
    })
    .await
}

/// Sends a call, and leaves once the upstream has it.
async fn leave(gateway: &Gateway, origin: &Origin, body: &Value) {
    let mut client = gateway.client().await;
    client.send_request(&Request::post(CHAT, body)).await;
    let call = origin.call(origin.calls().len()).await;
    drop(client);
    assert_eq!(call.fate().await, Fate::CallerLeft);
}

#[tokio::test]
async fn a_plain_call_that_its_caller_leaves_costs_what_was_reserved_for_it() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&budgeted().upstream("main", &origin.base_url(), "")).await;
    origin.next(Reply::silence());
    leave(&gateway, &origin, &long()).await;
    let first = charged(&gateway).await;
    assert!(is_reservation(first), "{first}");
    // A reply that had begun was written to its end.
    let head = Reply::head(200, "application/json", Framing::Length(1_000));
    origin.next(head.piece("{\"choices\":").hang());
    leave(&gateway, &origin, &long()).await;
    let second = charged(&gateway).await - first;
    assert!(is_reservation(second), "{second}");
    // A stream stops where it is left.
    origin.next(Reply::silence());
    leave(&gateway, &origin, &streamed()).await;
    let third = charged(&gateway).await - first - second;
    assert!(is_prompt(third), "{third}");
    let line = gateway.log_where(|line| line["finish"] == "cancelled").await;
    assert!(is_reservation(line["cost_usd"].as_f64().unwrap()), "{line}");
    let estimate = [("source", "estimate"), ("key", "tester")];
    let told = gateway.metric("cirque_cost_usd_total", &estimate).await.unwrap();
    assert!((told - first - second - third).abs() < 1e-9, "{told}");
}

/// A reply of 60,000 words, without an end.
fn endless() -> String {
    let text = "word ".repeat(60_000);
    format!(r#"{{"choices":[{{"index":0,"message":{{"role":"assistant","content":"{text}"#)
}

#[tokio::test]
async fn a_long_plain_reply_that_is_not_finished_costs_what_came_of_it() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&budgeted().upstream("main", &origin.base_url(), "")).await;
    let mut before = 0.0;
    let mut is_of_words = async |what: &str, words: f64| {
        let used = charged(&gateway).await;
        // A quarter of a token a byte.
        let (cost, least) = (used - before, words * 10e-6);
        before = used;
        assert!((least..least * 1.7).contains(&cost), "{what}: {cost}");
    };
    let begun = |framing| Reply::head(200, "application/json", framing).piece(endless());
    for (what, reply) in [
        ("a cut", begun(Framing::Length(350_000)).close()),
        ("a clean end", begun(Framing::Chunked).end()),
    ] {
        origin.next(reply);
        let mut client = gateway.client().await;
        client.send_request(&Request::post(CHAT, &long())).await;
        client.rest().await;
        is_of_words(what, 60_000.0).await;
    }
    origin.next(begun(Framing::Length(350_000)).hang());
    let mut client = gateway.client().await;
    client.open(&Request::post(CHAT, &long())).await;
    client.read_until(&"word ".repeat(40_000)).await;
    drop(client);
    is_of_words("a caller that leaves", 45_000.0).await;
}

/// A dialect's stream of 100 words whose first event names a usage, and its last one this.
fn counted_early(path: &str, usage: &Value) -> String {
    let words = "word ".repeat(100);
    let event =
        |data: Value| format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap());
    let early = json!({"prompt_tokens": 10, "completion_tokens": 1, "input_tokens": 10, "output_tokens": 1});
    if path == CHAT {
        let first = json!({"choices": [{"index": 0, "delta": {"content": ""}}], "usage": early});
        let last = json!({"choices": [], "usage": usage});
        let (first, last) = (format!("data: {first}\n\n"), format!("data: {last}\n\n"));
        return [&first, &delta(&words), FINISH, &last, "data: [DONE]\n\n"].concat();
    }
    let response = |status: &str, usage: &Value| json!({"id": "r", "status": status, "output": [], "usage": usage});
    let events = if path == MESSAGES {
        let message = json!({"id": "m", "type": "message", "content": [], "usage": early});
        let text = json!({"type": "text_delta", "text": words});
        vec![
            json!({"type": "message_start", "message": message}),
            json!({"type": "content_block_delta", "index": 0, "delta": text}),
            json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage}),
            json!({"type": "message_stop"}),
        ]
    } else {
        vec![
            json!({"type": "response.created", "response": response("in_progress", &early)}),
            json!({"type": "response.output_text.delta", "delta": words}),
            json!({"type": "response.completed", "response": response("completed", usage)}),
        ]
    };
    events.into_iter().map(event).collect()
}

#[tokio::test]
async fn a_usage_from_before_the_output_is_not_the_last_word() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&budgeted().upstream("main", &origin.base_url(), "")).await;
    let last = json!({"prompt_tokens": 10, "completion_tokens": 7, "input_tokens": 10, "output_tokens": 7});
    let halves = json!({"output_tokens": null, "input_tokens": 10});
    let estimate = ("estimate", 0.000_8..0.001_5);
    let counted = ("config", 0.000_079..0.000_081);
    for (path, usage, (source, usd)) in [
        (CHAT, Value::Null, estimate.clone()),
        (CHAT, last.clone(), counted.clone()),
        (CHAT, json!({"cost": 0.000_02}), ("upstream", 0.000_019..0.000_021)),
        (MESSAGES, Value::Null, estimate.clone()),
        (MESSAGES, halves, estimate.clone()),
        (MESSAGES, last.clone(), counted.clone()),
        (RESPONSES, Value::Null, estimate),
        (RESPONSES, last, counted),
    ] {
        origin.next(Reply::sse(counted_early(path, &usage)));
        let mut body = streamed();
        body["input"] = json!("hi");
        let reply = gateway.post(path, &body).await;
        let line = gateway.log_of(&reply).await;
        assert_eq!(line["cost_source"], source, "{path} {usage}: {line}");
        assert!(usd.contains(&line["cost_usd"].as_f64().unwrap()), "{path} {usage}: {line}");
    }
}

#[tokio::test]
async fn callers_that_leave_again_and_again_use_their_budget_up() {
    let origin = Origin::start().await;
    let key = format!("name: tester, secret: \"{KEY}\", budget: {{ usd: 0.05, per: day }}");
    let config = Config::to(&origin).without_keys().key(&key).section(PRICES);
    let gateway = Gateway::start(&config).await;
    origin.always(Reply::silence());
    for _ in 0..4 {
        leave(&gateway, &origin, &long()).await;
        gateway.metric_becomes("cirque_inflight_requests", &[], 0.0).await;
    }
    assert_openai_error(&gateway.post(CHAT, &long()).await, 429, "insufficient_quota");
    assert_eq!(origin.calls().len(), 4);
}

#[tokio::test]
async fn a_drained_reply_costs_what_it_says() {
    let origin = Origin::start().await;
    let config = budgeted().upstream("main", &origin.base_url(), "on_disconnect: drain");
    let gateway = Gateway::start(&config).await;
    let gate = Gate::new();
    origin.next(Reply::costing(0.001).after(&gate));
    let mut client = gateway.client().await;
    client.send_request(&Request::post(CHAT, &long())).await;
    origin.call(0).await;
    drop(client);
    gate.open();
    let used = charged(&gateway).await;
    assert!((used - 0.001).abs() < 1e-9, "{used}");
}

#[tokio::test]
async fn a_call_that_kept_us_waiting_for_too_long_costs_what_its_upstream_may_bill() {
    let origin = Origin::start().await;
    let config = budgeted().upstream("main", &origin.base_url(), "timeouts: { first_byte: 200ms }");
    let gateway = Gateway::start(&config).await;
    origin.always(Reply::silence());
    assert_openai_error(&gateway.post(CHAT, &streamed()).await, 504, "upstream_timeout");
    let stream = charged(&gateway).await;
    assert!(is_prompt(stream), "{stream}");
    assert_openai_error(&gateway.post(CHAT, &long()).await, 504, "upstream_timeout");
    let plain = charged(&gateway).await - stream;
    assert!(is_reservation(plain), "{plain}");
}

#[tokio::test]
async fn an_upstream_that_was_not_waited_for_is_paid_beside_the_one_that_answered() {
    let (slow, good) = (Origin::start().await, Origin::start().await);
    let config = budgeted()
        .upstream("slow", &slow.base_url(), "timeouts: { first_byte: 2s }, priority: 1")
        .upstream("good", &good.base_url(), "priority: 2")
        .route(
            "models: [\"*\"], upstreams: [slow, good], balance: priority, retry: { budget: 1.0 }",
        );
    let gateway = Gateway::start(&config).await;
    slow.always(Reply::silence());
    good.always(Reply::costing(0.002));
    let reply = gateway.post(CHAT, &long()).await;
    reply.assert_ok();
    let used = charged(&gateway).await;
    assert!(is_reservation(used - 0.002), "{used}");
    let line = gateway.log_of(&reply).await;
    assert!((line["cost_usd"].as_f64().unwrap() - used).abs() < 1e-9, "{line}");
    // One that answers with an error bills nothing, whoever is asked next.
    slow.always(Reply::error(500));
    good.always(Reply::error(500));
    assert_eq!(gateway.post(CHAT, &long()).await.status, 502);
    assert!((charged(&gateway).await - used).abs() < 1e-9);
}

/// A port that takes connections and never says or reads a word; gone when dropped.
struct Mute {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Mute {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Mute {
    async fn listen() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((connection, _)) = listener.accept().await {
                open.push(connection);
            }
        });
        Self { address, task }
    }
}

#[tokio::test]
async fn a_call_that_never_left_costs_nothing() {
    let mute = Mute::listen().await;
    let timeouts = "timeouts: { connect: 2s }";
    let config = budgeted().upstream("main", &format!("https://{}/v1", mute.address), timeouts);
    let gateway = Gateway::start(&config).await;
    assert_openai_error(&gateway.post(CHAT, &long()).await, 504, "upstream_timeout");
    assert!(charged(&gateway).await.abs() < 1e-12);
    // Nor where the caller leaves while the connection is made.
    let mut client = gateway.client().await;
    client.send_request(&Request::post(CHAT, &long())).await;
    gateway.metric_becomes("cirque_inflight_requests", &[], 1.0).await;
    drop(client);
    assert!(charged(&gateway).await.abs() < 1e-12);
}

#[tokio::test]
async fn a_call_of_which_only_half_went_out_costs_nothing() {
    let mute = Mute::listen().await;
    let config = budgeted().upstream("main", &format!("http://{}/v1", mute.address), "");
    let gateway = Gateway::start(&config).await;
    let mut body = long();
    // An image is not counted by its bytes; more of them than sockets hold.
    let image = format!("data:image/png;base64,{}", "A".repeat(24 << 20));
    body["messages"][0]["content"] = json!([{"type": "image_url", "image_url": {"url": image}}]);
    let mut client = gateway.client().await;
    let bytes = Request::post(CHAT, &body).encode("x");
    client.send(&bytes).await;
    gateway.metric_becomes("cirque_upstream_inflight", &[("upstream", "main")], 1.0).await;
    drop(client);
    assert!(charged(&gateway).await.abs() < 1e-12);
}

#[tokio::test]
async fn a_reply_that_broke_off_is_paid_beside_the_one_that_was_whole() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&budgeted().upstream("main", &origin.base_url(), "")).await;
    let head = Reply::head(200, "application/json", Framing::Length(1_000));
    origin.next(head.piece("{\"choices\":").close());
    origin.next(Reply::costing(0.002));
    gateway.post(CHAT, &long()).await.assert_ok();
    let used = charged(&gateway).await;
    assert!(is_reservation(used - 0.002), "{used}");
}

#[tokio::test]
async fn a_long_list_of_embeddings_has_no_output() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&budgeted().upstream("main", &origin.base_url(), "")).await;
    let vectors = json!({"data": [{"embedding": vec![0.123_456_789; 40_000]}]});
    origin.next(Reply::json(200, &vectors));
    let body = json!({"model": "acme/wisp", "input": "hi"});
    gateway.post("/v1/embeddings", &body).await.assert_ok();
    let used = charged(&gateway).await;
    assert!(is_prompt(used), "{used}");
}

#[tokio::test]
async fn who_leaves_before_a_price_is_known_does_not_call_for_free() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&budgeted().upstream("main", &origin.base_url(), "")).await;
    let text = "The supplier shall deliver the goods within thirty days of the order. ";
    let stream = (0..40).fold(Reply::stream(), |reply, _| reply.piece(delta(text)));
    origin.next(stream.piece(delta("the end")).hang());
    let mut body = chat_stream();
    body["model"] = json!("nobody/knows");
    let mut client = gateway.client().await;
    client.open(&Request::post(CHAT, &body)).await;
    client.read_until("the end").await;
    drop(client);
    // 40 sentences of 14 tokens at the dearest price there is.
    let used = charged(&gateway).await;
    assert!((0.004..0.1).contains(&used), "{used}");
}
