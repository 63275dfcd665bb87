//! Answers that come as by a timer: what tells a server that holds requests back on purpose (a long poll, for which
//! nobody waits) from a slow one.
//!
//! What is said is not known. An idle poll shows by three things together: the slowest answers take no longer than
//! half of them do, as a limit is reached; its connection asks again at once, so that a request is open nearly all the
//! time; and there is hardly anything in the answers. A server that waits for a timeout of its own in each request
//! looks the same to a client that does nothing but wait, if its answers are as small; so it is told, as an info.
//! Where no more than the time speaks for a poll, the finding stays a warning, and says what it may be.
//!
//! Many connections that poll hide none of the others: each is looked at by itself, and goes with them only where it
//! has too few answers for that, or answers before the timer ends, as polls with something to tell do.

use super::{Finding, Limits, Threshold, Unit};
use crate::{
    format,
    watched::{Group, Seen, Sums, Watched},
};

pub(super) const TIMER: Threshold = Threshold {
    name: "timer",
    value: 0.03,
    unit: Unit::Ratio,
    help: "by how much the slowest tenth of answers that come as by a timer takes longer than half of them",
    source: "timers of brokers and queues are some milliseconds late; work takes now more, now less",
};
pub(super) const OPEN: Threshold = Threshold {
    name: "open",
    value: 0.7,
    unit: Unit::Ratio,
    help: "part of the time in which a connection that polls has a request open",
    source: "who polls asks again as soon as it has done with the answer; pools are rarely that busy",
};
pub(super) const EMPTY: Threshold = Threshold {
    name: "empty",
    value: 4_096.0,
    unit: Unit::Bytes,
    help: "an answer in the mean, below which there is hardly anything in it; with more it is a warning",
    source: "an answer without news is a header, of a broker one for each partition",
};

/// Why answers that take very long are held back.
pub(super) const LONG: &str = "Even its quickest answers take that long. That is how long polls look: the server \
     waits for something to tell, and nobody minds.";

/// Answers at one end of a connection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Answers {
    /// Metric of what they take.
    pub(super) metric: &'static str,
    /// Count of the nanoseconds that all of them take.
    time: &'static str,
    /// Count of the bytes in all of them.
    bytes: &'static str,
}

/// Those that a client waits for.
pub(super) const AWAITED: Answers =
    Answers { metric: "response", time: "response_ns", bytes: "bytes_received" };
/// Those that a server gives.
pub(super) const GIVEN: Answers =
    Answers { metric: "processing", time: "service_ns", bytes: "bytes_sent" };

impl Answers {
    /// Those that a server gives, as they are told: an older netdiag had no `processing`, but `service`, which holds
    /// what requests take to arrive as well.
    pub(super) fn given(sums: &Sums) -> Self {
        let is_older = !sums.tells(GIVEN.metric) && sums.tells("service");
        if is_older { Self { metric: "service", ..GIVEN } } else { GIVEN }
    }
}

/// What speaks for a timer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Timer {
    /// What half of the answers take, and the others hardly longer.
    pub(super) ns: u64,
    /// Whether all speaks for a poll, not the time alone.
    is_poll: bool,
    /// By how much the slowest tenth takes longer.
    beyond: f64,
    /// Part of the time in which a request is open; none where that cannot be told.
    open: Option<f64>,
    /// Bytes of an answer in the mean; none where they are not known.
    bytes: Option<f64>,
}

impl Timer {
    /// Of flows with at least so many answers together. None where these come at different times, or connections
    /// rest between them.
    fn of(
        watched: &Watched,
        limits: &Limits,
        group: &Group<'_>,
        answers: &Answers,
        least: u64,
    ) -> Option<Self> {
        let sums = &group.sums;
        let half = sums.quantile(answers.metric, 0.5, least)?;
        let slow = sums.quantile(answers.metric, 0.9, least)?;
        let beyond = slow.saturating_sub(half) as f64 / half.max(1) as f64;
        let open = open(watched, group, answers);
        let rests = open.is_some_and(|open| open < limits.of(&OPEN));
        if beyond > limits.of(&TIMER) || rests {
            return None;
        }
        let bytes = mean_bytes(sums, answers);
        let is_empty = bytes.is_some_and(|bytes| bytes < limits.of(&EMPTY));
        let is_poll = open.is_some() && is_empty;
        Some(Self { ns: half, is_poll, beyond, open, bytes })
    }

    /// Whether a connection goes with all of those that poll together, which by itself is none: nothing says that it
    /// works. Its answers may come before the timer ends. With enough of them one has to come as it does.
    fn holds(
        &self,
        watched: &Watched,
        limits: &Limits,
        flow: &Seen,
        answers: &Answers,
        least: u64,
    ) -> bool {
        /// Its slowest answers beyond that may be an accident.
        const MOST: f64 = 0.8;
        let sums = &flow.sums;
        let (Some(most), Some(slowest)) =
            (sums.quantile(answers.metric, MOST, 1), sums.quantile(answers.metric, 1.0, 1))
        else {
            return true;
        };
        let [early, late] = [-1.0, 1.0].map(|by| self.ns as f64 * (1.0 + by * limits.of(&TIMER)));
        let is_at_it = slowest as f64 >= early || sums.samples(answers.metric) < least;
        let open = open(watched, &Group::of(vec![flow]), answers);
        most as f64 <= late
            && is_at_it
            && open.is_none_or(|open| open >= limits.of(&OPEN))
            && mean_bytes(sums, answers).is_none_or(|bytes| bytes < limits.of(&EMPTY))
    }

    /// Adds it to a finding: that it is a poll, or may be one.
    fn told(&self, finding: Finding, watched: &Watched, limits: &Limits) -> Finding {
        let finding = finding.beyond(
            watched,
            "slowest tenth longer than half of them by",
            self.beyond,
            &TIMER,
            limits,
        );
        let finding = match self.open {
            Some(open) => finding.beyond(watched, "time with a request open", open, &OPEN, limits),
            None => finding,
        };
        let finding = match self.bytes {
            Some(bytes) => finding.beyond(watched, "an answer, mean", bytes, &EMPTY, limits),
            None => finding,
        };
        if self.is_poll {
            return finding.because(
                "Half of the answers and the slowest of them take the same, there is hardly anything in them, and \
                 each connection asks again at once. That is how long polls look: the server waits for something to \
                 tell until a timer ends, and nobody minds. One that waits for a timeout in each request may look the \
                 same.",
            );
        }
        finding.no_surer_than(0.6).not_seeing(format!(
            "whether it holds requests back on purpose, as long polls do: most answers come as by a timer of {}",
            format::duration(self.ns)
        ))
    }
}

/// What speaks for answers that are held back on purpose.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    /// Even the quickest of them take very long.
    is_long: bool,
    /// They come as by a timer, and not so late.
    pub(super) timer: Option<Timer>,
}

impl Held {
    /// Of flows with at least so many answers together, of which the quickest tenth takes that long where they are held
    /// back. None of flows with fewer.
    pub(super) fn of(
        watched: &Watched,
        limits: &Limits,
        group: &Group<'_>,
        answers: &Answers,
        (least, long): (u64, &Threshold),
    ) -> Option<Self> {
        let quickest = group.sums.quantile(answers.metric, 0.1, least)?;
        let is_long = quickest as f64 >= limits.of(long);
        let timer = Timer::of(watched, limits, group, answers, least).filter(|_| !is_long);
        Some(Self { is_long, timer })
    }

    /// The timer of a poll.
    pub(super) fn poll(&self) -> Option<Timer> {
        self.timer.filter(|timer| timer.is_poll)
    }

    /// Whether it is so, by all that is seen.
    pub(super) fn is_likely(&self) -> bool {
        self.is_long || self.poll().is_some()
    }

    /// Adds to a finding what is known of the timer.
    pub(super) fn told(&self, finding: Finding, watched: &Watched, limits: &Limits) -> Finding {
        match self.timer {
            Some(timer) => timer.told(finding, watched, limits),
            None => finding,
        }
    }
}

/// What is found in those flows of a group that work, or else in those that poll. Nothing where there are fewer answers
/// than that, or the slowest tenth of all of them takes less.
pub(super) fn of_each<'a>(
    watched: &Watched,
    limits: &Limits,
    group: &Group<'a>,
    answers: &Answers,
    (least, slow): (u64, &Threshold),
    of_some: impl Fn(&Group<'a>) -> Option<Finding>,
) -> Option<Finding> {
    if (group.sums.quantile(answers.metric, 0.9, least)? as f64) < limits.of(slow) {
        return None;
    }
    let (polls, rest) = apart(watched, limits, group, answers, least);
    rest.as_ref().and_then(&of_some).or_else(|| of_some(&polls?))
}

/// Part of the time from the first answer to the last in which connections have a request open.
fn open(watched: &Watched, group: &Group<'_>, answers: &Answers) -> Option<f64> {
    /// Intervals from the first to the last, of all connections together: when in an interval an answer comes is
    /// not known.
    const LEAST: f64 = 4.0;
    let (mut open_s, mut all_s) = (0.0, 0.0);
    for flow in &group.flows {
        let count = flow.sums.samples(answers.metric) as f64;
        let answered = flow.course.answered;
        if let Some((first, last)) = answered.first().zip(answered.last())
            && count > 1.0
        {
            // All but the first one, which was asked for before.
            let took_s = flow.sums.at_least(answers.time) as f64 / 1e9;
            open_s += took_s * (count - 1.0) / count;
            all_s += f64::from(last - first);
        }
    }
    (all_s >= LEAST * watched.every().max(1.0)).then(|| open_s / all_s)
}

/// Bytes of an answer in the mean; none where they are not known.
fn mean_bytes(sums: &Sums, answers: &Answers) -> Option<f64> {
    let count = sums.samples(answers.metric).max(1) as f64;
    sums.count(answers.bytes).map(|bytes| bytes as f64 / count)
}

/// Whether a connection does nothing but poll.
pub(super) fn is_poll(
    watched: &Watched,
    limits: &Limits,
    flow: &Seen,
    answers: &Answers,
    least: u64,
) -> bool {
    let timer = Timer::of(watched, limits, &Group::of(vec![flow]), answers, least);
    timer.is_some_and(|timer| timer.is_poll)
}

/// Those that poll, and the others: a queue's clients do, and share its port with those that work.
fn apart<'a>(
    watched: &Watched,
    limits: &Limits,
    group: &Group<'a>,
    answers: &Answers,
    least: u64,
) -> (Option<Group<'a>>, Option<Group<'a>>) {
    let all = Timer::of(watched, limits, group, answers, least).filter(|timer| timer.is_poll);
    let polls = |flow: &Seen| {
        is_poll(watched, limits, flow, answers, least)
            || all.is_some_and(|timer| timer.holds(watched, limits, flow, answers, least))
    };
    (group.only(polls), group.only(|flow| !polls(flow)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{snapshot::Flow, watched::kit};

    const MS: u64 = 1_000_000;

    /// An answer in a second, of so many bytes, that takes so long.
    fn answer(ms: u64, bytes: u64) -> Flow {
        kit::flow("f1")
            .latency("response", 1, ms * MS)
            .count("response_ns", ms * MS)
            .count("bytes_received", bytes)
    }

    fn timer(watched: &Watched) -> Option<Timer> {
        let group = Group::of(watched.flows.values().collect());
        Timer::of(watched, &Limits::default(), &group, &AWAITED, 5)
    }

    fn is_poll(watched: &Watched) -> Option<bool> {
        timer(watched).map(|timer| timer.is_poll)
    }

    #[test]
    fn thresholds() {
        // Two in ten are later.
        let late = |ms| kit::series(|second| vec![answer(if second < 2 { ms } else { 700 }, 60)]);
        assert_eq!([late(700), late(721)].map(|it| is_poll(&it)), [Some(true), Some(true)]);
        assert_eq!(is_poll(&late(725)), None);
        let open = |ms| kit::series(|_| vec![answer(ms, 60)]);
        assert_eq!([open(700), open(690)].map(|it| is_poll(&it)), [Some(true), None]);
        let of = |bytes| kit::series(|_| vec![answer(900, bytes)]);
        assert_eq!([of(4_095), of(4_096)].map(|it| is_poll(&it)), [Some(true), Some(false)]);
        let unknown = kit::series(|_| {
            vec![kit::flow("f1").latency("response", 1, 900 * MS).count("response_ns", 900 * MS)]
        });
        assert_eq!(is_poll(&unknown), Some(false));
    }

    /// Some that come before the timer ends, as there was something to tell, make no work of it.
    #[test]
    fn half_of_them_are_enough() {
        let busy =
            |of: u64| kit::series(|second| vec![answer(if second < of { 100 } else { 1_000 }, 60)]);
        assert_eq!([busy(3), busy(6)].map(|it| is_poll(&it)), [Some(true), None]);
    }

    #[test]
    fn how_long_requests_are_open_takes_time_to_tell() {
        let until = |last: u64, flows: &[&str]| {
            let flow = |id: &&str| Flow { id: (*id).to_owned(), ..answer(1_000, 60) };
            kit::series(
                |second| {
                    if second <= last { flows.iter().map(flow).collect() } else { vec![] }
                },
            )
        };
        assert_eq!(is_poll(&until(4, &["f1"])), Some(true));
        assert_eq!(is_poll(&until(3, &["f1"])), None, "four answers");
        assert_eq!(is_poll(&until(2, &["f1", "f2"])), Some(true));
        assert_eq!(is_poll(&until(1, &["f1", "f2", "f3"])), Some(false), "three seconds");
    }

    #[test]
    fn who_polls_is_told_from_who_works() {
        let watched = kit::series(|second| {
            let works = answer(if second < 5 { 600 } else { 5 }, 60);
            vec![answer(1_000, 60), Flow { id: "f2".to_owned(), ..works }]
        });
        let group = Group::of(watched.flows.values().collect());
        let (polls, rest) = apart(&watched, &Limits::default(), &group, &AWAITED, 5);
        let ids = [polls, rest].map(|group| group.map(|group| group.first().id.clone()));
        assert_eq!(ids, ["f1", "f2"].map(|id| Some(id.to_owned())));
        let all = kit::series(|_| vec![answer(1_000, 60)]);
        let group = Group::of(all.flows.values().collect());
        let (polls, rest) = apart(&all, &Limits::default(), &group, &AWAITED, 5);
        assert!(polls.is_some() && rest.is_none());
    }

    /// What a connection answers in a second.
    type Work = fn(u64) -> Option<Flow>;

    /// Those of them that work, where twelve poll each second.
    fn beside_many(works: &[Work]) -> Vec<String> {
        let watched = kit::series(|second| {
            let poll = |n: usize| Flow { id: format!("p{n}"), ..answer(1_000, 60) };
            let works = works.iter().zip(0..).filter_map(|(work, n): (_, usize)| {
                Some(Flow { id: format!("w{n}"), ..work(second)? })
            });
            (0..12).map(poll).chain(works).collect()
        });
        assert_eq!(is_poll(&watched), Some(true), "all of them together");
        let group = Group::of(watched.flows.values().collect());
        let (polls, rest) = apart(&watched, &Limits::default(), &group, &AWAITED, 5);
        let ids = |group: Group<'_>| group.flows.iter().map(|flow| flow.id.clone()).collect();
        let rest: Vec<String> = rest.map(ids).unwrap_or_default();
        let polls = polls.map_or(0, |polls| polls.flows.len());
        assert_eq!(polls + rest.len(), 12 + works.len());
        rest
    }

    #[test]
    fn many_that_poll_hide_none_of_the_others() {
        /// One whose answers take by turns half a second and so long.
        fn by_turns(second: u64, ms: u64) -> Flow {
            answer(if second.is_multiple_of(2) { 500 } else { ms }, 60)
        }
        let cases: [(Work, bool); 9] = [
            (|second| Some(by_turns(second, 1_030)), false),
            (|second| Some(by_turns(second, 1_035)), true),
            (|second| Some(by_turns(second, 970)), false),
            (|second| Some(by_turns(second, 960)), true),
            // Two in ten, and three.
            (|second| Some(answer(if second < 2 { 2_000 } else { 1_000 }, 60)), false),
            (|second| Some(answer(if second < 3 { 2_000 } else { 1_000 }, 60)), true),
            (|_| Some(answer(1_000, 4_096)), true),
            // It rests every other second.
            (|second| second.is_multiple_of(2).then(|| answer(1_000, 60)), true),
            // Four answers are too few to tell, unless they are late.
            (|second| (second > 5).then(|| by_turns(second, 900)), false),
        ];
        for (nth, (work, is_work)) in cases.into_iter().enumerate() {
            let expected: &[&str] = if is_work { &["w0"] } else { &[] };
            assert_eq!(beside_many(&[work]), expected, "case {nth}");
        }
        let late: Work = |second| (second > 5).then(|| answer(1_900, 60));
        let polls: Work = |_| Some(answer(1_000, 60));
        assert_eq!(beside_many(&[late, polls]), ["w0"]);
    }
}
