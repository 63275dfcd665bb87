//! Network interfaces, what queues before them, and what routes allow.

use std::mem;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::sum;

/// A network interface. Counts are increases; null is what the kernel does not tell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Interface {
    /// Inode number of its network namespace.
    pub netns: u32,
    /// Its index in the namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// `veth`, `bridge`, `vxlan`, `tun`, …; null for one of hardware and for the loopback.
    pub kind: Option<String>,
    /// Whether it is the loopback.
    pub loopback: bool,
    /// Whether it is switched on.
    pub up: bool,
    /// Whether it has a link.
    pub carrier: Option<bool>,
    /// Largest packet, in bytes.
    pub mtu: u32,
    /// What its link carries, in bits per second; null where it does not say, as a virtual one.
    pub speed_bits: Option<u64>,
    /// Index of the bridge or bond that it is part of, in the same namespace.
    pub master: Option<u32>,
    /// The other end of a veth, the interface below a VLAN or tunnel.
    pub peer: Option<PeerInterface>,
    /// Bytes received.
    pub rx_bytes: Option<u64>,
    /// Packets received.
    pub rx_packets: Option<u64>,
    /// Packets received that were damaged, of any kind.
    pub rx_errors: Option<u64>,
    /// Packets received and dropped, for want of room in the driver or of anybody who wants them.
    pub rx_dropped: Option<u64>,
    /// Packets that the card dropped for want of room in its own memory.
    pub rx_missed: Option<u64>,
    /// Packets received with a wrong checksum of the link.
    pub rx_crc_errors: Option<u64>,
    /// Packets that overran the card's queue.
    pub rx_overruns: Option<u64>,
    /// Packets received that no protocol wanted.
    pub rx_nohandler: Option<u64>,
    /// Bytes sent.
    pub tx_bytes: Option<u64>,
    /// Packets sent.
    pub tx_packets: Option<u64>,
    /// Packets that could not be sent.
    pub tx_errors: Option<u64>,
    /// Packets dropped on their way out.
    pub tx_dropped: Option<u64>,
    /// Packets that could not be sent for want of a link.
    pub tx_carrier_errors: Option<u64>,
    /// Times that the link came or went.
    pub carrier_changes: Option<u64>,
}

impl Interface {
    /// Adds a later interval: its counts as far as they are known, and all else as it stood then.
    pub fn add(&mut self, later: &Self) {
        let mut before = mem::replace(self, later.clone());
        for (count, before) in self.counts_mut().into_iter().zip(before.counts_mut()) {
            *count = sum(*before, *count);
        }
    }

    /// The network namespace that it leads to, where that is another one.
    #[must_use]
    pub fn leads_to(&self) -> Option<u32> {
        self.peer.and_then(|peer| peer.netns).filter(|netns| *netns != self.netns)
    }

    /// What it counts.
    pub fn counts_mut(&mut self) -> [&mut Option<u64>; 14] {
        [
            &mut self.rx_bytes,
            &mut self.rx_packets,
            &mut self.rx_errors,
            &mut self.rx_dropped,
            &mut self.rx_missed,
            &mut self.rx_crc_errors,
            &mut self.rx_overruns,
            &mut self.rx_nohandler,
            &mut self.tx_bytes,
            &mut self.tx_packets,
            &mut self.tx_errors,
            &mut self.tx_dropped,
            &mut self.tx_carrier_errors,
            &mut self.carrier_changes,
        ]
    }
}

/// The interface that another one leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PeerInterface {
    /// Its index.
    pub index: u32,
    /// Inode number of its network namespace; null when unknown.
    pub netns: Option<u32>,
}

/// A queueing discipline. Counts are increases.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Qdisc {
    /// Inode number of its network namespace.
    pub netns: u32,
    /// Index of its interface.
    pub index: u32,
    /// Name of its interface; null when that is gone.
    pub interface: Option<String>,
    /// `fq_codel`, `tbf`, …
    pub kind: String,
    /// What `tc` calls it, as `8001:`.
    pub handle: String,
    /// What it is below, as `1:2`; null at the root.
    pub parent: Option<String>,
    /// Bytes sent.
    pub bytes: u64,
    /// Packets sent.
    pub packets: u64,
    /// Packets dropped.
    pub drops: u64,
    /// Times that a limit held packets back.
    pub overlimits: u64,
    /// Packets that the driver gave back.
    pub requeues: u64,
    /// Bytes waiting at the end.
    pub backlog_bytes: u64,
    /// Packets waiting at the end.
    pub backlog_packets: u64,
    /// The rate that it limits to, in bits per second; null where it has none or the kind is not known
    /// here (`tbf` is).
    pub rate_bits: Option<u64>,
}

impl Qdisc {
    /// Adds a later interval: its counts, and all else as it stood then.
    pub fn add(&mut self, later: &Self) {
        let before = mem::replace(self, later.clone());
        self.bytes += before.bytes;
        self.packets += before.packets;
        self.drops += before.drops;
        self.overlimits += before.overlimits;
        self.requeues += before.requeues;
    }
}

/// A route that sets an MTU.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct RouteMtu {
    /// Inode number of its network namespace.
    pub netns: u32,
    /// Where it leads, as `10.0.0.0/8`.
    pub destination: String,
    /// Index of its interface; null where it has several or none.
    pub index: Option<u32>,
    /// The MTU, in bytes.
    pub mtu: u32,
}
