//! Programs of the signal `reset`.

use aya_ebpf::{
    btf_maps::PerCpuArray,
    macros::{btf_map, btf_tracepoint, fentry, raw_tracepoint},
    programs::{BtfTracePointContext, FEntryContext, RawTracePointContext},
};
use netdiag_common::{
    counters::LANES,
    field::Field,
    flow::FlowKey,
    signal::{
        Signal,
        reset::{NO_REASON, Record, SAMPLES, direction, lane},
    },
    table::Table,
};

use crate::{
    account::Lane,
    filter,
    globals::settings,
    kernel::{self, Access, Pointer, Probed, Refused, Typed, field},
    netns,
    numbers::state::{LISTEN, NEW_SYN_RECV, TIME_WAIT},
    packet,
    table::{self, Counted, Counting},
    words,
};

const SENT: Lane = Lane::new(Signal::Reset, lane::SENT);
const RECEIVED: Lane = Lane::new(Signal::Reset, lane::RECEIVED);
const SENT_V4: Lane = Lane::new(Signal::Reset, lane::SENT_V4);
const SENT_V6: Lane = Lane::new(Signal::Reset, lane::SENT_V6);
const FLUSH: Lane = Lane::new(Signal::Reset, lane::FLUSH);

#[btf_map]
static RESETS: PerCpuArray<Table<Record>, 1> = PerCpuArray::new();

/// What the program of a lane has in hand.
#[btf_map]
static IN_HAND: PerCpuArray<Record, { 2 * LANES }> = PerCpuArray::new();

impl Counted for Record {
    const SIGNAL: Signal = Signal::Reset;
    const SAMPLES: u32 = SAMPLES;
    const SUMS: core::ops::Range<usize> = 0..0;
    const LEVELS: usize = 1;

    #[inline(always)]
    fn table() -> Option<*mut Table<Self>> {
        RESETS.get_ptr_mut(0)
    }

    #[inline(always)]
    fn add(&mut self, _more: &Self) {}

    /// Direction and reason are what counts.
    #[inline(always)]
    fn coarsen(&mut self, _level: usize) {
        // SAFETY: zeros are a key.
        unsafe { words::zero(&raw mut self.key) };
    }
}

/// Whether a socket has the conversation's ends: no listener, which answers for all its clients.
///
/// # Safety
/// `sk` starts with a `sock_common`.
#[inline(always)]
unsafe fn is_an_end<A: Access>(sk: Pointer) -> Result<bool, Refused> {
    // SAFETY: passed on.
    let state = unsafe { kernel::state::<A>(sk) }?;
    Ok(state != TIME_WAIT && state != NEW_SYN_RECV && state != LISTEN)
}

/// Reads whose connection it is by its socket, which may have given its port back.
///
/// # Safety
/// `sk` points to a full TCP socket.
#[inline(always)]
unsafe fn by_socket<A: Access>(sk: Pointer, key: &mut FlowKey) -> Result<(), Refused> {
    // SAFETY: passed on.
    unsafe {
        kernel::flow_key::<A>(sk, key)?;
        if key.local_port == 0 {
            key.local_port = kernel::last_port::<A>(sk)?;
        }
    }
    Ok(())
}

/// Reads whose connection it is by the packet that is answered: its destination is this end.
///
/// # Safety
/// `skb` is an `sk_buff`, `sk` null or starts with a `sock_common`.
#[inline(always)]
unsafe fn by_packet<A: Access>(
    sk: Pointer,
    skb: Pointer,
    key: &mut FlowKey,
) -> Result<(), Refused> {
    // SAFETY: passed on.
    unsafe {
        packet::outermost(packet::header::<A>(skb)?, key)?;
        key.netns = if sk.is_null() {
            packet::device_netns::<A>(field::<A, _>(skb, Field::SkbDev)?)
        } else {
            netns::of::<A>(sk, Field::SkNet)?
        };
    }
    Ok(())
}

/// Reads whose connection it is that this end resets.
///
/// A function of its own, as are [`end`] and [`is_reset`]: the stack has no room for all of them at once,
/// only for one after the other.
///
/// # Safety
/// `sk` is null or starts with a `sock_common`, `skb` is null or an `sk_buff`.
#[inline(never)]
unsafe fn conversation<A: Access>(
    sk: Pointer,
    skb: Pointer,
    key: &mut FlowKey,
) -> Result<(), Refused> {
    // SAFETY: passed on.
    unsafe {
        if !sk.is_null() && is_an_end::<A>(sk) == Ok(true) {
            by_socket::<A>(sk, key)
        } else if !skb.is_null() {
            by_packet::<A>(sk, skb, key)
        } else {
            Ok(())
        }
    }
}

/// This end resets. The socket is null for a port that nobody listens on, the packet where none is answered.
///
/// # Safety
/// `sk` is null or starts with a `sock_common`, `skb` is null or an `sk_buff`.
#[inline(always)]
unsafe fn sent<A: Access>(sk: Pointer, skb: Pointer, reason: u32, lane: Lane) {
    count(lane, |reset| {
        (reset.direction, reset.reason) = (direction::SENT, reason);
        // SAFETY: passed on.
        unsafe { conversation::<A>(sk, skb, &mut reset.key) }
    });
}

/// The other end has reset.
///
/// # Safety
/// `sk` points to a full TCP socket.
#[inline(always)]
unsafe fn received<A: Access>(sk: Pointer) {
    count(RECEIVED, |reset| {
        (reset.direction, reset.reason) = (direction::RECEIVED, NO_REASON);
        // SAFETY: passed on.
        unsafe { by_socket::<A>(sk, &mut reset.key) }
    });
}

/// Counts a reset that `describe` reads. Which owner it has userspace knows.
#[inline(always)]
fn count(lane: Lane, describe: impl FnOnce(&mut Record) -> Result<(), Refused>) {
    let record = |lane: Lane| IN_HAND.get_ptr_mut(lane.nth() as u32);
    table::with_own(lane, record, |table, reset: &mut Record| {
        let described = describe(reset);
        end(table, reset, described);
    });
}

/// Accounts for a reset that was described, see [`conversation`].
#[inline(never)]
fn end(table: Counting<Record>, reset: &mut Record, described: Result<(), Refused>) {
    table.count(reset, described.map(|()| !filter::active() || filter::accepts(&reset.key)));
}

/// Whether a packet is a reset, which none answers; see [`conversation`].
///
/// # Safety
/// `skb` is an `sk_buff`.
#[inline(never)]
unsafe fn is_reset<A: Access>(skb: Pointer) -> bool {
    // SAFETY: passed on.
    unsafe { packet::header::<A>(skb) }.is_ok_and(packet::is_reset)
}

/// Before 6.10 the tracepoint is silent where there is no full socket. What it tells is left to it.
///
/// # Safety
/// As for [`sent`].
#[inline(always)]
unsafe fn sent_without_socket(sk: Pointer, skb: Pointer, lane: Lane) {
    // SAFETY: passed on.
    unsafe {
        if !sk.is_null() {
            let state = kernel::state::<Typed>(sk);
            if state != Ok(TIME_WAIT) && state != Ok(NEW_SYN_RECV) {
                return;
            }
        }
        if is_reset::<Typed>(skb) {
            return;
        }
        sent::<Typed>(sk, skb, NO_REASON, lane);
    }
}

macro_rules! reason {
    ($ctx:ident) => {
        if settings::reset_has_reason() { $ctx.arg(2) } else { NO_REASON }
    };
}

#[btf_tracepoint(function = "tcp_send_reset")]
fn reset_sent_tp_btf(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: what the tracepoint gives.
    unsafe { sent::<Typed>(ctx.arg(0), ctx.arg(1), reason!(ctx), SENT) };
    0
}

#[raw_tracepoint(tracepoint = "tcp_send_reset")]
fn reset_sent_raw_tp(ctx: RawTracePointContext) -> i32 {
    // SAFETY: what the tracepoint gives.
    unsafe { sent::<Probed>(ctx.arg(0), ctx.arg(1), reason!(ctx), SENT) };
    0
}

#[btf_tracepoint(function = "tcp_receive_reset")]
fn reset_received_tp_btf(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: what the tracepoint gives.
    unsafe { received::<Typed>(ctx.arg(0)) };
    0
}

#[raw_tracepoint(tracepoint = "tcp_receive_reset")]
fn reset_received_raw_tp(ctx: RawTracePointContext) -> i32 {
    // SAFETY: what the tracepoint gives.
    unsafe { received::<Probed>(ctx.arg(0)) };
    0
}

#[fentry]
fn reset_v4_fentry(ctx: FEntryContext) -> i32 {
    // SAFETY: the function's arguments.
    unsafe { sent_without_socket(ctx.arg(0), ctx.arg(1), SENT_V4) };
    0
}

#[fentry]
fn reset_v6_fentry(ctx: FEntryContext) -> i32 {
    // SAFETY: the function's arguments.
    unsafe { sent_without_socket(ctx.arg(0), ctx.arg(1), SENT_V6) };
    0
}

/// Run by userspace on each CPU in turn (BPF_PROG_TEST_RUN), never attached: empties the table.
#[raw_tracepoint(tracepoint = "netdiag_flush")]
fn reset_flush(_ctx: RawTracePointContext) -> i32 {
    table::flush::<Record>(FLUSH);
    0
}
