//! Which upstream a call goes to next: among those that stand best, by the route's way of balancing.

use super::config::Balance;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// What balancing needs to know of one upstream.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// How it stands; only the lowest there is are chosen from.
    pub rank: u8,
    /// Calls in flight.
    pub inflight: u64,
    /// What one more call would wait, for comparison alone.
    pub load: f64,
}

/// What one call brings to every choice made for it.
#[derive(Debug, Clone, Copy)]
pub struct Draw {
    /// Its place in the order of turns.
    pub turn: usize,
    /// Two independent random numbers.
    pub random: (u32, u32),
    /// Hash of its session, where it has one.
    pub session: Option<u64>,
}

/// One upstream of a route.
#[derive(Debug, Clone)]
pub struct Member {
    /// Position in the snapshot's list.
    pub position: usize,
    /// Share under `balance: weighted`.
    pub weight: u32,
    /// Lower is asked first under `balance: priority`.
    pub priority: u32,
    /// Hash of its name, for sessions.
    pub hash: u64,
}

/// A route's upstreams and how they share its calls.
#[derive(Debug)]
pub(super) struct Balancer {
    balance: Balance,
    members: Vec<Member>,
    /// Indices of `members` in the order of turns: each as often as its share, well mixed.
    turns: Vec<usize>,
}

/// Longest order of turns; beyond it shares are rounded. 1000 to 1, the widest that may be
/// configured, still fits.
const MAX_TURNS: u32 = 1_024;

impl Balancer {
    pub(super) fn new(balance: Balance, mut members: Vec<Member>) -> Self {
        if balance == Balance::Priority {
            members.sort_by_key(|member| member.priority);
        }
        let turns = match balance {
            Balance::Weighted => interleave(&members),
            Balance::RoundRobin | Balance::LeastBusy | Balance::Fastest | Balance::Priority => {
                (0..members.len()).collect()
            }
        };
        Self { balance, members, turns }
    }

    /// Positions of the members, in configured order or by priority.
    pub(super) fn positions(&self) -> impl Iterator<Item = usize> + '_ {
        self.members.iter().map(|member| member.position)
    }

    /// The position to ask next; `look` says how a position stands, `None` where it must not be
    /// asked.
    pub(super) fn pick(
        &self,
        draw: &Draw,
        look: impl Fn(usize) -> Option<Candidate>,
    ) -> Option<usize> {
        let best = self.members.iter().filter_map(|m| Some(look(m.position)?.rank)).min()?;
        // What stands so well now may stand better or worse the next moment; either will do.
        let fit = |member: &&Member| look(member.position).is_some_and(|c| c.rank <= best);
        let turns = || self.turns.iter().filter_map(|i| self.members.get(*i)).filter(fit);
        // Turns are counted among those that may be asked: one that is out would leave all of its
        // own to its neighbour.
        let start = draw.turn.checked_rem(turns().count()).unwrap_or_default();
        let mut fitting = turns().skip(start).chain(turns().take(start));
        let chosen = match (self.balance, draw.session) {
            (Balance::RoundRobin | Balance::Weighted, Some(session)) => {
                self.of_session(session, fit)
            }
            (Balance::RoundRobin | Balance::Weighted, None) => fitting.next(),
            (Balance::Priority, _) => self.members.iter().find(fit),
            (Balance::LeastBusy, _) => {
                fitting.min_by_key(|m| look(m.position).map_or(u64::MAX, |c| c.inflight))
            }
            (Balance::Fastest, _) => self.quicker_of_two(draw.random, &look, fit),
        };
        chosen.map(|member| member.position)
    }

    /// Where a session is at home: weighted rendezvous hashing, so that a session moves only when its
    /// own upstream goes, and each upstream is home to its share. A provider's prompt cache is worth
    /// more than an even turn.
    fn of_session(&self, session: u64, fit: impl Fn(&&Member) -> bool) -> Option<&Member> {
        let score = |member: &Member| {
            let weight = match self.balance {
                Balance::Weighted => f64::from(member.weight),
                Balance::RoundRobin | Balance::LeastBusy | Balance::Fastest | Balance::Priority => {
                    1.0
                }
            };
            -weight / unit(mixed(session, member.hash)).ln()
        };
        let scored = self.members.iter().filter(fit).map(|member| (score(member), member));
        scored.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, member)| member)
    }

    /// The power of two choices: of two that chance names the one with less load. The slower one of
    /// all is never the better, unless its bad days are long ago.
    fn quicker_of_two(
        &self,
        (first, second): (u32, u32),
        look: impl Fn(usize) -> Option<Candidate>,
        fit: impl Fn(&&Member) -> bool,
    ) -> Option<&Member> {
        let count = self.members.iter().filter(&fit).count();
        let one = usize::try_from(first).unwrap_or_default().checked_rem(count)?;
        let other = usize::try_from(second).unwrap_or_default().checked_rem(count - 1);
        // Never the same twice: the second choice skips the first.
        let other = other.map_or(one, |other| if other >= one { other + 1 } else { other });
        let nth = |n: usize| self.members.iter().filter(&fit).nth(n);
        let load = |member: &Member| look(member.position).map_or(f64::INFINITY, |c| c.load);
        let (a, b) = (nth(one)?, nth(other).or_else(|| nth(one))?);
        Some(if load(b) < load(a) { b } else { a })
    }
}

/// The hash of a name or a session; the same in every process of one build, so that replicas agree.
#[must_use]
pub fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// Two hashes as one, each bit of both felt everywhere (the finalizer of `SplitMix64`).
const fn mixed(a: u64, b: u64) -> u64 {
    let mut x = a ^ b.rotate_left(32);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A number strictly between 0 and 1.
#[expect(clippy::cast_precision_loss, reason = "a hash has bits to spare")]
fn unit(hash: u64) -> f64 {
    ((hash >> 12) as f64 + 0.5) / (1_u64 << 52) as f64
}

/// Smooth weighted turns: at every turn each gains its weight, and the richest is taken and pays the
/// sum of all. Over the whole order each comes exactly as often as its weight, never in a lump.
fn interleave(members: &[Member]) -> Vec<usize> {
    let divisor = members.iter().fold(0, |divisor, member| gcd(divisor, member.weight)).max(1);
    let sum: u32 = members.iter().map(|member| member.weight / divisor).sum();
    let scale = sum.div_ceil(MAX_TURNS).max(1) * divisor;
    let shares: Vec<i64> =
        members.iter().map(|member| i64::from((member.weight / scale).max(1))).collect();
    let all: i64 = shares.iter().sum();
    let mut purses = vec![0; shares.len()];
    let turn = |_| {
        purses.iter_mut().zip(&shares).for_each(|(purse, share)| *purse += share);
        let (richest, purse) =
            purses.iter_mut().enumerate().rev().max_by_key(|(_, purse)| **purse)?;
        *purse -= all;
        Some(richest)
    };
    (0..all).filter_map(turn).collect()
}

const fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn balancer(balance: Balance, weights: &[u32]) -> Balancer {
        let member = |(position, weight): (usize, &u32)| Member {
            position,
            weight: *weight,
            priority: *weight,
            hash: hash(&format!("upstream-{position}")),
        };
        Balancer::new(balance, weights.iter().enumerate().map(member).collect())
    }

    fn draw(turn: usize) -> Draw {
        Draw { turn, random: (0, 0), session: None }
    }

    const WELL: Candidate = Candidate { rank: 0, inflight: 0, load: 0.0 };

    #[test]
    fn weights_are_kept_exactly_and_without_lumps() {
        let balancer = balancer(Balance::Weighted, &[3, 1]);
        let picks: Vec<_> =
            (0..8).filter_map(|turn| balancer.pick(&draw(turn), |_| Some(WELL))).collect();
        assert_eq!(picks, [0, 0, 1, 0, 0, 0, 1, 0]);
    }

    #[test]
    fn those_that_are_left_share_the_calls_of_one_that_is_out() {
        for (balance, weights, wanted) in [
            (Balance::RoundRobin, [1, 1, 1], [30, 0, 30]),
            (Balance::Weighted, [1, 5, 2], [20, 0, 40]),
            (Balance::LeastBusy, [1, 1, 1], [30, 0, 30]),
        ] {
            let balancer = balancer(balance, &weights);
            let mut counts = [0; 3];
            for turn in 0..60 {
                let at = balancer.pick(&draw(turn), |at| (at != 1).then_some(WELL)).unwrap();
                counts[at] += 1;
            }
            assert_eq!(counts, wanted, "{balance:?}");
        }
    }

    #[test]
    fn a_worse_rank_is_asked_only_where_there_is_no_better() {
        for balance in [
            Balance::RoundRobin,
            Balance::Weighted,
            Balance::LeastBusy,
            Balance::Fastest,
            Balance::Priority,
        ] {
            let balancer = balancer(balance, &[1, 1, 1]);
            for turn in 0..6 {
                let ranked = |ranks: [Option<u8>; 3]| {
                    balancer.pick(&draw(turn), |at| Some(Candidate { rank: ranks[at]?, ..WELL }))
                };
                assert_eq!(ranked([Some(3), Some(0), Some(4)]), Some(1), "{balance:?}");
                assert_eq!(ranked([Some(3), None, Some(2)]), Some(2), "{balance:?}");
                assert_eq!(ranked([None, None, None]), None, "{balance:?}");
            }
        }
    }

    #[test]
    fn the_least_busy_is_chosen_and_equals_take_turns() {
        let balancer = balancer(Balance::LeastBusy, &[1, 1, 1]);
        let pick = |turn, busy: [u64; 3]| {
            balancer.pick(&draw(turn), |at| Some(Candidate { inflight: busy[at], ..WELL }))
        };
        assert_eq!(pick(0, [2, 1, 3]), Some(1));
        assert_eq!((pick(0, [0, 0, 9]), pick(1, [0, 0, 9])), (Some(0), Some(1)));
    }

    #[test]
    fn of_two_the_quicker_is_chosen_whichever_chance_names_first() {
        let balancer = balancer(Balance::Fastest, &[1, 1]);
        for random in [(0, 0), (1, 0), (7, 3), (2, 9)] {
            let draw = Draw { turn: 0, random, session: None };
            let loads = [2.0, 0.5];
            let look = |at: usize| Some(Candidate { load: loads[at], ..WELL });
            assert_eq!(balancer.pick(&draw, look), Some(1));
        }
        let alone = |at| (at == 0).then_some(WELL);
        assert_eq!(balancer.pick(&draw(3), alone), Some(0));
    }

    #[test]
    fn priority_is_the_lowest_first() {
        let balancer = balancer(Balance::Priority, &[2, 1, 1]);
        for turn in 0..3 {
            assert_eq!(balancer.pick(&draw(turn), |_| Some(WELL)), Some(1));
            assert_eq!(balancer.pick(&draw(turn), |at| (at != 1).then_some(WELL)), Some(2));
        }
    }

    #[test]
    fn a_session_stays_and_only_those_of_a_lost_upstream_move() {
        let balancer = balancer(Balance::Weighted, &[3, 1, 1]);
        let home = |session: u64, lost: Option<usize>| {
            let draw = Draw { turn: 0, random: (0, 0), session: Some(mixed(session, 1)) };
            balancer.pick(&draw, |at| (Some(at) != lost).then_some(WELL)).unwrap()
        };
        let mut homes = BTreeMap::<usize, u32>::new();
        for session in 0..10_000 {
            let at = home(session, None);
            *homes.entry(at).or_default() += 1;
            assert_eq!(at, home(session, Some((at + 1) % 3)), "it does not move");
            assert_ne!(at, home(session, Some(at)));
        }
        assert!((5_700..6_300).contains(&homes[&0]), "{homes:?}");
        assert!((1_800..2_200).contains(&homes[&1]), "{homes:?}");
    }

    proptest! {
        #[test]
        fn every_member_comes_as_often_as_its_weight(
            weights in proptest::collection::vec(1_u32..60, 1..6),
        ) {
            let balancer = balancer(Balance::Weighted, &weights);
            let divisor = weights.iter().fold(0, |d, w| gcd(d, *w));
            for (index, weight) in weights.iter().enumerate() {
                let turns = balancer.turns.iter().filter(|turn| **turn == index).count();
                prop_assert_eq!(turns, usize::try_from(weight / divisor).unwrap());
            }
        }

        #[test]
        fn whoever_may_be_asked_is_found(
            up in proptest::collection::vec(any::<bool>(), 1..7),
            turn in 0_usize..100, random in any::<(u32, u32)>(), session in any::<Option<u64>>(),
        ) {
            for balance in [
                Balance::RoundRobin, Balance::Weighted, Balance::LeastBusy, Balance::Fastest,
                Balance::Priority,
            ] {
                let balancer = balancer(balance, &vec![2; up.len()]);
                let draw = Draw { turn, random, session };
                let picked = balancer.pick(&draw, |at| up[at].then_some(WELL));
                prop_assert_eq!(picked.is_some(), up.contains(&true));
                prop_assert!(picked.is_none_or(|at| up[at]));
            }
        }
    }
}
