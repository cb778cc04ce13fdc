//! Traces: what one finished call becomes for Langfuse and for other OTLP backends.

mod conversation;
mod cut;
mod destination;
mod encode;
mod envelope;
mod facts;
mod input;
mod media;
mod output;
mod plan;
mod scrub;
mod secrets;
mod semconv;
mod span;
mod trace;

pub use cut::cut;
pub use destination::{Destination, DestinationKind};
pub use encode::encode;
pub use envelope::envelope;
pub use input::{Input, SMALL};
pub use plan::Plan;
pub use secrets::Secrets;
pub use trace::{KeyTraits, Trace};
