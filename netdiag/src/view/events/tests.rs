use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use netdiag_common::flow::FlowKey;
use proptest::prelude::*;

use super::*;
use crate::{
    event::{Past, Stack},
    flow::Frozen,
    hostile,
    labels::Labels,
    signal::{self, conntrack, dns, retransmit, socket},
    snapshot::{
        Account, Endpoint, Listener, Own, Owner, Stream,
        told::{Names, SCHEMA, Telling, of_listener, stranger},
    },
    view::sample,
};

fn at(microseconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(76_000) + Duration::from_micros(microseconds)
}

fn key(local_port: u16) -> FlowKey {
    let address = |host| std::net::Ipv4Addr::new(10, 9, 0, host).to_ipv6_mapped().octets();
    FlowKey {
        local_addr: address(1),
        peer_addr: address(2),
        local_port,
        peer_port: 9000,
        netns: 7,
        protocol: 6,
        reserved: 0,
    }
}

fn flow(local_port: u16) -> Frozen {
    let (pid, comm) = (Some(10_723), Some("dump".to_owned()));
    Frozen { id: 4, key: key(local_port), pid, comm, ..Frozen::default() }
}

/// One of every kind, by the events of the signals.
fn tellings() -> Vec<Telling> {
    let again = signal::Event::Retransmit(retransmit::Event {
        time_ns: 0,
        socket: netdiag_common::flow::SocketRef { state: 1, ..Default::default() },
        kind: retransmit::Kind::Rto,
        segments: 3,
        seq: 77,
        bytes: 4_344,
        in_a_row: 0,
        failed: true,
        error: Some(1),
        pid: None,
        tcp: Some(netdiag_common::flow::TcpCounters {
            srtt_us: 1_500,
            cwnd: 2,
            ..Default::default()
        }),
        stack: Stack::None,
    });
    let dropped = |packets, reason| {
        signal::Event::Drop(signal::drop::Event {
            time_ns: 0,
            key: key(1),
            ends_known: true,
            way: None,
            reason,
            location: 16,
            packets,
            bytes: 1_400 * u64::from(packets),
            stack: Stack::None,
        })
    };
    let of = |what| {
        signal::Event::Socket(socket::Event {
            time_ns: 3_500_000,
            what,
            socket: netdiag_common::flow::SocketRef::default(),
            pid: None,
            tid: None,
            accept_wait_ns: None,
            comm: None,
            cgroup: None,
            place: None,
            tcp: None,
            detail: None,
        })
    };
    let tuple = |source: (u8, u16), destination: (u8, u16)| {
        let address = |host| std::net::Ipv4Addr::new(10, 9, 0, host).to_ipv6_mapped().octets();
        conntrack::Tuple {
            source: address(source.0),
            destination: address(destination.0),
            source_port: source.1,
            destination_port: destination.1,
        }
    };
    let entry = signal::Event::Conntrack(conntrack::Event {
        time_ns: 4_500_000,
        entry: conntrack::Entry {
            netns: 7,
            zone: 3,
            protocol: 17,
            original: tuple((2, 40_897), (9, 53)),
        },
        reply: Some(tuple((10, 5353), (2, 40_897))),
        creator: Some(conntrack::Creator { pid: 10_723, comm: "dump".to_owned(), place: None }),
        what: conntrack::TABLE_FULL,
        times: 35,
    });
    let reset = |sent, reason, resets| {
        signal::Event::Reset(signal::reset::Event {
            time_ns: 5_000_000,
            key: key(1),
            sent,
            reason,
            resets,
        })
    };
    let asked = |what| {
        let asker = FlowKey { local_port: 0, peer_port: 53, protocol: 17, ..key(1) };
        signal::Event::Dns(dns::Event::Query(dns::Query { time_ns: 5_000_000, asker, what }))
    };
    let past = Past { opened_ns: Some(500_000), connecting_ns: Some(1_000_000), ..Past::default() };
    let events = [
        again,
        dropped(1, Some(3)),
        dropped(900, None),
        of(socket::What::Established),
        of(socket::What::Failed(Some(111))),
        of(socket::What::Failed(None)),
        of(socket::What::Close),
        entry,
        reset(true, Some(1), 1),
        reset(false, None, 12),
        asked(dns::What::Answered { rcode: 2, latency_ns: 2_500_000, late: false }),
        asked(dns::What::Unanswered),
    ];
    let mut tellings = Vec::new();
    for (at_us, event) in events.iter().enumerate() {
        event.tell(&past, &mut |told| {
            let flow =
                if at_us == 2 { stranger(FlowKey { netns: 0, ..key(1) }) } else { flow(40_896) };
            tellings.push(Telling { time: at(at_us as u64), told, flow, stack: None });
        });
    }
    tellings[1].stack = Some(Some(vec![16, 32]));
    tellings[2].stack = Some(None);
    tellings
}

fn names<T>(with: impl FnOnce(&Names<'_>) -> T) -> T {
    let labels = Labels {
        reasons: BTreeMap::from([(3, "NETFILTER_DROP".to_owned())]),
        resets: BTreeMap::from([(1, "NO_SOCKET".to_owned())]),
        ..Labels::default()
    };
    let name = |text: &str| Some(text.to_owned());
    let places = BTreeMap::from([(16, name("nf_hook_slow+0x9e")), (32, None)]);
    with(&Names { labels: &labels, places: &places, signals: &[] })
}

fn overflow() -> Event {
    let listener = Listener {
        netns: 7,
        local: Endpoint { ip: Some([10, 9, 0, 1].into()), port: Some(80) },
        owner: Owner { pid: Some(9), ..Owner::default() },
        drops: 12,
        accept_queue: 6,
        accept_queue_limit: 5,
    };
    of_listener(at(9), &listener)
}

fn end() -> End {
    let account = Account { seen: 9, submitted: 9, ..Account::default() };
    End {
        schema: SCHEMA,
        kind: "end",
        time: crate::snapshot::build::rfc3339(at(99)),
        told: BTreeMap::from([("drop", 901), ("retransmit", 1)]),
        suppressed: BTreeMap::from([("drop", 40)]),
        stacks_not_taken: Some(3),
        signals: Vec::new(),
        own: Own::default(),
        accounting: BTreeMap::from([("drop".to_owned(), account)]),
        stream: Stream { received: 9, decoded: 9, malformed: 0 },
        complete: true,
    }
}

fn suppressed() -> Suppressed {
    Suppressed::new(at(1), BTreeMap::from([("drop", 12_345), ("retransmit", 3)]))
}

/// One of every kind.
fn all() -> Vec<Event> {
    let mut events: Vec<Event> =
        tellings().iter().map(|telling| names(|names| names.event(telling))).collect();
    events.push(overflow());
    events
}

#[test]
fn events_look_as_agreed() {
    let mut out = Vec::new();
    let mut lines = Lines::new(80);
    for event in all() {
        lines.event(&event, &mut out).expect("memory");
    }
    lines.suppressed(&suppressed(), &mut out).expect("memory");
    let total: Snapshot = sample::read("total");
    lines.end(&end(), &total, &mut out).expect("memory");
    insta::assert_snapshot!("events", String::from_utf8(out).expect("UTF-8"));
}

/// Every object that can leave.
fn objects() -> Vec<serde_json::Value> {
    let mut objects: Vec<_> =
        all().iter().map(|event| serde_json::to_value(event).expect("JSON")).collect();
    objects.push(serde_json::to_value(suppressed()).expect("JSON"));
    objects.push(serde_json::to_value(end()).expect("JSON"));
    objects
}

#[test]
fn every_object_matches_the_schema() {
    let objects = objects();
    for kind in kinds() {
        assert!(objects.iter().any(|object| object["kind"] == kind.name), "no {}", kind.name);
    }
    for object in objects {
        assert_eq!(crate::view::schema::check("event-1.json", &object), Ok(()), "{object}");
        for spoil in ["kind", "time", "schema"] {
            let mut wrong = object.clone();
            wrong[spoil] = serde_json::Value::Null;
            assert!(crate::view::schema::check("event-1.json", &wrong).is_err(), "{wrong}");
        }
    }
}

/// An event with a name of others wherever there may be one.
fn of_others(mut event: Event, name: &str) -> Event {
    let owner = crate::view::owner::of_others(name);
    let name = || name.to_owned();
    event.flow.owner = owner.clone();
    event.stack = Some(Some(vec![Some(name()), None]));
    for said in event.fields.values_mut() {
        match said {
            Said::Text(text) => *text = name(),
            Said::Owner(creator) => *creator = owner.clone(),
            _ => {}
        }
    }
    event
}

proptest! {
    #[test]
    fn no_name_is_harmful(name in hostile::name()) {
        let mut out = Vec::new();
        let mut lines = Lines::new(80);
        for event in all() {
            lines.event(&of_others(event, &name), &mut out).expect("memory");
        }
        for line in String::from_utf8(out).expect("UTF-8").split('\n') {
            prop_assert_eq!(sanitised(line), line);
        }
    }

    #[test]
    fn no_line_is_wider_than_asked(
        columns in 60_usize..200, comm in hostile::name(), v6: [u8; 16],
    ) {
        let mut lines = Lines::new(columns);
        for mut telling in tellings() {
            telling.flow.comm = Some(comm.clone());
            telling.flow.key.peer_addr = v6;
            let mut out = Vec::new();
            lines.event(&names(|names| names.event(&telling)), &mut out).expect("memory");
            for line in String::from_utf8(out).expect("UTF-8").split('\n') {
                prop_assert!(width(line) <= columns, "{line}");
                prop_assert_eq!(sanitised(line), line);
            }
        }
    }
}
