//! Which conversation a call belongs to: header, body, metadata, or a `response_format` that is none.

pub mod config;

use config::SessionConfig;
use http::HeaderName;
use regex::Regex;
use std::borrow::Cow;

/// Longest session id kept, in bytes: what OpenRouter and Langfuse take (WIRE section 1).
const MAX_LENGTH: usize = 256;

/// The rules, compiled.
#[derive(Debug)]
pub struct Sessions {
    /// The request header that names the session.
    pub header: HeaderName,
    pattern: Option<Regex>,
}

/// Where a call could name its session, best first.
#[derive(Debug, Default, Clone, Copy)]
pub struct Candidates<'a> {
    /// The configured header.
    pub header: Option<&'a str>,
    /// Body `session_id`.
    pub body: Option<&'a str>,
    /// Body `metadata.session_id`.
    pub metadata: Option<&'a str>,
    /// `response_format.type` (`text.format.type` on Responses).
    pub response_format: Option<&'a str>,
}

/// What was decided.
#[derive(Debug, PartialEq, Eq)]
pub struct Session {
    /// The session id, where the call names one.
    pub id: Option<String>,
    /// Whether `response_format` carries a session id and must not go upstream.
    pub strip_response_format: bool,
}

impl Sessions {
    /// Prepares the configured rules, which validation has found well-formed.
    pub fn new(config: &SessionConfig) -> Self {
        Self {
            header: HeaderName::try_from(&config.header)
                .unwrap_or(HeaderName::from_static("x-session-id")),
            pattern: Regex::new(&config.response_format_pattern).ok(),
        }
    }

    /// Picks the best candidate. A `response_format` that matches the pattern is stripped even
    /// where another candidate wins, because providers refuse it (WIRE section 7).
    pub fn decide(&self, from: Candidates<'_>) -> Session {
        let trick = from
            .response_format
            .filter(|kind| self.pattern.as_ref().is_some_and(|pattern| pattern.is_match(kind)));
        let id = [from.header, from.body, from.metadata, trick]
            .into_iter()
            .flatten()
            .map(|id| shortened(id.trim()))
            .find(|id| !id.is_empty())
            .map(Cow::into_owned);
        Session { id, strip_response_format: trick.is_some() }
    }
}

/// The id without control characters, cut at a character's border.
fn shortened(id: &str) -> Cow<'_, str> {
    let end = (0..=MAX_LENGTH.min(id.len())).rev().find(|end| id.is_char_boundary(*end));
    let cut = id.get(..end.unwrap_or_default()).unwrap_or_default();
    if cut.chars().any(char::is_control) {
        return Cow::Owned(cut.chars().filter(|c| !c.is_control()).collect());
    }
    Cow::Borrowed(cut)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decide(from: Candidates<'_>) -> Session {
        Sessions::new(&SessionConfig::default()).decide(from)
    }

    #[test]
    fn an_id_of_nothing_that_can_be_seen_is_none() {
        let from = Candidates { body: Some("\u{1}"), metadata: Some("m"), ..Candidates::default() };
        assert_eq!(decide(from).id.as_deref(), Some("m"));
    }

    #[test]
    fn the_header_wins_and_the_trick_is_stripped_all_the_same() {
        let session = decide(Candidates {
            header: Some("h"),
            body: Some("b"),
            metadata: Some("m"),
            response_format: Some("session_1"),
        });
        assert_eq!(session, Session { id: Some("h".into()), strip_response_format: true });
    }

    #[test]
    fn a_real_response_format_is_neither_a_session_nor_stripped() {
        for kind in ["json_object", "json_schema", "text", "jsn_object", "my_session_1"] {
            let session =
                decide(Candidates { response_format: Some(kind), ..Candidates::default() });
            assert_eq!(session, Session { id: None, strip_response_format: false }, "{kind}");
        }
    }

    #[test]
    fn a_long_id_is_cut_between_characters() {
        let long = "é".repeat(200);
        let id = decide(Candidates { body: Some(&long), ..Candidates::default() }).id.unwrap();
        assert_eq!(id.len(), 256);
        let id = decide(Candidates { body: Some("a\r\nb"), ..Candidates::default() }).id.unwrap();
        assert_eq!(id, "ab");
    }
}
