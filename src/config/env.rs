//! Where a configuration comes from: which file, and which variables are seen.

use super::bounded;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The file that is used when nobody names one.
const USUAL_FILE: &str = "conf/gateway.yaml";

/// What is loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A YAML file.
    File(PathBuf),
    /// The demonstration's own YAML text; with a file, that file's settings over the demonstration's
    /// upstreams and routes.
    Demo {
        /// The text.
        text: String,
        /// The file.
        file: Option<PathBuf>,
    },
    /// Environment variables alone.
    Environment,
}

/// Environment variables as a value: those of the process, then those of `.env`.
///
/// Loading reads this map and never the process, so that a test says what the world looks like.
#[derive(Clone, Default)]
pub struct Env {
    variables: BTreeMap<String, String>,
    /// Why `.env` could not be read in full; a fault of the configuration.
    pub(super) broken: Option<String>,
}

impl Env {
    /// These variables and no others.
    pub fn new<K: Into<String>, V: Into<String>>(pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        let variables = pairs.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
        Self { variables, broken: None }
    }

    /// The process's variables and, where it has none of that name, those of `.env` in the
    /// working directory. Variables that are not UTF-8 count as unset.
    #[must_use]
    pub fn from_process() -> Self {
        let process = std::env::vars_os()
            .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        Self::new(process).with_dotenv(Path::new(".env"))
    }

    /// Adds the variables of a `.env` file that are not set yet; no file, no change.
    #[must_use]
    pub fn with_dotenv(mut self, file: &Path) -> Self {
        if !file.exists() {
            return self;
        }
        let text = bounded::read(file, 1)
            .and_then(|bytes| String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned()));
        let text = match text {
            Ok(text) => text,
            Err(why) => {
                self.broken = Some(format!("cannot be read: {why}"));
                return self;
            }
        };
        let quoted: String = text.lines().map(|line| quoted(line) + "\n").collect();
        for line in dotenvy::from_read_iter(quoted.as_bytes()) {
            if let Ok((name, value)) = line {
                self.variables.entry(name).or_insert(value);
            } else {
                // The library's own message holds the line, which may hold a secret.
                self.broken = Some("holds a line that is not NAME=value".into());
            }
        }
        self
    }

    /// The variable as it is set, which may be to nothing.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// The variable without white space around it, where it is set to something.
    #[must_use]
    pub fn filled(&self, name: &str) -> Option<&str> {
        self.get(name).map(str::trim).filter(|value| !value.is_empty())
    }

    /// The names of all variables that are set.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.variables.keys().map(String::as_str)
    }
}

/// Puts `NAME=two words` in the quotes the library wants there; Docker and systemd want none.
fn quoted(line: &str) -> String {
    let Some((name, value)) = line.split_once('=') else { return line.to_owned() };
    let value = value.split(" #").next().unwrap_or_default().trim();
    if !value.contains(' ') || value.contains(['"', '\'', '\\', '$', '`']) {
        return line.to_owned();
    }
    format!("{name}='{value}'")
}

/// Chooses: the file named on the command line, else `$CIRQUE_CONFIG`, else `conf/gateway.yaml`
/// where there is one, else the environment alone.
#[must_use]
pub fn find(cli: Option<PathBuf>, env: &Env) -> Source {
    find_in(Path::new(""), cli, env)
}

fn find_in(directory: &Path, cli: Option<PathBuf>, env: &Env) -> Source {
    if let Some(named) = cli.or_else(|| env.filled("CIRQUE_CONFIG").map(PathBuf::from)) {
        return Source::File(named);
    }
    if directory.join(USUAL_FILE).exists() {
        return Source::File(USUAL_FILE.into());
    }
    Source::Environment
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_wins_over_the_file_of_variables() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(".env");
        std::fs::write(&file, "A='x'\nB=from file # why\nexport C=${B}\n # D=1 2\nEMPTY=\n")
            .unwrap();
        let env = Env::new([("A", "from process")]).with_dotenv(&file);
        assert_eq!(env.get("A"), Some("from process"));
        assert_eq!(env.get("B"), Some("from file"));
        assert_eq!(env.get("C"), Some("from file"));
        assert_eq!((env.get("EMPTY"), env.filled("EMPTY")), (Some(""), None));
        assert_eq!(env.broken, None);
    }

    #[test]
    fn a_broken_file_of_variables_is_reported_without_its_words() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(".env");
        std::fs::write(&file, "A=1\nsk-secret-without-name\nB=2\n").unwrap();
        let env = Env::default().with_dotenv(&file);
        assert_eq!((env.get("A"), env.get("B")), (Some("1"), Some("2")));
        assert_eq!(env.broken.as_deref(), Some("holds a line that is not NAME=value"));
        assert!(Env::default().with_dotenv(&folder.path().join("none")).broken.is_none());
    }

    #[test]
    fn the_named_file_wins_then_the_variable_then_the_usual_place() {
        let folder = tempfile::tempdir().unwrap();
        let env = Env::new([("CIRQUE_CONFIG", "b.yaml")]);
        let at = |cli: Option<&str>, env: &Env| find_in(folder.path(), cli.map(Into::into), env);
        assert_eq!(at(Some("a.yaml"), &env), Source::File("a.yaml".into()));
        assert_eq!(at(None, &env), Source::File("b.yaml".into()));
        assert_eq!(at(None, &Env::default()), Source::Environment);
        std::fs::create_dir(folder.path().join("conf")).unwrap();
        std::fs::write(folder.path().join(USUAL_FILE), "").unwrap();
        assert_eq!(at(None, &Env::default()), Source::File(USUAL_FILE.into()));
    }
}
