//! Active probes: each upstream is asked now and then what costs nothing, off the request path.

use super::Current;
use crate::upstream::config::{HealthConfig, ProbeConfig};
use crate::upstream::provider::Probe;
use crate::upstream::{Fetcher, Upstream};
use serde_json::Value;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

/// Longest answer read for what it says of the credit; a model list is not read at all.
const MAX_ANSWER: usize = 64 << 10;
/// Intervals vary by this share, so that the probes of many gateways spread out.
const JITTER: f64 = 0.1;

/// Probes an upstream until it is gone; ends at once where its probes are off.
pub(super) async fn keep_probed(current: Arc<Current>, upstream: Weak<Upstream>) {
    let mut prober = Fetcher::default();
    loop {
        let Some(target) = upstream.upgrade() else { return };
        let HealthConfig::On(probe) = target.config.health.clone() else { return };
        if !target.peers.is_resolved() {
            // Nobody can say anything yet. The first resolution ends, well or not.
            target.peers.wait_resolved().await;
        }
        // Without a client nobody has been asked, and nobody is to blame.
        if let Some(client) = prober.client(&target, probe.timeout.0) {
            let result = ask(client, &target, &probe, &current).await;
            if !current.has(&target) {
                // A reload has put another one in its place, which has a prober of its own.
                return;
            }
            let result = result.as_ref().copied().map_err(String::as_str);
            target.probed(result, &probe, current.begun.elapsed());
        }
        drop(target);
        tokio::time::sleep(varied(probe.interval.0, rand::random())).await;
    }
}

/// One probe for a person at the console, also where probes are off.
///
/// # Errors
/// Why the upstream would serve no call, in words.
pub async fn check(current: &Current, upstream: &Upstream) -> Result<(), String> {
    let probe = match &upstream.config.health {
        HealthConfig::On(probe) => probe.clone(),
        HealthConfig::Off(_) => ProbeConfig::default(),
    };
    upstream.peers.wait_resolved().await;
    let mut fetcher = Fetcher::default();
    let client =
        fetcher.client(upstream, probe.timeout.0).ok_or("no HTTP client could be built")?;
    ask(client, upstream, &probe, current).await
}

/// The interval, less or more by up to [`JITTER`]; `chance` is 0 to 1.
fn varied(interval: Duration, chance: f64) -> Duration {
    interval.mul_f64(1.0 - JITTER + 2.0 * JITTER * chance)
}

/// One probe: the upstream answers in time, and takes our credential.
async fn ask(
    client: &reqwest::Client,
    upstream: &Upstream,
    probe: &ProbeConfig,
    current: &Current,
) -> Result<(), String> {
    let base = &upstream.base.path;
    let path = match (&probe.path, upstream.config.provider.row().probe) {
        (Some(path), _) => format!("{base}{path}"),
        (None, Probe::UnderBase(path)) => format!("{base}{path}"),
        (None, Probe::OfHost(path)) => path.to_owned(),
    };
    let reply = upstream.get(client, &path).send().await.map_err(|error| problem(&error))?;
    let wall = SystemTime::now();
    upstream.live.quota.read(reply.headers(), current.begun.elapsed(), wall);
    judge(reply.status().as_u16(), probe.path.is_some())?;
    if path.ends_with("/key")
        && let Some(answer) = credits(reply).await
    {
        upstream.live.quota.set_credits(answer);
    }
    Ok(())
}

/// What a status says of an upstream. One that lacks the usual path, or has enough of probes, is
/// alive, and so is one whose key may call models but not list them (403); a path that the operator
/// chose must be there.
fn judge(status: u16, is_chosen: bool) -> Result<(), String> {
    match status {
        200..=299 | 429 => Ok(()),
        403..=405 if !is_chosen => Ok(()),
        401 | 403 => Err(format!("the credential was refused (status {status})")),
        402 => Err("no credit is left (status 402)".to_owned()),
        _ => Err(format!("status {status}")),
    }
}

fn problem(error: &reqwest::Error) -> String {
    let words = if error.is_timeout() {
        "no answer in time"
    } else if error.is_connect() {
        "no connection could be made"
    } else {
        "the connection broke"
    };
    words.to_owned()
}

/// US dollars left, as OpenRouter's `GET /key` says, `None` within where there is no limit; `None` where
/// the answer says nothing of it.
async fn credits(mut reply: reqwest::Response) -> Option<Option<f64>> {
    let mut body = Vec::new();
    while let Ok(Some(piece)) = reply.chunk().await {
        body.extend_from_slice(&piece);
        if body.len() > MAX_ANSWER {
            return None;
        }
    }
    let answer: Value = serde_json::from_slice(&body).ok()?;
    let left = answer.get("data")?.get("limit_remaining")?;
    (left.is_null() || left.is_number()).then(|| left.as_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_path_is_a_fault_only_where_the_operator_chose_it() {
        for status in [200, 204, 429] {
            assert!(judge(status, true).is_ok() && judge(status, false).is_ok(), "{status}");
        }
        for status in [403, 404, 405] {
            assert!(judge(status, false).is_ok() && judge(status, true).is_err(), "{status}");
        }
        for status in [301, 401, 402, 500, 503] {
            assert!(judge(status, false).is_err(), "{status}");
        }
    }

    #[test]
    fn intervals_vary_by_a_tenth() {
        let second = Duration::from_secs(1);
        assert_eq!(varied(second, 0.0), Duration::from_millis(900));
        assert_eq!(varied(second, 1.0), Duration::from_millis(1_100));
    }
}
