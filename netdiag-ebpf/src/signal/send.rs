//! Programs of the signal `send`: tcp_sendmsg and tcp_sendpage, entry to return.
//!
//! A call is paired by thread and socket. Its beginning lies in the socket's slot, tagged with the
//! thread; when another thread holds the slot, or slots are in the hash, it lies in a hash by both.

use core::sync::atomic::{Ordering, compiler_fence};

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    btf_maps::HashMap,
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns},
    macros::{btf_map, btf_tracepoint, fentry, fexit, kprobe, raw_tracepoint, tracepoint},
    programs::{
        BtfTracePointContext, FEntryContext, FExitContext, ProbeContext, RawTracePointContext,
        TracePointContext,
    },
};
use netdiag_common::{
    counters::Counters,
    header::Header,
    signal::{
        Signal,
        send::{BATCH, Batch, Sample},
    },
};

use crate::{
    account::{Lane, ThisCpu, counters},
    assembly, filter,
    kernel::{self, Access, Pointer, Probed, Typed},
    ring,
    signal::socket::{self, Context},
    slot::{self, ANNOUNCED, Slot},
};

const BEGIN: Lane = Lane::new(Signal::Send, 0);
const END: Lane = Lane::new(Signal::Send, 1);
const SENDPAGE_BEGIN: Lane = Lane::new(Signal::Send, 2);
const SENDPAGE_END: Lane = Lane::new(Signal::Send, 3);
const FLUSH: Lane = Lane::new(Signal::Send, 4);

/// A call under way.
#[repr(C)]
#[derive(Clone, Copy)]
struct Call {
    sk: u64,
    /// `bpf_get_current_pid_tgid`: unique to a thread, never 0.
    thread: u64,
}

/// Beginnings that have no slot to lie in. Userspace sets the size.
#[btf_map]
static STARTS: HashMap<Call, u64, 1> = HashMap::new();

/// How a beginning that finds another one of the same call is to be read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Again {
    /// The end of the earlier call was missed.
    Lost,
    /// The hook fires more than once per call: the first time counts.
    SameCall,
}

/// Where beginnings may lie.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In the slot if it is free. Needs compare-and-exchange: 5.12 and later, typed programs.
    Slot,
    /// In [`STARTS`].
    Hash,
}

/// A call begins.
#[inline(always)]
fn begin<A: Access>(sk: Pointer, place: Place, again: Again, lane: Lane) {
    let Some(counters) = counters(lane) else { return };
    let thread = bpf_get_current_pid_tgid();
    let pid = (thread >> 32) as u32;
    if filter::active() {
        // SAFETY: the hook's argument is a TCP socket.
        match unsafe { filter::passes::<A>(sk, pid) } {
            Ok(true) => {}
            Ok(false) if again == Again::Lost => {
                counters.seen += 1;
                counters.filtered += 1;
                return;
            }
            // Counted at the end of the call, of which there is one only.
            Ok(false) => return,
            Err(_) => {
                counters.seen += 1;
                counters.read_failed += 1;
                return;
            }
        }
    }
    let Some(slot) = slot::find_or_create::<A>(sk, lane) else {
        counters.seen += 1;
        counters.map_full += 1;
        return;
    };
    if again == Again::SameCall && is_under_way(sk, slot, place, thread) {
        return;
    }
    // SAFETY: no precondition.
    let mut start_ns = unsafe { bpf_ktime_get_ns() };
    if slot.owner != pid || slot.flags & ANNOUNCED == 0 || socket::is_due(slot, start_ns) {
        // SAFETY: as above.
        unsafe { introduce::<A>(sk, slot, pid, lane) };
        // The report is not charged to the call.
        // SAFETY: no precondition.
        start_ns = unsafe { bpf_ktime_get_ns() };
    }
    counters.seen += 1;
    remember(sk, slot, place, thread, start_ns, counters);
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
    let before = core::mem::replace(&mut slot.owner, pid);
    // SAFETY: passed on.
    if !unsafe { socket::report::<A>(sk, slot, what, Context::Owner, lane) } {
        slot.owner = before; // said again at the next call
    }
}

#[inline(always)]
fn is_under_way(sk: Pointer, slot: &Slot, place: Place, thread: u64) -> bool {
    if place == Place::Slot && slot.sender == thread {
        return true;
    }
    let call = Call { sk: sk as u64, thread };
    // SAFETY: only this thread writes and removes its own entry.
    unsafe { STARTS.get(&call) }.is_some()
}

/// Puts the beginning of this thread's call where its end finds it.
#[inline(always)]
fn remember(
    sk: Pointer,
    slot: &mut Slot,
    place: Place,
    thread: u64,
    start_ns: u64,
    counters: &mut Counters,
) {
    if place == Place::Slot {
        // SAFETY: a word of the slot, which outlives the program.
        let held = unsafe { assembly::compare_exchange(&raw mut slot.sender, 0, thread) };
        if held == 0 || held == thread {
            if held == thread {
                counters.unmatched += 1;
                counters.ended += 1;
            }
            counters.begun += 1;
            slot.send_start_ns = start_ns;
            return;
        }
    }
    let call = Call { sk: sk as u64, thread };
    if STARTS.insert(&call, &start_ns, u64::from(BPF_NOEXIST)).is_ok() {
        counters.begun += 1;
    } else if STARTS.get_ptr(&call).is_some() {
        counters.unmatched += 1;
        if STARTS.insert(&call, &start_ns, u64::from(BPF_ANY)).is_err() {
            counters.map_full += 1;
            counters.ended += 1;
        }
    } else {
        counters.map_full += 1;
    }
}

/// A call returned.
#[inline(always)]
fn end<A: Access>(sk: Pointer, result: i32, place: Place, again: Again, lane: Lane) {
    // SAFETY: no precondition.
    let end_ns = unsafe { bpf_ktime_get_ns() };
    let Some(this_cpu) = ThisCpu::get() else { return };
    let counters = this_cpu.counters(lane);
    let thread = bpf_get_current_pid_tgid();
    let slot = slot::find::<A>(sk);
    let (flow, start_ns) = match slot {
        Some(slot) => (slot.flow, recall(sk, slot, place, thread)),
        None => (0, None),
    };
    let Some(start_ns) = start_ns else {
        unmatched::<A>(sk, (thread >> 32) as u32, again, counters);
        return;
    };
    let sample =
        Sample { flow, latency_ns: end_ns.wrapping_sub(start_ns), result: i64::from(result) };
    append(sample, this_cpu.sends(), counters);
}

/// Takes the beginning of this thread's call out again.
#[inline(always)]
fn recall(sk: Pointer, slot: &mut Slot, place: Place, thread: u64) -> Option<u64> {
    if place == Place::Slot && slot.sender == thread {
        let start_ns = slot.send_start_ns;
        // An exchange, not a store: on weakly ordered machines the next holder's start must not
        // be visible before ours was read.
        // SAFETY: as in `remember`.
        let _us = unsafe { assembly::exchange(&raw mut slot.sender, 0) };
        return Some(start_ns);
    }
    let call = Call { sk: sk as u64, thread };
    // SAFETY: only this thread writes and removes its own entry.
    let start_ns = *unsafe { STARTS.get(&call) }?;
    let _cannot_be_absent = STARTS.remove(&call);
    Some(start_ns)
}

/// An end without a beginning: filtered then, or begun before the attach, or out of the sight of
/// the beginning's hook.
#[inline(always)]
fn unmatched<A: Access>(sk: Pointer, pid: u32, again: Again, counters: &mut Counters) {
    if filter::active() {
        // SAFETY: the hook's argument is a TCP socket.
        match unsafe { filter::passes::<A>(sk, pid) } {
            Ok(true) => {}
            Ok(false) => {
                if again == Again::SameCall {
                    counters.seen += 1;
                    counters.filtered += 1;
                }
                return;
            }
            Err(_) => {
                counters.seen += 1;
                counters.read_failed += 1;
                return;
            }
        }
    }
    counters.seen += 1;
    counters.unmatched += 1;
}

/// Puts a sample into this CPU's batch, and a full batch into the ring.
///
/// Where a task can be preempted inside a program, a second program may find the batch busy; it
/// then sends its sample alone.
#[inline(always)]
fn append(sample: Sample, batch: *mut Batch, counters: &mut Counters) {
    // SAFETY: the element of this CPU lives as long as the map; `busy` keeps others of this CPU
    // out, and other CPUs have their own. Volatile: an interrupt may run `flush` at any point.
    unsafe {
        if core::ptr::read_volatile(&raw const (*batch).busy) != 0 {
            alone(sample, counters);
            return;
        }
        core::ptr::write_volatile(&raw mut (*batch).busy, 1);
        compiler_fence(Ordering::SeqCst);
        let len = core::ptr::read_volatile(&raw const (*batch).len) as usize;
        if len < BATCH {
            let to = (&raw mut (*batch).record.samples).cast::<Sample>().add(len);
            to.write(sample);
            core::ptr::write_volatile(&raw mut (*batch).len, len as u32 + 1);
        }
        if len + 1 >= BATCH {
            flush(batch, counters);
        }
        compiler_fence(Ordering::SeqCst);
        core::ptr::write_volatile(&raw mut (*batch).busy, 0);
    }
}

/// A record with one sample.
#[inline(always)]
fn alone(sample: Sample, counters: &mut Counters) {
    #[repr(C)]
    struct Single {
        header: Header,
        sample: Sample,
    }
    let single = Single { header: socket::header(Signal::Send, 1), sample };
    counters.ended += 1;
    // SAFETY: initialised above, without padding.
    unsafe {
        ring::submit_batch((&raw const single).cast(), size_of::<Single>() as u64, 1, counters);
    }
}

/// Submits what a batch holds.
///
/// # Safety
/// The caller holds `busy` of this CPU's batch.
#[inline(always)]
unsafe fn flush(batch: *mut Batch, counters: &mut Counters) {
    // SAFETY: see above.
    unsafe {
        let len = core::ptr::read_volatile(&raw const (*batch).len);
        if len == 0 || len > BATCH as u32 {
            return;
        }
        let samples = u64::from(len);
        (*batch).record.header = socket::header(Signal::Send, len);
        let bytes = size_of::<Header>() as u64 + samples * size_of::<Sample>() as u64;
        counters.ended += samples;
        ring::submit_batch((&raw const (*batch).record).cast(), bytes, samples, counters);
        core::ptr::write_volatile(&raw mut (*batch).len, 0);
    }
}

/// Run by userspace on each CPU in turn (BPF_PROG_TEST_RUN), never attached: empties the batch.
#[raw_tracepoint(tracepoint = "netdiag_flush")]
fn send_flush(_ctx: RawTracePointContext) -> i32 {
    let Some(this_cpu) = ThisCpu::get() else { return 0 };
    let (batch, counters) = (this_cpu.sends(), this_cpu.counters(FLUSH));
    // SAFETY: as in `append`; this program arrives by an interrupt and must not wait.
    unsafe {
        if core::ptr::read_volatile(&raw const (*batch).busy) != 0 {
            return 1;
        }
        core::ptr::write_volatile(&raw mut (*batch).busy, 1);
        compiler_fence(Ordering::SeqCst);
        flush(batch, counters);
        compiler_fence(Ordering::SeqCst);
        core::ptr::write_volatile(&raw mut (*batch).busy, 0);
    }
    0
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
            end::<Typed>(ctx.arg(0), ctx.arg($result), $place, Again::Lost, $end);
            0
        }
    };
}

trampolines!(send_fentry send_fexit Place::Slot, 3, BEGIN, END);
trampolines!(send_fentry_hash send_fexit_hash Place::Hash, 3, BEGIN, END);
trampolines!(
    sendpage_fentry sendpage_fexit Place::Slot, 5, SENDPAGE_BEGIN, SENDPAGE_END
);
trampolines!(
    sendpage_fentry_hash sendpage_fexit_hash Place::Hash, 5, SENDPAGE_BEGIN, SENDPAGE_END
);

macro_rules! tracepoints {
    ($begin:ident $end:ident $place:expr) => {
        #[btf_tracepoint(function = "tcp_sendmsg_locked")]
        fn $begin(ctx: BtfTracePointContext) -> i32 {
            begin::<Typed>(ctx.arg(0), $place, Again::SameCall, BEGIN);
            0
        }

        #[btf_tracepoint(function = "sock_send_length")]
        fn $end(ctx: BtfTracePointContext) -> i32 {
            let sk: Pointer = ctx.arg(0);
            // SAFETY: the tracepoint gives a full socket, of any family.
            if unsafe { kernel::is_tcp::<Typed>(sk) } == Ok(true) {
                end::<Typed>(sk, ctx.arg(1), $place, Again::SameCall, END);
            }
            0
        }
    };
}

tracepoints!(send_begin_tp_btf send_end_tp_btf Place::Slot);
tracepoints!(send_begin_tp_btf_hash send_end_tp_btf_hash Place::Hash);

#[kprobe]
fn send_kprobe(ctx: ProbeContext) -> u32 {
    if let Some(sk) = ctx.arg::<Pointer>(0) {
        begin::<Probed>(sk, Place::Hash, Again::Lost, BEGIN);
    }
    0
}

#[tracepoint]
fn send_end_tracepoint(ctx: TracePointContext) -> u32 {
    if let Some((sk, result)) = kernel::tcp_send_length(&ctx) {
        end::<Probed>(sk, result, Place::Hash, Again::Lost, END);
    }
    0
}
