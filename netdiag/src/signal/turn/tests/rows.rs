//! From samples to what a row is told.

use netdiag_common::header::{Header, VERSION};
use zerocopy::IntoBytes as _;

use super::super::*;

fn decoded(samples: &[Sample]) -> Result<Vec<Event>, Malformed> {
    let n = samples.len() as u32;
    let header = Header { version: VERSION, signal: Signal::Turn as u16, samples: n, time_ns: 1 };
    let bytes = [header.as_bytes(), samples.as_bytes()].concat();
    let mut events = Vec::new();
    decode(&bytes, &mut |event| events.push(event)).map(|()| events)
}

#[test]
fn each_kind_is_decoded_and_no_other() {
    let sample = |kind| Sample { flow: 3, latency_ns: 9, other_ns: 5, left_out: 2, kind, stalled_us: 3, prompt_us: 4, flags: 0 };
    let events = decoded(&[
        sample(kind::RESPONSE),
        sample(kind::SERVICE),
        sample(kind::READ_WAIT),
        sample(kind::ASKED),
        sample(kind::SERVED),
        sample(kind::OVERLAP),
    ]);
    let expected = [
        What::Response { latency_ns: 9, since_first_ns: 5, stalled_ns: 3_000, prompt_ns: Some(4_000) },
        What::Service { latency_ns: 9, since_read_ns: 5 },
        What::ReadWait { latency_ns: 9, since_read_ns: 5 },
        What::Asked,
        What::Served,
        What::Overlap,
    ];
    assert_eq!(events, Ok(expected.map(|what| Event { flow: 3, what, left_out: 2 }).to_vec()));
    let unknown = decoded(&[sample(kind::COUNT as u32)]);
    assert_eq!(unknown, Err(Malformed::Value("kind")));
    let blind = decoded(&[Sample { flags: flag::NO_TRIPS, ..sample(kind::RESPONSE) }]);
    let is_blind = |event: &Event| matches!(event.what, What::Response { prompt_ns: None, .. });
    assert!(blind.is_ok_and(|events| events.iter().all(is_blind)));
}

/// What a row was told.
#[derive(Debug, Default, PartialEq)]
struct Row {
    asks: Option<bool>,
    rtt_min_ns: Option<u64>,
    counts: Vec<(CountId, u64)>,
    latencies: Vec<(MetricId, u64)>,
}

impl Fold for Row {
    fn count(&mut self, count: CountId, n: u64) {
        self.counts.push((count, n));
    }

    fn latency(&mut self, metric: MetricId, nanoseconds: u64) {
        self.latencies.push((metric, nanoseconds));
    }

    fn asks(&self) -> Option<bool> {
        self.asks
    }

    fn rtt_min_ns(&self) -> Option<u64> {
        self.rtt_min_ns
    }
}

#[test]
fn a_client_has_responses_and_a_server_services() {
    let response = What::Response { latency_ns: 9, since_first_ns: 10, stalled_ns: 0, prompt_ns: Some(0) };
    let service = What::Service { latency_ns: 8, since_read_ns: 5 };
    let read = What::ReadWait { latency_ns: 9, since_read_ns: 4 };
    let waited = vec![(READ_WAIT_NS, 6), (LOCAL_APPLICATION, 6)];
    let (client, server, unknown) = (Some(true), Some(false), None);
    for (what, asks, latencies, counts) in [
        (response, client, vec![(RESPONSE, 9)], vec![(RESPONSE_NS, 11)]),
        (response, server, vec![], vec![]),
        (response, unknown, vec![], vec![(AMBIGUOUS, 1)]),
        (service, client, vec![], vec![]),
        (
            service,
            server,
            vec![(SERVICE, 8), (PROCESSING, 5)],
            vec![(SERVICE_NS, 7), (LOCAL_APPLICATION, 7)],
        ),
        (service, unknown, vec![], vec![(AMBIGUOUS, 1)]),
        (read, unknown, vec![(READ_WAIT, 9)], waited),
        (What::Asked, client, vec![], vec![(AMBIGUOUS, 3)]),
        (What::Asked, server, vec![], vec![]),
        (What::Served, client, vec![], vec![]),
        (What::Served, server, vec![], vec![(AMBIGUOUS, 3)]),
        (What::Overlap, client, vec![], vec![(AMBIGUOUS, 3)]),
    ] {
        let mut row = Row { asks, ..Row::default() };
        Event { flow: 3, what, left_out: 2 }.fold(&mut row);
        let expected = Row { asks, counts, latencies, ..Row::default() };
        assert_eq!(row, expected, "{what:?} {asks:?}");
    }
}

#[test]
fn a_response_is_split_by_what_is_known_of_the_path() {
    let told = |prompt_ns| {
        let mut row = Row { asks: Some(true), rtt_min_ns: Some(10), ..Row::default() };
        let what = What::Response { latency_ns: 100, since_first_ns: 0, stalled_ns: 40, prompt_ns };
        Event { flow: 3, what, left_out: 100 }.fold(&mut row);
        row.counts
    };
    let parts = [(PATH, 20), (QUEUEING, 10), (STALLS, 80), (PEER_APPLICATION, 90)];
    assert_eq!(told(Some(15)), [&[(RESPONSE_NS, 200)][..], &parts].concat());
    assert_eq!(told(None), [(RESPONSE_NS, 200)], "nobody saw round trips");
}
