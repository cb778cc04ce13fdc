//! One finished request with every field filled, for the tests of everything that reads one.

use super::exchange::Exchange;
use crate::ids::{RequestId, TraceId};
use crate::protocol::usage::{Cost, CostSource, Usage};
use std::time::{Duration, UNIX_EPOCH};

/// A good streamed chat call.
pub(super) fn exchange() -> Exchange {
    Exchange {
        started: UNIX_EPOCH + Duration::from_micros(1_785_000_000_123_456),
        request_id: RequestId::from_random(0xabc),
        trace_id: TraceId::from_random(0xdef),
        client_ip: Some([192, 0, 2, 7].into()),
        method: "POST".into(),
        path: "/api/v1/chat/completions".into(),
        route: "/v1/chat/completions",
        status: 200,
        key: Some("n8n".into()),
        model: Some("acme/wisp-2-mini".into()),
        model_label: "acme/wisp-2-mini".into(),
        upstream: Some("openrouter-main".into()),
        attempts: 2,
        tries: Vec::new(),
        stream: true,
        bytes_in: 1_024,
        bytes_out: 65_536,
        duration: Duration::from_micros(2_345_678),
        time_to_first_token: Some(Duration::from_millis(321)),
        overhead: Duration::from_nanos(45_600),
        usage: Some(Usage {
            input: 90,
            cached_input: 10,
            output: 30,
            reasoning: 20,
            input_total: 100,
            output_total: 50,
            ..Usage::default()
        }),
        cost: Some(Cost { usd: 0.00125, source: CostSource::Upstream }),
        session_id: Some("conversation-1".into()),
        error_code: None,
        finish: Some("stop".into()),
    }
}

/// A call that nobody was known to make: nothing optional is there.
pub(super) fn refused() -> Exchange {
    Exchange {
        client_ip: None,
        status: 401,
        key: None,
        model: None,
        model_label: "other".into(),
        upstream: None,
        attempts: 0,
        tries: Vec::new(),
        stream: false,
        bytes_out: 120,
        duration: Duration::from_micros(80),
        time_to_first_token: None,
        overhead: Duration::from_micros(80),
        usage: None,
        cost: None,
        session_id: None,
        error_code: Some("invalid_api_key"),
        finish: None,
        ..exchange()
    }
}
