//! The bytes of an event (`ctnetlink_conntrack_event`, `net/netfilter/nf_conntrack_netlink.c`).

use netdiag_common::{flow, signal::conntrack::has_ports};
use netlink_packet_core::{NlaBuffer, NlasIterator};

pub use netdiag_common::signal::conntrack::Tuple;

/// A connection that is tracked from now on, or no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Inode number of the namespace.
    pub netns: u32,
    /// Its zone; 0 unless a rule chose one.
    pub zone: u16,
    /// What happened to it.
    pub what: What,
    /// `enum ip_conntrack_status` (`include/uapi/linux/netfilter/nf_conntrack_common.h`).
    pub status: u32,
    /// As in the IP header.
    pub protocol: u8,
    /// As its first packet came.
    pub original: Tuple,
    /// As answers come; another than the reverse of the former where addresses are translated.
    pub reply: Tuple,
}

/// What happened to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// It was put into the table.
    New,
    /// It was taken out.
    Destroyed,
}

/// `NFNL_SUBSYS_CTNETLINK` with `IPCTNL_MSG_CT_NEW` and `IPCTNL_MSG_CT_DELETE`.
pub(in crate::node::conntrack) const NEW: u16 = 1 << 8;
const DELETE: u16 = 1 << 8 | 2;

/// `enum ctattr_type` and below (`include/uapi/linux/netfilter/nfnetlink_conntrack.h`).
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_TUPLE_ZONE: u16 = 3;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;

/// One message; none when it makes no sense or lacks something.
pub(in crate::node::conntrack) fn parse(kind: u16, payload: &[u8], netns: u32) -> Option<Message> {
    let what = match kind {
        NEW => What::New,
        DELETE => What::Destroyed,
        _ => return None,
    };
    let ([_family, _version, _, _], attributes) = payload.split_first_chunk()?;
    let (mut original, mut reply, mut status, mut zone) = (None, None, None, 0);
    each(attributes, |attribute| {
        let value = attribute.value();
        match attribute.kind() {
            CTA_TUPLE_ORIG => original = Some(tuple(value, &mut zone)?),
            CTA_TUPLE_REPLY => reply = Some(tuple(value, &mut zone)?),
            CTA_STATUS => status = Some(u32::from_be_bytes(value.try_into().ok()?)),
            CTA_ZONE => zone = number(value)?,
            _ => {}
        }
        Some(())
    })?;
    let ((original, protocol), (reply, _)) = (original?, reply?);
    Some(Message { netns, zone, what, status: status?, protocol, original, reply })
}

/// A tuple and its protocol, and the zone where it is one of this direction alone.
fn tuple(bytes: &[u8], zone: &mut u16) -> Option<(Tuple, u8)> {
    let (mut source, mut destination, mut protocol) = (None, None, None);
    let mut ports = (0, 0);
    each(bytes, |part| match part.kind() {
        CTA_TUPLE_IP => each(part.value(), |attribute| {
            let value = attribute.value();
            match attribute.kind() {
                CTA_IP_V4_SRC => source = Some(mapped(value)?),
                CTA_IP_V4_DST => destination = Some(mapped(value)?),
                CTA_IP_V6_SRC => source = Some(value.try_into().ok()?),
                CTA_IP_V6_DST => destination = Some(value.try_into().ok()?),
                _ => {}
            }
            Some(())
        }),
        CTA_TUPLE_PROTO => each(part.value(), |attribute| {
            let value = attribute.value();
            match attribute.kind() {
                CTA_PROTO_NUM => protocol = Some(*value.first()?),
                CTA_PROTO_SRC_PORT => ports.0 = number(value)?,
                CTA_PROTO_DST_PORT => ports.1 = number(value)?,
                _ => {}
            }
            Some(())
        }),
        CTA_TUPLE_ZONE => {
            *zone = number(part.value())?;
            Some(())
        }
        _ => Some(()),
    })?;
    let protocol = protocol?;
    let (source_port, destination_port) = if has_ports(protocol.into()) { ports } else { (0, 0) };
    let (source, destination) = (source?, destination?);
    Some((Tuple { source, destination, source_port, destination_port }, protocol))
}

/// Calls `take` with each attribute; none when one makes no sense.
fn each<'a>(
    bytes: &'a [u8],
    mut take: impl FnMut(NlaBuffer<&'a [u8]>) -> Option<()>,
) -> Option<()> {
    NlasIterator::new(bytes).try_for_each(|attribute| take(attribute.ok()?))
}

fn number(value: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(value.try_into().ok()?))
}

fn mapped(value: &[u8]) -> Option<[u8; 16]> {
    let address: [u8; 4] = value.try_into().ok()?;
    Some(flow::mapped(address.into()))
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
