//! What dropped packets tell of connection tracking, where its functions have no hooks.

use core::mem::MaybeUninit;

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use netdiag_common::{
    field::Field,
    flow::FlowKey,
    signal::{
        Signal,
        conntrack::{Record, what},
    },
};

use super::wanted;
use crate::{
    account::Lane,
    globals::settings,
    kernel::{self, Pointer, Probed, Refused, field},
    netns,
    numbers::state::{NEW_SYN_RECV, SYN_SENT, TIME_WAIT},
    packet,
    table::{self, Counting},
    task,
    tracked::{self, Link},
    words,
};

const PACKET: Lane = Lane::new(Signal::Conntrack, 2);

/// Netfilter drops a packet that has no entry: none could be made; or one that is not in the table: it
/// could not be put there. (A rule of iptables drops new conversations at the same place.)
#[raw_tracepoint(tracepoint = "kfree_skb")]
fn conntrack_packets_raw_tp(ctx: RawTracePointContext) -> i32 {
    let place: Pointer = ctx.arg(1);
    if !settings::is_dropped_by_hooks(place as u64, ctx.arg(2)) {
        return 0;
    }
    let skb: Pointer = ctx.arg(0);
    // SAFETY: the tracepoint gives a packet, which holds its entry.
    let link = unsafe { Link::of(skb) };
    let is_one = link.and_then(|link| match link.entry() {
        entry if entry.is_null() => Ok(link.is_empty()),
        // SAFETY: as above.
        entry => unsafe { tracked::is_confirmed(entry) }.map(|is_confirmed| !is_confirmed),
    });
    if is_one == Ok(false) {
        return 0;
    }
    table::with(PACKET, |counting: Counting<Record>, record| {
        let described = is_one.and(link).and_then(|link| {
            // SAFETY: as above.
            unsafe {
                if link.is_empty() {
                    record.what = what::TABLE_FULL;
                    describe(skb, record)?;
                } else {
                    record.what = what::INSERT_FAILED;
                    tracked::describe(link.entry(), record)?;
                }
                sender(skb, record)
            }
        });
        let wanted = described.map(|()| wanted(record));
        counting.count(record, wanted);
    });
    0
}

/// Reads a packet's conversation from its headers.
///
/// # Safety
/// `skb` is an `sk_buff`.
#[inline(always)]
unsafe fn describe(skb: Pointer, record: &mut Record) -> Result<(), Refused> {
    let mut key = MaybeUninit::<FlowKey>::uninit();
    // SAFETY: zeros are a key.
    let key = unsafe { words::zeros(&mut key) };
    // SAFETY: passed on, and what it points to.
    unsafe {
        packet::outermost(packet::header::<Probed>(skb)?, key)?;
        let socket: Pointer = field::<Probed, _>(skb, Field::SkbSk)?;
        record.netns = packet::device_netns::<Probed>(field::<Probed, _>(skb, Field::SkbDev)?);
        if record.netns == 0 && !socket.is_null() {
            record.netns = netns::of::<Probed>(socket, Field::SkNet)?;
        }
    }
    record.protocol = key.protocol;
    record.original.source = key.peer_addr;
    record.original.destination = key.local_addr;
    record.original.source_port = key.peer_port;
    record.original.destination_port = key.local_port;
    Ok(())
}

/// The process that sends the packet, where it does so now: a socket of this namespace that sends in
/// its caller's context. TCP does for the first SYN alone.
///
/// # Safety
/// `skb` is an `sk_buff`.
#[inline(always)]
unsafe fn sender(skb: Pointer, record: &mut Record) -> Result<(), Refused> {
    // SAFETY: passed on, and what it points to.
    unsafe {
        let socket: Pointer = field::<Probed, _>(skb, Field::SkbSk)?;
        if socket.is_null() {
            return Ok(());
        }
        let state = kernel::state::<Probed>(socket)?;
        if state == TIME_WAIT || state == NEW_SYN_RECV {
            return Ok(());
        }
        if netns::of::<Probed>(socket, Field::SkNet)? != record.netns {
            return Ok(());
        }
        if kernel::is_tcp::<Probed>(socket)?
            && (state != SYN_SENT || field::<Probed, u8>(socket, Field::Retransmits)? != 0)
        {
            return Ok(());
        }
    }
    task::process(&mut record.pid, &mut record.comm)
}
