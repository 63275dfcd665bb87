//! What netdiag waits for stands still: the reader of its output, or the node while it is asked for
//! its sockets. The rings are read all the while, and ^C is heard.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    net::{TcpListener, TcpStream},
    os::unix::fs::{MetadataExt, OpenOptionsExt, symlink},
    path::Path,
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use netdiag::snapshot::Snapshot;
use netdiag_tests::{
    facts::Facts,
    machine,
    netdiag::{Netdiag, READY},
    network::Pair,
    outcome::{Outcome, count, flow_of, flows_of},
    requirement::alone,
    traffic::{
        Connection, End, Family,
        request::{Exchange, exchange},
    },
};
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, mknodat},
    process::Signal,
};

/// Rounds of a flood: in all a multiple of what the ring takes, which is 1 sample in 24 bytes; and
/// with a pause after each, so that it takes seconds to fill, as a reader may be late for some time
/// on a busy machine.
const PAUSE: Duration = Duration::from_millis(75);
const ROUND: Exchange = Exchange { sends: 10_000, bytes: 1, echo: false };

fn ring() -> &'static str {
    machine::amount("8MiB", "2MiB")
}

fn rounds() -> usize {
    machine::amount(45, 12)
}

/// Gives the number of sends.
fn flood(connection: &Connection) -> Result<usize> {
    for _ in 0..rounds() {
        exchange([(connection, ROUND)])?;
        thread::sleep(PAUSE);
    }
    Ok(rounds() * ROUND.sends)
}

/// Said when the outputs stand still at the end.
const STILL: &str = "the output stands still";

const ONE: Exchange = Exchange { sends: 1, bytes: 1, echo: true };

/// A connection, and so many idle ones beside it that a snapshot of them all is more than what the
/// pipe and its reader hold.
fn connections(pair: &Pair) -> Result<(Connection, Vec<Connection>)> {
    let open = || Connection::open(&pair.left, &pair.right, Family::V4);
    Ok((open()?, (0..32).map(|_| open()).collect::<Result<_>>()?))
}

/// A netdiag whose output nobody reads any more, after one send and its answer.
fn stuck(pair: &Pair, connection: &Connection) -> Result<Netdiag> {
    let filter = format!("{},{}", pair.left.name(), pair.right.name());
    let mut netdiag = Netdiag::start(&[
        "live",
        "-o",
        "json",
        "-i",
        "200ms",
        "--all",
        "--ring-size",
        ring(),
        "--netns",
        &filter,
    ])?;
    exchange([(connection, ONE)])?;
    netdiag.wait_lines(2)?;
    netdiag.output().close();
    Ok(netdiag)
}

/// Everything was read out of the rings: nothing is lost, and the flow has what its caller made.
fn exact(facts: &mut Facts, total: &Snapshot, end: &End, made: usize) -> Result<()> {
    facts.at_rest(total);
    facts.lossless(total);
    let flow = flow_of(total, end)?;
    facts.equal("sends in the total", count(flow, "sends"), Some(made as u64));
    Ok(())
}

/// Intervals follow one another without a gap, and add up.
fn seamless(facts: &mut Facts, outcome: &Outcome, end: &End, made: usize) {
    let mut sends = 0;
    for (at, snapshot) in outcome.snapshots.iter().enumerate() {
        facts.consistent(snapshot);
        if let Some(next) = outcome.snapshots.get(at + 1) {
            facts.equal(format_args!("start of interval {}", at + 1), &next.start, &snapshot.end);
        }
        let flows = flows_of(snapshot, end);
        let here: u64 = flows.iter().filter_map(|flow| count(flow, "sends")).sum();
        facts.note(format_args!("{here} sends from {} to {}", snapshot.start, snapshot.end));
        sends += here;
    }
    facts.equal("sends in all intervals", sends, made as u64);
}

/// A clean end, with nothing lost in the total or between the intervals.
fn whole(outcome: &Outcome, end: &End, made: usize) -> Result<()> {
    let mut facts = Facts::new();
    facts.note(format_args!("{:?}", outcome.stderr));
    facts.equal("exit status", outcome.code(), Some(0));
    exact(&mut facts, outcome.total()?, end, made)?;
    seamless(&mut facts, outcome, end, made);
    facts.finish();
    Ok(())
}

#[test]
fn what_happens_while_nobody_reads_the_output_is_in_the_intervals() -> Result<()> {
    let _alone = alone();
    let pair = Pair::new()?;
    let (connection, _idle) = connections(&pair)?;
    let mut netdiag = stuck(&pair, &connection)?;
    let made = ONE.sends + flood(&connection)?;
    netdiag.output().open();
    netdiag.wait_lines(3)?;
    let end = connection.client_end()?;
    let outcome = netdiag.stop()?;
    whole(&outcome, &end, made)
}

#[test]
fn the_end_waits_for_the_output_and_says_so() -> Result<()> {
    let _alone = alone();
    let pair = Pair::new()?;
    let (connection, _idle) = connections(&pair)?;
    let mut netdiag = stuck(&pair, &connection)?;
    let made = ONE.sends + flood(&connection)?;
    netdiag.signal(Signal::TERM)?;
    netdiag.wait_said(STILL)?;
    netdiag.output().open();
    let end = connection.client_end()?;
    let outcome = netdiag.wait()?;
    whole(&outcome, &end, made)
}

#[test]
fn asked_again_it_ends_without_its_output() -> Result<()> {
    let _alone = alone();
    let pair = Pair::new()?;
    let (connection, _idle) = connections(&pair)?;
    let mut facts = Facts::new();
    for signal in [Signal::INT, Signal::TERM] {
        let mut netdiag = stuck(&pair, &connection)?;
        netdiag.signal(signal)?;
        netdiag.wait_said(STILL)?;
        netdiag.signal(signal)?;
        let (status, err) = netdiag.wait_status()?;
        facts.equal(format_args!("exit status after {signal:?}"), status.code(), Some(1));
        let last = err.last().cloned().unwrap_or_default();
        facts.holds(
            format_args!("the last line says what is missing: {last}"),
            last.contains("the total were not written"),
        );
    }
    facts.finish();
    Ok(())
}

/// A procfs with one process, which holds a socket and whose name is a pipe: whoever asks for it
/// waits until somebody writes it.
fn slow_proc(socket: &TcpStream) -> Result<tempfile::TempDir> {
    /// More than any kernel's (`PID_MAX_LIMIT`, `include/linux/threads.h`).
    const PID: u32 = 4_194_305;
    let root = tempfile::tempdir()?;
    // It numbers processes as the node does, and says so.
    let first = root.path().join("proc/1/ns");
    fs::create_dir_all(&first)?;
    symlink(fs::read_link("/proc/self/ns/pid")?, first.join("pid"))?;
    let process = root.path().join(format!("proc/{PID}"));
    fs::create_dir_all(process.join("fd"))?;
    let descriptor = rustix::fs::fstat(socket)?;
    symlink(format!("socket:[{}]", descriptor.st_ino), process.join("fd/3"))?;
    let name = process.join("comm");
    mknodat(CWD, &name, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
    symlink(&name, root.path().join("comm"))?;
    Ok(root)
}

/// The pipe's writing end, as soon as netdiag has opened the other one.
fn asked_for_name(root: &Path) -> Result<File> {
    let mut pipe = None;
    machine::wait_until(|| {
        let mut open = OpenOptions::new();
        open.write(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed());
        pipe = open.open(root.join("comm")).ok();
        pipe.is_some()
    });
    pipe.context("netdiag does not ask for the name of the process")
}

#[test]
fn what_happens_while_the_node_is_asked_is_in_the_total() -> Result<()> {
    let _alone = alone();
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let held = TcpStream::connect(listener.local_addr()?)?;
    let pair = Pair::new()?;
    let connection = Connection::open(&pair.left, &pair.right, Family::V4)?;
    let ports = format!("{},{}", held.local_addr()?.port(), connection.client_end()?.peer.port());
    for interrupt in [false, true] {
        let root = slow_proc(&held)?;
        let host_root = root.path().to_string_lossy();
        let mut netdiag = Netdiag::begin(&[
            "live",
            "-o",
            "json",
            "--ring-size",
            ring(),
            "--port",
            &ports,
            "--host-root",
            &host_root,
        ])?;
        let mut pipe = asked_for_name(root.path())?;
        let made = flood(&connection)?;
        let mut facts = Facts::new();
        let said = netdiag.outcome(None)?.stderr;
        facts.equal(format_args!("ready, {said:?}"), said.iter().any(|line| line == READY), false);
        let outcome = if interrupt {
            let outcome = netdiag.stop()?;
            drop(pipe);
            outcome
        } else {
            pipe.write_all(b"late\n")?;
            drop(pipe);
            netdiag.wait_said(READY)?;
            netdiag.stop()?
        };
        facts.note(format_args!("interrupted while it waited: {interrupt}; {:?}", outcome.stderr));
        facts.equal("exit status", outcome.code(), Some(0));
        let total = outcome.total()?;
        exact(&mut facts, total, &connection.client_end()?, made)?;
        if !interrupt {
            let end = End {
                netns: u32::try_from(fs::metadata("/proc/self/ns/net")?.ino())?,
                local: held.local_addr()?,
                peer: held.peer_addr()?,
            };
            let owner = flow_of(total, &end)?.owner.comm.clone();
            facts.equal("owner of the held socket", owner.as_deref(), Some("late"));
        }
        facts.finish();
    }
    Ok(())
}
