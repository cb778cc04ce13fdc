//! What the generator, the origin and the report share: a client, the process table, percentiles.

pub mod client;
pub mod measure;
pub mod process;
pub mod report;
