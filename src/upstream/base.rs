//! An upstream's base address, taken apart once.

use http::HeaderValue;
use url::{Host, Url};

/// `https://host:port/path` in the parts a request needs.
#[derive(Debug, Clone)]
pub struct BaseUrl {
    /// Whether the connection is TLS.
    pub tls: bool,
    /// Host name without brackets, or an IP address.
    pub host: String,
    /// Port, the scheme's own where none is written.
    pub port: u16,
    /// Path without its trailing slash: `/api/v1`, or nothing.
    pub path: String,
    /// Value of `Host` and `:authority`.
    pub authority: HeaderValue,
    /// Authority as text, for the absolute form that HTTP/2 wants.
    pub authority_text: String,
}

impl BaseUrl {
    /// Takes an address apart; `None` where it is no plain `http` or `https` address.
    pub fn parse(text: &str) -> Option<Self> {
        let url = Url::parse(text).ok()?;
        let tls = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let plain = url.username().is_empty() && url.password().is_none();
        if !plain || url.query().is_some() || url.fragment().is_some() {
            return None;
        }
        let host = match url.host()? {
            Host::Domain(name) => name.to_owned(),
            Host::Ipv4(address) => address.to_string(),
            Host::Ipv6(address) => address.to_string(),
        };
        let written = url.host_str()?;
        let authority_text =
            url.port().map_or_else(|| written.to_owned(), |port| format!("{written}:{port}"));
        Some(Self {
            tls,
            host,
            port: url.port_or_known_default()?,
            path: url.path().trim_end_matches('/').to_owned(),
            authority: HeaderValue::try_from(&authority_text).ok()?,
            authority_text,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_apart() {
        let base = BaseUrl::parse("https://openrouter.ai/api/v1/").unwrap();
        assert_eq!((base.tls, base.port, base.path.as_str()), (true, 443, "/api/v1"));
        assert_eq!(base.authority_text, "openrouter.ai");
        let base = BaseUrl::parse("http://[::1]:8001").unwrap();
        assert_eq!((base.tls, base.port, base.path.as_str()), (false, 8001, ""));
        assert_eq!((base.host.as_str(), base.authority_text.as_str()), ("::1", "[::1]:8001"));
    }

    #[test]
    fn what_is_no_plain_address_is_refused() {
        for wrong in
            ["", "ftp://x/", "http://u:p@x/", "http://x/?a=b", "http://x/#f", "x:80", "//x"]
        {
            assert!(BaseUrl::parse(wrong).is_none(), "{wrong}");
        }
    }
}
