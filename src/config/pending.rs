//! Settings that are read and checked, but whose machinery this version does not have yet.

use super::sections::Config;

/// Settings in use that do nothing yet, each with what that means: for a warning at start and for
/// `/status`, so that none is silently ignored.
#[must_use]
pub fn not_yet(config: &Config) -> Vec<String> {
    let rows = [(
        config.server.upgrade_sock.is_some(),
        "server.upgrade_sock: listeners are not handed to a successor yet",
    )];
    rows.iter().filter(|(is_used, _)| *is_used).map(|(_, why)| (*why).to_owned()).collect()
}
