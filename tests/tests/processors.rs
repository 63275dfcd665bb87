//! Processors are switched off and on under netdiag: what it tells stays exact, and what one that is off holds is said.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use anyhow::{Context as _, Result, ensure};
use netdiag::snapshot::{Account, Snapshot};
use netdiag_tests::{
    attempt::{Spoilt, Watched, skipped, until_whole},
    counters::TcpCounters,
    dns::{Query, Server, ask_by_tcp, connect},
    facts::Facts,
    machine,
    namespace::Namespace,
    netdiag::Netdiag,
    network::{Pair, RIGHT_V4},
    outcome::{count, flow_of, in_namespaces, sent_again, sum},
    processor,
    random::Random,
    require,
    requirement::{Feature, alone},
    setting::Setting,
    source,
    traffic::{
        Connection, Family, lossy,
        request::{Exchange, exchange},
    },
};
use rustix::process::Signal;

/// The one that goes. The first of a machine may not.
const SECOND: usize = 1;

/// Both ends together send no multiple of what a batch has room for.
const SOME: Exchange = Exchange { sends: 100, bytes: 10, echo: true };

/// Samples that a batch has room for.
const BATCH: u64 = 64;

/// What is said of what it holds.
const HOLDS: &str = "CPU 1 is off and had samples";

/// netdiag by this source, which stands still, and a connection, both ends of which have sent meanwhile on a processor
/// that was switched off before it could hand over all of that.
fn frozen(forced: &str, namespace: &Namespace) -> Result<(Netdiag, Connection, Setting)> {
    let mut netdiag = Netdiag::live_by(forced, &["--netns", namespace.name()])?;
    let connection = Connection::open(namespace, namespace, Family::V4)?;
    netdiag.wait_lines(2)?;
    netdiag.freeze()?;
    processor::on(SECOND, || exchange([(&connection, SOME)]))?;
    let off = processor::switch_off(SECOND)?;
    Ok((netdiag, connection, off))
}

/// The same, once it goes on and has said so.
fn stranded(forced: &str, namespace: &Namespace) -> Result<(Netdiag, Connection, Setting)> {
    let (mut netdiag, connection, off) = frozen(forced, namespace)?;
    netdiag.signal(Signal::CONT)?;
    netdiag.wait_said(HOLDS)?;
    // The others do as ever.
    exchange([(&connection, SOME)])?;
    netdiag.wait_lines(2)?;
    Ok((netdiag, connection, off))
}

fn sends_of(snapshot: &Snapshot) -> Account {
    snapshot.accounting["send"]
}

/// That both ends have the sends that were made, but for those that are told to be missed.
fn judge(facts: &mut Facts, total: &Snapshot, connection: &Connection, made: usize) -> Result<()> {
    let mut seen = 0;
    for end in [connection.client_end()?, connection.server_end()?] {
        let sends = count(flow_of(total, &end)?, "sends").context("sends")?;
        facts.holds(format_args!("{sends} sends of {made}"), sends <= made as u64);
        seen += sends;
    }
    let account = sends_of(total);
    facts.holds(
        format_args!("{seen} sends of both ends; {account:?}"),
        seen + account.missed >= 2 * made as u64,
    );
    facts.at_rest(total);
    Ok(())
}

/// That some are missed of what a processor held; where the kernel skips none besides, no more than there is room for.
fn lost(facts: &mut Facts, forced: &str, total: &Snapshot) {
    let missed = sends_of(total).missed;
    let most = if source::may_skip(forced) { u64::MAX } else { BATCH };
    facts.holds(format_args!("{missed} are missed of what it held"), {
        (1..=most).contains(&missed)
    });
}

#[test]
fn a_processor_goes_with_samples_and_brings_them_back() -> Result<()> {
    require!(Feature::OwnProcessors);
    let _alone = alone();
    for forced in source::loading("send")? {
        let namespace = Namespace::new("hotplug")?;
        let (mut netdiag, connection, off) = stranded(&forced, &namespace)?;
        let during = netdiag.outcome(None)?;
        drop(off);
        netdiag.wait_outcome("that nothing waits any more", |outcome| {
            outcome.snapshots.last().is_some_and(|last| sends_of(last).pending == 0)
        })?;
        processor::on(SECOND, || exchange([(&connection, SOME)]))?;
        let outcome = netdiag.stop()?;
        let total = outcome.total()?;
        let mut facts = Facts::new();
        facts.note(format_args!("{forced}: {:?}", outcome.stderr));
        let last = during.snapshots.last().context("no interval")?;
        let account = sends_of(last);
        facts.holds(
            format_args!("{account:?} while it was off: what it holds is pending"),
            (1..=BATCH).contains(&account.pending),
        );
        outcome.snapshots.iter().for_each(|snapshot| facts.consistent(snapshot));
        judge(&mut facts, total, &connection, 3 * SOME.sends)?;
        if !source::may_skip(&forced) {
            facts.lossless(total);
        }
        facts.equal("exit status", outcome.code(), Some(0));
        facts.finish();
    }
    Ok(())
}

#[test]
fn what_a_processor_holds_that_stays_off_is_missed() -> Result<()> {
    require!(Feature::OwnProcessors);
    let _alone = alone();
    for forced in source::loading("send")? {
        let namespace = Namespace::new("hotplug")?;
        let (netdiag, connection, _off) = stranded(&forced, &namespace)?;
        let outcome = netdiag.stop()?;
        let total = outcome.total()?;
        let mut facts = Facts::new();
        facts.note(format_args!("{forced}: {:?}", outcome.stderr));
        lost(&mut facts, &forced, total);
        facts.equal("complete", total.complete, false);
        judge(&mut facts, total, &connection, 2 * SOME.sends)?;
        facts.equal("exit status", outcome.code(), Some(0));
        facts.finish();
    }
    Ok(())
}

/// Asked to end before it looks again, it has no other time to say so.
#[test]
fn what_a_processor_holds_at_the_end_is_said() -> Result<()> {
    require!(Feature::OwnProcessors);
    let _alone = alone();
    for forced in source::loading("send")? {
        let namespace = Namespace::new("hotplug")?;
        let (netdiag, connection, _off) = frozen(&forced, &namespace)?;
        netdiag.signal(Signal::INT)?;
        netdiag.signal(Signal::CONT)?;
        let outcome = netdiag.wait()?;
        let total = outcome.total()?;
        let mut facts = Facts::new();
        facts.note(format_args!("{forced}: {:?}", outcome.stderr));
        let said = outcome.stderr.iter().filter(|line| line.contains(HOLDS)).count();
        facts.equal("lines that say it", said, 1);
        lost(&mut facts, &forced, total);
        judge(&mut facts, total, &connection, SOME.sends)?;
        facts.equal("exit status", outcome.code(), Some(0));
        facts.finish();
    }
    Ok(())
}

/// Until it is told to stop.
fn go_and_come(over: &AtomicBool, random: &mut Random) -> Result<u64> {
    let mut times = 0;
    while !over.load(Ordering::Relaxed) {
        let off = processor::switch_off(SECOND)?;
        thread::sleep(random.pause());
        drop(off);
        thread::sleep(random.pause());
        times += 1;
    }
    Ok(times)
}

/// All signals, with traffic that loses packets, and a processor that comes and goes all the while.
#[test]
fn every_account_balances_while_a_processor_comes_and_goes() -> Result<()> {
    require!(Feature::OwnProcessors);
    let _alone = alone();
    let pair = Pair::new()?;
    let ours = [pair.left.inode(), pair.right.inode()];
    let filter = format!("{},{}", pair.left.name(), pair.right.name());
    let mut netdiag = Netdiag::live(&["--netns", &filter])?;
    let before = TcpCounters::read(&pair.left)?.plus(&TcpCounters::read(&pair.right)?);
    let (over, mut random) = (AtomicBool::new(false), Random::default());
    let times = thread::scope(|scope| {
        let moving = scope.spawn(|| go_and_come(&over, &mut random));
        let driven = lossy::data(&pair);
        over.store(true, Ordering::Relaxed);
        let times = moving.join().expect("who switches it panicked");
        driven.and(times)
    })?;
    netdiag.wait_lines(2)?;
    let outcome = netdiag.stop()?;
    let now = TcpCounters::read(&pair.left)?.plus(&TcpCounters::read(&pair.right)?);
    let kernel = u64::try_from(now.since(&before)["RetransSegs"])?;
    let total = outcome.total()?;
    let mut facts = Facts::new();
    facts.note(format_args!("{:?}", outcome.stderr));
    facts.holds(format_args!("it went {times} times"), times > 0);
    outcome.snapshots.iter().for_each(|snapshot| facts.consistent(snapshot));
    facts.at_rest(total);
    let told = sent_again(total, &ours) + sum(in_namespaces(total, &ours), "retransmits_failed");
    let missed = total.accounting["retransmit"].missed;
    facts.holds(
        format_args!("{told} sent again of the kernel's {kernel}, {missed} missed"),
        told <= kernel && told + missed >= kernel,
    );
    facts.equal("exit status", outcome.code(), Some(0));
    facts.finish();
    Ok(())
}

/// Queries of a round.
const QUERIES: u16 = 20;

/// Asks over TCP, from the processor that comes and goes.
fn ask_there(pair: &Pair, server: &Server, round: u16) -> Result<()> {
    processor::on(SECOND, || {
        let mut connection = connect(&pair.left, server.address)?;
        for id in 0..QUERIES {
            ask_by_tcp(&mut connection, &Query::new(round * QUERIES + id, 0), false)?;
        }
        Ok(())
    })
}

/// Sources that see what is asked over TCP, whose messages lie in pages: the kernel copies them into a ring of each
/// processor.
fn copying() -> Result<Vec<String>> {
    let mut all = source::loading("dns")?;
    all.retain(|forced| forced != "dns=raw_tp");
    // By none a test would go through without having looked at anything.
    ensure!(!all.is_empty(), "no source has what lies in pages copied");
    Ok(all)
}

fn watch(forced: &str, pair: &Pair) -> Result<Netdiag> {
    let filter = format!("{},{}", pair.left.name(), pair.right.name());
    Netdiag::live_by(forced, &["--netns", &filter])
}

fn queries(snapshot: &Snapshot) -> u64 {
    sum(snapshot.flows.iter().chain([&snapshot.other]), "dns.queries")
}

#[test]
fn queries_are_told_of_a_processor_that_was_away() -> Result<()> {
    require!(Feature::OwnProcessors);
    let _alone = alone();
    for forced in copying()? {
        until_whole(|| away(&forced))?;
    }
    Ok(())
}

fn away(forced: &str) -> Result<Option<Spoilt>> {
    let pair = Pair::new()?;
    let server = Server::start(&pair.right, RIGHT_V4.into())?;
    let sending = Watched::new([&pair.left])?;
    let mut netdiag = watch(forced, &pair)?;
    ask_there(&pair, &server, 0)?;
    netdiag.wait_lines(2)?;
    let off = processor::switch_off(SECOND)?;
    netdiag.wait_lines(3)?;
    drop(off);
    // It looks for processors once a second, which no interval is shorter than.
    netdiag.wait_lines(3)?;
    ask_there(&pair, &server, 1)?;
    let outcome = netdiag.stop()?;
    let total = outcome.total()?;
    if let Some(spoilt) = sending.sent_again()?.or_else(|| skipped(total, &["dns"])) {
        Facts::only_at_rest(total);
        return Ok(Some(spoilt));
    }
    let mut facts = Facts::new();
    facts.note(format_args!("{forced}: {:?}", outcome.stderr));
    facts.equal("queries of both rounds", queries(total), 2 * u64::from(QUERIES));
    facts.lossless(total);
    facts.at_rest(total);
    facts.finish();
    Ok(None)
}

/// Nobody can see that it was off; what was lost for that is counted, and then all is told again.
#[test]
fn queries_are_told_of_a_processor_that_was_away_for_a_moment() -> Result<()> {
    require!(Feature::OwnProcessors);
    let _alone = alone();
    for forced in copying()? {
        let pair = Pair::new()?;
        let server = Server::start(&pair.right, RIGHT_V4.into())?;
        let mut netdiag = watch(&forced, &pair)?;
        netdiag.wait_lines(1)?;
        netdiag.freeze()?;
        drop(processor::switch_off(SECOND)?);
        netdiag.signal(Signal::CONT)?;
        ask_there(&pair, &server, 0)?;
        netdiag.wait_lines(3)?;
        let so_far = netdiag.outcome(None)?.snapshots;
        let then = so_far.last().context("no interval")?.accounting["dns"];
        let earlier: u64 = so_far.iter().map(queries).sum();
        ask_there(&pair, &server, 1)?;
        netdiag.wait_lines(2)?;
        let outcome = netdiag.stop()?;
        let total = outcome.total()?;
        let account = total.accounting["dns"];
        let mut facts = Facts::new();
        facts.note(format_args!("{forced}: {:?}", outcome.stderr));
        facts.holds(format_args!("{then:?}: what was lost is counted"), then.ring_full > 0);
        facts.equal(format_args!("{account:?}: lost later"), account.ring_full, then.ring_full);
        let (told, least) = (queries(total), earlier + u64::from(QUERIES));
        facts.holds(
            format_args!("{told} queries, {earlier} of them before the last {QUERIES}"),
            told + account.missed >= least,
        );
        facts.equal("complete", total.complete, false);
        outcome.snapshots.iter().for_each(|snapshot| facts.consistent(snapshot));
        facts.at_rest(total);
        facts.finish();
    }
    Ok(())
}

/// A machine that is made for this has as many as before when a test has ended.
#[test]
fn a_processor_comes_back_with_its_value() -> Result<()> {
    require!(Feature::OwnProcessors);
    let _alone = alone();
    let all = || processor::each().map(|each| each.len());
    let before = all()?;
    let off = processor::switch_off(SECOND)?;
    assert_eq!(all()?, before - 1);
    drop(off);
    assert!(machine::wait_until(|| all().is_ok_and(|now| now == before)), "{:?}", all());
    Ok(())
}
