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

#[test]
fn a_socket_that_never_got_a_port_counts_in_other() {
    let mut table = FlowTable::new(config(9));
    let unbound = FlowKey { local_port: 0, ..key(0) };
    for what in [What::Connect, What::Failed(Some(libc::EADDRNOTAVAIL)), What::Close] {
        table.apply(&Event::Socket(socket(1, unbound, what)), 0);
    }
    let interval = table.last_interval(S);
    assert_eq!(interval.flows.len(), 0);
    assert_eq!(failed(&interval.other), [(Label::Errno(libc::EADDRNOTAVAIL), 1)]);
}
