//! Floods: lines are limited and nothing waits for their reader, but every packet is counted.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use netdiag_tests::{
    dropping,
    facts::Facts,
    machine,
    network::Pair,
    require,
    requirement::{Feature, alone},
    stream::{self, Stream, sum, time},
    witness::Witness,
};

/// That what is told and what is left out are all packets there were. A locked-down kernel hides some
/// from all tracing, which its own count of the tracepoint tells; Debian's hide none.
fn adds_up(facts: &mut Facts, told: &Stream, packets: u64, freed: &mut Witness) -> Result<()> {
    let left_out = told.suppressed.get("drop").copied().unwrap_or(0);
    let found = sum(&told.events, "packets") + left_out;
    let (hits, seen) = (freed.hits()?, told.account("drop")?.seen);
    let dark = packets.saturating_sub(found);
    facts.note(format_args!("{hits} hits of the tracepoint, {seen} seen"));
    facts.equal("packets", found + machine::amount(dark, 0), packets);
    facts.holds(
        format_args!("for {dark} of them the programs were not run"),
        dark <= hits.saturating_sub(seen),
    );
    facts.holds(format_args!("{dark} of {packets} are next to nothing"), dark * 10_000 <= packets);
    Ok(())
}

/// Lines are limited, packets are not: what is told and what is left out are all there were.
#[test]
fn a_flood_is_limited_and_adds_up() -> Result<()> {
    require!(Feature::Nft);
    /// Of 100 a second half are for whoever comes first, and half of the others for drops alone.
    const LINES: u64 = 75;
    let _alone = alone();
    let pair = Pair::new()?;
    for stack in [&[][..], &["--stack"]] {
        let mut arguments = vec!["--kind", "drop,retransmit", "--port", "83", "--limit", "100"];
        arguments.extend(stack);
        // It sees at least what netdiag sees: it is there before, and after.
        let mut freed = Witness::of("skb", "kfree_skb", None)?;
        let netdiag = stream::start(&arguments)?;
        let began = Instant::now();
        let packets = flood(&pair, Duration::from_secs(4))?;
        let told = Stream::stop(netdiag)?;
        let mut facts = Facts::new();
        facts.note(format_args!("{stack:?}: {packets} packets in {:?}", began.elapsed()));
        adds_up(&mut facts, &told, packets, &mut freed)?;
        let left_out = told.suppressed.get("drop").copied().unwrap_or(0);
        facts.holds(format_args!("{left_out} left out"), left_out > 0);
        // A second begins where the last is over and the rings are read again, however late that is. From
        // the first event, by its own time, to the last word there are so many; one more, where the last
        // lines were read later than they happened.
        let times = told.events.iter().map(time).collect::<Result<Vec<_>>>()?;
        let (first, last) = (times.iter().min(), times.iter().max());
        let (first, last) = first.zip(last).context("no lines")?;
        let said_last = told.said.last().context("it was not said that lines were left out")?;
        let seconds = last.max(said_last).duration_since(*first).as_secs().unsigned_abs() + 1;
        let (lines, said) = (told.events.len() as u64, told.said.len() as u64);
        facts.holds(
            format_args!("{lines} lines in {seconds} seconds"),
            lines <= LINES * (seconds + 1),
        );
        // In each second, but for the last one, and at the end.
        let least = lines.div_ceil(LINES).saturating_sub(1).max(1);
        facts.holds(
            format_args!("it was said {said} times, at least {least}"),
            (least..=seconds + 2).contains(&said),
        );
        facts.equal("drops lost", told.account("drop")?.lost() - told.account("drop")?.missed, 0);
        told.at_rest(&mut facts)?;
        facts.finish();
    }
    Ok(())
}

/// All that threads send to port 83 for that long, by the firewall's counter.
fn flood(pair: &Pair, lasting: Duration) -> Result<u64> {
    let end = AtomicBool::new(false);
    thread::scope(|scope| {
        let flood = scope.spawn(|| dropping::flood(pair, &end));
        thread::sleep(lasting);
        end.store(true, Ordering::Relaxed);
        flood.join().expect("the flood panicked")
    })
}

/// While nobody reads its lines netdiag reads the rings, and says what it could not tell.
#[test]
fn a_reader_that_stands_still_stops_nothing() -> Result<()> {
    require!(Feature::Nft);
    let _alone = alone();
    let pair = Pair::new()?;
    let mut freed = Witness::of("skb", "kfree_skb", None)?;
    let netdiag = stream::start(&["--kind", "drop", "--port", "83", "--limit", "0"])?;
    netdiag.output().close();
    let packets = flood(&pair, Duration::from_secs(machine::amount(5, 20)))?;
    netdiag.output().open();
    let told = Stream::stop(netdiag)?;
    let mut facts = Facts::new();
    let left_out = told.suppressed.get("drop").copied().unwrap_or(0);
    facts.note(format_args!("{} lines, {left_out} packets left out", told.events.len()));
    adds_up(&mut facts, &told, packets, &mut freed)?;
    facts.equal("drops that found the ring full", told.account("drop")?.ring_full, 0);
    if !machine::emulated() {
        facts.holds("more than the queue holds", left_out > 0);
    }
    told.at_rest(&mut facts)?;
    facts.finish();
    Ok(())
}
