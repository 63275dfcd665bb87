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
//! has too few answers for that, or answers before the timer ends, as polls with something to tell do. One that always has
//! something to tell, or much, looks like work by that: so what is left beside polls is no alarm unless it takes longer
//! than they do.

use std::cmp::Ordering;

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

/// What answers are looked at by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look<'a> {
    /// The window that they are in.
    pub(super) watched: &'a Watched,
    /// The thresholds as they were given.
    pub(super) limits: &'a Limits,
    /// Which answers.
    pub(super) answers: Answers,
    /// How many of them say something.
    pub(super) least: u64,
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
    fn of(look: &Look<'_>, group: &Group<'_>) -> Option<Self> {
        let (Look { limits, answers, least, .. }, sums) = (*look, &group.sums);
        let half = sums.quantile(answers.metric, 0.5, least)?;
        let slow = sums.quantile(answers.metric, 0.9, least)?;
        let beyond = slow.saturating_sub(half) as f64 / half.max(1) as f64;
        let open = open(look, group);
        let rests = open.is_some_and(|open| open < limits.of(&OPEN));
        if beyond > limits.of(&TIMER) || rests {
            return None;
        }
        let bytes = mean_bytes(sums, &answers);
        let is_empty = bytes.is_some_and(|bytes| bytes < limits.of(&EMPTY));
        let is_poll = open.is_some() && is_empty;
        Some(Self { ns: half, is_poll, beyond, open, bytes })
    }

    /// Whether a connection goes with all of those that poll together, which by itself is none: nothing says that it
    /// works. Its answers may come before the timer ends. With enough of them one has to come as it does.
    fn holds(&self, look: &Look<'_>, flow: &Seen) -> bool {
        /// Its slowest answers beyond that may be an accident.
        const MOST: f64 = 0.8;
        /// Answers from which on they tell how long a request is open: where the first of n came early, no more of the
        /// time than (n - 1) / n is seen, although one always was.
        const TELLING: u64 = 4;
        let (Look { limits, answers, least, .. }, sums) = (*look, &flow.sums);
        let (Some(most), Some(slowest)) =
            (sums.quantile(answers.metric, MOST, 1), sums.quantile(answers.metric, 1.0, 1))
        else {
            return true;
        };
        let count = sums.samples(answers.metric);
        let is_at_it = count < least || self.compared(limits, slowest).is_ge();
        let open = open(look, &Group::of(vec![flow])).filter(|_| count >= TELLING);
        self.compared(limits, most).is_le()
            && is_at_it
            && open.is_none_or(|open| open >= limits.of(&OPEN))
            && mean_bytes(sums, &answers).is_none_or(|bytes| bytes < limits.of(&EMPTY))
    }

    /// Whether an answer that takes so long comes before the timer ends, then, or later.
    fn compared(&self, limits: &Limits, ns: u64) -> Ordering {
        let [early, late] = [-1.0, 1.0].map(|by| self.ns as f64 * (1.0 + by * limits.of(&TIMER)));
        match ns as f64 {
            ns if ns < early => Ordering::Less,
            ns if ns > late => Ordering::Greater,
            _ => Ordering::Equal,
        }
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
    timer: Option<Timer>,
    /// The timer of polls beside them, in nanoseconds, where they come before it ends.
    before_ns: Option<u64>,
}

impl Held {
    /// Of flows with enough answers together, of which the quickest tenth takes that long where they are held back, and
    /// of what stands for polls beside them. None of flows with fewer.
    pub(super) fn of(
        look: &Look<'_>,
        group: &Group<'_>,
        long: &Threshold,
        before_ns: Option<u64>,
    ) -> Option<Self> {
        let quickest = group.sums.quantile(look.answers.metric, 0.1, look.least)?;
        let is_long = quickest as f64 >= look.limits.of(long);
        let timer = Timer::of(look, group).filter(|_| !is_long);
        Some(Self { is_long, timer, before_ns })
    }

    /// The timer of a poll.
    pub(super) fn poll(&self) -> Option<Timer> {
        self.timer.filter(|timer| timer.is_poll)
    }

    /// Whether it is so, by all that is seen.
    pub(super) fn is_likely(&self) -> bool {
        self.is_long || self.poll().is_some()
    }

    /// Whether anything speaks for it.
    pub(super) fn is_possible(&self) -> bool {
        self.is_long || self.timer.is_some() || self.before_ns.is_some()
    }

    /// Adds to a finding what is known of the timer.
    pub(super) fn told(&self, finding: Finding, watched: &Watched, limits: &Limits) -> Finding {
        match (self.timer, self.before_ns) {
            (Some(timer), _) => timer.told(finding, watched, limits),
            (None, Some(ns)) => finding.no_surer_than(0.6).not_seeing(format!(
                "whether these are long polls, too, with something to tell: others at that port are answered as by a \
                 timer of {}, and these before it ends",
                format::duration(ns)
            )),
            (None, None) => finding,
        }
    }
}

/// What is found in those flows of a group that work, or else in those that poll. Nothing where there are too few
/// answers, or the slowest tenth of all of them takes less than that.
///
/// Where all of them together poll, those that seem to work may poll as well, and only have more to tell. Where these are
/// answered when the timer ends, they are told with all the others. Where they are answered before, `of_some` is given
/// that timer, in nanoseconds.
pub(super) fn of_each<'a>(
    look: &Look<'_>,
    group: &Group<'a>,
    slow: &Threshold,
    of_some: impl Fn(&Group<'a>, Option<u64>) -> Option<Finding>,
) -> Option<Finding> {
    let Look { limits, answers, least, .. } = *look;
    if (group.sums.quantile(answers.metric, 0.9, least)? as f64) < limits.of(slow) {
        return None;
    }
    let (polls, rest, all) = apart(look, group);
    let Some(all) = all else {
        let of_rest = rest.and_then(|rest| of_some(&rest, None));
        return of_rest.or_else(|| of_some(&polls?, None));
    };
    let of_rest = rest.and_then(|rest| {
        let slowest = rest.sums.quantile(answers.metric, 0.9, least)?;
        match all.compared(limits, slowest) {
            Ordering::Less => of_some(&rest, Some(all.ns)),
            Ordering::Equal => None,
            Ordering::Greater => of_some(&rest, None),
        }
    });
    // By themselves those that are no rest need not look like polls any more.
    of_rest.or_else(|| of_some(group, None))
}

/// Part of the time from the first answer to the last in which connections have a request open.
fn open(look: &Look<'_>, group: &Group<'_>) -> Option<f64> {
    /// Intervals from the first to the last, of all connections together: when in an interval an answer comes is
    /// not known.
    const LEAST: f64 = 4.0;
    let Look { watched, answers, .. } = *look;
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
pub(super) fn is_poll(look: &Look<'_>, flow: &Seen) -> bool {
    let timer = Timer::of(look, &Group::of(vec![flow]));
    timer.is_some_and(|timer| timer.is_poll)
}

/// Those that poll, and the others: a queue's clients do, and share its port with those that work. And the timer of all
/// of them, where together they poll.
fn apart<'a>(
    look: &Look<'_>,
    group: &Group<'a>,
) -> (Option<Group<'a>>, Option<Group<'a>>, Option<Timer>) {
    let all = Timer::of(look, group).filter(|timer| timer.is_poll);
    let polls =
        |flow: &Seen| is_poll(look, flow) || all.is_some_and(|timer| timer.holds(look, flow));
    (group.only(polls), group.only(|flow| !polls(flow)), all)
}

#[cfg(test)]
mod tests;
