//! What a network namespace says that changes rarely.

use std::{collections::BTreeMap, io};

use crate::{
    node::{ethtool, routes, ruleset, settings},
    snapshot::node::{Node, RouteMtu, RuleTable, Settings},
};

/// Routes of a snapshot.
const ROUTES: usize = 100;

/// What one said, and what could not be read.
#[derive(Default)]
pub(super) struct Rare {
    rules: Vec<RuleTable>,
    routes: Vec<RouteMtu>,
    settings: Settings,
    /// By index of the interface.
    speeds: BTreeMap<u32, u64>,
    /// What could not be read, in words, and why.
    unread: Vec<(&'static str, String)>,
}

impl Rare {
    /// Reads it in the calling thread's namespace.
    pub(super) fn read(may_ask_rules: bool, has_speeds: bool) -> Self {
        let mut unread = Vec::new();
        let (rules, all_rules) = ruleset::read(may_ask_rules);
        note(&mut unread, "packet filter rules", all_rules);
        let speeds = if has_speeds { ethtool::read() } else { Ok(Vec::new()) };
        Self {
            rules,
            routes: note(&mut unread, "routes", routes::read()),
            settings: settings::read(),
            speeds: note(&mut unread, "speeds of interfaces", speeds).into_iter().collect(),
            unread,
        }
    }

    /// Adds it to what is told of a node.
    pub(super) fn tell(&self, netns: u32, node: &mut Node) {
        let rules = self.rules.iter().cloned();
        node.netfilter.extend(rules.map(|table| RuleTable { netns, ..table }));
        let room = ROUTES.saturating_sub(node.route_mtus.len());
        let routes = self.routes.iter().take(room).cloned();
        node.route_mtus.extend(routes.map(|route| RouteMtu { netns, ..route }));
        node.settings.push(Settings { netns, ..self.settings.clone() });
        let here = node.interfaces.iter_mut().filter(|one| one.netns == netns);
        for one in here.filter(|one| !one.loopback) {
            let speed = self.speeds.get(&one.index).copied();
            one.speed_bits = speed.filter(|&speed| is_meant(one.kind.as_deref(), speed));
        }
    }
}

/// What was read, or nothing and why.
fn note<T: Default>(
    unread: &mut Vec<(&'static str, String)>,
    what: &'static str,
    read: io::Result<T>,
) -> T {
    read.unwrap_or_else(|error| {
        let needs = match error.kind() {
            io::ErrorKind::PermissionDenied => ", it takes CAP_NET_ADMIN",
            _ => "",
        };
        unread.push((what, format!("{error}{needs}")));
        T::default()
    })
}

/// What could not be read of these namespaces, a line for each kind and reason.
pub(super) fn problems(all: &BTreeMap<u32, Rare>) -> Vec<String> {
    let mut namespaces: BTreeMap<_, Vec<u32>> = BTreeMap::new();
    for (netns, rare) in all {
        for why in &rare.unread {
            namespaces.entry(why).or_default().push(*netns);
        }
    }
    let line = |((what, error), namespaces): (&(&str, String), Vec<u32>)| {
        let of = match namespaces[..] {
            [one] => format!("network namespace {one}"),
            // Not how many: the line is told once.
            _ => "several network namespaces".to_owned(),
        };
        format!("cannot read the {what} of {of}: {error}: they are unknown there")
    };
    namespaces.into_iter().map(line).collect()
}

/// Whether a speed is one that something carries. A veth says what its driver was compiled with, and so does a
/// tun that nobody told another one (`tun_net_init`, drivers/net/tun.c); a bond or VLAN says what those below it do.
fn is_meant(kind: Option<&str>, speed: u64) -> bool {
    const TUN_DEFAULTS: [u64; 2] = [10_000_000, 10_000_000_000];
    match kind {
        None | Some("bond" | "team" | "vlan") => true,
        Some("tun") => !TUN_DEFAULTS.contains(&speed),
        Some(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_said_once() {
        let refused = |errno| {
            let mut rare = Rare::default();
            let read = Err(io::Error::from_raw_os_error(errno));
            let rules: Vec<RuleTable> = note(&mut rare.unread, "packet filter rules", read);
            assert_eq!(rules, []);
            rare
        };
        let all = BTreeMap::from([
            (5, refused(libc::EPERM)),
            (6, refused(libc::EPERM)),
            (7, refused(libc::EIO)),
            (8, Rare::default()),
        ]);
        let said = problems(&all);
        let [io, refused] = &said[..] else { panic!("{said:?}") };
        assert!(io.contains("of network namespace 7: "), "{io}");
        assert!(refused.contains("of several network namespaces: "), "{refused}");
        assert!(refused.contains("it takes CAP_NET_ADMIN"), "{refused}");
    }
}
