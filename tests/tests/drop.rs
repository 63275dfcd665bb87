//! Packets that the kernel throws away: each for its reason, of its flow, and none that was not lost.

#[path = "drop/many.rs"]
mod many;

use std::{collections::BTreeMap, process::Command, thread, time::Duration};

use anyhow::{Context as _, Result};
use netdiag::{
    kernel::btf::Btf,
    snapshot::{Flow, Listener, Snapshot},
};
use netdiag_tests::{
    attempt::skipped,
    bpftrace::Bpftrace,
    dropping::{self, CASES, Case, Dropped},
    facts::Facts,
    machine::{self, Series},
    namespace::Namespace,
    netdiag::{Netdiag, command, command_without},
    network::Pair,
    outcome::{count, group, in_namespaces, status},
    require,
    requirement::{Feature, alone},
    setting::Setting,
    source,
    traffic::send_once,
};

/// Packets dropped of a flow, by the kernel's reason.
fn drops(flow: &Flow) -> BTreeMap<&str, u64> {
    group(flow, "drops")
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
        source::until_unskipped(|| {
            let netdiag = Netdiag::live_by(&forced, &[])?;
            let mut provoked = Vec::new();
            for case in CASES {
                // The namespaces stay until the end: an inode may be another's after them.
                let (pair, dropped) = case.provoke()?;
                provoked.push((case, pair, dropped));
            }
            let outcome = netdiag.stop()?;
            let total = outcome.total()?;
            if skipped(total, &["drop"]).is_some() {
                Facts::only_at_rest(total);
                return Ok(false);
            }
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
                        .filter_map(|(other, _, dropped)| {
                            of_reason(other).then_some(dropped.packets)
                        })
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
            Ok(true)
        })?;
    }
    Ok(())
}

/// By the numbers of the reasons, which netdiag names and bpftrace does not. It is there before netdiag and after it,
/// and sees what others have dropped meanwhile.
#[test]
fn another_tracer_counts_the_same() -> Result<()> {
    require!(Feature::Nft);
    require!(Feature::Bpftrace);
    let _alone = alone();
    source::until_unskipped(|| {
        let other = Bpftrace::start("tracepoint:skb:kfree_skb { @[args->reason] = count(); }")?;
        let netdiag = Netdiag::live(&["--signals", "drop"])?;
        let wanted = ["NETFILTER_DROP", "SOCKET_RCVBUFF", "TCP_CSUM", "UDP_CSUM"];
        let mut provoked = Vec::new();
        for case in CASES {
            let reason = case.reason(machine::series());
            if wanted.contains(&reason) {
                provoked.push((reason, case.provoke()?));
            }
        }
        let outcome = netdiag.stop()?;
        let counted = other.counts()?;
        let total = outcome.total()?;
        if skipped(total, &["drop"]).is_some() {
            Facts::only_at_rest(total);
            return Ok(false);
        }
        let btf = Btf::load(None)?;
        let mut facts = Facts::new();
        facts.note(format_args!("{counted:?}"));
        let ours = provoked.iter().flat_map(|(_, (pair, _))| [&pair.left, &pair.right]);
        let ours: Vec<_> = ours.map(Namespace::inode).collect();
        let of = |flow, reason| drops(flow).get(reason).copied().unwrap_or_default();
        for reason in wanted {
            let name = format!("SKB_DROP_REASON_{reason}");
            let number = btf.enum_value("skb_drop_reason", &name).context(name)?;
            let made = provoked.iter().filter(|(of, _)| *of == reason);
            let made: u64 = made.map(|(_, (_, dropped))| dropped.packets).sum();
            facts.holds(format_args!("{reason} was provoked"), made > 0);
            let found: u64 = in_namespaces(total, &ours).map(|flow| of(flow, reason)).sum();
            facts.equal(format_args!("{reason}, of those provoked"), found, made);
            let flows = total.flows.iter().chain([&total.other]);
            let all: u64 = flows.map(|flow| of(flow, reason)).sum();
            let seen = counted.get(&format!("@[{number}]")).copied().unwrap_or(0);
            facts.holds(format_args!("{reason}: {all} of {seen} that bpftrace saw"), all <= seen);
        }
        facts.at_rest(total);
        facts.finish();
        Ok(true)
    })
}

#[test]
fn without_addresses_it_says_what_is_lost() -> Result<()> {
    let _alone = alone();
    without_addresses("2", command)
}

/// As where it runs with no more than the capabilities that tracing takes.
#[test]
fn without_the_right_to_addresses_it_says_what_is_lost() -> Result<()> {
    require!(Feature::Setpriv);
    let _alone = alone();
    without_addresses("1", |arguments| command_without("syslog", arguments))
}

fn without_addresses(
    restriction: &str,
    command: impl Fn(&[&str]) -> Result<Command>,
) -> Result<()> {
    // Nobody sees an address of the kernel (2), or nobody without CAP_SYSLOG (1).
    let restricted = Setting::new("kernel/kptr_restrict", &restriction)?;
    let some = ["--signals", "drop,conntrack"];
    let doctor = source::doctor_by(command(&[&["doctor", "-o", "json"][..], &some].concat())?)?;
    let live = ["live", "-o", "json", "-i", "1s", "-d", "10h"];
    let netdiag = Netdiag::start_by(command(&[&live[..], &some].concat())?)?;
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
    let netdiag = Netdiag::live(&["--signals", "drop"])?;
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
    let netdiag = Netdiag::live(&["--signals", "drop"])?;
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
    // Before 6.0 the tracepoint does not see what TCP itself drops.
    if machine::series() >= Series(6, 0) {
        let reason = dropping::by_full_buffer(machine::series());
        facts.equal("dropped, by reasons", found, vec![(reason, dropped.packets)]);
    } else {
        facts.equal("dropped, by places", found, Vec::new());
    }
    let flows: Vec<_> = in_namespaces(total, &[dropped.netns])
        .filter(|flow| flow.local.port == Some(dropped.local.port()))
        .collect();
    facts.equal("flows", flows.len(), 1);
    for flow in flows {
        facts.equal("its owner", flow.owner.pid, Some(std::process::id()));
    }
    facts.at_rest(total);
    facts.finish();
    Ok(())
}
