//! Conversations whose addresses connection tracking translates.

use super::*;
use crate::{
    flow::Translation,
    signal::conntrack::{self, CONFIRMED, DESTROYED, Entry, NEW, Tuple},
};

const POD: u32 = 8;
const NODE: u32 = 9;

fn host(host: u8) -> [u8; 16] {
    Ipv4Addr::new(10, 0, 0, host).to_ipv6_mapped().octets()
}

/// The client's end of [`key`], in a pod.
fn client() -> FlowKey {
    FlowKey { netns: POD, ..key(1) }
}

/// The server's: 10.0.0.`backend`:8080, in another one.
fn server(backend: u8) -> FlowKey {
    FlowKey { peer_addr: host(backend), peer_port: 8080, netns: 10, ..key(1) }
}

/// What happened on the node to the entry of [`client`], which leads to [`server`].
fn told(what: CountId, backend: u8, time_ns: u64) -> Event {
    let FlowKey { local_addr, peer_addr, local_port, peer_port, .. } = client();
    let original = Tuple {
        source: local_addr,
        destination: peer_addr,
        source_port: local_port,
        destination_port: peer_port,
    };
    let reply = Tuple {
        source: host(backend),
        destination: local_addr,
        source_port: 8080,
        destination_port: local_port,
    };
    Event::Conntrack(conntrack::Event {
        time_ns,
        entry: Entry { netns: NODE, zone: 0, protocol: TCP, original },
        reply: Some(reply),
        creator: None,
        what,
        times: 1,
    })
}

fn opened() -> [Event; 2] {
    let server = reversed(&server(3));
    [
        Event::Socket(socket(1, client(), What::Connect)),
        Event::Socket(socket(2, server, What::Accept)),
    ]
}

/// Pair, service and backend of each flow, by its id.
type Told = (u64, Option<u64>, Option<(u8, u16)>, Option<(u8, u16)>);

fn seen(table: &mut FlowTable) -> Vec<Told> {
    let end = |(ip, port): ([u8; 16], u16)| (ip[15], port);
    let interval = table.interval(0);
    let of = |flow: &Frozen| {
        let translation: Option<Translation> = flow.translation.as_deref().copied();
        let (service, backend) = translation.map(|it| (end(it.service), end(it.backend))).unzip();
        (flow.id, flow.pair, service, backend)
    };
    interval.flows.iter().map(of).collect()
}

const SERVICE: Option<(u8, u16)> = Some((2, 80));

#[test]
fn both_ends_are_told_in_whatever_order_events_come() {
    let [connect, accept] = opened();
    let confirmed = told(CONFIRMED, 3, 5);
    let orders = [
        [&connect, &accept, &confirmed],
        [&connect, &confirmed, &accept],
        [&confirmed, &connect, &accept],
    ];
    for events in orders {
        let mut table = FlowTable::new(Config::default());
        events.into_iter().for_each(|event| {
            table.apply(event, 0);
        });
        let backend = Some((3, 8080));
        let expected = [(1, Some(2), SERVICE, backend), (2, Some(1), SERVICE, backend)];
        assert_eq!(seen(&mut table), expected);
    }
}

#[test]
fn what_ended_before_its_entry_is_heard_of_is_told_and_keeps_it() {
    let mut table = FlowTable::new(Config::default());
    let [connect, _] = opened();
    let close = Event::Socket(socket(1, client(), What::Close));
    apply(&mut table, &[connect, close, told(CONFIRMED, 3, 5), told(DESTROYED, 3, 6)]);
    assert_eq!(seen(&mut table), [(1, None, SERVICE, Some((3, 8080)))]);
    let next = Event::Socket(socket(3, client(), What::Connect));
    apply(&mut table, &[next]);
    assert_eq!(seen(&mut table), [(2, None, None, None)], "its entry is not heard of yet");
    apply(&mut table, &[told(CONFIRMED, 4, 7), sent(3, 5)]);
    assert_eq!(seen(&mut table), [(2, None, SERVICE, Some((4, 8080)))]);
}

#[test]
fn the_next_one_with_a_tuple_that_is_not_translated_is_not() {
    let mut table = FlowTable::new(Config::default());
    apply(&mut table, &[told(CONFIRMED, 3, 5)]);
    let [connect, _] = opened();
    let Event::Conntrack(plain) = told(CONFIRMED, 2, 6) else { panic!("an entry's") };
    let reply = plain.reply.map(|reply| Tuple { source_port: 80, ..reply });
    // The end of the one before has not been heard of.
    apply(&mut table, &[connect, Event::Conntrack(conntrack::Event { reply, ..plain })]);
    assert_eq!(seen(&mut table), [(1, None, None, None)]);
}

#[test]
fn an_entry_that_is_not_in_the_table_yet_tells_nothing() {
    let mut table = FlowTable::new(Config::default());
    let [connect, _] = opened();
    apply(&mut table, &[connect, told(NEW, 3, 5)]);
    assert_eq!(seen(&mut table), [(1, None, None, None)]);
}
