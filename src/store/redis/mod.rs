//! The store that several gateways share: Redis decides, in one round trip; while it is away this
//! replica lives on its lease of each budget and its share of each limit, or as `on_down` says.

mod alone;
mod asking;
mod books;
mod claim;
mod claims;
mod keeper;
mod lease;
mod link;
mod names;
mod script;
mod share;
mod tell;
mod terms;
mod view;

#[cfg(test)]
mod tests;

use super::config::{OnDown, StoreConfig};
use super::seat::Counted;
use super::{
    Account, Ask, Day, Funds, Grant, Hold, Moment, NanoUsd, Settlement, Standing, Verdict,
};
use arc_swap::ArcSwapOption;
use asking::Outcome;
use books::{Books, When};
use claims::Claims;
use link::{Link, Trouble};
use script::Texts;
use share::Share;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::Notify;
use tokio::time::Instant;

/// Longest wait of a request for Redis, in all.
const WAIT: Duration = Duration::from_millis(250);
/// Clocks that differ by less than so many milliseconds more than before differ by how long an answer took.
const SLOW_MS: i64 = 1_000;
/// Accounts that one reading of the metrics may ask Redis about; all others show what is known.
const MAX_LOOKS: usize = 1_000;

/// Limits and budgets in Redis or Valkey.
#[derive(Debug, Clone)]
pub struct Redis(Arc<Inner>);

/// What requests and the keeper share.
#[derive(Debug)]
struct Inner {
    client: redis::Client,
    texts: Texts,
    on_down: OnDown,
    /// This process among the replicas; also begins the names of its records.
    replica: String,
    records: AtomicU64,
    started: Instant,
    /// Redis' clock less ours, in milliseconds; until it is known, this machine's is taken for it, so that
    /// what is spent before goes into the periods of today.
    offset_ms: AtomicI64,
    /// Whether Redis has said what time it is.
    has_clock: AtomicBool,
    /// `None` until the first beat.
    share: ArcSwapOption<Share>,
    is_leaving: AtomicBool,
    /// What Redis' data go by, once there was a connection.
    birth: Mutex<Option<String>>,
    link: Link,
    accounts: Mutex<Accounts>,
    dirty: Mutex<Vec<Arc<Entry>>>,
    news: Notify,
    claims: Mutex<Claims>,
}

#[derive(Debug, Default)]
struct Accounts {
    by_name: HashMap<Arc<str>, Arc<Entry>>,
    by_tag: HashMap<String, Arc<Entry>>,
}

/// One account's books.
#[derive(Debug)]
struct Entry {
    books: Mutex<Books>,
    is_dirty: AtomicBool,
    /// Of whom Redis is to be asked how it stands.
    to_look: Mutex<Option<Account>>,
}

/// How the shared store is, for `/status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Whether Redis answers.
    pub is_up: bool,
    /// For how long that has been so.
    pub lasting: Duration,
    /// Why not, where it does not, in our words or the system's.
    pub trouble: Option<String>,
    /// Gateways last seen alive, this one included; 0 before the first connection.
    pub replicas: u64,
    /// Spend that Redis has not been told yet.
    pub untold: NanoUsd,
}

impl Redis {
    /// Reads the address; connects only in [`Redis::keep`].
    ///
    /// # Errors
    /// A text for the operator where the address cannot be used; it never quotes it.
    pub fn open(config: &StoreConfig) -> Result<Self, String> {
        Self::with_texts(config, Texts::real())
    }

    fn with_texts(config: &StoreConfig, texts: Texts) -> Result<Self, String> {
        let url =
            config.url.as_ref().ok_or("store.url: missing; `kind: redis` needs an address")?;
        let unusable = "store.url: not an address of Redis; write redis://[user:password@]host[:port][/db], or rediss:// with TLS";
        let info: redis::ConnectionInfo = url.expose().parse().map_err(|_| unusable)?;
        // Messages from others come over the same connection.
        let settings = info.redis_settings().clone().set_protocol(redis::ProtocolVersion::RESP3);
        let client =
            redis::Client::open(info.set_redis_settings(settings)).map_err(|_| unusable)?;
        Ok(Self(Arc::new(Inner {
            client,
            texts,
            on_down: config.on_down,
            replica: format!("{:016x}", rand::random::<u64>()),
            records: AtomicU64::new(0),
            started: Instant::now(),
            offset_ms: AtomicI64::new(lease::millis(SystemTime::now())),
            has_clock: AtomicBool::new(false),
            share: ArcSwapOption::const_empty(),
            is_leaving: AtomicBool::new(false),
            birth: Mutex::default(),
            link: Link::new(),
            accounts: Mutex::default(),
            dirty: Mutex::default(),
            news: Notify::new(),
            claims: Mutex::new(Claims::new(config.path.clone())),
        })))
    }

    /// Connects, and stays connected for as long as it is awaited.
    pub async fn keep(&self) {
        keeper::keep(&self.0).await;
    }

    /// Gives back what is held for calls to come and says farewell, once none runs any more; within a
    /// second.
    pub async fn leave(&self) {
        keeper::leave(&self.0).await;
    }

    /// See [`super::Store::admit`]: one round trip, 250 ms at most.
    pub async fn admit(&self, account: &Account, ask: &Ask, now: Moment) -> Verdict {
        if !is_limited(account) {
            let hold = hold(ask, NanoUsd::ZERO, now);
            return Verdict::Admitted(Grant { standing: Standing::default(), hold });
        }
        let entry = self.0.entry(&account.key);
        match self.0.ask(&entry, account, ask).await {
            Outcome::Admitted(reserved) => {
                let standing = lock(&entry.books).standing(account, self.0.when());
                Verdict::Admitted(Grant { standing, hold: hold(ask, reserved, now) })
            }
            Outcome::Refused(refusal) => {
                let standing = lock(&entry.books).standing(account, self.0.when());
                Verdict::Refused { refusal, standing }
            }
            Outcome::Unknown => Verdict::Unavailable,
        }
    }

    /// See [`super::Store::settle`]: never waits; Redis is told in the background, at once where it
    /// is there, else when it is back.
    pub fn settle(&self, account: &Account, hold: &Hold, settlement: &Settlement) -> Option<Funds> {
        let inner = &*self.0;
        let is_limited = is_limited(account);
        let entry =
            if is_limited { inner.entry(&account.key) } else { inner.known(&account.key)? };
        let mut books = lock(&entry.books);
        let (tokens, cost, now) = (settlement.tokens, settlement.cost, inner.when().here);
        if is_limited && !books.settle(hold.call.0, tokens, cost, now) {
            return None;
        }
        let is_noted =
            account.budget.is_none() && books.spend(hold.day, cost, now, || inner.record());
        if !is_limited && !is_noted {
            return None;
        }
        let funds = account.budget.map(|budget| books.funds(budget));
        drop(books);
        inner.tell(&entry);
        funds
    }

    /// How an account stands: as Redis says, or, where it does not answer in time, as last known.
    /// Consumes nothing.
    pub async fn look(&self, account: &Account) -> Standing {
        let entry = self.0.entry(&account.key);
        if let Some(live) = self.0.link.live().filter(|_| is_limited(account)) {
            let deadline = Instant::now() + WAIT;
            // Without an answer there is what is known; requests will see to the connection.
            self.0.look(&live, &entry, account, deadline).await.ok();
        }
        lock(&entry.books).standing(account, self.0.when())
    }

    /// How an account stands as far as is known here; Redis is asked behind it where that is old.
    pub fn peek(&self, account: &Account) -> Standing {
        let entry = self.0.entry(&account.key);
        let when = self.0.when();
        let mut books = lock(&entry.books);
        let standing = books.standing(account, when);
        let is_unsure = books.is_unsure(when.here);
        drop(books);
        let is_worth_it = is_unsure && is_limited(account) && self.0.link.live().is_some();
        if is_worth_it && lock(&self.0.dirty).len() < MAX_LOOKS {
            *lock(&entry.to_look) = Some(account.clone());
            self.0.tell(&entry);
        }
        standing
    }

    /// Whether Redis has ever said how the account stands.
    pub fn knows_spend(&self, account: &Account) -> bool {
        lock(&self.0.entry(&account.key).books).is_known()
    }

    /// How the store is.
    pub fn health(&self) -> Health {
        let inner = &*self.0;
        let condition = inner.link.condition();
        let entries = inner.entries();
        Health {
            is_up: condition.is_up,
            lasting: inner.when().here.saturating_sub(condition.since),
            trouble: condition.trouble.filter(|_| !condition.is_up).map(|trouble| trouble.words()),
            replicas: inner.share.load().as_ref().map_or(0, |share| share.replicas),
            untold: entries.iter().map(|entry| lock(&entry.books).untold()).sum(),
        }
    }
}

impl Inner {
    fn entry(&self, name: &Arc<str>) -> Arc<Entry> {
        let mut accounts = lock(&self.accounts);
        if let Some(entry) = accounts.by_name.get(name) {
            return Arc::clone(entry);
        }
        let books = Books::new(name);
        let tag = books.tag().to_owned();
        let entry = Arc::new(Entry {
            books: Mutex::new(books),
            is_dirty: AtomicBool::new(false),
            to_look: Mutex::default(),
        });
        accounts.by_name.insert(Arc::clone(name), Arc::clone(&entry));
        accounts.by_tag.insert(tag, Arc::clone(&entry));
        entry
    }

    fn known(&self, name: &str) -> Option<Arc<Entry>> {
        lock(&self.accounts).by_name.get(name).cloned()
    }

    fn entries(&self) -> Vec<Arc<Entry>> {
        lock(&self.accounts).by_name.values().cloned().collect()
    }

    /// There is something to tell of this account.
    fn tell(&self, entry: &Arc<Entry>) {
        if !entry.is_dirty.swap(true, Ordering::AcqRel) {
            lock(&self.dirty).push(Arc::clone(entry));
            self.news.notify_one();
        }
    }

    /// Trouble with one account is none with Redis: that account alone goes without, until what is
    /// foreign is gone.
    fn unless_spoilt(&self, entry: &Entry, outcome: Result<(), Trouble>) -> Result<(), Trouble> {
        if outcome != Err(Trouble::Account) {
            return outcome;
        }
        let mut books = lock(&entry.books);
        let is_news = books.spoil(self.when().here);
        let names = format!("{}*", books.names.common());
        drop(books);
        if is_news {
            tracing::error!(
                names,
                "the shared store holds something else under a key's names; `store.on_down` decides for that key alone"
            );
        }
        Ok(())
    }

    fn when(&self) -> When {
        let here = self.started.elapsed();
        let ours = i64::try_from(here.as_millis()).unwrap_or(i64::MAX);
        When { here, redis_ms: ours.saturating_add(self.offset_ms.load(Ordering::Relaxed)) }
    }

    fn set_clock(&self, redis_ms: i64) {
        let ours = i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX);
        let (offset, before) =
            (redis_ms.saturating_sub(ours), self.offset_ms.load(Ordering::Relaxed));
        // An answer that was long on its way says too little, but clocks drift: it is believed bit by bit.
        let is_known = self.has_clock.swap(true, Ordering::Relaxed);
        let is_slow = is_known && offset < before && before - offset < SLOW_MS;
        self.offset_ms.store(if is_slow { before - 1 } else { offset }, Ordering::Relaxed);
    }

    fn replicas(&self) -> u64 {
        self.share.load().as_ref().map_or(1, |share| share.replicas)
    }

    fn record(&self) -> Arc<str> {
        let number = self.records.fetch_add(1, Ordering::Relaxed);
        format!("{}.{number}", self.replica).into()
    }
}

/// Whether there is anything to ask.
const fn is_limited(account: &Account) -> bool {
    account.requests_per_minute.is_some()
        || account.tokens_per_minute.is_some()
        || account.concurrent.is_some()
        || account.budget.is_some()
}

fn hold(ask: &Ask, reserved: NanoUsd, now: Moment) -> Hold {
    let (call, tokens, day) = (ask.call, ask.tokens, Day::of(now.wall));
    Hold { call, tokens, reserved, day, counted: Counted::default(), seat: None }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
