//! Whether a call of one key may go on: one decision over all its limits; a refusal takes nothing.

use super::money::NanoUsd;
use super::purse::{Funds, Purse, Reservation};
use super::window::{MINUTE, Ticket, Window};
use super::{Account, Ask, Dimension, Hold, Meter, Moment, Standing};
use std::time::{Duration, SystemTime};

/// What stands in the way is a running call: nobody knows when it ends, a client may ask again soon.
const SOON: Duration = Duration::from_secs(1);

/// The counters of one key.
#[derive(Debug, Clone, Default)]
pub struct Seat {
    running: u64,
    requests: Window,
    tokens: Window,
    purse: Purse,
}

/// Why a call is refused, and when trying again may help; `None` where waiting does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// Which limit is in the way; the first in the contract's order.
    pub by: Dimension,
    /// Until it fits.
    pub retry_after: Option<Duration>,
}

/// Where a call was counted, so that it can be taken out or put right.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counted {
    tokens: Option<Ticket>,
    reservation: Option<Reservation>,
}

impl Seat {
    /// Adds what the key had spent when an earlier process ended.
    pub fn restore(&mut self, earlier: &Purse) {
        self.purse.add(earlier);
    }

    /// Counts the call against every limit, or against none.
    ///
    /// # Errors
    /// The first limit that is in the way.
    pub fn admit(&mut self, account: &Account, ask: &Ask, now: Moment) -> Result<Hold, Refusal> {
        self.check(account, ask, now)?;
        let reserved = self.amount(account, ask, now.wall)?;
        self.running += 1;
        if account.requests_per_minute.is_some() {
            self.requests.take(1, now.mono);
        }
        let tokens = account.tokens_per_minute.map(|_| self.tokens.take(ask.tokens, now.mono));
        let reservation = self.purse.reserve(reserved, now.wall);
        Ok(Hold {
            call: ask.call,
            tokens: ask.tokens,
            reserved,
            day: reservation.day,
            counted: Counted { tokens, reservation: Some(reservation) },
            seat: None,
        })
    }

    fn check(&mut self, account: &Account, ask: &Ask, now: Moment) -> Result<(), Refusal> {
        if account.concurrent.is_some_and(|limit| self.running >= limit) {
            return Err(Refusal { by: Dimension::Concurrent, retry_after: Some(SOON) });
        }
        for (by, units, limit, window) in [
            (Dimension::Requests, 1, account.requests_per_minute, &mut self.requests),
            (Dimension::Tokens, ask.tokens, account.tokens_per_minute, &mut self.tokens),
        ] {
            let Some(limit) = limit else { continue };
            let wait = window.wait(units, limit, now.mono);
            if wait != Some(Duration::ZERO) {
                return Err(Refusal { by, retry_after: wait });
            }
        }
        Ok(())
    }

    /// How much of the budget the call has to reserve.
    fn amount(
        &mut self,
        account: &Account,
        ask: &Ask,
        now: SystemTime,
    ) -> Result<NanoUsd, Refusal> {
        let Some(budget) = account.budget else { return Ok(NanoUsd::ZERO) };
        let funds = self.purse.funds(budget, now);
        // What costs nothing needs no money; where no price is known nobody can say how much is
        // enough, so that one call at a time may have all that is left.
        let wanted = ask.worst.unwrap_or_else(|| funds.left().max(NanoUsd(1)));
        if wanted == NanoUsd::ZERO || wanted <= funds.left() {
            return Ok(wanted);
        }
        let until_reset = || funds.resets_at.map(|at| at.duration_since(now).unwrap_or_default());
        let least = if ask.worst.is_some() { wanted } else { NanoUsd(1) };
        let retry_after = if least > funds.limit {
            None
        } else if least <= funds.limit.minus(funds.used) {
            Some(SOON)
        } else {
            until_reset()
        };
        Err(Refusal { by: Dimension::Budget, retry_after })
    }

    /// Ends a call: its slot is free again, its real tokens and cost stand in the place of what was
    /// reserved.
    pub fn settle(&mut self, hold: &Hold, tokens: u64, cost: NanoUsd, now: Moment) {
        self.running = self.running.saturating_sub(1);
        if let Some(ticket) = hold.counted.tokens {
            self.tokens.correct(ticket, hold.tokens, tokens, now.mono);
        }
        if let Some(reservation) = hold.counted.reservation {
            self.purse.settle(reservation, cost);
        }
    }

    /// How the budget stands, where there is one.
    pub fn funds(&mut self, account: &Account, now: SystemTime) -> Option<Funds> {
        account.budget.map(|budget| self.purse.funds(budget, now))
    }

    /// Takes a call back that never went out, as if it had not been admitted.
    pub fn withdraw(&mut self, account: &Account, hold: &Hold, now: Moment) {
        if account.requests_per_minute.is_some() {
            self.requests.give_back(now.mono);
        }
        self.settle(hold, 0, NanoUsd::ZERO, now);
    }

    /// How everything stands.
    pub fn standing(&mut self, account: &Account, now: Moment) -> Standing {
        let meter = |limit: Option<u64>, window: &mut Window| {
            let limit = limit?;
            let remaining = limit.saturating_sub(window.used(now.mono));
            Some(Meter { limit, remaining, reset: window.reset(now.mono).min(MINUTE) })
        };
        Standing {
            requests: meter(account.requests_per_minute, &mut self.requests),
            tokens: meter(account.tokens_per_minute, &mut self.tokens),
            concurrent: account.concurrent.map(|limit| Meter {
                limit,
                remaining: limit.saturating_sub(self.running),
                reset: Duration::ZERO,
            }),
            budget: self.funds(account, now.wall),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Budget, CallId, Day, Period};
    use proptest::prelude::{
        Just, Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest,
    };

    fn account(requests: u64, tokens: u64, concurrent: u64, nano: u64) -> Account {
        Account {
            key: "k".into(),
            requests_per_minute: Some(requests),
            tokens_per_minute: Some(tokens),
            concurrent: Some(concurrent),
            budget: Some(Budget { limit: NanoUsd(nano), per: Period::Day }),
        }
    }

    fn ask(tokens: u64, worst: Option<u64>) -> Ask {
        Ask { call: CallId(1), tokens, worst: worst.map(NanoUsd), model: "m".into() }
    }

    fn at(ms: u64) -> Moment {
        let mono = Duration::from_millis(ms);
        Moment { mono, wall: Day(20_000).begins() + mono }
    }

    #[test]
    fn limits_are_asked_in_the_order_of_the_contract() {
        let mut seat = Seat::default();
        let full = account(1, 10, 1, 100);
        let hold = seat.admit(&full, &ask(10, Some(100)), at(0)).unwrap();
        let by = |seat: &mut Seat, account: &Account| {
            seat.admit(account, &ask(10, Some(100)), at(1)).unwrap_err().by
        };
        assert_eq!(by(&mut seat, &full), Dimension::Concurrent);
        seat.settle(&hold, 10, NanoUsd(100), at(1));
        assert_eq!(by(&mut seat, &full), Dimension::Requests);
        assert_eq!(by(&mut seat, &account(2, 10, 1, 100)), Dimension::Tokens);
        assert_eq!(by(&mut seat, &account(2, 20, 1, 100)), Dimension::Budget);
        assert!(seat.admit(&account(2, 20, 1, 200), &ask(10, Some(100)), at(1)).is_ok());
    }

    #[test]
    fn a_refusal_takes_nothing() {
        let mut seat = Seat::default();
        let account = account(5, 50, 5, 100);
        for _ in 0..3 {
            seat.admit(&account, &ask(1, Some(101)), at(0)).unwrap_err();
            seat.admit(&account, &ask(51, Some(1)), at(0)).unwrap_err();
        }
        let standing = seat.standing(&account, at(0));
        assert_eq!(standing.requests.unwrap().remaining, 5);
        assert_eq!(standing.tokens.unwrap().remaining, 50);
        assert_eq!(standing.concurrent.unwrap().remaining, 5);
        assert_eq!(standing.budget.unwrap().left(), NanoUsd(100));
    }

    #[test]
    fn what_cannot_ever_fit_is_told_apart_from_what_has_to_wait() {
        let mut seat = Seat::default();
        let account = account(9, 50, 9, 100);
        let refused = |seat: &mut Seat, tokens, worst| {
            seat.admit(&account, &ask(tokens, worst), at(0)).unwrap_err().retry_after
        };
        assert_eq!(refused(&mut seat, 51, Some(0)), None);
        assert_eq!(refused(&mut seat, 0, Some(101)), None);
        let hold = seat.admit(&account, &ask(40, Some(60)), at(0)).unwrap();
        assert_eq!(refused(&mut seat, 0, Some(60)), Some(SOON), "the running call may cost less");
        assert_eq!(refused(&mut seat, 11, Some(0)), Some(MINUTE));
        seat.settle(&hold, 40, NanoUsd(60), at(0));
        let day = Duration::from_hours(24);
        assert_eq!(refused(&mut seat, 0, Some(60)), Some(day));
    }

    #[test]
    fn without_a_known_price_one_call_at_a_time_has_all_that_is_left() {
        let mut seat = Seat::default();
        let account = account(9, 50, 9, 100);
        let hold = seat.admit(&account, &ask(1, None), at(0)).unwrap();
        assert_eq!(hold.reserved, NanoUsd(100));
        assert_eq!(seat.admit(&account, &ask(1, None), at(0)).unwrap_err().retry_after, Some(SOON));
        assert!(seat.admit(&account, &ask(1, Some(0)), at(0)).is_ok(), "what is free still passes");
        seat.settle(&hold, 1, NanoUsd(30), at(0));
        let next = seat.admit(&account, &ask(1, None), at(0)).unwrap();
        assert_eq!(next.reserved, NanoUsd(70));
        seat.settle(&next, 1, NanoUsd(70), at(0));
        let refusal = seat.admit(&account, &ask(1, None), at(0)).unwrap_err();
        assert_eq!(refusal.retry_after, Some(Duration::from_hours(24)));
    }

    #[test]
    fn a_withdrawn_call_was_never_there() {
        let mut seat = Seat::default();
        let account = account(5, 50, 5, 100);
        let before = seat.standing(&account, at(0));
        let hold = seat.admit(&account, &ask(10, Some(10)), at(0)).unwrap();
        seat.withdraw(&account, &hold, at(1));
        assert_eq!(seat.standing(&account, at(1)), before);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Wait(u64),
        Call { tokens: u64, worst: u64 },
        End { which: prop::sample::Index, tokens: u64, cost: u64 },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            2 => prop_oneof![Just(100_u64), Just(7_000), Just(61_000)].prop_map(Step::Wait),
            4 => (0_u64..40, 0_u64..300).prop_map(|(tokens, worst)| Step::Call { tokens, worst }),
            3 => (any::<prop::sample::Index>(), 0_u64..40, 0_u64..300)
                .prop_map(|(which, tokens, cost)| Step::End { which, tokens, cost }),
        ]
    }

    proptest! {
        /// Against lists: whatever happens in whatever order, nothing goes over a limit and what is
        /// shown as left is what is left.
        #[test]
        fn never_over_and_never_lost(steps in prop::collection::vec(step(), 1..80)) {
            let account = account(6, 100, 3, 1_000);
            let (mut seat, mut now, mut spent) = (Seat::default(), 0, 0);
            let (mut running, mut admitted) = (Vec::<Hold>::new(), Vec::<(u64, u64, u64)>::new());
            for (number, step) in (0_u64..).zip(steps) {
                match step {
                    Step::Wait(ms) => now += ms,
                    Step::End { which, tokens, cost } if !running.is_empty() => {
                        let hold = running.swap_remove(which.index(running.len()));
                        let (tokens, cost) = (tokens.min(hold.tokens), cost.min(hold.reserved.0));
                        seat.settle(&hold, tokens, NanoUsd(cost), at(now));
                        spent += cost;
                        let entry = admitted.iter_mut().find(|entry| entry.2 == hold.call.0);
                        entry.unwrap().1 = tokens;
                    }
                    Step::End { .. } => {}
                    Step::Call { tokens, worst } => {
                        let ask = Ask { call: CallId(number), ..ask(tokens, Some(worst)) };
                        if let Ok(hold) = seat.admit(&account, &ask, at(now)) {
                            running.push(hold);
                            admitted.push((now, tokens, number));
                        }
                    }
                }
                let recent: Vec<_> = admitted.iter().filter(|e| e.0 + 60_000 > now).collect();
                let used: u64 = recent.iter().map(|entry| entry.1).sum();
                let reserved: u64 = running.iter().map(|hold| hold.reserved.0).sum();
                prop_assert!(recent.len() <= 6 && used <= 100 && running.len() <= 3);
                prop_assert!(spent + reserved <= 1_000);
                let standing = seat.standing(&account, at(now));
                // Entries that share a grain leave together: a little less may show as left.
                prop_assert!(standing.requests.unwrap().remaining <= 6 - recent.len() as u64);
                prop_assert!(standing.tokens.unwrap().remaining <= 100 - used);
                prop_assert_eq!(standing.concurrent.unwrap().remaining, 3 - running.len() as u64);
                prop_assert_eq!(standing.budget.unwrap().left().0, 1_000 - spent - reserved);
            }
        }
    }

    /// A call, as the embedded store handles it: two locks, and between them the journal.
    fn one_call(seat: &loom::sync::Mutex<Seat>, is_written: bool) -> u64 {
        let account = account(2, 20, 2, 100);
        let admitted = seat.lock().unwrap().admit(&account, &ask(10, Some(50)), at(0));
        let Ok(hold) = admitted else { return 0 };
        let mut seat = seat.lock().unwrap();
        if is_written {
            seat.settle(&hold, 10, NanoUsd(50), at(0));
        } else {
            seat.withdraw(&account, &hold, at(0));
        }
        u64::from(is_written)
    }

    /// Every order in which threads can interleave: the decision is one, and a call that is taken
    /// back because its reservation could not be written down leaves nothing behind.
    #[test]
    fn no_interleaving_admits_too_many_or_loses_a_slot() {
        loom::model(|| {
            let seat = loom::sync::Arc::new(loom::sync::Mutex::new(Seat::default()));
            let threads = [true, false, true].map(|is_written| {
                let seat = loom::sync::Arc::clone(&seat);
                loom::thread::spawn(move || one_call(&seat, is_written))
            });
            let calls: u64 = threads.map(|thread| thread.join().unwrap()).into_iter().sum();
            let standing = seat.lock().unwrap().standing(&account(2, 20, 2, 100), at(0));
            assert!(calls <= 2);
            assert_eq!(standing.concurrent.unwrap().remaining, 2);
            assert_eq!(standing.requests.unwrap().remaining, 2 - calls);
            assert_eq!(standing.budget.unwrap().left(), NanoUsd(100 - 50 * calls));
        });
    }
}
