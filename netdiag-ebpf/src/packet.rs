//! The conversation that a packet belongs to, by its headers; of an encapsulated packet the inner
//! one's.

use core::mem::MaybeUninit;

use netdiag_common::{field::Field, flow::FlowKey};
use network_types::{
    eth::EthHdr,
    geneve::GeneveHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
    vxlan::VxlanHdr,
};

use crate::{
    kernel::{self, Access, Pointer, Probed, Refused, field, mapped, write_address},
    netns::{self, Known},
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
    plausible(unsafe { netns::of::<A>(device, Field::DevNet) })
}

/// The same for who asks for that of a socket next, which is most likely the same one.
///
/// # Safety
/// As for [`device_netns`].
#[inline(always)]
pub(crate) unsafe fn device_netns_and<A: Access>(device: Pointer, known: &mut Known) -> u32 {
    if device.is_null() {
        return 0;
    }
    // SAFETY: as above.
    plausible(unsafe { known.of::<A>(device, Field::DevNet) })
}

/// What was read for the number of a namespace, where it may be one.
#[inline(always)]
fn plausible(found: Result<u32, Refused>) -> u32 {
    found.ok().filter(|inode| NETNS.contains(inode)).unwrap_or(0)
}

/// Where an IP packet's payload is.
struct Payload {
    at: Pointer,
    protocol: u8,
    /// It begins with the header of its protocol: no later fragment.
    first: bool,
    /// Its first four bytes, where they were read with the header.
    start: Option<u32>,
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
    let Ok(Payload { at, protocol: TCP, first: true, .. }) = parse(packet, None) else {
        return false;
    };
    // SAFETY: the access survives any address.
    let flags: Result<u8, _> = unsafe { Probed::load(at, FLAGS) };
    flags.is_ok_and(|flags| flags & any != 0)
}

/// Reads one packet's conversation; returns the packet that it encapsulates, or null.
#[inline(always)]
fn read(packet: Pointer, key: &mut FlowKey) -> Result<Pointer, Refused> {
    let payload = parse(packet, Some(&mut *key))?;
    key.protocol = u16::from(payload.protocol);
    (key.local_port, key.peer_port) = (0, 0);
    match payload.protocol {
        IPV4 | IPV6 if payload.first => return Ok(payload.at),
        TCP | UDP | SCTP if payload.first => {}
        _ => return Ok(core::ptr::null()),
    }
    // All three begin with the ports.
    let ports = match payload.start {
        Some(ports) => ports,
        // SAFETY: the access survives any address.
        None => unsafe { Probed::load(payload.at, 0) }?,
    };
    key.peer_port = u16::from_be(ports as u16);
    key.local_port = u16::from_be((ports >> 16) as u16);
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

/// Words of the header of IPv4 without options.
const WORDS_V4: usize = size_of::<Ipv4Hdr>() / 4;
/// Words of the header of IPv6.
const WORDS_V6: usize = size_of::<Ipv6Hdr>() / 4;

/// Reads an IP header, with its addresses into `key`, and finds what it carries.
///
/// One read has either header, and the first word behind it: where there is an IP header, that is memory of the packet's
/// (`skb_shared_info` lies behind the bytes of a packet).
#[inline(always)]
fn parse(packet: Pointer, key: Option<&mut FlowKey>) -> Result<Payload, Refused> {
    let mut words = MaybeUninit::uninit();
    let words: &[u32; WORDS_V6 + 1] = kernel::read_words(packet, &mut words)?;
    match words[0] as u8 >> 4 {
        4 => {
            let length = 4 * (words[0] as usize & 0xf);
            if length < size_of::<Ipv4Hdr>() {
                return Err(Refused::NotOurs);
            }
            if let Some(key) = key {
                mapped(&mut key.peer_addr, words[3]);
                mapped(&mut key.local_addr, words[4]);
            }
            let fragment = u16::from_be((words[1] >> 16) as u16) & 0x1fff;
            Ok(Payload {
                at: packet.wrapping_byte_add(length),
                protocol: (words[2] >> 8) as u8,
                first: fragment == 0,
                start: (length == size_of::<Ipv4Hdr>()).then_some(words[WORDS_V4]),
            })
        }
        6 => {
            if let Some(key) = key {
                write_address(&mut key.peer_addr, words[2], words[3], words[4], words[5]);
                write_address(&mut key.local_addr, words[6], words[7], words[8], words[9]);
            }
            beyond_extensions(Payload {
                at: packet.wrapping_byte_add(size_of::<Ipv6Hdr>()),
                protocol: (words[1] >> 16) as u8,
                first: true,
                start: Some(words[WORDS_V6]),
            })
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
        payload.start = None;
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
    if ethertype == ETH_P_IP {
        // SAFETY: the access survives any address, here and below.
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
    let payload = Payload { at, protocol, first: true, start: None };
    let payload = beyond_extensions(payload).ok()?;
    if (payload.protocol != TCP && payload.protocol != UDP) || !payload.first {
        return None;
    }
    // SAFETY: see above.
    let start = unsafe { Probed::load(payload.at, 0) }.ok()?;
    let offset = (payload.at as usize).wrapping_sub(packet as usize);
    Some(Carried { protocol: payload.protocol, offset, start })
}
