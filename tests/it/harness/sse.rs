//! Server-sent events as a browser reads them: comments dropped, unfinished events dropped.

use serde_json::Value;

/// One dispatched event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    /// Its `event:` field, empty without one.
    pub(crate) name: String,
    /// Its `data:` lines, joined.
    pub(crate) data: String,
}

impl Event {
    /// The data as JSON; a failed test where it is none.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// The events of a whole body.
pub(crate) fn events(body: &[u8]) -> Vec<Event> {
    let text = String::from_utf8_lossy(body).replace("\r\n", "\n").replace('\r', "\n");
    let mut events = Vec::new();
    let (mut name, mut data) = (String::new(), Vec::new());
    let mut lines = text.split('\n').collect::<Vec<_>>();
    lines.pop(); // what follows the last line end is an unfinished line
    for line in lines {
        if line.is_empty() {
            if !data.is_empty() {
                events.push(Event { name: name.clone(), data: data.join("\n") });
            }
            name.clear();
            data.clear();
        } else if let Some(value) = field(line, "data") {
            data.push(value);
        } else if let Some(value) = field(line, "event") {
            value.clone_into(&mut name);
        }
    }
    events
}

fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let value = line.strip_prefix(name)?.strip_prefix(':')?;
    Some(value.strip_prefix(' ').unwrap_or(value))
}

/// The last event of a body; a failed test without any.
pub(crate) fn last_event(body: &[u8]) -> Event {
    events(body).pop().unwrap_or_else(|| panic!("no event: {}", String::from_utf8_lossy(body)))
}
