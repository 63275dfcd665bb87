//! Programs of the signal `socket`, and the introduction of a socket that other signals met first.

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_ktime_get_ns},
    macros::{btf_tracepoint, raw_tracepoint},
    programs::{BtfTracePointContext, RawTracePointContext},
};
use aya_log_ebpf::{debug, warn};
use netdiag_common::{
    counters::Counters,
    flow::SocketRef,
    header::{Header, VERSION},
    signal::{
        Signal,
        socket::{Record, what},
    },
};

use crate::{
    account::{Lane, counters, socket_counters},
    filter,
    globals::settings,
    kernel::{self, Access, Pointer, Probed, Refused, Typed},
    ring,
    slot::{self, ANNOUNCED, CLIENT, RETRANS_KNOWN, SERVER, Slot},
};

// include/net/tcp_states.h
const ESTABLISHED: i32 = 1;
const SYN_SENT: i32 = 2;
const SYN_RECV: i32 = 3;

const STATE: Lane = Lane::new(Signal::Socket, 0);
const DESTROY: Lane = Lane::new(Signal::Socket, 1);

/// A header for a record of one sample.
#[inline(always)]
pub(crate) fn header(signal: Signal, samples: u32) -> Header {
    // SAFETY: no precondition.
    let time_ns = unsafe { bpf_ktime_get_ns() };
    Header { version: VERSION, signal: signal as u16, samples, time_ns }
}

/// Fills in what identifies a socket.
///
/// # Safety
/// `sk` starts with a `sock_common`.
#[inline(always)]
pub(crate) unsafe fn identify<A: Access>(
    sk: Pointer,
    flow: u64,
    to: &mut SocketRef,
) -> Result<(), Refused> {
    to.flow = flow;
    to.sk = sk as u64;
    // SAFETY: passed on.
    unsafe {
        kernel::flow_key::<A>(sk, &mut to.key)?;
        to.state = u32::from(kernel::state::<A>(sk)?);
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
    let Some(counters) = socket_counters(lane) else { return false };
    counters.seen += 1;
    let submitted = ring::submit::<Record>(ring::Into::Sockets, counters, |record| {
        record.header = header(Signal::Socket, 1);
        slot.reported_ns = record.header.time_ns;
        // SAFETY: passed on.
        unsafe {
            identify::<A>(sk, slot.flow, &mut record.socket)?;
            record.has_tcp = u32::from(kernel::tcp_counters::<A>(sk, &mut record.tcp)?);
        }
        record.socket.cookie = kernel::cookie::<A>(sk);
        record.what = what;
        record.pid = slot.owner;
        if context == Context::Owner {
            let task = bpf_get_current_pid_tgid();
            record.tid = task as u32;
            if let Ok(comm) = bpf_get_current_comm() {
                record.comm = comm;
            }
        }
        Ok(())
    });
    match submitted {
        Some(Ok(())) => slot.flags |= ANNOUNCED,
        Some(Err(_)) => counters.read_failed += 1,
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
    counters.seen += 1;
    let known = slot::find::<A>(sk).map_or(0, |slot| slot.owner);
    // SAFETY: passed on.
    match unsafe { filter::passes::<A>(sk, known) } {
        Ok(true) => {}
        Ok(false) => {
            counters.filtered += 1;
            return None;
        }
        Err(_) => {
            counters.read_failed += 1;
            return None;
        }
    }
    let Some(slot) = slot::find_or_create::<A>(sk, lane) else {
        counters.map_full += 1;
        return None;
    };
    if slot.flags & ANNOUNCED == 0 {
        let what = introduction(slot);
        // SAFETY: passed on.
        unsafe { report::<A>(sk, slot, what, Context::Foreign, lane) };
    }
    Some((counters, slot))
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

/// A socket changed its state.
#[inline(always)]
fn state_changed<A: Access>(ctx: &impl EbpfContext, sk: Pointer, old: i32, new: i32) {
    let connecting = new == SYN_SENT;
    if !connecting && new != ESTABLISHED {
        return;
    }
    // SAFETY: the tracepoint gives a full socket.
    if unsafe { kernel::is_tcp::<A>(sk) } != Ok(true) {
        return;
    }
    debug!(ctx, "socket {:x}: state {} to {}", sk as u64, old, new);
    let Some(slot) = slot::find_or_create::<A>(sk, STATE) else {
        warn!(ctx, "socket {:x}: no room to remember it, raise --max-flows", sk as u64);
        if let Some(counters) = socket_counters(STATE) {
            counters.seen += 1;
            counters.map_full += 1;
        }
        return;
    };
    // The kernel clears total_retrans as a connection opens (tcp_init_transfer).
    slot.flags &= !RETRANS_KNOWN;
    if connecting {
        // connect() runs in the context of the task that called it.
        slot.owner = (bpf_get_current_pid_tgid() >> 32) as u32;
        slot.flags |= CLIENT;
        if filter::needs_local_port() {
            return; // not bound yet; the next hook introduces it
        }
    } else if old == SYN_RECV {
        slot.flags |= SERVER;
    }
    // SAFETY: as above.
    if unsafe { filter::passes::<A>(sk, slot.owner) } != Ok(true) {
        return;
    }
    let context = if connecting { Context::Owner } else { Context::Foreign };
    let what = if slot.flags & ANNOUNCED == 0 { introduction(slot) } else { what::COUNTERS };
    // SAFETY: as above.
    unsafe { report::<A>(sk, slot, what, context, STATE) };
}

/// A socket is about to go.
#[inline(always)]
fn destroyed<A: Access>(ctx: &impl EbpfContext, sk: Pointer) {
    let Some(slot) = slot::find::<A>(sk) else { return };
    debug!(ctx, "socket {:x}: destroyed", sk as u64);
    if slot.flags & ANNOUNCED != 0 {
        // SAFETY: the tracepoint gives a full TCP socket.
        unsafe {
            report::<A>(sk, slot, what::CLOSE, Context::Foreign, DESTROY);
        }
    }
    slot::forget(sk);
}

#[btf_tracepoint(function = "inet_sock_set_state")]
fn socket_state_tp_btf(ctx: BtfTracePointContext) -> i32 {
    state_changed::<Typed>(&ctx, ctx.arg(0), ctx.arg(1), ctx.arg(2));
    0
}

#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
fn socket_state_raw_tp(ctx: RawTracePointContext) -> i32 {
    state_changed::<Probed>(&ctx, ctx.arg(0), ctx.arg(1), ctx.arg(2));
    0
}

#[btf_tracepoint(function = "tcp_destroy_sock")]
fn socket_destroy_tp_btf(ctx: BtfTracePointContext) -> i32 {
    destroyed::<Typed>(&ctx, ctx.arg(0));
    0
}

#[raw_tracepoint(tracepoint = "tcp_destroy_sock")]
fn socket_destroy_raw_tp(ctx: RawTracePointContext) -> i32 {
    destroyed::<Probed>(&ctx, ctx.arg(0));
    0
}

/// When a socket that is in use shall be reported again.
#[inline(always)]
pub(crate) fn is_due(slot: &Slot, now_ns: u64) -> bool {
    now_ns.wrapping_sub(slot.reported_ns) > settings::report_every_ns()
}
