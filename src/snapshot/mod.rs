//! What is live: one immutable snapshot of the configuration behind one atomic pointer.

mod build;
mod labels;
pub mod models;
pub mod probes;
pub mod reload;

use crate::auth::Keys;
use crate::config::Loaded;
use crate::config::sections::Config;
use crate::cors::Cors;
use crate::limits::prices::Prices;
use crate::routing::Route;
use crate::secret::KeyHash;
use crate::session::Sessions;
use crate::store::Account;
use crate::telemetry::langfuse::Plan;
use crate::upstream::Upstream;
use arc_swap::{ArcSwap, ArcSwapOption};
use ipnet::IpNet;
use labels::Labels;
use models::Models;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// Everything a request needs to know of the configuration. A request keeps the one it began with.
#[derive(Debug)]
pub struct Snapshot {
    /// 1 at start; one more for each applied reload.
    pub generation: u64,
    /// Short hash of the effective configuration.
    pub hash: String,
    /// When it became live.
    pub loaded_at: SystemTime,
    /// The configuration as loaded, for `/config` and for the next reload's comparison.
    pub config: Config,
    /// Callers.
    pub keys: Keys,
    /// Callers that are limited in any way, for what is shown of them.
    pub limited: Vec<Arc<Account>>,
    /// What models cost, as configured.
    pub prices: Prices,
    /// Browsers.
    pub cors: Cors,
    /// Conversations.
    pub sessions: Sessions,
    /// Which upstreams serve which models.
    pub routes: Vec<Route>,
    /// Where calls go, in configured order.
    pub upstreams: Vec<Arc<Upstream>>,
    /// Networks whose `X-Forwarded-For` is believed.
    pub trusted: Vec<IpNet>,
    /// Settings in use whose machinery does not exist yet, by path.
    pub not_yet: Vec<String>,
    /// Whether nobody stands under `keys`.
    pub is_keyless: bool,
    /// Hashes of the TLS files that listeners were started with.
    pub listener_files: Vec<KeyHash>,
    /// Where traces go.
    pub tracing: Plan,
    /// Model names that may become metric labels.
    labels: Labels,
}

impl Snapshot {
    /// Largest request body, in bytes.
    pub const fn max_body(&self) -> u64 {
        self.config.server.max_body.0
    }

    /// See `docs/adr`: bounds the head as a whole and every gap of a body.
    pub const fn read_timeout(&self) -> Duration {
        self.config.server.read_timeout.0
    }

    /// Silence after which a stream gets a comment.
    pub const fn keepalive_comment(&self) -> Duration {
        self.config.server.keepalive_comment.0
    }
}

/// The live snapshot and what outlives it.
#[derive(Debug)]
pub struct Current {
    live: ArcSwap<Snapshot>,
    /// Why the last reload was refused, until one succeeds.
    last_fault: ArcSwapOption<String>,
    /// Which models the upstreams offer.
    pub models: Models,
    /// When the process started.
    pub started: SystemTime,
    /// The same moment on the monotonic clock.
    pub begun: Instant,
    /// Requests being served.
    open: AtomicUsize,
    draining: AtomicBool,
}

impl Current {
    /// The first snapshot.
    ///
    /// # Errors
    /// A text for the operator where a file that the configuration names cannot be used.
    pub fn new(loaded: Loaded, now: SystemTime) -> Result<Self, String> {
        let snapshot = build::snapshot(loaded, None, now)?;
        Ok(Self {
            live: ArcSwap::from_pointee(snapshot),
            last_fault: ArcSwapOption::empty(),
            models: Models::default(),
            started: now,
            begun: Instant::now(),
            open: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
        })
    }

    /// Pins the live snapshot.
    pub fn pin(&self) -> Arc<Snapshot> {
        self.live.load_full()
    }

    /// Whether this upstream is one of the live snapshot's. One that a reload has replaced lives on
    /// with the requests that pin it, but has nothing more to say.
    pub fn has(&self, upstream: &Arc<Upstream>) -> bool {
        self.live.load().upstreams.iter().any(|live| Arc::ptr_eq(live, upstream))
    }

    /// Why the last reload was refused; `None` after one that was not.
    pub fn last_fault(&self) -> Option<Arc<String>> {
        self.last_fault.load_full()
    }

    /// The metric label of a model: its own name where the configuration or the catalogue names it,
    /// else `other`.
    pub fn model_label(&self, snapshot: &Snapshot, model: &str) -> Arc<str> {
        snapshot
            .labels
            .get(model)
            .or_else(|| self.models.load().label(model))
            .unwrap_or_else(Labels::other)
    }

    /// Counts a request as open until the guard goes.
    pub fn enter(self: &Arc<Self>) -> OpenRequest {
        self.open.fetch_add(1, Ordering::AcqRel);
        OpenRequest(Arc::clone(self))
    }

    /// Requests being served now.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// From now on new requests are refused, also on connections that stand open, and each connection
    /// closes after its reply.
    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether the process is shutting down.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }
}

/// One open request; leaving any way takes it out of the count.
#[derive(Debug)]
pub struct OpenRequest(Arc<Current>);

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}
