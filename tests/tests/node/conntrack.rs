//! Connection tracking against `conntrack`, which asks by netlink what netdiag reads from files.

use std::{collections::BTreeMap, fs, io, net::UdpSocket, ops::Range, process::Command};

use anyhow::Result;
use netdiag::{
    node::conntrack::{Counter, netlink, read, read_all},
    snapshot::{ConntrackTable, Snapshot},
};
use netdiag_tests::{
    facts::Facts,
    netdiag::Netdiag,
    require,
    requirement::{Feature, alone},
};

use super::{Made, here, until};

/// `nf_conntrack_max` of the namespace that the test runs in as it was, again. It holds in all of them.
struct Limited(String);

impl Limited {
    const PATH: &str = "/proc/sys/net/netfilter/nf_conntrack_max";

    fn to(max: u64) -> Self {
        let before = fs::read_to_string(Self::PATH).unwrap();
        let limited = Self(before);
        fs::write(Self::PATH, max.to_string()).unwrap();
        limited
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        if let Err(error) = fs::write(Self::PATH, &self.0) {
            eprintln!("{} is {} no more: {error}", Self::PATH, self.0.trim_end());
        }
    }
}

/// A namespace in which connections are tracked, because a rule wants to know their state. They stay
/// for longer than any test.
pub(crate) fn tracking(name: &str) -> Made {
    let made = Made::new(name);
    made.exec("nft add table inet tracking");
    made.exec("nft add chain inet tracking out { type filter hook output priority 0 ; }");
    made.exec("nft add rule inet tracking out ct state new counter");
    made.inside(|| fs::write("/proc/sys/net/netfilter/nf_conntrack_udp_timeout", "3600").unwrap());
    made
}

/// Sends a datagram to each of these ports, where nobody listens; how many the kernel refused to track.
pub(crate) fn send(made: &Made, ports: Range<u16>) -> u64 {
    made.inside(|| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let refused = ports.filter(|port| match socket.send_to(b"x", ("127.0.0.1", *port)) {
            Ok(_) => false,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => true,
            Err(error) => panic!("{error}"),
        });
        refused.count() as u64
    })
}

fn entries(made: &Made) -> u64 {
    made.exec("conntrack -C").trim().parse().unwrap()
}

/// Sums over the processors, by name.
fn statistics(made: &Made) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    let text = made.exec("conntrack -S");
    let pairs = text.split_ascii_whitespace().filter_map(|pair| pair.split_once('='));
    for (name, value) in pairs.filter(|(name, _)| *name != "cpu") {
        *sums.entry(name.to_owned()).or_insert(0) += value.parse::<u64>().unwrap();
    }
    sums
}

#[test]
fn the_table_is_what_conntrack_says() {
    let _alone = alone();
    let made = tracking("conntrack");
    let untracked = Made::new("untracked");
    assert_eq!(send(&made, 2000..2040), 0);
    let limited = Limited::to(entries(&made));
    assert!(send(&made, 2100..2107) > 0);

    let reading = read_all(&[made.found(), untracked.found()]);
    assert_eq!(reading.unread, BTreeMap::new());
    let table = &reading.namespaces[&made.inode()];
    let mut facts = Facts::new();
    facts.note(format_args!("{table:?}"));
    facts.equal("entries", table.entries, entries(&made));
    let said = statistics(&made);
    facts.note(format_args!("{said:?}"));
    facts.holds("drops were counted", said["drop"] > 0);
    let (sums, by_netlink) = (table.statistics.sums(), made.inside(netlink::read));
    facts.equal("by netlink", by_netlink.map(|all| all.sums()).ok(), Some(sums));
    for counter in Counter::ALL {
        let name = counter.name();
        facts.equal(name, sums.get(counter), said.get(name).copied());
    }
    let idle = &reading.namespaces[&untracked.inode()];
    facts.holds("nothing is tracked elsewhere", idle.entries == 0 && idle.statistics.are_zero());
    drop(limited);
    let max = fs::read_to_string(Limited::PATH).unwrap().trim().parse().ok();
    let own = netdiag::node::netns::enter(&super::found(here()).unwrap(), read);
    facts.equal("maximum", own.unwrap().unwrap().unwrap().max, max);
    facts.finish();
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
    let _alone = alone();
    let (made, untracked) = (tracking("full"), Made::new("empty"));
    assert_eq!(send(&made, 2000..2040), 0);
    let limit = entries(&made);
    let limited = Limited::to(limit);
    let earlier = send(&made, 2100..2105);
    let before = statistics(&made);
    let netdiag = Netdiag::live(&[])?;
    let refused = send(&made, 2200..2217);
    let outcome = netdiag.stop()?;
    let (after, entries) = (statistics(&made), entries(&made));
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

/// Modules that are loaded, each with those that need it.
fn modules() -> BTreeMap<String, Vec<String>> {
    let modules = fs::read_to_string("/proc/modules").unwrap();
    let module = |line: &str| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let users = words[3].split(',').filter(|user| !["", "-"].contains(user));
        (words[0].to_owned(), users.map(str::to_owned).collect())
    };
    modules.lines().map(module).collect()
}

/// Those of connection tracking.
fn loaded() -> Vec<String> {
    modules().into_keys().filter(|name| name.contains("conntrack")).collect()
}

/// Takes a module out, and before it those that need it.
fn unload(name: &str) {
    for user in modules().remove(name).unwrap_or_default() {
        unload(&user);
    }
    // It may be in use for a moment: a namespace goes some time after its name.
    let _ = Command::new("rmmod").arg(name).output();
}

#[test]
fn no_module_is_loaded() -> Result<()> {
    require!(Feature::OwnModules);
    let _alone = alone();
    until("nf_conntrack is not loaded", || {
        unload("nf_conntrack");
        loaded().is_empty().then_some(())
    });
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
    statistics(&made);
    facts.holds("`conntrack` loads one", loaded().len() > before.len());
    facts.finish();
    Ok(())
}
