//! Sockets that are bound before Pingora starts, and handed to it through its own table of inherited
//! descriptors, which is also where a later hand-over to a successor finds them.

use async_trait::async_trait;
use pingora::apps::ServerApp;
use pingora::server::{ListenFds, ShutdownWatch};
use pingora::services::Service as PingoraService;
use pingora::services::listening::Service;
use pingora::tls::{ServerConfig, load_certs_and_key_files};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::IntoRawFd;
use std::path::Path;

/// A listening socket.
pub(super) struct Bound {
    /// Its address, with the port the system chose where 0 was asked for.
    pub(super) address: SocketAddr,
    socket: TcpListener,
}

impl Bound {
    /// Binds, or says in a text for the operator why not.
    pub(super) fn to(address: &str) -> Result<Self, String> {
        let unusable = |error: std::io::Error| format!("cannot listen on {address}: {error}");
        let socket = TcpListener::bind(address).map_err(unusable)?;
        socket.set_nonblocking(true).map_err(unusable)?;
        Ok(Self { address: socket.local_addr().map_err(unusable)?, socket })
    }
}

/// A Pingora service over sockets that are already bound.
pub(super) struct Listening<A> {
    service: Service<A>,
    bound: Vec<Bound>,
}

impl<A> Listening<A> {
    /// `service` must have been told the same addresses.
    pub(super) const fn new(service: Service<A>, bound: Vec<Bound>) -> Self {
        Self { service, bound }
    }
}

#[async_trait]
impl<A: ServerApp + Send + Sync + 'static> PingoraService for Listening<A> {
    async fn start_service(
        &mut self,
        fds: Option<ListenFds>,
        shutdown: ShutdownWatch,
        listeners_per_fd: usize,
    ) {
        if let Some(fds) = &fds {
            let mut table = fds.lock();
            for bound in self.bound.drain(..) {
                table.add(bound.address.to_string(), bound.socket.into_raw_fd());
            }
        }
        self.service.start_service(fds, shutdown, listeners_per_fd).await;
    }

    fn name(&self) -> &str {
        self.service.name()
    }

    fn threads(&self) -> Option<usize> {
        self.service.threads
    }

    fn listen_addresses(&self) -> Option<Vec<String>> {
        self.service.listen_addresses()
    }
}

/// Tries the certificate and the key together: Pingora would panic on a pair that does not fit.
pub(super) fn check_certificate(cert: &Path, key: &Path) -> Result<(), String> {
    let unusable =
        |why: &str| format!("server.tls: {} and {}: {why}", cert.display(), key.display());
    let loaded = load_certs_and_key_files(&cert.to_string_lossy(), &key.to_string_lossy());
    let Ok(Some((certificates, key))) = loaded else {
        return Err(unusable("not a certificate and its key in PEM"));
    };
    ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .map(|_| ())
        .map_err(|error| unusable(&error.to_string()))
}
