//! The only writes into the ring buffers; every record that finds no room is counted.
//!
//! Three rings: neither samples, which travel in batches, nor a storm of short connections can
//! displace a retransmission. Drops, resets and what happens to entries of connection tracking are counted together
//! before they travel, and go with the samples, as messages of DNS do. Nothing wakes the reader, who polls, unless a
//! ring fills up. What the kernel copies out of packets takes a way of its own, the only one that there is.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{BPF_F_CURRENT_CPU, BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    btf_maps::PerfEventByteArray,
    helpers::generated::{bpf_ringbuf_output, bpf_ringbuf_query, bpf_skb_output},
    macros::{btf_map, map},
    maps::RingBuf,
};
use netdiag_common::{
    counters::Counters,
    globals::{EVENTS_SHARE, SOCKETS_SHARE},
};

use crate::{globals::settings, words};

/// Batches of samples, what tables counted, and messages of DNS. Userspace sets the sizes of all three.
#[map]
static SAMPLES: RingBuf = RingBuf::with_byte_size(4096, 0);

/// Records of the signal `socket`.
#[map]
static SOCKETS: RingBuf = RingBuf::with_byte_size(4096, 0);

/// Records of the signal `retransmit`, each of its own.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(4096, 0);

/// Records with packets, one ring for each CPU.
#[btf_map]
static PACKETS: PerfEventByteArray = PerfEventByteArray::new();

/// Which ring a single record goes into.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Into {
    Sockets,
    Events,
}

/// Waking costs microseconds, so it happens only when the reader is about to be too late. `share`
/// tells how many times smaller than [`SAMPLES`] the ring is.
#[inline(always)]
fn wake_flags(ring: &'static RingBuf, share: u64) -> u64 {
    let map = core::ptr::from_ref(ring).cast_mut().cast::<c_void>();
    // SAFETY: a map of this object.
    let waiting = unsafe { bpf_ringbuf_query(map, u64::from(BPF_RB_AVAIL_DATA)) };
    if waiting > settings::wake_above_bytes() / share {
        u64::from(BPF_RB_FORCE_WAKEUP)
    } else {
        u64::from(BPF_RB_NO_WAKEUP)
    }
}

/// Submits a record of `samples` batched samples: the first `len` bytes behind `record`.
///
/// # Safety
/// `record` has `len` initialised bytes.
#[inline(always)]
pub(crate) unsafe fn submit_batch(
    record: *const c_void,
    len: u64,
    samples: u64,
    counters: &mut Counters,
) {
    let map = (&raw const SAMPLES).cast_mut().cast::<c_void>();
    let flags = wake_flags(&SAMPLES, 1);
    // SAFETY: see above; the helper copies.
    let error = unsafe { bpf_ringbuf_output(map, record.cast_mut(), len, flags) };
    if error == 0 {
        counters.submitted += samples;
    } else {
        counters.ring_full += samples;
    }
}

/// Submits a record of one sample and the first `packet_len` bytes of a packet behind it, wherever those lie.
/// Nothing wakes the reader, and each CPU has a small ring of its own: for what is rare.
///
/// # Safety
/// `skb` is a typed pointer to an `sk_buff`, and `record` has `len` initialised bytes.
#[inline(always)]
pub(crate) unsafe fn submit_packet(
    skb: *const c_void,
    packet_len: u32,
    record: *const c_void,
    len: u64,
    counters: &mut Counters,
) {
    let flags = u64::from(packet_len) << 32 | BPF_F_CURRENT_CPU;
    let map = (&raw const PACKETS).cast_mut().cast::<c_void>();
    // SAFETY: see above; the helper copies.
    let error = unsafe { bpf_skb_output(skb.cast_mut(), map, flags, record.cast_mut(), len) };
    if error == 0 {
        counters.submitted += 1;
    } else {
        counters.ring_full += 1;
    }
}

/// Wakes the reader, who then reads all rings.
#[inline(always)]
pub(crate) fn wake() {
    if let Some(nothing) = SAMPLES.reserve::<u64>(0) {
        nothing.discard(u64::from(BPF_RB_FORCE_WAKEUP));
    }
}

/// Submits one record: `fill` writes it into the ring, zeroed before, and says whether it is good.
/// Returns what `fill` said, or `None` when the ring was full.
#[inline(always)]
pub(crate) fn submit<T: 'static>(
    into: Into,
    counters: &mut Counters,
    fill: impl FnOnce(&mut T) -> Result<(), crate::kernel::Refused>,
) -> Option<Result<(), crate::kernel::Refused>> {
    let (ring, share) = match into {
        Into::Sockets => (&SOCKETS, SOCKETS_SHARE),
        Into::Events => (&EVENTS, EVENTS_SHARE),
    };
    let Some(mut entry) = ring.reserve::<T>(0) else {
        counters.ring_full += 1;
        return None;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: the reserved bytes are ours, and all record types are plain data for which zero bytes
    // are valid.
    let result = unsafe {
        words::zero(record);
        fill(&mut *record)
    };
    match result {
        Ok(()) => {
            entry.submit(wake_flags(ring, share));
            counters.submitted += 1;
        }
        Err(_) => entry.discard(u64::from(BPF_RB_NO_WAKEUP)),
    }
    Some(result)
}
