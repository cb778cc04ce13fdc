//! The listener's application: reads each HTTP/1 request head itself, within a deadline and a bound,
//! and hands only sound ones to Pingora; HTTP/2 goes to Pingora as it is.

use super::context::Ctx;
use super::head::Framing;
use super::{Gateway, Shared, finish, head, respond};
use crate::error::Rejection;
use crate::protocol::path::Endpoint;
use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use http::HeaderValue;
use pingora::apps::{HttpPersistentSettings, HttpServerApp, HttpServerOptions, ServerApp};
use pingora::protocols::http::ServerSession;
use pingora::protocols::l4::stream::Stream as PlainStream;
use pingora::protocols::{ALPN, Stream};
use pingora::server::ShutdownWatch;
use pingora::server::configuration::ServerConf;
use pingora_proxy::{HttpProxy, http_proxy};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// How long a connection may stay open between two requests: above the 60 s of nginx and Traefik in
/// front, so that they close first and never meet a closing connection.
const KEEPALIVE: Duration = Duration::from_secs(75);
/// First allocation for a head; most fit.
const HEAD_BUFFER: usize = 4 << 10;
/// After a refusal we keep reading this long and this much, so that the answer is not lost to a
/// reset (PINGORA P24).
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 << 10;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";

/// One listener's application.
pub struct Edge {
    proxy: Arc<HttpProxy<Gateway>>,
    shared: Shared,
    h2c: bool,
}

/// What came first on a connection.
enum Arrival {
    /// A sound head with what came of its body, and what came after that: a client may send its
    /// next request without waiting.
    Head(BytesMut, BytesMut),
    /// The preface of HTTP/2 without TLS.
    Http2(BytesMut),
    /// A head that is refused.
    Refused(Rejection, BytesMut),
    /// Nothing more.
    Gone,
}

impl Edge {
    /// An application over shared state.
    pub fn new(shared: Shared, h2c: bool, conf: &Arc<ServerConf>) -> Self {
        let mut proxy = http_proxy(conf, Gateway::new(shared.clone()));
        let mut options = HttpServerOptions::default();
        options.h2c = h2c;
        // Without it a silent HTTP/2 connection stays for ever (PINGORA P22).
        options.h2_idle_timeout = Some(KEEPALIVE);
        proxy.server_options = Some(options);
        Self { proxy: Arc::new(proxy), shared, h2c }
    }

    /// Reads one head; `buffer` holds what came after the request before. The wait for its first byte is bounded by [`KEEPALIVE`], the whole of it by
    /// `read_timeout`.
    async fn arrival(&self, stream: &mut Stream, mut buffer: BytesMut) -> Arrival {
        let limit = self.shared.current.pin().read_timeout();
        let mut begun = !buffer.is_empty();
        let mut deadline = Instant::now() + if begun { limit } else { KEEPALIVE };
        let mut seen = 0;
        loop {
            if let Some(arrival) = arrived(&mut buffer, seen) {
                return arrival;
            }
            seen = buffer.len();
            buffer.reserve(HEAD_BUFFER);
            match tokio::time::timeout_at(deadline.into(), stream.read_buf(&mut buffer)).await {
                Ok(Ok(0) | Err(_)) => return Arrival::Gone,
                Err(_) if seen == 0 => return Arrival::Gone,
                Err(_) => return Arrival::Refused(head::too_slow(), buffer),
                Ok(Ok(_)) => {}
            }
            // Once: empty lines before a request are dropped, and must not buy time.
            if !std::mem::replace(&mut begun, true) {
                deadline = Instant::now() + limit;
            }
        }
    }

    /// Answers a refused head, and leaves a record of it as of any request.
    async fn refuse(&self, mut stream: Stream, rejection: &Rejection, head: &[u8]) {
        let mut ctx = Ctx::new(&self.shared);
        let said = head::said(head);
        ctx.endpoint = Endpoint::resolve(&said.path);
        ctx.method = said.method;
        ctx.path = said.path;
        ctx.origin = said.origin.and_then(|origin| HeaderValue::from_bytes(&origin).ok());
        let digest = stream.get_socket_digest();
        let peer = digest.as_ref().and_then(|digest| digest.peer_addr()?.as_inet().copied());
        ctx.client_ip = peer.map(|peer| peer.ip().to_canonical());
        ctx.outcome.error_code = Some(rejection.kind.row().code);
        ctx.outcome.status = Some(rejection.kind.row().status);
        let answer = respond::raw(&ctx, rejection);
        let since = Instant::now();
        let said_and_heard = async {
            stream.write_all(&answer).await?;
            stream.flush().await?;
            AsyncWriteExt::shutdown(&mut stream).await?;
            let mut rest = BytesMut::with_capacity(HEAD_BUFFER);
            let mut heard = 0;
            while heard < LINGER_BYTES {
                rest.clear();
                match stream.read_buf(&mut rest).await? {
                    0 => break,
                    read => heard += read,
                }
            }
            std::io::Result::Ok(())
        };
        // A client that does not take its answer in time loses it.
        let _taken = tokio::time::timeout(LINGER, said_and_heard).await;
        ctx.waited += since.elapsed();
        finish::finish(&mut ctx);
    }

    /// Serves one request whose head has been read; gives the connection back if it may be used
    /// again.
    async fn serve(
        &self,
        stream: Stream,
        head: BytesMut,
        settings: Option<HttpPersistentSettings>,
        shutdown: &ShutdownWatch,
    ) -> Option<(Stream, Option<HttpPersistentSettings>)> {
        let mut session = ServerSession::new_http1(stream);
        match settings {
            Some(settings) => settings.apply_to_session(&mut session),
            None => session.set_keepalive(Some(KEEPALIVE.as_secs())),
        }
        session.set_pipelined_prefix(head);
        let reused = self.proxy.process_new_http(session, shutdown).await?;
        Some(reused.consume())
    }
}

#[async_trait]
impl ServerApp for Edge {
    async fn process_new(
        self: &Arc<Self>,
        mut stream: Stream,
        shutdown: &ShutdownWatch,
    ) -> Option<Stream> {
        if matches!(stream.selected_alpn_proto(), Some(ALPN::H2)) {
            return self.proxy.process_new(stream, shutdown).await;
        }
        let mut settings = None;
        let mut rest = BytesMut::new();
        loop {
            match self.arrival(&mut stream, rest).await {
                Arrival::Head(head, next) => {
                    rest = next;
                    (stream, settings) = self.serve(stream, head, settings, shutdown).await?;
                }
                Arrival::Http2(read) if self.h2c && settings.is_none() => {
                    let stream = unread(stream, &read)?;
                    return self.proxy.process_new(stream, shutdown).await;
                }
                Arrival::Http2(read) => {
                    self.refuse(stream, &head::no_http2(), &read).await;
                    return None;
                }
                Arrival::Refused(rejection, read) => {
                    self.refuse(stream, &rejection, &read).await;
                    return None;
                }
                Arrival::Gone => return None,
            }
        }
    }

    async fn cleanup(&self) {
        self.proxy.http_cleanup().await;
    }
}

/// What the bytes read so far are, if they are a whole head or can never be one; of them, `seen` have
/// been looked at before.
fn arrived(buffer: &mut BytesMut, seen: usize) -> Option<Arrival> {
    if seen == 0 {
        // RFC 9112 section 2.2: an empty line before the request line is ignored.
        let blank = buffer.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        buffer.advance(blank);
    }
    let end = match head::end(buffer, seen) {
        Some(end) if end <= head::MAX_HEAD => end,
        None if buffer.len() <= head::MAX_HEAD => return None,
        Some(_) | None => return Some(Arrival::Refused(head::too_long(), buffer.split())),
    };
    if buffer.starts_with(PREFACE) {
        return Some(Arrival::Http2(buffer.split()));
    }
    Some(match head::check(buffer.get(..end).unwrap_or_default()) {
        Ok(Framing::Length(length)) if buffer.len() - end > length => {
            let next = buffer.split_off(end + length);
            Arrival::Head(buffer.split(), next)
        }
        // Where chunks end only Pingora knows; if more follows them, it closes after the reply.
        Ok(Framing::Length(_) | Framing::Chunked) => Arrival::Head(buffer.split(), BytesMut::new()),
        Err(rejection) => Arrival::Refused(rejection, buffer.split()),
    })
}

/// Puts bytes back in front of a plain connection, for Pingora to read again.
fn unread(stream: Stream, bytes: &[u8]) -> Option<Stream> {
    let mut plain = stream.into_any().downcast::<PlainStream>().ok()?;
    plain.rewind(bytes);
    Some(plain)
}
