//! What runs beside the requests: background work, signals, and the drain at the end.

use crate::snapshot::Current;
use crate::snapshot::reload::Reloader;
use crate::telemetry::delivery::Delivery;
use async_trait::async_trait;
use pingora::server::{ShutdownSignal, ShutdownSignalWatch, ShutdownWatch};
use pingora::services::background::{BackgroundService, GenBackgroundService, background_service};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

/// How often a drain looks whether the last request has ended.
const LOOK: Duration = Duration::from_millis(20);

/// Longest wait for traces to be sent once the last request has ended. What is not sent stays in
/// the spool, so that nothing is lost by ending sooner.
const SEND: Duration = Duration::from_secs(5);
/// Longest wait for the answers to traces that are on their way then.
const ANSWERED: Duration = Duration::from_millis(500);

/// How often the allocator is reminded of what it may give back.
const REMIND: Duration = Duration::from_secs(1);

/// Name resolution, model lists, and reload on SIGHUP.
pub(super) struct Background {
    reloader: Arc<Reloader>,
}

impl Background {
    /// As a Pingora service of one thread.
    pub(super) fn service(reloader: Arc<Reloader>) -> GenBackgroundService<Self> {
        let mut service = background_service("background", Self { reloader });
        service.threads = Some(1);
        service
    }
}

#[async_trait]
impl BackgroundService for Background {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        self.reloader.start_background();
        let (Some(mut hangup), Some(mut quit)) =
            (listen(SignalKind::hangup()), listen(SignalKind::quit()))
        else {
            return;
        };
        let mut remind = tokio::time::interval(REMIND);
        loop {
            tokio::select! {
                _ = remind.tick() => remind_allocator(),
                _ = hangup.recv() => {
                    // The outcome is in the log, in /status and in the metrics.
                    let _outcome = self.reloader.run().await;
                }
                _ = quit.recv() => {
                    tracing::warn!("SIGQUIT ignored: hand-over to a new process does not exist yet");
                }
                _ = shutdown.changed() => return,
            }
        }
    }
}

/// mimalloc looks for old memory to give back only when a large block is freed, so that a gateway
/// which falls quiet after a thousand streams would hold all of theirs. Nothing is written to this
/// block: it takes no memory itself.
fn remind_allocator() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(1 << 20)));
}

/// Delivers traces: on a thread of its own, where reading the spool and compressing hold up nobody.
pub(super) struct Traces {
    delivery: Arc<Delivery>,
}

impl Traces {
    /// As a Pingora service of one thread.
    pub(super) fn service(delivery: Arc<Delivery>) -> GenBackgroundService<Self> {
        let mut service = background_service("traces", Self { delivery });
        service.threads = Some(1);
        service
    }
}

#[async_trait]
impl BackgroundService for Traces {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        tokio::select! {
            () = self.delivery.run() => {}
            _ = shutdown.changed() => {}
        }
    }
}

fn listen(kind: SignalKind) -> Option<Signal> {
    signal(kind)
        .inspect_err(|error| tracing::error!(%error, "a signal cannot be listened for"))
        .ok()
}

/// Ends the process after SIGTERM or SIGINT: first no new requests, then the open ones may finish
/// within `server.drain`. A second signal ends it at once.
pub(super) struct DrainOnSignal {
    current: Arc<Current>,
    delivery: Arc<Delivery>,
    is_hurried: Arc<AtomicBool>,
}

impl DrainOnSignal {
    /// A watch over this process; `is_hurried` tells afterwards whether there was a second signal.
    pub(super) const fn new(
        current: Arc<Current>,
        delivery: Arc<Delivery>,
        is_hurried: Arc<AtomicBool>,
    ) -> Self {
        Self { current, delivery, is_hurried }
    }

    async fn drained(&self) {
        let deadline = Instant::now() + self.current.pin().config.server.drain.0;
        while self.current.open() > 0 && Instant::now() < deadline {
            tokio::time::sleep(LOOK).await;
        }
        match self.current.open() {
            0 => tracing::info!("drained"),
            open => tracing::warn!(open, "drain time is over, open requests are cut"),
        }
        let deadline = deadline.min(Instant::now() + SEND);
        self.delivery.flush(deadline.into_std()).await;
    }
}

#[async_trait]
impl ShutdownSignalWatch for DrainOnSignal {
    async fn recv(&self) -> ShutdownSignal {
        let (Some(mut terminate), Some(mut interrupt)) =
            (listen(SignalKind::terminate()), listen(SignalKind::interrupt()))
        else {
            return std::future::pending().await;
        };
        let mut signalled = async || {
            tokio::select! {
                _ = terminate.recv() => (),
                _ = interrupt.recv() => (),
            }
        };
        signalled().await;
        tracing::info!(open = self.current.open(), "draining");
        self.current.start_draining();
        tokio::select! {
            () = async {
                self.drained().await;
                self.delivery.stop_sending(ANSWERED).await;
            } => {}
            () = signalled() => {
                tracing::warn!("second signal, ending at once");
                self.is_hurried.store(true, Ordering::Release);
                self.delivery.stop_sending(Duration::ZERO).await;
            }
        }
        ShutdownSignal::FastShutdown
    }
}
