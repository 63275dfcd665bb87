//! What a reset did to a connection: whether anybody waited for an answer when it came.
//!
//! Bytes are told by intervals, so that who spoke last is known where only one end spoke in the last interval with any
//! bytes. Where both did, the last of it may have been one more request. A little is known beyond that of a connection
//! that began and ended in the window: what came of its turns, and whether this end had ended it before.

use crate::watched::{Seen, Sums};

/// Bytes below which nothing may be asked for: farewells. A TLS close_notify (RFC 8446, 6.1) takes up to 85 with its
/// record, and beside it there may be one more, such as a GOAWAY of HTTP/2 (RFC 9113, 6.8).
pub(super) const FAREWELL_BYTES: u64 = 200;

/// What a reset did to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Something was asked for, and had no answer.
    InVain,
    /// There were answers, and something else was asked for after them.
    Open,
    /// There were answers, and whether something else was asked for after them is not known.
    Unclear,
    /// There were answers, and no more after them than a farewell or a very short request.
    Hardly,
    /// Nothing was asked for, or it was answered.
    Served,
}

impl Fate {
    /// By the bytes of who asks and of who answers, those of who asks since an answer came, and those of which it is
    /// not known whether they were before it.
    const fn of(asked: u64, answered: u64, since: u64, beside: u64) -> Self {
        match (asked, answered) {
            (1.., 0) => Self::InVain,
            _ if since >= FAREWELL_BYTES => Self::Open,
            _ if beside >= FAREWELL_BYTES => Self::Unclear,
            _ if since > 0 || beside > 0 => Self::Hardly,
            _ => Self::Served,
        }
    }

    /// Where this end asks.
    pub(super) fn at_client(flow: &Seen) -> Self {
        let ([sent, received], course) = (payload(flow), &flow.course);
        match Self::of(sent, received, course.asked_bytes, course.asked_beside_bytes) {
            Self::Unclear | Self::Hardly if CLIENT.is_over(flow) => Self::Served,
            Self::Unclear if takes_leave(flow) => Self::Hardly,
            fate => fate,
        }
    }

    /// Where this end answers.
    pub(super) fn at_server(flow: &Seen) -> Self {
        let ([sent, received], course) = (payload(flow), &flow.course);
        match Self::of(received, sent, course.owed_bytes, course.owed_beside_bytes) {
            Self::Unclear | Self::Hardly if SERVER.is_over(flow) => Self::Served,
            fate => fate,
        }
    }
}

/// Payload bytes that this end of a connection sent, and the peer.
fn payload(flow: &Seen) -> [u64; 2] {
    ["bytes_sent", "bytes_received"].map(|name| flow.sums.at_least(name))
}

/// What tells at one end of a connection that nobody waits at it any more.
struct End {
    /// Metric of which there is a sample where its beginning was seen.
    begins: &'static str,
    /// Count of the segments that ask.
    asks: &'static str,
    /// Metric of the answers.
    answers: &'static str,
    /// SYNs that the kernel counts among the bytes which the peer acknowledged: a child of a listener begins behind its
    /// own.
    syns: u64,
}

const CLIENT: End =
    End { begins: "connect", asks: "data_segments_sent", answers: "response", syns: 1 };
const SERVER: End =
    End { begins: "accept_wait", asks: "data_segments_received", answers: "service", syns: 0 };

impl End {
    /// Of one that was seen from its beginning to its end: of another one it is not known what came before.
    fn is_over(&self, flow: &Seen) -> bool {
        let sums = &flow.sums;
        let is_whole = flow.closed && sums.samples(self.begins) > 0;
        is_whole && (self.is_answered(sums) || self.has_ended(sums))
    }

    /// Whether each segment that asked had its answer. A turn takes one at least; where there are more, the last one
    /// may be of a request that had none.
    fn is_answered(&self, sums: &Sums) -> bool {
        let answers = sums.samples(self.answers);
        sums.count(self.asks).is_some_and(|segments| segments > 0 && segments <= answers)
    }

    /// Whether the peer had this end's FIN: what is reset then came late.
    fn has_ended(&self, sums: &Sums) -> bool {
        sent(sums).is_some_and(|(sent, acknowledged)| acknowledged > sent + self.syns)
    }
}

/// Whether what was under way to the peer when it reset is as short as a farewell. A server that ends a connection with
/// FIN, and does not wait for the client's close_notify, answers that with a reset.
fn takes_leave(flow: &Seen) -> bool {
    let under_way = sent(&flow.sums).map(|(sent, acknowledged)| sent.saturating_sub(acknowledged));
    flow.closed && under_way.is_some_and(|bytes| bytes > 0 && bytes < FAREWELL_BYTES)
}

/// Payload bytes that this end sent, each once, and bytes that the peer acknowledged; none where that is not told.
fn sent(sums: &Sums) -> Option<(u64, u64)> {
    let again = sums.count("bytes_retransmitted")?;
    Some((sums.count("bytes_sent")?.saturating_sub(again), sums.count("bytes_acked")?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        snapshot::Flow,
        watched::{Watched, kit},
    };

    /// What becomes of a flow with so many bytes sent and received in each interval.
    fn fates(bytes: &[[u64; 2]], change: impl Fn(Flow) -> Flow) -> [Fate; 2] {
        let mut watched = Watched::default();
        for (second, [sent, received]) in (0..).zip(bytes) {
            let flow =
                kit::flow("f1").count("bytes_sent", *sent).count("bytes_received", *received);
            watched.take(&kit::snapshot(second, vec![change(flow)]));
        }
        let flow = &watched.flows["f1"];
        [Fate::at_client(flow), Fate::at_server(flow)]
    }

    #[test]
    fn by_the_last_interval_with_bytes() {
        let client = |bytes: &[[u64; 2]], expected: Fate| {
            assert_eq!(fates(bytes, |flow| flow)[0], expected, "{bytes:?}");
        };
        client(&[[100, 0]], Fate::InVain);
        client(&[[0, 900]], Fate::Served);
        client(&[[300, 0], [0, 900]], Fate::Served);
        client(&[[300, 900], [200, 0]], Fate::Open);
        client(&[[300, 900], [199, 0]], Fate::Hardly);
        client(&[[300, 900], [0, 5]], Fate::Served);
        client(&[[200, 900]], Fate::Unclear);
        client(&[[199, 900]], Fate::Hardly);
        // However long that is ago.
        client(&[[200, 900], [0, 0], [0, 0]], Fate::Unclear);
        client(&[[300, 900], [30, 0], [0, 0]], Fate::Hardly);
        let server = |bytes: &[[u64; 2]], expected: Fate| {
            assert_eq!(fates(bytes, |flow| flow)[1], expected, "{bytes:?}");
        };
        server(&[[0, 100]], Fate::InVain);
        server(&[[900, 300], [0, 200]], Fate::Open);
        server(&[[900, 200]], Fate::Unclear);
        server(&[[900, 199]], Fate::Hardly);
        server(&[[0, 300], [900, 0]], Fate::Served);
    }

    /// One request in a segment has its answer, or there is one more of which that is not known.
    #[test]
    fn by_turns() {
        let of = |begins: &'static str, asks: &'static str, answers: &'static str| {
            move |segments: u64, turns: u64, closed: bool| {
                let change = |flow: Flow| {
                    let flow = flow.latency(begins, 1, 1_000).count(asks, segments);
                    Flow { closed, ..flow.latency(answers, turns, 1_000_000) }
                };
                fates(&[[900, 900]], change)
            }
        };
        let client = of("connect", "data_segments_sent", "response");
        let server = of("accept_wait", "data_segments_received", "service");
        let (served, unclear) = (Fate::Served, Fate::Unclear);
        assert_eq!(
            [client(1, 1, true), server(1, 1, true)],
            [[served, unclear], [unclear, served]]
        );
        assert_eq!(
            [client(2, 2, true), server(2, 2, true)],
            [[served, unclear], [unclear, served]]
        );
        assert_eq!([client(2, 1, true), server(2, 1, true)], [[unclear; 2]; 2]);
        assert_eq!([client(1, 1, false), server(1, 1, false)], [[unclear; 2]; 2], "it goes on");
        let older = of("read_wait", "data_segments_sent", "response");
        assert_eq!(older(1, 1, true), [unclear; 2]);
    }

    /// So many bytes of 900 that were acknowledged, at the end of a connection or of one whose beginning is not known.
    #[test]
    fn by_what_was_under_way() {
        let of = |begins: &'static str, acknowledged: u64, again: u64| {
            let change = |flow: Flow| {
                let flow = flow.latency(begins, 1, 1_000).count("bytes_acked", acknowledged);
                Flow { closed: true, ..flow.count("bytes_retransmitted", again) }
            };
            fates(&[[900 + again, 900]], change)
        };
        for (acknowledged, client, server) in [
            (700, Fate::Unclear, Fate::Unclear),
            (701, Fate::Hardly, Fate::Unclear),
            (899, Fate::Hardly, Fate::Unclear),
            (900, Fate::Unclear, Fate::Unclear),
            // The client's SYN, or the server's FIN.
            (901, Fate::Unclear, Fate::Served),
            (902, Fate::Served, Fate::Served),
        ] {
            for again in [0, 50] {
                assert_eq!(of("connect", acknowledged, again)[0], client, "{acknowledged}");
                assert_eq!(of("accept_wait", acknowledged, again)[1], server, "{acknowledged}");
            }
            let [_, older] = of("read_wait", acknowledged, 0);
            assert_eq!(older, Fate::Unclear, "{acknowledged}");
        }
    }
}
