//! An HTTP/1.1 client that sends exactly the bytes it is given and hides nothing it gets.

use super::request::Request;
use super::response::Response;
use super::tls::Authority;
use super::wire::{Framing, Reading, Wire, find};
use super::within;
use bytes::Bytes;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// One connection.
pub(crate) struct Client {
    wire: Wire,
    host: String,
    framing: Framing,
}

impl Client {
    /// Connects without TLS.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let tcp = within("a connection", TcpStream::connect(address)).await;
        let tcp = tcp.unwrap_or_else(|error| panic!("{address}: {error}"));
        Self { wire: Wire::new(tcp), host: address.to_string(), framing: Framing::Length(0) }
    }

    /// Connects with TLS, trusting only `authority`, offering HTTP/1.1.
    pub(crate) async fn connect_tls(address: SocketAddr, authority: &Authority) -> Self {
        let stream = authority.connect(address, &["http/1.1"]).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        Self { wire: Wire::new(stream), host: address.to_string(), framing: Framing::Length(0) }
    }

    /// Sends these bytes; a gateway that has already closed is no failure.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        within("sending", self.wire.write(bytes.as_ref())).await.ok();
    }

    /// Sends one byte at a time with this pause between two, until the gateway answers or closes.
    pub(crate) async fn drip(&mut self, bytes: &[u8], pause: Duration) {
        for byte in bytes {
            let (mut reading, writer) = self.wire.split();
            if writer.write_all(&[*byte]).await.is_err() {
                return;
            }
            let answered = reading.arrived();
            if tokio::time::timeout(pause, answered).await.is_ok() {
                return;
            }
        }
    }

    /// Sends a request without waiting for anything.
    pub(crate) async fn send_request(&mut self, request: &Request) {
        let bytes = request.encode(&self.host);
        self.send(bytes).await;
    }

    /// The start line and fields of a request as this client would send them.
    pub(crate) fn head_of(&self, request: &Request) -> String {
        request.head(&self.host)
    }

    /// Leaves with RST.
    pub(crate) fn reset(self) {
        self.wire.reset();
    }

    /// One request and its whole reply; a failed test where the connection closes instead.
    pub(crate) async fn call(&mut self, request: &Request) -> Response {
        let reply = within("a reply", self.try_call(request)).await;
        reply.unwrap_or_else(|| panic!("closed without a reply to {}", request.target))
    }

    /// One request and its whole reply, without a deadline; `None` where the connection closes
    /// instead.
    pub(crate) async fn try_call(&mut self, request: &Request) -> Option<Response> {
        let bytes = request.encode(&self.host);
        let (mut reading, writer) = self.wire.split();
        let write = async {
            // An early refusal may close the other direction: the reply is what counts.
            if writer.write_all(&bytes).await.is_ok() {
                writer.flush().await.ok();
            }
        };
        let read = read_reply(&mut reading, request.method == "HEAD");
        tokio::pin!(read);
        tokio::select! {
            reply = &mut read => reply,
            () = write => read.await,
        }
    }

    /// The next whole reply to something sent before; `None` where the connection closes instead.
    pub(crate) async fn reply(&mut self) -> Option<Response> {
        within("a reply", read_reply(&mut self.wire.reading(), false)).await
    }

    /// Sends a request and reads the reply's header; the body is left to [`Client::piece`].
    pub(crate) async fn open(&mut self, request: &Request) -> Response {
        self.send_request(request).await;
        self.opened().await
    }

    /// The status of the next header, 1xx or not, with nothing of its body read.
    pub(crate) async fn next_status(&mut self) -> u16 {
        let head = within("a header", async { self.wire.reading().head().await }).await;
        head.ok().flatten().expect("a header").status()
    }

    /// The header of the reply to something sent before.
    pub(crate) async fn opened(&mut self) -> Response {
        let head = within("a reply's header", read_head(&mut self.wire.reading(), false)).await;
        let (response, framing) = head.expect("a reply's header");
        self.framing = framing;
        response
    }

    /// The next piece of the body; `None` at its proper end.
    pub(crate) async fn piece(&mut self) -> io::Result<Option<Bytes>> {
        let mut reading = self.wire.reading();
        within("a piece of the body", reading.piece(&mut self.framing)).await
    }

    /// Reads the body until it holds `needle`; a failed test where it ends before.
    pub(crate) async fn read_until(&mut self, needle: &str) -> Vec<u8> {
        let mut body = Vec::new();
        while find(&body, needle.as_bytes()).is_none() {
            match self.piece().await {
                Ok(Some(piece)) => body.extend_from_slice(&piece),
                other => panic!("{other:?} after {}", String::from_utf8_lossy(&body)),
            }
        }
        body
    }

    /// The rest of the body, and whether it ended properly.
    pub(crate) async fn rest(&mut self) -> (Vec<u8>, bool) {
        let mut body = Vec::new();
        loop {
            match self.piece().await {
                Ok(Some(piece)) => body.extend_from_slice(&piece),
                Ok(None) => return (body, true),
                Err(_) => return (body, false),
            }
        }
    }

    /// Waits until the gateway has closed the connection.
    pub(crate) async fn closed(&mut self) {
        within("the end of the connection", self.wire.reading().closed()).await;
    }
}

/// A reply's header without its body, and how the body is delimited.
async fn read_head(reading: &mut Reading<'_>, is_head: bool) -> Option<(Response, Framing)> {
    let mut interim = Vec::new();
    let (head, status) = loop {
        let head = reading.head().await.ok()??;
        match head.status() {
            status @ (100 | 102..=199) => interim.push(status),
            status => break (head, status),
        }
    };
    let framing = if is_head || status == 204 || status == 304 {
        Framing::Length(0)
    } else {
        head.framing(Framing::UntilClose)
    };
    let (headers, body) = (head.headers, Vec::new());
    Some((Response { status, headers, interim, body, complete: false }, framing))
}

async fn read_reply(reading: &mut Reading<'_>, is_head: bool) -> Option<Response> {
    let (mut response, mut framing) = read_head(reading, is_head).await?;
    loop {
        match reading.piece(&mut framing).await {
            Ok(Some(piece)) => response.body.extend_from_slice(&piece),
            Ok(None) => {
                response.complete = true;
                return Some(response);
            }
            Err(_) => return Some(response),
        }
    }
}
