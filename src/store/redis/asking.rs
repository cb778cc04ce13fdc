//! How one call is asked for: of Redis, again where money is on its way, else without it.

use super::alone::Denial;
use super::books::{Admission, is_tracked};
use super::claim::Claim;
use super::link::{Live, Trouble};
use super::script::{Answer, Decision, Known};
use super::{Entry, Inner, WAIT, lock, view};
use crate::store::config::OnDown;
use crate::store::{Account, Ask, NanoUsd, Refusal};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// First pause before asking again for money that others are just returning; each further one lasts
/// twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(3);

/// A question whose answer is open. Dropped without one, its part of the lease is put back, and
/// Redis is told that the call does not run.
struct Question<'a> {
    inner: &'a Inner,
    entry: &'a Arc<Entry>,
    admission: Admission,
    is_open: bool,
}

/// What became of a question.
pub(super) enum Outcome {
    Admitted(NanoUsd),
    Refused(Refusal),
    Unknown,
}

impl Inner {
    /// Asks Redis, or decides without it.
    pub(super) async fn ask(&self, entry: &Arc<Entry>, account: &Account, ask: &Ask) -> Outcome {
        let deadline = Instant::now() + WAIT;
        let (mut pause, mut is_doubtful, mut was_stale) = (FIRST_PAUSE, false, false);
        while let Some(live) = self.link.live() {
            let question = Question::new(self, entry, account, ask, deadline);
            let answer = match self.put(&live, &question.admission, deadline).await {
                Ok(answer) => answer,
                Err(trouble) => {
                    question.unanswered();
                    // What it lost it has not counted either.
                    is_doubtful = trouble != Trouble::Emptied;
                    if let Err(trouble) = self.unless_spoilt(entry, Err(trouble)) {
                        self.link.give_up(&live, trouble, self.when().here);
                    }
                    break;
                }
            };
            self.set_clock(answer.redis_ms);
            if let Some(reserved) = question.answered(&answer) {
                return Outcome::Admitted(reserved);
            }
            // Others hold it idle and are asked to return it, or it is here, behind calls in flight.
            let is_coming = answer.decision == Decision::Budget
                && (answer.elsewhere > 0 || lock(&entry.books).may_cover(ask));
            let is_stale = answer.decision == Decision::Stale;
            // Once its clock is known the period is right, unless that has been set back.
            let wait = if is_stale && !was_stale { Duration::ZERO } else { pause };
            was_stale |= is_stale;
            // The last question must leave Redis enough time, or its circuit would open for nothing.
            let may_wait = Instant::now() + wait + WAIT / 2 < deadline;
            if (is_stale || is_coming) && may_wait {
                sleep(wait).await;
                pause *= 2;
                continue;
            }
            if is_stale {
                break;
            }
            return view::refusal(account, ask, &answer).map_or(Outcome::Unknown, Outcome::Refused);
        }
        self.decide_alone(entry, account, ask, is_doubtful)
    }

    /// Asks how an account stands.
    pub(super) async fn look(
        &self,
        live: &Live,
        entry: &Entry,
        account: &Account,
        deadline: Instant,
    ) -> Result<(), Trouble> {
        let admission = lock(&entry.books).look(account, self.when(), || self.record());
        let answer = self.put(live, &admission, deadline).await?;
        lock(&entry.books).answered(&admission, &answer, self.when().here);
        Ok(())
    }

    /// Puts a question to Redis, and waits for the answer.
    async fn put(
        &self,
        live: &Live,
        admission: &Admission,
        deadline: Instant,
    ) -> Result<Answer, Trouble> {
        let known = Known { replicas: self.replicas(), birth: live.birth() };
        let asked = live.scripts.admit(&live.connection, admission, known);
        let answer = if admission.call.is_some() {
            // Also of a connection that was given up: for as long as Redis may count the call.
            timeout_at(deadline, asked).await.map_err(|_| Trouble::TimedOut)??
        } else {
            live.answer(deadline, asked).await?
        };
        let is_emptied = answer.decision == Decision::Emptied;
        if is_emptied { Err(Trouble::Emptied) } else { Ok(answer) }
    }

    /// Decides without Redis, as the operator wants it.
    fn decide_alone(
        &self,
        entry: &Arc<Entry>,
        account: &Account,
        ask: &Ask,
        is_doubtful: bool,
    ) -> Outcome {
        let when = self.when();
        let mut books = lock(&entry.books);
        let since = books.spoilt_since().unwrap_or_else(|| self.link.condition().since);
        let decided = match (self.on_down, self.share.load().as_deref()) {
            (OnDown::Allow, _) => Ok(books.admit_anyway(account, ask, when, || self.record())),
            (OnDown::Local, Some(share)) => books.admit_alone(account, ask, when, *share, since),
            // Before the first connection nobody knows which share is ours.
            (OnDown::Local, None) | (OnDown::Deny, _) => Err(Denial::Unknown),
        };
        match decided {
            Ok(reserved) => {
                if is_doubtful && is_tracked(account) {
                    books.doubt(ask.call.0);
                }
                let claim = Claim::of(&books);
                // The keeper holds the claims while it looks into everyone's books: never both here. What is
                // promised stands in the books before its claim is written, so that nothing is cleared
                // meanwhile but what Redis knows.
                drop(books);
                self.note(claim);
                Outcome::Admitted(reserved)
            }
            Err(denial) => {
                // It may have been admitted with an answer that was lost.
                if is_tracked(account) {
                    books.abandon(ask.call.0);
                }
                match denial {
                    Denial::Refused(refusal) => Outcome::Refused(refusal),
                    Denial::Unknown => Outcome::Unknown,
                }
            }
        }
    }

    fn note(&self, claim: Option<Claim>) {
        let Some(claim) = claim else { return };
        if let Err(error) = lock(&self.claims).note(&claim) {
            tracing::error!(%error, "spend without Redis cannot be written to the store's folder");
        }
    }
}

impl<'a> Question<'a> {
    fn new(
        inner: &'a Inner,
        entry: &'a Arc<Entry>,
        account: &Account,
        ask: &Ask,
        deadline: Instant,
    ) -> Self {
        let waits = deadline.saturating_duration_since(Instant::now());
        let when = (inner.when(), waits);
        let admission = lock(&entry.books).ask(account, ask, when, || inner.record());
        Self { inner, entry, admission, is_open: true }
    }

    fn answered(mut self, answer: &Answer) -> Option<NanoUsd> {
        self.is_open = false;
        lock(&self.entry.books).answered(&self.admission, answer, self.inner.when().here)
    }

    /// The call may yet be admitted, by other means.
    fn unanswered(mut self) {
        self.is_open = false;
        lock(&self.entry.books).unanswered(&self.admission);
    }
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        if !self.is_open {
            return;
        }
        let mut books = lock(&self.entry.books);
        books.unanswered(&self.admission);
        if let Some(call) = self.admission.call.filter(|_| is_tracked(&self.admission.account)) {
            books.abandon(call);
        }
        drop(books);
        self.inner.tell(self.entry);
    }
}
