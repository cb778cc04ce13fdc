//! How often an address may fail to say who it is.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Failures are counted in parts of a minute, so that an address is 40 bytes.
const PARTS: usize = 6;
const PART: Duration = Duration::from_secs(10);
/// Most addresses that are told apart; the rest share one count. About 5 MiB.
const MAX_ADDRESSES: usize = 65_536;

/// Failed authentications of the last minute by address; an IPv6 network of 64 bits, which one
/// host owns, is one address.
#[derive(Debug, Default)]
pub struct Throttle(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    by_address: HashMap<IpAddr, Failures>,
    rest: Failures,
    swept: u64,
}

/// Failures in the part that began at `part * PART` and in those before it, newest first.
#[derive(Debug, Default, Clone, Copy)]
struct Failures {
    part: u64,
    counts: [u32; PARTS + 1],
}

impl Throttle {
    /// Counts a failure.
    ///
    /// # Errors
    /// Where the address had failed `limit` times within the last minute: how long until it may try
    /// again, up to 10 s more than exactly. Then nothing is counted.
    pub fn fail(&self, address: IpAddr, limit: u32, now: Duration) -> Result<(), Duration> {
        let part = now.as_secs() / PART.as_secs();
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let failures = counts.of(network(address), part);
        failures.roll(part);
        let sum: u64 = failures.counts.iter().map(|count| u64::from(*count)).sum();
        if sum >= u64::from(limit) {
            return Err(failures.wait(limit, now));
        }
        if let Some(newest) = failures.counts.first_mut() {
            *newest = newest.saturating_add(1);
        }
        Ok(())
    }
}

impl Counts {
    fn of(&mut self, address: IpAddr, part: u64) -> &mut Failures {
        if self.by_address.len() >= MAX_ADDRESSES && self.swept < part {
            self.swept = part;
            self.by_address.retain(|_, failures| failures.part + PARTS as u64 >= part);
        }
        let is_full = self.by_address.len() >= MAX_ADDRESSES;
        if is_full && !self.by_address.contains_key(&address) {
            return &mut self.rest;
        }
        self.by_address.entry(address).or_default()
    }
}

impl Failures {
    /// Makes this part of time the newest.
    fn roll(&mut self, part: u64) {
        let passed = usize::try_from(part.saturating_sub(self.part)).unwrap_or(usize::MAX);
        let passed = passed.min(self.counts.len());
        self.counts.rotate_right(passed % (PARTS + 1));
        self.counts.iter_mut().take(passed).for_each(|count| *count = 0);
        self.part = self.part.max(part);
    }

    /// Until so many of the oldest parts have left that the sum is below the limit.
    fn wait(&self, limit: u32, now: Duration) -> Duration {
        let mut left: u64 = self.counts.iter().map(|count| u64::from(*count)).sum();
        for (count, parts) in self.counts.iter().rev().zip(1_u64..) {
            left = left.saturating_sub(u64::from(*count));
            if left < u64::from(limit) {
                let leaves = (self.part + parts) * PART.as_secs();
                return Duration::from_secs(leaves).saturating_sub(now);
            }
        }
        PART
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{prop, prop_assert, proptest};

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn v4(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn the_one_after_the_limit_is_refused_until_the_minute_is_over() {
        let throttle = Throttle::default();
        for _ in 0..3 {
            throttle.fail(v4(1), 3, s(5)).unwrap();
        }
        let wait = throttle.fail(v4(1), 3, s(6)).unwrap_err();
        assert_eq!(wait, s(64), "the part of 0 to 10 s leaves at 70 s");
        assert!(throttle.fail(v4(2), 3, s(6)).is_ok(), "another address");
        throttle.fail(v4(1), 3, s(69)).unwrap_err();
        throttle.fail(v4(1), 3, s(6) + wait).unwrap();
    }

    #[test]
    fn one_ipv6_network_is_one_address() {
        let throttle = Throttle::default();
        let at = |text: &str| text.parse::<IpAddr>().unwrap();
        throttle.fail(at("2001:db8:0:1::1"), 1, s(0)).unwrap();
        throttle.fail(at("2001:db8:0:1:ffff::2"), 1, s(0)).unwrap_err();
        throttle.fail(at("2001:db8:0:2::1"), 1, s(0)).unwrap();
        throttle.fail(at("192.0.2.1"), 1, s(0)).unwrap();
        throttle.fail(at("::ffff:192.0.2.1"), 1, s(0)).unwrap_err();
    }

    #[test]
    fn memory_is_bounded_however_many_addresses_come() {
        let throttle = Throttle::default();
        let address = |n: u32| IpAddr::from(n.to_be_bytes());
        for n in 0..70_000 {
            // The rest share one count and are refused together.
            throttle.fail(address(n), 1, s(1)).ok();
        }
        assert_eq!(throttle.0.lock().unwrap().by_address.len(), MAX_ADDRESSES);
        throttle.fail(address(80_000), 1, s(1)).unwrap_err();
        throttle.fail(address(80_000), 1, s(100)).unwrap();
        assert_eq!(throttle.0.lock().unwrap().by_address.len(), 1);
    }

    proptest! {
        #[test]
        fn never_more_than_the_limit_in_any_minute_and_the_wait_is_true(
            steps in prop::collection::vec(0_u64..15, 1..200),
        ) {
            let throttle = Throttle::default();
            let (mut now, mut failed) = (0, Vec::<u64>::new());
            for step in steps {
                now += step;
                match throttle.fail(v4(1), 4, s(now)) {
                    Ok(()) => {
                        failed.push(now);
                        let recent = failed.iter().filter(|at| **at + 60 > now).count();
                        prop_assert!(recent <= 4);
                    }
                    Err(wait) => {
                        let recent = failed.iter().filter(|at| **at + 70 > now).count();
                        prop_assert!(recent >= 4);
                        now += wait.as_secs();
                        prop_assert!(throttle.fail(v4(1), 4, s(now)).is_ok());
                        failed.push(now);
                    }
                }
            }
        }
    }
}
