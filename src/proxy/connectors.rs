//! Connections to upstreams: pooling, TLS, HTTP/1.1 and HTTP/2, as Pingora does them.

use pingora::connectors::ConnectorOptions;
use pingora::connectors::http::{Connector, v1};
use pingora::protocols::http::client::HttpSession;
use pingora::upstreams::peer::{HttpPeer, Peer};

/// Idle connections kept to all upstreams together; the least recently used goes first.
const IDLE_CONNECTIONS: usize = 4_096;

/// Two connectors. Pingora's general one is a large future even where a pooled connection is at
/// hand; for upstreams that speak HTTP/1.1 alone the pool can be asked first (`pooled`), for a
/// microsecond less a call.
pub struct Connectors {
    http1: v1::Connector,
    negotiated: Connector,
}

impl Connectors {
    /// With the system's certificate authorities.
    pub(super) fn new() -> Self {
        let options = || Some(ConnectorOptions::new(IDLE_CONNECTIONS));
        Self { http1: v1::Connector::new(options()), negotiated: Connector::new(options()) }
    }

    /// A connection over HTTP/1.1 that has served before, if there is one: that takes no time, but the
    /// pool's own task may have to be asked.
    pub(super) async fn pooled(&self, peer: &HttpPeer) -> Option<HttpSession> {
        if !is_http1(peer) {
            return None;
        }
        self.http1.reused_http_session(peer).await.map(HttpSession::H1)
    }

    /// A connection to the peer, and whether it has served before.
    pub(super) async fn connect(&self, peer: &HttpPeer) -> pingora::Result<(HttpSession, bool)> {
        // A new TLS connection is a future of 28 KB; on the heap it is gone once connected, and no
        // open stream has to carry room for it.
        if !is_http1(peer) {
            return Box::pin(self.negotiated.get_http_session(peer)).await;
        }
        let (session, reused) = Box::pin(self.http1.get_http_session(peer)).await?;
        Ok((HttpSession::H1(session), reused))
    }

    /// Gives back a connection that is in order.
    pub(super) async fn release(&self, session: HttpSession, peer: &HttpPeer) {
        let idle = peer.options.idle_timeout;
        match session {
            HttpSession::H1(session) if is_http1(peer) => {
                self.http1.release_http_session(session, peer, idle).await;
            }
            session @ (HttpSession::H1(_) | HttpSession::H2(_) | HttpSession::Custom(())) => {
                Box::pin(self.negotiated.release_http_session(session, peer, idle)).await;
            }
        }
    }
}

fn is_http1(peer: &HttpPeer) -> bool {
    peer.get_peer_options().is_none_or(|options| options.alpn.get_max_http_version() == 1)
}
