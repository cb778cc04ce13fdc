//! The shape of an error the gateway sends, as a body of its own or inside a running stream.

use super::Dialect;
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
