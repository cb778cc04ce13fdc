//! What an object holds, member by member, and which of its names stand twice.

use super::scan::{Broken, MAX_DEPTH, Scan};
use crate::protocol::edit::MemberSpan;
use std::borrow::Cow;
use std::ops::Range;

/// Most members of an object that is read: far above any real request, and it bounds both the
/// memory for their names and the search for a name that stands twice.
pub(super) const MAX_MEMBERS: usize = 1024;

/// A walk over the members of one object.
pub(super) struct Members<'a> {
    names: Vec<Cow<'a, str>>,
    is_strict: bool,
    comma: Option<usize>,
    is_fresh: bool,
}

/// A walk over the items of one array.
pub(super) struct Items {
    is_fresh: bool,
}

/// One member, its name read and its value not yet.
pub(super) struct Member<'a> {
    pub(super) name: Cow<'a, str>,
    /// Another member of this object had the same name; never set where the walk is not strict.
    pub(super) is_repeated: bool,
    /// It is one more than an object that is read may have.
    pub(super) is_surplus: bool,
    key: Range<usize>,
    comma: Option<usize>,
}

impl<'a> Scan<'a> {
    /// Enters the object that begins here, which stands inside `depth` containers.
    pub(super) fn enter_object(&mut self, depth: usize) -> Result<Members<'a>, Broken> {
        self.enter(depth)?;
        Ok(Members { names: Vec::with_capacity(16), is_strict: true, comma: None, is_fresh: true })
    }

    /// As [`Self::enter_object`], without looking for repeated names: for objects of which every
    /// member that matters is read, whichever of them an upstream may believe.
    pub(super) fn enter_loosely(&mut self, depth: usize) -> Result<Members<'a>, Broken> {
        self.enter(depth)?;
        Ok(Members { names: Vec::new(), is_strict: false, comma: None, is_fresh: true })
    }

    /// The next member, once the value of the one before has been consumed.
    pub(super) fn next_member(
        &mut self,
        members: &mut Members<'a>,
    ) -> Result<Option<Member<'a>>, Broken> {
        let is_first = std::mem::take(&mut members.is_fresh);
        match self.peek() {
            Some(b'}') => {
                self.at += 1;
                return Ok(None);
            }
            Some(b',') if !is_first => {
                members.comma = Some(self.at);
                self.at += 1;
            }
            _ if is_first => {}
            _ => return self.unexpected("a comma or a closing brace is missing"),
        }
        let key = self.key()?;
        let name = key.text()?;
        let is_repeated = members.names.contains(&name);
        let is_surplus = members.names.len() >= MAX_MEMBERS;
        if members.is_strict && !is_surplus {
            members.names.push(name.clone());
        }
        let (key, comma) = (key.span(), members.comma);
        Ok(Some(Member { name, is_repeated, is_surplus, key, comma }))
    }

    /// Where a member stands whose value has just been consumed.
    pub(super) fn place(&mut self, member: &Member<'_>) -> MemberSpan {
        let end = self.at;
        let comma_after = (self.peek() == Some(b',')).then_some(self.at);
        MemberSpan { key: member.key.clone(), end, comma_before: member.comma, comma_after }
    }

    /// Enters the array that begins here, which stands inside `depth` containers.
    pub(super) fn enter_array(&mut self, depth: usize) -> Result<Items, Broken> {
        self.enter(depth)?;
        Ok(Items { is_fresh: true })
    }

    /// Whether the array has another item, which is not consumed.
    pub(super) fn next_item(&mut self, items: &mut Items) -> Result<bool, Broken> {
        let is_first = std::mem::take(&mut items.is_fresh);
        match self.peek() {
            Some(b']') => {
                self.at += 1;
                Ok(false)
            }
            Some(_) if is_first => Ok(true),
            Some(b',') => {
                self.at += 1;
                if self.peek() == Some(b']') {
                    return self.broken("a value is missing");
                }
                Ok(true)
            }
            _ => self.unexpected("a comma or a closing bracket is missing"),
        }
    }

    fn enter(&mut self, depth: usize) -> Result<(), Broken> {
        self.peek();
        if depth >= MAX_DEPTH {
            return self.broken("more than 128 levels of nesting");
        }
        self.at += 1;
        Ok(())
    }
}
