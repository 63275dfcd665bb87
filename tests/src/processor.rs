//! The processors, and how long threads were ready to run and had none: a busy machine, not who is
//! slow on it.

use std::{
    fs, io, panic,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use rustix::{
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
    time::{ClockId, clock_gettime},
};

use crate::setting::Setting;

/// Those that this thread may run on, each by itself.
///
/// # Errors
/// When the kernel does not tell.
pub fn each() -> io::Result<Vec<CpuSet>> {
    let all = sched_getaffinity(None)?;
    let each = (0..CpuSet::MAX_CPU).filter(|processor| all.is_set(*processor)).map(|processor| {
        let mut one = CpuSet::new();
        one.set(processor);
        one
    });
    Ok(each.collect())
}

/// Does it on a thread that stays on one of them, with all threads that it makes.
///
/// # Errors
/// There is no such processor; and those of `work`.
///
/// # Panics
/// When `work` does.
pub fn on<T: Send>(number: usize, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let stay = || -> Result<T> {
        let mut one = CpuSet::new();
        one.set(number);
        sched_setaffinity(None, &one)?;
        work()
    };
    thread::scope(|scope| {
        scope.spawn(stay).join().unwrap_or_else(|payload| panic::resume_unwind(payload))
    })
}

/// Whether one can be switched off.
#[must_use]
pub fn has_switch(number: usize) -> bool {
    switch(number).exists()
}

/// Switches one off, and on again when the value is dropped.
///
/// # Errors
/// It cannot be switched off.
pub fn switch_off(number: usize) -> Result<Setting> {
    Setting::at(switch(number), "0", "1".to_owned())
}

/// Documentation/core-api/cpu_hotplug.rst.
fn switch(number: usize) -> PathBuf {
    PathBuf::from(format!("/sys/devices/system/cpu/cpu{number}/online"))
}

/// How long this thread has waited for one since it began.
///
/// # Errors
/// When the kernel does not tell.
pub fn waited_for() -> Result<Duration> {
    waited(Path::new("/proc/thread-self"))
}

/// How long this thread has not slept since it began: it ran, or its processor stood still under it, or it was ready
/// to run and had none.
///
/// # Errors
/// When the kernel does not tell.
pub fn awake_for() -> Result<Duration> {
    // Asking brings it up to date; what schedstat says is up to a tick old.
    let ran = clock_gettime(ClockId::ThreadCPUTime);
    let ran = Duration::new(ran.tv_sec.unsigned_abs(), ran.tv_nsec.unsigned_abs() as u32);
    Ok(ran + waited_for()?)
}

/// How long all threads of a process have, added up; of those that ended nothing is known any more.
///
/// # Errors
/// When the process is gone.
pub fn waited_for_by(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/task");
    let threads = fs::read_dir(&path).context(path)?;
    // One that ends meanwhile has ended.
    Ok(threads.filter_map(|thread| waited(&thread.ok()?.path()).ok()).sum())
}

/// What the processors of the machine have done since it began, whoever for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// Ticks in which they worked, those of all of them together.
    worked: u64,
    /// Ticks that there were.
    all: u64,
}

impl Work {
    /// Until now.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn so_far() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("/proc/stat")?;
        Self::parse(&text).with_context(|| text.clone())
    }

    /// The first line has user, nice, system, idle, iowait, irq, softirq, steal, and then guests, which are in user as
    /// well (proc_stat(5)).
    fn parse(text: &str) -> Option<Self> {
        let numbers = text.lines().next()?.strip_prefix("cpu ")?.split_whitespace().take(8);
        let ticks: Vec<u64> = numbers.map(|number| number.parse().ok()).collect::<Option<_>>()?;
        let idle = ticks.get(3)? + ticks.get(4)?;
        let all = ticks.iter().sum();
        Some(Self { worked: all - idle, all })
    }

    /// The part of the time since an earlier look in which they worked.
    #[must_use]
    pub fn share_since(self, earlier: Self) -> f64 {
        let since = |now: u64, then: u64| now as f64 - then as f64;
        since(self.worked, earlier.worked) / since(self.all, earlier.all)
    }
}

/// Documentation/scheduler/sched-stats.rst.
fn waited(thread: &Path) -> Result<Duration> {
    let path = thread.join("schedstat");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let nanoseconds = text.split_whitespace().nth(1).with_context(|| text.clone())?;
    Ok(Duration::from_nanos(nanoseconds.parse()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_all_but_idle_and_waiting_for_disks() {
        let work = |text: &str| Work::parse(text).unwrap();
        let earlier = work("cpu  10 0 10 100 20 0 0 0 10 0\ncpu0 1 2 3\n");
        assert_eq!(earlier, Work { worked: 20, all: 140 });
        assert_eq!(work("cpu  20 5 15 150 25 2 2 1 20 0\n").share_since(earlier), 25.0 / 80.0);
        assert_eq!(Work::parse("cpu0 1 2 3"), None);
        assert_eq!(Work::parse("cpu  1 2 3"), None);
    }
}
