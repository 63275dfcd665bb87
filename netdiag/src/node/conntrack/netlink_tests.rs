use netlink_packet_core::{Emitable, NetlinkHeader};
use proptest::prelude::*;

use super::*;

const SEQUENCE: u32 = 1;

const HEADER_BYTES: usize = 16;

/// The answer of a kernel 6.18 with two processors, as captured: 32 drops.
const CAPTURED: &str = "\
640000000401020001000000c275000000000000080002000000000008000400000000000800080000000000
080009000000000008000a000000000008000b000000000008000c000000000008000d000000000008000e00
0000000008000f0000000000640000000401020001000000c275000000000001080002000000000008000400
000000000800080000000000080009000000000008000a000000002008000b000000000008000c0000000000
08000d000000000008000e000000000008000f0000000000140000000300020001000000c275000000000000";

fn captured() -> Vec<u8> {
    let digits: Vec<u8> = CAPTURED.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

fn read_all(datagram: &[u8]) -> io::Result<Statistics> {
    let (mut reply, mut flaws) = (Reply::default(), Flaws::default());
    netlink::read(datagram, SEQUENCE, &mut flaws, &mut |kind, payload| {
        reply.take(kind, payload).is_some()
    })?;
    reply.statistics(flaws)
}

#[test]
fn an_answer_of_a_kernel() {
    let sums = read_all(&captured()).unwrap().sums();
    for counter in Counter::ALL {
        let expected = if counter == Counter::Drop { 32 } else { 0 };
        assert_eq!(sums.get(counter), Some(expected), "{}", counter.name());
    }
}

/// A message of one processor with these attributes.
fn message(cpu: u16, attributes: &[(u16, u32)]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_BYTES];
    bytes.extend([0, 0]);
    bytes.extend(cpu.to_be_bytes());
    for (kind, value) in attributes {
        bytes.extend(8u16.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value.to_be_bytes());
    }
    let mut header = NetlinkHeader::default();
    header.length = bytes.len() as u32;
    header.message_type = GET_STATS_CPU;
    header.sequence_number = SEQUENCE;
    header.emit(&mut bytes);
    bytes
}

#[test]
fn what_the_kernel_does_not_count_is_unknown() {
    let [drop, invalid] = [Counter::Drop, Counter::Invalid].map(attribute);
    let mut datagram = message(0, &[(drop, 3), (invalid, 1)]);
    datagram.extend(message(9, &[(drop, u32::MAX), (invalid, 0), (99, 5)]));
    let sums = read_all(&datagram).unwrap().sums();
    assert_eq!(sums.get(Counter::Drop), Some(u64::from(u32::MAX) + 3));
    assert_eq!(sums.get(Counter::Invalid), Some(1));
    assert_eq!(sums.get(Counter::ChainTooLong), None);
}

#[test]
fn a_part_is_no_answer() {
    let mut lying = message(0, &[(attribute(Counter::Drop), 3)]);
    lying[20] = 7;
    let mut other = message(0, &[]);
    other[4..6].copy_from_slice(&(GET_STATS_CPU + 1).to_ne_bytes());
    for datagram in [lying, other, message(0, &[])[..18].to_vec()] {
        let error = read_all(&datagram).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{datagram:?}");
    }
}

/// `struct nlmsghdr` and `struct nfgenmsg`.
#[test]
fn the_request_is_what_the_kernel_expects() {
    let bytes = request(9);
    assert_eq!(bytes.len(), 20);
    assert_eq!(bytes[..4], 20u32.to_ne_bytes());
    assert_eq!(bytes[4..6], 0x104u16.to_ne_bytes());
    assert_eq!(bytes[6..8], 0x301u16.to_ne_bytes());
    assert_eq!(bytes[8..12], 9u32.to_ne_bytes());
    assert_eq!(bytes[12..], [0; 8]);
}

#[test]
fn modules_are_known_by_name() {
    for (modules, expected) in [
        ("nf_conntrack_netlink 45056 0 - Live 0x0\nnf_conntrack 180224 1 x, Live 0x0\n", true),
        ("nf_conntrack 180224 1 nf_conntrack_netlink, Live 0x0\n", false),
        ("", false),
    ] {
        assert_eq!(is_loaded(modules), expected, "{modules}");
    }
}

#[test]
fn what_is_built_in_is_known_by_a_symbol_of_no_module() {
    for (symbols, expected) in [
        ("0000000000000000 t nf_ct_get\n0000000000000000 t ctnetlink_dump_table\n", true),
        ("0000000000000000 t ctnetlink_dump_table.isra.0\n", true),
        ("0000000000000000 t ctnetlink_dump_table\t[nf_conntrack_netlink]\n", false),
        ("0000000000000000 t my_ctnetlink_dump_table\n", false),
        ("", false),
    ] {
        assert_eq!(is_built_in(symbols.as_bytes()), expected, "{symbols}");
    }
}

proptest! {
    #[test]
    fn noise_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = read_all(&bytes);
    }

    #[test]
    fn lies_are_survived(lies in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..12)) {
        let mut datagram = captured();
        for (at, value) in lies {
            let at = at % datagram.len();
            datagram[at] = value;
        }
        let _ = read_all(&datagram);
    }
}

#[test]
fn hostile_statistics_are_survived() {
    crate::hostile::survived(&[captured()], |datagram| drop(read_all(datagram)));
    crate::hostile::survived_text(&["nf_conntrack_netlink 45056 0 - Live 0x0\n"], |text| {
        let _loaded = (is_loaded(text), is_built_in(text.as_bytes()));
    });
}
