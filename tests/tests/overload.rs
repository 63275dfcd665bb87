//! More than netdiag has room for: what is lost is counted, nothing grows, and as soon as it is over all is exact
//! again.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use netdiag::snapshot::{Account, Snapshot};
use netdiag_tests::{
    facts::Facts,
    machine,
    namespace::Namespace,
    netdiag::Netdiag,
    outcome::{count, flow_of, in_namespaces, metric, sum},
    require,
    requirement::{Feature, alone},
    tool,
    traffic::{
        Connection, Family,
        request::{Exchange, exchange},
        storm::{few_ports, storm},
    },
    usage,
};
use rustix::process::Signal;
use serde_json::Value;

/// Smallest ring that netdiag takes.
const RING: &str = "64KiB";
/// Flows that it remembers.
const FLOWS: usize = 100;

const ONE: Exchange = Exchange { sends: 1, bytes: 1, echo: true };

/// Records that found no room. What is missed is of the whole node.
fn lost(snapshot: &Snapshot) -> u64 {
    let without_room = |account: &Account| account.lost() - account.missed;
    snapshot.accounting.values().map(without_room).sum()
}

/// What a process holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    resident_bytes: u64,
    descriptors: usize,
    /// Of the maps that it loaded, as the kernel accounts for them.
    map_bytes: u64,
}

impl Held {
    fn by(pid: u32) -> Result<Self> {
        let maps: Value = serde_json::from_str(&tool::run("bpftool", &["-j", "map", "list"])?)?;
        let is_ours = |map: &Value| {
            let users = map["pids"].as_array().into_iter().flatten();
            users.into_iter().any(|user| user["pid"].as_u64() == Some(pid.into()))
        };
        let ours = maps.as_array().into_iter().flatten().filter(|map| is_ours(map));
        Ok(Self {
            resident_bytes: usage::memory(pid)?.resident_bytes,
            descriptors: usage::descriptors(pid)?,
            map_bytes: ours.filter_map(|map| map["bytes_memlock"].as_u64()).sum(),
        })
    }
}

/// That each of `all` sends of the namespace that is asked for stands in one counter, and those that were handed over in
/// rows and others.
fn each_counted(facts: &mut Facts, total: &Snapshot, all: usize) {
    let send = total.accounting["send"];
    let (all, counted) = (all as u64, send.seen - send.filtered);
    // Where the kernel skipped no run, that is equality.
    facts.holds(format_args!("{counted} sends counted, {} missed, of {all}", send.missed), {
        counted <= all && counted + send.missed >= all
    });
    let told = sum(total.flows.iter().chain([&total.other]), "sends");
    facts.equal("sends in rows and others", told, send.submitted);
}

#[test]
fn more_flows_than_are_remembered() -> Result<()> {
    const CONNECTIONS: usize = 500;
    const EACH: Exchange = Exchange { sends: 3, bytes: 1, echo: true };
    let _alone = alone();
    let namespace = Namespace::new("many")?;
    let filter = ["--max-flows", &FLOWS.to_string(), "--all", "--netns", namespace.name()];
    let mut netdiag = Netdiag::live(&filter)?;
    let connections = (0..CONNECTIONS)
        .map(|_| Connection::open(&namespace, &namespace, Family::V4))
        .collect::<Result<Vec<_>>>()?;
    for some in connections.chunks(50) {
        exchange(some.iter().map(|connection| (connection, EACH)))?;
    }
    netdiag.wait_lines(2)?;
    let outcome = netdiag.stop()?;
    let total = outcome.total()?;
    let mut facts = Facts::new();
    for snapshot in &outcome.snapshots {
        facts.consistent(snapshot);
        let rows = in_namespaces(snapshot, &[namespace.inode()]).count();
        // Those that ended in it, which make room, have their rows as well.
        facts.holds(format_args!("{rows} rows are at most 2 * {FLOWS}"), rows <= 2 * FLOWS);
    }
    let rows = in_namespaces(total, &[namespace.inode()]).count();
    facts.holds(format_args!("{rows} rows at the end are at most {FLOWS}"), rows <= FLOWS);
    facts.at_rest(total);
    each_counted(&mut facts, total, 2 * CONNECTIONS * EACH.sends);
    facts.holds("most did not fit", count(&total.other, "sends") > Some(0));
    facts.finish();
    Ok(())
}

/// So many connections, however long they take, as long as they go on: each thousand of them has the time of what is
/// certain to come.
fn whole_storm(namespace: &Namespace, most: usize) -> Result<usize> {
    const SOME: usize = 1_000;
    let mut made = 0;
    while made < most {
        let some = SOME.min(most - made);
        let now = storm(namespace, some, Instant::now() + machine::patience())?;
        made += now;
        ensure!(
            now == some,
            "only {made} connections of {most}, the last {now} in all its patience"
        );
    }
    Ok(made)
}

/// Exchanges after the storm, and sends of either end in each: the ring has room for one, were the reader to get no CPU
/// time meanwhile.
const PARTS: usize = 5;
const PART: Exchange = Exchange { sends: 100, ..ONE };

/// All at once: the smallest rings, few flows, few ports that are used again and again, and a reader that is stopped
/// in the middle of it.
#[test]
fn a_storm_of_connections_while_the_reader_stands_still() -> Result<()> {
    require!(Feature::Bpftool);
    let _alone = alone();
    let namespace = Namespace::new("storm")?;
    few_ports(&namespace, 40_000, 41_023)?;
    let flows = FLOWS.to_string();
    let mut netdiag =
        Netdiag::live(&["--ring-size", RING, "--max-flows", &flows, "--netns", namespace.name()])?;
    let pid = netdiag.pid();
    let most = machine::amount(200_000, 2_000);
    let began = Instant::now();
    // What it takes once: the table is full, and so are its buffers.
    let mut made = whole_storm(&namespace, most / 4)?;
    netdiag.wait_lines(2)?;
    let before = Held::by(pid)?;
    made += thread::scope(|scope| -> Result<usize> {
        let storm = scope.spawn(|| whole_storm(&namespace, most - most / 4));
        netdiag.freeze()?;
        thread::sleep(Duration::from_secs(2));
        netdiag.signal(Signal::CONT)?;
        storm.join().expect("the storm panicked")
    })?;
    let lasted = began.elapsed();
    // What of the storm is left comes with the interval that is under way, whose line may be about to be printed, or
    // with the next one.
    let recovered = netdiag.outcome(None)?.snapshots.len() + 1;
    netdiag.wait_lines(2)?;
    // Some are open for a moment, once an interval.
    let at_rest = machine::wait_until(|| {
        Held::by(pid).is_ok_and(|now| now.descriptors <= before.descriptors)
    });
    let after = Held::by(pid)?;
    let later = Connection::open(&namespace, &namespace, Family::V6)?;
    for _ in 0..PARTS {
        exchange([(&later, PART)])?;
        netdiag.wait_lines(1)?;
    }
    let end = later.client_end()?;
    let outcome = netdiag.stop()?;
    let total = outcome.total()?;
    eprintln!("{made} connections in {lasted:?}: {before:?}, then {after:?}");

    let mut facts = Facts::new();
    outcome.snapshots.iter().for_each(|snapshot| facts.consistent(snapshot));
    facts.at_rest(total);
    facts.note(format_args!("{:#?}", total.accounting));
    let (send, socket) = (total.accounting["send"], total.accounting["socket"]);
    each_counted(&mut facts, total, 2 * (made + PARTS * PART.sends));
    let connects = |snapshot: &Snapshot| {
        let ours = [namespace.inode()];
        let rows = in_namespaces(snapshot, &ours).chain([&snapshot.other]);
        rows.map(|row| metric(row, "connect").count).sum::<u64>()
    };
    // A record that is lost does not say of what it was: of those of a connection one has how long it took.
    let (connected, opened) = (connects(total), made as u64 + 1);
    facts.holds(
        format_args!("{connected} of {opened} connections, {} records lost", socket.lost()),
        connected <= opened && connected + socket.lost() >= opened,
    );
    facts.equal("the ring was full", send.ring_full + socket.ring_full > 0, true);
    let since = outcome.snapshots.get(recovered).map(lost);
    facts.equal(
        "lost by the end, and by the second line after the storm",
        Some(lost(total)),
        since,
    );
    let shed = |snapshot: &Snapshot| snapshot.accounting["send"].shed;
    let left_out = shed(total) - outcome.snapshots.get(recovered).map_or(0, shed);
    let after_storm = count(flow_of(total, &end)?, "sends").unwrap_or_default();
    let sent = (PARTS * PART.sends) as u64;
    // Where the ring had no room again and again, sends are left out for some seconds more.
    facts.holds(format_args!("{after_storm} sends of {sent} after the storm, {left_out} shed"), {
        after_storm <= sent && after_storm + left_out + send.missed >= sent
    });
    facts.holds(format_args!("{after:?}: as many descriptors as {before:?}"), at_rest);
    facts.equal("bytes of maps", after.map_bytes, before.map_bytes);
    facts.holds(
        format_args!("{after:?} is no more than {before:?} and 4 MiB"),
        after.resident_bytes < before.resident_bytes + (4 << 20),
    );
    facts.finish();
    Ok(())
}
