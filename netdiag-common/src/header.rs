//! The first bytes of every record.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Version of the record layouts; raised with every change of any of them.
pub const VERSION: u16 = 6;

/// The header that every record starts with.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Header {
    /// [`VERSION`] of the side that wrote the record.
    pub version: u16,
    /// The signal it belongs to, as [`crate::signal::Signal`] numbers them.
    pub signal: u16,
    /// Samples the record carries; at least 1.
    pub samples: u32,
    /// `CLOCK_MONOTONIC` at submission, in nanoseconds.
    pub time_ns: u64,
}
