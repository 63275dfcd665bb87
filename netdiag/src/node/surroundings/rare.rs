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
    pub(super) fn read(may_ask_rules: bool, has_hardware: bool) -> Self {
        let speeds = if has_hardware { ethtool::read().unwrap_or_default() } else { Vec::new() };
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
        // What a virtual one says of its speed, nobody measured.
        for one in here.filter(|one| one.kind.is_none() && !one.loopback) {
            one.speed_bits = self.speeds.get(&one.index).copied();
        }
    }
}
