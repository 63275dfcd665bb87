//! Samples on their way to the ring, in batches of one CPU and lane.

use core::sync::atomic::{Ordering, compiler_fence};

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use netdiag_common::{
    counters::Counters,
    header::Header,
    signal::{
        Signal,
        send::{BATCH, Batch, Sample, lane},
    },
};

use crate::{
    account::{Lane, ThisCpu},
    ring,
    signal::socket,
};

const FLUSH: Lane = Lane::new(Signal::Send, lane::FLUSH);

/// Puts a sample into this lane's batch, and a full batch into the ring.
///
/// Only `send_flush` comes between, and it runs to its end with preemption off. So test-then-set of
/// `busy` is enough, also where tasks are preempted inside programs: there the kernel skips a
/// program that is active. A kernel before 5.12 runs it; finding the batch busy, it then sends its
/// sample alone.
#[inline(always)]
pub(super) fn append(sample: Sample, batch: *mut Batch, counters: &mut Counters) {
    // SAFETY: the element of this CPU lives as long as the map; `busy` keeps `send_flush` out, and
    // other lanes and CPUs have their own. Volatile: an interrupt may run `send_flush` at any point.
    unsafe {
        if core::ptr::read_volatile(&raw const (*batch).busy) != 0 {
            alone(sample, counters);
            return;
        }
        core::ptr::write_volatile(&raw mut (*batch).busy, 1);
        compiler_fence(Ordering::SeqCst);
        let len = core::ptr::read_volatile(&raw const (*batch).len) as usize;
        if len < BATCH {
            let to = (&raw mut (*batch).record.samples).cast::<Sample>().add(len);
            to.write(sample);
            core::ptr::write_volatile(&raw mut (*batch).len, len as u32 + 1);
        }
        if len + 1 >= BATCH {
            flush(batch, counters);
        }
        compiler_fence(Ordering::SeqCst);
        core::ptr::write_volatile(&raw mut (*batch).busy, 0);
    }
}

/// A record with one sample.
#[inline(always)]
fn alone(sample: Sample, counters: &mut Counters) {
    #[repr(C)]
    struct Single {
        header: Header,
        sample: Sample,
    }
    let single = Single { header: socket::header(Signal::Send, 1), sample };
    counters.ended += 1;
    // SAFETY: initialised above, without padding.
    unsafe {
        ring::submit_batch((&raw const single).cast(), size_of::<Single>() as u64, 1, counters);
    }
}

/// Submits what a batch holds.
///
/// # Safety
/// The caller holds `busy` of this CPU's batch.
#[inline(always)]
unsafe fn flush(batch: *mut Batch, counters: &mut Counters) {
    // SAFETY: see above.
    unsafe {
        let len = core::ptr::read_volatile(&raw const (*batch).len);
        if len == 0 || len > BATCH as u32 {
            return;
        }
        let samples = u64::from(len);
        (*batch).record.header = socket::header(Signal::Send, len);
        let bytes = size_of::<Header>() as u64 + samples * size_of::<Sample>() as u64;
        counters.ended += samples;
        ring::submit_batch((&raw const (*batch).record).cast(), bytes, samples, counters);
        core::ptr::write_volatile(&raw mut (*batch).len, 0);
    }
}

/// Run by userspace on each CPU in turn (BPF_PROG_TEST_RUN), never attached: empties the batches.
#[raw_tracepoint(tracepoint = "netdiag_flush")]
fn send_flush(_ctx: RawTracePointContext) -> i32 {
    let Some(this_cpu) = ThisCpu::get() else { return 0 };
    let counters = this_cpu.counters(FLUSH);
    // SAFETY: this CPU's batches.
    unsafe {
        empty(this_cpu.sends(), counters);
        empty(this_cpu.pages(), counters);
    }
    0
}

/// Submits what a batch holds unless somebody works on it.
///
/// # Safety
/// `batch` is one of this CPU.
#[inline(always)]
unsafe fn empty(batch: *mut Batch, counters: &mut Counters) {
    // SAFETY: as in `append`; this runs in an interrupt and must not wait.
    unsafe {
        if core::ptr::read_volatile(&raw const (*batch).busy) != 0 {
            return;
        }
        core::ptr::write_volatile(&raw mut (*batch).busy, 1);
        compiler_fence(Ordering::SeqCst);
        flush(batch, counters);
        compiler_fence(Ordering::SeqCst);
        core::ptr::write_volatile(&raw mut (*batch).busy, 0);
    }
}
