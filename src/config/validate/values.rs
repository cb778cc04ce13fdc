//! What one value may be, whatever setting it stands in: names, addresses, origins, headers.
//!
//! Every check answers with a problem and what to write; none repeats the value.

use http::{HeaderName, HeaderValue};
use std::net::{IpAddr, Ipv6Addr};
use url::Url;

/// What is wrong, and what to write.
pub(in crate::config) type Wrong = (&'static str, &'static str);

/// Names become labels, log fields and header values.
pub(in crate::config) fn name(text: &str) -> Result<(), Wrong> {
    const WRITE: &str = "write 1 to 64 characters such as letters, digits, `-`, `_` and `.`";
    if text.is_empty() {
        return Err(("the name is empty", WRITE));
    }
    if text.len() > 64 {
        return Err(("the name is too long", WRITE));
    }
    let fits = |c: char| (c.is_ascii_graphic() && !matches!(c, '"' | '\\')) || c == ' ';
    if text.trim() != text || !text.chars().all(fits) {
        return Err(("the name holds characters that labels and headers cannot carry", WRITE));
    }
    Ok(())
}

/// A credential that travels in a header.
pub(super) fn credential(text: &str) -> Result<(), Wrong> {
    if text.is_empty() {
        return Err(("the secret is empty", "set the variable or the file it comes from"));
    }
    if !text.chars().all(|c| c.is_ascii_graphic()) {
        let hint = "keys are letters, digits and signs; look for spaces and line breaks around it";
        return Err(("the secret holds characters that a key cannot have", hint));
    }
    Ok(())
}

/// A base address of a service.
pub(super) fn base_url(text: &str) -> Result<Url, Wrong> {
    const WRITE: &str = "write an address such as https://api.example.com/v1";
    let lower = text.to_ascii_lowercase();
    if !lower.starts_with("http://") && !lower.starts_with("https://") {
        return Err(("not an address that begins with http:// or https://", WRITE));
    }
    // The parser would quietly drop these.
    if text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '\\') {
        return Err(("the address holds spaces or backslashes", WRITE));
    }
    let url = Url::parse(text).map_err(|_| ("not a valid address", WRITE))?;
    if url.port() == Some(0) {
        return Err(("port 0 cannot be called", WRITE));
    }
    // `http://@host` has no user for the parser, but was meant to have one.
    if text.split('/').nth(2).is_some_and(|authority| authority.contains('@')) {
        return Err(("the address holds a user or password", "write the credential as `api_key`"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(("the address holds a `?` or `#`", "end it after the path"));
    }
    Ok(url)
}

/// Where a listener binds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::config) struct Listen {
    host: String,
    port: u16,
}

impl Listen {
    pub(in crate::config) fn parse(text: &str) -> Result<Self, Wrong> {
        const WRITE: &str = "write host:port, such as 0.0.0.0:8000 or \"[::]:8000\"";
        let wrong = ("not an address to listen on", WRITE);
        let (host, port) = text.rsplit_once(':').ok_or(wrong)?;
        if port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) {
            return Err(wrong);
        }
        let port = port.parse().map_err(|_| ("the port is above 65535", WRITE))?;
        let inner = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let is_host = match inner {
            Some(inner) => inner.parse::<Ipv6Addr>().is_ok(),
            None => is_host(host),
        };
        if !is_host {
            return Err(wrong);
        }
        Ok(Self { host: inner.unwrap_or(host).to_ascii_lowercase(), port })
    }

    /// Whether the system would refuse to bind both.
    pub(super) fn collides(&self, other: &Self) -> bool {
        let everywhere = |host: &str| matches!(host, "0.0.0.0" | "::");
        self.port != 0
            && self.port == other.port
            && (self.host == other.host || everywhere(&self.host) || everywhere(&other.host))
    }

    /// Whether only this machine can reach it.
    pub(in crate::config) fn is_local(&self) -> bool {
        self.host == "localhost"
            || self.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

/// A host name or an IPv4 address.
pub(super) fn is_host(text: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let looks_like_v4 = text.split('.').all(|label| label.bytes().all(|b| b.is_ascii_digit()));
    text.len() <= 253
        && text.split('.').all(is_label)
        && (!looks_like_v4 || text.parse::<IpAddr>().is_ok())
}

/// What browsers send in `Origin`, possibly with `*.` for every subdomain, or `*` alone.
pub(super) fn origin(text: &str) -> Result<(), Wrong> {
    const WRITE: &str = "write https://chat.example.com, https://*.example.com or \"*\"";
    if text == "*" || text == "null" {
        return Ok(());
    }
    let (scheme, host) =
        text.split_once("://").ok_or(("the origin has no scheme", "begin it with https://"))?;
    if text.contains(|c: char| c.is_ascii_uppercase()) {
        return Err(("the origin has capital letters, which browsers never send", WRITE));
    }
    let is_scheme_char = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
    if scheme.is_empty() || !scheme.bytes().all(is_scheme_char) {
        return Err(("not an origin", WRITE));
    }
    if host.contains(['/', '?', '#', '@']) {
        return Err(("an origin ends after the host and port", "remove the path, and the last /"));
    }
    if (scheme == "https" && host.ends_with(":443")) || (scheme == "http" && host.ends_with(":80"))
    {
        return Err(("browsers leave the usual port out", "remove the port"));
    }
    let host = host.strip_prefix("*.").unwrap_or(host);
    let (host, port) = match host.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        Some(_) | None => (host, None),
    };
    let v6 = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let is_known_host = v6.map_or_else(|| is_host(host), |v6| v6.parse::<Ipv6Addr>().is_ok());
    if !is_known_host || port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return Err(("not an origin", WRITE));
    }
    Ok(())
}

/// A network such as `10.0.0.0/8`; the length of its prefix.
pub(super) fn network(text: &str) -> Result<u8, Wrong> {
    const WRITE: &str = "write a network such as 10.0.0.0/8, 127.0.0.1/32 or fd00::/8";
    let (address, length) = text.split_once('/').ok_or(("not a network", WRITE))?;
    let address: IpAddr = address.parse().map_err(|_| ("not a network", WRITE))?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let is_number = length.bytes().all(|b| b.is_ascii_digit());
    let length: u8 = length.parse().map_err(|_| ("not a network", WRITE))?;
    if !is_number || length > longest {
        return Err(("not a network", WRITE));
    }
    Ok(length)
}

/// A header's name; lower-cased.
pub(super) fn header_name(text: &str) -> Result<HeaderName, Wrong> {
    HeaderName::from_bytes(text.as_bytes())
        .map_err(|_| ("not a header name", "write letters, digits and `-`, such as X-Title"))
}

/// A header's value.
pub(super) fn header_value(text: &str) -> Result<(), Wrong> {
    HeaderValue::from_str(text)
        .map(|_| ())
        .map_err(|_| ("the value holds characters no header can carry", "write one line of text"))
}

/// Why a header is not for the operator to set on calls to an upstream.
pub(super) fn reserved(name: &str) -> Option<&'static str> {
    Some(match name {
        "authorization" | "proxy-authorization" => "write the credential as `api_key`",
        "host" => "it follows from `base_url`",
        "content-length" | "transfer-encoding" | "content-encoding" | "content-type"
        | "trailer" | "expect" => "the gateway frames bodies itself",
        "connection" | "keep-alive" | "proxy-connection" | "te" | "upgrade" => {
            "the gateway manages connections itself"
        }
        "accept-encoding" => "the gateway asks for plain replies",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_must_fit_a_label() {
        for good in ["n8n", "openrouter-main", "Team A", "a/b:c@d", "x"] {
            assert_eq!(name(good), Ok(()), "{good}");
        }
        for bad in ["", " a", "a\nb", "a\"b", "a\\b", "é", &"x".repeat(65)] {
            assert!(name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn base_addresses_have_a_scheme_and_a_host_and_nothing_after_the_path() {
        for good in ["https://openrouter.ai/api/v1", "http://127.0.0.1:8001/v1", "HTTP://[::1]:80"]
        {
            assert!(base_url(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "openrouter.ai",
            "ftp://a",
            "http:/a",
            "https://",
            "http://a:0",
            "http://a:99999",
            "http://u:p@a",
            "http://u@a",
            "http://@a",
            "http://a/?x",
            "http://a/#x",
            "http://a /b",
            "http://a\\b",
            " http://a",
        ] {
            assert!(base_url(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn listeners_are_a_host_and_a_port() {
        for good in ["0.0.0.0:8000", "[::]:8000", "localhost:1", "127.0.0.1:0", "gateway-1:80"] {
            assert!(Listen::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "", "8000", ":8000", "0.0.0.0", "a:", "a:b", "a:70000", "::1:80", "[::1", "1.2.3:4",
            "a b:1", "a:+1",
        ] {
            assert!(Listen::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn listeners_collide_where_the_system_would_refuse_the_second() {
        let listen = |text| Listen::parse(text).unwrap();
        assert!(listen("0.0.0.0:1").collides(&listen("127.0.0.1:1")));
        assert!(listen("a:1").collides(&listen("A:1")));
        assert!(!listen("127.0.0.1:1").collides(&listen("127.0.0.2:1")));
        assert!(!listen("127.0.0.1:0").collides(&listen("127.0.0.1:0")));
    }

    #[test]
    fn origins_are_what_browsers_send() {
        for good in [
            "*",
            "null",
            "https://chat.example.com",
            "https://*.example.com",
            "http://localhost:3000",
            "http://[::1]:3000",
            "chrome-extension://abcdef",
        ] {
            assert_eq!(origin(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "localhost:3000",
            "https://a/",
            "https://A",
            "https://a:443",
            "https://*",
            "https://a.*.b",
            "https://a b",
            "https://",
            "://a",
        ] {
            assert!(origin(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn networks_have_a_prefix_length() {
        assert_eq!(network("10.0.0.0/8"), Ok(8));
        assert_eq!(network("fd00::/8"), Ok(8));
        for bad in ["", "10.0.0.1", "10.0.0.0/33", "10.0.0.0/+8", "10.0.0.0/", "a/8", "::/129"] {
            assert!(network(bad).is_err(), "{bad:?}");
        }
    }
}
