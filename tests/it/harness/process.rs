//! The binary as a child process in a folder of its own, with nothing of this environment.

use super::eventually;
use super::lines::Lines;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use tempfile::TempDir;

/// A running (or ended) `cirque`; killed when dropped.
pub(crate) struct Process {
    child: Mutex<Child>,
    folder: TempDir,
    pub(crate) stdout: Lines,
    pub(crate) stderr: Lines,
}

impl Drop for Process {
    fn drop(&mut self) {
        let mut child = self.child.lock().unwrap();
        child.kill().ok();
        child.wait().ok();
        if std::thread::panicking() {
            eprintln!("--- stderr of the gateway ---\n{}", self.stderr.text());
        }
    }
}

impl Process {
    /// Starts the binary with these arguments and variables in a folder with these files.
    pub(crate) fn start(args: &[&str], env: &[(&str, &str)], folder: TempDir) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_cirque"))
            .args(args)
            .env_clear()
            .envs(env.iter().copied())
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let stdout = Lines::of(child.stdout.take().expect("a pipe"));
        let stderr = Lines::of(child.stderr.take().expect("a pipe"));
        Self { child: Mutex::new(child), folder, stdout, stderr }
    }

    /// Its working directory.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A file in its working directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    /// A number that `/proc/<pid>/status` gives, such as `VmRSS` in KiB.
    pub(crate) fn proc_status(&self, field: &str) -> u64 {
        let path = format!("/proc/{}/status", self.child.lock().unwrap().id());
        let text = std::fs::read_to_string(path).expect("a running process");
        let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let words = line.unwrap_or_default().split_whitespace().next();
        words.and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("{field} in {text}"))
    }

    /// How many file descriptors it has open.
    pub(crate) fn open_files(&self) -> usize {
        let path = format!("/proc/{}/fd", self.child.lock().unwrap().id());
        std::fs::read_dir(path).expect("a running process").count()
    }

    /// Sends a signal by name, such as `HUP`.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.lock().unwrap().id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status().expect("kill(1)");
        assert!(sent.success(), "kill -s {name}");
    }

    /// Ends it at once, as `kill -9` does, and gives its folder back.
    pub(crate) fn kill(mut self) -> TempDir {
        let mut child = self.child.lock().unwrap();
        child.kill().expect("our own child");
        child.wait().expect("our own child");
        drop(child);
        std::mem::replace(&mut self.folder, TempDir::new().expect("a temporary folder"))
    }

    /// Memory it holds now, in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let id = self.child.lock().unwrap().id();
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("Linux");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process");
        let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kibibytes << 10
    }

    /// Its exit code, where it has ended by itself.
    pub(crate) fn try_exit_code(&self) -> Option<i32> {
        let status = self.child.lock().unwrap().try_wait().expect("our own child")?;
        Some(status.code().unwrap_or(-1))
    }

    /// Waits for its end, and for all that it printed.
    pub(crate) async fn exit_code(&self) -> i32 {
        let code = eventually("the end of the process", || async { self.try_exit_code() }).await;
        self.stdout.ended().await;
        self.stderr.ended().await;
        code
    }

    /// Everything it printed on either stream so far.
    pub(crate) fn output(&self) -> String {
        format!("{}\n{}", self.stdout.text(), self.stderr.text())
    }
}
