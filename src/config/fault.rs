//! What is wrong with a configuration: where it stands, what it is and what to write instead.

use std::fmt;

/// Faults shown at most; whoever has more sees the rest after mending these.
const MOST: usize = 100;

/// One fault. It never holds a value of the configuration that could be a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The setting, such as `keys[0].secret`; a variable's name where no file is used; empty for
    /// the file as a whole.
    pub path: String,
    /// Counted from 1; `None` where the fault has no place in a file.
    pub line: Option<u32>,
    /// Counted from 1, in characters.
    pub column: Option<u32>,
    /// What is wrong.
    pub problem: String,
    /// What to write instead.
    pub hint: Option<String>,
}

impl Fault {
    /// A fault at a place of the file.
    pub(super) fn at(
        at: Mark,
        path: impl Into<String>,
        problem: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self {
            path: path.into(),
            line: Some(at.line),
            column: Some(at.column),
            problem: problem.into(),
            hint: Some(hint.into()),
        }
    }
}

/// Every fault of one configuration, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults {
    /// The file's name, or `environment`.
    pub source: String,
    /// The faults themselves, 100 at most; never empty.
    pub list: Vec<Fault>,
}

impl Faults {
    /// The faults of `source`, sorted by where they stand.
    pub(super) fn new(source: impl Into<String>, mut list: Vec<Fault>) -> Self {
        list.sort_by_key(|fault| (fault.line.unwrap_or(u32::MAX), fault.column));
        Self { source: source.into(), list }
    }

    /// A single fault without a place, such as a file that cannot be read.
    pub(super) fn one(
        source: impl Into<String>,
        problem: impl Into<String>,
        hint: Option<String>,
    ) -> Self {
        let (path, problem) = (String::new(), problem.into());
        Self::new(source, vec![Fault { path, line: None, column: None, problem, hint }])
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, fault) in self.list.iter().enumerate() {
            if nth > 0 {
                writeln!(f)?;
            }
            write!(f, "{}:", self.source)?;
            if let (Some(line), Some(column)) = (fault.line, fault.column) {
                write!(f, "{line}:{column}:")?;
            }
            if !fault.path.is_empty() {
                write!(f, " {}:", fault.path)?;
            }
            write!(f, " {}", fault.problem)?;
            if let Some(hint) = &fault.hint {
                write!(f, "\n  hint: {hint}")?;
            }
        }
        if self.list.len() >= MOST {
            write!(f, "\n{}: only the first {MOST} faults are shown", self.source)?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// A place in the source text, both counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) line: u32,
    pub(super) column: u32,
}

/// One step from a setting to one inside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

/// The way from the top to a setting, as a list that borrows its beginning: building one allocates
/// nothing, so checks can name what they look at before they know whether it is wrong.
#[derive(Clone, Copy)]
pub(super) struct Path<'a> {
    up: Option<&'a Path<'a>>,
    step: Step<'a>,
}

impl<'a> Path<'a> {
    /// A section of the file.
    pub(super) const fn section(name: &'a str) -> Self {
        Self { up: None, step: Step::Key(name) }
    }

    /// The setting `key` of this one.
    pub(super) const fn key(&'a self, key: &'a str) -> Self {
        Self { up: Some(self), step: Step::Key(key) }
    }

    /// The item at `index` of this one, from 0.
    pub(super) const fn index(&'a self, index: usize) -> Self {
        Self { up: Some(self), step: Step::Index(index) }
    }

    /// The steps from the top.
    pub(super) fn steps(&self) -> Vec<Step<'a>> {
        let mut steps = self.up.map_or_else(Vec::new, Path::steps);
        steps.push(self.step);
        steps
    }
}

/// Steps as people write them: `prices."local/*".input_per_million`.
pub(super) fn spell(steps: &[Step<'_>]) -> String {
    let mut text = String::new();
    for step in steps {
        match step {
            Step::Index(index) => text.extend(["[", &index.to_string(), "]"]),
            Step::Key(key) => {
                if !text.is_empty() {
                    text.push('.');
                }
                let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
                if !key.is_empty() && key.chars().all(bare) {
                    text.push_str(key);
                } else {
                    text.extend(["\"", &shorten(key).escape_debug().to_string(), "\""]);
                }
            }
        }
    }
    text
}

/// Words of a file as a message shows them: 60 characters at most.
pub(super) fn shorten(text: &str) -> String {
    const LONGEST: usize = 60;
    let mut short: String = text.chars().take(LONGEST).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// Whether no more faults are wanted.
pub(super) const fn is_enough(count: usize) -> bool {
    count >= MOST
}

/// The known word that `word` was probably meant to be.
pub(super) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Comparing costs the product of both lengths.
    if word.len() > 100 {
        return None;
    }
    let word = word.to_ascii_lowercase().replace('-', "_");
    known
        .map(|candidate| {
            let plain = candidate.to_ascii_lowercase().replace('-', "_");
            (strsim::osa_distance(&word, &plain), candidate)
        })
        .filter(|(distance, candidate)| *distance <= candidate.chars().count().div_ceil(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Names in a row, for a hint: `a, b, c`, twenty at most.
pub(super) fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    const MOST_NAMES: usize = 20;
    let mut names: Vec<String> = names.take(MOST_NAMES + 1).map(shorten).collect();
    if let Some(last) = names.get_mut(MOST_NAMES) {
        *last = "…".into();
    }
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_like_the_file() {
        let root = Path::section("prices");
        let glob = root.key("local/*");
        let item = glob.index(3);
        assert_eq!(spell(&item.key("usd").steps()), "prices.\"local/*\"[3].usd");
    }

    #[test]
    fn the_nearest_word_is_offered_only_when_it_is_near() {
        let known = ["base_url", "api_key", "headers"];
        assert_eq!(nearest("baseUrl", known.into_iter()), Some("base_url"));
        assert_eq!(nearest("api-key", known.into_iter()), Some("api_key"));
        assert_eq!(nearest("temperature", known.into_iter()), None);
        assert_eq!(nearest(&"x".repeat(10_000), known.into_iter()), None);
    }

    #[test]
    fn a_fault_prints_its_place_its_problem_and_its_hint() {
        let fault = |line, problem: &str, hint: Option<&str>| Fault {
            path: "log.level".into(),
            line,
            column: line,
            problem: problem.into(),
            hint: hint.map(Into::into),
        };
        let faults = Faults::new(
            "a.yaml",
            vec![fault(None, "late", None), fault(Some(3), "bad", Some("good"))],
        );
        assert_eq!(
            faults.to_string(),
            "a.yaml:3:3: log.level: bad\n  hint: good\na.yaml: log.level: late"
        );
    }
}
