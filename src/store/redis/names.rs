//! What Redis' keys are called: by a hash of the key's name, so that no name is part of a command.

use crate::secret::KeyHash;
use crate::store::redis::lease::Term;

/// Replicas that are alive, by the time of their last beat.
pub(super) const REPLICAS: &str = "cirque:{replicas}:alive";
/// Since when Redis has what it has, in a word that no two beginnings share.
pub(super) const BIRTH: &str = "cirque:{replicas}:birth";
/// Where a replica says that it is short of money that others hold idle.
pub(super) const WANTED: &str = "cirque:wanted";
/// Stands in for the key of a budget where there is none.
const NO_BUDGET: &str = "none";

/// The keys of one account.
#[derive(Debug)]
pub(super) struct Names {
    /// What stands for the account: 128 bits of its name's hash.
    pub(super) tag: String,
    /// Calls that run, requests, tokens: the first keys of every script, in its order.
    pub(super) windows: [String; 3],
}

impl Names {
    /// The names of the account with this name.
    pub(super) fn of(account: &str) -> Self {
        let mut tag = KeyHash::of(account.as_bytes()).to_hex();
        tag.truncate(32);
        Self::with_tag(tag)
    }

    /// The names of the account for which this stands.
    pub(super) fn with_tag(tag: String) -> Self {
        let windows =
            ["running", "requests", "tokens"].map(|end| format!("cirque:{{{tag}}}:{end}"));
        Self { tag, windows }
    }

    /// What all its keys begin with.
    pub(super) fn common(&self) -> String {
        format!("cirque:{{{}}}:", self.tag)
    }

    /// The key of one period of its budget: the fourth key of a script.
    pub(super) fn budget(&self, term: Option<&Term>) -> String {
        let term = term.map_or_else(|| NO_BUDGET.to_owned(), Term::name);
        format!("{}budget:{term}", self.common())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_nowhere_in_its_keys() {
        for name in ["n8n", "x} y\r\nFLUSHALL", "", "{a}"] {
            let names = Names::of(name);
            for key in names.windows.iter().chain([&names.budget(None)]) {
                assert!(key.starts_with("cirque:{") && key.len() < 80, "{key}");
                assert!(name.is_empty() || !key.contains(name), "{key}");
                assert_eq!(key.matches(['{', '}']).count(), 2, "{key}");
            }
        }
        assert_ne!(Names::of("a").tag, Names::of("b").tag);
    }
}
