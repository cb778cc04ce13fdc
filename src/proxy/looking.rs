//! Any time: how large request bodies are looked through for traces, a few at a time, beside the calls.

use super::Shared;
use crate::snapshot::OpenRequest;
use crate::telemetry::delivery::Delivery;
use crate::telemetry::langfuse::{Input, Trace};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

/// A body up to this size stays as it is until its trace is written. A larger one is looked through and
/// let go of before: once its stream has begun, which may last half an hour, else when its call ends,
/// since what waits to be written is bounded in bytes. Reading megabytes takes milliseconds, too long
/// for a thread that serves streams, so a blocking one does it.
const KEPT_BODY: usize = 64 << 10;
/// Bodies looked through at once: each stands in memory some three times meanwhile.
const AT_ONCE: usize = 2;
/// Bound on the bodies of ended calls that wait for their turn, in bytes; the trace of a further one
/// is dropped and counted.
const MOST_WAITING_BYTES: usize = 512 << 20;

/// Whose turn it is; one a process.
#[derive(Debug)]
pub struct Looking {
    turns: Semaphore,
    /// Bytes of the bodies of ended calls that wait.
    waiting: AtomicUsize,
}

/// A call that has ended, with a body that nobody has looked through. Where its runtime ends before
/// its turn comes it is looked through as it is dropped: a drain that cuts calls loses no trace.
struct Ended {
    looking: Arc<Looking>,
    delivery: Arc<Delivery>,
    trace: Option<Box<Trace>>,
    bytes: usize,
    /// A drain waits for it as for a request.
    _open: OpenRequest,
}

impl Looking {
    pub(super) const fn new() -> Self {
        Self { turns: Semaphore::const_new(AT_ONCE), waiting: AtomicUsize::new(0) }
    }

    /// Does this on a blocking thread once its turn comes; drops it where the runtime ends before.
    fn in_turn(self: &Arc<Self>, runtime: &Handle, look: impl FnOnce() + Send + 'static) {
        let looking = Arc::clone(self);
        drop(runtime.spawn(async move {
            // It is never closed.
            let _turn = looking.turns.acquire().await;
            // One that panicked has said so.
            drop(tokio::task::spawn_blocking(look).await);
        }));
    }
}

/// A stream has begun: a large body is not held on to for as long as it lasts.
pub(super) fn let_go(shared: &Shared, input: &Arc<Input>) {
    if input.unread() <= KEPT_BODY {
        return;
    }
    if let Ok(runtime) = Handle::try_current() {
        let input = Arc::clone(input);
        shared.looking.in_turn(&runtime, move || {
            input.shown();
        });
    }
}

/// Hands a finished call over; a large body is looked through first.
pub(super) fn hand_over(shared: &Shared, trace: Box<Trace>) {
    let bytes = trace.input.as_ref().map_or(0, |input| input.unread());
    if bytes <= KEPT_BODY {
        shared.delivery.hand_over(trace);
        return;
    }
    if shared.looking.waiting.fetch_add(bytes, Ordering::Relaxed) + bytes > MOST_WAITING_BYTES {
        shared.looking.waiting.fetch_sub(bytes, Ordering::Relaxed);
        shared.delivery.drop_one();
        return;
    }
    let ended = Ended {
        looking: Arc::clone(&shared.looking),
        delivery: Arc::clone(&shared.delivery),
        trace: Some(trace),
        bytes,
        _open: shared.current.enter(),
    };
    if let Ok(runtime) = Handle::try_current() {
        shared.looking.in_turn(&runtime, move || drop(ended));
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        if let Some(trace) = self.trace.take() {
            if let Some(input) = &trace.input {
                input.shown();
            }
            self.delivery.hand_over(trace);
        }
        self.looking.waiting.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
