//! Round trips, and what is known of the path beside them.

use super::*;
use crate::{flow::latency::Latency, signal::Path};

fn trip(flow: FlowId, time_ns: u64, rtt_us: u64, path: Path) -> Event {
    Event::Rtt(rtt::Event { time_ns, flow, rtt_ns: rtt_us * 1_000, path, delayed: rtt_us > 100 })
}

fn path(srtt_us: u32, rtt_min_us: u32) -> Path {
    Path::of(srtt_us, rtt_min_us)
}

fn of(flow: &Frozen) -> (Option<u64>, Option<u64>) {
    (flow.srtt_ns, flow.rtt_min_ns)
}

#[test]
fn samples_and_delayed_ones_are_counted_and_the_newest_path_is_kept() {
    let metric = metrics().find(|(_, _, metric)| metric.name == "rtt").expect("rtt").0;
    let mut table = FlowTable::new(config(9));
    apply(
        &mut table,
        &[
            opened(1, key(1), What::Connect),
            trip(1, 20, 50, path(60, 40)),
            // Of a CPU whose batch comes late.
            trip(1, 10, 500, path(90, 41)),
            // The kernel has no minimum: what was known stays.
            trip(1, 30, 70, path(61, 0)),
        ],
    );
    let interval = table.last_interval(S);
    let flow = &interval.flows[0];
    assert_eq!(flow.latency(metric).map(Latency::count), Some(3));
    assert_eq!(flow.count(count_id("rtt_delayed")), Some(1));
    assert_eq!(of(flow), (Some(61_000), Some(40_000)));
}

#[test]
fn a_report_of_the_socket_tells_of_the_path_as_of_its_own_time() {
    let report = |time_ns, rtt_min_us| {
        let counters = TcpCounters { rtt_min_us, ..tcp(0, 0) };
        let event = socket(1, key(1), What::Counters);
        Event::Socket(socket::Event { time_ns, tcp: Some(counters), ..event })
    };
    let mut table = FlowTable::new(config(9));
    for (event, expected) in [
        (report(10, 0), (Some(150_000), None)),
        (trip(1, 20, 50, path(60, 40)), (Some(60_000), Some(40_000))),
        (report(15, 77), (Some(60_000), Some(40_000))),
        (report(25, 39), (Some(150_000), Some(39_000))),
    ] {
        table.apply(&event, 0);
        assert_eq!(of(&table.total().flows[0]), expected, "{event:?}");
    }
}
