//! The filters: AND between flags, OR within one. A run without them pays nothing.

use core::mem::MaybeUninit;

use aya_ebpf::{btf_maps::HashMap, helpers::bpf_get_current_pid_tgid, macros::btf_map};
use netdiag_common::flow::FlowKey;

use crate::{
    assembly::forgotten,
    globals::filters,
    kernel::{self, Access, Pointer, Refused},
    task, words,
};

/// Sockets that are older than the attach and pass the filters by owner, from the socket dump, with the process
/// that has them. Listeners have no peer, and those on all addresses no address.
#[btf_map]
static SEEDED_OWNERS: HashMap<FlowKey, u32, 1> = HashMap::new();

/// Cgroups of wanted processes that listen, 0 unknown, by the address of a listener of theirs that is younger than
/// the programs. Older ones are among [`SEEDED_OWNERS`], by their key.
#[btf_map]
static LISTENERS: HashMap<u64, u64, 1> = HashMap::new();

/// By the id of a cgroup: 1 where the processes in it are wanted, 0 where they are not. Userspace decides what is
/// not there: one that is younger than its last look.
#[btf_map]
static CGROUPS: HashMap<u64, u32, 1> = HashMap::new();

/// Who uses a socket.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum User {
    /// The current task.
    Current,
    /// Who was the current task when the filters by owner were asked.
    Known { is_wanted: bool },
    /// Nobody has been seen to use it.
    Unknown,
}

/// What the filters say of a socket. A number, since functions of BPF return no more than that.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It passes.
    Wanted,
    /// It does not.
    Unwanted,
    /// What they ask for cannot be read.
    Unread,
}

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

/// Whether a filter needs a socket's owner.
#[inline(always)]
pub(crate) fn by_owner() -> bool {
    filters::pid::is_set() || filters::comm::is_set() || filters::by_cgroup()
}

/// Whether the filters by owner let the process pass that the current task belongs to.
#[inline(always)]
pub(crate) fn is_current_wanted() -> bool {
    if filters::pid::is_set() && !filters::pid::accepts((bpf_get_current_pid_tgid() >> 32) as u32) {
        return false;
    }
    if filters::by_cgroup() && verdict(task::cgroup()) == Some(false) {
        return false;
    }
    !filters::comm::is_set() || has_wanted_name()
}

/// What is not known, or is the name of one of its threads, userspace decides.
#[inline(always)]
fn has_wanted_name() -> bool {
    let (name, thread) = task::name();
    let process = (bpf_get_current_pid_tgid() >> 32) as u32;
    thread != process || filters::comm::accepts(name)
}

/// Whether processes in a cgroup are wanted, where userspace has said so.
#[inline(always)]
fn verdict(cgroup: u64) -> Option<bool> {
    // SAFETY: entries are preallocated; a value is one word.
    unsafe { CGROUPS.get(&cgroup) }.map(|verdict| *verdict != 0)
}

/// Whether a socket passes.
///
/// # Safety
/// `sk` starts with a `sock_common`.
#[inline(always)]
pub(crate) unsafe fn passes<A: Access>(sk: Pointer, user: User) -> Answer {
    if !active() {
        return Answer::Wanted;
    }
    // SAFETY: passed on.
    unsafe { ask::<A>(sk, user) }
}

/// A number that was known before the filters were asked, for what it decides behind them: see [`forgotten`].
#[inline(always)]
pub(crate) fn behind(number: u64) -> u64 {
    if active() { forgotten(number) } else { number }
}

/// Asks the filters that there are. A function of its own, as is [`accepts_end`]: the stack has no room for what they
/// need beside what a program needs. It calls no other one: what all need that are under way counts together.
///
/// # Safety
/// As for [`passes`].
#[inline(never)]
unsafe fn ask<A: Access>(sk: Pointer, user: User) -> Answer {
    let mut key = MaybeUninit::<FlowKey>::uninit();
    // SAFETY: zeros are a key.
    let key = unsafe { words::zeros(&mut key) };
    // SAFETY: passed on.
    if unsafe { kernel::flow_key::<A>(sk, key) }.is_err() {
        return Answer::Unread;
    }
    if !lets_pass(key.local_port, key.peer_port, &key.peer_addr, key.netns) {
        return Answer::Unwanted;
    }
    if !by_owner() {
        return Answer::Wanted;
    }
    let is_wanted = match user {
        User::Current => is_current_wanted(),
        User::Known { is_wanted } => is_wanted,
        // SAFETY: passed on.
        User::Unknown => match unsafe { passes_by_origin::<A>(sk, key) } {
            Ok(passes) => passes,
            Err(_) => return Answer::Unread,
        },
    };
    if is_wanted { Answer::Wanted } else { Answer::Unwanted }
}

/// Whether a conversation passes, whoever its owner is.
#[inline(always)]
pub(crate) fn accepts(key: &FlowKey) -> bool {
    accepts_end(key.local_port, key.peer_port, &key.peer_addr, key.netns)
}

/// The same of its other end.
#[inline(always)]
pub(crate) fn accepts_other(key: &FlowKey) -> bool {
    accepts_end(key.peer_port, key.local_port, &key.local_addr, key.netns)
}

/// The same by what the filters look at. The address is aligned to 4 bytes.
#[inline(never)]
pub(crate) fn accepts_end(local: u16, peer: u16, peer_addr: &[u8; 16], netns: u32) -> bool {
    lets_pass(local, peer, peer_addr, netns)
}

/// The same inside another function.
#[inline(always)]
fn lets_pass(local: u16, peer: u16, peer_addr: &[u8; 16], netns: u32) -> bool {
    let (local, peer) = (u32::from(local), u32::from(peer));
    if filters::port::is_set() && !filters::port::accepts(local) && !filters::port::accepts(peer) {
        return false;
    }
    if filters::local_port::is_set() && !filters::local_port::accepts(local) {
        return false;
    }
    if filters::peer_port::is_set() && !filters::peer_port::accepts(peer) {
        return false;
    }
    // 0 of a packet whose namespace cannot be told: userspace joins it to a wanted flow, or leaves it.
    if filters::netns::is_set() && netns != 0 && !filters::netns::accepts(netns) {
        return false;
    }
    if filters::peer::is_set() {
        let words = peer_addr.as_ptr().cast::<[u32; 4]>();
        // SAFETY: 16 bytes, aligned as the callers have it.
        if !filters::peer::accepts(unsafe { words.read() }) {
            return false;
        }
    }
    true
}

/// Whether a socket or request passes whose owner no program has seen: by the socket dump, or, for a
/// request, by its listener.
///
/// # Safety
/// `sk` starts with a `sock_common`, and `key` is its key.
#[inline(always)]
unsafe fn passes_by_origin<A: Access>(sk: Pointer, key: &mut FlowKey) -> Result<bool, Refused> {
    if is_seeded(key) {
        return Ok(true);
    }
    // SAFETY: passed on.
    let Some(listener) = (unsafe { kernel::listener::<A>(sk) })? else { return Ok(false) };
    // SAFETY: entries are preallocated; a value is one word.
    if let Some(cgroup) = unsafe { LISTENERS.get(&listener) } {
        // What nobody has decided passes, as elsewhere: userspace does.
        return Ok(!filters::by_cgroup() || verdict(*cgroup) != Some(false));
    }
    // As userspace writes a listener's key.
    key.peer_addr = [0; 16];
    key.peer_port = 0;
    if is_seeded(key) {
        return Ok(true);
    }
    key.local_addr = [0; 16];
    Ok(is_seeded(key))
}

/// Whether userspace found the owner with that key and wants it.
#[inline(always)]
fn is_seeded(key: &FlowKey) -> bool {
    // SAFETY: userspace fills the map before anybody counts on it, and a value is one word.
    unsafe { SEEDED_OWNERS.get(key) }.is_some()
}

/// The current task begins to listen for connections on a socket.
#[inline(always)]
pub(crate) fn begins_to_listen(sk: Pointer) {
    if !by_owner() {
        return;
    }
    if is_current_wanted() {
        // Without room, SYN-ACKs sent again of this listener are filtered out.
        let _no_room = LISTENERS.insert(&(sk as u64), &task::cgroup(), 0);
    } else {
        // The end of one at the same address may have been missed.
        let _was_there = LISTENERS.remove(&(sk as u64));
    }
}

/// A listener ends. Its port may be another process's next.
///
/// # Safety
/// `sk` starts with a `sock_common`.
#[inline(always)]
pub(crate) unsafe fn ends_to_listen<A: Access>(sk: Pointer) {
    if !by_owner() || LISTENERS.remove(&(sk as u64)).is_ok() {
        return;
    }
    let mut key = MaybeUninit::<FlowKey>::uninit();
    // SAFETY: zeros are a key.
    let key = unsafe { words::zeros(&mut key) };
    // SAFETY: passed on.
    if unsafe { kernel::flow_key::<A>(sk, key) }.is_err() {
        return;
    }
    key.peer_addr = [0; 16];
    key.peer_port = 0;
    let _was_bound_to_an_address = SEEDED_OWNERS.remove(&*key);
    key.local_addr = [0; 16];
    let _was_bound_to_any = SEEDED_OWNERS.remove(&*key);
}
