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
};

use crate::{exact, sources_of_failures};

#[test]
fn clashes_and_failed_insertions() -> Result<()> {
    require!(Feature::Nft);
    require!(Feature::Conntrack);
    require!(Feature::TwoProcessors);
    let _alone = alone();
    for forced in sources_of_failures()? {
        for race in RACES {
            let pair = Pair::new()?;
            track(&pair, Rules::Plain)?;
            let netdiag = Netdiag::live_by(&forced, &[])?;
            let raced = race.run(&pair, 10)?;
            let (outcome, said) = said::stop(netdiag)?;
            let total = outcome.total()?;
            let ours = [pair.left.inode()];
            let mut facts = Facts::new();
            facts.note(format_args!("{forced}: {:?}", status(total, "conntrack")?));
            facts.note(format_args!("{race:?}: {raced:?}; {} rows", said.entries.len()));
            facts.holds("races were lost", race.lost(raced) >= 10);
            facts.equal(
                "failed insertions",
                said::sum_in(&said, &ours, "insert_failed")?,
                Some(raced.failed),
            );
            facts.equal("packets without room", said::sum_in(&said, &ours, "table_full")?, Some(0));
            if forced == "conntrack=kprobe" {
                facts.equal("clashes", said::sum_in(&said, &ours, "clash")?, Some(raced.clashes));
                let undisputed = race.undisputed(raced);
                let made = undisputed + raced.clashes + raced.failed;
                facts.equal("new", said::sum_in(&said, &ours, "new")?, Some(made));
                facts.equal(
                    "confirmed",
                    said::sum_in(&said, &ours, "confirmed")?,
                    Some(undisputed),
                );
            } else {
                facts.equal(
                    "clashes, which packets do not tell",
                    said::sum_in(&said, &ours, "clash")?,
                    None,
                );
            }
            // Each loser of its own, with the server that it wanted to reach.
            let rows = said.entries.iter().filter(|row| {
                let is_ours = row.netns.is_none_or(|netns| ours.contains(&netns));
                is_ours && said::count(row, "insert_failed") > Some(0)
            });
            for row in rows {
                let port =
                    said::end(&row.original.destination).map(|destination| destination.port());
                facts.equal(format_args!("port of {row:?}"), port, Some(53));
                facts.equal("its namespace", row.netns, Some(pair.left.inode()));
            }
            exact(&mut facts, total)?;
            facts.finish();
        }
    }
    Ok(())
}
