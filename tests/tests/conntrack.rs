//! Connection tracking: every entry counted with both its tuples, and every packet that the table cost.

#[path = "conntrack/full.rs"]
mod full;
#[path = "conntrack/module.rs"]
mod module;
#[path = "conntrack/race.rs"]
mod race;

use anyhow::{Context as _, Result};
use netdiag_tests::{
    conntrack::{
        RULES, Rules, connect, entry,
        said::{self, Said},
        table, track, track_at,
    },
    counters::wait_until_quiet,
    facts::Facts,
    namespace::Namespace,
    netdiag::Netdiag,
    network::{Pair, RIGHT_V4, RIGHT_V6},
    outcome::{flow_of, status},
    require,
    requirement::{Feature, alone},
    traffic::{read_bytes, send_once},
};

/// What the source must have seen of one entry, in the order of `said::COUNTS`: made and in the table,
/// perhaps removed, and nothing else.
fn lived(began: bool, ended: bool) -> [Option<u64>; 7] {
    let (began, ended) = (u64::from(began), u64::from(ended));
    [began, began, 0, 0, 0, 0, ended].map(Some)
}

/// The sums over all rows, in the order of `said::COUNTS`.
fn sums(said: &Said) -> Result<[Option<u64>; 7]> {
    let mut sums = [None; 7];
    for (sum, name) in sums.iter_mut().zip(said::COUNTS) {
        *sum = said.sum(name)?;
    }
    Ok(sums)
}

/// Nothing was lost, and all accounts are closed.
fn exact(facts: &mut Facts, total: &netdiag::snapshot::Snapshot) -> Result<()> {
    let account = total.accounting.get("conntrack").context("no account of conntrack")?;
    facts.equal("samples of conntrack lost", account.lost(), 0);
    facts.at_rest(total);
    Ok(())
}

#[test]
fn each_entry_has_its_tuples_and_its_counts() -> Result<()> {
    require!(Feature::Nft);
    require!(Feature::Conntrack);
    require!(Feature::Kprobes);
    const OLDER: usize = 3;
    const YOUNGER: usize = 6;
    let _alone = alone();
    for rules in RULES {
        let pair = Pair::new()?;
        track(&pair, rules)?;
        let older = connect(&pair, rules, OLDER)?;
        let netdiag = Netdiag::live(&["--source", "conntrack=kprobe"])?;
        let younger = connect(&pair, rules, YOUNGER)?;
        let mut expected = Vec::new();
        for (connection, is_younger) in
            older.iter().map(|one| (one, false)).chain(younger.iter().map(|one| (one, true)))
        {
            expected.push((entry(connection, rules)?, connection.client_end()?, is_younger));
        }
        let listed = table::list(&pair.left)?;
        for connection in older.into_iter().chain(younger) {
            connection.reset()?;
        }
        let removed = table::remove_all(&pair.left)?;
        let (outcome, said) = said::stop(netdiag)?;
        let total = outcome.total()?;
        let mut facts = Facts::new();
        facts.note(format_args!("{rules:?}: {said:#?}\n{:?}", status(total, "conntrack")?));
        facts.equal("entries that the kernel listed", listed.len(), OLDER + YOUNGER);
        facts.equal("entries that were removed", removed, (OLDER + YOUNGER) as u64);
        for (entry, end, is_younger) in &expected {
            facts.holds(format_args!("the kernel lists {entry:?}"), listed.contains(entry));
            let rows = said.of(entry);
            facts.equal(format_args!("rows of {entry:?}"), rows.len(), 1);
            for row in rows {
                facts.equal("its counts", row.counts(), lived(*is_younger, true));
                facts.equal("its flows", row.flows(), vec![flow_of(total, end)?.id.clone()]);
                let creator = is_younger.then(std::process::id);
                facts.equal("its creator", row.pid(), creator);
            }
        }
        let (began, ended) = (YOUNGER as u64, (OLDER + YOUNGER) as u64);
        facts.equal("sums", sums(&said)?, [began, began, 0, 0, 0, 0, ended].map(Some));
        exact(&mut facts, total)?;
        facts.finish();
    }
    Ok(())
}

/// A packet from outside begins the conversation, and no process on this side did.
#[test]
fn a_conversation_from_outside_has_no_creator() -> Result<()> {
    require!(Feature::Nft);
    require!(Feature::Conntrack);
    require!(Feature::Kprobes);
    let _alone = alone();
    let pair = Pair::new()?;
    wait_until_quiet(&pair.left)?;
    wait_until_quiet(&pair.right)?;
    track_at(&pair.right, Rules::Plain)?;
    let netdiag = Netdiag::live(&["--source", "conntrack=kprobe"])?;
    let connections = connect(&pair, Rules::Plain, 3)?;
    let listed = table::list(&pair.right)?;
    let (outcome, said) = said::stop(netdiag)?;
    let total = outcome.total()?;
    let mut facts = Facts::new();
    facts.note(format_args!("{said:#?}"));
    facts.equal("entries that the kernel listed", listed.len(), 3);
    for connection in &connections {
        let mut entry = entry(connection, Rules::Plain)?;
        entry.netns = pair.right.inode();
        facts.holds(format_args!("the kernel lists {entry:?}"), listed.contains(&entry));
        let rows = said.of(&entry);
        facts.equal(format_args!("rows of {entry:?}"), rows.len(), 1);
        for row in rows {
            facts.equal("its counts", row.counts(), lived(true, false));
            facts.equal("its creator", row.pid(), None);
            let flow = flow_of(total, &connection.server_end()?)?;
            facts.equal("its flows", row.flows(), vec![flow.id.clone()]);
        }
    }
    exact(&mut facts, total)?;
    facts.finish();
    Ok(())
}

/// Which entries pass a filter: by pair, then by connection.
type Passes = [[bool; 3]; 2];

#[test]
fn filters_narrow_entries() -> Result<()> {
    require!(Feature::Nft);
    require!(Feature::Conntrack);
    require!(Feature::Kprobes);
    let _alone = alone();
    let pairs = [Pair::new()?, Pair::new()?];
    let mut opened = Vec::new();
    for pair in &pairs {
        track(pair, Rules::Plain)?;
        opened.push(connect(pair, Rules::Plain, 3)?);
    }
    let inode = |namespace: &Namespace| namespace.inode().to_string();
    let server = |pair: usize, at: usize| -> Result<String> {
        Ok(opened[pair][at].server_end()?.local.port().to_string())
    };
    // By themselves two namespaces may give out the same port.
    let on = |port: &str| -> Result<Passes> {
        let mut passes = [[false; 3]; 2];
        for (passes, connections) in passes.iter_mut().zip(&opened) {
            for (passes, connection) in passes.iter_mut().zip(connections) {
                *passes = connection.server_end()?.local.port().to_string() == port;
            }
        }
        Ok(passes)
    };
    let [first, last] = [server(0, 1)?, server(1, 2)?];
    // Of the families in turn the second is IPv6.
    let filters: [(&str, String, Passes); 7] = [
        ("--netns", inode(&pairs[0].left), [[true; 3], [false; 3]]),
        ("--netns", inode(&pairs[1].left), [[false; 3], [true; 3]]),
        ("--netns", inode(&pairs[0].right), [[false; 3]; 2]),
        ("--port", first.clone(), on(&first)?),
        ("--peer-port", last.clone(), on(&last)?),
        ("--peer", format!("{RIGHT_V4}/32"), [[true, false, true]; 2]),
        ("--peer", RIGHT_V6.to_string(), [[false, true, false]; 2]),
    ];
    for (name, value, passes) in filters {
        for pair in &pairs {
            table::remove_all(&pair.left)?;
        }
        let netdiag = Netdiag::live(&["--source", "conntrack=kprobe", name, &value])?;
        // The kernel takes a conversation up again where it finds it.
        for connection in opened.iter().flatten() {
            send_once(&connection.client, b"x")?;
            read_bytes(&connection.server, 1)?;
        }
        let (outcome, said) = said::stop(netdiag)?;
        let total = outcome.total()?;
        let mut facts = Facts::new();
        facts.note(format_args!("{name} {value}: {said:#?}"));
        let mut passed = 0;
        for (connection, passes) in opened.iter().flatten().zip(passes.iter().flatten()) {
            let entry = entry(connection, Rules::Plain)?;
            let what = format!("{name} {value}: rows of {entry:?}");
            facts.equal(what, said.of(&entry).len(), usize::from(*passes));
            passed += u64::from(*passes);
        }
        facts.equal("sums", sums(&said)?, [passed, passed, 0, 0, 0, 0, 0].map(Some));
        facts.equal("said to be filtered", total.filtered, true);
        exact(&mut facts, total)?;
        facts.finish();
    }
    Ok(())
}
