//! One line a finished request on stdout, written behind the requests' backs.
//!
//! Requests append finished lines to one buffer; a thread takes the whole buffer at a time and
//! writes it with one call. Where stdout is slower than the traffic the buffer fills, further
//! lines are dropped and counted: a log must never hold up a request.

mod entry;

use super::config::LogFormat;
use super::exchange::Exchange;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Bound on lines not yet written: some ten thousand, a second or less of heavy traffic.
const MAX_WAITING_BYTES: usize = 4 << 20;

/// How long the thread lets lines gather after the first one. Waking it for every line costs more
/// than the line itself; nobody reads a log in less time.
const GATHER: Duration = Duration::from_millis(5);

/// At most one warning about dropped lines in this time.
const WARN_EVERY: Duration = Duration::from_mins(1);

/// The access log.
pub struct AccessLog {
    format: LogFormat,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// There is something to write, or somebody waits for it.
    wake: Condvar,
    /// Something was written.
    written: Condvar,
}

#[derive(Default)]
struct Queue {
    /// Finished lines, joined.
    waiting: Vec<u8>,
    /// Lines ever taken into `waiting`.
    queued_lines: u64,
    /// Of those, how many are written.
    written_lines: u64,
    /// Lines lost since the last warning.
    dropped_lines: u64,
    /// Somebody waits for the lines to be written.
    is_flushing: bool,
    /// No line follows.
    is_closed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AccessLog {
    /// Starts the thread that writes to stdout. Without threads left every line is dropped.
    #[must_use]
    pub fn start(format: LogFormat) -> Self {
        Self::start_with(format, io::stdout())
    }

    fn start_with(format: LogFormat, out: impl Write + Send + 'static) -> Self {
        let shared = Arc::<Shared>::default();
        let writer = Writer { shared: Arc::clone(&shared), out, warned: None };
        let thread = thread::Builder::new().name("access-log".to_owned());
        if let Err(error) = thread.spawn(move || writer.run()) {
            tracing::error!(%error, "the access log cannot be written");
        }
        Self { format, shared }
    }

    /// Queues the line of one request. Never waits for stdout: where the queue is full the line is
    /// dropped, counted, and told on stderr at most once a minute.
    pub fn write(&self, x: &Exchange) {
        let line = entry::line(self.format, x);
        let mut queue = self.shared.lock();
        if queue.waiting.len() + line.len() > MAX_WAITING_BYTES {
            queue.dropped_lines += 1;
            return;
        }
        let was_empty = queue.waiting.is_empty();
        queue.waiting.extend_from_slice(&line);
        queue.queued_lines += 1;
        drop(queue);
        if was_empty {
            self.shared.wake.notify_one();
        }
    }

    /// Waits until every line queued so far is written, but not longer than `within`. Blocks the
    /// thread; meant for the end of the process.
    pub fn flush(&self, within: Duration) {
        let mut queue = self.shared.lock();
        let goal = queue.queued_lines;
        queue.is_flushing = true;
        self.shared.wake.notify_one();
        drop(
            self.shared
                .written
                .wait_timeout_while(queue, within, |queue| queue.written_lines < goal),
        );
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.shared.lock().is_closed = true;
        self.shared.wake.notify_one();
    }
}

/// The thread behind the log.
struct Writer<W> {
    shared: Arc<Shared>,
    out: W,
    /// When dropped lines were last told.
    warned: Option<Instant>,
}

impl<W: Write> Writer<W> {
    fn run(mut self) {
        let mut batch = Vec::new();
        loop {
            let lines = self.take(&mut batch);
            if !batch.is_empty() {
                // Where stdout is gone (a broken pipe) the lines are lost, the process lives on.
                let done = self.out.write_all(&batch).and_then(|()| self.out.flush());
                self.settle(lines, done.is_ok());
                batch.clear();
            } else if self.shared.lock().is_closed {
                return;
            }
            self.warn_of_losses();
        }
    }

    /// Swaps the empty `batch` for the lines that wait and says how many were ever queued; after a
    /// while without any it comes back all the same, so that losses get told.
    fn take(&self, batch: &mut Vec<u8>) -> u64 {
        let idle = |queue: &mut Queue| queue.waiting.is_empty() && !queue.is_closed;
        let filling = |queue: &mut Queue| {
            !queue.is_closed && !queue.is_flushing && queue.waiting.len() < MAX_WAITING_BYTES / 2
        };
        let wake = &self.shared.wake;
        let queue = self.shared.lock();
        let (queue, _) = wake
            .wait_timeout_while(queue, WARN_EVERY, idle)
            .unwrap_or_else(PoisonError::into_inner);
        let (mut queue, _) =
            wake.wait_timeout_while(queue, GATHER, filling).unwrap_or_else(PoisonError::into_inner);
        queue.is_flushing = false;
        std::mem::swap(&mut queue.waiting, batch);
        queue.queued_lines
    }

    fn settle(&self, lines: u64, are_written: bool) {
        let mut queue = self.shared.lock();
        if !are_written {
            queue.dropped_lines += lines - queue.written_lines;
        }
        queue.written_lines = lines;
        drop(queue);
        self.shared.written.notify_all();
    }

    fn warn_of_losses(&mut self) {
        let now = Instant::now();
        if self.warned.is_some_and(|last| now.duration_since(last) < WARN_EVERY) {
            return;
        }
        let lines = std::mem::take(&mut self.shared.lock().dropped_lines);
        if lines > 0 {
            self.warned = Some(now);
            tracing::warn!(lines, "access log lines were dropped, stdout does not keep up");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::sample;
    use std::sync::mpsc;

    const SOON: Duration = Duration::from_secs(10);

    /// Passes each write on, and waits for a word before it returns.
    struct Gate {
        writes: mpsc::Sender<Vec<u8>>,
        go: mpsc::Receiver<io::Result<()>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.writes.send(bytes.to_vec()).ok();
            self.go.recv().unwrap_or(Ok(())).map(|()| bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gated() -> (AccessLog, mpsc::Receiver<Vec<u8>>, mpsc::Sender<io::Result<()>>) {
        let (writes, written) = mpsc::channel();
        let (go, wait) = mpsc::channel();
        (AccessLog::start_with(LogFormat::Json, Gate { writes, go: wait }), written, go)
    }

    fn lines(bytes: &[u8]) -> usize {
        memchr::memchr_iter(b'\n', bytes).count()
    }

    #[test]
    fn lines_that_wait_are_written_together() {
        let (log, written, go) = gated();
        log.write(&sample::exchange());
        assert_eq!(lines(&written.recv_timeout(SOON).unwrap()), 1);
        for _ in 0..100 {
            log.write(&sample::exchange());
        }
        go.send(Ok(())).unwrap();
        assert_eq!(lines(&written.recv_timeout(SOON).unwrap()), 100);
    }

    #[test]
    fn a_full_queue_drops_and_counts_instead_of_waiting() {
        let (log, written, go) = gated();
        log.write(&sample::exchange());
        let line = written.recv_timeout(SOON).unwrap().len();
        let fits = MAX_WAITING_BYTES / line;
        for _ in 0..fits + 7 {
            log.write(&sample::exchange());
        }
        assert_eq!(log.shared.lock().dropped_lines, 7);
        go.send(Ok(())).unwrap();
        assert_eq!(lines(&written.recv_timeout(SOON).unwrap()), fits);
    }

    #[test]
    fn a_broken_pipe_loses_lines_and_nothing_else() {
        let (log, written, go) = gated();
        log.write(&sample::exchange());
        written.recv_timeout(SOON).unwrap();
        go.send(Err(io::ErrorKind::BrokenPipe.into())).unwrap();
        log.write(&sample::exchange());
        assert_eq!(lines(&written.recv_timeout(SOON).unwrap()), 1);
    }

    #[test]
    fn a_flush_returns_once_all_is_written_or_time_is_up() {
        let (log, written, go) = gated();
        log.write(&sample::exchange());
        log.flush(Duration::from_millis(1));
        assert_eq!(log.shared.lock().written_lines, 0);
        go.send(Ok(())).unwrap();
        log.flush(SOON);
        assert_eq!(log.shared.lock().written_lines, 1);
        assert_eq!(lines(&written.recv_timeout(SOON).unwrap()), 1);
    }

    #[test]
    fn the_thread_ends_with_the_log_and_writes_what_is_left() {
        let (log, written, go) = gated();
        log.write(&sample::exchange());
        drop(log);
        go.send(Ok(())).unwrap();
        assert_eq!(lines(&written.recv_timeout(SOON).unwrap()), 1);
        // The gate is dropped with the thread.
        assert_eq!(written.recv_timeout(SOON), Err(mpsc::RecvTimeoutError::Disconnected));
    }
}
