//! Where the kernel tells by itself: namespaces come and go, and some do not tell.

use std::{fs, net::UdpSocket};

use anyhow::{Context as _, Result};
use netdiag_tests::{
    conntrack::{Rules, track},
    facts::Facts,
    machine,
    netdiag::Netdiag,
    network::{Pair, RIGHT_V4},
    outcome::status,
    require,
    requirement::{Feature, alone},
    usage::descriptors,
};

use crate::{CTNETLINK, listening, sources};

/// One datagram from a new port of the left end.
fn datagram(pair: &Pair) -> Result<()> {
    pair.left.run(|| {
        UdpSocket::bind(("0.0.0.0", 0))?.send_to(b"x", (RIGHT_V4, 9))?;
        Ok(())
    })
}

#[test]
fn namespaces_are_followed_and_let_go() -> Result<()> {
    require!(Feature::Nft);
    require!(Feature::Conntrack);
    let _alone = alone();
    sources()?;
    let mut netdiag = Netdiag::live_by(CTNETLINK, &[])?;
    netdiag.wait_lines(1)?;
    let before = descriptors(netdiag.pid())?;
    let pair = Pair::new()?;
    track(&pair, Rules::Plain)?;
    let netns = Some(pair.left.inode());
    netdiag.wait_outcome("an entry of a namespace that is new", |outcome| {
        let sent = datagram(&pair);
        let mut told = outcome.snapshots.iter().filter_map(|snapshot| snapshot.conntrack.as_ref());
        sent.is_ok() && told.any(|told| told.entries.iter().any(|entry| entry.netns == netns))
    })?;
    let listening = descriptors(netdiag.pid())?;
    drop(pair);
    // A socket would keep it, and the interfaces in it, for as long as netdiag runs.
    let let_go = machine::wait_until(|| descriptors(netdiag.pid()).is_ok_and(|now| now <= before));
    let outcome = netdiag.stop()?;
    let mut facts = Facts::new();
    facts.holds(format_args!("{before} descriptors became {listening}"), listening > before);
    facts.holds("namespaces that are gone are let go", let_go);
    facts.at_rest(outcome.total()?);
    facts.finish();
    Ok(())
}

#[test]
fn a_namespace_that_does_not_tell_is_named_once() -> Result<()> {
    require!(Feature::Nft);
    require!(Feature::Conntrack);
    let _alone = alone();
    let pair = listening()?;
    let silent = "/proc/sys/net/netfilter/nf_conntrack_events";
    pair.left.run(|| fs::write(silent, "0")).context(silent)?;
    let mut netdiag = Netdiag::live_by(CTNETLINK, &[])?;
    netdiag.wait_said("nf_conntrack_events is 0")?;
    netdiag.wait_lines(4)?;
    let outcome = netdiag.stop()?;
    let mut facts = Facts::new();
    let said = outcome.stderr.iter().filter(|line| line.contains("nf_conntrack_events"));
    let said: Vec<_> = said.collect();
    facts.equal(format_args!("times that it is said: {said:?}"), said.len(), 1);
    let name = pair.left.name();
    facts.holds(format_args!("it names {name}"), said.iter().all(|line| line.contains(name)));
    facts.finish();
    Ok(())
}

/// The kernel's own word has no process.
#[test]
fn a_filter_by_process_leaves_nothing_to_listen_to() -> Result<()> {
    require!(Feature::Nft);
    require!(Feature::Conntrack);
    let _alone = alone();
    let pid = std::process::id().to_string();
    for forced in sources()?.iter().filter(|forced| forced.ends_with("packets")) {
        let outcome = Netdiag::live_by(forced, &["--pid", &pid])?.stop()?;
        let total = outcome.total()?;
        let said = status(total, "conntrack")?;
        let mut facts = Facts::new();
        facts.note(format_args!("{said:?}"));
        let says = |line: &String| line.contains("ctnetlink names no process");
        facts.holds("it is said", said.missing.iter().any(says));
        let conntrack = total.conntrack.as_ref().context("nothing of conntrack")?;
        for name in ["confirmed", "destroyed", "new"] {
            facts.equal(name, conntrack.other.counts[name], None);
        }
        facts.equal("refusals", conntrack.other.counts["table_full"], Some(0));
        facts.finish();
    }
    Ok(())
}
