//! The yardstick: Pingora's own relay with nothing added, `bare LISTEN ORIGIN`.

use async_trait::async_trait;
use pingora::prelude::{HttpPeer, Server, Session};
use pingora::proxy::{ProxyHttp, http_proxy_service};
use std::net::SocketAddr;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Bare {
    origin: SocketAddr,
}

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(
        &self,
        _session: &mut Session,
        _ctx: &mut (),
    ) -> pingora::Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.origin, false, String::new())))
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let (Some(listen), Some(origin)) = (words.next(), words.next()) else {
        return Err("usage: bare LISTEN ORIGIN".into());
    };
    let mut server = Server::new(None)?;
    server.bootstrap();
    let mut service = http_proxy_service(&server.configuration, Bare { origin: origin.parse()? });
    service.add_tcp(&listen);
    server.add_service(service);
    server.run_forever()
}
