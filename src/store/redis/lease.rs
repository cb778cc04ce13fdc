//! This replica's part of one budget in one period: what it was given, has spent, has promised to
//! calls that run, keeps for calls to come, and returns.
//!
//! `given`, `spent` and `returned` only grow, and each is raised on one side alone: `given` by
//! Redis, the others here. Telling them again changes nothing, and a lost answer is made good by
//! the next one.

use crate::store::{Day, NanoUsd, Period};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// One calendar period of a budget, by Redis' clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Term {
    /// Day, month or total.
    pub(super) per: Period,
    /// Its number among its like.
    pub(super) number: i64,
    /// First millisecond since 1970.
    pub(super) begins_ms: i64,
    /// First millisecond after it; -1 where it never ends.
    pub(super) ends_ms: i64,
}

/// How much was promised lately, for how much to keep.
#[derive(Debug, Default)]
struct Pace(VecDeque<(u64, u64)>);

/// A lease of one term.
#[derive(Debug)]
pub(super) struct Lease {
    /// Of which period.
    pub(super) term: Term,
    /// The name of its record in Redis; no two leases share one.
    pub(super) record: Arc<str>,
    given: u64,
    spent: u64,
    returned: u64,
    /// Promised to calls that run.
    reserved: u64,
    /// Asked of Redis by calls whose answer is open: it may be in `given` already.
    asked: u64,
    /// Calls in flight that asked for everything.
    asking_for_all: u32,
    is_stocking: bool,
    pace: Pace,
    told: Option<Word>,
    told_at: Duration,
}

/// What a call takes from a lease and what it asks of Redis, until the answer is there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Draw {
    /// Taken from what lay idle.
    pub(super) covered: u64,
    /// Asked for on top; `None` for all there is.
    pub(super) asked: Option<u64>,
    /// Asked for besides, for calls to come.
    pub(super) want: u64,
}

/// What a replica says of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Word {
    /// Given by Redis, or more where more is promised already.
    pub(super) given: u64,
    /// Spent.
    pub(super) spent: u64,
    /// Given back.
    pub(super) returned: u64,
    /// Held for calls to come.
    pub(super) idle: u64,
}

/// The largest amount that Redis' numbers hold exactly: nine million dollars.
pub(super) const MOST: u64 = (1 << 53) - 1;
/// A replica keeps what it promised in its busiest two seconds of the last minute.
const ROUND: Duration = Duration::from_secs(2);
const ROUNDS: u64 = 30;
/// What was spent is told again so often, long before Redis forgets the record of a replica that is
/// silent for a day: it would take what it is told later for something new, and count it twice.
const REMIND: Duration = Duration::from_hours(6);
/// Well within the ten seconds after which Redis takes a silent replica for gone.
const REFRESH: Duration = Duration::from_secs(4);

impl Term {
    /// The term of this kind that holds a moment of Redis' clock.
    pub(super) fn at(per: Period, redis_ms: i64) -> Self {
        let since = Duration::from_millis(u64::try_from(redis_ms).unwrap_or_default());
        let day = Day::of(SystemTime::UNIX_EPOCH + since);
        let begins_ms = match per {
            Period::Day => millis(day.begins()),
            Period::Month => {
                let past = i64::from(day.date().day()) - 1;
                millis(Day(day.0 - past).begins())
            }
            Period::Total => 0,
        };
        let ends_ms = per.ends(day).map_or(-1, millis);
        Self { per, number: per.number(day), begins_ms, ends_ms }
    }

    /// The end of its key.
    pub(super) fn name(&self) -> String {
        match self.per {
            Period::Day => format!("day:{}", self.number),
            Period::Month => format!("month:{}", self.number),
            Period::Total => "total".to_owned(),
        }
    }

    /// When it is over.
    pub(super) fn ends(&self) -> Option<SystemTime> {
        let ms = u64::try_from(self.ends_ms).ok()?;
        Some(SystemTime::UNIX_EPOCH + Duration::from_millis(ms))
    }
}

/// Milliseconds since 1970.
pub(super) fn millis(at: SystemTime) -> i64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

impl Pace {
    fn add(&mut self, amount: u64, now: Duration) {
        let round = now.as_secs() / ROUND.as_secs();
        match self.0.back_mut() {
            Some((newest, sum)) if *newest == round => *sum = sum.saturating_add(amount),
            Some(_) | None => self.0.push_back((round, amount)),
        }
        while self.0.front().is_some_and(|(oldest, _)| oldest + ROUNDS <= round) {
            self.0.pop_front();
        }
    }

    fn recent(&self, now: Duration) -> u64 {
        let round = now.as_secs() / ROUND.as_secs();
        let last = self.0.iter().filter(|(at, _)| at + ROUNDS > round);
        last.map(|(_, sum)| *sum).max().unwrap_or_default()
    }
}

impl Lease {
    /// A lease that holds nothing yet.
    pub(super) fn new(term: Term, record: Arc<str>, now: Duration) -> Self {
        Self {
            term,
            record,
            given: 0,
            spent: 0,
            returned: 0,
            reserved: 0,
            asked: 0,
            asking_for_all: 0,
            is_stocking: false,
            pace: Pace::default(),
            told: None,
            told_at: now,
        }
    }

    /// What is not promised to a call that runs.
    pub(super) fn held(&self) -> u64 {
        self.given.saturating_sub(self.spent + self.returned + self.reserved)
    }

    /// What a call may take without asking: what answers still on their way may have brought to
    /// `given` belongs to those who asked.
    pub(super) fn idle(&self) -> u64 {
        if self.asking_for_all > 0 { 0 } else { self.held().saturating_sub(self.asked) }
    }

    /// Takes what lies idle for a call, and says what it must ask for. Without a known worst case
    /// it takes and asks for all there is.
    pub(super) fn draw(&mut self, worst: Option<NanoUsd>, now: Duration) -> Draw {
        let idle = self.idle();
        let Some(NanoUsd(worst)) = worst else {
            self.reserved += idle;
            self.asking_for_all += 1;
            return Draw { covered: idle, asked: None, want: 0 };
        };
        let worst = worst.min(MOST);
        let covered = idle.min(worst);
        let asked = worst - covered;
        self.reserved += covered;
        self.asked += asked;
        let goal = self.goal(now).max(worst);
        let want = if self.is_stocking { 0 } else { goal.saturating_sub(self.held()) };
        self.is_stocking |= want > 0;
        Draw { covered, asked: Some(asked), want }
    }

    /// How much to keep for calls to come, if nothing is scarce.
    fn goal(&self, now: Duration) -> u64 {
        self.pace.recent(now)
    }

    /// The call was refused, or nobody knows.
    pub(super) fn undo(&mut self, draw: Draw) {
        self.close(draw);
        self.reserved = self.reserved.saturating_sub(draw.covered);
    }

    /// The call was admitted and granted this on top; what it holds now.
    pub(super) fn confirm(&mut self, draw: Draw, granted: u64, now: Duration) -> NanoUsd {
        self.close(draw);
        self.reserved += granted;
        let amount = draw.covered + granted;
        if draw.asked.is_some() {
            self.pace.add(amount, now);
        }
        NanoUsd(amount)
    }

    fn close(&mut self, draw: Draw) {
        match draw.asked {
            Some(asked) => self.asked = self.asked.saturating_sub(asked),
            None => self.asking_for_all = self.asking_for_all.saturating_sub(1),
        }
        if draw.want > 0 {
            self.is_stocking = false;
        }
    }

    /// Redis says how much it has given in all.
    pub(super) fn learn(&mut self, given: u64) {
        self.given = self.given.max(given);
    }

    /// Takes from what lies idle, without Redis; `None` where it is not enough.
    pub(super) fn take(&mut self, worst: Option<NanoUsd>, now: Duration) -> Option<NanoUsd> {
        let idle = self.idle();
        let amount = worst.map_or(idle, |worst| worst.0);
        let is_enough = amount <= idle && (worst.is_some() || idle > 0);
        is_enough.then(|| self.promise(NanoUsd(amount), now))
    }

    /// Promises an amount whether it is there or not.
    pub(super) fn promise(&mut self, amount: NanoUsd, now: Duration) -> NanoUsd {
        let amount = amount.0.min(MOST);
        self.reserved += amount;
        self.pace.add(amount, now);
        NanoUsd(amount)
    }

    /// What is promised beyond what Redis has given.
    pub(super) fn overdrawn(&self) -> u64 {
        (self.spent + self.returned + self.reserved).saturating_sub(self.given)
    }

    /// A call ended: its reservation is free, its cost is spent.
    pub(super) fn settle(&mut self, reserved: NanoUsd, cost: NanoUsd) {
        self.reserved = self.reserved.saturating_sub(reserved.0);
        self.spent += cost.0.min(MOST);
    }

    /// Gives back what is idle beyond this.
    pub(super) fn give_back(&mut self, keep: u64) {
        self.returned += self.idle().saturating_sub(keep);
    }

    /// Gives back what is more than a fair store for calls to come; `free` is what of the budget
    /// nobody holds, `None` where it is scarce.
    pub(super) fn trim(&mut self, free: Option<u64>, replicas: u64, now: Duration) {
        let fair = free.map_or(0, |free| free.saturating_add(self.held()) / (4 * replicas.max(1)));
        self.give_back(self.goal(now).min(fair));
    }

    /// What to tell Redis.
    pub(super) fn word(&self) -> Word {
        let promised = self.spent + self.returned + self.reserved;
        Word {
            given: self.given.max(promised),
            spent: self.spent,
            returned: self.returned,
            idle: self.idle(),
        }
    }

    /// Redis has heard this word.
    pub(super) fn heard(&mut self, word: Word, now: Duration) {
        self.told = Some(word);
        self.told_at = now;
    }

    /// Whatever Redis knew, it is to be told again.
    pub(super) fn retell(&mut self) {
        self.told = None;
    }

    /// What is held is told again and again: others count on what lies idle, and take what is promised for
    /// lost, by whether this replica is heard of.
    pub(super) fn refresh(&mut self, now: Duration) {
        if self.idle() + self.reserved > 0 && self.told_at + REFRESH < now || self.is_due(now) {
            self.told = None;
        }
    }

    /// Whether Redis has not heard for long of what it must not forget.
    pub(super) fn is_due(&self, now: Duration) -> bool {
        self.given > 0 && self.told_at + REMIND < now
    }

    /// Whether Redis knows what is to be known.
    pub(super) fn is_told(&self) -> bool {
        self.told == Some(self.word())
    }

    /// Whether nothing is held and no call runs.
    pub(super) fn is_empty(&self) -> bool {
        self.reserved == 0 && self.asked == 0 && self.asking_for_all == 0 && self.held() == 0
    }

    /// What this replica alone knows of: promised to calls that run, or spent and not told.
    pub(super) fn owed(&self) -> NanoUsd {
        NanoUsd(self.reserved).plus(self.untold())
    }

    /// Spend that Redis has not heard of.
    pub(super) fn untold(&self) -> NanoUsd {
        NanoUsd(self.spent.saturating_sub(self.told.map_or(0, |word| word.spent)))
    }
}

#[cfg(test)]
mod tests;
