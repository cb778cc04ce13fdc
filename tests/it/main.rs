//! The real binary on ports of its own against a scripted origin: one test for each promise.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test that cannot go on says so by failing"
)]

mod abandoned;
mod admin;
mod auth;
mod bad_input;
mod bodies;
mod budgets;
mod config_cli;
mod cors;
mod demo;
mod disconnect;
mod drain;
mod failover;
mod fault_matrix;
mod hard_luck;
mod harness;
mod headers;
mod health;
mod langfuse;
mod limits;
mod models;
mod passthrough;
mod paths;
mod prices;
mod redis;
mod reload;
mod selection;
mod session;
mod soak;
mod stream_failures;
mod streaming;
mod telemetry;
mod tls;
mod traces;
mod usage;
