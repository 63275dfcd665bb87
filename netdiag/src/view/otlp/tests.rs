use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use proptest::prelude::*;

use super::{message::KeyValue, *};
use crate::{
    flow::latency::{HIGHEST_NS, Latency},
    hostile::survived,
    labels::Labels,
    view::metrics::{
        Metrics, definitions,
        tests::{at, flow, interval, small},
    },
};

/// Attributes as text, numbers in digits. No key may be there twice.
fn told(attributes: &[KeyValue]) -> BTreeMap<&str, String> {
    let mut told = BTreeMap::new();
    for KeyValue { key, value } in attributes {
        let value = value.as_ref().expect("a value");
        let text = value.string_value.clone().or(value.int_value.map(|n| n.to_string()));
        assert_eq!(told.insert(key.as_str(), text.expect("text or a number")), None, "{key}");
    }
    told
}

fn map<const N: usize>(pairs: [(&'static str, &str); N]) -> BTreeMap<&'static str, String> {
    pairs.map(|(key, value)| (key, value.to_owned())).into()
}

/// All metrics of a request, by their names.
fn metrics(request: &Request) -> BTreeMap<&str, &Metric> {
    let [of_node] = request.resource_metrics.as_slice() else { panic!("one resource") };
    let [of_scope] = of_node.scope_metrics.as_slice() else { panic!("one scope") };
    let named = of_scope.metrics.iter().map(|metric| (metric.name.as_str(), metric));
    let named: BTreeMap<_, _> = named.collect();
    assert_eq!(named.len(), of_scope.metrics.len(), "a name is there twice");
    named
}

#[test]
fn names_and_units_follow_from_those_of_prometheus() {
    let all = definitions();
    for (prometheus, expected, expected_unit) in [
        ("netdiag_rtt_seconds", "netdiag.rtt", "s"),
        ("netdiag_send_seconds", "netdiag.send", "s"),
        ("netdiag_sends_total", "netdiag.sends", ""),
        ("netdiag_send_bytes_total", "netdiag.send_bytes", "By"),
        ("netdiag_busy_seconds_total", "netdiag.busy", "s"),
        ("netdiag_retransmits_total", "netdiag.retransmits", "{segment}"),
        ("netdiag_dns_queries_total", "netdiag.dns_queries", "{query}"),
        ("netdiag_conntrack_new_total", "netdiag.conntrack_new", "{entry}"),
        ("netdiag_build_info", "netdiag.build_info", ""),
        ("netdiag_flows", "netdiag.flows", "{flow}"),
        ("netdiag_groups", "netdiag.groups", "{group}"),
        ("netdiag_node_tcp_total", "netdiag.node.tcp", ""),
        ("netdiag_node_ports_used_ratio", "netdiag.node.ports_used", "1"),
        ("netdiag_node_softnet_packets_total", "netdiag.node.softnet_packets", "{packet}"),
        ("process_cpu_seconds_total", "process.cpu.time", "s"),
        ("process_resident_memory_bytes", "process.memory.usage", "By"),
    ] {
        let definition = all.iter().find(|one| one.name == prometheus).expect(prometheus);
        assert_eq!(
            (name(definition).as_str(), unit(definition).as_str()),
            (expected, expected_unit)
        );
    }
}

/// What OpenTelemetry allows: names of instruments begin with a letter, and hold no more than these.
#[test]
fn every_name_and_unit_is_allowed_and_no_two_are_the_same() {
    let mut names = BTreeSet::new();
    for definition in definitions() {
        let (name, unit) = (name(&definition), unit(&definition));
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._".contains(c);
        assert!(name.starts_with("netdiag.") || name.starts_with("process."), "{name}");
        assert!(name.chars().all(is_plain) && !name.contains("..") && name.len() <= 255, "{name}");
        let annotation = unit.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        let is_word = |text: &str| text.chars().all(|c| c.is_ascii_lowercase());
        assert!(
            annotation.map_or(["", "s", "By", "1"].contains(&unit.as_str()), is_word),
            "{unit}"
        );
        assert!(names.insert(name.clone()), "{name} is there twice");
    }
}

/// Of every metric with all its labels, and their keys are as few as the labels, but for a server's port.
#[test]
fn attributes_of_all_labels_have_keys_of_their_own() {
    for definition in definitions() {
        let value = |_: &&str| Arc::<str>::from("10.0.0.1:443");
        let values: Vec<Arc<str>> = definition.labels.iter().map(value).collect();
        let attributes = attributes(&definition.labels, &values);
        let is_of_group = definition.labels.contains(&"service");
        let expected = definition.labels.len() + usize::from(is_of_group);
        assert_eq!(told(&attributes).len(), expected, "{}", definition.name);
    }
}

#[test]
fn labels_become_attributes() {
    let labels = ["namespace", "pod", "container", "comm", "role", "service", "error"];
    for (values, expected) in [
        (
            ["shop", "web-0", "web", "nginx", "client", "10.0.0.2:443", "ECONNREFUSED"],
            map([
                ("k8s.namespace.name", "shop"),
                ("k8s.pod.name", "web-0"),
                ("k8s.container.name", "web"),
                ("process.executable.name", "nginx"),
                ("netdiag.role", "client"),
                ("server.address", "10.0.0.2"),
                ("server.port", "443"),
                ("error.type", "ECONNREFUSED"),
            ]),
        ),
        (
            ["", "", "3f0f4f1f5a3e", "", "server", ":53", ""],
            map([
                ("container.id", "3f0f4f1f5a3e"),
                ("netdiag.role", "server"),
                ("server.port", "53"),
            ]),
        ),
        (
            ["", "", "", "", "", "[2001:db8::1]:80", ""],
            map([("server.address", "2001:db8::1"), ("server.port", "80")]),
        ),
        (["", "", "", "", "", "other", ""], map([("server.address", "other")])),
    ] {
        let attributes = attributes(&labels, &values.map(Arc::<str>::from));
        assert_eq!(told(&attributes), expected, "{values:?}");
    }
}

#[test]
fn all_kinds_are_told() {
    let families = small().families();
    let request = message(&families, "node-a", at(1));
    let resource = request.resource_metrics[0].resource.as_ref().expect("a resource");
    let expected = map([
        ("host.name", "node-a"),
        ("os.type", "linux"),
        ("service.instance.id", "node-a"),
        ("service.name", "netdiag"),
        ("service.version", VERSION),
    ]);
    assert_eq!(told(&resource.attributes), expected);
    let metrics = metrics(&request);
    let evil = map([
        ("process.executable.name", "e\u{fffd}[2J\u{fffd}\u{fffd}\"\\\u{1d11e}"),
        ("netdiag.role", "client"),
        ("server.address", "10.0.0.2"),
        ("server.port", "443"),
    ]);
    let rtt = metrics["netdiag.rtt"].exponential_histogram.as_ref().expect("a histogram");
    assert_eq!(rtt.aggregation_temporality, CUMULATIVE);
    let [point] = rtt.data_points.as_slice() else { panic!("one group has samples") };
    assert_eq!(told(&point.attributes), evil);
    assert_eq!((point.start_time_unix_nano, point.time_unix_nano), (nano(0), nano(1)));
    // Three of 1 ms, whose HdrHistogram's bucket ends at 1.003519 ms: 2^(-80/8) s is 0.977 ms, the next bound 1.065.
    assert_eq!((point.count, point.scale), (3, 3));
    assert_eq!(point.positive, Some(Buckets { offset: -80, bucket_counts: vec![3] }));
    let bytes = metrics["netdiag.send_bytes"].sum.as_ref().expect("a sum");
    assert!(bytes.is_monotonic && bytes.aggregation_temporality == CUMULATIVE);
    assert_eq!(bytes.data_points[0].as_int, Some(4_096));
    let drops = metrics["netdiag.drops"].sum.as_ref().expect("a sum");
    assert_eq!(told(&drops.data_points[0].attributes)["netdiag.reason"], "NO_SOCKET");
    let finding = metrics["netdiag.finding"].gauge.as_ref().expect("a gauge");
    let [point] = finding.data_points.as_slice() else { panic!("one is found") };
    assert_eq!((point.as_int, point.as_double, point.start_time_unix_nano), (Some(1), None, 0));
    let expected = map([("netdiag.id", "packet-loss"), ("netdiag.severity", "warning")]);
    assert_eq!(told(&point.attributes), expected);
    let interval = metrics["netdiag.interval"].gauge.as_ref().expect("a gauge");
    assert_eq!(interval.data_points[0].as_double, Some(1.0));
    assert!(metrics["netdiag.build_info"].gauge.is_some());
    // What no source can see, and what nobody counted, is no metric here.
    assert_eq!(metrics.len(), families.iter().filter(|one| !one.series.is_empty()).count());
}

fn nano(seconds: u64) -> u64 {
    (1_700_000_000 + seconds) * 1_000_000_000
}

#[test]
fn a_clock_that_was_set_back_makes_no_interval_that_ends_before_it_begins() {
    let request = message(&small().families(), "n", at(0) - Duration::from_secs(60));
    for metric in metrics(&request).values() {
        for point in metric.sum.iter().flat_map(|sum| &sum.data_points) {
            assert!(point.start_time_unix_nano <= point.time_unix_nano, "{}", metric.name);
        }
    }
}

/// The bytes themselves: numbers of fields and kinds of wire by the definitions, for one that is small enough.
#[test]
fn bytes_are_those_of_the_protocol() {
    let point = ExponentialHistogramDataPoint {
        attributes: vec![text("k".to_owned(), "v")],
        start_time_unix_nano: 1,
        time_unix_nano: 2,
        count: 3,
        sum: Some(0.0),
        scale: 3,
        positive: Some(Buckets { offset: -80, bucket_counts: vec![1, 0, 2] }),
    };
    let expected = [
        &[0x0a, 8, 0x0a, 1, b'k', 0x12, 3, 0x0a, 1, b'v'][..], // 1: key "k" and value 1: "v"
        &[0x11, 1, 0, 0, 0, 0, 0, 0, 0],                       // 2, fixed64
        &[0x19, 2, 0, 0, 0, 0, 0, 0, 0],                       // 3
        &[0x21, 3, 0, 0, 0, 0, 0, 0, 0],                       // 4
        &[0x29, 0, 0, 0, 0, 0, 0, 0, 0],                       // 5, double, there although it is 0
        &[0x30, 6],                                            // 6, sint32
        &[0x42, 8, 0x08, 0x9f, 0x01, 0x12, 3, 1, 0, 2],        // 8: 1, sint32, and 2, packed
    ];
    assert_eq!(point.encode_to_vec(), expected.concat());
    let number =
        NumberDataPoint { time_unix_nano: 1, as_int: Some(-1), ..NumberDataPoint::default() };
    let expected = [
        &[0x19, 1, 0, 0, 0, 0, 0, 0, 0][..],
        &[0x31, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], // 6, sfixed64
    ];
    assert_eq!(number.encode_to_vec(), expected.concat());
    let sum = Sum { data_points: Vec::new(), aggregation_temporality: 2, is_monotonic: true };
    let metric = Metric { name: "n".to_owned(), sum: Some(sum), ..Metric::default() };
    assert_eq!(metric.encode_to_vec(), [0x0a, 1, b'n', 0x3a, 4, 0x10, 2, 0x18, 1]);
}

#[test]
fn answers_are_read() {
    assert_eq!(taken(&[]).expect("all is well"), Taken::default());
    let partial = [0x0a, 7, 0x08, 3, 0x12, 3, b'w', b'h', b'y'];
    let expected = Taken { rejected: 3, message: "why".to_owned() };
    assert_eq!(taken(&partial).expect("a part"), expected);
    assert!(taken(b"<html>It works!</html>").is_err());
    assert_eq!(refusal(&[0x08, 14, 0x12, 4, b'b', b'u', b's', b'y']), "busy");
    assert_eq!(refusal(b"no such page"), "");
}

#[test]
fn hostile_answers() {
    let partial = vec![0x0a, 7, 0x08, 3, 0x12, 3, b'w', b'h', b'y'];
    survived(&[partial, vec![0x12, 1, b'x']], |bytes| {
        let _read = (taken(bytes), refusal(bytes));
    });
}

proptest! {
    /// By the bounds that the protocol gives buckets, not by how they were filled.
    #[test]
    fn buckets_hold_every_sample_within_their_bounds(
        values in prop::collection::vec((1..=HIGHEST_NS, 1..5_u64), 1..100)
    ) {
        let mut flow = flow("x", 1, 0);
        let mut latency = Latency::default();
        values.iter().for_each(|&(value, n)| latency.record_n(value, n));
        flow.latencies[0].1 = latency.clone();
        let mut metrics = Metrics::new(8, at(0));
        metrics.count(&interval(vec![flow]), &Labels::default(), at(1));
        let request = message(&metrics.families(), "n", at(1));
        let metrics = self::metrics(&request);
        let told = metrics["netdiag.rtt"].exponential_histogram.as_ref().expect("a histogram");
        let point = &told.data_points[0];
        let Buckets { offset, bucket_counts } = point.positive.as_ref().expect("buckets");
        prop_assert_eq!(bucket_counts.iter().sum::<u64>(), point.count);
        prop_assert_eq!(point.count, latency.count());
        prop_assert!(bucket_counts.first() > Some(&0) && bucket_counts.last() > Some(&0));
        let bound = |index: i32| 2_f64.powf(f64::from(index) * 2_f64.powi(-point.scale));
        for (index, n) in (*offset..).zip(bucket_counts) {
            // By their HdrHistogram's buckets, each by its largest value, as all other outputs say.
            let inside = latency.buckets().filter(|(highest, _)| {
                let seconds = *highest as f64 / 1e9;
                seconds > bound(index) && seconds <= bound(index + 1)
            });
            prop_assert_eq!(inside.map(|(_, n)| n).sum::<u64>(), *n, "bucket {}", index);
        }
    }
}
