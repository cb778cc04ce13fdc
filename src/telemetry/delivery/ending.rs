//! The end of the process as exporters see it: first they wait for nothing, then nothing more is sent.
//!
//! An export whose answer nobody is left to read is sent again after the restart. A drain that cuts calls
//! makes traces at the last moment: they are for the spool, and go out with the next start.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// How far the process has come, and how many exports are under way.
#[derive(Debug, Default)]
pub(super) struct Ending {
    is_flushing: AtomicBool,
    is_over: AtomicBool,
    under_way: AtomicUsize,
}

/// An export under way, until what came of it is noted.
#[derive(Debug)]
pub(super) struct Sending(Arc<Ending>);

impl Ending {
    /// What is there is sent from now on without waiting for more.
    pub(super) fn flush(&self) {
        self.is_flushing.store(true, Ordering::Relaxed);
    }

    /// Whether it is.
    pub(super) fn is_flushing(&self) -> bool {
        self.is_flushing.load(Ordering::Relaxed)
    }

    /// From now on no export starts.
    pub(super) fn stop(&self) {
        self.is_over.store(true, Ordering::SeqCst);
    }

    /// Whether one is under way; once stopped, none follows it.
    pub(super) fn is_sending(&self) -> bool {
        self.under_way.load(Ordering::SeqCst) > 0
    }

    /// An export may start; `None` once it is over.
    pub(super) fn start(self: &Arc<Self>) -> Option<Sending> {
        // Counted first and looked at then, the other way round than who stops: one of both sees the other.
        self.under_way.fetch_add(1, Ordering::SeqCst);
        let sending = Sending(Arc::clone(self));
        (!self.is_over.load(Ordering::SeqCst)).then_some(sending)
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_starts_once_it_is_over_and_what_is_under_way_is_seen() {
        let ending = Arc::new(Ending::default());
        let sending = ending.start().unwrap();
        ending.stop();
        assert!(ending.start().is_none());
        assert!(ending.is_sending());
        drop(sending);
        assert!(!ending.is_sending());
    }
}
