//! The conservation law: whatever happens in whatever order, nothing is lost or counted twice.

use std::collections::HashSet;

use netdiag_common::flow::FlowId;
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::flow::tuples::is_complete;
use netdiag_common::flow::UDP;

#[derive(Clone, Debug)]
enum Step {
    Event(Box<Event>),
    Seed(u16),
    Expire,
    Freeze,
}

fn any_key() -> impl Strategy<Value = FlowKey> {
    let ends = prop_oneof![
        4 => (1u16..6).prop_map(key),
        1 => (1u16..6).prop_map(|port| reversed(&key(port))),
        1 => Just(key(0)),
    ];
    (ends, 7u32..9).prop_map(|(key, netns)| FlowKey { netns, ..key })
}

fn any_event() -> impl Strategy<Value = Event> {
    let id = 0..8 as FlowId;
    let what = prop_oneof![
        Just(What::Seen),
        Just(What::Connect),
        Just(What::Accept),
        Just(What::Owner),
        Just(What::Counters),
        Just(What::Close),
        Just(What::Failed(Some(libc::EADDRNOTAVAIL))),
    ];
    let kind = prop_oneof![Just(Kind::Synack), Just(Kind::Rto)];
    prop_oneof![
        4 => (id.clone(), any::<u64>()).prop_map(|(id, latency)| sent(id, latency >> 20)),
        2 => (id.clone(), any_key(), what, any::<Option<u16>>()).prop_map(|(id, key, what, bytes)| {
            let tcp = bytes.map(|bytes| tcp(u64::from(bytes), u32::from(bytes)));
            Event::Socket(socket::Event { tcp, ..socket(id, key, what) })
        }),
        2 => (id, any_key(), kind, 1..9u32)
            .prop_map(|(id, key, kind, n)| retransmitted(id, key, kind, n)),
        2 => (any_packet_key(), 1..4u32, any::<bool>())
            .prop_map(|(key, n, known)| dropped(key, known, n)),
    ]
}

/// Of a conversation that may have a socket, or none, or one in a namespace that is not known.
fn any_packet_key() -> impl Strategy<Value = FlowKey> {
    let udp = any_key().prop_map(|key| FlowKey { protocol: UDP, ..key });
    let anywhere = any_key().prop_map(|key| FlowKey { netns: 0, ..key });
    prop_oneof![any_key(), udp, anywhere, Just(FlowKey::default())]
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => any_event().prop_map(|event| Step::Event(Box::new(event))),
        1 => (1u16..6).prop_map(Step::Seed),
        1 => Just(Step::Expire),
        2 => Just(Step::Freeze),
    ]
}

/// Sum of everything, with the samples of latencies, those out of range, and what is labelled.
fn totals(of: &Frozen) -> (Vec<(CountId, u64)>, u64, u64, u64) {
    let samples = of.latencies.iter().map(|(_, latency)| latency.count()).sum();
    let outside = of.latencies.iter().map(|(_, latency)| latency.out_of_range()).sum();
    let labelled = of.labelled.iter().map(|(_, n)| n).sum();
    (of.counts.clone(), samples, outside, labelled)
}

proptest! {
    #[test]
    fn nothing_is_lost_or_counted_twice(
        max_flows in 1usize..6,
        list_idle: bool,
        steps in vec(any_step(), 0..120),
    ) {
        let config = Config { max_flows, idle_ns: 5, list_idle, ..Config::default() };
        let mut table = FlowTable::new(config);
        let mut intervals = Vec::new();
        let (mut sends, mut segments, mut packets, mut failed) = (0, 0, 0, 0);
        for (now, step) in steps.iter().enumerate() {
            let now_ns = now as u64;
            match step {
                Step::Event(event) => {
                    match &**event {
                        Event::Send(_) => sends += 1,
                        Event::Retransmit(event) => segments += u64::from(event.segments),
                        Event::Drop(event) => packets += u64::from(event.packets),
                        Event::Socket(event) => {
                            failed += u64::from(matches!(event.what, What::Failed(_)));
                        }
                        _ => {} // counts nothing, or is not among the steps
                    }
                    table.apply(event, now_ns);
                }
                Step::Seed(port) => {
                    table.seed(&Seed { key: key(*port), ..Seed::default() }, now_ns);
                }
                Step::Expire => table.expire(now_ns),
                Step::Freeze => intervals.push(table.interval(now_ns)),
            }
            prop_assert!(table.rows.len() <= max_flows);
            prop_assert!(table.strays.len(Place::Live) <= (max_flows / 8).max(1));
            prop_assert_eq!(table.active, table.rows.iter().filter(|(_, r)| r.touched).count());
        }
        let before = totals(&table.total().sum());
        intervals.push(table.last_interval(steps.len() as u64));
        prop_assert!(table.shares.is_empty(), "{:?}", table.shares);
        let total = table.total();
        prop_assert!(total.flows.len() <= max_flows);
        let sum = totals(&total.sum());
        prop_assert_eq!(&before, &sum);

        let mut all = Frozen::default();
        for interval in &intervals {
            prop_assert!(interval.flows.len() <= 2 * max_flows);
            let ids: HashSet<u64> = interval.flows.iter().map(|flow| flow.id).collect();
            prop_assert_eq!(ids.len(), interval.flows.len());
            // Or of all connects to a destination that found no port.
            let is_one = |flow: &Frozen| is_complete(&flow.key) || flow.key.local_port == 0;
            prop_assert!(interval.flows.iter().all(is_one));
            all.merge(&interval.sum());
        }
        prop_assert_eq!(totals(&all), sum.clone());

        // A flow's intervals add up to its row in the total.
        for flow in &total.flows {
            let mut shares = Frozen::default();
            for interval in &intervals {
                interval.flows.iter().filter(|f| f.id == flow.id).for_each(|f| shares.merge(f));
            }
            prop_assert_eq!(totals(&shares), totals(flow));
        }

        let count = |name| {
            let id = count_id(name);
            sum.0.iter().find(|entry| entry.0 == id).map_or(0, |entry| entry.1)
        };
        prop_assert_eq!(count("sends"), sends);
        prop_assert_eq!(sum.1 + sum.2, sends);
        prop_assert_eq!(sum.3, packets + failed);
        prop_assert_eq!(count("drop_bytes"), 10 * packets);
        prop_assert_eq!(count("retransmits.rto") + count("retransmits.synack"), segments);
    }
}
