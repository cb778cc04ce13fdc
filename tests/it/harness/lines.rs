//! What a child process prints, line by line, while it runs.

use super::eventually;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Mutex};

/// The lines of one stream so far.
#[derive(Clone)]
pub(crate) struct Lines(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    lines: Vec<String>,
    is_ended: bool,
}

impl Lines {
    /// Reads a stream to its end on a thread of its own.
    pub(crate) fn of(stream: impl Read + Send + 'static) -> Self {
        let lines = Self(Arc::default());
        let filled = lines.clone();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stream);
            let mut line = Vec::new();
            while matches!(reader.read_until(b'\n', &mut line), Ok(read) if read > 0) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                filled.0.lock().unwrap().lines.push(text);
                line.clear();
            }
            filled.0.lock().unwrap().is_ended = true;
        });
        lines
    }

    /// All of it.
    pub(crate) fn text(&self) -> String {
        self.0.lock().unwrap().lines.join("\n")
    }

    /// The lines that are JSON objects.
    pub(crate) fn json(&self) -> Vec<Value> {
        let state = self.0.lock().unwrap();
        state.lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits until the process has closed the stream.
    pub(crate) async fn ended(&self) {
        let is_ended = || async { self.0.lock().unwrap().is_ended.then_some(()) };
        eventually("the end of an output", is_ended).await;
    }

    /// The first JSON line that `wanted` accepts, once it is there.
    pub(crate) async fn json_where(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        eventually(what, || async { self.json().into_iter().find(|line| wanted(line)) }).await
    }

    /// The last JSON line that holds this text, once it is there; only that one is parsed.
    pub(crate) async fn json_with(&self, text: &str) -> Value {
        let found = || {
            let state = self.0.lock().unwrap();
            let line = state.lines.iter().rev().find(|line| line.contains(text))?;
            serde_json::from_str(line).ok()
        };
        eventually(&format!("a line with {text}"), || async { found() }).await
    }
}
