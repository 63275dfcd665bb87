//! Every way in which a namespace can be reachable, and entering it.

use std::{
    fs::File,
    os::fd::AsFd,
    path::Path,
    process::{self, Child, Command},
    sync::mpsc,
    thread,
};

use netdiag::node::netns::{Depth, enter, enter_all, find, own_inode};
use rustix::thread::{
    CapabilitySet, LinkNameSpaceType, capabilities, move_into_link_name_space, set_capabilities,
};

use super::{Asked as _, NONE, found, here, make, unexpected, until};

/// Ends a process with the value.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn a_bind_mount_has_name_and_path() {
    let made = make("mount");
    for depth in [Depth::Processes, Depth::Everything] {
        let all = find(Path::new("/"), depth).namespaces;
        let namespace = all.iter().find(|namespace| namespace.inode == made.inode()).unwrap();
        assert_eq!(namespace.names, [made.name()]);
        assert!(namespace.mounts.contains(&made.path()), "{namespace:?}");
        assert_eq!((namespace.pid, namespace.own), (None, false));
        assert_eq!(enter(namespace, here), Ok(made.inode()));
    }
}

#[test]
fn the_own_one_is_there_and_each_is_there_once() {
    let found = find(Path::new("/"), Depth::Everything);
    assert_eq!(unexpected(&found.problems), NONE);
    let own: Vec<_> = found.namespaces.iter().filter(|namespace| namespace.own).collect();
    let [own] = own[..] else { panic!("{own:?}") };
    assert_eq!(own.inode, own_inode().unwrap());
    assert!(own.pid.is_some());
    let mut inodes: Vec<_> = found.namespaces.iter().map(|namespace| namespace.inode).collect();
    inodes.dedup();
    assert_eq!(inodes.len(), found.namespaces.len());
    assert!(inodes.is_sorted());
}

#[test]
fn a_single_thread_in_another_namespace_is_seen() {
    let made = make("thread");
    let inode = made.inode();
    let descriptor = File::open(made.path()).unwrap();
    let (ready, is_ready) = mpsc::channel();
    let (end, ended) = mpsc::channel::<()>();
    let thread = thread::spawn(move || {
        move_into_link_name_space(descriptor.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        drop(descriptor);
        ready.send(()).unwrap();
        let _ = ended.recv();
    });
    is_ready.recv().unwrap();
    drop(made);
    let namespace = found(inode).expect("a namespace that only a thread is in");
    assert_eq!((namespace.pid, namespace.mounts.len()), (Some(process::id()), 0));
    assert_eq!(enter(&namespace, here), Ok(inode));
    drop(end);
    thread.join().unwrap();
}

#[test]
fn a_descriptor_is_enough_and_a_gone_one_is_told() {
    let made = make("descriptor");
    let inode = made.inode();
    let descriptor = made.run(|| File::open("/proc/thread-self/ns/net").unwrap());
    drop(made);
    let namespace = found(inode).expect("a namespace that only a descriptor refers to");
    assert_eq!(enter(&namespace, here), Ok(inode));
    drop(descriptor);
    let problem = enter(&namespace, here).unwrap_err();
    assert_eq!(problem, format!("network namespace {inode} is gone"));
}

#[test]
fn a_mount_in_another_mount_namespace_is_seen() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a net");
    let ready = directory.path().join("inode");
    File::create(&file).unwrap();
    let script = "mount --bind /proc/self/ns/net \"$0\" && stat -Lc %i /proc/self/ns/net >\"$1.new\" \
                  && mv \"$1.new\" \"$1\" && exec nsenter --net=\"/proc/$2/ns/net\" sleep 1000";
    let _holder = Killed(
        Command::new("unshare")
            .args(["--mount", "--net", "sh", "-c", script])
            .args([&file, &ready])
            .arg(process::id().to_string())
            .spawn()
            .unwrap(),
    );
    let inode: u32 =
        until("the mount", || std::fs::read_to_string(&ready).ok()?.trim().parse().ok());
    // Until nsenter is done, the process itself is in it.
    let namespace = until("leaving", || found(inode).filter(|namespace| namespace.pid.is_none()));
    assert_eq!(namespace.mounts, [file]);
    assert_eq!(enter(&namespace, here), Ok(inode));
}

/// A process without main thread: `/proc/PID/ns/net` and `/proc/PID/fd` are unreadable then, those
/// of its other threads are not.
#[test]
fn a_process_whose_main_thread_ended_is_seen() {
    extern "C" fn sleep(_: *mut libc::c_void) -> *mut libc::c_void {
        loop {
            // SAFETY: no memory is involved.
            unsafe { libc::pause() };
        }
    }
    // SAFETY: the child calls nothing of Rust's; pthread_create is the only call in it that takes
    // locks of libc, and those are released in a forked child.
    let child = unsafe {
        let child = libc::fork();
        if child == 0 {
            let mut thread = 0;
            libc::unshare(libc::CLONE_NEWNET);
            let nothing = std::ptr::null_mut();
            libc::pthread_create(&raw mut thread, std::ptr::null(), sleep, nothing);
            libc::syscall(libc::SYS_exit, 0);
        }
        child as u32
    };
    let state = || std::fs::read_to_string(format!("/proc/{child}/stat")).ok();
    until("the end of the main thread", || state()?.contains(") Z ").then_some(()));
    let all = find(Path::new("/"), Depth::Processes).namespaces;
    let namespace = all.iter().find(|namespace| namespace.pid == Some(child)).cloned();
    let entered = namespace.as_ref().map(|namespace| enter(namespace, here));
    // SAFETY: a child of this process that nobody else waits for.
    unsafe {
        libc::kill(child as i32, libc::SIGKILL);
        libc::waitpid(child as i32, std::ptr::null_mut(), 0);
    }
    let namespace = namespace.expect("the namespace of its other thread");
    assert_ne!(namespace.inode, own_inode().unwrap());
    assert_eq!(entered, Some(Ok(namespace.inode)));
}

#[test]
fn entering_leaves_the_caller_where_it_was() {
    let (a, b) = (make("a"), make("b"));
    let before = here();
    let own = found(before).unwrap();
    let tour = [a.found(), own, b.found(), a.found()];
    let visited = enter_all(&tour, |namespace| (namespace.inode, here()));
    for (stop, visited) in tour.iter().zip(visited) {
        assert_eq!(visited, Ok((stop.inode, stop.inode)));
    }
    assert_eq!(here(), before);
}

#[test]
fn without_privilege_only_the_own_one_can_be_used() {
    let made = make("refused");
    let (other, own) = (made.found(), found(own_inode().unwrap()).unwrap());
    let answers = thread::spawn(move || {
        let mut sets = capabilities(None).unwrap();
        sets.effective.remove(CapabilitySet::SYS_ADMIN);
        set_capabilities(None, sets).unwrap();
        enter_all(&[other, own], |_| here())
    })
    .join()
    .unwrap();
    let problem = answers[0].as_ref().unwrap_err();
    assert!(problem.contains(made.name()) && problem.contains("CAP_SYS_ADMIN"), "{problem}");
    assert_eq!(answers[1], Ok(own_inode().unwrap()));
}

#[test]
fn a_root_without_procfs_is_one_problem() {
    let root = tempfile::tempdir().unwrap();
    let found = find(root.path(), Depth::Everything);
    let [problem] = &found.problems[..] else { panic!("{:?}", found.problems) };
    assert!(problem.contains("--host-root"), "{problem}");
    assert!(found.namespaces.iter().any(|namespace| namespace.own));
}

#[test]
fn a_host_root_finds_the_same() {
    let made = make("root");
    let root = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/proc", root.path().join("proc")).unwrap();
    let all = find(root.path(), Depth::Everything).namespaces;
    let namespace = all.iter().find(|namespace| namespace.inode == made.inode()).unwrap();
    assert_eq!(enter(namespace, here), Ok(made.inode()));
}
