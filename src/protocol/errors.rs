//! The shape of an error the gateway sends, as a body of its own or inside a running stream.

use super::Dialect;
use super::tap::error_in_body;
use crate::error::Rejection;
use bytes::Bytes;
use serde_json::{Value, json};

/// The body of an error answer: OpenAI's shape, on `/messages` Anthropic's with OpenAI's `code` and
/// `param` kept inside it. `None` is for paths that speak no dialect.
#[must_use]
pub fn body(dialect: Option<Dialect>, rejection: &Rejection) -> Bytes {
    Bytes::from(envelope(dialect, rejection).to_string())
}

/// The event that ends a broken stream, in the form that makes the dialect's own SDKs raise.
///
/// Without `at_boundary` it begins with an empty line, which closes the upstream's half event.
#[must_use]
pub fn in_band(dialect: Dialect, rejection: &Rejection, at_boundary: bool) -> Bytes {
    let close = if at_boundary { "" } else { "\n\n" };
    let name = match dialect {
        Dialect::Messages | Dialect::Responses => "event: error\n",
        Dialect::Chat | Dialect::Completions | Dialect::Embeddings => "",
    };
    let mut value = envelope(Some(dialect), rejection);
    if dialect == Dialect::Responses {
        value = response_event(&value, rejection);
    }
    Bytes::from(format!("{close}{name}data: {value}\n\n"))
}

/// An upstream's error of this status in the shape that the dialect's clients read, with the
/// upstream's own message; `None` where it has that shape already and passes as it is.
///
/// Gemini sends an array, Cerebras and Mistral no wrapper, an edge HTML (WIRE section 3): of those
/// the OpenAI SDKs lose message, type and code.
#[must_use]
pub fn reshaped(dialect: Dialect, status: u16, body: &[u8]) -> Option<Bytes> {
    let value: Option<Value> = serde_json::from_slice(body).ok();
    let error = value.as_ref().and_then(|value| value.get("error"));
    let is_readable = error.and_then(|error| error.get("message")).is_some_and(Value::is_string);
    let is_native = match dialect {
        Dialect::Messages => value.as_ref().is_some_and(|value| value["type"] == "error"),
        Dialect::Chat | Dialect::Completions | Dialect::Responses | Dialect::Embeddings => true,
    };
    if is_readable && is_native {
        return None;
    }
    let fault = error_in_body(body);
    let (message, code) = fault.map_or((None, None), |fault| (fault.message, fault.code));
    let message =
        message.unwrap_or_else(|| format!("the upstream refused the request (status {status})"));
    let (usual_code, anthropic_type) = match status {
        404 => ("not_found", "not_found_error"),
        413 => ("request_too_large", "request_too_large"),
        _ => ("invalid_request", "invalid_request_error"),
    };
    let code = code.unwrap_or_else(|| usual_code.to_owned());
    let param =
        value.as_ref().and_then(|value| value.get("param")).filter(|param| param.is_string());
    let shaped = match dialect {
        Dialect::Messages => json!({
            "type": "error",
            "error": { "type": anthropic_type, "message": message, "param": param, "code": code },
        }),
        Dialect::Chat | Dialect::Completions | Dialect::Responses | Dialect::Embeddings => json!({
            "error": {
                "message": message,
                "type": "invalid_request_error",
                "param": param,
                "code": code,
            },
        }),
    };
    Some(Bytes::from(shaped.to_string()))
}

fn envelope(dialect: Option<Dialect>, rejection: &Rejection) -> Value {
    let row = rejection.kind.row();
    match dialect {
        Some(Dialect::Messages) => json!({
            "type": "error",
            "error": {
                "type": row.anthropic_type,
                "message": rejection.message,
                "param": rejection.param,
                "code": row.code,
            },
        }),
        Some(Dialect::Chat | Dialect::Completions | Dialect::Responses | Dialect::Embeddings)
        | None => json!({
            "error": {
                "message": rejection.message,
                "type": row.openai_type,
                "param": rejection.param,
                "code": row.code,
            },
        }),
    }
}

/// OpenAI's `error` event of the Responses API, whose members stand at the top; the SDKs raise only
/// where `error` is there as well, so it carries both. The upstream's own count is not known here,
/// so `sequence_number`, which typed clients demand, is 0.
fn response_event(envelope: &Value, rejection: &Rejection) -> Value {
    json!({
        "type": "error",
        "code": rejection.kind.row().code,
        "message": rejection.message,
        "param": rejection.param,
        "sequence_number": 0,
        "error": envelope.get("error"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn rejection() -> Rejection {
        Rejection::new(Kind::UpstreamError, "Say \"again\".").param("model")
    }

    #[test]
    fn openai_clients_get_openais_shape() {
        let expected = concat!(
            r#"{"error":{"message":"Say \"again\".","type":"server_error","#,
            r#""param":"model","code":"upstream_error"}}"#
        );
        for dialect in [None, Some(Dialect::Chat), Some(Dialect::Responses)] {
            assert_eq!(body(dialect, &rejection()), expected);
        }
        let plain = body(None, &Rejection::new(Kind::NotFound, "No."));
        assert!(plain.ends_with(br#""param":null,"code":"not_found"}}"#), "{plain:?}");
    }

    #[test]
    fn anthropic_clients_get_anthropics_shape() {
        assert_eq!(
            body(Some(Dialect::Messages), &rejection()),
            concat!(
                r#"{"type":"error","error":{"type":"api_error","message":"Say \"again\".","#,
                r#""param":"model","code":"upstream_error"}}"#
            )
        );
    }

    #[test]
    fn errors_of_other_shapes_get_the_one_that_clients_read() {
        let golden = |name: &str| {
            let path = format!("{}/tests/golden/wire/{name}", env!("CARGO_MANIFEST_DIR"));
            let text = std::fs::read_to_string(path).unwrap();
            text.split_once("\r\n\r\n").unwrap().1.to_owned()
        };
        let read = |dialect, status, body: &str| {
            let shaped = reshaped(dialect, status, body.as_bytes())?;
            Some(serde_json::from_slice::<Value>(&shaped).unwrap())
        };
        let chat = |status, body: &str| read(Dialect::Chat, status, body);
        for name in ["error_400_openai_response_format.http", "error_413_openrouter.http"] {
            assert_eq!(chat(400, &golden(name)), None, "{name}");
        }
        let gemini = chat(400, &golden("error_400_gemini_array.http")).unwrap();
        assert!(gemini["error"]["message"].as_str().unwrap().contains("Unknown name"), "{gemini}");
        assert_eq!(gemini["error"]["code"], "400");
        let cerebras = chat(422, &golden("error_422_cerebras.http")).unwrap();
        assert_eq!(cerebras["error"]["code"], "wrong_api_format");
        let mistral = chat(422, &golden("error_422_mistral.http")).unwrap();
        assert_eq!(mistral["error"]["message"], "Extra inputs are not permitted");
        for body in ["<html><h1>413</h1></html>", "", "null", "[]", r#"{"error":"no"}"#] {
            let shaped = chat(413, body).unwrap();
            let said = shaped["error"]["message"].as_str().unwrap();
            assert!(!said.is_empty() && !said.contains('<'), "{shaped}");
            assert!(shaped["error"]["code"].is_string(), "{shaped}");
        }
        let openai = golden("error_413_openrouter.http");
        let shaped = read(Dialect::Messages, 413, &openai).unwrap();
        assert_eq!(shaped["type"], "error");
        assert_eq!(shaped["error"]["type"], "request_too_large");
        let native = r#"{"type":"error","error":{"type":"x","message":"y"}}"#;
        assert_eq!(read(Dialect::Messages, 400, native), None);
    }

    #[test]
    fn an_error_in_a_stream_is_one_event_of_the_dialect() {
        let chat = in_band(Dialect::Chat, &rejection(), true);
        assert!(chat.starts_with(b"data: {\"error\":{"), "{chat:?}");
        assert!(chat.ends_with(b"}}\n\n"));
        let messages = in_band(Dialect::Messages, &rejection(), true);
        assert!(messages.starts_with(b"event: error\ndata: {\"type\":\"error\",\"error\":{"));
        let responses = in_band(Dialect::Responses, &rejection(), true);
        assert!(responses.starts_with(b"event: error\ndata: {\"type\":\"error\",\"code\":\"up"));
        let data = responses.strip_prefix(b"event: error\ndata: ").unwrap();
        let value: Value = serde_json::from_slice(data).unwrap();
        assert_eq!(value["error"]["message"], "Say \"again\".");
        assert_eq!(value["error"]["code"], value["code"]);
    }

    #[test]
    fn a_half_event_is_closed_before_the_error() {
        for dialect in [Dialect::Chat, Dialect::Messages, Dialect::Responses] {
            let whole = in_band(dialect, &rejection(), true);
            let closing = in_band(dialect, &rejection(), false);
            assert_eq!(closing.strip_prefix(b"\n\n").unwrap(), whole);
        }
    }
}
