//! What `netdiag record` wrote: which files a directory has of which node, and their snapshots.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, BufRead as _, BufReader, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use rustix::fs::OFlags;
use serde_json::Value;

use crate::{
    exit,
    snapshot::{Node, Snapshot, build::Scope},
    view::dump::Name,
};

mod ahead;
pub(super) mod pairs;

/// Longer lines are none of ours: a snapshot of all flows that can be remembered has less.
const LONGEST: u64 = 1 << 30;

/// The sidecars of each node, the oldest first.
///
/// # Errors
/// Wrong usage: there is no such directory, or no recording in it.
pub(super) fn find(directory: &Path) -> Result<BTreeMap<String, Vec<PathBuf>>, exit::Error> {
    let shown = directory.display();
    let usage = |cause: String| {
        exit::Error::usage(format!(
            "--from {shown}: {cause}; name the directory that `netdiag record --out` wrote to"
        ))
    };
    let entries = fs::read_dir(directory).map_err(|error| usage(error.to_string()))?;
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(|error| usage(error.to_string()))?.file_name();
        names.extend(name.to_str().and_then(|name| Name::parse(name.strip_suffix(".jsonl")?)));
    }
    names.sort_unstable();
    let mut nodes: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for name in names {
        let files = nodes.entry(name.node().to_owned()).or_default();
        files.push(directory.join(format!("{name}.jsonl")));
    }
    if nodes.is_empty() {
        return Err(usage("there is no netdiag-NODE-TIME.jsonl in it".to_owned()));
    }
    Ok(nodes)
}

/// Hands over the snapshots of a file, and returns how many lines are none: a recording that is being
/// written or was torn ends with one.
///
/// # Errors
/// The file cannot be read.
pub(super) fn read(file: &Path, mut take: impl FnMut(Snapshot)) -> Result<u64> {
    let context =
        || format!("{}: what was recorded cannot be read, so nothing is concluded", file.display());
    let mut lines = BufReader::new(open(file).with_context(context)?);
    let (mut line, mut unread) = (Vec::new(), 0);
    while next(&mut lines, &mut line).with_context(context)? {
        match snapshot(&line) {
            Some(snapshot) if snapshot.schema == Scope::Interval.schema() => take(snapshot),
            _ => unread += 1,
        }
    }
    Ok(unread)
}

/// Only a file: what stands in its place, such as a pipe, may never end, nor begin.
fn open(path: &Path) -> io::Result<File> {
    let at_once = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(at_once).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is not a file")) }
}

/// The snapshot in a line. What an older netdiag did not tell of its node is as unknown as in one that tells
/// nothing.
fn snapshot(line: &[u8]) -> Option<Snapshot> {
    if let Ok(snapshot) = serde_json::from_slice(line) {
        return Some(snapshot);
    }
    let mut value: Value = serde_json::from_slice(line).ok()?;
    let told = value.get_mut("node")?.as_object_mut()?;
    let Value::Object(unknown) = serde_json::to_value(Node::default()).ok()? else { return None };
    for (name, nothing) in unknown {
        told.entry(name).or_insert(nothing);
    }
    serde_json::from_value(value).ok()
}

/// Reads a line into `line`; false at the end.
fn next(lines: &mut BufReader<File>, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    Ok(lines.by_ref().take(LONGEST).read_until(b'\n', line)? > 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;
    use crate::watched::kit;

    #[test]
    fn lines_of_an_older_netdiag_are_read() {
        let mut value =
            serde_json::to_value(kit::snapshot(0, vec![kit::flow("f1")])).expect("JSON");
        value["node"] = serde_json::json!({
            "tcp": {"4026531840": {"RetransSegs": 3}}, "listeners": [], "conntrack": [],
            "own_cpu_ns": 5, "own_resident_bytes": null,
        });
        let read = snapshot(value.to_string().as_bytes()).expect("a snapshot");
        assert_eq!(read.node.tcp[&4_026_531_840]["RetransSegs"], 3);
        assert_eq!((read.node.own_cpu_ns, read.flows.len()), (Some(5), 1));
        let unknown = (read.node.cpu, read.node.memory.tcp.pages, read.node.interfaces_left_out);
        assert_eq!(unknown, (None, None, None), "not 0");
        assert_eq!(snapshot(&value.to_string().as_bytes()[..200]), None, "torn");
    }

    #[test]
    fn files_are_those_of_a_node_in_their_order() {
        let root = tempfile::tempdir().expect("directory");
        let ours =
            ["0Z", "0Z-2", "0Z-10", "1Z"].map(|end| format!("netdiag-a-20261121T04180{end}.jsonl"));
        let others =
            ["netdiag-b-20261121T041800Z.jsonl", "netdiag-a-20261121T041800Z.hlog", "x.jsonl"];
        for name in ours.iter().map(String::as_str).chain(others) {
            File::create(root.path().join(name)).expect("file");
        }
        let found = find(root.path()).expect("recordings");
        assert_eq!(found.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(found["a"], ours.map(|name| root.path().join(name)));
    }

    #[test]
    fn hostile_lines_are_survived() {
        let sound = serde_json::to_vec(&kit::snapshot(0, vec![kit::flow("f1")])).expect("JSON");
        let deep = [&b"{\"node\":"[..], &[b'['; 5_000]].concat();
        crate::hostile::survived(&[sound, deep], |line| drop(snapshot(line)));
    }

    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let root = tempfile::tempdir().expect("directory");
        let pipe = root.path().join("netdiag-a-20261121T041800Z.jsonl");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe");
        symlink("/dev/zero", root.path().join("zeros")).expect("a link");
        for path in [pipe, root.path().join("zeros"), root.path().to_owned()] {
            let error = read(&path, |_| ()).expect_err("no file");
            assert!(format!("{error:#}").contains("not a file"), "{error:#}");
        }
    }
}
