//! The node changes under netdiag's feet: namespaces go with connections in them, interfaces get other names. What is
//! tested elsewhere: conntrack that comes and goes (`conntrack.rs`), two runs at once and another tracer
//! (`leave_no_trace.rs`), processors that are switched off and on (`processors.rs`) and one that another program keeps
//! busy (`busy.rs`), and a clock that is set (`clock.rs`).

use std::fs;

use anyhow::{Context as _, Result};
use netdiag_tests::{
    facts::Facts,
    machine,
    netdiag::Netdiag,
    network::Pair,
    outcome::{count, flow_of},
    requirement::alone,
    traffic::{
        Connection, End, Family,
        request::{Exchange, exchange},
    },
    usage::descriptors,
};

const SOME: Exchange = Exchange { sends: 20, bytes: 10, echo: true };

/// Links of a process that name these namespaces.
fn held(pid: u32, namespaces: &[u32]) -> Result<usize> {
    let links = fs::read_dir(format!("/proc/{pid}/fd"))?.filter_map(|fd| {
        let link = fs::read_link(fd.ok()?.path()).ok()?;
        link.to_str()?.strip_prefix("net:[")?.strip_suffix(']')?.parse::<u32>().ok()
    });
    Ok(links.filter(|inode| namespaces.contains(inode)).count())
}

#[test]
fn namespaces_go_with_connections_in_them() -> Result<()> {
    let _alone = alone();
    let mut netdiag = Netdiag::live(&[])?;
    netdiag.wait_lines(2)?;
    let before = descriptors(netdiag.pid())?;
    let mut ends: Vec<End> = Vec::new();
    for round in 0..10 {
        let pair = Pair::new()?;
        let connection = Connection::open(&pair.left, &pair.right, Family::V4)?;
        exchange([(&connection, SOME)])?;
        if round % 2 == 0 {
            netdiag.wait_lines(1)?;
        }
        ends.extend([connection.client_end()?, connection.server_end()?]);
        // Their names go first, and the link between them; the sockets keep them.
        drop(pair);
        if round % 3 == 0 {
            netdiag.wait_lines(1)?;
        }
    }
    let namespaces: Vec<_> = ends.iter().map(|end| end.netns).collect();
    let pid = netdiag.pid();
    let let_go = machine::wait_until(|| {
        let few = descriptors(pid).is_ok_and(|now| now <= before);
        few && held(pid, &namespaces).is_ok_and(|held| held == 0)
    });
    let mut facts = Facts::new();
    facts.holds(
        format_args!("{before} descriptors before, {} now: none is kept", descriptors(pid)?),
        let_go,
    );
    netdiag.wait_lines(2)?;
    let outcome = netdiag.stop()?;
    let total = outcome.total()?;
    facts.note(format_args!("{:?}", outcome.stderr));
    facts.equal("exit status", outcome.code(), Some(0));
    outcome.snapshots.iter().for_each(|snapshot| facts.consistent(snapshot));
    facts.at_rest(total);
    let missed = total.accounting["send"].missed;
    let mut short = 0;
    for end in &ends {
        let sends = count(flow_of(total, end)?, "sends").unwrap_or_default();
        facts.holds(format_args!("{sends} sends of {end:?}"), sends <= SOME.sends as u64);
        short += SOME.sends as u64 - sends;
    }
    facts.holds(format_args!("{short} sends not seen, {missed} missed"), short <= missed);
    facts.finish();
    Ok(())
}

#[test]
fn an_interface_gets_another_name() -> Result<()> {
    let _alone = alone();
    let pair = Pair::new()?;
    let filter = format!("{},{}", pair.left.name(), pair.right.name());
    let mut netdiag = Netdiag::live(&["--netns", &filter])?;
    let connection = Connection::open(&pair.left, &pair.right, Family::V4)?;
    exchange([(&connection, SOME)])?;
    netdiag.wait_lines(2)?;
    // A name is given to what is down; IPv4 addresses stay.
    for command in ["down", "name renamed", "up"] {
        let device = if command == "up" { "renamed" } else { "wire" };
        pair.left.ip(&format!("link set {device} {command}"))?;
    }
    exchange([(&connection, SOME)])?;
    netdiag.wait_lines(3)?;
    let end = connection.client_end()?;
    let outcome = netdiag.stop()?;
    let total = outcome.total()?;
    let mut facts = Facts::new();
    facts.note(format_args!("{:?}", outcome.stderr));
    outcome.snapshots.iter().for_each(|snapshot| facts.consistent(snapshot));
    facts.at_rest(total);
    let sends = count(flow_of(total, &end)?, "sends").context("sends")?;
    let made = 2 * SOME.sends as u64;
    let missed = total.accounting["send"].missed;
    facts.holds(format_args!("{sends} sends of {made}, {missed} missed"), {
        sends <= made && sends + missed >= made
    });
    let here = total.node.interfaces.iter().filter(|one| one.netns == pair.left.inode());
    let wires: Vec<_> = here.filter(|one| !one.loopback && one.up).collect();
    let names: Vec<_> = wires.iter().map(|one| one.name.as_str()).collect();
    facts.equal("the one interface", names, vec!["renamed"]);
    let packets = wires.first().and_then(|one| one.tx_packets);
    facts.holds(
        format_args!("{packets:?} packets are those of both its names"),
        packets.is_some_and(|packets| packets >= made),
    );
    facts.finish();
    Ok(())
}
