//! What a request body asks for, read in one pass that never builds a tree.

mod faults;
mod folded;
mod input;
mod members;
mod nested;
mod others;
mod reader;
mod required;
mod scan;
mod tools;
mod values;

pub use nested::within_messages;

use super::Dialect;
use super::edit::MemberSpan;
use super::prompt::Beside;
use crate::error::{Kind, Rejection};
use reader::Reader;
use scan::Scan;
use std::ops::Range;

/// The few fields of a request that decide anything here, and where in the body they stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestFacts {
    /// The model asked for, escapes decoded.
    pub model: String,
    /// Its JSON string token in the body, quotes included.
    pub model_span: Range<usize>,
    /// Whether a stream is wanted.
    pub stream: bool,
    /// The value of `stream_options`, an object or null.
    pub stream_options_span: Option<Range<usize>>,
    /// The value of `stream_options.include_usage`, where it is there.
    pub include_usage_span: Option<Range<usize>>,
    /// Whether `stream_options.include_usage` is true.
    pub include_usage: bool,
    /// The most output tokens of one choice, in the dialect's own fields; the larger of two.
    pub max_output_tokens: Option<u64>,
    /// How many answers are generated and paid for: the larger of `n` and `best_of`, else 1; for each
    /// prompt of a list.
    pub choices: u64,
    /// How many of them come: `n`, else 1; for each prompt of a list.
    pub answers: u64,
    /// The end user, as the body's `user` names it.
    pub user: Option<String>,
    /// The conversation, as the body's `session_id` names it.
    pub session_id: Option<String>,
    /// The conversation, as `metadata.session_id` names it.
    pub metadata_session_id: Option<String>,
    /// `response_format`, or on `/responses` first of all `text.format`.
    pub response_format: Option<ResponseFormat>,
    /// Every model the body names besides `model`, patterns included: in `models`, in `fallbacks`,
    /// and at any depth of `tools` and `plugins` (their `model`, `models`, `…_model`, `…_models`,
    /// `fallbacks` and `preset`), the caller's own functions aside. And each tool there that runs a
    /// model and leaves the choice to the provider.
    pub other_models: Vec<OtherModel>,
    /// The `preset` that may choose a model at the upstream.
    pub preset: Option<String>,
    /// The [`OPTIONAL`] members it has, in the order of the body.
    pub optional: Vec<Optional>,
    /// Whether a part of the prompt is kept at the upstream: on `/responses` what went before, or a
    /// prompt that is stored there.
    pub is_continued: bool,
    /// What it has beside text.
    pub beside: Beside,
    /// Just after the opening brace: where a member may be inserted.
    pub object_start: usize,
}

/// What OpenRouter takes behind a model's name, or instead of one: a preset of this name.
const PRESET: &str = "@preset/";

impl RequestFacts {
    /// Whether the upstream may choose among more than one.
    pub fn names_several(&self) -> bool {
        !self.other_models.is_empty() || self.preset.is_some() || self.model.contains('@')
    }

    /// Every model and preset that the body names; a preset behind a model's name apart from it.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.named().map(|named| named.text)
    }

    /// The same, and what each of them is.
    pub fn named(&self) -> impl Iterator<Item = Named<'_>> {
        let preset = |text| Named { text, role: Role::Preset };
        let others = self.other_models.iter();
        let others = others.map(|other| (other.name.as_str(), other.role));
        let all = std::iter::once((self.model.as_str(), Role::Answers)).chain(others);
        let all = all.chain(self.preset.as_deref().map(|preset| (preset, Role::Preset)));
        all.flat_map(move |(name, role)| {
            let at = name.contains('@').then(|| name.to_ascii_lowercase().find(PRESET)).flatten();
            let (before, behind) = at.map_or((name, None), |at| {
                (name.get(..at).unwrap_or_default(), name.get(at + PRESET.len()..))
            });
            let is_alone = before.is_empty() && behind.is_some();
            (!is_alone)
                .then_some(Named { text: before, role })
                .into_iter()
                .chain(behind.map(preset))
        })
    }
}

/// One of the names in a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Named<'b> {
    /// Without what marks a preset.
    pub text: &'b str,
    /// What it is.
    pub role: Role,
}

/// What a name in a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A model that may answer.
    Answers,
    /// A model that a tool runs, which is billed beside the answer.
    Helps,
    /// A tool that runs a model of the provider's choice, by its own name.
    Tool,
    /// A preset.
    Preset,
}

/// A model that the body names besides `model`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherModel {
    /// Its name, escapes decoded.
    pub name: String,
    /// Its JSON string token in the body, quotes included.
    pub place: Range<usize>,
    /// What it is.
    pub role: Role,
}

/// The format asked for, which may be a session id in disguise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseFormat {
    /// Its `type`.
    pub kind: Option<String>,
    /// The member that holds it.
    pub place: MemberSpan,
}

/// Members of the top level that some provider refuses and another one knows: those of OpenRouter
/// alone, and what strict providers do not take of OpenAI's (WIRE section 4). In the order of the
/// alphabet.
pub const OPTIONAL: [&str; 20] = [
    "cache_control",
    "debug",
    "fallbacks",
    "frequency_penalty",
    "image_config",
    "max_completion_tokens",
    "max_tokens",
    "metadata",
    "models",
    "plugins",
    "preset",
    "provider",
    "reasoning",
    "route",
    "session_id",
    "stop_server_tools_when",
    "store",
    "trace",
    "transforms",
    "usage",
];

/// One of the [`OPTIONAL`] members, found in a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Optional {
    /// Its name.
    pub name: &'static str,
    /// Where it stands.
    pub place: MemberSpan,
}

/// A body that is refused.
#[derive(Debug)]
pub struct Refused {
    /// Why.
    pub rejection: Rejection,
    /// What it said before that, for log and trace alone: it may be half of it, or one of two.
    pub facts: Option<Box<RequestFacts>>,
}

impl From<Rejection> for Refused {
    fn from(rejection: Rejection) -> Self {
        Self { rejection, facts: None }
    }
}

/// Reads a request body.
///
/// # Errors
///
/// `invalid_json` where it is not one JSON object in UTF-8, at most 128 levels deep; `duplicate_key`
/// where a name stands twice at the top or in an object that is read here; `invalid_request`, naming
/// the field, where the dialect's required fields are missing or one of these facts is malformed.
/// Messages give byte offsets and never repeat what the body says.
pub fn read(body: &[u8], dialect: Dialect) -> Result<RequestFacts, Rejection> {
    read_noting(body, dialect, None).map_err(|refused| refused.rejection)
}

/// The same, and where its members stand, in their order, for who reads the body again.
///
/// # Errors
///
/// Those of [`read`]; then not all members are noted.
pub fn read_noting(
    body: &[u8],
    dialect: Dialect,
    members: Option<&mut Vec<MemberSpan>>,
) -> Result<RequestFacts, Refused> {
    let text = utf8(body)?;
    let mut scan = Scan::new(text);
    let found = match scan.peek() {
        Some(b'{') => return Reader::new(scan, dialect).read(members),
        None => "empty",
        Some(b'[') => "a JSON array",
        Some(b'"') => "a JSON string",
        Some(b'-' | b'0'..=b'9') => "a number",
        Some(_) => "not JSON",
    };
    Err(invalid(format!("The body is {found}. Send one JSON object.")).into())
}

fn utf8(body: &[u8]) -> Result<&str, Rejection> {
    if body.starts_with(b"\xef\xbb\xbf") {
        return Err(invalid("The body begins with a byte order mark. Send UTF-8 without one."));
    }
    std::str::from_utf8(body).map_err(|fault| {
        let at = fault.valid_up_to();
        invalid(format!("The body is not valid UTF-8 at byte {at}. Send one JSON object in UTF-8."))
    })
}

fn invalid(message: impl Into<std::borrow::Cow<'static, str>>) -> Rejection {
    Rejection::new(Kind::InvalidJson, message)
}

#[cfg(test)]
mod deciding;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tooled;
