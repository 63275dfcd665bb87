//! Samples on their way to the ring, in batches of one CPU and lane.

use core::{
    mem::offset_of,
    sync::atomic::{Ordering, compiler_fence},
};

use aya_ebpf::{btf_maps::PerCpuArray, macros::btf_map};
use netdiag_common::{
    batch::{BATCH, Batch, Batches},
    counters::Counters,
    header::Header,
    signal::Signal,
};

use crate::{
    assembly::{opaque, opaque_number},
    ring,
    signal::socket,
};

#[btf_map]
static BATCHES: PerCpuArray<Batches, 1> = PerCpuArray::new();

/// Those of this CPU.
#[inline(always)]
pub(crate) fn of_this_cpu() -> Option<*mut Batches> {
    Some(opaque(BATCHES.get_ptr_mut(0)?))
}

/// A sample that travels so: plain data without padding, a multiple of 8 bytes long.
pub(crate) trait Sample: Copy {
    /// The signal that it belongs to.
    const SIGNAL: Signal;
}

/// Puts a sample into this lane's batch, and a full batch into the ring.
///
/// Only the signal's flush comes between, and it runs to its end with preemption off. So test-then-set
/// of `busy` is enough, also where tasks are preempted inside programs: there the kernel skips a
/// program that is active. A kernel before 5.12 runs it; finding the batch busy, it then sends its
/// sample alone.
#[inline(always)]
pub(crate) fn append<S: Sample>(sample: S, batch: *mut Batch<S>, counters: &mut Counters) {
    append_by(|| sample, batch, || Some(counters));
}

/// The same for who needs no counters but those of a full batch, and makes the sample in its place.
#[inline(always)]
pub(crate) fn append_by<'a, S: Sample>(
    sample: impl Fn() -> S,
    batch: *mut Batch<S>,
    counters: impl FnOnce() -> Option<&'a mut Counters>,
) {
    // SAFETY: the element of this CPU lives as long as the map; `busy` keeps the flush out, and
    // other lanes and CPUs have their own. Volatile: an interrupt may run the flush at any point.
    unsafe {
        if core::ptr::read_volatile(&raw const (*batch).busy) != 0 {
            if let Some(counters) = counters() {
                alone(sample(), counters);
            }
            return;
        }
        core::ptr::write_volatile(&raw mut (*batch).busy, 1);
        compiler_fence(Ordering::SeqCst);
        let len = core::ptr::read_volatile(&raw const (*batch).len);
        if len < BATCH as u32 - 1 {
            let to = (&raw mut (*batch).record.samples).cast::<S>().add(len as usize);
            to.write(sample());
            compiler_fence(Ordering::SeqCst);
            release(batch, len + 1);
        } else {
            match counters() {
                Some(counters) => complete(sample(), batch, counters),
                None => release(batch, len),
            }
        }
    }
}

/// Sets the length and ends the work on a batch: two words in one store.
///
/// # Safety
/// The caller holds `busy` of this CPU's batch.
#[inline(always)]
unsafe fn release<S>(batch: *mut Batch<S>, len: u32) {
    const { assert!(offset_of!(Batch<u64>, len) == 0 && offset_of!(Batch<u64>, busy) == 4) };
    // SAFETY: see above; a batch begins with both words and is aligned for them, and BPF is built for
    // little-endian machines only.
    unsafe { core::ptr::write_volatile(batch.cast::<u64>(), u64::from(len)) };
}

/// Puts the last sample into a batch, and the batch into the ring.
///
/// # Safety
/// The caller holds `busy` of this CPU's batch, which has room for no more than one.
#[inline(never)]
unsafe fn complete<S: Sample>(sample: S, batch: *mut Batch<S>, counters: &mut Counters) {
    // SAFETY: see above.
    unsafe {
        if core::ptr::read_volatile(&raw const (*batch).len) == BATCH as u32 - 1 {
            (*batch).record.samples[BATCH - 1] = sample;
            core::ptr::write_volatile(&raw mut (*batch).len, BATCH as u32);
        }
        flush(batch, counters);
        compiler_fence(Ordering::SeqCst);
        release(batch, 0);
    }
}

/// A record with one sample.
#[inline(never)]
pub(crate) fn alone<S: Sample>(sample: S, counters: &mut Counters) {
    #[repr(C)]
    struct Single<S> {
        header: Header,
        sample: S,
    }
    let single = Single { header: socket::header(S::SIGNAL, 1), sample };
    counters.ended += 1;
    // SAFETY: initialised above, without padding.
    unsafe {
        ring::submit_batch((&raw const single).cast(), size_of::<Single<S>>() as u64, 1, counters);
    }
}

/// Submits what a batch holds.
///
/// # Safety
/// The caller holds `busy` of this CPU's batch.
#[inline(always)]
unsafe fn flush<S: Sample>(batch: *mut Batch<S>, counters: &mut Counters) {
    // SAFETY: see above.
    unsafe {
        let len = core::ptr::read_volatile(&raw const (*batch).len);
        if len == 0 || len > BATCH as u32 {
            return;
        }
        let samples = u64::from(len);
        (*batch).record.header = socket::header(S::SIGNAL, len);
        // The optimiser would add to a multiple of 32 by OR, whose result verifiers do not bound.
        let bytes = size_of::<Header>() as u64 + opaque_number(samples * size_of::<S>() as u64);
        counters.ended += samples;
        ring::submit_batch((&raw const (*batch).record).cast(), bytes, samples, counters);
        core::ptr::write_volatile(&raw mut (*batch).len, 0);
    }
}

/// Submits what a batch holds unless somebody works on it: what userspace runs on each CPU in turn.
///
/// # Safety
/// `batch` is one of this CPU.
#[inline(always)]
pub(crate) unsafe fn empty<S: Sample>(batch: *mut Batch<S>, counters: &mut Counters) {
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
