//! Programs of the signal `retransmit`.

pub(crate) mod synacks;

use aya_ebpf::{
    helpers::bpf_ktime_get_ns,
    macros::{btf_tracepoint, fentry, fexit, raw_tracepoint},
    programs::{
        BtfTracePointContext, FEntryContext, FExitContext, RawTracePointContext,
        tracing::StackIdContext,
    },
};
use aya_log_ebpf::debug;
use netdiag_common::{
    field::Field,
    signal::{
        Signal,
        retransmit::{Record, origin},
    },
};

use crate::{
    account::{Lane, counters},
    filter::{self, Answer, User},
    globals::{location, settings},
    kernel::{self, Access, Pointer, Probed, Refused, Typed, field},
    nested, ring,
    signal::socket,
    slot::{self, Slot},
    stack,
};

const SEGMENT: Lane = Lane::new(Signal::Retransmit, 0);
const SYNACK: Lane = Lane::new(Signal::Retransmit, 1);
const BEGIN: Lane = Lane::new(Signal::Retransmit, 2);
const END: Lane = Lane::new(Signal::Retransmit, 3);
const PROBE_BEGIN: Lane = Lane::new(Signal::Retransmit, 4);
const PROBE_END: Lane = Lane::new(Signal::Retransmit, 5);
const SEGMENT_SECOND: Lane = Lane::new(Signal::Retransmit, 6);
const SYNACK_SECOND: Lane = Lane::new(Signal::Retransmit, 7);

// include/uapi/asm-generic/errno-base.h, errno.h
const EAGAIN: i32 = 11;
const ENOMEM: i32 = 12;
const EBUSY: i32 = 16;
const EINVAL: i32 = 22;
const EHOSTUNREACH: i32 = 113;

/// What is known of an attempt to send again.
struct Attempt {
    /// The segment; null where it is not known.
    skb: Pointer,
    /// Segments by the kernel's own counter, for attempts that left no trace in the buffer.
    segments: Option<u32>,
    error: i32,
    origin: u32,
}

impl Attempt {
    const fn of(skb: Pointer, error: i32) -> Self {
        Self { skb, segments: None, error, origin: origin::SEGMENT }
    }

    /// A tail-loss probe of which nothing else is known.
    const fn failed_probe(segments: u32) -> Self {
        let skb = core::ptr::null();
        Self { skb, segments: Some(segments), error: 0, origin: origin::FAILED_PROBE }
    }
}

/// A socket sent, or failed to send, a segment again.
#[inline(always)]
fn observe<A: Access>(ctx: &impl StackIdContext, sk: Pointer, attempt: &Attempt, lane: Lane) {
    // SAFETY: the hook gives a full TCP socket.
    let Some((counters, slot)) = (unsafe { socket::admit::<A>(sk, lane) }) else { return };
    // Not the socket's address: verifiers let no program take a pointer apart.
    debug!(ctx, "flow {:x}: segment sent again, error {}", slot.flow, attempt.error);
    // SAFETY: no precondition.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    if attempt.error == 0 && attempt.origin == origin::SEGMENT {
        slot.sent_again_ns = now_ns;
    }
    let stack = stack::of(ctx);
    let submitted = ring::submit::<Record>(ring::Into::Events, counters, |record| {
        record.header = socket::header_at(Signal::Retransmit, 1, now_ns);
        record.origin = attempt.origin;
        record.stack = stack;
        record.error = attempt.error;
        record.pid = slot.owner;
        // SAFETY: `sk` is a full TCP socket and `skb` one of its segments.
        unsafe {
            socket::identify::<A>(sk, slot, &mut record.socket)?;
            describe::<A>(attempt, record)?;
            let tp = A::tcp_sock(sk);
            if !tp.is_null() {
                record.ca_state = kernel::bits::<A>(tp, Field::CaState)?;
                record.timer = kernel::bits::<A>(tp, Field::Pending)?;
                record.backoff = kernel::bits::<A>(tp, Field::Retransmits)?;
                record.has_tcp = 1;
                kernel::tcp_counters::<A>(sk, tp, &mut record.tcp)?;
            }
        }
        record.socket.cookie = kernel::cookie::<A>(sk);
        if record.has_tcp != 0 {
            record.tcp.retrans_unseen = account_growth(slot, record.tcp.retrans, record.segments);
        }
        Ok(())
    });
    if submitted == Some(Ok(())) {
        return;
    }
    if submitted.is_some() {
        counters.read_failed += 1;
    }
    // Lost, and counted as such: the next record shall not tell of it once more.
    // SAFETY: as above.
    if let Some(retrans) = unsafe { kernel::total_retrans::<A>(sk) } {
        account_growth(slot, retrans, 0);
    }
}

/// Takes note that `total_retrans` was told of, and returns how many segments of its growth were
/// not among the `segments` that a program saw: the kernel skips a program that would run inside
/// itself, as when a softirq interrupts it.
///
/// Valid under the socket's lock only, where counter and tracepoint do not come apart.
#[inline(always)]
pub(crate) fn account_growth(slot: &mut Slot, retrans: u32, segments: u32) -> u32 {
    let known = slot.retrans_known != 0;
    let unseen = retrans.wrapping_sub(slot.retrans).wrapping_sub(segments);
    slot.retrans = retrans;
    slot.retrans_known = 1;
    // Below zero: the counter began anew, as a socket that connects again does.
    if known && unseen <= i32::MAX as u32 { unseen } else { 0 }
}

/// # Safety
/// `attempt.skb` is null or points to a TCP socket's own `sk_buff`.
#[inline(always)]
unsafe fn describe<A: Access>(attempt: &Attempt, record: &mut Record) -> Result<(), Refused> {
    record.segments = attempt.segments.unwrap_or(1);
    if attempt.skb.is_null() {
        return Ok(());
    }
    let control = location(Field::SkbCb).offset();
    let at = |field| control + location(field).offset();
    // SAFETY: `skb->cb` holds the tcp_skb_cb, whose fields' offsets come from BTF. It is an array
    // of char to the verifier, which allows loads of 1 and 4 bytes.
    unsafe {
        record.bytes = field::<A, _>(attempt.skb, Field::SkbLen)?;
        record.seq = A::load(attempt.skb, at(Field::CbSeq))?;
        if attempt.segments.is_none() {
            let gso: u32 = A::load(attempt.skb, at(Field::CbGsoSegs) & !3)?;
            let shift = 8 * (at(Field::CbGsoSegs) & 3) as u32;
            record.segments = ((gso >> shift) & 0xffff).max(1);
        }
    }
    Ok(())
}

/// A SYN-ACK was sent again: the listener knows the request, there is no full socket yet.
#[inline(always)]
fn synack<A: Access>(ctx: &impl StackIdContext, request: Pointer, lane: Lane) {
    let Some(counters) = counters(lane) else { return };
    counters.seen += 1;
    // SAFETY: a request_sock starts with a sock_common.
    match unsafe { filter::passes::<A>(request, User::Unknown) } {
        Answer::Wanted => {}
        Answer::Unwanted => {
            counters.filtered += 1;
            return;
        }
        Answer::Unread => {
            counters.read_failed += 1;
            return;
        }
    }
    // Before it is submitted: one that finds no room is lost, and counted as such.
    // SAFETY: as above.
    unsafe { synacks::note::<A>(request) };
    let stack = stack::of(ctx);
    let submitted = ring::submit::<Record>(ring::Into::Events, counters, |record| {
        record.header = socket::header(Signal::Retransmit, 1);
        record.origin = origin::SYNACK;
        record.stack = stack;
        record.segments = 1;
        let tcp = A::tcp_request_sock(request);
        // SAFETY: as above.
        unsafe {
            socket::identify_request::<A>(request, &mut record.socket)?;
            if !tcp.is_null() {
                record.seq = field::<A, _>(tcp, Field::TcpRequestSntIsn)?;
            }
        }
        Ok(())
    });
    if let Some(Err(_)) = submitted {
        counters.read_failed += 1;
    }
}

/// Before 6.16 the tracepoint tells only of success. Failures are told apart by the socket's own
/// counter, which `__tcp_retransmit_skb` raises before it transmits: what it rose by since the last
/// record, when the function has returned, left no trace at the tracepoint.
#[inline(always)]
fn attempt_begins(sk: Pointer, lane: Lane) {
    let Some(slot) = slot::find_or_create::<Typed>(sk, lane) else { return };
    if slot.retrans_known == 0 {
        // SAFETY: the function's first argument is a full TCP socket.
        if let Some(retrans) = unsafe { kernel::total_retrans::<Typed>(sk) } {
            account_growth(slot, retrans, 0);
        }
    }
}

/// The segments that [`attempt_begins`] speaks of.
#[inline(always)]
fn untold(sk: Pointer) -> u32 {
    let Some(slot) = slot::find::<Typed>(sk) else { return 0 };
    // SAFETY: as above.
    let retrans = unsafe { kernel::total_retrans::<Typed>(sk) };
    let untold = retrans.map_or(0, |retrans| retrans.wrapping_sub(slot.retrans));
    if slot.retrans_known != 0 && untold <= u32::from(u16::MAX) { untold } else { 0 }
}

/// `__tcp_retransmit_skb`, or its caller, returned.
#[inline(always)]
fn attempt_ends(ctx: &impl StackIdContext, sk: Pointer, skb: Pointer, error: i32, lane: Lane) {
    // Without an attempt what is untold is a transmission that no program saw.
    if error != 0 && error != -EBUSY && error != -EAGAIN && untold(sk) != 0 {
        observe::<Typed>(ctx, sk, &Attempt::of(skb, error), lane);
    }
}

/// From 6.16 on the tracepoint fires at every return of `__tcp_retransmit_skb`. Some are no
/// attempts: it returned before it counted the segment, for instance because the first copy still
/// waits in a queue of this host (-EBUSY). Those that were, the socket's own counter tells.
#[inline(always)]
fn attempted<A: Access>(sk: Pointer, error: i32, lane: Lane) -> bool {
    if error == 0 {
        return true;
    }
    // SAFETY: the tracepoint gives a full TCP socket.
    let retrans = unsafe { kernel::total_retrans::<A>(sk) };
    // `observe` counts why it cannot be told.
    let Some(retrans) = retrans else { return true };
    let Some(slot) = slot::find_or_create::<A>(sk, lane) else { return true };
    if slot.retrans_known != 0 {
        // Busy is never the answer to a transmission; the growth then is of one that no program saw.
        return slot.retrans != retrans && error != -EBUSY;
    }
    // The first one of a socket older than the programs: those that it returns before it counts.
    if matches!(-error, EAGAIN | ENOMEM | EBUSY | EINVAL | EHOSTUNREACH) {
        account_growth(slot, retrans, 0);
        return false;
    }
    true
}

#[inline(always)]
fn returned<A: Access>(
    ctx: &impl StackIdContext,
    sk: Pointer,
    skb: Pointer,
    error: i32,
    lane: Lane,
) {
    if !settings::retransmit_has_error() || attempted::<A>(sk, error, lane) {
        observe::<A>(ctx, sk, &Attempt::of(skb, error), lane);
    }
}

macro_rules! segment {
    ($ctx:ident, $access:ty, $lane:expr) => {{
        let error = if settings::retransmit_has_error() { $ctx.arg(2) } else { 0 };
        returned::<$access>(&$ctx, $ctx.arg(0), $ctx.arg(1), error, $lane);
    }};
}

#[btf_tracepoint(function = "tcp_retransmit_skb")]
fn retransmit_tp_btf(ctx: BtfTracePointContext) -> i32 {
    nested::first(SEGMENT, ctx.arg(1), || segment!(ctx, Typed, SEGMENT));
    0
}

#[btf_tracepoint(function = "tcp_retransmit_skb")]
fn retransmit_second_tp_btf(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: the tracepoint gives a full TCP socket, under its lock.
    unsafe {
        nested::second::<Typed>(SEGMENT, SEGMENT_SECOND, ctx.arg(0), ctx.arg(1), || {
            segment!(ctx, Typed, SEGMENT_SECOND);
        });
    }
    0
}

#[raw_tracepoint(tracepoint = "tcp_retransmit_skb")]
fn retransmit_raw_tp(ctx: RawTracePointContext) -> i32 {
    nested::first(SEGMENT, ctx.arg(1), || segment!(ctx, Probed, SEGMENT));
    0
}

#[raw_tracepoint(tracepoint = "tcp_retransmit_skb")]
fn retransmit_second_raw_tp(ctx: RawTracePointContext) -> i32 {
    // SAFETY: the tracepoint gives a full TCP socket, under its lock.
    unsafe {
        nested::second::<Probed>(SEGMENT, SEGMENT_SECOND, ctx.arg(0), ctx.arg(1), || {
            segment!(ctx, Probed, SEGMENT_SECOND);
        });
    }
    0
}

#[btf_tracepoint(function = "tcp_retransmit_synack")]
fn retransmit_synack_tp_btf(ctx: BtfTracePointContext) -> i32 {
    nested::first(SYNACK, ctx.arg(1), || synack::<Typed>(&ctx, ctx.arg(1), SYNACK));
    0
}

#[btf_tracepoint(function = "tcp_retransmit_synack")]
fn retransmit_synack_second_tp_btf(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: the tracepoint gives the listener, on which no task works then.
    unsafe {
        nested::second::<Typed>(SYNACK, SYNACK_SECOND, ctx.arg(0), ctx.arg(1), || {
            synack::<Typed>(&ctx, ctx.arg(1), SYNACK_SECOND);
        });
    }
    0
}

#[raw_tracepoint(tracepoint = "tcp_retransmit_synack")]
fn retransmit_synack_raw_tp(ctx: RawTracePointContext) -> i32 {
    nested::first(SYNACK, ctx.arg(1), || synack::<Probed>(&ctx, ctx.arg(1), SYNACK));
    0
}

#[raw_tracepoint(tracepoint = "tcp_retransmit_synack")]
fn retransmit_synack_second_raw_tp(ctx: RawTracePointContext) -> i32 {
    // SAFETY: the tracepoint gives the listener, on which no task works then.
    unsafe {
        nested::second::<Probed>(SYNACK, SYNACK_SECOND, ctx.arg(0), ctx.arg(1), || {
            synack::<Probed>(&ctx, ctx.arg(1), SYNACK_SECOND);
        });
    }
    0
}

#[fentry]
fn retransmit_fentry(ctx: FEntryContext) -> i32 {
    nested::private(BEGIN, |lane| attempt_begins(ctx.arg(0), lane));
    0
}

#[fexit]
fn retransmit_fexit(ctx: FExitContext) -> i32 {
    nested::private(END, |lane| attempt_ends(&ctx, ctx.arg(0), ctx.arg(1), ctx.arg(3), lane));
    0
}

#[fentry]
fn retransmit_probe_fentry(ctx: FEntryContext) -> i32 {
    nested::private(PROBE_BEGIN, |lane| attempt_begins(ctx.arg(0), lane));
    0
}

/// `tcp_send_loss_probe` returned, without a word on how it went.
#[fexit]
fn retransmit_probe_fexit(ctx: FExitContext) -> i32 {
    let sk: Pointer = ctx.arg(0);
    let segments = untold(sk);
    if segments != 0 {
        nested::private(PROBE_END, |lane| {
            observe::<Typed>(&ctx, sk, &Attempt::failed_probe(segments), lane);
        });
    }
    0
}
