//! Packets that the kernel throws away: each for its reason, of its flow, and none that was not lost.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use netdiag::{
    kernel::btf::Btf,
    snapshot::{CountValue, Flow, Listener, Snapshot},
};
use netdiag_tests::{
    bpftrace::Bpftrace,
    counters::{TcpCounters, wait_until_quiet},
    dropping::{self, CASES, Case, Dropped},
    facts::Facts,
    fault,
    machine::{self, Series},
    namespace::Namespace,
    netdiag::Netdiag,
    network::{Pair, RIGHT_V4},
    outcome::{count, in_namespaces, status},
    require,
    requirement::{Feature, alone},
    source,
    traffic::{
        Connection, FAMILIES,
        request::{Exchange, exchange},
        send_once,
    },
    witness::Witness,
};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

const KINDS: [&str; 6] = ["rto", "fast", "tlp", "syn", "synack", "other"];

/// Packets dropped of a flow, by the kernel's reason.
fn drops(flow: &Flow) -> Vec<(&str, u64)> {
    match flow.counts.get("drops") {
        Some(CountValue::Group(keys)) => {
            keys.iter().filter_map(|(key, n)| Some((key.as_str(), (*n)?))).collect()
        }
        _ => Vec::new(),
    }
}

/// The same, of all flows that are that end.
fn of_end<'a>(total: &'a Snapshot, end: &Dropped) -> Vec<(&'a str, u64)> {
    in_namespaces(total, &[end.netns])
        .filter(|flow| flow.local.ip == Some(end.local.ip()))
        .filter(|flow| flow.local.port == Some(end.local.port()))
        .flat_map(drops)
        .collect()
}

#[test]
fn each_drop_has_its_reason_and_its_flow() -> Result<()> {
    require!(Feature::Nft);
    let _alone = alone();
    for forced in source::loading("drop")? {
        let netdiag = Netdiag::live_by(&forced, &[])?;
        let mut provoked = Vec::new();
        for case in CASES {
            // The namespaces stay until the end: an inode may be another's after them.
            let (pair, dropped) = case.provoke()?;
            provoked.push((case, pair, dropped));
        }
        let outcome = netdiag.stop()?;
        let total = outcome.total()?;
        let mut facts = Facts::new();
        facts.note(format_args!("{forced}: {:?}", status(total, "drop")?));
        // Without a look at packets most belong to no flow.
        let by_socket_only = forced == "drop=sockets";
        for (case, _pair, dropped) in &provoked {
            if by_socket_only {
                let reason = case.reason(machine::series());
                let of_reason = |case: &Case| case.reason(machine::series()) == reason;
                let expected: u64 = provoked
                    .iter()
                    .filter_map(|(other, _, dropped)| of_reason(other).then_some(dropped.packets))
                    .sum();
                let found: u64 = total
                    .flows
                    .iter()
                    .chain([&total.other])
                    .flat_map(drops)
                    .filter_map(|(key, n)| (key == reason).then_some(n))
                    .sum();
                facts.holds(format_args!("{found} of {expected} {reason}"), found >= expected);
                continue;
            }
            let found = of_end(total, dropped);
            let reason = case.reason(machine::series());
            let of_reason = found.iter().filter(|(key, _)| *key == reason).map(|(_, n)| n);
            facts.equal(
                format_args!("{}: {reason} of {dropped:?} in {found:?}", case.name),
                of_reason.sum::<u64>(),
                dropped.packets,
            );
            facts.holds(
                format_args!("{}: nothing else in {found:?}", case.name),
                found.iter().all(|(key, _)| *key == reason),
            );
        }
        // Whatever comes after a socket's close is still its flow's.
        let key = |flow: &Flow| (flow.netns, flow.local.clone(), flow.peer.clone());
        let named =
            total.flows.iter().filter(|flow| flow.protocol.is_some() && flow.netns.is_some());
        let mut keys: Vec<_> = named.map(|flow| format!("{:?}", key(flow))).collect();
        keys.sort_unstable();
        let twins: Vec<_> = keys.windows(2).filter(|pair| pair[0] == pair[1]).collect();
        facts.equal("rows of one end", twins, Vec::new());
        facts.at_rest(total);
        facts.lossless(total);
        facts.finish();
    }
    Ok(())
}

/// By the numbers of the reasons, which netdiag names and bpftrace does not.
#[test]
fn another_tracer_counts_the_same() -> Result<()> {
    require!(Feature::Nft);
    require!(Feature::Bpftrace);
    let _alone = alone();
    let other = Bpftrace::start("tracepoint:skb:kfree_skb { @[args->reason] = count(); }")?;
    let netdiag = Netdiag::live(&[])?;
    // Nobody else has packets dropped for these.
    let wanted = ["NETFILTER_DROP", "SOCKET_RCVBUFF", "TCP_CSUM", "UDP_CSUM"];
    for case in CASES.iter().filter(|case| wanted.contains(&case.reason(machine::series()))) {
        case.provoke()?;
    }
    let outcome = netdiag.stop()?;
    let counted = other.counts()?;
    let total = outcome.total()?;
    let btf = Btf::load(None)?;
    let mut facts = Facts::new();
    facts.note(format_args!("{counted:?}"));
    for reason in wanted {
        let name = format!("SKB_DROP_REASON_{reason}");
        let number = btf.enum_value("skb_drop_reason", &name).context(name)?;
        let all = total.flows.iter().chain([&total.other]).flat_map(drops);
        let found: u64 = all.filter_map(|(key, n)| (key == reason).then_some(n)).sum();
        facts.holds(format_args!("{reason} was provoked"), found > 0);
        facts.equal(reason, found, counted.get(&format!("@[{number}]")).copied().unwrap_or(0));
    }
    facts.at_rest(total);
    facts.finish();
    Ok(())
}

/// `kernel.kptr_restrict` as it was, again.
struct Restricted(String);

impl Restricted {
    const PATH: &str = "/proc/sys/kernel/kptr_restrict";

    /// Nobody sees an address of the kernel while it lives.
    fn new() -> Result<Self> {
        let before = fs::read_to_string(Self::PATH)?;
        fs::write(Self::PATH, "2")?;
        Ok(Self(before))
    }
}

impl Drop for Restricted {
    fn drop(&mut self) {
        if let Err(error) = fs::write(Self::PATH, &self.0) {
            eprintln!("{} stays 2: {error}", Self::PATH);
        }
    }
}

#[test]
fn without_addresses_it_says_what_is_lost() -> Result<()> {
    let _alone = alone();
    let restricted = Restricted::new()?;
    let doctor = source::doctor(&[])?;
    let netdiag = Netdiag::live(&[])?;
    let (_pair, dropped) = CASES[0].provoke()?;
    let outcome = netdiag.stop()?;
    drop(restricted);
    let total = outcome.total()?;
    let mut facts = Facts::new();
    let said = doctor.signals.iter().find(|status| status.signal == "drop");
    facts.note(format_args!("{said:?}"));
    let says = |line: &String| line.contains("kptr_restrict");
    facts.holds("doctor says so", said.is_some_and(|said| said.missing.iter().any(says)));
    // Without addresses a full table is no other place than a rule.
    let conntrack = total.conntrack.as_ref().and_then(|told| told.other.counts["table_full"]);
    let kprobes = status(total, "conntrack")?.source.as_deref() == Some("kprobe");
    facts.equal("packets without room are told", conntrack.is_some(), kprobes);
    facts.equal(
        "the rest works",
        of_end(total, &dropped).iter().map(|(_, n)| n).sum(),
        dropped.packets,
    );
    facts.at_rest(total);
    facts.finish();
    Ok(())
}

#[test]
fn a_full_accept_queue_is_told_by_its_listener() -> Result<()> {
    let _alone = alone();
    let pair = Pair::new()?;
    let (before, _older) = dropping::overflowed(&pair)?;
    let netdiag = Netdiag::live(&[])?;
    // Open until netdiag has asked it.
    let (dropped, _listener) = dropping::overflowed(&pair)?;
    let outcome = netdiag.stop()?;
    let total = outcome.total()?;
    let ours = |listener: &&Listener| listener.netns == dropped.netns;
    let found: Vec<_> = total.node.listeners.iter().filter(ours).collect();
    let mut facts = Facts::new();
    facts.note(format_args!("{before:?} before, then {dropped:?}: {found:#?}"));
    facts.holds("requests were dropped", before.packets >= 4 && dropped.packets >= 4);
    let ends = found.iter().map(|one| (one.local.ip, one.local.port, one.drops));
    let local = dropped.local;
    facts.equal(
        "listeners with their drops",
        ends.collect::<Vec<_>>(),
        vec![(Some(local.ip()), Some(local.port()), dropped.packets)],
    );
    for listener in found {
        facts.equal("its owner", listener.owner.pid, Some(std::process::id()));
        facts.equal("its room", listener.accept_queue_limit, 2);
    }
    facts.at_rest(total);
    facts.finish();
    Ok(())
}

/// What TCP itself drops the socket counts, too.
#[test]
fn a_receive_buffer_that_overflows() -> Result<()> {
    let _alone = alone();
    let pair = Pair::new()?;
    let netdiag = Netdiag::live(&[])?;
    let (dropped, connection) = dropping::pruned(&pair)?;
    // The socket's counters are looked at when it is used, at most once a second.
    thread::sleep(Duration::from_millis(1500));
    send_once(&connection.server, b"still here")?;
    let outcome = netdiag.stop()?;
    let total = outcome.total()?;
    let found = of_end(total, &dropped);
    let mut facts = Facts::new();
    facts.note(format_args!("{found:?}"));
    facts.holds("something was dropped", dropped.packets > 0);
    let of_socket: u64 = in_namespaces(total, &[dropped.netns])
        .filter(|flow| flow.local.port == Some(dropped.local.port()))
        .filter_map(|flow| count(flow, "socket_drops"))
        .sum();
    facts.equal("dropped, by the socket's own counter", of_socket, dropped.packets);
    if machine::series() >= Series(6, 0) {
        facts.equal("dropped, by reasons", found.iter().map(|(_, n)| n).sum(), dropped.packets);
    }
    facts.at_rest(total);
    facts.finish();
    Ok(())
}

/// Nothing of rare events is lost beside it, it is counted to the packet, and costs little: what the
/// programs send grows with time, not with packets.
#[test]
fn a_flood_of_drops_displaces_nothing() -> Result<()> {
    require!(Feature::Nft);
    /// A fifth of a CPU at 200,000 packets a second.
    const NANOSECONDS_PER_PACKET: u64 = 1_000;
    let _alone = alone();
    let (flooded, lossy) = (Pair::new()?, Pair::new()?);
    lossy.without_offload()?;
    let namespaces = [&lossy.left, &lossy.right];
    // It sees at least what netdiag sees: it is there before, and after.
    let mut freed = Witness::of("skb", "kfree_skb", None)?;
    let mut netdiag = Netdiag::live(&[])?;
    netdiag.wait_lines(1)?;
    let before: Vec<_> = namespaces.map(TcpCounters::read).into_iter().collect::<Result<_>>()?;
    let end = AtomicBool::new(false);
    let packets = thread::scope(|scope| -> Result<u64> {
        let flood = scope.spawn(|| dropping::flood(&flooded, &end));
        let began = Instant::now();
        let traffic = lose(&lossy);
        thread::sleep(Duration::from_secs(10).saturating_sub(began.elapsed()));
        end.store(true, Ordering::Relaxed);
        Ok(traffic? + flood.join().expect("the flood panicked")?)
    })?;
    for namespace in namespaces {
        wait_until_quiet(namespace)?;
    }
    let after: Vec<_> = namespaces.map(TcpCounters::read).into_iter().collect::<Result<_>>()?;
    netdiag.wait_lines(2)?;
    let outcome = netdiag.stop()?;
    let hits = freed.hits()?;
    let total = outcome.total()?;
    let mut facts = Facts::new();
    let resident = |snapshot: &Snapshot| snapshot.node.own_resident_bytes.unwrap_or_default();
    let middle = &outcome.snapshots[outcome.snapshots.len() / 2];
    let (first, last) = (resident(middle), resident(total));
    let seen = total.accounting["drop"].seen;
    facts.note(format_args!("{packets} packets, {hits} hits of the tracepoint, {seen} seen"));
    facts.note(format_args!("resident bytes {first} in the middle, {last} at the end"));
    facts.equal("drops lost", total.accounting["drop"].lost(), 0);
    // A locked-down kernel may hide a task, and a retransmission with it; the socket's own counter
    // tells then, so that the sum below is exact all the same. A drop that is hidden only the
    // tracepoint's own count tells. Debian's kernels hide none.
    let account = &total.accounting["retransmit"];
    let hidden = machine::amount(account.missed, 0);
    facts.equal("retransmissions lost", account.lost() - hidden, 0);
    let ours = [flooded.right.inode(), lossy.right.inode()];
    let counted: u64 = in_namespaces(total, &ours)
        .chain([&total.other])
        .flat_map(drops)
        .filter(|(reason, _)| *reason == dropping::by_firewall(machine::series()))
        .map(|(_, n)| n)
        .sum();
    let dark = packets.saturating_sub(counted);
    facts.equal("packets that nftables dropped", counted + machine::amount(dark, 0), packets);
    facts.holds("what is short the programs were not run for", dark <= hits.saturating_sub(seen));
    facts.holds("that is next to nothing", dark * 10_000 <= packets);
    let again: u64 = in_namespaces(total, &namespaces.map(Namespace::inode))
        .flat_map(|flow| KINDS.map(|kind| count(flow, &format!("retransmits.{kind}"))))
        .flatten()
        .sum();
    let kernel: i64 = after.iter().zip(&before).map(|(a, b)| a.since(b)["RetransSegs"]).sum();
    facts.equal("segments sent again", again as i64, kernel);
    let cpu = total.node.own_cpu_ns.unwrap_or_default();
    facts.note(format_args!("{cpu} ns of CPU time for {seen} drops, {again} segments sent again"));
    if !machine::emulated() {
        facts.holds("it is a flood", packets > 500_000);
        facts.holds("it is cheap", cpu / packets < NANOSECONDS_PER_PACKET);
        facts.holds("memory is flat", last < first + (2 << 20));
    }
    facts.at_rest(total);
    facts.finish();
    Ok(())
}

/// Data of which every twelfth packet is lost. Returns how many that were.
fn lose(pair: &Pair) -> Result<u64> {
    let rule = "meta l4proto tcp numgen inc mod 12 0 counter drop";
    let loss = fault::drop_incoming(&pair.right, rule)?;
    let connections: Vec<_> = FAMILIES
        .into_iter()
        .map(|family| Connection::open(&pair.left, &pair.right, family))
        .collect::<Result<_>>()?;
    let plan = Exchange { sends: machine::amount(300, 40), bytes: 32 << 10, echo: false };
    exchange(connections.iter().map(|connection| (connection, plan)))?;
    for connection in connections {
        connection.reset()?;
    }
    wait_until_quiet(&pair.left)?;
    let lost = dropping::counted(&pair.right)?;
    loss.end()?;
    Ok(lost)
}

#[test]
fn ten_thousand_connections_lose_nothing() -> Result<()> {
    const CONNECTIONS: usize = 10_000;
    let _alone = alone();
    let pair = Pair::new()?;
    let netdiag = Netdiag::live(&[])?;
    let before = sched_getaffinity(None)?;
    // Processors that share the work overtake each other, and TCP drops what comes late.
    let mut one = CpuSet::new();
    one.set(0);
    sched_setaffinity(None, &one)?;
    let listener = pair.right.run(|| TcpListener::bind((RIGHT_V4, 0)))?;
    let address = listener.local_addr()?;
    pair.left.run(|| {
        thread::scope(|scope| -> Result<()> {
            let server = scope.spawn(|| -> Result<()> {
                for at in 0..CONNECTIONS {
                    let (mut socket, _) = listener.accept()?;
                    serve(&mut socket, at)?;
                }
                Ok(())
            });
            for at in 0..CONNECTIONS {
                converse(TcpStream::connect(address)?, at)?;
            }
            server.join().expect("the server panicked")
        })
    })?;
    sched_setaffinity(None, &before)?;
    let outcome = netdiag.stop()?;
    let total = outcome.total()?;
    let ours = [pair.left.inode(), pair.right.inode()];
    let dropped: Vec<_> = in_namespaces(total, &ours)
        .filter(|flow| flow.protocol.as_deref() == Some("tcp"))
        .flat_map(drops)
        .chain(drops(&total.other))
        .collect();
    let counters = [&pair.left, &pair.right].map(TcpCounters::read);
    let mut kernel = TcpCounters::default();
    for counters in counters {
        kernel = counters?.plus(&kernel);
    }
    let mut facts = Facts::new();
    facts.note(format_args!("kernel: {}", kernel.moved()));
    // Where packets take too long they are sent again; TCP drops the second copy, and what is
    // answered to it may find no socket any more. Where they overtake each other it drops old ACKs.
    let [again, old] = [&["RetransSegs"][..], &["PAWSEstab", "PAWSOldAck"]]
        .map(|names| names.iter().map(|name| kernel[*name]).sum::<i64>());
    let found: u64 = dropped.iter().map(|(_, n)| n).sum();
    facts.holds(
        format_args!("{dropped:?} come of {again} segments sent again and {old} old ones"),
        found as i64 <= 3 * again + old,
    );
    facts.at_rest(total);
    facts.finish();
    Ok(())
}

/// Answers one request; every second time the client closes first.
fn serve(socket: &mut TcpStream, at: usize) -> Result<()> {
    socket.read_exact(&mut [0; 100])?;
    socket.write_all(&[b'a'; 1000])?;
    if at.is_multiple_of(2) { closed(socket) } else { Ok(()) }
}

fn converse(mut socket: TcpStream, at: usize) -> Result<()> {
    socket.write_all(&[b'q'; 100])?;
    socket.read_exact(&mut [0; 1000])?;
    if at.is_multiple_of(2) { Ok(()) } else { closed(&mut socket) }
}

/// Waits for the other end to close.
fn closed(socket: &mut TcpStream) -> Result<()> {
    let rest = socket.read(&mut [0; 1])?;
    ensure!(rest == 0, "more than was asked for");
    Ok(())
}
