//! Programs of the signal `send`: tcp_sendmsg and tcp_sendpage, entry to return.
//!
//! A call is paired by thread and socket. Its beginning lies in a seat of the thread ([`seat`]); where another call has
//! that, or the kernel has no compare-and-exchange, it lies in a hash by both.

mod seat;
mod start;

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns},
    macros::{fentry, fexit, kprobe, raw_tracepoint, tracepoint},
    programs::{
        FEntryContext, FExitContext, ProbeContext, RawTracePointContext, TracePointContext,
    },
};
use netdiag_common::{
    counters::Counters,
    signal::{
        Signal,
        send::{Sample, lane},
    },
};

pub(crate) use self::start::renumber;
use self::start::{Call, Place, Start, forget_earlier, is_under_way, recall, remember};
use crate::{
    account::{Lane, counters, sheds},
    batch,
    calls::Seen,
    filter::{self, Answer, User},
    globals,
    kernel::{self, Access, Pointer, Probed, Typed},
    signal::socket::{self, Context},
    slot::{self, ANNOUNCED, Slot},
};

const BEGIN: Lane = Lane::new(Signal::Send, lane::BEGIN);
const END: Lane = Lane::new(Signal::Send, lane::END);
const SENDPAGE_BEGIN: Lane = Lane::new(Signal::Send, lane::SENDPAGE_BEGIN);
const SENDPAGE_END: Lane = Lane::new(Signal::Send, lane::SENDPAGE_END);
const FLUSH: Lane = Lane::new(Signal::Send, lane::FLUSH);

impl batch::Sample for Sample {
    const SIGNAL: Signal = Signal::Send;
}

/// How a beginning that finds another one of the same call is to be read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Again {
    /// The end of the earlier call was missed.
    Lost,
    /// The hook fires more than once per call: the first time counts.
    SameCall,
}

/// Which function returns.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Function {
    Sendmsg,
    Sendpage,
}

/// A call of the current thread begins.
#[inline(always)]
fn begin<A: Access>(sk: Pointer, place: Place, again: Again, lane: Lane) {
    let _seen = begin_of::<A>(sk, bpf_get_current_pid_tgid(), place, again, lane);
}

/// The same of who knows the thread. Returns what was found out by the way.
#[inline(always)]
fn begin_of<A: Access>(sk: Pointer, thread: u64, place: Place, again: Again, lane: Lane) -> Seen {
    let Some(counters) = counters(lane) else { return Seen::NOTHING };
    let call = Call::of(sk, thread);
    if filter::active() {
        // SAFETY: the hook's argument is a TCP socket.
        let answer = unsafe { filter::passes::<A>(sk, User::Current) };
        if answer != Answer::Wanted {
            forget_earlier(&call, place, counters);
        }
        match answer {
            Answer::Wanted => {}
            Answer::Unwanted if again == Again::Lost => {
                counters.seen += 1;
                counters.filtered += 1;
                return Seen::NOTHING;
            }
            // Counted at the end of the call, of which there is one only.
            Answer::Unwanted => return Seen::NOTHING,
            Answer::Unread => {
                counters.seen += 1;
                counters.read_failed += 1;
                return Seen::NOTHING;
            }
        }
    }
    if globals::sheds(Signal::Send) {
        // Counted at its end. Where the hook fires more than once, the call may have begun before.
        if again == Again::Lost {
            forget_earlier(&call, place, counters);
        }
        return Seen::NOTHING;
    }
    let Some(slot) = slot::find_or_create::<A>(sk, lane) else {
        counters.seen += 1;
        counters.map_full += 1;
        return Seen::NOTHING;
    };
    if again == Again::SameCall && is_under_way(&call, slot.flow, place) {
        return Seen { slot: Some(slot), now_ns: 0 };
    }
    let mut start_ns = now_ns();
    if slot.owner != call.process() || socket::is_due(slot, start_ns) {
        // SAFETY: a TCP socket, and its slot.
        unsafe { introduce::<A>(sk, slot, call.process(), lane) };
        // The report is not charged to the call.
        start_ns = now_ns();
    }
    remember(&call, place, Start { flow: slot.flow, start_ns }, counters);
    Seen { slot: Some(slot), now_ns: start_ns }
}

/// Tells userspace of a socket that is new to it, has another owner, or is due for a report.
///
/// # Safety
/// `sk` is a full TCP socket and `slot` its slot.
#[inline(always)]
unsafe fn introduce<A: Access>(sk: Pointer, slot: &mut Slot, pid: u32, lane: Lane) {
    use netdiag_common::signal::socket::what;

    let what = if slot.flags & ANNOUNCED == 0 {
        socket::introduction(slot)
    } else if slot.owner != pid {
        what::OWNER
    } else {
        what::COUNTERS
    };
    let before = (slot.owner, slot.flags);
    slot.used_by(pid, true);
    // SAFETY: passed on.
    if !unsafe { socket::report::<A>(sk, slot, what, Context::Owner, lane) } {
        (slot.owner, slot.flags) = before; // said again at the next call
    }
}

/// The time by which calls are measured.
#[inline(always)]
fn now_ns() -> u64 {
    // SAFETY: no precondition.
    unsafe { bpf_ktime_get_ns() }
}

/// A call returned.
#[inline(always)]
fn end<A: Access>(
    sk: Pointer,
    result: i32,
    end_ns: u64,
    place: Place,
    again: Again,
    function: Function,
) {
    let lane = match function {
        Function::Sendmsg => END,
        Function::Sendpage => SENDPAGE_END,
    };
    let Some(Start { flow, start_ns }) = recall(&Call::on(sk), place) else {
        if let Some(counters) = counters(lane) {
            unmatched::<A>(sk, again, counters);
        }
        return;
    };
    let latency_ns = end_ns.wrapping_sub(start_ns);
    let sample = || Sample { flow, latency_ns, result: i64::from(result) };
    let Some(batches) = batch::of_this_cpu() else { return };
    // SAFETY: just got; makes no reference.
    let batch = unsafe {
        match function {
            Function::Sendmsg => &raw mut (*batches).sends,
            Function::Sendpage => &raw mut (*batches).pages,
        }
    };
    batch::append_by(sample, batch, || counters(lane));
}

/// An end without a beginning: filtered or shed then, or begun before the attach, or out of the sight of
/// the beginning's hook.
#[inline(always)]
fn unmatched<A: Access>(sk: Pointer, again: Again, counters: &mut Counters) {
    if filter::active() {
        // SAFETY: the hook's argument is a TCP socket.
        match unsafe { filter::passes::<A>(sk, User::Current) } {
            Answer::Wanted => {}
            Answer::Unwanted => {
                if again == Again::SameCall {
                    counters.seen += 1;
                    counters.filtered += 1;
                }
                return;
            }
            Answer::Unread => {
                counters.seen += 1;
                counters.read_failed += 1;
                return;
            }
        }
    }
    if sheds(Signal::Send, counters) {
        return;
    }
    counters.seen += 1;
    counters.unmatched += 1;
}

/// The trampoline programs of one function; `$result` is the index behind its last argument.
macro_rules! trampolines {
    ($entry:ident $exit:ident $place:expr, $result:literal, $begin:expr, $end:expr) => {
        #[fentry]
        fn $entry(ctx: FEntryContext) -> i32 {
            begin::<Typed>(ctx.arg(0), $place, Again::Lost, $begin);
            0
        }

        #[fexit]
        fn $exit(ctx: FExitContext) -> i32 {
            end::<Typed>(ctx.arg(0), ctx.arg($result), now_ns(), $place, Again::Lost, $end);
            0
        }
    };
}

trampolines!(send_fentry send_fexit Place::Seat, 3, BEGIN, Function::Sendmsg);
trampolines!(send_fentry_plain send_fexit_plain Place::Hash, 3, BEGIN, Function::Sendmsg);
trampolines!(
    sendpage_fentry sendpage_fexit Place::Seat, 5, SENDPAGE_BEGIN, Function::Sendpage
);
trampolines!(
    sendpage_fentry_plain sendpage_fexit_plain Place::Hash, 5, SENDPAGE_BEGIN, Function::Sendpage
);

/// A call begins, or goes on, of a thread that holds the socket: `tcp_sendmsg_locked` by its tracepoint.
#[inline(always)]
pub(crate) fn begins_locked(sk: Pointer, thread: u64) -> Seen {
    begin_of::<Typed>(sk, thread, Place::Seat, Again::SameCall, BEGIN)
}

/// It returned, by the tracepoint `sock_send_length`.
#[inline(always)]
pub(crate) fn ends_locked(sk: Pointer, result: i32, end_ns: u64) {
    end::<Typed>(sk, result, end_ns, Place::Seat, Again::SameCall, Function::Sendmsg);
}

// The end's tracepoint is of 6.3, so these have compare-and-exchange.

#[kprobe]
fn send_kprobe(ctx: ProbeContext) -> u32 {
    if let Some(sk) = ctx.arg::<Pointer>(0) {
        begin::<Probed>(sk, Place::Seat, Again::Lost, BEGIN);
    }
    0
}

/// The end for a beginning whose hook fires `$again`.
macro_rules! classic {
    ($end:ident $again:expr) => {
        #[tracepoint]
        fn $end(ctx: TracePointContext) -> u32 {
            if let Some((sk, result)) = kernel::tcp_send_length(&ctx) {
                end::<Probed>(sk, result, now_ns(), Place::Seat, $again, Function::Sendmsg);
            }
            0
        }
    };
}

classic!(send_end_tracepoint Again::Lost);
classic!(send_locked_end_tracepoint Again::SameCall);

/// Run by userspace on each CPU in turn (BPF_PROG_TEST_RUN), never attached: empties the batches.
#[raw_tracepoint(tracepoint = "netdiag_flush")]
fn send_flush(_ctx: RawTracePointContext) -> i32 {
    let (Some(counters), Some(batches)) = (counters(FLUSH), batch::of_this_cpu()) else { return 0 };
    // SAFETY: this CPU's batches.
    unsafe {
        batch::empty(&raw mut (*batches).sends, counters);
        batch::empty(&raw mut (*batches).pages, counters);
    }
    0
}
