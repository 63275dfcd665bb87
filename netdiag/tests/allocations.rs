//! What comes a million times a second takes no memory: samples of known flows are decoded and folded without an
//! allocation.

#[path = "../benches/pipeline/records.rs"]
mod records;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    hint::black_box,
};

use netdiag::{
    flow::table::{Config, FlowTable},
    signal::decode,
};
use netdiag_common::batch::BATCH;

use self::records::{FLOWS, SAMPLES, opened, responses, rtts, sends};

thread_local! {
    /// Of this thread: tests run beside each other.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, and how often it is asked for memory.
struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

fn count() {
    ALLOCATIONS.set(ALLOCATIONS.get() + 1);
}

// SAFETY: the system's allocator does it all, and what counts needs no memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as whoever calls this promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as whoever calls this promises.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as whoever calls this promises.
        unsafe { System.realloc(memory, layout, size) }
    }
}

fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

fn take_in(records: &[Vec<u8>], table: &mut FlowTable) {
    for record in records {
        decode(record, &mut |event| {
            table.apply(&event, 1);
        })
        .expect("a sound record");
    }
}

#[test]
fn decoding_takes_no_memory() {
    for record in [sends(0), rtts(0), responses(0)] {
        let taken = allocations(|| {
            decode(&record, &mut |event| drop(black_box(event))).expect("a sound record");
        });
        assert_eq!(taken, 0, "{} bytes", record.len());
    }
}

/// But for what a flow keeps of an interval: room for a bucket that has a sample, once.
#[test]
fn samples_of_known_flows_are_folded_without_an_allocation() {
    let mut table = FlowTable::new(Config::default());
    let flows: Vec<_> = (1..=FLOWS).map(opened).collect();
    let first = (0..FLOWS * SAMPLES).step_by(BATCH);
    let samples: Vec<_> =
        first.flat_map(|first| [sends(first), rtts(first), responses(first)]).collect();
    assert_ne!(allocations(|| take_in(&flows, &mut table)), 0, "nothing is counted");
    for interval in 1..=3 {
        take_in(&samples, &mut table);
        for _ in 0..2 {
            let taken = allocations(|| take_in(&samples, &mut table));
            assert_eq!(taken, 0, "in interval {interval}");
        }
        black_box(table.interval(interval));
    }
}
