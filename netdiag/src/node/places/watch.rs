//! Cgroups as they are made: a container may be gone before anybody asks where it was.

use std::{
    collections::HashMap,
    convert::Infallible,
    fs,
    io::{self, PipeReader, PipeWriter},
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{self, Receiver, SyncSender, TrySendError},
    },
    thread,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags},
    io::Errno,
};

use super::tree::DEPTH;

/// Of the watches that a user may have in all, one of so many is taken at most: kubelet has some, too.
const SHARE: usize = 8;

/// Where the kernel says how many that are.
const MOST: &str = "/proc/sys/fs/inotify/max_user_watches";

/// Cgroups that wait to be asked for. Where there are more, a walk finds them.
const WAITING: usize = 1 << 14;

/// Room for what the kernel tells at a time.
const BUFFER_BYTES: usize = 16 << 10;

/// A thread that hears of new cgroups. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Watch {
    found: Receiver<(u64, String)>,
    lacks: Arc<Lacks>,
    _running: PipeWriter,
}

/// What the thread could not do.
#[derive(Debug, Default)]
struct Lacks {
    /// Not all that was found had room.
    told: AtomicBool,
    /// Not all can be watched.
    watches: AtomicBool,
}

impl Watch {
    /// Begins to watch all below a root; none where the kernel allows no watch.
    pub(super) fn begin(root: &Path) -> Option<Self> {
        let descriptor = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok()?;
        let most = fs::read_to_string(MOST).ok()?.trim().parse::<usize>().ok()? / SHARE;
        let (tell, found) = mpsc::sync_channel(WAITING);
        let lacks = Arc::new(Lacks::default());
        let (ended, running) = io::pipe().ok()?;
        let (root, paths, shared) = (root.to_owned(), HashMap::new(), Arc::clone(&lacks));
        let watcher = Watcher { descriptor, root, most, paths, tell, lacks: shared };
        let run = move || watcher.run(&ended);
        thread::Builder::new().name("cgroups".to_owned()).spawn(run).ok()?;
        Some(Self { found, lacks, _running: running })
    }

    /// Ids and paths that were found since this was asked last.
    pub(super) fn found(&self) -> impl Iterator<Item = (u64, String)> + '_ {
        self.found.try_iter()
    }

    /// Whether some were found that nobody will be told of.
    pub(super) fn is_overrun(&self) -> bool {
        self.lacks.told.load(Relaxed)
    }

    /// A walk finds them now.
    pub(super) fn is_made_up_for(&self) {
        self.lacks.told.store(false, Relaxed);
    }

    /// Whether some cgroups are not watched.
    pub(super) fn lacks_watches(&self) -> bool {
        self.lacks.watches.load(Relaxed)
    }
}

struct Watcher {
    descriptor: OwnedFd,
    root: PathBuf,
    most: usize,
    /// Paths below the root by watch.
    paths: HashMap<i32, String>,
    tell: SyncSender<(u64, String)>,
    lacks: Arc<Lacks>,
}

/// Nobody listens or tells any more.
struct Ended;

impl Watcher {
    /// Watches until nobody listens any more, or the kernel does not tell any more. Cgroups are found as they
    /// are looked for then.
    fn run(mut self, ended: &PipeReader) {
        let Err(Ended) = self.follow(ended);
        self.lacks.watches.store(true, Relaxed);
    }

    fn follow(&mut self, ended: &PipeReader) -> Result<Infallible, Ended> {
        self.add("", 0)?;
        loop {
            let mut fds =
                [PollFd::new(&self.descriptor, PollFlags::IN), PollFd::new(ended, PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return Err(Ended),
            }
            if !fds[1].revents().is_empty() {
                return Err(Ended);
            }
            self.take_in()?;
        }
    }

    fn take_in(&mut self) -> Result<(), Ended> {
        let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
        let mut new = Vec::new();
        let mut overrun = false;
        let mut reader = inotify::Reader::new(&self.descriptor, &mut buffer);
        while let Ok(event) = reader.next() {
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                overrun = true;
            } else if event.events().contains(ReadFlags::IGNORED) {
                self.paths.remove(&event.wd());
            } else if let (Some(parent), Some(name)) =
                (self.paths.get(&event.wd()), event.file_name())
                && event.events().contains(ReadFlags::ISDIR)
            {
                new.push(format!("{parent}/{}", name.to_string_lossy()));
            }
        }
        if overrun {
            new = vec![String::new()];
        }
        new.iter().try_for_each(|path| self.add(path, path.matches('/').count()))
    }

    /// Watches a directory, then tells of it and of what is already in it.
    fn add(&mut self, path: &str, depth: usize) -> Result<(), Ended> {
        let directory = self.root.join(path.trim_start_matches('/'));
        let Ok(found) = fs::metadata(&directory) else { return Ok(()) };
        self.watch(&directory, path);
        let shown = if path.is_empty() { "/" } else { path };
        match self.tell.try_send((found.ino(), shown.to_owned())) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => self.lacks.told.store(true, Relaxed),
            Err(TrySendError::Disconnected(_)) => return Err(Ended),
        }
        if depth >= DEPTH {
            return Ok(());
        }
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let path = format!("{path}/{}", entry.file_name().to_string_lossy());
                self.add(&path, depth + 1)?;
            }
        }
        Ok(())
    }

    fn watch(&mut self, directory: &Path, path: &str) {
        let flags = WatchFlags::CREATE | WatchFlags::ONLYDIR | WatchFlags::DONT_FOLLOW;
        let watch = if self.paths.len() < self.most {
            inotify::add_watch(&self.descriptor, directory, flags)
        } else {
            Err(Errno::NOSPC)
        };
        match watch {
            Ok(watch) => {
                self.paths.insert(watch, path.to_owned());
            }
            // It is gone.
            Err(Errno::NOENT) => {}
            Err(_) => self.lacks.watches.store(true, Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_directory_that_is_soon_gone_was_seen() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("a/b")).unwrap();
        let watch = Watch::begin(root.path()).unwrap();
        let mut seen = HashMap::new();
        let wait = |wanted: &[&str], seen: &mut HashMap<String, u64>| {
            let until = Instant::now() + Duration::from_secs(20);
            while !wanted.iter().all(|path| seen.contains_key(*path)) && Instant::now() < until {
                seen.extend(watch.found().map(|(id, path)| (path, id)));
                thread::sleep(Duration::from_millis(1));
            }
        };
        wait(&["/", "/a", "/a/b"], &mut seen);
        let made = root.path().join("a/b/c");
        fs::create_dir(&made).unwrap();
        let id = fs::metadata(&made).unwrap().ino();
        wait(&["/a/b/c"], &mut seen);
        fs::remove_dir(&made).unwrap();
        assert_eq!(seen.get("/a/b/c"), Some(&id), "{seen:?}");
        fs::create_dir_all(root.path().join("d/e/f")).unwrap();
        wait(&["/d/e/f"], &mut seen);
        assert_eq!(seen.len(), 7, "{seen:?}");
        assert!(!watch.is_overrun() && !watch.lacks_watches());
    }

    #[test]
    fn what_finds_no_room_and_no_watch_is_known() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("a")).unwrap();
        let (tell, found) = mpsc::sync_channel(1);
        let lacks = Arc::new(Lacks::default());
        let mut watcher = Watcher {
            descriptor: inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).unwrap(),
            root: root.path().to_owned(),
            most: 1,
            paths: HashMap::new(),
            tell,
            lacks: Arc::clone(&lacks),
        };
        assert!(watcher.add("", 0).is_ok());
        assert_eq!(found.try_iter().map(|(_, path)| path).collect::<Vec<_>>(), ["/"]);
        assert!(lacks.told.load(Relaxed) && lacks.watches.load(Relaxed));
        drop(found);
        assert!(watcher.add("", 0).is_err());
        lacks.watches.store(false, Relaxed);
        let (ended, _running) = io::pipe().unwrap();
        watcher.run(&ended);
        assert!(lacks.watches.load(Relaxed), "nothing is watched any more");
    }
}
