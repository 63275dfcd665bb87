//! Connections that this node asks for: how long each took, by the client's own clock, and with which
//! errno the others failed.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use netdiag::snapshot::{Flow, Snapshot};
use netdiag_tests::{
    attempt::{Spoilt, skipped, until_whole},
    counters::wait_until_quiet,
    facts::Facts,
    fault, machine,
    namespace::Namespace,
    netdiag::Netdiag,
    network::{LEFT_V4, Pair, RIGHT_V4},
    outcome::{count, flow_of, group, in_namespaces, metric, sum},
    processor::waited_for,
    require,
    requirement::{Feature, alone},
    source,
    traffic::{End, FAMILIES, Family, address, canonical, end_by_reset, listen, storm::few_ports},
};
use rustix::net::{AddressFamily, SendFlags, SocketType, sendto, sockopt};

/// Failed connects of a flow by errno.
fn failures(flow: &Flow) -> BTreeMap<&str, u64> {
    group(flow, "connects_failed")
}

/// Flows of a namespace to that port.
fn flows_to<'a>(total: &'a Snapshot, from: &Namespace, port: u16) -> Vec<&'a Flow> {
    let of_port = |flow: &&Flow| flow.peer.port == Some(port);
    in_namespaces(total, &[from.inode()]).filter(of_port).collect()
}

/// A call of connect(2), by the caller's own clock.
#[derive(Clone, Copy, Debug)]
struct Call {
    took: Duration,
    /// How much of that the caller was ready to run and had no processor.
    waited: Duration,
}

/// Connects from inside.
fn connect_timed(from: &Namespace, to: SocketAddr) -> Result<(TcpStream, Call)> {
    from.run(|| {
        let before = waited_for()?;
        let began = Instant::now();
        let socket = TcpStream::connect(to)?;
        let took = began.elapsed();
        Ok((socket, Call { took, waited: waited_for()?.saturating_sub(before) }))
    })
}

fn client_end(from: &Namespace, socket: &TcpStream) -> Result<End> {
    let (local, peer) = (canonical(socket.local_addr()?), canonical(socket.peer_addr()?));
    Ok(End { netns: from.inode(), local, peer })
}

/// Sets a setting of a namespace where this kernel has it.
fn set_if_there(namespace: &Namespace, name: &str, value: u32) -> Result<()> {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    // Read by the process that is told so: settings are those of the opener's namespace.
    namespace.run(|| match fs::write(&path, value.to_string()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.with_context(|| path.clone()),
    })
}

/// Every connection has one sample, no longer than the call that asked for it, and in the middle about
/// as long; the ends that accepted have none.
#[test]
fn a_connect_takes_as_long_as_its_client_says() -> Result<()> {
    let _alone = alone();
    for forced in source::loading("socket")? {
        let pair = Pair::new()?;
        let netdiag = Netdiag::live_by(&forced, &["--netns", pair.left.name()])?;
        let mut made = Vec::new();
        for family in FAMILIES.into_iter().cycle().take(machine::amount(60, 15)) {
            let (listener, port) = listen(&pair.right, family)?;
            let (socket, took) = connect_timed(&pair.left, address(family, false, port))?;
            made.push((client_end(&pair.left, &socket)?, took.took));
            let server = listener.accept()?.0;
            end_by_reset([&socket, &server])?;
        }
        let outcome = netdiag.stop()?;
        let total = outcome.total()?;
        let mut facts = Facts::new();
        let mut late = Vec::new();
        for (end, took) in &made {
            let flow = flow_of(total, end)?;
            let connect = metric(flow, "connect");
            facts.equal(format_args!("{end:?}: samples"), connect.count, 1);
            facts.equal("failures", failures(flow), BTreeMap::new());
            let found = Duration::from_nanos(connect.max_ns.unwrap_or_default());
            // The histogram's buckets are 1 % wide.
            let most = took.mul_f64(1.01);
            facts.holds(format_args!("{found:?} of {took:?}"), found <= most && !found.is_zero());
            late.push(took.saturating_sub(found));
        }
        late.sort_unstable();
        let middle = late[late.len() / 2];
        let mut took: Vec<_> = made.iter().map(|(_, took)| *took).collect();
        took.sort_unstable();
        let bound = Duration::from_millis(1).max(took[took.len() / 2].mul_f64(0.05));
        facts.note(format_args!(
            "{forced}: the client's clock is ahead by {middle:?} in the middle"
        ));
        if !machine::emulated() {
            facts.holds(format_args!("{middle:?} is within {bound:?}"), middle <= bound);
        }
        facts.at_rest(total);
        facts.finish();
    }
    Ok(())
}

/// A lost SYN is sent again after 1 s, the second one after 3 s: it is a latency, not a failure.
#[test]
fn lost_syns_are_steps_of_a_second() -> Result<()> {
    require!(Feature::Nft);
    let _alone = alone();
    let pair = Pair::new()?;
    // 1 s, then twice as long each time: from 6.5 on only where this is 0.
    set_if_there(&pair.left, "net.ipv4.tcp_syn_linear_timeouts", 0)?;
    let netdiag = Netdiag::live(&["--signals", "socket,retransmit", "--netns", pair.left.name()])?;
    let mut made = Vec::new();
    for (lost, least, most) in [(0, 0.0, 1.0), (1, 1.0, 3.0), (2, 3.0, 7.0)] {
        let (listener, port) = listen(&pair.right, Family::V4)?;
        let first = format!("tcp dport {port} tcp flags syn numgen inc mod 1000000 < {lost} drop");
        let fault = fault::drop_incoming(&pair.right, &first)?;
        let (socket, took) = connect_timed(&pair.left, (RIGHT_V4, port).into())?;
        fault.end()?;
        made.push((client_end(&pair.left, &socket)?, took, lost, least..most));
        end_by_reset([&socket, &listener.accept()?.0])?;
    }
    let outcome = netdiag.stop()?;
    let total = outcome.total()?;
    let mut facts = Facts::new();
    for (end, call, lost, bounds) in made {
        let flow = flow_of(total, &end)?;
        facts.note(format_args!("{flow:?}"));
        let connect = metric(flow, "connect");
        let found = connect.max_ns.unwrap_or_default() as f64 / 1e9;
        facts.equal(format_args!("samples with {lost} lost"), connect.count, 1);
        facts.equal("failures", failures(flow), BTreeMap::new());
        let again = count(flow, "retransmits.syn").unwrap_or_default()
            + count(flow, "retransmits.other").unwrap_or_default();
        facts.holds(format_args!("{again} SYNs again, {lost} lost"), again >= lost);
        let took = call.took.as_secs_f64();
        facts.holds(format_args!("{found} s of {took} s"), found <= took * 1.01);
        if again == lost {
            let least = bounds.start * 0.99;
            facts.holds(format_args!("{found} s, not below {least} s"), found >= least);
        }
        if !machine::emulated() {
            facts.holds(format_args!("{found} s is in {bounds:?}"), found < bounds.end);
            let bound = (took * 0.05).max(0.001);
            let off = took - found - call.waited.as_secs_f64();
            facts.holds(format_args!("{found} s is {took} s, but for {call:?}"), off <= bound);
        }
    }
    facts.at_rest(total);
    facts.finish();
    Ok(())
}

/// The right end says that it leads nowhere.
const NOWHERE: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);
const CLOSED_PORT: u16 = 81;
const SILENT_PORTS: [u16; 3] = [82, 83, 84];
const UNREACHABLE_PORT: u16 = 85;

/// Each failure under its errno, and none of them is a latency.
#[test]
fn failed_connects_have_their_errno() -> Result<()> {
    require!(Feature::Nft);
    let _alone = alone();
    for forced in source::loading("socket")? {
        until_whole(|| failed_connects(&forced))?;
    }
    Ok(())
}

fn failed_connects(forced: &str) -> Result<Option<Spoilt>> {
    let pair = Pair::new()?;
    set_if_there(&pair.right, "net.ipv4.ip_forward", 1)?;
    pair.left.ip(&format!("route add {NOWHERE} via {RIGHT_V4}"))?;
    pair.right.ip(&format!("route add unreachable {NOWHERE}"))?;
    let netdiag = Netdiag::live_by(forced, &["--netns", pair.left.name()])?;
    let rule = format!("tcp dport {}-{} drop", SILENT_PORTS[0], SILENT_PORTS[2]);
    let lost = fault::drop_incoming(&pair.right, &rule)?;
    let [unanswered, timed, given_up] = SILENT_PORTS.map(|port| (RIGHT_V4, port).into());
    let refused = SocketAddr::from((RIGHT_V4, CLOSED_PORT));
    let mut said = Vec::new();
    for _ in 0..3 {
        said.push(pair.left.run(|| TcpStream::connect(refused)).err());
    }
    let waited = Duration::from_millis(100);
    said.push(pair.left.run(|| TcpStream::connect_timeout(&given_up, waited)).err());
    // This one would have a minute and more.
    set_if_there(&pair.left, "net.ipv4.tcp_syn_retries", 1)?;
    // They take seconds, all at the same time.
    let slow = pair.left.run(|| {
        std::thread::scope(|scope| {
            let inside = |connect: fn(SocketAddr) -> io::Result<()>, to| {
                let left = &pair.left;
                let enter = move || left.enter().and_then(|()| connect(to)).err();
                scope.spawn(enter)
            };
            let plain = |to| TcpStream::connect(to).map(drop);
            [
                inside(plain, unanswered),
                inside(with_user_timeout, timed),
                inside(plain, (NOWHERE, UNREACHABLE_PORT).into()),
            ]
            .map(|thread| thread.join().expect("a connect panicked"))
        })
    });
    lost.end()?;
    wait_until_quiet(&pair.left)?;
    let outcome = netdiag.stop()?;
    let total = outcome.total()?;
    if let Some(spoilt) = skipped(total, &["socket"]) {
        Facts::only_at_rest(total);
        return Ok(Some(spoilt));
    }
    let mut facts = Facts::new();
    facts.note(format_args!("{forced}: {said:?} {slow:?}"));
    let number = |error: &Option<io::Error>| error.as_ref().and_then(io::Error::raw_os_error);
    let said: Vec<_> = said.iter().map(number).collect();
    // The last one gave up by itself, of which there is no errno.
    let refused = Some(libc::ECONNREFUSED);
    facts.equal("what the quick ones said", said, vec![refused, refused, refused, None]);
    let slow = slow.each_ref().map(number);
    let expected = [libc::ETIMEDOUT, libc::ETIMEDOUT, libc::EHOSTUNREACH].map(Some);
    facts.equal("what the slow ones said", slow, expected);
    for (port, flows, error) in [
        (CLOSED_PORT, 3, "ECONNREFUSED"),
        (unanswered.port(), 1, "ETIMEDOUT"),
        (timed.port(), 1, "ETIMEDOUT"),
        (given_up.port(), 1, "closed"),
        (UNREACHABLE_PORT, 1, "EHOSTUNREACH"),
    ] {
        let found = flows_to(total, &pair.left, port);
        facts.note(format_args!("{found:?}"));
        facts.equal(format_args!("{error}: flows"), found.len(), flows);
        for flow in found {
            let expected = BTreeMap::from([(error, 1)]);
            facts.equal(format_args!("failures to {port}"), failures(flow), expected);
            facts.equal("no latency", metric(flow, "connect").count, 0);
        }
    }
    facts.at_rest(total);
    facts.finish();
    Ok(None)
}

/// Gives up, by the kernel's word, after half a second.
fn with_user_timeout(to: SocketAddr) -> io::Result<()> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    sockopt::set_tcp_user_timeout(socket.as_fd(), 500)?;
    Ok(rustix::net::connect(socket.as_fd(), &to)?)
}

/// connect(2) finds no port that is free: there is no flow without one, so all to one destination are one row.
#[test]
fn connects_without_a_port_are_failures() -> Result<()> {
    let _alone = alone();
    let pair = Pair::new()?;
    few_ports(&pair.left, 50_000, 50_001)?;
    let (listener, port) = listen(&pair.right, Family::V4)?;
    let netdiag = Netdiag::live(&["--signals", "socket", "--netns", pair.left.name()])?;
    let mut open = Vec::new();
    let mut failed = Vec::new();
    for _ in 0..5 {
        match pair.left.run(|| TcpStream::connect((RIGHT_V4, port))) {
            Ok(socket) => open.push((socket, listener.accept()?.0)),
            Err(error) => failed.push(error),
        }
    }
    let outcome = netdiag.stop()?;
    let total = outcome.total()?;
    let mut facts = Facts::new();
    facts.note(format_args!("{failed:?} {:?}", total.other));
    facts.equal("connected", open.len(), 2);
    let all = |flow| failures(flow).get("EADDRNOTAVAIL").copied().unwrap_or_default();
    let found: u64 = total.flows.iter().chain([&total.other]).map(all).sum();
    facts.equal("failed for want of a port", found, failed.len() as u64);
    facts.equal("failed", failed.len(), 3);
    let mut rows = flows_to(total, &pair.left, port);
    rows.retain(|flow| flow.local.port.is_none());
    let told = rows.into_iter().map(|flow| (flow.local.ip, flow.peer.ip, all(flow)));
    let [left, right] = [LEFT_V4, RIGHT_V4].map(|ip| Some(IpAddr::from(ip)));
    facts.equal("as one row of their destination", told.collect(), vec![(left, right, 3)]);
    facts.at_rest(total);
    facts.finish();
    Ok(())
}

/// Of a connection whose beginning was not seen nobody knows how long it took.
#[test]
fn a_connect_that_is_older_has_no_latency() -> Result<()> {
    require!(Feature::Nft);
    let _alone = alone();
    let pair = Pair::new()?;
    let (listener, port) = listen(&pair.right, Family::V4)?;
    let lost = fault::drop_incoming(&pair.right, &format!("tcp dport {port} drop"))?;
    let mut facts = Facts::new();
    let (netdiag, end) = std::thread::scope(|scope| -> Result<_> {
        let client = scope.spawn(|| connect_timed(&pair.left, (RIGHT_V4, port).into()));
        let asks = || {
            let sockets = pair.left.run(|| fs::read_to_string("/proc/thread-self/net/tcp"));
            sockets
                .is_ok_and(|text| text.lines().any(|l| l.split_whitespace().nth(3) == Some("02")))
        };
        facts.holds("it asks for a connection", machine::wait_until(asks));
        let netdiag = Netdiag::live(&["--signals", "socket"])?;
        lost.end()?;
        let (socket, took) = client.join().expect("the client panicked")?;
        facts.note(format_args!("connected after {took:?}"));
        let end = client_end(&pair.left, &socket)?;
        end_by_reset([&socket, &listener.accept()?.0])?;
        Ok((netdiag, end))
    })?;
    let outcome = netdiag.stop()?;
    let total = outcome.total()?;
    let flow = flow_of(total, &end)?;
    facts.note(format_args!("{flow:?}"));
    facts.equal("samples", metric(flow, "connect").count, 0);
    facts.equal("failures", failures(flow), BTreeMap::new());
    facts.at_rest(total);
    facts.finish();
    Ok(())
}

/// A send that connects (include/linux/socket.h).
const MSG_FASTOPEN: SendFlags = SendFlags::from_bits_retain(0x2000_0000);

/// A socket becomes another flow as it connects; a send under way at the time goes with it.
#[test]
fn a_send_that_connects_is_of_its_connection() -> Result<()> {
    let _alone = alone();
    for forced in source::loading("send")? {
        let namespace = Namespace::new("fastopen")?;
        let netdiag = Netdiag::live_by(&forced, &["--netns", namespace.name()])?;
        let (listener, port) = listen(&namespace, Family::V4)?;
        let client = namespace.run(|| {
            let client = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
            let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let sent = sendto(&client, b"x", MSG_FASTOPEN, &to)?;
            anyhow::ensure!(sent == 1, "sent {sent}");
            Ok(TcpStream::from(client))
        })?;
        let server = listener.accept()?.0;
        let end = client_end(&namespace, &client)?;
        end_by_reset([&client, &server])?;
        let outcome = netdiag.stop()?;
        let total = outcome.total()?;
        let mut facts = Facts::new();
        let flow = flow_of(total, &end)?;
        facts.note(format_args!("{forced}: {flow:?}"));
        facts.equal("sends of the connection", count(flow, "sends"), Some(1));
        let all = sum(in_namespaces(total, &[namespace.inode()]), "sends");
        facts.equal("sends of all sockets", all, 1);
        facts.at_rest(total);
        facts.finish();
    }
    Ok(())
}
