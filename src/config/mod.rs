//! The configuration: sections composed, loaded, validated.
pub mod keys;
pub mod sections;
