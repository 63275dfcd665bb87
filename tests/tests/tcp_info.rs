//! What the kernel counts and holds of each flow: the same as `ss` says, at rest and while a flow is
//! held back.

use std::{
    io::{self, Write},
    os::fd::AsFd,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use netdiag::snapshot::Flow;
use netdiag_tests::{
    counters::TcpCounters,
    facts::Facts,
    fault, machine,
    namespace::Namespace,
    netdiag::Netdiag,
    network::Pair,
    outcome::{count, flow_of, flows_of},
    require,
    requirement::{Feature, alone},
    source,
    ss::{self, Said},
    tool,
    traffic::{
        Connection, End, FAMILIES, Family, read_bytes,
        request::{Exchange, exchange},
        send_once,
    },
};
use rustix::net::sockopt;

/// Counts by the name that `ss` has for them; what is 0 it leaves out.
const AS_SS: [(&str, &str); 21] = [
    ("bytes_sent", "bytes_sent"),
    ("bytes_received", "bytes_received"),
    ("bytes_acked", "bytes_acked"),
    ("bytes_retransmitted", "bytes_retrans"),
    ("segments_sent", "segs_out"),
    ("segments_received", "segs_in"),
    ("data_segments_sent", "data_segs_out"),
    ("data_segments_received", "data_segs_in"),
    ("delivered", "delivered"),
    ("delivered_ce", "delivered_ce"),
    ("dsacks", "dsack_dups"),
    ("reordering", "reord_seen"),
    ("out_of_order", "rcv_ooopack"),
    ("snd_wnd_bytes", "snd_wnd"),
    ("unacknowledged", "unacked"),
    ("unsent_bytes", "notsent"),
    ("unread_bytes", "recv_q"),
    ("rcvbuf_bytes", "skmem_rb"),
    ("sndbuf_bytes", "skmem_tb"),
    ("sndbuf_used_bytes", "skmem_w"),
    ("socket_drops", "skmem_d"),
];

/// The times that `ss` tells in whole milliseconds.
const TIMES: [(&str, &str); 3] = [
    ("busy_ns", "busy"),
    ("rwnd_limited_ns", "rwnd_limited"),
    ("sndbuf_limited_ns", "sndbuf_limited"),
];

/// Holds a flow whose opening was seen, and that is at rest, against `ss`.
fn compare(facts: &mut Facts, flow: &Flow, said: &Said) {
    facts.note(format_args!("{said:?}"));
    let known = |name: &str| said.get(name).copied().unwrap_or(0);
    for (ours, theirs) in AS_SS {
        facts.equal(format_args!("{} {ours}", flow.id), count(flow, ours), Some(known(theirs)));
    }
    for (ours, theirs) in TIMES {
        let found = count(flow, ours);
        // ss rounds down.
        let same = found.is_some_and(|ns| ns / 1_000_000 * 1_000_000 == known(theirs));
        facts.holds(
            format_args!("{} {ours} {found:?} is {} to the millisecond", flow.id, known(theirs)),
            same,
        );
    }
    facts.equal("cwnd", flow.cwnd.map(u64::from), said.get("cwnd").copied());
    // Only newer kernels tell it, though all of them have it.
    if let Some(&window) = said.get("rcv_wnd") {
        facts.equal("rcv_wnd_bytes", count(flow, "rcv_wnd_bytes"), Some(window));
    }
    let ssthresh = count(flow, "ssthresh");
    // ss leaves out a large one as if it were none.
    if let Some(&said) = said.get("ssthresh") {
        facts.equal("ssthresh", ssthresh, Some(said));
    }
}

/// What `ss` says when nothing moves any more.
fn at_rest(namespace: &Namespace, end: &End) -> Result<Said> {
    let mut last = ss::said_of(namespace, end)?;
    let moving = |said: &Said| said.contains_key("unacked") || said.contains_key("notsent");
    let quiet = machine::wait_until(|| {
        thread::sleep(Duration::from_millis(50));
        let now = ss::said_of(namespace, end).unwrap_or_default();
        let same = |name: &str| now.get(name) == last.get(name);
        let still =
            !moving(&now) && ["segs_in", "segs_out", "busy", "skmem_w"].iter().all(|n| same(n));
        last = now;
        still
    });
    ensure!(quiet, "{end:?} never rests: {last:?}");
    Ok(last)
}

fn ends<'a>(pair: &'a Pair, connection: &Connection) -> Result<[(&'a Namespace, End); 2]> {
    Ok([(&pair.left, connection.client_end()?), (&pair.right, connection.server_end()?)])
}

fn both(pair: &Pair) -> String {
    format!("{},{}", pair.left.name(), pair.right.name())
}

/// The end of a run tells what `ss` tells, whoever told the socket last: programs or the kernel's
/// answer.
#[test]
fn a_flow_at_rest_is_what_ss_says() -> Result<()> {
    let _alone = alone();
    for forced in source::loading("socket")? {
        let pair = Pair::new()?;
        let netdiag = Netdiag::live_by(&forced, &["--netns", &both(&pair)])?;
        let mut connections = Vec::new();
        for family in FAMILIES {
            connections.push(Connection::open(&pair.left, &pair.right, family)?);
        }
        let plan = Exchange { sends: 20, bytes: 3_000, echo: true };
        exchange(connections.iter().map(|connection| (connection, plan)))?;
        // One has unread bytes, and sent many that nobody answered.
        send_once(&connections[0].client, &[b'x'; 5_000])?;
        let mut said = Vec::new();
        for connection in &connections {
            for (namespace, end) in ends(&pair, connection)? {
                said.push((end, at_rest(namespace, &end)?));
            }
        }
        let outcome = netdiag.stop()?;
        let total = outcome.total()?;
        let mut facts = Facts::new();
        facts.note(&forced);
        for (end, said) in &said {
            compare(&mut facts, flow_of(total, end)?, said);
        }
        let unread = count(flow_of(total, &connections[0].server_end()?)?, "unread_bytes");
        facts.equal("unread", unread, Some(5_000));
        let other = &total.other;
        facts.equal("a window of several flows", count(other, "snd_wnd_bytes"), None);
        facts.at_rest(total);
        facts.finish();
    }
    Ok(())
}

/// A flow that is older than the programs counts from then on, and is known by its state at once.
#[test]
fn an_older_flow_counts_from_the_start_on() -> Result<()> {
    let _alone = alone();
    let pair = Pair::new()?;
    let connection = Connection::open(&pair.left, &pair.right, Family::V4)?;
    let plan = Exchange { sends: 10, bytes: 1_000, echo: true };
    exchange([(&connection, plan)])?;
    let before: Vec<_> = ends(&pair, &connection)?
        .iter()
        .map(|(namespace, end)| at_rest(namespace, end))
        .collect::<Result<_>>()?;
    let netdiag = Netdiag::live(&["--signals", "socket", "--netns", &both(&pair), "--all"])?;
    exchange([(&connection, plan)])?;
    let ends = ends(&pair, &connection)?;
    let mut after = Vec::new();
    for (namespace, end) in &ends {
        after.push(at_rest(namespace, end)?);
    }
    let outcome = netdiag.stop()?;
    let mut facts = Facts::new();
    for (((_, end), before), after) in ends.iter().zip(&before).zip(&after) {
        let flow = flow_of(outcome.total()?, end)?;
        for (ours, theirs) in &AS_SS[..13] {
            let known = |said: &Said| said.get(*theirs).copied().unwrap_or(0);
            let grown = known(after) - known(before);
            facts.equal(format_args!("{ours} of {end:?}"), count(flow, ours), Some(grown));
        }
        facts.equal("lifetime of one that lives", count(flow, "lifetime_ns"), None);
        facts.equal("snd_wnd", count(flow, "snd_wnd_bytes"), after.get("snd_wnd").copied());
    }
    facts.finish();
    Ok(())
}

/// Both within a twentieth of each other, or `slack` apart.
fn near(found: u64, expected: u64, slack: Duration) -> bool {
    let slack = u64::try_from(slack.as_nanos()).unwrap_or(u64::MAX);
    found.abs_diff(expected) <= (expected / 20).max(slack)
}

/// How long the reader stands still at least.
const STALL: Duration = Duration::from_secs(3);

/// Writes more than the peer's receive window has room for, as much as the send buffer takes. Returns
/// the bytes.
fn overfill(connection: &Connection) -> Result<usize> {
    let mut socket = &connection.client;
    socket.set_nonblocking(true)?;
    let (mut filled, mut rounds_without_room) = (0, 0);
    while rounds_without_room < 5 {
        match socket.write(&[b'w'; 16 << 10]) {
            Ok(sent) => {
                filled += sent;
                rounds_without_room = 0;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                rounds_without_room += 1;
                thread::sleep(Duration::from_millis(20));
            }
            Err(error) => return Err(error.into()),
        }
    }
    socket.set_nonblocking(false)?;
    Ok(filled)
}

/// A reader that stands still closes the window. The time is told while it stands still, by a sender
/// that makes no call meanwhile, and is the kernel's.
#[test]
fn a_reader_that_stands_still_limits_the_sender() -> Result<()> {
    let _alone = alone();
    let pair = Pair::new()?;
    let mut netdiag = Netdiag::live(&["--signals", "socket", "--netns", &both(&pair)])?;
    let connection = Connection::open(&pair.left, &pair.right, Family::V4)?;
    let filled = overfill(&connection)?;
    let end = connection.client_end()?;
    let closed = |flow: &Flow| count(flow, "snd_wnd_bytes");
    // Intervals of a flow in which nobody calls anything tell of it.
    let stalled = u64::try_from(STALL.as_nanos())?;
    netdiag.wait_outcome("a limited flow", |outcome| {
        let flows = outcome.snapshots.iter().flat_map(|snapshot| flows_of(snapshot, &end));
        let told: u64 = flows.filter_map(|flow| count(flow, "rwnd_limited_ns")).sum();
        told >= stalled
    })?;
    let began = Instant::now();
    let stuck = ss::said_of(&pair.left, &end)?;
    read_bytes(&connection.server, filled)?;
    let read = began.elapsed();
    let said = at_rest(&pair.left, &end)?;
    let outcome = netdiag.stop()?;
    let mut facts = Facts::new();
    let total = flow_of(outcome.total()?, &end)?;
    facts.note(format_args!("stuck: {stuck:?}\nread within {read:?}: {said:?}"));
    facts.note(format_args!("{total:?}"));
    let known = |name: &str| said.get(name).copied().unwrap_or(0);
    for (ours, theirs) in TIMES {
        let found = count(total, ours).context(ours)?;
        facts.holds(
            format_args!("{ours} {found} as {}", known(theirs)),
            near(found, known(theirs), Duration::from_millis(1)),
        );
    }
    let mut windows = Vec::new();
    let mut sum = 0;
    for snapshot in &outcome.snapshots {
        for flow in flows_of(snapshot, &end) {
            windows.push(closed(flow));
            sum += count(flow, "rwnd_limited_ns").unwrap_or(0);
        }
    }
    facts.equal("its intervals add up", Some(sum), count(total, "rwnd_limited_ns"));
    let zero = stuck.get("snd_wnd").copied().unwrap_or(0);
    facts.holds(format_args!("windows {windows:?} with {zero}"), windows.contains(&Some(zero)));
    facts.holds("the window opens again", closed(total) > Some(zero));
    facts.finish();
    Ok(())
}

/// A send buffer smaller than what could be on its way holds the sender back, for as long as the kernel
/// says so. To the kernel the congestion window is the limit until it is twice what is on its way
/// (`tcp_is_cwnd_limited`, include/net/tcp.h), so the buffer has room for a few segments.
#[test]
fn a_small_send_buffer_limits_the_sender() -> Result<()> {
    const BYTES: usize = 4_096;
    let _alone = alone();
    require!(Feature::Netem);
    let pair = Pair::new()?;
    pair.without_offload()?;
    let delay = format!("tc -n {} qdisc replace dev wire root netem delay 20ms", pair.right.name());
    tool::line(&delay)?;
    let netdiag = Netdiag::live(&["--signals", "socket", "--netns", &both(&pair)])?;
    let connection = Connection::open(&pair.left, &pair.right, Family::V4)?;
    sockopt::set_socket_send_buffer_size(connection.client.as_fd(), BYTES)?;
    let bytes = 60 * BYTES;
    thread::scope(|scope| -> Result<()> {
        let reader = scope.spawn(|| read_bytes(&connection.server, bytes));
        // In one call: the kernel begins to count when a call that waits for room has sent all it took.
        (&connection.client).write_all(&vec![b'b'; bytes])?;
        reader.join().expect("the reader panicked")
    })?;
    let end = connection.client_end()?;
    let said = at_rest(&pair.left, &end)?;
    let outcome = netdiag.stop()?;
    let flow = flow_of(outcome.total()?, &end)?;
    let mut facts = Facts::new();
    compare(&mut facts, flow, &said);
    let (limited, busy) = (count(flow, "sndbuf_limited_ns"), count(flow, "busy_ns"));
    facts.note(format_args!("{limited:?} of {busy:?}"));
    // In slow machines the kernel tells `ss` of none.
    if !machine::emulated() {
        facts.holds("it is most of the time", limited > busy.map(|busy| busy / 2));
    }
    facts.finish();
    Ok(())
}

/// Segments that overtake others, that are lost, and that arrive twice.
#[test]
fn reordering_and_duplicates_are_the_kernels() -> Result<()> {
    let _alone = alone();
    require!(Feature::Netem);
    let pair = Pair::new()?;
    pair.without_offload()?;
    let netem = |what: &str| {
        tool::line(&format!("tc -n {} qdisc replace dev wire root netem {what}", pair.left.name()))
    };
    netem("delay 10ms 8ms duplicate 20%")?;
    let netdiag = Netdiag::live(&["--signals", "socket", "--netns", &both(&pair)])?;
    let connection = Connection::open(&pair.left, &pair.right, Family::V4)?;
    let before = TcpCounters::read(&pair.left)?;
    for _ in 0..machine::amount(20, 10) {
        send_once(&connection.client, &[b'r'; 40_000])?;
        read_bytes(&connection.server, 40_000)?;
    }
    let mut said = Vec::new();
    for (namespace, end) in ends(&pair, &connection)? {
        said.push((end, at_rest(namespace, &end)?));
    }
    let kernel = TcpCounters::read(&pair.left)?.since(&before);
    let outcome = netdiag.stop()?;
    let mut facts = Facts::new();
    facts.note(kernel.moved());
    for (end, said) in &said {
        compare(&mut facts, flow_of(outcome.total()?, end)?, said);
    }
    let client = flow_of(outcome.total()?, &connection.client_end()?)?;
    let server = flow_of(outcome.total()?, &connection.server_end()?)?;
    let dsacks = kernel["TCPDSACKRecv"] + kernel["TCPDSACKOfoRecv"];
    facts.holds(
        format_args!("{:?} dsacks of {dsacks} blocks", count(client, "dsacks")),
        dsacks > 0 && count(client, "dsacks") > Some(0),
    );
    facts.holds("some came out of order", count(server, "out_of_order") > Some(0));
    facts.finish();
    Ok(())
}

/// Where nothing arrives, the sender's timer runs out again and again.
#[test]
fn timeouts_are_counted_where_the_kernel_does() -> Result<()> {
    let _alone = alone();
    let pair = Pair::new()?;
    let netdiag = Netdiag::live(&["--signals", "socket", "--netns", &both(&pair)])?;
    let connection = Connection::open(&pair.left, &pair.right, Family::V4)?;
    let before = TcpCounters::read(&pair.left)?;
    let deaf = fault::drop_incoming(&pair.right, "meta l4proto tcp drop")?;
    send_once(&connection.client, b"lost")?;
    let timeouts =
        || Ok::<_, anyhow::Error>(TcpCounters::read(&pair.left)?.since(&before)["TCPTimeouts"]);
    ensure!(machine::wait_until(|| timeouts().is_ok_and(|n| n >= 2)), "no timeout");
    deaf.end()?;
    let end = connection.client_end()?;
    let said = at_rest(&pair.left, &end)?;
    let kernel = timeouts()?;
    let outcome = netdiag.stop()?;
    let flow = flow_of(outcome.total()?, &end)?;
    let mut facts = Facts::new();
    compare(&mut facts, flow, &said);
    let expected = (machine::series() >= machine::Series(6, 7)).then_some(u64::try_from(kernel)?);
    facts.equal("timeouts", count(flow, "timeouts"), expected);
    facts.finish();
    Ok(())
}

/// A flow that is closed says how long it was, which its event says as well.
#[test]
fn a_closed_flow_tells_how_long_it_lived() -> Result<()> {
    let _alone = alone();
    let pair = Pair::new()?;
    let netdiag = Netdiag::live(&["--signals", "socket", "--netns", &both(&pair)])?;
    let before = Instant::now();
    let connection = Connection::open(&pair.left, &pair.right, Family::V4)?;
    let opened = Instant::now();
    let both_ends = [connection.client_end()?, connection.server_end()?];
    thread::sleep(Duration::from_millis(300));
    let least = opened.elapsed();
    connection.reset()?;
    let most = before.elapsed();
    let kept = Connection::open(&pair.left, &pair.right, Family::V4)?;
    let outcome = netdiag.stop()?;
    let mut facts = Facts::new();
    for end in both_ends {
        let lived =
            count(flow_of(outcome.total()?, &end)?, "lifetime_ns").map(Duration::from_nanos);
        facts.holds(
            format_args!("{lived:?} of {end:?} is from {least:?} to {most:?}"),
            lived.is_some_and(|lived| least <= lived && lived <= most),
        );
    }
    let living = flow_of(outcome.total()?, &kept.client_end()?)?;
    facts.equal("one that lives", count(living, "lifetime_ns"), None);
    facts.finish();
    Ok(())
}
