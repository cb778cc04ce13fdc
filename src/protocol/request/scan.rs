//! What is JSON: the grammar of RFC 8259 as a cursor that never recurses, copies or builds a tree.

use crate::error::{Kind, Rejection};
use crate::protocol::prompt::Beside;
use memchr::memchr2;
use std::borrow::Cow;
use std::ops::Range;

/// Most containers open at once. `serde_json` and most servers stop at about this depth as well.
pub(super) const MAX_DEPTH: usize = 128;

/// A number of at most this many digits without an exponent is finite as an `f64` (below 1e308).
const SURELY_FINITE_DIGITS: usize = 300;

/// Where a body stops being JSON, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Broken {
    pub(super) at: usize,
    pub(super) problem: &'static str,
}

/// A cursor over a body of valid UTF-8.
pub(super) struct Scan<'a> {
    text: &'a str,
    pub(super) at: usize,
    /// What the names of members say so far.
    pub(super) beside: Beside,
}

/// One value that has been passed over.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'a> {
    Null,
    Bool(bool),
    Number(&'a str),
    Text(Token<'a>),
    Array { is_empty: bool },
    Object,
}

/// A string as it stands in the body.
#[derive(Debug, Clone, Copy)]
pub(super) struct Token<'a> {
    /// With its quotes.
    raw: &'a str,
    start: usize,
    is_escaped: bool,
}

/// The containers open within the value being passed over.
struct Nest {
    /// One bit each, the innermost lowest: 1 is an object.
    kinds: u128,
    open: usize,
    limit: usize,
}

impl From<Broken> for Rejection {
    fn from(broken: Broken) -> Self {
        let Broken { at, problem } = broken;
        Self::new(
            Kind::InvalidJson,
            format!("The body is not valid JSON: {problem} at byte {at}. Send one JSON object."),
        )
    }
}

impl<'a> Token<'a> {
    /// The bytes it takes in the body, quotes included.
    pub(super) fn span(&self) -> Range<usize> {
        self.start..self.start + self.raw.len()
    }

    /// Whether it is `""`.
    pub(super) fn is_empty(&self) -> bool {
        self.raw.len() == 2
    }

    /// What stands between the quotes.
    fn inner(&self) -> &'a str {
        self.raw.get(1..self.raw.len() - 1).unwrap_or_default()
    }

    /// The text, its escapes decoded. An escape of half a surrogate pair is refused: readers
    /// disagree about what it means.
    pub(super) fn text(&self) -> Result<Cow<'a, str>, Broken> {
        if !self.is_escaped {
            return Ok(Cow::Borrowed(self.inner()));
        }
        let half = Broken { at: self.start, problem: "half a surrogate pair in the string" };
        serde_json::from_str(self.raw).map(Cow::Owned).map_err(|_| half)
    }
}

impl<'a> Scan<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0, beside: Beside::default() }
    }

    /// The next byte that is not white space, which is not consumed.
    pub(super) fn peek(&mut self) -> Option<u8> {
        while let Some(byte) = self.byte() {
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(byte);
            }
            self.at += 1;
        }
        None
    }

    /// Passes over one value that stands inside `depth` containers.
    pub(super) fn value(&mut self, depth: usize) -> Result<Value<'a>, Broken> {
        match self.peek() {
            Some(open @ (b'{' | b'[')) => {
                let content = self.pass_container(depth)?;
                Ok(if open == b'{' { Value::Object } else { Value::Array { is_empty: !content } })
            }
            Some(b'"') => self.string().map(Value::Text),
            _ => self.scalar(),
        }
    }

    /// The string that begins here.
    pub(super) fn string(&mut self) -> Result<Token<'a>, Broken> {
        let start = self.at;
        let mut is_escaped = false;
        self.at += 1;
        loop {
            let rest = self.rest();
            let end = memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
            let run = rest.get(..end).unwrap_or_default();
            // Not `any`: without an early end this loop is done in vectors.
            if run.iter().fold(0, |found, byte| found | u8::from(*byte < b' ')) != 0 {
                self.at += run.iter().take_while(|byte| **byte >= b' ').count();
                return self.broken("a raw control character in a string");
            }
            self.at += end;
            match rest.get(end) {
                Some(b'"') => break,
                Some(_) => self.escape()?,
                None => return self.broken("a string without its closing quote"),
            }
            is_escaped = true;
        }
        self.at += 1;
        Ok(Token { raw: self.slice(start), start, is_escaped })
    }

    pub(super) fn broken<T>(&self, problem: &'static str) -> Result<T, Broken> {
        Err(Broken { at: self.at, problem })
    }

    /// What is wrong where none of the `expected` stands.
    pub(super) fn unexpected<T>(&self, expected: &'static str) -> Result<T, Broken> {
        if self.at >= self.text.len() {
            self.broken("it ends early")
        } else {
            self.broken(expected)
        }
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn rest(&self) -> &'a [u8] {
        self.text.as_bytes().get(self.at..).unwrap_or_default()
    }

    /// The text from `start` to the cursor.
    fn slice(&self, start: usize) -> &'a str {
        self.text.get(start..self.at).unwrap_or_default()
    }

    /// Passes over an array or object; whether it holds anything.
    fn pass_container(&mut self, depth: usize) -> Result<bool, Broken> {
        let mut nest = Nest { kinds: 0, open: 0, limit: MAX_DEPTH.saturating_sub(depth) };
        let mut is_leaf = !self.open(&mut nest)?;
        let content = !is_leaf;
        while nest.open > 0 {
            if !is_leaf {
                is_leaf = match self.peek() {
                    Some(b'{' | b'[') => !self.open(&mut nest)?,
                    Some(b'"') => self.string().map(|_| true)?,
                    _ => self.scalar().map(|_| true)?,
                };
                continue;
            }
            is_leaf = self.after_value(&mut nest)?;
        }
        Ok(content)
    }

    /// Enters a container; false where it is empty and so has been left again.
    fn open(&mut self, nest: &mut Nest) -> Result<bool, Broken> {
        let is_object = self.byte() == Some(b'{');
        if nest.open >= nest.limit {
            return self.broken("more than 128 levels of nesting");
        }
        self.at += 1;
        if self.peek() == Some(if is_object { b'}' } else { b']' }) {
            self.at += 1;
            return Ok(false);
        }
        nest.kinds = nest.kinds << 1 | u128::from(is_object);
        nest.open += 1;
        if is_object {
            self.key()?;
        }
        Ok(true)
    }

    /// Reads on behind a value: true where a container ended with it, false where another follows.
    fn after_value(&mut self, nest: &mut Nest) -> Result<bool, Broken> {
        let is_object = nest.kinds & 1 == 1;
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                if is_object {
                    self.key()?;
                }
                Ok(false)
            }
            Some(byte) if byte == if is_object { b'}' } else { b']' } => {
                self.at += 1;
                nest.kinds >>= 1;
                nest.open -= 1;
                Ok(true)
            }
            _ if is_object => self.unexpected("a comma or a closing brace is missing"),
            _ => self.unexpected("a comma or a closing bracket is missing"),
        }
    }

    /// Reads a member's name and its colon.
    pub(super) fn key(&mut self) -> Result<Token<'a>, Broken> {
        if self.peek() != Some(b'"') {
            return self.unexpected("a member's name in quotes is missing");
        }
        let key = self.string()?;
        if self.peek() != Some(b':') {
            return self.unexpected("a colon is missing");
        }
        self.at += 1;
        // An upstream reads the name with its escapes decoded.
        let name = key.text().unwrap_or_else(|_| Cow::Borrowed(key.inner()));
        self.beside.note(name.as_bytes());
        Ok(key)
    }

    /// Reads a number or a word.
    fn scalar(&mut self) -> Result<Value<'a>, Broken> {
        let (word, value) = match self.byte() {
            Some(b'-' | b'0'..=b'9') => return self.number().map(Value::Number),
            Some(b't') => ("true", Value::Bool(true)),
            Some(b'f') => ("false", Value::Bool(false)),
            Some(b'n') => ("null", Value::Null),
            _ => return self.unexpected("a value is missing"),
        };
        if !self.rest().starts_with(word.as_bytes()) {
            return self.broken("an unknown word");
        }
        self.at += word.len();
        Ok(value)
    }

    fn number(&mut self) -> Result<&'a str, Broken> {
        let start = self.at;
        self.skip_if(b"-");
        match self.byte() {
            Some(b'0') => self.at += 1,
            _ => self.digits()?,
        }
        if self.skip_if(b".") {
            self.digits()?;
        }
        let has_exponent = self.skip_if(b"eE");
        if has_exponent {
            self.skip_if(b"+-");
            self.digits()?;
        }
        let number = self.slice(start);
        let may_overflow = has_exponent || number.len() > SURELY_FINITE_DIGITS;
        if may_overflow && !number.parse::<f64>().is_ok_and(f64::is_finite) {
            return self.broken("a number too large");
        }
        Ok(number)
    }

    fn digits(&mut self) -> Result<(), Broken> {
        let count = self.rest().iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += count;
        if count == 0 { self.unexpected("a digit is missing") } else { Ok(()) }
    }

    fn skip_if(&mut self, any: &[u8]) -> bool {
        let found = self.byte().is_some_and(|byte| any.contains(&byte));
        self.at += usize::from(found);
        found
    }

    /// Passes over an escape in a string.
    fn escape(&mut self) -> Result<(), Broken> {
        let length = match self.rest() {
            [_, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', ..] => 2,
            [_, b'u', a, b, c, d, ..] if [a, b, c, d].iter().all(|d| d.is_ascii_hexdigit()) => 6,
            _ => return self.broken("an unknown escape in a string"),
        };
        self.at += length;
        Ok(())
    }
}
