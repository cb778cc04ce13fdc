//! Sending a request and waiting for its reply's header, with an ear for an early answer.

use super::caller::{Caller, Interrupted};
use super::clock::{Clock, Expired};
use super::forward::{Connection, Stopped};
use super::judge::Failure;
use crate::protocol::edit::Segments;
use crate::telemetry::metrics::Outcome;
use bytes::Bytes;
use pingora::ErrorType;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::SocketDigest;
use pingora::protocols::http::client::HttpSession;
use pingora::protocols::http::v2::client::Http2Session;
use pingora::protocols::http::v2::write_body;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A body goes out in pieces of this size, so that an early answer is noticed between them.
const PIECE: usize = 256 << 10;
/// How long a piece may be stuck before we ask the socket whether an answer lies there.
const STUCK: Duration = Duration::from_millis(250);
/// A connection that broke while we sent may hold an answer; it is there at once or not at all.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Sends the whole request, unless the upstream answers before it has read it. `is_out` is set just
/// before its last bytes go: whatever ends the sending earlier, no upstream can act on it. A body of which
/// pieces still go out is not late: then `again` sets the clock by the moment of the last one.
pub(super) async fn send(
    connection: &mut Connection,
    (header, body): (Box<RequestHeader>, &Segments),
    caller: &mut Caller<'_>,
    (clock, again): (&mut Clock, impl Fn(&mut Clock, Instant)),
    is_out: &mut bool,
) -> Result<(), Stopped> {
    let Connection { session, ear, request_whole, .. } = connection;
    // No answer is looked for where this fails: nobody has been asked anything yet.
    let begun = caller.until(clock, pin!(session.write_request_header(header))).await?;
    begun.map_err(|error| Failure { is_untouched: true, ..Failure::of(&error) })?;
    let progress = Progress { is_out, begun: Instant::now(), moved: &AtomicU64::new(0) };
    let (begun, moved) = (progress.begun, progress.moved);
    let sending = async {
        match session {
            HttpSession::H2(h2) => transmit_http2(h2, body, progress).await,
            HttpSession::H1(_) | HttpSession::Custom(()) => {
                transmit(session, body, ear, progress).await
            }
        }
    };
    let mut sending = pin!(sending);
    let mut seen = 0;
    let sent = loop {
        match caller.until(clock, sending.as_mut()).await {
            Err(Interrupted::Expired(Expired::FirstByte | Expired::FirstToken))
                if moved.load(Ordering::Relaxed) > seen =>
            {
                seen = moved.load(Ordering::Relaxed);
                again(clock, begun + Duration::from_millis(seen));
            }
            sent => break sent?,
        }
    };
    *request_whole = sent.map_err(|error| Failure::of(&error))?;
    Ok(())
}

/// How far the sending of a body has come.
struct Progress<'p> {
    is_out: &'p mut bool,
    begun: Instant,
    /// When the connection has last taken a piece, in milliseconds since then.
    moved: &'p AtomicU64,
}

impl Progress<'_> {
    fn moves(&self) {
        let since = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved.store(since, Ordering::Relaxed);
    }
}

/// Writes the body; `false` where an answer came before it was out.
async fn transmit(
    session: &mut HttpSession,
    body: &Segments,
    ear: &Ear,
    progress: Progress<'_>,
) -> pingora::Result<bool> {
    match write(session, body, ear, progress).await {
        Ok(whole) => Ok(whole),
        Err(error) => {
            // An upstream that refuses a large body answers and closes: its answer counts.
            let last_words = tokio::time::timeout(LAST_WORDS, read_header(session));
            last_words.await.unwrap_or(Err(error)).map(|()| false)
        }
    }
}

async fn write(
    session: &mut HttpSession,
    body: &Segments,
    ear: &Ear,
    progress: Progress<'_>,
) -> pingora::Result<bool> {
    let mut left = body.len();
    for segment in body.iter() {
        let mut rest = segment.clone();
        while !rest.is_empty() {
            let piece = rest.split_to(PIECE.min(rest.len()));
            left -= piece.len() as u64;
            *progress.is_out = left == 0;
            if !write_piece(session, piece, left == 0, ear).await? {
                return Ok(false);
            }
            progress.moves();
        }
    }
    session.finish_request_body().await.map(|()| true)
}

/// Writes one piece; `false` where an answer came instead. A writer that is stuck is left only once
/// an answer is there: what it has written of the piece nobody knows.
async fn write_piece(
    session: &mut HttpSession,
    piece: Bytes,
    end: bool,
    ear: &Ear,
) -> pingora::Result<bool> {
    let write = session.write_request_body(piece, end);
    let mut write = pin!(write);
    loop {
        tokio::select! {
            biased;
            written = &mut write => return written.map(|()| true),
            () = tokio::time::sleep(STUCK) => if ear.has_heard() {
                return Ok(false);
            }
        }
    }
}

/// Writes the body over HTTP/2, where an answer can be waited for meanwhile; `false` where it came
/// before the body was out.
async fn transmit_http2(
    session: &mut Http2Session,
    body: &Segments,
    progress: Progress<'_>,
) -> pingora::Result<bool> {
    let Some(mut writer) = session.take_request_body_writer() else { return Ok(false) };
    let write = async {
        let mut left = body.len();
        for segment in body.iter() {
            let mut rest = segment.clone();
            while !rest.is_empty() {
                let piece = rest.split_to(PIECE.min(rest.len()));
                left -= piece.len() as u64;
                *progress.is_out = left == 0;
                write_body(&mut writer, piece, left == 0, None).await?;
                progress.moves();
            }
        }
        Ok::<(), Box<pingora::Error>>(())
    };
    tokio::select! {
        biased;
        written = write => if written.is_ok() {
            return Ok(true);
        },
        answered = session.read_response_header() => return answered.map(|()| false),
    }
    // The stream was reset; an answer may have come first, else the reason is found here.
    session.read_response_header().await.map(|()| false)
}

/// What an HTTP/1 upstream does with its connection while we cannot read, asked of the socket.
pub(super) struct Ear {
    socket: Option<Arc<SocketDigest>>,
    /// Whether neither side had closed it before we began to send.
    was_open: bool,
    /// Bytes that had come by then, and that the other side had got of ours.
    received: u64,
    acknowledged: u64,
    since: Instant,
    /// A new TLS connection: its upstream's session tickets come within the first round trip.
    expects_tickets: bool,
}

/// TCP's state in which both sides may speak, as Linux numbers them.
const ESTABLISHED: u8 = 1;

impl Ear {
    /// Listens from now on.
    pub(super) fn at(session: &HttpSession, is_reused: bool) -> Self {
        let digest = match session {
            HttpSession::H1(h1) => Some(h1.digest()),
            HttpSession::H2(_) | HttpSession::Custom(()) => None,
        };
        let socket = digest.and_then(|digest| digest.socket_digest.clone());
        let is_tls = digest.is_some_and(|digest| digest.ssl_digest.is_some());
        let info = socket.as_ref().and_then(|socket| socket.tcp_info());
        Self {
            socket,
            was_open: info.as_ref().is_none_or(|info| info.tcpi_state == ESTABLISHED),
            received: info.as_ref().map_or(0, |info| info.tcpi_bytes_received),
            acknowledged: info.as_ref().map_or(0, |info| info.tcpi_bytes_acked),
            since: Instant::now(),
            expects_tickets: is_tls && !is_reused,
        }
    }

    /// Whether neither side had closed the connection before we began to send.
    pub(super) const fn was_open(&self) -> bool {
        self.was_open
    }

    /// The failure behind an error met while the header of a reply is read.
    ///
    /// A close of the connection acknowledges all that had arrived before it, so one that
    /// acknowledges nothing crossed the request on its way. A reset says nothing of the kind; it
    /// would look the same if a failed write had met it first.
    fn failure(&self, error: &pingora::Error) -> Failure {
        let failure = Failure::of(error);
        let is_closed = *error.etype() == ErrorType::ConnectionClosed && self.acknowledged > 0;
        let info = self.socket.as_ref().filter(|_| is_closed).and_then(|socket| socket.tcp_info());
        let crossed = info.is_some_and(|info| info.tcpi_bytes_acked == self.acknowledged);
        Failure { is_untouched: failure.is_untouched || crossed, ..failure }
    }

    fn has_heard(&self) -> bool {
        let Some(info) = self.socket.as_ref().and_then(|socket| socket.tcp_info()) else {
            return false;
        };
        if !self.expects_tickets {
            return info.tcpi_bytes_received > self.received;
        }
        let ago = Duration::from_millis(info.tcpi_last_data_recv.into());
        let tickets = STUCK.max(2 * Duration::from_micros(info.tcpi_rtt.into()));
        ago + tickets < self.since.elapsed()
    }
}

/// Waits for the header of the reply.
pub(super) async fn await_header(
    connection: &mut Connection,
    caller: &mut Caller<'_>,
    clock: &mut Clock,
) -> Result<Box<ResponseHeader>, Stopped> {
    let Connection { session, ear, .. } = connection;
    let is_final = |header: &ResponseHeader| !header.status.is_informational();
    if !session.response_header().is_some_and(is_final) {
        let read = caller.until(clock, pin!(read_header(session))).await?;
        read.map_err(|error| ear.failure(&error))?;
    }
    match session.response_header() {
        Some(header) => Ok(Box::new(header.clone())),
        None => Err(Failure::new(Outcome::Reset, "the reply has no header").into()),
    }
}

/// Reads up to the first header that is not informational. A body read after an informational one
/// panics inside Pingora (PINGORA P31); 101 ends the loop and is refused by its judge.
async fn read_header(session: &mut HttpSession) -> pingora::Result<()> {
    loop {
        session.read_response_header().await?;
        let status = session.response_header().map_or(0, |header| header.status.as_u16());
        if status == 101 || !(100..200).contains(&status) {
            return Ok(());
        }
    }
}
