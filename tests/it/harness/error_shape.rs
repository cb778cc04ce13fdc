//! What every error of the gateway itself must look like.

use super::response::Response;

/// Fails the test unless this is the gateway's own error in OpenAI's shape.
#[track_caller]
pub(crate) fn assert_openai_error(response: &Response, status: u16, code: &str) {
    assert_eq!(response.status, status, "{:?} {}", response.headers, response.text());
    assert!(response.complete, "an error reply is whole: {response:?}");
    let content_type = response.header("content-type").unwrap_or_default();
    assert!(content_type.starts_with("application/json"), "{content_type:?}");
    assert!(!response.request_id().is_empty());
    let body = response.json();
    let error = &body["error"];
    assert_eq!(error["code"], code, "{body}");
    assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()), "{body}");
    assert!(error["type"].as_str().is_some_and(|text| !text.is_empty()), "{body}");
    assert!(error.get("param").is_some_and(|p| p.is_null() || p.is_string()), "{body}");
}

/// Fails the test unless this is the gateway's own error in Anthropic's shape.
#[track_caller]
pub(crate) fn assert_anthropic_error(response: &Response, status: u16, kind: &str) {
    assert_eq!(response.status, status, "{:?} {}", response.headers, response.text());
    let body = response.json();
    assert_eq!(body["type"], "error", "{body}");
    assert_eq!(body["error"]["type"], kind, "{body}");
    assert!(body["error"]["message"].as_str().is_some_and(|text| !text.is_empty()), "{body}");
}
