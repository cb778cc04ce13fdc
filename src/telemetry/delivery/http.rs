//! How an export travels: one client a destination, bounded in time, and an answer read as far as needed.

use super::reply::Reply;
use std::error::Error as _;
use std::time::Duration;

/// For a connection, and for a whole export (LANGFUSE section 4).
const CONNECT: Duration = Duration::from_secs(5);
const EXPORT: Duration = Duration::from_secs(10);
/// So much of an answer's body is read, in bytes.
const ANSWER: usize = 16 << 10;

pub(super) fn client() -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder()
        .connect_timeout(CONNECT)
        .timeout(EXPORT)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("cirque/", env!("CARGO_PKG_VERSION")))
        .pool_idle_timeout(Duration::from_secs(30))
        .no_proxy()
        .build()
}

pub(super) async fn post(request: reqwest::RequestBuilder) -> reqwest::Result<Reply> {
    let mut reply = request.send().await?;
    let header = reply.headers().get("retry-after").and_then(|value| value.to_str().ok());
    let retry_after = header.map(str::to_owned);
    let status = reply.status().as_u16();
    let mut body = Vec::new();
    while body.len() < ANSWER {
        match reply.chunk().await {
            Ok(Some(piece)) => body.extend_from_slice(&piece),
            Ok(None) => break,
            // What was accepted is accepted, also where the rest of the answer is missing: its
            // status has said so, and sending again would count everything twice.
            Err(_) if reply.status().is_success() => break,
            Err(error) => return Err(error),
        }
    }
    Ok(Reply { status, retry_after, body })
}

/// A failed exchange: in our words for everyone, and in full for the log.
pub(super) fn trouble(error: reqwest::Error) -> (String, String) {
    let words = if error.is_connect() {
        "no connection"
    } else if error.is_timeout() {
        "no answer in time"
    } else {
        "the connection broke"
    };
    let error = error.without_url();
    let mut details = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        details = format!("{details}: {error}");
        cause = error.source();
    }
    (words.to_owned(), details)
}
