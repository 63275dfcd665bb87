//! Connection tracking as a module: loaded late, removed, loaded again, or never.

use anyhow::Result;
use netdiag_tests::{
    conntrack::{Rules, connect, module, said, table, track},
    facts::Facts,
    netdiag::Netdiag,
    network::Pair,
    require,
    requirement::{Feature, alone},
    source,
    traffic::{Connection, Family},
};

use crate::exact;

/// Entries of each time that it is loaded.
const NUMBER: usize = 4;

/// Waits until netdiag has said that often that the module came or went.
fn wait_said(netdiag: &mut Netdiag, what: &str, times: usize) -> Result<()> {
    let words = format!("nf_conntrack was {what}");
    let said = |line: &&String| line.contains(&words);
    netdiag.wait_outcome(&words, |outcome| outcome.stderr.iter().filter(said).count() >= times)
}

/// Lets netdiag see connections through rules that load the module, and their end.
fn watched_for_a_while(netdiag: &mut Netdiag, time: usize) -> Result<()> {
    let pair = Pair::new()?;
    track(&pair, Rules::Plain)?;
    // Picked up within some seconds, not at once: what came before is not seen.
    wait_said(netdiag, "loaded", time)?;
    for connection in connect(&pair, Rules::Plain, NUMBER)? {
        connection.reset()?;
    }
    table::remove_all(&pair.left)?;
    Ok(())
}

#[test]
fn loaded_late_removed_and_loaded_again() -> Result<()> {
    require!(Feature::Nft);
    require!(Feature::Conntrack);
    require!(Feature::ConntrackModule);
    const TIMES: usize = 2;
    let _alone = alone();
    module::remove()?;
    let mut netdiag = Netdiag::live(&[])?;
    for time in 1..=TIMES {
        watched_for_a_while(&mut netdiag, time)?;
        // It does not go while anybody holds it.
        module::remove()?;
        wait_said(&mut netdiag, "removed", time)?;
    }
    let (outcome, said) = said::stop(netdiag)?;
    let total = outcome.total()?;
    let mut facts = Facts::new();
    facts.note(format_args!("{said:#?}"));
    let all = (TIMES * NUMBER) as u64;
    for (name, expected) in said::COUNTS.into_iter().zip([all, all, 0, 0, 0, 0, all]) {
        facts.equal(name, said::sum(&said, name)?, Some(expected));
    }
    facts.equal("loaded at the end", module::is_loaded()?, false);
    exact(&mut facts, total)?;
    facts.finish();
    Ok(())
}

#[test]
fn netdiag_loads_nothing_and_says_what_it_waits_for() -> Result<()> {
    require!(Feature::ConntrackModule);
    let _alone = alone();
    module::remove()?;
    let mut facts = Facts::new();
    let doctor = source::doctor(&[])?;
    let said = doctor.signals.iter().find(|status| status.signal == "conntrack");
    facts.note(format_args!("{said:?}"));
    let speaks = said.is_some_and(|said| {
        let reasons = said.refused.iter().map(|refusal| &refusal.reason);
        said.missing.iter().chain(reasons).any(|line| line.contains("nf_conntrack"))
    });
    facts.holds("doctor speaks of the module", speaks);
    facts.equal("loaded by doctor", module::is_loaded()?, false);
    let mut netdiag = Netdiag::live(&[])?;
    let pair = Pair::new()?;
    Connection::open(&pair.left, &pair.right, Family::V4)?.reset()?;
    netdiag.wait_lines(3)?;
    facts.equal("loaded by live", module::is_loaded()?, false);
    let outcome = netdiag.stop()?;
    facts.equal("loaded by its end", module::is_loaded()?, false);
    facts.at_rest(outcome.total()?);
    facts.finish();
    Ok(())
}
