//! `netdiag events --pcap`: what it writes, read by tshark and scapy, and where it writes.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use netdiag_tests::{
    capture::{self, Frame, Packet},
    counters::{TcpCounters, wait_until_quiet},
    disk::Disk,
    dropping::CASES,
    facts::Facts,
    fault, machine,
    namespace::Namespace,
    netdiag::{Netdiag, binary, command, run, run_command},
    network::Pair,
    outcome::RETRANSMITS,
    require,
    requirement::{Feature, alone},
    stream::{self, Stream, time},
    tool,
    traffic::{Connection, End, Family, name_process, send_once},
};
use serde_json::Value;

/// Clears the screen, begins a line, turns the direction of writing, and takes four bytes: 12 of 15 that there
/// are in the name of a process.
const EVIL: &str = "\u{1b}[2J\n\u{202e}\u{1f980}";

const IN: u64 = 1;
const OUT: u64 = 2;
const ACK: u64 = 0x10;
const RST: u64 = 0x04;

/// Sends data that is lost until it was sent again a few times, and resets the connection. Returns its client and
/// how many bytes were lost.
fn lose(pair: &Pair, family: Family) -> Result<(End, u64)> {
    const LOST: &[u8] = b"lost on the way";
    let connection = Connection::open(&pair.left, &pair.right, family)?;
    let client = connection.client_end()?;
    let before = TcpCounters::read(&pair.left)?;
    let lost = fault::drop_incoming(&pair.right, "meta l4proto tcp drop")?;
    send_once(&connection.client, LOST)?;
    // One more than is looked for: the link's own connection may have had something on the way.
    machine::wait_until(|| {
        TcpCounters::read(&pair.left).is_ok_and(|now| now.since(&before)["RetransSegs"] >= 3)
    });
    lost.end()?;
    connection.reset()?;
    wait_until_quiet(&pair.left)?;
    Ok((client, LOST.len() as u64))
}

fn of_kind<'a>(frames: &'a [Frame], kind: &str) -> Vec<&'a Frame> {
    let start = format!("{kind} ");
    frames.iter().filter(|frame| frame.packet.comment.starts_with(&start)).collect()
}

/// The findings that a packet's comment names.
fn counts_for(packet: &Packet) -> Vec<&str> {
    let parts = packet.comment.split("; ").filter_map(|part| part.strip_prefix("counts for "));
    parts.flat_map(|findings| findings.split(", ")).collect()
}

/// Packets of a kind in a namespace, from an end or to it.
fn at(frames: &[Frame], kind: &str, netns: u32, from: SocketAddr, direction: u64) -> Vec<Packet> {
    let interface = format!("netns:{netns}");
    of_kind(frames, kind)
        .into_iter()
        .filter(|frame| frame.interface == interface && frame.direction == direction)
        .map(|frame| frame.packet.clone())
        .filter(|packet| match direction {
            IN => packet.destination == from,
            _ => packet.source == from,
        })
        .collect()
}

#[test]
fn what_was_lost_is_read_by_tshark_and_scapy() -> Result<()> {
    require!(Feature::Nft);
    require!(Feature::PacketReaders);
    let _alone = alone();
    name_process(EVIL)?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("lost.pcapng");
    let path = file.to_string_lossy().into_owned();
    let began = Timestamp::now();
    let kinds = ["--kind", "drop,retransmit,reset", "--limit", "0", "--pcap", &path];
    let netdiag = stream::start(&kinds)?;
    let mut dropped = Vec::new();
    for name in ["nftables in INPUT", "nftables in OUTPUT"] {
        let case = CASES.iter().find(|case| case.name == name).context(name)?;
        dropped.push(case.provoke()?);
    }
    // Whoever follows the file has them soon, and whole.
    let expected = dropped.iter().map(|(_, dropped)| dropped.packets).sum::<u64>() as usize;
    let followed = machine::wait_until(|| {
        capture::tshark(&file).is_ok_and(|frames| of_kind(&frames, "drop").len() >= expected)
    });
    let pair = Pair::new()?;
    let lost = [lose(&pair, Family::V4)?, lose(&pair, Family::V6)?];
    let told = Stream::stop(netdiag)?;
    let ended = Timestamp::now();
    let frames = capture::tshark(&file)?;
    let mut facts = Facts::new();
    facts.note(format_args!("{frames:#?}\n{:?}", told.stderr));
    facts.holds("the file could be followed", followed);
    let mode = fs::metadata(&file)?.permissions().mode();
    facts.equal("mode", mode & 0o7777, 0o600);
    // The same packets in both readers, in the order of the lines.
    let packets: Vec<_> = frames.iter().map(|frame| frame.packet.clone()).collect();
    facts.equal("scapy", &capture::scapy(&file)?, &packets);
    let with_packet = |event: &&Value| event["retransmit"] != "other" || !event["seq"].is_null();
    let events: Vec<_> = told.events.iter().filter(with_packet).collect();
    facts.equal("as many as lines", packets.len(), events.len());
    for (event, frame) in events.iter().zip(&frames) {
        let kind = event["kind"].as_str().context("a kind")?;
        let Packet { comment, time_ns, source, destination, .. } = &frame.packet;
        facts.holds(format_args!("{comment}: {event}"), comment.starts_with(kind));
        let when = time(event)?;
        facts.equal("its time", i128::from(*time_ns), when.as_nanosecond());
        facts.holds("within the run", began <= when && when <= ended);
        let ends: BTreeSet<_> = [source, destination].map(ToString::to_string).into();
        let ip = |end| event["flow"][end]["ip"].as_str();
        // The address of nobody is null.
        let is_v6 = ["local", "peer"].iter().any(|end| ip(*end).is_some_and(|ip| ip.contains(':')));
        let nobody = if is_v6 { "::" } else { "0.0.0.0" };
        let flow = ["local", "peer"].map(|end| {
            let (ip, port) = (ip(end).unwrap_or(nobody), event["flow"][end]["port"].as_u64());
            match ip.contains(':') {
                true => format!("[{ip}]:{}", port.unwrap_or(0)),
                false => format!("{ip}:{}", port.unwrap_or(0)),
            }
        });
        facts.equal("its ends", ends, flow.into());
        facts.equal("interface", &frame.interface, &format!("netns:{}", event["flow"]["netns"]));
        facts.holds("checksum", frame.has_right_checksum != Some(false));
        let harmful = |c: char| c.is_control() || c == '\u{202e}';
        facts.holds(format_args!("{comment:?} is harmless"), !comment.contains(harmful));
        facts.holds(
            format_args!("{comment} says so"),
            comment.contains("; synthetic: made of its "),
        );
    }
    for (way, (_pair, dropped)) in [IN, OUT].into_iter().zip(&dropped) {
        let of_case = at(&frames, "drop", dropped.netns, dropped.local, way);
        facts.equal(format_args!("{dropped:?}, {way}"), of_case.len() as u64, dropped.packets);
        // IPv4, UDP, and the word.
        facts.holds("lengths", of_case.iter().all(|packet| packet.length == 20 + 8 + 7));
        let by_firewall = of_case.iter().all(|packet| counts_for(packet) == ["firewall-drop"]);
        facts.holds("they count for the firewall", by_firewall);
    }
    let [left, right] = [&pair.left, &pair.right].map(Namespace::inode);
    for (client, bytes) in lost {
        let headers = if client.local.is_ipv4() { 40 } else { 60 };
        let again = at(&frames, "retransmit", left, client.local, OUT);
        let again: Vec<_> =
            again.iter().filter(|packet| packet.destination == client.peer).collect();
        facts.holds(format_args!("{} sent again", again.len()), again.len() >= 2);
        for packet in again {
            let kind = packet.comment.split(' ').nth(1).unwrap_or_default();
            facts.holds(format_args!("kind {kind}"), RETRANSMITS.contains(&kind));
            let of_loss: &[&str] = match kind {
                "rto" => &["pmtu-black-hole", "half-open-peer", "packet-loss"],
                "fast" => &["packet-loss"],
                _ => &[],
            };
            facts.equal(format_args!("{kind} counts for"), &counts_for(packet)[..], of_loss);
            facts.equal("flags", packet.flags, Some(ACK));
            facts.equal("length", packet.length, headers + bytes);
            facts.holds("a sequence number", packet.seq.is_some());
            let owner = format!("\u{fffd}[2J\u{fffd}\u{fffd}\u{1f980}/{}", std::process::id());
            facts.holds(
                format_args!("{} has {owner:?}", packet.comment),
                packet.comment.contains(&owner),
            );
        }
        for (netns, from, way) in [(left, client.local, OUT), (right, client.peer, IN)] {
            let resets = at(&frames, "reset", netns, from, way);
            facts.holds(format_args!("resets of {client:?}, {way}"), !resets.is_empty());
            facts.holds("their flag", resets.iter().all(|packet| packet.flags == Some(RST)));
            // The client sent them, and no server cut it off.
            let counts = resets.iter().flat_map(counts_for).collect::<Vec<_>>();
            facts.equal("they count for", counts, vec![]);
        }
    }
    let described = tool::run("capinfos", &[&path])?;
    let uname = rustix::system::uname();
    let kernel = format!("Linux {}", uname.release().to_string_lossy());
    for words in ["netdiag 0.", "nanoseconds (9)", &kernel, &uname.machine().to_string_lossy()] {
        facts.holds(format_args!("{words} in {described}"), described.contains(words));
    }
    told.at_rest(&mut facts)?;
    facts.finish();
    Ok(())
}

/// Standard output has packets and nothing else; how many of them a limit leaves out is said at the end.
#[test]
fn standard_output_may_be_the_file() -> Result<()> {
    const SCRIPT: &str =
        "exec \"$0\" events --kind drop --port 83 --limit \"$1\" --pcap - > \"$2\"";
    require!(Feature::Nft);
    require!(Feature::PacketReaders);
    let _alone = alone();
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("out");
    let case = CASES.iter().find(|case| case.name == "nftables in INPUT").context("a case")?;
    let mut facts = Facts::new();
    // Of packets that come at once, one a second lets not all pass.
    for limit in ["1000", "1"] {
        let mut shell = Command::new("sh");
        shell.args(["-c", SCRIPT]).arg(binary()?).arg(limit).arg(&file);
        let netdiag = Netdiag::start_by(shell)?;
        let (_pair, dropped) = case.provoke()?;
        let (status, lines, stderr) = netdiag.stop_text()?;
        let frames = capture::tshark(&file)?;
        facts.note(format_args!("--limit {limit}: {stderr:?}"));
        facts.equal("exit status", status.code(), Some(0));
        facts.equal("lines", lines.len(), 0);
        let told = at(&frames, "drop", dropped.netns, dropped.local, IN).len() as u64;
        let left_out = dropped.packets.saturating_sub(told);
        facts.holds(
            format_args!("{told} packets of {dropped:?}"),
            (1..=dropped.packets).contains(&told),
        );
        facts.equal("some are left out", left_out > 0, limit == "1");
        let said = |words: &str| stderr.iter().any(|line| line.contains(words));
        facts.holds("how it ended is said", said("--pcap -: ") && said("complete: yes"));
        facts.equal("that some are", said("left out"), left_out > 0);
        let how_many = said(&format!(" packets; {left_out} events more were left out by --limit"));
        facts.equal("and how many", how_many, left_out > 0);
    }
    facts.finish();
    Ok(())
}

/// A name that is taken is nobody's to write to, wherever it leads.
#[test]
fn files_of_others_stay_as_they_are() -> Result<()> {
    let _alone = alone();
    let directory = tempfile::tempdir()?;
    let path = |name: &str| directory.path().join(name).to_string_lossy().into_owned();
    let (taken, link, elsewhere) = (path("taken"), path("link"), path("elsewhere"));
    fs::write(&taken, "precious")?;
    symlink(&elsewhere, &link)?;
    let (missing, fresh) = (path("missing/file"), path("fresh"));
    let mut facts = Facts::new();
    for (arguments, word) in [
        (&["--pcap", taken.as_str()][..], "File exists"),
        (&["--pcap", &link], "File exists"),
        (&["--pcap", &missing], "No such file"),
        (&["--pcap", "-", "-o", "json"], "--output"),
        (&["--pcap", "-", "--stack"], "--stack"),
        (&["--pcap", &fresh, "--kind", "dns"], "drop"),
    ] {
        let output = run(&[&["events", "-d", "1s"], arguments].concat())?;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        facts.equal(format_args!("{arguments:?}: {stderr}"), output.status.code(), Some(2));
        facts.holds(format_args!("{stderr} names {word}"), stderr.contains(word));
        facts.equal("lines", stderr.lines().count(), 1);
        facts.equal("bytes on standard output", output.stdout.len(), 0);
    }
    facts.equal("what was there", fs::read_to_string(&taken)?, "precious".to_owned());
    for absent in [&elsewhere, &fresh] {
        facts.holds(format_args!("{absent} is not there"), !Path::new(absent).exists());
    }
    facts.finish();
    Ok(())
}

/// What comes of nothing is not in the way of the next attempt.
#[test]
fn nothing_is_left_of_a_run_that_did_not_begin() -> Result<()> {
    require!(Feature::Setpriv);
    let _alone = alone();
    let directory = tempfile::tempdir()?;
    let (copy, file) = (directory.path().join("netdiag"), directory.path().join("file"));
    fs::copy(binary()?, &copy)?;
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777))?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
    let mut setpriv = tool::command("setpriv")?;
    setpriv.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&copy);
    setpriv.args(["events", "--pcap"]).arg(&file);
    // Which is noticed later.
    let types = directory.path().join("types");
    fs::write(&types, [0x5a_u8; 5_000])?;
    let mut without_types = command(&["events", "--btf"])?;
    without_types.arg(&types).arg("--pcap").arg(&file);
    let mut facts = Facts::new();
    for (what, attempt) in [("no privilege", setpriv), ("no types", without_types)] {
        let output = run_command(attempt)?;
        facts.note(String::from_utf8_lossy(&output.stderr));
        facts.equal(format_args!("{what}: exit status"), output.status.code(), Some(3));
        facts.holds(format_args!("{what}: no file"), !file.exists());
    }
    facts.finish();
    Ok(())
}

/// A disk without room is no reason to stop.
#[test]
fn a_full_disk_is_said_and_tracing_goes_on() -> Result<()> {
    require!(Feature::Nft);
    let _alone = alone();
    let directory = tempfile::tempdir()?;
    // Smaller than what is left to others.
    let disk = Disk::mount(directory.path(), "size=1m")?;
    let file = directory.path().join("file");
    let path = file.to_string_lossy().into_owned();
    let netdiag = stream::start(&["--kind", "drop", "--pcap", &path])?;
    let case = CASES.iter().find(|case| case.name == "nftables in INPUT").context("a case")?;
    let (_pair, dropped) = case.provoke()?;
    let told = Stream::stop(netdiag)?;
    let mut facts = Facts::new();
    let said = |words: &str| told.stderr.iter().filter(|line| line.contains(words)).count();
    facts.equal("said once", said("tracing goes on"), 1);
    facts.equal("what is missing is said", said("were left out for want of room"), 1);
    let lines = told.of("drop").filter(|event| stream::is_at(event, "local", dropped.local));
    facts.equal("lines", lines.count() as u64, dropped.packets);
    facts.equal("bytes of the file", fs::metadata(&file)?.len(), 0);
    told.at_rest(&mut facts)?;
    facts.finish();
    drop(disk);
    Ok(())
}
