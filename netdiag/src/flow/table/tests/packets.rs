//! Dropped packets, which have no number: whose row they fall to.

use super::*;
use netdiag_common::flow::UDP;

use crate::signal::Label;

/// The rows that these drops of one packet each fall to, by local port; none for `other`.
fn rows_of_drops(table: &mut FlowTable, drops: &[Event]) -> Vec<Option<u16>> {
    let count = count_id("drops");
    drops
        .iter()
        .map(|event| {
            table.apply(event, 0);
            let interval = table.interval(0);
            let of = |flow: &Frozen| flow.labels(count).collect::<Vec<_>>();
            let rows = interval.flows.iter().filter(|flow| !of(flow).is_empty());
            let found: Vec<_> = rows.map(|flow| flow.key.local_port).collect();
            assert_eq!(of(&interval.sum()), [(Label::Reason(3), 1)]);
            assert!(found.len() <= 1);
            found.first().copied()
        })
        .collect()
}

#[test]
fn a_dropped_packet_joins_the_flow_of_its_socket() {
    let mut table = FlowTable::new(config(8));
    table.apply(&Event::Socket(socket(1, key(1000), What::Connect)), 0);
    let of_other_end = reversed(&key(1000));
    let unknown_netns = |key: FlowKey| FlowKey { netns: 0, ..key };
    let drops = [
        dropped(key(1000), true, 1),
        dropped(of_other_end, false, 1),
        dropped(unknown_netns(key(1000)), true, 1),
        dropped(unknown_netns(of_other_end), false, 1),
    ];
    assert_eq!(rows_of_drops(&mut table, &drops), [Some(1000); 4]);
    // A socket at the other end would be another flow.
    let drops = [dropped(of_other_end, true, 1)];
    assert_eq!(rows_of_drops(&mut table, &drops), [Some(80)]);
}

/// Records of sockets are decoded before those of packets, and packets may come late.
#[test]
fn a_packet_joins_the_flow_that_has_just_closed() {
    let mut table = FlowTable::new(config(8));
    table.apply(&Event::Socket(socket(1, key(1000), What::Connect)), 0);
    table.apply(&Event::Socket(socket(1, key(1000), What::Close)), 0);
    let rows = |table: &FlowTable| table.total().flows.len();
    table.apply(&dropped(key(1000), true, 1), 0);
    table.apply(&dropped(reversed(&key(1000)), false, 1), 59 * S);
    assert_eq!(rows(&table), 1);
    // The next one of that tuple has what comes from then on.
    table.apply(&Event::Socket(socket(2, key(1000), What::Connect)), 59 * S);
    table.apply(&dropped(key(1000), true, 1), 59 * S);
    let drops = count_id("drops");
    let found: Vec<_> = table.total().flows.iter().map(|flow| flow.count(drops)).collect();
    assert_eq!(found, [Some(2), Some(1)]);
    // Long after, it is nobody's.
    table.apply(&Event::Socket(socket(2, key(1000), What::Close)), 60 * S);
    table.apply(&dropped(key(1000), true, 1), 121 * S);
    assert_eq!(rows(&table), 3);
}

#[test]
fn idle_packets_make_room_for_others() {
    let mut table = FlowTable::new(config(16));
    let udp = |port| FlowKey { protocol: UDP, ..key(port) };
    for (port, at) in [(1, 0), (2, 50 * S), (3, 59 * S), (4, 61 * S), (5, 62 * S)] {
        table.apply(&dropped(udp(port), true, 1), at);
    }
    let ports: Vec<_> = table.total().flows.iter().map(|flow| flow.key.local_port).collect();
    assert_eq!(ports, [2, 4], "the first was idle for a minute when the fourth came");
    assert_eq!(table.total().sum().count(count_id("drops")), Some(5));
}

#[test]
fn packets_without_a_socket_have_few_rows() {
    let mut table = FlowTable::new(config(16));
    let udp = |port| FlowKey { protocol: UDP, ..key(port) };
    let drops = [1, 2, 3, 1].map(|port| dropped(udp(port), true, 1));
    assert_eq!(rows_of_drops(&mut table, &drops), [Some(1), Some(2), None, Some(1)]);
    let nobodys = [dropped(FlowKey::default(), false, 1)];
    assert_eq!(rows_of_drops(&mut table, &nobodys), [None]);
}

#[test]
fn a_socket_takes_over_what_was_known_by_packets_only() {
    for netns in [0, 7] {
        let mut table = FlowTable::new(config(16));
        let key = FlowKey { netns, ..key(1000) };
        table.apply(&dropped(FlowKey { netns: 0, ..key }, true, 1), 0);
        table.apply(&dropped(key, true, 1), 0);
        table.apply(&Event::Socket(socket(1, key, What::Connect)), 0);
        let total = table.total();
        let drops: Vec<_> = total.flows.iter().map(|flow| flow.count(count_id("drops"))).collect();
        assert_eq!(drops, [Some(2)], "in namespace {netns}");
    }
}

#[test]
fn packets_of_nobody_are_left_out_where_only_one_process_is_wanted() {
    let mut table = FlowTable::new(Config { known_only: true, ..config(16) });
    table.apply(&Event::Socket(socket(1, key(1000), What::Connect)), 0);
    table.apply(&dropped(key(1001), true, 1), 0);
    table.apply(&dropped(key(1000), true, 1), 0);
    assert_eq!(table.interval(0).sum().count(count_id("drops")), Some(1));
}
