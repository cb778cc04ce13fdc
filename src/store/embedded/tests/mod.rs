//! What survives: restarts, deaths at any moment, torn tails, full disks, second processes.

mod rush;

use super::journal::Damage;
use super::*;
use crate::protocol::usage::{CostSource, Usage};
use crate::store::{Budget, CallId, Day, Dimension, Entry, NanoUsd, Period};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tempfile::TempDir;

fn moment() -> Moment {
    Moment { mono: Duration::from_secs(1), wall: SystemTime::now() }
}

fn account(nano: u64) -> Account {
    let budget = Some(Budget { limit: NanoUsd(nano), per: Period::Total });
    Account { key: "tester".into(), budget, ..Account::default() }
}

fn ask(call: u64, worst: u64) -> Ask {
    Ask { call: CallId(call), tokens: 1, worst: Some(NanoUsd(worst)), model: "acme/m".into() }
}

fn cost(nano: u64) -> Settlement {
    let usage = Usage { input: 3, output: 2, input_total: 3, output_total: 2, ..Usage::default() };
    let source = CostSource::Upstream;
    let entry = Entry { model: "acme/m".into(), upstream: "main".into(), source, usage };
    Settlement { tokens: 5, cost: NanoUsd(nano), entry: Some(entry) }
}

fn hold(verdict: Verdict) -> Hold {
    match verdict {
        Verdict::Admitted(grant) => grant.hold,
        other @ (Verdict::Refused { .. } | Verdict::Unavailable) => panic!("{other:?}"),
    }
}

fn open(folder: &Path) -> Embedded {
    let (store, problem) = Embedded::open(folder, SystemTime::now());
    assert_eq!(problem, None);
    store
}

fn used(store: &Embedded) -> u64 {
    store.peek(&account(1_000), moment()).budget.unwrap().used.0
}

/// What a death at this moment leaves: the files as they are, without their owner. The journal last: it
/// may know more than the ledger, as it does for most of a second, never less.
fn corpse(folder: &Path) -> TempDir {
    let copy = TempDir::new().unwrap();
    let names = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name());
    let mut names: Vec<_> = names.collect();
    names.sort_by_key(|name| name == "journal");
    for name in names {
        std::fs::copy(folder.join(&name), copy.path().join(&name)).unwrap();
    }
    copy
}

async fn within_time(what: &str, is_so: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(std::time::Instant::now() < deadline, "{what}: not in time");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn spend_survives_a_restart_exactly() {
    let folder = TempDir::new().unwrap();
    for round in 1..=3 {
        let store = open(folder.path());
        let call = hold(store.admit(&account(1_000), &ask(round, 100), moment()));
        store.settle(&account(1_000), &call, &cost(30), moment());
        assert_eq!(used(&store), 30 * round);
        store.close();
    }
    let lines = report(folder.path(), By::Key, None, None).unwrap();
    assert_eq!((lines[0].name.as_str(), lines[0].calls, lines[0].cost), ("tester", 3, NanoUsd(90)));
    assert_eq!((lines[0].input, lines[0].output), (9, 6));
}

#[test]
fn an_absurd_cost_is_no_reason_not_to_start() {
    let folder = TempDir::new().unwrap();
    for round in 0..4 {
        let store = open(folder.path());
        let account = account(u64::MAX);
        let call = hold(store.admit(&account, &ask(round, 100), moment()));
        let mut absurd = cost(u64::MAX);
        let entry = absurd.entry.as_mut().unwrap();
        entry.usage.input = u64::MAX;
        entry.model = if round < 2 { "acme/m".into() } else { "acme/n".into() };
        store.settle(&account, &call, &absurd, moment());
        store.close();
    }
    assert!(used(&open(folder.path())) >= 1 << 53);
    let lines = report(folder.path(), By::Key, None, None).unwrap();
    assert_eq!(lines[0].calls, 4);
    assert!(lines[0].cost.0 >= 1 << 53 && lines[0].input >= 1 << 53);
}

#[test]
fn a_death_charges_ended_calls_as_they_were_and_running_ones_in_full() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path());
    let ended = hold(store.admit(&account(1_000), &ask(1, 100), moment()));
    let _running = store.admit(&account(1_000), &ask(2, 200), moment());
    store.settle(&account(1_000), &ended, &cost(30), moment());
    let first = corpse(folder.path());
    let again = open(first.path());
    assert_eq!(used(&again), 230);
    // And a second death right after the recovery changes nothing.
    assert_eq!(used(&open(corpse(first.path()).path())), 230);
    again.close();
    assert_eq!(used(&open(corpse(first.path()).path())), 230);
}

#[test]
fn a_torn_tail_loses_only_what_was_never_acted_upon() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path());
    for call in 1..=3 {
        let call = hold(store.admit(&account(1_000), &ask(call, 100), moment()));
        store.settle(&account(1_000), &call, &cost(10), moment());
    }
    let journal = std::fs::read(folder.path().join("journal")).unwrap();
    let end = usize::try_from(lock(&store.shared.desk).journal.as_ref().unwrap().end).unwrap();
    assert!(journal.len() > end && journal[end..].iter().all(|byte| *byte == 0));
    // What was never written is not there, or is the zeros that were there before.
    for behind in [0, 100] {
        let mut spent = Vec::new();
        for cut in (16..=end).rev() {
            let corpse = TempDir::new().unwrap();
            let bytes = [&journal[..cut], &journal[end..end + behind]].concat();
            std::fs::write(corpse.path().join("journal"), bytes).unwrap();
            assert_eq!(journal::read_left(corpse.path()).unwrap().damage, Damage::default());
            spent.push(used(&open(corpse.path())));
        }
        assert_eq!((spent[0], spent.last()), (30, Some(&0)));
        // Settled, reserved only, and so on back to the beginning.
        spent.dedup();
        assert_eq!(spent, [30, 120, 20, 110, 10, 100, 0]);
    }
}

#[test]
fn damage_in_the_journal_takes_nothing_behind_it_along() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path());
    for call in 1..=10 {
        let call = hold(store.admit(&account(1_000), &ask(call, 100), moment()));
        store.settle(&account(1_000), &call, &cost(10), moment());
    }
    let journal = std::fs::read(folder.path().join("journal")).unwrap();
    let end = usize::try_from(lock(&store.shared.desk).journal.as_ref().unwrap().end).unwrap();
    // The last record alone would be one that was torn.
    for at in (16..end - 200).step_by(97) {
        for bytes in [[0xff; 8], [0; 8], *b"\x30\0\0\0RSRS"] {
            let corpse = TempDir::new().unwrap();
            let mut damaged = journal.clone();
            damaged[at..at + 8].copy_from_slice(&bytes);
            std::fs::write(corpse.path().join("journal"), damaged).unwrap();
            let left = journal::read_left(corpse.path()).unwrap();
            let lost = 20 - left.records.len();
            assert_eq!(left.damage.bytes > 0, lost > 0 && left.damage.records_behind > 0);
            // A call lost, or charged what it had reserved.
            let spent = used(&open(corpse.path()));
            assert!([90, 100, 190].contains(&spent), "{spent} at {at} by {bytes:?}");
        }
    }
}

#[test]
fn a_journal_that_never_reached_the_disk_is_begun_anew() {
    for zeros in [0, 7, 4_096] {
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("journal"), vec![0; zeros]).unwrap();
        assert_eq!(used(&open(folder.path())), 0, "{zeros}");
    }
}

#[test]
fn every_moment_of_a_long_run_recovers_to_what_was_spent() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path());
    let account = account(u64::MAX);
    let (mut running, mut spent) = (Vec::new(), 0);
    for number in 1..=400 {
        running.push(hold(store.admit(&account, &ask(number, 50), moment())));
        if number % 3 != 0 {
            let call = running.swap_remove(running.len() / 2);
            store.settle(&account, &call, &cost(number % 50), moment());
            spent += number % 50;
        }
        if number % 40 == 0 {
            let reopened = open(corpse(folder.path()).path());
            assert_eq!(used(&reopened), spent + 50 * running.len() as u64, "after {number}");
        }
    }
}

#[test]
fn a_long_journal_is_begun_anew_and_forgets_nothing() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path());
    let account = account(u64::MAX);
    let _running = store.admit(&account, &ask(1, 7), moment());
    let generation = || lock(&store.shared.desk).journal.as_ref().unwrap().generation;
    let (first, mut calls) = (generation(), 1);
    while generation() == first {
        calls += 1;
        let call = hold(store.admit(&account, &ask(calls, 5), moment()));
        store.settle(&account, &call, &cost(1), moment());
    }
    assert_eq!(used(&open(corpse(folder.path()).path())), 7 + calls - 1);
    store.close();
    assert_eq!(used(&open(folder.path())), 7 + calls - 1);
}

/// What threads do to one key: calls of all kinds, on the last units of slots, until each thread has
/// found the money at its end, however many calls that takes.
fn rush(store: &Embedded, account: &Account, spent: &AtomicU64) {
    let micros = AtomicU64::new(1_000_000);
    let moment = || Moment {
        mono: Duration::from_micros(micros.fetch_add(20, Ordering::SeqCst)),
        wall: SystemTime::now(),
    };
    let (running, limit) = (AtomicU64::new(0), account.budget.unwrap().limit);
    let has_money = |id: u64| {
        let mut has_money = true;
        let worst = 20 + id % 80;
        match store.admit(account, &ask(id, worst), moment()) {
            Verdict::Admitted(grant) => {
                assert!(running.fetch_add(1, Ordering::SeqCst) < account.concurrent.unwrap());
                let used = id * 7 % (worst + 1);
                running.fetch_sub(1, Ordering::SeqCst);
                store.settle(account, &grant.hold, &cost(used), moment());
                spent.fetch_add(used, Ordering::SeqCst);
            }
            Verdict::Refused { refusal, .. } => {
                assert!(matches!(refusal.by, Dimension::Concurrent | Dimension::Budget));
                has_money = refusal.by == Dimension::Concurrent;
            }
            Verdict::Unavailable => panic!("the folder is there"),
        }
        let before = spent.load(Ordering::SeqCst);
        let funds = store.peek(account, moment()).budget.unwrap();
        assert!(funds.used.plus(funds.reserved) <= limit, "{funds:?}");
        assert!(funds.used >= NanoUsd(before), "{funds:?} of {before}");
        has_money
    };
    std::thread::scope(|scope| {
        for thread in 1..=4_u64 {
            scope.spawn(move || {
                let calls = (0..).map(|number| has_money(thread * 1_000_000 + number));
                assert_eq!(calls.filter(|has_money| !has_money).take(100).count(), 100);
            });
        }
    });
}

#[test]
fn threads_on_the_last_units_add_up_at_any_moment_and_in_the_files() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path());
    let account = Account { concurrent: Some(3), ..account(30_000) };
    let spent = AtomicU64::new(0);
    rush(&store, &account, &spent);
    let spent = spent.into_inner();
    assert!(spent > 29_000, "the last units were reached: {spent}");
    let standing = store.peek(&account, moment());
    assert_eq!(standing.concurrent.unwrap().remaining, 3);
    assert_eq!(standing.budget.unwrap().left(), NanoUsd(30_000 - spent));
    store.close();
    assert_eq!(used(&open(folder.path())), spent);
    assert_eq!(report(folder.path(), By::Key, None, None).unwrap()[0].cost, NanoUsd(spent));
}

#[test]
fn two_processes_do_not_share_a_folder() {
    let folder = TempDir::new().unwrap();
    let _first = open(folder.path());
    let (second, problem) = Embedded::open(folder.path(), SystemTime::now());
    let Some(Problem::InUse(text)) = problem else { panic!("{problem:?}") };
    assert!(text.contains(&std::process::id().to_string()), "{text}");
    assert!(matches!(second.admit(&account(9), &ask(1, 1), moment()), Verdict::Unavailable));
}

/// Between its birth and its program a child holds whatever files its parent has open.
#[test]
fn a_child_that_is_just_born_keeps_no_folder() {
    let folder = TempDir::new().unwrap();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_over.load(Ordering::SeqCst) {
                    std::process::Command::new("true").status().unwrap();
                }
            });
        }
        let problems = (0..100).filter_map(|_| {
            let (store, problem) = Embedded::open(folder.path(), SystemTime::now());
            store.close();
            problem
        });
        let problems: Vec<_> = problems.collect();
        is_over.store(true, Ordering::SeqCst);
        assert_eq!(problems, []);
    });
}

#[tokio::test]
async fn without_a_folder_budgets_wait_and_everything_else_works() {
    let folder = TempDir::new().unwrap();
    let blocked = folder.path().join("data");
    std::fs::write(&blocked, "a file where the folder should be").unwrap();
    let (store, problem) = Embedded::open(&blocked, SystemTime::now());
    assert!(matches!(problem, Some(Problem::Failed(_))));
    let account = account(1_000);
    assert!(matches!(store.admit(&account, &ask(1, 10), moment()), Verdict::Unavailable));
    let standing = store.peek(&account, moment());
    assert_eq!(standing.budget.unwrap().left(), NanoUsd(1_000), "the refusal took nothing");
    let limited = Account { requests_per_minute: Some(1), budget: None, ..account.clone() };
    hold(store.admit(&limited, &ask(2, 10), moment()));
    let refused = store.admit(&limited, &ask(3, 10), moment());
    assert!(
        matches!(refused, Verdict::Refused { refusal, .. } if refusal.by == Dimension::Requests)
    );
    std::fs::remove_file(&blocked).unwrap();
    within_time("the recovery", || {
        !matches!(store.admit(&account, &ask(4, 10), moment()), Verdict::Unavailable)
    })
    .await;
}

#[test]
fn a_full_disk_refuses_budgets_until_there_is_room_and_keeps_what_has_ended() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path());
    let account = account(1_000);
    let running = hold(store.admit(&account, &ask(1, 100), moment()));
    // A file open for reading refuses writes as a full disk does.
    let path = folder.path().join("journal");
    let writable = lock(&store.shared.desk)
        .journal
        .as_mut()
        .unwrap()
        .swap_file(std::fs::File::open(&path).unwrap());
    assert!(matches!(store.admit(&account, &ask(2, 10), moment()), Verdict::Unavailable));
    store.settle(&account, &running, &cost(40), moment());
    assert_eq!(used(&store), 40);
    lock(&store.shared.desk).journal.as_mut().unwrap().swap_file(writable);
    hold(store.admit(&account, &ask(3, 10), moment()));
    assert_eq!(used(&open(corpse(folder.path()).path())), 50);
}

#[test]
fn a_budget_that_changes_its_period_knows_what_was_spent() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path());
    let call = hold(store.admit(&account(1_000), &ask(1, 100), moment()));
    store.settle(&account(1_000), &call, &cost(30), moment());
    for per in [Period::Day, Period::Month, Period::Total] {
        let budget = Some(Budget { limit: NanoUsd(100), per });
        let standing = store.peek(&Account { budget, ..account(0) }, moment());
        assert_eq!(standing.budget.unwrap().used, NanoUsd(30), "{per:?}");
    }
    assert_eq!(report(folder.path(), By::Day, Some(Day(1)), Some(Day(2))).unwrap(), []);
}
