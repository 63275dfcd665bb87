//! Packets that race for one entry: what was resolved and what it cost, by the kernel's counters.

use anyhow::Result;
use netdiag_tests::{
    conntrack::{Rules, race::RACES, said, track},
    facts::Facts,
    netdiag::Netdiag,
    network::Pair,
    outcome::status,
    require,
    requirement::{Feature, alone},
    source,
};

use crate::exact;

#[test]
fn clashes_and_failed_insertions() -> Result<()> {
    require!(Feature::Nft);
    require!(Feature::Conntrack);
    let _alone = alone();
    for forced in source::loading("conntrack")? {
        for race in RACES {
            let pair = Pair::new()?;
            track(&pair, Rules::Plain)?;
            let netdiag = Netdiag::live(&["--source", &forced])?;
            let raced = race.run(&pair, 10)?;
            let (outcome, said) = said::stop(netdiag)?;
            let total = outcome.total()?;
            let mut facts = Facts::new();
            facts.note(format_args!("{forced}: {:?}", status(total, "conntrack")?));
            facts.note(format_args!("{race:?}: {raced:?}; {} rows", said.entries.len()));
            facts.holds("races were lost", race.lost(raced) >= 10);
            facts.equal("failed insertions", said.sum("insert_failed")?, Some(raced.failed));
            facts.equal("packets without room", said.sum("table_full")?, Some(0));
            if forced == "conntrack=kprobe" {
                facts.equal("clashes", said.sum("clash")?, Some(raced.clashes));
                let undisputed = race.undisputed(raced);
                let made = undisputed + raced.clashes + raced.failed;
                facts.equal("new", said.sum("new")?, Some(made));
                facts.equal("confirmed", said.sum("confirmed")?, Some(undisputed));
            } else {
                facts.equal("clashes, which packets do not tell", said.sum("clash")?, None);
            }
            // Each loser of its own, with the server that it wanted to reach.
            let rows = said.entries.iter().filter(|row| row.count("insert_failed") > Some(0));
            for row in rows {
                let port = row.destination().map(|destination| destination.port());
                facts.equal(format_args!("port of {row:?}"), port, Some(53));
                facts.equal("its namespace", row.netns(), Some(pair.left.inode()));
            }
            exact(&mut facts, total)?;
            facts.finish();
        }
    }
    Ok(())
}
