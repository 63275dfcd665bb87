//! Connection tracking: every entry counted with both its tuples, and every packet that the table cost.

#[path = "conntrack/age.rs"]
mod age;
#[path = "conntrack/full.rs"]
mod full;
#[path = "conntrack/listened.rs"]
mod listened;
#[path = "conntrack/module.rs"]
mod module;
#[path = "conntrack/overrun.rs"]
mod overrun;
#[path = "conntrack/race.rs"]
mod race;
#[path = "conntrack/told.rs"]
mod told;

use anyhow::{Context as _, Result, ensure};
use netdiag::snapshot::{Conntrack, Snapshot};
use netdiag_tests::{
    conntrack::{
        RULES, Rules, connect, entry, said,
        table::{self, Entry, Tuple},
        track, track_at,
    },
    counters::wait_until_quiet,
    facts::Facts,
    namespace::Namespace,
    netdiag::Netdiag,
    network::{Pair, RIGHT_V4, RIGHT_V6},
    outcome::{flow_of, status},
    require,
    requirement::{Feature, alone},
    source,
    traffic::{End, process::Shell, read_bytes, send_once},
};

/// What a source must have seen, in the order of `said::COUNTS`: so many entries that were made and came
/// into the table, so many of those removed, and nothing else. Without kprobes the kernel tells of the
/// table alone.
fn lived(forced: &str, began: u64, ended: u64) -> [Option<u64>; 7] {
    let made = (forced == KPROBE).then_some(began);
    let none = made.and(Some(0));
    let failed = (forced != CTNETLINK).then_some(0);
    [made, Some(began), failed, none, failed, none, Some(ended)]
}

/// Sources that load here, each as an argument of `--source`. What the kernel tells by itself it tells by a
/// module, which is loaded by then.
fn sources() -> Result<Vec<String>> {
    let pair = Pair::new()?;
    track(&pair, Rules::Plain)?;
    table::list(&pair.left)?;
    let sources = source::loading("conntrack")?;
    ensure!(sources.iter().any(|forced| forced == CTNETLINK), "ctnetlink is not told: {sources:?}");
    Ok(sources)
}

/// A pair whose left end tracks, where the kernel's own word can be had.
fn listening() -> Result<Pair> {
    sources()?;
    let pair = Pair::new()?;
    track(&pair, Rules::Plain)?;
    Ok(pair)
}

/// Those of them that tell of failures.
fn sources_of_failures() -> Result<Vec<String>> {
    Ok(sources()?.into_iter().filter(|forced| forced != CTNETLINK).collect())
}

/// The best source of this kernel, as an argument of `--source`. Where it is the kernel's own word, that
/// is had.
fn best() -> Result<String> {
    sources()?.into_iter().next().context("no source of conntrack loads")
}

/// The source that sees everything.
const KPROBE: &str = "conntrack=kprobe";
/// The source that is the kernel's own word alone.
const CTNETLINK: &str = "conntrack=ctnetlink";

/// The sums over all rows of some namespaces, in the order of `said::COUNTS`.
fn sums(said: &Conntrack, namespaces: &[u32]) -> Result<[Option<u64>; 7]> {
    let mut sums = [None; 7];
    for (sum, name) in sums.iter_mut().zip(said::COUNTS) {
        *sum = said::sum_in(said, namespaces, name)?;
    }
    Ok(sums)
}

/// Nothing was lost, and all accounts are closed.
fn exact(facts: &mut Facts, total: &Snapshot) -> Result<()> {
    let account = total.accounting.get("conntrack").context("no account of conntrack")?;
    facts.equal("samples of conntrack lost", account.lost(), 0);
    facts.at_rest(total);
    Ok(())
}

#[test]
fn each_entry_has_its_tuples_and_its_counts() -> Result<()> {
    require!(Feature::Nft);
    require!(Feature::Conntrack);
    const OLDER: usize = 3;
    const YOUNGER: usize = 6;
    let _alone = alone();
    let sources = sources()?;
    // All sources read the same tuples of an entry.
    let plain = sources.iter().skip(1).map(|forced| (forced, Rules::Plain));
    for (forced, rules) in RULES.map(|rules| (&sources[0], rules)).into_iter().chain(plain) {
        let pair = Pair::new()?;
        track(&pair, rules)?;
        let older = connect(&pair, rules, if forced == KPROBE { OLDER } else { 0 })?;
        let number = older.len() + YOUNGER;
        let netdiag = Netdiag::live_by(forced, &[])?;
        let younger = connect(&pair, rules, YOUNGER)?;
        let mut expected = Vec::new();
        for (connection, is_younger) in
            older.iter().map(|one| (one, false)).chain(younger.iter().map(|one| (one, true)))
        {
            let ends = [connection.client_end()?, connection.server_end()?];
            expected.push((entry(connection, rules)?, ends, is_younger));
        }
        let listed = table::list(&pair.left)?;
        for connection in older.into_iter().chain(younger) {
            connection.reset()?;
        }
        let removed = table::remove_all(&pair.left)?;
        let (outcome, said) = said::stop(netdiag)?;
        let total = outcome.total()?;
        let mut facts = Facts::new();
        facts.note(format_args!("{forced}, {rules:?}: {:?}", status(total, "conntrack")?));
        facts.note(format_args!("{said:#?}"));
        facts.equal("entries that the kernel listed", listed.len(), number);
        facts.equal("entries that were removed", removed, number as u64);
        for (entry, ends, is_younger) in &expected {
            facts.holds(format_args!("the kernel lists {entry:?}"), listed.contains(entry));
            let rows = said::of(&said, entry);
            facts.equal(format_args!("rows of {entry:?}"), rows.len(), 1);
            for row in rows {
                let counts = lived(forced, u64::from(*is_younger), 1);
                facts.equal("its counts", said::counts(row), counts);
                facts.equal("its flows", row.flows.clone(), flows_between(total, ends)?);
                // Of older ones the client's socket tells.
                facts.equal("its creator", said::pid(row), Some(std::process::id()));
            }
        }
        facts.equal(
            "sums",
            sums(&said, &[pair.left.inode()])?,
            lived(forced, YOUNGER as u64, number as u64),
        );
        exact(&mut facts, total)?;
        facts.finish();
    }
    Ok(())
}

/// Ids of the flows at both ends of a conversation, the client's first.
fn flows_between(total: &Snapshot, ends: &[End; 2]) -> Result<Vec<String>> {
    ends.iter().map(|end| Ok(flow_of(total, end)?.id.clone())).collect()
}

/// A packet that comes in begins the conversation: nobody on this side did, least of all who happened to
/// be at work when it came.
#[test]
fn a_conversation_from_outside_is_of_who_connected() -> Result<()> {
    require!(Feature::Nft);
    require!(Feature::Conntrack);
    let _alone = alone();
    let forced = best()?;
    let pair = Pair::new()?;
    wait_until_quiet(&pair.left)?;
    wait_until_quiet(&pair.right)?;
    track_at(&pair.right, Rules::Plain)?;
    let netdiag = Netdiag::live_by(&forced, &[])?;
    let shells =
        (0..3).map(|_| Shell::connect(&pair.left, &pair.right, 1)).collect::<Result<Vec<_>>>()?;
    let listed = table::list(&pair.right)?;
    let (outcome, said) = said::stop(netdiag)?;
    let total = outcome.total()?;
    let mut facts = Facts::new();
    facts.note(format_args!("{said:#?}"));
    facts.equal("entries that the kernel listed", listed.len(), shells.len());
    for shell in &shells {
        let server = shell.server_end(pair.right.inode());
        let original = Tuple { source: server.peer, destination: server.local };
        let reply = Tuple { source: server.local, destination: server.peer };
        let protocol = "tcp".to_owned();
        let entry = Entry { netns: server.netns, zone: 0, protocol, original, reply };
        facts.holds(format_args!("the kernel lists {entry:?}"), listed.contains(&entry));
        let rows = said::of(&said, &entry);
        facts.equal(format_args!("rows of {entry:?}"), rows.len(), 1);
        for row in rows {
            facts.equal("its counts", said::counts(row), lived(&forced, 1, 0));
            facts.equal("its creator", said::pid(row), Some(shell.pid()));
            let flows = flows_between(total, &[shell.end, server])?;
            facts.equal("its flows", row.flows.clone(), flows);
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
    let _alone = alone();
    let forced = best()?;
    let pairs = [Pair::new()?, Pair::new()?];
    let mut opened = Vec::new();
    for pair in &pairs {
        track(pair, Rules::Plain)?;
        opened.push(connect(pair, Rules::Plain, 3)?);
    }
    let tracked = pairs.each_ref().map(|pair| pair.left.inode());
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
        let netdiag = Netdiag::live_by(&forced, &[name, &value])?;
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
            facts.equal(what, said::of(&said, &entry).len(), usize::from(*passes));
            passed += u64::from(*passes);
        }
        facts.equal("sums", sums(&said, &tracked)?, lived(&forced, passed, 0));
        facts.equal("said to be filtered", total.filtered, true);
        exact(&mut facts, total)?;
        facts.finish();
    }
    Ok(())
}
