//! routing.
pub mod config;
