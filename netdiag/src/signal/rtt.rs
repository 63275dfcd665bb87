//! `rtt`: round-trip times, as the kernel takes them.

use netdiag_common::{
    batch::BATCH,
    field::Field,
    flow::FlowId,
    header::Header,
    signal::{
        Signal,
        rtt::{Sample, flag},
    },
};

use super::{
    Attachment, Cost, Count, CountId, Definition, Fold, Hook, Malformed, Metric, MetricId, Path,
    Rows, Shed, Source, Subject, batch, count_id, metric_id,
};
use crate::event::{Past, Told};

const RTT: MetricId = metric_id(Signal::Rtt, 0);
const DELAYED: CountId = count_id(Signal::Rtt, 0);

/// What the rest of netdiag knows of it.
pub const DEFINITION: Definition = Definition {
    signal: Signal::Rtt,
    help: "round-trip times, each sample that the kernel takes",
    metrics: &[Metric::new(
        "rtt",
        "segment sent to acknowledged, the kernel's own samples: the path and the peer's delay of its \
         ACK; rtt_min beside it is the path",
    )],
    counts: &[Count::new(
        "rtt_delayed",
        "samples of rtt that may contain the peer's delay, by the kernel's own judgement (a lone \
         segment that was not full) or, by tracepoints, all of less than a full segment",
    )],
    cost: Cost::Segment,
    sources: &[FEXIT, TP_BTF, RAW_TP],
    samples: BATCH as u32,
    flush: Some("rtt_flush"),
    rows: Rows::Flows,
    kinds: &[],
    shed: Some(Shed::at(0).hiding(
        "whose time responses take: these are in response_ns, and not in spent_ns",
    )),
};

/// Every sample as the estimator gets it.
const FEXIT: Source = Source {
    name: "fexit",
    attachments: &[
        Attachment::new("rtt_fexit", Hook::FexitWith("tcp_ack_update_rtt", 6)),
        Attachment::aside("rtt_second_fexit", Hook::FexitWith("tcp_ack_update_rtt", 6)),
    ],
    extras: &[],
    fields: &[Field::TcpSrtt, Field::TcpMstamp, Field::RateRtt],
    places: &[],
    typed: true,
    reads_memory: false,
    skips_when_preempted: true,
    blind: &[],
    module: None,
    when_preempted: None,
};

/// What two looks at the estimator must read.
const ESTIMATOR: &[Field] = &[Field::TcpSrtt, Field::TcpMdev, Field::TcpSndUna, Field::TcpMstamp, Field::TcpMss];

const ESTIMATOR_BLIND: &[&str] = &[
    "samples of a connection that one side has begun to close",
    "samples that a filter leaves out (they are not counted as filtered)",
    "which samples the kernel takes for delayed ones: each of less than a full segment counts as one",
];

/// A look at the estimator at each segment that arrives, and at the last one's end: with one ACK
/// between two looks there is one sample at most. A look that the kernel skips makes one of two.
const TP_BTF: Source = Source {
    name: "tp_btf",
    attachments: &[
        Attachment::aside("rtt_probe_second_tp_btf", Hook::TpBtf("tcp_probe")),
        Attachment::new("rtt_probe_tp_btf", Hook::TpBtf("tcp_probe")),
        Attachment::new("rtt_closing_tp_btf", Hook::TpBtf("inet_sock_set_state")),
    ],
    extras: &[],
    fields: ESTIMATOR,
    places: &[],
    typed: true,
    reads_memory: false,
    skips_when_preempted: true,
    blind: ESTIMATOR_BLIND,
    module: None,
    when_preempted: None,
};

const RAW_TP: Source = Source {
    name: "raw_tp",
    attachments: &[
        Attachment::aside("rtt_probe_second_raw_tp", Hook::RawTp("tcp_probe")),
        Attachment::new("rtt_probe_raw_tp", Hook::RawTp("tcp_probe")),
        Attachment::new("rtt_closing_raw_tp", Hook::RawTp("inet_sock_set_state")),
    ],
    extras: &[],
    fields: ESTIMATOR,
    places: &[],
    typed: false,
    reads_memory: true,
    skips_when_preempted: true,
    blind: ESTIMATOR_BLIND,
    module: None,
    when_preempted: None,
};

/// One round trip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// When the ACK came, `CLOCK_MONOTONIC` in nanoseconds to the microsecond.
    pub time_ns: u64,
    /// The socket.
    pub flow: FlowId,
    /// From the segment to its ACK, in nanoseconds.
    pub rtt_ns: u64,
    /// What the kernel made of it and those before.
    pub path: Path,
    /// The kernel takes it for one that the peer may have delayed.
    pub delayed: bool,
}

impl Event {
    pub(super) fn subject(&self) -> Subject<'_> {
        Subject::Flow(self.flow)
    }

    #[expect(clippy::unused_self, reason = "every signal's event answers it")]
    pub(super) const fn unseen(&self) -> Option<(Signal, u64)> {
        None
    }

    pub(super) fn fold(&self, row: &mut impl Fold) {
        row.latency(RTT, self.rtt_ns);
        row.path(self.time_ns, self.path);
        if self.delayed {
            row.count(DELAYED, 1);
        }
    }

    /// There are too many to tell of each.
    #[expect(clippy::unused_self, reason = "every signal's event answers it")]
    pub(super) const fn tell(&self, _past: &Past, _told: &mut impl FnMut(Told)) {}
}

/// Decodes a batch.
pub(super) fn decode(bytes: &[u8], emit: &mut impl FnMut(Event)) -> Result<(), Malformed> {
    let (header, samples) = batch::<Sample>(bytes)?;
    for sample in samples {
        emit(Event {
            time_ns: time_ns(header, sample),
            flow: sample.flow,
            rtt_ns: u64::from(sample.rtt_us) * 1_000,
            path: Path::of(sample.srtt_us, sample.rtt_min_us),
            delayed: sample.flags & flag::MAYBE_DELAYED != 0,
        });
    }
    Ok(())
}

/// A sample has the low bits of its time; it is older than the handing over by a fraction of those.
fn time_ns(header: &Header, sample: &Sample) -> u64 {
    let handed_us = header.time_ns / 1_000;
    let age_us = (handed_us as u32).wrapping_sub(sample.time_us);
    handed_us.saturating_sub(u64::from(age_us)) * 1_000
}

#[cfg(test)]
mod tests {
    use netdiag_common::{
        estimator::{Estimator, Since},
        header::VERSION,
    };
    use proptest::{collection::vec, prelude::*};
    use zerocopy::IntoBytes as _;

    use super::*;

    fn decoded(handed_ns: u64, sample: Sample) -> Event {
        let header = Header { version: VERSION, signal: Signal::Rtt as u16, samples: 1, time_ns: handed_ns };
        let bytes = [header.as_bytes(), sample.as_bytes()].concat();
        let mut events = Vec::new();
        decode(&bytes, &mut |event| events.push(event)).expect("a sound record");
        events[0]
    }

    #[test]
    fn a_sample_is_as_old_as_its_low_bits_say() {
        const WRAP_US: u64 = 1 << 32;
        for (handed_us, age_us) in [(7, 7), (5_000_000, 1), (WRAP_US + 5, 10), (9 * WRAP_US, 0)] {
            let time_us = (handed_us - age_us) as u32;
            let event = decoded(handed_us * 1_000 + 999, Sample { time_us, ..Sample::default() });
            assert_eq!(event.time_ns, (handed_us - age_us) * 1_000, "{handed_us} {age_us}");
        }
    }

    #[test]
    fn the_kernels_microseconds_are_nanoseconds_and_its_none_is_none() {
        let sample = Sample { flow: 3, rtt_us: 12, flags: flag::MAYBE_DELAYED, ..Sample::default() };
        let event = decoded(1 << 40, sample);
        assert_eq!((event.flow, event.rtt_ns, event.delayed), (3, 12_000, true));
        assert_eq!(event.path, Path::default());
        let event = decoded(1 << 40, Sample { srtt_us: 9, rtt_min_us: 8, ..Sample::default() });
        assert_eq!(event.path, Path::of(9, 8));
        assert!(!event.delayed);
    }

    /// `tcp_rtt_estimator`, but for what it keeps of the largest deviation.
    fn update(estimator: &mut Estimator, sample: u32, acknowledged: u32) {
        let mut m = i64::from(sample);
        let mut srtt = estimator.srtt;
        if srtt == 0 {
            srtt = (m << 3) as u32;
            estimator.mdev = (m << 1) as u32;
        } else {
            m -= i64::from(srtt >> 3);
            srtt = (i64::from(srtt) + m) as u32;
            let decay = i64::from(estimator.mdev >> 2);
            if m < 0 {
                m = -m - decay;
                if m > 0 {
                    m >>= 3;
                }
            } else {
                m -= decay;
            }
            estimator.mdev = (i64::from(estimator.mdev) + m) as u32;
        }
        estimator.srtt = srtt.max(1);
        estimator.una = estimator.una.wrapping_add(acknowledged);
    }

    proptest! {
        /// Whatever the kernel measures, nearly constant or not, and whatever arrives between.
        #[test]
        fn each_sample_is_found_in_what_the_estimator_made_of_it(
            base in 0_u32..100_000_000,
            spread in prop_oneof![Just(1_u32), 1_u32..4, 1_u32..1_000_000],
            steps in vec((any::<bool>(), any::<u32>(), 1_u32..9_000), 0..200),
        ) {
            let mut estimator = Estimator { una: u32::MAX - 5, ..Estimator::default() };
            for (is_ack, random, acknowledged) in steps {
                let before = estimator;
                let sample = base + random % spread;
                if is_ack {
                    update(&mut estimator, sample, acknowledged);
                }
                let expected = if is_ack { Since::Sample(sample) } else { Since::Nothing };
                prop_assert_eq!(estimator.since(before), expected);
            }
        }
    }

    #[test]
    fn an_ack_of_less_than_a_segment_may_be_late() {
        let at = |srtt, una| Estimator { srtt, mdev: 1, una };
        for (before, now, is_short) in [
            (at(8, u32::MAX), at(9, 98), true),
            (at(8, u32::MAX), at(9, 99), false),
            // The handshake's.
            (at(0, 1), at(9, 2), false),
        ] {
            assert_eq!(now.is_short_since(before, 100), is_short, "{before:?} {now:?}");
        }
    }

    #[test]
    fn what_is_no_sample_or_several() {
        let at = |srtt, mdev, una| Estimator { srtt, mdev, una };
        for (before, after, expected) in [
            // What is acknowledged was sent twice, so it is no sample (Karn's algorithm).
            (at(8_000, 100, 1), at(8_000, 100, 2), Since::Nothing),
            // A socket that connects again begins anew.
            (at(8_000, 100, 1), at(0, 1_000_000, 0), Since::Nothing),
            // Two fell from 10 ms to nothing.
            (at(80_000, 100, 1), at(61_250, 100, 2), Since::Several),
        ] {
            assert_eq!(after.since(before), expected, "{before:?} {after:?}");
        }
    }
}
