//! A spool under any order of what may happen to it.

use super::append::Flushed;
use super::read::Lot;
use super::tests::{Process, deliver, noise, numbered, texts};
use proptest::prelude::*;
use std::time::Duration;
use tempfile::TempDir;

#[derive(Debug, Clone)]
enum Act {
    /// Traces of about such a length, together.
    Write(usize, usize),
    Take(u64),
    /// Ends one of the lots under way.
    Settle(prop::sample::Index),
    /// Ends all of its traces but the first, one by one: that one is refused.
    Refuse(prop::sample::Index),
    /// Reads anew what is not done with.
    Rewind,
    /// Nothing was added for a while.
    Idle,
    Crash,
    Restart,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => (1_usize..30_000, 1_usize..5).prop_map(|(length, count)| Act::Write(length / count, count)),
        3 => (1_u64..6).prop_map(Act::Take),
        3 => any::<prop::sample::Index>().prop_map(Act::Settle),
        1 => any::<prop::sample::Index>().prop_map(Act::Refuse),
        1 => Just(Act::Rewind),
        2 => Just(Act::Idle),
        1 => Just(Act::Crash),
        1 => Just(Act::Restart),
    ];
    prop::collection::vec(act, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever happens, each record is settled once, unless the process died in between.
    #[test]
    fn nothing_is_lost_and_nothing_settled_comes_again(acts in acts()) {
        let folder = TempDir::new().unwrap();
        // Small segments: 64 KiB.
        let start = || Process::start(folder.path(), 512 << 10);
        let (mut process, mut written, mut settled) = (start(), 0_usize, Vec::new());
        let (mut cursor, mut lots) = (process.cursor(), Vec::new());
        for act in acts.into_iter().chain([Act::Restart]) {
            match act {
                Act::Write(..) if process.spool.holds().bytes > 400 << 10 => {}
                Act::Write(length, count) => {
                    for _ in 0..count {
                        let text = noise(&written.to_string(), length);
                        process.appender.take(1_000, text.as_bytes(), &mut Flushed::default());
                        written += 1;
                    }
                    prop_assert_eq!(process.flush().written, count as u64);
                }
                Act::Take(most) => lots.extend(cursor.take(most, 64 << 10).unwrap()),
                Act::Settle(which) if !lots.is_empty() => {
                    let lot = lots.swap_remove(which.index(lots.len()));
                    process.spool.settle(lot.from, lot.to).unwrap();
                    prop_assert_eq!(lot.lost, 0);
                    settled.extend(texts(&lot));
                }
                Act::Refuse(which) if !lots.is_empty() => {
                    let lot: Lot = lots.swap_remove(which.index(lots.len()));
                    for (number, text) in numbered(&lot).into_iter().skip(1) {
                        process.spool.settle(number, number + 1).unwrap();
                        settled.push(text);
                    }
                }
                Act::Settle(_) | Act::Refuse(_) => {}
                Act::Rewind => {
                    lots.clear();
                    cursor = process.cursor();
                }
                Act::Idle => {
                    let mut flushed = Flushed::default();
                    process.appender.let_go(Duration::ZERO, &mut flushed).unwrap();
                    prop_assert_eq!(flushed, Flushed::default());
                    if process.spool.holds().records == 0 {
                        prop_assert_eq!(process.spool.holds().bytes, 0);
                    }
                }
                Act::Crash | Act::Restart => {
                    lots.clear();
                    drop(cursor);
                    if matches!(act, Act::Restart) {
                        process.close();
                    } else {
                        drop(process);
                    }
                    process = start();
                    cursor = process.cursor();
                    let undone = (written - settled.len()) as u64;
                    prop_assert_eq!(process.spool.holds().records, undone);
                }
            }
        }
        settled.extend(deliver(&process, &mut cursor).0);
        let number = |text: &String| text.split(' ').next().unwrap().parse().unwrap();
        let mut numbers: Vec<usize> = settled.iter().map(number).collect();
        numbers.sort_unstable();
        prop_assert_eq!(numbers, (0..written).collect::<Vec<_>>());
        prop_assert_eq!(process.spool.holds().records, 0);
    }
}
