//! Sending a request and waiting for its reply's header, with an ear for an early answer.

use super::caller::Caller;
use super::clock::Clock;
use super::forward::{Connection, Stopped};
use super::judge::Failure;
use crate::protocol::edit::Segments;
use crate::telemetry::metrics::Outcome;
use bytes::Bytes;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::client::HttpSession;
use std::time::{Duration, Instant};

/// A body goes out in pieces of this size, so that an early answer is noticed between them.
const PIECE: usize = 256 << 10;
/// How long a piece may be stuck before we ask the socket whether an answer lies there.
const STUCK: Duration = Duration::from_millis(250);
/// A connection that broke while we sent may hold an answer; it is there at once or not at all.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Sends the whole request, unless the upstream answers before it has read it.
pub(super) async fn send(
    connection: &mut Connection,
    header: Box<RequestHeader>,
    body: &Segments,
    caller: &mut Caller<'_>,
    clock: &mut Clock,
) -> Result<(), Stopped> {
    let since = Instant::now();
    let session = &mut connection.session;
    // No answer is looked for where this fails: nobody has been asked anything yet.
    let begun = caller.until(clock, session.write_request_header(header)).await?;
    begun.map_err(|error| Failure { may_be_stale: true, ..Failure::of(&error) })?;
    let sent = caller.until(clock, transmit(session, body, since)).await?;
    match sent {
        Ok(whole) => {
            connection.request_whole = whole;
            Ok(())
        }
        Err(error) => {
            // An upstream that refuses a large body answers and closes: its answer counts.
            let last_words = tokio::time::timeout(LAST_WORDS, read_header(session));
            match caller.until(clock, last_words).await? {
                Ok(Ok(())) => Ok(()),
                Ok(Err(why)) => Err(Failure::of(&why).into()),
                Err(_) => Err(Failure::of(&error).into()),
            }
        }
    }
}

/// Writes the body; `false` where an answer came before it was out.
async fn transmit(
    session: &mut HttpSession,
    body: &Segments,
    since: Instant,
) -> pingora::Result<bool> {
    let mut left = body.len();
    for segment in body.iter() {
        let mut rest = segment.clone();
        while !rest.is_empty() {
            let piece = rest.split_to(PIECE.min(rest.len()));
            left -= piece.len() as u64;
            if !write_piece(session, piece, left == 0, since).await? {
                return Ok(false);
            }
        }
    }
    session.finish_request_body().await.map(|()| true)
}

/// Writes one piece; `false` where an answer came instead. A writer that is stuck is left only once
/// bytes have come from an upstream that was silent when we began to send.
async fn write_piece(
    session: &mut HttpSession,
    piece: Bytes,
    end: bool,
    since: Instant,
) -> pingora::Result<bool> {
    let socket = match session {
        HttpSession::H1(h1) => h1.digest().socket_digest.clone(),
        HttpSession::H2(_) | HttpSession::Custom(()) => None,
    };
    let write = session.write_request_body(piece, end);
    let mut write = std::pin::pin!(write);
    loop {
        tokio::select! {
            biased;
            written = &mut write => return written.map(|()| true),
            () = tokio::time::sleep(STUCK), if socket.is_some() => {
                let info = socket.as_ref().and_then(|socket| socket.tcp_info());
                let heard = info.map(|i| Duration::from_millis(i.tcpi_last_data_recv.into()));
                if heard.is_some_and(|heard| heard + STUCK < since.elapsed()) {
                    return Ok(false);
                }
            }
        }
    }
}

/// Waits for the header of the reply.
pub(super) async fn await_header(
    connection: &mut Connection,
    caller: &mut Caller<'_>,
    clock: &mut Clock,
) -> Result<Box<ResponseHeader>, Stopped> {
    let session = &mut connection.session;
    let is_final = |header: &ResponseHeader| !header.status.is_informational();
    if !session.response_header().is_some_and(is_final) {
        let read = caller.until(clock, read_header(session)).await?;
        read.map_err(|error| Failure::of(&error))?;
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
