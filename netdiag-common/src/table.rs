//! Records that a CPU counts together before it hands them over: what is equal but for its sums is one
//! record, so that a flood of them costs little and displaces nothing.

/// Different records that one CPU counts at a time, a power of two.
pub const ENTRIES: usize = 128;
/// Those that it counts beside, which say less, for what found no room.
pub const COARSE: usize = 32;

/// Runs of the flush that hand over all of them, each the next part: verifiers walk through every turn of a loop,
/// so one run shall not have many. A power of two: what is left by a division has no bound to them.
pub const FLUSHES: usize = 16;
const _: () = assert!(FLUSHES.is_power_of_two() && (ENTRIES + COARSE).is_multiple_of(FLUSHES));

/// What one CPU has counted and not handed over yet, records of type `R` that start with a
/// [`crate::header::Header`].
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Table<R> {
    /// 1 while a program works on it. Another run that interrupts it there leaves it alone.
    pub busy: u32,
    /// The part that the flush hands over next.
    pub part: u32,
    /// When the current window of handed-over records began.
    pub window_ns: u64,
    /// Records handed over in it for want of room.
    pub handed: u64,
    /// Samples in it that might have travelled alone.
    pub alone: u64,
    /// By a hash of what they say; those with no samples are free.
    pub entries: [R; ENTRIES],
    /// The same of those that say less.
    pub coarse: [R; COARSE],
    /// What a program is about to count: of a run, and of one inside it.
    pub under_way: [R; 2],
}
