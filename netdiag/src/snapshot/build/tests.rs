use std::{
    net::Ipv4Addr,
    sync::{Arc, LazyLock},
    time::Duration,
};

use netdiag_common::flow::TCP;
use proptest::{collection::vec, prelude::*};
use serde_json::{Value, json};

use super::*;
use crate::{
    flow::Who,
    owner::{Names, Place},
    signal::{CountId, Label},
};

fn status(signal: Signal, status: Status) -> SignalStatus {
    SignalStatus {
        signal: signal.name().to_owned(),
        status,
        source: None,
        refused: vec![],
        missing: vec![],
        runs_per: None,
        unseen_counts: vec![],
        shed: false,
    }
}

fn all_on() -> Vec<SignalStatus> {
    Signal::ALL.iter().map(|&signal| status(signal, Status::Full)).collect()
}

fn id_of(name: &str) -> CountId {
    counts().find(|(_, _, count)| count.name == name).expect("a count of that name").0
}

fn frozen(id: u64, numbers: &[(&str, u64)], latencies: &[u64]) -> Frozen {
    let mut latency = Latency::default();
    latencies.iter().for_each(|&value| latency.record(value));
    let mut counts: Vec<_> = numbers.iter().map(|&(name, n)| (id_of(name), n)).collect();
    counts.sort_unstable();
    let (send, ..) = metrics().find(|(_, _, metric)| metric.name == "send").expect("send");
    Frozen { id, counts, latencies: vec![(send, latency)], ..Frozen::default() }
}

const UID: &str = "0b1f6a9e-8f4d-4f7a-9c51-6a3b1f0e7d42";
const ID: &str = "3f0f4f1f5a3ec63d1ec0bd7c2b6d5c4f6ed2b9a5a0d3f1c48d0a6f3e9b7c5d21";

fn names() -> Names {
    let mut names = Names::default();
    assert!(names.pod_directory(&format!("shop_shop-1_{UID}")));
    assert!(names.container_log(&format!("shop-1_shop_web-{ID}.log")));
    names
}

fn labels() -> &'static Labels {
    static LABELS: LazyLock<Labels> = LazyLock::new(|| Labels {
        resets: BTreeMap::from([(1, "NO_SOCKET".to_owned())]),
        reasons: BTreeMap::from([(2, "NOT_SPECIFIED".to_owned()), (3, "NO_SOCKET".to_owned())]),
        places: BTreeMap::from([1, 2].map(|at| (at, Some("tcp_v4_rcv".to_owned())))),
        owners: names(),
    });
    &LABELS
}

fn frame(signals: &[SignalStatus]) -> Frame<'_> {
    Frame {
        labels: labels(),
        by: Grouping::Flow,
        scope: Scope::Interval,
        start: SystemTime::UNIX_EPOCH,
        end: SystemTime::UNIX_EPOCH + Duration::from_millis(1_500),
        host: "node-1",
        kernel: "6.12.0",
        signals,
        filtered: false,
        node: Node::default(),
        own: Own::default(),
        accounting: BTreeMap::new(),
        stream: Stream::default(),
    }
}

fn json_of(flow: Frozen, signals: &[SignalStatus]) -> Value {
    let interval = Interval { flows: vec![flow], other: Frozen::default(), ..Interval::default() };
    let snapshot = frame(signals).build(&interval);
    serde_json::to_value(&snapshot.flows[0]).expect("it is plain data")
}

#[test]
fn a_flow_is_named_and_its_numbers_are_grouped() {
    let v4 = |host| Ipv4Addr::new(192, 0, 2, host).to_ipv6_mapped().octets();
    let key = FlowKey {
        local_addr: v4(1),
        peer_addr: v4(2),
        local_port: 40_000,
        peer_port: 443,
        netns: 4_026_531_840,
        protocol: TCP,
        reserved: 0,
    };
    let flow = Frozen {
        key,
        pid: Some(7),
        comm: Some("curl".to_owned()),
        place: Some(Arc::new(Place::of(&format!("/kubepods/pod{UID}/{ID}")))),
        pair: Some(13),
        peer: Some(Who { pid: Some(8), comm: Some("nginx".to_owned()), place: None }),
        role: Some(crate::snapshot::Role::Client),
        srtt_ns: Some(150_000),
        rtt_min_ns: Some(90_000),
        ..frozen(12, &[("sends", 2), ("retransmits.rto", 3), ("bytes_sent", 99)], &[100, 0])
    };
    let found = json_of(flow, &all_on());
    let expected = json!({
        "id": "f12",
        "local": {"ip": "192.0.2.1", "port": 40_000},
        "peer": {"ip": "192.0.2.2", "port": 443},
        "netns": 4_026_531_840_u32,
        "protocol": "tcp",
        "role": "client",
        "owner": {
            "pid": 7, "comm": "curl",
            "cgroup": format!("/kubepods/pod{UID}/{ID}"),
            "container": ID, "container_name": "web", "pod_uid": UID, "pod": "shop-1",
            "namespace": "shop"
        },
        "service": null,
        "backend": null,
        "pair": "f13",
        "peer_owner": {
            "pid": 8, "comm": "nginx", "cgroup": null, "container": null, "container_name": null,
            "pod_uid": null, "pod": null, "namespace": null
        },
        "closed": false,
        "srtt_ns": 150_000,
        "rtt_min_ns": 90_000,
        "cwnd": null,
        "group": null,
        "metrics": {"send": {
            "count": 1, "min_ns": 100, "p50_ns": 100, "p90_ns": 100, "p99_ns": 100,
            "p999_ns": 100, "max_ns": 100, "out_of_range": 1
        }},
        "counts": {
            "bytes_sent": 99, "bytes_received": null, "segments_sent": null,
            "sends": 2, "send_bytes": 0, "sends_failed": 0,
            "retransmits": {
                "rto": 3, "fast": 0, "tlp": 0, "syn": 0, "synack": 0, "other": 0
            },
            "retransmits_failed": 0, "retransmit_bytes": 0
        }
    });
    // Other signals may add keys; these stay.
    for (name, value) in expected.as_object().expect("an object") {
        let found = &found[name];
        match name.as_str() {
            "metrics" | "counts" => {
                for (name, value) in value.as_object().expect("an object") {
                    assert_eq!(&found[name], value, "{name}");
                }
            }
            _ => assert_eq!(found, value, "{name}"),
        }
    }
}

#[test]
fn a_signal_that_is_off_has_no_counts_whatever_another_says() {
    let signals = [status(Signal::Socket, Status::Full), status(Signal::Retransmit, Status::Off)];
    let counts = &json_of(frozen(1, &[("retransmits.other", 3)], &[]), &signals)["counts"];
    assert_eq!(counts["retransmits"]["other"], json!(null));
    let blind = SignalStatus {
        unseen_counts: vec!["retransmits_failed"],
        ..status(Signal::Retransmit, Status::Degraded)
    };
    let counts = &json_of(frozen(1, &[], &[]), &[blind])["counts"];
    assert_eq!(
        (&counts["retransmits_failed"], &counts["retransmits"]["rto"]),
        (&json!(null), &json!(0))
    );
}

#[test]
fn of_what_was_left_out_none_is_unknown() {
    let shed = |signal| SignalStatus { shed: true, ..status(signal, Status::Degraded) };
    let signals = [shed(Signal::Send), shed(Signal::Dns), status(Signal::Retransmit, Status::Full)];
    let counts = &json_of(frozen(1, &[("sends", 3)], &[]), &signals)["counts"];
    assert_eq!((&counts["sends"], &counts["send_bytes"]), (&json!(3), &json!(null)));
    assert_eq!(counts["dns_answers"], json!(null));
    assert_eq!(counts["retransmits"]["rto"], json!(0));
}

/// What the network took would be the peer's application where nobody sees round trips.
#[test]
fn responses_are_not_split_while_round_trips_are_left_out() {
    let mut signals = all_on();
    signals[Signal::Rtt as usize].shed = true;
    let split = |counts: &[(&str, u64)]| {
        json_of(frozen(1, counts, &[]), &signals)["counts"]["spent_ns"].clone()
    };
    let some = split(&[("spent_ns.network_path", 3), ("spent_ns.peer_application", 9)]);
    let expected = json!({
        "local_application": 0, "local_send": 0, "network_path": 3, "network_queueing": null,
        "network_stalls": null, "peer_application": 9
    });
    assert_eq!(some, expected, "of what was answered before");
    let none = split(&[]);
    for key in ["network_path", "network_queueing", "network_stalls", "peer_application"] {
        assert_eq!(none[key], json!(null), "{key}");
    }
}

#[test]
fn a_count_that_no_source_sees_is_null() {
    let cases =
        [(Status::Full, json!(0)), (Status::Degraded, json!(0)), (Status::Off, json!(null))];
    for (state, expected) in cases {
        let signals = [status(Signal::Socket, state), status(Signal::Retransmit, state)];
        let counts = &json_of(frozen(1, &[], &[]), &signals)["counts"];
        assert_eq!(counts["retransmits"]["rto"], expected, "{state:?}");
        assert_eq!(counts["retransmits_failed"], expected, "{state:?}");
        assert_eq!(counts["bytes_sent"], json!(null), "a reading, {state:?}");
        assert_eq!(counts["sends"], json!(null), "no status at all");
    }
}

#[test]
fn ipv6_and_unknown_things_are_shown_as_they_are() {
    let key = FlowKey { local_addr: [0x20; 16], local_port: 1, ..FlowKey::default() };
    let flow = json_of(Frozen { key, ..frozen(1, &[], &[]) }, &all_on());
    assert_eq!(flow["local"]["ip"], "2020:2020:2020:2020:2020:2020:2020:2020");
    for name in ["netns", "protocol", "role", "pair"] {
        assert_eq!(flow[name], Value::Null, "{name}");
    }
    assert_eq!(flow["metrics"], json!({}));
}

#[test]
fn other_has_no_addresses() {
    let interval =
        Interval { flows: vec![], other: frozen(0, &[("sends", 4)], &[1]), ..Interval::default() };
    let other = frame(&all_on()).build(&interval).other;
    assert_eq!(other.id, "other");
    assert_eq!((other.local.ip, other.peer.port, other.netns, other.protocol), Default::default());
    assert_eq!(other.counts["sends"], CountValue::Number(Some(4)));
    assert_eq!(other.metrics["send"].count, 1);
}

#[test]
fn complete_means_nothing_lost_or_missed() {
    let base = Account { seen: 9, submitted: 5, filtered: 1, unmatched: 1, ..Account::default() };
    let well = Stream { received: 5, decoded: 5, malformed: 0 };
    let ill = Stream { received: 5, decoded: 4, malformed: 1 };
    let cases = [
        (base, well, true),
        (Account { rate_limited: 1, shed: 1, pending: 1, ..base }, well, true),
        (base, ill, false),
        (Account { ring_full: 1, ..base }, well, false),
        (Account { map_full: 1, ..base }, well, false),
        (Account { read_failed: 1, ..base }, well, false),
        (Account { missed: 1, ..base }, well, false),
    ];
    for (account, stream, complete) in cases {
        let accounting = BTreeMap::from([
            ("send".to_owned(), Account::default()),
            ("retransmit".to_owned(), account),
        ]);
        let frame = Frame { accounting, stream, ..frame(&[]) };
        assert_eq!(frame.build(&Interval::default()).complete, complete, "{account:?} {stream:?}");
    }
}

#[test]
fn times_are_utc_with_a_fraction() {
    let snapshot = frame(&[]).build(&Interval::default());
    assert_eq!(snapshot.schema, "netdiag.snapshot/1");
    assert_eq!(snapshot.start, "1970-01-01T00:00:00.000000000Z");
    assert_eq!(snapshot.end, "1970-01-01T00:00:01.500000000Z");
    let total = Frame { scope: Scope::Total, ..frame(&[]) }.build(&Interval::default());
    assert_eq!(total.schema, "netdiag.total/1");
}

#[test]
fn sorting_puts_the_largest_first_and_the_unknown_last() {
    let mut idle = frozen(5, &[("sends", 1_000)], &[]);
    idle.idle = true;
    let slow = Frozen { srtt_ns: Some(9), ..frozen(4, &[("sends", 1)], &[9_000]) };
    let flows = vec![
        frozen(1, &[("sends", 1), ("retransmits.rto", 2), ("retransmits.tlp", 2)], &[10, 20]),
        frozen(2, &[("sends", 30), ("retransmits.rto", 3), ("bytes_sent", 0)], &[]),
        frozen(3, &[("sends", 2), ("send_bytes", 5), ("retransmit_bytes", 1)], &[500]),
        slow,
        idle,
    ];
    let cases = [
        (Sort::Count("sends"), false, vec![2, 3, 1, 4]),
        (Sort::Count("sends"), true, vec![5, 2, 3, 1, 4]),
        (Sort::Count("retransmits."), false, vec![1, 2, 3, 4]),
        (Sort::Count("retransmit_bytes"), false, vec![3, 1, 2, 4]),
        (Sort::P99("send"), false, vec![4, 3, 1, 2]),
        (Sort::Max("send"), false, vec![4, 3, 1, 2]),
        (Sort::Count("send_bytes"), false, vec![3, 1, 2, 4]),
        (Sort::Count("bytes_sent"), false, vec![2, 1, 3, 4]),
        (Sort::Count("bytes_received"), false, vec![1, 2, 3, 4]),
        (Sort::Srtt, false, vec![4, 1, 2, 3]),
    ];
    for (sort, all, expected) in cases {
        let mut interval =
            Interval { flows: flows.clone(), other: Frozen::default(), ..Interval::default() };
        Listing { sort, all, ..Listing::default() }.arrange(&mut interval);
        let found: Vec<u64> = interval.flows.iter().map(|flow| flow.id).collect();
        assert_eq!(found, expected, "{sort:?}, all {all}");
    }
}

/// Connections that are refused send nothing.
#[test]
fn flows_that_tell_are_listed_before_others_where_findings_need_them() {
    let refused = |id| {
        let errno = Label::Errno(111);
        Frozen { labelled: vec![((id_of("connects_failed"), errno), 1)], ..frozen(id, &[], &[]) }
    };
    let busy = |id| frozen(id, &[("sends", 100 - id)], &[]);
    let flows: Vec<_> = (1..=6).map(busy).chain((7..=9).map(refused)).collect();
    let listed = |top, telling| {
        let mut interval = Interval { flows: flows.clone(), ..Interval::default() };
        Listing { top: Some(top), telling, ..Listing::default() }.arrange(&mut interval);
        assert_eq!(interval.folded, 9 - top.min(9) as u64);
        interval.flows.iter().map(|flow| flow.id).collect::<Vec<_>>()
    };
    assert_eq!(listed(4, false), [1, 2, 3, 4]);
    assert_eq!(listed(4, true), [1, 2, 7, 8]);
    assert_eq!(listed(7, true), [1, 2, 3, 4, 7, 8, 9]);
    assert_eq!(listed(9, true), listed(9, false));
}

proptest! {
    #[test]
    fn folding_the_rest_changes_no_sum(
        flows in vec((0u64..50, vec(0u64..1_000_000, 0..20)), 0..20),
        top in 0usize..25,
        telling: bool,
    ) {
        let flows: Vec<Frozen> = (1..)
            .zip(&flows)
            .map(|(id, (rto, latencies))| {
                let sends = latencies.len() as u64;
                frozen(id, &[("sends", sends), ("retransmits.rto", *rto), ("retransmits.syn", id % 3)], latencies)
            })
            .collect();
        let mut interval = Interval { flows, other: frozen(0, &[("sends", 1)], &[77]), ..Interval::default() };
        let before = interval.clone();
        Listing { top: Some(top), telling, ..Listing::default() }.arrange(&mut interval);
        prop_assert_eq!(interval.flows.len(), before.flows.len().min(top));
        let (sum, expected) = (interval.sum(), before.sum());
        prop_assert_eq!(&sum.counts, &expected.counts);
        let (_, latency) = &sum.latencies[0];
        let (_, expected) = &expected.latencies[0];
        prop_assert_eq!(latency.histogram(), expected.histogram());
        prop_assert_eq!(latency.out_of_range(), expected.out_of_range());
    }
}

#[test]
fn labelled_counts_have_the_kernels_names() {
    let drops = id_of("drops");
    let labelled = [(Label::Reason(3), 7), (Label::Place(1), 2), (Label::Place(2), 3)];
    let labelled = labelled.map(|(label, n)| ((drops, label), n)).to_vec();
    let flow = Frozen { labelled, ..Frozen::default() };
    let found = json_of(flow, &all_on());
    assert_eq!(found["counts"]["drops"], json!({"NO_SOCKET": 7, "at:tcp_v4_rcv": 5}));
    assert_eq!(json_of(Frozen::default(), &all_on())["counts"]["drops"], json!({}));
    let off = [status(Signal::Drop, Status::Off)];
    assert_eq!(json_of(Frozen::default(), &off)["counts"]["drops"], json!(null));
}

#[test]
fn what_is_made_of_two_signals_is_unknown_without_either() {
    let without = |missing: &[Signal]| {
        let mut signals = all_on();
        for &signal in missing {
            signals[signal as usize].status = Status::Off;
        }
        json_of(frozen(1, &[], &[]), &signals)["counts"]["spent_ns"].clone()
    };
    let all = without(&[]);
    assert_eq!((&all["network_stalls"], &all["local_send"]), (&json!(0), &json!(0)));
    let few = without(&[Signal::Retransmit, Signal::Send, Signal::Rtt]);
    for key in ["network_stalls", "local_send", "network_queueing"] {
        assert_eq!(few[key], json!(null), "{key}");
    }
    assert_eq!(few["network_path"], json!(0));
    assert_eq!(without(&[Signal::Turn])["network_path"], json!(null));
}
