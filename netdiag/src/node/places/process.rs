//! What procfs says of one process at one time.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::Arc,
};

use rustix::{
    fs::{CWD, Mode, OFlags, openat},
    param::clock_ticks_per_second,
};

use super::hierarchy::{self, Hierarchy, Kind};
use crate::{
    clock::{boot_ns, monotonic_ns},
    owner::Place,
};

/// `PF_EXITING` (include/linux/sched.h).
const EXITING: u64 = 0x4;

/// A process as it was when it was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Process {
    /// Up to when what is said here holds (`CLOCK_MONOTONIC`): it was looked at no earlier.
    pub(super) seen_ns: u64,
    /// When it had begun for certain, on the same clock: less than a tick later than in truth; none where no such
    /// process was there.
    start_ns: Option<u64>,
    pub(super) comm: String,
    pub(super) place: Option<Arc<Place>>,
}

impl Process {
    /// Looks at the process that has this number now. All is read through one directory, which stays that of
    /// the same process, even when the number is another's meanwhile.
    pub(super) fn read(
        proc: &Path,
        pid: u32,
        hierarchy: Option<&Hierarchy>,
        base: Option<&str>,
    ) -> Self {
        // In this order, what passes between the two makes the beginning later, never earlier.
        let (boot_ns, seen_ns) = (boot_ns(), monotonic_ns());
        let read = || {
            let directory = open(proc, pid).ok()?;
            let cgroups = text(directory.as_fd(), "cgroup").unwrap_or_default();
            // After them, so that a process that was not about to end was not when they were read.
            let (flags, start) = flags_and_start(&text(directory.as_fd(), "stat").ok()?)?;
            let comm = text(directory.as_fd(), "comm").ok()?.trim_end().to_owned();
            // Times of processes count while the machine sleeps, those of events do not.
            let slept_ns = boot_ns.saturating_sub(seen_ns);
            // The kernel rounds it down: an earlier process may have had the number within that tick.
            let start_ns = ticks_to_ns(start.saturating_add(1)).saturating_sub(slept_ns);
            let place = place(&cgroups, flags & EXITING != 0, hierarchy, base).map(Arc::new);
            Some(Self { seen_ns, start_ns: Some(start_ns), comm, place })
        };
        read().unwrap_or(Self { seen_ns, ..Self::default() })
    }

    /// Whether it is the process that had its number then.
    pub(super) fn was_there(&self, time_ns: u64) -> bool {
        self.start_ns.is_some_and(|start_ns| start_ns <= time_ns)
    }
}

/// The place that the text of `/proc/PID/cgroup` tells. A process that ends is in the root of hierarchies of
/// version 1, whatever it was in before (`cgroup_exit`, kernel/cgroup/cgroup.c).
fn place(
    text: &str,
    exits: bool,
    hierarchy: Option<&Hierarchy>,
    base: Option<&str>,
) -> Option<Place> {
    let path = match hierarchy {
        Some(hierarchy) => hierarchy.path(text)?,
        None => hierarchy::telling_path(text)?,
    };
    if exits && (path == "/" || hierarchy.is_some_and(|it| it.kind != Kind::V2)) {
        return None;
    }
    match base {
        Some(base) => Some(Place::of(&hierarchy::absolute(base, path))),
        // Whose group lies beside ours is not known to be in no pod.
        None => Some(Place::of(path)).filter(|place| place.container.is_some()),
    }
}

/// Flags, and when it began in ticks since boot, from the text of `stat` (proc_pid_stat(5), fields 9 and 22).
/// The name may contain anything.
fn flags_and_start(stat: &str) -> Option<(u64, u64)> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let flags = fields.nth(6)?.parse().ok()?;
    Some((flags, fields.nth(12)?.parse().ok()?))
}

fn ticks_to_ns(ticks: u64) -> u64 {
    ticks.saturating_mul(1_000_000_000 / clock_ticks_per_second().max(1))
}

fn open(proc: &Path, pid: u32) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
    Ok(openat(CWD, proc.join(pid.to_string()), flags, Mode::empty())?)
}

fn text(directory: BorrowedFd<'_>, name: &str) -> io::Result<String> {
    let file = openat(directory, name, OFlags::RDONLY.union(OFlags::CLOEXEC), Mode::empty())?;
    let mut bytes = Vec::new();
    File::from(file).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::{process::Command, thread::sleep, time::Duration};

    use super::*;

    #[test]
    fn fields_of_stat() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 9 9\n";
        assert_eq!(flags_and_start(stat), Some((4_194_560, 4_711)));
        for junk in ["", ")", "7 (x) S 1", "7 (x) S 1 7 7 0 -1 x 1 2 3 4 5 6 7 8 20 0 1 0 4711"] {
            assert_eq!(flags_and_start(junk), None, "{junk}");
        }
    }

    #[test]
    fn a_process_is_not_taken_for_an_earlier_one() {
        let before = monotonic_ns();
        sleep(Duration::from_millis(30));
        let spawned = monotonic_ns();
        let mut child = Command::new("sleep").arg("60").spawn().expect("sleep");
        // `comm` is that of this process until the child has become another program.
        let read = || Process::read(Path::new("/proc"), child.id(), None, Some(""));
        let until = monotonic_ns() + 10_000_000_000;
        while read().comm != "sleep" && monotonic_ns() < until {
            sleep(Duration::from_millis(1));
        }
        sleep(Duration::from_millis(30));
        let process = read();
        let after = monotonic_ns();
        child.kill().expect("kill");
        child.wait().expect("wait");
        assert_eq!(process.comm, "sleep");
        assert!(!process.was_there(before) && process.was_there(after), "{process:?}");
        // Before it began, but within the tick of its beginning.
        assert!(!process.was_there(process.start_ns.expect("it is there") - 1));
        assert!(process.start_ns > Some(spawned), "{process:?} {spawned}");
        assert!(process.seen_ns <= after && process.place.is_some());
        let gone = Process::read(Path::new("/proc"), child.id(), None, Some(""));
        assert!(!gone.was_there(after) && gone.place.is_none(), "{gone:?}");
    }

    #[test]
    fn where_a_process_is() {
        let id = "3f0f4f1f5a3ec63d1ec0bd7c2b6d5c4f6ed2b9a5a0d3f1c48d0a6f3e9b7c5d21";
        let docker = format!("/docker/{id}");
        let v1 = Hierarchy { kind: Kind::V1("memory"), root: "/nowhere".into() };
        let v2 = Hierarchy { kind: Kind::V2, root: "/nowhere".into() };
        let text = format!("3:memory:{docker}\n0::{docker}\n");
        let root = "3:memory:/\n0::/\n";
        let beside = format!("0::/../{id}\n");
        let (docker, other) = (Some(docker.as_str()), format!("/docker/{id}"));
        for (text, exits, hierarchy, base, path) in [
            (text.as_str(), false, Some(&v1), Some(""), docker),
            (&text, false, None, Some(""), docker),
            (&text, true, Some(&v2), Some(""), docker),
            (&text, true, Some(&v1), Some(""), None),
            (root, false, Some(&v1), Some(""), Some("/")),
            (root, true, None, Some(""), None),
            (root, false, Some(&v2), None, None),
            (&beside, false, Some(&v2), Some("/docker/own"), Some(&*other)),
            (&beside, false, Some(&v2), None, Some(&beside[3..beside.len() - 1])),
            ("", false, Some(&v2), Some(""), None),
        ] {
            let place = place(text, exits, hierarchy, base);
            assert_eq!(place.map(|place| place.cgroup).as_deref(), path, "{text} {exits} {base:?}");
        }
    }

    #[test]
    fn hostile_files_are_survived() {
        let sound = ["7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 9 9\n"];
        crate::hostile::survived_text(&sound, |stat| {
            let _told = flags_and_start(stat);
        });
    }
}
