//! What a network namespace says that changes rarely.

use std::collections::BTreeMap;

use crate::{
    node::{ethtool, routes, ruleset, settings},
    snapshot::node::{Node, RouteMtu, RuleTable, Settings},
};

/// Routes of a snapshot.
const ROUTES: usize = 100;

/// What one said; what could not be read is not told.
#[derive(Default)]
pub(super) struct Rare {
    rules: Vec<RuleTable>,
    routes: Vec<RouteMtu>,
    settings: Settings,
    /// By index of the interface.
    speeds: BTreeMap<u32, u64>,
}

impl Rare {
    /// Reads it in the calling thread's namespace.
    pub(super) fn read(may_ask_rules: bool, has_speeds: bool) -> Self {
        let speeds = if has_speeds { ethtool::read().unwrap_or_default() } else { Vec::new() };
        Self {
            rules: ruleset::read(may_ask_rules).unwrap_or_default(),
            routes: routes::read().unwrap_or_default(),
            settings: settings::read(),
            speeds: speeds.into_iter().collect(),
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
