//! What a process has used, from `/proc`; zero where it is gone.

use std::fs;
use std::time::Duration;

/// Linux reports processor time to user space in hundredths of a second, whatever the kernel's own
/// clock (`USER_HZ`, proc(5)).
const TICKS_PER_SECOND: u64 = 100;

/// Processor time used so far, user and system together.
#[must_use]
pub fn cpu(pid: u32) -> Duration {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in parentheses, may hold spaces; utime and stime are fields 14 and 15 of the line.
    let after = text.rsplit_once(')').map_or("", |(_, after)| after);
    let ticks = |field: usize| {
        after.split_whitespace().nth(field - 3).and_then(|word| word.parse::<u64>().ok())
    };
    let used = ticks(14).unwrap_or(0) + ticks(15).unwrap_or(0);
    Duration::from_millis(used * 1000 / TICKS_PER_SECOND)
}

/// Resident memory in KiB.
#[must_use]
pub fn resident_kib(pid: u32) -> u64 {
    fs::read_to_string(format!("/proc/{pid}/status"))
        .unwrap_or_default()
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}
