//! Which hierarchy of cgroups tells where containers are.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::{FsWord, statfs};

use super::tree::Tree;

/// `CGROUP2_SUPER_MAGIC` and `CGROUP_SUPER_MAGIC` (include/uapi/linux/magic.h).
const CGROUP2_MAGIC: FsWord = 0x6367_7270;
const CGROUP_MAGIC: FsWord = 0x0027_e0eb;

/// Where file systems of cgroups are mounted.
const MOUNTED_AT: &str = "sys/fs/cgroup";

/// Inode number of the root of a hierarchy (`kernfs_create_root`, fs/kernfs/dir.c); a mount of a part of it begins with
/// another one.
pub const ROOT: u64 = 1;

/// The first cgroup namespace: `PROC_CGROUP_INIT_INO` in include/linux/proc_ns.h.
const FIRST_NAMESPACE: &str = "cgroup:[4026531835]";

/// Hierarchies of version 1, by the controller that leads to them in the kernel and the directory where they are
/// mounted; first those in which every container has a group of its own.
const V1: [(&str, &str); 8] = [
    ("memory", "memory"),
    ("pids", "pids"),
    ("cpu", "cpu,cpuacct"),
    ("cpu", "cpu"),
    ("devices", "devices"),
    ("freezer", "freezer"),
    ("blkio", "blkio"),
    ("cpuset", "cpuset"),
];

/// Version of cgroups (cgroups(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A hierarchy for each controller, or for some.
    V1,
    /// One for all.
    V2,
}

/// Which hierarchy it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The one of version 2.
    V2,
    /// That of a controller of version 1: `memory`, whose number in the kernel is `memory_cgrp_id`
    /// (include/linux/cgroup_subsys.h).
    V1(&'static str),
}

/// A hierarchy of cgroups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Which one.
    pub kind: Kind,
    /// Where its directories are.
    pub root: PathBuf,
}

impl Hierarchy {
    /// The hierarchy with groups for containers. Of several the first one that has any; where none has, the
    /// first one that has any group, else simply the first.
    #[must_use]
    pub fn find(host_root: &Path) -> Option<Self> {
        let root = host_root.join(MOUNTED_AT);
        if mounted(&root) == Some(Version::V2) {
            return Some(Self { kind: Kind::V2, root });
        }
        let v1 = V1.iter().map(|(controller, directory)| {
            (Self { kind: Kind::V1(controller), root: root.join(directory) }, Version::V1)
        });
        let unified = (Self { kind: Kind::V2, root: root.join("unified") }, Version::V2);
        let mut all: Vec<Self> = v1
            .chain([unified])
            .filter(|(hierarchy, version)| mounted(&hierarchy.root) == Some(*version))
            .map(|(hierarchy, _)| hierarchy)
            .collect();
        let worth = |hierarchy: &Self| {
            let mut tree = Tree::default();
            tree.walk(&hierarchy.root);
            let holds = |(_, place): (u64, &std::sync::Arc<crate::owner::Place>)| {
                place.container.is_some() || place.pod_uid.is_some()
            };
            if tree.iter().any(holds) { 0 } else { 1 + u8::from(tree.len() < 2) }
        };
        all.sort_by_cached_key(worth);
        all.into_iter().next()
    }

    /// Id of the cgroup with a path below the root; none where it is gone.
    pub(super) fn id(&self, path: &str) -> Option<u64> {
        fs::metadata(self.root.join(path.trim_start_matches('/'))).ok().map(|found| found.ino())
    }

    /// The path in `/proc/PID/cgroup` (cgroups(7)) that is of this hierarchy.
    pub(super) fn path<'a>(&self, text: &'a str) -> Option<&'a str> {
        lines(text).find(|(controllers, _)| self.has(controllers)).map(|(_, path)| path)
    }

    /// Whether what is mounted is a part of it, whose own path is not seen.
    pub(super) fn is_part(&self) -> bool {
        self.id("/") != Some(ROOT)
    }

    fn has(&self, controllers: &str) -> bool {
        match self.kind {
            Kind::V2 => controllers.is_empty(),
            Kind::V1(name) => controllers.split(',').any(|controller| controller == name),
        }
    }
}

/// The path in `/proc/PID/cgroup` that tells most, where no hierarchy can be looked at: that of the first
/// controller, or of version 2 where that is the only one or no controller is elsewhere.
pub(super) fn telling_path(text: &str) -> Option<&str> {
    let of = |name: &str| {
        lines(text)
            .find(|(controllers, _)| controllers.split(',').any(|controller| controller == name))
            .map(|(_, path)| path)
    };
    V1.iter().find_map(|(controller, _)| of(controller)).or_else(|| of(""))
}

/// Controllers and path of each line `ID:CONTROLLERS:PATH`. A group that is gone is marked.
fn lines(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        Some((controllers, path.strip_suffix(" (deleted)").unwrap_or(path)))
    })
}

/// Version of the file system of cgroups that is there, if one is.
#[must_use]
pub fn mounted(path: &Path) -> Option<Version> {
    match statfs(path).ok()?.f_type {
        CGROUP2_MAGIC => Some(Version::V2),
        CGROUP_MAGIC => Some(Version::V1),
        _ => None,
    }
}

/// The path of the cgroup that procfs shows us as `/`: the root, unless we are in a cgroup namespace of our own.
/// That group is found by the file system that a container has of it, else as the one that holds this process.
pub(super) fn base(hierarchy: Option<&Hierarchy>, tree: &Tree) -> Option<String> {
    let namespace = fs::read_link("/proc/self/ns/cgroup");
    if namespace.is_ok_and(|link| link.as_os_str() == FIRST_NAMESPACE) {
        return Some(String::new());
    }
    base_of_namespace(hierarchy?, tree)
}

/// The same in a cgroup namespace that is not the first one.
fn base_of_namespace(hierarchy: &Hierarchy, tree: &Tree) -> Option<String> {
    if hierarchy.is_part() {
        // Where that part lies is not seen from here.
        return None;
    }
    let own_mount = match hierarchy.kind {
        Kind::V2 => PathBuf::from("/sys/fs/cgroup"),
        Kind::V1(_) => Path::new("/sys/fs/cgroup").join(hierarchy.root.file_name()?),
    };
    let by_mount = fs::metadata(own_mount).ok().map(|found| found.ino());
    let by_mount = by_mount.filter(|id| *id != ROOT).and_then(|id| tree.get(id));
    if let Some(place) = by_mount {
        return Some(place.cgroup.clone());
    }
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = hierarchy.path(&text)?.trim_end_matches('/');
    let id = std::process::id();
    let holds_us = |path: &str| {
        let members = hierarchy.root.join(path.trim_start_matches('/')).join("cgroup.procs");
        fs::read_to_string(members)
            .is_ok_and(|text| text.lines().any(|line| line.parse() == Ok(id)))
    };
    let place = tree.iter().map(|(_, place)| place).find(|place| holds_us(&place.cgroup))?;
    place.cgroup.strip_suffix(own).map(|base| base.trim_end_matches('/').to_owned())
}

/// A path as the node sees it, of one that is shown relative to `base` (cgroup_namespaces(7)).
pub(super) fn absolute(base: &str, path: &str) -> String {
    if base.is_empty() {
        return path.to_owned();
    }
    let mut names: Vec<&str> = base.split('/').filter(|name| !name.is_empty()).collect();
    for name in path.split('/').filter(|name| !name.is_empty()) {
        if name == ".." {
            names.pop();
        } else {
            names.push(name);
        }
    }
    format!("/{}", names.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "9:name=systemd:/systemd\n8:pids:/pids\n4:cpu,cpuacct:/cpu\n\
                          3:memory:/memory/a:b\n0::/unified\n";

    #[test]
    fn each_hierarchy_has_its_line() {
        for (kind, path) in [
            (Kind::V2, Some("/unified")),
            (Kind::V1("memory"), Some("/memory/a:b")),
            (Kind::V1("pids"), Some("/pids")),
            (Kind::V1("cpu"), Some("/cpu")),
            (Kind::V1("devices"), None),
        ] {
            let hierarchy = Hierarchy { kind, root: PathBuf::new() };
            assert_eq!(hierarchy.path(HYBRID), path, "{kind:?}");
        }
        let v2 = Hierarchy { kind: Kind::V2, root: PathBuf::new() };
        assert_eq!(v2.path("0::/kubepods/x (deleted)\n"), Some("/kubepods/x"));
        assert_eq!(v2.path("junk\n::\n"), Some(""));
        assert_eq!(telling_path(HYBRID), Some("/memory/a:b"));
        assert_eq!(telling_path("1:name=systemd:/x\n0::/unified\n"), Some("/unified"));
    }

    #[test]
    fn what_only_looks_like_a_hierarchy_is_none() {
        let root = tempfile::tempdir().unwrap();
        let below = root.path().join(MOUNTED_AT);
        fs::create_dir_all(below.join("memory")).unwrap();
        fs::write(below.join("cgroup.controllers"), "cpu\n").unwrap();
        assert_eq!((mounted(&below), Hierarchy::find(root.path())), (None, None));
        assert_eq!(mounted(&root.path().join("none")), None);
    }

    #[test]
    fn a_part_does_not_tell_where_it_lies() {
        let root = tempfile::tempdir().unwrap();
        let hierarchy = Hierarchy { kind: Kind::V2, root: root.path().to_owned() };
        let mut tree = Tree::default();
        tree.walk(root.path());
        assert!(hierarchy.is_part());
        assert_eq!(base_of_namespace(&hierarchy, &tree), None);
    }

    #[test]
    fn a_path_beside_the_own_group() {
        let own = "/kubepods/burstable/pod1/own";
        for (base, shown, path) in [
            ("", "/kubepods/x", "/kubepods/x"),
            (own, "/", own),
            (own, "/inner", "/kubepods/burstable/pod1/own/inner"),
            (own, "/../other", "/kubepods/burstable/pod1/other"),
            (own, "/../../../besteffort/pod2/c", "/kubepods/besteffort/pod2/c"),
            (own, "/../../../..", "/"),
            (own, "/../../../../../..", "/"),
        ] {
            assert_eq!(absolute(base, shown), path, "{base} {shown}");
        }
    }

    #[test]
    fn hostile_paths_are_survived() {
        let sound = [HYBRID, "0::/../x (deleted)\n", "/../../../besteffort/pod2/c"];
        crate::hostile::survived_text(&sound, |text| {
            for kind in [Kind::V2, Kind::V1("memory")] {
                let hierarchy = Hierarchy { kind, root: PathBuf::new() };
                let _path = hierarchy.path(text);
            }
            let _path = telling_path(text);
            for (base, shown) in [(text, "/../../x"), ("/kubepods/pod1/own", text), (text, text)] {
                let path = absolute(base, shown);
                assert!(path.len() <= base.len() + shown.len() + 2, "{path:?}");
            }
        });
    }
}
