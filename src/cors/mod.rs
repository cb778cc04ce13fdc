//! cors.
pub mod config;
