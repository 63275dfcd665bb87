//! Programs of the signal `drop`.

use aya_ebpf::{
    btf_maps::{LruHashMap, PerCpuArray},
    macros::{btf_map, btf_tracepoint, raw_tracepoint},
    programs::{BtfTracePointContext, RawTracePointContext, tracing::StackIdContext},
};
use netdiag_common::{
    field::Field,
    header::Header,
    signal::{
        Signal,
        drop::{Record, SAMPLES, ends},
    },
    table::Table,
};

use crate::{
    account::Lane,
    assembly::opaque,
    filter,
    globals::settings,
    kernel::{self, Access, Pointer, Probed, Refused, Typed, field},
    netns::{self, Known},
    numbers::{
        AF_INET, AF_INET6, ETH_P_IP, ETH_P_IPV6,
        state::{NEW_SYN_RECV, TIME_WAIT},
    },
    packet, stack,
    table::{self, Counted},
    words,
};

const SEEN: Lane = Lane::new(Signal::Drop, 0);
const FLUSH: Lane = Lane::new(Signal::Drop, 1);

#[btf_map]
static DROPS: PerCpuArray<Table<Record>, 1> = PerCpuArray::new();

/// Where `bytes` stands behind the header.
const BYTES: usize = (core::mem::offset_of!(Record, bytes) - size_of::<Header>()) / 8;

impl Counted for Record {
    const SIGNAL: Signal = Signal::Drop;
    const SAMPLES: u32 = SAMPLES;
    const SUMS: core::ops::Range<usize> = BYTES..BYTES + 1;
    const LEVELS: usize = 1;

    #[inline(always)]
    fn table() -> Option<*mut Table<Self>> {
        DROPS.get_ptr_mut(0)
    }

    #[inline(always)]
    fn add(&mut self, more: &Self) {
        self.bytes += more.bytes;
    }

    /// Reason and place are what counts.
    #[inline(always)]
    fn coarsen(&mut self, _level: usize) {
        // SAFETY: zeros are a key.
        unsafe { words::zero(&raw mut self.key) };
        self.ends = ends::NONE;
        if self.stack != netdiag_common::stack::NOT_ASKED {
            // Those that pile up here are few only when stacks do not tell them apart.
            self.stack = netdiag_common::stack::NOT_TAKEN;
        }
    }
}

/// What the tracepoint says of a packet.
struct Freed {
    skb: Pointer,
    location: u64,
    reason: u32,
    /// The receiving socket, null where the kernel does not say.
    receiver: Pointer,
}

/// Reasons of queue disciplines, by the address of the packet that is about to be freed.
#[btf_map]
static QDISC_REASONS: LruHashMap<u64, u32, 1024> = LruHashMap::new();

/// A queue discipline drops a packet; it is freed next, or with others a little later.
#[inline(always)]
fn qdisc_drops(skb: Pointer, reason: u32) {
    let key = skb as u64;
    // Without room its reason is QDISC_DROP.
    let _no_room = QDISC_REASONS.insert(&key, &reason, 0);
}

/// The reason for which a packet is freed, as exact as it was told.
#[inline(always)]
fn reason_of(freed: &Freed) -> u32 {
    if !settings::is_told_by_qdisc(freed.reason) {
        return freed.reason;
    }
    let key = freed.skb as u64;
    // SAFETY: a word of the map, which is not written any more.
    let told = QDISC_REASONS.get_ptr_mut(&key).map(|told| unsafe { *opaque(told) });
    let _was_absent = QDISC_REASONS.remove(&key);
    told.unwrap_or(freed.reason)
}

/// A packet was freed that nobody had consumed. `describe` reads whose it was.
#[inline(always)]
fn observe(
    ctx: &impl StackIdContext,
    freed: &Freed,
    describe: impl FnOnce(&mut Record) -> Result<(), Refused>,
) {
    if settings::is_no_loss(freed.location, freed.reason) {
        return;
    }
    table::with(SEEN, |table, drop: &mut Record| {
        drop.location = freed.location;
        drop.reason = reason_of(freed);
        let described = describe(drop);
        if described != Err(Refused::NotOurs) {
            let wanted = described.map(|()| wanted(drop));
            if wanted == Ok(true) {
                drop.stack = stack::of(ctx);
            }
            table.count(drop, wanted);
        }
    });
}

/// Whether the filters let a drop pass. Which owner it has userspace knows.
#[inline(always)]
fn wanted(drop: &Record) -> bool {
    if !filter::active() {
        return true;
    }
    filter::accepts(&drop.key)
        || drop.ends == ends::BY_DESTINATION && filter::accepts_other(&drop.key)
}

/// Reads whose packet it was by its headers. `NotOurs`: none of a network, but of a local socket family.
///
/// # Safety
/// `freed` holds an `sk_buff` and, if any, its receiving socket.
#[inline(always)]
unsafe fn describe<A: Access>(freed: &Freed, drop: &mut Record) -> Result<(), Refused> {
    let skb = freed.skb;
    // SAFETY: fields of the sk_buff and of what it points to.
    unsafe {
        drop.bytes = u64::from(field::<A, u32>(skb, Field::SkbLen)?);
        let sender: Pointer = field::<A, _>(skb, Field::SkbSk)?;
        let protocol = u16::from_be(field::<A, _>(skb, Field::SkbProtocol)?);
        if protocol != ETH_P_IP && protocol != ETH_P_IPV6 {
            // netlink and unix packets have none; TCP's have none until IP takes them.
            return if protocol == 0 {
                by_socket::<A>(sender, ends::SENT, drop)
            } else {
                nameless(drop)
            };
        }
        let packet = packet::header::<A>(skb)
            .and_then(|at| packet::conversation(at, &mut drop.key).map(|()| at));
        let Ok(packet) = packet else {
            words::zero(&raw mut drop.key);
            return by_socket::<A>(sender, ends::KNOWN, drop).or_else(|_| nameless(drop));
        };
        if settings::is_no_loss_when_closing(freed.location) && packet::is_closing(packet) {
            return Err(Refused::NotOurs);
        }
        ends_of::<A>(freed, sender, drop)
    }
}

/// Reads whose packet it was by its socket alone. `NotOurs` as above.
///
/// # Safety
/// As for [`describe`].
#[inline(always)]
unsafe fn describe_by_socket<A: Access>(freed: &Freed, drop: &mut Record) -> Result<(), Refused> {
    // SAFETY: passed on.
    unsafe {
        drop.bytes = u64::from(field::<A, u32>(freed.skb, Field::SkbLen)?);
        let protocol = u16::from_be(field::<A, _>(freed.skb, Field::SkbProtocol)?);
        if !freed.receiver.is_null() {
            return by_socket::<A>(freed.receiver, ends::RECEIVED, drop);
        }
        let sender: Pointer = field::<A, _>(freed.skb, Field::SkbSk)?;
        if protocol == 0 {
            return by_socket::<A>(sender, ends::SENT, drop);
        }
        by_socket::<A>(sender, ends::KNOWN, drop).or_else(|_| nameless(drop))
    }
}

/// A packet of which only its socket is known, and as much of its way as `ends` says.
///
/// # Safety
/// `socket` is null or starts with a `sock_common`.
#[inline(always)]
unsafe fn by_socket<A: Access>(
    socket: Pointer,
    ends: u32,
    drop: &mut Record,
) -> Result<(), Refused> {
    if socket.is_null() {
        return Err(Refused::NotOurs);
    }
    drop.ends = ends;
    // SAFETY: passed on.
    unsafe {
        kernel::flow_key::<A>(socket, &mut drop.key)?;
        let state = kernel::state::<A>(socket)?;
        // Those are no full sockets, and have no protocol.
        if state != TIME_WAIT && state != NEW_SYN_RECV {
            drop.key.protocol = field::<A, _>(socket, Field::SkProtocol)?;
        }
    }
    Ok(())
}

/// A packet whose conversation cannot be told.
#[inline(always)]
fn nameless(drop: &mut Record) -> Result<(), Refused> {
    drop.ends = ends::NONE;
    Ok(())
}

/// Tells which end is this one's. The key has the destination as this end.
///
/// `skb->sk` is the sender's socket until the packet is received (also on a veth's other side), and
/// the receiver's where the stack looked for it early (`tcp_v4_early_demux`).
///
/// # Safety
/// As for [`describe`].
#[inline(always)]
unsafe fn ends_of<A: Access>(
    freed: &Freed,
    socket: Pointer,
    drop: &mut Record,
) -> Result<(), Refused> {
    // SAFETY: passed on.
    unsafe {
        if !freed.receiver.is_null() {
            // A packet socket's is a copy, and no loss of the conversation.
            let family: u16 = field::<A, _>(freed.receiver, Field::SkFamily)?;
            if family != AF_INET && family != AF_INET6 {
                return Err(Refused::NotOurs);
            }
            drop.ends = ends::RECEIVED;
            drop.key.netns = netns::of::<A>(freed.receiver, Field::SkNet)?;
            return Ok(());
        }
        let device: Pointer = field::<A, _>(freed.skb, Field::SkbDev)?;
        let mut known = Known::NONE;
        let here = packet::device_netns_and::<A>(device, &mut known);
        drop.ends = ends::BY_DESTINATION;
        drop.key.netns = here;
        if socket.is_null() {
            return Ok(());
        }
        let port: u16 = field::<A, _>(socket, Field::SkNum)?;
        let there = known.of::<A>(socket, Field::SkNet)?;
        if port == drop.key.peer_port && (here == 0 || here == there) {
            drop.ends = ends::SENT;
            drop.key.netns = there;
            drop.key.reverse();
        } else if port == drop.key.local_port && (here == 0 || here == there) {
            drop.ends = ends::RECEIVED;
            drop.key.netns = there;
        } else if device.is_null() {
            // On its way out, of a protocol without ports.
            drop.ends = ends::SENT;
            drop.key.netns = there;
            drop.key.reverse();
        }
    }
    Ok(())
}

macro_rules! freed {
    ($ctx:ident) => {{
        let place: Pointer = $ctx.arg(1);
        let reason = if settings::drop_has_reason() { $ctx.arg(2) } else { 0 };
        let receiver = if settings::drop_has_receiver() { $ctx.arg(3) } else { core::ptr::null() };
        Freed { skb: $ctx.arg(0), location: place as u64, reason, receiver }
    }};
}

#[btf_tracepoint(function = "kfree_skb")]
fn drop_tp_btf(ctx: BtfTracePointContext) -> i32 {
    let freed = freed!(ctx);
    // SAFETY: the tracepoint gives a packet.
    observe(&ctx, &freed, |drop| unsafe { describe::<Typed>(&freed, drop) });
    0
}

#[raw_tracepoint(tracepoint = "kfree_skb")]
fn drop_raw_tp(ctx: RawTracePointContext) -> i32 {
    let freed = freed!(ctx);
    // SAFETY: the tracepoint gives a packet.
    observe(&ctx, &freed, |drop| unsafe { describe::<Probed>(&freed, drop) });
    0
}

#[btf_tracepoint(function = "kfree_skb")]
fn drop_sockets_tp_btf(ctx: BtfTracePointContext) -> i32 {
    let freed = freed!(ctx);
    // SAFETY: the tracepoint gives a packet.
    observe(&ctx, &freed, |drop| unsafe { describe_by_socket::<Typed>(&freed, drop) });
    0
}

#[btf_tracepoint(function = "qdisc_drop")]
fn drop_qdisc_tp_btf(ctx: BtfTracePointContext) -> i32 {
    qdisc_drops(ctx.arg(3), ctx.arg(4));
    0
}

#[raw_tracepoint(tracepoint = "qdisc_drop")]
fn drop_qdisc_raw_tp(ctx: RawTracePointContext) -> i32 {
    qdisc_drops(ctx.arg(3), ctx.arg(4));
    0
}

/// Run by userspace on each CPU in turn (BPF_PROG_TEST_RUN), never attached: empties the table.
#[raw_tracepoint(tracepoint = "netdiag_flush")]
fn drop_flush(_ctx: RawTracePointContext) -> i32 {
    table::flush::<Record>(FLUSH);
    0
}
