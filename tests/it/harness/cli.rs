//! Commands that end by themselves: run one, get its exit code and everything it printed.

use super::process::Process;
use tempfile::TempDir;

/// A command that has ended.
pub(crate) struct Finished {
    /// Exit code.
    pub(crate) code: i32,
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard output and standard error.
    pub(crate) output: String,
}

/// Runs the binary in a new folder that holds `file`, if any, as `gateway.yaml`.
pub(crate) async fn cirque(args: &[&str], env: &[(&str, &str)], file: Option<&str>) -> Finished {
    let folder = TempDir::new().expect("a temporary folder");
    if let Some(text) = file {
        std::fs::write(folder.path().join("gateway.yaml"), text).expect("a writable folder");
    }
    let process = Process::start(args, env, folder);
    let code = process.exit_code().await;
    // The pipes may hold a last line when the process is already gone.
    process.stdout.ended().await;
    process.stderr.ended().await;
    Finished { code, stdout: process.stdout.text(), output: process.output() }
}
