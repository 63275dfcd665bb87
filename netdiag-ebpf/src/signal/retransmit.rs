//! Programs of the signal `retransmit`.

use aya_ebpf::{
    EbpfContext,
    macros::{btf_tracepoint, fentry, fexit, raw_tracepoint},
    programs::{BtfTracePointContext, FEntryContext, FExitContext, RawTracePointContext},
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
    filter,
    globals::{location, settings},
    kernel::{self, Access, Pointer, Probed, Refused, Typed, field},
    ring,
    signal::socket,
    slot::{self, RETRANS_KNOWN},
};

const SEGMENT: Lane = Lane::new(Signal::Retransmit, 0);
const SYNACK: Lane = Lane::new(Signal::Retransmit, 1);
const BEGIN: Lane = Lane::new(Signal::Retransmit, 2);
const END: Lane = Lane::new(Signal::Retransmit, 3);

/// What is known of the segment.
struct Segment {
    skb: Pointer,
    /// Segments by the kernel's own counter, for attempts that left no trace in the buffer.
    segments: Option<u32>,
    error: i32,
}

/// A socket sent, or failed to send, a segment again.
#[inline(always)]
fn observe<A: Access>(ctx: &impl EbpfContext, sk: Pointer, segment: &Segment, lane: Lane) {
    debug!(ctx, "socket {:x}: segment sent again, error {}", sk as u64, segment.error);
    // SAFETY: the hook gives a full TCP socket.
    let Some((counters, slot)) = (unsafe { socket::admit::<A>(sk, lane) }) else { return };
    let submitted = ring::submit::<Record>(ring::Into::Events, counters, |record| {
        record.header = socket::header(Signal::Retransmit, 1);
        record.origin = origin::SEGMENT;
        record.error = segment.error;
        record.pid = slot.owner;
        // SAFETY: `sk` is a full TCP socket and `skb` one of its segments.
        unsafe {
            socket::identify::<A>(sk, slot.flow, &mut record.socket)?;
            describe::<A>(segment, record)?;
            let tp = A::tcp_sock(sk);
            if !tp.is_null() {
                record.ca_state = kernel::bits::<A>(tp, Field::CaState)?;
                record.timer = kernel::bits::<A>(tp, Field::Pending)?;
                record.backoff = kernel::bits::<A>(tp, Field::Retransmits)?;
            }
            record.has_tcp = u8::from(kernel::tcp_counters::<A>(sk, &mut record.tcp)?);
        }
        record.socket.cookie = kernel::cookie::<A>(sk);
        Ok(())
    });
    if let Some(Err(_)) = submitted {
        counters.read_failed += 1;
    }
}

/// # Safety
/// `segment.skb` points to a TCP socket's own `sk_buff`.
#[inline(always)]
unsafe fn describe<A: Access>(segment: &Segment, record: &mut Record) -> Result<(), Refused> {
    let control = location(Field::SkbCb).offset();
    let at = |field| control + location(field).offset();
    // SAFETY: `skb->cb` holds the tcp_skb_cb, whose fields' offsets come from BTF. It is an array
    // of char to the verifier, which allows loads of 1 and 4 bytes.
    unsafe {
        record.bytes = field::<A, _>(segment.skb, Field::SkbLen)?;
        record.seq = A::load(segment.skb, at(Field::CbSeq))?;
        let gso: u32 = A::load(segment.skb, at(Field::CbGsoSegs) & !3)?;
        let shift = 8 * (at(Field::CbGsoSegs) & 3) as u32;
        record.segments = segment.segments.unwrap_or(((gso >> shift) & 0xffff).max(1));
    }
    Ok(())
}

/// A SYN-ACK was sent again: the listener knows the request, there is no full socket yet.
#[inline(always)]
fn synack<A: Access>(request: Pointer) {
    let Some(counters) = counters(SYNACK) else { return };
    counters.seen += 1;
    // SAFETY: a request_sock starts with a sock_common.
    match unsafe { filter::passes::<A>(request, 0) } {
        Ok(true) => {}
        Ok(false) => {
            counters.filtered += 1;
            return;
        }
        Err(_) => {
            counters.read_failed += 1;
            return;
        }
    }
    let submitted = ring::submit::<Record>(ring::Into::Events, counters, |record| {
        record.header = socket::header(Signal::Retransmit, 1);
        record.origin = origin::SYNACK;
        record.segments = 1;
        let tcp = A::tcp_request_sock(request);
        // SAFETY: as above.
        unsafe {
            socket::identify::<A>(request, 0, &mut record.socket)?;
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
/// counter, which `__tcp_retransmit_skb` raises before it transmits: it returned an error, and the
/// counter rose.
#[inline(always)]
fn attempt_begins(sk: Pointer) {
    let Some(slot) = slot::find_or_create::<Typed>(sk, BEGIN) else { return };
    // SAFETY: the function's first argument is a full TCP socket.
    if let Some(retrans) = unsafe { kernel::total_retrans::<Typed>(sk) } {
        slot.retrans_before = retrans;
    }
}

#[inline(always)]
fn attempt_ends(ctx: &impl EbpfContext, sk: Pointer, skb: Pointer, error: i32) {
    if error == 0 {
        return;
    }
    let Some(slot) = slot::find::<Typed>(sk) else { return };
    // SAFETY: as above.
    let Some(retrans) = (unsafe { kernel::total_retrans::<Typed>(sk) }) else { return };
    let segments = retrans.wrapping_sub(slot.retrans_before);
    if segments != 0 {
        let segment = Segment { skb, segments: Some(segments), error };
        observe::<Typed>(ctx, sk, &segment, END);
    }
}

/// From 6.16 on the tracepoint fires at every return of `__tcp_retransmit_skb`. Some are no
/// attempts: it returned before it counted the segment, for instance because the first copy still
/// waits in a queue of this host (-EBUSY). Those that were, the socket's own counter tells.
#[inline(always)]
fn attempted<A: Access>(sk: Pointer, error: i32) -> bool {
    const EAGAIN: i32 = 11;
    const ENOMEM: i32 = 12;
    const EBUSY: i32 = 16;
    const EINVAL: i32 = 22;
    const EHOSTUNREACH: i32 = 113;

    // SAFETY: the tracepoint gives a full TCP socket.
    let retrans = unsafe { kernel::total_retrans::<A>(sk) };
    // `observe` counts why it cannot be told.
    let Some(retrans) = retrans else { return true };
    let Some(slot) = slot::find_or_create::<A>(sk, SEGMENT) else { return true };
    let (known, before) = (slot.flags & RETRANS_KNOWN != 0, slot.retrans_before);
    slot.retrans_before = retrans;
    slot.flags |= RETRANS_KNOWN;
    if error == 0 {
        true
    } else if known {
        retrans != before
    } else {
        // The first one of a connection, or of a socket older than the programs: those that
        // `__tcp_retransmit_skb` returns before it counts.
        !matches!(-error, EAGAIN | ENOMEM | EBUSY | EINVAL | EHOSTUNREACH)
    }
}

#[inline(always)]
fn returned<A: Access>(ctx: &impl EbpfContext, sk: Pointer, skb: Pointer, error: i32) {
    if !settings::retransmit_has_error() || attempted::<A>(sk, error) {
        observe::<A>(ctx, sk, &Segment { skb, segments: None, error }, SEGMENT);
    }
}

#[btf_tracepoint(function = "tcp_retransmit_skb")]
fn retransmit_tp_btf(ctx: BtfTracePointContext) -> i32 {
    let error = if settings::retransmit_has_error() { ctx.arg(2) } else { 0 };
    returned::<Typed>(&ctx, ctx.arg(0), ctx.arg(1), error);
    0
}

#[raw_tracepoint(tracepoint = "tcp_retransmit_skb")]
fn retransmit_raw_tp(ctx: RawTracePointContext) -> i32 {
    let error = if settings::retransmit_has_error() { ctx.arg(2) } else { 0 };
    returned::<Probed>(&ctx, ctx.arg(0), ctx.arg(1), error);
    0
}

#[btf_tracepoint(function = "tcp_retransmit_synack")]
fn retransmit_synack_tp_btf(ctx: BtfTracePointContext) -> i32 {
    synack::<Typed>(ctx.arg(1));
    0
}

#[raw_tracepoint(tracepoint = "tcp_retransmit_synack")]
fn retransmit_synack_raw_tp(ctx: RawTracePointContext) -> i32 {
    synack::<Probed>(ctx.arg(1));
    0
}

#[fentry]
fn retransmit_fentry(ctx: FEntryContext) -> i32 {
    attempt_begins(ctx.arg(0));
    0
}

#[fexit]
fn retransmit_fexit(ctx: FExitContext) -> i32 {
    attempt_ends(&ctx, ctx.arg(0), ctx.arg(1), ctx.arg(3));
    0
}
