//! A control group that has so much of a CPU, of either version.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};

/// Length of a period.
const PERIOD_US: u64 = 100_000;

/// One with a limit; removed when dropped.
#[derive(Debug)]
#[must_use = "it is removed when it is dropped"]
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// Puts a process into a new one that has so many percent of a CPU.
    ///
    /// # Errors
    /// When there is no hierarchy for CPUs.
    pub fn with(name: &str, percent: u64, pid: u32) -> Result<Self> {
        let quota = PERIOD_US * percent / 100;
        let unified = Path::new("/sys/fs/cgroup");
        let is_unified = unified.join("cgroup.controllers").exists();
        let root = if is_unified { unified.to_owned() } else { unified.join("cpu") };
        if is_unified {
            write(&root.join("cgroup.subtree_control"), "+cpu")?;
        }
        let group = Self(root.join(format!("netdiag-lab-{name}")));
        fs::create_dir(&group.0).with_context(|| group.0.display().to_string())?;
        if is_unified {
            write(&group.0.join("cpu.max"), &format!("{quota} {PERIOD_US}"))?;
        } else {
            write(&group.0.join("cpu.cfs_period_us"), &PERIOD_US.to_string())?;
            write(&group.0.join("cpu.cfs_quota_us"), &quota.to_string())?;
        }
        write(&group.0.join("cgroup.procs"), &pid.to_string())?;
        Ok(group)
    }

    /// Periods in which it was held back.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn throttled(&self) -> Result<u64> {
        let text = fs::read_to_string(self.0.join("cpu.stat"))?;
        let word = text.lines().find_map(|line| line.strip_prefix("nr_throttled "));
        Ok(word.with_context(|| text.clone())?.trim().parse()?)
    }
}

fn write(path: &Path, value: &str) -> Result<()> {
    fs::write(path, value).with_context(|| format!("{value} to {}", path.display()))
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A process that was killed leaves it in its own time.
        let gone = (0..50).any(|_| {
            fs::remove_dir(&self.0).is_ok() || {
                thread::sleep(Duration::from_millis(20));
                false
            }
        });
        if !gone {
            eprintln!("{} stays behind", self.0.display());
        }
    }
}
