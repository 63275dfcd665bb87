//! The filters: AND between flags, OR within one. A run without them pays nothing.

use aya_ebpf::{btf_maps::HashMap, macros::btf_map};
use netdiag_common::flow::FlowKey;

use crate::{
    globals::filters,
    kernel::{self, Access, Pointer, Refused},
};

/// Owners of sockets that are older than the attach, from the socket dump, for `--pid`.
#[btf_map]
static SEEDED_OWNERS: HashMap<FlowKey, u32, 1> = HashMap::new();

/// Whether any filter is set.
#[inline(always)]
pub(crate) fn active() -> bool {
    filters::any_is_set()
}

/// Whether a filter needs this end's port, which a connecting socket does not have yet.
#[inline(always)]
pub(crate) fn needs_local_port() -> bool {
    filters::port::is_set() || filters::local_port::is_set()
}

/// Whether a socket of `owner` (tgid, 0 unknown) passes.
///
/// # Safety
/// `sk` starts with a `sock_common`.
#[inline(always)]
pub(crate) unsafe fn passes<A: Access>(sk: Pointer, owner: u32) -> Result<bool, Refused> {
    if !active() {
        return Ok(true);
    }
    let mut key = FlowKey::default();
    // SAFETY: passed on.
    unsafe { kernel::flow_key::<A>(sk, &mut key) }?;
    let (local, peer) = (u32::from(key.local_port), u32::from(key.peer_port));
    if filters::port::is_set() && !filters::port::accepts(local) && !filters::port::accepts(peer) {
        return Ok(false);
    }
    if filters::local_port::is_set() && !filters::local_port::accepts(local) {
        return Ok(false);
    }
    if filters::peer_port::is_set() && !filters::peer_port::accepts(peer) {
        return Ok(false);
    }
    if filters::netns::is_set() && !filters::netns::accepts(key.netns) {
        return Ok(false);
    }
    if filters::peer::is_set() {
        let words = key.peer_addr.as_ptr().cast::<[u32; 4]>();
        // SAFETY: 16 bytes, 4-byte aligned inside `FlowKey`.
        if !filters::peer::accepts(unsafe { words.read() }) {
            return Ok(false);
        }
    }
    if filters::pid::is_set() {
        let owner = if owner == 0 {
            // SAFETY: userspace fills the map before the programs are attached.
            unsafe { SEEDED_OWNERS.get(&key) }.copied().unwrap_or(0)
        } else {
            owner
        };
        return Ok(filters::pid::accepts(owner));
    }
    Ok(true)
}
