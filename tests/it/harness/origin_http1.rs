//! The origin's HTTP/1.1 side: every byte of a reply is the script's, right or wrong.

use super::origin::{Asked, Fate, Shared, wait_or_closed};
use super::reply::{Reply, Step};
use super::wire::{Framing, Head, Wire};
use bytes::{Bytes, BytesMut};
use std::fmt::Write as _;
use std::io;
use std::sync::Arc;

/// What a script leaves of its connection.
enum After {
    /// The next request may come.
    KeepAlive,
    /// FIN.
    Close,
    /// RST.
    Reset,
    /// The other side was gone first.
    CallerLeft,
}

/// Answers one connection until either side ends it.
pub(crate) async fn serve(mut wire: Wire, shared: Arc<Shared>, connection: usize) {
    loop {
        let Ok(Some(head)) = wire.reading().head().await else { return };
        let body = if shared.answers_early() {
            Ok(Bytes::new())
        } else {
            read_body(&mut wire, &head).await
        };
        let Ok(body) = body else { return };
        let mut words = head.start.split(' ');
        let mut word = || words.next().unwrap_or_default().to_owned();
        let (method, target) = (word(), word());
        let headers = head.headers;
        let asked = Asked { method, target, headers, body, connection, http2: false };
        let (reply, fate) = shared.ask(asked);
        let after = play(&mut wire, &reply).await.unwrap_or(After::CallerLeft);
        fate.send_replace(match after {
            After::CallerLeft => Fate::CallerLeft,
            After::KeepAlive | After::Close | After::Reset => Fate::Answered,
        });
        match after {
            After::KeepAlive => {}
            After::Reset => return wire.reset(),
            After::Close => return finish(wire).await,
            After::CallerLeft => return,
        }
    }
}

/// FIN first, and the socket only when the other side has seen it: unread bytes would make it RST.
async fn finish(mut wire: Wire) {
    if wire.half_close().await.is_ok() {
        wire.reading().closed().await;
    }
}

async fn read_body(wire: &mut Wire, head: &Head) -> io::Result<Bytes> {
    let mut framing = head.framing(Framing::Length(0));
    let mut body = BytesMut::new();
    while let Some(piece) = wire.reading().piece(&mut framing).await? {
        body.extend_from_slice(&piece);
    }
    Ok(body.freeze())
}

async fn play(wire: &mut Wire, reply: &Reply) -> io::Result<After> {
    let mut chunked = false;
    let mut until_close = false;
    for step in &reply.steps {
        match step {
            Step::Interim(status) => {
                wire.write(format!("HTTP/1.1 {status} Interim\r\n\r\n").as_bytes()).await?;
            }
            Step::Head(status, fields, framing) => {
                chunked = *framing == Framing::Chunked;
                until_close = *framing == Framing::UntilClose;
                wire.write(head(*status, fields, *framing).as_bytes()).await?;
            }
            Step::Piece(bytes) => write_piece(wire, bytes, chunked).await?,
            Step::Raw(bytes) => wire.write(bytes).await?,
            Step::Wait(gate) => {
                if !wait_or_closed(Some(gate), wire.reading().closed()).await {
                    return Ok(After::CallerLeft);
                }
            }
            Step::Pause(length) => tokio::time::sleep(*length).await,
            Step::Hang => {
                wait_or_closed(None, wire.reading().closed()).await;
                return Ok(After::CallerLeft);
            }
            Step::Repeat(bytes, pause) => {
                while write_piece(wire, bytes, chunked).await.is_ok() {
                    tokio::time::sleep(*pause).await;
                }
                return Ok(After::CallerLeft);
            }
            Step::End if chunked => wire.write(b"0\r\n\r\n").await?,
            Step::End if until_close => return Ok(After::Close),
            Step::End => {}
            Step::Close => return Ok(After::Close),
            Step::Reset => return Ok(After::Reset),
        }
    }
    Ok(After::KeepAlive)
}

async fn write_piece(wire: &mut Wire, bytes: &Bytes, chunked: bool) -> io::Result<()> {
    if !chunked {
        return wire.write(bytes).await;
    }
    let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
    chunk.extend_from_slice(bytes);
    chunk.extend_from_slice(b"\r\n");
    wire.write(&chunk).await
}

fn head(status: u16, fields: &[(String, String)], framing: Framing) -> String {
    let mut text = format!("HTTP/1.1 {status} Scripted\r\n");
    for (name, value) in fields {
        write!(text, "{name}: {value}\r\n").expect("a string takes all");
    }
    match framing {
        Framing::Length(length) => write!(text, "content-length: {length}\r\n"),
        Framing::Chunked => write!(text, "transfer-encoding: chunked\r\n"),
        Framing::UntilClose => write!(text, "connection: close\r\n"),
    }
    .expect("a string takes all");
    text + "\r\n"
}
