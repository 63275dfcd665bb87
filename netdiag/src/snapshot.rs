//! The flow table and the accounting frozen at one time: what every view and rule reads.
//!
//! The types are the JSON of `live`, `record` and `doctor` as well; their schemas in `docs/schema`
//! are generated from here. Null means unknown or not measurable, never zero.

use std::{collections::BTreeMap, net::IpAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub mod build;
mod conntrack;
pub mod node;
mod own;
mod owner;
pub mod redact;
pub mod told;

pub use conntrack::{Conntrack, Entry, Sum, TopCreator, Tuple};
pub use node::{ConntrackTable, Listener, Node};
pub use own::{Own, OwnProgram};

pub use crate::{
    coverage::{Account, Refusal, SignalStatus, Status, Stream},
    flow::{Grouping, Role},
    sandbox::Reached,
};

/// One address and port of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Endpoint {
    /// IPv4 or IPv6 address; a v4-mapped one is shown as IPv4. Null in `other`.
    pub ip: Option<IpAddr>,
    /// Port in host order. Null in `other`.
    pub port: Option<u16>,
}

/// Whom a socket belongs to; null where that is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Owner {
    /// Process id (tgid).
    pub pid: Option<u32>,
    /// Name of the process.
    pub comm: Option<String>,
    /// Path of its cgroup.
    pub cgroup: Option<String>,
    /// Container id.
    pub container: Option<String>,
    /// Name of that container in its pod.
    pub container_name: Option<String>,
    /// Uid of its pod.
    pub pod_uid: Option<String>,
    /// Name of its pod.
    pub pod: Option<String>,
    /// Kubernetes namespace of its pod.
    pub namespace: Option<String>,
}

/// A latency distribution, 2 significant digits, values in nanoseconds from 1 ns to 1 h.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Distribution {
    /// Samples in range.
    pub count: u64,
    /// Smallest value; null without samples, like the rest.
    pub min_ns: Option<u64>,
    /// Median.
    pub p50_ns: Option<u64>,
    /// 90th percentile.
    pub p90_ns: Option<u64>,
    /// 99th percentile.
    pub p99_ns: Option<u64>,
    /// 99.9th percentile.
    pub p999_ns: Option<u64>,
    /// Largest value.
    pub max_ns: Option<u64>,
    /// Samples outside the range, not contained in any other number here.
    pub out_of_range: u64,
}

/// A count, or a group of counts by key; null where no source could see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum CountValue {
    /// One number.
    Number(Option<u64>),
    /// One number per key.
    Group(BTreeMap<String, Option<u64>>),
}

/// What one end of a conversation did in an interval or a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Flow {
    /// Unique in a run, never reused in it. `other` for the sum of the flows not listed.
    pub id: String,
    /// This end.
    pub local: Endpoint,
    /// The other end.
    pub peer: Endpoint,
    /// Inode number of the network namespace.
    pub netns: Option<u32>,
    /// `tcp` or `udp`.
    pub protocol: Option<String>,
    /// Client or server, null where the opening was not seen.
    pub role: Option<Role>,
    /// Whom it belongs to.
    pub owner: Owner,
    /// Where its client sends to, when that is translated on its way to another end: the address of a
    /// service. Null where it is not, or where connection tracking does not tell netdiag.
    pub service: Option<Endpoint>,
    /// Who answers at the end of the translation; null as above.
    pub backend: Option<Endpoint>,
    /// The other end's flow id where both ends are on this node and known.
    pub pair: Option<String>,
    /// Whom the other end belongs to; null where it is not on this node, or not known.
    pub peer_owner: Option<Owner>,
    /// True when the socket is gone.
    pub closed: bool,
    /// Smoothed round-trip time as last reported by the kernel.
    pub srtt_ns: Option<u64>,
    /// Smallest round-trip time of late (the kernel's windowed minimum) as last reported by the kernel:
    /// what the path takes by itself, whatever the peer's delays are.
    pub rtt_min_ns: Option<u64>,
    /// Congestion window in segments as last reported by the kernel.
    pub cwnd: Option<u32>,
    /// Which flows it stands for, where it is several in one (`--by`): the fields above hold what all of them
    /// share, and states are null.
    pub group: Option<Group>,
    /// Latency distributions by metric; a metric with no sample is absent.
    pub metrics: BTreeMap<String, Distribution>,
    /// Counts by name.
    pub counts: BTreeMap<String, CountValue>,
}

impl Flow {
    /// Whether anything was counted or measured.
    #[must_use]
    pub fn is_active(&self) -> bool {
        let counted = self.counts.values().any(|count| match count {
            CountValue::Number(n) => n.is_some_and(|n| n > 0),
            CountValue::Group(keys) => keys.values().flatten().any(|n| *n > 0),
        });
        counted || !self.metrics.is_empty()
    }
}

/// Flows that have something in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Group {
    /// What that is: an address, with a port for a backend; `comm/pid`; a container's id; a pod's uid; a port.
    /// Null where it is not known of them.
    pub name: Option<String>,
    /// How many they are.
    pub flows: u64,
}

/// The flows of one interval (`netdiag.snapshot/1`) or of the whole run (`netdiag.total/1`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Snapshot<F = Vec<Flow>> {
    /// `netdiag.snapshot/1` or `netdiag.total/1`.
    pub schema: String,
    /// Start of the interval, RFC 3339 UTC.
    pub start: String,
    /// End of the interval.
    pub end: String,
    /// Name of the node.
    pub host: String,
    /// Kernel release.
    pub kernel: String,
    /// How each signal is observed.
    pub signals: Vec<SignalStatus>,
    /// What makes flows one row (`--by`).
    #[serde(default)]
    pub by: Grouping,
    /// The flows, or the groups of them, largest first.
    pub flows: F,
    /// Sum of all flows that are not listed, and of what belongs to no flow.
    pub other: Flow,
    /// Flows, or groups of them, that are summed up in `other`; null in what an older netdiag recorded.
    pub folded: Option<u64>,
    /// Entries of the connection tracking table to which something happened; null when the signal is
    /// off.
    pub conntrack: Option<Conntrack>,
    /// Whether filters narrow the flows (never the node counters).
    pub filtered: bool,
    /// What the node says of itself.
    pub node: Node,
    /// What netdiag itself takes.
    #[serde(default)]
    pub own: Own,
    /// Fates of samples by signal, since the start.
    pub accounting: BTreeMap<String, Account>,
    /// What userspace received, since the start.
    pub stream: Stream,
    /// True when nothing was lost or missed.
    pub complete: bool,
}

/// `netdiag.doctor/1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Doctor {
    /// `netdiag.doctor/1`.
    pub schema: String,
    /// Kernel release.
    pub kernel: String,
    /// Whether the kernel's BTF was found.
    pub btf: bool,
    /// Lockdown mode (`none`, `integrity`, `confidentiality`), null when unknown.
    pub lockdown: Option<String>,
    /// Preemption model (`none`, `voluntary`, `full`, `lazy`), null when unknown.
    pub preemption: Option<String>,
    /// Where the node's file system is seen: `/`, elsewhere in a container.
    pub host_root: String,
    /// What of the node cannot be seen from here, and why: a container or missing capabilities hide it.
    pub unseen: Vec<String>,
    /// How far a command that runs is confined once the programs are attached; null with `--no-sandbox`, or in what an
    /// older netdiag said.
    #[serde(default)]
    pub sandbox: Option<Reached>,
    /// How each signal would be observed.
    pub signals: Vec<SignalStatus>,
}
