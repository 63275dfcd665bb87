//! What the node could not say of itself.

use std::{collections::BTreeMap, io, path::Path};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A part of what the node says of itself, by what is read for it.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// `tcp`.
    Tcp,
    /// `ip`, `udp` and `icmp`.
    Protocols,
    /// `sockets`, `ports` and `listen_queues`.
    Sockets,
    /// `listeners`.
    Listeners,
    /// `interfaces`.
    Interfaces,
    /// The speeds of these.
    Speeds,
    /// `qdiscs`.
    Qdiscs,
    /// `route_mtus`.
    Routes,
    /// `softnet`.
    Softnet,
    /// `cpu`.
    Cpu,
    /// `throttled`.
    Cgroups,
    /// `memory`.
    Memory,
    /// `netfilter`.
    Netfilter,
    /// `conntrack`.
    Conntrack,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Tcp,
        Self::Protocols,
        Self::Sockets,
        Self::Listeners,
        Self::Interfaces,
        Self::Speeds,
        Self::Qdiscs,
        Self::Routes,
        Self::Softnet,
        Self::Cpu,
        Self::Cgroups,
        Self::Memory,
        Self::Netfilter,
        Self::Conntrack,
    ];

    /// What is read, in words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Tcp => "TCP counters",
            Self::Protocols => "IP, UDP and ICMP counters",
            Self::Sockets => "TCP sockets",
            Self::Listeners => "listeners",
            Self::Interfaces => "interfaces",
            Self::Speeds => "speeds of interfaces",
            Self::Qdiscs => "queueing disciplines",
            Self::Routes => "routes",
            Self::Softnet => "packet counters of CPUs",
            Self::Cpu => "CPU times",
            Self::Cgroups => "CPU limits of control groups",
            Self::Memory => "memory of sockets",
            Self::Netfilter => "packet filter rules",
            Self::Conntrack => "connection tracking",
        }
    }
}

/// Namespaces that are named of each part.
const NAMED: usize = 100;

/// A part that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Unread {
    /// Which.
    pub part: Part,
    /// In how many network namespaces; null for what is the node's as a whole.
    pub namespaces: Option<u64>,
    /// Inode numbers of these, at most a hundred.
    pub netns: Vec<u32>,
    /// Why not, in one line: of several namespaces that of one.
    pub reason: String,
}

impl Unread {
    /// In namespaces, each with its reason; none where there are none.
    #[must_use]
    pub fn in_namespaces(part: Part, reasons: &BTreeMap<u32, String>) -> Option<Self> {
        let reason = reasons.values().next()?.clone();
        let netns = reasons.keys().take(NAMED).copied().collect();
        Some(Self { part, namespaces: Some(reasons.len() as u64), netns, reason })
    }

    /// Whether it could not be read in this namespace, or may not have been.
    #[must_use]
    pub fn concerns(&self, netns: u32) -> bool {
        let named = self.netns.len() as u64;
        self.namespaces.is_none_or(|all| all > named) || self.netns.contains(&netns)
    }

    /// On the node as a whole.
    #[must_use]
    pub const fn of_node(part: Part, reason: String) -> Self {
        Self { part, namespaces: None, netns: Vec::new(), reason }
    }

    /// Likewise, by what came of reading a file, and whether that said anything.
    #[must_use]
    pub fn of_file(
        part: Part,
        path: &Path,
        read: &io::Result<String>,
        is_known: bool,
    ) -> Option<Self> {
        let why = match read {
            Err(error) => error.to_string(),
            Ok(_) if is_known => return None,
            Ok(_) => "it makes no sense".to_owned(),
        };
        Some(Self::of_node(part, format!("cannot read {}: {why}", path.display())))
    }
}
