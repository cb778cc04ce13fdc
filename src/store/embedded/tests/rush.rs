//! Calls that follow each other closely: what is left for the next reservation, and what becomes of it.

use super::*;

/// Moments of calls that follow each other closely.
fn rushing() -> impl FnMut() -> Moment {
    let mut mono = Duration::from_secs(1);
    move || {
        mono += Duration::from_micros(50);
        Moment { mono, wall: SystemTime::now() }
    }
}

/// Where the journal ends.
fn end(store: &Embedded) -> u64 {
    lock(&store.shared.desk).journal.as_ref().unwrap().end
}

/// Calls that end at once, until the end of one is left for the next one to write; how many.
fn rush_until_one_is_left(
    store: &Embedded,
    account: &Account,
    mut now: impl FnMut() -> Moment,
) -> u64 {
    for number in 1..100_000 {
        let call = hold(store.admit(account, &ask(number, 50), now()));
        let before = end(store);
        store.settle(account, &call, &cost(1), now());
        if end(store) == before {
            return number;
        }
    }
    panic!("none was left");
}

#[test]
fn in_a_rush_the_end_of_a_call_is_written_with_the_next_reservation() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path());
    let (account, mut now) = (account(u64::MAX), rushing());
    let calls = rush_until_one_is_left(&store, &account, &mut now);
    let _running = store.admit(&account, &ask(100_000, 50), now());
    assert!(lock(&store.shared.desk).waiting.is_empty());
    assert_eq!(used(&open(corpse(folder.path()).path())), calls + 50);
}

#[test]
fn a_death_in_a_rush_charges_what_was_left_as_if_it_still_ran() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path());
    let (account, mut now) = (account(u64::MAX), rushing());
    let mut spent = rush_until_one_is_left(&store, &account, &mut now);
    // The keeper may write it first, whose instant is longer than a look.
    let saw = (0..1_000).find(|number| {
        let call = hold(store.admit(&account, &ask(1_000_000 + number, 50), now()));
        store.settle(&account, &call, &cost(1), now());
        spent += 1;
        let found = used(&open(corpse(folder.path()).path()));
        assert!(found == spent || found == spent + 49, "{found} of {spent}");
        found > spent
    });
    assert!(saw.is_some(), "the end of a call is left for the next one");
    store.close();
    assert_eq!(used(&open(folder.path())), spent);
}

#[tokio::test]
async fn what_is_left_in_a_rush_is_written_when_it_is_told_and_when_nobody_follows() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path());
    let (account, mut now) = (account(u64::MAX), rushing());
    let calls = rush_until_one_is_left(&store, &account, &mut now);
    assert_eq!(store.look(&account, now()).budget.unwrap().used.0, calls);
    assert_eq!(used(&open(corpse(folder.path()).path())), calls, "told, so on file");
    rush_until_one_is_left(&store, &account, &mut now);
    let is_written = || lock(&store.shared.desk).waiting.is_empty();
    within_time("the keeper writes it", is_written).await;
}

#[test]
fn once_the_keeper_has_gone_nothing_is_left() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path());
    let (account, mut now) = (account(u64::MAX), rushing());
    let calls = rush_until_one_is_left(&store, &account, &mut now);
    store.close();
    for number in 1..=1_000 {
        let call = hold(store.admit(&account, &ask(1_000_000 + number, 50), now()));
        store.settle(&account, &call, &cost(1), now());
    }
    assert_eq!(used(&open(corpse(folder.path()).path())), calls + 1_000);
}

#[test]
fn a_call_that_cost_more_than_it_had_reserved_is_never_left() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path());
    let (account, mut now) = (account(u64::MAX), rushing());
    let calls = rush_until_one_is_left(&store, &account, &mut now);
    let call = hold(store.admit(&account, &ask(1_000_000, 50), now()));
    store.settle(&account, &call, &cost(250), now());
    assert_eq!(used(&open(corpse(folder.path()).path())), calls + 250);
}

#[test]
fn a_nudge_wakes_the_keeper_once() {
    let inbox = Inbox::default();
    inbox.nudge();
    let begun = std::time::Instant::now();
    assert!(inbox.take(Vec::new(), Duration::from_mins(1)).records.is_empty());
    assert!(begun.elapsed() < Duration::from_secs(50), "it did not sleep until the next beat");
    let begun = std::time::Instant::now();
    drop(inbox.take(Vec::new(), Duration::from_millis(50)));
    assert!(begun.elapsed() >= Duration::from_millis(50), "nothing has come since");
}
