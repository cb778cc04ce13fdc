//! Several processes in one folder, by mistake or in a hand-over: whoever comes and goes in whatever order.

use super::append::{Appender, Flushed};
use super::read::Cursor;
use super::tests::{Process, ROOMY, deliver, noise, segments};
use super::*;
use proptest::prelude::*;
use std::time::Duration;
use tempfile::TempDir;

fn write(process: &mut Process, begin: &str, count: usize) -> Vec<String> {
    let texts: Vec<_> = (0..count).map(|n| format!("{begin} {n}")).collect();
    for text in &texts {
        assert_eq!(process.write(text).written, 1);
    }
    texts
}

fn deliver_all(process: &Process) -> Vec<String> {
    let (texts, lost) = deliver(process, &mut process.cursor());
    assert_eq!(lost, 0);
    assert_eq!(process.spool.holds().records, 0);
    texts
}

/// Takes the right to deliver, which nobody has, and delivers.
fn take_over(process: &Process) -> Vec<String> {
    process.spool.open().unwrap();
    deliver_all(process)
}

fn is_empty(folder: &TempDir) -> bool {
    segments(folder.path()).is_empty()
}

/// Everything that was written was read, once, and nothing is left of it.
fn assert_all_delivered<T: Ord + std::fmt::Debug>(
    folder: &TempDir,
    mut read: Vec<T>,
    mut written: Vec<T>,
) {
    written.sort();
    read.sort();
    assert_eq!(read, written);
    assert!(is_empty(folder));
}

#[test]
fn who_starts_again_before_the_one_that_waits_takes_nothing_of_it_for_done() {
    let folder = TempDir::new().unwrap();
    let start = || Process::start(folder.path(), ROOMY);
    let mut first = start();
    let mut waits = start();
    let mut written = write(&mut first, "first", 2);
    written.extend(write(&mut waits, "waits", 5));
    let mut read = deliver_all(&first);
    first.close();
    let mut again = start();
    written.extend(write(&mut again, "again", 5));
    read.extend(deliver_all(&again));
    written.extend(write(&mut waits, "waits still", 5));
    again.close();
    assert_eq!(waits.spool.holds().records, 10);
    read.extend(take_over(&waits));
    written.extend(write(&mut waits, "delivers", 5));
    read.extend(deliver_all(&waits));
    waits.close();
    assert_all_delivered(&folder, read, written);
}

#[test]
fn of_two_that_wait_either_may_deliver_first() {
    for is_higher_first in [false, true] {
        let folder = TempDir::new().unwrap();
        let start = || Process::start(folder.path(), ROOMY);
        let (mut first, mut lower) = (start(), start());
        let mut written = write(&mut lower, "lower", 5);
        let mut higher = start();
        written.extend(write(&mut higher, "higher", 5));
        written.extend(write(&mut first, "first", 5));
        let mut read = deliver_all(&first);
        written.extend(write(&mut first, "first, last", 5));
        first.close();
        let (mut now, mut then) = if is_higher_first { (higher, lower) } else { (lower, higher) };
        read.extend(take_over(&now));
        for round in 0..3 {
            written.extend(write(&mut now, &format!("now {round}"), 2));
            written.extend(write(&mut then, &format!("then {round}"), 2));
            read.extend(deliver_all(&now));
            now.appender.let_go(Duration::ZERO, &mut Flushed::default()).unwrap();
        }
        assert_eq!(segments(folder.path()).len(), 1, "what is delivered does not stay");
        now.close();
        read.extend(take_over(&then));
        written.extend(write(&mut then, "then, last", 2));
        read.extend(deliver_all(&then));
        then.close();
        assert_all_delivered(&folder, read, written);
    }
}

#[test]
fn who_start_together_never_use_the_same_number() {
    let folder = TempDir::new().unwrap();
    let mut all = [0, 1, 2, 3].map(|_| Process::start(folder.path(), ROOMY));
    let mut written = Vec::new();
    for round in 0..3 {
        for (who, process) in all.iter_mut().enumerate() {
            written.extend(write(process, &format!("{who} {round}"), 2));
        }
    }
    let mut read = Vec::new();
    for process in all {
        read.extend(take_over(&process));
        process.close();
    }
    assert_all_delivered(&folder, read, written);
}

#[test]
fn who_waits_without_writing_does_not_begin_where_all_is_done() {
    let folder = TempDir::new().unwrap();
    let start = || Process::start(folder.path(), ROOMY);
    let (first, mut waits, mut other) = (start(), start(), start());
    let mut written = write(&mut other, "other", 5);
    other.close();
    first.close();
    let mut again = start();
    written.extend(write(&mut again, "again", 5));
    let mut read = deliver_all(&again);
    again.appender.let_go(Duration::ZERO, &mut Flushed::default()).unwrap();
    assert!(is_empty(&folder));
    written.extend(write(&mut waits, "waits", 5));
    written.extend(write(&mut again, "again, last", 5));
    read.extend(deliver_all(&again));
    again.close();
    read.extend(take_over(&waits));
    waits.close();
    assert_all_delivered(&folder, read, written);
}

#[test]
fn who_come_and_go_at_the_same_time_never_use_the_same_number() {
    let folder = TempDir::new().unwrap();
    let come_and_go = &|who: usize| {
        let (mut written, mut read) = (Vec::new(), Vec::new());
        for round in 0..20 {
            let spool = Arc::new(Spool::new(folder.path().to_owned(), ROOMY));
            // Another one may just name its segment for good, or have the numbers for long.
            while spool.open().is_err() {}
            let appender = Appender::new(Arc::clone(&spool));
            let mut process = Process { spool, appender };
            for n in 0..3 {
                let text = format!("{who} {round} {n}");
                process.appender.take(1_000, text.as_bytes(), &mut Flushed::default());
                while process.appender.flush(&mut Flushed::default()).is_err() {}
                written.push(text);
                if process.spool.holds().is_ours {
                    read.extend(deliver_all(&process));
                }
            }
            process.close();
        }
        (written, read)
    };
    let (mut written, mut read) = (Vec::new(), Vec::new());
    std::thread::scope(|scope| {
        let all = [0, 1, 2, 3].map(|who| scope.spawn(move || come_and_go(who)));
        for one in all {
            let (wrote, had) = one.join().unwrap();
            written.extend(wrote);
            read.extend(had);
        }
    });
    read.extend(take_over(&Process::start(folder.path(), ROOMY)));
    assert_all_delivered(&folder, read, written);
}

#[test]
fn what_one_that_waited_and_died_left_goes_at_the_next_start() {
    let folder = TempDir::new().unwrap();
    let start = || Process::start(folder.path(), ROOMY);
    let (mut first, mut waits) = (start(), start());
    let mut written = write(&mut waits, "waits", 5);
    drop(waits); // no close: as kill -9 leaves it
    written.extend(write(&mut first, "first", 5));
    let mut read = deliver_all(&first);
    first.close();
    read.extend(take_over(&start()));
    assert_all_delivered(&folder, read, written);
}

#[derive(Debug, Clone)]
enum Act {
    /// Begins, or tries to get the right to deliver.
    Open,
    /// Traces of about such a length, together.
    Write(usize, usize),
    /// A lot is taken and delivered, where it may.
    Deliver(u64),
    /// Nothing was added for a while.
    Idle,
    Crash,
    End,
}

const PROCESSES: usize = 4;

fn acts() -> impl Strategy<Value = Vec<(usize, Act)>> {
    let act = prop_oneof![
        4 => Just(Act::Open),
        6 => (1_usize..30_000, 1_usize..4).prop_map(|(length, count)| Act::Write(length, count)),
        5 => (1_u64..12).prop_map(Act::Deliver),
        2 => Just(Act::Idle),
        1 => Just(Act::Crash),
        2 => Just(Act::End),
    ];
    prop::collection::vec((0..PROCESSES, act), 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn each_trace_is_delivered_once_whoever_comes_and_goes(acts in acts()) {
        let folder = TempDir::new().unwrap();
        let mut processes: [Option<(Process, Option<Cursor>)>; PROCESSES] =
            std::array::from_fn(|_| None);
        let (mut written, mut read) = (0_usize, Vec::new());
        for (who, act) in acts {
            let Some((mut process, mut cursor)) = processes[who].take() else {
                // Small segments: 64 KiB.
                processes[who] = Some((Process::start(folder.path(), 512 << 10), None));
                continue;
            };
            match act {
                Act::Write(..) if process.spool.holds().bytes > 400 << 10 => {}
                Act::Write(length, count) => {
                    for _ in 0..count {
                        let text = noise(&written.to_string(), length);
                        process.appender.take(1_000, text.as_bytes(), &mut Flushed::default());
                        written += 1;
                    }
                    let flushed = process.flush();
                    prop_assert_eq!((flushed.written, flushed.dropped), (count as u64, 0));
                }
                Act::Open => process.spool.open().unwrap(),
                Act::Deliver(most) => {
                    cursor = cursor.or_else(|| Cursor::new(Arc::clone(&process.spool)));
                    if let Some(lot) = cursor.as_mut().and_then(|c| c.take(most, 1 << 20).unwrap()) {
                        prop_assert_eq!(lot.lost, 0);
                        process.spool.settle(lot.from, lot.to).unwrap();
                        read.extend(tests::texts(&lot));
                    }
                }
                Act::Idle => {
                    process.appender.let_go(Duration::ZERO, &mut Flushed::default()).unwrap();
                }
                Act::Crash => continue,
                Act::End => {
                    process.close();
                    continue;
                }
            }
            processes[who] = Some((process, cursor));
        }
        for (process, _) in processes.into_iter().flatten() {
            process.close();
        }
        let last = Process::start(folder.path(), ROOMY);
        read.extend(deliver_all(&last));
        last.close();
        let number = |text: &String| text.split(' ').next().unwrap().parse().unwrap();
        let mut numbers: Vec<usize> = read.iter().map(number).collect();
        numbers.sort_unstable();
        prop_assert_eq!(numbers, (0..written).collect::<Vec<_>>());
        prop_assert!(is_empty(&folder));
    }
}
