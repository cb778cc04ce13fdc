//! The simulated provider of `cirque demo`: chat, responses, messages, embeddings and models, with
//! faults on request, inside the process.
//!
//! What is answered is decided by pure functions as a `Reply` before the first byte is
//! sent; this file alone reads and writes the connection.

mod answer;
mod ask;
mod chat;
mod embeddings;
mod faults;
mod messages;
mod models;
mod refusal;
mod reply;
mod responses;
mod schema;
mod setup;
mod site;

pub use setup::{banner, config_yaml};

use async_trait::async_trait;
use bytes::Bytes;
use pingora::apps::{HttpPersistentSettings, HttpServerApp, ReusedHttpStream};
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;
use pingora::server::ShutdownWatch;
use reply::{Ending, Reply, Stamp};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Idle seconds after which a kept connection is closed.
const KEEPALIVE_SECONDS: u64 = 60;
/// Longest silence of a reply that stalls; every caller has given up long before.
const STALL: Duration = Duration::from_mins(10);

/// Two simulated providers behind one listener; the path's first segment, `main` or `spare`, tells
/// which of them is asked.
pub struct Provider {
    name: String,
    served: AtomicU64,
}

impl Provider {
    /// A provider whose two sides call themselves `<name>-main` and `<name>-spare`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), served: AtomicU64::new(0) }
    }

    fn stamp(&self) -> Stamp<'_> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Stamp {
            provider: &self.name,
            created: now.as_secs(),
            serial: self.served.fetch_add(1, Ordering::Relaxed),
        }
    }
}

#[async_trait]
impl HttpServerApp for Provider {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        if !session.read_request().await.ok()? {
            return None;
        }
        let body = read_body(&mut session).await.ok()?;
        session.set_keepalive((!*shutdown.borrow()).then_some(KEEPALIVE_SECONDS));
        let head = session.req_header();
        let request = site::Request {
            method: &head.method,
            path: head.uri.path(),
            authorization: head.headers.get("authorization").map(http::HeaderValue::as_bytes),
            body: &body,
        };
        let reply = site::answer(&request, &self.stamp());
        if let Err(error) = play(&mut session, &reply, shutdown).await {
            tracing::debug!(%error, "simulated reply not delivered");
            return None;
        }
        match reply.ending {
            Ending::Complete => {
                let settings = HttpPersistentSettings::for_session(&session);
                let stream = session.finish().await.ok()??;
                Some(ReusedHttpStream::from_reusable_stream(stream, settings))
            }
            Ending::Cut | Ending::Silence => {
                session.shutdown().await;
                None
            }
        }
    }
}

async fn read_body(session: &mut ServerSession) -> pingora::Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(piece) = session.read_request_body().await? {
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

/// Writes the reply at its own pace; returns early, with an error, when the caller leaves.
async fn play(
    session: &mut ServerSession,
    reply: &Reply,
    shutdown: &ShutdownWatch,
) -> pingora::Result<()> {
    let mut head = ResponseHeader::build(reply.status, Some(reply.headers.len()))?;
    for (name, value) in &reply.headers {
        head.insert_header(*name, value.as_str())?;
    }
    tokio::time::sleep(reply.before_header).await;
    session.write_response_header(Box::new(head)).await?;
    for beat in &reply.beats {
        tokio::time::sleep(beat.after).await;
        session.write_response_body(Bytes::from(beat.bytes.clone()), false).await?;
    }
    if reply.ending == Ending::Silence {
        let mut shutdown = shutdown.clone();
        tokio::select! {
            left = session.read_body_or_idle(true) => drop(left?),
            _ = shutdown.changed() => {}
            () = tokio::time::sleep(STALL) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
