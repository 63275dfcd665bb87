//! What each stage of userspace takes: records decoded, events folded, intervals turned into snapshots,
//! rules run over them, views rendered. `cargo bench -p netdiag`; figures are of one machine alone.

use std::{
    hint::black_box,
    io,
    time::{Duration, SystemTime},
};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use netdiag::{
    coverage::{SignalStatus, Status, Stream},
    diagnosis::{Diagnosis, Thresholds},
    flow::{
        Grouping, Interval,
        table::{Config, FlowTable},
    },
    labels::Labels,
    signal::{DEFINITIONS, Event, decode},
    snapshot::{
        Snapshot,
        build::{Frame, Scope},
    },
    view,
};
use netdiag_common::{
    batch::BATCH,
    flow::{FlowKey, SocketRef, TCP, V4_MAPPED_PREFIX},
    header::{Header, VERSION},
    signal::{Signal, rtt, send, socket},
};
use zerocopy::IntoBytes;

/// Flows that a busy node has.
const FLOWS: u64 = 1_000;
/// Samples of each, and of each kind, in an interval.
const SAMPLES: u64 = 20;

fn header(signal: Signal, samples: usize) -> Header {
    Header { version: VERSION, signal: signal as u16, samples: samples as u32, time_ns: 1 }
}

/// An IPv4 address as the kernel's side has it.
fn v4(address: [u8; 4]) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..12].copy_from_slice(&V4_MAPPED_PREFIX);
    bytes[12..].copy_from_slice(&address);
    bytes
}

/// A record that introduces a client's socket.
fn socket(flow: u64) -> Vec<u8> {
    let key = FlowKey {
        local_addr: v4([10, 0, 0, 1]),
        peer_addr: v4([10, 0, 1, flow as u8]),
        local_port: 20_000 + flow as u16,
        peer_port: 443,
        netns: 4_026_531_840,
        protocol: TCP,
        reserved: 0,
    };
    let record = socket::Record {
        header: header(Signal::Socket, 1),
        socket: SocketRef { flow, sk: flow << 6, cookie: flow, key, state: 1 },
        what: socket::what::CONNECT,
        pid: 800 + flow as u32 % 10,
        comm: *b"shop\0\0\0\0\0\0\0\0\0\0\0\0",
        ..Default::default()
    };
    record.as_bytes().to_vec()
}

/// A full batch of samples of the flows `first`, `first + 1` and so on, up to [`FLOWS`] and round again.
fn sends(first: u64) -> Vec<u8> {
    let mut record = header(Signal::Send, BATCH).as_bytes().to_vec();
    for at in first..first + BATCH as u64 {
        let (flow, latency_ns) = (at % FLOWS + 1, 3_000 + at * 7919 % 40_000);
        record.extend(send::Sample { flow, latency_ns, result: 512 }.as_bytes());
    }
    record
}

/// The same of round trips.
fn rtts(first: u64) -> Vec<u8> {
    let mut record = header(Signal::Rtt, BATCH).as_bytes().to_vec();
    for at in first..first + BATCH as u64 {
        let rtt_us = 200 + (at * 7919 % 900) as u32;
        let sample = rtt::Sample {
            flow: at % FLOWS + 1,
            rtt_us,
            rtt_min_us: 180,
            srtt_us: rtt_us,
            ..Default::default()
        };
        record.extend(sample.as_bytes());
    }
    record
}

/// The events of records.
fn events(records: impl IntoIterator<Item = Vec<u8>>) -> Vec<Event> {
    let mut events = Vec::new();
    for record in records {
        decode(&record, &mut |event| events.push(event)).expect("a sound record");
    }
    events
}

/// A table that knows all flows.
fn table() -> FlowTable {
    let mut table = FlowTable::new(Config::default());
    for event in events((1..=FLOWS).map(socket)) {
        table.apply(&event, 1);
    }
    table
}

/// What an interval brings.
fn traffic() -> Vec<Event> {
    let batches = (0..FLOWS * SAMPLES).step_by(BATCH);
    events(batches.flat_map(|first| [sends(first), rtts(first)]))
}

/// A table after an interval.
fn busy() -> FlowTable {
    let mut table = table();
    for event in traffic() {
        table.apply(&event, 1);
    }
    table
}

/// All signals, as fully as can be.
fn signals() -> Vec<SignalStatus> {
    DEFINITIONS
        .iter()
        .map(|definition| SignalStatus {
            signal: definition.signal.name().to_owned(),
            status: Status::Full,
            source: Some(definition.sources[0].name.to_owned()),
            refused: Vec::new(),
            missing: Vec::new(),
            runs_per: None,
            unseen_counts: Vec::new(),
            shed: false,
        })
        .collect()
}

/// The snapshot of the second `second`.
fn snapshot(interval: &Interval, signals: &[SignalStatus], second: u64) -> Snapshot {
    let at = |second| SystemTime::UNIX_EPOCH + Duration::from_secs(second);
    let frame = Frame {
        scope: Scope::Interval,
        by: Grouping::Flow,
        start: at(second),
        end: at(second + 1),
        host: "node",
        kernel: "6.12",
        labels: &Labels::default(),
        signals,
        filtered: false,
        node: Default::default(),
        own: Default::default(),
        accounting: Default::default(),
        stream: Stream::default(),
    };
    frame.build(interval)
}

fn decoding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    group.throughput(Throughput::Elements(BATCH as u64));
    for (name, record) in [("send", sends(0)), ("rtt", rtts(0))] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| decode(black_box(&record), &mut |event| drop(black_box(event))));
        });
    }
    group.finish();
}

fn folding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fold");
    let traffic = traffic();
    group.throughput(Throughput::Elements(traffic.len() as u64));
    group.bench_function(BenchmarkId::new("flows", FLOWS), |bencher| {
        bencher.iter_batched_ref(
            table,
            |table| {
                for event in &traffic {
                    table.apply(event, 1);
                }
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

fn freezing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("snapshot");
    let signals = signals();
    group.throughput(Throughput::Elements(FLOWS));
    group.bench_function(BenchmarkId::new("interval", FLOWS), |bencher| {
        bencher.iter_batched_ref(busy, |table| table.interval(2), BatchSize::LargeInput);
    });
    let interval = busy().interval(2);
    group.bench_function(BenchmarkId::new("build", FLOWS), |bencher| {
        bencher.iter(|| snapshot(black_box(&interval), &signals, 0));
    });
    group.finish();
}

fn concluding(criterion: &mut Criterion) {
    /// Seconds of the window that rules look at.
    const SECONDS: u64 = 30;

    let mut group = criterion.benchmark_group("rules");
    let (interval, signals) = (busy().interval(2), signals());
    let snapshots: Vec<_> =
        (0..SECONDS).map(|second| snapshot(&interval, &signals, second)).collect();
    group.bench_function(BenchmarkId::new("take", FLOWS), |bencher| {
        bencher.iter_batched_ref(
            || Diagnosis::new(Thresholds::default()),
            |diagnosis| diagnosis.take(&snapshots[0]),
            BatchSize::LargeInput,
        );
    });
    let mut diagnosis = Diagnosis::new(Thresholds::default());
    for snapshot in &snapshots {
        diagnosis.take(snapshot);
    }
    group.bench_function(BenchmarkId::new("findings", FLOWS), |bencher| {
        bencher.iter(|| diagnosis.findings());
    });
    group.finish();
}

fn rendering(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("render");
    let snapshot = snapshot(&busy().interval(2), &signals(), 0);
    group.bench_function(BenchmarkId::new("table", FLOWS), |bencher| {
        bencher.iter(|| view::table::table(black_box(&snapshot), 120, &mut io::sink()));
    });
    group.bench_function(BenchmarkId::new("json", FLOWS), |bencher| {
        bencher.iter(|| view::json::line(black_box(&snapshot), &mut io::sink()));
    });
    group.finish();
}

criterion_group!(benches, decoding, folding, freezing, concluding, rendering);
criterion_main!(benches);
