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
/// An address in the place of a host name needs no resolver: it is known from the start.
pub async fn keep_resolved(upstream: Weak<Upstream>, resolver: Option<TokioResolver>) {
    loop {
        let Some(target) = upstream.upgrade() else { return };
        let host = target.base.host.clone();
        if host.parse::<IpAddr>().is_ok() {
            return;
        }
        drop(target);
        let looked_up = look_up(resolver.as_ref(), &host).await;
        let Some(target) = upstream.upgrade() else { return };
        let wait = match looked_up {
            Ok((addresses, valid_until)) => {
                target.peers.publish(&addresses);
                valid_until.saturating_duration_since(Instant::now()).clamp(SHORTEST, LONGEST)
            }
            Err(problem) => {
                tracing::warn!(upstream = %target.name, problem, "name resolution failed");
                target.live.note("name resolution failed", std::time::SystemTime::now());
                target.peers.mark_resolved();
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

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
    use hickory_resolver::net::runtime::TokioRuntimeProvider;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};
    use tokio::net::UdpSocket;

    /// A name server that answers every A question with these addresses and a TTL of 1 s.
    async fn name_server(
        answers: Arc<Mutex<Vec<[u8; 4]>>>,
        empty_replies: Arc<AtomicUsize>,
    ) -> TokioResolver {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let port = socket.local_addr().unwrap().port();
        tokio::spawn(async move {
            let mut question = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut question).await {
                let addresses = answers.lock().unwrap().clone();
                let reply = reply_to(&question[..length], &addresses);
                empty_replies.fetch_add(usize::from(addresses.is_empty()), Ordering::Relaxed);
                socket.send_to(&reply, from).await.unwrap();
            }
        });
        let mut connection = ConnectionConfig::udp();
        connection.port = port;
        let mut server = NameServerConfig::udp(IpAddr::from([127, 0, 0, 1]));
        server.connections = vec![connection];
        let config = ResolverConfig::from_parts(None, vec![], vec![server]);
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).build().unwrap()
    }

    /// RFC 1035 section 4: the header, the question as asked, and the addresses where it is one for
    /// A records.
    fn reply_to(question: &[u8], addresses: &[[u8; 4]]) -> Vec<u8> {
        let name_end = 12 + question[12..].iter().position(|byte| *byte == 0).unwrap();
        let asked = &question[12..name_end + 5];
        let is_a = question[name_end + 2] == 1;
        let addresses = if is_a { addresses } else { &[] };
        let mut reply = question[..2].to_vec();
        reply.extend([0x81, 0x80, 0, 1, 0, u8::try_from(addresses.len()).unwrap(), 0, 0, 0, 0]);
        reply.extend(asked);
        for address in addresses {
            reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
            reply.extend(address);
        }
        reply
    }

    async fn until_addresses(upstream: &Upstream, expected: &[&str]) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let mut now: Vec<String> =
                upstream.peers.in_turn().iter().map(|peer| peer._address.to_string()).collect();
            now.sort();
            if now == expected {
                return;
            }
            assert!(Instant::now() < deadline, "{now:?} instead of {expected:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    #[tokio::test]
    async fn every_address_is_used_and_a_move_is_followed_when_its_time_to_live_ends() {
        let answers = Arc::new(Mutex::new(vec![[127, 0, 0, 2], [127, 0, 0, 1]]));
        let empty = Arc::new(AtomicUsize::new(0));
        let resolver = name_server(Arc::clone(&answers), Arc::clone(&empty)).await;
        let config =
            serde_yaml::from_str("{name: u, base_url: 'http://moving.example:81/v1'}").unwrap();
        let upstream = Arc::new(Upstream::new(config, Arc::default(), 0).unwrap());
        let keeper = tokio::spawn(keep_resolved(Arc::downgrade(&upstream), Some(resolver)));
        until_addresses(&upstream, &["127.0.0.1:81", "127.0.0.2:81"]).await;
        *answers.lock().unwrap() = vec![[127, 0, 0, 3]];
        until_addresses(&upstream, &["127.0.0.3:81"]).await;
        answers.lock().unwrap().clear();
        while empty.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        until_addresses(&upstream, &["127.0.0.3:81"]).await;
        drop(upstream);
        tokio::time::timeout(Duration::from_secs(20), keeper).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn an_address_needs_no_resolver() {
        let config = serde_yaml::from_str("{name: u, base_url: 'http://127.0.0.9:81/v1'}").unwrap();
        let upstream = Arc::new(Upstream::new(config, Arc::default(), 0).unwrap());
        keep_resolved(Arc::downgrade(&upstream), None).await;
        until_addresses(&upstream, &["127.0.0.9:81"]).await;
    }
}
