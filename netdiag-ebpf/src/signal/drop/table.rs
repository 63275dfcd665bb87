//! Drops on their way to the ring: counted together on each CPU by conversation, reason and place.

use core::sync::atomic::{Ordering, compiler_fence};

use aya_ebpf::{
    btf_maps::PerCpuArray,
    macros::{btf_map, raw_tracepoint},
    programs::RawTracePointContext,
};
use netdiag_common::{
    counters::Counters,
    flow::FlowKey,
    header::Header,
    signal::{
        Signal,
        drop::{COARSE, ENTRIES, Record, SAMPLES, Table, ends},
    },
    stack,
};

use crate::{
    account::{Lane, counters},
    assembly::opaque,
    globals::settings,
    kernel::Refused,
    nested, ring,
    signal::socket,
};

#[btf_map]
static DROPS: PerCpuArray<Table, 1> = PerCpuArray::new();

const SEEN: Lane = Lane::new(Signal::Drop, 0);
const FLUSH: Lane = Lane::new(Signal::Drop, 1);

/// Time in which at most [`HANDED_MOST`] records leave a CPU to make room for other conversations;
/// what comes beyond is counted by reason and place alone.
const WINDOW_NS: u64 = 100_000_000;
const HANDED_MOST: u64 = 256;

/// This CPU's table, and who counts in it.
pub(super) struct Counting {
    table: *mut Table,
    counters: &'static mut Counters,
}

/// Runs `body` with this CPU's table and an empty record.
#[inline(always)]
pub(super) fn with(body: impl FnOnce(Counting, &mut Record)) {
    nested::private(SEEN, |lane| {
        let (Some(table), Some(counters)) = (DROPS.get_ptr_mut(0), counters(lane)) else { return };
        let table = opaque(table);
        // SAFETY: the element of this CPU lives as long as the map, and a lane's record has one user.
        // Not on the stack, which has no room for it.
        unsafe {
            let drop = &raw mut (*table).under_way[lane.is_twin()];
            *drop = Record::default();
            body(Counting { table, counters }, &mut *drop);
        }
    });
}

impl Counting {
    /// Accounts for a drop, and counts it when it is wanted. Whoever finds the table taken, by a run
    /// that it interrupts, sends its record alone.
    #[inline(always)]
    pub(super) fn count(self, drop: &mut Record, wanted: Result<bool, Refused>) {
        self.counters.seen += 1;
        match wanted {
            // SAFETY: this CPU's table.
            Ok(true) => unsafe { put(self.table, drop, self.counters) },
            Ok(false) => self.counters.filtered += 1,
            Err(_) => self.counters.read_failed += 1,
        }
    }
}

/// Adds a drop to the table.
///
/// # Safety
/// `table` is this CPU's.
#[inline(always)]
unsafe fn put(table: *mut Table, drop: &mut Record, counters: &mut Counters) {
    drop.header = socket::header(Signal::Drop, 1);
    counters.begun += 1;
    // SAFETY: `busy` keeps the others of this CPU out; the positions are masked to the tables' size.
    unsafe {
        let taken = core::ptr::read_volatile(&raw const (*table).busy) != 0;
        if taken || may_go_alone(table, drop) {
            hand_over(drop, counters);
            return;
        }
        core::ptr::write_volatile(&raw mut (*table).busy, 1);
        compiler_fence(Ordering::SeqCst);
        let at = hash(drop) as usize % ENTRIES;
        let mut entry = (&raw mut (*table).entries).cast::<Record>().add(at);
        if (*entry).header.samples != 0 && !is_same(&*entry, drop) && !may_hand_over(table, drop) {
            // Too many conversations: reason and place are what counts.
            drop.key = FlowKey::default();
            drop.ends = ends::NONE;
            if drop.stack != stack::NOT_ASKED {
                // Those that pile up here are few only when stacks do not tell them apart.
                drop.stack = stack::NOT_TAKEN;
            }
            entry = coarse(table, drop);
        }
        if entry.is_null() {
            counters.ended += 1;
            counters.rate_limited += 1;
        } else {
            add(entry, drop, counters);
        }
        compiler_fence(Ordering::SeqCst);
        core::ptr::write_volatile(&raw mut (*table).busy, 0);
    }
}

/// The entry of a drop's reason and place, or a free one; null where others have all that it may have.
///
/// # Safety
/// The caller holds `busy` of the table.
#[inline(always)]
unsafe fn coarse(table: *mut Table, drop: &Record) -> *mut Record {
    const PROBES: usize = 8;
    let first = hash(drop) as usize;
    let mut probe = 0;
    while probe < PROBES {
        let at = first.wrapping_add(probe) % COARSE;
        // SAFETY: see above.
        unsafe {
            let entry = (&raw mut (*table).coarse).cast::<Record>().add(at);
            if (*entry).header.samples == 0 || is_same(&*entry, drop) {
                return entry;
            }
        }
        probe += 1;
    }
    core::ptr::null_mut()
}

/// Counts a drop in an entry, and hands over first what another conversation counted there.
///
/// # Safety
/// The caller holds `busy` of the entry's table.
#[inline(always)]
unsafe fn add(entry: *mut Record, drop: &Record, counters: &mut Counters) {
    // SAFETY: see above.
    unsafe {
        let samples = (*entry).header.samples;
        if samples != 0 && is_same(&*entry, drop) && samples < SAMPLES {
            (*entry).header.samples = samples + 1;
            (*entry).header.time_ns = drop.header.time_ns;
            (*entry).bytes += drop.bytes;
            return;
        }
        if samples != 0 {
            hand_over(&*entry, counters);
        }
        *entry = *drop;
    }
}

/// Whether one more record may leave in this window.
///
/// # Safety
/// The caller holds `busy` of the table.
#[inline(always)]
unsafe fn may_hand_over(table: *mut Table, drop: &Record) -> bool {
    // SAFETY: see above.
    unsafe {
        begin_window(table, drop);
        (*table).handed += 1;
        (*table).handed <= HANDED_MOST
    }
}

/// Whether a drop travels as a record of its own, for those who want to hear of each.
///
/// # Safety
/// `table` is this CPU's, and nobody holds its `busy`.
#[inline(always)]
unsafe fn may_go_alone(table: *mut Table, drop: &Record) -> bool {
    let most = settings::drops_alone();
    if most == 0 {
        return false;
    }
    // An interrupt that comes between loses a count, hence lets one more pass.
    // SAFETY: see above.
    unsafe {
        begin_window(table, drop);
        (*table).alone += 1;
        (*table).alone <= most
    }
}

/// # Safety
/// `table` is this CPU's.
#[inline(always)]
unsafe fn begin_window(table: *mut Table, drop: &Record) {
    // SAFETY: see above.
    unsafe {
        if drop.header.time_ns.wrapping_sub((*table).window_ns) > WINDOW_NS {
            (*table).window_ns = drop.header.time_ns;
            (*table).handed = 0;
            (*table).alone = 0;
        }
    }
}

/// Submits a record.
#[inline(always)]
fn hand_over(record: &Record, counters: &mut Counters) {
    let samples = u64::from(record.header.samples);
    counters.ended += samples;
    let bytes = core::ptr::from_ref(record).cast();
    // SAFETY: a record is plain data without padding.
    unsafe { ring::submit_batch(bytes, size_of::<Record>() as u64, samples, counters) };
}

/// Words of a record that tell one entry from another: all but the header and the sums.
const WORDS: usize = (size_of::<Record>() - size_of::<Header>()) / 4;

#[inline(always)]
fn word(record: &Record, at: usize) -> u32 {
    let behind_header = core::ptr::from_ref(record).cast::<u32>();
    // SAFETY: inside the record, which is aligned to 8 bytes.
    unsafe { behind_header.add(size_of::<Header>() / 4 + at).read() }
}

/// Where `bytes` stands among [`WORDS`].
const BYTES: usize = (core::mem::offset_of!(Record, bytes) - size_of::<Header>()) / 4;

#[inline(always)]
fn is_same(a: &Record, b: &Record) -> bool {
    let mut differs = 0;
    let mut at = 0;
    while at < WORDS {
        if at != BYTES && at != BYTES + 1 {
            differs |= word(a, at) ^ word(b, at);
        }
        at += 1;
    }
    differs == 0
}

/// FNV-1a by words, folded: good enough to spread conversations over a table, not against somebody
/// who knows it. Who does takes conversations their entries, and drops are told by reason alone then.
#[inline(always)]
fn hash(record: &Record) -> u32 {
    let mut hash: u32 = 0x811c_9dc5;
    let mut at = 0;
    while at < WORDS {
        if at != BYTES && at != BYTES + 1 {
            hash = (hash ^ word(record, at)).wrapping_mul(0x0100_0193);
        }
        at += 1;
    }
    hash ^ hash >> 15
}

/// Run by userspace on each CPU in turn (BPF_PROG_TEST_RUN), never attached: empties the table.
#[raw_tracepoint(tracepoint = "netdiag_flush")]
fn drop_flush(_ctx: RawTracePointContext) -> i32 {
    let (Some(table), Some(counters)) = (DROPS.get_ptr_mut(0), counters(FLUSH)) else { return 0 };
    let table = opaque(table);
    // SAFETY: as in `put`; this runs in an interrupt and must not wait.
    unsafe {
        if core::ptr::read_volatile(&raw const (*table).busy) != 0 {
            return 0;
        }
        core::ptr::write_volatile(&raw mut (*table).busy, 1);
        compiler_fence(Ordering::SeqCst);
        empty((&raw mut (*table).entries).cast(), ENTRIES, counters);
        empty((&raw mut (*table).coarse).cast(), COARSE, counters);
        compiler_fence(Ordering::SeqCst);
        core::ptr::write_volatile(&raw mut (*table).busy, 0);
    }
    0
}

/// # Safety
/// The caller holds `busy` of the table that these `len` entries belong to.
#[inline(always)]
unsafe fn empty(entries: *mut Record, len: usize, counters: &mut Counters) {
    let mut at = 0;
    while at < len {
        // SAFETY: see above.
        unsafe {
            let entry = entries.add(at);
            if (*entry).header.samples != 0 {
                hand_over(&*entry, counters);
                (*entry).header.samples = 0;
            }
        }
        at += 1;
    }
}
