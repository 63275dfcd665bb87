//! Connections whose handshake is done and that accept(2) has not returned yet.
//!
//! Not in the slot: not every program that sees accept return can reach it, and under filters by owner a connection has
//! none before it is known who accepts it.

use aya_ebpf::{btf_maps::HashMap, helpers::bpf_ktime_get_ns, macros::btf_map};
use netdiag_common::flow::FlowId;

use crate::{
    account::{Lane, socket_counters},
    filter,
    kernel::{self, Access, Pointer},
    numbers::state::SYN_RECV,
};

/// One of them; all zero for none. No `Option`: what it leaves undefined where there is none, some verifiers
/// take for read.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Handshake {
    /// When it was done, 0 for none.
    done_ns: u64,
    /// The socket's number, 0 where it has none yet.
    pub(super) flow: FlowId,
}

impl Handshake {
    pub(super) const NONE: Self = Self { done_ns: 0, flow: 0 };

    /// Whether there is one.
    #[inline(always)]
    pub(super) const fn is_known(&self) -> bool {
        self.done_ns != 0
    }

    /// The same for who has asked the filters since it was taken, see [`filter::behind`].
    #[inline(always)]
    pub(super) fn behind_filters(self) -> Self {
        Self { done_ns: filter::behind(self.done_ns), flow: filter::behind(self.flow) }
    }

    /// Nanoseconds from its end until now, at least 1.
    #[inline(always)]
    pub(super) fn age_ns(&self) -> u64 {
        // SAFETY: no precondition.
        unsafe { bpf_ktime_get_ns() }.saturating_sub(self.done_ns).max(1)
    }
}

/// By the address of the socket. Those that wait are bounded by the backlogs of their listeners.
#[btf_map]
static HANDSHAKES: HashMap<u64, Handshake, 16_384> = HashMap::new();

/// The handshake of a child of a listener is done.
///
/// # Safety
/// `sk` points to a full socket.
#[inline(always)]
pub(super) unsafe fn done<A: Access>(sk: Pointer, flow: FlowId, lane: Lane) {
    // accept may be faster: with TCP fast open, or while the last segment waits for the socket's lock.
    // SAFETY: passed on.
    if unsafe { kernel::is_grafted::<A>(sk) } == Ok(true) {
        return;
    }
    // SAFETY: no precondition.
    let handshake = Handshake { done_ns: unsafe { bpf_ktime_get_ns() }, flow };
    if HANDSHAKES.insert(&(sk as u64), &handshake, 0).is_err()
        && let Some(counters) = socket_counters(lane)
    {
        counters.seen += 1;
        counters.map_full += 1;
    }
}

/// Takes the handshake of a socket out, if it waits for accept.
#[inline(always)]
pub(super) fn take(sk: Pointer) -> Handshake {
    let key = sk as u64;
    // SAFETY: entries are preallocated, and nobody else takes this one: accept returns a socket once.
    let Some(&handshake) = (unsafe { HANDSHAKES.get(&key) }) else {
        return Handshake::NONE;
    };
    let _was_destroyed = HANDSHAKES.remove(&key);
    handshake
}

/// A socket is destroyed that accept may never have returned.
#[inline(always)]
pub(super) fn forget(sk: Pointer) {
    let _was_accepted = HANDSHAKES.remove(&(sk as u64));
}

/// How long a connection waited that accept returns, in nanoseconds and at least 1; 0 when that is unknown.
///
/// # Safety
/// `sk` points to a full socket.
#[inline(always)]
pub(super) unsafe fn waited_ns<A: Access>(sk: Pointer, handshake: &Handshake) -> u64 {
    if handshake.is_known() {
        return handshake.age_ns();
    }
    // accept is faster than the end of the handshake.
    // SAFETY: passed on.
    u64::from(unsafe { kernel::state::<A>(sk) } == Ok(SYN_RECV))
}
