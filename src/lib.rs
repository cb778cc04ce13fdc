//! Cirque, an LLM edge gateway on Pingora; the modules in reading order, lowest layer first.

pub mod error;
pub mod folder;
pub mod glob;
pub mod ids;
pub mod locked;
pub mod secret;
pub mod units;

pub mod protocol;

pub mod store;
pub mod telemetry;

pub mod auth;
pub mod catalogue;
pub mod cors;
pub mod limits;
pub mod routing;
pub mod session;
pub mod upstream;

pub mod config;

pub mod snapshot;

pub mod admin;
pub mod demo;
pub mod proxy;

pub mod cli;
pub mod server;
