//! SYN-ACKs that were sent again, by connection request: what the socket that comes of it says of them
//! is held against what the programs saw.

use core::mem::MaybeUninit;

use aya_ebpf::{bindings::BPF_NOEXIST, btf_maps::LruHashMap, macros::btf_map};
use netdiag_common::flow::FlowKey;

use crate::{
    assembly::opaque,
    filter,
    kernel::{self, Access, Pointer, Refused},
    words,
};

/// How many were seen. Those are few; in a flood the oldest give way, and are then taken for unseen.
#[btf_map]
static SYNACKS: LruHashMap<FlowKey, u32, 4096> = LruHashMap::new();

/// Reads the key into room on the stack: verifiers up to 6.1 let no key lie in a ring.
///
/// # Safety
/// `sk` starts with a `sock_common`.
#[inline(always)]
unsafe fn key_of<A: Access>(
    sk: Pointer,
    room: &mut MaybeUninit<FlowKey>,
) -> Result<&FlowKey, Refused> {
    // SAFETY: zeros are a key; the rest is passed on.
    unsafe {
        let key = words::zeros(room);
        kernel::flow_key::<A>(sk, key)?;
        Ok(key)
    }
}

/// Notes that a program saw one.
///
/// # Safety
/// `request` starts with a `sock_common`.
#[inline(always)]
pub(super) unsafe fn note<A: Access>(request: Pointer) {
    let mut room = MaybeUninit::uninit();
    // SAFETY: passed on.
    let Ok(key) = (unsafe { key_of::<A>(request, &mut room) }) else { return };
    // Without room it is taken for unseen.
    let _there_or_no_room = SYNACKS.insert(key, &0, u64::from(BPF_NOEXIST));
    if let Some(seen) = SYNACKS.get_ptr_mut(key) {
        // SAFETY: a word of the map, which only the request's own timer or SYNs write.
        unsafe { *opaque(seen) += 1 };
    }
}

/// How many were sent again before this connection was established that no program saw: its counter
/// begins with them (`tcp_create_openreq_child`, net/ipv4/tcp_minisocks.c). Includes those of a
/// request that is older than the programs.
///
/// # Safety
/// `sk` is a TCP socket that has just come out of a request.
#[inline(always)]
pub(crate) unsafe fn unseen<A: Access>(sk: Pointer, retrans: u32) -> Result<u32, Refused> {
    if retrans == 0 || filter::active() {
        return Ok(0);
    }
    let mut room = MaybeUninit::uninit();
    // SAFETY: passed on.
    let key = unsafe { key_of::<A>(sk, &mut room) }?;
    // SAFETY: as above.
    let seen = SYNACKS.get_ptr_mut(key).map_or(0, |seen| unsafe { *opaque(seen) });
    let _was_absent = SYNACKS.remove(key);
    Ok(retrans.saturating_sub(seen))
}
