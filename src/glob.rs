//! Globs over model names: `*` is any run of characters, `?` any one; both cross `/` and `:`.

use wildmatch::WildMatch;

/// A list of globs; empty matches nothing.
#[derive(Debug, Clone)]
pub struct Globs {
    patterns: Vec<WildMatch>,
    everything: bool,
}

impl Globs {
    /// Prepares the patterns.
    pub fn new<T: AsRef<str>>(patterns: &[T]) -> Self {
        Self {
            everything: patterns.iter().any(|p| p.as_ref() == "*"),
            patterns: patterns.iter().map(|p| WildMatch::new(p.as_ref())).collect(),
        }
    }

    /// Whether any pattern covers the whole name. Case matters, as it does to providers.
    pub fn matches(&self, name: &str) -> bool {
        self.everything || self.patterns.iter().any(|p| p.matches(name))
    }

    /// Whether every name matches.
    pub const fn is_everything(&self) -> bool {
        self.everything
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_crosses_slashes_and_colons() {
        let globs = Globs::new(&["openai/*", "x?z"]);
        assert!(globs.matches("openai/gpt-4o:free/extra"));
        assert!(globs.matches("xyz"));
        assert!(!globs.matches("anthropic/claude"));
        assert!(!globs.matches("Openai/gpt"));
        assert!(!globs.matches("prefix-openai/gpt"));
        assert!(!Globs::new::<&str>(&[]).matches(""));
        assert!(Globs::new(&["*"]).matches(""));
    }
}
