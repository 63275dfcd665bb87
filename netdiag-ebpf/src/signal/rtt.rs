//! Programs of the signal `rtt`: the kernel's own samples of round trips, once each.

mod estimator;

use aya_ebpf::{
    macros::{btf_tracepoint, fexit, raw_tracepoint},
    programs::{BtfTracePointContext, FExitContext, RawTracePointContext},
};
use netdiag_common::{
    batch::Batch,
    counters::Counters,
    estimator::Since,
    field::Field,
    signal::{
        Signal,
        rtt::{MOST, Sample, WINDOW_US, flag, lane},
    },
};

use self::estimator::Found;
use crate::{
    account::{Lane, counters, sheds},
    batch,
    filter::{self, Answer, User},
    kernel::{self, Access, Pointer, Probed, Refused, Typed, field},
    nested,
    numbers::state::ESTABLISHED,
    signal::socket,
    slot::{self, Slot},
};

const ACK: Lane = Lane::new(Signal::Rtt, lane::ACK);
const CLOSING: Lane = Lane::new(Signal::Rtt, lane::CLOSING);
const FLUSH: Lane = Lane::new(Signal::Rtt, lane::FLUSH);
const SECOND: Lane = Lane::new(Signal::Rtt, lane::SECOND);

impl batch::Sample for Sample {
    const SIGNAL: Signal = Signal::Rtt;
}

/// A sample that the kernel took.
struct RoundTrip {
    rtt_us: u32,
    flags: u32,
}

/// Tells of a sample, whose socket may be new to us.
///
/// # Safety
/// `sk` is a full TCP socket, `tp` the same.
#[inline(always)]
unsafe fn tell<A: Access>(
    sk: Pointer,
    tp: Pointer,
    known: Option<&'static mut Slot>,
    mut round_trip: RoundTrip,
    lane: Lane,
    counters: &mut Counters,
    what: What,
) {
    // SAFETY: passed on.
    let Some(slot) = (unsafe { socket::admit_to::<A>(sk, known, lane, counters) }) else { return };
    round_trip.flags = filter::behind(u64::from(round_trip.flags)) as u32;
    // SAFETY: passed on.
    let sample = unsafe { describe::<A>(tp, slot, &round_trip) };
    match sample {
        Ok(Some(sample)) => {
            counters.begun += 1;
            match what.batch() {
                Some(batch) => batch::append(sample, batch, counters),
                None => batch::alone(sample, counters),
            }
        }
        Ok(None) => counters.rate_limited += 1,
        Err(_) => counters.read_failed += 1,
    }
}

/// What is told of a sample; nothing where enough was told of its flow.
///
/// # Safety
/// `tp` is a `tcp_sock`, and `slot` its slot.
#[inline(always)]
unsafe fn describe<A: Access>(
    tp: Pointer,
    slot: &mut Slot,
    round_trip: &RoundTrip,
) -> Result<Option<Sample>, Refused> {
    // SAFETY: passed on.
    unsafe {
        // When the segment under way arrived: a clock for nothing.
        let now_us = field::<A, u64>(tp, Field::TcpMstamp)?;
        if round_trip.flags & flag::MAYBE_DELAYED == 0 {
            slot.rtt.prompt_us = round_trip.rtt_us;
            slot.rtt.prompt_at_us = now_us;
        }
        if !slot.rtt.window.admits(now_us, u64::from(WINDOW_US), MOST) {
            return Ok(None);
        }
        Ok(Some(Sample {
            flow: slot.flow,
            rtt_us: round_trip.rtt_us,
            rtt_min_us: kernel::rtt_min::<A>(tp)?,
            srtt_us: field::<A, u32>(tp, Field::TcpSrtt)? >> 3,
            time_us: now_us as u32,
            flags: round_trip.flags,
            reserved: 0,
        }))
    }
}

/// `tcp_ack_update_rtt` returned: `true` where it gave the estimator a sample. That is the round trip
/// of the first segment that was acknowledged, else of the first one that was so selectively, else by
/// the timestamps, which only the rate sample has then.
#[inline(always)]
fn updated(ctx: &FExitContext, what: What, lane: Lane) {
    /// `FLAG_ACK_MAYBE_DELAYED` (net/ipv4/tcp_input.c), the same since 4.17: the ACK is for a lone
    /// segment that was not a full one, to which a receiver does not answer at once.
    const MAYBE_DELAYED: u32 = 0x10000;
    let sk: Pointer = ctx.arg(0);
    let Some(counters) = counters(lane) else { return };
    if sheds(Signal::Rtt, counters) {
        return;
    }
    let (by_sequence, selectively): (i64, i64) = (ctx.arg(2), ctx.arg(3));
    let rtt_us = if by_sequence >= 0 {
        by_sequence
    } else if selectively >= 0 {
        selectively
    } else {
        // SAFETY: the function's sixth argument is the rate sample.
        unsafe { field::<Typed, i64>(ctx.arg(5), Field::RateRtt) }.unwrap_or(0)
    };
    let flags = if ctx.arg::<u32>(1) & MAYBE_DELAYED != 0 { flag::MAYBE_DELAYED } else { 0 };
    let tp = Typed::tcp_sock(sk);
    if tp.is_null() {
        return;
    }
    let round_trip = RoundTrip { rtt_us: rtt_us.min(i64::from(u32::MAX)) as u32, flags };
    let known = slot::find::<Typed>(sk);
    // SAFETY: the function's first argument is a full TCP socket.
    unsafe {
        tell::<Typed>(sk, tp, known, round_trip, lane, counters, what);
    }
}

/// The return value is behind six arguments. A `bool`, of which only the lowest byte is defined.
#[inline(always)]
fn took_a_sample(ctx: &FExitContext) -> bool {
    ctx.arg::<u64>(6) & 0xff != 0
}

#[fexit]
fn rtt_fexit(ctx: FExitContext) -> i32 {
    if took_a_sample(&ctx) {
        nested::first(ACK, ctx.arg(0), || updated(&ctx, What::Ack, ACK));
    }
    0
}

#[fexit]
fn rtt_second_fexit(ctx: FExitContext) -> i32 {
    if took_a_sample(&ctx) {
        // SAFETY: the function's first argument is a full TCP socket, under its lock.
        unsafe {
            nested::second::<Typed>(ACK, SECOND, ctx.arg(0), ctx.arg(0), || {
                updated(&ctx, What::AckInside, SECOND);
            });
        }
    }
    0
}

/// What makes a program run.
#[derive(Clone, Copy)]
enum What {
    /// An ACK, or a segment on an established connection that was not looked at yet.
    Ack,
    /// The same, in a softirq that interrupts a task which works off what has come for its own socket.
    AckInside,
    /// The connection ceases to be established.
    Closing,
}

impl What {
    /// Where its samples gather: programs on one CPU share no batch, and only the first comes often.
    #[inline(always)]
    fn batch(self) -> Option<*mut Batch<Sample>> {
        if !matches!(self, Self::Ack) {
            return None;
        }
        // SAFETY: makes no reference.
        batch::of_this_cpu().map(|batches| unsafe { &raw mut (*batches).rtts })
    }
}

/// A look at a socket between two ACKs finds the sample of the one before.
///
/// # Safety
/// `sk` is a full TCP socket.
#[inline(always)]
unsafe fn look<A: Access>(sk: Pointer, what: What, lane: Lane) {
    let Some(counters) = counters(lane) else { return };
    let tp = A::tcp_sock(sk);
    if tp.is_null() {
        return;
    }
    let Some(slot) = slot::find::<A>(sk) else {
        if !matches!(what, What::Closing) {
            // SAFETY: passed on.
            unsafe { first_sight::<A>(sk, tp, lane, counters) };
        }
        return;
    };
    // SAFETY: just asked.
    let found = unsafe { estimator::look::<A>(tp, &mut slot.rtt) };
    let is_short = matches!(found, Ok(Found { is_short: true, .. }));
    match found.map(|found| found.since) {
        Ok(Since::Nothing) => {}
        // The look itself goes on, so that the next sample is found as the difference to this one.
        Ok(Since::Sample(_)) if sheds(Signal::Rtt, counters) => {}
        Ok(Since::Sample(rtt_us)) => {
            // SAFETY: passed on.
            unsafe {
                let flags = if is_short { flag::MAYBE_DELAYED } else { 0 };
                let round_trip = RoundTrip { rtt_us, flags };
                tell::<A>(sk, tp, Some(slot), round_trip, lane, counters, what);
            }
        }
        Ok(Since::Several) => {
            counters.seen += 1;
            counters.unmatched += 1;
        }
        Err(_) => {
            counters.seen += 1;
            counters.read_failed += 1;
        }
    }
}

/// A socket that is older than the programs, or that a filter leaves out: from the next look on there
/// are samples.
///
/// # Safety
/// `sk` is a full TCP socket, `tp` the same.
#[inline(always)]
unsafe fn first_sight<A: Access>(sk: Pointer, tp: Pointer, lane: Lane, counters: &mut Counters) {
    // SAFETY: passed on.
    match unsafe { filter::passes::<A>(sk, User::Unknown) } {
        Answer::Wanted => {}
        // Whether there was a sample cannot be told without a place to remember the last one.
        Answer::Unwanted => return,
        Answer::Unread => {
            counters.seen += 1;
            counters.read_failed += 1;
            return;
        }
    }
    let Some(slot) = slot::find_or_create::<A>(sk, lane) else {
        counters.seen += 1;
        counters.map_full += 1;
        return;
    };
    // SAFETY: passed on.
    if unsafe { estimator::look::<A>(tp, &mut slot.rtt) }.is_err() {
        counters.seen += 1;
        counters.read_failed += 1;
    }
}

/// A change of a socket's state, of any protocol: only TCP's have slots.
#[inline(always)]
fn state_changed<A: Access>(sk: Pointer, old: i32, lane: Lane) {
    if old == ESTABLISHED {
        // SAFETY: the tracepoint gives a full socket.
        unsafe { look::<A>(sk, What::Closing, lane) };
    }
}

#[btf_tracepoint(function = "tcp_probe")]
fn rtt_probe_tp_btf(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: the tracepoint gives a full TCP socket.
    nested::first(ACK, ctx.arg(1), || unsafe { look::<Typed>(ctx.arg(0), What::Ack, ACK) });
    0
}

#[btf_tracepoint(function = "tcp_probe")]
fn rtt_probe_second_tp_btf(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: the tracepoint gives a full TCP socket, under its lock.
    unsafe {
        nested::second::<Typed>(ACK, SECOND, ctx.arg(0), ctx.arg(1), || {
            look::<Typed>(ctx.arg(0), What::AckInside, SECOND);
        });
    }
    0
}

#[raw_tracepoint(tracepoint = "tcp_probe")]
fn rtt_probe_raw_tp(ctx: RawTracePointContext) -> i32 {
    // SAFETY: the tracepoint gives a full TCP socket.
    nested::first(ACK, ctx.arg(1), || unsafe { look::<Probed>(ctx.arg(0), What::Ack, ACK) });
    0
}

#[raw_tracepoint(tracepoint = "tcp_probe")]
fn rtt_probe_second_raw_tp(ctx: RawTracePointContext) -> i32 {
    // SAFETY: the tracepoint gives a full TCP socket, under its lock.
    unsafe {
        nested::second::<Probed>(ACK, SECOND, ctx.arg(0), ctx.arg(1), || {
            look::<Probed>(ctx.arg(0), What::AckInside, SECOND);
        });
    }
    0
}

#[btf_tracepoint(function = "inet_sock_set_state")]
fn rtt_closing_tp_btf(ctx: BtfTracePointContext) -> i32 {
    nested::private(CLOSING, |lane| state_changed::<Typed>(ctx.arg(0), ctx.arg(1), lane));
    0
}

#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
fn rtt_closing_raw_tp(ctx: RawTracePointContext) -> i32 {
    nested::private(CLOSING, |lane| state_changed::<Probed>(ctx.arg(0), ctx.arg(1), lane));
    0
}

/// Run by userspace on each CPU in turn (BPF_PROG_TEST_RUN), never attached: empties the batches.
#[raw_tracepoint(tracepoint = "netdiag_flush")]
fn rtt_flush(_ctx: RawTracePointContext) -> i32 {
    let (Some(counters), Some(batches)) = (counters(FLUSH), batch::of_this_cpu()) else { return 0 };
    // SAFETY: this CPU's batch.
    unsafe { batch::empty(&raw mut (*batches).rtts, counters) };
    0
}
