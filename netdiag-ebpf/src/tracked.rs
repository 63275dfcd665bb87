//! Entries of the connection tracking table, as the kernel keeps them (`struct nf_conn`,
//! `include/net/netfilter/nf_conntrack.h`).

use netdiag_common::{
    field::Field,
    flow::FlowKey,
    signal::conntrack::{Record, Tuple, has_ports},
};

use crate::{
    globals::location,
    kernel::{Pointer, Probed, Refused, field, mapped},
    numbers::AF_INET,
};

/// Bits of `skb->_nfct` that are not the entry's address (`NFCT_INFOMASK`).
const INFO: u64 = 7;
/// `IP_CT_IS_REPLY` (include/uapi/linux/netfilter/nf_conntrack_common.h).
const IS_REPLY: u64 = 3;

/// `IPS_CONFIRMED`.
const CONFIRMED: u64 = 1 << 3;
/// `IPS_NAT_CLASH`.
const NAT_CLASH: u64 = 1 << 12;

/// What a packet carries of its entry.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Link(u64);

impl Link {
    /// Of a packet.
    ///
    /// # Safety
    /// `skb` is an `sk_buff`.
    #[inline(always)]
    pub(crate) unsafe fn of(skb: Pointer) -> Result<Self, Refused> {
        // SAFETY: see above.
        unsafe { field::<Probed, u64>(skb, Field::SkbNfct) }.map(Self)
    }

    /// The entry, null where the packet has none.
    #[inline(always)]
    pub(crate) const fn entry(self) -> Pointer {
        (self.0 & !INFO) as Pointer
    }

    /// Whether nothing was ever said of the packet, not even that it is not to be tracked.
    #[inline(always)]
    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether the packet goes the way of the conversation's first one.
    #[inline(always)]
    pub(crate) const fn is_original(self) -> bool {
        self.0 & INFO < IS_REPLY
    }
}

/// Whether an entry was put into the table.
///
/// # Safety
/// `entry` is an `nf_conn`.
#[inline(always)]
pub(crate) unsafe fn is_confirmed(entry: Pointer) -> Result<bool, Refused> {
    // SAFETY: passed on.
    Ok(unsafe { field::<Probed, u64>(entry, Field::CtStatus) }? & CONFIRMED != 0)
}

/// Whether it was in spite of another one for the same conversation.
///
/// # Safety
/// `entry` is an `nf_conn`.
#[inline(always)]
pub(crate) unsafe fn is_clashing(entry: Pointer) -> Result<bool, Refused> {
    // SAFETY: passed on.
    Ok(unsafe { field::<Probed, u64>(entry, Field::CtStatus) }? & NAT_CLASH != 0)
}

/// Reads how the conversation of an entry began, who began it as this end. Leaves the namespace alone.
///
/// # Safety
/// `entry` is an `nf_conn`.
#[inline(always)]
pub(crate) unsafe fn began(entry: Pointer, key: &mut FlowKey) -> Result<(), Refused> {
    let tuples = entry.wrapping_byte_add(location(Field::CtTuples).offset());
    let original = tuples.wrapping_byte_add(location(Field::CtTuple).offset());
    let mut first = Tuple::default();
    // SAFETY: passed on.
    unsafe {
        key.protocol = u16::from(field::<Probed, u8>(original, Field::TupleProtocol)?);
        tuple(original, key.protocol, &mut first)?;
    }
    (key.local_addr, key.local_port) = (first.source, first.source_port);
    (key.peer_addr, key.peer_port) = (first.destination, first.destination_port);
    Ok(())
}

/// Reads which conversation an entry is for.
///
/// # Safety
/// `entry` is an `nf_conn`.
#[inline(always)]
pub(crate) unsafe fn describe(entry: Pointer, to: &mut Record) -> Result<(), Refused> {
    /// Bytes of `nf_conntrack_tuple_hash`, of which an entry has two: what [`Field::CtTuples`] is.
    const TUPLE_HASH: usize = 56;
    let tuples = entry.wrapping_byte_add(location(Field::CtTuples).offset());
    let original = tuples.wrapping_byte_add(location(Field::CtTuple).offset());
    // SAFETY: passed on.
    unsafe {
        to.netns = netns(field::<Probed, _>(entry, Field::CtNet)?)?;
        if location(Field::CtZone).exists() {
            to.zone = field::<Probed, _>(entry, Field::CtZone)?;
        }
        conversation(original, original.wrapping_byte_add(TUPLE_HASH), to)
    }
}

/// Reads both directions of a conversation.
///
/// # Safety
/// Both are `nf_conntrack_tuple`s.
#[inline(always)]
pub(crate) unsafe fn conversation(
    original: Pointer,
    reply: Pointer,
    to: &mut Record,
) -> Result<(), Refused> {
    // SAFETY: passed on.
    unsafe {
        to.protocol = u16::from(field::<Probed, u8>(original, Field::TupleProtocol)?);
        tuple(original, to.protocol, &mut to.original)?;
        tuple(reply, to.protocol, &mut to.reply)
    }
}

/// # Safety
/// `at` is an `nf_conntrack_tuple`.
#[inline(always)]
unsafe fn tuple(at: Pointer, protocol: u16, to: &mut Tuple) -> Result<(), Refused> {
    // SAFETY: passed on.
    unsafe {
        if field::<Probed, u16>(at, Field::TupleFamily)? == AF_INET {
            mapped(&mut to.source, field::<Probed, _>(at, Field::TupleSource)?);
            mapped(&mut to.destination, field::<Probed, _>(at, Field::TupleDestination)?);
        } else {
            to.source = field::<Probed, _>(at, Field::TupleSource)?;
            to.destination = field::<Probed, _>(at, Field::TupleDestination)?;
        }
        if has_ports(protocol) {
            to.source_port = u16::from_be(field::<Probed, _>(at, Field::TupleSourcePort)?);
            to.destination_port =
                u16::from_be(field::<Probed, _>(at, Field::TupleDestinationPort)?);
        }
    }
    Ok(())
}

/// The number of a namespace.
///
/// # Safety
/// `net` is a `struct net`.
#[inline(always)]
pub(crate) unsafe fn netns(net: Pointer) -> Result<u32, Refused> {
    // SAFETY: passed on.
    unsafe { field::<Probed, _>(net, Field::NetInum) }
}

/// The number of a zone.
///
/// # Safety
/// `zone` is a `struct nf_conntrack_zone`.
#[inline(always)]
pub(crate) unsafe fn zone(zone: Pointer) -> Result<u16, Refused> {
    if !location(Field::ZoneId).exists() {
        return Ok(0);
    }
    // SAFETY: passed on.
    unsafe { field::<Probed, _>(zone, Field::ZoneId) }
}
