//! A lease against a Redis that answers in any order, or not at all.

use super::*;
use proptest::prelude::{Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};

fn lease() -> Lease {
    Lease::new(Term::at(Period::Total, 0), "r".into(), Duration::ZERO)
}

fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn terms_are_calendar_days_and_months_by_redis_clock() {
    let noon = 1_790_000_000_000; // 2026-09-21T14:13:20Z
    let day = Term::at(Period::Day, noon);
    assert_eq!((day.begins_ms, day.ends_ms), (1_789_948_800_000, 1_790_035_200_000));
    let month = Term::at(Period::Month, noon);
    assert_eq!((month.begins_ms, month.ends_ms), (1_788_220_800_000, 1_790_812_800_000));
    assert_eq!(Term::at(Period::Month, month.begins_ms), month);
    assert_eq!(Term::at(Period::Month, month.ends_ms - 1), month);
    assert_eq!(Term::at(Period::Month, month.ends_ms).number, month.number + 1);
    assert_eq!(Term::at(Period::Total, noon).ends_ms, -1);
    assert_ne!(day.name(), month.name());
}

#[test]
fn what_an_answer_on_its_way_may_have_brought_belongs_to_who_asked() {
    let mut lease = lease();
    let first = lease.draw(Some(NanoUsd(10)), at(0));
    let second = lease.draw(Some(NanoUsd(10)), at(0));
    // Redis has granted both, and the second answer is here first.
    lease.learn(20);
    assert_eq!(lease.confirm(second, 10, at(0)), NanoUsd(10));
    assert_eq!(lease.idle(), 0, "the other ten are the first call's");
    assert_eq!(lease.confirm(first, 10, at(0)), NanoUsd(10));
    lease.settle(NanoUsd(10), NanoUsd(3));
    assert_eq!(lease.idle(), 7);
    assert_eq!(lease.draw(Some(NanoUsd(9)), at(0)).asked, Some(2));
}

#[test]
fn a_grant_whose_answer_was_lost_is_learnt_with_the_next() {
    let mut lease = lease();
    let lost = lease.draw(Some(NanoUsd(10)), at(0));
    lease.undo(lost);
    let next = lease.draw(Some(NanoUsd(5)), at(0));
    lease.learn(15);
    lease.confirm(next, 5, at(0));
    assert_eq!(lease.idle(), 10);
}

#[test]
fn a_store_for_calls_to_come_is_what_was_used_lately_and_no_more_than_fair() {
    let mut lease = lease();
    assert_eq!(lease.draw(Some(NanoUsd(100)), at(0)).want, 100, "at least for one like it");
    let again = lease.draw(Some(NanoUsd(100)), at(0));
    assert_eq!(again.want, 0, "one call at a time stocks up");
    lease.learn(1_000);
    lease.confirm(again, 100, at(0));
    lease.trim(Some(10_000), 2, at(1));
    assert_eq!(lease.held(), 200, "for the call whose answer is out, and for one to come");
    let mut busy = Lease::new(Term::at(Period::Total, 0), "r".into(), at(0));
    let draw = busy.draw(Some(NanoUsd(100)), at(0));
    busy.learn(1_000);
    busy.confirm(draw, 100, at(0));
    busy.trim(Some(10_000), 2, at(1));
    assert_eq!(busy.idle(), 100);
    busy.trim(Some(10_000), 2, at(59_000));
    assert_eq!(busy.idle(), 100);
    busy.trim(Some(10_000), 2, at(62_000));
    assert_eq!(busy.idle(), 0, "nothing was used for a minute");
}

#[derive(Debug, Clone)]
enum Step {
    Ask(u64),
    Answer { which: prop::sample::Index, arrives: bool },
    Take(u64),
    End { which: prop::sample::Index, cost: u64 },
    Trim(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        4 => (0_u64..50).prop_map(Step::Ask),
        4 => (index(), any::<u8>())
            .prop_map(|(which, fate)| Step::Answer { which, arrives: fate > 50 }),
        1 => (0_u64..50).prop_map(Step::Take),
        3 => (index(), 0_u64..50).prop_map(|(which, cost)| Step::End { which, cost }),
        2 => (0_u64..300).prop_map(Step::Trim),
    ]
}

proptest! {
    /// Redis answers each question at once and truly, but the answers arrive in any order or never.
    #[test]
    fn never_is_more_promised_than_was_given(
        steps in prop::collection::vec(step(), 1..120),
        limit in 0_u64..600,
    ) {
        let (mut lease, mut given) = (lease(), 0_u64);
        let mut asked: Vec<(Draw, Option<(u64, u64)>)> = Vec::new();
        let mut running: Vec<NanoUsd> = Vec::new();
        let mut spent = 0;
        for step in steps {
            match step {
                Step::Ask(worst) => {
                    let worst = (worst != 49).then_some(NanoUsd(worst));
                    let draw = lease.draw(worst, at(0));
                    let free = limit.saturating_sub(given - lease.word().returned);
                    let grant = match draw.asked {
                        Some(asked) if asked > free => None,
                        Some(asked) => {
                            given += asked + draw.want.min(free - asked);
                            Some((given, asked))
                        }
                        None => { given += free; Some((given, free)) }
                    };
                    asked.push((draw, grant));
                }
                Step::Answer { which, arrives } if !asked.is_empty() => {
                    let (draw, grant) = asked.swap_remove(which.index(asked.len()));
                    match grant.filter(|_| arrives) {
                        None => lease.undo(draw),
                        Some((so_far, granted)) => {
                            lease.learn(so_far);
                            running.push(lease.confirm(draw, granted, at(0)));
                        }
                    }
                }
                Step::Take(worst) => running.extend(lease.take(Some(NanoUsd(worst)), at(0))),
                Step::End { which, cost } if !running.is_empty() => {
                    let reserved = running.swap_remove(which.index(running.len()));
                    let cost = cost.min(reserved.0);
                    lease.settle(reserved, NanoUsd(cost));
                    spent += cost;
                }
                Step::Answer { .. } | Step::End { .. } => {}
                Step::Trim(free) => lease.trim(Some(free), 2, at(0)),
            }
            let promised: u64 = running.iter().map(|amount| amount.0).sum();
            let word = lease.word();
            prop_assert_eq!(word.spent, spent);
            prop_assert!(spent + word.returned + promised <= given, "{:?}", lease);
            prop_assert!(given - word.returned <= limit);
            prop_assert!(word.given <= given);
        }
    }
}
