use std::net::Ipv4Addr;

use netdiag_common::flow::{FlowKey, SocketRef, TCP, TcpCounters};

use super::*;
use crate::{
    event::Stack,
    flow::{Interval, Role, tuples::reversed},
    signal::{
        CountId, counts, drop, metrics,
        retransmit::{self, Kind},
        rtt, send, socket,
        socket::{BYTES_SENT, SEGMENTS_SENT},
    },
};

mod connects;
mod owners;
mod packets;
mod properties;
mod refreshed;
mod seeded;
mod shares;
mod translated;
mod trips;

const S: u64 = 1_000_000_000;

pub(super) fn count_id(name: &str) -> CountId {
    counts().find(|(_, _, count)| count.name == name).expect("a count of that name").0
}

pub(super) fn config(max_flows: usize) -> Config {
    Config { max_flows, idle_ns: 60 * S, ..Config::default() }
}

/// 10.0.0.1:`local_port` to 10.0.0.2:80 in namespace 7.
pub(super) fn key(local_port: u16) -> FlowKey {
    FlowKey {
        local_addr: Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped().octets(),
        peer_addr: Ipv4Addr::new(10, 0, 0, 2).to_ipv6_mapped().octets(),
        local_port,
        peer_port: 80,
        netns: 7,
        protocol: TCP,
        reserved: 0,
    }
}

pub(super) fn sent(flow: FlowId, latency_ns: u64) -> Event {
    Event::Send(send::Event { flow, latency_ns, result: 10 })
}

pub(super) fn socket(flow: FlowId, key: FlowKey, what: What) -> socket::Event {
    let socket = SocketRef { flow, sk: 0xffff_8880_0000_1000, key, ..SocketRef::default() };
    socket::Event {
        time_ns: 0,
        what,
        socket,
        pid: None,
        tid: None,
        comm: None,
        cgroup: None,
        place: None,
        tcp: None,
        detail: None,
        accept_wait_ns: None,
    }
}

pub(super) fn tcp(bytes_sent: u64, segs_out: u32) -> TcpCounters {
    TcpCounters { bytes_sent, segs_out, srtt_us: 150, cwnd: 10, ..TcpCounters::default() }
}

fn reported(flow: FlowId, key: FlowKey, what: What, counters: TcpCounters) -> Event {
    Event::Socket(socket::Event { tcp: Some(counters), ..socket(flow, key, what) })
}

/// Packets of 10 bytes, dropped for want of a socket.
pub(super) fn dropped(key: FlowKey, ends_known: bool, packets: u32) -> Event {
    Event::Drop(drop::Event {
        time_ns: 0,
        key,
        ends_known,
        way: None,
        reason: Some(3),
        location: 0,
        packets,
        bytes: 10 * u64::from(packets),
        stack: Stack::None,
    })
}

pub(super) fn retransmitted(flow: FlowId, key: FlowKey, kind: Kind, segments: u32) -> Event {
    Event::Retransmit(retransmit::Event {
        time_ns: 0,
        socket: SocketRef { flow, sk: 0xffff_8880_0000_2000, key, ..SocketRef::default() },
        kind,
        segments,
        seq: 1,
        bytes: 100,
        in_a_row: 0,
        failed: false,
        error: None,
        pid: None,
        tcp: None,
        stack: Stack::None,
    })
}

fn apply(table: &mut FlowTable, events: &[Event]) {
    for event in events {
        table.apply(event, 0);
    }
}

fn opened(flow: FlowId, key: FlowKey, what: What) -> Event {
    Event::Socket(socket(flow, key, what))
}

/// Port, sends and retransmitted SYN-ACKs of each flow, then of `other`.
type Shape = (Vec<(u16, u64, u64)>, (u64, u64));

fn shape(interval: &Interval) -> Shape {
    let numbers = |flow: &Frozen| {
        let count = |name| flow.count(count_id(name)).unwrap_or(0);
        let sends = count("sends");
        let samples: u64 = flow.latencies.iter().map(|(_, latency)| latency.count()).sum();
        assert_eq!(sends, samples);
        (sends, count("retransmits.synack"))
    };
    let flows = interval
        .flows
        .iter()
        .map(|flow| {
            let (sends, synacks) = numbers(flow);
            (flow.key.local_port, sends, synacks)
        })
        .collect();
    (flows, numbers(&interval.other))
}

#[test]
fn events_join_the_flow_they_belong_to() {
    let port_unknown = FlowKey { local_port: 0, ..key(40_000) };
    let elsewhere = FlowKey { netns: 8, ..key(40_000) };
    let synack = |flow_key| retransmitted(0, flow_key, Kind::Synack, 1);
    // What happens, then flows (port, sends, SYN-ACKs) and `other` (sends, SYN-ACKs).
    let cases = [
        (
            "introduced, then used",
            vec![opened(1, key(1), What::Connect), sent(1, 5)],
            vec![(1, 1, 0)],
            (0, 0),
        ),
        (
            "used, then introduced",
            vec![sent(1, 5), opened(1, key(1), What::Seen)],
            vec![(1, 1, 0)],
            (0, 0),
        ),
        ("never introduced", vec![sent(1, 5), sent(1, 6)], vec![], (2, 0)),
        ("not even a number", vec![sent(0, 5)], vec![], (1, 0)),
        (
            "a port told late",
            vec![
                opened(1, port_unknown, What::Connect),
                sent(1, 5),
                opened(1, key(40_000), What::Counters),
            ],
            vec![(40_000, 1, 0)],
            (0, 0),
        ),
        (
            "a request, then its socket",
            vec![synack(key(80)), opened(1, key(80), What::Accept), sent(1, 5)],
            vec![(80, 1, 1)],
            (0, 0),
        ),
        (
            "a socket, then its request",
            vec![opened(1, key(80), What::Accept), synack(key(80)), sent(1, 5)],
            vec![(80, 1, 1)],
            (0, 0),
        ),
        (
            "a request, sends without introduction, then the introduction",
            vec![synack(key(80)), sent(1, 5), opened(1, key(80), What::Accept)],
            vec![(80, 1, 1)],
            (0, 0),
        ),
        (
            "a request in another namespace",
            vec![synack(elsewhere), opened(1, key(40_000), What::Accept), sent(1, 5)],
            vec![(40_000, 0, 1), (40_000, 1, 0)],
            (0, 0),
        ),
        ("a request without key", vec![synack(port_unknown)], vec![], (0, 1)),
        (
            "a request after the close",
            vec![
                opened(1, key(80), What::Accept),
                opened(1, key(80), What::Close),
                synack(key(80)),
            ],
            vec![(80, 0, 0), (80, 0, 1)],
            (0, 0),
        ),
        (
            "the next socket at the same address with the same key",
            vec![
                opened(1, key(9), What::Connect),
                sent(1, 5),
                opened(1, key(9), What::Close),
                opened(2, key(9), What::Connect),
                sent(2, 5),
                sent(1, 5), // of a batch that another CPU flushed late
            ],
            vec![(9, 2, 0), (9, 1, 0)],
            (0, 0),
        ),
        (
            "a close that was lost",
            vec![
                opened(1, key(9), What::Accept),
                sent(1, 5),
                opened(2, key(9), What::Accept),
                synack(key(9)),
                sent(2, 5),
            ],
            vec![(9, 1, 0), (9, 1, 1)],
            (0, 0),
        ),
        (
            "a socket that connects again",
            vec![
                opened(1, key(9), What::Connect),
                sent(1, 5),
                opened(1, key(10), What::Counters),
                sent(1, 5),
                sent(1, 5),
            ],
            vec![(9, 1, 0), (10, 2, 0)],
            (0, 0),
        ),
        ("closed without being seen", vec![opened(0, key(9), What::Close)], vec![], (0, 0)),
    ];
    for (name, events, flows, other) in cases {
        let mut table = FlowTable::new(config(100));
        apply(&mut table, &events);
        let expected = (flows, other);
        assert_eq!(shape(&table.total()), expected, "{name}, total before");
        assert_eq!(shape(&table.last_interval(0)), expected, "{name}");
        assert_eq!(shape(&table.total()), expected, "{name}, total after");
        assert_eq!(shape(&table.interval(0)), (vec![], (0, 0)), "{name}, next interval");
    }
}

#[test]
fn cookies_tell_sockets_of_one_key_apart() {
    let with = |cookie| {
        let mut event = socket(1, key(9), What::Seen);
        event.socket.cookie = cookie;
        Event::Socket(event)
    };
    for (cookie, rows) in [(0, 1), (5, 1), (6, 2)] {
        let mut table = FlowTable::new(config(100));
        let seed = Seed { key: key(9), cookie: 5, pid: Some(3), ..Seed::default() };
        assert!(table.seed(&seed, 0));
        table.apply(&with(cookie), 0);
        assert_eq!(table.len(), rows, "cookie {cookie}");
        let pid = table.interval(0).flows[0].pid;
        assert_eq!(pid, (rows == 1).then_some(3), "cookie {cookie}");
    }
}

#[test]
fn the_kernels_counters_count_from_where_the_socket_was_met() {
    let seed = Seed { key: key(9), tcp: Some(tcp(700, 70)), ..Seed::default() };
    let seen = |bytes, segments| reported(1, key(9), What::Seen, tcp(bytes, segments));
    let more = |bytes, segments| reported(1, key(9), What::Counters, tcp(bytes, segments));
    // Socket dump, events, then bytes and segments.
    let cases = [
        ("opening seen", None, vec![reported(1, key(9), What::Connect, tcp(50, 3))], Some((50, 3))),
        ("no past", None, vec![seen(1_000, 90)], Some((0, 0))),
        ("no past, growth", None, vec![seen(1_000, 90), more(1_100, 95)], Some((100, 5))),
        ("dump before", Some(&seed), vec![seen(1_000, 90)], Some((300, 20))),
        (
            "older report",
            None,
            vec![seen(1_000, 90), more(900, 80), more(1_100, 95)],
            Some((100, 5)),
        ),
        ("no report", None, vec![opened(1, key(9), What::Connect), sent(1, 5)], None),
        (
            "connected again, counters cleared",
            None,
            vec![
                reported(1, key(9), What::Connect, tcp(500, 5)),
                reported(1, key(10), What::Counters, tcp(20, 2)),
            ],
            Some((520, 7)),
        ),
    ];
    for (name, seed, events, expected) in cases {
        let mut table = FlowTable::new(config(100));
        if let Some(seed) = seed {
            assert!(table.seed(seed, 0), "{name}");
        }
        apply(&mut table, &events);
        let sum = table.interval(0).sum();
        let found = sum.count(BYTES_SENT).zip(sum.count(SEGMENTS_SENT));
        assert_eq!(found, expected, "{name}");
        assert_eq!(table.interval(0).sum().count(BYTES_SENT), None, "{name}: no report, no number");
    }
}

#[test]
fn a_dump_that_comes_after_the_first_report_still_counts_the_growth_between() {
    let mut table = FlowTable::new(config(100));
    table.apply(&reported(1, key(9), What::Seen, tcp(1_000, 90)), 0);
    table.interval(0);
    let seed = Seed { key: key(9), tcp: Some(tcp(700, 70)), ..Seed::default() };
    assert!(table.seed(&seed, 0));
    let interval = table.interval(0);
    assert_eq!(interval.flows[0].count(BYTES_SENT), Some(300));
    assert_eq!(table.total().flows[0].count(BYTES_SENT), Some(300));
}

#[test]
fn owners_come_from_events_before_the_dump_and_change_by_owner_records() {
    let by = |what, pid, comm: &str| {
        let event = socket(1, key(9), what);
        Event::Socket(socket::Event { pid: Some(pid), comm: Some(comm.to_owned()), ..event })
    };
    let owner = |table: &mut FlowTable| {
        let flow = table.total().flows.remove(0);
        (flow.pid, flow.comm, flow.role)
    };
    let named = |pid, comm: &str, role| (Some(pid), Some(comm.to_owned()), role);
    let mut table = FlowTable::new(config(100));
    let seed = Seed { key: key(9), pid: Some(3), comm: Some("old".to_owned()), ..Seed::default() };
    assert!(table.seed(&seed, 0));
    assert!(table.total().flows[0].idle, "nothing was heard of it");
    table.apply(&opened(1, key(9), What::Seen), 0);
    assert_eq!(owner(&mut table), named(3, "old", None));
    table.apply(&by(What::Counters, 4, "client"), 0);
    assert_eq!(owner(&mut table), named(4, "client", None));
    table.apply(&by(What::Counters, 5, "other"), 0);
    assert_eq!(owner(&mut table), named(4, "client", None));
    table.apply(&by(What::Owner, 5, "worker"), 0);
    assert_eq!(owner(&mut table), named(5, "worker", None));
    assert!(table.seed(&Seed { role: Some(Role::Server), ..seed }, 0));
    assert_eq!(owner(&mut table), named(5, "worker", Some(Role::Server)));
}

#[test]
fn a_flow_without_a_port_is_held_back_once() {
    let port_unknown = FlowKey { local_port: 0, ..key(9) };
    let begun = [opened(1, port_unknown, What::Connect), sent(1, 5)];
    let mut table = FlowTable::new(config(100));
    apply(&mut table, &begun);
    assert_eq!(shape(&table.interval(0)), (vec![], (0, 0)));
    table.apply(&opened(1, key(9), What::Counters), 0);
    assert_eq!(shape(&table.interval(0)), (vec![(9, 1, 0)], (0, 0)));

    let mut table = FlowTable::new(config(100));
    apply(&mut table, &begun);
    assert_eq!(shape(&table.interval(0)), (vec![], (0, 0)));
    assert_eq!(shape(&table.interval(0)), (vec![], (1, 0)));
    table.apply(&opened(1, key(9), What::Counters), 0);
    table.apply(&sent(1, 5), 0);
    assert_eq!(shape(&table.interval(0)), (vec![(9, 1, 0)], (0, 0)));
    assert_eq!(shape(&table.total()), (vec![(9, 1, 0)], (1, 0)));
}

#[test]
fn both_ends_on_the_node_name_each_other() {
    let client = key(40_000);
    for netns in [7, 8] {
        let server = FlowKey { netns, ..reversed(&client) };
        let mut table = FlowTable::new(config(100));
        apply(&mut table, &[opened(1, client, What::Connect), opened(2, server, What::Accept)]);
        apply(&mut table, &[opened(1, client, What::Close), opened(2, server, What::Close)]);
        let flows = table.interval(0).flows;
        assert_eq!(flows.len(), 2);
        assert_eq!((flows[0].pair, flows[1].pair), (Some(flows[1].id), Some(flows[0].id)));
        assert!(flows.iter().all(|flow| flow.closed));
        assert!(table.is_empty());
    }
}

#[test]
fn idle_rows_leave_and_come_back_as_the_same_flow() {
    let mut table = FlowTable::new(config(100));
    apply(&mut table, &[opened(1, key(1), What::Connect), opened(2, key(2), What::Connect)]);
    table.apply(&sent(2, 5), 30 * S);
    let ids: Vec<u64> = table.interval(30 * S).flows.iter().map(|flow| flow.id).collect();
    table.expire(59 * S);
    assert_eq!(table.len(), 2);
    table.expire(60 * S);
    assert_eq!(table.len(), 1);
    table.apply(&sent(1, 5), 61 * S);
    assert_eq!(table.len(), 2);
    let interval = table.interval(61 * S);
    assert_eq!(interval.flows.len(), 1);
    assert_eq!(interval.flows[0].id, ids[0]);
    // An interval longer than the idle time loses nothing.
    table.apply(&sent(2, 5), 62 * S);
    assert_eq!(shape(&table.interval(200 * S)), (vec![(2, 1, 0)], (0, 0)));
    assert!(table.is_empty());
}

#[test]
fn idle_rows_are_listed_when_asked_for() {
    let mut table = FlowTable::new(Config { list_idle: true, ..config(100) });
    assert!(table.seed(&Seed { key: key(5), ..Seed::default() }, 0));
    apply(&mut table, &[opened(1, key(1), What::Connect)]);
    let idle = |interval: Interval| -> Vec<(u16, bool)> {
        interval.flows.iter().map(|flow| (flow.key.local_port, flow.idle)).collect()
    };
    assert_eq!(idle(table.interval(0)), [(5, true), (1, false)]);
    assert_eq!(idle(table.interval(0)), [(5, true), (1, true)]);
    assert_eq!(idle(table.total()), [(5, true), (1, false)]);
    table.expire(60 * S);
    assert_eq!(idle(table.interval(60 * S)), []);
}

#[test]
fn the_oldest_idle_row_makes_room_and_nothing_is_lost() {
    let mut table = FlowTable::new(config(3));
    for flow in 1..=3 {
        table.apply(&opened(flow, key(flow as u16), What::Connect), flow);
        table.apply(&sent(flow, 5), flow);
    }
    table.apply(&sent(1, 5), 10);
    table.interval(10);
    table.apply(&sent(2, 5), 11);
    table.apply(&opened(4, key(4), What::Connect), 12); // 3 goes, silently
    table.apply(&opened(5, key(5), What::Connect), 13); // 1 goes, silently
    table.apply(&opened(6, key(6), What::Connect), 14); // 2 goes with its row
    assert_eq!(table.len(), 3);
    let interval = shape(&table.interval(14));
    assert_eq!(interval, (vec![(2, 1, 0), (4, 0, 0), (5, 0, 0), (6, 0, 0)], (0, 0)));
    let total = shape(&table.total());
    assert_eq!(total, (vec![(4, 0, 0), (5, 0, 0), (6, 0, 0)], (5, 0)));
    assert!(!table.seed(&Seed { key: key(99), ..Seed::default() }, 14), "no room for the idle");
}

#[test]
fn flows_that_are_summed_up_are_counted_and_what_is_of_none_is_not() {
    let mut table = FlowTable::new(config(1));
    table.apply(&sent(0, 5), 1);
    for flow in 1..=3 {
        table.apply(&opened(flow, key(flow as u16), What::Connect), flow);
    }
    let interval = table.interval(4);
    assert_eq!((interval.flows.len(), interval.folded), (2, 1));
    assert_eq!((table.interval(5).folded, table.total().folded), (0, 2));
}

#[test]
fn metrics_and_counts_have_the_names_used_here() {
    assert!(metrics().any(|(_, _, metric)| metric.name == "send"));
    for name in ["sends", "send_bytes", "retransmits.synack", "retransmit_bytes"] {
        count_id(name);
    }
}
