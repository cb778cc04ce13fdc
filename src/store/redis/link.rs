//! Whether Redis can be asked: one connection for all, and a circuit that opens with the first
//! sign of trouble, so that no request waits for a Redis that is known to be away.

use super::script::{Scripts, Texts};
use arc_swap::ArcSwapOption;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ErrorKind, PushInfo, RedisError, ServerErrorKind};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

/// For a connection with TLS, credentials and scripts.
const CONNECT: Duration = Duration::from_secs(3);
/// Requests that may be on their way to the connection's task.
const QUEUE: usize = 1024;
/// Longest text of a library that is told, in characters.
const FOREIGN_CHARS: usize = 160;

/// How Redis and Lua begin what they say of values that a script cannot work with.
const OF_VALUES: [&str; 8] = [
    "WRONGTYPE ",
    "hash value is not an integer",
    "value is not an integer",
    "value is not a valid float",
    "increment or decrement would overflow",
    "attempt to compare",
    "attempt to perform arithmetic",
    "bad argument",
];

/// Why Redis cannot be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// No answer in time.
    TimedOut,
    /// No connection, or it broke: the system's words.
    Connection(String),
    /// User or password are not accepted.
    Credentials,
    /// The user may not do what is needed.
    Rights,
    /// Redis answers, but with this error code.
    Code(String),
    /// Redis is there, and what it held is not.
    Emptied,
    /// What Redis holds under one account's names is not ours; about all others it can be asked.
    Account,
}

/// A connection that works.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) connection: MultiplexedConnection,
    pub(super) scripts: Scripts,
    /// What the data go by that this replica has told what it knows; empty before it has begun to.
    birth: OnceLock<String>,
    gone: watch::Sender<bool>,
}

/// What is known of the connection.
#[derive(Debug, Clone)]
pub(super) struct Condition {
    /// Whether Redis can be asked.
    pub(super) is_up: bool,
    /// Since when, on the store's own clock.
    pub(super) since: Duration,
    /// Why not, or why not last time.
    pub(super) trouble: Option<Trouble>,
    has_been_told: bool,
}

/// The way to Redis.
#[derive(Debug)]
pub(super) struct Link {
    live: ArcSwapOption<Live>,
    condition: Mutex<Condition>,
}

impl Trouble {
    /// For the log and `/status`.
    pub(super) fn words(&self) -> String {
        match self {
            Self::TimedOut => "no answer in time".to_owned(),
            Self::Connection(words) => words.clone(),
            Self::Credentials => "the user or the password is not accepted".to_owned(),
            Self::Rights => {
                "the user lacks rights (see OPERATIONS: commands, keys and channel)".to_owned()
            }
            Self::Code(code) => format!("it answers with {code}"),
            Self::Emptied => "it has lost its data".to_owned(),
            Self::Account => "under one of our names it holds something else".to_owned(),
        }
    }
}

impl From<RedisError> for Trouble {
    fn from(error: RedisError) -> Self {
        let code = error.code().unwrap_or_default();
        if error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm) {
            return Self::Rights;
        }
        if error.kind() == ErrorKind::AuthenticationFailed
            || ["WRONGPASS", "NOAUTH"].contains(&code)
        {
            return Self::Credentials;
        }
        if is_of_values(code, error.detail().unwrap_or_default()) {
            return Self::Account;
        }
        if error.is_timeout() {
            return Self::TimedOut;
        }
        // What a server says may quote what it was sent: only the code is told.
        if !code.is_empty() {
            return Self::Code(code.chars().take(FOREIGN_CHARS).collect());
        }
        if error.is_io_error() {
            return Self::Connection(error.to_string().chars().take(FOREIGN_CHARS).collect());
        }
        Self::Connection(error.category().to_owned())
    }
}

/// Whether a script stumbled over what it found under the names it was given. Known by what is said of
/// values and by nothing else: any other error may concern everyone.
fn is_of_values(code: &str, detail: &str) -> bool {
    // Before version 7 the place comes first, and the code is within the text.
    let placed = detail.strip_prefix("Error running script (call to f_");
    let said = placed.and_then(|rest| {
        let (_, said) = rest.split_once(" @user_script:")?.1.split_once(": ")?;
        Some(said)
    });
    let said = said.unwrap_or(detail);
    let said = said.strip_prefix("ERR ").unwrap_or(said);
    // What Lua itself says begins with its place.
    let lua = said.strip_prefix("user_script:").and_then(|rest| rest.split_once(": "));
    let said = lua.map_or(said, |(_, said)| said);
    code == "WRONGTYPE" || code == "ERR" && OF_VALUES.iter().any(|start| said.starts_with(start))
}

impl Live {
    /// Connects, and lets Redis load the scripts.
    pub(super) async fn connect(
        client: &Client,
        texts: Texts,
        pushes: UnboundedSender<PushInfo>,
    ) -> Result<Arc<Self>, Trouble> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_pipeline_buffer_size(QUEUE)
            .set_push_sender(pushes);
        let connected = timeout(CONNECT, async {
            let connection = client.get_multiplexed_async_connection_with_config(&config).await?;
            let mut subscriber = connection.clone();
            let subscribed = subscriber.subscribe(super::names::WANTED);
            let loaded = Scripts::load(&connection, texts);
            let ((), scripts) = tokio::try_join!(subscribed, loaded)?;
            let gone = watch::Sender::new(false);
            Ok::<_, RedisError>(Self { connection, scripts, birth: OnceLock::new(), gone })
        });
        Ok(Arc::new(connected.await.map_err(|_| Trouble::TimedOut)??))
    }

    /// Notes what its data go by, once.
    pub(super) fn set_birth(&self, birth: &str) {
        self.birth.get_or_init(|| birth.to_owned());
    }

    /// What its data go by, as far as that is known.
    pub(super) fn birth(&self) -> &str {
        self.birth.get().map_or("", String::as_str)
    }

    /// Waits for an answer until the deadline, but no longer than the connection lives.
    pub(super) async fn answer<T>(
        &self,
        deadline: Instant,
        answer: impl Future<Output = Result<T, RedisError>>,
    ) -> Result<T, Trouble> {
        let mut gone = self.gone.subscribe();
        tokio::select! {
            biased;
            answer = timeout_at(deadline, answer) => {
                Ok(answer.map_err(|_| Trouble::TimedOut)??)
            }
            _ = gone.wait_for(|is_gone| *is_gone) => {
                Err(Trouble::Connection("the connection was given up".to_owned()))
            }
        }
    }

    /// Waits until the connection is given up.
    pub(super) async fn gone(&self) {
        self.gone.subscribe().wait_for(|is_gone| *is_gone).await.ok();
    }
}

impl Link {
    /// Not connected yet.
    pub(super) const fn new() -> Self {
        let condition =
            Condition { is_up: false, since: Duration::ZERO, trouble: None, has_been_told: false };
        Self { live: ArcSwapOption::const_empty(), condition: Mutex::new(condition) }
    }

    /// The connection, while there is one.
    pub(super) fn live(&self) -> Option<Arc<Live>> {
        self.live.load_full()
    }

    /// What is known.
    pub(super) fn condition(&self) -> Condition {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Condition> {
        self.condition.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection works.
    pub(super) fn up(&self, live: &Arc<Live>, now: Duration) {
        let mut condition = self.lock();
        let was_away = std::mem::take(&mut condition.has_been_told);
        condition.is_up = true;
        condition.since = now;
        self.live.store(Some(Arc::clone(live)));
        drop(condition);
        if was_away {
            tracing::warn!("the shared store is back");
        } else {
            tracing::info!("the shared store is there");
        }
    }

    /// A connection does not work any more: nobody is to use it, and who waits for it is let go, but for
    /// calls that Redis may yet count.
    pub(super) fn give_up(&self, live: &Arc<Live>, trouble: Trouble, now: Duration) {
        let mut condition = self.lock();
        let is_current =
            self.live.load().as_ref().is_some_and(|current| Arc::ptr_eq(current, live));
        if is_current {
            self.live.store(None);
            condition.is_up = false;
            condition.since = now;
        }
        drop(condition);
        live.gone.send_replace(true);
        if is_current {
            self.failed(trouble);
        }
    }

    /// There is no connection; told once until there is one again.
    pub(super) fn failed(&self, trouble: Trouble) {
        let mut condition = self.lock();
        let is_news = !condition.has_been_told;
        condition.has_been_told = true;
        let words = trouble.words();
        condition.trouble = Some(trouble);
        drop(condition);
        if is_news {
            tracing::warn!(why = words, "the shared store is away; `store.on_down` decides");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_with_values_is_told_from_trouble_with_the_server() {
        let of = |code: &str, detail: &str| {
            let error = redis::make_extension_error(code.into(), Some(detail.into()));
            Trouble::from(error) == Trouble::Account
        };
        let old =
            |said: &str| format!("Error running script (call to f_00): @user_script:12: {said}");
        let wrong = "Operation against a key";
        let lua = "user_script:12: attempt to compare number with nil";
        assert!(of("WRONGTYPE", wrong) && of("ERR", &old(&format!("WRONGTYPE {wrong}"))));
        for said in ["hash value is not an integer", "increment or decrement would overflow"] {
            assert!(of("ERR", &format!("{said} script: 00, on @user_script:46.")), "{said}");
            assert!(of("ERR", &old(&format!("ERR {said}"))), "{said}");
        }
        assert!(of("ERR", &format!("{lua} script: 00, on @user_script:12.")));
        assert!(of("ERR", &old(lua)));
        for code in [
            "OOM",
            "READONLY",
            "MISCONF",
            "NOREPLICAS",
            "BUSY",
            "LOADING",
            "CLUSTERDOWN",
            "MASTERDOWN",
            "NOSCRIPT",
            "NOAUTH",
            "NOPERM",
        ] {
            assert!(!of(code, "hash value is not an integer"), "{code}");
        }
        for said in [
            "The user executing the script can't run this command or subcommand",
            "Script killed by user with SCRIPT KILL...",
            "-OOM command not allowed",
            "user_script:1: Script attempted to access nonexistent global variable 'unpack'",
        ] {
            assert!(!of("ERR", said) && !of("ERR", &old(said)), "{said}");
        }
    }
}
