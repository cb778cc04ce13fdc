//! The wire: paths, request bodies, event streams, usage and errors, without any I/O.
pub mod usage;
