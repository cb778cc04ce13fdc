//! Whether the head of an HTTP/1 request may reach Pingora: framing that two readers could read in
//! two ways is refused, and refused with a reason.

use crate::error::{Kind, Rejection};
use http::uri::PathAndQuery;
use httparse::{EMPTY_HEADER, Error, Header, Request, Status};
use memchr::{memchr_iter, memmem};

/// Longest head in bytes, request line included.
pub(super) const MAX_HEAD: usize = 64 << 10;
/// Longest request target in bytes.
const MAX_TARGET: usize = 8 << 10;
/// Most header lines; Pingora's own bound.
const MAX_HEADERS: usize = 256;

/// What a head says of itself, as far as it can be read; for the record.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    /// Method.
    pub(super) method: String,
    /// Path, without the query.
    pub(super) path: String,
    /// The page that calls.
    pub(super) origin: Option<Vec<u8>>,
}

/// The end of the head, if it is there: the offset after its empty line. `seen` bytes have been
/// looked at before.
pub(super) fn end(buffer: &[u8], seen: usize) -> Option<usize> {
    let from = seen.saturating_sub(3);
    let tail = buffer.get(from..)?;
    let crlf = memmem::find(tail, b"\n\r\n").map(|at| at + 3);
    let bare = memmem::find(tail, b"\n\n").map(|at| at + 2);
    [crlf, bare].into_iter().flatten().min().map(|at| from + at)
}

/// How long the body behind a head is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// This many bytes.
    Length(usize),
    /// As its chunks say.
    Chunked,
}

/// Checks a whole head.
pub(super) fn check(head: &[u8]) -> Result<Framing, Rejection> {
    for at in memchr_iter(b'\n', head) {
        if at == 0 || head.get(at - 1) != Some(&b'\r') {
            return Err(bad("a header line ends without a carriage return"));
        }
    }
    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
    let mut request = Request::new(&mut headers);
    match request.parse(head) {
        Ok(Status::Complete(_)) => {}
        Ok(Status::Partial) => return Err(bad("the request head is not whole")),
        Err(Error::TooManyHeaders) => return Err(too_much("there are more than 256 header lines")),
        Err(_) => return Err(bad("the request line or a header line is malformed")),
    }
    if request.method == Some("CONNECT") {
        let message = "CONNECT is not allowed here; this is no forward proxy";
        return Err(Rejection::new(Kind::MethodNotAllowed, message));
    }
    target(request.path.unwrap_or_default(), request.headers)?;
    framing(request.headers, request.version == Some(1))
}

/// What the head says, even where it is to be refused.
pub(super) fn said(head: &[u8]) -> Said {
    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
    let mut request = Request::new(&mut headers);
    // Only a part may have been parsed; whatever is there is used.
    let _parsed = request.parse(head);
    let path = request.path.unwrap_or_default();
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    let origin = request.headers.iter().find(|h| h.name.eq_ignore_ascii_case("origin"));
    Said {
        method: request.method.unwrap_or_default().chars().take(32).collect(),
        path: path.to_owned(),
        origin: origin.map(|header| header.value.to_vec()),
    }
}

/// Whether the target and the Host header name one thing; Pingora would refuse others without a word.
fn target(target: &str, headers: &[Header<'_>]) -> Result<(), Rejection> {
    if target.len() > MAX_TARGET {
        return Err(too_much("the request target is longer than 8 KiB"));
    }
    let mut hosts = headers.iter().filter(|header| header.name.eq_ignore_ascii_case("host"));
    if hosts.clone().any(|host| host.value.contains(&b'@')) {
        return Err(bad("the Host header holds more than a host and a port"));
    }
    // In absolute form (RFC 9112 section 3.2.2), as clients of a forward proxy send it, or as usual.
    let path = match target.strip_prefix("http://").or_else(|| target.strip_prefix("https://")) {
        Some(rest) => {
            let (named, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
            if hosts.any(|host| host.value.trim_ascii() != named.as_bytes()) {
                return Err(bad("the request target names another host than the Host header"));
            }
            path
        }
        None if target.starts_with('/') || target == "*" => target,
        None => return Err(bad("the request target must be a path that begins with /")),
    };
    if !path.is_empty() && PathAndQuery::try_from(path).is_err() {
        return Err(bad("the request target holds characters that must be percent-encoded"));
    }
    Ok(())
}

fn framing(headers: &[Header<'_>], http11: bool) -> Result<Framing, Rejection> {
    let all = |name: &'static str| {
        headers.iter().filter(move |h| h.name.eq_ignore_ascii_case(name)).map(|h| h.value)
    };
    let hosts = all("host").count();
    if hosts > 1 || (http11 && hosts == 0) {
        return Err(bad("there must be exactly one Host header"));
    }
    let lengths = all("content-length").count();
    let codings = all("transfer-encoding").count();
    if lengths > 0 && codings > 0 {
        return Err(bad("Content-Length and Transfer-Encoding must not stand together"));
    }
    if lengths > 1 || codings > 1 {
        return Err(bad("a framing header stands more than once"));
    }
    let length = match all("content-length").next().map(length) {
        Some(None) => return Err(bad("the Content-Length is not a number")),
        Some(Some(length)) => length,
        None => 0,
    };
    let chunked = |value: &[u8]| value.trim_ascii().eq_ignore_ascii_case(b"chunked");
    if all("transfer-encoding").any(|value| !http11 || !chunked(value)) {
        return Err(bad("the only Transfer-Encoding understood is chunked, over HTTP/1.1"));
    }
    let awaited = |value: &[u8]| value.trim_ascii().eq_ignore_ascii_case(b"100-continue");
    if all("expect").any(|value| !awaited(value)) {
        return Err(bad("the only Expect understood is 100-continue"));
    }
    Ok(if codings > 0 { Framing::Chunked } else { Framing::Length(length) })
}

/// Digits alone; `None` for anything else and for what no machine can hold.
fn length(value: &[u8]) -> Option<usize> {
    let digits = std::str::from_utf8(value.trim_ascii()).ok()?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

fn bad(what: &'static str) -> Rejection {
    Rejection::new(Kind::InvalidRequest, what)
}

fn too_much(what: &'static str) -> Rejection {
    Rejection::new(Kind::HeadersTooLarge, what)
}

/// The refusal of a head that is too long.
pub(super) fn too_long() -> Rejection {
    too_much("the request head is longer than 64 KiB")
}

/// The refusal of HTTP/2 without TLS where it is switched off.
pub(super) fn no_http2() -> Rejection {
    bad("HTTP/2 without TLS is switched off here; use HTTP/1.1")
}

/// The refusal of a head that came too slowly.
pub(super) fn too_slow() -> Rejection {
    Rejection::new(Kind::RequestTimeout, "the request head came too slowly; send it again")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kind(head: &str) -> Option<Kind> {
        check(head.as_bytes()).err().map(|rejection| rejection.kind)
    }

    #[test]
    fn the_body_is_as_long_as_its_head_says() {
        let framing = |headers| {
            check(format!("POST / HTTP/1.1\r\nHost: x\r\n{headers}\r\n").as_bytes()).unwrap()
        };
        assert_eq!(framing("Content-Length: 12\r\n"), Framing::Length(12));
        assert_eq!(framing(""), Framing::Length(0));
        assert_eq!(framing("Transfer-Encoding: chunked\r\n"), Framing::Chunked);
    }

    #[test]
    fn a_plain_head_passes() {
        assert_eq!(
            kind("POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n"),
            None
        );
        assert_eq!(kind("GET / HTTP/1.0\r\n\r\n"), None);
        assert_eq!(
            kind(
                "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\nExpect: 100-Continue\r\n\r\n"
            ),
            None
        );
    }

    #[test]
    fn framing_that_can_be_read_in_two_ways_is_refused() {
        for headers in [
            "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: 2\r\nContent-Length: 2\r\n",
            "Content-Length: 2, 2\r\n",
            "Content-Length: +2\r\n",
            "Content-Length: -2\r\n",
            "Content-Length: 0x2\r\n",
            "Content-Length: \r\n",
            "Content-Length: 99999999999999999999\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: identity\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Host: y\r\n",
            "X: a\nInjected: 1\r\n",
            "X: a\r\n folded\r\n",
            "X : a\r\n",
            "Expect: 200-ok\r\n",
            ": empty\r\n",
        ] {
            let head = format!("POST / HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
            assert_eq!(kind(&head), Some(Kind::InvalidRequest), "{headers:?}");
        }
        assert_eq!(kind("POST / HTTP/1.1\r\n\r\n"), Some(Kind::InvalidRequest));
        assert_eq!(
            kind("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"),
            Some(Kind::InvalidRequest)
        );
        assert_eq!(kind("POST /a b HTTP/1.1\r\nHost: x\r\n\r\n"), Some(Kind::InvalidRequest));
    }

    #[test]
    fn a_target_names_a_path_and_no_host_but_ours() {
        let kind = |target| kind(&format!("GET {target} HTTP/1.1\r\nHost: x:1\r\n\r\n"));
        for fine in ["/", "*", "/a?b=c#d", "/{a}/é", "http://x:1/a", "http://x:1", "https://x:1?a"]
        {
            assert_eq!(kind(fine), None, "{fine}");
        }
        for wrong in [
            "a",
            "x:/a",
            "ftp://x:1/a",
            "http://y/a",
            "http://x/a",
            "http:///a",
            "http://u@x:1/",
            "/<>|",
        ] {
            assert_eq!(kind(wrong), Some(Kind::InvalidRequest), "{wrong}");
        }
    }

    #[test]
    fn too_much_of_anything_is_refused() {
        let many = "A: b\r\n".repeat(300);
        assert_eq!(
            kind(&format!("GET / HTTP/1.1\r\nHost: x\r\n{many}\r\n")),
            Some(Kind::HeadersTooLarge)
        );
        let long = "a".repeat(9_000);
        assert_eq!(
            kind(&format!("GET /{long} HTTP/1.1\r\nHost: x\r\n\r\n")),
            Some(Kind::HeadersTooLarge)
        );
    }

    #[test]
    fn what_was_said_is_known_even_of_a_bad_head() {
        let head =
            b"GET /v1/models?key=x HTTP/1.1\r\nHost: x\r\nHost: y\r\nOrigin: https://a\r\n\r\n";
        let said = said(head);
        assert_eq!((said.method.as_str(), said.path.as_str()), ("GET", "/v1/models"));
        assert_eq!(said.origin.as_deref(), Some(&b"https://a"[..]));
    }

    proptest! {
        #[test]
        fn the_end_is_found_wherever_the_reads_are_cut(cut in 0_usize..40) {
            let buffer = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n{\"a\":1}";
            let expected = end(buffer, 0);
            prop_assert_eq!(expected, Some(27));
            let cut = cut.min(26);
            prop_assert_eq!(end(&buffer[..cut], 0), None);
            prop_assert_eq!(end(buffer, cut), expected);
        }

        #[test]
        fn no_head_panics(head in proptest::collection::vec(any::<u8>(), 0..400)) {
            let sound = check(&head).is_ok();
            let said = said(&head);
            prop_assert!(!sound || !said.method.is_empty());
            prop_assert!(end(&head, head.len() / 2).is_none_or(|end| end <= head.len()));
        }
    }
}
