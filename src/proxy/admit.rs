//! Chapter 1, who may come in: path, preflight, method, drain, size, key. Nothing is read yet.

use super::answers;
use super::body::LEAST_KEY;
use super::context::{Ctx, Ended};
use super::respond;
use super::traced;
use crate::auth;
use crate::error::{Kind, Rejection};
use crate::protocol::Dialect;
use crate::protocol::path::Endpoint;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, ORIGIN};
use http::{HeaderMap, Method};
use ipnet::IpNet;
use pingora::protocols::http::ServerSession;
use std::net::{IpAddr, SocketAddr};

/// What comes next.
pub(super) enum Admitted {
    /// A call: its body is to be read.
    Call(Dialect),
    /// The request has been answered from memory.
    Answered,
}

/// Lets a request in, or says why not.
pub(super) async fn admit(caller: &mut ServerSession, ctx: &mut Ctx) -> Result<Admitted, Ended> {
    describe(caller, ctx);
    ctx.endpoint = Endpoint::resolve(&ctx.path);
    strike_key(&caller.req_header().headers, ctx);
    let Some(endpoint) = ctx.endpoint.clone() else {
        return Err(not_found(&ctx.path).into());
    };
    let method = caller.req_header().method.clone();
    if method == Method::OPTIONS {
        respond::preflight(caller, ctx, endpoint.allow()).await?;
        return Ok(Admitted::Answered);
    }
    let allowed = match endpoint {
        Endpoint::Inference(_) => method == Method::POST,
        Endpoint::Models
        | Endpoint::Model(_)
        | Endpoint::Status
        | Endpoint::Health
        | Endpoint::Root => method == Method::GET || method == Method::HEAD,
    };
    if !allowed {
        let message = format!("{method} is not allowed here; use {}", endpoint.allow());
        return Err(Rejection::new(Kind::MethodNotAllowed, message).into());
    }
    if ctx.shared.current.is_draining() && endpoint != Endpoint::Health {
        let message = "the gateway is shutting down; send the request again";
        return Err(Rejection::new(Kind::Draining, message)
            .retry_after(std::time::Duration::from_secs(1))
            .into());
    }
    if endpoint.needs_key() {
        authenticate(caller, ctx)?;
    }
    match endpoint {
        Endpoint::Inference(dialect) => {
            traced::admit(&caller.req_header().headers, ctx);
            check_size(&caller.req_header().headers, ctx.snapshot.max_body())?;
            Ok(Admitted::Call(dialect))
        }
        Endpoint::Models
        | Endpoint::Model(_)
        | Endpoint::Status
        | Endpoint::Health
        | Endpoint::Root => {
            answers::answer(caller, ctx, &endpoint).await?;
            Ok(Admitted::Answered)
        }
    }
}

/// Notes what the request says of itself.
fn describe(caller: &ServerSession, ctx: &mut Ctx) {
    let request = caller.req_header();
    request.method.as_str().clone_into(&mut ctx.method);
    request.uri.path().clone_into(&mut ctx.path);
    ctx.origin = request.headers.get(ORIGIN).cloned();
    let peer = caller.client_addr().and_then(|address| address.as_inet()).map(SocketAddr::ip);
    ctx.client_ip = peer.map(|peer| client_ip(peer, &request.headers, &ctx.snapshot.trusted));
    if let Some(trace) = ctx.traced.join(&request.headers) {
        ctx.trace_id = trace;
    }
}

/// Strikes the caller's key out of a path that is not one of ours, before it stands in a log.
fn strike_key(headers: &HeaderMap, ctx: &mut Ctx) {
    if !matches!(ctx.endpoint, None | Some(Endpoint::Model(_))) {
        return;
    }
    let key = auth::credential(headers).and_then(|key| str::from_utf8(key).ok());
    if let Some(key) = key.filter(|key| key.len() >= LEAST_KEY && ctx.path.contains(key)) {
        ctx.path = ctx.path.replace(key, "[key]");
    }
}

/// The caller's address: the connection's, or, where that is a trusted proxy, the right-most
/// address of `X-Forwarded-For` that is not one. What stands left of it anybody may have written.
fn client_ip(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |address: &IpAddr| trusted.iter().any(|net| net.contains(address));
    let mut client = peer.to_canonical();
    if !is_trusted(&client) {
        return client;
    }
    let lines = headers.get_all("x-forwarded-for").iter().rev();
    for hop in lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b',')) {
        let Some(address) = address(hop) else { break };
        client = address.to_canonical();
        if !is_trusted(&client) {
            break;
        }
    }
    client
}

/// The address of one hop, which some proxies write with its port, and IPv6 in brackets.
fn address(hop: &[u8]) -> Option<IpAddr> {
    let hop = str::from_utf8(hop).ok()?.trim();
    let in_brackets = || hop.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let with_port = || hop.parse().ok().map(|address: SocketAddr| address.ip());
    hop.parse().ok().or_else(with_port).or_else(in_brackets)
}

fn authenticate(caller: &ServerSession, ctx: &mut Ctx) -> Result<(), Rejection> {
    let found = ctx.snapshot.keys.identify(&caller.req_header().headers, ctx.started);
    ctx.caller = found.cloned();
    if ctx.caller.is_some() {
        return Ok(());
    }
    let limit = ctx.snapshot.config.limits.auth_failures_per_minute;
    // Only failing attempts are counted and refused: whoever has a key is let in.
    if let Some(address) = ctx.client_ip
        && let Err(wait) = ctx.shared.limits.fail(address, limit)
    {
        let message = "too many attempts without a valid API key from this address";
        return Err(Rejection::new(Kind::RateLimitExceeded, message).retry_after(wait));
    }
    Err(Rejection::new(
        Kind::InvalidApiKey,
        "no valid API key: send it as `Authorization: Bearer KEY` or as `x-api-key: KEY`",
    ))
}

/// What can be refused before a byte of the body is read.
fn check_size(headers: &HeaderMap, max_body: u64) -> Result<(), Rejection> {
    if headers.get(CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
        return Err(Rejection::new(
            Kind::UnsupportedEncoding,
            "compressed request bodies are not supported; send the JSON as it is",
        ));
    }
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    match length.map(str::parse::<u64>) {
        Some(Ok(length)) if length > max_body => Err(too_large(max_body)),
        Some(Err(_)) => {
            Err(Rejection::new(Kind::InvalidRequest, "the Content-Length is not a number"))
        }
        Some(Ok(_)) | None => Ok(()),
    }
}

/// The refusal of a body over the limit.
pub(super) fn too_large(max_body: u64) -> Rejection {
    let limit = crate::units::ByteSize(max_body);
    let message = format!("the request body is larger than {limit}; send less, or raise max_body");
    Rejection::new(Kind::RequestTooLarge, message)
}

fn not_found(path: &str) -> Rejection {
    let hint = if path.contains("chat") { "; did you mean /v1/chat/completions?" } else { "" };
    Rejection::new(Kind::NotFound, format!("there is nothing at this path{hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(peer: &str, forwarded: &[&str], trusted: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in forwarded {
            headers.append("x-forwarded-for", line.parse().unwrap());
        }
        let trusted: Vec<IpNet> = trusted.iter().map(|net| net.parse().unwrap()).collect();
        client_ip(peer.parse().unwrap(), &headers, &trusted).to_string()
    }

    #[test]
    fn only_a_trusted_proxy_is_believed_and_only_its_own_word() {
        let trusted = ["10.0.0.0/8"];
        assert_eq!(from("1.2.3.4", &["9.9.9.9"], &trusted), "1.2.3.4");
        assert_eq!(from("10.0.0.1", &["9.9.9.9, 5.6.7.8"], &trusted), "5.6.7.8");
        assert_eq!(from("10.0.0.1", &["9.9.9.9", "5.6.7.8, 10.1.1.1"], &trusted), "5.6.7.8");
        assert_eq!(from("10.0.0.1", &["10.2.2.2"], &trusted), "10.2.2.2");
        assert_eq!(from("10.0.0.1", &["5.6.7.8, nonsense"], &trusted), "10.0.0.1");
        assert_eq!(from("::ffff:10.0.0.1", &["5.6.7.8"], &trusted), "5.6.7.8");
        // As some proxies write them; and what a client wrote in front hides nothing.
        assert_eq!(from("10.0.0.1", &["5.6.7.8:1234"], &trusted), "5.6.7.8");
        assert_eq!(from("10.0.0.1", &["[2001:db8::1]:1234"], &trusted), "2001:db8::1");
        assert_eq!(from("10.0.0.1", &["[2001:db8::1]"], &trusted), "2001:db8::1");
        assert_eq!(from("10.0.0.1", &["\u{ff}, 5.6.7.8"], &trusted), "5.6.7.8");
    }

    #[test]
    fn sizes_and_encodings_are_refused_before_reading() {
        let kind = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            check_size(&headers, 100).err().map(|r| r.kind)
        };
        assert_eq!(kind("content-length", "100"), None);
        assert_eq!(kind("content-length", "101"), Some(Kind::RequestTooLarge));
        assert_eq!(kind("content-length", "99999999999999999999"), Some(Kind::InvalidRequest));
        assert_eq!(kind("content-encoding", "gzip"), Some(Kind::UnsupportedEncoding));
        assert_eq!(kind("content-encoding", "identity"), None);
    }
}
