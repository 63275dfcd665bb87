//! Programs of the signal `turn`: who waits for whom on a connection. What makes a turn is told by
//! [`netdiag_common::turn`]; here are the places where it is told of.
//!
//! All but the end of a send call by a tracepoint run under the socket's lock.

mod tale;

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns},
    macros::{btf_tracepoint, fentry, fexit, kprobe, raw_tracepoint, tracepoint},
    programs::{
        BtfTracePointContext, FEntryContext, FExitContext, ProbeContext, RawTracePointContext,
        TracePointContext,
    },
};
use netdiag_common::{
    signal::{
        Signal,
        turn::{kind, lane},
    },
    turn::{Ended, Waited},
};

use self::tale::{Socket, Tale};
use crate::{
    account::{Lane, counters},
    batch,
    calls::Seen,
    kernel::{self, Access, Pointer, Probed, Typed},
    nested,
    numbers::state::{CLOSE_WAIT, ESTABLISHED, LISTEN, NEW_SYN_RECV, SYN_RECV, SYN_SENT},
    signal::socket,
    slot::{self, CLIENT, SERVER},
};

const SEND: Lane = Lane::new(Signal::Turn, lane::SEND);
const ARRIVAL: Lane = Lane::new(Signal::Turn, lane::ARRIVAL);
const READ: Lane = Lane::new(Signal::Turn, lane::READ);
const FLUSH: Lane = Lane::new(Signal::Turn, lane::FLUSH);
const SECOND: Lane = Lane::new(Signal::Turn, lane::SECOND);
const SENDPAGE: Lane = Lane::new(Signal::Turn, lane::SENDPAGE);

/// Whether a state is one in which this kernel takes data from the peer, or has just taken the last.
#[inline(always)]
const fn hears(state: i32) -> bool {
    !matches!(state, LISTEN | SYN_SENT | SYN_RECV | NEW_SYN_RECV)
}

/// Whether a state is one in which it takes data from the process.
#[inline(always)]
const fn speaks(state: i32) -> bool {
    matches!(state, ESTABLISHED | CLOSE_WAIT)
}

/// The current thread, never 0: it is only compared with others of the same socket.
#[inline(always)]
fn this_thread() -> u32 {
    bpf_get_current_pid_tgid() as u32
}

/// A send call begins, of so many bytes. Who has nothing to say, or cannot, says nothing.
#[inline(always)]
fn send_begins<A: Access>(sk: Pointer, bytes: u64, lane: Lane) {
    if bytes != 0 {
        speaks_up::<A>(sk, Seen::NOTHING, this_thread, false, lane);
    }
}

/// The same by the tracepoint of `tcp_sendmsg_locked`: at each turn of a loop that ends when there are no more bytes.
#[inline(always)]
pub(crate) fn begins_locked(sk: Pointer, thread: u64, seen: Seen) {
    speaks_up::<Typed>(sk, seen, || thread as u32, true, SEND);
}

/// A thread has something to say, which may be told `repeatedly` in one call.
#[inline(always)]
fn speaks_up<A: Access>(
    sk: Pointer,
    seen: Seen,
    thread: impl FnOnce() -> u32,
    repeatedly: bool,
    lane: Lane,
) {
    let Some(counters) = counters(lane) else { return };
    // SAFETY: the hook gives a full TCP socket.
    if unsafe { kernel::error::<A>(sk) } != Ok(0) {
        return;
    }
    // SAFETY: as above.
    let Some(socket) = (unsafe { Socket::find::<A>(sk, seen, speaks, lane, counters) }) else {
        return;
    };
    let turns = &mut socket.slot.turns;
    let tale = match turns.send_begins(socket.now_ns, &socket.look, thread(), repeatedly) {
        Ended::Answered { latency_ns, other_ns } => {
            Tale { kind: kind::SERVICE, latency_ns, other_ns }
        }
        Ended::Ambiguous => Tale { kind: kind::SERVED, latency_ns: 0, other_ns: 0 },
        Ended::Nothing | Ended::Overlapped => return,
    };
    if socket.slot.flags & CLIENT != 0 {
        return; // how long the client thinks
    }
    // SAFETY: as above.
    unsafe { socket.tell::<A>(&tale, lane, counters) };
}

/// A send call returned.
#[inline(always)]
fn send_ends<A: Access>(sk: Pointer, result: i32) {
    // SAFETY: no precondition.
    ended::<A>(sk, result, unsafe { bpf_ktime_get_ns() });
}

/// The same by the tracepoint `sock_send_length`.
#[inline(always)]
pub(crate) fn ends_locked(sk: Pointer, result: i32, now_ns: u64) {
    ended::<Typed>(sk, result, now_ns);
}

#[inline(always)]
fn ended<A: Access>(sk: Pointer, result: i32, now_ns: u64) {
    if let Some(slot) = slot::find::<A>(sk) {
        slot.turns.send_ends(now_ns, result);
    }
}

/// Data arrives, or a FIN.
#[inline(always)]
fn data_arrives<A: Access>(sk: Pointer, lane: Lane) {
    let Some(counters) = counters(lane) else { return };
    // SAFETY: the hook gives a full TCP socket.
    let socket = unsafe { Socket::find::<A>(sk, Seen::NOTHING, hears, lane, counters) };
    let Some(socket) = socket else { return };
    let answers = socket.slot.flags & SERVER != 0;
    let tale = match socket.slot.turns.data_arrives(socket.now_ns, &socket.look) {
        Ended::Answered { latency_ns, other_ns } if !answers => {
            Tale { kind: kind::RESPONSE, latency_ns, other_ns }
        }
        Ended::Ambiguous if !answers => Tale { kind: kind::ASKED, latency_ns: 0, other_ns: 0 },
        Ended::Overlapped => Tale { kind: kind::OVERLAP, latency_ns: 0, other_ns: 0 },
        _ => return,
    };
    // SAFETY: as above.
    unsafe { socket.tell::<A>(&tale, lane, counters) };
}

/// Data was read.
#[inline(always)]
fn data_is_read<A: Access>(sk: Pointer, lane: Lane) {
    let Some(counters) = counters(lane) else { return };
    // SAFETY: the hook gives a full TCP socket.
    let socket = unsafe { Socket::find::<A>(sk, Seen::NOTHING, hears, lane, counters) };
    let Some(socket) = socket else { return };
    // SAFETY: as above; its lock is held.
    unsafe { socket::reads::<A>(sk, socket.slot, lane) };
    let waited = socket.slot.turns.data_is_read(socket.now_ns, &socket.look);
    let Some(Waited { latency_ns, other_ns }) = waited else { return };
    let tale = Tale { kind: kind::READ_WAIT, latency_ns, other_ns };
    // SAFETY: as above.
    unsafe { socket.tell::<A>(&tale, lane, counters) };
}

/// The trampoline programs of one function; `$bytes` is the index of its argument that says how many,
/// `$result` the one behind its last argument.
macro_rules! trampolines {
    ($entry:ident $exit:ident $lane:expr, $bytes:literal, $result:literal) => {
        #[fentry]
        fn $entry(ctx: FEntryContext) -> i32 {
            send_begins::<Typed>(ctx.arg(0), ctx.arg($bytes), $lane);
            0
        }

        #[fexit]
        fn $exit(ctx: FExitContext) -> i32 {
            send_ends::<Typed>(ctx.arg(0), ctx.arg($result));
            0
        }
    };
}

trampolines!(turn_send_fentry turn_send_fexit SEND, 2, 3);
trampolines!(turn_sendpage_fentry turn_sendpage_fexit SENDPAGE, 3, 5);

#[kprobe]
fn turn_send_kprobe(ctx: ProbeContext) -> u32 {
    if let (Some(sk), Some(bytes)) = (ctx.arg::<Pointer>(0), ctx.arg::<u64>(2)) {
        send_begins::<Probed>(sk, bytes, SEND);
    }
    0
}

#[tracepoint]
fn turn_sent_tracepoint(ctx: TracePointContext) -> u32 {
    if let Some((sk, result)) = kernel::tcp_send_length(&ctx) {
        send_ends::<Probed>(sk, result);
    }
    0
}

/// The programs of one hook where data arrives: one, and one for what interrupts it.
macro_rules! arrivals {
    ($first:ident $second:ident $context:ty, $of:path, $attribute:meta) => {
        #[$attribute]
        fn $first(ctx: $context) -> i32 {
            let sk: Pointer = ctx.arg(0);
            nested::first(ARRIVAL, sk, || $of(sk, ARRIVAL));
            0
        }

        #[$attribute]
        fn $second(ctx: $context) -> i32 {
            let sk: Pointer = ctx.arg(0);
            // SAFETY: both hooks give a full socket; one of TCP is told of under its lock.
            unsafe { nested::second::<Typed>(ARRIVAL, SECOND, sk, sk, || $of(sk, SECOND)) };
            0
        }
    };
}

/// `sk_data_ready` is told of sockets of any kind.
#[inline(always)]
fn of_any(sk: Pointer, lane: Lane) {
    // SAFETY: the tracepoint gives a full socket.
    if unsafe { kernel::is_tcp::<Typed>(sk) } == Ok(true) {
        data_arrives::<Typed>(sk, lane);
    }
}

arrivals!(
    turn_ready_fentry turn_ready_second_fentry FEntryContext, data_arrives::<Typed>, fentry
);
arrivals!(
    turn_ready_tp_btf turn_ready_second_tp_btf BtfTracePointContext, of_any,
    btf_tracepoint(function = "sk_data_ready")
);

#[kprobe]
fn turn_ready_kprobe(ctx: ProbeContext) -> u32 {
    if let Some(sk) = ctx.arg::<Pointer>(0) {
        data_arrives::<Probed>(sk, ARRIVAL);
    }
    0
}

#[btf_tracepoint(function = "tcp_rcv_space_adjust")]
fn turn_read_tp_btf(ctx: BtfTracePointContext) -> i32 {
    nested::private(READ, |lane| data_is_read::<Typed>(ctx.arg(0), lane));
    0
}

#[raw_tracepoint(tracepoint = "tcp_rcv_space_adjust")]
fn turn_read_raw_tp(ctx: RawTracePointContext) -> i32 {
    nested::private(READ, |lane| data_is_read::<Probed>(ctx.arg(0), lane));
    0
}

/// Run by userspace on each CPU in turn (BPF_PROG_TEST_RUN), never attached: empties the batches.
#[raw_tracepoint(tracepoint = "netdiag_flush")]
fn turn_flush(_ctx: RawTracePointContext) -> i32 {
    let (Some(counters), Some(batches)) = (counters(FLUSH), batch::of_this_cpu()) else { return 0 };
    // SAFETY: this CPU's batches.
    unsafe {
        batch::empty(&raw mut (*batches).services, counters);
        batch::empty(&raw mut (*batches).responses, counters);
        batch::empty(&raw mut (*batches).reads, counters);
    }
    0
}
