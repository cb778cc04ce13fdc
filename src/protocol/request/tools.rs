//! Which models the entries of `tools` and `plugins` name, at any depth: those of OpenRouter (auto-router,
//! fusion, advisor, subagent, image generation) and Anthropic's advisor. And which of them leave the
//! choice to the provider.

use super::Role;
use super::faults::repeated;
use super::folded::{ends_as, is_same};
use super::reader::{Reader, Step};
use super::scan::Value;
use crate::error::Rejection;
use std::ops::Range;

const FUSION: &str = "openrouter:fusion";
/// The tools that run another model, one of the provider's choice where none is named. A subagent is not one
/// of them: it falls back to the call's own model.
const CHOOSING: [&str; 3] = ["openrouter:advisor", FUSION, "openrouter:image_generation"];

/// What a member of an entry, or of anything within it, is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// What kind of tool it is.
    Type,
    /// Which plugin it is.
    Plugin,
    /// Whether a plugin is on.
    Enabled,
    /// The settings of a tool, or the schema of a function.
    Parameters,
    /// Of a function of the caller's own, or a word of JSON Schema, where one does not say that it is a
    /// function: no upstream reads the name of a model there.
    Own,
    /// A list of advisors, each with a model of its own.
    Advisors,
    /// One name or more.
    Names,
    /// Anything else.
    Rest,
}

/// What is known of an object so far.
#[derive(Debug, Default)]
struct Entry {
    /// Whether it has said what type of tool it is.
    has_type: bool,
    /// Whether that is a function of the caller's own.
    is_function: bool,
    /// Whether a plugin is switched on, where it says so.
    enabled: Option<bool>,
    /// The one of [`CHOOSING`] that it is, and where it says so.
    tool: Option<(&'static str, Range<usize>)>,
    /// What its parameters named and what is wrong there, while they may still be a function's schema.
    held: Option<(Range<usize>, Option<Rejection>)>,
    /// What it settles itself.
    named: Settled,
    /// What its parameters do.
    given: Settled,
}

/// What a tool leaves no choice of. `Some(false)` where it is there and names nothing.
#[derive(Debug, Default, Clone, Copy)]
struct Settled {
    model: Option<bool>,
    panel: Option<bool>,
    advisors: Option<bool>,
}

impl Settled {
    /// With what stands beside it; of two that stand in the same place nobody knows which one is read.
    fn and(self, other: Self) -> Self {
        let both = |one: Option<bool>, other: Option<bool>| match (one, other) {
            (Some(one), Some(other)) => Some(one && other),
            (one, other) => one.or(other),
        };
        Self {
            model: both(self.model, other.model),
            panel: both(self.panel, other.panel),
            advisors: both(self.advisors, other.advisors),
        }
    }

    /// Whether this tool runs no model but those it names.
    fn settles(self, tool: &str) -> bool {
        let by = if tool == FUSION { self.panel } else { self.model.or(self.advisors) };
        by == Some(true)
    }
}

impl Reader<'_> {
    /// Reads `tools` or `plugins`.
    pub(super) fn entries(&mut self, field: &'static str) -> Step {
        self.within(field, 1)
    }

    /// Reads any value within them.
    fn within(&mut self, field: &'static str, depth: usize) -> Step {
        match self.scan.peek() {
            Some(b'{') => self.entry(field, depth, false).map(|_| ()),
            Some(b'[') => {
                let mut items = self.scan.enter_array(depth)?;
                while self.scan.next_item(&mut items)? {
                    self.within(field, depth + 1)?;
                }
                Ok(())
            }
            _ => self.skip(depth),
        }
    }

    /// Reads an object; `is_name` says that it stands where the name of a model does.
    fn entry(&mut self, field: &'static str, depth: usize, is_name: bool) -> Step<Settled> {
        let mut entry = Entry::default();
        let mut members = self.scan.enter_loosely(depth)?;
        while let Some(member) = self.next(&mut members, Some(field))? {
            let name = &*member.name;
            match part(name, field, is_name) {
                Part::Type => {
                    if std::mem::replace(&mut entry.has_type, true) {
                        // It would be read as the one or the other.
                        self.keep(repeated("type", Some(field), self.scan.at));
                    }
                    self.kind(false, depth + 1, &mut entry)?;
                }
                Part::Plugin => self.kind(true, depth + 1, &mut entry)?,
                Part::Enabled => {
                    let is_on = !matches!(self.scan.value(depth + 1)?, Value::Bool(false));
                    entry.enabled = Some(is_on || entry.enabled == Some(true));
                }
                Part::Own => self.skip(depth + 1)?,
                Part::Parameters if entry.is_function => self.skip(depth + 1)?,
                Part::Parameters => self.parameters(field, depth + 1, &mut entry)?,
                Part::Advisors => {
                    let advisors = Some(self.advisors(field, depth + 1)?);
                    entry.named = entry.named.and(Settled { advisors, ..Settled::default() });
                }
                Part::Names => {
                    let named = self.named(field, name, depth + 1)?;
                    entry.named = entry.named.and(named);
                }
                Part::Rest => self.within(field, depth + 1)?,
            }
        }
        if let Some((names, fault)) = entry.held.take() {
            if entry.is_function {
                self.facts.other_models.drain(names);
            } else if let Some(fault) = fault {
                self.keep(fault);
            }
        }
        // A tool is set up in its parameters alone, a plugin without any.
        let settled = if field == "plugins" { entry.named } else { entry.given };
        if let Some((tool, place)) = entry.tool.take()
            && entry.enabled != Some(false)
            && !settled.settles(tool)
        {
            self.note(field, tool.to_owned(), place, Role::Tool);
        }
        Ok(entry.named)
    }

    /// Reads what kind of tool an object is, or which plugin.
    fn kind(&mut self, is_plugin: bool, depth: usize, entry: &mut Entry) -> Step {
        if let Value::Text(token) = self.scan.value(depth)? {
            let kind = token.text()?;
            let tool = if is_plugin {
                (kind == "fusion").then_some(FUSION)
            } else {
                entry.is_function = kind == "function";
                CHOOSING.into_iter().find(|tool| *tool == kind)
            };
            entry.tool = tool.map(|tool| (tool, token.span())).or(entry.tool.take());
        }
        Ok(())
    }

    /// Reads parameters of which it shows later whether they are a tool's settings.
    fn parameters(&mut self, field: &'static str, depth: usize, entry: &mut Entry) -> Step {
        if entry.held.is_some() {
            self.keep(repeated("parameters", Some(field), self.scan.at));
        }
        let before = self.fault.take();
        let first = self.facts.other_models.len();
        if self.scan.peek() == Some(b'{') {
            entry.given = self.entry(field, depth, false)?;
        } else {
            self.within(field, depth)?;
        }
        let names = first..self.facts.other_models.len();
        entry.held = Some((names, self.fault.take()));
        self.fault = before;
        Ok(())
    }

    /// Reads a list of advisors; whether every one of them names its model.
    fn advisors(&mut self, field: &'static str, depth: usize) -> Step<bool> {
        if self.scan.peek() != Some(b'[') {
            return self.within(field, depth).map(|()| false);
        }
        let (mut all, mut is_empty) = (true, true);
        let mut items = self.scan.enter_array(depth)?;
        while self.scan.next_item(&mut items)? {
            is_empty = false;
            if self.scan.peek() == Some(b'{') {
                all &= self.entry(field, depth + 1, false)?.model == Some(true);
            } else {
                self.within(field, depth + 1)?;
                all = false;
            }
        }
        Ok(all && !is_empty)
    }

    /// Reads what may be the name of a model or preset, or several of them.
    fn named(&mut self, field: &'static str, name: &str, depth: usize) -> Step<Settled> {
        let role = if is_same(name, "preset") {
            Role::Preset
        } else if ends_as(name, "allowed_models") {
            Role::Answers
        } else {
            Role::Helps
        };
        let first = self.scan.peek();
        let found = self.texts(field, role, depth)?;
        // Only what is written as the upstream reads it keeps it from a choice of its own.
        Ok(match name {
            "model" => Settled { model: Some(found && first == Some(b'"')), ..Settled::default() },
            "analysis_models" => {
                Settled { panel: Some(found && first == Some(b'[')), ..Settled::default() }
            }
            "preset" if field == "plugins" => {
                Settled { panel: Some(found && first == Some(b'"')), ..Settled::default() }
            }
            _ => Settled::default(),
        })
    }

    /// Takes each text as a name, in a list as well; whether there was one.
    fn texts(&mut self, field: &'static str, role: Role, depth: usize) -> Step<bool> {
        match self.scan.peek() {
            Some(b'[') => {
                let mut found = false;
                let mut items = self.scan.enter_array(depth)?;
                while self.scan.next_item(&mut items)? {
                    found |= self.texts(field, role, depth + 1)?;
                }
                Ok(found)
            }
            Some(b'{') => self.entry(field, depth, true).map(|_| false),
            _ => {
                let Value::Text(token) = self.scan.value(depth)? else { return Ok(false) };
                if let Some(name) = self.name(token, field)? {
                    self.note(field, name, token.span(), role);
                }
                Ok(true)
            }
        }
    }
}

fn part(name: &str, field: &str, is_name: bool) -> Part {
    match name {
        "type" => Part::Type,
        "id" if is_name => Part::Names,
        "id" if field == "plugins" => Part::Plugin,
        "enabled" if field == "plugins" => Part::Enabled,
        "parameters" => Part::Parameters,
        "function" | "input_schema" | "inputSchema" | "output_schema" | "outputSchema"
        | "input_examples" | "properties" | "$defs" | "definitions" | "default" | "enum"
        | "const" | "examples" => Part::Own,
        "advisors" => Part::Advisors,
        _ if is_model_field(name) => Part::Names,
        _ => Part::Rest,
    }
}

fn is_model_field(name: &str) -> bool {
    ["model", "models", "preset", "fallbacks"].into_iter().any(|field| is_same(name, field))
        || ["_model", "_models"].into_iter().any(|end| ends_as(name, end))
}
