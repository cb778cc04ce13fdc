//! Where counters and spend live.
pub mod config;
