//! Headers of a packet out of what is known of it. Pure.
//!
//! What is not known has to be something: of IP no options, no fragment, a hop limit of 64; of TCP no options, the
//! widest window that needs no scale, acknowledgment number 0; checksums over the payload, which nobody has, are 0.

use etherparse::{IpNumber, Ipv4Header, Ipv6Header, TcpHeader, UdpHeader};
use netdiag_common::flow::{FlowKey, TCP, UDP, V4_MAPPED_PREFIX};

use crate::event::{Packet, Segment, Way, flags};

/// What Linux gives packets by itself (`net.ipv4.ip_default_ttl`).
const HOPS: u8 = 64;
/// A smaller one would look as if the receiver took no more.
const WINDOW: u16 = u16::MAX;
/// IANA: stands for a protocol that is not known, which 0 does not.
const RESERVED: u8 = 255;

/// The beginning of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Headers {
    /// From the IP header on, without payload.
    pub(super) bytes: Vec<u8>,
    /// Bytes of the packet with its payload, as far as that is known.
    pub(super) length: u32,
}

/// The headers of a packet, from its first end to the other where its way is not known.
pub(super) fn of(packet: &Packet) -> Headers {
    let mut key = packet.key;
    if packet.way == Some(Way::In) {
        key.reverse();
    }
    let ends = v4(&key.local_addr).zip(v4(&key.peer_addr));
    let network = if ends.is_some() { Ipv4Header::MIN_LEN } else { Ipv6Header::LEN };
    let transport = match key.protocol {
        TCP => TcpHeader::MIN_LEN,
        UDP => UdpHeader::LEN,
        _ => 0,
    };
    let made = (network + transport) as u64;
    let length = match (packet.tcp.payload, packet.bytes) {
        (Some(payload), _) => made + u64::from(payload),
        // It may have been cut or not been finished where it was seen.
        (None, Some(bytes)) => bytes.max(made),
        (None, None) => made,
    };
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    let protocol = match key.protocol {
        0 => IpNumber(RESERVED),
        number => IpNumber(u8::try_from(number).unwrap_or(RESERVED)),
    };
    // As in the kernel, 0 stands for more than the field holds: a buffer that the device would have cut.
    let within = |bytes: usize| u16::try_from(length - bytes as u32).unwrap_or(0);
    let mut bytes = Vec::with_capacity(made as usize);
    match ends {
        Some((source, destination)) => {
            let mut header = Ipv4Header {
                total_len: within(0),
                dont_fragment: false,
                time_to_live: HOPS,
                protocol,
                source,
                destination,
                ..Ipv4Header::default()
            };
            header.header_checksum = header.calc_header_checksum();
            bytes.extend_from_slice(&header.to_bytes());
        }
        None => {
            let header = Ipv6Header {
                payload_length: within(network),
                next_header: protocol,
                hop_limit: HOPS,
                source: key.local_addr,
                destination: key.peer_addr,
                ..Ipv6Header::default()
            };
            bytes.extend_from_slice(&header.to_bytes());
        }
    }
    match key.protocol {
        TCP => bytes.extend_from_slice(&tcp(&key, &packet.tcp).to_bytes()),
        UDP => {
            let header = UdpHeader {
                source_port: key.local_port,
                destination_port: key.peer_port,
                length: within(network),
                checksum: 0,
            };
            bytes.extend_from_slice(&header.to_bytes());
        }
        _ => {}
    }
    Headers { bytes, length }
}

fn tcp(key: &FlowKey, segment: &Segment) -> TcpHeader {
    let has = |flag: u8| segment.flags.is_some_and(|flags| flags & flag != 0);
    TcpHeader {
        fin: has(flags::FIN),
        syn: has(flags::SYN),
        rst: has(flags::RST),
        ack: has(flags::ACK),
        ..TcpHeader::new(key.local_port, key.peer_port, segment.seq.unwrap_or(0), WINDOW)
    }
}

/// An address of IPv4, or none at all, which is all zero in both.
fn v4(address: &[u8; 16]) -> Option<[u8; 4]> {
    let (prefix, last) = address.split_last_chunk::<4>()?;
    (*prefix == V4_MAPPED_PREFIX || *address == [0; 16]).then_some(*last)
}

#[cfg(test)]
mod tests {
    use netdiag_common::flow::mapped;

    use super::*;

    fn key(local: &str, peer: &str, protocol: u16) -> FlowKey {
        let octets = |text: &str| mapped(text.parse().expect("an address"));
        let (local_addr, peer_addr) = (octets(local), octets(peer));
        FlowKey {
            local_addr,
            peer_addr,
            local_port: 40_000,
            peer_port: 443,
            protocol,
            ..FlowKey::default()
        }
    }

    fn v4_key(protocol: u16) -> FlowKey {
        key("10.0.0.1", "10.0.0.2", protocol)
    }

    fn packet(key: FlowKey) -> Packet {
        Packet { way: Some(Way::Out), ..Packet::of(key).expect("a conversation") }
    }

    #[test]
    fn a_segment_has_what_is_known_of_it() {
        let tcp =
            Segment { flags: Some(flags::FIN | flags::ACK), seq: Some(7), payload: Some(1_400) };
        let made = of(&Packet { tcp, ..packet(v4_key(TCP)) });
        assert_eq!((made.bytes.len(), made.length), (40, 1_440));
        let (ip, rest) = Ipv4Header::from_slice(&made.bytes).expect("IPv4");
        assert_eq!((ip.source, ip.destination), ([10, 0, 0, 1], [10, 0, 0, 2]));
        assert_eq!((ip.total_len, ip.header_checksum), (1_440, ip.calc_header_checksum()));
        let (tcp, rest) = TcpHeader::from_slice(rest).expect("TCP");
        assert_eq!((tcp.source_port, tcp.destination_port), (40_000, 443));
        assert_eq!((tcp.sequence_number, tcp.checksum, rest.len()), (7, 0, 0));
        assert_eq!(
            [tcp.fin, tcp.ack, tcp.syn, tcp.rst, tcp.psh],
            [true, true, false, false, false]
        );
    }

    #[test]
    fn what_comes_in_has_the_other_end_first() {
        let made = of(&Packet { way: Some(Way::In), ..packet(key("::1", "2001:db8::2", UDP)) });
        assert_eq!((made.bytes.len(), made.length), (48, 48));
        let (ip, rest) = Ipv6Header::from_slice(&made.bytes).expect("IPv6");
        assert_eq!((ip.source[0], ip.destination[15], ip.payload_length), (0x20, 1, 8));
        let (udp, _) = UdpHeader::from_slice(rest).expect("UDP");
        assert_eq!((udp.source_port, udp.destination_port, udp.length), (443, 40_000, 8));
    }

    #[test]
    fn lengths_are_as_far_as_they_are_known() {
        let length = |bytes, payload, protocol| {
            let tcp = Segment { payload, ..Segment::default() };
            let made = of(&Packet { bytes, tcp, ..packet(v4_key(protocol)) });
            let (ip, _) = Ipv4Header::from_slice(&made.bytes).expect("IPv4");
            (made.length, ip.total_len)
        };
        assert_eq!(length(None, None, TCP), (40, 40));
        assert_eq!(length(Some(3), None, TCP), (40, 40), "cut where it was seen");
        assert_eq!(length(Some(60), None, UDP), (60, 60));
        assert_eq!(length(Some(84), None, 1), (84, 84), "ICMP has no header here");
        assert_eq!(length(None, Some(200_000), TCP), (200_040, 0), "of many segments");
        assert_eq!(length(Some(u64::MAX), None, TCP), (u32::MAX, 0));
    }

    #[test]
    fn the_unknown_is_nothing_else() {
        let nobody = FlowKey { peer_addr: [0; 16], peer_port: 0, protocol: 0, ..v4_key(0) };
        let made = of(&packet(nobody));
        let (ip, rest) = Ipv4Header::from_slice(&made.bytes).expect("IPv4");
        assert_eq!((ip.destination, ip.protocol, rest.len()), ([0; 4], IpNumber(RESERVED), 0));
        let made = of(&packet(v4_key(TCP)));
        let (_, rest) = Ipv4Header::from_slice(&made.bytes).expect("IPv4");
        let (tcp, _) = TcpHeader::from_slice(rest).expect("TCP");
        assert_eq!([tcp.fin, tcp.ack, tcp.syn, tcp.rst], [false; 4]);
    }
}
