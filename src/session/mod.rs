//! session.
pub mod config;
