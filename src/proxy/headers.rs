//! The header of a relayed reply: the upstream's, less what speaks of its own house, signed by us.

use super::caller::Caller;
use super::context::Ctx;
use super::relay::Reply;
use super::respond;
use http::HeaderMap;
use http::header::{
    CONNECTION, CONTENT_LENGTH, DATE, HeaderName, HeaderValue, SERVER, TRANSFER_ENCODING,
};
use http::response::Parts;

/// The caller's header of a relayed reply; `length` is known where the whole body is held.
pub(super) fn reply_header(
    caller: &Caller<'_>,
    ctx: &Ctx,
    reply: &Reply<'_>,
    length: Option<usize>,
) -> Parts {
    let mut header = respond::blank(reply.header.status);
    let from = &reply.header.headers;
    for (name, value) in from.iter().filter(|(name, _)| is_passed(name) && !is_hop(from, name)) {
        respond::add(&mut header, name.clone(), value.clone());
    }
    if let Some(length) = length.or_else(|| announced(from)) {
        respond::set(&mut header, CONTENT_LENGTH, HeaderValue::from(length));
    } else if caller.is_http11() {
        respond::set(&mut header, TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    respond::name_upstream(&mut header, &reply.upstream.name, ctx.outcome.attempts);
    caller.signature().sign(&mut header);
    header
}

/// The length an upstream announced. It may have said so twice, in two lines or in one; Pingora has
/// seen to it that all say the same.
fn announced(headers: &HeaderMap) -> Option<usize> {
    let line = headers.get(CONTENT_LENGTH)?.to_str().ok()?;
    line.split(',').next()?.trim().parse().ok()
}

/// Whether the upstream's `Connection` names this header as meant for the next hop alone.
fn is_hop(headers: &HeaderMap, name: &HeaderName) -> bool {
    let lines = headers.get_all(CONNECTION).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|hop| hop.trim().eq_ignore_ascii_case(name.as_str()))
}

/// Headers of an upstream's reply that stay behind: hop by hop ones, the length, which we say
/// ourselves, those that would speak for our
/// host, those of its edge, and limits that are ours with it and not the caller's with us.
fn is_passed(name: &HeaderName) -> bool {
    const KEPT_BACK: [&str; 18] = [
        "keep-alive",
        "proxy-authenticate",
        "proxy-connection",
        "te",
        "trailer",
        "upgrade",
        "set-cookie",
        "alt-svc",
        "strict-transport-security",
        "openai-organization",
        "openai-project",
        "nel",
        "report-to",
        "via",
        "x-powered-by",
        "x-request-id",
        "request-id",
        // Whether it helps to ask again we know better, who have asked others.
        "x-should-retry",
    ];
    const FAMILIES: [&str; 4] = ["access-control-", "x-ratelimit-", "anthropic-ratelimit-", "cf-"];
    let text = name.as_str();
    *name != CONNECTION
        && *name != CONTENT_LENGTH
        && *name != TRANSFER_ENCODING
        && *name != SERVER
        && *name != DATE
        && !KEPT_BACK.contains(&text)
        && !FAMILIES.iter().any(|family| text.starts_with(family))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_the_upstreams_own_house_stay_behind() {
        for kept in ["set-cookie", "access-control-allow-origin", "cf-ray", "server", "connection"]
        {
            assert!(!is_passed(&HeaderName::from_static(kept)), "{kept}");
        }
        for passed in ["content-type", "x-generation-id", "retry-after", "openai-processing-ms"] {
            assert!(is_passed(&HeaderName::from_static(passed)), "{passed}");
        }
    }
}
