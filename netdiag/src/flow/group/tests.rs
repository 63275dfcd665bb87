use std::net::Ipv4Addr;

use netdiag_common::flow::TCP;

use super::*;
use crate::{
    flow::{Translation, latency::Latency},
    signal::{counts, metrics},
};

fn ip(host: u8) -> [u8; 16] {
    Ipv4Addr::new(10, 0, 0, host).to_ipv6_mapped().octets()
}

/// A client's flow to a server, with one sample and one count for each millisecond that is given.
fn flow(id: u64, peer: (u8, u16), milliseconds: &[u64]) -> Frozen {
    let mut latency = Latency::default();
    milliseconds.iter().for_each(|ms| latency.record(ms * 1_000_000));
    let (metric, ..) = metrics().next().expect("a metric");
    let (count, ..) = counts().next().expect("a count");
    Frozen {
        id,
        key: FlowKey {
            local_addr: ip(1),
            peer_addr: ip(peer.0),
            local_port: 40_000 + id as u16,
            peer_port: peer.1,
            netns: 7,
            protocol: TCP,
            reserved: 0,
        },
        role: Some(Role::Client),
        pid: Some(42),
        comm: Some("shop".to_owned()),
        srtt_ns: Some(5),
        rtt_min_ns: Some(id),
        cwnd: Some(10),
        latencies: vec![(metric, latency)],
        counts: vec![(count, milliseconds.len() as u64)],
        gauges: vec![(count, 3)],
        ..Frozen::default()
    }
}

fn behind(flow: Frozen, backend: (u8, u16)) -> Frozen {
    let service = (flow.key.peer_addr, flow.key.peer_port);
    let backend = (ip(backend.0), backend.1);
    Frozen { translation: Some(Arc::new(Translation { service, backend })), ..flow }
}

fn served(flow: Frozen) -> Frozen {
    let FlowKey { local_addr, peer_addr, local_port, peer_port, .. } = flow.key;
    let key = FlowKey {
        local_addr: peer_addr,
        peer_addr: local_addr,
        local_port: peer_port,
        peer_port: local_port,
        ..flow.key
    };
    Frozen { key, role: Some(Role::Server), ..flow }
}

fn grouped(by: Grouping, flows: &[Frozen]) -> Vec<Frozen> {
    let mut interval = Interval { flows: flows.to_vec(), ..Interval::default() };
    let before = interval.sum();
    interval.group(by);
    let after = interval.sum();
    assert_eq!(buckets(&after), buckets(&before), "nothing is added or lost");
    assert_eq!(after.counts, before.counts);
    interval.flows
}

fn buckets(flow: &Frozen) -> Vec<(u64, u64)> {
    flow.latencies.iter().flat_map(|(_, latency)| latency.buckets()).collect()
}

fn ids(flows: &[Frozen]) -> Vec<(String, u64)> {
    let group = |flow: &Frozen| flow.group.as_ref().map(|group| (group.id(), group.flows));
    flows.iter().map(|flow| group(flow).expect("a group")).collect()
}

#[test]
fn flows_are_grouped_by_what_they_share() {
    let place = |container: &str| {
        let cgroup = format!("/kubepods/pod1/{container}");
        let (container, pod_uid) = (Some(container.to_owned()), Some("1-2".to_owned()));
        Some(Arc::new(Place { cgroup, container, pod_uid }))
    };
    let flows = [
        Frozen { place: place("ab"), ..behind(flow(1, (96, 80), &[1, 2]), (9, 8080)) },
        Frozen { place: place("cd"), ..behind(flow(2, (96, 80), &[3]), (10, 8080)) },
        Frozen { pid: Some(43), comm: Some("a, b".to_owned()), ..flow(3, (9, 8080), &[4]) },
        Frozen { pid: None, comm: None, ..served(flow(4, (9, 8080), &[5])) },
        Frozen { role: None, ..flow(5, (9, 443), &[6]) },
    ];
    let cases: [(Grouping, &[(&str, u64)]); 6] = [
        (Grouping::Peer, &[("peer:10.0.0.1", 1), ("peer:10.0.0.9", 2), ("peer:10.0.0.96", 2)]),
        (
            Grouping::Backend,
            &[
                ("backend:10.0.0.10:8080", 1),
                ("backend:10.0.0.9:443", 1),
                ("backend:10.0.0.9:8080", 2),
                ("backend:10.0.0.9:8080/server", 1),
            ],
        ),
        (
            Grouping::Process,
            &[("process:-", 1), ("process:a%2C%20b/43", 1), ("process:shop/42", 3)],
        ),
        (Grouping::Container, &[("container:-", 3), ("container:ab", 1), ("container:cd", 1)]),
        (Grouping::Pod, &[("pod:-", 3), ("pod:1-2", 2)]),
        (
            Grouping::Port,
            &[("port:-", 1), ("port:80", 2), ("port:8080", 1), ("port:8080/server", 1)],
        ),
    ];
    for (by, expected) in cases {
        let expected: Vec<_> = expected.iter().map(|&(id, n)| (id.to_owned(), n)).collect();
        assert_eq!(ids(&grouped(by, &flows)), expected, "{by:?}");
    }
    let same = grouped(Grouping::Flow, &flows);
    assert!(same.iter().zip(&flows).all(|(one, other)| one.id == other.id && one.group.is_none()));
}

#[test]
fn no_name_is_another_one_than_any_name() {
    let id = |name: Option<&str>| {
        let name = name.map(str::to_owned);
        Group { by: Grouping::Container, name, serves: false, flows: 1 }.id()
    };
    let ids = [None, Some("-"), Some("a-b"), Some("%2D")].map(id);
    assert_eq!(ids, ["container:-", "container:%2D", "container:a-b", "container:%252D"]);
}

#[test]
fn an_id_is_plain_whatever_the_name() {
    for (name, expected) in [
        ("a\nb", "process:a%0Ab"),
        ("\u{1b}[2J\u{7f}", "process:%1B[2J%7F"),
        ("ü\u{202e}\u{1f980}", "process:%C3%BC%E2%80%AE%F0%9F%A6%80"),
        ("100%", "process:100%25"),
        ("", "process:"),
    ] {
        let name = Some(name.to_owned());
        let group = Group { by: Grouping::Process, name, serves: false, flows: 1 };
        assert_eq!(group.id(), expected);
    }
}

#[test]
fn a_loopback_address_is_another_one_in_each_namespace() {
    let loopback = |id, netns| {
        let mut flow = flow(id, (9, 80), &[1]);
        flow.key.peer_addr = Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets();
        flow.key.netns = netns;
        flow
    };
    let flows = [loopback(1, 7), loopback(2, 8), loopback(3, 8), loopback(4, 0)];
    let cases: [(Grouping, [(&str, u64); 3]); 2] = [
        (
            Grouping::Peer,
            [("peer:127.0.0.1", 1), ("peer:127.0.0.1/netns:7", 1), ("peer:127.0.0.1/netns:8", 2)],
        ),
        (
            Grouping::Backend,
            [
                ("backend:127.0.0.1:80", 1),
                ("backend:127.0.0.1:80/netns:7", 1),
                ("backend:127.0.0.1:80/netns:8", 2),
            ],
        ),
    ];
    for (by, expected) in cases {
        assert_eq!(ids(&grouped(by, &flows)), expected.map(|(id, n)| (id.to_owned(), n)), "{by:?}");
    }
}

#[test]
fn a_group_is_what_all_of_it_are_and_has_no_states() {
    let flows = [flow(1, (9, 80), &[1]), flow(2, (9, 80), &[2]), flow(3, (9, 443), &[3])];
    let [group] = &grouped(Grouping::Peer, &flows)[..] else { panic!("one peer") };
    let expected = FlowKey { local_port: 0, peer_port: 0, ..flows[0].key };
    assert_eq!((group.id, group.key), (0, expected));
    assert_eq!((group.role, group.pid), (Some(Role::Client), Some(42)));
    assert_eq!((group.srtt_ns, group.cwnd, group.rtt_min_ns), (None, None, Some(1)));
    assert_eq!(group.gauges, []);
}

#[test]
fn the_histogram_of_a_group_is_that_of_all_samples() {
    let parts: Vec<Vec<u64>> = (0..5).map(|part| (part * 7..part * 11 + 300).collect()).collect();
    let flows: Vec<_> = (0..).zip(&parts).map(|(id, ms)| flow(id, (9, 80), ms)).collect();
    let all = flow(9, (9, 80), &parts.concat());
    let groups = grouped(Grouping::Backend, &flows);
    assert_eq!(groups.len(), 1);
    assert_eq!(buckets(&groups[0]), buckets(&all));
    assert_eq!(groups[0].counts, all.counts);
}

#[test]
fn places_share_the_cgroup_that_holds_both() {
    let place = |cgroup: &str, pod: Option<&str>| Place {
        cgroup: cgroup.to_owned(),
        container: None,
        pod_uid: pod.map(str::to_owned),
    };
    let both = shared(&place("/pods/p1/a", Some("1")), &place("/pods/p1/b", Some("1")));
    assert_eq!(both, Some(place("/pods/p1", Some("1"))));
    let both = shared(&place("/pods/p1/a", Some("1")), &place("/pods/p2/a", Some("2")));
    assert_eq!(both, Some(place("/pods", None)));
    assert_eq!(shared(&place("/pods/a", None), &place("/system/a", None)), None);
}
