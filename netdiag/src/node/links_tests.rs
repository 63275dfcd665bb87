use super::*;

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = (4 + value.len() as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn message() -> Vec<u8> {
    let mut bytes = vec![0, 0, 1, 0];
    bytes.extend(7u32.to_ne_bytes());
    bytes.extend((libc::IFF_UP as u32).to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend(attribute(libc::IFLA_IFNAME, b"veth0\0"));
    bytes.extend(attribute(libc::IFLA_MTU, &1400u32.to_ne_bytes()));
    bytes.extend(attribute(libc::IFLA_LINK, &2u32.to_ne_bytes()));
    bytes.extend(attribute(libc::IFLA_MASTER, &5u32.to_ne_bytes()));
    bytes.extend(attribute(libc::IFLA_LINK_NETNSID, &0u32.to_ne_bytes()));
    bytes.extend(attribute(libc::IFLA_CARRIER, &[1]));
    bytes.extend(attribute(libc::IFLA_CARRIER_CHANGES, &2u32.to_ne_bytes()));
    let stats: Vec<u8> = (100..124u64).flat_map(u64::to_ne_bytes).collect();
    bytes.extend(attribute(libc::IFLA_STATS64, &stats));
    let info = [attribute(libc::IFLA_INFO_KIND, b"veth\0"), attribute(2, &[1, 2])].concat();
    bytes.extend(attribute(libc::IFLA_LINKINFO, &info));
    bytes
}

#[test]
fn an_interface_is_read() {
    let link = parse(&message()).unwrap();
    let expected = Interface {
        netns: 0,
        index: 7,
        name: "veth0".to_owned(),
        kind: Some("veth".to_owned()),
        loopback: false,
        up: true,
        carrier: Some(true),
        mtu: 1400,
        speed_bits: None,
        master: Some(5),
        peer: None,
        rx_bytes: Some(102),
        rx_packets: Some(100),
        rx_errors: Some(104),
        rx_dropped: Some(106),
        rx_missed: Some(115),
        rx_crc_errors: Some(112),
        rx_overruns: Some(111 + 114),
        rx_nohandler: Some(123),
        tx_bytes: Some(103),
        tx_packets: Some(101),
        tx_errors: Some(105),
        tx_dropped: Some(107),
        tx_carrier_errors: Some(117),
        carrier_changes: Some(2),
    };
    assert_eq!(link.interface, expected);
    assert_eq!((link.other, link.elsewhere), (Some(2), true));
}

#[test]
fn short_messages_are_survived() {
    let whole = message();
    for end in 0..whole.len() {
        let _cut = parse(&whole[..end]);
        let mut hostile = whole.clone();
        hostile[end] = 0xff;
        let _changed = parse(&hostile);
    }
    assert_eq!(parse(&[0; HEADER_BYTES]), None, "neither index nor name");
    let mut short = Interface::default();
    count(&mut short, &[1; 23]);
    assert_eq!((short.tx_packets, short.rx_bytes), (Some(0x0101_0101_0101_0101), None));
}

fn link(index: u32, other: Option<u32>, packets: u64) -> (u32, Link) {
    let interface = Interface { index, rx_packets: Some(packets), ..Interface::default() };
    (index, Link { interface, other, elsewhere: other.is_some() })
}

fn reading(namespaces: &[(u32, &[(u32, Link)])]) -> Reading<Links> {
    let namespaces =
        namespaces.iter().map(|(netns, links)| (*netns, links.iter().cloned().collect()));
    Reading { namespaces: namespaces.collect(), ..Reading::default() }
}

#[test]
fn counts_are_increases_and_ends_find_each_other() {
    let before = reading(&[(1, &[link(2, Some(3), 10), link(4, Some(2), 90)])]);
    let after = reading(&[
        (1, &[link(2, Some(3), 15), link(4, Some(2), 5), link(9, Some(2), 0)]),
        (8, &[link(3, Some(2), 7), link(2, Some(4), 0)]),
        (9, &[link(2, Some(9), 1)]),
        (10, &[link(2, Some(9), 2)]),
    ]);
    let (all, left_out) = listed(&increase(&before, &after));
    let told: Vec<_> = all
        .iter()
        .map(|one| (one.netns, one.index, one.rx_packets, one.peer.and_then(|peer| peer.netns)))
        .collect();
    let expected = [
        (1, 2, Some(5), Some(8)),
        (1, 4, None, Some(8)),
        (1, 9, Some(0), None),
        (8, 2, Some(0), Some(1)),
        (8, 3, Some(7), Some(1)),
        (9, 2, Some(1), Some(1)),
        (10, 2, Some(2), Some(1)),
    ];
    assert_eq!((&told[..], left_out), (&expected[..], 0));
}

#[test]
fn hostile_messages_are_survived() {
    crate::hostile::survived(&[message()], |bytes| drop(parse(bytes)));
}
