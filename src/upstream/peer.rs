//! An upstream's addresses as Pingora peers: TLS, ALPN, trust and connection reuse.

use super::base::BaseUrl;
use super::config::{Http2, UpstreamConfig};
use arc_swap::ArcSwap;
use pingora::protocols::ALPN;
use pingora::protocols::l4::socket::SocketAddr as PingoraAddress;
use pingora::tls::RootCertStore;
use pingora::upstreams::peer::HttpPeer;
use pingora::utils::tls::{WrappedX509, parse_x509};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How long an idle connection is kept. Providers keep theirs for 60 s (nginx) to 400 s
/// (Cloudflare); a shorter-lived one is noticed, since Pingora watches idle connections.
const IDLE: Duration = Duration::from_secs(55);
/// How long an address that could not be connected to is tried last. A refresh of the name comes as
/// often as every second and says nothing about it.
const DEAD_FOR: Duration = Duration::from_mins(1);
/// Streams on one HTTP/2 connection. A reset or GOAWAY hits all of them, so not the 250 that
/// servers usually allow.
const H2_STREAMS: usize = 100;

/// The peers of one upstream, one an address.
#[derive(Debug)]
pub struct Peers {
    template: HttpPeer,
    port: u16,
    current: ArcSwap<Vec<Arc<HttpPeer>>>,
    /// Fires once the first resolution has ended, well or not.
    resolved: watch::Sender<bool>,
    turn: AtomicUsize,
    /// Addresses that could not be connected to, and when that was seen.
    dead: ArcSwap<Vec<(PingoraAddress, Instant)>>,
}

impl Peers {
    /// Prepares everything but the addresses.
    ///
    /// # Errors
    /// A text for the operator where the CA file cannot be used.
    pub fn new(config: &UpstreamConfig, base: &BaseUrl) -> Result<Self, String> {
        let tls = config.tls.clone().unwrap_or_default();
        let sni = tls.sni.clone().unwrap_or_else(|| base.host.clone());
        let unspecified = SocketAddr::from(([0, 0, 0, 0], base.port));
        let mut template = HttpPeer::new(unspecified, base.tls, sni);
        let options = &mut template.options;
        options.connection_timeout = Some(config.timeouts.connect.0);
        options.total_connection_timeout = Some(config.timeouts.connect.0);
        options.idle_timeout = Some(IDLE);
        options.verify_cert = tls.verify;
        options.verify_hostname = tls.verify;
        options.max_h2_streams = H2_STREAMS;
        options.alpn = match (config.http2, base.tls) {
            (Http2::Never, _) | (Http2::Auto, false) => ALPN::H1,
            (Http2::Auto, true) => ALPN::H2H1,
            (Http2::Always, _) => ALPN::H2,
        };
        if let Some(path) = &tls.ca {
            options.ca = Some(authorities(path)?);
        }
        // Pools are keyed by address and name; trust settings must separate them too.
        let mut hasher = DefaultHasher::new();
        (&config.name, &tls.ca, tls.verify, format!("{:?}", config.http2)).hash(&mut hasher);
        template.group_key = hasher.finish();
        Ok(Self {
            template,
            port: base.port,
            current: ArcSwap::default(),
            resolved: watch::Sender::new(false),
            turn: AtomicUsize::new(0),
            dead: ArcSwap::default(),
        })
    }

    /// Replaces the addresses; connections to those that stay are kept.
    pub fn publish(&self, addresses: &[IpAddr]) {
        if self.addresses() != addresses {
            let peers = addresses.iter().map(|address| {
                let mut peer = self.template.clone();
                peer._address = SocketAddr::new(*address, self.port).into();
                Arc::new(peer)
            });
            self.current.store(Arc::new(peers.collect()));
        }
        self.mark_resolved();
    }

    /// The addresses, as last resolved.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let peers = self.current.load();
        peers.iter().filter_map(|peer| Some(peer._address.as_inet()?.ip())).collect()
    }

    /// Whether there is any address to call.
    pub fn is_reachable(&self) -> bool {
        !self.current.load().is_empty()
    }

    /// Whether the first resolution has ended, well or not.
    pub fn is_resolved(&self) -> bool {
        *self.resolved.borrow()
    }

    /// Says that a resolution has ended, well or not.
    pub fn mark_resolved(&self) {
        self.resolved.send_replace(true);
    }

    /// Waits until the first resolution has ended.
    ///
    /// # Cancel safety
    /// Safe: nothing is taken.
    pub async fn wait_resolved(&self) {
        let mut seen = self.resolved.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let _ended = seen.wait_for(|done| *done).await;
    }

    /// The peers in the order one call should try them: the next in turn first, and those that
    /// could not be connected to of late last.
    pub fn in_turn(&self) -> Vec<Arc<HttpPeer>> {
        let peers = self.current.load();
        if peers.len() < 2 {
            return peers.to_vec();
        }
        let first = self.turn.fetch_add(1, Ordering::Relaxed) % peers.len();
        let mut order: Vec<_> =
            peers.iter().cycle().skip(first).take(peers.len()).cloned().collect();
        let dead = self.dead.load();
        if !dead.is_empty() {
            let now = Instant::now();
            let is_dead = |address: &PingoraAddress| {
                let fresh = dead.iter().filter(|(_, at)| now.duration_since(*at) < DEAD_FOR);
                fresh.into_iter().any(|(dead, _)| dead == address)
            };
            order.sort_by_key(|peer| is_dead(&peer._address));
        }
        order
    }

    /// Notes that an address could not be connected to: it is tried last for a while, also where the
    /// next resolution names it again.
    pub fn put_last(&self, peer: &HttpPeer) {
        if self.current.load().len() < 2 {
            return;
        }
        let now = Instant::now();
        let mut dead = self.dead.load().to_vec();
        dead.retain(|(address, at)| {
            *address != peer._address && now.duration_since(*at) < DEAD_FOR
        });
        dead.push((peer._address.clone(), now));
        self.dead.store(Arc::new(dead));
    }
}

/// Reads a PEM bundle. Each certificate is first offered to a root store, which refuses what is
/// none: Pingora's own parser panics on it.
fn authorities(path: &Path) -> Result<Arc<[WrappedX509]>, String> {
    let unusable = |why: &str| format!("CA file {}: {why}", path.display());
    let pem = std::fs::read(path).map_err(|error| unusable(&error.to_string()))?;
    let mut store = RootCertStore::empty();
    let mut trusted = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|_| unusable("not PEM"))?;
        let der = certificate.to_vec();
        store.add(certificate).map_err(|_| unusable("holds something that is no certificate"))?;
        trusted.push(WrappedX509::new(der, parse_x509));
    }
    if trusted.is_empty() {
        return Err(unusable("holds no certificate"));
    }
    Ok(trusted.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(yaml: &str) -> Peers {
        let config: UpstreamConfig = serde_yaml::from_str(yaml).unwrap();
        let base = BaseUrl::parse(config.base_url.as_deref().unwrap()).unwrap();
        Peers::new(&config, &base).unwrap()
    }

    #[test]
    fn every_address_is_used_in_turn() {
        let peers = peers("{name: u, base_url: 'https://x.example/v1'}");
        assert!(peers.in_turn().is_empty());
        let addresses = [IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2])];
        peers.publish(&addresses);
        let firsts: Vec<String> = (0..3).map(|_| peers.in_turn()[0]._address.to_string()).collect();
        assert_eq!(firsts, ["127.0.0.1:443", "127.0.0.2:443", "127.0.0.1:443"]);
        assert_eq!(peers.in_turn().len(), 2);
        let dead = peers.in_turn()[0].clone();
        peers.put_last(&dead);
        for _ in 0..3 {
            assert_eq!(peers.in_turn()[1]._address, dead._address, "last, and not forgotten");
        }
        peers.publish(&addresses);
        assert_eq!(peers.in_turn()[1]._address, dead._address, "named again, and still dead");
        let then = Instant::now().checked_sub(DEAD_FOR).unwrap();
        peers.dead.store(Arc::new(vec![(dead._address.clone(), then)]));
        assert!((0..2).any(|_| peers.in_turn()[0]._address == dead._address));
    }

    #[test]
    fn http2_follows_the_setting_and_the_scheme() {
        let alpn = |yaml: &str| peers(yaml).template.options.alpn;
        assert_eq!(alpn("{name: u, base_url: 'https://x/v1'}"), ALPN::H2H1);
        assert_eq!(alpn("{name: u, base_url: 'http://x/v1'}"), ALPN::H1);
        assert_eq!(alpn("{name: u, base_url: 'http://x/v1', http2: always}"), ALPN::H2);
        assert_eq!(alpn("{name: u, base_url: 'https://x/v1', http2: never}"), ALPN::H1);
    }

    #[test]
    fn a_file_that_is_no_certificate_is_an_error_and_no_panic() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
            .unwrap();
        assert!(authorities(file.path()).is_err());
        std::fs::write(&file, "hello").unwrap();
        assert!(authorities(file.path()).is_err());
    }
}
