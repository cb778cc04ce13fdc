//! Host names to addresses, off the request path: follows each answer's time to live.

use super::Upstream;
use hickory_resolver::TokioResolver;
use std::net::IpAddr;
use std::sync::Weak;
use std::time::{Duration, Instant};

/// Bounds on a time to live: 0 s would ask at every turn, a day would outlive a move.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_mins(5);
/// After a failed look-up; the last good addresses stay meanwhile.
const AFTER_FAILURE: Duration = Duration::from_secs(2);

/// Keeps an upstream's addresses fresh until the upstream is gone.
///
/// An address in the place of a host name is published once and needs no resolver.
pub async fn keep_resolved(upstream: Weak<Upstream>, resolver: Option<TokioResolver>) {
    loop {
        let Some(target) = upstream.upgrade() else { return };
        let host = target.base.host.clone();
        if let Ok(address) = host.parse::<IpAddr>() {
            publish(&target, vec![address]);
            return;
        }
        drop(target);
        let looked_up = look_up(resolver.as_ref(), &host).await;
        let Some(target) = upstream.upgrade() else { return };
        let wait = match looked_up {
            Ok((addresses, valid_until)) => {
                publish(&target, addresses);
                valid_until.saturating_duration_since(Instant::now()).clamp(SHORTEST, LONGEST)
            }
            Err(problem) => {
                tracing::warn!(upstream = %target.name, problem, "name resolution failed");
                target.live.failed("name resolution failed", std::time::SystemTime::now());
                target.live.mark_resolved();
                AFTER_FAILURE
            }
        };
        drop(target);
        tokio::time::sleep(wait).await;
    }
}

/// A resolver with the system's configuration; `None` where there is none to read.
pub fn system_resolver() -> Option<TokioResolver> {
    TokioResolver::builder_tokio().ok()?.build().ok()
}

fn publish(upstream: &Upstream, addresses: Vec<IpAddr>) {
    if **upstream.live.addresses.load() != addresses || upstream.peers.in_turn().is_empty() {
        upstream.peers.publish(&addresses);
        upstream.live.addresses.store(addresses.into());
    }
    upstream.live.mark_resolved();
}

/// All addresses of a name in a stable order, and until when they hold.
async fn look_up(
    resolver: Option<&TokioResolver>,
    host: &str,
) -> Result<(Vec<IpAddr>, Instant), &'static str> {
    let resolver = resolver.ok_or("the system has no resolver configuration")?;
    let found = resolver.lookup_ip(host).await.map_err(|_| "the look-up failed")?;
    let mut addresses: Vec<IpAddr> = found.iter().collect();
    addresses.sort_unstable();
    addresses.dedup();
    if addresses.is_empty() {
        return Err("the name has no address");
    }
    Ok((addresses, found.valid_until()))
}
