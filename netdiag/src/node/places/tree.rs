//! The cgroups of one hierarchy by their ids.

use std::{
    collections::{HashMap, VecDeque},
    mem::MaybeUninit,
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

/// So much of what is remembered goes at once where all of it is still there: one of so many.
const SHARE: usize = 8;

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
    by_id: HashMap<u64, Known>,
    /// Those that nobody was told of, the oldest first.
    new: VecDeque<(u64, Arc<Place>)>,
    /// What is seen is a part of the hierarchy, whose topmost group has a path that is not seen.
    is_part: bool,
    walks: u64,
    /// Cgroups that were ever remembered.
    met: u64,
    /// Those that were forgotten for want of room.
    forgotten: u64,
}

#[derive(Clone, Debug)]
struct Known {
    place: Arc<Place>,
    /// How many others were known before.
    nth: u64,
    /// The walk after or in which it was seen last.
    walk: u64,
}

impl Tree {
    /// The groups of a hierarchy, or of a part of it.
    pub(super) fn new(is_part: bool) -> Self {
        Self { is_part, ..Self::default() }
    }

    pub(super) const fn is_part(&self) -> bool {
        self.is_part
    }

    /// Takes in all that is below a root. What cannot be read is left out.
    pub(super) fn walk(&mut self, root: &Path) {
        self.walked(&list(root));
    }

    /// Takes in what [`list`] found.
    pub(super) fn walked(&mut self, found: &[(u64, String)]) {
        if found.is_empty() {
            return;
        }
        self.walks += 1;
        for (id, path) in found {
            self.found(*id, path);
        }
    }

    /// A directory was found there.
    pub(super) fn found(&mut self, id: u64, path: &str) {
        if !(self.is_part && path == "/") {
            self.insert(id, path);
        }
    }

    /// The place of a cgroup, which is known from now on.
    pub(super) fn insert(&mut self, id: u64, path: &str) -> Arc<Place> {
        if let Some(known) = self.by_id.get_mut(&id)
            && known.place.cgroup == path
        {
            known.walk = self.walks;
            return known.place.clone();
        }
        let place = Arc::new(Place::of(path));
        if self.by_id.len() >= MOST {
            self.make_room();
        }
        let known = Known { place: place.clone(), nth: self.met, walk: self.walks };
        self.met += 1;
        self.by_id.insert(id, known);
        if self.new.len() >= MOST {
            self.new.pop_front();
        }
        self.new.push_back((id, place.clone()));
        place
    }

    /// Forgets those that the last walk did not find; where it found all, the ones known for longest.
    fn make_room(&mut self) {
        let (before, walks) = (self.by_id.len(), self.walks);
        self.by_id.retain(|_, known| known.walk == walks);
        if self.by_id.len() >= MOST {
            let mut nths: Vec<u64> = self.by_id.values().map(|known| known.nth).collect();
            let (_, last, _) = nths.select_nth_unstable(MOST / SHARE);
            let last = *last;
            self.by_id.retain(|_, known| known.nth > last);
        }
        self.forgotten += (before - self.by_id.len()) as u64;
    }

    pub(super) const fn forgotten(&self) -> u64 {
        self.forgotten
    }

    pub(super) fn get(&self, id: u64) -> Option<&Arc<Place>> {
        self.by_id.get(&id).map(|known| &known.place)
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Arc<Place>)> {
        self.by_id.iter().map(|(id, known)| (*id, &known.place))
    }

    pub(super) fn take_new(&mut self) -> Vec<(u64, Arc<Place>)> {
        self.new.drain(..).collect()
    }
}

/// Ids and paths of all groups below a root, that first. What cannot be read is left out.
pub(super) fn list(root: &Path) -> Vec<(u64, String)> {
    let mut found = Vec::new();
    let top = std::fs::metadata(root).ok().map(|top| top.ino());
    let directory = openat(CWD, root, DIRECTORY.difference(OFlags::NOFOLLOW), Mode::empty());
    if let (Some(top), Ok(directory)) = (top, directory) {
        found.push((top, "/".to_owned()));
        // One that is removed meanwhile ends nothing but itself.
        let _gone = below(&directory, &mut String::new(), 0, &mut found);
    }
    found
}

fn below(
    directory: &OwnedFd,
    path: &mut String,
    depth: usize,
    found: &mut Vec<(u64, String)>,
) -> Result<(), Errno> {
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
        found.push((entry.ino(), path.clone()));
        if let Ok(inner) = openat(directory.as_fd(), name, DIRECTORY, Mode::empty()) {
            let _gone = below(&inner, path, depth + 1, found);
        }
        path.truncate(length);
    }
    Ok(())
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

    #[test]
    fn the_top_of_a_part_has_no_place() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("a")).unwrap();
        let id = |path: &Path| fs::metadata(path).unwrap().ino();
        let mut tree = Tree::new(true);
        tree.walk(root.path());
        assert_eq!((tree.get(id(root.path())), tree.len()), (None, 1));
        assert_eq!(tree.get(id(&root.path().join("a"))).unwrap().cgroup, "/a");
    }

    #[test]
    fn what_is_gone_makes_room_before_what_is_there() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("a")).unwrap();
        let id = fs::metadata(root.path().join("a")).unwrap().ino();
        let mut tree = Tree::default();
        let gone = |nth: usize| (1 << 60) + nth as u64;
        for nth in 0..MOST - 2 {
            tree.insert(gone(nth), "/gone");
        }
        tree.walk(root.path());
        assert_eq!((tree.len(), tree.forgotten()), (MOST, 0));
        tree.insert(1 << 59, "/new");
        assert_eq!((tree.len(), tree.forgotten()), (3, MOST as u64 - 2));
        assert!(tree.get(id).is_some() && tree.get(gone(0)).is_none());
        // All of these may be there.
        for nth in 0..MOST {
            tree.insert(gone(nth), "/there");
        }
        assert!(tree.len() <= MOST && tree.len() > MOST / 2);
        assert!(tree.get(id).is_none() && tree.get(gone(MOST - 1)).is_some());
        assert_eq!(tree.take_new().len(), MOST);
    }
}
