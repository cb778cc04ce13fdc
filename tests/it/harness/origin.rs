//! A scripted upstream on its own port: it answers as told and remembers everything it was asked.

use super::reply::{Gate, Reply};
use super::wire::{Headers, Wire};
use super::{eventually, sample, within};
use bytes::Bytes;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

/// How a call ended, seen from the origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Still being answered.
    Open,
    /// Answered as scripted.
    Answered,
    /// The caller closed or reset before the script was done.
    CallerLeft,
}

/// One request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// Method.
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    /// Fields as sent; over HTTP/2 with `:authority` as `host`.
    pub(crate) headers: Headers,
    /// The body, or nothing where it was over 8 MiB.
    pub(crate) body: Bytes,
    /// The body's length.
    pub(crate) length: usize,
    /// SHA-256 of the body.
    pub(crate) hash: [u8; 32],
    /// Which connection it came on, counted from 0.
    pub(crate) connection: usize,
    /// Whether it came over HTTP/2.
    pub(crate) http2: bool,
    fate: watch::Receiver<Fate>,
}

impl Call {
    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    /// Waits until the call ended, and says how.
    pub(crate) async fn fate(&self) -> Fate {
        let mut fate = self.fate.clone();
        let ended = within("the end of a call at the origin", async {
            fate.wait_for(|fate| *fate != Fate::Open).await.map(|fate| *fate)
        });
        // The sender is gone where the connection broke under the script.
        ended.await.unwrap_or(Fate::CallerLeft)
    }
}

/// What a connection read, before it is a [`Call`].
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Headers,
    pub(crate) body: Bytes,
    pub(crate) connection: usize,
    pub(crate) http2: bool,
}

/// What an origin answers that has not been told: a whole reply or a stream, as is asked for.
fn usual(call: &Call) -> Reply {
    if memchr::memmem::find(&call.body, b"\"stream\":true").is_none() {
        return Reply::json_text(200, sample("chat_response.json"));
    }
    Reply::sse(sample(match &*call.target {
        path if path.ends_with("/messages") => "messages_stream_anthropic.sse",
        path if path.ends_with("/responses") => "responses_stream_openai.sse",
        _ => "chat_stream_openai.sse",
    }))
}

type Handler = Box<dyn Fn(&Call) -> Reply + Send + Sync>;

/// What the connections of one origin share.
pub(crate) struct Shared {
    calls: Mutex<Vec<Call>>,
    catalogue_calls: Mutex<Vec<Call>>,
    queue: Mutex<VecDeque<Reply>>,
    usual: Mutex<Handler>,
    usual_is_early: AtomicBool,
    gets: Mutex<Option<Handler>>,
    catalogue: Mutex<Reply>,
    connections: AtomicUsize,
}

impl Shared {
    /// Whether the next reply wants no body.
    pub(crate) fn answers_early(&self) -> bool {
        let next = self.queue.lock().unwrap().front().map(|reply| reply.is_early);
        next.unwrap_or_else(|| self.usual_is_early.load(Ordering::SeqCst))
    }

    /// Remembers a request and finds its reply; the sender tells how it ended.
    pub(crate) fn ask(&self, asked: Asked) -> (Reply, watch::Sender<Fate>) {
        let (sender, fate) = watch::channel(Fate::Open);
        let hash = Sha256::digest(&asked.body).into();
        let length = asked.body.len();
        let body = if length > 8 << 20 { Bytes::new() } else { asked.body };
        let Asked { method, target, headers, connection, http2, .. } = asked;
        let call = Call { method, target, headers, body, length, hash, connection, http2, fate };
        if call.method == "GET" {
            let reply = if let Some(handler) = &*self.gets.lock().unwrap() {
                handler(&call)
            } else if call.target.contains("/models") {
                self.catalogue.lock().unwrap().clone()
            } else if call.target.ends_with("/key") {
                Reply::json_text(200, sample("key_openrouter.json"))
            } else {
                Reply::error(404)
            };
            self.catalogue_calls.lock().unwrap().push(call);
            return (reply, sender);
        }
        let scripted = self.queue.lock().unwrap().pop_front();
        let reply = scripted.unwrap_or_else(|| (self.usual.lock().unwrap())(&call));
        self.calls.lock().unwrap().push(call);
        (reply, sender)
    }
}

/// A scripted upstream; gone when dropped.
pub(crate) struct Origin {
    address: SocketAddr,
    scheme: &'static str,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    // Dropped with the listener, so that a stopped origin is gone at once, connections included.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((tcp, _)) = listener.accept().await {
        let number = shared.connections.fetch_add(1, Ordering::SeqCst);
        connections.spawn(connection(tcp, tls.clone(), shared.clone(), number));
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(tcp: TcpStream, tls: Option<TlsAcceptor>, shared: Arc<Shared>, number: usize) {
    let Some(acceptor) = tls else {
        let mut start = [0; 3];
        let seen = tcp.peek(&mut start).await.unwrap_or(0);
        if seen == 3 && &start == b"PRI" {
            super::origin_http2::serve(tcp, shared, number).await;
        } else {
            super::origin_http1::serve(Wire::new(tcp), shared, number).await;
        }
        return;
    };
    let Ok(stream) = acceptor.accept(tcp).await else { return };
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        super::origin_http2::serve(stream, shared, number).await;
    } else {
        super::origin_http1::serve(Wire::new(stream), shared, number).await;
    }
}

impl Origin {
    /// An origin that speaks HTTP/1.1, and HTTP/2 to those who begin with it.
    pub(crate) async fn start() -> Self {
        Self::start_with(None).await
    }

    /// The same over TLS.
    pub(crate) async fn start_tls(config: ServerConfig) -> Self {
        Self::start_with(Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn start_with(tls: Option<TlsAcceptor>) -> Self {
        Self::over(TcpListener::bind("127.0.0.1:0").await.expect("a free port"), tls)
    }

    fn over(listener: TcpListener, tls: Option<TlsAcceptor>) -> Self {
        let address = listener.local_addr().expect("a bound socket");
        let models = sample("models_openrouter.json");
        let shared = Arc::new(Shared {
            calls: Mutex::default(),
            catalogue_calls: Mutex::default(),
            queue: Mutex::default(),
            usual: Mutex::new(Box::new(usual)),
            usual_is_early: AtomicBool::new(false),
            gets: Mutex::default(),
            catalogue: Mutex::new(Reply::json_text(200, models)),
            connections: AtomicUsize::new(0),
        });
        let scheme = if tls.is_some() { "https" } else { "http" };
        let task = tokio::spawn(serve(listener, tls, shared.clone()));
        Self { address, scheme, shared, task }
    }

    /// Another one at the same address, once this one and its connections are gone.
    pub(crate) async fn restart(self) -> Self {
        let address = self.address;
        drop(self);
        let listener = eventually("the end of an origin", || async {
            // Whoever holds connections to it has seen them end when a new one is refused.
            TcpStream::connect(address).await.is_err().then_some(())
        });
        listener.await;
        Self::over(TcpListener::bind(address).await.expect("the same port"), None)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its base address as an upstream's `base_url`.
    pub(crate) fn base_url(&self) -> String {
        format!("{}://{}/v1", self.scheme, self.address)
    }

    /// Answers the next inference call like this; several are used in order.
    pub(crate) fn next(&self, reply: Reply) {
        self.shared.queue.lock().unwrap().push_back(reply);
    }

    /// Answers like this whenever nothing else is scripted.
    pub(crate) fn always(&self, reply: Reply) {
        let is_early = reply.is_early;
        self.answer(move |_| reply.clone());
        self.shared.usual_is_early.store(is_early, Ordering::SeqCst);
    }

    /// Answers by the request whenever nothing else is scripted.
    pub(crate) fn answer(&self, handler: impl Fn(&Call) -> Reply + Send + Sync + 'static) {
        *self.shared.usual.lock().unwrap() = Box::new(handler);
        self.shared.usual_is_early.store(false, Ordering::SeqCst);
    }

    /// Answers any `GET` by the request, in place of what a provider answers.
    pub(crate) fn answer_gets(&self, handler: impl Fn(&Call) -> Reply + Send + Sync + 'static) {
        *self.shared.gets.lock().unwrap() = Some(Box::new(handler));
    }

    /// Lists these models from now on.
    pub(crate) fn lists(&self, ids: &[&str]) {
        let data: Vec<Value> = ids.iter().map(|id| json!({"id": id, "object": "model"})).collect();
        self.lists_reply(Reply::json(200, &json!({"object": "list", "data": data})));
    }

    /// Answers like this when asked for its models.
    pub(crate) fn lists_reply(&self, reply: Reply) {
        *self.shared.catalogue.lock().unwrap() = reply;
    }

    /// The inference calls so far.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.shared.calls.lock().unwrap().clone()
    }

    /// The inference calls since this was last asked, so that their bodies need not be kept.
    pub(crate) fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut *self.shared.calls.lock().unwrap())
    }

    /// The `GET` requests so far: catalogue, probes, quota.
    pub(crate) fn catalogue_calls(&self) -> Vec<Call> {
        self.shared.catalogue_calls.lock().unwrap().clone()
    }

    /// The inference call with this number, counted from 0, once it has arrived.
    pub(crate) async fn call(&self, number: usize) -> Call {
        eventually(&format!("call {number} at the origin"), || async {
            self.calls().get(number).cloned()
        })
        .await
    }

    /// The only inference call; a failed test with more or none.
    pub(crate) fn only_call(&self) -> Call {
        let mut calls = self.calls();
        assert_eq!(calls.len(), 1, "calls at the origin: {calls:#?}");
        calls.remove(0)
    }
}

/// A port that refuses every connection, and that nobody else gets meanwhile.
pub(crate) struct RefusedPort {
    socket: TcpSocket,
}

impl RefusedPort {
    /// Takes a port without listening on it.
    pub(crate) fn take() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind("127.0.0.1:0".parse().unwrap()).expect("a free port");
        Self { socket }
    }

    /// Its number with its address.
    pub(crate) fn address(&self) -> SocketAddr {
        self.socket.local_addr().expect("a bound socket")
    }

    /// An origin that listens there from now on.
    pub(crate) fn listen(self) -> Origin {
        Origin::over(self.socket.listen(1024).expect("a bound socket"), None)
    }

    /// Its base address as an upstream's `base_url`.
    pub(crate) fn base_url(&self) -> String {
        format!("http://{}/v1", self.socket.local_addr().expect("a bound socket"))
    }
}

/// Waits at the gate while watching for the other side's end; `false` where that came first.
pub(crate) async fn wait_or_closed(gate: Option<&Gate>, closed: impl Future<Output = ()>) -> bool {
    let Some(gate) = gate else {
        closed.await;
        return false;
    };
    tokio::select! {
        () = gate.wait() => true,
        () = closed => false,
    }
}
