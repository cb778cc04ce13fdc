//! The scripts that decide inside Redis: their text, their arguments in order, their answers.

use super::books::{Admission, Report};
use super::lease::{Draw, Word};
use super::names::{BIRTH, Names, REPLICAS, WANTED};
use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, RedisError, ServerErrorKind, Value, from_redis_value};
use std::time::Duration;

/// How long a running call counts without a further word: a dead replica's slots come back then.
pub(super) const CALL_LEASE: Duration = Duration::from_secs(30);
/// How long a replica counts as alive after its last beat.
const BEAT_COUNTS: Duration = Duration::from_secs(5);

const CLOCK: &str = include_str!("scripts/clock.lua");
const COMMON: &str = include_str!("scripts/common.lua");
const ADMIT: &str = include_str!("scripts/admit.lua");
const REPORT: &str = include_str!("scripts/report.lua");
const BEAT: &str = include_str!("scripts/beat.lua");

/// The texts of the scripts over one clock.
#[derive(Debug, Clone)]
pub(super) struct Texts {
    admit: String,
    report: String,
    beat: String,
}

/// The scripts as Redis knows them.
#[derive(Debug, Clone)]
pub(super) struct Scripts {
    texts: Texts,
    admit: String,
    report: String,
    beat: String,
}

/// What a question takes for granted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known<'k> {
    /// Replicas that are alive.
    pub(super) replicas: u64,
    /// What the data of this Redis go by; empty where that does not matter.
    pub(super) birth: &'k str,
}

/// What `admit` decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// The call may go on.
    Admitted,
    /// Too many calls run.
    Concurrent,
    /// Too many requests in a minute.
    Requests,
    /// Too many tokens in a minute.
    Tokens,
    /// Not enough money.
    Budget,
    /// The budget's period is another one by Redis' clock, or the answer comes too late.
    Stale,
    /// Redis has lost what it held since this replica connected; nothing is counted.
    Emptied,
}

/// The answer of `admit`. Times are milliseconds, money billionths of a dollar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) decision: Decision,
    pub(super) redis_ms: i64,
    /// When it may fit; below zero never.
    pub(super) retry_ms: i64,
    pub(super) running: u64,
    pub(super) requests: u64,
    pub(super) requests_reset: Duration,
    /// Where in the window the call's tokens are counted.
    pub(super) slot: i64,
    pub(super) tokens: u64,
    pub(super) tokens_reset: Duration,
    /// Given to this replica in all.
    pub(super) given: u64,
    /// Of that, for this call.
    pub(super) granted: u64,
    /// Given to all replicas, and not returned.
    pub(super) used: u64,
    /// Spent by all replicas.
    pub(super) spent: u64,
    /// What others hold idle, where that is what is missing.
    pub(super) elsewhere: u64,
    /// Whether nobody should keep money for calls to come.
    pub(super) is_scarce: bool,
    /// Held by replicas that are gone; only of a look.
    pub(super) gone: u64,
}

/// The answer of `report`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Receipt {
    pub(super) given: u64,
    pub(super) used: u64,
    pub(super) spent: u64,
    pub(super) is_scarce: bool,
}

/// The answer of `beat`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Roll {
    pub(super) redis_ms: i64,
    /// What the data of this Redis go by: another word where it lost them.
    pub(super) birth: String,
    /// How long they have been there.
    pub(super) age: Duration,
    /// Replicas that are alive.
    pub(super) alive: Vec<String>,
}

impl Texts {
    /// The scripts as they are in use.
    pub(super) fn real() -> Self {
        Self::with_clock(CLOCK)
    }

    /// The scripts over a function `clock()` in Lua that answers milliseconds since 1970.
    pub(super) fn with_clock(clock: &str) -> Self {
        let text = |body: &str| format!("{clock}\n{COMMON}\n{body}");
        Self { admit: text(ADMIT), report: text(REPORT), beat: text(BEAT) }
    }
}

impl Scripts {
    /// Lets Redis load them; their names.
    pub(super) async fn load(
        connection: &MultiplexedConnection,
        texts: Texts,
    ) -> Result<Self, RedisError> {
        let load = async |text: &str| -> Result<String, RedisError> {
            let mut command = redis::cmd("SCRIPT");
            command.arg("LOAD").arg(text);
            command.query_async(&mut connection.clone()).await
        };
        // All at once: a farewell has little time.
        let (admit, report, beat) =
            tokio::try_join!(load(&texts.admit), load(&texts.report), load(&texts.beat))?;
        Ok(Self { texts, admit, report, beat })
    }

    /// Decides about a call, or, without one, only looks.
    pub(super) async fn admit(
        &self,
        connection: &MultiplexedConnection,
        admission: &Admission,
        known: Known<'_>,
    ) -> Result<Answer, RedisError> {
        let mut command = start(&self.admit, 5, &admission.names, admission.term.as_ref());
        command.arg(BIRTH);
        admit_args(&mut command, admission, known);
        let answer = self.run(connection, &command).await?;
        Answer::read(&from_redis_value::<Vec<i64>>(answer)?).ok_or_else(unreadable)
    }

    /// Tells what an account did here.
    pub(super) async fn report(
        &self,
        connection: &MultiplexedConnection,
        report: &Report,
    ) -> Result<Receipt, RedisError> {
        let mut command = start(&self.report, 4, &report.names, report.term.as_ref());
        report_args(&mut command, report);
        let answer = self.run(connection, &command).await?;
        Receipt::read(&from_redis_value::<Vec<i64>>(answer)?).ok_or_else(unreadable)
    }

    /// Says that this replica lives, or leaves; who else does.
    pub(super) async fn beat(
        &self,
        connection: &MultiplexedConnection,
        replica: &str,
        leaves: bool,
    ) -> Result<Roll, RedisError> {
        let mut command = redis::cmd("EVALSHA");
        command.arg(&self.beat).arg(2).arg(REPLICAS).arg(BIRTH).arg(replica);
        command.arg(millis(BEAT_COUNTS)).arg(u8::from(leaves));
        command.arg(format!("{:016x}", rand::random::<u64>()));
        let answer = self.run(connection, &command).await?;
        Roll::read(from_redis_value(answer)?).ok_or_else(unreadable)
    }

    /// Runs a script; where Redis has forgotten it, once more after loading all.
    async fn run(
        &self,
        connection: &MultiplexedConnection,
        command: &Cmd,
    ) -> Result<Value, RedisError> {
        let once = async || command.query_async::<Value>(&mut connection.clone()).await;
        match once().await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                Self::load(connection, self.texts.clone()).await?;
                once().await
            }
            outcome => outcome,
        }
    }
}

fn start(script: &str, keys: u8, names: &Names, term: Option<&super::lease::Term>) -> Cmd {
    let mut command = redis::cmd("EVALSHA");
    command.arg(script).arg(keys);
    command.arg(&names.windows).arg(names.budget(term));
    command
}

fn admit_args(command: &mut Cmd, admission: &Admission, known: Known<'_>) {
    let Admission { account, term, draw, word, .. } = admission;
    let limit = |limit: Option<u64>| limit.map_or(-1, whole);
    command.arg(admission.call.map(call_name).unwrap_or_default());
    command.arg(millis(CALL_LEASE));
    command.arg(limit(account.concurrent));
    command.arg(limit(account.requests_per_minute));
    command.arg(limit(account.tokens_per_minute));
    command.arg(whole(admission.tokens));
    command.arg(limit(account.budget.map(|budget| budget.limit.0)));
    command.arg(term.map_or(0, |term| term.begins_ms));
    command.arg(term.map_or(0, |term| term.ends_ms));
    command.arg(&*admission.record);
    let Draw { covered, asked, want } =
        draw.unwrap_or(Draw { covered: 0, asked: Some(0), want: 0 });
    command.arg(asked.map_or(-1, whole)).arg(whole(covered)).arg(whole(want));
    // Less than a call like this one is of no use to anyone.
    command.arg(whole(asked.unwrap_or(0).saturating_add(covered)).max(1));
    word_args(command, *word);
    command.arg(whole(known.replicas.max(1))).arg(&admission.names.tag).arg(WANTED);
    command.arg(admission.valid_until_ms).arg(known.birth);
}

fn report_args(command: &mut Cmd, report: &Report) {
    command.arg(millis(CALL_LEASE));
    let term = report.term.filter(|_| report.word.is_some());
    command.arg(u8::from(term.is_some()));
    command.arg(term.map_or(0, |term| term.ends_ms)).arg(&*report.record);
    word_args(command, report.word);
    command.arg(report.ended.len());
    for ended in &report.ended {
        let most = whole(u64::MAX);
        command.arg(call_name(ended.call)).arg(ended.slot).arg(ended.tokens.clamp(-most, most));
    }
    command.arg(report.running.len());
    for call in &report.running {
        command.arg(call_name(*call));
    }
    command.arg(report.away.len());
    for away in &report.away {
        let age = report.at.saturating_sub(away.at);
        command.arg(millis(age)).arg(whole(away.requests)).arg(whole(away.tokens));
    }
}

fn word_args(command: &mut Cmd, word: Option<Word>) {
    let Word { given, spent, returned, idle } =
        word.unwrap_or(Word { given: 0, spent: 0, returned: 0, idle: 0 });
    for amount in [given, spent, returned, idle] {
        command.arg(whole(amount));
    }
}

fn call_name(call: u64) -> String {
    format!("{call:016x}")
}

/// As a number that Lua holds exactly.
fn whole(number: u64) -> i64 {
    i64::try_from(number.min(super::lease::MOST)).unwrap_or(i64::MAX)
}

fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

fn unreadable() -> RedisError {
    RedisError::from((ErrorKind::Parse, "not an answer of this script"))
}

fn amount(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

fn span(ms: i64) -> Duration {
    Duration::from_millis(amount(ms))
}

impl Decision {
    const fn read(code: i64) -> Option<Self> {
        Some(match code {
            0 => Self::Admitted,
            1 => Self::Concurrent,
            2 => Self::Requests,
            3 => Self::Tokens,
            4 => Self::Budget,
            5 => Self::Stale,
            6 => Self::Emptied,
            _ => return None,
        })
    }
}

impl Answer {
    fn read(numbers: &[i64]) -> Option<Self> {
        let &[
            code,
            redis_ms,
            retry_ms,
            running,
            requests,
            requests_reset,
            slot,
            tokens,
            tokens_reset,
            given,
            granted,
            used,
            spent,
            elsewhere,
            scarce,
            gone,
        ] = numbers
        else {
            return None;
        };
        Some(Self {
            decision: Decision::read(code)?,
            redis_ms,
            retry_ms,
            running: amount(running),
            requests: amount(requests),
            requests_reset: span(requests_reset),
            slot,
            tokens: amount(tokens),
            tokens_reset: span(tokens_reset),
            given: amount(given),
            granted: amount(granted),
            used: amount(used),
            spent: amount(spent),
            elsewhere: amount(elsewhere),
            is_scarce: scarce == 1,
            gone: amount(gone),
        })
    }
}

impl Roll {
    fn read(words: Vec<String>) -> Option<Self> {
        let mut words = words.into_iter();
        let redis_ms = words.next()?.parse().ok()?;
        let birth = words.next()?;
        let (_, since) = birth.rsplit_once(':')?;
        let age = span(redis_ms - since.parse::<i64>().ok()?);
        Some(Self { redis_ms, birth, age, alive: words.collect() })
    }
}

impl Receipt {
    fn read(numbers: &[i64]) -> Option<Self> {
        let &[_, given, used, spent, scarce] = numbers else { return None };
        Some(Self {
            given: amount(given),
            used: amount(used),
            spent: amount(spent),
            is_scarce: scarce == 1,
        })
    }
}
