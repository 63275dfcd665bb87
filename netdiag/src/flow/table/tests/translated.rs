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

/// The client's end of the socket `flow` at that time; connect has just been called, where it is that.
fn at(flow: FlowId, what: What, time_ns: u64) -> Event {
    let event = socket(flow, client(), what);
    let state = if what == What::Connect { 7 } else { 1 };
    let socket = SocketRef { state, ..event.socket };
    Event::Socket(socket::Event { time_ns, socket, ..event })
}

/// All that began to `backend` to which [`client`] may belong.
fn summed_up(event: Event) -> Event {
    let Event::Conntrack(event) = event else { panic!("an entry's") };
    let entry = event.entry.summed_up();
    Event::Conntrack(conntrack::Event { entry, reply: None, times: 9, ..event })
}

#[test]
fn an_entry_older_than_a_connection_is_not_its_own() {
    let mut table = FlowTable::new(Config::default());
    // The end of the one before is not heard of.
    apply(&mut table, &[told(CONFIRMED, 3, 5), at(1, What::Connect, 6)]);
    assert_eq!(seen(&mut table), [(1, None, None, None)]);
    apply(&mut table, &[told(CONFIRMED, 4, 7), sent(1, 5)]);
    assert_eq!(seen(&mut table), [(1, None, SERVICE, Some((4, 8080)))]);
}

#[test]
fn an_entry_that_many_hide_is_told_no_more() {
    let mut table = FlowTable::new(Config::default());
    let [connect, _] = opened();
    // When it connected is not known.
    apply(&mut table, &[told(CONFIRMED, 3, 5), summed_up(told(DESTROYED, 3, 6)), connect]);
    assert_eq!(seen(&mut table), [(1, None, None, None)]);
}

#[test]
fn a_closed_flow_has_no_later_entry_and_no_earlier_one() {
    let mut table = FlowTable::new(Config::default());
    let first = [at(1, What::Connect, 4), told(CONFIRMED, 3, 5), at(1, What::Close, 8)];
    apply(&mut table, &first);
    // The socket of this one is not heard of yet.
    apply(&mut table, &[told(CONFIRMED, 4, 9)]);
    assert_eq!(seen(&mut table), [(1, None, SERVICE, Some((3, 8080)))]);
    let mut table = FlowTable::new(Config::default());
    apply(&mut table, &[at(1, What::Connect, 4), at(1, What::Close, 8)]);
    apply(&mut table, &[told(CONFIRMED, 4, 3)]);
    assert_eq!(seen(&mut table), [(1, None, None, None)], "it was an earlier one's");
    apply(&mut table, &[told(CONFIRMED, 4, 2 * S), at(1, What::Counters, 8)]);
    assert_eq!(seen(&mut table), [(1, None, None, None)], "it is a later one's");
}

#[test]
fn an_entry_that_comes_late_is_that_of_the_flow_before() {
    let mut table = FlowTable::new(Config::default());
    let first = [at(1, What::Connect, 4), at(1, What::Close, 8), at(2, What::Connect, 10)];
    apply(&mut table, &first);
    apply(&mut table, &[told(CONFIRMED, 3, 5)]);
    let expected = [(1, None, SERVICE, Some((3, 8080))), (2, None, None, None)];
    assert_eq!(seen(&mut table), expected);
}

#[test]
fn the_pair_of_a_translation_goes_with_it() {
    for plain in [false, true] {
        let mut table = FlowTable::new(Config::default());
        let [connect, accept] = opened();
        let Event::Socket(accept) = accept else { panic!("a socket's") };
        let accept = Event::Socket(socket::Event { pid: Some(9), ..accept });
        apply(&mut table, &[told(CONFIRMED, 3, 5), accept, connect]);
        assert_eq!(seen(&mut table).iter().map(|it| it.1).collect::<Vec<_>>(), [Some(2), Some(1)]);
        let Event::Conntrack(next) = told(CONFIRMED, 4, 6) else { panic!("an entry's") };
        let reply = next.reply.map(|reply| match plain {
            true => Tuple { source: client().peer_addr, source_port: 80, ..reply },
            false => reply,
        });
        apply(
            &mut table,
            &[Event::Conntrack(conntrack::Event { reply, ..next }), sent(1, 5), sent(2, 5)],
        );
        let interval = table.interval(0);
        let pairs: Vec<_> = interval.flows.iter().map(|it| (it.pair, it.peer.is_some())).collect();
        assert_eq!(pairs, [(None, false), (None, false)]);
        let backend = interval.flows[1].translation.as_ref().map(|it| it.backend.0[15]);
        assert_eq!(backend, (!plain).then_some(4));
    }
}
