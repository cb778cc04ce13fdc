//! How finished traces reach their destinations.

pub mod spool;
