//! Records on their way to the ring: counted together on each CPU as long as they say the same. What a
//! flood of different ones cannot all say is said in less, in steps, and is counted all the same.

use core::{
    ops::Range,
    sync::atomic::{Ordering, compiler_fence},
};

use netdiag_common::{
    counters::Counters,
    header::Header,
    signal::Signal,
    table::{COARSE, ENTRIES, FLUSHES, Table},
};

use crate::{
    account::{Lane, counters},
    assembly::{opaque, opaque_number},
    globals::settings,
    kernel::Refused,
    nested, ring,
    signal::socket,
    words,
};

/// A record that is counted so. It starts with a [`Header`], is a multiple of 8 bytes long, and by default all
/// zero.
pub(crate) trait Counted: Copy + Default + 'static {
    /// The signal that it belongs to.
    const SIGNAL: Signal;
    /// Samples that it counts at most.
    const SAMPLES: u32;
    /// The words of 8 bytes behind the header that are sums; all others tell one record from another.
    const SUMS: Range<usize>;
    /// Ways to say less.
    const LEVELS: usize;

    /// This CPU's table.
    fn table() -> Option<*mut Table<Self>>;

    /// Adds the sums of another one.
    fn add(&mut self, more: &Self);

    /// Makes it say less: by `level` below [`Self::LEVELS`], the least last.
    fn coarsen(&mut self, level: usize);

    /// Records of this kind that may leave a CPU in a window to make room for others.
    fn most_handed(&self) -> u64 {
        256
    }
}

/// The window for [`Counted::most_handed`].
const WINDOW_NS: u64 = 100_000_000;

#[inline(always)]
fn header<R: Counted>(record: *mut R) -> *mut Header {
    record.cast()
}

/// # Safety
/// `record` is valid.
#[inline(always)]
unsafe fn samples<R: Counted>(record: *mut R) -> u32 {
    // SAFETY: passed on; a record starts with its header.
    unsafe { (*header(record)).samples }
}

/// This CPU's table, and who counts in it.
pub(crate) struct Counting<R: Counted> {
    table: *mut Table<R>,
    counters: &'static mut Counters,
}

/// Runs `body` with this CPU's table and an empty record, on behalf of the program of `lane`.
#[inline(always)]
pub(crate) fn with<R: Counted>(lane: Lane, body: impl FnOnce(Counting<R>, &mut R)) {
    nested::private(lane, |lane| {
        let (Some(table), Some(counters)) = (R::table(), counters(lane)) else { return };
        let table = opaque(table);
        // SAFETY: the element of this CPU lives as long as the map, and a lane's record has one user.
        // Not on the stack, which has no room for it.
        unsafe {
            let record = &raw mut (*table).under_way[lane.is_twin()];
            words::zero(record);
            body(Counting { table, counters }, &mut *record);
        }
    });
}

/// Like [`with`] for programs of one signal that interrupt each other: `record` finds the place that is
/// the lane's alone.
#[inline(always)]
pub(crate) fn with_own<R: Counted>(
    lane: Lane,
    record: impl FnOnce(Lane) -> Option<*mut R>,
    body: impl FnOnce(Counting<R>, &mut R),
) {
    nested::private(lane, |lane| {
        let (Some(table), Some(counters), Some(record)) =
            (R::table(), counters(lane), record(lane))
        else {
            return;
        };
        let (table, record) = (opaque(table), opaque(record));
        // SAFETY: an element of this CPU lives as long as its map, and this one has one user.
        unsafe {
            words::zero(record);
            body(Counting { table, counters }, &mut *record);
        }
    });
}

impl<R: Counted> Counting<R> {
    /// The counters of the program.
    #[inline(always)]
    pub(crate) fn counters(&mut self) -> &mut Counters {
        self.counters
    }

    /// Accounts for a sample, and counts it when it is wanted. Whoever finds the table taken, by a run
    /// that it interrupts, sends its record alone.
    #[inline(always)]
    pub(crate) fn count(self, record: &mut R, wanted: Result<bool, Refused>) {
        self.counters.seen += 1;
        self.counters.begun += 1;
        self.end(record, wanted);
    }

    /// The same for a sample that was counted as seen and begun before.
    #[inline(always)]
    pub(crate) fn end(self, record: &mut R, wanted: Result<bool, Refused>) {
        match wanted {
            // SAFETY: this CPU's table.
            Ok(true) => unsafe { put(self.table, record, self.counters) },
            Ok(false) => {
                self.counters.ended += 1;
                self.counters.filtered += 1;
            }
            Err(_) => {
                self.counters.ended += 1;
                self.counters.read_failed += 1;
            }
        }
    }
}

/// Adds a record of one sample to the table.
///
/// # Safety
/// `table` is this CPU's.
#[inline(always)]
unsafe fn put<R: Counted>(table: *mut Table<R>, record: &mut R, counters: &mut Counters) {
    // SAFETY: `busy` keeps the others of this CPU out; the positions are below the tables' size.
    unsafe {
        *header(record) = socket::header(R::SIGNAL, 1);
        let taken = core::ptr::read_volatile(&raw const (*table).busy) != 0;
        if taken || may_go_alone(table, record) {
            hand_over(record, counters);
            return;
        }
        core::ptr::write_volatile(&raw mut (*table).busy, 1);
        compiler_fence(Ordering::SeqCst);
        let at = hash(record) % ENTRIES;
        let mut entry = (&raw mut (*table).entries).cast::<R>().add(at);
        if samples(entry) != 0 && !is_same(&*entry, record) && !may_hand_over(table, record) {
            entry = core::ptr::null_mut();
            let mut level = 0;
            while level < R::LEVELS && entry.is_null() {
                record.coarsen(level);
                entry = coarse(table, record, level);
                level += 1;
            }
        }
        if entry.is_null() {
            counters.ended += 1;
            counters.rate_limited += 1;
        } else {
            add(entry, record, counters);
        }
        compiler_fence(Ordering::SeqCst);
        core::ptr::write_volatile(&raw mut (*table).busy, 0);
    }
}

/// The entry of a record that says less, or a free one; null where others have all that it may have.
///
/// # Safety
/// The caller holds `busy` of the table.
#[inline(always)]
unsafe fn coarse<R: Counted>(table: *mut Table<R>, record: &R, level: usize) -> *mut R {
    const PROBES: usize = 8;
    let share = COARSE / R::LEVELS;
    let first = hash(record);
    let mut probe = 0;
    while probe < PROBES {
        let at = level * share + first.wrapping_add(probe) % share;
        // SAFETY: see above.
        unsafe {
            let entry = (&raw mut (*table).coarse).cast::<R>().add(at);
            if samples(entry) == 0 || is_same(&*entry, record) {
                return entry;
            }
        }
        probe += 1;
    }
    core::ptr::null_mut()
}

/// Counts a record in an entry, and hands over first what another one counted there.
///
/// # Safety
/// The caller holds `busy` of the entry's table.
#[inline(always)]
unsafe fn add<R: Counted>(entry: *mut R, record: &mut R, counters: &mut Counters) {
    // SAFETY: see above.
    unsafe {
        let counted = samples(entry);
        if counted != 0 && is_same(&*entry, record) && counted < R::SAMPLES {
            (*header(entry)).samples = counted + 1;
            (*header(entry)).time_ns = (*header(record)).time_ns;
            (*entry).add(record);
            return;
        }
        if counted != 0 {
            hand_over(entry, counters);
        }
        words::copy(record, entry);
    }
}

/// Whether one more record may leave in this window.
///
/// # Safety
/// The caller holds `busy` of the table.
#[inline(always)]
unsafe fn may_hand_over<R: Counted>(table: *mut Table<R>, record: &mut R) -> bool {
    // SAFETY: see above.
    unsafe {
        begin_window(table, record);
        // Who may not takes nothing from those that may.
        let may = (*table).handed < record.most_handed();
        (*table).handed += u64::from(may);
        may
    }
}

/// Whether a sample travels as a record of its own, for those who want to hear of each.
///
/// # Safety
/// `table` is this CPU's, and nobody holds its `busy`.
#[inline(always)]
unsafe fn may_go_alone<R: Counted>(table: *mut Table<R>, record: &mut R) -> bool {
    let most = settings::alone();
    if most == 0 {
        return false;
    }
    // An interrupt that comes between loses a count, hence lets one more pass.
    // SAFETY: see above.
    unsafe {
        begin_window(table, record);
        (*table).alone += 1;
        (*table).alone <= most
    }
}

/// # Safety
/// `table` is this CPU's.
#[inline(always)]
unsafe fn begin_window<R: Counted>(table: *mut Table<R>, record: &mut R) {
    // SAFETY: see above.
    unsafe {
        let now = (*header(record)).time_ns;
        if now.wrapping_sub((*table).window_ns) > WINDOW_NS {
            (*table).window_ns = now;
            (*table).handed = 0;
            (*table).alone = 0;
        }
    }
}

/// Submits a record.
///
/// # Safety
/// `record` is valid.
#[inline(always)]
unsafe fn hand_over<R: Counted>(record: *mut R, counters: &mut Counters) {
    // SAFETY: a record is plain data without padding.
    unsafe {
        let samples = u64::from(samples(record));
        counters.ended += samples;
        ring::submit_batch(record.cast(), size_of::<R>() as u64, samples, counters);
    }
}

/// Words of a record behind its header.
const fn words<R>() -> usize {
    let behind_header = size_of::<R>() - size_of::<Header>();
    assert!(align_of::<R>().is_multiple_of(8) && behind_header.is_multiple_of(8));
    behind_header / 8
}

#[inline(always)]
fn word<R: Counted>(record: &R, at: usize) -> u64 {
    let record = core::ptr::from_ref(record).cast::<u64>();
    // SAFETY: inside the record, which is aligned to 8 bytes.
    unsafe { record.add(size_of::<Header>() / 8 + at).read() }
}

#[inline(always)]
fn is_same<R: Counted>(a: &R, b: &R) -> bool {
    let mut differs = 0;
    let mut at = 0;
    while at < const { words::<R>() } {
        if at < R::SUMS.start || at >= R::SUMS.end {
            differs |= word(a, at) ^ word(b, at);
        }
        at += 1;
    }
    differs == 0
}

/// A number below [`ENTRIES`] for what a record says, by multiplication of its words: every bit goes into the upper
/// ones. Good enough to spread conversations over a table, not against somebody who knows it. Who does takes
/// conversations their entries, and less is told of them then.
#[inline(always)]
fn hash<R: Counted>(record: &R) -> usize {
    // 2^64 by the golden ratio.
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash: u64 = 0;
    let mut at = 0;
    while at < const { words::<R>() } {
        if at < R::SUMS.start || at >= R::SUMS.end {
            hash = (hash ^ word(record, at)).wrapping_mul(FACTOR);
        }
        at += 1;
    }
    (hash >> (u64::BITS - ENTRIES.ilog2())) as usize
}

/// Empties the next part of this CPU's table. Runs in an interrupt and must not wait.
#[inline(always)]
pub(crate) fn flush<R: Counted>(lane: Lane) {
    let (Some(table), Some(counters)) = (R::table(), counters(lane)) else { return };
    let table = opaque(table);
    // SAFETY: as in `put`.
    unsafe {
        if core::ptr::read_volatile(&raw const (*table).busy) != 0 {
            return;
        }
        core::ptr::write_volatile(&raw mut (*table).busy, 1);
        compiler_fence(Ordering::SeqCst);
        let part = opaque_number(u64::from((*table).part)) as usize % FLUSHES;
        (*table).part = part as u32 + 1;
        empty(table, part * PART, counters);
        compiler_fence(Ordering::SeqCst);
        core::ptr::write_volatile(&raw mut (*table).busy, 0);
    }
}

/// Entries of one part; those that say less stand behind the others.
const PART: usize = (ENTRIES + COARSE) / FLUSHES;

/// Hands over the [`PART`] entries from `first` on.
///
/// # Safety
/// The caller holds `busy` of the table, which has these entries.
#[inline(always)]
unsafe fn empty<R: Counted>(table: *mut Table<R>, first: usize, counters: &mut Counters) {
    let mut at = 0;
    while at < PART {
        // SAFETY: see above.
        unsafe {
            let entry = (&raw mut (*table).entries).cast::<R>().add(first + at);
            if samples(entry) != 0 {
                hand_over(entry, counters);
                (*header(entry)).samples = 0;
            }
        }
        at += 1;
    }
}
