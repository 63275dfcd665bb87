//! Which hierarchy of control groups says best where a process lives.
//!
//! Version 2 has one. Version 1 has one for each controller, and the hybrid of systemd the one of version 2
//! beside them, in which not every container runtime makes groups.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Controllers of version 1 that a node has a hierarchy for, the one that every container has a limit in first.
const CONTROLLERS: [&str; 7] =
    ["memory", "pids", "cpu", "cpuacct", "devices", "freezer", "blkio"];

/// A hierarchy of control groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub root: PathBuf,
    /// The controller whose hierarchy of version 1 it is; none for that of version 2.
    pub controller: Option<&'static str>,
}

impl Hierarchy {
    /// The kernel's name of the controller in `enum cgroup_subsys_id`, none for that of version 2.
    #[must_use]
    pub fn subsystem(&self) -> Option<String> {
        let name = self.controller.map(|name| if name == "blkio" { "io" } else { name })?;
        Some(format!("{name}_cgrp_id"))
    }

    fn has_groups(&self) -> bool {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_type()).any(|kind| kind.is_ok_and(|kind| kind.is_dir()))
    }
}

/// The hierarchy to ask: that of version 2 where it is the only one, else the first that has groups, else the
/// first there is; `None` where none is mounted.
#[must_use]
pub fn find(host_root: &Path) -> Option<Hierarchy> {
    let base = host_root.join("sys/fs/cgroup");
    if base.join("cgroup.controllers").exists() {
        return Some(Hierarchy { root: base, controller: None });
    }
    let of_controllers = CONTROLLERS
        .iter()
        .map(|&name| Hierarchy { root: base.join(name), controller: Some(name) });
    let unified = Hierarchy { root: base.join("unified"), controller: None };
    let mut mounted: Vec<_> = of_controllers
        .chain([unified])
        .filter(|hierarchy| hierarchy.root.join("cgroup.procs").exists())
        .collect();
    let at = mounted.iter().position(Hierarchy::has_groups).unwrap_or(0);
    (!mounted.is_empty()).then(|| mounted.swap_remove(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_says_something() {
        let found = |paths: &[&str]| {
            let root = tempfile::tempdir().expect("directory");
            for path in paths {
                let path = root.path().join("sys/fs/cgroup").join(path);
                fs::create_dir_all(path.parent().expect("parent")).expect("directory");
                fs::write(path, "").expect("file");
            }
            find(root.path()).map(|hierarchy| {
                let below = hierarchy.root.strip_prefix(root.path().join("sys/fs/cgroup"));
                (below.expect("below").display().to_string(), hierarchy.subsystem())
            })
        };
        let of = |path: &str, subsystem: Option<&str>| {
            Some((path.to_owned(), subsystem.map(str::to_owned)))
        };
        assert_eq!(found(&[]), None);
        assert_eq!(found(&["cgroup.controllers", "memory/cgroup.procs"]), of("", None), "unified");
        assert_eq!(
            found(&["memory/cgroup.procs", "pids/cgroup.procs", "unified/cgroup.procs"]),
            of("memory", Some("memory_cgrp_id")),
            "none has groups",
        );
        assert_eq!(
            found(&["memory/cgroup.procs", "pids/cgroup.procs", "pids/pod/cgroup.procs"]),
            of("pids", Some("pids_cgrp_id")),
        );
        assert_eq!(
            found(&["memory/cgroup.procs", "unified/cgroup.procs", "unified/pod/cgroup.procs"]),
            of("unified", None),
        );
        let block = &["blkio/cgroup.procs"];
        assert_eq!(found(block), of("blkio", Some("io_cgrp_id")));
    }
}
