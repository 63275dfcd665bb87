//! The conversation that a packet belongs to, by its headers; of an encapsulated packet the inner
//! one's.

use netdiag_common::{field::Field, flow::FlowKey};
use network_types::{
    eth::EthHdr,
    geneve::GeneveHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
    vxlan::VxlanHdr,
};

use crate::{
    kernel::{self, Access, Pointer, Probed, Refused, field, mapped},
    numbers::ETH_P_IP,
};

// IANA protocol numbers
const HOP_BY_HOP: u8 = 0;
const IPV4: u8 = 4;
const TCP: u8 = 6;
const UDP: u8 = 17;
const IPV6: u8 = 41;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;
const SCTP: u8 = 132;

/// RFC 7348, and the port that Linux had before it.
const VXLAN: [u16; 2] = [4789, 8472];
/// RFC 8926.
const GENEVE: u16 = 6081;
/// EtherType of Ethernet in Geneve.
const TRANSPARENT_ETHERNET: u16 = 0x6558;

/// Headers between an IPv6 header and its payload that are followed.
const EXTENSIONS: usize = 4;

/// `skb->network_header` that is not set.
const UNSET: u16 = u16::MAX;

/// Inode numbers of namespaces are counted from `PROC_DYNAMIC_FIRST` (fs/proc/generic.c), those of the
/// first ones lie a little below (include/uapi/linux/nsfs.h). What else is read for one is most likely
/// half of an address.
const NETNS: core::ops::Range<u32> = 0xefff_ff00..0xf010_0000;

/// Where the IP header of an `sk_buff` is.
///
/// # Safety
/// `skb` is an `sk_buff`.
#[inline(always)]
pub(crate) unsafe fn header<A: Access>(skb: Pointer) -> Result<Pointer, Refused> {
    // SAFETY: passed on.
    let (header, head): (u16, Pointer) = unsafe {
        (field::<A, _>(skb, Field::SkbNetworkHeader)?, field::<A, _>(skb, Field::SkbHead)?)
    };
    if header == UNSET {
        return Err(Refused::Fault);
    }
    Ok(head.wrapping_byte_add(usize::from(header)))
}

/// The network namespace of the device that a packet is on, 0 where it is on none: queues put something
/// else into its place, which is no address or leads to no namespace.
///
/// # Safety
/// `device` is what an `sk_buff` has for its device.
#[inline(always)]
pub(crate) unsafe fn device_netns<A: Access>(device: Pointer) -> u32 {
    if device.is_null() {
        return 0;
    }
    // SAFETY: passed on; the access survives any address.
    let found = unsafe { kernel::netns::<A>(device, Field::DevNet) };
    found.ok().filter(|inode| NETNS.contains(inode)).unwrap_or(0)
}

/// Where an IP packet's payload is.
struct Payload {
    at: Pointer,
    protocol: u8,
    /// It begins with the header of its protocol: no later fragment.
    first: bool,
}

/// Reads the conversation of the IP packet at `packet`, its destination as this end. Leaves
/// `key.netns` alone.
#[inline(always)]
pub(crate) fn conversation(packet: Pointer, key: &mut FlowKey) -> Result<(), Refused> {
    let inner = read(packet, key)?;
    if !inner.is_null() {
        // What follows may be anything; then the outer conversation is all there is.
        let mut outer = *key;
        match read(inner, key) {
            Ok(_) => {}
            Err(_) => core::mem::swap(key, &mut outer),
        }
    }
    Ok(())
}

/// The same of the packet itself, whatever it encapsulates.
#[inline(always)]
pub(crate) fn outermost(packet: Pointer, key: &mut FlowKey) -> Result<(), Refused> {
    read(packet, key).map(|_| ())
}

// Flags of TCP (RFC 9293).
const FIN: u8 = 0x01;
const RST: u8 = 0x04;

/// Whether the IP packet at `packet` is a TCP segment with FIN or RST.
#[inline(always)]
pub(crate) fn is_closing(packet: Pointer) -> bool {
    has_flags(packet, FIN | RST)
}

/// Whether it is one with RST.
#[inline(always)]
pub(crate) fn is_reset(packet: Pointer) -> bool {
    has_flags(packet, RST)
}

/// Whether it is one with any of these flags.
#[inline(always)]
fn has_flags(packet: Pointer, any: u8) -> bool {
    const FLAGS: usize = 13;
    let mut key = FlowKey::default();
    let Ok(Payload { at, protocol: TCP, first: true }) = addresses(packet, &mut key) else {
        return false;
    };
    // SAFETY: the access survives any address.
    let flags: Result<u8, _> = unsafe { Probed::load(at, FLAGS) };
    flags.is_ok_and(|flags| flags & any != 0)
}

/// Reads one packet's conversation; returns the packet that it encapsulates, or null.
#[inline(always)]
fn read(packet: Pointer, key: &mut FlowKey) -> Result<Pointer, Refused> {
    let payload = addresses(packet, key)?;
    key.protocol = u16::from(payload.protocol);
    (key.local_port, key.peer_port) = (0, 0);
    match payload.protocol {
        IPV4 | IPV6 if payload.first => return Ok(payload.at),
        TCP | UDP | SCTP if payload.first => {}
        _ => return Ok(core::ptr::null()),
    }
    // All three begin with the ports.
    // SAFETY: the access survives any address.
    let ports: [[u8; 2]; 2] = unsafe { Probed::load(payload.at, 0) }?;
    key.peer_port = u16::from_be_bytes(ports[0]);
    key.local_port = u16::from_be_bytes(ports[1]);
    if payload.protocol != UDP {
        return Ok(core::ptr::null());
    }
    let within = payload.at.wrapping_byte_add(size_of::<UdpHdr>());
    if key.local_port == VXLAN[0] || key.local_port == VXLAN[1] {
        return Ok(within.wrapping_byte_add(size_of::<VxlanHdr>() + size_of::<EthHdr>()));
    }
    if key.local_port == GENEVE {
        // SAFETY: as above.
        let header: GeneveHdr = unsafe { Probed::load(within, 0) }?;
        let ethernet = u16::from_be_bytes(header.protocol_type) == TRANSPARENT_ETHERNET;
        let options = 4 * usize::from(header.ver_opt_len & 0x3f);
        let link = if ethernet { size_of::<EthHdr>() } else { 0 };
        return Ok(within.wrapping_byte_add(size_of::<GeneveHdr>() + options + link));
    }
    Ok(core::ptr::null())
}

/// Reads an IP header and finds what it carries.
#[inline(always)]
fn addresses(packet: Pointer, key: &mut FlowKey) -> Result<Payload, Refused> {
    // SAFETY: the access survives any address, here and below.
    let version: u8 = unsafe { Probed::load(packet, 0) }?;
    match version >> 4 {
        4 => {
            // SAFETY: see above.
            let header: Ipv4Hdr = unsafe { Probed::load(packet, 0) }?;
            mapped(&mut key.peer_addr, u32::from_ne_bytes(header.src_addr));
            mapped(&mut key.local_addr, u32::from_ne_bytes(header.dst_addr));
            let length = 4 * usize::from(header.vihl & 0xf);
            if length < size_of::<Ipv4Hdr>() {
                return Err(Refused::NotOurs);
            }
            let fragment = u16::from_be_bytes(header.frags) & 0x1fff;
            let at = packet.wrapping_byte_add(length);
            Ok(Payload { at, protocol: header.proto, first: fragment == 0 })
        }
        6 => {
            // SAFETY: see above.
            let header: Ipv6Hdr = unsafe { Probed::load(packet, 0) }?;
            key.peer_addr = header.src_addr;
            key.local_addr = header.dst_addr;
            let at = packet.wrapping_byte_add(size_of::<Ipv6Hdr>());
            beyond_extensions(Payload { at, protocol: header.next_hdr, first: true })
        }
        _ => Err(Refused::NotOurs),
    }
}

/// Passes over the extension headers of IPv6 (RFC 8200 section 4).
#[inline(always)]
fn beyond_extensions(mut payload: Payload) -> Result<Payload, Refused> {
    let mut passed = 0;
    while passed < EXTENSIONS {
        passed += 1;
        let length = match payload.protocol {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | FRAGMENT => {
                // SAFETY: the access survives any address.
                let head: [u8; 4] = unsafe { Probed::load(payload.at, 0) }?;
                let fragment = payload.protocol == FRAGMENT;
                if fragment && u16::from_be_bytes([head[2], head[3]]) >> 3 != 0 {
                    payload.first = false;
                }
                payload.protocol = head[0];
                if fragment { 8 } else { 8 * (usize::from(head[1]) + 1) }
            }
            _ => break,
        };
        payload.at = payload.at.wrapping_byte_add(length);
    }
    Ok(payload)
}

/// What an IP packet carries: TCP or UDP, from its beginning.
pub(crate) struct Carried {
    /// `IPPROTO_TCP` or `IPPROTO_UDP`.
    pub(crate) protocol: u8,
    /// Bytes of IP headers before it.
    pub(crate) offset: usize,
    /// Its first bytes: the ports, and of UDP the length, of TCP the sequence number.
    pub(crate) start: [u8; 8],
}

impl Carried {
    #[inline(always)]
    pub(crate) const fn is_tcp(&self) -> bool {
        self.protocol == TCP
    }

    /// Where it comes from.
    #[inline(always)]
    pub(crate) const fn source(&self) -> u16 {
        u16::from_be_bytes([self.start[0], self.start[1]])
    }

    /// The sequence number of its first byte; of TCP only.
    #[inline(always)]
    pub(crate) const fn sequence(&self) -> u32 {
        u32::from_be_bytes([self.start[4], self.start[5], self.start[6], self.start[7]])
    }

    /// Where it goes.
    #[inline(always)]
    pub(crate) const fn destination(&self) -> u16 {
        u16::from_be_bytes([self.start[2], self.start[3]])
    }
}

/// Reads what the IP packet at `packet` carries, with one read in nearly all cases: this runs for every
/// packet of the node. None where that is no TCP or UDP, or a later fragment.
#[inline(always)]
pub(crate) fn carried(packet: Pointer, ethertype: u16) -> Option<Carried> {
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Packet<H> {
        header: H,
        start: [u8; 8],
    }
    const PLAIN: u8 = 0x45;
    // SAFETY: the access survives any address, here and below.
    if ethertype == ETH_P_IP {
        let read: Packet<Ipv4Hdr> = unsafe { Probed::load(packet, 0) }.ok()?;
        let protocol = read.header.proto;
        let is_first = u16::from_be_bytes(read.header.frags) & 0x1fff == 0;
        if (protocol != TCP && protocol != UDP) || !is_first {
            return None;
        }
        if read.header.vihl == PLAIN {
            return Some(Carried { protocol, offset: size_of::<Ipv4Hdr>(), start: read.start });
        }
        let offset = 4 * usize::from(read.header.vihl & 0xf);
        // SAFETY: see above.
        let start = unsafe { Probed::load(packet.wrapping_byte_add(offset), 0) }.ok()?;
        return Some(Carried { protocol, offset, start });
    }
    // SAFETY: see above.
    let read: Packet<Ipv6Hdr> = unsafe { Probed::load(packet, 0) }.ok()?;
    let protocol = read.header.next_hdr;
    if protocol == TCP || protocol == UDP {
        return Some(Carried { protocol, offset: size_of::<Ipv6Hdr>(), start: read.start });
    }
    if !matches!(protocol, HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | FRAGMENT) {
        return None;
    }
    let at = packet.wrapping_byte_add(size_of::<Ipv6Hdr>());
    let payload = beyond_extensions(Payload { at, protocol, first: true }).ok()?;
    if (payload.protocol != TCP && payload.protocol != UDP) || !payload.first {
        return None;
    }
    // SAFETY: see above.
    let start = unsafe { Probed::load(payload.at, 0) }.ok()?;
    let offset = (payload.at as usize).wrapping_sub(packet as usize);
    Some(Carried { protocol: payload.protocol, offset, start })
}
