//! Single events as they happen: each told, none twice, and what is left out counted.

#[path = "events/flood.rs"]
mod flood;

use std::{
    collections::BTreeSet,
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Error, Result};
use netdiag_tests::{
    counters::{TcpCounters, wait_until_quiet},
    dropping::{self, CASES},
    facts::Facts,
    fault, machine,
    namespace::Namespace,
    netdiag::Netdiag,
    network::{Pair, RIGHT_V4},
    outcome::{RETRANSMITS, in_namespaces, sum as sum_of_flows},
    processor::waited_for_by,
    require,
    requirement::{Feature, alone},
    source,
    stream::{self, Stream, is_at, is_in, sum},
    traffic::{Connection, Family, lossy, send_once},
};
use serde_json::Value;

#[test]
fn each_retransmission_is_told() -> Result<()> {
    require!(Feature::Nft);
    let _alone = alone();
    source::until_unskipped(|| {
        let pair = Pair::new()?;
        let spaces = [&pair.left, &pair.right];
        let inodes = spaces.map(Namespace::inode);
        let before: Vec<_> = spaces.map(TcpCounters::read).into_iter().collect::<Result<_>>()?;
        let live = Netdiag::live(&[])?;
        let events = stream::start(&["--kind", "retransmit", "--limit", "0"])?;
        lossy::data(&pair)?;
        lossy::handshakes(&pair)?;
        for namespace in spaces {
            wait_until_quiet(namespace)?;
        }
        let told = Stream::stop(events)?;
        let outcome = live.stop()?;
        let total = outcome.total()?;
        let after: Vec<_> = spaces.map(TcpCounters::read).into_iter().collect::<Result<_>>()?;
        let missed = total.accounting["retransmit"].missed + told.account("retransmit")?.missed;
        let mut facts = Facts::new();
        let in_space = |inode| told.of("retransmit").filter(move |event| is_in(event, inode));
        for ((inode, before), after) in inodes.into_iter().zip(&before).zip(&after) {
            let counted = |name: &str| sum_of_flows(in_namespaces(total, &[inode]), name);
            let mut all = 0;
            for kind in RETRANSMITS {
                let of_kind = in_space(inode)
                    .filter(|event| event["failed"] != true && event["retransmit"] == kind);
                let (found, name) = (sum(of_kind, "segments"), format!("retransmits.{kind}"));
                facts.note(format_args!("{found} {kind} in {inode}, {} in live", counted(&name)));
                if missed == 0 {
                    facts.equal(format_args!("{kind}, as live has them"), found, counted(&name));
                }
                all += found;
            }
            let failed = in_space(inode).filter(|event| event["failed"] == true);
            let failed = sum(failed, "segments");
            if missed == 0 {
                facts.equal("failed ones", failed, counted("retransmits_failed"));
                let kernel = after.since(before)["RetransSegs"];
                facts.equal("segments, as the kernel counts them", (all + failed) as i64, kernel);
            }
        }
        let segments = sum(told.of("retransmit"), "segments");
        facts.holds("many were told", segments > machine::amount(500, 50));
        facts.equal("nothing was left out", told.suppressed.len(), 0);
        let named =
            |event: &Value| event["flow"]["id"].is_string() && event["flow"]["local"]["port"] != 0;
        facts.equal("without a flow", told.events.iter().find(|event| !named(event)), None);
        told.at_rest(&mut facts)?;
        facts.finish();
        Ok(missed == 0)
    })
}

/// The sum of `packets` is what the firewall counted, each with its flow and place, and in time.
#[test]
fn each_drop_is_told_with_its_place() -> Result<()> {
    require!(Feature::Nft);
    let _alone = alone();
    for forced in source::loading("drop")?.iter().filter(|source| *source != "drop=sockets") {
        let netdiag =
            stream::start(&["--signals", "drop", "--kind", "drop", "--stack", "--source", forced])?;
        let mut provoked = Vec::new();
        let began = Instant::now();
        for case in CASES.iter().filter(|case| case.name.starts_with("nftables in")) {
            let (pair, dropped) = case.provoke()?;
            provoked.push((case, pair, dropped));
        }
        let told = Stream::stop(netdiag)?;
        let mut facts = Facts::new();
        facts.note(format_args!("{forced}, {:?}", began.elapsed()));
        let reason = dropping::by_firewall(machine::series());
        for (case, _pair, dropped) in &provoked {
            let of_end: Vec<_> = told
                .of("drop")
                .filter(|event| is_in(event, dropped.netns) && is_at(event, "local", dropped.local))
                .collect();
            facts.equal(
                format_args!("packets of {}", case.name),
                sum(of_end.iter().copied(), "packets"),
                dropped.packets,
            );
            // They are few, hence each is told by itself.
            facts.equal(
                format_args!("events of {}", case.name),
                of_end.len() as u64,
                dropped.packets,
            );
            for event in of_end {
                // A kernel without reasons tells the place instead.
                let expected = if reason.starts_with("at:") { Value::Null } else { reason.into() };
                facts.equal("reason", &event["reason"], &expected);
                let frames = event["stack"].as_array().map(Vec::as_slice).unwrap_or_default();
                let begins = |name: &str| {
                    frames.iter().filter_map(Value::as_str).any(|frame| frame.starts_with(name))
                };
                facts.holds(format_args!("stack: {event}"), begins("nf_hook_slow+0x"));
                facts.holds("its place is in it", frames.contains(&event["location"]));
                facts.holds("not that of the tracing", !begins("__traceiter") && !begins("bpf_"));
            }
        }
        let stacks: BTreeSet<_> =
            told.events.iter().map(|event| event["stack"].to_string()).collect();
        facts.note(format_args!("{} stacks of {} events", stacks.len(), told.events.len()));
        facts.equal("stacks not taken", told.end["stacks_not_taken"].as_u64(), Some(0));
        let times: Vec<_> = told.events.iter().filter_map(|event| event["time"].as_str()).collect();
        facts.holds("in order", times.is_sorted());
        told.at_rest(&mut facts)?;
        facts.finish();
    }
    Ok(())
}

/// Not where it was traced, but who in TCP wanted to send again.
#[test]
fn a_retransmission_has_its_stack() -> Result<()> {
    require!(Feature::Nft);
    let _alone = alone();
    for forced in source::loading("retransmit")? {
        let pair = Pair::new()?;
        let netns = pair.left.name();
        let kind = ["--signals", "retransmit", "--kind", "retransmit", "--stack"];
        let netdiag =
            stream::start(&[&kind[..], &["--source", &forced, "--netns", netns]].concat())?;
        let connection = Connection::open(&pair.left, &pair.right, Family::V4)?;
        let before = TcpCounters::read(&pair.left)?;
        let lost = fault::drop_incoming(&pair.right, "meta l4proto tcp drop")?;
        send_once(&connection.client, b"lost on the way")?;
        let again = || Ok::<_, Error>(TcpCounters::read(&pair.left)?.since(&before)["RetransSegs"]);
        let sent = machine::wait_until(|| again().is_ok_and(|segments| segments >= 3));
        lost.end()?;
        connection.reset()?;
        wait_until_quiet(&pair.left)?;
        let segments = again()?;
        let told = Stream::stop(netdiag)?;
        let missed = told.account("retransmit")?.missed;
        let mut facts = Facts::new();
        facts.note(format_args!("{forced}, {missed} missed: {:#?}", told.events));
        facts.holds("sent again", sent);
        // What no program was run for the socket's counter tells, which has no stack.
        let traced = |event: &&Value| event["retransmit"] != "other";
        let events: Vec<_> = told.of("retransmit").filter(traced).collect();
        let found = sum(events.iter().copied(), "segments") as i64;
        facts.holds(
            format_args!("{found} of {segments}"),
            found <= segments && found + missed as i64 >= segments,
        );
        for event in events {
            let frames = event["stack"].as_array().map(Vec::as_slice).unwrap_or_default();
            let frames: Vec<_> = frames.iter().filter_map(Value::as_str).collect();
            let begins = |name: &str| frames.iter().any(|frame| frame.starts_with(name));
            // The compiler may have put any into its caller.
            let who = ["__tcp_retransmit_skb", "tcp_retransmit_skb+0x"];
            let caller = ["tcp_retransmit_timer+0x", "tcp_send_loss_probe+0x"];
            let named = who.iter().chain(&caller).any(|name| begins(name));
            facts.holds(format_args!("stack: {event}"), named);
            facts.holds("by a timer", begins("tcp_write_timer"));
            // Where what failed is traced as well, its callers are called by a trampoline.
            let tracing =
                |frame: &&str| frame.starts_with("__traceiter") || frame.starts_with("bpf_");
            facts.equal("not that of the tracing", frames.first().filter(|f| tracing(f)), None);
        }
        facts.equal("stacks not taken", told.end["stacks_not_taken"].as_u64(), Some(0));
        told.at_rest(&mut facts)?;
        facts.finish();
    }
    Ok(())
}

/// A firewall drops a packet every now and then: its line is there at once.
#[test]
fn a_line_comes_at_once() -> Result<()> {
    require!(Feature::Nft);
    let _alone = alone();
    let pair = Pair::new()?;
    let mut netdiag = stream::start(&["--signals", "drop", "--kind", "drop", "--port", "83"])?;
    let fault = fault::drop_incoming(&pair.right, "udp dport 83 drop")?;
    let socket = pair.left.run(|| std::net::UdpSocket::bind("0.0.0.0:0"))?;
    let mut late = Vec::new();
    let pids = [netdiag.pid(), std::process::id()];
    let waited = || pids.map(waited_for_by).into_iter().sum::<Result<Duration>>();
    for lines in 1..=5 {
        let before = waited()?;
        let sent = Instant::now();
        socket.send_to(b"netdiag", (RIGHT_V4, 83))?;
        netdiag.wait_lines_in_all(lines)?;
        let took = sent.elapsed();
        late.push((took, waited()?.saturating_sub(before)));
    }
    fault.end()?;
    let told = Stream::stop(netdiag)?;
    let mut facts = Facts::new();
    facts.note(format_args!("late by so much, of it without a processor: {late:?}"));
    facts.equal("events", told.events.len(), 5);
    if !machine::emulated() {
        // Twice the pace.
        let soon = Duration::from_millis(200);
        let soon = late.iter().filter(|(took, waited)| took.saturating_sub(*waited) < soon).count();
        facts.holds(format_args!("{soon} came at once"), soon >= 3);
    }
    told.at_rest(&mut facts)?;
    facts.finish();
    Ok(())
}

/// Connections that are made, refused and given up, of whom and for how long.
#[test]
fn connections_are_told_from_connect_to_close() -> Result<()> {
    require!(Feature::Nft);
    let _alone = alone();
    let pair = Pair::new()?;
    let netdiag = stream::start(&["--kind", "connect,close", "--netns", pair.left.name()])?;
    let connection = Connection::open(&pair.left, &pair.right, Family::V4)?;
    let end = connection.client_end()?;
    send_once(&connection.client, b"0123456789")?;
    connection.reset()?;
    let refused: SocketAddr = (RIGHT_V4, 81).into();
    let no = pair.left.run(|| TcpStream::connect(refused));
    let lost = fault::drop_incoming(&pair.right, "tcp dport 82 drop")?;
    let silent: SocketAddr = (RIGHT_V4, 82).into();
    let waited = Duration::from_millis(300);
    let given_up = pair.left.run(|| TcpStream::connect_timeout(&silent, waited));
    lost.end()?;
    wait_until_quiet(&pair.left)?;
    let told = Stream::stop(netdiag)?;
    let mut facts = Facts::new();
    facts.note(format_args!("{:#?}", told.events));
    facts.holds("two fail", no.is_err() && given_up.is_err());
    let one = |kind: &str, peer| {
        let found: Vec<_> = told.of(kind).filter(|event| is_at(event, "peer", peer)).collect();
        match found[..] {
            [event] => Ok(event),
            _ => anyhow::bail!("{kind} {peer}: {found:?} in {:?}", told.events),
        }
    };
    let number = |event: &Value, field: &str| event[field].as_u64().unwrap_or_default();
    let made = one("connect", end.peer)?;
    facts.holds("this end", is_at(made, "local", end.local));
    facts.equal(
        "its owner",
        made["flow"]["owner"]["pid"].as_u64(),
        Some(std::process::id().into()),
    );
    facts.equal("no error", &made["error"], &Value::Null);
    let handshake = number(made, "latency_ns");
    facts.holds("handshake", (1_000..machine::patience().as_nanos() as u64).contains(&handshake));
    let closed = one("close", end.peer)?;
    facts.equal("the same flow", &closed["flow"]["id"], &made["flow"]["id"]);
    facts.holds("lifetime", number(closed, "lifetime_ns") >= handshake);
    facts.equal("bytes sent", closed["counts"]["bytes_sent"].as_u64(), Some(10));
    let failed = one("connect", refused)?;
    facts.equal("why", &failed["error"], &"ECONNREFUSED".into());
    facts.holds("its port", number(&failed["flow"]["local"], "port") > 0);
    facts.holds("time", number(failed, "latency_ns") > 0);
    let silent = one("connect", silent)?;
    facts.equal("given up", &silent["error"], &"closed".into());
    facts.holds("time waited", number(silent, "latency_ns") >= 300_000_000);
    let kinds = ["connect", "close"].map(|kind| told.of(kind).count());
    facts.equal(
        "only those kinds, of that namespace",
        kinds.iter().sum::<usize>(),
        told.events.len(),
    );
    let elsewhere = told.events.iter().filter(|event| !is_in(event, pair.left.inode()));
    facts.equal("elsewhere", elsewhere.count(), 0);
    told.at_rest(&mut facts)?;
    facts.finish();
    Ok(())
}

#[test]
fn filters_narrow_events() -> Result<()> {
    require!(Feature::Nft);
    let _alone = alone();
    let pair = Pair::new()?;
    let own = std::process::id().to_string();
    let cases: [(&[&str], u64, u64); 6] = [
        // A packet whose ends nobody knows passes when either order of them does.
        (&["--peer-port", "83"], 3, 0),
        (&["--local-port", "83"], 3, 0),
        (&["--port", "83,84"], 3, 2),
        (&["--netns", pair.right.name(), "--port", "83,84"], 3, 2),
        (&["--peer", "192.0.2.1"], 0, 0),
        // Whose a packet without a socket was nobody knows.
        (&["--pid", &own, "--port", "83,84"], 0, 0),
    ];
    for (arguments, to_83, to_84) in cases {
        let mut all = vec!["--signals", "drop", "--kind", "drop"];
        all.extend(arguments);
        let netdiag = stream::start(&all)?;
        let fault = fault::drop_incoming(&pair.right, "udp dport { 83, 84 } counter drop")?;
        let socket = pair.left.run(|| std::net::UdpSocket::bind("0.0.0.0:0"))?;
        for _ in 0..3 {
            socket.send_to(b"netdiag", (RIGHT_V4, 83))?;
        }
        for _ in 0..2 {
            socket.send_to(b"netdiag", (RIGHT_V4, 84))?;
        }
        pair.wait_until_received()?;
        let counted = dropping::counted(&pair.right)?;
        fault.end()?;
        let told = Stream::stop(netdiag)?;
        let at = |port: u16| {
            let to = (RIGHT_V4, port).into();
            let of_port = told.events.iter().filter(move |event| is_at(event, "local", to));
            sum(of_port, "packets")
        };
        let mut facts = Facts::new();
        facts.note(format_args!("{:#?}", told.events));
        facts.equal("packets, by the firewall", counted, 5);
        facts.equal(format_args!("{arguments:?}: to port 83"), at(83), to_83);
        facts.equal(format_args!("{arguments:?}: to port 84"), at(84), to_84);
        told.at_rest(&mut facts)?;
        facts.finish();
    }
    Ok(())
}

#[test]
fn a_listener_that_overflows_is_told() -> Result<()> {
    let _alone = alone();
    let pair = Pair::new()?;
    let netdiag = stream::start(&["--kind", "listen_overflow", "--netns", pair.right.name()])?;
    let (dropped, _listener) = dropping::overflowed(&pair)?;
    let told = Stream::stop(netdiag)?;
    let mut facts = Facts::new();
    facts.note(format_args!("{dropped:?}: {:#?}", told.events));
    facts.equal("requests dropped", sum(&told.events, "drops"), dropped.packets);
    for event in &told.events {
        facts.equal("kind", &event["kind"], &"listen_overflow".into());
        facts.holds("its place", is_at(event, "local", dropped.local));
        let owner = event["flow"]["owner"]["pid"].as_u64();
        facts.equal("its owner", owner, Some(std::process::id().into()));
    }
    told.at_rest(&mut facts)?;
    facts.finish();
    Ok(())
}

/// A line each, no wider than a terminal, and the sums at the end.
#[test]
fn text_is_for_people() -> Result<()> {
    require!(Feature::Nft);
    let _alone = alone();
    let mut netdiag = Netdiag::start(&["events", "--stack", "--limit", "0"])?;
    let (_pair, dropped) =
        CASES.iter().find(|case| case.name == "nftables in INPUT").context("a case")?.provoke()?;
    netdiag.wait_lines_in_all(1)?;
    let (status, lines, stderr) = netdiag.stop_text()?;
    let mut facts = Facts::new();
    facts.note(format_args!("{}\n{stderr:?}", lines.join("\n")));
    facts.equal("exit status", status.code(), Some(0));
    let local = dropped.local.to_string();
    let of_case = lines.iter().filter(|line| line.contains(" drop ") && line.contains(&local));
    facts.equal("lines", of_case.count() as u64, dropped.packets);
    facts.holds("stacks", lines.iter().any(|line| line.starts_with("    nf_hook_slow+0x")));
    facts.holds("sums", lines.iter().any(|line| line.starts_with("samples since the start")));
    let widest = lines.iter().map(|line| line.chars().count()).max().unwrap_or(0);
    facts.holds(format_args!("{widest} columns"), widest <= 80);
    facts.finish();
    Ok(())
}
