//! Every source that loads on this kernel, forced one by one, counts every send of every flow.

use std::{io::Read as _, os::fd::AsFd as _};

use anyhow::Result;
use netdiag::{
    signal::DEFINITIONS,
    snapshot::{Role, Snapshot},
};
use netdiag_tests::{
    conntrack::{Rules, table, track},
    facts::Facts,
    netdiag::Netdiag,
    network::Pair,
    outcome::{count, flow_of, metric, status},
    requirement::alone,
    source,
    traffic::{
        Connection, End, FAMILIES, Family, address,
        calls::{every_call, failing_call},
        listen, name_process,
        process::{self, Shell},
        read_bytes,
        request::{Exchange, exchange},
        send_once,
    },
};

const SENDS: usize = 1000;
const SENDS_BEFORE: usize = 37;
const COMM: &str = "nd-traffic";

/// What netdiag should say of one end.
struct Expected {
    end: End,
    sends: usize,
    bytes: usize,
    role: Option<Role>,
    pid: u32,
    comm: &'static str,
}

/// What the tests expect of this kernel, by their table, is what netdiag finds on it.
#[test]
fn every_source_loads_where_it_is_known_to() -> Result<()> {
    let _alone = alone();
    // The kernel tells of the table of connections by a module, which is loaded for whoever tracks.
    let tracking = Pair::new()?;
    track(&tracking, Rules::Plain)?;
    table::list(&tracking.left)?;
    for definition in DEFINITIONS {
        source::every_one(definition.signal.name())?;
    }
    Ok(())
}

#[test]
fn every_source_of_send() -> Result<()> {
    every_source("send")
}

#[test]
fn every_source_of_socket() -> Result<()> {
    every_source("socket")
}

#[test]
fn every_source_of_retransmit() -> Result<()> {
    every_source("retransmit")
}

fn every_source(signal: &str) -> Result<()> {
    let _alone = alone();
    name_process(COMM)?;
    for forced in source::loading(signal)? {
        twenty_connections(&forced)?;
    }
    Ok(())
}

/// Twenty connections in all families, two older than the attach, two in namespaces younger than
/// it, one of another process, with 1,000 sends each by the client.
fn twenty_connections(forced: &str) -> Result<()> {
    let pair = Pair::new()?;
    let mut connections = Vec::new();
    for family in [Family::V4, Family::V6] {
        connections.push(Connection::open(&pair.left, &pair.right, family)?);
    }
    let before = Exchange { sends: SENDS_BEFORE, bytes: 1, echo: true };
    exchange(connections.iter().map(|connection| (connection, before)))?;

    let signal = forced.split('=').next().unwrap_or_default();
    let signals = if signal == "send" { signal.to_owned() } else { format!("send,{signal}") };
    let netdiag = Netdiag::live(&["--signals", &signals, "--source", forced])?;

    let younger = Pair::new()?;
    for family in [Family::V4, Family::Mapped] {
        connections.push(Connection::open(&younger.left, &younger.right, family)?);
    }
    for family in FAMILIES.into_iter().cycle().take(15) {
        connections.push(Connection::open(&pair.left, &pair.right, family)?);
    }
    let plans: Vec<_> = connections
        .iter()
        .enumerate()
        .map(|(i, connection)| {
            (connection, Exchange { sends: SENDS, bytes: 1 + i * 17, echo: i % 2 == 0 })
        })
        .collect();
    exchange(plans.iter().copied())?;
    let shell = Shell::connect(&pair.left, &pair.right, SENDS)?;
    shell.send()?;

    let mut expected = Vec::new();
    for (i, (connection, plan)) in plans.iter().enumerate() {
        let opened = i >= 2;
        for (end, sends, role) in [
            (connection.client_end()?, plan.sends, Role::Client),
            (connection.server_end()?, plan.server_sends(), Role::Server),
        ] {
            let role = opened.then_some(role);
            let (bytes, pid) = (sends * plan.bytes, std::process::id());
            expected.push(Expected { end, sends, bytes, role, pid, comm: COMM });
        }
    }
    expected.push(Expected {
        end: shell.end,
        sends: SENDS,
        bytes: SENDS,
        role: Some(Role::Client),
        pid: shell.pid(),
        comm: process::COMM,
    });
    let end = shell.server_end(pair.right.inode());
    let (sends, bytes) = (2, b"go\nend\n".len());
    let (role, pid) = (Some(Role::Server), std::process::id());
    expected.push(Expected { end, sends, bytes, role, pid, comm: COMM });
    shell.end()?;
    let outcome = netdiag.stop()?;
    judge(forced, outcome.total()?, &expected)
}

fn judge(forced: &str, total: &Snapshot, expected: &[Expected]) -> Result<()> {
    let mut facts = Facts::new();
    let (signal, source) = forced.split_once('=').unwrap_or_default();
    let used = status(total, signal)?;
    facts.note(format_args!("{used:?}"));
    facts.equal("the source in use", used.source.as_deref(), Some(source));
    let mut unseen = 0;
    for expected in expected {
        let flow = flow_of(total, &expected.end)?;
        facts.note(format_args!("{flow:?}"));
        let end = format!("{forced}: {:?}", expected.end);
        let sends = count(flow, "sends").unwrap_or_default();
        let wanted = expected.sends as u64;
        facts.equal(format_args!("{end}: samples"), metric(flow, "send").count, sends);
        facts.holds(format_args!("{end}: {sends} of {wanted} sends, never more"), sends <= wanted);
        unseen += wanted.saturating_sub(sends);
        if sends == wanted {
            let bytes = count(flow, "send_bytes");
            facts.equal(format_args!("{end}: bytes"), bytes, Some(expected.bytes as u64));
        }
        facts.equal(format_args!("{end}: protocol"), flow.protocol.as_deref(), Some("tcp"));
        let (pid, comm) = (flow.owner.pid, flow.owner.comm.as_deref());
        let owner = (Some(expected.pid), Some(expected.comm));
        facts.equal(format_args!("{end}: process and its name"), (pid, comm), owner);
        if expected.role.is_some() {
            facts.equal(format_args!("{end}: role"), flow.role, expected.role);
        }
        let peer = End { local: expected.end.peer, peer: expected.end.local, ..expected.end };
        let other = total.flows.iter().find(|other| Some(&other.id) == flow.pair.as_ref());
        let same = other.is_some_and(|other| {
            other.local.port == Some(peer.local.port()) && other.peer.port == Some(peer.peer.port())
        });
        facts.holds(format_args!("{end}: its pair is the other end"), same);
    }
    let account = total.accounting.get("send").copied().unwrap_or_default();
    let sending = format!("send={}", status(total, "send")?.source.as_deref().unwrap_or_default());
    if unseen == 0 || !source::may_skip(&sending) {
        facts.equal(format_args!("{sending}: unseen sends"), unseen, 0);
    } else {
        let unpaired = account.missed + account.unmatched;
        facts.holds(
            format_args!("{unseen} unseen sends are among the {unpaired} missed or unmatched"),
            unpaired >= unseen,
        );
        facts.equal(format_args!("complete without {unseen} sends"), total.complete, false);
    }
    facts.at_rest(total);
    facts.finish();
    Ok(())
}

/// An end belongs to the process that accepted it, not to the one that connected, in whose context
/// the kernel may have made it, nor to the one whose send it receives.
#[test]
fn an_accepted_end_belongs_to_who_accepts_it() -> Result<()> {
    let _alone = alone();
    name_process(COMM)?;
    for forced in source::loading("socket")? {
        let pair = Pair::new()?;
        let netdiag = Netdiag::live(&["--signals", "send", "--source", &forced])?;
        let shell = Shell::connect_unasked(&pair.left, &pair.right, SENDS_BEFORE)?;
        let unread = Shell::connect_unasked(&pair.left, &pair.right, SENDS_BEFORE)?;
        shell.receive()?;
        let outcome = netdiag.stop()?;
        let total = outcome.total()?;
        let used = status(total, "socket")?;
        let at_accept = !used.missing.iter().any(|line| line.contains("owner of an accepted"));
        let mut facts = Facts::new();
        facts.note(format_args!("{used:?}"));
        for (shell, is_read) in [(&shell, true), (&unread, false)] {
            let own = (Some(std::process::id()), Some(COMM), Some(Role::Server));
            let nobody = (None, None, Some(Role::Server));
            let server = if is_read || at_accept { own } else { nobody };
            let client = (Some(shell.pid()), Some(process::COMM), Some(Role::Client));
            for (end, expected) in
                [(shell.server_end(pair.right.inode()), server), (shell.end, client)]
            {
                let flow = flow_of(total, &end)?;
                facts.note(format_args!("{flow:?}"));
                facts.equal(
                    format_args!("{forced}: read {is_read}: {end:?}"),
                    (flow.owner.pid, flow.owner.comm.as_deref(), flow.role),
                    expected,
                );
            }
        }
        facts.at_rest(total);
        facts.finish();
    }
    Ok(())
}

/// `connect(AF_UNSPEC)` ends a conversation but not its socket. The next one on it is another flow:
/// neither sends nor bytes nor the role of the first are the second's.
#[test]
fn a_socket_that_connects_again_is_another_flow() -> Result<()> {
    let _alone = alone();
    name_process(COMM)?;
    for forced in source::loading("socket")? {
        let pair = Pair::new()?;
        let netdiag = Netdiag::live(&["--signals", "send", "--source", &forced])?;
        let (listener, port) = listen(&pair.right, Family::V4)?;
        let mut expected = Vec::new();
        let mut open = Vec::new();
        for role in [Role::Client, Role::Server] {
            let connection = Connection::open(&pair.left, &pair.right, Family::V4)?;
            let (socket, mut peer, netns) = match role {
                Role::Client => (&connection.client, &connection.server, pair.left.inode()),
                Role::Server => (&connection.server, &connection.client, pair.right.inode()),
            };
            for (role, sends) in [(role, 3), (Role::Client, 2)] {
                if sends == 2 {
                    rustix::net::connect_unspec(socket.as_fd())?;
                    rustix::net::connect(socket.as_fd(), &address(Family::V4, false, port))?;
                    peer = open.push_mut(listener.accept()?.0);
                }
                let end = End { netns, local: socket.local_addr()?, peer: socket.peer_addr()? };
                expected.push((end, role, sends));
                for _ in 0..sends {
                    send_once(socket, b"twelve bytes")?;
                }
                // What has not left yet when the conversation ends was not sent.
                peer.read_exact(&mut vec![0; 12 * sends as usize])?;
            }
            connection.reset()?; // the kernel's counters are told as a socket goes
        }
        let outcome = netdiag.stop()?;
        let total = outcome.total()?;
        let mut facts = Facts::new();
        let mut ids = std::collections::BTreeSet::new();
        for (end, role, sends) in expected {
            let flow = flow_of(total, &end)?;
            facts.note(format_args!("{flow:?}"));
            facts.holds(format_args!("{end:?} is a flow of its own"), ids.insert(flow.id.clone()));
            facts.equal(format_args!("{end:?}: role"), flow.role, Some(role));
            facts.equal(format_args!("{end:?}: sends"), count(flow, "sends"), Some(sends));
            let bytes = count(flow, "bytes_sent");
            facts.equal(format_args!("{end:?}: bytes sent"), bytes, Some(12 * sends));
        }
        facts.at_rest(total);
        facts.finish();
    }
    Ok(())
}

/// Whatever system call a program sends with.
#[test]
fn every_way_of_sending() -> Result<()> {
    let _alone = alone();
    for forced in source::loading("send")? {
        let pair = Pair::new()?;
        let netdiag = Netdiag::live_by(&forced, &[])?;
        let connection = Connection::open(&pair.left, &pair.right, Family::V4)?;
        let sent = every_call(&connection.client)?;
        let bytes: usize = sent.iter().map(|call| call.bytes).sum();
        read_bytes(&connection.server, bytes)?;
        connection.client.shutdown(std::net::Shutdown::Write)?;
        failing_call(&connection.client)?;
        let end = connection.client_end()?;
        let outcome = netdiag.stop()?;
        let total = outcome.total()?;
        let flow = flow_of(total, &end)?;
        let mut facts = Facts::new();
        facts.note(format_args!("{forced}: {sent:?}\n{flow:?}\n{:?}", status(total, "send")?));
        facts.equal("bytes", count(flow, "send_bytes"), Some(bytes as u64));
        let known: usize = sent.iter().filter_map(|call| call.tcp_sends).sum();
        let paged = sent.iter().filter(|call| call.tcp_sends.is_none()).count();
        let sends = count(flow, "sends").unwrap_or_default();
        let failed = count(flow, "sends_failed").unwrap_or_default();
        let unmatched = total.accounting["send"].unmatched;
        facts.holds(
            format_args!("the failed call is counted: {failed} failed, {unmatched} unmatched"),
            failed == 1 || (failed == 0 && unmatched >= 1),
        );
        let least = (known + paged) as u64 + failed;
        facts.holds(format_args!("{sends} sends, at least {least}"), sends >= least);
        facts.at_rest(total);
        facts.finish();
    }
    Ok(())
}
