//! The processors, and how long threads were ready to run and had none: a busy machine, not who is
//! slow on it.

use std::{fs, io, path::Path, time::Duration};

use anyhow::{Context, Result};
use rustix::{
    thread::{CpuSet, sched_getaffinity},
    time::{ClockId, clock_gettime},
};

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

/// Documentation/scheduler/sched-stats.rst.
fn waited(thread: &Path) -> Result<Duration> {
    let path = thread.join("schedstat");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let nanoseconds = text.split_whitespace().nth(1).with_context(|| text.clone())?;
    Ok(Duration::from_nanos(nanoseconds.parse()?))
}
