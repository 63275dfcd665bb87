//! Control groups of a test's own, of either version; those of runs that were killed are cleared up.

use std::{
    fs,
    path::{Path, PathBuf},
    process,
    sync::{Arc, Mutex, PoisonError, Weak},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::{
    io::Errno,
    process::{Pid, Signal, kill_process},
};

use crate::setting::{self, Setting};

/// What their names begin with, before the process that made them.
const PREFIX: &str = "netdiag-test-";

/// Where the unified hierarchy is, or those of version 1 by their controllers.
const ROOT: &str = "/sys/fs/cgroup";

/// Controllers of version 1 in whose hierarchies there are such groups.
const CONTROLLERS: [&str; 2] = ["cpu", "memory"];

/// Length of a period.
const PERIOD_US: u64 = 100_000;

fn is_unified() -> bool {
    Path::new(ROOT).join("cgroup.controllers").exists()
}

/// A group at the root of a hierarchy, removed with all below it when dropped; of a process that is killed,
/// [`clear_up`] does that.
#[derive(Debug)]
#[must_use = "it is removed when it is dropped"]
pub struct Cgroup {
    name: String,
    path: PathBuf,
}

impl Cgroup {
    /// Makes one, in version 1 under this controller. `label` becomes part of its name.
    ///
    /// # Errors
    /// When there is no such hierarchy, or there is a group of that label.
    pub fn new(controller: &str, label: &str) -> Result<Self> {
        let root = Path::new(ROOT);
        let root = if is_unified() { root.to_owned() } else { root.join(controller) };
        let name = format!("{PREFIX}{}-{label}", process::id());
        let path = root.join(&name);
        fs::create_dir(&path).with_context(|| path.display().to_string())?;
        Ok(Self { name, path })
    }

    /// Its name, which is its path below the root of the hierarchy.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = remove_all(&self.path) {
            eprintln!("{} stays behind: {error:#}", self.path.display());
        }
    }
}

/// A group that has so much of a CPU.
#[derive(Debug)]
pub struct Limited {
    group: Cgroup,
    _controller: Option<Arc<Setting>>,
}

impl Limited {
    /// Makes one that has so many percent of a CPU.
    ///
    /// # Errors
    /// When there is no hierarchy for CPUs.
    pub fn new(label: &str, percent: u64) -> Result<Self> {
        let quota = PERIOD_US * percent / 100;
        let controller = if is_unified() { controlled()? } else { None };
        let group = Cgroup::new("cpu", label)?;
        if is_unified() {
            write(&group.path.join("cpu.max"), &format!("{quota} {PERIOD_US}"))?;
        } else {
            write(&group.path.join("cpu.cfs_period_us"), &PERIOD_US.to_string())?;
            write(&group.path.join("cpu.cfs_quota_us"), &quota.to_string())?;
        }
        Ok(Self { group, _controller: controller })
    }

    /// Puts a process into it.
    ///
    /// # Errors
    /// When it is gone.
    pub fn hold(&self, pid: u32) -> Result<()> {
        write(&self.group.path.join("cgroup.procs"), &pid.to_string())
    }

    /// Its name, which is its path below the root of the hierarchy.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.group.name
    }

    /// Periods in which it was held back.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn throttled(&self) -> Result<u64> {
        let text = fs::read_to_string(self.group.path.join("cpu.stat"))?;
        let word = text.lines().find_map(|line| line.strip_prefix("nr_throttled "));
        Ok(word.with_context(|| text.clone())?.trim().parse()?)
    }
}

/// Lets groups of the unified hierarchy have a share of the CPUs, until the last that asked for it is dropped;
/// nothing where they have it already.
fn controlled() -> Result<Option<Arc<Setting>>> {
    static HELD: Mutex<Weak<Setting>> = Mutex::new(Weak::new());
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(setting) = held.upgrade() {
        return Ok(Some(setting));
    }
    let path = Path::new(ROOT).join("cgroup.subtree_control");
    let controllers = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    if controllers.split_whitespace().any(|name| name == "cpu") {
        return Ok(None);
    }
    let setting = Arc::new(Setting::at(path, "+cpu", "-cpu".to_owned())?);
    *held = Arc::downgrade(&setting);
    Ok(Some(setting))
}

fn write(path: &Path, value: &str) -> Result<()> {
    fs::write(path, value).with_context(|| format!("{value} to {}", path.display()))
}

/// Removes a group as soon as the last process has left it.
///
/// # Errors
/// When one stays.
pub(crate) fn remove(group: &Path) -> Result<()> {
    let mut result = Ok(());
    for _ in 0..100 {
        result = fs::remove_dir(group);
        if result.is_ok() || !group.exists() {
            return Ok(());
        }
        // A process that was killed leaves it in its own time.
        thread::sleep(Duration::from_millis(20));
    }
    result.with_context(|| group.display().to_string())
}

/// Removes groups from the leaves up.
fn remove_all(group: &Path) -> Result<()> {
    below(group)?.iter().try_for_each(|group| remove_all(group))?;
    remove(group)
}

fn below(group: &Path) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(group).into_iter().flatten() {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            all.push(entry.path());
        }
    }
    Ok(all)
}

/// Removes groups of processes that are gone, and ends who was left in them.
///
/// # Errors
/// When one cannot be read or removed.
pub(crate) fn clear_up() -> Result<()> {
    let root = Path::new(ROOT);
    let roots = [root.to_owned()].into_iter().chain(CONTROLLERS.map(|name| root.join(name)));
    for group in roots.map(|root| below(&root)).collect::<Result<Vec<_>>>()?.concat() {
        let name = group.file_name().unwrap_or_default().to_string_lossy();
        let pid = name.strip_prefix(PREFIX).and_then(|rest| Some(rest.split_once('-')?.0));
        if pid.is_some_and(setting::is_gone) {
            eprintln!("a run that was killed has left {}", group.display());
            end(&group)?;
            remove_all(&group)?;
        }
    }
    Ok(())
}

/// Kills all processes in a group and below.
fn end(group: &Path) -> Result<()> {
    let members = fs::read_to_string(group.join("cgroup.procs"))?;
    for pid in members.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)) {
        match kill_process(pid, Signal::KILL) {
            // It has ended meanwhile.
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => return Err(error).with_context(|| format!("kill {pid:?}")),
        }
    }
    below(group)?.iter().try_for_each(|group| end(group))
}
