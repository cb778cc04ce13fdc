//! YAML text as a tree in which every value knows where it stands.
//!
//! Values keep their text: whether `8000` is a number or a name is decided by the setting that reads
//! it, after references are expanded, and `0123` or a very long number never loses a digit.

use super::fault::{Fault, Mark, Step, shorten, spell};
use serde_yaml::granit_parser::{
    ErrorKind, Event, Marker, Options, Parser, ScalarStyle, ScanError, Span, Tag, options,
};
use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

/// Levels of lists and mappings; the configuration itself has six.
const DEEPEST: usize = 32;
/// Values that aliases may add in all: enough to share settings, too few for a bomb.
const MOST_ALIASED: usize = 10_000;

/// One value of the file.
#[derive(Debug, Clone)]
pub(super) struct Node {
    /// Tells nodes of one tree apart; copies made by an alias share it.
    pub(super) id: u32,
    pub(super) at: Mark,
    pub(super) value: Value,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    /// Nothing after the colon, or `null` when `written`.
    Null {
        written: bool,
    },
    /// Any scalar; `typed` where it may also be a number or a boolean: unquoted, or expanded.
    Text {
        text: String,
        typed: bool,
    },
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_at: Mark,
    pub(super) node: Node,
}

impl Node {
    /// The value under `key` of a mapping.
    pub(super) fn get(&self, key: &str) -> Option<&Entry> {
        let Value::Map(entries) = &self.value else { return None };
        entries.iter().find(|entry| entry.key == key)
    }

    /// How many values this one holds with itself, and how many levels.
    fn measure(&self) -> (usize, usize) {
        let sum = |parts: &mut dyn Iterator<Item = &Self>| {
            parts
                .map(Self::measure)
                .fold((1, 1), |(size, height), part| (size + part.0, height.max(part.1 + 1)))
        };
        match &self.value {
            Value::Null { .. } | Value::Text { .. } => (1, 1),
            Value::List(items) => sum(&mut items.iter()),
            Value::Map(entries) => sum(&mut entries.iter().map(|entry| &entry.node)),
        }
    }
}

/// Reads one document. Faults that leave the tree whole, such as a key that stands twice, are
/// added to `faults`.
///
/// # Errors
/// The fault after which the text means nothing: bad syntax, a second document, too deep a nesting.
pub(super) fn parse(text: &str, faults: &mut Vec<Fault>) -> Result<Node, Fault> {
    if let Some(fault) = control_character(text) {
        return Err(fault);
    }
    let options: Options = options! { emit_comments: false };
    let mut builder = Builder::new(faults);
    for next in Parser::new_from_str_with_options(text, options) {
        let (event, span) = next.map_err(|error| syntax(&error, text))?;
        builder.take(event, span)?;
    }
    Ok(builder.finish())
}

fn mark(at: Marker) -> Mark {
    let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Mark { line: small(at.line()), column: small(at.col()).saturating_add(1) }
}

/// YAML allows no control characters, and a file that holds some is rarely text at all.
fn control_character(text: &str) -> Option<Fault> {
    let odd = |c: char| c.is_ascii_control() && !matches!(c, '\t' | '\n' | '\r');
    let offset = text.find(odd)?;
    let (before, after) = text.split_at_checked(offset)?;
    let problem = format!("control character U+{:04X}", after.chars().next().map_or(0, u32::from));
    Some(Fault::at(end_of(before), "", problem, "is this a text file?"))
}

/// The place right after `text`.
pub(super) fn end_of(text: &str) -> Mark {
    let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let last = text.rsplit('\n').next().unwrap_or_default();
    Mark {
        line: small(text.matches('\n').count()).saturating_add(1),
        column: small(last.chars().count()).saturating_add(1),
    }
}

/// The parser's words, which never quote the text, and what usually causes them.
fn syntax(error: &ScanError, text: &str) -> Fault {
    let at = mark(*error.marker());
    let kind = error.kind();
    let line = text.lines().nth(error.marker().line().saturating_sub(1)).unwrap_or_default();
    let hint = if matches!(
        kind,
        ErrorKind::TabNotAllowed
            | ErrorKind::TabInBlockIndentation
            | ErrorKind::TabInIndentation
            | ErrorKind::TabInPlainScalar
            | ErrorKind::TabAtBlockScalarStart
            | ErrorKind::InvalidBlockEntryWhitespace
            | ErrorKind::InvalidMappingValueWhitespace
    ) || line.trim_start_matches(' ').starts_with('\t')
    {
        "YAML indents with spaces; replace the tab"
    } else if matches!(kind, ErrorKind::UnknownAnchor | ErrorKind::MissingAnchorOrAliasName) {
        "a word that begins with * or & needs quotes: \"*\""
    } else if matches!(kind, ErrorKind::RecursionLimitExceeded) {
        "no setting is nested that deep"
    } else if line.contains("${") {
        "a value with ${…} needs quotes: \"${NAME}\""
    } else if matches!(kind, ErrorKind::UnclosedQuotedScalar) {
        "close the quotes"
    } else {
        "look at the indentation, the colons and the quotes of this line and the one above"
    };
    Fault::at(at, "", format!("not YAML: {kind}"), hint)
}

/// A list or mapping that is not closed yet.
struct Frame {
    id: u32,
    at: Mark,
    anchor: usize,
    content: Content,
}

enum Content {
    List(Vec<Node>),
    Map { entries: Vec<Entry>, key: Option<(String, Mark)> },
}

struct Builder<'f> {
    frames: Vec<Frame>,
    root: Option<Node>,
    anchors: HashMap<usize, Node>,
    next_id: u32,
    aliased: usize,
    documents: usize,
    faults: &'f mut Vec<Fault>,
}

impl<'f> Builder<'f> {
    fn new(faults: &'f mut Vec<Fault>) -> Self {
        Self {
            frames: Vec::new(),
            root: None,
            anchors: HashMap::new(),
            next_id: 0,
            aliased: 0,
            documents: 0,
            faults,
        }
    }

    fn finish(self) -> Node {
        let nothing = || Node {
            id: self.next_id,
            at: Mark { line: 1, column: 1 },
            value: Value::Null { written: false },
        };
        self.root.unwrap_or_else(nothing)
    }

    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Fault> {
        let at = mark(span.start);
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    let hint = "a configuration is one document; remove the line `---`";
                    return Err(Fault::at(at, "", "a second YAML document", hint));
                }
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_tag(tag.as_ref(), at);
                // The parser writes `~` where nothing stands.
                let is_written = span.start.index() < span.end.index();
                let text = if is_written { text.into_owned() } else { String::new() };
                self.scalar(text, style, anchor, at)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.refuse_tag(tag.as_ref(), at);
                self.open(Content::List(Vec::new()), anchor, at)
            }
            Event::MappingStart(_, anchor, tag) => {
                self.refuse_tag(tag.as_ref(), at);
                self.open(Content::Map { entries: Vec::new(), key: None }, anchor, at)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(anchor) => self.alias(anchor, at),
            Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentEnd
            | Event::Anchor(..)
            | Event::UnresolvedAlias(_)
            | Event::Comment(..)
            | _ => Ok(()),
        }
    }

    fn refuse_tag(&mut self, tag: Option<&Cow<'_, Tag>>, at: Mark) {
        if tag.is_some() {
            let hint = "remove the word that begins with `!`, or put the value in quotes";
            self.faults.push(Fault::at(
                at,
                self.path(),
                "a YAML tag, which has no meaning here",
                hint,
            ));
        }
    }

    /// The way to what is read now.
    fn path(&self) -> String {
        let steps = self.frames.iter().filter_map(|frame| match &frame.content {
            Content::List(items) => Some(Step::Index(items.len())),
            Content::Map { key, .. } => key.as_ref().map(|(key, _)| Step::Key(key)),
        });
        spell(&steps.collect::<Vec<_>>())
    }

    fn id(&mut self) -> u32 {
        self.next_id = self.next_id.wrapping_add(1);
        self.next_id
    }

    fn scalar(
        &mut self,
        text: String,
        style: ScalarStyle,
        anchor: usize,
        at: Mark,
    ) -> Result<(), Fault> {
        if let Some(Frame { content: Content::Map { key: key @ None, .. }, .. }) =
            self.frames.last_mut()
        {
            *key = Some((text, at));
            return Ok(());
        }
        let plain = style == ScalarStyle::Plain;
        let value = match text.as_str() {
            "" if plain => Value::Null { written: false },
            "~" | "null" | "Null" | "NULL" if plain => Value::Null { written: true },
            _ => Value::Text { text, typed: plain },
        };
        let node = Node { id: self.id(), at, value };
        self.place(node, anchor)
    }

    fn open(&mut self, content: Content, anchor: usize, at: Mark) -> Result<(), Fault> {
        if let Some(Frame { content: Content::Map { key: None, .. }, .. }) = self.frames.last() {
            let hint = "write `key: value`; a value that begins with { or [ needs quotes";
            return Err(Fault::at(at, self.path(), "a list or mapping where a key belongs", hint));
        }
        self.check_depth(1, at)?;
        let id = self.id();
        self.frames.push(Frame { id, at, anchor, content });
        Ok(())
    }

    fn check_depth(&self, levels: usize, at: Mark) -> Result<(), Fault> {
        if self.frames.len() + levels <= DEEPEST {
            return Ok(());
        }
        let problem = format!("nested more than {DEEPEST} levels deep");
        Err(Fault::at(at, "", problem, "no setting is nested that deep"))
    }

    fn close(&mut self) -> Result<(), Fault> {
        let Some(frame) = self.frames.pop() else { return Ok(()) };
        let value = match frame.content {
            Content::List(items) => Value::List(items),
            Content::Map { mut entries, .. } => {
                self.refuse_twins(&mut entries);
                Value::Map(entries)
            }
        };
        self.place(Node { id: frame.id, at: frame.at, value }, frame.anchor)
    }

    /// Reports keys that stand twice and keeps the first of each; merge keys go the same way.
    fn refuse_twins(&mut self, entries: &mut Vec<Entry>) {
        let mut sorted: Vec<&Entry> = entries.iter().collect();
        sorted.sort_by_key(|entry| &entry.key);
        let mut gone = BTreeSet::new();
        let mut found = Vec::new();
        for pair in sorted.windows(2) {
            let [first, second] = pair else { continue };
            if first.key == second.key {
                let problem = format!("the key `{}` stands twice", shorten(&second.key));
                let hint = format!("it stands in line {} already; keep one", first.key_at.line);
                found.push((second.key_at, problem, hint));
                gone.insert((second.key_at.line, second.key_at.column));
            }
        }
        if let Some(merge) = sorted.iter().find(|entry| entry.key == "<<") {
            let hint = "write the settings out, or share one of them with *name";
            found.push((merge.key_at, "merge keys are not supported".into(), hint.into()));
            gone.insert((merge.key_at.line, merge.key_at.column));
        }
        if gone.is_empty() {
            return;
        }
        entries.retain(|entry| !gone.contains(&(entry.key_at.line, entry.key_at.column)));
        let path = self.path();
        self.faults.extend(
            found.into_iter().map(|(at, problem, hint)| Fault::at(at, path.clone(), problem, hint)),
        );
    }

    fn alias(&mut self, anchor: usize, at: Mark) -> Result<(), Fault> {
        if let Some(Frame { content: Content::Map { key: None, .. }, .. }) = self.frames.last() {
            let hint = "a key that begins with * needs quotes: \"*\"";
            return Err(Fault::at(at, self.path(), "an alias where a key belongs", hint));
        }
        let Some(node) = self.anchors.get(&anchor) else {
            let hint = "share a whole value that stands before; it cannot hold itself";
            return Err(Fault::at(at, self.path(), "an alias of what is no finished value", hint));
        };
        let (size, height) = node.measure();
        self.check_depth(height.saturating_sub(1), at)?;
        self.aliased = self.aliased.saturating_add(size);
        if self.aliased > MOST_ALIASED {
            let problem = format!("aliases add more than {MOST_ALIASED} values");
            return Err(Fault::at(at, self.path(), problem, "write the values out"));
        }
        let copy = node.clone();
        self.place(copy, 0)
    }

    /// Puts a finished value where it belongs.
    fn place(&mut self, node: Node, anchor: usize) -> Result<(), Fault> {
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.frames.last_mut().map(|frame| &mut frame.content) {
            None => self.root = Some(node),
            Some(Content::List(items)) => items.push(node),
            Some(Content::Map { entries, key }) => {
                if let Some((key, key_at)) = key.take() {
                    entries.push(Entry { key, key_at, node });
                } else {
                    let hint = "write `key: value`; a value that begins with { or [ needs quotes";
                    return Err(Fault::at(node.at, self.path(), "a value without a key", hint));
                }
            }
        }
        Ok(())
    }
}
