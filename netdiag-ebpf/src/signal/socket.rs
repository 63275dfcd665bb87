//! Programs of the signal `socket`, and the introduction of a socket that other signals met first.

mod descriptor;
mod detail;
mod handshake;
mod owner;
mod report;

use aya_ebpf::{
    EbpfContext,
    helpers::bpf_get_current_pid_tgid,
    macros::{btf_tracepoint, raw_tracepoint},
    programs::{BtfTracePointContext, RawTracePointContext},
};
use aya_log_ebpf::{debug, warn};
use netdiag_common::signal::{Signal, socket::what};

pub(crate) use self::{
    owner::reads,
    report::{
        Context, admit, admit_to, header, header_at, identify, identify_request, introduction,
        is_due, report,
    },
};
use crate::{
    account::{Lane, socket_counters},
    filter::{self, Answer, User},
    globals::settings,
    kernel::{self, Access, Pointer, Probed, Typed},
    nested,
    numbers::state::{CLOSE, CLOSE_WAIT, ESTABLISHED, LISTEN, SYN_RECV, SYN_SENT},
    signal::{retransmit, send},
    slot::{self, ANNOUNCED, CLIENT, SERVER, Slot},
};

const STATE: Lane = Lane::new(Signal::Socket, 0);
const DESTROY: Lane = Lane::new(Signal::Socket, 1);

/// A socket changed its state.
#[inline(always)]
fn state_changed<A: Access>(ctx: &impl EbpfContext, sk: Pointer, old: i32, new: i32, lane: Lane) {
    let counts_end = new == CLOSE && (old == ESTABLISHED || old == CLOSE_WAIT || old == SYN_SENT);
    // A child is copied from its listener in the state LISTEN, too (inet_csk_clone_lock).
    let listening_ends = old == LISTEN && new == CLOSE;
    if new != SYN_SENT && new != ESTABLISHED && new != LISTEN && !listening_ends && !counts_end {
        return;
    }
    // SAFETY: the tracepoint gives a full socket.
    if unsafe { kernel::is_tcp::<A>(sk) } != Ok(true) {
        return;
    }
    debug!(ctx, "a socket: state {} to {}", old, new);
    if new == LISTEN {
        // listen() runs in the context of the task that called it.
        filter::begins_to_listen(sk);
    } else if listening_ends {
        // SAFETY: as above.
        unsafe { filter::ends_to_listen::<A>(sk) };
    } else if counts_end {
        let what = if old == SYN_SENT { what::FAILED } else { what::COUNTERS };
        disconnected::<A>(sk, what, lane);
    } else {
        opened::<A>(ctx, sk, old, new, lane);
    }
}

/// The process whose task runs.
#[inline(always)]
fn current_process() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}

/// A connection breaks off, or an attempt to connect fails. Its socket may live on (`connect(AF_UNSPEC)`), and then the kernel clears
/// the counters next (`tcp_disconnect`, net/ipv4/tcp.c).
#[inline(always)]
fn disconnected<A: Access>(sk: Pointer, what: u32, lane: Lane) {
    let Some(slot) = slot::find::<A>(sk) else { return };
    if slot.flags & ANNOUNCED != 0 {
        // SAFETY: a full TCP socket.
        unsafe { report::<A>(sk, slot, what, Context::Ending, lane) };
    }
}

/// A socket connects, or its handshake is done.
#[inline(always)]
fn opened<A: Access>(ctx: &impl EbpfContext, sk: Pointer, old: i32, new: i32, lane: Lane) {
    let connecting = new == SYN_SENT;
    // connect() runs in the context of the task that called it.
    let user = if connecting {
        User::Current
    } else {
        slot::find::<A>(sk).map_or(User::Unknown, |slot| slot.user())
    };
    // Not bound yet where it connects; asked again when it has connected.
    let undecided = connecting && filter::needs_local_port();
    if !undecided && !is_wanted::<A>(sk, user, old == SYN_RECV, lane) {
        return;
    }
    let [old, new] = [old, new].map(|state| filter::behind(state as u64) as i32);
    let connecting = new == SYN_SENT;
    let undecided = connecting && filter::needs_local_port();
    let Some(slot) = slot::find_or_create::<A>(sk, lane) else {
        warn!(ctx, "a socket: no room to remember it, raise --max-flows");
        if let Some(counters) = socket_counters(lane) {
            counters.seen += 1;
            counters.map_full += 1;
        }
        return;
    };
    if connecting {
        begins_anew::<A>(sk, slot, lane);
        // Of what has passed the filters this is known.
        slot.used_by(current_process(), !undecided || filter::is_current_wanted());
        slot.flags |= CLIENT;
    } else if old == SYN_RECV {
        // As in `begins_anew`.
        slot.netns = 0;
        slot.flags |= SERVER;
        if slot.flags & CLIENT == 0 {
            // SAFETY: the tracepoint gives a full socket.
            unsafe { handshake::done::<A>(sk, slot.flow, lane) };
        }
    }
    if settings::is_on(Signal::Retransmit) && slot.retrans_known == 0 {
        // From here on each segment that is sent again is told of.
        // SAFETY: the tracepoint gives a full socket.
        if let Some(retrans) = unsafe { kernel::total_retrans::<A>(sk) } {
            retransmit::account_growth(slot, retrans, 0);
        }
    }
    if settings::is_on(Signal::Rtt) {
        // The handshake's is the first sample, and its only one.
        slot.round_trips_begin();
    }
    if settings::is_on(Signal::Turn) {
        slot.turns_begin();
    }
    if undecided {
        return;
    }
    let context = match (connecting, old) {
        (true, _) => Context::Owner,
        // Two ends that open at once come here, too, by no request.
        (false, SYN_RECV) if slot.flags & CLIENT == 0 && settings::is_on(Signal::Retransmit) => {
            Context::Accepted
        }
        _ => Context::Foreign,
    };
    let connected = !connecting && slot.flags & CLIENT != 0;
    let what = match (slot.flags & ANNOUNCED == 0, connected) {
        (true, true) => what::CONNECTED,
        (true, false) => introduction(slot),
        (false, true) => what::ESTABLISHED,
        (false, false) => what::COUNTERS,
    };
    // SAFETY: the tracepoint gives a full TCP socket.
    unsafe { report::<A>(sk, slot, what, context, lane) };
}

/// Asks the filters about a socket that opens, and counts it when they reject it.
#[inline(always)]
fn is_wanted<A: Access>(sk: Pointer, user: User, accepted: bool, lane: Lane) -> bool {
    // SAFETY: the tracepoint gives a full TCP socket.
    let answer = unsafe { filter::passes::<A>(sk, user) };
    if answer == Answer::Wanted {
        return true;
    }
    if let Some(counters) = socket_counters(lane) {
        counters.seen += 1;
        if answer == Answer::Unread {
            counters.read_failed += 1;
        } else {
            counters.filtered += 1;
        }
    }
    if accepted && filter::by_owner() {
        // Whoever accepts it may be wanted. Storage has room for all sockets.
        let mut flow = 0;
        if settings::slots_in_storage()
            && let Some(slot) = slot::find_or_create::<A>(sk, lane)
        {
            slot.flags |= SERVER;
            flow = slot.flow;
        }
        // SAFETY: as above.
        unsafe { handshake::done::<A>(sk, flow, lane) };
    }
    false
}

/// A socket that was connected before: its next conversation is another flow, of which nothing is
/// known yet.
#[inline(always)]
fn begins_anew<A: Access>(sk: Pointer, slot: &mut Slot, lane: Lane) {
    // Or the end of another one at the same address was missed, which may have been in another namespace.
    slot.netns = 0;
    if slot.flags & ANNOUNCED == 0 {
        slot.flags = 0;
        slot.retrans_known = 0;
        return;
    }
    // SAFETY: the tracepoint gives a full TCP socket.
    unsafe { report::<A>(sk, slot, what::CLOSE, Context::Ending, lane) };
    if let Some(flow) = slot::new_flow(lane) {
        slot.flow = flow;
        slot.flags = 0;
        slot.due_ns = 0;
        slot.retrans_known = 0;
        if settings::is_on(Signal::Send) {
            send::renumber(sk, flow);
        }
    }
}

/// A socket is about to go.
#[inline(always)]
fn destroyed<A: Access>(ctx: &impl EbpfContext, sk: Pointer, lane: Lane) {
    let known = slot::find::<A>(sk);
    if known.as_ref().is_none_or(|slot| slot.flags & SERVER != 0) {
        handshake::forget(sk);
    }
    let Some(slot) = known else { return };
    debug!(ctx, "flow {:x}: destroyed", slot.flow);
    if slot.flags & ANNOUNCED != 0 {
        // SAFETY: the tracepoint gives a full TCP socket.
        unsafe {
            report::<A>(sk, slot, what::CLOSE, Context::Ending, lane);
        }
    }
    slot::forget(sk);
}

#[btf_tracepoint(function = "inet_sock_set_state")]
fn socket_state_tp_btf(ctx: BtfTracePointContext) -> i32 {
    nested::private(STATE, |lane| {
        state_changed::<Typed>(&ctx, ctx.arg(0), ctx.arg(1), ctx.arg(2), lane);
    });
    0
}

#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
fn socket_state_raw_tp(ctx: RawTracePointContext) -> i32 {
    nested::private(STATE, |lane| {
        state_changed::<Probed>(&ctx, ctx.arg(0), ctx.arg(1), ctx.arg(2), lane);
    });
    0
}

#[btf_tracepoint(function = "tcp_destroy_sock")]
fn socket_destroy_tp_btf(ctx: BtfTracePointContext) -> i32 {
    nested::private(DESTROY, |lane| destroyed::<Typed>(&ctx, ctx.arg(0), lane));
    0
}

#[raw_tracepoint(tracepoint = "tcp_destroy_sock")]
fn socket_destroy_raw_tp(ctx: RawTracePointContext) -> i32 {
    nested::private(DESTROY, |lane| destroyed::<Probed>(&ctx, ctx.arg(0), lane));
    0
}
