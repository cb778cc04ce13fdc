//! How a call goes out: a connection to one of the upstream's addresses, and its request built from
//! an allow-list, with our credential in the place of the caller's.

use super::caller::{Caller, Interrupted};
use super::clock::Clock;
use super::connectors::Connectors;
use super::context::Call;
use super::judge::Failure;
use super::send::Ear;
use super::traced::TRACEPARENT;
use crate::ids::parse_traceparent;
use crate::protocol::coding::Decoder;
use crate::telemetry::metrics::Outcome;
use crate::upstream::{Upstream, provider};
use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, HeaderValue,
    USER_AGENT,
};
use http::uri::InvalidUri;
use http::{HeaderMap, Method, Request};
use pingora::http::RequestHeader;
use pingora::protocols::http::client::HttpSession;
use pingora::upstreams::peer::HttpPeer;
use std::borrow::Cow;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

/// How long an address has to answer before the next one is tried beside it: longer than TCP and TLS
/// take across an ocean, a fraction of what a first token takes.
const HEAD_START: Duration = Duration::from_millis(500);

/// Why an attempt did not end in a reply.
#[derive(Debug)]
pub(super) enum Stopped {
    /// The upstream failed; the next one may do better.
    Failed(Failure),
    /// The caller has left.
    CallerGone,
}

impl From<Interrupted> for Stopped {
    fn from(interrupted: Interrupted) -> Self {
        match interrupted {
            Interrupted::CallerGone => Self::CallerGone,
            Interrupted::Expired(expired) => Self::Failed(Failure::expired(expired)),
        }
    }
}

impl From<Failure> for Stopped {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// A connection to an upstream.
pub(super) struct Connection {
    /// The exchange on it.
    pub(super) session: HttpSession,
    /// Whether it has served before: then its peer may be closing it just now.
    pub(super) is_reused: bool,
    /// What its other side does while we cannot read.
    pub(super) ear: Ear,
    /// Whether the whole request has been sent.
    pub(super) request_whole: bool,
    /// For a reply that comes compressed.
    pub(super) decoder: Option<Box<Decoder>>,
    peer: Arc<HttpPeer>,
}

impl Connection {
    fn new(session: HttpSession, is_reused: bool, peer: Arc<HttpPeer>) -> Self {
        let ear = Ear::at(&session, is_reused);
        Self { session, is_reused, ear, request_whole: false, decoder: None, peer }
    }

    /// Whether it speaks HTTP/2.
    pub(super) const fn is_http2(&self) -> bool {
        matches!(self.session, HttpSession::H2(_))
    }

    /// The next piece of the reply's body, decoded; `None` at its end.
    ///
    /// # Cancel safety
    /// Safe: a piece that was read is decoded and returned at once.
    pub(super) async fn read_body(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            let read = self.session.read_response_body().await;
            let piece = read.map_err(|error| Failure::of(&error))?;
            let Some(decoder) = &mut self.decoder else { return Ok(piece) };
            let Some(piece) = piece else {
                let whole = decoder.finish().map(|()| None);
                return whole.map_err(|_| Failure::new(Outcome::Reset, "the reply was cut"));
            };
            let garbled = |_| Failure::new(Outcome::Reset, "the reply cannot be decoded");
            let piece = decoder.push(&piece).map_err(garbled)?;
            if !piece.is_empty() {
                return Ok(Some(piece));
            }
        }
    }

    /// Whether all of the reply's body has been read, as far as that is known without reading on.
    pub(super) fn is_body_over(&mut self) -> bool {
        self.decoder.is_none() && self.session.response_done()
    }

    /// Keeps further calls off an HTTP/2 connection that gave no answer in time. Nothing else would
    /// notice that the network under it has died: it stays open and each call would wait again.
    pub(super) fn retire(&self) {
        if let HttpSession::H2(stream) = &self.session {
            stream.conn.mark_shutdown();
        }
    }

    /// Gives the connection back to the pool, if a whole request and a whole reply went over it.
    pub(super) fn release(mut self, connectors: &Connectors) -> impl Future<Output = ()> + Send {
        let mut is_sound = self.request_whole && self.session.response_done();
        if let HttpSession::H1(h1) = &mut self.session {
            // Asked here, because Pingora shuts down what it does not keep, and that may wait.
            h1.respect_keepalive();
            is_sound &= h1.will_keepalive();
        }
        async move {
            if is_sound {
                connectors.release(self.session, &self.peer).await;
            } else {
                self.discard(connectors).await;
            }
        }
    }

    /// Ends the connection (HTTP/1.1) or its one stream (HTTP/2) at once, so that the upstream
    /// stops generating.
    pub(super) async fn discard(mut self, connectors: &Connectors) {
        match &mut self.session {
            // Dropped and not shut down: over TLS that would wait, without a deadline, for an
            // upstream that reads no more to take our goodbye.
            HttpSession::H1(_) | HttpSession::Custom(()) => {}
            HttpSession::H2(stream) => {
                stream.shutdown();
                // The connection serves other streams; the connector must learn that this one ended.
                Box::pin(connectors.release(self.session, &self.peer)).await;
            }
        }
    }
}

/// Connects to the upstream, address by address.
pub(super) async fn connect(
    connectors: &Connectors,
    upstream: &Upstream,
    caller: &mut Caller<'_>,
    clock: &mut Clock,
) -> Result<Connection, Stopped> {
    let patience = upstream.config.timeouts.connect.0;
    let mut peers = upstream.peers.in_turn();
    if peers.is_empty() {
        // Only right after the start: the first name resolution is still under way.
        let resolved = Box::pin(tokio::time::timeout(patience, upstream.peers.wait_resolved()));
        let _in_time = caller.until(clock, resolved).await?;
        peers = upstream.peers.in_turn();
    }
    // Without a timer, which would wake the thread up once a call.
    if let Some(peer) = peers.first()
        && let Some(connection) = pooled(connectors, peer).await
    {
        return Ok(connection);
    }
    // One time for all addresses together: a name may have many, in a zone that is gone.
    let connected = tokio::time::timeout(patience, any_of(connectors, upstream, &peers));
    let connected = Box::pin(connected);
    if let Ok(connected) = caller.until(clock, connected).await? {
        return Ok(connected?);
    }
    for peer in &peers {
        upstream.peers.put_last(peer);
    }
    Err(Failure::unconnected().into())
}

/// Connects to the first of these addresses that answers. The next one is tried beside one that is
/// slow, since its packets may be going nowhere (RFC 8305).
async fn any_of(
    connectors: &Connectors,
    upstream: &Upstream,
    peers: &[Arc<HttpPeer>],
) -> Result<Connection, Failure> {
    let Some((peer, others)) = peers.split_first() else {
        return Err(Failure::new(Outcome::ConnectError, "its name has no address"));
    };
    let mut first = pin!(connect_to(connectors, peer));
    if others.is_empty() {
        return first.await;
    }
    let in_time = tokio::time::timeout(HEAD_START, &mut first).await;
    match in_time {
        Ok(Ok(connection)) => return Ok(connection),
        Ok(Err(_)) => {
            upstream.peers.put_last(peer);
            return Box::pin(any_of(connectors, upstream, others)).await;
        }
        Err(_) => {}
    }
    let mut others = Box::pin(any_of(connectors, upstream, others));
    tokio::select! {
        connected = &mut first => if connected.is_ok() {
            return connected;
        },
        connected = &mut others => if connected.is_err() {
            return first.await;
        } else {
            upstream.peers.put_last(peer);
            return connected;
        },
    }
    upstream.peers.put_last(peer);
    others.await
}

/// A pooled connection to this address that its other side has not closed.
async fn pooled(connectors: &Connectors, peer: &Arc<HttpPeer>) -> Option<Connection> {
    loop {
        let session = connectors.pooled(peer).await?;
        let connection = Connection::new(session, true, Arc::clone(peer));
        // One that is closed has left the pool, so that each of them is met once.
        if connection.ear.was_open() {
            return Some(connection);
        }
    }
}

/// A connection to this address that its other side has not closed, pooled or new.
async fn connect_to(connectors: &Connectors, peer: &Arc<HttpPeer>) -> Result<Connection, Failure> {
    loop {
        let connected = connectors.connect(peer).await;
        let (session, reused) = connected.map_err(|error| Failure::of(&error))?;
        let connection = Connection::new(session, reused, Arc::clone(peer));
        if !reused || connection.ear.was_open() {
            return Ok(connection);
        }
    }
}

/// Headers there is room for at first.
const ROOM: usize = 24;

/// Headers of the caller that every upstream gets.
static PASSED: [HeaderName; 6] = [
    ACCEPT,
    USER_AGENT,
    HeaderName::from_static("openai-beta"),
    HeaderName::from_static("anthropic-beta"),
    HeaderName::from_static("anthropic-version"),
    HeaderName::from_static("idempotency-key"),
];
/// Headers of the caller that mean something to OpenRouter alone (WIRE section 1).
static OPENROUTER: [HeaderName; 10] = [
    HeaderName::from_static("http-referer"),
    HeaderName::from_static("x-title"),
    HeaderName::from_static("x-openrouter-title"),
    HeaderName::from_static("x-openrouter-categories"),
    HeaderName::from_static("x-openrouter-metadata"),
    HeaderName::from_static("x-openrouter-experimental-metadata"),
    HeaderName::from_static("x-openrouter-cache"),
    HeaderName::from_static("x-openrouter-cache-ttl"),
    HeaderName::from_static("x-openrouter-cache-clear"),
    HeaderName::from_static("x-anthropic-beta"),
];
/// Headers of the caller that mean something to OpenAI alone; n8n sends an empty one.
static OPENAI: [HeaderName; 2] =
    [HeaderName::from_static("openai-organization"), HeaderName::from_static("openai-project")];
/// Vendors' part of W3C Trace Context, which goes with a `traceparent`.
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const SESSION_ID: HeaderName = HeaderName::from_static("x-session-id");
const ANTHROPIC_VERSION: HeaderName = HeaderName::from_static(provider::ANTHROPIC_VERSION.0);

/// What Anthropic's own API asks for where the caller, an OpenAI client, names none.
const DEFAULT_ANTHROPIC_VERSION: HeaderValue =
    HeaderValue::from_static(provider::ANTHROPIC_VERSION.1);

/// Builds the request header for one upstream. Nothing of the caller's gets in but what is listed,
/// so its key, its cookies and its framing stay out.
pub(super) fn request(
    upstream: &Upstream,
    call: &Call,
    (session_id, traceparent): (Option<&str>, Option<HeaderValue>),
    from: &RequestHeader,
    length: u64,
) -> Result<Box<RequestHeader>, InvalidUri> {
    let base = &upstream.base;
    let path = [base.path.as_str(), call.dialect.path()].concat();
    let mut headers = HeaderMap::with_capacity(ROOM);
    headers.insert(HOST, base.authority.clone());
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    // A compressed reply could not be read for usage and errors; some providers compress streams.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let row = upstream.config.provider.row();
    let openrouter = row.openrouter_headers.then_some(OPENROUTER.iter());
    let openai = row.openai_headers.then_some(OPENAI.iter());
    let names = PASSED.iter().chain(openrouter.into_iter().flatten());
    for name in names.chain(openai.into_iter().flatten()) {
        if let Some(value) = from.headers.get(name).filter(|value| !value.is_empty()) {
            headers.insert(name, value.clone());
        }
    }
    if let Some(traceparent) = traceparent {
        headers.insert(TRACEPARENT, traceparent);
        // Of a trace that was not joined it says nothing, and W3C wants it dropped.
        let theirs = from.headers.get(TRACEPARENT);
        let is_joined = theirs.is_some_and(|header| parse_traceparent(header.as_bytes()).is_some());
        if let Some(state) = from.headers.get(&TRACESTATE).filter(|_| is_joined) {
            headers.insert(TRACESTATE, state.clone());
        }
    }
    if row.openrouter_headers
        && let Some(id) = session_id.and_then(|id| HeaderValue::try_from(ascii(id).as_ref()).ok())
    {
        headers.insert(SESSION_ID, id);
    }
    if row.credential == provider::Credential::XApiKey && !headers.contains_key(ANTHROPIC_VERSION) {
        headers.insert(ANTHROPIC_VERSION, DEFAULT_ANTHROPIC_VERSION);
    }
    for (name, value) in &upstream.headers {
        headers.insert(name, value.clone());
    }
    // Pingora's own would read each name anew and keep a second map for its spelling.
    let (mut request, ()) = Request::new(()).into_parts();
    (request.method, request.uri, request.headers) = (Method::POST, path.try_into()?, headers);
    Ok(Box::new(request.into()))
}

/// HTTP/2 wants the absolute form, and no `Host` beside it.
pub(super) fn for_http2(request: &mut RequestHeader, upstream: &Upstream) {
    let scheme = if upstream.base.tls { "https" } else { "http" };
    let path = request.uri.path();
    let absolute = format!("{scheme}://{}{path}", upstream.base.authority_text);
    if let Ok(uri) = absolute.parse() {
        request.set_uri(uri);
        request.remove_header(&HOST);
    }
}

/// The text with what is no ASCII percent-encoded, as header values want it.
fn ascii(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        return text.into();
    }
    let encoded = text.bytes().map(|byte| {
        if byte.is_ascii() { char::from(byte).to_string() } else { format!("%{byte:02X}") }
    });
    encoded.collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::config::UpstreamConfig;
    use std::net::IpAddr;
    use tokio::net::{TcpListener, TcpSocket, TcpStream};

    #[tokio::test]
    async fn an_address_that_answers_nothing_does_not_hide_one_that_does() {
        let alive = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = alive.local_addr().unwrap().port();
        let full = TcpSocket::new_v4().unwrap();
        full.bind(([127, 0, 0, 2], port).into()).unwrap();
        let _full = full.listen(0).unwrap();
        let mut waiting = Vec::new();
        // Once nobody accepts any more, the kernel drops what asks for a connection.
        while let Ok(Ok(stream)) =
            tokio::time::timeout(HEAD_START, TcpStream::connect(("127.0.0.2", port))).await
        {
            waiting.push(stream);
        }
        let yaml = format!("{{name: u, base_url: 'http://x.example:{port}/v1'}}");
        let config: UpstreamConfig = serde_yaml::from_str(&yaml).unwrap();
        let upstream = Upstream::new(config, Arc::default(), 0).unwrap();
        upstream.peers.publish(&[2, 1].map(|last| IpAddr::from([127, 0, 0, last])));
        let peers = upstream.peers.in_turn();
        assert_eq!(peers[0]._address.to_string(), format!("127.0.0.2:{port}"));
        let connected = any_of(&Connectors::new(), &upstream, &peers).await;
        assert!(Arc::ptr_eq(&connected.ok().unwrap().peer, &peers[1]));
        for _ in 0..2 {
            assert_eq!(upstream.peers.in_turn()[0]._address, peers[1]._address, "known by now");
        }
    }
}
