//! limits.
pub mod config;
