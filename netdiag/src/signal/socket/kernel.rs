//! What a flow has of the kernel's own counters and states of its socket: the first counts of the
//! signal, in the order of these lists.

use netdiag_common::{
    flow::{Detail, TcpCounters, TcpDetail},
    signal::Signal,
};

use super::{Count, CountId, count_id};

/// How a counter of the kernel's is read and grows.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// Its number, where known.
    pub read: fn(&TcpCounters, Option<&TcpDetail>) -> Option<u64>,
    /// How wide it is: it begins at 0 again when it is full.
    pub bits: u32,
    /// What one is, in the unit of the count.
    pub unit: u64,
    /// Whether the kernel leaves it as it is when the socket connects again (`tcp_disconnect`,
    /// net/ipv4/tcp.c).
    pub lasts: bool,
    /// Whether a report in which it fell is older than the one before. All that moves a socket moves
    /// one of these, each in a single store.
    pub tells_age: bool,
}

impl Reading {
    const fn new(read: fn(&TcpCounters, Option<&TcpDetail>) -> Option<u64>, bits: u32) -> Self {
        Self { read, bits, unit: 1, lasts: false, tells_age: false }
    }

    const fn microseconds(read: fn(&TcpCounters, Option<&TcpDetail>) -> Option<u64>) -> Self {
        Self { unit: 1_000, lasts: true, ..Self::new(read, 64) }
    }

    const fn telling_age(self) -> Self {
        Self { tells_age: true, ..self }
    }
}

/// Counters: a flow has their growth.
pub const READINGS: [Reading; 18] = [
    Reading::new(|tcp, _| Some(tcp.bytes_sent), 64).telling_age(),
    Reading::new(|tcp, _| Some(tcp.bytes_received), 64).telling_age(),
    Reading::new(|tcp, _| Some(tcp.segs_out.into()), 32).telling_age(),
    Reading { lasts: true, ..Reading::new(|tcp, _| Some(tcp.drops.into()), 32) },
    Reading::new(|tcp, _| Some(tcp.bytes_acked), 64).telling_age(),
    Reading::new(|tcp, _| Some(tcp.bytes_retrans), 64).telling_age(),
    Reading::new(|tcp, _| Some(tcp.segs_in.into()), 32).telling_age(),
    Reading::microseconds(|_, detail| detail?.get(Detail::Busy)),
    Reading::microseconds(|_, detail| detail?.get(Detail::RwndLimited)),
    Reading::microseconds(|_, detail| detail?.get(Detail::SndbufLimited)),
    Reading::new(|_, detail| detail?.get(Detail::DataSegmentsSent), 32),
    Reading::new(|_, detail| detail?.get(Detail::DataSegmentsReceived), 32),
    Reading::new(|_, detail| detail?.get(Detail::Delivered), 32),
    Reading::new(|_, detail| detail?.get(Detail::DeliveredCe), 32),
    Reading::new(|_, detail| detail?.get(Detail::Dsacks), 32),
    Reading::new(|_, detail| detail?.get(Detail::Reorderings), 32),
    Reading::new(|_, detail| detail?.get(Detail::OutOfOrder), 32),
    Reading::new(|_, detail| detail?.get(Detail::Timeouts), 16),
];

/// The slow start threshold until a loss sets one (`TCP_INFINITE_SSTHRESH`, include/net/tcp.h).
const INFINITE_SSTHRESH: u64 = 0x7fff_ffff;

/// States: a flow has the last that was told.
pub const GAUGES: [fn(&TcpDetail) -> Option<u64>; 9] = [
    |detail| detail.get(Detail::Ssthresh).filter(|&segments| segments < INFINITE_SSTHRESH),
    |detail| detail.get(Detail::SndWnd),
    |detail| detail.get(Detail::RcvWnd),
    |detail| detail.get(Detail::Unacknowledged),
    |detail| detail.get(Detail::Unread),
    |detail| detail.get(Detail::Unsent),
    |detail| detail.get(Detail::RcvBuf),
    |detail| detail.get(Detail::SndBuf),
    |detail| detail.get(Detail::SndBufUsed),
];

/// Counts that the kernel does not tell.
const OWN: usize = 2;
const ALL: usize = READINGS.len() + GAUGES.len() + OWN;

/// The count of the nth of [`READINGS`].
#[must_use]
pub const fn reading_id(nth: usize) -> CountId {
    count_id(Signal::Socket, nth as u16)
}

/// The count of the nth of [`GAUGES`].
#[must_use]
pub const fn gauge_id(nth: usize) -> CountId {
    reading_id(READINGS.len() + nth)
}

/// How long a flow that is closed lived.
pub const LIFETIME: CountId = gauge_id(GAUGES.len());
/// Connections that failed.
pub(super) const CONNECTS_FAILED: CountId = gauge_id(GAUGES.len() + 1);

pub(super) const COUNTS: [Count; ALL] = [
    Count::reading("bytes_sent", "payload bytes sent, retransmissions included"),
    Count::reading("bytes_received", "payload bytes received in order"),
    Count::reading("segments_sent", "segments sent, retransmissions included"),
    Count::reading("socket_drops", "packets that the socket counted as dropped on receipt"),
    Count::reading("bytes_acked", "bytes acknowledged, SYN and FIN are one each").not_below(),
    Count::reading(
        "bytes_retransmitted",
        "payload bytes sent again, by the socket's own counter: all of them",
    ),
    Count::reading("segments_received", "segments received").not_below(),
    Count::reading("busy_ns", "time with data to send, that of both limits included").not_below(),
    Count::reading("rwnd_limited_ns", "time in which the peer's receive window held data back"),
    Count::reading("sndbuf_limited_ns", "time in which all of a full send buffer had been sent"),
    Count::reading("data_segments_sent", "segments with payload sent, repeated ones included")
        .not_below(),
    Count::reading("data_segments_received", "segments with payload received").not_below(),
    Count::reading("delivered", "segments that the peer acknowledged, also selectively")
        .not_below(),
    Count::reading("delivered_ce", "of these the ones that met congestion, by ECN"),
    Count::reading("dsacks", "segments the peer got twice (DSACK): sent again for nothing"),
    Count::reading("reordering", "times that ACKs showed segments overtaking others"),
    Count::reading("out_of_order", "segments received out of order"),
    Count::reading("timeouts", "retransmission timeouts; Linux 6.7 and later"),
    Count::gauge("ssthresh", "slow start threshold in segments, null until a loss sets one"),
    Count::gauge("snd_wnd_bytes", "room in the peer's receive window, 0: it is closed"),
    Count::gauge("rcv_wnd_bytes", "room in the receive window that the peer was offered"),
    Count::gauge("unacknowledged", "segments sent and not acknowledged"),
    Count::gauge("unread_bytes", "bytes received that the process has not read").below(),
    Count::gauge("unsent_bytes", "bytes that the process wrote and TCP has not sent").below(),
    Count::gauge("rcvbuf_bytes", "memory that the receive queue may take"),
    Count::gauge("sndbuf_bytes", "memory that the send queue may take"),
    Count::gauge("sndbuf_used_bytes", "memory that the send queue takes"),
    Count::gauge("lifetime_ns", "connect called or accepted to destroyed; null while it lives"),
    Count::labelled(
        "connects_failed",
        "connections asked for that failed, by errno, `closed` where the process gave up",
    )
    .keyed("error")
    .without_column()
    .telling(),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// What has a place in three lists has the same one in each.
    #[test]
    fn lists_agree() {
        let mut detail = TcpDetail::default();
        for (at, each) in Detail::ALL.into_iter().enumerate() {
            match each {
                Detail::Busy | Detail::RwndLimited | Detail::SndbufLimited => {
                    detail.set_time(each, at as u64 + 100);
                }
                _ => detail.set(each, at as u32 + 100),
            }
        }
        let tcp = TcpCounters {
            bytes_sent: 1,
            bytes_received: 2,
            segs_out: 3,
            drops: 4,
            bytes_acked: 5,
            bytes_retrans: 6,
            segs_in: 7,
            ..TcpCounters::default()
        };
        let readings = READINGS.iter().map(|reading| (reading.read)(&tcp, Some(&detail)));
        let found: Vec<_> = readings.chain(GAUGES.iter().map(|gauge| gauge(&detail))).collect();
        let expected: Vec<_> = (1..=7).chain(100..120).map(Some).collect();
        assert_eq!(found, expected, "each detail is shown once, in the order of their numbers");
        let names: Vec<_> = COUNTS.iter().map(|count| count.name).collect();
        assert_eq!(names[LIFETIME.0 as usize - reading_id(0).0 as usize], "lifetime_ns");
        for (nth, name) in [(3, "socket_drops"), (9, "sndbuf_limited_ns"), (17, "timeouts")] {
            assert_eq!(names[nth], name);
        }
        for (nth, name) in [(0, "ssthresh"), (4, "unread_bytes"), (8, "sndbuf_used_bytes")] {
            assert_eq!(names[READINGS.len() + nth], name);
        }
        let microseconds = READINGS.iter().map(|reading| reading.unit == 1_000);
        let times: Vec<_> = microseconds.collect();
        let named: Vec<_> = COUNTS[..READINGS.len()].iter().map(|c| c.name.ends_with("_ns")).collect();
        assert_eq!(times, named);
    }

    #[test]
    fn what_was_not_read_is_unknown() {
        let (tcp, nothing) = (TcpCounters::default(), TcpDetail::default());
        let known = |detail| READINGS.iter().filter(|r| (r.read)(&tcp, detail).is_some()).count();
        assert_eq!((known(None), known(Some(&nothing))), (7, 7));
        assert!(GAUGES.iter().all(|gauge| gauge(&nothing).is_none()));
        let mut detail = nothing;
        detail.set(Detail::Ssthresh, 0x7fff_ffff);
        assert_eq!(GAUGES[0](&detail), None, "no loss has set it");
    }
}
