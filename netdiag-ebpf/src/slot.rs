//! What the programs remember of a socket between two hooks.
//!
//! Socket storage where every program of the run is typed (6.1 and later), else a hash keyed by the
//! socket's address, which every program type can reach. `tcp_destroy_sock` ends both.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{BPF_NOEXIST, BPF_SK_STORAGE_GET_F_CREATE},
    btf_maps::{HashMap, PerCpuArray, SkStorage},
    helpers::{bpf_get_smp_processor_id, generated::bpf_sk_storage_get},
    macros::btf_map,
};
use netdiag_common::{
    estimator::Estimator, flow::FlowId, signal::turn::kind, turn::Turns, window::Window,
};

use crate::{
    account::Lane,
    assembly::{opaque, opaque_checked},
    filter::User,
    globals::settings,
    kernel::{Access, Pointer},
    words,
};

/// Userspace knows the socket: a record that names it was submitted.
pub(crate) const ANNOUNCED: u32 = 1;
/// This end called connect.
pub(crate) const CLIENT: u32 = 2;
/// This end came out of a listener.
pub(crate) const SERVER: u32 = 4;

/// The filters by owner reject who used it last.
const UNWANTED: u32 = 8;

/// State of one socket. All zero but for its number, nothing is known of it.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Slot {
    /// Its number, never 0.
    pub(crate) flow: FlowId,
    /// When its counters shall be reported again where it is in use. 0: at once, as long as it is not `ANNOUNCED`.
    pub(crate) due_ns: u64,
    /// Process that used it last in its own context, 0 when none was seen.
    pub(crate) owner: u32,
    /// `ANNOUNCED`, `CLIENT`, `SERVER`, `UNWANTED`.
    pub(crate) flags: u32,
    /// The `total_retrans` that records have told of; written under the socket's lock.
    pub(crate) retrans: u32,
    /// 1 when `retrans` is valid. No flag: those are written without the lock.
    pub(crate) retrans_known: u32,
    /// Number of its network namespace, which it never leaves; 0 where that was not read since its connection began.
    pub(crate) netns: u32,
    /// Zero.
    pub(crate) reserved: u32,
    /// When a segment was sent again last; written under the socket's lock.
    pub(crate) sent_again_ns: u64,
    /// What is known of its round trips; written under the socket's lock.
    pub(crate) rtt: RoundTrips,
    /// What is known of its turns; written under the socket's lock.
    pub(crate) turns: Turns,
    /// How much of them was told.
    pub(crate) told: Told,
}

impl Slot {
    /// A process uses it, of which the filters by owner say whether it is wanted.
    #[inline(always)]
    pub(crate) fn used_by(&mut self, owner: u32, is_wanted: bool) {
        self.owner = owner;
        self.flags = if is_wanted { self.flags & !UNWANTED } else { self.flags | UNWANTED };
    }

    /// A connection begins, which has had no round trip.
    #[inline(always)]
    pub(crate) fn round_trips_begin(&mut self) {
        // SAFETY: plain numbers. Not by assignment, see `words`.
        unsafe { words::zero(&raw mut self.rtt) };
        self.rtt.known = 1;
    }

    /// A connection begins, on which neither end has spoken.
    #[inline(always)]
    pub(crate) fn turns_begin(&mut self) {
        // SAFETY: as above.
        unsafe {
            words::zero(&raw mut self.turns);
            words::zero(&raw mut self.told);
        }
        self.turns.open();
    }

    /// Who used it last.
    #[inline(always)]
    pub(crate) fn user(&self) -> User {
        match self.owner {
            0 => User::Unknown,
            _ => User::Known { is_wanted: self.flags & UNWANTED == 0 },
        }
    }
}

/// Of one socket, how much was told of its turns of late.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Told {
    /// What was left out, by kind, see [`netdiag_common::signal::turn::Sample::left_out`].
    pub(crate) left_out: [u64; kind::COUNT],
    /// Samples of late, by nanoseconds.
    pub(crate) window: Window,
}

/// Of one socket, what the next look at its estimator is held against, and how much was told.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct RoundTrips {
    /// 1 when what follows it is of a look, or of the beginning.
    pub(crate) known: u32,
    /// What the estimator held.
    pub(crate) estimator: Estimator,
    /// Samples of late, by microseconds.
    pub(crate) window: Window,
    /// When the last one was that no delay of the peer's ACK is part of, in microseconds.
    pub(crate) prompt_at_us: u64,
    /// What it took, likewise; 0 none.
    pub(crate) prompt_us: u32,
    /// Zero.
    pub(crate) reserved: u32,
}

#[btf_map]
static SLOT_STORAGE: SkStorage<Slot> = SkStorage::new();

#[btf_map]
static SLOT_HASH: HashMap<u64, Slot, 1> = HashMap::new();

/// Numbers given out, by lane: its program does not run inside itself, so none is given twice.
#[btf_map]
static NEXT_FLOW: PerCpuArray<[u64; Lane::COUNT], 1> = PerCpuArray::new();

/// The slot that each lane is about to make, all zero but for its number. Not on the stack, which has no
/// room for it.
#[btf_map]
static FRESH: PerCpuArray<Slot, { Lane::COUNT }> = PerCpuArray::new();

/// Where lane and CPU stand in a number. Linux has at most 8192 CPUs; 42 bits of count last one of
/// them for a year at 100,000 new sockets a second.
const LANE_SHIFT: u32 = 56;
const CPU_SHIFT: u32 = 42;
const _: () = assert!(Lane::COUNT < 1 << (u64::BITS - LANE_SHIFT));

/// A new number: lane, CPU and count.
#[inline(always)]
pub(crate) fn new_flow(lane: Lane) -> Option<FlowId> {
    let counts = opaque(NEXT_FLOW.get_ptr_mut(0)?);
    // SAFETY: only this lane's program writes its element on this CPU.
    let count = unsafe { &mut (*counts)[lane.index()] };
    *count += 1;
    // SAFETY: no precondition.
    let cpu = u64::from(unsafe { bpf_get_smp_processor_id() });
    Some((lane.index() as u64 + 1) << LANE_SHIFT | cpu << CPU_SHIFT | *count)
}

#[inline(always)]
fn storage(sk: Pointer, initial: *mut Slot, flags: u64) -> Option<&'static mut Slot> {
    let map = (&raw const SLOT_STORAGE).cast_mut().cast::<c_void>();
    // SAFETY: the verifier checks `sk`; a returned value stays until the socket goes, which is not
    // before this program ends.
    unsafe {
        let slot = bpf_sk_storage_get(map, sk.cast_mut(), initial.cast(), flags).cast::<Slot>();
        if slot.is_null() {
            return None;
        }
        Some(&mut *opaque_checked(slot))
    }
}

/// Whether a program that reads in this way can reach slots.
#[inline(always)]
pub(crate) fn is_in_reach<A: Access>() -> bool {
    A::TYPED || !settings::slots_in_storage()
}

/// The slot of a socket, if it has one.
#[inline(always)]
pub(crate) fn find<A: Access>(sk: Pointer) -> Option<&'static mut Slot> {
    if A::TYPED && settings::slots_in_storage() {
        storage(sk, core::ptr::null_mut(), 0)
    } else {
        let key = sk as u64;
        // SAFETY: entries are preallocated and removed at tcp_destroy_sock only.
        SLOT_HASH.get_ptr_mut(&key).map(|slot| unsafe { &mut *opaque_checked(slot) })
    }
}

/// The slot of a socket, made when it has none. `None`: there is no room.
#[inline(always)]
pub(crate) fn find_or_create<A: Access>(sk: Pointer, lane: Lane) -> Option<&'static mut Slot> {
    or_create::<A>(find::<A>(sk), sk, lane)
}

/// The same for who has looked for it already.
#[inline(always)]
pub(crate) fn or_create<A: Access>(
    known: Option<&'static mut Slot>,
    sk: Pointer,
    lane: Lane,
) -> Option<&'static mut Slot> {
    if known.is_some() {
        return known;
    }
    // The kernel refuses to make a storage that another CPU makes at the same time
    // (bpf_sk_storage_get, net/core/bpf_sk_storage.c); that one is there then.
    create::<A>(sk, lane).or_else(|| find::<A>(sk))
}

/// Hands out a slot that is remembered nowhere, for a program that does not reach the socket's own.
#[inline(always)]
pub(crate) fn with_unknown(flow: FlowId, lane: Lane, body: impl FnOnce(&mut Slot)) {
    let Some(fresh) = FRESH.get_ptr_mut(lane.index() as u32) else { return };
    let fresh = opaque(fresh);
    // SAFETY: only this lane's program writes its element on this CPU; zeros are a slot of which nothing
    // is known.
    unsafe {
        (*fresh).flow = flow;
        body(&mut *fresh);
        words::zero(fresh);
    }
}

#[inline(always)]
fn create<A: Access>(sk: Pointer, lane: Lane) -> Option<&'static mut Slot> {
    let fresh = FRESH.get_ptr_mut(lane.index() as u32)?;
    // SAFETY: only this lane's program writes its element on this CPU.
    let slot = unsafe { &mut *opaque(fresh) };
    slot.flow = new_flow(lane)?;
    if A::TYPED && settings::slots_in_storage() {
        return storage(sk, &raw mut *slot, u64::from(BPF_SK_STORAGE_GET_F_CREATE));
    }
    let key = sk as u64;
    // Another CPU may be faster: then its slot is the one.
    let _lost_the_race = SLOT_HASH.insert(&key, &*slot, u64::from(BPF_NOEXIST));
    // SAFETY: as in `find`.
    SLOT_HASH.get_ptr_mut(&key).map(|slot| unsafe { &mut *opaque_checked(slot) })
}

/// Forgets a destroyed socket; storage goes with it by itself.
#[inline(always)]
pub(crate) fn forget(sk: Pointer) {
    if !settings::slots_in_storage() {
        let key = sk as u64;
        let _was_absent = SLOT_HASH.remove(&key);
    }
}
