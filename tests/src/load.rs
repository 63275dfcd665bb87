//! What a thread does again and again to be traced: each load makes one event of a signal at a time, and all that the
//! kernel does for it is done in the context of that thread, so that its CPU time is the event's.

mod conntrack;
mod drop;
mod reset;
mod retransmit;
mod send;
mod socket;

use anyhow::Result;
use clap::ValueEnum;
use netdiag::snapshot::{Flow, Snapshot, Status};

use crate::namespace::Namespace;

/// Something that is done again and again. Packets go over loopback, where softirqs run at once, on whoever sends.
pub trait Load: Send {
    /// Does it so many times, on a thread inside the load's namespace.
    ///
    /// # Errors
    /// When something happens that is not the load's.
    fn run(&mut self, times: u32) -> Result<()>;

    /// How often it was done so far, by the kernel's own counters; none where a call that succeeds is all that there
    /// is to it.
    ///
    /// # Errors
    /// When they cannot be read, or something else happened as well.
    fn happened(&self) -> Result<Option<u64>>;

    /// How often it was done by the last line of netdiag's run; none where that did not look.
    ///
    /// # Errors
    /// When netdiag says nothing of it.
    fn told(&self, total: &Snapshot) -> Result<Option<u64>>;
}

/// The loads, each by the signal that tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// A byte is sent, acknowledged and read.
    Send,
    /// A segment is lost and sent again.
    Retransmit,
    /// A firewall drops a packet.
    Drop,
    /// A connection is refused.
    Reset,
    /// A conversation is tracked and forgotten.
    Conntrack,
    /// A connection is opened, accepted and closed at both ends.
    Socket,
}

impl Kind {
    /// Sets it up in a namespace that is its own.
    ///
    /// # Errors
    /// When a socket call or a tool fails.
    pub fn start(self, here: &Namespace) -> Result<Box<dyn Load + '_>> {
        let load: Box<dyn Load + '_> = match self {
            Self::Send => Box::new(send::Sends::new(here)?),
            Self::Retransmit => Box::new(retransmit::Retransmits::new(here)?),
            Self::Drop => Box::new(drop::Drops::new(here)?),
            Self::Reset => Box::new(reset::Resets::new(here)),
            Self::Conntrack => Box::new(conntrack::Entries::new(here)?),
            Self::Socket => Box::new(socket::Connections::new(here)?),
        };
        Ok(load)
    }

    /// Times before each measurement: caches fill, windows open, netdiag meets the socket.
    #[must_use]
    pub const fn warm_up(self) -> u32 {
        match self {
            Self::Send => 2_000,
            _ => 256,
        }
    }

    /// Times that are timed at once: ten of netdiag's batches of sends, and of what has none as long as that takes.
    #[must_use]
    pub const fn stretch(self) -> u32 {
        match self {
            Self::Send => 640,
            _ => 64,
        }
    }
}

/// Something summed up over all flows, where netdiag looked at a signal. The load's events are the only ones: it has
/// the machine to itself.
fn told(total: &Snapshot, signal: &str, of: impl Fn(&Flow) -> u64) -> Option<u64> {
    let looked = total.signals.iter().any(|it| it.signal == signal && it.status != Status::Off);
    looked.then(|| total.flows.iter().chain([&total.other]).map(of).sum())
}
