//! Programs of the signal `dns`: messages as they pass network devices.
//!
//! They run for every packet of the node, so what is no message must cost next to nothing: a few loads
//! where a socket says enough, else one read of the headers. Both hooks run with bottom halves off: no
//! program runs inside itself, and a packet goes on only when its record is in the ring.

use aya_ebpf::{
    btf_maps::PerCpuArray,
    macros::{btf_map, btf_tracepoint, raw_tracepoint},
    programs::{BtfTracePointContext, RawTracePointContext},
};
use netdiag_common::{
    counters::Counters,
    field::Field,
    message::{HEAD, HEADER, Message},
    signal::{
        Signal,
        dns::{MOST, PORT, Record, WINDOW_NS, flag, lane},
    },
};

use crate::{
    account::{Lane, counters, sheds},
    assembly::opaque,
    filter,
    globals::location,
    kernel::{Access, Pointer, Probed, Refused, Typed, field},
    numbers::{
        ETH_P_IP, ETH_P_IPV6, IPPROTO_TCP,
        state::{NEW_SYN_RECV, TIME_WAIT},
    },
    packet::{self, Carried},
    ring,
    signal::socket,
    tracked::{self, Link},
    words,
};

const OUT: Lane = Lane::new(Signal::Dns, lane::OUT);
const IN: Lane = Lane::new(Signal::Dns, lane::IN);

/// What a program keeps between two messages.
#[repr(C)]
struct Kept {
    /// What it is about to tell: the stack has no room for it.
    record: Record,
    /// When the window began that `told` counts in.
    window_ns: u64,
    told: u64,
    /// Packets that went into the ring that wakes nobody.
    packets: u64,
}

/// By program.
#[btf_map]
static KEPT: PerCpuArray<Kept, 2> = PerCpuArray::new();

/// A packet that is given to a device.
///
/// # Safety
/// `skb` is an `sk_buff`.
#[inline(always)]
unsafe fn leaves<A: Access>(skb: Pointer) -> Option<()> {
    // SAFETY: passed on.
    unsafe {
        let ethertype = ethertype::<A>(skb)?;
        let sk: Pointer = field::<A, _>(skb, Field::SkbSk).ok()?;
        if !sk.is_null() && is_elsewhere::<A>(sk).ok()? {
            return None;
        }
        let carried = packet::carried(packet::header::<A>(skb).ok()?, ethertype)?;
        consider::<A>(skb, &carried, flag::OUT, OUT);
    }
    Some(())
}

/// A packet that a device has. What it carries begins with the header of IP; where that is nobody has said yet.
///
/// # Safety
/// `skb` is an `sk_buff`.
#[inline(always)]
unsafe fn arrives<A: Access>(skb: Pointer) -> Option<()> {
    // SAFETY: passed on.
    unsafe {
        let ethertype = ethertype::<A>(skb)?;
        let packet: Pointer = field::<A, _>(skb, Field::SkbData).ok()?;
        let carried = packet::carried(packet, ethertype)?;
        consider::<A>(skb, &carried, 0, IN);
    }
    Some(())
}

/// `ETH_P_IP` or `ETH_P_IPV6`, none for all else.
///
/// # Safety
/// `skb` is an `sk_buff`.
#[inline(always)]
unsafe fn ethertype<A: Access>(skb: Pointer) -> Option<u16> {
    // SAFETY: passed on.
    let ethertype = u16::from_be(unsafe { field::<A, u16>(skb, Field::SkbProtocol) }.ok()?);
    (ethertype == ETH_P_IP || ethertype == ETH_P_IPV6).then_some(ethertype)
}

/// Whether a socket's packets are no messages, by its ports. UDP may send elsewhere than where it is
/// connected.
///
/// # Safety
/// `sk` starts with a `sock_common`.
#[inline(always)]
unsafe fn is_elsewhere<A: Access>(sk: Pointer) -> Result<bool, Refused> {
    // SAFETY: passed on; those in other states are no full sockets, and TCP's alone.
    unsafe {
        if field::<A, u16>(sk, Field::SkDport)? == PORT.to_be()
            || field::<A, u16>(sk, Field::SkNum)? == PORT
        {
            return Ok(false);
        }
        let state = i32::from(field::<A, u8>(sk, Field::SkState)?);
        Ok(state == TIME_WAIT
            || state == NEW_SYN_RECV
            || field::<A, u16>(sk, Field::SkProtocol)? == IPPROTO_TCP)
    }
}

/// Looks at the ports of a packet, and at the rest only where it may be a message.
///
/// # Safety
/// `skb` is an `sk_buff`, and `carried` what it carries.
#[inline(always)]
unsafe fn consider<A: Access>(skb: Pointer, carried: &Carried, flags: u16, lane: Lane) {
    let to_server = carried.destination() == PORT;
    if !to_server && carried.source() != PORT {
        return;
    }
    let (Some(counters), Some(kept)) =
        (counters(lane), KEPT.get_ptr_mut(u32::from(flags & flag::OUT == 0)))
    else {
        return;
    };
    let flags = if to_server { flags | flag::TO_SERVER } else { flags };
    // SAFETY: the element of this CPU lives as long as the map, and a program has its own.
    let kept = unsafe { &mut *opaque(kept) };
    // SAFETY: plain data.
    unsafe { words::zero(&raw mut kept.record) };
    kept.record.flags = flags;
    // SAFETY: passed on.
    match unsafe { describe::<A>(skb, carried, &mut kept.record) } {
        // SAFETY: passed on.
        Ok(()) if wanted(&kept.record) => unsafe { submit::<A>(skb, kept, counters) },
        Ok(()) => {
            counters.seen += 1;
            counters.filtered += 1;
        }
        Err(Refused::NotOurs) => {}
        Err(Refused::Fault) => {
            counters.seen += 1;
            counters.read_failed += 1;
        }
    }
}

/// Hands a record on, unless there are too many.
///
/// # Safety
/// `skb` is an `sk_buff`.
#[inline(always)]
unsafe fn submit<A: Access>(skb: Pointer, kept: &mut Kept, counters: &mut Counters) {
    /// A fraction of what the smallest ring for packets holds.
    const WAKE_EVERY: u64 = 64;
    if sheds(Signal::Dns, counters) {
        return;
    }
    counters.seen += 1;
    let header = socket::header(Signal::Dns, 1);
    if header.time_ns.wrapping_sub(kept.window_ns) >= WINDOW_NS {
        kept.window_ns = header.time_ns;
        kept.told = 0;
    }
    kept.told += 1;
    if kept.told > MOST {
        counters.rate_limited += 1;
        return;
    }
    kept.record.header = header;
    let (record, len) = ((&raw const kept.record).cast(), size_of::<Record>() as u64);
    // SAFETY: initialised, without padding.
    unsafe {
        if A::TYPED && kept.record.flags & flag::PACKET != 0 {
            let packet_len = u32::from(kept.record.before) + kept.record.length.min(HEAD as u32);
            ring::submit_packet(skb, packet_len, record, len, counters);
            kept.packets += 1;
            if kept.packets.is_multiple_of(WAKE_EVERY) {
                ring::wake();
            }
        } else {
            ring::submit_batch(record, len, 1, counters);
        }
    }
}

/// Whether the filters let a message pass. Whose it is nobody knows.
#[inline(always)]
fn wanted(record: &Record) -> bool {
    if !filter::active() {
        return true;
    }
    let asked = if record.flags & flag::TRACKED != 0 { &record.asked } else { &record.key };
    !filter::by_owner() && filter::accepts(asked)
}

/// Reads a message and whose it is. `NotOurs`: it is none.
///
/// # Safety
/// As for [`consider`].
#[inline(always)]
unsafe fn describe<A: Access>(
    skb: Pointer,
    carried: &Carried,
    record: &mut Record,
) -> Result<(), Refused> {
    /// Where the header of TCP says how long it is.
    const DATA_OFFSET: usize = 12;
    /// Bytes of the header of UDP.
    const UDP: usize = 8;
    // SAFETY: fields of the sk_buff, of its device and of its entry in connection tracking.
    unsafe {
        let data: Pointer = field::<Probed, _>(skb, Field::SkbData)?;
        let packet =
            if record.flags & flag::OUT == 0 { data } else { packet::header::<Probed>(skb)? };
        let at = packet.wrapping_byte_add(carried.offset);
        let header = if carried.is_tcp() {
            record.seq = carried.sequence();
            let byte: u8 = Probed::load(at, DATA_OFFSET)?;
            4 * usize::from(byte >> 4)
        } else {
            UDP
        };
        let at = at.wrapping_byte_add(header);
        // Headers take less than 64 KiB: their offsets are of 16 bits.
        record.before = (at as u64).wrapping_sub(data as u64) as u16;
        let (before, len) = (u32::from(record.before), field::<Probed, u32>(skb, Field::SkbLen)?);
        record.length = len.saturating_sub(before);
        if record.length < HEADER {
            return Err(Refused::NotOurs);
        }
        let in_pages: u32 = field::<Probed, _>(skb, Field::SkbDataLen)?;
        let to_server = record.flags & flag::TO_SERVER != 0;
        if before + record.length.min(HEAD as u32) > len.wrapping_sub(in_pages) {
            if !A::TYPED {
                return Err(Refused::NotOurs);
            }
            record.flags |= flag::PACKET;
        } else {
            record.head = Probed::load::<[u8; HEAD]>(at, 0)?;
            if Message::read(&record.head, record.length, to_server, carried.is_tcp()).is_none() {
                return Err(Refused::NotOurs);
            }
        }
        packet::outermost(packet, &mut record.key)?;
        if to_server {
            record.key.reverse();
        }
        let device: Pointer = field::<Probed, _>(skb, Field::SkbDev)?;
        record.key.netns = packet::device_netns::<Probed>(device);
        record.ifindex = field::<Probed, _>(device, Field::DevIfindex)?;
        began(skb, record)
    }
}

/// Reads how the conversation began, where connection tracking knows.
///
/// # Safety
/// `skb` is an `sk_buff`.
#[inline(always)]
unsafe fn began(skb: Pointer, record: &mut Record) -> Result<(), Refused> {
    if !location(Field::SkbNfct).exists() || !location(Field::CtTuples).exists() {
        return Ok(());
    }
    // SAFETY: passed on.
    unsafe {
        let entry = Link::of(skb)?.entry();
        if entry.is_null() {
            return Ok(());
        }
        record.asked.netns = record.key.netns;
        tracked::began(entry, &mut record.asked)?;
        // An entry may be for what the packet is about, or have begun with an answer.
        if record.asked.protocol == record.key.protocol && record.asked.peer_port == PORT {
            record.flags |= flag::TRACKED;
        } else {
            words::zero(&raw mut record.asked);
        }
    }
    Ok(())
}

#[btf_tracepoint(function = "net_dev_queue")]
fn dns_out_tp_btf(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: the tracepoint gives a packet.
    let _is_message = unsafe { leaves::<Typed>(ctx.arg(0)) };
    0
}

#[btf_tracepoint(function = "netif_receive_skb")]
fn dns_in_tp_btf(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: the tracepoint gives a packet.
    let _is_message = unsafe { arrives::<Typed>(ctx.arg(0)) };
    0
}

#[raw_tracepoint(tracepoint = "net_dev_queue")]
fn dns_out_raw_tp(ctx: RawTracePointContext) -> i32 {
    // SAFETY: the tracepoint gives a packet.
    let _is_message = unsafe { leaves::<Probed>(ctx.arg(0)) };
    0
}

#[raw_tracepoint(tracepoint = "netif_receive_skb")]
fn dns_in_raw_tp(ctx: RawTracePointContext) -> i32 {
    // SAFETY: the tracepoint gives a packet.
    let _is_message = unsafe { arrives::<Probed>(ctx.arg(0)) };
    0
}
