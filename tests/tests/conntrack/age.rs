//! How old entries are, and became: by the kernel's own stamps.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result};
use netdiag_tests::{
    conntrack::{
        Rules, connect, entry, said,
        table::{self, Events},
        track,
    },
    facts::Facts,
    machine,
    netdiag::Netdiag,
    network::Pair,
    outcome::status,
    require,
    requirement::{Feature, alone},
};

use crate::{CTNETLINK, KPROBE, exact, sources};

#[test]
fn entries_are_as_old_as_the_kernel_says() -> Result<()> {
    require!(Feature::Nft);
    require!(Feature::Conntrack);
    const NUMBER: usize = 6;
    let _alone = alone();
    // Beside packets it is ctnetlink that tells.
    for forced in sources()?.iter().filter(|forced| [KPROBE, CTNETLINK].contains(&forced.as_str()))
    {
        let pair = Pair::new()?;
        track(&pair, Rules::Plain)?;
        table::stamp(&pair.left)?;
        let removed = Events::listen_to_stamps(&pair.left)?;
        let netdiag = Netdiag::live(&["--source", forced])?;
        let mut connections = Vec::new();
        for _ in 0..NUMBER {
            connections.extend(connect(&pair, Rules::Plain, 1)?);
            thread::sleep(Duration::from_millis(200));
        }
        for connection in connections.iter().step_by(2) {
            table::remove(&pair.left, connection.client_end()?.local.port())?;
            thread::sleep(Duration::from_millis(100));
        }
        let all_told = || removed.stamps().is_ok_and(|stamps| stamps.len() >= NUMBER / 2);
        let told = machine::wait_until(all_told);
        let (living, removed) = (table::stamps(&pair.left)?, removed.stamps()?);
        let (outcome, said) = said::stop(netdiag)?;
        let total = outcome.total()?;
        let end = total.end.parse::<jiff::Timestamp>()?.as_nanosecond();

        let mut facts = Facts::new();
        facts.note(format_args!("{forced}: {:?}", status(total, "conntrack")?));
        facts.note(format_args!("living {living:?}, removed {removed:?}, end {end}: {said:#?}"));
        facts.holds("the kernel told of the removed", told);
        facts.equal("entries with stamps", living.len() + removed.len(), NUMBER);
        // What the kernel tells by itself is stamped when it is read; of the others only the end of the
        // run is.
        let late = Duration::from_millis(machine::amount(100, 1500)).as_nanos() as i128;
        for connection in &connections {
            let entry = entry(connection, Rules::Plain)?;
            let port = entry.original.source.port();
            let (start, stop) = living.get(&port).or_else(|| removed.get(&port)).context("none")?;
            let expected = stop.map_or(end, i128::from) - i128::from(*start);
            let rows = said::of(&said, &entry);
            facts.equal(format_args!("rows of {entry:?}"), rows.len(), 1);
            for row in rows {
                let age = row.age_ns.context("its age is unknown")?;
                let precise = forced == KPROBE && stop.is_some();
                // Stamped when it leaves the table, and freed by whoever held it last: an emulated CPU may
                // stand still in between.
                let soon = machine::amount(10_000_000, 200_000_000);
                let most = if precise { soon } else { late };
                let off = (i128::from(age) - expected).abs();
                facts.holds(format_args!("{age} ns are {expected}, {off} off"), off <= most);
            }
        }
        exact(&mut facts, total)?;
        facts.finish();
    }
    Ok(())
}
