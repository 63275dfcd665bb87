//! `record` is killed at any time, and its disk does what disks do: what was written whole stays readable, tracing goes
//! on, and what is missing is said.

#[path = "disks/failing.rs"]
mod failing;

use std::{env, fs, path::Path, thread, time::Duration};

use anyhow::{Context, Result};
use netdiag_tests::{
    bpf::Loaded,
    disk::Disk,
    facts::Facts,
    machine,
    namespace::Namespace,
    netdiag::Netdiag,
    outcome::{Outcome, count, flow_of},
    random::Random,
    reader,
    recording::{self, Recording},
    require,
    requirement::{Feature, alone},
    traffic::{
        Connection, Family,
        request::{Exchange, exchange},
    },
};
use rustix::process::Signal;

const SOME: Exchange = Exchange { sends: 20, bytes: 10, echo: true };

/// Runs at a time that share a directory.
const AT_ONCE: usize = 8;

/// How many runs are killed; `NETDIAG_KILLS` says another number.
fn kills() -> usize {
    let given = env::var("NETDIAG_KILLS").ok().and_then(|text| text.parse().ok());
    given.unwrap_or(machine::amount(200, 16))
}

fn connections(namespace: &Namespace) -> Result<Vec<Connection>> {
    (0..4).map(|_| Connection::open(namespace, namespace, Family::V4)).collect()
}

/// That nothing of what was whole is gone.
fn kept(facts: &mut Facts, before: &[Recording], now: &[Recording]) {
    for was in before {
        let is = now.iter().find(|one| one.log == was.log).map(|one| one.intervals);
        if is < Some(was.intervals) {
            facts.equal(
                format_args!("intervals of {}", was.log.display()),
                is,
                Some(was.intervals),
            );
        }
    }
}

/// That each of the other readers reads all intervals.
fn read_by_all(facts: &mut Facts, recordings: &[Recording]) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let merged = directory.path().join("merged.hlog");
    recording::merged(recordings, &merged)?;
    let intervals = recording::intervals(recordings) as u64;
    for reader in reader::all()? {
        let language = reader.language;
        let read = reader.read(&merged)?.get("").map_or(0, |read| read.intervals);
        facts.equal(format_args!("intervals that {language} reads"), read, intervals);
    }
    Ok(())
}

#[test]
fn kills_at_any_time_cost_no_interval_and_leave_nothing() -> Result<()> {
    require!(Feature::Readers);
    require!(Feature::Bpftool);
    let _alone = alone();
    let mut random = Random::default();
    let namespace = Namespace::new("kills")?;
    let directory = tempfile::tempdir()?;
    let out = directory.path().join("dumps");
    let shown = out.display().to_string();
    // One signal is loaded in a fraction of the time.
    let arguments = [
        "record",
        "--signals",
        "send",
        "-i",
        "100ms",
        "--out",
        &shown,
        "--netns",
        namespace.name(),
    ];
    let connections = connections(&namespace)?;
    let before = Loaded::now()?;
    let (mut during, mut known) = (Loaded::default(), Vec::<Recording>::new());
    let mut facts = Facts::new();
    let mut killed = 0;
    while killed < kills() {
        let runs = AT_ONCE.min(kills() - killed);
        let mut all = Vec::new();
        for _ in 0..runs {
            all.push(Netdiag::begin(&arguments)?);
        }
        // Half of them die as they begin, half of them as they write.
        for at in 0..runs {
            if at == runs / 2 {
                let writing = |now: &[Recording]| {
                    let is_new = |one: &Recording| !known.iter().any(|old| old.log == one.log);
                    now.iter().any(|one| one.intervals > 2 && is_new(one))
                };
                let write = machine::wait_until(|| {
                    let _busy = exchange(connections.iter().map(|one| (one, SOME)));
                    recording::all(&out).is_ok_and(|now| writing(&now))
                });
                facts.holds("some write", write);
                // Those of runs that were killed go as it looks.
                let mut loaded = Ok(Loaded::default());
                machine::wait_until(|| {
                    loaded = Loaded::now();
                    loaded.is_ok()
                });
                during = during.and(&loaded?.since(&before));
            }
            thread::sleep(Duration::from_micros(random.below(100_000)));
            let netdiag = all.swap_remove(random.below(all.len() as u64) as usize);
            netdiag.signal(Signal::KILL)?;
            let _ = netdiag.wait();
            killed += 1;
        }
        let now = recording::all(&out).unwrap_or_default();
        kept(&mut facts, &known, &now);
        known = now;
    }
    let last = Netdiag::start(&[&arguments[..], &["-d", "1s"]].concat())?;
    let (status, _, said) = last.wait_text()?;
    facts.equal(format_args!("the last one's exit status, {said:?}"), status.code(), Some(0));
    let now = recording::all(&out)?;
    kept(&mut facts, &known, &now);
    let (files, intervals) = (now.len(), recording::intervals(&now));
    eprintln!("{killed} killed, which wrote {intervals} intervals in {files} pairs of files");
    let least = 3 * (killed / AT_ONCE);
    facts.holds(format_args!("{intervals} intervals, at least {least}"), intervals >= least);
    read_by_all(&mut facts, &now)?;
    let mut left = Ok(Loaded::default());
    machine::wait_until(|| {
        left = Loaded::now().map(|now| now.of(&during));
        left.as_ref().is_ok_and(Loaded::is_empty)
    });
    facts.holds("programs of netdiag were seen", during.has("prog"));
    facts.equal("left in the kernel", left?, Loaded::default());
    facts.finish();
    Ok(())
}

/// A recording beside traffic, whose sums are known.
struct Recorded<'a> {
    namespace: &'a Namespace,
    connection: Connection,
    sends: usize,
    netdiag: Netdiag,
}

impl<'a> Recorded<'a> {
    fn start(namespace: &'a Namespace, out: &Path) -> Result<Self> {
        let netdiag = Netdiag::start(&[
            "record",
            "-o",
            "json",
            "-i",
            "200ms",
            "--out",
            &out.display().to_string(),
            "--netns",
            namespace.name(),
        ])?;
        let connection = Connection::open(namespace, namespace, Family::V4)?;
        Ok(Self { namespace, connection, sends: 0, netdiag })
    }

    /// Some traffic, and several intervals more.
    fn go_on(&mut self) -> Result<()> {
        exchange([(&self.connection, SOME)])?;
        self.sends += SOME.sends;
        self.netdiag.wait_lines(3)
    }

    /// What it says of its files is said `times` times, and its own sums are those of the caller.
    fn end(self, facts: &mut Facts, code: i32, said: &[(&str, usize)]) -> Result<Outcome> {
        let end = self.connection.client_end()?;
        facts.note(format_args!("{:?}", self.namespace));
        let outcome = self.netdiag.stop()?;
        judge(facts, &outcome, code, said)?;
        let flow = flow_of(outcome.total()?, &end)?;
        facts.equal("sends", count(flow, "sends"), Some(self.sends as u64));
        Ok(outcome)
    }
}

fn judge(facts: &mut Facts, outcome: &Outcome, code: i32, said: &[(&str, usize)]) -> Result<()> {
    let lines = &outcome.stderr;
    facts.note(lines.join("\n"));
    facts.equal("exit status", outcome.code(), Some(code));
    facts.at_rest(outcome.total()?);
    facts.lossless(outcome.total()?);
    for (words, times) in said {
        let found = lines.iter().filter(|line| line.contains(words)).count();
        facts.equal(format_args!("lines with {words:?}"), found, *times);
    }
    Ok(())
}

/// That the files and what is said to be missing from them are all intervals.
fn accounted(facts: &mut Facts, outcome: &Outcome, recorded: usize) {
    let missing = recording::missing(&outcome.stderr);
    let all = outcome.snapshots.len();
    facts.equal(format_args!("{recorded} recorded and {missing} missing"), recorded + missing, all);
}

#[test]
fn a_full_disk_and_one_with_room_again() -> Result<()> {
    let _alone = alone();
    let namespace = Namespace::new("disks")?;
    let directory = tempfile::tempdir()?;
    // Less than netdiag leaves to others.
    let disk = Disk::mount(directory.path(), "size=16m")?;
    let mut facts = Facts::new();
    let mut recorded = Recorded::start(&namespace, directory.path())?;
    recorded.go_on()?;
    facts.equal("pairs on a full disk", recording::all(directory.path())?.len(), 0);
    disk.remount("size=4g")?;
    recorded.netdiag.wait_said("there is room again;")?;
    recorded.go_on()?;
    let said = [("nothing is written until", 1), ("there is room again;", 1), ("missing from", 1)];
    let outcome = recorded.end(&mut facts, 0, &said)?;
    let written = recording::all(directory.path())?;
    accounted(&mut facts, &outcome, recording::intervals(&written));
    facts.holds("some is written", recording::intervals(&written) > 0);

    // It ends before there is room.
    disk.remount("size=16m")?;
    let mut recorded = Recorded::start(&namespace, directory.path())?;
    recorded.go_on()?;
    let said = [("nothing is written until", 1), ("to the end are missing from the files", 1)];
    let outcome = recorded.end(&mut facts, 0, &said)?;
    accounted(&mut facts, &outcome, 0);
    facts.finish();
    Ok(())
}

/// Another disk is mounted where the files are, and nobody may write to that: nor would anybody find what is written
/// below it.
#[test]
fn a_disk_that_is_read_only() -> Result<()> {
    let _alone = alone();
    let namespace = Namespace::new("disks")?;
    let directory = tempfile::tempdir()?;
    let mut facts = Facts::new();
    let mut recorded = Recorded::start(&namespace, directory.path())?;
    recorded.go_on()?;
    let disk = Disk::mount(directory.path(), "size=4g,ro")?;
    recorded.netdiag.wait_said("Read-only file system")?;
    recorded.go_on()?;
    disk.remount("rw")?;
    recorded.netdiag.wait_said("it can be written to again")?;
    recorded.go_on()?;
    let said =
        [("Read-only file system", 2), ("tracing goes on", 1), ("can be written to again;", 1)];
    let outcome = recorded.end(&mut facts, 1, &said)?;
    let above = recording::intervals(&recording::all(directory.path())?);
    drop(disk);
    let below = recording::intervals(&recording::all(directory.path())?);
    facts.holds(format_args!("{below} before and {above} after"), above > 0 && below > 0);
    accounted(&mut facts, &outcome, above + below);
    facts.finish();
    Ok(())
}

#[test]
fn a_directory_that_is_removed() -> Result<()> {
    let _alone = alone();
    let namespace = Namespace::new("disks")?;
    let directory = tempfile::tempdir()?;
    let out = directory.path().join("dumps");
    let mut facts = Facts::new();
    let mut recorded = Recorded::start(&namespace, &out)?;
    recorded.go_on()?;
    let moved = directory.path().join("moved");
    fs::rename(&out, &moved)?;
    recorded.go_on()?;
    let here = recording::intervals(&recording::all(&out)?);
    facts.holds(format_args!("{here} intervals where they belong"), here > 0);
    // Files appear in it as long as it is there.
    let removed = machine::wait_until(|| fs::remove_dir_all(&out).is_ok());
    facts.holds("it can be removed", removed);
    recorded.go_on()?;
    let here = recording::intervals(&recording::all(&out)?);
    facts.holds(format_args!("{here} intervals in the directory made anew"), here > 0);
    recorded.end(&mut facts, 0, &[("missing", 0), ("another directory by now", 2)])?;
    facts.finish();
    Ok(())
}

/// Tests that mount leave nothing mounted.
#[test]
fn a_disk_goes_with_its_value() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().display().to_string();
    let is_mounted = || -> Result<bool> {
        let mounts = fs::read_to_string("/proc/self/mounts").context("/proc/self/mounts")?;
        Ok(mounts.contains(&path))
    };
    let disk = Disk::mount(directory.path(), "size=1m")?;
    assert!(is_mounted()?);
    drop(disk);
    assert!(!is_mounted()?);
    Ok(())
}
