//! Keeping the cost down: a look a second at what is used, and signals left out where that is too much.

use std::{
    mem,
    time::{Duration, SystemTime},
};

use netdiag_common::signal::Signal;
use tokio::time::Instant;

use super::Observer;
use crate::{
    format::percent,
    kernel::tracer::Tracer,
    run::{
        budget::{Budget, Look, Step},
        usage::{Measuring, Used},
        voice::{Few, say},
    },
    signal::{DEFINITIONS, shedding},
    snapshot::{Own, SignalStatus, Status},
};

/// Between two looks: an interval, since much of the cost comes when one ends, within these bounds.
const LOOKS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(10)];
/// By how much a look may come early: it is not asked for more often than once a second.
const EARLY: Duration = Duration::from_millis(100);
/// Between two steps for samples that come faster than they are read: a step takes effect at once.
const STEP: Duration = Duration::from_millis(200);
/// What is said in place of more steps.
const MORE: &str = "what is left out changes often, and is told here every ten minutes at most from now on: the signals in \
                    the outputs always tell";

const UNCOUNTED: &str =
    "what the programs saw cannot be read at present, so what is left out stays as it is";
const UNSHED: &str =
    "the programs cannot be told at present what to leave out, so they go on as before";

/// What is used, and what is done about it.
pub(super) struct Spending {
    budget: Budget,
    /// What the programs were told to leave out.
    told_set: u32,
    /// The signals of which they left out any in the interval.
    left_out: u32,
    /// Between two looks.
    every: Duration,
    /// None where there are no descriptors to do it by.
    measuring: Option<Measuring>,
    /// What was used when the run began, when the last interval ended, and at the last look.
    began: Used,
    cut: Option<Used>,
    looked: (Instant, Used),
    /// What the programs took of one core when they were measured last.
    programs: f64,
    /// What the programs had counted at the last look: seen by signal, and lost for want of room.
    counted: ([u64; Signal::COUNT], u64),
    is_behind: bool,
    /// Something was lost for want of room before the last look: once may have been while this process stood still.
    has_lost: bool,
    steps: Few,
    /// It was said that programs cannot be measured.
    is_unmeasured: bool,
}

impl Spending {
    /// Begins to look at it; `limit` is a part of one core, `interval` the time between two outputs.
    pub(super) fn new(tracer: &Tracer, limit: Option<f64>, interval: Duration) -> Self {
        let is_on = |signal: &Signal| tracer.signals()[*signal as usize].status != Status::Off;
        let order: Vec<_> = shedding().into_iter().filter(is_on).collect();
        let now = Used::now(0);
        Self {
            budget: Budget::new(limit, order.into_iter()),
            told_set: 0,
            left_out: 0,
            every: interval.clamp(LOOKS[0], LOOKS[1]),
            measuring: tracer.meter().ok().map(|meter| Measuring::start(meter, limit.is_some())),
            began: now,
            cut: None,
            looked: (Instant::now(), now),
            programs: 0.0,
            counted: ([0; Signal::COUNT], 0),
            is_behind: false,
            has_lost: false,
            steps: Few::new(MORE),
            is_unmeasured: false,
        }
    }

    /// Lets go of the programs.
    pub(super) fn release(&self) {
        self.measuring.iter().for_each(Measuring::release);
    }

    /// Other programs are attached.
    pub(super) fn changed(&self, tracer: &Tracer) {
        if let (Some(measuring), Ok(meter)) = (&self.measuring, tracer.meter()) {
            measuring.of(meter);
        }
    }

    /// Says in how the signals are observed that samples of some were left out, and of which in the interval that ends.
    pub(super) fn amend(&mut self, statuses: Vec<SignalStatus>) -> Vec<SignalStatus> {
        let left_out = mem::replace(&mut self.left_out, self.told_set);
        self.amended(statuses, left_out)
    }

    /// The same of the whole run.
    pub(super) fn amend_all(&self, statuses: Vec<SignalStatus>) -> Vec<SignalStatus> {
        self.amended(statuses, u32::MAX)
    }

    fn amended(&self, mut statuses: Vec<SignalStatus>, left_out: u32) -> Vec<SignalStatus> {
        for (status, &signal) in statuses.iter_mut().zip(Signal::ALL) {
            if self.budget.ever_shed(signal) {
                status.shed = left_out & signal.bit() != 0;
                say_left_out(status, signal);
            }
        }
        statuses
    }

    /// Samples came faster than they were read.
    pub(super) const fn fall_behind(&mut self) {
        self.is_behind = true;
    }

    /// What was used in the interval that ends, and the next one begins.
    pub(super) fn interval(&mut self, received: u64, times: Times) -> Own {
        let now = Used::now(received);
        let then = self.cut.replace(now).unwrap_or(self.began);
        self.own(&now, &then, times)
    }

    /// What was used in the whole run: what its intervals add up to, where it has any.
    pub(super) fn total(&self, received: u64, times: Times) -> Own {
        let now = self.cut.unwrap_or_else(|| Used::now(received));
        self.own(&now, &self.began, times)
    }

    fn own(&self, now: &Used, then: &Used, times: Times) -> Own {
        let (budget, measuring) = (&self.budget, self.measuring.as_ref());
        now.since(then, times, measuring, budget.limit(), budget.shed())
    }
}

/// Says how a signal is observed of which samples were left out.
fn say_left_out(status: &mut SignalStatus, signal: Signal) {
    status.lacks("samples that were left out to keep the cost down (shed)".to_owned());
    if let Some(unseen) = unseen(signal) {
        status.lacks(format!("{unseen} (while samples were left out)"));
    }
}

/// What is not seen beside the samples of a signal that are left out.
fn unseen(signal: Signal) -> Option<&'static str> {
    DEFINITIONS[signal as usize].shed?.unseen
}

/// Beginning and end.
type Times = (SystemTime, SystemTime);

impl Observer {
    /// Looks at what is used since the last look, where it is time for that, and does what must be.
    pub(super) fn keep_cost_down(&mut self) {
        if self.spending.is_due() {
            self.look();
        }
    }

    /// The start is over, and what it took says nothing of what comes.
    pub(super) fn begin_to_look(&mut self) {
        let Self { tracer, intake, spending, .. } = self;
        // Else the first look has the start in it.
        if let Ok(counted) = tracer.seen_and_lost(&shedding()) {
            spending.counted = counted;
            spending.looked = (Instant::now(), Used::now(intake.received()));
        }
    }

    fn look(&mut self) {
        let Self { tracer, intake, spending, trouble, .. } = self;
        let counted = tracer.seen_and_lost(&shedding());
        let Some(counted) = trouble.past(UNCOUNTED, counted) else { return };
        let (now, used) = (Instant::now(), Used::now(intake.received()));
        let (then, before) = mem::replace(&mut spending.looked, (now, used));
        let elapsed = now.duration_since(then);
        let (seen, lost) = mem::replace(&mut spending.counted, counted);
        let mut rates = [0.0; Signal::COUNT];
        for (rate, (now, before)) in rates.iter_mut().zip(counted.0.iter().zip(seen)) {
            *rate = now.saturating_sub(before) as f64 / elapsed.as_secs_f64().max(1e-9);
        }
        let loses = counted.1 > lost;
        let goes_on_losing = mem::replace(&mut spending.has_lost, loses) && loses;
        spending.say_unmeasured();
        // Until they are measured anew nothing newer is known.
        if !spending.awaits_window() {
            let programs = spending.measuring.as_ref().and_then(Measuring::cpu_ratio);
            spending.programs = programs.unwrap_or(0.0);
        }
        let look = Look {
            cpu_ratio: used.cpu_ratio_since(&before, elapsed) + spending.programs,
            rates,
            is_behind: mem::take(&mut spending.is_behind) || goes_on_losing,
        };
        let step = spending.budget.look(&look);
        let set = spending.budget.set();
        if set != spending.told_set && trouble.past(UNSHED, tracer.shed(set)).is_some() {
            spending.told_set = set;
            spending.left_out |= set;
            if spending.budget.limit().is_some() {
                spending.measuring.iter().for_each(Measuring::begin_anew);
            }
        }
        let line = step.map(|step| spending.line(step, &look));
        spending.steps.say_latest(line);
    }
}

impl Spending {
    /// Where samples come faster than they are read that does not wait. A limit does until it is known what the programs
    /// take since the last step: as long as they seem to take what they did before, one signal would go after the other.
    fn is_due(&self) -> bool {
        let since = self.looked.0.elapsed();
        since + EARLY >= self.every && !self.awaits_window() || self.is_behind && since >= STEP
    }

    /// Whether there is a limit, and what the programs take since the last step is not measured yet.
    fn awaits_window(&self) -> bool {
        self.budget.limit().is_some()
            && self.measuring.as_ref().is_some_and(Measuring::awaits_window)
    }

    /// Says once that a limit is held by half of what it is for.
    fn say_unmeasured(&mut self) {
        let refusal = match &self.measuring {
            _ if self.is_unmeasured || self.budget.limit().is_none() => None,
            Some(measuring) => measuring.refusal(),
            None => Some("no descriptors are left".to_owned()),
        };
        if let Some(why) = refusal {
            self.is_unmeasured = true;
            say(&format!(
                "what the programs take cannot be measured ({why}), so --max-cpu bounds this process alone; it takes \
                 CAP_SYS_ADMIN and Linux 5.8"
            ));
        }
    }

    /// What is said of a step; of one that may wait until it is said, where it leads.
    fn line(&self, step: Step, look: &Look) -> String {
        if self.steps.is_full() {
            return state(self.budget.shed());
        }
        let used = percent(look.cpu_ratio);
        let allowed = self.budget.limit().map_or_else(|| "any".to_owned(), percent);
        let beside = |signal| {
            let unseen = unseen(signal).map(|unseen| format!("; nor is it seen {unseen}"));
            unseen.unwrap_or_default()
        };
        match step {
            Step::Shed(signal) if look.is_behind => format!(
                "samples come faster than they can be read: from now on those of {} are left out and counted as shed, \
                 until fewer come{}; narrow by filters, or name the --signals that you need",
                signal.name(),
                beside(signal)
            ),
            Step::Shed(signal) => format!(
                "netdiag takes {used} of a core, --max-cpu allows {allowed}: from now on samples of {} are left out and \
                 counted as shed, until there is room{}",
                signal.name(),
                beside(signal)
            ),
            Step::Restore(signal) => {
                format!("samples of {} count again: there is room for them", signal.name())
            }
            Step::Exhausted => format!(
                "netdiag takes {used} of a core with all left out that may be, --max-cpu allows {allowed}: raise it, \
                 lengthen --interval, or narrow by filters and --signals"
            ),
        }
    }
}

/// What it has come to.
fn state(shed: impl Iterator<Item = Signal>) -> String {
    let names: Vec<_> = shed.map(Signal::name).collect();
    if names.is_empty() {
        return "no samples are left out to keep the cost down at present".to_owned();
    }
    format!(
        "samples of {} are left out at present, and counted as shed, to keep the cost down",
        names.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_named() {
        let told = state([Signal::Send, Signal::Rtt].into_iter());
        assert!(told.starts_with("samples of send, rtt are left out at present"), "{told}");
        assert!(state([].into_iter()).starts_with("no samples"));
    }

    #[test]
    fn what_is_not_seen_beside_samples_that_are_left_out_is_said() {
        for signal in shedding() {
            let mut status = SignalStatus {
                signal: signal.name().to_owned(),
                status: Status::Full,
                source: None,
                refused: Vec::new(),
                missing: Vec::new(),
                runs_per: None,
                unseen_counts: Vec::new(),
                shed: true,
            };
            say_left_out(&mut status, signal);
            assert_eq!(status.status, Status::Degraded);
            assert_eq!(status.missing.len(), 1 + usize::from(unseen(signal).is_some()));
        }
        assert!(unseen(Signal::Send).is_some_and(|unseen| unseen.contains("owner")));
    }
}
