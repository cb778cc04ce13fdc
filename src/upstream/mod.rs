//! Where calls go: providers, addresses, peers.
pub mod config;
pub mod provider;
