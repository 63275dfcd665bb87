//! Where processes live: from a process id or the id of a cgroup to its path, and so to container and pod.
//!
//! The kernel tells the id of the cgroup that a task was in, which is the inode number of a directory and is never
//! used again; a walk over the hierarchy gives its path. Where it does not tell, procfs says where the process is now,
//! if it is still the one that the event speaks of.

use std::{
    collections::HashMap,
    mem,
    num::NonZeroU64,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

pub use self::hierarchy::{Hierarchy, Kind, ROOT, Version, mounted};
use self::{process::Process, tree::Tree, watch::Watch};
use super::{
    beside::{Beside, PATIENCE},
    proc,
    within::within,
};
use crate::owner::{LogFiles, Names, Place};

mod hierarchy;
mod process;
mod tree;
mod watch;

/// Processes that are remembered between two calls of [`Places::forget_processes`].
const PROCESSES: usize = 1 << 16;

/// The hierarchy is walked so rarely at most because of a cgroup that is not known.
const SEARCHED_EVERY: Duration = Duration::from_millis(100);

/// Where processes and cgroups are.
#[derive(Debug)]
pub struct Places {
    /// Where processes have the numbers that the programs know them by.
    proc: Option<PathBuf>,
    hierarchy: Option<Hierarchy>,
    /// Path of the cgroup that is shown to us as `/`; none where that cannot be told.
    base: Option<String>,
    tree: Tree,
    watch: Option<Watch>,
    /// A watch was wanted, and there is none.
    is_unwatched: bool,
    said: Said,
    /// Walks over the hierarchy.
    walks: Beside<Vec<(u64, String)>>,
    processes: HashMap<u32, Process>,
}

/// What was said of what is missing.
#[derive(Debug, Default)]
struct Said {
    unwatched: bool,
    forgotten: bool,
}

impl Places {
    /// Looks at all cgroups of the node whose file system is mounted at `host_root`. Blocks.
    #[must_use]
    pub fn begin(host_root: &Path) -> Self {
        let hierarchy = Hierarchy::find(host_root);
        let mut tree = Tree::new(hierarchy.as_ref().is_some_and(Hierarchy::is_part));
        if let Some(hierarchy) = &hierarchy {
            tree.walk(&hierarchy.root);
        }
        let base = hierarchy::base(hierarchy.as_ref(), &tree);
        let proc = proc::is_of_node(host_root).then(|| host_root.join("proc"));
        Self {
            proc,
            hierarchy,
            base,
            tree,
            watch: None,
            is_unwatched: false,
            said: Said::default(),
            walks: Beside::new(SEARCHED_EVERY),
            processes: HashMap::new(),
        }
    }

    /// The same, which hears of new cgroups by itself from now on.
    #[must_use]
    pub fn watching(mut self) -> Self {
        self.watch = self.hierarchy.as_ref().and_then(|hierarchy| Watch::begin(&hierarchy.root));
        self.is_unwatched = self.hierarchy.is_some() && self.watch.is_none();
        self
    }

    /// The hierarchy whose cgroups have ids here; none where none is mounted.
    #[must_use]
    pub const fn hierarchy(&self) -> Option<&Hierarchy> {
        self.hierarchy.as_ref()
    }

    /// Where the task was that did something at `time_ns` (`CLOCK_MONOTONIC`): by the id of its cgroup in
    /// [`Self::hierarchy`] if the kernel told it, else by its process, if that is there and was then.
    pub fn of(
        &mut self,
        pid: Option<u32>,
        cgroup: Option<NonZeroU64>,
        time_ns: u64,
    ) -> Option<Arc<Place>> {
        let Some(id) = cgroup else {
            return self.process(pid?, time_ns)?.place.clone();
        };
        if self.tree.get(id.get()).is_none() {
            self.hear();
        }
        if let Some(place) = self.tree.get(id.get()) {
            return Some(place.clone());
        }
        // Its process, if it has not moved, is the cheapest way to a path that is not known.
        if let Some(place) = pid.and_then(|pid| self.process(pid, time_ns)?.place.clone()) {
            let Some(hierarchy) = &self.hierarchy else { return Some(place) };
            if hierarchy.id(&place.cgroup) == Some(id.get()) {
                return Some(self.tree.insert(id.get(), &place.cgroup));
            }
        }
        self.of_cgroup(id)
    }

    /// The place of a cgroup by its id. Has the hierarchy walked when it is not known.
    pub fn of_cgroup(&mut self, id: NonZeroU64) -> Option<Arc<Place>> {
        if self.tree.get(id.get()).is_none() {
            self.hear();
        }
        if self.tree.get(id.get()).is_none() {
            self.look();
        }
        self.tree.get(id.get()).cloned()
    }

    /// Has the hierarchy walked again, but not too often. Waits for that as long as the loop may stand still; what is
    /// found later is taken in by [`Self::hear`].
    pub fn look(&mut self) {
        if let Some(hierarchy) = &self.hierarchy
            && self.walks.is_due()
        {
            let root = hierarchy.root.clone();
            self.walks.begin(move || tree::list(&root));
            self.walked(PATIENCE);
        }
    }

    /// Takes in what a walk found, if it ends in that time.
    fn walked(&mut self, patience: Duration) {
        if let Some(found) = self.walks.result(patience) {
            self.tree.walked(&found);
        }
    }

    /// All cgroups that are known, those that are gone, too.
    pub fn known(&self) -> impl Iterator<Item = (u64, &Arc<Place>)> {
        self.tree.iter()
    }

    /// Those that became known since this was asked last.
    pub fn take_new(&mut self) -> Vec<(u64, Arc<Place>)> {
        self.hear();
        self.tree.take_new()
    }

    /// Whether a cgroup with that id and path is there.
    #[must_use]
    pub fn is_there(&self, id: u64, place: &Place) -> bool {
        self.hierarchy.as_ref().is_some_and(|hierarchy| hierarchy.id(&place.cgroup) == Some(id))
    }

    /// Name of a process that did something at `time_ns`, if it is there and was then.
    pub fn comm(&mut self, pid: u32, time_ns: u64) -> Option<&str> {
        self.process(pid, time_ns).map(|process| process.comm.as_str())
    }

    /// Where a process is whose name is known, if it was there at `time_ns` and has that name.
    pub fn of_named(&mut self, pid: u32, comm: &str, time_ns: u64) -> Option<Arc<Place>> {
        let process = self.process(pid, time_ns)?;
        process.place.clone().filter(|_| process.comm == comm)
    }

    /// What is missing, in one line.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        if self.hierarchy.is_none() {
            return Some(
                "no file system of cgroups is mounted below the host's root: owners that ended before they were \
                 looked up have no cgroup, container and pod; mount /sys/fs/cgroup there"
                    .to_owned(),
            );
        }
        if self.tree.is_part() {
            return Some(
                "only a part of the cgroups is mounted below the host's root: paths of cgroups are below its top, \
                 and owners in that top, or outside of it, may have no cgroup, container and pod; mount the node's \
                 /sys/fs/cgroup there"
                    .to_owned(),
            );
        }
        self.base.is_none().then(|| {
            "the own cgroup was not found among the node's: processes whose cgroup the kernel does not tell have \
             no cgroup, and no pod unless they are in another one; run in the node's cgroup namespace"
                .to_owned()
        })
    }

    /// What is missing since a while, each once.
    pub fn take_problems(&mut self) -> Vec<String> {
        let lacks_watches =
            self.is_unwatched || self.watch.as_ref().is_some_and(Watch::lacks_watches);
        let mut problems = Vec::new();
        if lacks_watches && !mem::replace(&mut self.said.unwatched, true) {
            problems.push(
                "not all cgroups can be watched: owners in one that is soon gone may have no cgroup, container and \
                 pod; raise fs.inotify.max_user_watches and max_user_instances"
                    .to_owned(),
            );
        }
        let forgotten = self.tree.forgotten();
        if forgotten > 0 && !mem::replace(&mut self.said.forgotten, true) {
            problems.push(format!(
                "{forgotten} cgroups were forgotten for want of room, first those that are gone: owners in them may \
                 have no cgroup, container and pod"
            ));
        }
        problems
    }

    /// Forgets processes, which it remembers only so that procfs is not read for every event.
    pub fn forget_processes(&mut self) {
        self.processes.clear();
    }

    /// Takes in what was heard of new cgroups.
    pub fn hear(&mut self) {
        self.walked(Duration::ZERO);
        let Self { watch, tree, .. } = self;
        for (id, path) in watch.iter().flat_map(Watch::found) {
            tree.found(id, &path);
        }
        if let Some(watch) = &self.watch
            && watch.is_overrun()
            && self.walks.is_due()
        {
            watch.is_made_up_for();
            self.look();
        }
    }

    fn process(&mut self, pid: u32, time_ns: u64) -> Option<&Process> {
        let proc = self.proc.as_ref()?;
        let is_known = self.processes.get(&pid).is_some_and(|known| known.seen_ns >= time_ns);
        if !is_known {
            if self.processes.len() >= PROCESSES {
                self.processes.clear();
            }
            let read = Process::read(proc, pid, self.hierarchy.as_ref(), self.base.as_deref());
            self.processes.insert(pid, read);
        }
        self.processes.get(&pid).filter(|process| process.was_there(time_ns))
    }
}

/// Names of the log files of pods and of containers, which are [`Names::learn`] to take in. Those that cannot be read
/// are none.
#[must_use]
pub fn list_names(host_root: &Path) -> LogFiles {
    let entries = |directory: &str| {
        let entries =
            std::fs::read_dir(within(host_root, directory)).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    };
    LogFiles { pods: entries("var/log/pods"), containers: entries("var/log/containers") }
}

/// Reads what pods and containers are called, beside what is known. Blocks.
pub fn learn_names(host_root: &Path, names: &mut Names) {
    names.learn(&list_names(host_root));
}
