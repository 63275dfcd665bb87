//! What another process takes of the machine, by the kernel's word.

use std::{fs, io, time::Duration};

use anyhow::{Context as _, Result, ensure};

/// CPU time of a process since it began, user and system, of all its threads.
///
/// # Errors
/// It is gone.
pub fn cpu_time(pid: u32) -> io::Result<Duration> {
    let mut clock = 0;
    // SAFETY: writes one number.
    let error = unsafe { libc::clock_getcpuclockid(pid.cast_signed(), &raw mut clock) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one value.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32))
}

/// Time that the threads of that name of a process ran (Documentation/scheduler/sched-stats.rst).
///
/// # Errors
/// The process is gone, or has none.
pub fn thread_time(pid: u32, name: &str) -> Result<Duration> {
    let path = format!("/proc/{pid}/task");
    let mut times = Vec::new();
    for thread in fs::read_dir(&path).with_context(|| path.clone())? {
        let thread = thread?.path();
        let read = |file: &str| fs::read_to_string(thread.join(file));
        // One that ends meanwhile has ended.
        let (Ok(comm), Ok(text)) = (read("comm"), read("schedstat")) else { continue };
        if comm.trim_end() != name {
            continue;
        }
        let ran = text.split_whitespace().next().with_context(|| text.clone())?;
        times.push(Duration::from_nanos(ran.parse()?));
    }
    ensure!(!times.is_empty(), "no thread of {path} is called {name}");
    Ok(times.iter().sum())
}

/// Descriptors that a process has open.
///
/// # Errors
/// It is gone.
pub fn descriptors(pid: u32) -> io::Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

/// Resident memory of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Now, in bytes.
    pub resident_bytes: u64,
    /// The most that it ever was, in bytes.
    pub peak_bytes: u64,
}

/// Memory of a process (`VmRSS` and `VmHWM`, proc_pid_status(5)).
///
/// # Errors
/// It is gone.
pub fn memory(pid: u32) -> Result<Memory> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    let bytes = |name: &str| -> Result<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        Ok(kib.with_context(|| format!("{name} in {path}"))? * 1024)
    };
    Ok(Memory { resident_bytes: bytes("VmRSS:")?, peak_bytes: bytes("VmHWM:")? })
}
