//! How often an address may fail to say who it is.

use pingora_limits::estimator::Estimator;
use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Failures are counted in parts of a minute, so that an address is 40 bytes.
const PARTS: usize = 6;
const PART: Duration = Duration::from_secs(10);
/// Most addresses that are counted exactly, in about 5 MiB; the rest are estimated.
const MAX_ADDRESSES: usize = 65_536;
/// Size of an estimate: four rows of counters, 512 KiB a part of a minute, made when first needed.
const ROWS: usize = 4;
const COUNTERS: usize = 16_384;

/// Failed authentications of the last minute by address; an IPv6 network of 64 bits, which one
/// host owns, is one address.
#[derive(Debug, Default)]
pub struct Throttle(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    by_address: HashMap<IpAddr, Failures>,
    rest: Option<Estimates>,
    swept: u64,
}

/// Failures of addresses beyond those, by part and newest first. They may be too high, when a hundred
/// thousand addresses fail at once, and are never too low.
struct Estimates {
    part: u64,
    parts: [Estimator; PARTS + 1],
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
        let counts = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let address = network(address);
        if let Some(failures) = counts.of(address, part) {
            failures.roll(part);
            return failures.one_more(limit, now);
        }
        counts.rest.get_or_insert_with(Estimates::new).one_more(address, part, limit, now)
    }
}

impl Counts {
    /// The exact count of an address, unless there are too many.
    fn of(&mut self, address: IpAddr, part: u64) -> Option<&mut Failures> {
        if self.by_address.len() >= MAX_ADDRESSES && self.swept < part {
            self.swept = part;
            self.by_address.retain(|_, failures| failures.part + PARTS as u64 >= part);
        }
        let is_full = self.by_address.len() >= MAX_ADDRESSES;
        if is_full && !self.by_address.contains_key(&address) {
            return None;
        }
        Some(self.by_address.entry(address).or_default())
    }
}

impl Estimates {
    fn new() -> Self {
        Self { part: 0, parts: std::array::from_fn(|_| Estimator::new(ROWS, COUNTERS)) }
    }

    fn one_more(
        &mut self,
        address: IpAddr,
        part: u64,
        limit: u32,
        now: Duration,
    ) -> Result<(), Duration> {
        let passed = turn(&mut self.parts, part.saturating_sub(self.part));
        self.parts.iter().take(passed).for_each(Estimator::reset);
        self.part = self.part.max(part);
        let count = |part: &Estimator| u32::try_from(part.get(address)).unwrap_or_default();
        let mut failures = Failures { part: self.part, counts: self.parts.each_ref().map(count) };
        failures.one_more(limit, now)?;
        if let Some(newest) = self.parts.first() {
            newest.incr(address, 1);
        }
        Ok(())
    }
}

impl fmt::Debug for Estimates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Estimates").field("part", &self.part).finish_non_exhaustive()
    }
}

/// Makes room for so many newer parts; how many of the first are to be emptied.
fn turn<T>(parts: &mut [T; PARTS + 1], passed: u64) -> usize {
    let passed = usize::try_from(passed).unwrap_or(usize::MAX).min(parts.len());
    parts.rotate_right(passed % (PARTS + 1));
    passed
}

impl Failures {
    /// Makes this part of time the newest.
    fn roll(&mut self, part: u64) {
        let passed = turn(&mut self.counts, part.saturating_sub(self.part));
        self.counts.iter_mut().take(passed).for_each(|count| *count = 0);
        self.part = self.part.max(part);
    }

    /// Counts a failure, unless that is one too many.
    fn one_more(&mut self, limit: u32, now: Duration) -> Result<(), Duration> {
        let sum: u64 = self.counts.iter().map(|count| u64::from(*count)).sum();
        if sum >= u64::from(limit) {
            return Err(self.wait(limit, now));
        }
        if let Some(newest) = self.counts.first_mut() {
            *newest = newest.saturating_add(1);
        }
        Ok(())
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
        // Of a few hundred beyond no two share all their counters, or once in a million runs.
        for n in 0..66_000 {
            throttle.fail(address(n), 2, s(1)).unwrap();
        }
        assert_eq!(throttle.0.lock().unwrap().by_address.len(), MAX_ADDRESSES);
        // One that came late is still told from the others.
        throttle.fail(address(65_999), 2, s(2)).unwrap();
        assert_eq!(throttle.fail(address(65_999), 2, s(2)), Err(s(68)));
        throttle.fail(address(65_998), 2, s(2)).unwrap();
        throttle.fail(address(65_999), 2, s(100)).unwrap();
        assert_eq!(throttle.0.lock().unwrap().by_address.len(), 1);
    }

    #[test]
    fn an_estimate_forgets_as_an_exact_count_does() {
        let mut rest = Estimates::new();
        let mut fail = |seconds: u64| rest.one_more(v4(1), seconds / 10, 2, s(seconds));
        fail(5).unwrap();
        fail(15).unwrap();
        assert_eq!(fail(16), Err(s(54)), "the part of 0 to 10 s leaves at 70 s");
        fail(70).unwrap();
        fail(75).unwrap_err();
        fail(1_000).unwrap();
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
