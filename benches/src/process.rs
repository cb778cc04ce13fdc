//! What a process has used, from `/proc`; zero where it is gone.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

/// Processor time of each thread, to the nanosecond as the scheduler counts it.
pub struct Cpu(HashMap<String, Duration>);

impl Cpu {
    /// What the threads of a process have used so far, user and system together.
    #[must_use]
    pub fn of(pid: u32) -> Self {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let of_task = |task: fs::DirEntry| {
            let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
            let used = text.split_whitespace().next()?.parse().ok()?;
            Some((task.file_name().into_string().ok()?, Duration::from_nanos(used)))
        };
        Self(tasks.filter_map(of_task).collect())
    }

    /// What was used since then; the last of threads that have ended meanwhile is missing.
    #[must_use]
    pub fn since(&self, before: &Self) -> Duration {
        let used = |(thread, now): (&String, &Duration)| {
            now.saturating_sub(before.0.get(thread).copied().unwrap_or_default())
        };
        self.0.iter().map(used).sum()
    }
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
