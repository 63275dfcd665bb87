//! What each stage of userspace takes: records decoded, events folded, intervals turned into snapshots,
//! rules run over them, views rendered. `cargo bench -p netdiag`; figures are of one machine alone.

#[path = "pipeline/records.rs"]
mod records;

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
use netdiag_common::batch::BATCH;

use self::records::{FLOWS, SAMPLES, opened, responses, rtts, sends};

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
    for event in events((1..=FLOWS).map(opened)) {
        table.apply(&event, 1);
    }
    table
}

/// What an interval brings.
fn traffic() -> Vec<Event> {
    let batches = (0..FLOWS * SAMPLES).step_by(BATCH);
    events(batches.flat_map(|first| [sends(first), rtts(first), responses(first)]))
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
    for (name, record) in [("send", sends(0)), ("rtt", rtts(0)), ("turn", responses(0))] {
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
