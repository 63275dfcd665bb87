//! Packet filter rules and settings, by network namespace.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The rules of one table of the packet filter, those of iptables included.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct RuleTable {
    /// Inode number of the network namespace.
    pub netns: u32,
    /// `ip`, `ip6`, `inet`, `arp`, `bridge`, `netdev`; `any` where nftables did not tell its tables.
    pub family: String,
    /// Name of the table; empty where it stands for all of them.
    pub table: String,
    /// True for a table of the older iptables, false for nftables, which the newer one uses.
    pub legacy: bool,
    /// How many rules; null where that could not be read.
    pub rules: Option<u64>,
}

/// Settings of one network namespace; null is what this kernel does not have or show there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Settings {
    /// Inode number of the network namespace.
    pub netns: u32,
    /// `net.core.somaxconn`: the longest accept queue.
    pub somaxconn: Option<u64>,
    /// `net.ipv4.tcp_max_syn_backlog`: without SYN cookies, requests of a listener.
    pub tcp_max_syn_backlog: Option<u64>,
    /// `net.ipv4.tcp_syncookies`: 0 never, 1 when the queue of requests is full, 2 always.
    pub tcp_syncookies: Option<u64>,
    /// `net.ipv4.tcp_abort_on_overflow`.
    pub tcp_abort_on_overflow: Option<u64>,
    /// `net.ipv4.ip_local_port_range`, its first port.
    pub local_port_first: Option<u16>,
    /// Its last port.
    pub local_port_last: Option<u16>,
    /// `net.ipv4.tcp_tw_reuse`: 0 no, 1 yes, 2 on the loopback.
    pub tcp_tw_reuse: Option<u64>,
    /// `net.ipv4.tcp_max_tw_buckets`: sockets in TIME_WAIT.
    pub tcp_max_tw_buckets: Option<u64>,
    /// `net.ipv4.tcp_fin_timeout`, in seconds.
    pub tcp_fin_timeout_s: Option<u64>,
    /// `net.ipv4.tcp_mtu_probing`: 0 no, 1 after a black hole, 2 always.
    pub tcp_mtu_probing: Option<u64>,
    /// `net.ipv4.ip_no_pmtu_disc`.
    pub ip_no_pmtu_disc: Option<u64>,
    /// `net.ipv4.tcp_congestion_control`.
    pub tcp_congestion_control: Option<String>,
    /// `net.ipv4.tcp_rmem`, its maximum: the largest receive buffer, in bytes.
    pub tcp_rmem_max_bytes: Option<u64>,
    /// `net.ipv4.tcp_wmem`, its maximum: the largest send buffer, in bytes.
    pub tcp_wmem_max_bytes: Option<u64>,
    /// `net.core.netdev_max_backlog`, shown in the first namespace only: packets in a CPU's backlog.
    pub netdev_max_backlog: Option<u64>,
    /// `net.core.netdev_budget`, likewise: packets that a CPU takes at once.
    pub netdev_budget: Option<u64>,
}
