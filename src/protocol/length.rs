//! How a stream ends that we cut at its reserved length: as one whose model had reached its maximum.

use super::Dialect;
use super::tap::Reading;
use bytes::Bytes;
use serde_json::{Value, json};

/// What a stream has been so far.
#[derive(Debug, Clone, Copy)]
pub struct SoFar<'a> {
    /// Names of the reply.
    pub reading: &'a Reading,
    /// Its events with data.
    pub events: u64,
    /// Output tokens, roughly.
    pub produced: u64,
    /// Answers in it, of which each has to end.
    pub choices: u64,
    /// A bit for each of the first that has.
    pub finished: u64,
    /// The block that has not ended, on `/messages`.
    pub open_block: Option<u64>,
    /// Seconds since 1970.
    pub now: u64,
}

/// The last events of the stream.
#[must_use]
pub fn last_events(dialect: Dialect, so_far: &SoFar<'_>) -> Bytes {
    let SoFar { reading, events, produced, choices, finished, open_block, now } = *so_far;
    let (id, model) = (&reading.id, &reading.model);
    let text = match dialect {
        Dialect::Chat | Dialect::Completions | Dialect::Embeddings => {
            let is_chat = dialect == Dialect::Chat;
            let choice = |index: u64| {
                if is_chat {
                    json!({"index": index, "delta": {}, "logprobs": null, "finish_reason": "length"})
                } else {
                    json!({"index": index, "text": "", "logprobs": null, "finish_reason": "length"})
                }
            };
            let object = if is_chat { "chat.completion.chunk" } else { "text_completion" };
            let is_open = |index: &u64| *index >= 64 || finished >> index & 1 == 0;
            let choices: Vec<Value> =
                (0..choices.clamp(1, 128)).filter(is_open).map(choice).collect();
            let chunk = json!({
                "id": id, "object": object, "created": now, "model": model, "choices": choices,
            });
            format!("data: {chunk}\n\ndata: [DONE]\n\n")
        }
        Dialect::Responses => {
            let response = json!({
                "id": id, "object": "response", "created_at": now, "status": "incomplete",
                "error": null, "incomplete_details": {"reason": "max_output_tokens"},
                "model": model, "output": [], "usage": null,
            });
            let event = json!({
                "type": "response.incomplete", "sequence_number": events, "response": response,
            });
            format!("event: response.incomplete\ndata: {event}\n\n")
        }
        Dialect::Messages => {
            let delta = json!({
                "type": "message_delta",
                "delta": {"stop_reason": "max_tokens", "stop_sequence": null},
                "usage": {"output_tokens": produced},
            });
            let block =
                open_block.map(|index| json!({"type": "content_block_stop", "index": index}));
            let event = |event: &Value| {
                let name = event["type"].as_str().unwrap_or_default();
                format!("event: {name}\ndata: {event}\n\n")
            };
            let stop = json!({"type": "message_stop"});
            block.iter().chain([&delta, &stop]).map(event).collect()
        }
    };
    Bytes::from(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::tap::StreamTap;

    #[test]
    fn every_dialect_reads_it_as_a_whole_answer_that_was_too_long() {
        use Dialect::{Chat, Completions, Messages, Responses};
        let reading = Reading {
            id: Some("gen-1".into()),
            model: Some("acme/wisp".into()),
            ..Reading::default()
        };
        for dialect in [Chat, Completions, Responses, Messages] {
            let so_far = SoFar {
                reading: &reading,
                events: 7,
                produced: 9,
                choices: 2,
                finished: 0,
                open_block: Some(1),
                now: 1,
            };
            let mut tap = StreamTap::new(dialect);
            tap.push(&last_events(dialect, &so_far));
            assert!(tap.is_ended() && tap.fault().is_none() && tap.garbled() == 0, "{dialect:?}");
            assert_eq!(tap.reading().finish.as_deref(), Some("length"), "{dialect:?}");
        }
    }

    #[test]
    fn an_answer_that_had_ended_keeps_its_reason() {
        let reading = Reading::default();
        let so_far = SoFar {
            reading: &reading,
            events: 7,
            produced: 9,
            choices: 3,
            finished: 0b10,
            open_block: None,
            now: 1,
        };
        let last = last_events(Dialect::Chat, &so_far);
        let last = std::str::from_utf8(&last).unwrap();
        let chunk = last.strip_prefix("data: ").unwrap().split('\n').next().unwrap();
        let chunk: Value = serde_json::from_str(chunk).unwrap();
        let indices: Vec<_> =
            chunk["choices"].as_array().unwrap().iter().map(|c| &c["index"]).collect();
        assert_eq!(indices, [0, 2]);
    }

    #[test]
    fn a_block_that_was_cut_is_closed() {
        let mut tap = StreamTap::new(Dialect::Messages);
        let begin = |index: u64| {
            let data = json!({"type": "content_block_start", "index": index,
                "content_block": {"type": "text", "text": ""}});
            format!("event: content_block_start\ndata: {data}\n\n")
        };
        assert_eq!(tap.open_block(), None);
        tap.push(begin(0).as_bytes());
        tap.push(
            b"event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n",
        );
        assert_eq!(tap.open_block(), None);
        tap.push(begin(1).as_bytes());
        assert_eq!(tap.open_block(), Some(1));
        let reading = Reading::default();
        let so_far = SoFar {
            reading: &reading,
            events: 3,
            produced: 9,
            choices: 1,
            finished: 0,
            open_block: tap.open_block(),
            now: 1,
        };
        let last = last_events(Dialect::Messages, &so_far);
        let last = std::str::from_utf8(&last).unwrap();
        assert!(last.starts_with("event: content_block_stop\ndata: "), "{last}");
        tap.push(last.as_bytes());
        assert!(tap.is_ended() && tap.open_block().is_none());
    }
}
