//! The caller's side of an exchange: what has been said to it, whether it still listens, and every
//! wait, which is always for the caller too.

use super::clock::{Clock, Due, Expired};
use super::respond::{self, Signature};
use crate::protocol::Dialect;
use crate::protocol::done::DoneFilter;
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use pingora::ErrorType;
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::{Duration, Instant};

/// The comment that fills silence; every SSE parser ignores it (WIRE section 8).
const COMMENT: Bytes = Bytes::from_static(b": keepalive\n\n");

/// Why a wait ended without what it waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interrupted {
    /// The caller has left.
    CallerGone,
    /// A deadline passed.
    Expired(Expired),
}

/// Whether the caller is still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    /// It is, and its connection is watched.
    Watched,
    /// It is; its connection has said something and is watched no more.
    Unwatched,
    /// It has left.
    Gone,
}

/// The caller, while an exchange runs.
pub(super) struct Caller<'s> {
    session: &'s mut ServerSession,
    signature: Signature,
    /// Silence after which a comment is due; none for a caller that wants no stream.
    comment_after: Option<Duration>,
    /// When the caller last heard from us, or asked.
    silent_since: Instant,
    /// Whether what was sent ends between two events, so that a comment may follow.
    pub(super) between_events: bool,
    /// Whether the reply's header has been sent.
    pub(super) begun: bool,
    presence: Presence,
    /// Whether the upstream is read to its end for a caller that has left.
    pub(super) drain: bool,
    /// When a write that the caller does not take is given up; none before the first attempt.
    pub(super) write_by: Option<Instant>,
    done_filter: Option<DoneFilter>,
    scratch: BytesMut,
    /// Reply body bytes written.
    pub(super) bytes_out: u64,
    /// Time spent waiting, on the caller and on the upstream.
    pub(super) waited: Duration,
}

impl<'s> Caller<'s> {
    /// A caller that has asked and heard nothing yet.
    pub(super) fn new(
        session: &'s mut ServerSession,
        signature: Signature,
        dialect: Dialect,
        comment_after: Option<Duration>,
    ) -> Self {
        Self {
            session,
            signature,
            comment_after,
            silent_since: Instant::now(),
            between_events: true,
            begun: false,
            presence: Presence::Watched,
            drain: false,
            write_by: None,
            done_filter: (dialect == Dialect::Messages).then(DoneFilter::new),
            scratch: BytesMut::new(),
            bytes_out: 0,
            waited: Duration::ZERO,
        }
    }

    /// Whether the caller has left.
    pub(super) fn is_gone(&self) -> bool {
        self.presence == Presence::Gone
    }

    /// The request's headers.
    pub(super) fn request(&self) -> &pingora::http::RequestHeader {
        self.session.req_header()
    }

    /// What every reply carries.
    pub(super) const fn signature(&self) -> &Signature {
        &self.signature
    }

    /// Whether the reply needs `Transfer-Encoding` where it has no length.
    pub(super) fn is_http11(&self) -> bool {
        !self.session.is_http2() && self.request().version == http::Version::HTTP_11
    }

    /// Waits for `work`, for the caller's departure and for the next deadline, whichever is first.
    /// Comments are sent meanwhile. Work that is always ready, as a stream that never pauses, is no way
    /// around the end of the whole call.
    ///
    /// `work` is pinned where it is made: taken by value an open stream would hold it three times.
    pub(super) async fn until<T>(
        &mut self,
        clock: &mut Clock,
        work: impl Future<Output = T> + Unpin,
    ) -> Result<T, Interrupted> {
        let since = Instant::now();
        if since >= clock.total() {
            return Err(Interrupted::Expired(Expired::Total));
        }
        let result = self.until_inner(clock, work).await;
        self.waited += since.elapsed();
        result
    }

    async fn until_inner<T>(
        &mut self,
        clock: &mut Clock,
        mut work: impl Future<Output = T> + Unpin,
    ) -> Result<T, Interrupted> {
        loop {
            let (at, due) = clock.next(self.comment_due());
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                left = self.session.read_body_or_idle(true), if self.presence == Presence::Watched => {
                    self.departed(&left)?;
                }
                () = clock.timer(at) => {
                    if Instant::now() < at {
                        continue;
                    }
                    match due {
                        // Rare, and no room is kept for it.
                        Due::Comment => Box::pin(self.comment()).await?,
                        Due::Expired(expired) => return Err(Interrupted::Expired(expired)),
                    }
                }
            }
        }
    }

    fn comment_due(&self) -> Option<Instant> {
        let after = self.comment_after.filter(|_| self.between_events && !self.is_gone())?;
        Some(self.silent_since + after)
    }

    /// The caller's connection said something while a reply is due: it closed, or, where bytes came,
    /// it pipelines. Pingora drops a pipelined request and closes after this reply, so only the
    /// watching ends.
    fn departed(&mut self, left: &pingora::Result<Option<Bytes>>) -> Result<(), Interrupted> {
        self.presence = Presence::Unwatched;
        match left {
            Ok(_) => Ok(()),
            Err(error) if *error.etype() == ErrorType::ConnectError => {
                self.session.set_keepalive(None);
                Ok(())
            }
            Err(_) => self.lost(),
        }
    }

    fn lost(&mut self) -> Result<(), Interrupted> {
        self.presence = Presence::Gone;
        if self.drain { Ok(()) } else { Err(Interrupted::CallerGone) }
    }

    async fn comment(&mut self) -> Result<(), Interrupted> {
        if !self.begun {
            let header = self.signature.stream_header(self.is_http11());
            self.begin(header).await?;
        }
        self.write_within_a_wait(COMMENT, false).await
    }

    /// From here on the reply is no stream: nothing is put in and nothing taken out.
    pub(super) fn pass_untouched(&mut self) {
        self.comment_after = None;
        self.done_filter = None;
    }

    /// Sends the reply's header.
    pub(super) async fn begin(&mut self, header: Box<ResponseHeader>) -> Result<(), Interrupted> {
        self.begun = true;
        self.silent_since = Instant::now();
        if self.is_gone() {
            return Ok(());
        }
        let framed = [CONTENT_LENGTH, TRANSFER_ENCODING];
        if !framed.iter().any(|name| header.headers.contains_key(name)) {
            // Only the end of the connection tells an HTTP/1.0 caller where the reply ends.
            self.session.set_keepalive(None);
        }
        let stall = Instant::now() + respond::WRITE_STALL;
        let by = self.write_by.map_or(stall, |by| by.min(stall));
        let written = in_time(by, pin!(self.session.write_response_header(header))).await;
        if written.is_ok() { Ok(()) } else { self.lost() }
    }

    /// Sends pieces of the reply in one write and empties the list.
    pub(super) async fn send(&mut self, pieces: &mut Vec<Bytes>) -> Result<(), Interrupted> {
        if let Some(filter) = &mut self.done_filter {
            *pieces = pieces.drain(..).flat_map(|piece| filter.push(piece)).collect();
        }
        let whole = match pieces.len() {
            0 => return Ok(()),
            1 => pieces.pop().unwrap_or_default(),
            _ => {
                pieces.drain(..).for_each(|piece| self.scratch.extend_from_slice(&piece));
                self.scratch.split().freeze()
            }
        };
        if whole.is_empty() {
            return Ok(());
        }
        self.write(whole, false).await
    }

    /// Ends the reply as a whole one.
    pub(super) async fn end(&mut self) -> Result<(), Interrupted> {
        let rest = self.done_filter.as_mut().and_then(DoneFilter::finish).unwrap_or_default();
        self.write(rest, true).await
    }

    /// Sends last words and ends the reply.
    pub(super) async fn end_with(&mut self, last: Bytes) -> Result<(), Interrupted> {
        if let Some(rest) = self.done_filter.as_mut().and_then(DoneFilter::finish) {
            self.write(rest, false).await?;
        }
        self.write(last, true).await
    }

    async fn write(&mut self, bytes: Bytes, end: bool) -> Result<(), Interrupted> {
        let since = Instant::now();
        let written = self.write_within_a_wait(bytes, end).await;
        self.waited += since.elapsed();
        written
    }

    /// Writes without counting the time as waited: the wait around it does.
    async fn write_within_a_wait(&mut self, bytes: Bytes, end: bool) -> Result<(), Interrupted> {
        if self.is_gone() {
            return Ok(());
        }
        let length = bytes.len() as u64;
        let written = {
            let write = pin!(self.session.write_response_body(bytes, end));
            match self.write_by {
                Some(at) => in_time(at, write).await,
                None => write.await,
            }
        };
        self.silent_since = Instant::now();
        match written {
            Ok(()) => {
                self.bytes_out += length;
                Ok(())
            }
            Err(_) => self.lost(),
        }
    }
}

/// Waits for a write until then. Most are over at once and need no timer.
pub(super) async fn in_time(
    at: Instant,
    mut write: impl Future<Output = pingora::Result<()>> + Unpin,
) -> pingora::Result<()> {
    let at_once = poll_fn(|context| Poll::Ready(Pin::new(&mut write).poll(context))).await;
    match at_once {
        Poll::Ready(written) => written,
        Poll::Pending => tokio::time::timeout_at(at.into(), write)
            .await
            .unwrap_or_else(|_| Err(pingora::Error::new(ErrorType::WriteTimedout))),
    }
}
