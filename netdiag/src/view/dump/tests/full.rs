//! A disk that fills up, and has room again.

use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    process::geteuid,
    thread::{UnshareFlags, unshare_unsafe},
};

use super::*;

#[test]
fn nothing_is_written_while_others_need_the_room() {
    let root = tempfile::tempdir().expect("directory");
    let (mut recorder, _) = open(&settings(root.path().to_owned()));
    let one = interval(&[(1, &[1])], &[]);
    recorder.write(&snapshot(0), &one);
    recorder.room = Room { bytes: u64::MAX, percent: 0 };
    let said: Vec<bool> =
        (1..4).map(|second| recorder.write(&snapshot(second), &one).is_some()).collect();
    assert_eq!(said, [true, false, false]);
    recorder.room = ALL_ROOM;
    let said = recorder.write(&snapshot(4), &one).expect("said");
    assert!(said.contains("3 intervals from 2026-11-21T04:18:01Z"), "{said}");
    assert_eq!(recorder.write(&snapshot(5), &one), None);
    recorder.close().expect("closed");
    assert_pair(root.path(), &[0, 4, 5]);
    let log = fs::read_to_string(root.path().join("netdiag-node-1-20261121T041800Z.hlog"));
    assert!(log.expect("log").contains("#[Gap: 3 intervals from 2026-11-21T04:18:01Z "));
}

fn assert_pair(directory: &Path, seconds: &[u64]) {
    let name = directory.join("netdiag-node-1-20261121T041800Z");
    let log = fs::read(name.with_extension("hlog")).expect("log");
    let untagged = logged(&log).into_iter().filter(|(tag, ..)| tag.is_none());
    let starts: Vec<u64> = untagged.map(|(_, start, _)| start.as_secs()).collect();
    assert_eq!(starts, seconds);
    let lines = sidecar(&fs::read(name.with_extension("jsonl")).expect("sidecar"));
    assert_eq!(lines.len(), seconds.len());
}

/// Runs `test` with a tmpfs of `bytes` that only its thread sees.
fn with_tmpfs(bytes: usize, test: impl FnOnce(&Path) + Send) {
    let root: TempDir = tempfile::tempdir().expect("directory");
    let path = root.path();
    let run = || {
        // SAFETY: only this thread leaves the mount namespace, and it ends before its path is
        // used elsewhere; no descriptor table is unshared.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.expect("a mount namespace");
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private).expect("private mounts");
        let size = std::ffi::CString::new(format!("size={bytes}")).expect("no zero");
        mount("tmpfs", path, "tmpfs", MountFlags::empty(), size.as_c_str()).expect("tmpfs");
        test(path);
    };
    std::thread::scope(|scope| scope.spawn(run).join().expect("test"));
}

#[test]
fn a_full_disk_stops_writing_and_nothing_else() {
    if !geteuid().is_root() {
        eprintln!("SKIPPED: root is missing: the kernel's own ENOSPC needs a tmpfs");
        return;
    }
    with_tmpfs(256 << 10, |path| {
        let (mut recorder, _) = open(&settings(path.to_owned()));
        let one = interval(&[(1, &[1])], &[]);
        recorder.write(&snapshot(0), &one);
        let ballast = path.join("ballast");
        // all room but a part of a page, so that a write ends in the middle
        drop(fs::write(&ballast, vec![0; 1 << 20]));
        let mut said = Vec::new();
        for second in 1..20 {
            said.extend(recorder.write(&snapshot(second), &one));
        }
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains("tracing goes on"), "{said:?}");
        fs::remove_file(&ballast).expect("removed");
        let said = recorder.write(&snapshot(20), &one).expect("said");
        assert!(said.contains("there is room again"), "{said}");
        recorder.close().expect("closed");
        let name = path.join("netdiag-node-1-20261121T041800Z");
        let log = fs::read(name.with_extension("hlog")).expect("log");
        let lines = sidecar(&fs::read(name.with_extension("jsonl")).expect("sidecar"));
        let intervals = logged(&log).iter().filter(|(tag, ..)| tag.is_none()).count();
        assert_eq!(intervals, lines.len());
        assert_eq!(lines.last().expect("lines")["start"], "2026-11-21T04:18:20Z");
    });
}

#[test]
fn an_interval_larger_than_max_disk_is_left_out() {
    let root = tempfile::tempdir().expect("directory");
    let mut settings = settings(root.path().to_owned());
    settings.max_disk = 100;
    let (mut recorder, _) = open(&settings);
    let said = recorder.write(&snapshot(0), &interval(&[(1, &[1])], &[]));
    assert!(said.expect("said").contains("raise it"));
}

/// Somebody removes the directory, or something else comes in its place.
#[test]
fn a_directory_that_is_gone_is_made_again() {
    let root = tempfile::tempdir().expect("directory");
    let out = root.path().join("dumps");
    let (mut recorder, _) = open(&settings(out.clone()));
    let one = interval(&[(1, &[1])], &[]);
    assert_eq!(recorder.write(&snapshot(0), &one), None);
    fs::remove_dir_all(&out).expect("removed");
    let said = recorder.write(&snapshot(1), &one).expect("said");
    assert!(said.contains("another directory by now") && !said.contains("missing"), "{said}");
    assert_eq!(files(&out).len(), 2);
    fs::remove_dir_all(&out).expect("removed");
    fs::write(&out, "in its place").expect("a file");
    let said: Vec<_> = (2..5).filter_map(|at| recorder.write(&snapshot(at), &one)).collect();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("Not a directory") && said[0].contains("tracing goes on"), "{said:?}");
    fs::remove_file(&out).expect("removed");
    let said = recorder.write(&snapshot(5), &one).expect("said");
    assert!(said.contains("it can be written to again; 3 intervals from"), "{said}");
    assert_eq!(files(&out).len(), 2);
    let error = recorder.close().expect_err("intervals are missing");
    assert!(format!("{error:#}").contains("3 intervals are in no file"), "{error:#}");
}

#[test]
fn what_is_missing_at_the_end_is_said() {
    let root = tempfile::tempdir().expect("directory");
    let (mut recorder, _) = open(&settings(root.path().to_owned()));
    recorder.room = Room { bytes: u64::MAX, percent: 0 };
    let one = interval(&[(1, &[1])], &[]);
    let said: Vec<_> = (0..3).filter_map(|at| recorder.write(&snapshot(at), &one)).collect();
    assert_eq!(said.len(), 1, "{said:?}");
    let said = recorder.close().expect("a full disk is no failure").expect("said");
    assert!(said.contains("3 intervals from 2026-11-21T04:18:00Z to the end"), "{said}");
    assert_eq!(files(root.path()), [""; 0]);
}
