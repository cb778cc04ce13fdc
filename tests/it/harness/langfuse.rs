//! A fake Langfuse: takes exports as the real one does, remembers each span, and fails on demand.

use super::origin::{Call, Origin, RefusedPort};
use super::otlp::lint;
use super::reply::Reply;
use super::within_time;
use flate2::read::GzDecoder;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// `Basic` of `pk-lf-test:sk-lf-canary-77aa01`, what [`Langfuse::section`] makes.
const AUTHORIZATION: &str = "Basic cGstbGYtdGVzdDpzay1sZi1jYW5hcnktNzdhYTAx";
/// `Basic` of the same public key with `sk-lf-canary-rotated`.
const ROTATED: &str = "Basic cGstbGYtdGVzdDpzay1sZi1jYW5hcnktcm90YXRlZA==";
/// Langfuse's cloud takes 5 MB; we promise to stay below 4 MB.
const MOST_BYTES: usize = 4 << 20;

/// What was accepted, and what was wrong with what came.
#[derive(Default)]
struct Ledger {
    /// How often each span was accepted, by trace and span id.
    accepted: BTreeMap<(String, String), u32>,
    /// SHA-256 of the export that first held exactly these spans.
    first_bytes: HashMap<Vec<(String, String)>, [u8; 32]>,
    /// Longest export, in bytes before compression.
    longest: usize,
    faults: Vec<String>,
}

type Judge = Box<dyn Fn(&Value, &Call) -> Option<Reply> + Send + Sync>;

struct Shared {
    ledger: Mutex<Ledger>,
    /// Replies for exports that are accepted all the same.
    accepting: Mutex<VecDeque<Reply>>,
    /// Refuses exports by what is in them.
    judge: Mutex<Judge>,
    authorization: Mutex<&'static str>,
    path: &'static str,
}

/// A Langfuse that serves.
pub(crate) struct Langfuse {
    origin: Origin,
    shared: Arc<Shared>,
}

impl Langfuse {
    /// One on a free port.
    pub(crate) async fn start() -> Self {
        Self::over(Origin::start().await, "/api/public/otel/v1/traces")
    }

    /// One that was away until now.
    pub(crate) fn at(port: RefusedPort) -> Self {
        Self::over(port.listen(), "/api/public/otel/v1/traces")
    }

    /// Any other OTLP backend.
    pub(crate) async fn plain() -> Self {
        Self::over(Origin::start().await, "/v1/traces")
    }

    /// Any other OTLP backend that was away until now.
    pub(crate) fn plain_at(port: RefusedPort) -> Self {
        Self::over(port.listen(), "/v1/traces")
    }

    fn over(origin: Origin, path: &'static str) -> Self {
        let shared = Arc::new(Shared {
            ledger: Mutex::default(),
            accepting: Mutex::default(),
            judge: Mutex::new(Box::new(|_, _| None)),
            authorization: Mutex::new(AUTHORIZATION),
            path,
        });
        let answering = shared.clone();
        origin.answer(move |call| answering.answer(call));
        let listing = shared.clone();
        origin.answer_gets(move |call| listing.projects(call));
        Self { origin, shared }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.origin.address()
    }

    /// Its base address.
    pub(crate) fn host(&self) -> String {
        format!("http://{}", self.origin.address())
    }

    /// The `langfuse` section that points to it, with more of its flow mapping.
    pub(crate) fn section(&self, extra: &str) -> String {
        Self::section_for(&self.host(), extra)
    }

    /// The `langfuse` section for this address, with more of its flow mapping.
    pub(crate) fn section_for(host: &str, extra: &str) -> String {
        format!(
            "langfuse: {{ host: \"{host}\", public_key: pk-lf-test, \
             secret_key: sk-lf-canary-77aa01, spool: {{ path: ./spool }}{extra} }}"
        )
    }

    /// Answers the next export like this, without accepting it.
    pub(crate) fn next(&self, reply: Reply) {
        self.origin.next(reply);
    }

    /// Accepts the next export and answers like this.
    pub(crate) fn next_accepted(&self, reply: Reply) {
        self.shared.accepting.lock().unwrap().push_back(reply);
    }

    /// Refuses exports for which there is a reply, from now on.
    pub(crate) fn refuse(
        &self,
        judge: impl Fn(&Value, &Call) -> Option<Reply> + Send + Sync + 'static,
    ) {
        *self.shared.judge.lock().unwrap() = Box::new(judge);
    }

    /// Knows only the other secret key from now on.
    pub(crate) fn rotate(&self) {
        *self.shared.authorization.lock().unwrap() = ROTATED;
    }

    /// Exports that arrived, scripted answers included.
    pub(crate) fn arrived(&self) -> usize {
        self.origin.calls().len()
    }

    /// Trace ids accepted so far.
    pub(crate) fn traces(&self) -> Vec<String> {
        let ledger = self.shared.ledger.lock().unwrap();
        ledger.accepted.keys().map(|(trace, _)| trace.clone()).collect()
    }

    /// Spans that were accepted more than once.
    pub(crate) fn repeated(&self) -> usize {
        let ledger = self.shared.ledger.lock().unwrap();
        ledger.accepted.values().filter(|times| **times > 1).count()
    }

    /// Waits until so many spans are accepted, each of them once, with nothing wrong about any.
    pub(crate) async fn has(&self, spans: usize) {
        let all = async {
            while self.shared.ledger.lock().unwrap().accepted.len() < spans {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        within_time(Duration::from_mins(1), &format!("{spans} spans at Langfuse"), all).await;
        self.assert_sound();
        assert_eq!(self.traces().len(), spans);
    }

    /// Fails the test where a span came twice, or anything was wrong about an export.
    pub(crate) fn assert_sound(&self) {
        let ledger = self.shared.ledger.lock().unwrap();
        assert_eq!(ledger.faults, Vec::<String>::new());
        let twice: Vec<_> = ledger.accepted.iter().filter(|(_, times)| **times > 1).collect();
        assert!(twice.is_empty(), "accepted more than once: {twice:?}");
        assert!(ledger.longest <= MOST_BYTES, "an export of {} bytes", ledger.longest);
    }
}

impl Shared {
    fn answer(&self, call: &Call) -> Reply {
        let is_langfuse = self.path.starts_with("/api");
        if is_langfuse
            && call.headers.get("authorization") != Some(*self.authorization.lock().unwrap())
        {
            let message = "Invalid credentials. Confirm that you've configured the correct host.";
            return Reply::json(401, &json!({ "message": message }));
        }
        if !is_langfuse && &*call.body == br#"{"resourceSpans":[]}"# {
            return Reply::json(200, &json!({}));
        }
        let mut text = Vec::new();
        if let Err(error) = GzDecoder::new(&*call.body).read_to_end(&mut text) {
            return self.fault(format!("not gzip: {error}"));
        }
        let Ok(body) = serde_json::from_slice::<Value>(&text) else {
            return self.fault(format!("not JSON: {}", String::from_utf8_lossy(&text)));
        };
        self.ledger.lock().unwrap().faults.extend(lint(&body));
        let spans = span_ids(&body);
        self.check(call, &text, &spans);
        if let Some(refusal) = (self.judge.lock().unwrap())(&body, call) {
            if refusal.is(413) {
                // Now it may, and must, come otherwise.
                self.ledger.lock().unwrap().first_bytes.remove(&spans);
            }
            return refusal;
        }
        let mut ledger = self.ledger.lock().unwrap();
        for span in spans {
            *ledger.accepted.entry(span).or_default() += 1;
        }
        let scripted = self.accepting.lock().unwrap().pop_front();
        scripted.unwrap_or_else(|| Reply::json(200, &json!({})))
    }

    fn fault(&self, fault: String) -> Reply {
        self.ledger.lock().unwrap().faults.push(fault);
        Reply::error(400)
    }

    fn check(&self, call: &Call, text: &[u8], spans: &[(String, String)]) {
        let mut ledger = self.ledger.lock().unwrap();
        ledger.longest = ledger.longest.max(text.len());
        let mut wanted = vec![("content-type", "application/json"), ("content-encoding", "gzip")];
        if self.path.starts_with("/api") {
            wanted.extend([
                ("x-langfuse-ingestion-version", "4"),
                ("x-langfuse-sdk-name", "cirque"),
                ("x-langfuse-sdk-version", env!("CARGO_PKG_VERSION")),
            ]);
        }
        for (name, value) in wanted {
            if call.headers.get(name) != Some(value) {
                ledger.faults.push(format!("{name} is not {value}: {:?}", call.headers));
            }
        }
        if call.target != self.path {
            ledger.faults.push(format!("not a path: {}", call.target));
        }
        if spans.is_empty() {
            ledger.faults.push("an export without spans".into());
        }
        let is_hex = |id: &str, length| {
            id.len() == length
                && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        };
        for (trace, span) in spans {
            if !is_hex(trace, 32) || !is_hex(span, 16) {
                ledger.faults.push(format!("ids {trace} {span}"));
            }
        }
        let first = *ledger.first_bytes.entry(spans.to_vec()).or_insert(call.hash);
        if first != call.hash {
            ledger.faults.push("the same spans were sent again as other bytes".into());
        }
    }

    fn projects(&self, call: &Call) -> Reply {
        if call.target != "/api/public/projects" {
            return Reply::json(404, &json!({ "message": "Not Found" }));
        }
        if call.headers.get("authorization") != Some(*self.authorization.lock().unwrap()) {
            return Reply::json(401, &json!({ "message": "Invalid credentials." }));
        }
        Reply::json(200, &json!({ "data": [{ "id": "p1", "name": "edge", "metadata": {} }] }))
    }
}

/// Trace and span id of every span of an export.
pub(crate) fn span_ids(body: &Value) -> Vec<(String, String)> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let scopes = list(&body["resourceSpans"]).into_iter().flat_map(|r| list(&r["scopeSpans"]));
    let spans = scopes.flat_map(|scope| list(&scope["spans"]));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    spans.map(|span| (text(&span["traceId"]), text(&span["spanId"]))).collect()
}
