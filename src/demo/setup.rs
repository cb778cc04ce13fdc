//! What makes a demonstration of the simulated provider: the gateway's configuration, and what the
//! console says.

use super::models::MODELS;
use super::reply::Side;
use super::site::credential;
use serde_json::Value;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A whole configuration, as YAML, of a gateway in front of the provider at this address, with one
/// caller's key named `demo`.
///
/// Listeners, logs and the store keep their defaults, so that the environment may set them.
#[must_use]
pub fn config_yaml(provider_address: SocketAddr, api_key: &str) -> String {
    // Every JSON string is a YAML string.
    let secret = Value::from(api_key);
    let mut upstreams = String::new();
    for (priority, side) in [Side::Main, Side::Spare].into_iter().enumerate() {
        let (name, key) = (side.as_str(), credential(side));
        write!(
            upstreams,
            r#"
  - name: demo-{name}
    provider: custom
    base_url: "http://{provider_address}/{name}/v1"
    api_key: {key}
    priority: {priority}
    timeouts: {{ connect: 1s, first_byte: 15s, first_token: 15s, idle: 5s, total: 2m }}
    breaker: {{ failures: 5, within: 30s, eject: 10s }}   # short enough to watch it come back"#
        )
        .unwrap_or_default(); // a String never fails
    }
    format!(
        r#"# The configuration of `cirque demo`.
server:
  keepalive_comment: 1s   # soon enough to be seen while demo/slow thinks
cors:
  allowed_origins: ["*"]
keys:
  - name: demo
    secret: {secret}
upstreams:{upstreams}
routes:
  # Main fails these: asked first, it makes every call a failover.
  - models: ["demo/fails-*", "demo/refuses-*", "demo/error-*"]
    upstreams: [demo-main, demo-spare]
    balance: priority
    retry: {{ budget: 1 }}   # every call here is one; a real route would cap them
  - models: ["*"]
    upstreams: [demo-main, demo-spare]
"#
    )
}

/// What `cirque demo` prints: where it listens, the key, what to try.
#[must_use]
pub fn banner(data: &[SocketAddr], admin: SocketAddr, key: &str) -> String {
    let gateway = data.first().map(|address| reachable(*address).to_string()).unwrap_or_default();
    let mut text = format!(
        r#"
  Cirque {version}, with a simulated provider: no network, no cost.

    gateway   http://{gateway}/v1
    metrics   http://{admin}/metrics
    key       {key}

  Ask it something:

    curl http://{gateway}/v1/chat/completions \
      -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' \
      -d '{{"model":"demo/chat","messages":[{{"role":"user","content":"Hello, Cirque!"}}]}}'

  Watch it speak, although the first upstream it asks is out of order:

    curl -iN http://{gateway}/v1/chat/completions \
      -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' \
      -d '{{"model":"demo/fails-503","stream":true,
           "messages":[{{"role":"user","content":"Hello again!"}}]}}'

  Models, faults last:

"#,
        version = env!("CARGO_PKG_VERSION"),
        admin = reachable(admin),
    );
    for model in MODELS {
        writeln!(text, "    {:<22}{}", model.id, model.about).unwrap_or_default();
    }
    text.push_str("\n  Ctrl-C ends it.\n");
    text
}

/// An address that a client on this machine can call: "any address" is none.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::sections::Config;
    use crate::routing::config::Balance;

    #[test]
    fn the_configuration_is_one_that_the_gateway_reads() {
        let yaml = config_yaml("127.0.0.1:4321".parse().unwrap(), "sk-\"quoted\": #1");
        let config = serde_yaml::from_str::<Config>(&yaml).unwrap();
        assert_eq!(config.keys[0].name, "demo");
        assert_eq!(config.keys[0].secret.as_ref().unwrap().expose(), "sk-\"quoted\": #1");
        let bases = config.upstreams.iter().map(|upstream| upstream.base_url.as_deref().unwrap());
        assert_eq!(
            bases.collect::<Vec<_>>(),
            ["http://127.0.0.1:4321/main/v1", "http://127.0.0.1:4321/spare/v1"]
        );
        let routes = config.routes.iter().map(|route| (route.balance, route.upstreams.len()));
        assert_eq!(routes.collect::<Vec<_>>(), [(Balance::Priority, 2), (Balance::RoundRobin, 2)]);
        assert_eq!(config.cors.allowed_origins, ["*"]);
    }

    #[test]
    fn the_console_shows_addresses_that_can_be_called() {
        let data = ["0.0.0.0:8000".parse().unwrap()];
        let text = banner(&data, "[::]:9090".parse().unwrap(), "sk-x");
        assert!(text.contains("http://127.0.0.1:8000/v1"), "{text}");
        assert!(text.contains("http://[::1]:9090/metrics"), "{text}");
        assert!(text.contains("Bearer sk-x") && text.contains("demo/stalls"));
        assert!(text.lines().all(|line| line.len() <= 100), "{text}");
    }
}
