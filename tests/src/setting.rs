//! Settings of the whole machine, and what runs that were killed have left of them.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Write as _},
    path::{Path, PathBuf},
    process,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result, bail};

use crate::{cgroup, tool};

/// Settings that are changed now, so that the next run sets back what a run that was killed could not:
/// lines of a process id, a path and the value before, between tabs.
const JOURNAL: &str = "/run/netdiag-tests.settings";

/// A setting that is one for all namespaces. Drop sets it back; of a process that is killed,
/// [`clear_up`] does.
#[derive(Debug)]
#[must_use = "a setting is set back when it is dropped"]
pub struct Setting {
    path: PathBuf,
    before: String,
}

impl Setting {
    /// Sets `/proc/sys/NAME`.
    ///
    /// # Errors
    /// When there is no such setting here, or it cannot be set to that.
    pub fn new(name: &str, value: &impl ToString) -> Result<Self> {
        let path = Path::new("/proc/sys").join(name);
        let before = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Self::at(path, &value.to_string(), before.trim().to_owned())
    }

    /// Writes into any file of the kernel's; `before` is what sets that back.
    pub(crate) fn at(path: PathBuf, value: &str, before: String) -> Result<Self> {
        // Whatever comes of it is set back.
        let setting = Self { path, before };
        note(&setting.line()).context(JOURNAL)?;
        fs::write(&setting.path, value)
            .with_context(|| format!("set {} to {value}", setting.path.display()))?;
        Ok(setting)
    }

    fn line(&self) -> String {
        format!("{}\t{}\t{}\n", process::id(), self.path.display(), self.before)
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        if let Err(error) = set_back(&self.path, &self.before) {
            eprintln!("{} does not get {} back: {error}", self.path.display(), self.before);
            return;
        }
        if let Err(error) = strike(self.line().trim_end()) {
            eprintln!("{JOURNAL}: {error}");
        }
    }
}

/// What is gone with its module needs nothing, and what others have come to need meanwhile stays.
fn set_back(path: &Path, before: &str) -> io::Result<()> {
    match fs::write(path, before) {
        Err(error) if [ErrorKind::NotFound, ErrorKind::ResourceBusy].contains(&error.kind()) => {
            Ok(())
        }
        result => result,
    }
}

/// Threads of a process share the journal; of processes one is alone on the machine.
static WRITING: Mutex<()> = Mutex::new(());

fn note(line: &str) -> io::Result<()> {
    let _writing = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    File::options().create(true).append(true).open(JOURNAL)?.write_all(line.as_bytes())
}

/// What stands in the journal; nothing where there is none.
fn journal() -> io::Result<String> {
    match fs::read_to_string(JOURNAL) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        text => text,
    }
}

/// Takes a line out of the journal, which goes with its last one.
fn strike(line: &str) -> io::Result<()> {
    let _writing = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    let text = journal()?;
    let left: String =
        text.lines().filter(|noted| *noted != line).flat_map(|line| [line, "\n"]).collect();
    if left.is_empty() { fs::remove_file(JOURNAL) } else { fs::write(JOURNAL, left) }
}

/// Sets back what processes changed that are gone, the newest change first, and removes their control groups
/// and network namespaces. Only who is alone on the machine may do this.
///
/// # Errors
/// When something cannot be read or set, or `ip` fails.
pub(crate) fn clear_up() -> Result<()> {
    // Before what they need is taken back.
    cgroup::clear_up()?;
    for line in journal().context(JOURNAL)?.lines().rev() {
        let mut parts = line.splitn(3, '\t');
        let (Some(pid), Some(path), Some(before)) = (parts.next(), parts.next(), parts.next())
        else {
            bail!(
                "{JOURNAL} has a line of something else: {line:?}; set back what it names, then remove it"
            );
        };
        if is_gone(pid) {
            eprintln!("a run that was killed has left {path}, which was {before} before");
            set_back(Path::new(path), before).with_context(|| path.to_owned())?;
            strike(line).context(JOURNAL)?;
        }
    }
    for entry in fs::read_dir("/run/netns").into_iter().flatten() {
        let name = entry?.file_name().to_string_lossy().into_owned();
        // As `Namespace::all` names them.
        let pid = name.strip_prefix("nd").and_then(|name| Some(name.split_once('-')?.0));
        if pid.is_some_and(is_gone) {
            tool::run("ip", &["netns", "delete", &name])?;
        }
    }
    Ok(())
}

/// Whether no process has this id; false of what is no id.
pub(crate) fn is_gone(pid: &str) -> bool {
    pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists()
}
