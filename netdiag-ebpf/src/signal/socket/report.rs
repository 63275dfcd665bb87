//! What every signal tells of a socket: its identity, its introduction, its counters.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use netdiag_common::{
    counters::Counters,
    flow::SocketRef,
    header::{Header, VERSION},
    signal::{
        Signal,
        socket::{Record, what},
    },
};

use super::detail;
use crate::{
    account::{Lane, counters, socket_counters},
    filter::{self, Answer, User},
    globals::{settings, unknown},
    kernel::{self, Access, Pointer, Refused},
    numbers::state::SYN_RECV,
    ring,
    signal::retransmit,
    slot::{self, ANNOUNCED, CLIENT, SERVER, Slot},
    task,
};

/// A header for a record of so many samples.
#[inline(always)]
pub(crate) fn header(signal: Signal, samples: u32) -> Header {
    // SAFETY: no precondition.
    header_at(signal, samples, unsafe { bpf_ktime_get_ns() })
}

/// The same for who knows the time.
#[inline(always)]
pub(crate) const fn header_at(signal: Signal, samples: u32, time_ns: u64) -> Header {
    Header { version: VERSION, signal: signal as u16, samples, time_ns }
}

/// Fills in what identifies a socket.
///
/// # Safety
/// `sk` points to a full socket and `slot` is its slot.
#[inline(always)]
pub(crate) unsafe fn identify<A: Access>(
    sk: Pointer,
    slot: &mut Slot,
    to: &mut SocketRef,
) -> Result<(), Refused> {
    to.flow = slot.flow;
    // SAFETY: passed on.
    unsafe { describe::<A>(sk, &mut slot.netns, to) }
}

/// The same of a connection request, which has no slot.
///
/// # Safety
/// `request` starts with a `sock_common`.
#[inline(always)]
pub(crate) unsafe fn identify_request<A: Access>(
    request: Pointer,
    to: &mut SocketRef,
) -> Result<(), Refused> {
    // SAFETY: passed on.
    unsafe { describe::<A>(request, &mut 0, to) }
}

/// # Safety
/// `sk` starts with a `sock_common`.
#[inline(always)]
unsafe fn describe<A: Access>(
    sk: Pointer,
    netns: &mut u32,
    to: &mut SocketRef,
) -> Result<(), Refused> {
    to.sk = sk as u64;
    // SAFETY: passed on.
    unsafe {
        kernel::flow_key_in::<A>(sk, &mut to.key, netns)?;
        to.state = kernel::state::<A>(sk)? as u32;
    }
    Ok(())
}

/// Whether the program runs in the context of a task that uses the socket itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Context {
    /// connect, accept, send: the current task is the owner.
    Owner,
    /// A softirq or timer: the current task has nothing to do with it.
    Foreign,
    /// Likewise, for a socket that has just come out of a connection request.
    Accepted,
    /// Likewise, under the lock of a socket whose counters end here.
    Ending,
}

/// Tells userspace of a socket and marks it announced when that worked, which it returns.
///
/// # Safety
/// `sk` points to a full TCP socket and `slot` is its slot.
#[inline(always)]
pub(crate) unsafe fn report<A: Access>(
    sk: Pointer,
    slot: &mut Slot,
    what: u32,
    context: Context,
    lane: Lane,
) -> bool {
    // SAFETY: passed on.
    unsafe { report_accepted::<A>(sk, slot, what, context, 0, lane) }
}

/// The same with how long the connection waited for accept, 0 unknown.
///
/// # Safety
/// As for [`report`].
#[inline(always)]
pub(crate) unsafe fn report_accepted<A: Access>(
    sk: Pointer,
    slot: &mut Slot,
    what: u32,
    context: Context,
    accept_wait_ns: u64,
    lane: Lane,
) -> bool {
    let Some(counters) = socket_counters(lane) else { return false };
    let what = unknown(what);
    let context = unknown(context as u32);
    counters.seen += 1;
    let submitted = ring::submit::<Record>(ring::Into::Sockets, counters, |record| {
        record.header = header(Signal::Socket, 1);
        slot.due_ns = record.header.time_ns + settings::report_every_ns();
        // SAFETY: passed on.
        unsafe {
            identify::<A>(sk, slot, &mut record.socket)?;
            let tp = A::tcp_sock(sk);
            if !tp.is_null() {
                record.has_tcp = 1;
                kernel::tcp_counters::<A>(sk, tp, &mut record.tcp)?;
                detail::read::<A>(sk, tp, &mut record.detail)?;
            }
        }
        if context == Context::Ending as u32 && record.has_tcp != 0 {
            record.tcp.retrans_unseen = retransmit::account_growth(slot, record.tcp.retrans, 0);
        }
        if what == what::FAILED {
            // SAFETY: passed on.
            unsafe {
                record.error = kernel::error::<A>(sk)?;
                if record.socket.key.local_port == 0 {
                    record.socket.key.local_port = kernel::last_port::<A>(sk)?;
                }
            }
        }
        if context == Context::Accepted as u32 && record.has_tcp != 0 {
            // SAFETY: passed on.
            record.tcp.retrans_unseen =
                unsafe { retransmit::synacks::unseen::<A>(sk, record.tcp.retrans) }?;
        }
        record.socket.cookie = kernel::cookie::<A>(sk);
        record.what = what;
        record.accept_wait_ns = accept_wait_ns;
        record.pid = slot.owner;
        if context == Context::Owner as u32 {
            let ([first, second], thread) = task::name();
            record.tid = thread;
            let (words, _none) = record.comm.as_chunks_mut::<8>();
            words[0] = first.to_ne_bytes();
            words[1] = second.to_ne_bytes();
            record.cgroup = task::cgroup();
        }
        Ok(())
    });
    match submitted {
        Some(Ok(())) => slot.flags |= ANNOUNCED,
        Some(Err(_)) => {
            slot.due_ns = 0;
            counters.read_failed += 1;
        }
        None => {}
    }
    submitted == Some(Ok(()))
}

/// What the programs of rare events do first: count the sample as seen, ask the filters, find the
/// socket's slot and introduce the socket. `None`: the sample is accounted for.
///
/// They run in timers and softirqs, so the current task has nothing to do with the socket.
///
/// # Safety
/// `sk` points to a full TCP socket.
#[inline(always)]
pub(crate) unsafe fn admit<A: Access>(
    sk: Pointer,
    lane: Lane,
) -> Option<(&'static mut Counters, &'static mut Slot)> {
    let counters = counters(lane)?;
    let known = slot::find::<A>(sk);
    // SAFETY: passed on.
    let slot = unsafe { admit_to::<A>(sk, known, lane, counters) }?;
    Some((counters, slot))
}

/// The same for who knows where to count and what slot there is.
///
/// # Safety
/// As for [`admit`].
#[inline(always)]
pub(crate) unsafe fn admit_to<A: Access>(
    sk: Pointer,
    known: Option<&'static mut Slot>,
    lane: Lane,
    counters: &mut Counters,
) -> Option<&'static mut Slot> {
    counters.seen += 1;
    let user = known.as_ref().map_or(User::Unknown, |slot| slot.user());
    // SAFETY: passed on.
    match unsafe { filter::passes::<A>(sk, user) } {
        Answer::Wanted => {}
        Answer::Unwanted => {
            counters.filtered += 1;
            return None;
        }
        Answer::Unread => {
            counters.read_failed += 1;
            return None;
        }
    }
    // As in `filter::behind`: whether there is one was asked before the filters were.
    let known = if filter::active() { slot::find::<A>(sk) } else { known };
    let Some(slot) = slot::or_create::<A>(known, sk, lane) else {
        counters.map_full += 1;
        return None;
    };
    if slot.flags & ANNOUNCED == 0 {
        // The ACK that ends its handshake may bring a sample before the state changes.
        // SAFETY: passed on.
        if slot.flags & CLIENT == 0 && unsafe { kernel::state::<A>(sk) } == Ok(SYN_RECV) {
            slot.flags |= SERVER;
        }
        let what = introduction(slot);
        // SAFETY: passed on.
        unsafe { report::<A>(sk, slot, what, Context::Foreign, lane) };
    }
    Some(slot)
}

/// What the first record of a socket says of its past.
#[inline(always)]
pub(crate) fn introduction(slot: &Slot) -> u32 {
    if slot.flags & CLIENT != 0 {
        what::CONNECT
    } else if slot.flags & SERVER != 0 {
        what::ACCEPT
    } else {
        what::SEEN
    }
}

/// Whether a socket that is in use shall be told of, or reported again.
#[inline(always)]
pub(crate) const fn is_due(slot: &Slot, now_ns: u64) -> bool {
    now_ns > slot.due_ns
}
