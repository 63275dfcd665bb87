//! What netdiag said in a run, and how to find a flow or a number in it.

use std::{collections::BTreeMap, net::SocketAddr, process::ExitStatus};

use anyhow::{Context, Result};
use netdiag::snapshot::{CountValue, Distribution, Endpoint, Flow, SignalStatus, Snapshot};

use crate::traffic::End;

/// Every kind of retransmission, as `retransmits.KIND` counts it.
pub const RETRANSMITS: [&str; 6] = ["rto", "fast", "tlp", "syn", "synack", "other"];

/// All lines of one run.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended; `None` while it runs.
    pub status: Option<ExitStatus>,
    /// One per interval.
    pub snapshots: Vec<Snapshot>,
    /// The last line, once it has ended.
    pub total: Option<Snapshot>,
    /// Lines on standard error.
    pub stderr: Vec<String>,
}

impl Outcome {
    /// Reads the lines of a run in JSON.
    ///
    /// # Errors
    /// When a line is not of the types in `netdiag::snapshot`.
    pub fn parse(status: Option<ExitStatus>, out: &[String], err: &[String]) -> Result<Self> {
        let mut snapshots = Vec::new();
        let mut total = None;
        for line in out {
            let snapshot: Snapshot = serde_json::from_str(line)
                .with_context(|| format!("line on standard output: {line}"))?;
            if snapshot.schema.starts_with("netdiag.total/") {
                total = Some(snapshot);
            } else {
                snapshots.push(snapshot);
            }
        }
        Ok(Self { status, snapshots, total, stderr: err.to_vec() })
    }

    /// The whole run.
    ///
    /// # Errors
    /// When it printed no total.
    pub fn total(&self) -> Result<&Snapshot> {
        self.total.as_ref().with_context(|| {
            format!("no total among {} lines; {:?}", self.snapshots.len(), self.stderr)
        })
    }

    /// Exit status as a shell shows it; `None` when a signal ended it.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.status.and_then(|status| status.code())
    }
}

fn is_at(endpoint: &Endpoint, address: SocketAddr) -> bool {
    endpoint.ip == Some(address.ip()) && endpoint.port == Some(address.port())
}

/// Flows that are this end: one, unless something is wrong.
#[must_use]
pub fn flows_of<'a>(snapshot: &'a Snapshot, end: &End) -> Vec<&'a Flow> {
    let is_end = |flow: &&Flow| {
        flow.netns == Some(end.netns)
            && is_at(&flow.local, end.local)
            && is_at(&flow.peer, end.peer)
    };
    snapshot.flows.iter().filter(is_end).collect()
}

/// The flow of this end.
///
/// # Errors
/// When it is not listed, or more than once; with the flows that come near.
pub fn flow_of<'a>(snapshot: &'a Snapshot, end: &End) -> Result<&'a Flow> {
    match flows_of(snapshot, end).as_slice() {
        &[flow] => Ok(flow),
        found => {
            let port = end.local.port();
            let near: Vec<_> = snapshot
                .flows
                .iter()
                .filter(|flow| [flow.local.port, flow.peer.port].contains(&Some(port)))
                .collect();
            anyhow::bail!("{} flows are {end:?}; with port {port}: {near:#?}", found.len())
        }
    }
}

/// A count of a flow by name, `group.key` for one of a group; `None` when null or absent.
#[must_use]
pub fn count(flow: &Flow, name: &str) -> Option<u64> {
    match name.split_once('.') {
        None => match flow.counts.get(name)? {
            CountValue::Number(number) => *number,
            CountValue::Group(_) => None,
        },
        Some((group, key)) => match flow.counts.get(group)? {
            CountValue::Group(keys) => keys.get(key).copied().flatten(),
            CountValue::Number(_) => None,
        },
    }
}

/// A group of counts of a flow, by their keys, without those that are null; empty when absent.
#[must_use]
pub fn group<'a>(flow: &'a Flow, name: &str) -> BTreeMap<&'a str, u64> {
    match flow.counts.get(name) {
        Some(CountValue::Group(keys)) => {
            keys.iter().filter_map(|(key, n)| Some((key.as_str(), (*n)?))).collect()
        }
        _ => BTreeMap::new(),
    }
}

/// A count summed over some flows, null as nothing.
#[must_use]
pub fn sum<'a>(flows: impl IntoIterator<Item = &'a Flow>, name: &str) -> u64 {
    flows.into_iter().filter_map(|flow| count(flow, name)).sum()
}

/// The distribution of a metric of a flow; empty when absent.
#[must_use]
pub fn metric(flow: &Flow, name: &str) -> Distribution {
    flow.metrics.get(name).cloned().unwrap_or_default()
}

/// Flows in some namespaces.
pub fn in_namespaces<'a>(
    snapshot: &'a Snapshot,
    namespaces: &[u32],
) -> impl Iterator<Item = &'a Flow> {
    snapshot.flows.iter().filter(|flow| flow.netns.is_some_and(|netns| namespaces.contains(&netns)))
}

/// Segments of some namespaces that were sent again, whatever the kind.
#[must_use]
pub fn sent_again(snapshot: &Snapshot, namespaces: &[u32]) -> u64 {
    let of = |kind| sum(in_namespaces(snapshot, namespaces), &format!("retransmits.{kind}"));
    RETRANSMITS.map(of).iter().sum()
}

/// How a signal was observed.
///
/// # Errors
/// When the snapshot does not name it.
pub fn status<'a>(snapshot: &'a Snapshot, signal: &str) -> Result<&'a SignalStatus> {
    let found = snapshot.signals.iter().find(|status| status.signal == signal);
    found.with_context(|| format!("no signal {signal} in {:?}", snapshot.signals))
}
