//! What userspace tells the programs before they are loaded: frozen, hence constants to the
//! verifier, which removes the branches that a run does not need.

use zerocopy::{Immutable, IntoBytes};

use crate::{field::Field, flow::FlowKey};

/// Values that each filter flag may have in the kernel.
pub const FILTER_VALUES: usize = 16;

/// The ring of socket records is this many times smaller than that of samples.
pub const SOCKETS_SHARE: u64 = 2;
/// So is that of rare events: an eighth of 8 MiB holds six thousand of them.
pub const EVENTS_SHARE: u64 = 8;

/// Locations of all fields, indexed by [`Field`].
pub type Locations = [u32; Field::ALL.len()];

/// Filter by exact number: `len` values are valid, 0 passes everything.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, IntoBytes, Immutable)]
pub struct Numbers {
    /// Accepted values, in any order.
    pub values: [u32; FILTER_VALUES],
    /// How many of them count.
    pub len: u32,
}

impl Numbers {
    /// Whether a value passes.
    #[must_use]
    pub fn accept(&self, value: u32) -> bool {
        self.len == 0 || self.values.iter().take(self.len as usize).any(|&wanted| wanted == value)
    }
}

/// Bytes of a task's name with its end (`TASK_COMM_LEN`, include/linux/sched.h).
pub const COMM_BYTES: usize = 16;

/// Filter by the exact name of a process: `len` values are valid, 0 passes everything.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, IntoBytes, Immutable)]
pub struct Names {
    /// Accepted names as words in native load order, zero-padded.
    pub values: [[u64; COMM_BYTES / 8]; FILTER_VALUES],
    /// How many of them count.
    pub len: u64,
}

impl Names {
    /// Lets a name pass, cut off as the kernel cuts off that of a process; false when there is no room.
    pub fn add(&mut self, name: &[u8]) -> bool {
        let Some(to) = self.values.get_mut(self.len as usize) else { return false };
        *to = comm_words(name);
        self.len += 1;
        true
    }

    /// Whether the name of a process passes.
    #[must_use]
    pub fn accept(&self, name: &[u8]) -> bool {
        let words = comm_words(name);
        self.len == 0 || self.values.iter().take(self.len as usize).any(|wanted| *wanted == words)
    }
}

/// A name as the kernel keeps it, as words.
fn comm_words(name: &[u8]) -> [u64; COMM_BYTES / 8] {
    let mut comm = [0; COMM_BYTES];
    for (to, byte) in comm.iter_mut().take(COMM_BYTES - 1).zip(name) {
        *to = *byte;
    }
    let (words, _none) = comm.as_chunks::<8>();
    let mut to = [0; COMM_BYTES / 8];
    for (to, word) in to.iter_mut().zip(words) {
        *to = u64::from_ne_bytes(*word);
    }
    to
}

/// Filter by address prefix: the peer matches when `addr & mask == network` for one of them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, IntoBytes, Immutable)]
pub struct Prefixes {
    /// Networks as four big-endian words in native load order, IPv4 as v4-mapped.
    pub network: [[u32; 4]; FILTER_VALUES],
    /// Masks of the same form.
    pub mask: [[u32; 4]; FILTER_VALUES],
    /// How many of them count.
    pub len: u32,
}

impl Prefixes {
    /// Whether an address passes.
    #[must_use]
    pub fn accept(&self, address: &[u8; 16]) -> bool {
        let (words, _none) = address.as_chunks::<4>();
        let inside = |(network, mask): (&[u32; 4], &[u32; 4])| {
            let masked =
                words.iter().zip(mask).map(|(word, mask)| u32::from_ne_bytes(*word) & mask);
            masked.eq(network.iter().copied())
        };
        let mut prefixes = self.network.iter().zip(&self.mask).take(self.len as usize);
        self.len == 0 || prefixes.any(inside)
    }
}

/// All filters: AND between the fields, OR within one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, IntoBytes, Immutable)]
pub struct Filters {
    /// Process ids (tgid) of the socket's owner.
    pub pid: Numbers,
    /// Either port.
    pub port: Numbers,
    /// Port of this end.
    pub local_port: Numbers,
    /// Port of the other end.
    pub peer_port: Numbers,
    /// Network namespaces by inode.
    pub netns: Numbers,
    /// Address of the other end.
    pub peer: Prefixes,
    /// Names of the process that owns the socket.
    pub comm: Names,
    /// 1 where the cgroup of that process decides: the programs have a map of those that pass.
    pub by_cgroup: u64,
}

impl Filters {
    /// Whether everything passes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.pid.len
            + self.port.len
            + self.local_port.len
            + self.peer_port.len
            + self.netns.len
            + self.peer.len
            == 0
            && !self.by_owner()
    }

    /// Whether it matters whose a socket is.
    #[must_use]
    pub const fn by_owner(&self) -> bool {
        self.pid.len > 0 || self.comm.len + self.by_cgroup > 0
    }

    /// Whether a conversation passes, whoever its owner is: what the programs decide, for sockets that no
    /// program met.
    #[must_use]
    pub fn accept(&self, key: &FlowKey) -> bool {
        let (local, peer) = (u32::from(key.local_port), u32::from(key.peer_port));
        (self.port.accept(local) || self.port.accept(peer))
            && self.local_port.accept(local)
            && self.peer_port.accept(peer)
            && self.netns.accept(key.netns)
            && self.peer.accept(&key.peer_addr)
    }

    /// Whether a process (tgid, 0 unknown) of that name passes, wherever it lives.
    #[must_use]
    pub fn accept_process(&self, pid: u32, comm: &[u8]) -> bool {
        self.pid.accept(pid) && self.comm.accept(comm)
    }
}

/// What `kfree_skb` tells of that is no loss, as far as one kernel has it.
pub const NO_LOSSES: usize = 16;

/// Packets that are freed for a reason, or at a place, that makes them no drops.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, IntoBytes, Immutable)]
pub struct NoLoss {
    /// First address of the function.
    pub from: u64,
    /// First address behind it; 0 where any place will do.
    pub to: u64,
    /// The reason, where it is that.
    pub reason: u32,
    /// One of [`no_loss`].
    pub when: u32,
}

/// What makes a [`NoLoss`] beside the place.
pub mod no_loss {
    /// The reason.
    pub const REASON: u32 = 0;
    /// Nothing.
    pub const ANY: u32 = 1;
    /// The packet is a TCP segment with FIN or RST.
    pub const CLOSING: u32 = 2;
}

/// Where the programs keep what they know of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum SlotPlace {
    /// A hash keyed by the socket's address; every program type can reach it.
    Hash = 0,
    /// Socket-local storage: cheaper, but only for typed programs (fentry, tp_btf) from 6.1 on.
    Storage = 1,
}

/// Hierarchies of control groups.
pub mod hierarchy {
    /// None: no cgroup is told.
    pub const NONE: u32 = 0;
    /// The unified one (version 2).
    pub const UNIFIED: u32 = 1;
    /// That of the first subsystem (version 1); those of the others follow by their numbers.
    pub const FIRST_SUBSYSTEM: u32 = 2;
    /// Subsystems that a kernel has at most (`CGROUP_SUBSYS_COUNT`, 14 in Linux 7.2).
    pub const SUBSYSTEMS: u32 = 32;
}

/// The one global that userspace writes while programs run.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// 1 from when all programs are attached.
    pub begun: u32,
    /// Bits of [`duty`], which stay as they are when that is written.
    pub duties: u32,
    /// The signals whose samples are left out to keep the cost down: bit 0 is the first of
    /// [`crate::signal::Signal`].
    pub shed: u32,
}

impl Live {
    /// As a map's value has it.
    #[must_use]
    pub const fn words(self) -> [u32; 3] {
        [self.begun, self.duties, self.shed]
    }
}

// All of it, and nothing else.
const _: () = assert!(size_of::<Live>() == size_of::<[u32; 3]>());

/// What programs do for one of several signals, where that depends on the sources that the signals have.
pub mod duty {
    /// `calls_begin_tp_btf` tells `send` of calls that begin.
    pub const SEND_BEGINS: u32 = 1;
    /// It tells `turn`.
    pub const TURN_BEGINS: u32 = 1 << 1;
    /// `calls_end_tp_btf` tells `send` of calls that end.
    pub const SEND_ENDS: u32 = 1 << 2;
    /// It tells `turn`.
    pub const TURN_ENDS: u32 = 1 << 3;
    /// The program of `turn` where data is read tells who reads, in place of one of `socket`.
    pub const READERS: u32 = 1 << 4;
}

/// Settings of a run.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, IntoBytes, Immutable)]
pub struct Settings {
    /// Shortest time between two counter reports of one socket, in nanoseconds.
    pub report_every_ns: u64,
    /// Bytes waiting in the ring of samples from which on the reader is woken.
    pub wake_above_bytes: u64,
    /// A [`SlotPlace`].
    pub slot_place: u32,
    /// The signals that are on: bit 0 is the first of [`crate::signal::Signal`].
    pub signals: u32,
    /// 1 when typed programs may ask for socket cookies (6.1; 5.10 has none).
    pub has_cookie: u32,
    /// 1 when the tracepoint `tcp_retransmit_skb` has the argument `err` (6.16 and later).
    pub retransmit_has_error: u32,
    /// 1 when the tracepoint `tcp_send_reset` tells the reason.
    pub reset_has_reason: u32,
    /// Arguments of the tracepoint `kfree_skb`: 3 with a reason, 4 with the receiving socket.
    pub drop_arguments: u32,
    /// Number of the reason QDISC_DROP where the queue disciplines tell their own before it, else 0.
    pub qdisc_drop: u32,
    /// Number of the reason NETFILTER_DROP, 0 on kernels without.
    pub netfilter_drop: u32,
    /// Records of one CPU and signal, of those that are counted together, that may travel alone in a
    /// tenth of a second; 0: none.
    pub alone: u32,
    /// 1 when drops and retransmissions shall tell the kernel's stack.
    pub stacks: u32,
    /// Entries of `no_losses` that count.
    pub no_losses_len: u32,
    /// Which hierarchy a task's cgroup is told of: one of [`hierarchy`].
    pub hierarchy: u32,
    /// What is no drop.
    pub no_losses: [NoLoss; NO_LOSSES],
    /// First address of `nf_hook_slow`, where netfilter's hooks drop; 0 where that is not known.
    pub hooks_from: u64,
    /// First address behind it.
    pub hooks_to: u64,
    /// 1 where programs may read a task's memory, whose fields were found.
    pub reads_tasks: u32,
    /// 1 where programs may read memory by its address: lockdown does not forbid it.
    pub reads_memory: u32,
    /// Microseconds that the kernel takes a tick for (`USEC_PER_SEC / HZ`); 0 where that is not known.
    pub tick_us: u64,
    /// 1 where programs may have [`duty::READERS`]: who reads can be told from who is interrupted, and from
    /// kernel threads.
    pub tells_readers: u32,
    /// Zero.
    pub reserved: u32,
}
