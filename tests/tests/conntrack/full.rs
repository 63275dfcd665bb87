//! A table without room: every packet that it cost, and who filled it.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use netdiag::snapshot::{Conntrack, TopCreator};
use netdiag_tests::{
    conntrack::{
        Rules,
        full::{self, Full, Refused},
        said,
        table::Statistics,
        track,
    },
    counters::{TcpCounters, wait_until_quiet},
    dropping,
    facts::Facts,
    machine,
    namespace::Namespace,
    netdiag::Netdiag,
    network::Pair,
    outcome::{sent_again, status},
    require,
    requirement::{Feature, alone},
    traffic::{lossy, name_process},
};

use crate::{exact, sources_of_failures, sums};

/// What netdiag must say of one who was refused.
fn is_of(top: &TopCreator, netns: u32, refused: &Refused) -> bool {
    let creator = top.creator.as_ref();
    top.netns == Some(netns)
        && said::end(&top.destination) == Some(refused.destination)
        && creator.and_then(|creator| creator.pid) == Some(refused.pid)
        && creator.and_then(|creator| creator.comm.as_ref()) == Some(&refused.comm)
        && top.table_full == Some(refused.datagrams)
}

/// Packets that went there and found no room, over all rows.
fn refused_there(said: &Conntrack, refused: &Refused) -> u64 {
    let there = said
        .entries
        .iter()
        .filter(|row| said::end(&row.original.destination) == Some(refused.destination));
    there.filter_map(|row| said::count(row, "table_full")).sum()
}

#[test]
fn a_full_table_tells_each_packet_and_who_sent_it() -> Result<()> {
    require!(Feature::Nft);
    require!(Feature::Conntrack);
    require!(Feature::NoneTracked);
    let _alone = alone();
    name_process("nd-traffic")?;
    for forced in sources_of_failures()? {
        let pair = Pair::new()?;
        track(&pair, Rules::Plain)?;
        let full = Full::new(&pair)?;
        let netdiag = Netdiag::live_by(&forced, &[])?;
        let earlier = Statistics::read(&pair.left)?;
        let (many, few) = (full::by_shell(&pair, 83, 40)?, full::by_socket(&pair, 84, 10)?);
        let risen = Statistics::read(&pair.left)?.since(&earlier);
        let (outcome, said) = said::stop(netdiag)?;
        drop(full);
        let total = outcome.total()?;
        let ours = [pair.left.inode()];
        let mut facts = Facts::new();
        facts.note(format_args!("{forced}: {:?}", status(total, "conntrack")?));
        facts.note(format_args!("{many:?}, {few:?}, {risen:?}: {said:#?}"));
        facts.equal("refused, by the kernel", risen.table_full(), many.datagrams + few.datagrams);
        facts.equal(
            "refused, by netdiag",
            said::sum_in(&said, &ours, "table_full")?,
            Some(risen.table_full()),
        );
        for refused in [&many, &few] {
            let found = refused_there(&said, refused);
            facts.equal(format_args!("of {refused:?}"), found, refused.datagrams);
            let creators = &said.creators;
            let found = creators.iter().filter(|one| is_of(one, pair.left.inode(), refused));
            facts.equal(format_args!("creators that are {refused:?}"), found.count(), 1);
        }
        let first = said.creators.first().and_then(|top| top.creator.as_ref()?.pid);
        facts.equal("the first creator", first, Some(many.pid));
        if forced == "conntrack=kprobe" {
            let expected = [0, 0, 0, 0, risen.table_full(), 0, 0].map(Some);
            facts.equal("sums", sums(&said, &ours)?, expected);
        } else {
            let new = said::sum_in(&said, &ours, "new")?;
            facts.equal("new ones, which packets do not tell", new, None);
        }
        exact(&mut facts, total)?;
        facts.finish();
    }
    Ok(())
}

#[test]
fn entries_that_gave_way() -> Result<()> {
    require!(Feature::Nft);
    require!(Feature::Conntrack);
    require!(Feature::NoneTracked);
    require!(Feature::Kprobes);
    let _alone = alone();
    let pair = Pair::new()?;
    track(&pair, Rules::Plain)?;
    let netdiag = Netdiag::live_by("conntrack=kprobe", &[])?;
    let earlier = Statistics::read(&pair.left)?;
    let crowd = full::crowd(&pair)?;
    let risen = Statistics::read(&pair.left)?.since(&earlier);
    let (outcome, said) = said::stop(netdiag)?;
    let total = outcome.total()?;
    let mut facts = Facts::new();
    facts.note(format_args!("{crowd:?}, {risen:?}; {} rows", said.entries.len()));
    facts.holds("some gave way", risen["early_drop"] > 20);
    let made = crowd.begun - crowd.refused;
    let early = risen["early_drop"];
    let expected = [made, made, 0, 0, risen.table_full(), early, early].map(Some);
    facts.equal("sums", sums(&said, &[pair.left.inode()])?, expected);
    let created: u64 = said
        .creators
        .iter()
        .filter(|top| top.creator.as_ref().and_then(|by| by.pid) == Some(std::process::id()))
        .filter_map(|top| top.new)
        .sum();
    facts.holds(format_args!("{created} of {made} are this process's"), {
        0 < created && created <= made
    });
    exact(&mut facts, total)?;
    facts.finish();
    Ok(())
}

/// Beside it nothing of other rare events is lost, and it is counted to the packet.
#[test]
fn a_flood_of_refusals_displaces_nothing() -> Result<()> {
    require!(Feature::Nft);
    require!(Feature::Conntrack);
    require!(Feature::NoneTracked);
    /// Records of refusals (`most_handed`, netdiag-ebpf/src/signal/conntrack.rs).
    const HANDED: u64 = 512;
    let _alone = alone();
    for forced in sources_of_failures()? {
        let (flooded, lossy) = (Pair::new()?, Pair::new()?);
        lossy.without_offload()?;
        let namespaces = [&lossy.left, &lossy.right];
        track(&flooded, Rules::Plain)?;
        let full = Full::new(&flooded)?;
        let mut netdiag = Netdiag::live(&["--source", &forced])?;
        netdiag.wait_lines(1)?;
        let before = namespaces.map(TcpCounters::read).into_iter().collect::<Result<Vec<_>>>()?;
        let earlier = Statistics::read(&flooded.left)?;
        let end = AtomicBool::new(false);
        let began = Instant::now();
        // An emulated machine would flood itself for minutes, were it to last as long as the traffic beside it.
        let (refused, lasted) = thread::scope(|scope| -> Result<_> {
            let flood = scope.spawn(|| full::flood(&flooded, &end).map(|n| (n, began.elapsed())));
            scope.spawn(|| {
                thread::sleep(Duration::from_secs(5));
                end.store(true, Ordering::Relaxed);
            });
            let traffic = lossy::bulk(&lossy);
            let refused = flood.join().map_err(|_| anyhow!("the flood panicked"))??;
            traffic.map(|_| refused)
        })?;
        for namespace in namespaces {
            wait_until_quiet(namespace)?;
        }
        let after = namespaces.map(TcpCounters::read).into_iter().collect::<Result<Vec<_>>>()?;
        let risen = Statistics::read(&flooded.left)?.since(&earlier);
        netdiag.wait_lines(2)?;
        let (outcome, said) = said::stop(netdiag)?;
        drop(full);
        let total = outcome.total()?;
        let mut facts = Facts::new();
        facts.note(format_args!("{forced}: {refused} refused in {lasted:?}, {risen:?}"));
        facts.note(format_args!("{} rows, {:#?}", said.entries.len(), said.creators));
        let one_by_one = dropping::one_by_one(HANDED, lasted);
        facts.holds(
            format_args!("many times the {one_by_one} that were told had each its record"),
            refused > machine::amount(2 * one_by_one, 100),
        );
        facts.equal("refused, by the kernel", risen.table_full(), refused);
        // A locked-down kernel may hide a task, and what it is refused. A program that sees all packets
        // that are freed is skipped inside itself, for whatever packet; kprobes are not.
        let account = total.accounting.get("conntrack").context("no account of conntrack")?;
        let exact = machine::emulated() && forced == "conntrack=kprobe";
        let hidden = if exact { 0 } else { account.missed };
        facts.equal("samples of conntrack lost", account.lost() - hidden, 0);
        let counted = said::sum_in(&said, &[flooded.left.inode()], "table_full")?
            .context("packets without room are unknown")?;
        let dark = refused.saturating_sub(counted);
        facts.equal("refused, by netdiag", counted + dark.min(hidden), refused);
        if !machine::emulated() {
            facts.holds(
                format_args!("{dark} that nobody counted are next to nothing"),
                dark * 10_000 <= refused,
            );
        }
        let elsewhere = [&flooded.right, &lossy.left, &lossy.right].map(Namespace::inode);
        let elsewhere = said
            .entries
            .iter()
            .filter(|row| row.netns.is_none_or(|netns| elsewhere.contains(&netns)));
        let elsewhere: u64 = elsewhere.filter_map(|row| said::count(row, "table_full")).sum();
        facts.equal("refused in other namespaces", elsewhere, 0);
        let pid = std::process::id();
        let top = said.creators.first();
        facts.equal("the first creator", top.and_then(|top| top.creator.as_ref()?.pid), Some(pid));
        let again = sent_again(total, &namespaces.map(Namespace::inode)) as i64;
        let kernel: i64 = after.iter().zip(&before).map(|(a, b)| a.since(b)["RetransSegs"]).sum();
        facts.holds("segments were sent again", kernel > 0);
        facts.equal("segments sent again", again, kernel);
        facts.at_rest(total);
        facts.finish();
    }
    Ok(())
}
