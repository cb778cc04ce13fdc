//! Traces: what one finished call becomes for Langfuse and for other OTLP backends.

mod destination;
mod trace;

pub use destination::{Destination, DestinationKind};
pub use trace::{KeyTraits, Trace};
