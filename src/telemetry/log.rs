//! Our own log on stderr: which records are told, and how one looks.
//!
//! `RUST_LOG` is not read: one variable must not be able to switch on a library's debug records,
//! which hold keys and prompts (PINGORA.md P17). Libraries are heard from `warn` up, and what
//! they say is cut, because their error texts quote what a peer sent.

use super::config::{LogConfig, LogFormat, LogLevel};
use super::line::{Printable, Timestamp, prints};
use serde_json::{Map, Value};
use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::sync::OnceLock;
use std::time::SystemTime;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, reload};

/// Longest text of a library that is told, in characters: enough for the kind of an error and its
/// context, too short for the headers or bodies that follow.
const FOREIGN_CHARS: usize = 200;

type Handle = reload::Handle<Lines<fn() -> io::Stderr>, Registry>;

static LIVE: OnceLock<Handle> = OnceLock::new();

/// Starts the log, or, called again, changes its level; the format stays as it was first given.
pub fn init(config: &LogConfig) {
    let level = filter(config.level);
    let handle = LIVE.get_or_init(|| {
        let stderr: fn() -> io::Stderr = io::stderr;
        let (layer, handle) =
            reload::Layer::new(Lines { level, format: config.format, out: stderr });
        // Fails only where an embedding program has set a subscriber of its own: then it decides.
        tracing_subscriber::registry().with(layer).try_init().ok();
        handle
    });
    handle.modify(|lines| lines.level = level).ok();
    ::log::set_max_level(match config.level {
        LogLevel::Error => ::log::LevelFilter::Error,
        LogLevel::Warn | LogLevel::Info | LogLevel::Debug | LogLevel::Trace => {
            ::log::LevelFilter::Warn
        }
    });
}

const fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

/// Writes each record as one line with one write.
struct Lines<W> {
    level: LevelFilter,
    format: LogFormat,
    out: W,
}

/// Whether a record is Cirque's own; all others come from libraries, those through the `log`
/// bridge under the target `log`.
fn is_ours(target: &str) -> bool {
    target == "cirque" || target.starts_with("cirque::")
}

impl<S, W> Layer<S> for Lines<W>
where
    S: Subscriber,
    W: for<'w> MakeWriter<'w> + 'static,
{
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        let most =
            if is_ours(metadata.target()) { self.level } else { self.level.min(LevelFilter::WARN) };
        *metadata.level() <= most
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut record = Record::new(metadata.target());
        event.record(&mut record);
        let level = metadata.level().as_str().to_ascii_lowercase();
        let line = match self.format {
            LogFormat::Json => record.into_json(SystemTime::now(), &level),
            LogFormat::Text => record.into_text(SystemTime::now(), &level),
        };
        // Where stderr is gone there is nobody left to tell.
        self.out.make_writer().write_all(line.as_bytes()).ok();
    }
}

/// What one event holds.
struct Record {
    /// The library that says so; `None` for Cirque itself.
    library: Option<String>,
    message: String,
    fields: Map<String, Value>,
}

impl Record {
    fn new(target: &str) -> Self {
        let library = (!is_ours(target)).then(|| target.to_owned());
        Self { library, message: String::new(), fields: Map::new() }
    }

    fn put(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            ("log.target", Value::String(target)) => self.library = Some(target),
            // Where in a library's source: of no use to an operator.
            ("log.module_path" | "log.file" | "log.line", _) => {}
            (name, value) => {
                self.fields.insert(name.to_owned(), value);
            }
        }
    }

    fn put_text(&mut self, field: &Field, text: String) {
        let text = if self.library.is_some() { tame(&text) } else { text };
        self.put(field, Value::String(text));
    }

    fn into_json(self, at: SystemTime, level: &str) -> String {
        let mut object = Map::new();
        object.insert("ts".to_owned(), Timestamp(at).to_string().into());
        object.insert("level".to_owned(), level.into());
        object.insert("message".to_owned(), self.message.into());
        if let Some(library) = self.library {
            object.insert("library".to_owned(), library.into());
        }
        for (name, value) in self.fields {
            object.entry(name).or_insert(value);
        }
        let mut line = Value::Object(object).to_string();
        line.push('\n');
        line
    }

    fn into_text(self, at: SystemTime, level: &str) -> String {
        let mut line = format!("{} {level:5} {}", Timestamp(at), Printable(&self.message));
        let library = self.library.map(|name| ("library".to_owned(), Value::String(name)));
        for (name, value) in library.into_iter().chain(self.fields) {
            // Writing to a string cannot fail.
            write!(line, " {name}={}", Printable(&value.to_string())).ok();
        }
        line.push('\n');
        line
    }
}

impl Visit for Record {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put_text(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put_text(field, value.to_owned());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put_text(field, value.to_string());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}

/// A library's text without what a peer sent: what Pingora quotes after `buf: ` (raw header
/// blocks), query strings (some clients put keys there), characters that do not print, and
/// everything past [`FOREIGN_CHARS`].
fn tame(text: &str) -> String {
    let (text, quoted) =
        text.split_once("buf: ").map_or((text, ""), |(head, _)| (head, "buf: [cut]"));
    let mut in_query = false;
    let kept = text.chars().filter(|c| {
        let was_in_query = in_query;
        in_query = (in_query && !c.is_whitespace() && !matches!(c, '"' | '\'' | ',')) || *c == '?';
        prints(*c) && !(was_in_query && in_query)
    });
    kept.chain(quoted.chars()).take(FOREIGN_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    fn told(level: LogLevel, format: LogFormat, say: impl FnOnce()) -> String {
        let out = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&out);
        let lines = Lines { level: filter(level), format, out: move || Sink(Arc::clone(&sink)) };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), say);
        let told = out.lock().unwrap().clone();
        String::from_utf8(told).unwrap()
    }

    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_record_is_one_flat_json_line() {
        let line = told(LogLevel::Info, LogFormat::Json, || {
            tracing::warn!(upstream = "main", failures = 5, share = 0.5, ok = false, "ejected\n");
        });
        let (ts, rest) = line.split_at(r#"{"ts":"2026-07-25T17:20:00.000042Z""#.len());
        assert!(ts.starts_with(r#"{"ts":"2"#) && ts.ends_with(r#"Z""#), "{ts}");
        assert_eq!(
            rest,
            concat!(
                r#","level":"warn","message":"ejected\n","upstream":"main","failures":5,"#,
                r#""share":0.5,"ok":false}"#,
                "\n"
            )
        );
    }

    #[test]
    fn a_text_record_stays_on_its_line() {
        let line = told(LogLevel::Info, LogFormat::Text, || {
            tracing::info!(path = "a\nb", "started\n\u{1b}[31m");
        });
        assert!(line.ends_with("Z info  started[31m path=\"a\\nb\"\n"), "{line:?}");
    }

    #[test]
    fn the_level_is_obeyed() {
        let say = || {
            tracing::debug!("quiet");
            tracing::info!("loud");
        };
        assert!(!told(LogLevel::Info, LogFormat::Text, say).contains("quiet"));
        assert!(told(LogLevel::Debug, LogFormat::Text, say).contains("quiet"));
        assert!(!told(LogLevel::Error, LogFormat::Text, say).contains("loud"));
    }

    #[test]
    fn libraries_are_heard_from_warn_up_at_any_level() {
        let told = told(LogLevel::Trace, LogFormat::Json, || {
            tracing::debug!(target: "pingora_proxy", "authorization: Bearer sk-canary");
            tracing::info!(target: "hyper", "sk-canary");
            tracing::error!(target: "pingora_proxy::lib", "{}", "x".repeat(300));
        });
        assert_eq!(told.lines().count(), 1, "{told}");
        assert!(told.contains(r#""library":"pingora_proxy::lib""#), "{told}");
        assert!(told.contains(&"x".repeat(200)) && !told.contains(&"x".repeat(201)), "{told}");
    }

    #[test]
    fn records_of_the_log_crate_arrive_tamed() {
        init(&LogConfig::default());
        let told = told(LogLevel::Debug, LogFormat::Json, || {
            ::log::info!(target: "pingora_core", "sk-canary");
            ::log::error!(target: "pingora_core", "no reply, GET /v1?key=sk-canary");
        });
        let (_, told) = told.split_once(r#","level""#).unwrap();
        let expected = r#":"error","message":"no reply, GET /v1?","library":"pingora_core"}"#;
        assert_eq!(told, format!("{expected}\n"));
    }

    #[test]
    fn what_a_peer_sent_is_not_told() {
        assert_eq!(tame("GET /v1?key=sk-1 HTTP/1.1, Host: a"), "GET /v1? HTTP/1.1, Host: a");
        assert_eq!(tame("fail: /x?a=1?b, why? because"), "fail: /x?, why? because");
        assert_eq!(tame("InvalidHTTPHeader buf: Set-Cookie: a"), "InvalidHTTPHeader buf: [cut]");
        assert_eq!(tame("a\0\u{1b}\u{fffd}b"), "ab");
    }

    #[test]
    fn a_second_start_changes_the_level_without_a_panic() {
        for level in [LogLevel::Error, LogLevel::Trace, LogLevel::Info] {
            init(&LogConfig { level, format: LogFormat::Json });
        }
        assert_eq!(::log::max_level(), ::log::LevelFilter::Warn);
    }
}
