//! Scripts and books together against a plain model, with simulated time, lost answers and reports.

use super::super::books::{Books, Report, When};
use super::super::lease::Lease;
use super::super::script::{Answer, CALL_LEASE, Decision, Known, Scripts, Texts};
use super::super::tell::Tell;
use super::*;
use proptest::prelude::{Just, Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof};
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use redis::aio::MultiplexedConnection;
use std::cell::RefCell;

/// Reads the time from a key, which the test moves.
const CLOCK: &str = "local function clock() return tonumber(redis.call('GET', 'now')) end";
/// What a slot of Redis' window may add to a minute.
const GRAIN: u64 = 250;
/// Nine minutes before a midnight, so that some runs see the budget start again; in the future,
/// because Redis deletes what expires in its real past.
const BEGIN: u64 = 40_000 * 86_400_000 - 540_000;

const REQUESTS: u64 = 6;
const TOKENS: u64 = 100;
const CONCURRENT: u64 = 4;
const LIMIT: u64 = 1_000;
const KNOWN: Known<'_> = Known { replicas: 3, birth: "" };

#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    Call {
        replica: usize,
        tokens: u64,
        worst: u64,
        is_lost: bool,
    },
    End {
        which: prop::sample::Index,
        tokens: u64,
        cost: u64,
        is_told: bool,
    },
    Report {
        replica: usize,
        returns: bool,
        is_lost: bool,
    },
    /// An old report comes again, from a connection that was given up.
    Replay(prop::sample::Index),
    Forget,
}

fn step() -> impl Strategy<Value = Step> {
    let wait =
        prop_oneof![Just(40_u64), 1_000_u64..60_000, Just(19_900), Just(29_950), Just(61_000)];
    prop_oneof![
        3 => wait.prop_map(Step::Wait),
        6 => (0_usize..3, 0_u64..40, 0_u64..300, any::<u8>()).prop_map(
            |(replica, tokens, worst, fate)| {
                Step::Call { replica, tokens, worst, is_lost: fate < 25 }
            }
        ),
        5 => (any::<prop::sample::Index>(), 0_u64..40, 0_u64..300, any::<bool>()).prop_map(
            |(which, tokens, cost, is_told)| Step::End { which, tokens, cost, is_told }
        ),
        1 => any::<prop::sample::Index>().prop_map(Step::Replay),
        3 => (0_usize..3, any::<bool>(), any::<u8>()).prop_map(|(replica, returns, fate)| {
            Step::Report { replica, returns, is_lost: fate < 50 }
        }),
        1 => Just(Step::Forget),
    ]
}

/// A call as the model knows it.
#[derive(Debug, Clone, Copy)]
struct Call {
    id: u64,
    replica: usize,
    at: u64,
    tokens: u64,
    reserved: u64,
    day: u64,
}

/// The model: what was admitted, what runs, what was spent on which day.
#[derive(Debug, Default)]
struct Model {
    admitted: Vec<Call>,
    running: Vec<Call>,
    spent: Vec<(u64, u64)>,
    /// Calls that ended and of which Redis has not heard, with their real tokens.
    unheard: Vec<Call>,
}

impl Model {
    fn spent_on(&self, day: u64) -> u64 {
        self.spent.iter().filter(|(on, _)| *on == day).map(|(_, cost)| cost).sum()
    }

    fn reserved_on(&self, day: u64) -> u64 {
        self.running.iter().filter(|call| call.day == day).map(|call| call.reserved).sum()
    }

    /// Redis hears of the calls of a replica that ended.
    fn hear(&mut self, replica: usize) {
        let (heard, unheard) =
            self.unheard.drain(..).partition(|call: &Call| call.replica == replica);
        self.unheard = unheard;
        let heard: Vec<Call> = heard;
        for call in heard {
            let entry = self.admitted.iter_mut().find(|entry| entry.id == call.id);
            entry.unwrap().tokens = call.tokens;
        }
    }

    fn since(&self, from: u64) -> impl Iterator<Item = &Call> {
        self.admitted.iter().filter(move |call| call.at > from)
    }
}

struct World {
    connection: MultiplexedConnection,
    scripts: Scripts,
    account: Account,
    replicas: Vec<Books>,
    model: Model,
    now: u64,
    calls: u64,
    told: Vec<Report>,
}

impl World {
    fn when(&self) -> When {
        let here = Duration::from_millis(self.now - BEGIN);
        When { here, redis_ms: i64::try_from(self.now).unwrap() }
    }

    fn day(&self) -> u64 {
        self.now / 86_400_000
    }

    async fn wait(&mut self, ms: u64) {
        // Running calls are renewed as the keeper does, so that their leases outlive long waits.
        let mut left = ms;
        while left > 0 {
            let step = left.min(10_001);
            self.now += step;
            left -= step;
            let mut set = redis::cmd("SET");
            set.arg("now").arg(self.now);
            set.query_async::<()>(&mut self.connection).await.unwrap();
            for replica in 0..self.replicas.len() {
                self.report(replica, Tell::News, false).await;
            }
        }
    }

    async fn report(&mut self, replica: usize, tell: Tell, is_lost: bool) {
        let here = self.when().here;
        while let Some(report) = self.replicas[replica].report(tell, 3, here) {
            let receipt = self.scripts.report(&self.connection, &report).await.unwrap();
            self.model.hear(replica);
            // A running call that is told of again would hold its slot for another lease.
            self.told.push(Report { running: Vec::new(), ..report.clone() });
            if is_lost {
                // Heard, but nobody knows: it comes again.
                self.replicas[replica].unreported(report);
                return;
            }
            self.replicas[replica].reported(&report, &receipt, here);
        }
    }

    async fn call(
        &mut self,
        replica: usize,
        tokens: u64,
        worst: u64,
        is_lost: bool,
    ) -> Result<(), TestCaseError> {
        self.calls += 1;
        let (call, when) = (self.calls, self.when());
        let ask =
            Ask { call: CallId(call), tokens, worst: Some(NanoUsd(worst)), model: "m".into() };
        let books = &mut self.replicas[replica];
        let name = || format!("r{replica}.{call}").into();
        let admission = books.ask(&self.account, &ask, (when, Duration::MAX), name);
        let answer = self.scripts.admit(&self.connection, &admission, KNOWN).await.unwrap();
        self.judge(tokens, worst, &answer)?;
        let is_admitted = answer.decision == Decision::Admitted;
        let known =
            Call { id: call, replica, at: self.now, tokens, reserved: worst, day: self.day() };
        let books = &mut self.replicas[replica];
        if is_admitted {
            self.model.admitted.push(known);
        }
        if is_lost {
            books.unanswered(&admission);
            books.abandon(call);
            // Its tokens stay counted, but its slot comes back.
            self.report(replica, Tell::News, false).await;
            return Ok(());
        }
        let reserved = books.answered(&admission, &answer, when.here);
        prop_assert_eq!(reserved, is_admitted.then_some(NanoUsd(worst)));
        if is_admitted {
            self.model.running.push(known);
        }
        Ok(())
    }

    /// How Redis says the account stands, told nothing.
    async fn look(&mut self) -> Answer {
        let mut stranger = Books::new(&self.account.key);
        let look = stranger.look(&self.account, self.when(), || "looks".into());
        self.scripts.admit(&self.connection, &look, KNOWN).await.unwrap()
    }

    /// A report that comes again changes nothing.
    async fn replay(&mut self, which: usize) -> Result<(), TestCaseError> {
        let before = self.look().await;
        self.scripts.report(&self.connection, &self.told[which]).await.unwrap();
        let after = self.look().await;
        prop_assert_eq!((before.used, before.spent), (after.used, after.spent));
        prop_assert_eq!((before.tokens, before.running), (after.tokens, after.running));
        Ok(())
    }

    /// Redis loses its budgets, and everybody connects again.
    async fn forget(&mut self) {
        let mut forget = redis::cmd("DEL");
        for term in ["day:39999", "day:40000"] {
            forget.arg(format!("cirque:{{{}}}:budget:{term}", self.replicas[0].tag()));
        }
        forget.query_async::<()>(&mut self.connection).await.unwrap();
        for replica in 0..self.replicas.len() {
            self.replicas[replica].retell();
            self.report(replica, Tell::News, false).await;
        }
    }

    /// Whether the decision is the one of the plain definition.
    fn judge(&self, tokens: u64, worst: u64, answer: &Answer) -> Result<(), TestCaseError> {
        let model = &self.model;
        let minute = self.now.saturating_sub(60_000);
        let requests = |from| model.since(from).count() as u64;
        let used = |from| model.since(from).map(|call| call.tokens).sum::<u64>();
        let running = model.running.len() as u64;
        let slots = running + model.unheard.len() as u64;
        let day = self.day();
        let promised = model.spent_on(day) + model.reserved_on(day);
        let lenient = minute.saturating_sub(GRAIN);
        match answer.decision {
            Decision::Admitted => {
                prop_assert!(running < CONCURRENT);
                prop_assert!(requests(minute) < REQUESTS);
                prop_assert!(used(minute) + tokens <= TOKENS);
                prop_assert!(promised + worst <= LIMIT, "{} + {}", promised, worst);
            }
            Decision::Concurrent => prop_assert!(slots >= CONCURRENT),
            Decision::Requests => {
                prop_assert!(running < CONCURRENT && requests(lenient) >= REQUESTS);
                prop_assert!(answer.retry_ms > 0 && answer.retry_ms <= 60_250);
            }
            Decision::Tokens => {
                prop_assert!(requests(minute) < REQUESTS && used(lenient) + tokens > TOKENS);
                prop_assert!(answer.retry_ms > 0 && answer.retry_ms <= 60_250);
            }
            // Refused with money left only where replicas hold it for calls to come.
            Decision::Budget => {
                prop_assert!(promised + worst > LIMIT || answer.used > promised);
            }
            Decision::Stale | Decision::Emptied => prop_assert!(false, "one clock, one birth"),
        }
        Ok(())
    }

    fn end(&mut self, which: prop::sample::Index, tokens: u64, cost: u64) {
        if self.model.running.is_empty() {
            return;
        }
        let which = which.index(self.model.running.len());
        let call = self.model.running.swap_remove(which);
        let (tokens, cost) = (tokens.min(call.tokens), cost.min(call.reserved));
        let here = self.when().here;
        assert!(self.replicas[call.replica].settle(call.id, tokens, NanoUsd(cost), here));
        self.model.spent.push((call.day, cost));
        self.model.unheard.push(Call { tokens, ..call });
    }

    /// At the end everybody settles and returns everything: Redis knows what the model knows.
    async fn close(&mut self) -> Result<(), TestCaseError> {
        while let Some(call) = self.model.running.pop() {
            let here = self.when().here;
            self.replicas[call.replica].settle(call.id, call.tokens, NanoUsd(call.reserved), here);
            self.model.spent.push((call.day, call.reserved));
        }
        for replica in 0..self.replicas.len() {
            self.replicas[replica].retell();
            self.report(replica, Tell::Return, false).await;
        }
        let answer = self.look().await;
        let spent = self.model.spent_on(self.day());
        prop_assert_eq!(answer.spent, spent);
        prop_assert_eq!(answer.running, 0);
        let idle: u64 =
            self.replicas.iter().filter_map(|b| b.lease.as_ref()).map(Lease::idle).sum();
        prop_assert_eq!(idle, 0);
        prop_assert_eq!(answer.used, spent, "all that is idle was returned");
        Ok(())
    }
}

async fn run(world: &mut World, steps: Vec<Step>) -> Result<(), TestCaseError> {
    for step in steps {
        match step {
            Step::Wait(ms) => world.wait(ms).await,
            Step::Call { replica, tokens, worst, is_lost } => {
                world.call(replica, tokens, worst, is_lost).await?;
            }
            Step::End { which, tokens, cost, is_told } => {
                world.end(which, tokens, cost);
                for replica in (0..3).filter(|_| is_told) {
                    world.report(replica, Tell::News, false).await;
                }
            }
            Step::Replay(which) if !world.told.is_empty() => {
                world.replay(which.index(world.told.len())).await?;
            }
            Step::Replay(_) => {}
            Step::Report { replica, returns, is_lost } => {
                let tell = if returns { Tell::Return } else { Tell::News };
                world.report(replica, tell, is_lost).await;
            }
            Step::Forget => world.forget().await,
        }
        let day = world.day();
        let promised = world.model.spent_on(day) + world.model.reserved_on(day);
        prop_assert!(promised <= LIMIT);
        prop_assert!(world.model.running.len() as u64 <= CONCURRENT);
    }
    world.close().await
}

#[test]
fn never_over_never_lost_and_never_twice() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let Some(server) = runtime.block_on(RedisServer::start_with(|_| Vec::new())) else { return };
    let mut resp = redis::Client::open(server.url()).unwrap();
    let (connection, scripts) = runtime.block_on(async {
        let connection = resp_connection(&mut resp).await;
        let scripts = Scripts::load(&connection, Texts::with_clock(CLOCK)).await.unwrap();
        (connection, scripts)
    });
    let cases = RefCell::new(0);
    let mut runner =
        TestRunner::new(Config { cases: 256, failure_persistence: None, ..Config::default() });
    runner
        .run(&prop::collection::vec(step(), 1..60), |steps| {
            *cases.borrow_mut() += 1;
            let key = format!("case {}", cases.borrow());
            let account = Account {
                key: key.as_str().into(),
                requests_per_minute: Some(REQUESTS),
                tokens_per_minute: Some(TOKENS),
                concurrent: Some(CONCURRENT),
                budget: Some(Budget { limit: NanoUsd(LIMIT), per: Period::Day }),
            };
            let mut world = World {
                connection: connection.clone(),
                scripts: scripts.clone(),
                replicas: (0..3).map(|_| Books::new(&key)).collect(),
                account,
                model: Model::default(),
                now: BEGIN,
                calls: 0,
                told: Vec::new(),
            };
            runtime.block_on(async {
                world.wait(1).await;
                run(&mut world, steps).await
            })
        })
        .unwrap();
    assert!(CALL_LEASE > Duration::from_secs(10), "a call is renewed before its lease is over");
}

async fn resp_connection(client: &mut redis::Client) -> MultiplexedConnection {
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(None);
    client.get_multiplexed_async_connection_with_config(&config).await.unwrap()
}
