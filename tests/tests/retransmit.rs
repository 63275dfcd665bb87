//! Retransmissions, term by term against the kernel's own counters.

use std::{net::TcpStream, thread, time::Duration};

use anyhow::Result;
use netdiag::snapshot::Snapshot;
use netdiag_tests::{
    counters::{TcpCounters, wait_until_quiet},
    facts::Facts,
    fault, machine,
    netdiag::Netdiag,
    network::{Pair, RIGHT_V4},
    outcome::{RETRANSMITS, count, flow_of, in_namespaces, sent_again, status, sum},
    require,
    requirement::{Feature, alone},
    source,
    traffic::{Connection, Family, lossy, send_once},
    witness::Witness,
};

fn kind(snapshot: &Snapshot, namespaces: &[u32], kind: &str) -> i64 {
    let name = format!("retransmits.{kind}");
    sum(in_namespaces(snapshot, namespaces), &name) as i64
}

#[test]
fn every_retransmission_of_the_kernel_is_a_flows() -> Result<()> {
    require!(Feature::Nft);
    let _alone = alone();
    for forced in source::loading("retransmit")? {
        source::until_unskipped(|| every_retransmission(&forced))?;
    }
    Ok(())
}

/// Counts both tracepoints of retransmissions, attempts that failed (which 6.16 and later tell of)
/// aside.
fn witnesses() -> Result<[Witness; 2]> {
    let of = |name, filter| Witness::of("tcp", name, filter);
    let segments = of("tcp_retransmit_skb", Some("err == 0"));
    let segments = segments.or_else(|_| of("tcp_retransmit_skb", None))?;
    Ok([segments, of("tcp_retransmit_synack", None)?])
}

/// Whether the kernel ran a program for each: then each term is exact. It may skip them in a softirq
/// that interrupts a task; sockets' own counters tell of most segments then, but not of their kind.
fn every_retransmission(forced: &str) -> Result<bool> {
    let segments = Pair::new()?;
    segments.without_offload()?;
    // And one with buffers of many segments, as a host with offload has.
    let pairs = [segments, Pair::new()?];
    let namespaces: Vec<_> = pairs.iter().flat_map(|pair| [&pair.left, &pair.right]).collect();
    for namespace in &namespaces {
        wait_until_quiet(namespace)?;
    }
    let before = read_all(&namespaces)?;
    let netdiag = Netdiag::live_by(forced, &[])?;
    let mut witnesses = witnesses()?;
    thread::scope(|scope| {
        let threads: Vec<_> = pairs.iter().map(|pair| scope.spawn(|| lossy::data(pair))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("traffic panicked"))
    })?;
    for pair in &pairs {
        lossy::handshakes(pair)?;
    }
    for namespace in &namespaces {
        wait_until_quiet(namespace)?;
    }
    let after = read_all(&namespaces)?;
    let hits: u64 = witnesses.iter_mut().map(Witness::hits).sum::<Result<_>>()?;
    let inodes: Vec<_> = namespaces.iter().map(|namespace| namespace.inode()).collect();
    let outcome = netdiag.stop()?;
    let total = outcome.total()?;
    let account = total.accounting["retransmit"];
    let unseen = hits.saturating_sub(account.seen);
    let unskipped = unseen == 0 && account.missed == 0;
    let mut facts = Facts::new();
    facts.note(format_args!("{forced}: {:?}", status(total, "retransmit")?));
    facts.note(format_args!("{hits} hits of the tracepoints, {unseen} of them without a program"));
    // Debian's kernels hide nothing: what their programs do not see is counted.
    facts.holds("told as missed", unseen == 0 || account.missed > 0 || !machine::emulated());
    let mut sums = TcpCounters::default();
    for ((inode, before), after) in inodes.iter().zip(&before).zip(&after) {
        let kernel = after.since(before);
        facts.note(format_args!("namespace {inode}: {}", kernel.moved()));
        let ours = sent_again(total, &[*inode]) as i64;
        let failed = sum(in_namespaces(total, &[*inode]), "retransmits_failed") as i64;
        let absent = kernel["RetransSegs"] - ours - failed;
        facts.holds(
            format_args!("namespace {inode}: {ours} again and {failed} failed, {absent} absent"),
            absent == 0 || (absent > 0 && unseen > 0),
        );
        if unskipped {
            explain_timeouts(&mut facts, total, *inode, &kernel);
        }
        sums = kernel.plus(&sums);
    }
    if unskipped {
        explain(&mut facts, total, &inodes, &sums);
    }
    facts.at_rest(total);
    facts.finish();
    if !unskipped {
        eprintln!("{forced}: {unseen} of {hits} hits without a program, {} missed", account.missed);
    }
    Ok(unskipped)
}

/// The kinds in the kernel's own terms (`net/ipv4/tcp_output.c`, `tcp_timer.c`).
fn explain(facts: &mut Facts, total: &Snapshot, inodes: &[u32], kernel: &TcpCounters) {
    let of = |name: &str| kind(total, inodes, name);
    facts.note(format_args!("kernel: {}", kernel.moved()));
    facts.note(format_args!("other: {:?}", total.other.counts));
    for name in RETRANSMITS {
        facts.note(format_args!("{name}: {}", of(name)));
    }
    facts.holds("many were sent again", kernel["RetransSegs"] > machine::amount(2000, 200));
    facts.holds("both were provoked", of("syn") > 0 && of("synack") > 0);
    facts.equal("SYN and SYN-ACK", of("syn") + of("synack"), kernel["TCPSynRetrans"]);
    facts.equal("of unknown kind", of("other"), 0);
    // tcp_xmit_retransmit_queue counts under the one or the other by whether the state is Loss.
    facts.equal("by fast recovery", of("fast"), kernel["TCPFastRetrans"]);
    // A probe sends new data where there is some, and is no retransmission then.
    facts.holds(
        format_args!("{} tail-loss probes of {} sent again", of("tlp"), kernel["TCPLossProbes"]),
        of("tlp") > 0 && of("tlp") <= kernel["TCPLossProbes"],
    );
}

/// A timeout sends one segment, the first SYN's as well, unless its first copy still waits in a
/// queue of this host; the rest of the loss follows as slow start. The timers of SYN-ACKs count, too
/// (`tcp_syn_ack_timeout`), but not all SYN-ACKs are sent again by them: a repeated SYN asks for one.
fn explain_timeouts(facts: &mut Facts, total: &Snapshot, inode: u32, kernel: &TcpCounters) {
    let of = |name: &str| kind(total, &[inode], name);
    let (timeouts, rest) = (kernel["TCPTimeouts"], kernel["TCPSlowStartRetrans"]);
    let (not_sent, synacks) = (kernel["TCPSpuriousRtxHostQueues"], of("synack"));
    let found = of("rto") + of("syn");
    let left = timeouts + rest - found;
    facts.holds(
        format_args!(
            "namespace {inode}: {timeouts} timeouts and {rest} in slow start are {found} segments, \
             and {left} of {synacks} SYN-ACKs and {not_sent} that were not sent"
        ),
        (0..=synacks + not_sent).contains(&left),
    );
}

fn read_all(namespaces: &[&netdiag_tests::namespace::Namespace]) -> Result<Vec<TcpCounters>> {
    namespaces.iter().map(|namespace| TcpCounters::read(namespace)).collect()
}

/// A retransmission that the own firewall drops is no retransmission, but a failed attempt.
#[test]
fn failed_attempts_stand_apart() -> Result<()> {
    require!(Feature::Nft);
    let _alone = alone();
    for forced in source::loading("retransmit")? {
        let pair = Pair::new()?;
        let netdiag = Netdiag::live_by(&forced, &[])?;
        let connection = Connection::open(&pair.left, &pair.right, Family::V4)?;
        let before = TcpCounters::read(&pair.left)?;
        let lost = fault::drop_incoming(&pair.right, "meta l4proto tcp drop")?;
        send_once(&connection.client, b"lost on the way")?;
        let failing = fault::drop_outgoing(&pair.left, "meta l4proto tcp drop")?;
        let failures = || -> Result<i64> {
            Ok(TcpCounters::read(&pair.left)?.since(&before)["TCPRetransFail"])
        };
        let seen = machine::wait_until(|| failures().is_ok_and(|failures| failures >= 3));
        failing.end()?;
        lost.end()?;
        let end = connection.client_end()?;
        connection.reset()?;
        wait_until_quiet(&pair.left)?;
        wait_until_quiet(&pair.right)?;
        let kernel = TcpCounters::read(&pair.left)?.since(&before);
        let outcome = netdiag.stop()?;
        let total = outcome.total()?;
        let flow = flow_of(total, &end)?;
        let mut facts = Facts::new();
        let used = status(total, "retransmit")?;
        facts.note(format_args!("{forced}: {flow:?}\n{}\n{used:?}", kernel.moved()));
        facts.holds("attempts failed", seen);
        let again: i64 = RETRANSMITS
            .iter()
            .filter_map(|name| count(flow, &format!("retransmits.{name}")))
            .sum::<u64>() as i64;
        let failed = count(flow, "retransmits_failed").unwrap_or_default() as i64;
        // Of an attempt whose run was skipped the kernel's counter tells, but not that it failed.
        let unknown = count(flow, "retransmits.other").unwrap_or_default() as i64;
        let missed = total.accounting["retransmit"].missed as i64;
        facts.holds(format_args!("{unknown} unknown, {missed} missed"), unknown <= missed);
        facts.equal(
            "those that left, of all but the failed",
            again - unknown,
            kernel["RetransSegs"] - kernel["TCPRetransFail"],
        );
        if failed == 0 {
            // Up to 6.12 the tracepoint does not fire for them, and netdiag must say so.
            facts.holds("unseen failures are declared missing", !used.missing.is_empty());
            facts.equal("and are not known", count(flow, "retransmits_failed"), None);
        } else {
            facts.equal("failed attempts", failed + unknown, kernel["TCPRetransFail"]);
        }
        facts.at_rest(total);
        facts.finish();
    }
    Ok(())
}

/// A connection that nobody answers retransmits its SYN; the flow is known although it never opens.
#[test]
fn unanswered_syns_belong_to_a_flow() -> Result<()> {
    require!(Feature::Nft);
    let _alone = alone();
    let pair = Pair::new()?;
    let netdiag = Netdiag::live(&["--signals", "retransmit"])?;
    let before = TcpCounters::read(&pair.left)?;
    let lost = fault::drop_incoming(&pair.right, "meta l4proto tcp drop")?;
    let address = (RIGHT_V4, 9).into();
    let refused = pair
        .left
        .run(|| TcpStream::connect_timeout(&address, Duration::from_secs(machine::amount(4, 8))));
    lost.end()?;
    wait_until_quiet(&pair.left)?;
    let kernel = TcpCounters::read(&pair.left)?.since(&before);
    let outcome = netdiag.stop()?;
    let total = outcome.total()?;
    let mut facts = Facts::new();
    facts.note(format_args!("{refused:?}; {}", kernel.moved()));
    facts.holds("SYNs were sent again", kernel["TCPSynRetrans"] >= 2);
    let flows: Vec<_> = in_namespaces(total, &[pair.left.inode()])
        .filter(|flow| flow.peer.port == Some(9))
        .collect();
    facts.note(format_args!("{flows:?}"));
    facts.equal("flows", flows.len(), 1);
    let again = sum(flows.iter().copied(), "retransmits.syn") as i64;
    // Of those for which the kernel ran no program the socket's counter tells.
    let unknown = sum(flows.iter().copied(), "retransmits.other") as i64;
    let missed = total.accounting["retransmit"].missed as i64;
    facts.holds(format_args!("{unknown} unknown, {missed} missed"), unknown <= missed);
    facts.equal("SYNs sent again", again + unknown, kernel["TCPSynRetrans"]);
    facts.equal("of all that was", again + unknown, kernel["RetransSegs"]);
    facts.at_rest(total);
    facts.finish();
    Ok(())
}

/// What is switched off is null, not 0, and nothing of it is missed.
#[test]
fn a_signal_that_is_switched_off_counts_nothing() -> Result<()> {
    require!(Feature::Nft);
    let _alone = alone();
    let pair = Pair::new()?;
    let netdiag = Netdiag::live(&["--signals", "send"])?;
    let connection = Connection::open(&pair.left, &pair.right, Family::V4)?;
    let loss = fault::loss(&pair.left, &pair.right, 5)?;
    let before = TcpCounters::read(&pair.left)?;
    for _ in 0..30 {
        send_once(&connection.client, &[b'x'; 4000])?;
    }
    let again =
        || Ok::<_, anyhow::Error>(TcpCounters::read(&pair.left)?.since(&before)["RetransSegs"]);
    let seen = machine::wait_until(|| again().is_ok_and(|segments| segments > 0));
    loss.end()?;
    let end = connection.client_end()?;
    connection.reset()?;
    let outcome = netdiag.stop()?;
    let total = outcome.total()?;
    let flow = flow_of(total, &end)?;
    let mut facts = Facts::new();
    facts.holds("segments were sent again", seen);
    for count_of in ["retransmits.rto", "retransmits.other", "retransmits_failed"] {
        facts.equal(count_of, count(flow, count_of), None);
    }
    facts.equal("sends", count(flow, "sends"), Some(30));
    facts.equal("missed retransmits", total.accounting["retransmit"].missed, 0);
    facts.at_rest(total);
    facts.finish();
    Ok(())
}
