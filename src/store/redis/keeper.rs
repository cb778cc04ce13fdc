//! The background of the shared store: connects and reconnects, says that this replica lives, and
//! tells Redis what requests left to be told.

use super::books::Report;
use super::claims;
use super::link::{Live, Trouble};
use super::names::WANTED;
use super::script::Roll;
use super::share::Share;
use super::tell::Tell;
use super::{Entry, Inner, WAIT, lock};
use rand::Rng as _;
use redis::{PushInfo, PushKind, from_redis_value_ref};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

/// How often this replica says that it lives, and looks for what is still to be told.
const BEAT: Duration = Duration::from_secs(1);
/// How long an answer in the background may take; then the connection is given up. Requests are
/// stricter.
const PATIENCE: Duration = Duration::from_secs(1);
/// Pauses between attempts to connect, each twice the one before, less a random part.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(2);
/// How long taking leave may take.
const FAREWELL: Duration = Duration::from_millis(700);
/// Once Redis has lost its data, how long every replica waits for all others to tell it theirs: longer than
/// any of them pauses before it connects again.
const GATHERING: Duration = Duration::from_millis(2_500);
/// For so long after a connection came up replicas known before count, seen or not: to be seen again each
/// of them needs a pause, an attempt to connect and a beat.
const ASSEMBLY: Duration = Duration::from_secs(8);
/// Accounts told of at the same time.
const AT_ONCE: usize = 64;

/// For ever.
pub(super) async fn keep(inner: &Arc<Inner>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let begun = Instant::now();
        match connect(inner).await {
            Ok((live, pushes)) => serve(inner, &live, pushes).await,
            Err(trouble) => inner.link.failed(trouble),
        }
        shorten_claims(inner);
        // A connection that lived is worth a quick try.
        pause =
            if begun.elapsed() > LAST_PAUSE { FIRST_PAUSE } else { (pause * 2).min(LAST_PAUSE) };
        let jittered = pause.mul_f64(rand::rng().random_range(0.5..1.0));
        sleep(jittered).await;
    }
}

/// Once no call runs: nothing is held any longer, and nobody counts on this replica. Over a connection of
/// its own, since what the keeper ran on may be gone.
pub(super) async fn leave(inner: &Arc<Inner>) {
    inner.is_leaving.store(true, Ordering::Release);
    let leaving = async {
        let (sender, _pushes) = unbounded_channel();
        let live = Live::connect(&inner.client, inner.texts.clone(), sender).await?;
        if inner.link.live().is_none() {
            // It may not be the Redis that was told before.
            tell_claims(inner, &live).await?;
            inner.entries().iter().for_each(|entry| lock(&entry.books).retell());
        }
        tell_all(inner, &live, inner.entries(), Tell::Return).await?;
        clear_claims(inner);
        beat(inner, &live, PATIENCE).await
    };
    // Others learn it from the silence.
    if !matches!(timeout(FAREWELL, leaving).await, Ok(Ok(_))) {
        tracing::warn!("the shared store could not be told of the end; what is held stays used");
    }
}

/// A connection that knows everything this replica knows.
async fn connect(inner: &Arc<Inner>) -> Result<(Arc<Live>, UnboundedReceiver<PushInfo>), Trouble> {
    let (sender, pushes) = unbounded_channel();
    let live = Live::connect(&inner.client, inner.texts.clone(), sender).await?;
    // A Redis that is slower than requests may wait is of no use.
    let roll = beat(inner, &live, WAIT).await?;
    tell_claims(inner, &live).await?;
    let known = lock(&inner.birth).clone();
    let is_emptied = known.as_ref().is_some_and(|known| *known != roll.birth);
    let now = inner.when().here;
    for entry in inner.entries() {
        let mut books = lock(&entry.books);
        books.retell();
        if is_emptied {
            books.recount(now);
        }
    }
    // What was recounted waits in the books until it is told; once more, and it would count twice.
    live.set_birth(&roll.birth);
    *lock(&inner.birth) = Some(roll.birth);
    tell_all(inner, &live, inner.entries(), Tell::News).await?;
    if is_emptied {
        tracing::warn!(
            "the shared store came back without its data; every gateway tells it what it knows"
        );
    }
    if known.is_some() && roll.age < GATHERING {
        // Until all have, the sums are too low, and decisions are made as without it.
        sleep(GATHERING.saturating_sub(roll.age)).await;
        beat(inner, &live, WAIT).await?;
        tell_all(inner, &live, inner.entries(), Tell::News).await?;
    }
    inner.link.up(&live, inner.when().here);
    Ok((live, pushes))
}

/// While the connection lives.
async fn serve(inner: &Arc<Inner>, live: &Arc<Live>, mut pushes: UnboundedReceiver<PushInfo>) {
    let mut beats = interval(BEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let done = tokio::select! {
            () = live.gone() => return,
            _ = beats.tick() => look_around(inner, live).await,
            () = inner.news.notified() => tell_news(inner, live).await,
            push = pushes.recv() => match push.as_ref().map(|push| (&push.kind, wanted(push))) {
                None | Some((PushKind::Disconnection, _)) => {
                    Err(Trouble::Connection("the connection was closed".to_owned()))
                }
                Some((_, Some(tag))) => give_back(inner, live, &tag).await,
                Some((_, None)) => Ok(()),
            },
        };
        if let Err(trouble) = done {
            inner.link.give_up(live, trouble, inner.when().here);
            return;
        }
    }
}

/// Of which account others want money.
fn wanted(push: &PushInfo) -> Option<String> {
    let [channel, tag] = push.data.as_slice() else { return None };
    let channel: String = from_redis_value_ref(channel).ok()?;
    (push.kind == PushKind::Message && channel == WANTED).then_some(())?;
    from_redis_value_ref(tag).ok()
}

async fn beat(inner: &Inner, live: &Live, patience: Duration) -> Result<Roll, Trouble> {
    let leaves = inner.is_leaving.load(Ordering::Acquire);
    let asked = live.scripts.beat(&live.connection, &inner.replica, leaves);
    let roll = live.answer(Instant::now() + patience, asked).await?;
    inner.set_clock(roll.redis_ms);
    if let Some(seen) = Share::of(&inner.replica, &roll.alive) {
        let condition = inner.link.condition();
        let is_settled = condition.is_up && condition.since + ASSEMBLY < inner.when().here;
        // The old place with the old number: a new one might be another replica's.
        if is_settled || inner.replicas() <= seen.replicas || inner.share.load().is_none() {
            inner.share.store(Some(Arc::new(seen)));
        }
    }
    Ok(roll)
}

/// A beat, and whatever nobody has asked for: calls that still run, money that lies idle.
async fn look_around(inner: &Arc<Inner>, live: &Arc<Live>) -> Result<(), Trouble> {
    let roll = beat(inner, live, PATIENCE).await?;
    if live.birth() != roll.birth {
        return Err(Trouble::Emptied);
    }
    let now = inner.when().here;
    let has_news = |entry: &Arc<Entry>| !lock(&entry.books).is_quiet(now);
    let entries = inner.entries().into_iter().filter(has_news).collect();
    tell_all(inner, live, entries, Tell::News).await?;
    clear_claims(inner);
    shorten_claims(inner);
    Ok(())
}

async fn tell_news(inner: &Arc<Inner>, live: &Arc<Live>) -> Result<(), Trouble> {
    let entries = std::mem::take(&mut *lock(&inner.dirty));
    tell_all(inner, live, entries, Tell::News).await
}

async fn give_back(inner: &Arc<Inner>, live: &Arc<Live>, tag: &str) -> Result<(), Trouble> {
    let entry = lock(&inner.accounts).by_tag.get(tag).cloned();
    tell_all(inner, live, entry.into_iter().collect(), Tell::Return).await
}

/// Tells what there is of these accounts, many at a time; the first trouble ends it. What comes up
/// meanwhile is told in the next round, so that a busy account keeps neither the others nor a beat waiting.
async fn tell_all(
    inner: &Arc<Inner>,
    live: &Arc<Live>,
    entries: Vec<Arc<Entry>>,
    tell: Tell,
) -> Result<(), Trouble> {
    let mut waiting = entries.into_iter();
    let mut telling = JoinSet::new();
    let mut outcome = Ok(());
    loop {
        while telling.len() < AT_ONCE && outcome.is_ok() {
            let Some(entry) = waiting.next() else { break };
            telling.spawn(tell_one(Arc::clone(inner), Arc::clone(live), entry, tell));
        }
        match telling.join_next().await {
            Some(Ok(told)) => outcome = outcome.and(told),
            Some(Err(_)) => {}
            None => break,
        }
    }
    for entry in waiting {
        inner.tell(&entry);
    }
    outcome
}

async fn tell_one(
    inner: Arc<Inner>,
    live: Arc<Live>,
    entry: Arc<Entry>,
    tell: Tell,
) -> Result<(), Trouble> {
    entry.is_dirty.store(false, Ordering::Release);
    let to_look = lock(&entry.to_look).take();
    if let Some(account) = to_look {
        let looked = inner.look(&live, &entry, &account, Instant::now() + PATIENCE).await;
        inner.unless_spoilt(&entry, looked)?;
    }
    let due = lock(&entry.books).reports_due(inner.when().here);
    // One more finds out whether that was all.
    for _ in 0..=due {
        let now = inner.when().here;
        let Some(report) = lock(&entry.books).report(tell, inner.replicas(), now) else {
            return Ok(());
        };
        let report = OnItsWay { entry: &entry, report: Some(report) };
        match report.tell(&inner, &live).await {
            Ok(()) => {}
            Err(trouble) => {
                // Where the account alone is to blame it is tried with the next beat, not at once.
                let trouble = inner.unless_spoilt(&entry, Err(trouble));
                return trouble.inspect_err(|_| inner.tell(&entry));
            }
        }
    }
    inner.tell(&entry);
    Ok(())
}

/// A report on its way. Dropped, it may not have been heard.
struct OnItsWay<'e> {
    entry: &'e Entry,
    report: Option<Report>,
}

impl OnItsWay<'_> {
    async fn tell(mut self, inner: &Inner, live: &Live) -> Result<(), Trouble> {
        let Some(report) = &self.report else { return Ok(()) };
        let told = live.scripts.report(&live.connection, report);
        let receipt = live.answer(Instant::now() + PATIENCE, told).await?;
        lock(&self.entry.books).reported(report, &receipt, inner.when().here);
        self.report = None;
        Ok(())
    }
}

impl Drop for OnItsWay<'_> {
    fn drop(&mut self) {
        if let Some(report) = self.report.take() {
            lock(&self.entry.books).unreported(report);
        }
    }
}

/// What this or an earlier process promised beyond its leases.
async fn tell_claims(inner: &Inner, live: &Live) -> Result<(), Trouble> {
    let all = lock(&inner.claims).all().inspect_err(|error| {
        tracing::error!(%error, "promises of an earlier process cannot be read");
    });
    let mut is_all_told = all.is_ok();
    for claim in all.unwrap_or_default() {
        let report = claim.report(inner.when().here);
        let told = live.scripts.report(&live.connection, &report);
        let told = live.answer(Instant::now() + PATIENCE, told).await;
        if told == Err(Trouble::Account) {
            let names = format!("{}*", report.names.common());
            tracing::error!(names, "a promise cannot be told: something else is under these names");
            is_all_told = false;
        } else {
            told?;
        }
    }
    lock(&inner.claims).are_told(is_all_told);
    Ok(())
}

/// So that promises do not fill the disk. Where there are any: on a thread of its own, for which no beat
/// waits, and one at a time.
fn shorten_claims(inner: &Arc<Inner>) {
    if !lock(&inner.claims).begin_shortening() {
        return;
    }
    let inner = Arc::clone(inner);
    let shorten = move || {
        if let Err(error) = claims::shorten(&inner.claims) {
            tracing::warn!(%error, "promises cannot be written anew; their file goes on growing");
        }
    };
    drop(tokio::task::spawn_blocking(shorten));
}

/// Once Redis knows every promise, none need stand on disk.
pub(super) fn clear_claims(inner: &Inner) {
    // Held from the look to the clearing: a claim that is written later stays. Whoever writes one holds no
    // books then.
    let mut claims = lock(&inner.claims);
    if !claims.can_be_cleared()
        || inner.entries().iter().any(|entry| lock(&entry.books).is_overdrawn())
    {
        return;
    }
    if let Err(error) = claims.clear() {
        tracing::error!(%error, "promises that are told cannot be taken off the disk");
    }
}
