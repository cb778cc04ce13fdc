//! Which calls of one configuration are traced, where to, and what of them is kept for it.

use super::destination::Destination;
use super::secrets::Secrets;
use crate::ids::TraceId;
use crate::telemetry::config::Capture;
use std::sync::Arc;

/// Where one configuration sends its traces. Cheap to ask: nothing is allocated.
#[derive(Debug, Default)]
pub struct Plan {
    destinations: Vec<Arc<Destination>>,
    secrets: Arc<Secrets>,
}

impl Plan {
    /// A plan for these destinations; `secrets` are struck out of whatever they get.
    #[must_use]
    pub fn new(destinations: Vec<Arc<Destination>>, secrets: Secrets) -> Self {
        Self { destinations, secrets: Arc::new(secrets) }
    }

    /// Every destination; none where tracing is off.
    #[must_use]
    pub fn destinations(&self) -> &[Arc<Destination>] {
        &self.destinations
    }

    /// What must be seen nowhere.
    #[must_use]
    pub fn secrets(&self) -> &Arc<Secrets> {
        &self.secrets
    }

    /// Whether any destination wants this call.
    #[must_use]
    pub fn wants(&self, trace: TraceId, opted_out: bool) -> bool {
        self.destinations.iter().any(|to| to.wants(trace, opted_out))
    }

    /// Most bytes of an input or an output that any of them wants of this call; `None` where none
    /// wants more than metadata. `by_key` is what the caller's key says of it.
    #[must_use]
    pub fn captures(
        &self,
        trace: TraceId,
        opted_out: bool,
        by_key: Option<Capture>,
    ) -> Option<usize> {
        let full = |to: &&Arc<Destination>| to.wants(trace, opted_out) && to.is_full(by_key);
        self.destinations.iter().filter(full).map(|to| to.max_field).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::config::{LangfuseConfig, TelemetryConfig};
    use serde_json::json;

    fn plan(entries: &serde_json::Value) -> Plan {
        let telemetry: TelemetryConfig =
            serde_json::from_value(json!({ "otlp": entries })).unwrap();
        let all = Destination::all(&LangfuseConfig::default(), &telemetry);
        Plan::new(all, Secrets::default())
    }

    #[test]
    fn what_is_kept_is_what_the_most_curious_destination_wants() {
        let trace = TraceId::from_random(7);
        let none = plan(&json!([]));
        assert!(!none.wants(trace, false));
        let two = plan(&json!([
            { "name": "a", "endpoint": "http://a", "max_field": "64KiB", "allow_opt_out": true },
            { "name": "b", "endpoint": "http://b", "max_field": "1MiB", "capture": "metadata" },
        ]));
        assert_eq!(two.captures(trace, false, None), Some(64 << 10));
        assert_eq!(two.captures(trace, false, Some(Capture::Full)), Some(1 << 20));
        assert_eq!(two.captures(trace, false, Some(Capture::Metadata)), None);
        assert_eq!(two.captures(trace, true, None), None);
        assert!(two.wants(trace, true));
        let unsampled = plan(&json!({ "endpoint": "http://a", "sample_rate": 0.0 }));
        assert!(!unsampled.wants(trace, false) && unsampled.captures(trace, false, None).is_none());
    }
}
