use super::*;

fn socket(state: u8, local: (&str, u16), peer: (&str, u16)) -> Socket {
    let end = |(ip, port): (&str, u16)| (ip.parse().unwrap(), port);
    Socket { state, local: end(local), peer: end(peer), inode: 7, queue: (3, 4) }
}

#[test]
fn ranges() {
    for (range, reserved, expected) in [
        ("32768\t60999\n", "\n", Some((32_768, 60_999, 28_232))),
        ("1000 1009", "1001,1003-1004,900-1000,5000", Some((1_000, 1_009, 6))),
        ("1 65535", "nonsense,2-x", Some((1, 65_535, 65_535))),
        ("9 5", "", None),
        ("", "", None),
        ("70000 80000", "", None),
    ] {
        let range = Range::parse(range, reserved);
        let found = range.map(|range| (range.first, range.last, range.available));
        assert_eq!(found, expected);
    }
}

#[test]
fn sockets_count_by_state_by_conversation_and_by_port() {
    let mut census = Census::new(Some("32768 60999"), None);
    let here = "10.0.0.1";
    for one in [
        socket(state::LISTEN, ("0.0.0.0", 80), ("0.0.0.0", 0)),
        socket(state::SYN_RECV, (here, 80), ("10.0.0.9", 40_000)),
        socket(state::TIME_WAIT, (here, 80), ("10.0.0.9", 40_001)),
        socket(state::TIME_WAIT, (here, 80), ("10.0.0.9", 40_002)),
        socket(state::TIME_WAIT, (here, 40_000), ("10.0.0.2", 443)),
        socket(state::ESTABLISHED, (here, 40_001), ("10.0.0.2", 443)),
        socket(state::ESTABLISHED, (here, 40_001), ("10.0.0.3", 443)),
        socket(state::SYN_SENT, (here, 40_002), ("10.0.0.4", 50_000)),
        socket(state::CLOSE_WAIT, (here, 80), ("10.0.0.9", 40_003)),
        socket(7, (here, 80), ("10.0.0.9", 40_003)),
    ] {
        census.add(&one);
    }
    let unaccepted = socket(state::CLOSE_WAIT, (here, 80), ("10.0.0.9", 40_004));
    census.add(&Socket { inode: 0, ..unaccepted });
    let expected = States {
        listen: 1,
        syn_recv: 1,
        time_wait: 3,
        established: 2,
        syn_sent: 1,
        close_wait: 2,
        ..States::default()
    };
    assert_eq!((census.states, census.ports), (expected, 3));
    assert_eq!((&census.close_wait[..], census.unaccepted), (&[7][..], 1));
    let end = |ip: &str, port: u16| -> End { (ip.parse().unwrap(), port) };
    let [syn_sent, fin_wait2, time_wait] = &census.groups;
    assert_eq!(syn_sent[&(end(here, 0), end("10.0.0.4", 50_000))], 1);
    assert!(fin_wait2.is_empty());
    assert_eq!(time_wait[&(end(here, 80), end("10.0.0.9", 0))], 2);
    assert_eq!(time_wait[&(end(here, 0), end("10.0.0.2", 443))], 1);
    assert_eq!(census.requests[&end(here, 80)], 1);
    let taken = &census.taken[&(here.parse().unwrap(), end("10.0.0.2", 443))];
    assert_eq!((taken.ports, taken.time_wait), (2, 1));
}

#[test]
fn a_count_stands_where_all_that_happens_shows() {
    let signs = |segments: u64| {
        let snmp = format!("Tcp: InSegs\nTcp: {segments}\n");
        Signs::parse("TCP: inuse 1 orphan 0 tw 0 alloc 1 mem 0\n", "", Some(&snmp))
    };
    let any = ("0.0.0.0", 0);
    let listener = |queue| Socket { queue, ..socket(state::LISTEN, ("0.0.0.0", 80), any) };
    let counted = |sockets: &[Socket]| {
        let mut census = Census::new(None, None);
        sockets.iter().for_each(|one| census.add(one));
        (census.signs, census.rested) = (signs(5), true);
        census.settle()
    };
    let quiet = counted(&[listener((0, 4))]);
    assert!(quiet.stands(signs(5).as_ref()));
    let first = Census { rested: false, ..quiet.clone() };
    assert!(!first.stands(signs(5).as_ref()), "a segment may have been on its way");
    assert!(!quiet.stands(signs(6).as_ref()), "a segment came");
    assert!(!quiet.stands(None), "nobody knows");
    let request = socket(state::SYN_RECV, ("10.0.0.1", 80), ("10.0.0.9", 40_000));
    for (what, census) in [
        ("a connection may be accepted", counted(&[listener((1, 4))])),
        ("a request may be given up", counted(&[listener((0, 4)), request])),
    ] {
        assert!(!census.stands(signs(5).as_ref()), "{what}");
    }
}

#[test]
fn hostile_ranges_are_survived() {
    let sound = ["32768\t60999\n", "1-5,40000,50000-50010,60999-65535\n"];
    crate::hostile::survived_text(&sound, |text| {
        for (range, reserved) in [(text, sound[1]), (sound[0], text), (text, text)] {
            if let Some(range) = Range::parse(range, reserved) {
                assert!(range.available <= 1 << 16, "{range:?}");
            }
        }
    });
}
