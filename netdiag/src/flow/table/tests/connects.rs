//! How long connecting took, and why it failed.

use super::*;
use crate::{
    flow::latency::Latency,
    signal::{Label, socket::CONNECT_LATENCY},
};

/// A record of a socket that connects: only the kernel's state tells that it has just begun.
fn at(ms: u64, flow: FlowId, what: What) -> Event {
    let event = socket(flow, key(50_000 + flow as u16), what);
    let state = if what == What::Connect { 7 } else { 1 };
    let socket = SocketRef { state, ..event.socket };
    Event::Socket(socket::Event { time_ns: ms * 1_000_000, socket, ..event })
}

fn latencies(flow: &Frozen) -> (u64, Option<u64>) {
    let latency = flow.latency(CONNECT_LATENCY);
    (latency.map_or(0, Latency::count), latency.and_then(Latency::max))
}

fn failed(flow: &Frozen) -> Vec<(Label, u64)> {
    flow.labels(count_id("connects_failed")).collect()
}

#[test]
fn only_what_was_seen_from_its_beginning_to_its_success_is_a_latency() {
    let refused = || What::Failed(Some(libc::ECONNREFUSED));
    let mut table = FlowTable::new(config(9));
    apply(
        &mut table,
        &[
            at(100, 1, What::Connect),
            at(1_103, 1, What::Established),
            at(100, 2, What::Connect),
            at(101, 2, refused()),
            at(100, 3, What::Connect),
            at(400, 3, What::Failed(None)),
            // Of these two the beginning was not seen.
            at(200, 4, What::Connected),
            at(200, 5, What::Established),
            // A failure whose beginning was not seen is one all the same.
            at(200, 6, refused()),
        ],
    );
    let interval = table.last_interval(S);
    let of = |number: usize| {
        (latencies(&interval.flows[number - 1]), failed(&interval.flows[number - 1]))
    };
    let error = (Label::Errno(libc::ECONNREFUSED), 1);
    let ((count, max), failures) = of(1);
    assert_eq!((count, failures), (1, vec![]));
    assert!(max.is_some_and(|max| max.abs_diff(1_003_000_000) <= 10_030_000), "{max:?}");
    assert_eq!(of(2), ((0, None), vec![error]));
    assert_eq!(of(3), ((0, None), vec![(Label::GivenUp, 1)]));
    assert_eq!(of(4), ((0, None), vec![]));
    assert_eq!(of(5), ((0, None), vec![]));
    assert_eq!(of(6), ((0, None), vec![error]));
    assert_eq!(interval.sum().count(count_id("connects_failed")), Some(3));
}

/// Connects that find no port, from one address to a port of 10.0.0.2.
fn unbound(flow: FlowId, peer_port: u16) -> [Event; 3] {
    let key = FlowKey { local_port: 0, peer_port, ..key(0) };
    [What::Connect, What::Failed(Some(libc::EADDRNOTAVAIL)), What::Close]
        .map(|what| Event::Socket(socket(flow, key, what)))
}

#[test]
fn sockets_that_never_got_a_port_are_one_row_of_their_destination() {
    let mut table = FlowTable::new(config(16));
    let error = |n| vec![(Label::Errno(libc::EADDRNOTAVAIL), n)];
    for (flow, port) in [(1, 80), (2, 80), (3, 443)] {
        apply(&mut table, &unbound(flow, port));
    }
    let interval = table.interval(S);
    let told: Vec<_> = interval
        .flows
        .iter()
        .map(|flow| (flow.key.local_port, flow.key.peer_port, flow.role, failed(flow)))
        .collect();
    let client = Some(Role::Client);
    assert_eq!(told, [(0, 80, client, error(2)), (0, 443, client, error(1))]);
    assert!(failed(&interval.other).is_empty());
    // The same rows, as long as there are any.
    apply(&mut table, &unbound(4, 80));
    let next = table.last_interval(2 * S);
    assert_eq!((next.flows.len(), next.flows[0].id), (1, interval.flows[0].id));
    assert_eq!(failed(&next.flows[0]), error(1));
    let total = table.total();
    assert_eq!(total.flows.iter().map(failed).collect::<Vec<_>>(), [error(3), error(1)]);
    assert!(failed(&total.other).is_empty());
}

/// Of 16 rows two may be without a socket.
#[test]
fn beyond_their_room_they_count_in_other() {
    let mut table = FlowTable::new(config(16));
    for port in 1..=3 {
        apply(&mut table, &unbound(port.into(), port));
    }
    let interval = table.last_interval(S);
    assert_eq!(interval.flows.len(), 2);
    assert_eq!(failed(&interval.other), [(Label::Errno(libc::EADDRNOTAVAIL), 1)]);
    assert_eq!(failed(&table.total().other), [(Label::Errno(libc::EADDRNOTAVAIL), 1)]);
}
