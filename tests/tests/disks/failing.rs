//! A disk whose calls fail, once or from some time on: strace lets them.

use anyhow::{Result, ensure};
use netdiag_tests::{
    facts::Facts,
    hlog,
    injection::{Injection, Killed, Trace},
    namespace::Namespace,
    netdiag::Netdiag,
    recording, require,
    requirement::{Feature, alone},
};

use super::{accounted, judge, read_by_all};

const NODE: &str = "faulty";

/// A call, by which error it fails, of how many, with what exit status netdiag ends, and what it says of the reason
/// where it does not overcome that at once.
type Case = (&'static str, &'static str, &'static str, i32, Option<&'static str>);

/// Of `write` those to files of the recording are counted, each thread's by themselves: intervals are written by two
/// threads by turns. A pair begins with that of its log's header; each interval has one to the log and one to the sidecar.
/// What fails for another reason than room is tried again in a new pair.
const CASES: [Case; 15] = [
    ("fdatasync", "EIO", "2", 0, None),
    ("fdatasync", "EIO", "2+", 1, Some("Input/output error")),
    ("fdatasync", "EINTR", "2", 0, None),
    ("fdatasync", "ENOSPC", "2+", 0, Some("No space left on device")),
    ("fsync", "EIO", "1", 0, None),
    ("fsync", "EIO", "1+", 1, Some("Input/output error")),
    ("fsync", "EINTR", "1", 0, None),
    ("write", "EIO", "1", 0, None),
    ("write", "EIO", "3", 0, None),
    ("write", "EIO", "4", 0, None),
    ("write", "EIO", "4+", 1, Some("Input/output error")),
    ("write", "EINTR", "2", 0, None),
    ("write", "EINTR", "3", 0, None),
    // There is room again by the next interval.
    ("write", "ENOSPC", "4", 0, Some("No space left on device")),
    // The other thread fails at its next one, which is that to the sidecar: it writes no interval in between.
    ("write", "ENOSPC", "4+", 0, Some("No space left on device")),
];

#[test]
fn a_disk_that_fails() -> Result<()> {
    require!(Feature::Strace);
    require!(Feature::Readers);
    let _alone = alone();
    let namespace = Namespace::new("disks")?;
    let mut facts = Facts::new();
    // What is written stays until it is read.
    let (mut directories, mut written) = (Vec::new(), Vec::new());
    for (call, error, when, code, said) in CASES {
        let directory = tempfile::tempdir()?;
        // As the kernel names what lies in it.
        let root = directory.path().canonicalize()?;
        let out = root.join("dumps");
        let mut injection = Injection::new(call, error, when);
        if call == "write" {
            injection = injection.on(recording::upcoming(&out, NODE));
        }
        let trace = Trace::in_directory(&root);
        let shown = out.display().to_string();
        let arguments = ["record", "-o", "json", "-i", "200ms", "-d", "2s", "--out", &shown];
        let more = ["--node", NODE, "--netns", namespace.name()];
        let netdiag = [&arguments[..], &more].concat();
        let netdiag = Netdiag::start_by(injection.command(trace.path(), &netdiag)?)?;
        let _both = Killed(netdiag.pid());
        let outcome = netdiag.wait()?;
        facts.note(&injection);
        let failed = trace.failed()?;
        ensure!(failed > 0, "{injection}: nothing failed");
        let mut one = Facts::new();
        judge(&mut one, &outcome, code, &[("tracing goes on", usize::from(said.is_some()))])?;
        let said = said.unwrap_or_default();
        one.holds(said, outcome.stderr.iter().any(|line| line.contains(said)) || said.is_empty());
        let all = recording::all(&out)?;
        let intervals = recording::intervals(&all);
        accounted(&mut one, &outcome, intervals);
        one.holds(format_args!("{all:?}: no file without an interval"), {
            all.iter().all(|pair| pair.intervals > 0)
        });
        let unreadable: Vec<_> =
            all.iter().filter_map(|pair| hlog::read(&pair.log).err()).collect();
        one.holds(format_args!("{unreadable:?}"), unreadable.is_empty());
        if one.any_wrong() {
            eprintln!("{injection}: {one:?}");
        }
        facts.adopt(&injection, one);
        eprintln!("{injection}: {failed} failed, {intervals} intervals");
        directories.push(directory);
        written.extend(all);
    }
    // Their readers take long to start, so that they read all of it at once.
    read_by_all(&mut facts, &written)?;
    facts.finish();
    Ok(())
}
