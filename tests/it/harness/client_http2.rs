//! An HTTP/2 client, with and without TLS.

use super::request::Request;
use super::response::Response;
use super::tls::Authority;
use super::wire::Headers;
use super::{within, within_time};
use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// One connection.
pub(crate) struct Http2Client {
    sender: SendRequest<Bytes>,
    scheme: &'static str,
    authority: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Http2Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A reply under way; dropping it resets the stream.
pub(crate) struct Http2Reply {
    /// Status and fields.
    pub(crate) head: Response,
    body: RecvStream,
    // Kept, because dropping the request's half resets the stream too.
    _request: SendStream<Bytes>,
}

/// A request whose reply is still to come; dropping it resets the stream.
pub(crate) struct Http2Pending {
    _reply: ResponseFuture,
    _request: SendStream<Bytes>,
}

impl Http2Client {
    /// Connects without TLS, by prior knowledge.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let tcp = TcpStream::connect(address).await.expect("a listening gateway");
        tcp.set_nodelay(true).expect("a connected socket");
        Self::over(tcp, "http", address).await
    }

    /// Connects with TLS, trusting only `trusted`, offering HTTP/2.
    pub(crate) async fn connect_tls(address: SocketAddr, trusted: &Authority) -> Self {
        let stream = trusted.connect(address, &["h2"]).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        Self::over(stream, "https", address).await
    }

    async fn over(
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        scheme: &'static str,
        authority: SocketAddr,
    ) -> Self {
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(1 << 20).initial_connection_window_size(8 << 20);
        let (sender, connection) =
            within("an HTTP/2 handshake", builder.handshake(io)).await.expect("an HTTP/2 server");
        let task = tokio::spawn(async move { drop(connection.await) });
        Self { sender, scheme, authority, task }
    }

    async fn begin(&mut self, request: &Request) -> (ResponseFuture, SendStream<Bytes>, Bytes) {
        let uri = format!("{}://{}{}", self.scheme, self.authority, request.target);
        let mut builder = http::Request::builder().method(request.method.as_str()).uri(uri);
        for (name, value) in &request.headers {
            builder = builder.header(name, value);
        }
        let body = request.payload_bytes();
        let message = builder.body(()).expect("a valid request");
        let mut sender = self.sender.clone().ready().await.expect("an open connection");
        let (reply, stream) = sender.send_request(message, body.is_empty()).expect("a stream");
        (reply, stream, body)
    }

    /// Sends a request and reads the reply's header.
    pub(crate) async fn open(&mut self, request: &Request) -> Http2Reply {
        within("a reply's header over HTTP/2", self.open_slowly(request)).await
    }

    /// [`Http2Client::open`] without a deadline of its own.
    pub(crate) async fn open_slowly(&mut self, request: &Request) -> Http2Reply {
        let (reply, mut stream, body) = self.begin(request).await;
        let sending = send(&mut stream, body);
        tokio::pin!(reply);
        let reply = tokio::select! {
            // An early refusal is read while the body is still being sent.
            reply = &mut reply => reply,
            () = sending => reply.await,
        };
        let (parts, body) = reply.expect("a reply over HTTP/2").into_parts();
        let mut headers = Headers::default();
        for (name, value) in &parts.headers {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            headers.0.push((name.to_string(), value));
        }
        let head = Response {
            status: parts.status.as_u16(),
            headers,
            interim: Vec::new(),
            body: Vec::new(),
            complete: false,
        };
        Http2Reply { head, body, _request: stream }
    }

    /// One request and its whole reply.
    pub(crate) async fn call(&mut self, request: &Request) -> Response {
        self.call_within(super::DEADLINE, request).await
    }

    /// [`Http2Client::call`] with its own deadline, for bodies that take long.
    pub(crate) async fn call_within(&mut self, limit: Duration, request: &Request) -> Response {
        within_time(limit, "a reply over HTTP/2", async {
            self.open_slowly(request).await.whole().await
        })
        .await
    }

    /// Sends a request without waiting for anything.
    pub(crate) async fn send_request(&mut self, request: &Request) -> Http2Pending {
        let (reply, mut stream, body) = self.begin(request).await;
        within("sending over HTTP/2", send(&mut stream, body)).await;
        Http2Pending { _reply: reply, _request: stream }
    }
}

impl Http2Reply {
    /// The next piece of the body; `None` at its end, an error where it was reset.
    pub(crate) async fn piece(&mut self) -> Option<Result<Bytes, h2::Error>> {
        let piece = within("a piece over HTTP/2", self.body.data()).await?;
        if let Ok(piece) = &piece {
            self.body.flow_control().release_capacity(piece.len()).ok();
        }
        Some(piece)
    }

    /// The whole reply.
    pub(crate) async fn whole(mut self) -> Response {
        while let Some(piece) = self.piece().await {
            match piece {
                Ok(piece) => self.head.body.extend_from_slice(&piece),
                // A whole reply may be followed by this where the request was not (RFC 9113, 8.1).
                Err(error) if error.reason() == Some(h2::Reason::NO_ERROR) => break,
                Err(_) => return self.head,
            }
        }
        self.head.complete = true;
        self.head
    }
}

/// Sends a body as fast as the other side takes it; a refusal ends it early.
async fn send(stream: &mut SendStream<Bytes>, mut body: Bytes) {
    while !body.is_empty() {
        stream.reserve_capacity(body.len().min(1 << 20));
        let Some(Ok(capacity)) = poll_fn(|context| stream.poll_capacity(context)).await else {
            return;
        };
        let piece = body.split_to(capacity.min(body.len()));
        if stream.send_data(piece, body.is_empty()).is_err() {
            return;
        }
    }
}
