//! Connections that were reset, by either end.
//!
//! Kernel: tracepoints `tcp:tcp_send_reset` (`tcp_v4_send_reset` and its like, `tcp_send_active_reset`; from 6.10 on with
//! the reason, `enum sk_rst_reason`, `include/net/rstreason.h`) and `tcp:tcp_receive_reset` (`tcp_reset`,
//! `net/ipv4/tcp_input.c`). Resets of one conversation for one reason are counted together on each CPU, see
//! [`crate::table`].

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{flow::FlowKey, header::Header};

/// Numbers of the lanes of this signal.
pub mod lane {
    /// This end resets.
    pub const SENT: usize = 0;
    /// The other end has reset.
    pub const RECEIVED: usize = 1;
    /// `tcp_v4_send_reset` begins.
    pub const SENT_V4: usize = 2;
    /// `tcp_v6_send_reset` begins.
    pub const SENT_V6: usize = 3;
    /// Userspace empties the table.
    pub const FLUSH: usize = 4;
}

/// Who reset the connection.
pub mod direction {
    /// This end.
    pub const SENT: u32 = 0;
    /// The other end.
    pub const RECEIVED: u32 = 1;
}

/// Stands for a reason where none is told.
pub const NO_REASON: u32 = u32::MAX;

/// Resets of one conversation for one reason.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq,
    FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Record {
    /// `signal` is [`crate::signal::Signal::Reset`], `samples` the resets, `time_ns` when the last of them was
    /// sent or received.
    pub header: Header,
    /// The conversation, this end first; all zero where it is not known.
    pub key: FlowKey,
    /// `enum sk_rst_reason`, or [`NO_REASON`].
    pub reason: u32,
    /// One of [`direction`].
    pub direction: u32,
    /// Zero.
    pub reserved: u32,
}

/// Resets that one record counts at most.
pub const SAMPLES: u32 = 1 << 24;
