//! How an upstream is asked what costs nothing: model lists and probes, off the request path.

use super::Upstream;
use super::config::Http2;
use super::provider::{ANTHROPIC_VERSION, Credential};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// A client for one upstream, built when it is first needed and anew when its addresses are others.
#[derive(Debug, Default)]
pub struct Fetcher {
    client: Option<reqwest::Client>,
    addresses: Vec<IpAddr>,
}

impl Fetcher {
    /// The client, each request of which may take `timeout`; `None` where it cannot be built, or not
    /// before the addresses are known.
    pub fn client(&mut self, upstream: &Upstream, timeout: Duration) -> Option<&reqwest::Client> {
        let addresses = upstream.peers.addresses();
        if self.client.is_none() || self.addresses != addresses {
            self.client = client(upstream, timeout);
            self.addresses = addresses;
        }
        self.client.as_ref()
    }
}

/// A client with the upstream's own trust, each request of which may take `timeout`. The name asked
/// for in TLS is resolved to the upstream's addresses, so that `tls.sni` works here as it does for
/// calls. `None` where it cannot be built, or not before the addresses are known.
fn client(upstream: &Upstream, timeout: Duration) -> Option<reqwest::Client> {
    let config = &upstream.config;
    let mut builder = reqwest::Client::builder()
        .timeout(timeout)
        .connect_timeout(config.timeouts.connect.0.min(timeout))
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("cirque/", env!("CARGO_PKG_VERSION")))
        .pool_idle_timeout(Duration::from_secs(5))
        .no_proxy();
    builder = match config.http2 {
        Http2::Always if !upstream.base.tls => builder.http2_prior_knowledge(),
        Http2::Never => builder.http1_only(),
        Http2::Always | Http2::Auto => builder,
    };
    let Some(tls) = &config.tls else { return builder.build().ok() };
    builder = builder.danger_accept_invalid_certs(!tls.verify);
    if let Some(ca) = &tls.ca {
        let bundle = std::fs::read(ca).ok()?;
        let trusted = reqwest::Certificate::from_pem_bundle(&bundle).ok()?;
        builder = builder.tls_certs_only(trusted);
    }
    if let Some(sni) = &tls.sni {
        let with_port = |address| SocketAddr::new(address, upstream.base.port);
        let addresses: Vec<_> = upstream.peers.addresses().into_iter().map(with_port).collect();
        if addresses.is_empty() {
            return None;
        }
        builder = builder.resolve_to_addrs(sni, &addresses);
    }
    builder.build().ok()
}

impl Upstream {
    /// A GET of this path of the upstream's host, with its credential and its headers.
    pub fn get(&self, client: &reqwest::Client, path: &str) -> reqwest::RequestBuilder {
        let base = &self.base;
        let sni = self.config.tls.as_ref().and_then(|tls| tls.sni.as_deref());
        let scheme = if base.tls { "https" } else { "http" };
        let authority = match sni.filter(|_| base.tls) {
            Some(sni) => format!("{sni}:{}", base.port),
            None => base.authority_text.clone(),
        };
        let mut request = client.get(format!("{scheme}://{authority}{path}"));
        let is_anthropic = self.config.provider.row().credential == Credential::XApiKey;
        let has_version = self.headers.iter().any(|(name, _)| *name == ANTHROPIC_VERSION.0);
        if is_anthropic && !has_version {
            // Its own API answers nothing without it, model lists included.
            request = request.header(ANTHROPIC_VERSION.0, ANTHROPIC_VERSION.1);
        }
        self.headers.iter().fold(request, |request, (name, value)| request.header(name, value))
    }
}
