//! IPv4 packets by their bytes, as no socket would send them.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4, TcpStream},
    os::fd::{AsRawFd as _, OwnedFd},
};

use anyhow::{Result, ensure};
use rustix::net::{self, AddressFamily, Protocol, RawProtocol, SendFlags, SocketType};

use crate::namespace::Namespace;

const TCP: u8 = 6;
const UDP: u8 = 17;
/// Header of a frame with an IPv4 packet.
const ETHERNET: [u8; 14] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x08, 0x00];

/// Of TCP and UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checksum {
    Right,
    Wrong,
}

/// A UDP datagram without a payload (RFC 768).
pub(crate) fn udp(from: SocketAddrV4, to: SocketAddrV4, checksum: Checksum) -> Vec<u8> {
    let mut segment = Vec::new();
    for word in [from.port(), to.port(), 8, 0] {
        segment.extend(word.to_be_bytes());
    }
    packet(from, to, UDP, segment, 6, checksum)
}

/// A TCP segment that asks for a connection (RFC 9293).
pub(crate) fn tcp_syn(from: SocketAddrV4, to: SocketAddrV4, checksum: Checksum) -> Vec<u8> {
    const SYN: u16 = 0x02;
    packet(from, to, TCP, tcp([from.port(), to.port()], 1, 0, SYN), 16, checksum)
}

/// A TCP segment with one byte.
pub(crate) fn tcp_byte(from: SocketAddrV4, to: SocketAddrV4, seq: u32, ack: u32) -> Vec<u8> {
    const ACK_AND_PUSH: u16 = 0x18;
    let mut segment = tcp([from.port(), to.port()], seq, ack, ACK_AND_PUSH);
    segment.push(b'x');
    packet(from, to, TCP, segment, 16, Checksum::Right)
}

/// A TCP header without options.
fn tcp(ports: [u16; 2], seq: u32, ack: u32, flags: u16) -> Vec<u8> {
    const WORDS: u16 = 5 << 12;
    const WINDOW: u16 = 1024;
    let mut header = Vec::new();
    header.extend(ports.map(u16::to_be_bytes).concat());
    header.extend([seq, ack].map(u32::to_be_bytes).concat());
    header.extend([WORDS | flags, WINDOW, 0, 0].map(u16::to_be_bytes).concat());
    header
}

/// The sequence numbers of the next bytes that a socket sends and receives, by its repair mode
/// (`tcp_repair`, net/ipv4/tcp.c).
pub(crate) fn sequence_numbers(socket: &TcpStream) -> Result<[u32; 2]> {
    const ON: libc::c_int = 1;
    const OFF_IN_SILENCE: libc::c_int = -1;
    const RECEIVED: libc::c_int = 1;
    const SENT: libc::c_int = 2;
    set_option(socket, libc::TCP_REPAIR, ON)?;
    let numbers = [SENT, RECEIVED].map(|queue| {
        set_option(socket, libc::TCP_REPAIR_QUEUE, queue)?;
        option(socket, libc::TCP_QUEUE_SEQ)
    });
    set_option(socket, libc::TCP_REPAIR, OFF_IN_SILENCE)?;
    let [sent, received] = numbers;
    Ok([sent?, received?])
}

fn set_option(socket: &TcpStream, name: libc::c_int, value: libc::c_int) -> Result<()> {
    let length = size_of_val(&value) as libc::socklen_t;
    let value = (&raw const value).cast();
    // SAFETY: `value` points to as many bytes as `length` says.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, name, value, length) };
    ensure!(result == 0, "socket option {name}: {}", io::Error::last_os_error());
    Ok(())
}

fn option(socket: &TcpStream, name: libc::c_int) -> Result<u32> {
    let mut value = 0_u32;
    let mut length = size_of_val(&value) as libc::socklen_t;
    let (to, length) = ((&raw mut value).cast(), &raw mut length);
    // SAFETY: `to` points to as many bytes as `length` says.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, name, to, length) };
    ensure!(result == 0, "socket option {name}: {}", io::Error::last_os_error());
    Ok(value)
}

/// How a packet is carried in another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tunnel {
    /// RFC 2003.
    IpInIp,
    /// RFC 7348.
    Vxlan,
    /// RFC 8926, with one option.
    Geneve,
}

impl Tunnel {
    /// What nftables matches its packets by.
    pub(crate) const fn rule(self) -> &'static str {
        match self {
            Self::IpInIp => "meta l4proto 4",
            Self::Vxlan => "udp dport 4789",
            Self::Geneve => "udp dport 6081",
        }
    }

    /// Puts a packet into another one.
    pub(crate) fn around(self, from: Ipv4Addr, to: Ipv4Addr, inner: &[u8]) -> Vec<u8> {
        let (port, header): (u16, &[u8]) = match self {
            Self::IpInIp => return [ipv4(from, to, 4).as_slice(), inner].concat(),
            Self::Vxlan => (4789, &[8, 0, 0, 0, 0, 0, 1, 0]),
            Self::Geneve => (6081, &[1, 0, 0x65, 0x58, 0, 0, 1, 0, 0, 0, 0, 0]),
        };
        let payload = [header, &ETHERNET, inner].concat();
        let length = 8 + payload.len() as u16;
        let udp = [4000, port, length, 0].map(u16::to_be_bytes).concat();
        [ipv4(from, to, UDP).as_slice(), &udp, &payload].concat()
    }
}

/// An IPv4 header (RFC 791; the kernel fills in length, identification and its own checksum).
fn ipv4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8) -> Vec<u8> {
    let start = [0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
    [start.as_slice(), &from.octets(), &to.octets()].concat()
}

/// Puts an IPv4 header before a segment, and the segment's checksum into it.
fn packet(
    from: SocketAddrV4,
    to: SocketAddrV4,
    protocol: u8,
    mut segment: Vec<u8>,
    checksum_at: usize,
    checksum: Checksum,
) -> Vec<u8> {
    let addresses = [from.ip().octets(), to.ip().octets()].concat();
    let length = u16::try_from(segment.len()).expect("a short segment");
    let pseudo = [addresses.as_slice(), &[0, protocol], &length.to_be_bytes(), &segment].concat();
    let right = internet_checksum(&pseudo);
    let sum = if checksum == Checksum::Right { right } else { right ^ 0x0101 };
    segment[checksum_at..checksum_at + 2].copy_from_slice(&sum.to_be_bytes());
    [ipv4(*from.ip(), *to.ip(), protocol), segment].concat()
}

/// RFC 1071.
fn internet_checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !(((folded & 0xffff) + (folded >> 16)) as u16)
}

/// What goes into a datagram to a VXLAN device: an empty datagram between two addresses.
pub(crate) fn in_vxlan(from: Ipv4Addr, to: Ipv4Addr, network: u8) -> Vec<u8> {
    let inner = udp(SocketAddrV4::new(from, 4000), SocketAddrV4::new(to, 4001), Checksum::Right);
    [[8, 0, 0, 0, 0, 0, network, 0].as_slice(), &ETHERNET, &inner].concat()
}

/// A socket that sends whole packets.
pub(crate) fn socket(namespace: &Namespace) -> Result<OwnedFd> {
    namespace.run(here)
}

/// The same in the namespace of this thread.
pub(crate) fn here() -> Result<OwnedFd> {
    const RAW: u32 = 255;
    let protocol = RawProtocol::new(RAW).map(Protocol::from_raw);
    Ok(net::socket(AddressFamily::INET, SocketType::RAW, protocol)?)
}

/// Sends a packet `times` times.
pub(crate) fn send(socket: &OwnedFd, packet: &[u8], times: u64) -> Result<()> {
    let octets: [u8; 4] = packet[16..20].try_into()?;
    for _ in 0..times {
        net::sendto(socket, packet, SendFlags::empty(), &SocketAddrV4::new(octets.into(), 0))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::internet_checksum;

    #[test]
    fn the_example_of_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(internet_checksum(&bytes), !0xddf2);
    }
}
