//! The origin's HTTP/2 side: the same scripts, with `RST_STREAM` where the script breaks off.

use super::origin::{Asked, Fate, Shared, wait_or_closed};
use super::reply::{Reply, Step};
use super::wire::{Framing, Headers};
use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{Request, Response};
use std::future::poll_fn;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;

/// Answers one connection until either side ends it.
pub(crate) async fn serve(
    io: impl AsyncRead + AsyncWrite + Unpin,
    shared: Arc<Shared>,
    connection: usize,
) {
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(1 << 20).initial_connection_window_size(8 << 20);
    let Ok(mut http2) = builder.handshake::<_, Bytes>(io).await else { return };
    let mut streams = tokio::task::JoinSet::new();
    let hang_up = Arc::new(Notify::new());
    loop {
        tokio::select! {
            // First, because it also writes out what the streams have said.
            biased;
            next = http2.accept() => {
                let Some(Ok((request, respond))) = next else { return };
                let (shared, hang_up) = (shared.clone(), hang_up.clone());
                streams.spawn(async move {
                    if stream(request, respond, shared, connection).await == After::HangUp {
                        hang_up.notify_one();
                    }
                });
            }
            () = hang_up.notified() => return,
        }
    }
}

/// What a script leaves of its connection.
#[derive(PartialEq, Eq)]
enum After {
    /// The other streams go on.
    Stay,
    /// It ends at once, whatever it was doing.
    HangUp,
}

async fn stream(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    shared: Arc<Shared>,
    connection: usize,
) -> After {
    let (parts, mut incoming) = request.into_parts();
    let mut body = BytesMut::new();
    if !shared.answers_early() {
        while let Some(piece) = incoming.data().await {
            let Ok(piece) = piece else { return After::Stay };
            body.extend_from_slice(&piece);
            incoming.flow_control().release_capacity(piece.len()).ok();
        }
    }
    let mut headers = Headers::default();
    if let Some(authority) = parts.uri.authority() {
        headers.0.push(("host".into(), authority.to_string()));
    }
    for (name, value) in &parts.headers {
        headers.0.push((name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
    }
    let target = parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let method = parts.method.to_string();
    let body = body.freeze();
    let (reply, fate) =
        shared.ask(Asked { method, target, headers, body, connection, http2: true });
    let answered = play(&mut respond, &reply).await;
    fate.send_replace(if answered.is_some() { Fate::Answered } else { Fate::CallerLeft });
    answered.unwrap_or(After::Stay)
}

/// Plays the steps; `None` where the caller was gone first.
async fn play(respond: &mut SendResponse<Bytes>, reply: &Reply) -> Option<After> {
    let mut body: Option<SendStream<Bytes>> = None;
    for step in &reply.steps {
        match step {
            Step::Interim(_) => {}
            Step::Head(status, fields, framing) => {
                let response = head(*status, fields, *framing);
                body = Some(respond.send_response(response, false).ok()?);
            }
            Step::Piece(bytes) | Step::Raw(bytes) => {
                body.as_mut()?.send_data(bytes.clone(), false).ok()?;
            }
            Step::Wait(gate) => {
                if !wait_or_closed(Some(gate), closed(respond, &mut body)).await {
                    return None;
                }
            }
            Step::Pause(length) => tokio::time::sleep(*length).await,
            Step::Hang => {
                wait_or_closed(None, closed(respond, &mut body)).await;
                return None;
            }
            Step::Repeat(bytes, pause) => loop {
                body.as_mut()?.send_data(bytes.clone(), false).ok()?;
                if tokio::time::timeout(*pause, closed(respond, &mut body)).await.is_ok() {
                    return None;
                }
            },
            Step::End => body.as_mut()?.send_data(Bytes::new(), true).ok()?,
            Step::Close => return Some(After::HangUp),
            Step::Reset => {
                match body.as_mut() {
                    Some(body) => body.send_reset(Reason::INTERNAL_ERROR),
                    None => respond.send_reset(Reason::INTERNAL_ERROR),
                }
                return Some(After::Stay);
            }
        }
    }
    Some(After::Stay)
}

/// Waits until the caller resets the stream or drops the connection.
async fn closed(respond: &mut SendResponse<Bytes>, body: &mut Option<SendStream<Bytes>>) {
    let reset = match body {
        Some(body) => poll_fn(|context| body.poll_reset(context)).await,
        None => poll_fn(|context| respond.poll_reset(context)).await,
    };
    drop(reset);
}

fn head(status: u16, fields: &[(String, String)], framing: Framing) -> Response<()> {
    let mut response = Response::builder().status(status);
    for (name, value) in fields {
        response = response.header(name, value);
    }
    if let Framing::Length(length) = framing {
        response = response.header("content-length", length);
    }
    response.body(()).expect("a script with valid fields")
}
