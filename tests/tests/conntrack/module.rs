//! Connection tracking as a module: loaded late, removed, loaded again, or never.

use anyhow::Result;
use netdiag::snapshot::Snapshot;
use netdiag_tests::{
    conntrack::{Rules, connect, module, said, table, track},
    facts::Facts,
    netdiag::Netdiag,
    network::Pair,
    outcome::status,
    require,
    requirement::{Feature, alone},
    source,
    traffic::{Connection, Family},
};

use crate::{exact, sums};

/// Entries of each time that it is loaded.
const NUMBER: usize = 4;

fn is_watched(snapshot: &Snapshot) -> bool {
    status(snapshot, "conntrack").is_ok_and(|status| status.source.is_some())
}

/// Lets netdiag see connections through rules that load the module, and their end.
fn watched_for_a_while(netdiag: &mut Netdiag) -> Result<()> {
    let pair = Pair::new()?;
    track(&pair, Rules::Plain)?;
    // Picked up within some seconds, not at once: what came before is not seen.
    netdiag.wait_outcome("conntrack to be watched", |outcome| {
        outcome.snapshots.last().is_some_and(is_watched)
    })?;
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
    const TIMES: u64 = 2;
    let _alone = alone();
    module::remove()?;
    let mut netdiag = Netdiag::live(&[])?;
    for _ in 0..TIMES {
        watched_for_a_while(&mut netdiag)?;
        // It does not go while anybody holds it.
        module::remove()?;
        netdiag.wait_outcome("that it is gone", |outcome| {
            outcome.snapshots.last().is_some_and(|last| !is_watched(last))
        })?;
    }
    let (outcome, said) = said::stop(netdiag)?;
    let total = outcome.total()?;
    let mut facts = Facts::new();
    facts.note(format_args!("{said:#?}"));
    let expected = TIMES * NUMBER as u64;
    facts.equal("sums", sums(&said)?, [expected, expected, 0, 0, 0, 0, expected].map(Some));
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
