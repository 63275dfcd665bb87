//! Connection tracking against `conntrack`, which asks by netlink what netdiag reads from files.

use std::{collections::BTreeMap, fs, io, net::UdpSocket, ops::Range, path::Path};

use anyhow::Result;
use netdiag::{
    node::conntrack::{Counter, netlink, read, read_all},
    snapshot::{ConntrackTable, Snapshot},
};
use netdiag_tests::{
    conntrack::{
        MAX, Rules, module,
        table::{self, Statistics},
        track_at,
    },
    facts::Facts,
    netdiag::Netdiag,
    require,
    requirement::{Feature, alone},
    setting::Setting,
};

use super::{Asked as _, Made, here, make};

/// A namespace in which connections are tracked, because a rule wants to know their state. They stay
/// for longer than any test.
pub(crate) fn tracking(name: &str) -> Made {
    let made = make(name);
    track_at(&made, Rules::Plain).unwrap();
    made
}

/// Sends a datagram to each of these ports, where nobody listens; how many the kernel refused to track.
pub(crate) fn send(made: &Made, ports: Range<u16>) -> u64 {
    made.run(|| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let refused = ports.filter(|port| match socket.send_to(b"x", ("127.0.0.1", *port)) {
            Ok(_) => false,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => true,
            Err(error) => panic!("{error}"),
        });
        refused.count() as u64
    })
}

#[test]
fn the_table_is_what_conntrack_says() -> Result<()> {
    require!(Feature::NoneTracked);
    let _alone = alone();
    let made = tracking("conntrack");
    let untracked = make("untracked");
    assert_eq!(send(&made, 2000..2040), 0);
    let limited = Setting::new(MAX, &table::count(&made).unwrap()).unwrap();
    assert!(send(&made, 2100..2107) > 0);

    let reading = read_all(&[made.found(), untracked.found()]);
    assert_eq!(reading.unread, BTreeMap::new());
    let table = &reading.namespaces[&made.inode()];
    let mut facts = Facts::new();
    facts.note(format_args!("{table:?}"));
    facts.equal("entries", table.entries, table::count(&made).unwrap());
    let said = Statistics::read(&made).unwrap();
    facts.note(format_args!("{said:?}"));
    facts.holds("drops were counted", said["drop"] > 0);
    let (sums, by_netlink) = (table.statistics.sums(), made.run(netlink::read));
    facts.equal("by netlink", by_netlink.map(|all| all.sums()).ok(), Some(sums));
    for counter in Counter::ALL {
        let name = counter.name();
        facts.equal(name, sums.get(counter), said.get(name));
    }
    let idle = &reading.namespaces[&untracked.inode()];
    facts.holds("nothing is tracked elsewhere", idle.entries == 0 && idle.statistics.are_zero());
    drop(limited);
    let max = fs::read_to_string(Path::new("/proc/sys").join(MAX)).unwrap().trim().parse().ok();
    let own = netdiag::node::netns::enter(&super::found(here()).unwrap(), read);
    facts.equal("maximum", own.unwrap().unwrap().unwrap().max, max);
    facts.finish();
    Ok(())
}

fn tables<'a>(
    snapshots: impl IntoIterator<Item = &'a Snapshot>,
    netns: u32,
) -> Vec<&'a ConntrackTable> {
    let all = snapshots.into_iter().flat_map(|snapshot| &snapshot.node.conntrack);
    all.filter(|table| table.netns == netns).collect()
}

#[test]
fn a_full_table_is_told() -> Result<()> {
    require!(Feature::NoneTracked);
    let _alone = alone();
    let (made, untracked) = (tracking("full"), make("empty"));
    assert_eq!(send(&made, 2000..2040), 0);
    let limit = table::count(&made).unwrap();
    let limited = Setting::new(MAX, &limit)?;
    let earlier = send(&made, 2100..2105);
    let before = Statistics::read(&made).unwrap();
    let netdiag = Netdiag::live(&[])?;
    let refused = send(&made, 2200..2217);
    let outcome = netdiag.stop()?;
    let (after, entries) = (Statistics::read(&made).unwrap(), table::count(&made).unwrap());
    drop(limited);

    let total = outcome.total()?;
    let mut facts = Facts::new();
    facts.note(format_args!("{before:?}, then {after:?}; {earlier} refused, then {refused}"));
    facts.holds("packets were dropped before and after", earlier > 0 && refused > 0);
    facts.equal("refused packets", refused, after["drop"] - before["drop"]);
    facts.equal("nothing of an idle namespace", tables([total], untracked.inode()), Vec::new());
    let rise = |name: &str| Some(after.get(name)? - before[name]);
    let expected = ConntrackTable {
        netns: made.inode(),
        entries,
        max: Some(limit),
        insert_failed: rise("insert_failed"),
        drop: rise("drop"),
        early_drop: rise("early_drop"),
        clash_resolve: rise("clash_resolve"),
        invalid: rise("invalid"),
        chaintoolong: rise("chaintoolong"),
    };
    facts.equal("the whole run", tables([total], made.inode()), vec![&expected]);
    let intervals = tables(&outcome.snapshots, made.inode());
    let dropped: u64 = intervals.iter().filter_map(|table| table.drop).sum();
    facts.equal("dropped in all intervals", Some(dropped), expected.drop);
    facts.at_rest(total);
    facts.finish();
    Ok(())
}

/// Modules of connection tracking that are loaded.
fn loaded() -> Vec<String> {
    let modules = fs::read_to_string("/proc/modules").unwrap();
    let names = modules.lines().filter_map(|line| line.split_ascii_whitespace().next());
    let mut names: Vec<_> =
        names.filter(|name| name.contains("conntrack")).map(str::to_owned).collect();
    names.sort_unstable();
    names
}

#[test]
fn no_module_is_loaded() -> Result<()> {
    require!(Feature::OwnModules);
    let _alone = alone();
    module::remove()?;
    let none = Netdiag::live(&[])?.stop()?;
    let mut facts = Facts::new();
    facts.equal("modules where nothing is tracked", loaded(), Vec::new());
    facts.equal("tables", &none.total()?.node.conntrack, &Vec::new());

    let made = tracking("module");
    send(&made, 2000..2010);
    let before = loaded();
    facts.holds(
        "netlink would load a module",
        !before.iter().any(|name| name == "nf_conntrack_netlink"),
    );
    let outcome = Netdiag::live(&[])?.stop()?;
    facts.equal("modules where something is", &loaded(), &before);
    let found = tables([outcome.total()?], made.inode());
    facts.equal("entries", found.iter().map(|table| table.entries).collect(), vec![10]);
    Statistics::read(&made).unwrap();
    facts.holds("`conntrack` loads one", loaded().len() > before.len());
    facts.finish();
    Ok(())
}
