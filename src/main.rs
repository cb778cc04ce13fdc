//! The `cirque` command.
fn main() {}
