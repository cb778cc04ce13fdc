//! A real `redis-server` on a free port in a folder of its own, which tests may kill, stop and start.
//!
//! Shared with the unit tests of the store. Where the binary is missing a test is skipped and says
//! so; with `CI=true` in the environment that is a failure.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

/// How long a server may take to answer after its start.
const DEADLINE: Duration = Duration::from_secs(20);

/// A folder in memory where there is one: a server on a slow disk writes its file behind time, stands still
/// while it waits for it, and loses what it has acknowledged when it is killed.
fn quick_folder() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).expect("a temporary folder")
}

/// A running server; killed when dropped.
pub(crate) struct RedisServer {
    child: Child,
    folder: TempDir,
    port: u16,
    args: Vec<String>,
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

impl RedisServer {
    /// A server that keeps everything in its append-only file.
    pub(crate) async fn start() -> Option<Self> {
        Self::start_with(|_| vec!["--appendonly".into(), "yes".into()]).await
    }

    /// A server with further arguments, made from its folder.
    pub(crate) async fn start_with(args: impl FnOnce(&Path) -> Vec<String>) -> Option<Self> {
        if Command::new("redis-server").arg("--version").output().is_err() {
            let is_ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
            assert!(!is_ci, "redis-server is missing, and CI=true");
            eprintln!("skipped: redis-server is missing (Debian: apt-get install redis-server)");
            return None;
        }
        let folder = quick_folder();
        let args = args(folder.path());
        // Another process may take a free port before the server does.
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let child = launch(folder.path(), port, &args);
            let mut server =
                Self { child, folder: TempDir::new().unwrap(), port, args: args.clone() };
            if server.is_answering().await {
                server.folder = folder;
                return Some(server);
            }
        }
        panic!("redis-server did not start");
    }

    /// Its address without TLS.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Its port, TLS or not.
    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// As `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }

    /// Stops it where it stands; its connections stay open and silent.
    pub(crate) fn pause(&self) {
        self.signal("STOP");
    }

    /// Lets it go on.
    pub(crate) fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    /// Starts it again on the same port and folder after [`RedisServer::kill`].
    pub(crate) async fn restart(&mut self) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            self.child = launch(self.folder.path(), self.port, &self.args);
            if self.is_answering().await {
                return;
            }
            // Somebody has the port for a moment.
            assert!(Instant::now() < deadline, "redis-server did not start again");
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// The answer to an inline command, raw; `None` where the connection breaks.
    pub(crate) async fn say(&self, command: &str) -> Option<String> {
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        let mut connection = TcpStream::connect(address).await.ok()?;
        connection.write_all(format!("{command}\r\nQUIT\r\n").as_bytes()).await.ok()?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.ok()?;
        Some(answer)
    }

    /// Whether it answers anything: also without a password, or on a port that wants TLS.
    async fn is_answering(&mut self) -> bool {
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            if self.args.iter().any(|arg| arg == "--tls-port") {
                if TcpStream::connect(("127.0.0.1", self.port)).await.is_ok() {
                    return true;
                }
            } else if let Ok(Some(answer)) = timeout(DEADLINE, self.say("PING")).await
                && (answer.starts_with("+PONG") || answer.starts_with("-NOAUTH"))
            {
                return true;
            }
            sleep(Duration::from_millis(10)).await;
        }
        false
    }
}

fn launch(folder: &Path, port: u16, args: &[String]) -> Child {
    let has_tls = args.iter().any(|arg| arg == "--tls-port");
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--save", "", "--loglevel", "warning", "--dir"]);
    command.arg(folder).args(args);
    if has_tls {
        // Last wins: the port of the address is the one with TLS.
        command.args(["--port", "0", "--tls-port", &port.to_string()]);
    } else {
        command.args(["--port", &port.to_string()]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}
