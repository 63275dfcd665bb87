//! What this process gives up of what it may do, as soon as its work does not need it any more.
//!
//! In two steps: [`begin`] before there is a second thread, and [`confine`] when the programs are attached.
//! Capabilities are each thread's own, so that threads which begin in between give theirs up by
//! [`on_thread`]; those that begin later inherit what is left. docs/security.md says what each is for.

use std::{path::Path, sync::OnceLock};

use rustix::thread::{CapabilitySet, set_no_new_privs};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::{calls::Needs, capability::keep, files::Landlock};

mod calls;
mod capability;
mod files;

pub use self::capability::has;

/// What every thread keeps; empty while nothing is given up.
static KEPT: OnceLock<CapabilitySet> = OnceLock::new();

/// How far a running process is confined.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reached {
    /// The capabilities that are left, by name.
    pub capabilities: Vec<String>,
    /// Whether no program that it might start has more privileges than it has itself.
    pub no_new_privileges: bool,
    /// Whether system calls are refused by which a process starts programs, looks into others or changes the
    /// kernel.
    pub seccomp: bool,
    /// ABI of Landlock, by which `diagnose --from` and `report` read and write nothing but what they were given; null where
    /// the kernel has none, or refused it, which `lacking` says then. What watches is not confined by it: that hides
    /// other processes' descriptors and namespaces.
    pub landlock: Option<u32>,
    /// What could not be given up, and why, one line each.
    pub lacking: Vec<String>,
}

/// What a run is for, which decides what it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose<'a> {
    /// It looks at the node.
    Watches {
        /// The directory or file that it may write.
        writes: Option<&'a Path>,
        /// Whether it listens at a port, which not everybody may have.
        listens: bool,
    },
    /// It reads recordings.
    Reads {
        /// Directories that they are in, and files.
        from: Vec<&'a Path>,
        /// The file that it writes.
        writes: Option<&'a Path>,
    },
}

/// Gives up what is needed neither at the start nor later. To be called once, before there is a second thread.
/// Returns what could not be given up, one line each.
pub fn begin(purpose: Purpose<'_>) -> Vec<String> {
    let mut lacking = Vec::new();
    note(&mut lacking, "no new privileges", set_no_new_privs(true));
    capability::close_ways_back();
    match purpose {
        Purpose::Watches { writes, listens } => {
            let kept = capability::needed_while_running(writes);
            let _once = KEPT.set(kept);
            let start = capability::at_the_start(listens);
            note(&mut lacking, "capabilities", keep(kept | start));
        }
        Purpose::Reads { from, writes } => {
            let landlock = note(&mut lacking, "Landlock", files::only(&from, writes));
            lacking.extend(landlock.and_then(Landlock::missing).map(|why| {
                format!(
                    "sandbox: Landlock is missing ({why}), so other files stay in reach of this process; \
                     read recordings that you do not trust where it is there"
                )
            }));
            note(&mut lacking, "seccomp", calls::deny(Needs::Recordings));
            let kept = capability::needed_to_read(writes);
            let _once = KEPT.set(kept);
            note(&mut lacking, "capabilities", keep(kept));
        }
    }
    lacking
}

/// To be called where a thread begins that may have been started before [`confine`].
pub fn on_thread() {
    if let Some(&kept) = KEPT.get() {
        // It was possible on the first thread, or was said there.
        let _said = keep(kept);
    }
}

/// What a run may have to do when everything was attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Later {
    /// Attach programs, when a module is loaded.
    pub programs: bool,
    /// Open rings, when a processor is switched on.
    pub rings: bool,
}

impl Later {
    /// Whether perf events are opened for that: kprobes hang on them, and rings of a processor are theirs.
    const fn opens_perf_events(self) -> bool {
        self.programs || self.rings
    }
}

/// Gives up what was needed to attach. Says how far that went; it is `None` where nothing was begun.
pub fn confine(later: Later) -> Option<Reached> {
    let always = *KEPT.get()?;
    let more = later.opens_perf_events().then(|| capability::needed_later(always));
    let kept = always | more.unwrap_or(CapabilitySet::empty());
    let mut lacking = Vec::new();
    note(&mut lacking, "capabilities", keep(kept));
    let seccomp = calls::deny(Needs::Watching(later));
    let has_seccomp = seccomp.is_ok();
    note(&mut lacking, "seccomp", seccomp);
    Some(Reached {
        capabilities: capability::names(),
        no_new_privileges: rustix::thread::no_new_privs().unwrap_or_default(),
        seccomp: has_seccomp,
        landlock: None,
        lacking,
    })
}

/// Confines the rest of this thread by Landlock as `diagnose --from` does, to see and to say whether that works: from
/// here on it opens no file.
pub fn try_landlock(reached: &mut Reached) {
    let landlock = note(&mut reached.lacking, "Landlock", files::only(&[], None));
    reached.landlock = landlock.and_then(Landlock::abi);
}

/// The directory that a file is in, or is put into.
fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        // Its name alone.
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

/// What came of it, where it was not refused.
fn note<T, E: std::fmt::Display>(
    lacking: &mut Vec<String>,
    what: &str,
    result: Result<T, E>,
) -> Option<T> {
    let refused = |error: &E| {
        lacking.push(format!(
            "sandbox: {what} refused ({error}), so this process keeps more than it needs; \
             `netdiag doctor` shows what is left"
        ));
    };
    result.inspect_err(refused).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_in_a_directory() {
        for (path, expected) in
            [("page", "."), ("./page", "."), ("a/page", "a"), ("/page", "/"), ("/", "/")]
        {
            assert_eq!(directory_of(Path::new(path)), Path::new(expected), "{path}");
        }
    }
}
