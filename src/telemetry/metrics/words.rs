//! The closed sets behind labels, and the contract's word for each member.

/// An enum whose members each have one word, so that the set and its words cannot differ.
macro_rules! words {
    ($(#[$about:meta])* $name:ident { $($(#[$meaning:meta])* $member:ident = $word:literal,)+ }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$meaning])* $member,)+
        }

        impl $name {
            /// The words of all members.
            pub(super) const WORDS: &[&str] = &[$($word),+];

            /// The word in metrics, log, traces and `/status`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$member => $word,)+
                }
            }
        }
    };
}

words! {
    /// How an attempt at an upstream ended.
    Outcome {
        /// A good reply, to its end.
        Ok = "ok",
        /// No connection: refused, unreachable, no address.
        ConnectError = "connect_error",
        /// The TLS handshake failed.
        TlsError = "tls_error",
        /// A deadline passed: connect, first byte, first token, idle or total.
        Timeout = "timeout",
        /// The connection broke before the reply was committed.
        Reset = "reset",
        /// 4xx other than 429.
        Status4xx = "status_4xx",
        /// 429.
        Status429 = "status_429",
        /// 5xx.
        Status5xx = "status_5xx",
        /// 200 with an error in the body.
        ErrorBody = "error_body",
        /// A committed stream did not end well.
        StreamBroken = "stream_broken",
        /// The caller left.
        Cancelled = "cancelled",
    }
}

words! {
    /// Why a stream did not end well.
    Broken {
        /// It ended with neither a finish reason nor `[DONE]`.
        Truncated = "truncated",
        /// It fell silent for longer than `timeouts.idle`.
        Stalled = "stalled",
        /// What came could not be read as events.
        Garbled = "garbled",
        /// An event was longer than is held.
        TooLong = "too_long",
        /// The connection broke.
        Reset = "reset",
        /// The upstream sent an error event.
        ErrorBody = "error_body",
        /// `timeouts.total` passed.
        Timeout = "timeout",
    }
}

words! {
    /// What became of a trace.
    TraceOutcome {
        /// A destination has accepted it.
        Sent = "sent",
        /// It is sent once more: the destination was away, or refused.
        Retried = "retried",
        /// It is lost; `/status` says why.
        Dropped = "dropped",
        /// It is on disk.
        Spooled = "spooled",
    }
}

words! {
    /// What a reload did.
    ReloadOutcome {
        /// The new configuration is in force.
        Applied = "applied",
        /// It was the same as before.
        Unchanged = "unchanged",
        /// It had faults; the one before stays in force.
        Rejected = "rejected",
    }
}
