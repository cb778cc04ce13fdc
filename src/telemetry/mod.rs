//! What operators are told: the record of a request, metrics, the access log, our own log.
pub mod access_log;
pub mod config;
pub mod delivery;
pub mod exchange;
pub mod langfuse;
mod line;
pub mod log;
pub mod metrics;
#[cfg(test)]
mod sample;
