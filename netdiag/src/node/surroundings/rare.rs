//! What a network namespace says that changes rarely.

use std::{collections::BTreeMap, io};

use crate::{
    node::{ethtool, routes, ruleset, settings},
    snapshot::node::{Node, Part, RouteMtu, RuleTable, Settings, Unread},
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
    /// What could not be read, and why.
    unread: Vec<(Part, String)>,
}

impl Rare {
    /// Reads it in the calling thread's namespace.
    pub(super) fn read(may_ask_rules: bool, has_speeds: bool) -> Self {
        let mut unread = Vec::new();
        let (rules, all_rules) = ruleset::read(may_ask_rules);
        note(&mut unread, Part::Netfilter, all_rules);
        let speeds = if has_speeds { ethtool::read() } else { Ok(Vec::new()) };
        Self {
            rules,
            routes: note(&mut unread, Part::Routes, routes::read()),
            settings: settings::read(),
            speeds: note(&mut unread, Part::Speeds, speeds).into_iter().collect(),
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
fn note<T: Default>(unread: &mut Vec<(Part, String)>, part: Part, read: io::Result<T>) -> T {
    read.unwrap_or_else(|error| {
        let needs = match error.kind() {
            io::ErrorKind::PermissionDenied => ", it takes CAP_NET_ADMIN",
            _ => "",
        };
        unread.push((part, format!("{error}{needs}")));
        T::default()
    })
}

/// Namespaces by what could not be read of them, and why not.
fn unread_by(all: &BTreeMap<u32, Rare>) -> BTreeMap<&(Part, String), Vec<u32>> {
    let mut namespaces: BTreeMap<_, Vec<u32>> = BTreeMap::new();
    for (netns, rare) in all {
        for why in &rare.unread {
            namespaces.entry(why).or_default().push(*netns);
        }
    }
    namespaces
}

/// What could not be read of these namespaces, and of those that could not even be entered.
pub(super) fn unread(all: &BTreeMap<u32, Rare>, shut: &BTreeMap<u32, String>) -> Vec<Unread> {
    let mut parts: BTreeMap<Part, BTreeMap<u32, String>> = BTreeMap::new();
    for ((part, error), namespaces) in unread_by(all) {
        let reason = format!("cannot read the {}: {error}", part.words());
        let reasons = namespaces.into_iter().map(|netns| (netns, reason.clone()));
        parts.entry(*part).or_default().extend(reasons);
    }
    for part in [Part::Netfilter, Part::Routes, Part::Speeds].iter().filter(|_| !shut.is_empty()) {
        parts.entry(*part).or_default().extend(shut.clone());
    }
    parts.iter().filter_map(|(part, reasons)| Unread::in_namespaces(*part, reasons)).collect()
}

/// The same, a line for each part and reason.
pub(super) fn problems(all: &BTreeMap<u32, Rare>) -> Vec<String> {
    let line = |((part, error), namespaces): (&(Part, String), Vec<u32>)| {
        let of = match namespaces[..] {
            [one] => format!("network namespace {one}"),
            // Not how many: the line is told once.
            _ => "several network namespaces".to_owned(),
        };
        format!("cannot read the {} of {of}: {error}: they are unknown there", part.words())
    };
    unread_by(all).into_iter().map(line).collect()
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
            let rules: Vec<RuleTable> = note(&mut rare.unread, Part::Netfilter, read);
            assert_eq!(rules, []);
            rare
        };
        let all = BTreeMap::from([
            (5, refused(libc::EPERM)),
            (6, refused(libc::EPERM)),
            (7, refused(libc::EIO)),
            (8, Rare::default()),
        ]);
        let shut = |all: &BTreeMap<u32, Rare>, shut: &[u32]| {
            unread(all, &shut.iter().map(|netns| (*netns, "it is shut".to_owned())).collect())
        };
        let parts = shut(&BTreeMap::new(), &[9]).len();
        assert_eq!(parts, 3, "nothing at all is known of it");
        let unread = shut(&all, &[]);
        let [rules] = &unread[..] else { panic!("{unread:?}") };
        assert_eq!((rules.part, rules.namespaces), (Part::Netfilter, Some(3)));
        let said = problems(&all);
        let [io, refused] = &said[..] else { panic!("{said:?}") };
        assert!(io.contains("of network namespace 7: "), "{io}");
        assert!(refused.contains("of several network namespaces: "), "{refused}");
        assert!(refused.contains("it takes CAP_NET_ADMIN"), "{refused}");
    }
}
