//! Pairs of files that `netdiag record` wrote, read interval by interval: a line of the sidecar and the lines of the
//! log that belong to it. Both may still grow, or be torn; nothing but a few intervals is held.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Read as _},
    mem,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::{LONGEST, ahead::ahead, next, open, snapshot};
use crate::{
    exit,
    snapshot::{Snapshot, build::Scope},
    view::dump::{Name, block::COMPLETE},
};

/// Bytes by which copies of a recording are known as such.
const HEAD: u64 = 4096;

/// A log and its sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::run) struct Pair {
    /// What both are called.
    pub(in crate::run) name: Name,
    /// The `.jsonl` file.
    pub(in crate::run) sidecar: PathBuf,
}

/// What there is to read.
#[derive(Debug)]
pub(in crate::run) struct Found {
    /// By node, and there by age.
    pub(in crate::run) pairs: Vec<Pair>,
    /// What is to be said, a line each.
    pub(in crate::run) notes: Vec<String>,
    /// Whether nothing is left out for want of its other half.
    pub(in crate::run) is_whole: bool,
}

/// The pairs in these directories, and those of these files.
///
/// # Errors
/// Wrong usage: one that is not there, or no recording in it.
pub(in crate::run) fn find(paths: &[PathBuf]) -> Result<Found, exit::Error> {
    let mut found = BTreeMap::new();
    let mut halves = Vec::new();
    for path in paths {
        let shown = path.display();
        let usage = |cause: String| {
            exit::Error::usage(format!(
                "{shown}: {cause}; name a directory that `netdiag record --out` wrote to, or a file in it"
            ))
        };
        let mut any = false;
        let mut add = |file: &Path| {
            let Some(pair) = pair(file) else { return };
            any = true;
            match fs::canonicalize(&pair.sidecar) {
                Ok(known) => drop(found.insert(known, pair)),
                Err(error) => halves.push(format!(
                    "{}: {error}, so the histograms of its .hlog belong to nobody and were left out; copy both files",
                    pair.sidecar.display()
                )),
            }
        };
        if fs::metadata(path).map_err(|error| usage(error.to_string()))?.is_dir() {
            for entry in fs::read_dir(path).map_err(|error| usage(error.to_string()))? {
                let entry = entry.map_err(|error| usage(error.to_string()))?.path();
                let is = |wanted| entry.extension().is_some_and(|extension| extension == wanted);
                if is("jsonl") || is("hlog") && !entry.with_extension("jsonl").exists() {
                    add(&entry);
                }
            }
        } else {
            add(path);
        }
        if !any {
            return Err(usage("there is no netdiag-NODE-TIME.jsonl".to_owned()));
        }
    }
    let (pairs, mut notes) = distinct(found.into_values());
    let is_whole = halves.is_empty();
    notes.extend(halves);
    Ok(Found { pairs, notes, is_whole })
}

/// The pair of which a file is one half.
fn pair(file: &Path) -> Option<Pair> {
    let name = file.file_name()?.to_str()?;
    let name = name.strip_suffix(".jsonl").or_else(|| name.strip_suffix(".hlog"))?;
    let sidecar = file.with_file_name(format!("{name}.jsonl"));
    Some(Pair { name: Name::parse(name)?, sidecar })
}

/// Of several copies of one recording the longest, and of these the one with the most histograms: one that was still written when it was copied has less.
fn distinct(pairs: impl Iterator<Item = Pair>) -> (Vec<Pair>, Vec<String>) {
    let mut kept: BTreeMap<(Name, Vec<u8>), Pair> = BTreeMap::new();
    let mut said = Vec::new();
    for pair in pairs {
        let length = |pair: &Pair| {
            let of = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.len());
            (of(&pair.sidecar), of(&pair.log()))
        };
        let mut head = Vec::new();
        if let Ok(file) = open(&pair.sidecar) {
            // What cannot be read is said when it should be.
            let _ = file.take(HEAD).read_to_end(&mut head);
        }
        // Nothing is no copy of nothing.
        let same = (
            pair.name.clone(),
            if head.is_empty() {
                pair.sidecar.as_os_str().as_encoded_bytes().to_vec()
            } else {
                head
            },
        );
        match kept.entry(same) {
            Entry::Vacant(place) => drop(place.insert(pair)),
            Entry::Occupied(mut known) => {
                let (more, less) = if length(&pair) > length(known.get()) {
                    let less = known.insert(pair.clone());
                    (pair, less)
                } else {
                    (known.get().clone(), pair)
                };
                said.push(format!(
                    "{} is a copy of {}, and does not count again",
                    less.sidecar.display(),
                    more.sidecar.display()
                ));
            }
        }
    }
    let mut pairs: Vec<Pair> = kept.into_values().collect();
    pairs.sort_by(|one, other| {
        (one.name.node(), &one.name, &one.sidecar).cmp(&(
            other.name.node(),
            &other.name,
            &other.sidecar,
        ))
    });
    (pairs, said)
}

/// An interval of a pair.
#[derive(Debug)]
pub(in crate::run) struct Recorded {
    /// Its line of the sidecar.
    pub(in crate::run) snapshot: Snapshot,
    /// Flow ids by tag.
    pub(in crate::run) tags: BTreeMap<String, String>,
    /// Its lines of the log; none where they are not there, or not whole.
    pub(in crate::run) log: Option<Vec<u8>>,
}

/// How a pair was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::run) struct Extent {
    /// Lines of the sidecar.
    pub(in crate::run) lines: u64,
    /// Those that are no intervals: the last one of a recording that is being written or was torn.
    pub(in crate::run) unread: u64,
}

/// Flow ids by tag, which stand at the end of a line. Within a text the quotes would be escaped.
fn tags(line: &[u8]) -> Option<BTreeMap<String, String>> {
    const MARK: &[u8] = b",\"tags\":";
    let at = line.windows(MARK.len()).rposition(|window| window == MARK)?;
    let mut rest = serde_json::Deserializer::from_slice(&line[at + MARK.len()..]);
    BTreeMap::deserialize(&mut rest).ok()
}

impl Pair {
    /// Hands over the snapshots.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(in crate::run) fn snapshots(&self, mut take: impl FnMut(&Snapshot)) -> Result<Extent> {
        ahead(|give| self.read_snapshots(give), |snapshot| take(snapshot))
    }

    fn read_snapshots(&self, give: &mut dyn FnMut(Snapshot) -> bool) -> Result<Extent> {
        let mut lines = self.lines()?;
        let (mut line, mut extent) = (Vec::new(), Extent::default());
        while next(&mut lines, &mut line).with_context(|| self.context())? {
            extent.lines += 1;
            let Some(snapshot) = interval(&line) else {
                extent.unread += 1;
                continue;
            };
            if !give(snapshot) {
                break;
            }
        }
        Ok(extent)
    }

    /// Hands over the intervals in so many lines of the sidecar, with their histograms.
    ///
    /// # Errors
    /// A file cannot be read; a missing log is no error.
    pub(in crate::run) fn intervals(
        &self,
        extent: Extent,
        mut take: impl FnMut(&Recorded),
    ) -> Result<()> {
        ahead(|give| self.read_intervals(extent, give), |recorded| take(recorded))
    }

    fn read_intervals(&self, extent: Extent, give: &mut dyn FnMut(Recorded) -> bool) -> Result<()> {
        let mut lines = self.lines()?;
        let path = self.log();
        let mut log = match open(&path) {
            Ok(file) => Some(Log { lines: BufReader::new(file), intervals: 0 }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| unreadable(&path)),
        };
        let (mut line, mut block) = (Vec::new(), Vec::new());
        for _ in 0..extent.lines {
            if !next(&mut lines, &mut line).with_context(|| self.context())? {
                break;
            }
            let is_whole = match &mut log {
                Some(log) => log.next(&mut block).with_context(|| unreadable(&path))?,
                None => false,
            };
            if !is_whole {
                log = None;
            }
            let Some(snapshot) = interval(&line) else { continue };
            let tags = tags(&line).unwrap_or_default();
            let log = is_whole.then(|| mem::take(&mut block));
            if !give(Recorded { snapshot, tags, log }) {
                break;
            }
        }
        Ok(())
    }

    fn log(&self) -> PathBuf {
        self.sidecar.with_extension("hlog")
    }

    fn lines(&self) -> Result<BufReader<File>> {
        open(&self.sidecar).map(BufReader::new).with_context(|| self.context())
    }

    fn context(&self) -> String {
        unreadable(&self.sidecar)
    }
}

fn unreadable(path: &Path) -> String {
    format!("{}: what was recorded there cannot be read, and was left out", path.display())
}

fn interval(line: &[u8]) -> Option<Snapshot> {
    snapshot(line).filter(|snapshot| snapshot.schema == Scope::Interval.schema())
}

/// A log that is read interval by interval.
struct Log {
    lines: BufReader<File>,
    intervals: u64,
}

impl Log {
    /// Reads the lines of an interval into `block`; false where they are not whole.
    fn next(&mut self, block: &mut Vec<u8>) -> io::Result<bool> {
        block.clear();
        loop {
            let start = block.len();
            let room = LONGEST.saturating_sub(start as u64);
            if self.lines.by_ref().take(room).read_until(b'\n', block)? == 0 {
                return Ok(false);
            }
            if let Some(number) = block[start..].strip_prefix(COMPLETE.as_bytes()) {
                self.intervals += 1;
                return Ok(number == format!("{}]\n", self.intervals).as_bytes());
            }
        }
    }
}

/// The nodes that pairs are of.
pub(in crate::run) fn nodes(pairs: &[Pair]) -> BTreeSet<&str> {
    pairs.iter().map(|pair| pair.name.node()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{view::dump::Sidecar, watched::kit};

    fn sidecar(seconds: std::ops::Range<u64>) -> String {
        let line = |second| {
            let snapshot = kit::snapshot(second, vec![kit::flow("f1").of(1, ",\"tags\":{}")]);
            let tags = [("f1".to_owned(), "f1".to_owned())].into();
            let line = serde_json::to_string(&Sidecar { snapshot: &snapshot, tags });
            format!("{}\n", line.expect("JSON"))
        };
        seconds.map(line).collect()
    }

    fn log(intervals: u64) -> String {
        let block = |n| format!("Tag=f1.send,0.0,1.0,0.1,AAAA\n#[Complete: {n}]\n");
        format!("#[StartTime: 1]\n{}", (1..=intervals).map(block).collect::<String>())
    }

    const NAME: &str = "netdiag-a-20261121T041800Z";

    /// Which intervals have lines in the log, and how many lines of the sidecar are none.
    fn read(log: Option<&str>, sidecar: &str) -> (Vec<bool>, u64) {
        let root = tempfile::tempdir().expect("directory");
        fs::write(root.path().join(format!("{NAME}.jsonl")), sidecar).expect("sidecar");
        if let Some(log) = log {
            fs::write(root.path().join(format!("{NAME}.hlog")), log).expect("log");
        }
        let Found { pairs, notes, is_whole } = find(&[root.path().to_owned()]).expect("pairs");
        assert_eq!((pairs.len(), notes.len(), is_whole), (1, 0, true));
        let mut snapshots = 0;
        let extent = pairs[0].snapshots(|_| snapshots += 1).expect("read");
        let mut logs = Vec::new();
        pairs[0]
            .intervals(extent, |recorded| {
                assert_eq!(recorded.tags["f1"], "f1");
                logs.push(
                    recorded
                        .log
                        .as_ref()
                        .is_some_and(|log| log.starts_with(b"Tag=") || log.starts_with(b"#[St")),
                );
            })
            .expect("read");
        assert_eq!(logs.len(), snapshots);
        (logs, extent.unread)
    }

    #[test]
    fn both_files_are_read_side_by_side() {
        let (whole, three) = (log(3), sidecar(0..3));
        assert_eq!(read(Some(&whole), &three), (vec![true; 3], 0));
        assert_eq!(read(None, &three), (vec![false; 3], 0), "no log");
        assert_eq!(read(Some(&log(4)), &three), (vec![true; 3], 0), "the log is ahead");
        assert_eq!(read(Some(&log(2)), &three), (vec![true, true, false], 0));
        let torn = &whole[..whole.len() - 3];
        assert_eq!(read(Some(torn), &three), (vec![true, true, false], 0));
        assert_eq!(read(Some(&whole), &three[..three.len() - 9]), (vec![true; 2], 1));
        let gap = whole.replace("#[Complete: 2]\n", "");
        assert_eq!(read(Some(&gap), &three), (vec![true, false, false], 0), "two in one");
        let odd = three.replacen("netdiag.snapshot/1", "netdiag.snapshot/9", 1);
        assert_eq!(read(Some(&whole), &odd), (vec![true; 2], 1), "still side by side");
    }

    /// Whatever is in the files: both looks find the same intervals, and no half of one in the log.
    #[test]
    fn hostile_files_are_survived() {
        let (log, side) = (log(3).into_bytes(), sidecar(0..3).into_bytes());
        let root = tempfile::tempdir().expect("directory");
        let path = |end: &str| root.path().join(format!("{NAME}.{end}"));
        crate::hostile::survived(&[log.clone(), side.clone()], |bytes| {
            for (log, side) in [(bytes, &side[..]), (&log[..], bytes), (bytes, bytes)] {
                fs::write(path("hlog"), log).expect("log");
                fs::write(path("jsonl"), side).expect("sidecar");
                let name = Name::parse(NAME).expect("a name");
                let pair = Pair { name, sidecar: path("jsonl") };
                let (mut snapshots, mut intervals) = (0, 0);
                let extent = pair.snapshots(|_| snapshots += 1).expect("read");
                assert_eq!(snapshots + extent.unread, extent.lines);
                let taken = pair.intervals(extent, |recorded| {
                    intervals += 1;
                    assert!(recorded.log.as_ref().is_none_or(|log| log.ends_with(b"]\n")));
                });
                taken.expect("read");
                assert_eq!(intervals, snapshots);
            }
        });
    }

    #[test]
    fn files_and_directories_are_found_and_copies_do_not_count_twice() {
        let root = tempfile::tempdir().expect("directory");
        let (one, copy) = (root.path().join("one"), root.path().join("copy"));
        for directory in [&one, &copy] {
            fs::create_dir(directory).expect("directory");
        }
        let write = |directory: &Path, name: &str, seconds| {
            let file = directory.join(format!("{name}.jsonl"));
            fs::write(&file, sidecar(seconds)).expect("file");
            file
        };
        let whole = write(&one, NAME, 0..5);
        write(&copy, NAME, 0..3);
        // Another node of that name, or an empty file, is no copy.
        let other = write(&copy, "netdiag-b-20261121T041800Z", 0..3);
        let file = one.join(format!("{NAME}.hlog"));
        fs::write(&file, "").expect("log");
        let Found { pairs, notes, .. } = find(&[one.clone(), copy, one, file]).expect("pairs");
        let found: Vec<_> = pairs.iter().map(|pair| pair.sidecar.clone()).collect();
        assert_eq!((found, notes.len()), (vec![whole, other], 1), "{notes:?}");
        assert_eq!(nodes(&pairs).into_iter().collect::<Vec<_>>(), ["a", "b"]);
        let half = root.path().join("netdiag-c-20261121T041800Z.hlog");
        fs::write(&half, "").expect("log");
        for path in [half, root.path().to_owned()] {
            let found = find(&[path]).expect("half a pair");
            assert_eq!((found.pairs.len(), found.notes.len(), found.is_whole), (0, 1, false));
        }
        for wrong in ["/nowhere", "/proc/self/status", "/proc/self"] {
            let error = find(&[wrong.into()]).expect_err("no recording");
            assert_eq!(error.status(), exit::Status::Usage, "{error}");
        }
    }
}
