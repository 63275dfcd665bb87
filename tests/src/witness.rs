//! How often a tracepoint or a function was hit, by the kernel's own counting: a witness that runs no
//! program, and so is skipped where programs are.

use std::{ffi::CString, fs, os::fd::AsRawFd as _};

use anyhow::{Context, Result, ensure};
use netdiag::kernel::tracefs::Tracefs;
use perf_event::{
    Builder, Counter,
    events::{KProbe, Tracepoint},
};

/// Counts hits on every CPU.
pub struct Witness(Vec<Counter>);

impl Witness {
    /// Counts `category:name` from now on; only those that a filter of tracefs lets pass, where one is
    /// given.
    ///
    /// # Errors
    /// No such tracepoint, or the kernel refuses to count or to filter.
    pub fn of(category: &str, name: &str, filter: Option<&str>) -> Result<Self> {
        let id = Tracefs::open()?.id(category, name)?;
        let id = id.with_context(|| format!("no tracepoint {category}:{name}"))?;
        let counter = |cpu| -> Result<Counter> {
            let mut counter = Builder::new(Tracepoint::with_id(id))
                .any_pid()
                .one_cpu(cpu)
                .include_kernel()
                .build()?;
            if let Some(filter) = filter {
                set_filter(&counter, filter)?;
            }
            counter.enable()?;
            Ok(counter)
        };
        Ok(Self(online_cpus()?.into_iter().map(counter).collect::<Result<_>>()?))
    }

    /// Counts calls of a function of the kernel from now on, by a kprobe.
    ///
    /// # Errors
    /// No such function, or the kernel has no kprobes or refuses one.
    pub fn of_function(name: &str) -> Result<Self> {
        let counter = |cpu| -> Result<Counter> {
            let probe = KProbe::probe(name, 0).context("this kernel has no kprobes")?;
            let builder = Builder::new(probe).any_pid().one_cpu(cpu).include_kernel().build();
            let mut counter = builder.with_context(|| format!("count calls of {name}"))?;
            counter.enable()?;
            Ok(counter)
        };
        Ok(Self(online_cpus()?.into_iter().map(counter).collect::<Result<_>>()?))
    }

    /// Hits so far.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn hits(&mut self) -> Result<u64> {
        self.0.iter_mut().map(|counter| Ok(counter.read()?)).sum()
    }
}

/// `0-3,6` (Documentation/admin-guide/cputopology.rst).
fn online_cpus() -> Result<Vec<usize>> {
    let path = "/sys/devices/system/cpu/online";
    let text = fs::read_to_string(path).context(path)?;
    let mut cpus = Vec::new();
    for range in text.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        cpus.extend(first.parse::<usize>()?..=last.parse()?);
    }
    Ok(cpus)
}

fn set_filter(counter: &Counter, filter: &str) -> Result<()> {
    /// `PERF_EVENT_IOC_SET_FILTER` (include/uapi/linux/perf_event.h).
    const SET_FILTER: libc::Ioctl = 0x4008_2406;
    let text = CString::new(filter)?;
    // SAFETY: the kernel copies the string, which lives until then.
    let result = unsafe { libc::ioctl(counter.as_raw_fd(), SET_FILTER, text.as_ptr()) };
    ensure!(result == 0, "filter {filter}: {}", std::io::Error::last_os_error());
    Ok(())
}
