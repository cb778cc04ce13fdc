//! The configuration: sections composed, loaded, validated.
//!
//! `load` tells the story: text → `tree` (values with their place) → `expand` (references) → `read`
//! (types) → `defaults` → `validate`. Every step adds to one `report`, so all faults come at once.

pub mod keys;
pub mod sections;

mod bounded;
mod caution;
mod defaults;
mod env;
mod environment;
mod expand;
mod fault;
mod load;
mod pending;
mod read;
mod report;
mod schema;
mod tree;
mod trouble;
mod validate;

pub use env::{Env, Source, find};
pub use fault::{Fault, Faults};
pub use load::{Loaded, check_text, load, sketch};
pub use pending::not_yet;
pub use schema::{redacted, schema};
pub use sections::Config;

/// Whether a key or an upstream may be called so.
///
/// # Errors
/// What is wrong with the name, and what to write instead.
pub fn check_name(text: &str) -> Result<(), (&'static str, &'static str)> {
    validate::name(text)
}

#[cfg(test)]
mod tests;
