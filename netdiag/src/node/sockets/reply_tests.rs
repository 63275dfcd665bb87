use std::io;

use netdiag_common::flow::V4_MAPPED_PREFIX;
use netlink_packet_core::{
    NLM_F_DUMP_INTR, NLMSG_ALIGNTO, NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP, NLMSG_OVERRUN,
};
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6};
use proptest::prelude::*;

use super::*;
use crate::node::netlink::{self, End, Flaws};

const SEQUENCE: u32 = 7;
const NETNS: u32 = 4_026_531_840;

/// A netlink message as the kernel lays it out (`struct nlmsghdr`).
fn message(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend((16 + payload.len() as u32).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(0u32.to_ne_bytes());
    bytes.extend(payload);
    bytes.resize(bytes.len().next_multiple_of(NLMSG_ALIGNTO.into()), 0);
    bytes
}

/// A `struct inet_diag_msg` with an attribute before and one after the `tcp_info`.
fn inet_diag(family: u8, state: u8, local: &[u8], peer: &[u8], info: Option<&[u8]>) -> Vec<u8> {
    let mut bytes = vec![family, state, 0, 0];
    bytes.extend(443u16.to_be_bytes());
    bytes.extend(if peer.is_empty() { 0 } else { 51_000u16 }.to_be_bytes());
    for address in [local, peer] {
        let mut field = [0; 16];
        field[..address.len()].copy_from_slice(address);
        bytes.extend(field);
    }
    bytes.extend(0u32.to_ne_bytes());
    bytes.extend(0x2222_2222u32.to_ne_bytes());
    bytes.extend(0x1111_1111u32.to_ne_bytes());
    for word in [0u32, 0, 0, 1000, 98_765] {
        bytes.extend(word.to_ne_bytes());
    }
    attribute(&mut bytes, 8, &[3]);
    if let Some(info) = info {
        attribute(&mut bytes, INET_DIAG_INFO, info);
        // `struct sk_meminfo`, whose words are their own numbers.
        let memory: Vec<u8> = (0..9u32).flat_map(u32::to_ne_bytes).collect();
        attribute(&mut bytes, INET_DIAG_SKMEMINFO, &memory);
    }
    attribute(&mut bytes, 4, b"cubic\0");
    bytes
}

fn attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    bytes.extend((4 + value.len() as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(NLMSG_ALIGNTO.into()), 0);
}

/// A `tcp_info` of so many bytes whose 32-bit words are their own offsets.
fn tcp_info(bytes: u32) -> Vec<u8> {
    (0..bytes / 4).flat_map(|word| (word * 4).to_ne_bytes()).collect()
}

fn word64(offset: u64) -> u64 {
    let low = offset.to_ne_bytes();
    let high = (offset + 4).to_ne_bytes();
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&low[..4]);
    bytes[4..].copy_from_slice(&high[..4]);
    u64::from_ne_bytes(bytes)
}

/// What was read of a dump.
struct Batch {
    sockets: Vec<Socket>,
    flaws: Flaws,
}

fn read_all(datagram: &[u8]) -> (io::Result<End>, Batch) {
    let (mut sockets, mut flaws) = (Vec::new(), Flaws::default());
    let end = netlink::read(datagram, SEQUENCE, &mut flaws, &mut |kind, payload| {
        let socket = socket(kind, payload, NETNS);
        sockets.extend(socket);
        socket.is_some()
    });
    (end, Batch { sockets, flaws })
}

fn only_socket(payload: &[u8]) -> Socket {
    let (end, batch) = read_all(&message(SOCK_DIAG_BY_FAMILY, 2, SEQUENCE, payload));
    assert_eq!(end.unwrap(), End::More);
    assert_eq!(batch.flaws, Flaws::default());
    let [socket] = batch.sockets[..] else { panic!("{:?}", batch.sockets) };
    socket
}

fn mapped(address: [u8; 4]) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..12].copy_from_slice(&V4_MAPPED_PREFIX);
    bytes[12..].copy_from_slice(&address);
    bytes
}

/// What a `tcp_info` of 232 bytes tells beside the counters.
fn details() -> TcpDetail {
    let mut detail = TcpDetail::default();
    for (of, at) in [(Detail::Busy, 168), (Detail::RwndLimited, 176), (Detail::SndbufLimited, 184)]
    {
        detail.set_time(of, word64(at));
    }
    for (of, word) in [
        (Detail::Unacknowledged, 24),
        (Detail::Ssthresh, 76),
        (Detail::Unsent, 144),
        (Detail::DataSegmentsReceived, 152),
        (Detail::DataSegmentsSent, 156),
        (Detail::Delivered, 192),
        (Detail::DeliveredCe, 196),
        (Detail::Dsacks, 216),
        (Detail::Reorderings, 220),
        (Detail::OutOfOrder, 224),
        (Detail::SndWnd, 228),
        (Detail::Unread, 0),
        (Detail::RcvBuf, 1),
        (Detail::SndBuf, 3),
        (Detail::SndBufUsed, 5),
    ] {
        detail.set(of, word);
    }
    detail
}

#[test]
fn an_ipv4_connection() {
    let info = tcp_info(232);
    let socket = only_socket(&inet_diag(AF_INET, 1, &[10, 0, 0, 1], &[10, 0, 0, 2], Some(&info)));
    assert_eq!(
        socket,
        Socket {
            key: FlowKey {
                local_addr: mapped([10, 0, 0, 1]),
                peer_addr: mapped([10, 0, 0, 2]),
                local_port: 443,
                peer_port: 51_000,
                netns: NETNS,
                protocol: 6,
                reserved: 0,
            },
            cookie: 0x1111_1111_2222_2222,
            state: 1,
            inode: 98_765,
            uid: 1000,
            tcp: Some(TcpCounters {
                bytes_sent: word64(200),
                bytes_received: word64(128),
                bytes_acked: word64(120),
                bytes_retrans: word64(208),
                segs_out: 136,
                segs_in: 140,
                retrans: 100,
                srtt_us: 68,
                cwnd: 80,
                drops: 8,
                retrans_unseen: 0,
                rtt_min_us: 148,
            }),
            detail: Some(details()),
            listening: None,
        }
    );
}

#[test]
fn an_ipv6_socket_with_mapped_addresses_equals_an_ipv4_one() {
    let v6 =
        only_socket(&inet_diag(AF_INET6, 1, &mapped([10, 0, 0, 1]), &mapped([10, 0, 0, 2]), None));
    let v4 = only_socket(&inet_diag(AF_INET, 1, &[10, 0, 0, 1], &[10, 0, 0, 2], None));
    assert_eq!(v6, v4);
}

#[test]
fn a_listener_has_no_peer_and_no_counters() {
    let info = tcp_info(232);
    for (family, local) in [(AF_INET, mapped([0; 4])), (AF_INET6, [0; 16])] {
        let socket = only_socket(&inet_diag(family, TCP_LISTEN, &[], &[], Some(&info)));
        assert_eq!(socket.key.local_addr, local);
        assert_eq!((socket.key.peer_addr, socket.key.peer_port), ([0; 16], 0));
        assert_eq!(socket.tcp, None);
    }
}

#[test]
fn tcp_info_counts_whole_or_not_at_all() {
    for (bytes, present) in [(0, false), (104, false), (212, false), (216, true), (400, true)] {
        let info = tcp_info(bytes);
        let payload = inet_diag(AF_INET, 1, &[10, 0, 0, 1], &[10, 0, 0, 2], Some(&info));
        assert_eq!(only_socket(&payload).tcp.is_some(), present, "{bytes} bytes");
    }
}

#[test]
fn a_kernel_tells_what_it_has() {
    for (bytes, window, timeouts) in
        [(232, None, None), (236, Some(232), None), (248, Some(232), Some(240))]
    {
        let info = tcp_info(bytes);
        let payload = inet_diag(AF_INET, 1, &[10, 0, 0, 1], &[10, 0, 0, 2], Some(&info));
        let detail = only_socket(&payload).detail.unwrap();
        let found = (detail.get(Detail::RcvWnd), detail.get(Detail::Timeouts));
        assert_eq!(found, (window, timeouts), "{bytes} bytes");
    }
}

#[test]
fn ends_and_errors() {
    type Case = (&'static str, u16, Vec<u8>, Result<End, Option<i32>>);
    let errno = |code: i32| (-code).to_ne_bytes().to_vec();
    let cases: &[Case] = &[
        ("done", NLMSG_DONE, errno(0), Ok(End::Done)),
        ("done without status", NLMSG_DONE, Vec::new(), Ok(End::Done)),
        ("done with an error", NLMSG_DONE, errno(libc::ENOENT), Err(Some(libc::ENOENT))),
        ("error", NLMSG_ERROR, errno(libc::EPERM), Err(Some(libc::EPERM))),
        ("error of errno 0", NLMSG_ERROR, errno(0), Err(None)),
        ("short error", NLMSG_ERROR, vec![1], Err(None)),
        ("impossible error", NLMSG_ERROR, i32::MIN.to_ne_bytes().to_vec(), Err(Some(libc::EIO))),
        ("overrun", NLMSG_OVERRUN, Vec::new(), Err(Some(libc::ENOBUFS))),
        ("nothing", NLMSG_NOOP, Vec::new(), Ok(End::More)),
    ];
    for (case, kind, payload, expected) in cases {
        let (end, batch) = read_all(&message(*kind, 0, SEQUENCE, payload));
        assert_eq!(&end.map_err(|error| error.raw_os_error()), expected, "{case}");
        assert_eq!(batch.flaws.malformed, 0, "{case}");
    }
}

#[test]
fn another_dumps_messages_are_passed_over() {
    let mut datagram = message(NLMSG_DONE, NLM_F_DUMP_INTR, SEQUENCE - 1, &[]);
    datagram.extend(message(NLMSG_DONE, 0, SEQUENCE, &[]));
    let (end, batch) = read_all(&datagram);
    assert_eq!(end.unwrap(), End::Done);
    assert!(!batch.flaws.interrupted);
}

#[test]
fn an_interrupted_dump_is_told() {
    let (_, batch) = read_all(&message(NLMSG_DONE, NLM_F_DUMP_INTR, SEQUENCE, &[]));
    assert!(batch.flaws.interrupted);
}

#[test]
fn one_bad_message_costs_no_other() {
    let good = inet_diag(AF_INET, 1, &[10, 0, 0, 1], &[10, 0, 0, 2], None);
    let mut lying = good.clone();
    lying[72] = 0xff;
    let mut datagram = message(SOCK_DIAG_BY_FAMILY, 2, SEQUENCE, &good[..71]);
    datagram.extend(message(SOCK_DIAG_BY_FAMILY, 2, SEQUENCE, &lying));
    datagram.extend(message(SOCK_DIAG_BY_FAMILY, 2, SEQUENCE, &[99; 72]));
    datagram.extend(message(77, 2, SEQUENCE, &good));
    datagram.extend(message(SOCK_DIAG_BY_FAMILY, 2, SEQUENCE, &good));
    let (end, batch) = read_all(&datagram);
    assert_eq!(end.unwrap(), End::More);
    assert_eq!((batch.flaws.malformed, batch.sockets.len()), (4, 1));
}

fn dump() -> Vec<u8> {
    let info = tcp_info(232);
    let mut datagram = Vec::new();
    for state in 1..5 {
        let payload = inet_diag(AF_INET, state, &[10, 0, 0, 1], &[10, 0, 0, 2], Some(&info));
        datagram.extend(message(SOCK_DIAG_BY_FAMILY, 2, SEQUENCE, &payload));
    }
    datagram.extend(message(NLMSG_DONE, 2, SEQUENCE, &0i32.to_ne_bytes()));
    datagram
}

proptest! {
    #[test]
    fn noise_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let (_, batch) = read_all(&bytes);
        prop_assert!(batch.sockets.len() * 88 <= bytes.len());
    }

    #[test]
    fn a_cut_dump_is_not_complete(cut in 0usize..1416) {
        let whole = dump();
        let cut = cut % whole.len();
        let (end, batch) = read_all(&whole[..cut]);
        prop_assert!(batch.sockets.len() <= 4);
        prop_assert_eq!(end.unwrap(), End::More);
    }

    #[test]
    fn lies_are_survived(lies in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..12)) {
        let mut datagram = dump();
        for (at, value) in lies {
            let at = at % datagram.len();
            datagram[at] = value;
        }
        let (_, batch) = read_all(&datagram);
        prop_assert!(batch.sockets.len() <= datagram.len() / 88);
        prop_assert!(batch.sockets.iter().all(|socket| socket.key.netns == NETNS));
    }
}

#[test]
fn hostile_dumps_are_survived() {
    crate::hostile::survived(&[dump()], |datagram| {
        let (_, batch) = read_all(datagram);
        assert!(batch.sockets.len() * 88 <= datagram.len());
    });
}
