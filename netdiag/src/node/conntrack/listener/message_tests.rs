use std::net::Ipv6Addr;

use proptest::prelude::*;

use super::*;

const NETNS: u32 = 4_026_532_281;

/// As captured on 6.18: a datagram from 127.0.0.1 to 127.0.0.2 made one, `conntrack -F` ended it.
const NEW_V4: &str = "94000000000100060000000000000000020000003400018014000180080001007f000001080002007f0000\
    021c0002800500010011000000060002009c4000000600030007d000003400028014000180080001007f000002080002007f000001\
    1c00028005000100110000000600020007d00000060003009c40000008000c00de96fb190800030000000008080007000000001e";
const DESTROYED_V6: &str = "c40000000201000000000000173c00000a0000004c0001802c0001801400030000000000000000000000000000\
    00000114000400000000000000000000000000000000011c0002800500010011000000060002009c4100000600030007d100004c00\
    02802c000180140003000000000000000000000000000000000114000400000000000000000000000000000000011c000280050001\
    00110000000600020007d10000060003009c41000008000c001ca0f7370800030000000208080007000000001d";

fn bytes(hexadecimal: &str) -> Vec<u8> {
    let digits: Vec<u8> = hexadecimal.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

/// Behind the header, with its type.
fn parsed(message: &[u8]) -> Option<Message> {
    parse(u16::from_ne_bytes([message[4], message[5]]), &message[16..], NETNS)
}

fn tuple(source: (&str, u16), destination: (&str, u16)) -> Tuple {
    let address = |(address, _port): (&str, u16)| address.parse::<Ipv6Addr>().unwrap().octets();
    Tuple {
        source: address(source),
        destination: address(destination),
        source_port: source.1,
        destination_port: destination.1,
    }
}

#[test]
fn events_of_a_kernel() {
    let (here, there) = (("::ffff:127.0.0.1", 40_000), ("::ffff:127.0.0.2", 2000));
    let expected = Message {
        netns: NETNS,
        zone: 0,
        what: What::New,
        status: 0x8,
        protocol: 17,
        original: tuple(here, there),
        reply: tuple(there, here),
    };
    assert_eq!(parsed(&bytes(NEW_V4)), Some(expected));
    let (here, there) = (("::1", 40_001), ("::1", 2001));
    let expected = Message {
        what: What::Destroyed,
        status: 0x208,
        original: tuple(here, there),
        reply: tuple(there, here),
        ..expected
    };
    assert_eq!(parsed(&bytes(DESTROYED_V6)), Some(expected));
}

#[test]
fn a_zone_is_read() {
    let mut message = bytes(NEW_V4);
    message.extend([6, 0, 18, 0, 1, 2, 0, 0]);
    assert_eq!(parsed(&message).unwrap().zone, 0x102);
}

#[test]
fn what_lacks_something_is_no_message() {
    let whole = bytes(NEW_V4);
    // Behind the status only a time-out follows, which is not looked at.
    const STATUS_ENDS: usize = 140;
    for end in 16..whole.len() {
        assert_eq!(parsed(&whole[..end]).is_some(), end == STATUS_ENDS, "{end} bytes");
    }
    let mut update = whole;
    update[4] = 1;
    assert_eq!(parsed(&update), None);
}

proptest! {
    #[test]
    fn noise_is_survived(bytes in proptest::collection::vec(any::<u8>(), 16..300)) {
        let _ = parsed(&bytes);
    }

    #[test]
    fn lies_are_survived(lies in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..12)) {
        let mut message = bytes(DESTROYED_V6);
        for (at, value) in lies {
            let at = at % message.len();
            message[at] = value;
        }
        let _ = parsed(&message);
    }
}

#[test]
fn hostile_messages_are_survived() {
    let sound = [NEW_V4, DESTROYED_V6].map(bytes);
    crate::hostile::survived(&sound, |message| {
        // Its header is netlink's, and known to be there.
        if message.len() >= 16 {
            let _message = parsed(message);
        }
    });
}
