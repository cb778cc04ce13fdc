//! What one account does at this replica: calls that run, its part of the budget, what Redis last
//! said, and what Redis is still to be told.

use super::lease::{Draw, Lease, Term, Word};
use super::names::Names;
use super::script::{Answer, Decision};
use super::share::Straddle;
use crate::store::{Account, Ask, Budget, MINUTE, NanoUsd, Ticket, Window};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Calls that ended while Redis was away, at most; of further ones the slots come back when their
/// leases expire.
const MAX_ENDED: usize = 10_000;

/// How old what Redis said may be before it is asked again for a page or a metric.
const FRESH: Duration = Duration::from_secs(1);

/// A moment here and there.
#[derive(Debug, Clone, Copy)]
pub(super) struct When {
    /// Since this store was opened, on a clock that never goes back.
    pub(super) here: Duration,
    /// By Redis' clock, as far as it is known: milliseconds since 1970.
    pub(super) redis_ms: i64,
}

/// A question to `admit`.
#[derive(Debug, Clone)]
pub(super) struct Admission {
    pub(super) names: Arc<Names>,
    pub(super) account: Account,
    /// `None` only looks.
    pub(super) call: Option<u64>,
    pub(super) tokens: u64,
    pub(super) term: Option<Term>,
    pub(super) record: Arc<str>,
    pub(super) draw: Option<Draw>,
    pub(super) word: Option<Word>,
    /// By Redis' clock; a call that is asked for later than that is not counted.
    pub(super) valid_until_ms: i64,
}

/// What Redis is told of an account.
#[derive(Debug, Clone)]
pub(super) struct Report {
    pub(super) names: Arc<Names>,
    pub(super) term: Option<Term>,
    pub(super) record: Arc<str>,
    pub(super) word: Option<Word>,
    pub(super) ended: Vec<Ended>,
    pub(super) running: Vec<u64>,
    pub(super) away: Vec<Away>,
    /// When it was written.
    pub(super) at: Duration,
}

/// A call that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) call: u64,
    /// Where its tokens are counted.
    pub(super) slot: i64,
    /// By how many they were wrong.
    pub(super) tokens: i64,
}

/// What was admitted without Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Away {
    pub(super) at: Duration,
    pub(super) requests: u64,
    pub(super) tokens: u64,
}

/// A call that runs.
#[derive(Debug, Clone)]
pub(super) struct Running {
    pub(super) tokens: u64,
    pub(super) reserved: NanoUsd,
    pub(super) term: Option<Term>,
    /// Where Redis counts its tokens; `None` where Redis does not know the call.
    pub(super) slot: Option<i64>,
    pub(super) ticket: Option<Ticket>,
    /// When Redis last heard that it runs.
    pub(super) told: Duration,
}

/// What Redis last said.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Known {
    pub(super) at: Duration,
    pub(super) requests: u64,
    pub(super) requests_reset: Duration,
    pub(super) tokens: u64,
    pub(super) tokens_reset: Duration,
    pub(super) running: u64,
    pub(super) used: u64,
    pub(super) spent: u64,
    /// Held by replicas that are gone, and as good as spent; as the last look at it found.
    pub(super) lost: u64,
    pub(super) is_scarce: bool,
}

/// The books of one account.
#[derive(Debug)]
pub(super) struct Books {
    pub(super) names: Arc<Names>,
    pub(super) running: HashMap<u64, Running>,
    pub(super) ended: VecDeque<Ended>,
    pub(super) away: VecDeque<Away>,
    pub(super) lease: Option<Lease>,
    /// Leases of periods that are over, until all is told.
    pub(super) past: Vec<Lease>,
    /// Admitted here in the last minute, by Redis or without.
    pub(super) requests: Window,
    pub(super) tokens: Window,
    pub(super) known: Option<Known>,
    pub(super) straddle: Option<Straddle>,
    pub(super) budget: Option<Budget>,
    /// Whether Redis counts the calls that run, as of the last question; what ends is told by what is
    /// known of each call.
    pub(super) is_tracked: bool,
    spoilt: Spoilt,
}

/// Whether Redis can work with what it holds of an account.
#[derive(Debug, Default)]
struct Spoilt {
    /// Since when not.
    since: Option<Duration>,
    /// When the log was told: what one script stumbles over another one may not.
    told: Option<Duration>,
}

impl Books {
    /// Empty books of this account.
    pub(super) fn new(account: &str) -> Self {
        Self {
            names: Arc::new(Names::of(account)),
            running: HashMap::new(),
            ended: VecDeque::new(),
            away: VecDeque::new(),
            lease: None,
            past: Vec::new(),
            requests: Window::default(),
            tokens: Window::default(),
            known: None,
            straddle: None,
            budget: None,
            is_tracked: false,
            spoilt: Spoilt::default(),
        }
    }

    /// Redis cannot work with what it holds of this account; whether that is to be told, which
    /// is once a minute.
    pub(super) fn spoil(&mut self, now: Duration) -> bool {
        self.spoilt.since.get_or_insert(now);
        let is_news = self.spoilt.told.is_none_or(|told| told + MINUTE < now);
        self.spoilt.told = if is_news { Some(now) } else { self.spoilt.told };
        is_news
    }

    /// Since when Redis cannot work with what it holds of this account, if so.
    pub(super) const fn spoilt_since(&self) -> Option<Duration> {
        self.spoilt.since
    }

    /// Whether Redis has said anything yet.
    pub(super) const fn is_known(&self) -> bool {
        self.known.is_some()
    }

    /// Whether what Redis last said is too old to show.
    pub(super) fn is_unsure(&self, now: Duration) -> bool {
        self.known.is_none_or(|known| known.at + FRESH < now)
    }

    /// What stands for the account in Redis.
    pub(super) fn tag(&self) -> &str {
        &self.names.tag
    }

    /// Writes down what to ask of Redis for a call that waits for so long, and takes for it what lies
    /// idle here. To be closed with [`Books::answered`] or [`Books::unanswered`].
    pub(super) fn ask(
        &mut self,
        account: &Account,
        ask: &Ask,
        (when, waits): (When, Duration),
        record: impl FnOnce() -> Arc<str>,
    ) -> Admission {
        self.is_tracked = is_tracked(account);
        let lease = self.lease(account, when, record);
        let draw = lease.map(|lease| lease.draw(ask.worst, when.here));
        let lease = self.lease.as_ref().filter(|_| draw.is_some());
        let waits_ms = i64::try_from(waits.as_millis()).unwrap_or(i64::MAX);
        Admission {
            account: account.clone(),
            call: Some(ask.call.0),
            tokens: ask.tokens,
            term: lease.map(|lease| lease.term),
            record: lease.map_or_else(|| "".into(), |lease| Arc::clone(&lease.record)),
            draw,
            word: lease.map(Lease::word),
            names: Arc::clone(&self.names),
            valid_until_ms: when.redis_ms.saturating_add(waits_ms),
        }
    }

    /// Writes down what to ask of Redis about an account.
    pub(super) fn look(
        &mut self,
        account: &Account,
        when: When,
        record: impl FnOnce() -> Arc<str>,
    ) -> Admission {
        let lease = self.lease(account, when, record).map(|lease| &*lease);
        Admission {
            account: account.clone(),
            call: None,
            tokens: 0,
            term: lease.map(|lease| lease.term),
            record: lease.map_or_else(|| "".into(), |lease| Arc::clone(&lease.record)),
            draw: None,
            word: lease.map(Lease::word),
            names: Arc::clone(&self.names),
            valid_until_ms: i64::MAX,
        }
    }

    /// Redis answered: notes what it said and, where it admitted the call, that it runs.
    pub(super) fn answered(
        &mut self,
        admission: &Admission,
        answer: &Answer,
        now: Duration,
    ) -> Option<NanoUsd> {
        if self.spoilt.since.take().is_some() {
            // Part of what Redis had been told may be gone.
            self.retell();
        }
        let is_admitted = answer.decision == Decision::Admitted;
        let mut reserved = NanoUsd::ZERO;
        if let Some(lease) = self.lease_of(admission.term) {
            lease.learn(answer.given);
            match admission.draw {
                Some(draw) if is_admitted => reserved = lease.confirm(draw, answer.granted, now),
                Some(draw) => lease.undo(draw),
                None => {}
            }
        }
        if answer.decision != Decision::Stale {
            let before = self.known.map_or(0, |known| known.lost);
            self.known = Some(Known {
                lost: if admission.call.is_none() { answer.gone } else { before },
                at: now,
                requests: answer.requests,
                requests_reset: answer.requests_reset,
                tokens: answer.tokens,
                tokens_reset: answer.tokens_reset,
                running: answer.running,
                used: answer.used,
                spent: answer.spent,
                is_scarce: answer.is_scarce,
            });
        }
        let call = admission.call.filter(|_| is_admitted)?;
        let running = Running {
            tokens: admission.tokens,
            reserved,
            term: admission.term,
            slot: is_tracked(&admission.account).then_some(answer.slot),
            ticket: self.count(&admission.account, admission.tokens, now),
            told: now,
        };
        self.running.insert(call, running);
        Some(reserved)
    }

    /// Whether what this replica holds would do for a call, once the answers that are on their way
    /// have shown whose it is.
    pub(super) fn may_cover(&self, ask: &Ask) -> bool {
        let worst = ask.worst.unwrap_or(NanoUsd(1)).0;
        // Beyond a limit that was lowered nobody may spend it.
        let is_over = self.budget.is_some_and(|budget| self.used() > budget.limit);
        !is_over && self.lease.as_ref().is_some_and(|lease| lease.held() >= worst)
    }

    /// Given to all replicas, as Redis last said.
    pub(super) fn used(&self) -> NanoUsd {
        NanoUsd(self.known.map_or(0, |known| known.used))
    }

    /// Nobody knows what Redis decided: what lay idle is put back, and whatever it granted is
    /// learnt with the next answer.
    pub(super) fn unanswered(&mut self, admission: &Admission) {
        if let (Some(draw), Some(lease)) = (admission.draw, self.lease_of(admission.term)) {
            lease.undo(draw);
        }
    }

    /// Lets Redis take a call out that it may have admitted and that does not run.
    pub(super) fn abandon(&mut self, call: u64) {
        self.end(Ended { call, slot: -1, tokens: 0 });
    }

    /// Redis may count a call that was then admitted without it: its end is told in any case.
    pub(super) fn doubt(&mut self, call: u64) {
        if let Some(running) = self.running.get_mut(&call) {
            running.slot.get_or_insert(-1);
        }
    }

    fn end(&mut self, ended: Ended) {
        if self.ended.len() >= MAX_ENDED {
            self.ended.pop_front();
        }
        self.ended.push_back(ended);
    }

    /// Counts a call in this replica's own windows.
    pub(super) fn count(
        &mut self,
        account: &Account,
        tokens: u64,
        now: Duration,
    ) -> Option<Ticket> {
        if account.requests_per_minute.is_some() {
            self.requests.take(1, now);
        }
        account.tokens_per_minute.map(|_| self.tokens.take(tokens, now))
    }

    /// A call ended; `false` where none of this name runs.
    pub(super) fn settle(&mut self, call: u64, tokens: u64, cost: NanoUsd, now: Duration) -> bool {
        let Some(running) = self.running.remove(&call) else { return false };
        if let Some(known) = &mut self.known {
            known.running = known.running.saturating_sub(1);
        }
        if let Some(ticket) = running.ticket {
            self.tokens.correct(ticket, running.tokens, tokens, now);
        }
        if let Some(lease) = self.lease_of(running.term) {
            lease.settle(running.reserved, cost);
        }
        // Whatever limits there are by now: what Redis counts it is told of.
        if let Some(slot) = running.slot {
            let as_signed = |tokens| i64::try_from(tokens).unwrap_or(i64::MAX);
            self.end(Ended { call, slot, tokens: as_signed(tokens) - as_signed(running.tokens) });
        }
        true
    }
}

/// Whether Redis knows of each call that runs: to count them, or to correct their tokens once.
pub(super) const fn is_tracked(account: &Account) -> bool {
    account.concurrent.is_some() || account.tokens_per_minute.is_some()
}
