//! The cgroups of one hierarchy by their ids.

use std::{
    collections::HashMap,
    mem::{self, MaybeUninit},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::Path,
    sync::Arc,
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, RawDir, openat},
    io::Errno,
};

use crate::owner::Place;

/// Cgroups that are remembered, those that are gone among them.
const MOST: usize = 1 << 16;

/// How deep they lie at most.
pub(super) const DEPTH: usize = 48;

/// Room for the entries of one `getdents64` call: a cgroup has some dozens of files.
const ENTRIES_BYTES: usize = 8192;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// Places by the ids of their cgroups. An id is never used again (`__kernfs_new_node`, fs/kernfs/dir.c), so
/// what is gone stays: events of it may still come.
#[derive(Clone, Debug, Default)]
pub(super) struct Tree {
    by_id: HashMap<u64, Arc<Place>>,
    new: Vec<(u64, Arc<Place>)>,
}

impl Tree {
    /// Takes in all that is below a root. What cannot be read is left out.
    pub(super) fn walk(&mut self, root: &Path) {
        let Ok(found) = std::fs::metadata(root) else { return };
        let Ok(directory) =
            openat(CWD, root, DIRECTORY.difference(OFlags::NOFOLLOW), Mode::empty())
        else {
            return;
        };
        self.insert(found.ino(), "/");
        let mut path = String::new();
        // One that is removed meanwhile ends nothing but itself.
        let _gone = self.below(&directory, &mut path, 0);
    }

    fn below(&mut self, directory: &OwnedFd, path: &mut String, depth: usize) -> Result<(), Errno> {
        if depth == DEPTH {
            return Ok(());
        }
        let mut buffer = [MaybeUninit::uninit(); ENTRIES_BYTES];
        let mut entries = RawDir::new(directory, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name();
            if entry.file_type() != FileType::Directory || matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let length = path.len();
            path.push('/');
            path.push_str(&name.to_string_lossy());
            self.insert(entry.ino(), path);
            if let Ok(inner) = openat(directory.as_fd(), name, DIRECTORY, Mode::empty()) {
                let _gone = self.below(&inner, path, depth + 1);
            }
            path.truncate(length);
        }
        Ok(())
    }

    /// The place of a cgroup, which is known from now on.
    pub(super) fn insert(&mut self, id: u64, path: &str) -> Arc<Place> {
        if let Some(known) = self.by_id.get(&id)
            && known.cgroup == path
        {
            return known.clone();
        }
        let place = Arc::new(Place::of(path));
        if self.by_id.len() >= MOST {
            // Those that are there are found again as they are looked for.
            self.by_id.clear();
            self.new.clear();
        }
        self.by_id.insert(id, place.clone());
        self.new.push((id, place.clone()));
        place
    }

    pub(super) fn get(&self, id: u64) -> Option<&Arc<Place>> {
        self.by_id.get(&id)
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Arc<Place>)> {
        self.by_id.iter().map(|(id, place)| (*id, place))
    }

    pub(super) fn take_new(&mut self) -> Vec<(u64, Arc<Place>)> {
        mem::take(&mut self.new)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn directories_are_found_by_their_inode_numbers() {
        let root = tempfile::tempdir().unwrap();
        let uid = "0b1f6a9e-8f4d-4f7a-9c51-6a3b1f0e7d42";
        let pod = root.path().join(format!("kubepods/burstable/pod{uid}"));
        fs::create_dir_all(&pod).unwrap();
        fs::write(pod.join("cgroup.procs"), "").unwrap();
        let id = |path: &Path| fs::metadata(path).unwrap().ino();
        let mut tree = Tree::default();
        tree.walk(root.path());
        assert_eq!((tree.len(), tree.take_new().len()), (4, 4));
        assert_eq!(tree.get(id(root.path())).unwrap().cgroup, "/");
        assert_eq!(tree.get(id(&pod)).unwrap().pod_uid.as_deref(), Some(uid));
        let inner = pod.join("inner");
        fs::create_dir(&inner).unwrap();
        let inner_id = id(&inner);
        tree.walk(root.path());
        let new = tree.take_new();
        assert_eq!(new.len(), 1);
        assert_eq!((new[0].0, new[0].1.pod_uid.as_deref()), (inner_id, Some(uid)));
        fs::remove_dir(&inner).unwrap();
        tree.walk(root.path());
        assert!(tree.get(inner_id).is_some() && tree.take_new().is_empty());
        tree.walk(Path::new("/nowhere"));
    }
}
