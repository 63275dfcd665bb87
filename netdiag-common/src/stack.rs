//! What a record says of the kernel stack on which something happened.
//!
//! Kernel: `bpf_get_stackid` (`kernel/bpf/stackmap.c`) puts stacks into a map, each once, and numbers
//! them.

/// None was asked for.
pub const NOT_ASKED: u32 = 0;
/// None could be taken: others have the place in the map.
pub const NOT_TAKEN: u32 = u32::MAX;

/// Innermost frames of a stack that are kept. In a softirq what lies farther out is of the task that
/// it interrupted, and another one each time.
pub const FRAMES: usize = 24;

/// What a record says of a stack with this number in the map.
#[must_use]
#[inline(always)]
pub const fn of(id: u32) -> u32 {
    id + 1
}

/// The number in the map, if there is one.
#[must_use]
pub const fn id(stack: u32) -> Option<u32> {
    match stack {
        NOT_ASKED | NOT_TAKEN => None,
        stack => Some(stack - 1),
    }
}
