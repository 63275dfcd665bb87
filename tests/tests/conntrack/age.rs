//! How old entries are, and became: by the kernel's own stamps.

use std::collections::BTreeMap;

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
    traffic::Connection,
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
        let signals = ["--signals", "conntrack", "--source", forced.as_str()];
        let is_kprobe = forced == KPROBE;
        let interval = machine::amount("100ms", "1s");
        let live = ["live", "-o", "json", "-i", interval, "-d", "10h"];
        let mut netdiag = Netdiag::start(&[&live[..], &signals].concat())?;
        // What netdiag has told it has read: of each connection when that was known, and when its end was.
        let mut told_by_now = |connection: &Connection, count: &str| -> Result<i128> {
            let entry = entry(connection, Rules::Plain)?;
            netdiag.wait_outcome(&format!("{count} of {entry:?}"), |outcome| {
                let all = outcome.snapshots.iter().filter_map(|it| it.conntrack.as_ref());
                let mut rows = all.flat_map(|all| said::of(all, &entry));
                rows.any(|row| said::count(row, count) > Some(0))
            })?;
            Ok(now())
        };
        let mut connections = Vec::new();
        let (mut known, mut gone) = (Vec::new(), BTreeMap::new());
        for _ in 0..NUMBER {
            let connection = connect(&pair, Rules::Plain, 1)?.pop().context("a connection")?;
            // By when it was in the table, which kprobes see.
            let there = now();
            let read = told_by_now(&connection, "confirmed")?;
            known.push(if is_kprobe { there } else { read });
            connections.push(connection);
        }
        for connection in connections.iter().step_by(2) {
            let port = connection.client_end()?.local.port();
            table::remove(&pair.left, port)?;
            let there = now();
            let read = told_by_now(connection, "destroyed")?;
            gone.insert(port, if is_kprobe { there } else { read });
        }
        let all_told = || removed.stamps().is_ok_and(|stamps| stamps.len() >= NUMBER / 2);
        let told = machine::wait_until(all_told);
        let (living, removed) = (table::stamps(&pair.left)?, removed.stamps()?);
        let living_still = now();
        let (outcome, said) = said::stop(netdiag)?;
        let ended = now();
        let total = outcome.total()?;

        let mut facts = Facts::new();
        facts.note(format_args!("{forced}: {:?}", status(total, "conntrack")?));
        facts.note(format_args!("living {living:?}, removed {removed:?}: {said:#?}"));
        facts.holds("the kernel told of the removed", told);
        facts.equal("entries with stamps", living.len() + removed.len(), NUMBER);
        for (connection, known) in connections.iter().zip(known) {
            let entry = entry(connection, Rules::Plain)?;
            let port = entry.original.source.port();
            let (start, stop) = living.get(&port).or_else(|| removed.get(&port)).context("none")?;
            // Stamped when it comes and goes, or when the kernel's word of that is read: behind the kernel's own
            // stamp, and before anybody knows. Who lives on is as old as the run's end finds it.
            let [first, last] = match stop {
                Some(stop) => [i128::from(*stop), *gone.get(&port).context("removed by nobody")?],
                None => [living_still, ended],
            };
            let (least, most) = (first - known - CLOCKS, last - i128::from(*start) + CLOCKS);
            let rows = said::of(&said, &entry);
            facts.equal(format_args!("rows of {entry:?}"), rows.len(), 1);
            for row in rows {
                let age = i128::from(row.age_ns.context("its age is unknown")?);
                facts.holds(format_args!("{age} ns are from {least} to {most}"), {
                    (least..=most).contains(&age)
                });
            }
        }
        exact(&mut facts, total)?;
        facts.finish();
    }
    Ok(())
}
