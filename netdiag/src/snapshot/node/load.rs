//! CPUs, and memory of sockets.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::sum;
use crate::snapshot::Owner;

/// What one CPU took from network cards and virtual links (`/proc/net/softnet_stat`). Increases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Softnet {
    /// Its number.
    pub cpu: u32,
    /// Packets.
    pub processed: u64,
    /// Packets dropped because its backlog was full (`net.core.netdev_max_backlog`).
    pub dropped: u64,
    /// Times that it stopped with packets left, its budget or time being over.
    pub time_squeeze: u64,
    /// Packets dropped because one flow had too large a share of a filling backlog; null where the
    /// kernel does not tell.
    pub flow_limit: Option<u64>,
    /// Packets in its backlog at the end; null where the kernel does not tell.
    pub backlog: Option<u64>,
}

impl Softnet {
    /// Adds a later interval: its counts as far as they are known, and its backlog as it stood then.
    pub fn add(&mut self, later: &Self) {
        self.processed += later.processed;
        self.dropped += later.dropped;
        self.time_squeeze += later.time_squeeze;
        self.flow_limit = sum(self.flow_limit, later.flow_limit);
        self.backlog = later.backlog;
    }
}

/// How busy CPUs were (`/proc/stat`).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Cpu {
    /// CPUs that are on.
    pub cpus: u32,
    /// All of them together.
    pub mean: CpuShare,
    /// The one that was busy most.
    pub busiest: CpuShare,
    /// The one with most time in software interrupts, where packets are received.
    pub most_softirq: CpuShare,
    /// Threads that ran or waited for a CPU at the end.
    pub runnable: Option<u64>,
    /// Time that threads waited for a CPU; null where the kernel does not tell (`/proc/pressure`).
    pub pressure: Option<Pressure>,
}

/// Shares of time, from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CpuShare {
    /// Which CPU; null for all together.
    pub cpu: Option<u32>,
    /// Neither idle nor waiting for a disk; stolen time is busy.
    pub busy_ratio: f64,
    /// In software interrupts.
    pub softirq_ratio: f64,
    /// In interrupts.
    pub irq_ratio: f64,
    /// Taken by the hypervisor.
    pub steal_ratio: f64,
    /// Idle while a disk was waited for.
    pub iowait_ratio: f64,
}

/// Time in which at least one thread had to wait. Increase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Pressure {
    /// Microseconds.
    pub some_us: u64,
}

/// A control group that its CPU limit held back. Increases.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Throttled {
    /// Its path below the root of its hierarchy.
    pub cgroup: String,
    /// Whether all that its processes belong to has this path: control groups of version 2, which have one hierarchy.
    #[serde(default)]
    pub unified: bool,
    /// The container and pod that it is; no process.
    #[serde(default)]
    pub owner: Owner,
    /// Processes that were in itself at the end, ascending; null where they are not known, or more than 256.
    #[serde(default)]
    pub pids: Option<Vec<u32>>,
    /// Periods that passed while it had something to run.
    pub periods: u64,
    /// Periods in which it was held back.
    pub throttled_periods: u64,
    /// Time that its CPUs were held back, summed up, in microseconds.
    pub throttled_us: u64,
    /// CPU time that it may take in a period, in microseconds; null when unknown.
    pub quota_us: Option<u64>,
    /// Length of a period, in microseconds; null when unknown.
    pub period_us: Option<u64>,
}

/// Memory of sockets, of all namespaces, at the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SocketMemory {
    /// That of TCP sockets (`net.ipv4.tcp_mem`).
    pub tcp: MemoryUse,
    /// That of UDP sockets (`net.ipv4.udp_mem`).
    pub udp: MemoryUse,
    /// TCP sockets that no process holds any more, and that are not in TIME_WAIT.
    pub tcp_orphans: Option<u64>,
    /// How many may be (`net.ipv4.tcp_max_orphans`).
    pub tcp_max_orphans: Option<u64>,
}

/// Memory in use and its limits, in pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MemoryUse {
    /// In use.
    pub pages: Option<u64>,
    /// Below it nothing is limited.
    pub low_pages: Option<u64>,
    /// Above it sockets are kept small.
    pub pressure_pages: Option<u64>,
    /// More is not given.
    pub high_pages: Option<u64>,
}
