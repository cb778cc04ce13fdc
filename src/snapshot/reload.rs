//! A reload: load, validate, build a whole new snapshot, swap one pointer; on any fault keep the old.

use super::{Current, build, models, probes};
use crate::config::sections::Config;
use crate::config::{Env, Source, load};
use crate::secret::Secret;
use crate::telemetry::delivery::Delivery;
use crate::telemetry::langfuse::Destination;
use crate::telemetry::log;
use crate::telemetry::metrics::{Metrics, ReloadOutcome};
use crate::upstream::dns;
use hickory_resolver::TokioResolver;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// Reloads the configuration from where it came from; one at a time.
pub struct Reloader {
    source: Source,
    current: Arc<Current>,
    metrics: Arc<Metrics>,
    delivery: Arc<Delivery>,
    resolver: Option<TokioResolver>,
    generated_key: Option<Secret>,
    /// Held over a whole reload: two at once would build on the same predecessor.
    turn: Mutex<()>,
    /// The latest snapshot whose background work was started.
    started: AtomicU64,
}

/// What a reload did.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// A new snapshot is live.
    Applied(u64),
    /// The configuration is the same; nothing was swapped.
    Unchanged(u64),
    /// The old snapshot stays; the faults as text.
    Rejected(String),
}

impl Reloader {
    /// A reloader for this source.
    ///
    /// `generated_key` is the caller's key that was made at the start, where none is configured.
    pub fn new(
        source: Source,
        generated_key: Option<Secret>,
        current: Arc<Current>,
        metrics: Arc<Metrics>,
        delivery: Arc<Delivery>,
    ) -> Self {
        let resolver = dns::system_resolver();
        let (turn, started) = (Mutex::new(()), AtomicU64::new(0));
        Self { source, current, metrics, delivery, resolver, generated_key, turn, started }
    }

    /// Reloads now, and starts the background work of what became live.
    pub async fn run(self: &Arc<Self>) -> Outcome {
        let this = Arc::clone(self);
        // Reads files, which may stand on a slow disk.
        let outcome = tokio::task::spawn_blocking(move || this.reload())
            .await
            .unwrap_or_else(|error| Outcome::Rejected(format!("the reload broke off: {error}")));
        if matches!(outcome, Outcome::Applied(_)) {
            self.start_background();
        }
        outcome
    }

    fn reload(&self) -> Outcome {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = self.attempt().unwrap_or_else(Outcome::Rejected);
        match &outcome {
            Outcome::Applied(generation) => {
                self.current.last_fault.store(None);
                self.metrics.config_reload(ReloadOutcome::Applied);
                self.metrics.config_generation(*generation);
                tracing::info!(generation, "configuration applied");
            }
            Outcome::Unchanged(generation) => {
                self.current.last_fault.store(None);
                self.metrics.config_reload(ReloadOutcome::Unchanged);
                tracing::info!(generation, "configuration unchanged");
            }
            Outcome::Rejected(faults) => {
                self.current.last_fault.store(Some(Arc::new(faults.clone())));
                self.metrics.config_reload(ReloadOutcome::Rejected);
                tracing::error!(faults, "configuration rejected, the old one stays");
            }
        }
        outcome
    }

    fn attempt(&self) -> Result<Outcome, String> {
        let previous = self.current.pin();
        let loaded =
            load(&self.source, &Env::from_process()).map_err(|faults| faults.to_string())?;
        // The key printed at the start stays valid: a new one would be seen by nobody.
        let loaded = loaded.keep_generated_key(self.generated_key.as_ref());
        if loaded.hash == previous.hash {
            return Ok(Outcome::Unchanged(previous.generation));
        }
        if loaded.is_keyless && !previous.is_keyless {
            // A key that is revoked by this must not come back as `API_KEY` without its limits, and a
            // key made up now would be seen by nobody.
            return Err(
                "a restart is needed to go on without any entry under keys; to let nobody in, \
                        keep one that has expired"
                    .to_owned(),
            );
        }
        let restart = needs_restart(&previous.config, &loaded.config);
        if !restart.is_empty() {
            return Err(format!("a restart is needed to change {}", restart.join(", ")));
        }
        let next = Arc::new(build::snapshot(loaded, Some(&previous), SystemTime::now())?);
        log::init(&next.config.log);
        self.current.live.store(Arc::clone(&next));
        self.current.models.merge(&next);
        Ok(Outcome::Applied(next.generation))
    }

    /// Starts the background work of the live snapshot: name resolution, probes and model lists. It ends by
    /// itself once the snapshot is gone. Call it within a runtime, after each reload.
    pub fn start_background(&self) {
        let snapshot = self.current.pin();
        if self.started.swap(snapshot.generation, Ordering::SeqCst) == snapshot.generation {
            // Another reload came before, and ours has begun its work.
            return;
        }
        for upstream in &snapshot.upstreams {
            let weak = Arc::downgrade(upstream);
            tokio::spawn(dns::keep_resolved(weak.clone(), self.resolver.clone()));
            tokio::spawn(probes::keep_probed(Arc::clone(&self.current), weak.clone()));
            tokio::spawn(models::keep_fresh(Arc::clone(&self.current), weak));
        }
        let config = &snapshot.config;
        self.delivery.apply(&Destination::all(&config.langfuse, &config.telemetry));
        for setting in &snapshot.not_yet {
            tracing::warn!(setting, "this setting is accepted but has no effect yet");
        }
    }
}

/// Settings that only a new process can change, by path.
fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let (a, b) = (&old.server, &new.server);
    [
        ("server.listen", a.listen != b.listen),
        ("server.threads", a.threads != b.threads),
        ("server.h2c", a.h2c != b.h2c),
        ("server.tls", a.tls != b.tls),
        ("server.upgrade_sock", a.upgrade_sock != b.upgrade_sock),
        ("store", old.store != new.store),
        ("admin.listen", old.admin.listen != new.admin.listen),
        ("log.format", old.log.format != new.log.format),
        ("the spool.path of langfuse or telemetry.otlp", is_spool_moved(old, new)),
    ]
    .into_iter()
    .filter_map(|(path, changed)| changed.then_some(path))
    .collect()
}

/// Whether a destination has another folder than before: what waits in the old one would be
/// forgotten.
fn is_spool_moved(old: &Config, new: &Config) -> bool {
    let all = |config: &Config| Destination::all(&config.langfuse, &config.telemetry);
    let new = all(new);
    all(old).iter().any(|old| {
        let namesake = new.iter().find(|new| new.name == old.name);
        namesake.is_some_and(|new| new.spool.path != old.spool.path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_listener_is_named_and_a_changed_key_is_not() {
        let old = Config::default();
        let mut new = old.clone();
        assert!(needs_restart(&old, &new).is_empty());
        new.server.threads = 7;
        new.admin.listen = Some("127.0.0.1:1".into());
        new.limits.auth_failures_per_minute = 1;
        assert_eq!(needs_restart(&old, &new), ["server.threads", "admin.listen"]);
    }
}
