//! `cirque health`: whether the gateway on this machine lives, for container health checks.

use crate::cli::{BAD_CONFIG, FAILED, OK, complain};
use crate::config::{self, Env};
use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

/// How long an answer may take; there are two tries, and container health checks give up after 3 s.
const PATIENCE: Duration = Duration::from_millis(1_400);

/// `cirque health`: exit 0 where the data plane answers `GET /health` with 200.
///
/// The gateway that runs may have refused the file as it is now: what can be read of a faulty one is
/// enough to find it.
pub fn health(address: Option<String>, file: Option<PathBuf>) -> u8 {
    let env = Env::from_process();
    let server = config::sketch(&config::find(file, &env), &env).server;
    // A file that was refused may say otherwise than what runs.
    let schemes = if server.tls.is_some() { ["https", "http"] } else { ["http", "https"] };
    let listens = || server.listen.as_ref()?.as_slice().first().cloned();
    let Some(address) = address.or_else(listens) else {
        complain("health: no address; give one with --address");
        return BAD_CONFIG;
    };
    pingora::tls::install_default_crypto_provider();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let answer = runtime
        .map_err(|error| error.to_string())
        .and_then(|runtime| runtime.block_on(probe(&address, schemes)));
    match answer {
        Ok(()) => OK,
        Err(problem) => {
            complain(&format!("health: {address}: {problem}"));
            FAILED
        }
    }
}

async fn probe(address: &str, schemes: [&str; 2]) -> Result<(), String> {
    let found = address.to_socket_addrs().map_err(|error| error.to_string())?.next();
    let mut target: SocketAddr = found.ok_or("no such address")?;
    if target.ip().is_unspecified() {
        target.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    // Its certificate is for another name: this asks whether it lives, and tells it nothing.
    let client = reqwest::Client::builder().timeout(PATIENCE).no_proxy();
    let client = client.danger_accept_invalid_certs(true).build().map_err(text)?;
    let mut problem = None;
    for scheme in schemes {
        match client.get(format!("{scheme}://{target}/health")).send().await {
            Ok(answer) if answer.status() == 200 => return Ok(()),
            Ok(answer) => problem = problem.or(Some(format!("status {}", answer.status()))),
            Err(error) => problem = problem.or(Some(text(error))),
        }
    }
    Err(problem.unwrap_or_default())
}

/// With its cause, which the error itself does not say.
fn text(error: reqwest::Error) -> String {
    let error = error.without_url();
    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
    format!("{error}{}", cause.unwrap_or_default())
}
