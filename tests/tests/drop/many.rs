//! Many packets that are dropped, and many connections of which none is.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use netdiag::snapshot::Snapshot;
use netdiag_tests::{
    counters::{TcpCounters, wait_until_quiet},
    dropping,
    facts::Facts,
    machine,
    namespace::Namespace,
    netdiag::Netdiag,
    network::{Pair, RIGHT_V4, RIGHT_V6},
    outcome::{in_namespaces, sent_again},
    processor, require,
    requirement::{Feature, alone},
    traffic::lossy,
    usage,
    witness::Witness,
};
use rustix::{
    thread::{sched_getaffinity, sched_setaffinity},
    time::{ClockId, clock_gettime},
};

use crate::drops;

/// Nothing of rare events is lost beside it, it is counted to the packet, and costs little: what the
/// programs send grows with time, not with packets.
#[test]
fn a_flood_of_drops_displaces_nothing() -> Result<()> {
    require!(Feature::Nft);
    /// Records of drops (`most_handed`, netdiag-ebpf/src/table.rs).
    const HANDED: u64 = 256;
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
    let pid = netdiag.pid();
    let spent = move || -> Result<_> { Ok([own_cpu_time(), usage::cpu_time(pid)?]) };
    let (began, before_it) = (Instant::now(), spent()?);
    // An emulated machine would flood itself for minutes, were it to last as long as the traffic beside it.
    let (packets, lasted, after_it) = thread::scope(|scope| -> Result<_> {
        let flood = scope.spawn(|| -> Result<_> {
            let packets = dropping::flood(&flooded, &end)?;
            Ok((packets, began.elapsed(), spent()?))
        });
        scope.spawn(|| {
            thread::sleep(Duration::from_secs(10));
            end.store(true, Ordering::Relaxed);
        });
        let traffic = lossy::bulk(&lossy);
        let (flood, lasted, after_it) = flood.join().expect("the flood panicked")?;
        Ok((traffic? + flood, lasted, after_it))
    })?;
    let [flood_cpu, cpu] = [0, 1].map(|whose| after_it[whose].saturating_sub(before_it[whose]));
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
    // An interrupt may free a packet within the program that sees packets freed: the kernel skips it,
    // and counts that. So many at most are short by the tracepoint's own count.
    let missed = total.accounting["drop"].missed;
    let skipped = machine::amount(missed, 0);
    facts.equal("drops lost", total.accounting["drop"].lost() - skipped, 0);
    facts.holds(format_args!("{missed} are missed"), skipped <= hits.saturating_sub(seen));
    facts.holds("these are next to nothing", skipped * 10_000 <= hits);
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
    let again = sent_again(total, &namespaces.map(Namespace::inode));
    let kernel: i64 = after.iter().zip(&before).map(|(a, b)| a.since(b)["RetransSegs"]).sum();
    facts.equal("segments sent again", again as i64, kernel);
    facts.note(format_args!("{seen} drops and {again} segments sent again in all"));
    facts.note(format_args!(
        "{packets} packets in {lasted:?}, which took {flood_cpu:?} themselves, and netdiag {cpu:?} meanwhile"
    ));
    if !machine::emulated() {
        let one_by_one = dropping::one_by_one(HANDED, lasted);
        facts.holds(
            format_args!("many times the {one_by_one} that were told had each its record"),
            packets > 4 * one_by_one,
        );
        facts.holds("it takes a small part of what the flood itself does", cpu < flood_cpu / 10);
        facts.holds("memory is flat", last < first + (2 << 20));
    }
    facts.at_rest(total);
    facts.finish();
    Ok(())
}

/// CPU time of this process, which makes the traffic, so far.
fn own_cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

#[test]
fn ten_thousand_connections_lose_nothing() -> Result<()> {
    const CONNECTIONS: usize = 10_000;
    let _alone = alone();
    let pair = Pair::new()?;
    let netdiag = Netdiag::live(&[])?;
    let before = sched_getaffinity(None)?;
    // Processors that share the work overtake each other, and TCP drops what comes late.
    let one = processor::each()?.into_iter().next().context("a processor")?;
    sched_setaffinity(None, &one)?;
    let listeners = pair.right.run(|| -> Result<_> {
        Ok([TcpListener::bind((RIGHT_V4, 0))?, TcpListener::bind((RIGHT_V6, 0))?])
    })?;
    let [v4, v6] = listeners.each_ref().map(TcpListener::local_addr);
    let addresses = [v4?, v6?];
    // Two each by turns, so that both ends close first in both families.
    let family = |at: usize| at / 2 % 2;
    pair.left.run(|| {
        thread::scope(|scope| -> Result<()> {
            let server = scope.spawn(|| -> Result<()> {
                for at in 0..CONNECTIONS {
                    let (mut socket, _) = listeners[family(at)].accept()?;
                    serve(&mut socket, at)?;
                }
                Ok(())
            });
            for at in 0..CONNECTIONS {
                converse(TcpStream::connect(addresses[family(at)])?, at)?;
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
    let accepted = kernel["PassiveOpens"];
    // The pair itself connects once in each family.
    facts.equal("connections made", accepted, CONNECTIONS as i64 + 2);
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
