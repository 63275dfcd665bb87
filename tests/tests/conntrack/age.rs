//! How old entries are, and became: by the kernel's own stamps.

use std::{collections::BTreeMap, thread, time::Duration};

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
    processor::waited_for_by,
    require,
    requirement::{Feature, alone},
};

use crate::{CTNETLINK, KPROBE, exact, sources};

/// By what two clocks of the kernel may differ over the life of an entry.
const CLOCKS: i128 = 1_000_000;

/// Nanoseconds of the clock that the kernel stamps by.
fn now() -> i128 {
    jiff::Timestamp::now().as_nanosecond()
}

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
        let netdiag = Netdiag::live_by(forced, &[])?;
        let before = waited_for_by(netdiag.pid())?;
        let mut connections = Vec::new();
        // By when each was in the table, and by when it was gone again.
        let (mut known, mut gone) = (Vec::new(), BTreeMap::new());
        for _ in 0..NUMBER {
            connections.extend(connect(&pair, Rules::Plain, 1)?);
            known.push(now());
            thread::sleep(Duration::from_millis(200));
        }
        for connection in connections.iter().step_by(2) {
            let port = connection.client_end()?.local.port();
            table::remove(&pair.left, port)?;
            gone.insert(port, now());
            thread::sleep(Duration::from_millis(100));
        }
        let all_told = || removed.stamps().is_ok_and(|stamps| stamps.len() >= NUMBER / 2);
        let told = machine::wait_until(all_told);
        let (living, removed) = (table::stamps(&pair.left)?, removed.stamps()?);
        let waited = waited_for_by(netdiag.pid())?.saturating_sub(before);
        let (outcome, said) = said::stop(netdiag)?;
        let total = outcome.total()?;
        let end = total.end.parse::<jiff::Timestamp>()?.as_nanosecond();

        let mut facts = Facts::new();
        facts.note(format_args!("{forced}: {:?}", status(total, "conntrack")?));
        facts.note(format_args!("living {living:?}, removed {removed:?}, end {end}: {said:#?}"));
        facts.holds("the kernel told of the removed", told);
        facts.equal("entries with stamps", living.len() + removed.len(), NUMBER);
        // What the kernel tells by itself is stamped when it is read, for which netdiag needs a processor;
        // of the others only the end of the run is.
        let late = Duration::from_millis(machine::amount(100, 1500)) + waited;
        let late = late.as_nanos() as i128;
        for (connection, known) in connections.iter().zip(known) {
            let entry = entry(connection, Rules::Plain)?;
            let port = entry.original.source.port();
            let (start, stop) = living.get(&port).or_else(|| removed.get(&port)).context("none")?;
            let expected = stop.map_or(end, i128::from) - i128::from(*start);
            let rows = said::of(&said, &entry);
            facts.equal(format_args!("rows of {entry:?}"), rows.len(), 1);
            for row in rows {
                let age = row.age_ns.context("its age is unknown")?;
                let age = i128::from(age);
                let off = (age - expected).abs();
                if let (KPROBE, Some(stop), Some(gone)) = (forced.as_str(), stop, gone.get(&port)) {
                    // Stamped as it comes and goes; seen after that, and before anybody knows.
                    let least = i128::from(*stop) - known - CLOCKS;
                    let most = gone - i128::from(*start) + CLOCKS;
                    let range = format_args!("{age} ns, {expected} by stamps, {least} to {most}");
                    facts.holds(range, (least..=most).contains(&age));
                } else {
                    facts.holds(
                        format_args!("{age} ns are {expected}, {off} off, at most {late}"),
                        off <= late,
                    );
                }
            }
        }
        exact(&mut facts, total)?;
        facts.finish();
    }
    Ok(())
}
