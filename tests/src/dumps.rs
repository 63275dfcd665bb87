//! Recordings made up: as many bytes of them as are asked for, as `netdiag record` writes them, of a node whose flows
//! send, wait for answers and lose segments.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::{Result, ensure};
use netdiag::{
    config,
    coverage::{SignalStatus, Status, Stream},
    flow::{Frozen, Grouping, Interval, Role, latency::Latency},
    labels::Labels,
    signal::{self, MetricId},
    snapshot::{
        Node, Own,
        build::{Frame, Scope},
    },
    view::dump::Recorder,
};
use netdiag_common::{
    flow::{FlowKey, TCP, V4_MAPPED_PREFIX},
    signal::Signal,
};

use crate::random::Random;

/// Flows of an interval: as many as `record` writes unless asked.
const FLOWS: u64 = 1_000;

/// What a made-up recording is like.
#[derive(Clone, Debug)]
pub struct Dumps<'a> {
    /// Directory of the files.
    pub out: &'a Path,
    /// Name of the node.
    pub node: &'a str,
    /// Bytes that both files have at least.
    pub bytes: u64,
}

/// Makes it; returns how many intervals, of a second each, it has.
///
/// # Errors
/// Input and output.
pub fn make(dumps: &Dumps<'_>) -> Result<u64> {
    let settings = config::Dump {
        out: dumps.out.to_owned(),
        node: Some(dumps.node.to_owned()),
        max_disk: u64::MAX,
        rotate_size: 64 << 20,
        rotate_every: Duration::from_secs(3_600),
    };
    let (mut recorder, _said) = Recorder::open(&settings, dumps.node)?;
    let mut random = Random::of(7);
    let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_234_680);
    let mut intervals = 0;
    while bytes(dumps.out)? < dumps.bytes {
        let from = start + Duration::from_secs(intervals);
        let interval = interval(intervals, &mut random);
        let snapshot = Frame {
            scope: Scope::Interval,
            by: Grouping::Flow,
            start: from,
            end: from + Duration::from_secs(1),
            host: dumps.node,
            kernel: "6.12.0",
            labels: &Labels::default(),
            signals: &signals(),
            filtered: false,
            node: Node::default(),
            own: Own::default(),
            accounting: [].into(),
            stream: Stream::default(),
        }
        .build(&interval);
        let said = recorder.write(&snapshot, &interval);
        ensure!(said.is_none(), "{said:?}");
        intervals += 1;
    }
    recorder.close()?;
    Ok(intervals)
}

fn bytes(directory: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in directory.read_dir()? {
        bytes += entry?.metadata()?.len();
    }
    Ok(bytes)
}

fn signals() -> Vec<SignalStatus> {
    let status = |signal: &Signal| SignalStatus {
        signal: signal.name().to_owned(),
        status: Status::Full,
        source: Some("tp_btf".to_owned()),
        refused: Vec::new(),
        missing: Vec::new(),
        runs_per: None,
        unseen_counts: Vec::new(),
        shed: false,
    };
    Signal::ALL.iter().map(status).collect()
}

/// An IPv4 address as the kernel's side has it.
fn v4(address: [u8; 4]) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..12].copy_from_slice(&V4_MAPPED_PREFIX);
    bytes[12..].copy_from_slice(&address);
    bytes
}

/// Connections last for a minute, and a peer in fifty is slow.
fn interval(second: u64, random: &mut Random) -> Interval {
    let metrics: Vec<MetricId> = signal::metrics()
        .filter(|(_, _, metric)| ["send", "rtt", "response"].contains(&metric.name))
        .map(|(id, ..)| id)
        .collect();
    let counts: Vec<_> = signal::counts()
        .filter(|(_, _, count)| ["sends", "bytes_sent", "segments_sent"].contains(&count.name))
        .map(|(id, ..)| id)
        .collect();
    let fast = signal::counts().find(|(_, _, count)| count.name == "retransmits.fast");
    let flow = |nth: u64| {
        let id = second / 60 * FLOWS + nth + 1;
        let peer = (id % 250) as u8;
        let slow = if peer.is_multiple_of(50) { 20 } else { 1 };
        let mut latencies = Vec::new();
        for (order, metric) in metrics.iter().enumerate() {
            let mut latency = Latency::default();
            for _ in 0..20 {
                let spread = 100 + random.below(900) * (1 + random.below(8));
                latency.record(spread * 1_000_u64.pow(order as u32 / 2 + 1) / 100 * slow);
            }
            latencies.push((*metric, latency));
        }
        let mut counted: Vec<_> = counts.iter().map(|count| (*count, 20 * slow)).collect();
        if slow > 1 {
            counted.extend(fast.map(|(id, ..)| (id, second % 3)));
            counted.sort_unstable();
        }
        Frozen {
            id,
            key: FlowKey {
                local_addr: v4([10, 0, 0, 1]),
                peer_addr: v4([10, 1, 0, peer]),
                local_port: 20_000 + (id % 40_000) as u16,
                peer_port: 443,
                netns: 4_026_531_840,
                protocol: TCP,
                reserved: 0,
            },
            role: Some(Role::Client),
            pid: Some(800 + (id % 40) as u32),
            comm: Some(format!("shop-{}", id % 40)),
            latencies,
            counts: counted,
            ..Frozen::default()
        }
    };
    Interval { flows: (0..FLOWS).map(flow).collect(), ..Interval::default() }
}
