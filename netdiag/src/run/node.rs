//! The node's own words: its TCP counters and what we cost it, as increases.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    node::{
        netns::{self, Depth},
        own, tcp_counters,
    },
    snapshot::Node,
};

/// Readings of the TCP counters and of our own cost, one interval apart. Reading takes the longer
/// the more namespaces there are, so it is no work for the thread that reads the rings.
pub(super) struct Readings {
    host_root: PathBuf,
    tcp: tcp_counters::Reading,
    first: tcp_counters::Reading,
    cpu: Duration,
    first_cpu: Duration,
}

impl Readings {
    /// Reads for the first time.
    pub(super) fn begin(host_root: &Path) -> Self {
        let found = netns::find(host_root, Depth::Everything);
        let tcp = tcp_counters::read_all(&found.namespaces);
        let cpu = own::cpu_time();
        Self { host_root: host_root.to_owned(), first: tcp.clone(), tcp, cpu, first_cpu: cpu }
    }

    /// What happened since the last time.
    pub(super) fn advance(&mut self) -> Node {
        let found = netns::find(&self.host_root, Depth::Processes);
        let tcp = tcp_counters::read_all(&found.namespaces);
        let node = Node { tcp: documented(&self.tcp, &tcp), ..cost(self.cpu) };
        self.cpu = own::cpu_time();
        self.tcp.follow(tcp);
        node
    }

    /// What happened since the first time.
    pub(super) fn total(&self) -> Node {
        Node { tcp: documented(&self.first, &self.tcp), ..cost(self.first_cpu) }
    }
}

fn documented(
    before: &tcp_counters::Reading,
    after: &tcp_counters::Reading,
) -> BTreeMap<u32, BTreeMap<String, u64>> {
    tcp_counters::documented(tcp_counters::increase(before, after))
}

fn cost(before: Duration) -> Node {
    let spent = own::cpu_time().saturating_sub(before);
    Node {
        tcp: BTreeMap::new(),
        own_cpu_ns: u64::try_from(spent.as_nanos()).ok(),
        own_resident_bytes: own::resident_bytes(),
    }
}
