//! Which members of a request mean something here, and what is wrong with them.

use super::faults::{refusal, repeated, surplus};
use super::folded::folded;
use super::members::{Member, Members};
use super::required::{Given, Required};
use super::scan::{Broken, Scan, Value};
use super::{Dialect, OPTIONAL, Optional, Refused, RequestFacts, ResponseFormat};
use crate::error::Rejection;
use crate::protocol::edit::MemberSpan;
use crate::protocol::prompt::Beside;
use std::borrow::Cow;

/// Reads one body. Faults of meaning are kept until the whole body has proved to be JSON.
pub(super) struct Reader<'a> {
    pub(super) scan: Scan<'a>,
    pub(super) dialect: Dialect,
    pub(super) facts: RequestFacts,
    pub(super) required: Required,
    prompts: u64,
    pub(super) fault: Option<Rejection>,
}

/// A step over a part of the body, which may prove not to be JSON.
pub(super) type Step<T = ()> = Result<T, Broken>;

impl<'a> Reader<'a> {
    /// At the opening brace.
    pub(super) fn new(scan: Scan<'a>, dialect: Dialect) -> Self {
        let facts = RequestFacts {
            model: String::new(),
            model_span: 0..0,
            stream: false,
            stream_options_span: None,
            include_usage_span: None,
            include_usage: false,
            max_output_tokens: None,
            choices: 1,
            answers: 1,
            user: None,
            session_id: None,
            metadata_session_id: None,
            response_format: None,
            other_models: Vec::new(),
            preset: None,
            optional: Vec::new(),
            is_continued: false,
            beside: Beside::default(),
            object_start: 0,
        };
        Self { scan, dialect, facts, required: Required::default(), prompts: 1, fault: None }
    }

    /// Reads it, and adds to `noted` where its members stand.
    pub(super) fn read(
        mut self,
        noted: Option<&mut Vec<MemberSpan>>,
    ) -> Result<RequestFacts, Refused> {
        match self.whole_body(noted) {
            Ok(()) => Ok(self.facts),
            Err(rejection) => Err(Refused { rejection, facts: Some(Box::new(self.facts)) }),
        }
    }

    fn whole_body(&mut self, mut noted: Option<&mut Vec<MemberSpan>>) -> Result<(), Rejection> {
        self.facts.object_start = self.scan.at + 1;
        let mut members = self.scan.enter_object(0)?;
        while let Some(member) = self.next(&mut members, None)? {
            self.member(&member)?;
            // A body with a fault is refused, and may have any number of members.
            if let Some(noted) = noted.as_mut().filter(|_| self.fault.is_none()) {
                noted.push(self.scan.place(&member));
            }
        }
        if self.scan.peek().is_some() {
            self.scan.broken("something follows the object")?;
        }
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        if self.facts.model.is_empty() {
            return Err(refusal("model", "`model` is missing: name the model to use."));
        }
        self.facts.beside = self.scan.beside;
        self.facts.choices = self.facts.choices.saturating_mul(self.prompts);
        self.facts.answers = self.facts.answers.saturating_mul(self.prompts);
        match self.required.missing(self.dialect) {
            Some(missing) => Err(missing),
            None => Ok(()),
        }
    }

    /// The next member of an object that is read; `parent` names it below the top.
    pub(super) fn next(
        &mut self,
        members: &mut Members<'a>,
        parent: Option<&'static str>,
    ) -> Step<Option<Member<'a>>> {
        let member = self.scan.next_member(members)?;
        if let Some(member) = &member {
            if member.is_repeated {
                self.keep(repeated(&member.name, parent, self.scan.at));
            }
            if member.is_surplus {
                self.keep(surplus());
            }
            // Elsewhere a name is the caller's own, or read in any letters.
            let decides = matches!(parent, None | Some("stream_options" | "models" | "fallbacks"));
            if let Some(name) = folded(&member.name).filter(|_| decides) {
                self.refuse(
                    name,
                    format!("A field is `{name}` in other letters. Write it as it is."),
                );
            }
        }
        Ok(member)
    }

    fn member(&mut self, member: &Member<'a>) -> Step {
        match &*member.name {
            "model" => self.model()?,
            "messages" => self.required.messages = self.given()?,
            "prompt" => self.prompt()?,
            "input" => self.input()?,
            "previous_response_id" => {
                self.required.previous_response_id = self.given()?;
                self.continued(self.required.previous_response_id);
            }
            "conversation" => {
                let conversation = self.given()?;
                self.continued(conversation);
            }
            "stream" => self.facts.stream = self.flag("stream", 1)?.unwrap_or(false),
            "stream_options" => self.stream_options()?,
            "max_tokens" => self.max_tokens("max_tokens")?,
            "max_completion_tokens" => self.max_tokens("max_completion_tokens")?,
            "max_output_tokens" => self.max_tokens("max_output_tokens")?,
            "n" => self.choices("n")?,
            "best_of" => self.choices("best_of")?,
            "user" => self.facts.user = self.id("user", 1)?,
            "session_id" => self.facts.session_id = self.id("session_id", 1)?,
            "metadata" => self.metadata()?,
            "response_format" => {
                let format = self.format(member, "response_format", 1)?;
                // `text.format` goes first where both are there.
                self.facts.response_format = self.facts.response_format.take().or(format);
            }
            "text" if self.dialect == Dialect::Responses => self.text()?,
            "models" => self.models("models")?,
            "fallbacks" => self.models("fallbacks")?,
            "preset" => self.facts.preset = self.preset()?,
            "tools" => self.entries("tools")?,
            "plugins" => self.entries("plugins")?,
            _ => self.skip(1)?,
        }
        if self.fault.is_none()
            && let Some(name) = OPTIONAL.iter().find(|name| **name == member.name)
        {
            let place = self.scan.place(member);
            self.facts.optional.push(Optional { name, place });
        }
        Ok(())
    }

    /// One prompt, or a list of them: of texts, or of lists of tokens. A list of numbers is one.
    fn prompt(&mut self) -> Step {
        if self.dialect == Dialect::Completions && self.scan.peek() == Some(b'[') {
            let mut items = self.scan.enter_array(1)?;
            let mut prompts: u64 = 0;
            while self.scan.next_item(&mut items)? {
                prompts += u64::from(matches!(self.scan.peek(), Some(b'"' | b'[' | b'{')));
                self.skip(2)?;
            }
            self.prompts = prompts.max(1);
            self.required.prompt = Given::Array;
            return Ok(());
        }
        self.required.prompt = self.given()?;
        self.continued(self.required.prompt);
        Ok(())
    }

    fn continued(&mut self, given: Given) {
        self.facts.is_continued |= self.dialect == Dialect::Responses && given != Given::Nothing;
    }

    fn model(&mut self) -> Step {
        match self.scan.value(1)? {
            Value::Text(token) => {
                self.facts.model_span = token.span();
                self.facts.model = self.name(token, "model")?.unwrap_or_default();
            }
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::Array { .. }
            | Value::Object => self.refuse("model", "`model` must be a string."),
        }
        Ok(())
    }

    fn stream_options(&mut self) -> Step {
        let first = self.scan.peek();
        let start = self.scan.at;
        if first == Some(b'{') {
            let mut members = self.scan.enter_object(1)?;
            while let Some(member) = self.next(&mut members, Some("stream_options"))? {
                if member.name != "include_usage" {
                    self.skip(2)?;
                    continue;
                }
                self.scan.peek();
                let start = self.scan.at;
                let asked = self.flag("stream_options.include_usage", 2)?;
                self.facts.include_usage = asked.unwrap_or(false);
                self.facts.include_usage_span = Some(start..self.scan.at);
            }
        } else if !matches!(self.scan.value(1)?, Value::Null) {
            self.refuse("stream_options", "`stream_options` must be an object.");
        }
        self.facts.stream_options_span = Some(start..self.scan.at);
        Ok(())
    }

    /// Only the dialect's own field bounds the output: another would be ignored upstream, and a
    /// caller could shrink what is reserved for it.
    fn max_tokens(&mut self, field: &'static str) -> Step {
        let value = self.whole(field)?;
        let is_own = match self.dialect {
            Dialect::Chat => field != "max_output_tokens",
            Dialect::Completions | Dialect::Messages => field == "max_tokens",
            Dialect::Responses => field == "max_output_tokens",
            Dialect::Embeddings => false,
        };
        if is_own {
            self.facts.max_output_tokens = self.facts.max_output_tokens.max(value);
        }
        Ok(())
    }

    fn choices(&mut self, field: &'static str) -> Step {
        let value = self.whole(field)?;
        let is_own = match self.dialect {
            Dialect::Chat => field == "n",
            Dialect::Completions => true,
            Dialect::Responses | Dialect::Messages | Dialect::Embeddings => false,
        };
        if is_own {
            self.facts.choices = self.facts.choices.max(value.unwrap_or(1));
            if field == "n" {
                self.facts.answers = value.unwrap_or(1).max(1);
            }
        }
        Ok(())
    }

    fn metadata(&mut self) -> Step {
        if self.scan.peek() != Some(b'{') {
            return self.skip(1);
        }
        let mut members = self.scan.enter_object(1)?;
        while let Some(member) = self.next(&mut members, Some("metadata"))? {
            if member.name == "session_id" {
                self.facts.metadata_session_id = self.id("metadata.session_id", 2)?;
            } else {
                self.skip(2)?;
            }
        }
        Ok(())
    }

    fn text(&mut self) -> Step {
        if self.scan.peek() != Some(b'{') {
            return self.skip(1);
        }
        let mut members = self.scan.enter_object(1)?;
        while let Some(member) = self.next(&mut members, Some("text"))? {
            if member.name != "format" {
                self.skip(2)?;
                continue;
            }
            let format = self.format(&member, "text.format", 2)?;
            self.facts.response_format = format.or(self.facts.response_format.take());
        }
        Ok(())
    }

    fn format(
        &mut self,
        member: &Member<'a>,
        field: &'static str,
        depth: usize,
    ) -> Step<Option<ResponseFormat>> {
        let mut kind = None;
        if self.scan.peek() == Some(b'{') {
            let mut members = self.scan.enter_object(depth)?;
            while let Some(member) = self.next(&mut members, Some(field))? {
                let value = self.scan.value(depth + 1)?;
                if let (Value::Text(token), "type") = (value, &*member.name) {
                    kind = self.short(token, field)?;
                }
            }
        } else if matches!(self.scan.value(depth)?, Value::Null) {
            return Ok(None);
        }
        Ok(Some(ResponseFormat { kind, place: self.scan.place(member) }))
    }

    fn preset(&mut self) -> Step<Option<String>> {
        match self.scan.value(1)? {
            Value::Text(token) => self.name(token, "preset"),
            Value::Null => Ok(None),
            Value::Bool(_) | Value::Number(_) | Value::Array { .. } | Value::Object => {
                self.refuse("preset", "`preset` must be a string.");
                Ok(None)
            }
        }
    }

    pub(super) fn skip(&mut self, depth: usize) -> Step {
        self.scan.value(depth).map(|_| ())
    }

    /// Keeps a fault of one field, unless there was one before.
    pub(super) fn refuse(&mut self, field: &'static str, message: impl Into<Cow<'static, str>>) {
        self.keep(refusal(field, message));
    }

    pub(super) fn keep(&mut self, fault: Rejection) {
        self.fault.get_or_insert(fault);
    }
}
