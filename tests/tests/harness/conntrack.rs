//! What is done to connection tracking does what it is meant to do, in the kernel's own words.

use std::{
    fs, panic,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Result, anyhow};
use netdiag_tests::{
    conntrack::{
        MAX, RULES, Rules, connect, entry,
        full::{self, Full},
        module,
        race::{RACES, Race},
        table::{self, Events, Statistics},
        track,
    },
    dropping,
    facts::Facts,
    machine,
    network::Pair,
    require,
    requirement::{Feature, alone, available},
    setting::Setting,
    witness::Witness,
};

/// Functions of the kernel that make, insert and free an entry, with how often each was called.
struct Calls(Vec<(&'static str, Witness)>);

impl Calls {
    const OF: [&str; 3] = ["__nf_conntrack_alloc", "__nf_conntrack_confirm", "nf_conntrack_free"];

    /// From now on; none where the kernel cannot tell.
    fn count() -> Result<Self> {
        if !available(Feature::Kprobes) {
            return Ok(Self(Vec::new()));
        }
        let each = Self::OF.map(|name| Ok((name, Witness::of_function(name)?)));
        Ok(Self(each.into_iter().collect::<Result<_>>()?))
    }

    /// The first of them must have been called that often.
    fn equal(&mut self, facts: &mut Facts, expected: &[u64]) -> Result<()> {
        for ((name, calls), expected) in self.0.iter_mut().zip(expected) {
            facts.equal(format_args!("calls of {name}"), calls.hits()?, *expected);
        }
        Ok(())
    }
}

#[test]
fn each_connection_has_its_entry_until_it_is_removed() -> Result<()> {
    require!(Feature::Nft);
    require!(Feature::Conntrack);
    const NUMBER: usize = 6;
    let _alone = alone();
    for rules in RULES {
        let pair = Pair::new()?;
        track(&pair, rules)?;
        let events = Events::listen(&pair.left)?;
        let mut calls = Calls::count()?;
        let connections = connect(&pair, rules, NUMBER)?;
        let mut facts = Facts::new();
        facts.note(format_args!("{rules:?}"));
        let mut expected = connections
            .iter()
            .map(|connection| entry(connection, rules))
            .collect::<Result<Vec<_>>>()?;
        expected.sort();
        facts.equal("packets that began one", dropping::counted(&pair.left)?, NUMBER as u64);
        facts.equal("entries, by number", table::count(&pair.left)?, NUMBER as u64);
        facts.equal("entries", table::list(&pair.left)?, expected.clone());
        facts.holds("none gives way", table::all_assured(&pair.left)?);
        let turned = expected.iter().filter(|one| one.original.source != one.reply.destination);
        facts.equal("entries whose client has another address", turned.count(), 0);
        let elsewhere = expected.iter().filter(|one| one.original.destination != one.reply.source);
        let answered_elsewhere = if rules == Rules::Dnat { NUMBER } else { 0 };
        facts.equal("entries answered from elsewhere", elsewhere.count(), answered_elsewhere);
        calls.equal(&mut facts, &[NUMBER as u64, NUMBER as u64, 0])?;
        for connection in connections {
            connection.reset()?;
        }
        facts.equal("entries after the end", table::list(&pair.left)?, expected.clone());
        facts.equal("removed", table::remove_all(&pair.left)?, NUMBER as u64);
        facts.equal("entries left", table::list(&pair.left)?, Vec::new());
        calls.equal(&mut facts, &[NUMBER as u64; 3])?;
        let all_told =
            machine::wait_until(|| events.told("DESTROY").is_ok_and(|told| told.len() >= NUMBER));
        facts.holds("events have come", all_told);
        facts.equal("events of new ones", events.told("NEW")?, expected.clone());
        facts.equal("events of removed ones", events.told("DESTROY")?, expected);
        facts.finish();
    }
    Ok(())
}

#[test]
fn a_full_table_refuses_every_datagram() -> Result<()> {
    require!(Feature::Nft);
    require!(Feature::Conntrack);
    require!(Feature::NoneTracked);
    let _alone = alone();
    let pair = Pair::new()?;
    track(&pair, Rules::Plain)?;
    let limit = || fs::read_to_string(Path::new("/proc/sys").join(MAX));
    let before = limit()?;
    let full = Full::new(&pair)?;
    let earlier = Statistics::read(&pair.left)?;
    let (many, few) = (full::by_shell(&pair, 83, 40)?, full::by_socket(&pair, 84, 10)?);
    let risen = Statistics::read(&pair.left)?.since(&earlier);
    drop(full);
    let mut facts = Facts::new();
    facts.note(format_args!("{many:?}, {few:?}: {risen:?}"));
    facts.equal("refused to the shell", many.datagrams, 40);
    facts.equal("refused to this process", few.datagrams, 10);
    facts.equal("dropped for a full table", risen.table_full(), 50);
    facts.equal("gave way", risen["early_drop"], 0);
    facts.equal("the limit is what it was", limit()?, before);
    let later = full::by_socket(&pair, 85, 10)?;
    facts.equal("refused after that", later.datagrams, 0);
    facts.finish();
    Ok(())
}

/// A test that fails leaves no small table behind.
#[test]
fn a_setting_is_set_back_by_a_panic() -> Result<()> {
    require!(Feature::Nft);
    require!(Feature::Conntrack);
    require!(Feature::NoneTracked);
    let _alone = alone();
    let pair = Pair::new()?;
    // Where it is a module it is loaded now.
    track(&pair, Rules::Plain)?;
    let limit = || fs::read_to_string(Path::new("/proc/sys").join(MAX));
    let before = limit()?;
    let ended = panic::catch_unwind(|| {
        let _setting = Setting::new(MAX, &12_345).expect("the limit is set");
        panic::resume_unwind(Box::new(limit().expect("the limit is read")));
    });
    let within = ended.expect_err("it did not panic").downcast::<String>();
    let mut facts = Facts::new();
    facts.equal(
        "the limit before the panic",
        within.ok().as_deref().map(|s| s.trim()),
        Some("12345"),
    );
    facts.equal("the limit", limit()?, before);
    facts.finish();
    Ok(())
}

#[test]
fn entries_give_way_where_there_is_no_room() -> Result<()> {
    require!(Feature::Nft);
    require!(Feature::Conntrack);
    require!(Feature::NoneTracked);
    let _alone = alone();
    let pair = Pair::new()?;
    track(&pair, Rules::Plain)?;
    let earlier = Statistics::read(&pair.left)?;
    let crowd = full::crowd(&pair)?;
    let risen = Statistics::read(&pair.left)?.since(&earlier);
    let mut facts = Facts::new();
    facts.note(format_args!("{crowd:?}: {risen:?}"));
    facts.holds("some gave way", risen["early_drop"] > 20);
    facts.equal("dropped for a full table", risen.table_full(), crowd.refused);
    let left = crowd.begun - crowd.refused - risen["early_drop"];
    facts.equal("entries left", table::count(&pair.left)?, left);
    facts.finish();
    Ok(())
}

#[test]
fn packets_race_for_one_entry() -> Result<()> {
    require!(Feature::Nft);
    require!(Feature::Conntrack);
    require!(Feature::TwoProcessors);
    let _alone = alone();
    for race in RACES {
        let pair = Pair::new()?;
        track(&pair, Rules::Plain)?;
        let mut calls = Calls::count()?;
        let raced = race.run(&pair, 10)?;
        let mut facts = Facts::new();
        facts.note(format_args!("{race:?}: {raced:?}"));
        facts.holds("races were lost", race.lost(raced) >= 10);
        facts.equal("refused of those that failed", raced.refused, raced.failed);
        let resolved = if race == Race::OneAddress { raced.clashes } else { raced.failed };
        facts.equal("of the other kind", resolved, 0);
        let made = race.undisputed(raced) + raced.clashes + raced.failed;
        calls.equal(&mut facts, &[made, made])?;
        facts.finish();
    }
    Ok(())
}

#[test]
fn a_flood_is_refused_to_the_last_datagram() -> Result<()> {
    require!(Feature::Nft);
    require!(Feature::Conntrack);
    require!(Feature::NoneTracked);
    let _alone = alone();
    let pair = Pair::new()?;
    track(&pair, Rules::Plain)?;
    let _full = Full::new(&pair)?;
    let earlier = Statistics::read(&pair.left)?;
    let end = AtomicBool::new(false);
    let refused = thread::scope(|scope| {
        let flood = scope.spawn(|| full::flood(&pair, &end));
        thread::sleep(Duration::from_secs(2));
        end.store(true, Ordering::Relaxed);
        flood.join().map_err(|_| anyhow!("the flood panicked"))?
    })?;
    let risen = Statistics::read(&pair.left)?.since(&earlier);
    let mut facts = Facts::new();
    facts.note(format_args!("{refused} datagrams: {risen:?}"));
    // Of a sum over processors that many show every one.
    facts.holds("many were refused", refused > 100);
    facts.equal("dropped for a full table", risen.table_full(), refused);
    facts.finish();
    Ok(())
}

#[test]
fn the_first_rule_loads_the_module_and_it_can_be_removed() -> Result<()> {
    require!(Feature::Nft);
    require!(Feature::ConntrackModule);
    let _alone = alone();
    let mut facts = Facts::new();
    module::remove()?;
    facts.equal("loaded at first", module::is_loaded()?, false);
    let pair = Pair::new()?;
    facts.equal("loaded by namespaces", module::is_loaded()?, false);
    track(&pair, Rules::Dnat)?;
    facts.equal("loaded by a rule", module::is_loaded()?, true);
    let connections = connect(&pair, Rules::Dnat, 3)?;
    facts.equal("entries", table::count(&pair.left)?, 3);
    drop((connections, pair));
    module::remove()?;
    facts.equal("loaded after it was removed", module::is_loaded()?, false);
    module::load()?;
    facts.equal("loaded by hand", module::is_loaded()?, true);
    module::remove()?;
    facts.equal("loaded at the end", module::is_loaded()?, false);
    facts.finish();
    Ok(())
}
