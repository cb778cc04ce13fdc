//! References in values, `${VAR}`, `${VAR:-default}` and `${file:/path}`, replaced by what they name.
//!
//! Only values are looked at, never keys or comments, and what comes in is never read as YAML or
//! expanded again: a secret may hold any character.

use super::bounded;
use super::env::Env;
use super::fault::{Fault, Path, nearest};
use super::tree::{Node, Value};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// References inside defaults of references.
const DEEPEST: usize = 8;
/// A value's length after expansion, in bytes.
const LONGEST: usize = 1 << 20;

/// Expands a tree.
pub(super) struct Expander<'e> {
    env: &'e Env,
    may_read_files: bool,
    /// Every file that a reference names.
    pub(super) watched: BTreeSet<PathBuf>,
    /// References that could not be resolved.
    pub(super) faults: Vec<Fault>,
    /// The values they are in.
    pub(super) unexpanded: BTreeSet<u32>,
}

/// What is wrong with a reference, and what to write.
type Wrong = (String, String);

impl<'e> Expander<'e> {
    pub(super) fn new(env: &'e Env, may_read_files: bool) -> Self {
        Self {
            env,
            may_read_files,
            watched: BTreeSet::new(),
            faults: Vec::new(),
            unexpanded: BTreeSet::new(),
        }
    }

    /// Expands every value of the file.
    pub(super) fn expand(&mut self, root: &mut Node) {
        let Value::Map(sections) = &mut root.value else { return };
        for section in sections {
            // Langfuse is off while its keys are empty: there, an unset variable is nothing.
            let is_lenient = section.key == "langfuse";
            self.node(&mut section.node, &Path::section(&section.key), is_lenient);
        }
    }

    fn node(&mut self, node: &mut Node, path: &Path<'_>, is_lenient: bool) {
        match &mut node.value {
            Value::Null { .. } => {}
            Value::List(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    self.node(item, &path.index(index), is_lenient);
                }
            }
            Value::Map(entries) => {
                for entry in entries {
                    self.node(&mut entry.node, &path.key(&entry.key), is_lenient);
                }
            }
            Value::Text { text, typed } => {
                if !text.contains("${") {
                    return;
                }
                let mut out = String::new();
                let mut scan = Scan { expander: self, is_lenient, out: &mut out };
                match scan.run(text, 0, true) {
                    Ok(_) => (*text, *typed) = (out, true),
                    Err((problem, hint)) => {
                        self.unexpanded.insert(node.id);
                        let path = super::fault::spell(&path.steps());
                        self.faults.push(Fault::at(node.at, path, problem, hint));
                    }
                }
            }
        }
    }

    fn unset(&self, name: &str) -> Wrong {
        let demo = if name == "OPENROUTER_API_KEY" { "; `cirque demo` needs no key" } else { "" };
        // Names of variables are alike by nature: only a slip of one letter is one.
        let slip = |near: &&str| strsim::osa_distance(name, near) == 1;
        let hint = nearest(name, self.env.names()).filter(slip).map_or_else(
            || format!("export it, put `{name}=…` into .env, or write ${{{name}:-default}}{demo}"),
            |near| format!("did you mean ${{{near}}}?"),
        );
        (format!("the variable {name} is not set"), hint)
    }

    /// The text of a file, named as `shown` where it cannot be read.
    fn read_file(&mut self, path: &str, shown: &str) -> Result<String, Wrong> {
        const WRITE: &str = "write ${file:/run/secrets/name}, one short text file";
        let wrong = |problem: String| (problem, WRITE.to_owned());
        if !self.may_read_files {
            return Err(wrong("files cannot be read here".into()));
        }
        if path.is_empty() {
            return Err(wrong("${file:} names no file".into()));
        }
        self.watched.insert(path.into());
        let unreadable = |why: String| wrong(format!("the file {shown} cannot be read: {why}"));
        let bytes = bounded::read(path.as_ref(), 1).map_err(unreadable)?;
        let text = String::from_utf8(bytes).map_err(|_| unreadable("it is not UTF-8".into()))?;
        Ok(text.trim_end_matches(['\r', '\n']).to_owned())
    }
}

/// One value on its way through.
struct Scan<'s, 'e> {
    expander: &'s mut Expander<'e>,
    is_lenient: bool,
    out: &'s mut String,
}

impl Scan<'_, '_> {
    fn push(&mut self, text: &str, is_live: bool) -> Result<(), Wrong> {
        if is_live {
            self.out.push_str(text);
        }
        if self.out.len() > LONGEST {
            return Err(("longer than 1 MiB after expansion".into(), "shorten the value".into()));
        }
        Ok(())
    }

    /// Copies text and expands references: to the end or, inside a reference, to the brace that
    /// closes it. Returns what follows. Where not live, it only finds the end.
    fn run<'t>(&mut self, text: &'t str, depth: usize, is_live: bool) -> Result<&'t str, Wrong> {
        if depth > DEEPEST {
            return Err(("references too deep inside one another".into(), not_that_way()));
        }
        let mut rest = text;
        while let Some(at) = rest.find(|c| c == '$' || (depth > 0 && c == '}')) {
            let (before, from) = rest.split_at_checked(at).unwrap_or((rest, ""));
            self.push(before, is_live)?;
            rest = if let Some(after) = from.strip_prefix('}') {
                return Ok(after);
            } else if let Some(after) = from.strip_prefix("$${") {
                self.push("${", is_live)?;
                after
            } else if let Some(after) = from.strip_prefix("${") {
                self.reference(after, depth + 1, is_live)?
            } else {
                self.push("$", is_live)?;
                from.strip_prefix('$').unwrap_or_default()
            };
        }
        if depth > 0 {
            return Err(("a reference is not closed".into(), "add the brace: ${NAME}".into()));
        }
        self.push(rest, is_live)?;
        Ok("")
    }

    /// Expands one reference, given what follows its `${`.
    fn reference<'t>(
        &mut self,
        text: &'t str,
        depth: usize,
        is_live: bool,
    ) -> Result<&'t str, Wrong> {
        if let Some(path) = text.strip_prefix("file:") {
            return self.file(path, depth, is_live);
        }
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let end = text.find(|c| !is_word(c)).unwrap_or(text.len());
        let (name, rest) = text.split_at_checked(end).unwrap_or((text, ""));
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(("`${` begins no reference".into(), not_that_way()));
        }
        let env = self.expander.env;
        if let Some(after) = rest.strip_prefix('}') {
            match env.get(name) {
                Some(value) => self.push(value, is_live)?,
                None if is_live && !self.is_lenient => return Err(self.expander.unset(name)),
                None => {}
            }
            return Ok(after);
        }
        if let Some(default) = rest.strip_prefix(":-") {
            let value = env.get(name).filter(|value| !value.is_empty());
            self.push(value.unwrap_or_default(), is_live)?;
            return self.run(default, depth, is_live && value.is_none());
        }
        let problem = if rest.is_empty() { "a reference is not closed" } else { "not a reference" };
        Err((problem.into(), not_that_way()))
    }

    fn file<'t>(&mut self, path: &'t str, depth: usize, is_live: bool) -> Result<&'t str, Wrong> {
        let mut name = String::new();
        let mut inner =
            Scan { expander: self.expander, is_lenient: self.is_lenient, out: &mut name };
        let after = inner.run(path, depth, is_live)?;
        if is_live {
            let written = path.strip_suffix(after).and_then(|path| path.strip_suffix('}'));
            // What a reference in it stands for may be a secret.
            let shown = written.filter(|written| written.contains("${")).unwrap_or(&name);
            let text = self.expander.read_file(&name, shown)?;
            self.push(&text, is_live)?;
        }
        Ok(after)
    }
}

fn not_that_way() -> String {
    "write ${NAME}, ${NAME:-default} or ${file:/path}; $${ stands for the characters ${".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &str) -> Result<String, String> {
        let env = Env::new([("A", "a"), ("NASTY", "x: ${A} # {"), ("EMPTY", "")]);
        let mut expander = Expander::new(&env, true);
        let mut out = String::new();
        let mut scan = Scan { expander: &mut expander, is_lenient: false, out: &mut out };
        scan.run(text, 0, true).map_err(|(problem, _)| problem)?;
        Ok(out)
    }

    #[test]
    fn a_file_that_is_named_by_a_reference_is_not_named_by_what_that_stands_for() {
        let shown = expanded("${file:/nowhere/${A}}").unwrap_err();
        assert!(shown.contains("the file /nowhere/${A} cannot be read"), "{shown}");
        let shown = expanded("x ${file:/nowhere/a} y ${A}").unwrap_err();
        assert!(shown.contains("the file /nowhere/a cannot be read"), "{shown}");
    }

    #[test]
    fn references_expand_anywhere_in_a_value_and_only_once() {
        for (text, value) in [
            ("plain $5 $ and $$", "plain $5 $ and $$"),
            ("<${A}${A}>", "<aa>"),
            ("${NASTY}", "x: ${A} # {"),
            ("${NONE:-b}", "b"),
            ("${EMPTY:-b}${EMPTY}", "b"),
            ("${NONE:-}", ""),
            ("${NONE:-${ALSO_NONE:-${A}}}!", "a!"),
            ("${A:-${NONE}}", "a"),
            ("$${A} costs $${", "${A} costs ${"),
            ("}${A}{", "}a{"),
        ] {
            assert_eq!(expanded(text).as_deref(), Ok(value), "{text}");
        }
    }

    #[test]
    fn broken_references_are_refused() {
        for (text, problem) in [
            ("${NONE}", "the variable NONE is not set"),
            ("${NONE:-${ALSO_NONE}}", "the variable ALSO_NONE is not set"),
            ("${A", "a reference is not closed"),
            ("${A:-b", "a reference is not closed"),
            ("${}", "`${` begins no reference"),
            ("${1A}", "`${` begins no reference"),
            ("${A-b}", "not a reference"),
            ("${file:}", "${file:} names no file"),
        ] {
            assert_eq!(expanded(text), Err(problem.into()), "{text}");
        }
        assert!(expanded(&"${A:-".repeat(50)).unwrap_err().contains("too deep"));
    }

    #[test]
    fn a_secret_file_loses_its_last_newline_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        let reference = format!("<${{file:{}}}>", file.display());
        std::fs::write(&file, " a b\n\r\n").unwrap();
        assert_eq!(expanded(&reference).as_deref(), Ok("< a b>"));
        std::fs::write(&file, [0xff, 0xfe]).unwrap();
        assert!(expanded(&reference).unwrap_err().ends_with("it is not UTF-8"));
        std::fs::remove_file(&file).unwrap();
        assert!(expanded(&reference).unwrap_err().contains("cannot be read: No such file"));
    }
}
