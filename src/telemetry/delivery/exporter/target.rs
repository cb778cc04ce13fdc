//! Where exports go, and when that has become another place.

use super::super::reply::{Reply, Verdict};
use crate::telemetry::langfuse::Destination;
use bytes::Bytes;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;

/// How long what is under way to an old address or with old keys may still take: what is about to be
/// accepted there had better not be sent again.
const LET_GO: Duration = Duration::from_secs(2);

/// An export to there.
pub(super) fn request(
    client: &reqwest::Client,
    to: &Destination,
    gzipped: Bytes,
) -> reqwest::RequestBuilder {
    client
        .post(&to.url)
        .headers(to.headers.iter().cloned().collect())
        .header("content-type", "application/json")
        .header("content-encoding", "gzip")
        .body(gzipped)
}

/// Whether exports to both are the same.
pub(super) fn is_same(one: &Destination, other: &Destination) -> bool {
    one.url == other.url && one.headers == other.headers
}

/// Whether an export was accepted.
pub(super) fn is_taken(outcome: &Result<Reply, reqwest::Error>, now: SystemTime) -> bool {
    let reply = outcome.as_ref().ok();
    reply.is_some_and(|reply| matches!(reply.verdict(now), Verdict::Accepted { .. }))
}

/// Comes back a while after exports go elsewhere than there, or with other keys.
pub(super) async fn moved(mut settings: watch::Receiver<Arc<Destination>>, from: &Destination) {
    while is_same(&settings.borrow_and_update(), from) {
        if settings.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
    tokio::time::sleep(LET_GO).await;
}
