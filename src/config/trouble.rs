//! Why a value does not fit its setting: serde's errors with their place, in words for operators.

use super::fault::{Mark, Step, listed, nearest};
use serde::de::{Expected, Unexpected};
use std::fmt;

/// The first misfit serde met. Boxed, because serde returns it by value from every level.
#[derive(Debug)]
pub(super) struct Trouble(Box<Details>);

#[derive(Debug)]
pub(super) struct Details {
    pub(super) kind: Kind,
    /// Where; `None` until a level that knows has seen it.
    pub(super) at: Option<Mark>,
    /// The way here, innermost first.
    way: Vec<OwnedStep>,
    /// The mapping entry to leave out so that the rest can be looked at.
    pub(super) leave_out: Option<u32>,
}

#[derive(Debug)]
enum OwnedStep {
    Key(String),
    Index(usize),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// A key that the mapping does not have.
    UnknownKey { expected: &'static [&'static str] },
    /// A word that is not one of those possible.
    UnknownWord { word: String, expected: &'static [&'static str] },
    /// Keys that must be there are not; none where they were only left out for another fault.
    Missing { fields: Vec<String> },
    /// Anything else.
    Misfit { problem: String, hint: Option<String> },
}

impl Trouble {
    fn new(kind: Kind) -> Self {
        Self(Box::new(Details { kind, at: None, way: Vec::new(), leave_out: None }))
    }

    /// A value of another kind than its setting wants.
    pub(super) fn misfit(problem: impl Into<String>, hint: Option<&str>) -> Self {
        Self::new(Kind::Misfit { problem: problem.into(), hint: hint.map(Into::into) })
    }

    /// Notes the place, unless a deeper level has.
    pub(super) fn at(mut self, at: Mark) -> Self {
        self.0.at.get_or_insert(at);
        self
    }

    /// Notes the key it came through, and that leaving out this entry would avoid it.
    pub(super) fn under(mut self, key: &str, id: u32) -> Self {
        self.0.way.push(OwnedStep::Key(key.to_owned()));
        self.0.leave_out.get_or_insert(id);
        self
    }

    /// Notes the item it came through.
    pub(super) fn inside(mut self, index: usize) -> Self {
        self.0.way.push(OwnedStep::Index(index));
        self
    }

    /// Names all keys that are missing where serde stopped at the first.
    pub(super) fn with_missing(mut self, all: impl FnOnce() -> Vec<String>) -> Self {
        if let Kind::Missing { fields } = &mut self.0.kind
            && self.0.at.is_none()
        {
            *fields = all();
        }
        self
    }

    /// Everything about it.
    pub(super) fn details(&self) -> &Details {
        &self.0
    }
}

impl Details {
    /// The way from the value that was read to the fault.
    pub(super) fn steps(&self) -> impl Iterator<Item = Step<'_>> {
        self.way.iter().rev().map(|step| match step {
            OwnedStep::Key(key) => Step::Key(key),
            OwnedStep::Index(index) => Step::Index(*index),
        })
    }

    /// What is wrong and what to write; `None` for a mere consequence.
    pub(super) fn words(&self) -> Option<(String, Option<String>)> {
        Some(match &self.kind {
            Kind::UnknownKey { expected } => {
                let key = self.steps().last();
                let key = match key {
                    Some(Step::Key(key)) => key,
                    Some(Step::Index(_)) | None => "",
                };
                let (problem, hint) = unknown_key(key, expected);
                (problem, Some(hint))
            }
            Kind::UnknownWord { word, expected } => {
                let near = nearest(word, expected.iter().copied());
                let hint = near.map_or_else(
                    || format!("write one of {}", listed(expected.iter().copied())),
                    |near| format!("did you mean `{near}`?"),
                );
                ("not a word that this setting knows".into(), Some(hint))
            }
            Kind::Missing { fields } => {
                if fields.is_empty() {
                    return None;
                }
                let verb = if fields.len() == 1 { "is" } else { "are" };
                let problem = format!("`{}` {verb} missing", fields.join("`, `"));
                (problem, Some(format!("add `{}: …`", fields.join(": …`, `"))))
            }
            Kind::Misfit { problem, hint } => (problem.clone(), hint.clone()),
        })
    }
}

/// What to say about a key that is not one of `expected`.
pub(super) fn unknown_key(key: &str, expected: &[&'static str]) -> (String, String) {
    let hint = nearest(key, expected.iter().copied()).map_or_else(
        || format!("known here: {}", listed(expected.iter().copied())),
        |near| format!("did you mean `{near}`?"),
    );
    ("unknown key".into(), hint)
}

impl serde::de::Error for Trouble {
    /// Messages of our own types read `problem; hint`.
    fn custom<T: fmt::Display>(message: T) -> Self {
        let message = message.to_string();
        match message.split_once("; ") {
            Some((problem, hint)) => Self::misfit(problem, Some(hint)),
            None => Self::misfit(message, None),
        }
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        // The value itself stays unsaid: it could be a secret.
        let found = match found {
            Unexpected::Map => "a mapping",
            Unexpected::Seq => "a list",
            Unexpected::Unit | Unexpected::Option => "nothing",
            Unexpected::Str(_) | Unexpected::Char(_) | Unexpected::Bytes(_) => "text",
            Unexpected::Bool(_)
            | Unexpected::Unsigned(_)
            | Unexpected::Signed(_)
            | Unexpected::Float(_)
            | Unexpected::NewtypeStruct
            | Unexpected::Enum
            | Unexpected::UnitVariant
            | Unexpected::NewtypeVariant
            | Unexpected::TupleVariant
            | Unexpected::StructVariant
            | Unexpected::Other(_) => "something else",
        };
        let hint = format!("write {expected}");
        Self::misfit(format!("expected {expected}, found {found}"), Some(&hint))
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::misfit(format!("expected {expected}"), None)
    }

    fn unknown_variant(word: &str, expected: &'static [&'static str]) -> Self {
        Self::new(Kind::UnknownWord { word: word.to_owned(), expected })
    }

    fn unknown_field(_: &str, expected: &'static [&'static str]) -> Self {
        Self::new(Kind::UnknownKey { expected })
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(Kind::Missing { fields: vec![field.to_owned()] })
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.words().unwrap_or_default().0)
    }
}

impl std::error::Error for Trouble {}
