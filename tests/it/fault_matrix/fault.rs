//! The vocabulary of the tables: what an upstream does, and what becomes of it.

use crate::harness::{Gate, Reply};

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Plain,
    Stream,
}

pub(super) const BOTH: &[Shape] = &[Shape::Plain, Shape::Stream];
pub(super) const PLAIN: &[Shape] = &[Shape::Plain];
pub(super) const STREAM: &[Shape] = &[Shape::Stream];

/// A version of HTTP on one side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Http {
    One,
    Two,
}

pub(super) const VERSIONS: [Http; 2] = [Http::One, Http::Two];

/// Who else there is to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Company {
    /// One good upstream, asked after the bad one.
    OneGood,
    /// Another one that does the same.
    AllBad,
    /// Nobody.
    Nobody,
}

/// What a script may use.
pub(super) struct Scene<'s> {
    /// Opened once the caller has read as much as [`Ends::Broken`] says; open from the start else.
    pub(super) gate: &'s Gate,
    /// How the gateway talks to the upstream.
    pub(super) http: Http,
}

/// What an upstream does.
#[derive(Clone, Copy)]
pub(super) enum Script {
    /// Nobody listens.
    Refuses,
    /// It answers like this.
    Says(fn(&Scene<'_>) -> Reply),
}

/// One row of a table.
pub(super) struct Fault {
    pub(super) name: &'static str,
    pub(super) shapes: &'static [Shape],
    pub(super) script: Script,
    pub(super) ends: Ends,
    /// More settings of the upstreams that have it.
    pub(super) settings: &'static str,
    /// HTTP/2 knows no such thing.
    pub(super) http1_only: bool,
    /// It takes long or keeps later calls away, so that each cell has a lane of its own.
    pub(super) is_alone: bool,
    /// One of many of its kind, whose small requests will do.
    pub(super) is_brief: bool,
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ends {
    /// The attempt failed before anything of it was worth sending on: the next upstream is asked.
    Moves(Move),
    /// The reply passes as it is.
    Passes {
        status: u16,
        /// The attempt in the metrics.
        outcome: &'static str,
        /// In the log.
        finish: Option<&'static str>,
    },
    /// The reply had begun: nobody else is asked, and the caller is told.
    Broken {
        /// In the metrics.
        reason: &'static str,
        /// In the log.
        code: &'static str,
        /// How the caller is told.
        told: Told,
        /// Bytes of the reply that the caller reads before the script goes on.
        after: usize,
    },
}

/// A failed attempt.
#[derive(Debug, Clone, Copy)]
pub(super) struct Move {
    /// In the metrics.
    pub(super) outcome: &'static str,
    /// In `/status`.
    pub(super) what: &'static str,
    /// Whether a lone upstream is asked a second time.
    pub(super) is_repeated: bool,
    /// What the caller gets where nobody did better.
    pub(super) status: u16,
    pub(super) code: &'static str,
    pub(super) retry_after: Option<&'static str>,
    /// What `/status` says of the upstream afterwards.
    pub(super) state: &'static str,
}

/// How a caller learns that a reply broke off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// By our error event, the last one.
    InBand,
    /// The same, and before it comes more than the script says once.
    InBandAfterMore,
    /// By the upstream's own error event, the last one.
    ByTheUpstream,
    /// By a body that does not end as HTTP says it should.
    ByTheCut,
}

impl Fault {
    pub(super) const fn new(
        name: &'static str,
        shapes: &'static [Shape],
        script: fn(&Scene<'_>) -> Reply,
        ends: Ends,
    ) -> Self {
        Self {
            name,
            shapes,
            script: Script::Says(script),
            ends,
            settings: "",
            http1_only: false,
            is_alone: false,
            is_brief: false,
        }
    }

    pub(super) const fn refuses(name: &'static str, ends: Ends) -> Self {
        let nothing = Self::new(name, BOTH, |_| Reply::silence(), ends);
        Self { script: Script::Refuses, ..nothing }
    }

    pub(super) const fn with(self, settings: &'static str) -> Self {
        Self { settings, ..self }
    }

    pub(super) const fn http1_only(self) -> Self {
        Self { http1_only: true, ..self }
    }

    pub(super) const fn brief(self) -> Self {
        Self { is_brief: true, ..self }
    }

    pub(super) const fn alone(self) -> Self {
        Self { is_alone: true, ..self }
    }
}

impl Ends {
    /// The same, where the upstream is kept from calls afterwards.
    pub(super) const fn leaves(self, state: &'static str) -> Self {
        match self {
            Self::Moves(failed) => Self::Moves(Move { state, ..failed }),
            Self::Passes { .. } | Self::Broken { .. } => self,
        }
    }
}

/// A failure that ends in a 502, and that the same upstream may do better a moment later.
pub(super) const fn moves(outcome: &'static str, what: &'static str) -> Ends {
    Ends::Moves(Move {
        outcome,
        what,
        is_repeated: true,
        status: 502,
        code: "upstream_error",
        retry_after: None,
        state: "healthy",
    })
}

/// The same, where asking the same upstream again makes no sense.
pub(super) const fn moves_only(outcome: &'static str, what: &'static str) -> Ends {
    Ends::Moves(Move {
        outcome,
        what,
        is_repeated: false,
        status: 502,
        code: "upstream_error",
        retry_after: None,
        state: "healthy",
    })
}

/// A deadline that passed before the first token.
pub(super) const fn expires(what: &'static str) -> Ends {
    Ends::Moves(Move {
        outcome: "timeout",
        what,
        is_repeated: false,
        status: 504,
        code: "upstream_timeout",
        retry_after: None,
        state: "healthy",
    })
}

/// A rate limit; with `wish` the caller is told to wait so many seconds.
pub(super) const fn limited(what: &'static str, wish: &'static str) -> Ends {
    Ends::Moves(Move {
        outcome: "status_429",
        what,
        is_repeated: false,
        status: 429,
        code: "rate_limit_exceeded",
        retry_after: Some(wish),
        state: "healthy",
    })
}

/// A good reply.
pub(super) const fn good(finish: Option<&'static str>) -> Ends {
    Ends::Passes { status: 200, outcome: "ok", finish }
}

/// A reply that breaks after so many bytes.
pub(super) const fn broken(reason: &'static str, told: Told, after: usize) -> Ends {
    let code = match reason.as_bytes() {
        b"stalled" | b"timeout" => "upstream_timeout",
        _ => "upstream_error",
    };
    Ends::Broken { reason, code, told, after }
}
