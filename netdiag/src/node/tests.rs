use super::*;

fn socket(local: &str, local_port: u16, peer_port: u16, pid: u32, comm: &str) -> SeededSocket {
    SeededSocket {
        key: FlowKey {
            local_addr: local.parse::<Ipv6Addr>().unwrap().octets(),
            local_port,
            peer_port,
            ..FlowKey::default()
        },
        cookie: 0,
        state: 1,
        pid: (pid != 0).then_some(pid),
        comm: (pid != 0).then(|| comm.to_owned()),
        place: None,
        tcp: None,
        detail: None,
        asks: None,
    }
}

#[test]
fn an_end_with_a_listener_answers_and_one_with_a_lent_port_asks() {
    let listeners: HashSet<FlowKey> =
        [("::", 80), ("::ffff:0.0.0.0", 40_000), ("::ffff:10.0.0.1", 82)]
            .map(|(address, port)| listener_key(socket(address, port, 0, 7, "seven").key))
            .into();
    for (address, port, peer_port, expected) in [
        ("::1", 80, 50_000, Some(false)),
        ("::ffff:10.0.0.9", 40_000, 443, Some(false)),
        ("::ffff:10.0.0.1", 82, 50_000, Some(false)),
        ("::ffff:10.0.0.2", 82, 50_000, None),
        ("::ffff:10.0.0.2", 50_000, 443, Some(true)),
        ("::ffff:10.0.0.2", 50_000, 50_001, None),
        ("::ffff:10.0.0.2", 700, 443, None),
    ] {
        let key = socket(address, port, peer_port, 7, "seven").key;
        assert_eq!(asks(&listeners, &key), expected, "{address} {port} {peer_port}");
    }
}

#[test]
fn owners_are_told_by_their_sockets() {
    let seeds = Seeds {
        sockets: vec![
            socket("::1", 80, 1000, 7, "seven"),
            socket("::1", 80, 1002, 0, ""),
            socket("::1", 81, 1003, 7, "seven"),
        ],
        listeners: vec![
            socket("::", 80, 0, 7, "seven"),
            socket("::ffff:0.0.0.0", 81, 0, 7, "seven"),
            socket("::ffff:10.0.0.1", 82, 0, 7, "seven"),
            socket("::", 83, 0, 8, "eight"),
        ],
        ..Seeds::default()
    };
    let owners: Vec<_> = seeds
        .owners()
        .map(|(key, pid)| {
            (Ipv6Addr::from(key.local_addr).to_string(), key.local_port, key.peer_port, pid)
        })
        .collect();
    let told = |address: &str, local, peer| (address.to_owned(), local, peer, 7);
    assert_eq!(
        owners,
        [
            told("::1", 80, 1000),
            told("::1", 81, 1003),
            told("::", 80, 0),
            told("::", 81, 0),
            told("::ffff:10.0.0.1", 82, 0),
            ("::".to_owned(), 83, 0, 8),
        ]
    );
    assert_eq!(seeds.holders(), ["7 (seven)", "8 (eight)"]);
}
