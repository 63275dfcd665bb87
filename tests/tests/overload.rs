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

/// Sends of all rows, and of those that have none.
fn sends(total: &Snapshot, namespace: &Namespace) -> u64 {
    let other = count(&total.other, "sends").unwrap_or_default();
    sum(in_namespaces(total, &[namespace.inode()]), "sends") + other
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
    let made = 2 * (CONNECTIONS * EACH.sends) as u64;
    let (seen, account) = (sends(total, &namespace), total.accounting["send"]);
    facts.note(format_args!("{account:?}, {:?}", total.accounting["socket"]));
    facts.holds(format_args!("{seen} in rows and others, {} lost, of {made}", account.lost()), {
        seen <= made && seen + account.lost() >= made
    });
    facts.holds("most did not fit", count(&total.other, "sends") > Some(0));
    facts.finish();
    Ok(())
}

/// How many connections a storm has at most, and how long it lasts at most.
fn storm_size() -> (usize, Duration) {
    (machine::amount(200_000, 2_000), Duration::from_secs(machine::amount(15, 300)))
}

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
    let (most, time) = storm_size();
    let began = Instant::now();
    // What it takes once: the table is full, and so are its buffers.
    let mut made = storm(&namespace, most / 4, began + time / 4)?;
    netdiag.wait_lines(2)?;
    let before = Held::by(pid)?;
    made += thread::scope(|scope| -> Result<usize> {
        let storm = scope.spawn(|| storm(&namespace, most - most / 4, began + time));
        netdiag.freeze()?;
        thread::sleep(Duration::from_secs(2));
        netdiag.signal(Signal::CONT)?;
        storm.join().expect("the storm panicked")
    })?;
    let lasted = began.elapsed();
    // What of the storm is left comes with the interval that is under way, and the one after that is whole.
    netdiag.wait_lines(2)?;
    // Some are open for a moment, once an interval.
    let at_rest = machine::wait_until(|| {
        Held::by(pid).is_ok_and(|now| now.descriptors <= before.descriptors)
    });
    let after = Held::by(pid)?;
    let later = Connection::open(&namespace, &namespace, Family::V6)?;
    exchange([(&later, Exchange { sends: 500, ..ONE })])?;
    let end = later.client_end()?;
    netdiag.wait_lines(2)?;
    let outcome = netdiag.stop()?;
    let total = outcome.total()?;
    eprintln!("{made} connections of at most {most} in {lasted:?}: {before:?}, then {after:?}");
    ensure!(made > 1_000, "only {made} connections in {lasted:?}");

    let mut facts = Facts::new();
    outcome.snapshots.iter().for_each(|snapshot| facts.consistent(snapshot));
    facts.at_rest(total);
    let send = total.accounting["send"];
    facts.note(format_args!("{:#?}", total.accounting));
    let all = (2 * made + 1_000) as u64;
    let seen = sends(total, &namespace);
    // Where the ring has no room again and again, sends may be left out.
    let without = send.lost() + send.shed;
    facts.holds(format_args!("{seen} in rows and others, {without} lost or shed, of {all}"), {
        seen <= all && seen + without >= all
    });
    let connects = |snapshot: &Snapshot| {
        let ours = [namespace.inode()];
        let rows = in_namespaces(snapshot, &ours).chain([&snapshot.other]);
        rows.map(|row| metric(row, "connect").count).sum::<u64>()
    };
    let (connected, socket) = (connects(total), total.accounting["socket"]);
    facts.holds(
        format_args!(
            "{connected} connections of {made} seen, {} records of sockets lost",
            socket.lost()
        ),
        connected <= made as u64 + 1 && connected + socket.lost() > made as u64,
    );
    facts.equal("the ring was full", send.ring_full + socket.ring_full > 0, true);
    let last: Vec<_> = outcome.snapshots.iter().rev().take(2).map(lost).collect();
    facts.equal("lost in all by the last two intervals", last.iter().max(), last.iter().min());
    facts.equal("and by the end", Some(&lost(total)), last.iter().max());
    let after_storm = count(flow_of(total, &end)?, "sends").unwrap_or_default();
    facts.holds(format_args!("{after_storm} sends after the storm, {} shed", send.shed), {
        after_storm <= 500 && after_storm + send.shed >= 500
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
