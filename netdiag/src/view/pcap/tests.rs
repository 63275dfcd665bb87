use std::collections::BTreeMap;

use netdiag_common::flow::{FlowKey, SocketRef};
use pcap_file::pcapng::{Block, PcapNgReader};

use super::*;
use crate::{
    event::{Past, Told},
    flow::Frozen,
    labels::Labels,
    signal::{self, drop, reset, retransmit},
    snapshot::told::{Names, Telling},
};

const EVIL: &str = "\u{1b}[2J\r\n\u{202e}\u{1f980}";

fn key(netns: u32) -> FlowKey {
    let address = |host| std::net::Ipv4Addr::new(10, 9, 0, host).to_ipv6_mapped().octets();
    FlowKey {
        local_addr: address(1),
        peer_addr: address(2),
        local_port: 40_000,
        peer_port: 9000,
        netns,
        protocol: TCP,
        ..FlowKey::default()
    }
}

fn told(event: &signal::Event) -> Told {
    let mut all = Vec::new();
    event.tell(&Past::default(), &mut |told| all.push(told));
    all.pop().expect("it is told")
}

fn again(kind: retransmit::Kind, bytes: u32, state: u32) -> signal::Event {
    signal::Event::Retransmit(retransmit::Event {
        time_ns: 0,
        socket: SocketRef { key: key(7), state, ..SocketRef::default() },
        kind,
        segments: 1,
        seq: 77,
        bytes,
        in_a_row: 0,
        failed: false,
        error: None,
        pid: None,
        tcp: None,
        stack: crate::event::Stack::None,
    })
}

fn dropped(way: Option<Way>, netns: u32) -> signal::Event {
    signal::Event::Drop(drop::Event {
        time_ns: 0,
        key: FlowKey { protocol: UDP, ..key(netns) },
        ends_known: true,
        way,
        reason: Some(3),
        location: 0,
        packets: 2,
        bytes: 60,
        stack: crate::event::Stack::None,
    })
}

/// The blocks of a file with these events, a second and a nanosecond after each other.
fn file(events: &[signal::Event]) -> Vec<Block<'static>> {
    let labels =
        Labels { reasons: BTreeMap::from([(3, "NO_SOCKET".to_owned())]), ..Labels::default() };
    let names = Names { labels: &labels, places: &BTreeMap::new(), signals: &[] };
    let origin = Origin { host: EVIL, machine: "x86_64", kernel: "6.18" };
    let mut pcap = Pcap::begin(&origin).expect("memory");
    for (nth, event) in (1..).zip(events) {
        let told = told(event);
        let packet = told.packet.expect("a packet");
        let comm = Some(EVIL.to_owned());
        let time = SystemTime::UNIX_EPOCH + Duration::new(nth, nth as u32);
        let flow = Frozen { key: packet.key, pid: Some(7), comm, ..Frozen::default() };
        let event = names.event(&Telling { time, told, flow, stack: None });
        pcap.add(time, &packet, &event).expect("memory");
    }
    let Blocks { frame, packets } = pcap.take();
    assert_eq!(pcap.take(), Blocks::default());
    let bytes = [frame, packets].concat();
    let mut reader = PcapNgReader::new(&bytes[..]).expect("a section");
    let mut blocks = vec![Block::SectionHeader(reader.section().clone())];
    while let Some(block) = reader.next_block() {
        blocks.push(block.expect("a block").into_owned());
    }
    blocks
}

fn packets(blocks: &[Block<'static>]) -> Vec<EnhancedPacketBlock<'static>> {
    let packet = |block: &Block<'static>| match block {
        Block::EnhancedPacket(packet) => Some(packet.clone()),
        _ => None,
    };
    blocks.iter().filter_map(packet).collect()
}

fn comment_of<'a>(packet: &'a EnhancedPacketBlock<'static>) -> &'a str {
    let comment = packet.options.iter().find_map(|option| match option {
        EnhancedPacketOption::Comment(text) => Some(&**text),
        _ => None,
    });
    comment.expect("a comment")
}

#[test]
fn each_namespace_is_an_interface_and_each_packet_has_its_time() {
    let blocks = file(&[dropped(Some(Way::In), 7), dropped(None, 8), dropped(Some(Way::Out), 7)]);
    let names: Vec<_> = blocks
        .iter()
        .filter_map(|block| match block {
            Block::InterfaceDescription(interface) => Some(&interface.options),
            _ => None,
        })
        .flatten()
        .filter_map(|option| match option {
            InterfaceDescriptionOption::IfName(name) => Some(&**name),
            InterfaceDescriptionOption::IfTsResol(digits) => {
                assert_eq!(*digits, DIGITS);
                None
            }
            _ => None,
        })
        .collect();
    assert_eq!(names, ["netns:7", "netns:8"]);
    let packets = packets(&blocks);
    let told: Vec<_> = packets.iter().map(|p| (p.interface_id, p.timestamp)).collect();
    let at = |nth| Duration::new(nth, nth as u32);
    assert_eq!(told, [(0, at(1)), (1, at(2)), (0, at(3))]);
    let flags = |packet: &EnhancedPacketBlock<'_>| {
        packet.options.iter().find_map(|option| match option {
            EnhancedPacketOption::Flags(flags) => Some(*flags),
            _ => None,
        })
    };
    let flags: Vec<_> = packets.iter().map(flags).collect();
    assert_eq!(flags, [Some(INBOUND), None, Some(OUTBOUND)]);
}

#[test]
fn a_comment_says_what_happened_to_whom_and_what_is_known() {
    let reset = signal::Event::Reset(reset::Event {
        time_ns: 0,
        key: key(7),
        sent: true,
        reason: None,
        resets: 3,
    });
    let events = [again(retransmit::Kind::Rto, 1_400, 1), reset, dropped(None, 7)];
    let packets = packets(&file(&events));
    let comments: Vec<_> = packets.iter().map(comment_of).collect();
    let owner = "\u{fffd}[2J\u{fffd}\u{fffd}\u{fffd}\u{1f980}/7";
    let synthetic = "synthetic: made of its";
    assert_eq!(
        comments,
        [
            format!(
                "retransmit rto 1.37KiB; counts for pmtu-black-hole, half-open-peer, packet-loss; owner {owner}; \
                 {synthetic} addresses, ports, sequence number, flags and payload length; all else in it is filled in"
            ),
            format!(
                "reset sent resets 3; owner {owner}; {synthetic} addresses, ports, flags and payload length; all else \
                 in it is filled in"
            ),
            format!(
                "drop NO_SOCKET packets 2 60B; owner {owner}; {synthetic} addresses and ports; all else in it is \
                 filled in, and which way it went is not known"
            ),
        ]
    );
}

#[test]
fn names_of_others_are_harmless_in_the_section_too() {
    let blocks = file(&[]);
    let [Block::SectionHeader(section)] = &blocks[..] else { panic!("{blocks:?}") };
    let words: Vec<_> = section
        .options
        .iter()
        .map(|option| match option {
            SectionHeaderOption::Comment(text)
            | SectionHeaderOption::Hardware(text)
            | SectionHeaderOption::OS(text)
            | SectionHeaderOption::UserApplication(text) => text.to_string(),
            option => format!("{option:?}"),
        })
        .collect();
    assert!(words[0].contains("[2J") && !words[0].chars().any(char::is_control), "{words:?}");
    let version = concat!("netdiag ", env!("CARGO_PKG_VERSION"));
    assert_eq!(words[1..], ["x86_64", "Linux 6.18", version]);
}

#[test]
fn a_segment_without_a_byte_is_one_that_may_be_sent_again() {
    let flags =
        |kind, bytes, state| told(&again(kind, bytes, state)).packet.expect("a packet").tcp.flags;
    use crate::event::flags::{ACK, FIN, SYN};
    use retransmit::Kind;
    for (kind, bytes, state, expected) in [
        (Kind::Rto, 1, 1, Some(ACK)),
        (Kind::Rto, 0, 4, Some(FIN | ACK)),
        (Kind::Other, 0, 3, None),
        (Kind::Syn, 0, 2, Some(SYN)),
        (Kind::Synack, 0, 12, Some(SYN | ACK)),
    ] {
        assert_eq!(flags(kind, bytes, state), expected, "{kind:?} {bytes} in {state}");
    }
}

#[test]
fn of_a_conversation_that_is_not_known_there_is_no_packet() {
    let mut event = dropped(None, 7);
    let signal::Event::Drop(drop) = &mut event else { panic!("{event:?}") };
    drop.key = FlowKey { netns: 7, ..FlowKey::default() };
    assert_eq!(told(&event).packet, None);
}
