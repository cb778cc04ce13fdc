//! Which replies are errors of the upstream, whatever status they came with.

use crate::protocol::lenient::{Count, Lenient, Word, cut, read, read_beginning, skip};
use serde::de::MapAccess;

/// Longest message of an upstream that is kept, in characters.
pub const MAX_MESSAGE: usize = 512;

/// What an upstream says went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamFault {
    /// The upstream's own words, cut to 512 characters. Callers see those of their own faults.
    pub message: Option<String>,
    /// Its `code`, else its `type` or `error_type`.
    pub code: Option<String>,
    /// The HTTP status it names.
    pub status: Option<u16>,
}

/// Finds the error in a body that came with status 200: OpenRouter commits that status early, with
/// white space, and says in the body what became of the call.
///
/// Known are `{"error":…}`, Gemini's array of it, `choices[0].error`, a failed response, and the
/// bare `{"message","type","code"}` of Cerebras and Mistral where there is no result beside it. The
/// beginning of a body will do.
#[must_use]
pub fn error_in_body(body: &[u8]) -> Option<UpstreamFault> {
    let mut reply = Reply::default();
    read_beginning(body, &mut reply);
    reply.fault()
}

/// The error that an event of a stream is, if it has no `error` around it and can be nothing else: it
/// has a message, and its name, its `object`, its type or its code says that this is an error's.
pub(super) fn bare_error(name: &[u8], data: &[u8]) -> Option<UpstreamFault> {
    let mut event = Reply::default();
    read_beginning(data, &mut event);
    let Reply { object, bare: error, .. } = event;
    let is_error = |word: &Option<String>| {
        word.as_deref().is_some_and(|word| word.contains("error") || word.contains("rate_limit"))
    };
    let words = [&object.0, &error.kind.0, &error.error_type.0, &error.code.text];
    let is_one = name == b"error"
        || words.into_iter().any(is_error)
        || error.code.number.and_then(http_status).is_some();
    error.message.0.is_some().then_some(error).filter(|_| is_one)?.fault()
}

/// The value of an `error` member, of any type.
#[derive(Debug, Default)]
pub(super) struct ErrorValue {
    is_there: bool,
    message: Message,
    code: Code,
    kind: Word,
    error_type: Word,
    status: Count,
}

impl ErrorValue {
    /// The fault, unless the member was absent, null, false or empty.
    pub(super) fn fault(self) -> Option<UpstreamFault> {
        if !self.is_there {
            return None;
        }
        let status = self.code.number.or(self.status.0);
        Some(UpstreamFault {
            message: self.message.0,
            code: self.code.text.or(self.kind.0).or(self.error_type.0),
            status: status.and_then(http_status),
        })
    }
}

/// An error's `message`; Mistral's is an object with the details of a validation.
#[derive(Debug, Default)]
struct Message(Option<String>);

/// An error's `code`, a word or a number.
#[derive(Debug, Default)]
struct Code {
    text: Option<String>,
    number: Option<u64>,
}

/// The outline of a whole reply.
#[derive(Debug, Default)]
struct Reply {
    error: ErrorValue,
    choices: Choices,
    /// The members of an error without its wrapper.
    bare: ErrorValue,
    object: Word,
    status: Word,
    has_result: bool,
}

#[derive(Debug, Default)]
struct Choices {
    error: ErrorValue,
    finish: Word,
}

impl Reply {
    fn fault(self) -> Option<UpstreamFault> {
        let is_bare = !self.has_result
            && self.bare.message.0.is_some()
            && (self.bare.code.text.is_some() || self.bare.kind.0.is_some());
        let failed = self.status.0.as_deref() == Some("failed")
            || self.choices.finish.0.as_deref() == Some("error");
        let named = self.error.fault().or_else(|| self.choices.error.fault());
        let bare = || if is_bare { self.bare.fault() } else { None };
        named.or_else(bare).or_else(|| failed.then(UpstreamFault::unnamed))
    }
}

impl UpstreamFault {
    /// An error that says nothing about itself.
    pub(super) fn unnamed() -> Self {
        Self { message: None, code: Some("error".to_owned()), status: None }
    }
}

/// A number that can be the status of a failure.
fn http_status(number: u64) -> Option<u16> {
    u16::try_from(number).ok().filter(|status| (400..600).contains(status))
}

impl Lenient for ErrorValue {
    const READS_LISTS: bool = true;

    fn text(&mut self, text: &str) {
        if !text.is_empty() {
            self.is_there = true;
            self.message.text(text);
        }
    }

    fn flag(&mut self, flag: bool) {
        self.is_there |= flag;
    }

    fn whole(&mut self, code: u64) {
        self.is_there = true;
        self.code.whole(code);
    }

    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        self.is_there = true;
        match name {
            "message" => read(map, &mut self.message),
            "code" => read(map, &mut self.code),
            "type" => read(map, &mut self.kind),
            "error_type" => read(map, &mut self.error_type),
            "http_status" => read(map, &mut self.status),
            // Google's `status` is a word.
            "status" => read(map, &mut StatusOrWord(self)),
            "metadata" => read(map, &mut Metadata(&mut self.error_type)),
            _ => skip(map),
        }
    }
}

struct StatusOrWord<'e>(&'e mut ErrorValue);

impl Lenient for StatusOrWord<'_> {
    fn text(&mut self, text: &str) {
        self.0.error_type.text(text);
    }

    fn whole(&mut self, status: u64) {
        self.0.status.whole(status);
    }
}

struct Metadata<'e>(&'e mut Word);

impl Lenient for Metadata<'_> {
    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        if name == "error_type" { read(map, self.0) } else { skip(map) }
    }
}

impl Lenient for Message {
    const READS_LISTS: bool = true;

    fn text(&mut self, text: &str) {
        if !text.is_empty() && self.0.is_none() {
            self.0 = Some(cut(text, MAX_MESSAGE).to_owned());
        }
    }

    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        if matches!(name, "detail" | "msg" | "message") { read(map, self) } else { skip(map) }
    }
}

impl Lenient for Code {
    fn text(&mut self, text: &str) {
        let mut word = Word::default();
        word.text(text);
        self.number = text.parse().ok();
        self.text = word.0;
    }

    fn whole(&mut self, code: u64) {
        self.text = Some(code.to_string());
        self.number = Some(code);
    }
}

impl Lenient for Choices {
    const READS_LISTS: bool = true;

    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "error" => read(map, &mut self.error),
            "finish_reason" => read(map, &mut self.finish),
            _ => skip(map),
        }
    }
}

impl Lenient for Reply {
    const READS_LISTS: bool = true;

    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "error" => read(map, &mut self.error),
            "choices" => {
                self.has_result = true;
                read(map, &mut self.choices)
            }
            "data" | "output" | "content" => {
                self.has_result = true;
                skip(map)
            }
            "object" => read(map, &mut self.object),
            "status" => read(map, &mut self.status),
            "message" | "code" | "type" | "error_type" => self.bare.member(name, map),
            _ => skip(map),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(body: &str) -> Option<UpstreamFault> {
        error_in_body(body.as_bytes())
    }

    #[expect(clippy::unnecessary_wraps, reason = "what is found is an option")]
    fn some(message: &str, code: &str, status: u16) -> Option<UpstreamFault> {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let status = (status > 0).then_some(status);
        Some(UpstreamFault { message: text(message), code: text(code), status })
    }

    fn golden(name: &str) -> String {
        let path = format!("{}/tests/golden/wire/{name}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        match text.split_once("\r\n\r\n") {
            Some((_, body)) => body.to_owned(),
            None => text,
        }
    }

    #[test]
    fn every_recorded_error_is_recognised() {
        let unsupported = "body.session_id: property 'body.session_id' is unsupported";
        let unknown =
            "Invalid JSON payload received. Unknown name \"session_id\": Cannot find field.";
        for (name, message, code, status) in [
            (
                "error_200_in_body.txt",
                "Upstream error from Acme: Service temporarily overloaded",
                "502",
                502,
            ),
            ("error_400_gemini_array.http", unknown, "400", 400),
            ("error_422_cerebras.http", unsupported, "wrong_api_format", 0),
            (
                "error_422_mistral.http",
                "Extra inputs are not permitted",
                "invalid_request_error",
                0,
            ),
            (
                "error_429_openai_quota.http",
                "You exceeded your current quota, please check your plan and billing details.",
                "insufficient_quota",
                0,
            ),
            (
                "error_429_openrouter_capacity.http",
                "All providers for acme/wisp-2-mini are at capacity. Retry after 40 seconds.",
                "rate_limit_exceeded",
                429,
            ),
            ("error_502_openrouter.http", "Provider returned error", "502", 502),
            ("error_529_anthropic.http", "Overloaded", "overloaded_error", 0),
        ] {
            assert_eq!(found(&golden(name)), some(message, code, status), "{name}");
        }
        let fault = error_in_body(golden("error_200_choice_error.json").as_bytes()).unwrap();
        assert!(fault.message.is_some() && fault.code.is_some(), "{fault:?}");
    }

    #[test]
    fn good_replies_are_not_errors() {
        for name in
            ["chat_response.json", "chat_response_body_padded.txt", "chat_response_byok.json"]
        {
            assert_eq!(found(&golden(name)), None, "{name}");
        }
        for body in [
            "",
            "<html>",
            r#"{"error":null,"choices":[]}"#,
            r#"{"error":null}"#,
            r#"{"error":{}}"#,
            r#"{"error":""}"#,
            r#"{"error":false}"#,
            r#"{"choices":[{"error":null,"finish_reason":"stop"}]}"#,
            r#"{"message":"hello","type":"greeting","choices":[]}"#,
            r#"{"object":"list","data":[],"message":"ok","code":"fine"}"#,
            r#"{"type":"message","content":[],"message":"x"}"#,
            r#"{"message":"only a message"}"#,
            r#"{"status":"completed","error":null,"output":[]}"#,
            "[]",
            "[1]",
        ] {
            assert_eq!(found(body), None, "{body}");
        }
    }

    #[test]
    fn other_shapes_are_errors_too() {
        assert_eq!(found(r#"{"error":"model not loaded"}"#), some("model not loaded", "", 0));
        assert_eq!(found(r#"{"error":{"code":"429"}}"#), some("", "429", 429));
        assert_eq!(found(r#"{"error":{"code":7}}"#), some("", "7", 0));
        assert_eq!(found(r#"{"status":"failed","output":[],"error":null}"#), some("", "error", 0));
        assert_eq!(found(r#"{"choices":[{"finish_reason":"error"}]}"#), some("", "error", 0));
        assert_eq!(found("  \n\t {\"error\":{\"message\":\"cut off he"), some("", "", 0));
    }

    #[test]
    fn a_message_is_cut_by_characters() {
        let body = format!(r#"{{"error":{{"message":"{}"}}}}"#, "é".repeat(600));
        let message = error_in_body(body.as_bytes()).unwrap().message.unwrap();
        assert_eq!(message.chars().count(), 512);
    }
}
