//! DNS messages as they pass network devices.
//!
//! Kernel: tracepoints `net:net_dev_queue` (`net/core/dev.c`, `__dev_queue_xmit`: a packet is given to a
//! device) and `net:netif_receive_skb` (`__netif_receive_skb_core`: a device has one). A packet that is
//! forwarded passes several, and each is a record.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{flow::FlowKey, header::Header, message::HEAD};

/// Numbers of the lanes of this signal.
pub mod lane {
    /// A packet is given to a device.
    pub const OUT: usize = 0;
    /// A device has one.
    pub const IN: usize = 1;
}

/// The port of servers, over UDP and TCP.
pub const PORT: u16 = 53;

/// Bits of [`Record::flags`].
pub mod flag {
    /// The packet leaves by the device; else it came by it.
    pub const OUT: u16 = 1;
    /// It goes to the server; else it comes from there.
    pub const TO_SERVER: u16 = 2;
    /// Connection tracking has an entry for it.
    pub const TRACKED: u16 = 4;
    /// The packet follows the record, from its first byte to what [`super::Record::head`] is for: programs
    /// cannot read what lies in pages, and the kernel copies it.
    pub const PACKET: u16 = 8;
}

/// Messages that a CPU tells of in [`WINDOW_NS`] at most, in and out each.
pub const MOST: u64 = 5_000;
/// What [`MOST`] is for.
pub const WINDOW_NS: u64 = 100_000_000;

/// A packet that may begin with a message.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq,
    FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Record {
    /// `signal` is [`crate::signal::Signal::Dns`], `samples` 1, `time_ns` when the packet passed.
    pub header: Header,
    /// The conversation as the packet has it, who asks as this end, in the device's network namespace.
    pub key: FlowKey,
    /// Number of the device.
    pub ifindex: u32,
    /// As it began, by its entry in connection tracking: whom the server was asked for, before
    /// addresses were translated. Who asks is this end. All zero unless [`flag::TRACKED`].
    pub asked: FlowKey,
    /// Of [`flag`].
    pub flags: u16,
    /// Bytes of the packet before what follows the header of UDP or TCP.
    pub before: u16,
    /// Bytes behind the header of UDP or TCP.
    pub length: u32,
    /// The first of them; more than `length` means nothing.
    pub head: [u8; HEAD],
    /// TCP's sequence number of the first of them; 0 of UDP.
    pub seq: u32,
}
