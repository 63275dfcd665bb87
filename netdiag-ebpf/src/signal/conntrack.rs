//! Programs of the signal `conntrack`.

mod packets;

use aya_ebpf::{
    EbpfContext as _,
    btf_maps::{LruHashMap, PerCpuArray},
    macros::{btf_map, kprobe, kretprobe, raw_tracepoint},
    programs::{ProbeContext, RawTracePointContext, RetProbeContext},
};
use netdiag_common::{
    signal::{
        Signal,
        conntrack::{Record, SAMPLES, Tuple, what},
    },
    table::Table,
};

use crate::{
    account::{Lane, counters},
    filter,
    kernel::{Pointer, Refused},
    table::{self, Counted, Counting},
    task,
    tracked::{self, Link},
};

/// Of all kprobes: a CPU runs one of them at a time (`bpf_prog_active`).
const PROBE: Lane = Lane::new(Signal::Conntrack, 0);
const FLUSH: Lane = Lane::new(Signal::Conntrack, 1);

#[btf_map]
static CONNTRACK: PerCpuArray<Table<Record>, 1> = PerCpuArray::new();

impl Counted for Record {
    const SIGNAL: Signal = Signal::Conntrack;
    const SAMPLES: u32 = SAMPLES;
    const SUMS: core::ops::Range<usize> = 0..0;
    const LEVELS: usize = 2;

    #[inline(always)]
    fn table() -> Option<*mut Table<Self>> {
        CONNTRACK.get_ptr_mut(0)
    }

    #[inline(always)]
    fn add(&mut self, _more: &Self) {}

    /// First who makes connections to where, then that they are made.
    #[inline(always)]
    fn coarsen(&mut self, level: usize) {
        self.reply = Tuple::default();
        if level == 0 {
            self.original.source = [0; 16];
            self.original.source_port = 0;
        } else {
            self.original = Tuple::default();
            (self.pid, self.comm, self.protocol) = (0, [0; 16], 0);
        }
    }

    /// Failures are not displaced by what goes well.
    #[inline(always)]
    fn most_handed(&self) -> u64 {
        const WELL: [u32; 3] = [what::NEW, what::CONFIRMED, what::DESTROYED];
        let goes_well = self.what == WELL[0] || self.what == WELL[1] || self.what == WELL[2];
        if goes_well { 256 } else { 512 }
    }
}

/// A call that has not returned.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Call {
    record: Record,
    /// The packet, where the call is about one.
    skb: u64,
    /// Its entry.
    entry: u64,
    /// 1 where nothing comes of it.
    void: u64,
}

/// By frame.
#[btf_map]
static CALLS: LruHashMap<u64, Call, 4096> = LruHashMap::new();

/// Whether the filters let an entry pass: by either end of it, and by the process that made it.
#[inline(always)]
fn wanted(record: &Record) -> bool {
    if !filter::active() {
        return true;
    }
    // Who made it is the current process, or unknown.
    if filter::by_owner() && (record.pid == 0 || !filter::is_current_wanted()) {
        return false;
    }
    accepts(record, &record.original) || accepts(record, &record.reply)
}

/// Whether the end that a tuple's packets come from passes.
#[inline(always)]
fn accepts(record: &Record, tuple: &Tuple) -> bool {
    let Tuple { source_port, destination_port, ref destination, .. } = *tuple;
    filter::accepts_end(source_port, destination_port, destination, record.netns)
}

/// A function was called.
#[inline(always)]
fn begins(ctx: &ProbeContext, fill: impl FnOnce(&mut Call, u64) -> Result<(), Refused>) {
    let (Some(counters), Ok(frame)) = (counters(PROBE), task::frame_that_begins(ctx.as_ptr()))
    else {
        return;
    };
    // SAFETY: an entry of the map; nobody else has this frame.
    if CALLS.get_ptr(&frame).is_some_and(|call| unsafe { (*call).void } == 0) {
        // Its return was not seen: the kernel has room for a limited number of kretprobes under way.
        counters.ended += 1;
        counters.map_full += 1;
    }
    let mut call = Call::default();
    let filled = fill(&mut call, frame);
    if call.void == 0 {
        counters.seen += 1;
        counters.begun += 1;
        if filled.is_err() {
            counters.ended += 1;
            counters.read_failed += 1;
            call.void = 1;
        }
    }
    if CALLS.insert(&frame, &call, 0).is_err() && call.void == 0 {
        counters.ended += 1;
        counters.map_full += 1;
    }
}

/// It returns. `end` gets the call, and says what came of it.
#[inline(always)]
fn ends(ctx: &RetProbeContext, end: impl FnOnce(&Call) -> Result<u32, Refused>) {
    table::with(PROBE, |mut counting: Counting<Record>, record| {
        let Ok(frame) = task::frame_that_ends(ctx.as_ptr()) else { return };
        let Some(call) = CALLS.get_ptr(&frame) else {
            // Under way when the programs were attached.
            counting.counters().seen += 1;
            counting.counters().unmatched += 1;
            return;
        };
        // SAFETY: an entry of the map; nobody else has this frame.
        let call = unsafe { &*call };
        let is_void = call.void != 0;
        let outcome = end(call);
        *record = call.record;
        let _was_there = CALLS.remove(&frame);
        if is_void {
            return;
        }
        let Ok(what) = outcome else {
            counting.end(record, Err(Refused::Fault));
            return;
        };
        record.what = what;
        let wanted = wanted(record);
        counting.end(record, Ok(wanted));
    });
}

/// `__nf_conntrack_alloc(net, zone, orig, repl, gfp, hash)`.
#[kprobe]
fn conntrack_alloc_kprobe(ctx: ProbeContext) -> u32 {
    begins(&ctx, |call, frame| {
        let argument = |n| ctx.arg::<Pointer>(n).ok_or(Refused::Fault);
        // SAFETY: the function's arguments.
        unsafe {
            call.record.netns = tracked::netns(argument(0)?)?;
            call.record.zone = tracked::zone(argument(1)?)?;
            tracked::conversation(argument(2)?, argument(3)?, &mut call.record)?;
        }
        task::caller(frame, &mut call.record.pid, &mut call.record.comm)
    });
    0
}

/// It returns an entry or an error as a pointer (include/linux/err.h).
#[kretprobe]
fn conntrack_alloc_kretprobe(ctx: RetProbeContext) -> u32 {
    const ERRORS_FROM: u64 = -4095_i64 as u64;
    let made: u64 = ctx.ret();
    let what = if made >= ERRORS_FROM { what::TABLE_FULL } else { what::NEW };
    ends(&ctx, |_| Ok(what));
    0
}

/// `__nf_conntrack_confirm(skb)`.
#[kprobe]
fn conntrack_confirm_kprobe(ctx: ProbeContext) -> u32 {
    begins(&ctx, |call, frame| {
        let skb: Pointer = ctx.arg(0).ok_or(Refused::Fault)?;
        // SAFETY: the function's argument, and the entry that it carries.
        unsafe {
            let link = Link::of(skb)?;
            // An answer confirms nothing.
            call.void = u64::from(!link.is_original());
            call.skb = skb as u64;
            call.entry = link.entry() as u64;
            tracked::describe(link.entry(), &mut call.record)?;
        }
        task::caller(frame, &mut call.record.pid, &mut call.record.comm)
    });
    0
}

/// It returns a verdict (include/uapi/linux/netfilter.h).
#[kretprobe]
fn conntrack_confirm_kretprobe(ctx: RetProbeContext) -> u32 {
    const DROP: u32 = 0;
    let verdict: u32 = ctx.ret();
    ends(&ctx, |call| {
        if verdict == DROP {
            return Ok(what::INSERT_FAILED);
        }
        let entry = call.entry as Pointer;
        // SAFETY: the packet is the caller's, and holds its entry.
        let clashed = unsafe {
            Link::of(call.skb as Pointer)?.entry() != entry || tracked::is_clashing(entry)?
        };
        Ok(if clashed { what::CLASH } else { what::CONFIRMED })
    });
    0
}

/// The frame of the call of `early_drop` that is under way on a stack. One stack holds one at most: what
/// interrupts it has another, and where its task is moved to another CPU, its stack goes with it.
#[btf_map]
static EVICTING: LruHashMap<u64, u64, 1024> = LruHashMap::new();

/// What lies no deeper on a stack than this was called by what is above.
const DEEP: u64 = 4096;

#[inline(always)]
const fn stack_of(frame: u64) -> u64 {
    frame / task::STACK_BYTES
}

/// Whether what has this frame was called by `early_drop`.
#[inline(always)]
fn is_evicting(frame: u64) -> bool {
    let called_by = |stack: u64| {
        // SAFETY: an entry of the map; whatever it says is compared.
        EVICTING.get_ptr(&stack).is_some_and(|above| unsafe { *above }.wrapping_sub(frame) < DEEP)
    };
    // Those of interrupts begin at any page, and so may seem to be two.
    called_by(stack_of(frame)) || called_by(stack_of(frame.wrapping_add(DEEP)))
}

/// `early_drop(net, hash)`: frees entries before it returns.
#[kprobe]
fn conntrack_early_drop_kprobe(ctx: ProbeContext) -> u32 {
    if let Ok(frame) = task::frame_that_begins(ctx.as_ptr()) {
        // In place of one whose return was not seen.
        let _no_room = EVICTING.insert(&stack_of(frame), &frame, 0);
    }
    0
}

/// It returns.
#[kretprobe]
fn conntrack_early_drop_kretprobe(ctx: RetProbeContext) -> u32 {
    if let Ok(frame) = task::frame_that_ends(ctx.as_ptr()) {
        let _was_there = EVICTING.remove(&stack_of(frame));
    }
    0
}

/// `nf_conntrack_free(ct)`. One that was never in the table has had its end before.
#[kprobe]
fn conntrack_free_kprobe(ctx: ProbeContext) -> u32 {
    let Some(entry) = ctx.arg::<Pointer>(0) else { return 0 };
    // SAFETY: the function's argument.
    match unsafe { tracked::is_confirmed(entry) } {
        Ok(true) => {}
        Ok(false) => return 0,
        Err(_) => {
            if let Some(counters) = counters(PROBE) {
                counters.seen += 1;
                counters.read_failed += 1;
            }
            return 0;
        }
    }
    freed(entry, what::DESTROYED);
    if task::frame_that_begins(ctx.as_ptr()).is_ok_and(is_evicting) {
        freed(entry, what::EARLY_DROP);
    }
    0
}

#[inline(always)]
fn freed(entry: Pointer, what: u32) {
    table::with(PROBE, |counting: Counting<Record>, record| {
        record.what = what;
        // SAFETY: `nf_conntrack_free` gets an entry.
        let described = unsafe { tracked::describe(entry, record) };
        let wanted = described.map(|()| wanted(record));
        counting.count(record, wanted);
    });
}

/// Run by userspace on each CPU in turn (BPF_PROG_TEST_RUN), never attached: empties the table.
#[raw_tracepoint(tracepoint = "netdiag_flush")]
fn conntrack_flush(_ctx: RawTracePointContext) -> i32 {
    table::flush::<Record>(FLUSH);
    0
}
