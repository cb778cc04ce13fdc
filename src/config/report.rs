//! Faults gathered while a configuration is read and checked, each put at its place in the file.

use super::fault::{Fault, Mark, Path, Step, is_enough, spell};
use super::read::Reader;
use super::tree::{Node, Value};
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};

/// The faults so far, and the file they are in.
pub(super) struct Report<'t> {
    /// `None` where no file is used.
    root: Option<&'t Node>,
    faults: Vec<Fault>,
    /// Settings that did not read; what a check says about them would be a consequence.
    unread: BTreeSet<String>,
    /// Values whose references did not expand.
    unexpanded: BTreeSet<u32>,
    /// Of each list of the top level, where in the file the items that did read stand.
    indices: BTreeMap<&'static str, Vec<usize>>,
    /// Lists of the top level of which some item did not read.
    lossy: BTreeSet<&'static str>,
}

impl<'t> Report<'t> {
    pub(super) fn new(
        root: Option<&'t Node>,
        faults: Vec<Fault>,
        unexpanded: BTreeSet<u32>,
    ) -> Self {
        let unread = faults.iter().map(|fault| fault.path.clone()).collect();
        let (indices, lossy) = (BTreeMap::new(), BTreeSet::new());
        Self { root, faults, unread, unexpanded, indices, lossy }
    }

    pub(super) fn into_faults(self) -> Vec<Fault> {
        self.faults
    }

    /// Whether nobody would read more faults.
    pub(super) fn is_full(&self) -> bool {
        is_enough(self.faults.len())
    }

    /// Adds what a check found at `path`, unless that setting did not read in the first place.
    pub(super) fn fault(
        &mut self,
        path: &Path<'_>,
        problem: impl Into<String>,
        hint: impl Into<String>,
    ) {
        if self.is_full() {
            return;
        }
        let steps = self.in_file(path);
        let path = spell(&steps);
        if self.unread.iter().any(|unread| is_within(unread, &path) || is_within(&path, unread)) {
            return;
        }
        let at = self.place(&steps);
        self.push(path, at, problem.into(), Some(hint.into()));
    }

    /// Whether the setting is as the file has it, or absent.
    pub(super) fn did_read(&self, path: &Path<'_>) -> bool {
        !self.unread.contains(&spell(&self.in_file(path)))
    }

    /// Whether some item of this list of the top level is unknown.
    pub(super) fn has_lost(&self, section: &str) -> bool {
        self.lossy.contains(section)
    }

    fn push(&mut self, path: String, at: Option<Mark>, problem: String, hint: Option<String>) {
        let (line, column) = (at.map(|at| at.line), at.map(|at| at.column));
        self.faults.push(Fault { path, line, column, problem, hint });
    }

    /// The steps with the index an item has in the file, which counts the items that did not read.
    fn in_file<'p>(&self, path: &Path<'p>) -> Vec<Step<'p>> {
        let mut steps = path.steps();
        if let [Step::Key(section), Step::Index(index), ..] = steps.as_mut_slice()
            && let Some(indices) = self.indices.get(section)
        {
            *index = indices.get(*index).copied().unwrap_or(*index);
        }
        steps
    }

    /// Where the setting stands, or the nearest one around it that is in the file.
    fn place(&self, steps: &[Step<'_>]) -> Option<Mark> {
        let mut node = self.root?;
        let mut at = node.at;
        for step in steps {
            let next = match (step, &node.value) {
                (Step::Key(key), _) => node.get(key).map(|entry| &entry.node),
                (Step::Index(index), Value::List(items)) => items.get(*index),
                (Step::Index(_), _) => Some(node),
            };
            let Some(next) = next else { break };
            (node, at) = (next, next.at);
        }
        Some(at)
    }

    /// Reads one value, noting every misfit; `None` where nothing useful is left of it.
    ///
    /// Serde stops at the first misfit: the entry it is in is left out, and reading starts again.
    fn read<T: DeserializeOwned>(&mut self, node: &'t Node, base: &[Step<'_>]) -> Option<T> {
        let mut left_out = self.unexpanded.clone();
        while !self.is_full() {
            let trouble = match T::deserialize(Reader { node, left_out: &left_out }) {
                Ok(value) => return Some(value),
                Err(trouble) => trouble,
            };
            let details = trouble.details();
            let steps: Vec<Step<'_>> = base.iter().copied().chain(details.steps()).collect();
            let path = spell(&steps);
            if let Some((problem, hint)) = details.words()
                && !self.unread.contains(&path)
            {
                self.push(path.clone(), details.at.or(Some(node.at)), problem, hint);
            }
            self.unread.insert(path);
            if !details.leave_out.is_some_and(|id| left_out.insert(id)) {
                return None;
            }
        }
        None
    }
}

/// Whether `inner` is `outer` or a setting inside it.
fn is_within(inner: &str, outer: &str) -> bool {
    inner
        .strip_prefix(outer)
        .is_some_and(|rest| matches!(rest.chars().next(), None | Some('.' | '[')))
}

/// The sections of a file, read one after the other so that a fault in one never hides another's.
pub(super) struct Sections<'r, 't> {
    root: &'t Node,
    report: &'r mut Report<'t>,
    known: Vec<&'static str>,
}

impl<'r, 't> Sections<'r, 't> {
    pub(super) fn new(root: &'t Node, report: &'r mut Report<'t>) -> Self {
        Self { root, report, known: Vec::new() }
    }

    fn node(&mut self, name: &'static str) -> Option<&'t Node> {
        self.known.push(name);
        self.root.get(name).map(|entry| &entry.node)
    }

    /// A section that is one mapping; its defaults where it is absent or did not read.
    pub(super) fn one<T: DeserializeOwned + Default>(&mut self, name: &'static str) -> T {
        let node = self.node(name);
        node.and_then(|node| self.report.read(node, &[Step::Key(name)])).unwrap_or_default()
    }

    /// A section that is a list: the items that did read.
    pub(super) fn list<T: DeserializeOwned>(&mut self, name: &'static str) -> Vec<T> {
        let Some(node) = self.node(name) else { return Vec::new() };
        let items = match &node.value {
            Value::List(items) => items,
            Value::Null { .. } => return Vec::new(),
            Value::Text { .. } | Value::Map(_) => {
                self.report.lossy.insert(name);
                return self.report.read(node, &[Step::Key(name)]).unwrap_or_default();
            }
        };
        let mut indices = Vec::with_capacity(items.len());
        let mut values = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let base = [Step::Key(name), Step::Index(index)];
            if let Some(value) = self.report.read(item, &base) {
                indices.push(index);
                values.push(value);
            }
        }
        if indices.len() < items.len() {
            self.report.lossy.insert(name);
        }
        self.report.indices.insert(name, indices);
        values
    }

    /// Reports the sections nobody asked for.
    pub(super) fn finish(self) {
        let Value::Map(entries) = &self.root.value else { return };
        for entry in entries.iter().filter(|entry| !self.known.contains(&entry.key.as_str())) {
            if self.report.is_full() {
                return;
            }
            let (problem, hint) = super::trouble::unknown_key(&entry.key, &self.known);
            let path = spell(&[Step::Key(&entry.key)]);
            self.report.push(path, Some(entry.key_at), problem, Some(hint));
        }
    }
}
