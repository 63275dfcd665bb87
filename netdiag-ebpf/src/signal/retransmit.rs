//! Programs of the signal `retransmit`.

use aya_ebpf::{
    EbpfContext,
    macros::{btf_tracepoint, fentry, fexit, raw_tracepoint},
    programs::{BtfTracePointContext, FEntryContext, FExitContext, RawTracePointContext},
};
use aya_log_ebpf::{debug, warn};
use netdiag_common::{
    field::Field,
    flow::TcpCounters,
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
    signal::socket::{self, Context},
    slot::{self, ANNOUNCED},
};

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
    let Some(counters) = counters(Signal::Retransmit, lane) else { return };
    counters.seen += 1;
    // Timers and softirqs send again: the current task has nothing to do with it.
    let known = slot::find::<A>(sk).map_or(0, |slot| slot.owner);
    // SAFETY: the hook gives a full TCP socket.
    match unsafe { filter::passes::<A>(sk, known) } {
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
    debug!(ctx, "socket {:x}: segment sent again, error {}", sk as u64, segment.error);
    let Some(slot) = slot::find_or_create::<A>(sk, lane) else {
        warn!(ctx, "socket {:x}: no room to remember it, raise --max-flows", sk as u64);
        counters.map_full += 1;
        return;
    };
    if slot.flags & ANNOUNCED == 0 {
        let what = socket::introduction(slot);
        // SAFETY: as above.
        unsafe { socket::report::<A>(sk, slot, what, Context::Foreign, lane) };
    }
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
    let Some(counters) = counters(Signal::Retransmit, Lane::Synack) else { return };
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
    let Some(slot) = slot::find_or_create::<Typed>(sk, Lane::RetransmitBegin) else { return };
    if let Some(retrans) = total_retrans(sk) {
        slot.retrans_before = retrans;
    }
}

#[inline(always)]
fn attempt_ends(ctx: &impl EbpfContext, sk: Pointer, skb: Pointer, error: i32) {
    if error == 0 {
        return;
    }
    let Some(slot) = slot::find::<Typed>(sk) else { return };
    let Some(retrans) = total_retrans(sk) else { return };
    let segments = retrans.wrapping_sub(slot.retrans_before);
    if segments != 0 {
        let segment = Segment { skb, segments: Some(segments), error };
        observe::<Typed>(ctx, sk, &segment, Lane::RetransmitEnd);
    }
}

#[inline(always)]
fn total_retrans(sk: Pointer) -> Option<u32> {
    let mut tcp = TcpCounters::default();
    // SAFETY: the function's first argument is a full TCP socket.
    match unsafe { kernel::tcp_counters::<Typed>(sk, &mut tcp) } {
        Ok(true) => Some(tcp.retrans),
        _ => None,
    }
}

#[btf_tracepoint(function = "tcp_retransmit_skb")]
fn retransmit_tp_btf(ctx: BtfTracePointContext) -> i32 {
    let error = if settings::retransmit_has_error() { ctx.arg(2) } else { 0 };
    let segment = Segment { skb: ctx.arg(1), segments: None, error };
    observe::<Typed>(&ctx, ctx.arg(0), &segment, Lane::Retransmit);
    0
}

#[raw_tracepoint(tracepoint = "tcp_retransmit_skb")]
fn retransmit_raw_tp(ctx: RawTracePointContext) -> i32 {
    let error = if settings::retransmit_has_error() { ctx.arg(2) } else { 0 };
    let segment = Segment { skb: ctx.arg(1), segments: None, error };
    observe::<Probed>(&ctx, ctx.arg(0), &segment, Lane::Retransmit);
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
