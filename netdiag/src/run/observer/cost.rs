//! Keeping the cost down: a look a second at what is used, and signals left out where that is too much.

use std::time::Duration;

use anyhow::Result;
use netdiag_common::signal::Signal;
use tokio::time::Instant;

use super::Observer;
use crate::{
    format::percent,
    kernel::tracer::Tracer,
    run::{
        budget::{Budget, Look, Step},
        usage::{Measuring, Used},
        voice::say,
    },
    signal::shedding,
    snapshot::{Own, SignalStatus, Status},
};

/// Between two steps for samples that come faster than they are read: a step takes effect at once.
const STEP: Duration = Duration::from_millis(200);
/// Steps that are told in a run.
const TOLD: u32 = 20;

/// What is used, and what is done about it.
pub(super) struct Spending {
    budget: Budget,
    /// None where there are no descriptors to do it by.
    measuring: Option<Measuring>,
    /// What was used when the run and the interval began, and at the last look.
    began: Used,
    interval_began: Used,
    looked: (Instant, Used),
    /// What the programs had counted at the last look: seen by signal, and lost for want of room.
    counted: ([u64; Signal::COUNT], u64),
    rates: [f64; Signal::COUNT],
    is_behind: bool,
    told: u32,
}

impl Spending {
    /// Begins to look at it; `limit` is a part of one core.
    pub(super) fn new(tracer: &Tracer, limit: Option<f64>) -> Self {
        let is_on = |signal: &Signal| tracer.signals()[*signal as usize].status != Status::Off;
        let order: Vec<_> = shedding().into_iter().filter(is_on).collect();
        let now = Used::now(0);
        Self {
            budget: Budget::new(limit, order.into_iter()),
            measuring: tracer.meter().ok().map(|meter| Measuring::start(meter, limit.is_some())),
            began: now,
            interval_began: now,
            looked: (Instant::now(), now),
            counted: ([0; Signal::COUNT], 0),
            rates: [0.0; Signal::COUNT],
            is_behind: false,
            told: 0,
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

    /// Says in how the signals are observed that samples of some were left out.
    pub(super) fn amend(&self, mut statuses: Vec<SignalStatus>) -> Vec<SignalStatus> {
        for (status, &signal) in statuses.iter_mut().zip(Signal::ALL) {
            if self.budget.ever_shed(signal) {
                status.status = Status::Degraded;
                status
                    .missing
                    .push("samples that were left out to keep the cost down (shed)".to_owned());
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
        let own = self.own(&now, &self.interval_began, times);
        self.interval_began = now;
        own
    }

    /// What was used in the whole run.
    pub(super) fn total(&self, received: u64, times: Times) -> Own {
        self.own(&Used::now(received), &self.began, times)
    }

    fn own(&self, now: &Used, then: &Used, times: Times) -> Own {
        let (budget, measuring) = (&self.budget, self.measuring.as_ref());
        now.since(then, times, measuring, budget.limit(), budget.shed())
    }
}

/// Beginning and end.
type Times = (std::time::SystemTime, std::time::SystemTime);

impl Observer {
    /// Looks at what is used since the last look, about a second ago, and does what must be.
    pub(super) fn keep_cost_down(&mut self) -> Result<()> {
        let Self { tracer, intake, spending, .. } = self;
        let (now, used) = (Instant::now(), Used::now(intake.received()));
        let (then, before) = std::mem::replace(&mut spending.looked, (now, used));
        let elapsed = now.duration_since(then);
        let counted = tracer.seen_and_lost(&shedding())?;
        let (seen, lost) = std::mem::replace(&mut spending.counted, counted);
        for (rate, (now, before)) in spending.rates.iter_mut().zip(counted.0.iter().zip(seen)) {
            *rate = now.saturating_sub(before) as f64 / elapsed.as_secs_f64().max(1e-9);
        }
        let programs = spending.measuring.as_ref().and_then(Measuring::cpu_ratio);
        let look = Look {
            cpu_ratio: used.cpu_ratio_since(&before, elapsed) + programs.unwrap_or(0.0),
            rates: spending.rates,
            is_behind: std::mem::take(&mut spending.is_behind) || counted.1 > lost,
        };
        self.step(&look)
    }

    /// Where samples come faster than they are read, this does not wait for the next look.
    pub(super) fn catch_up(&mut self) -> Result<()> {
        let is_due = self.spending.is_behind && self.spending.looked.0.elapsed() >= STEP;
        if is_due { self.keep_cost_down() } else { Ok(()) }
    }

    fn step(&mut self, look: &Look) -> Result<()> {
        let Self { tracer, spending, .. } = self;
        let Some(step) = spending.budget.look(look) else { return Ok(()) };
        tracer.shed(spending.budget.set())?;
        spending.told += 1;
        if spending.told > TOLD {
            return Ok(());
        }
        let (used, limit) = (percent(look.cpu_ratio), spending.budget.limit().map(percent));
        let allowed = limit.unwrap_or_else(|| "any".to_owned());
        say(&match step {
            Step::Shed(signal) if look.is_behind => format!(
                "samples come faster than they can be read: from now on those of {} are left out and counted as shed, \
                 until fewer come; narrow by filters, or name the --signals that you need",
                signal.name()
            ),
            Step::Shed(signal) => format!(
                "netdiag takes {used} of a core, --max-cpu allows {allowed}: from now on samples of {} are left out and \
                 counted as shed, until there is room",
                signal.name()
            ),
            Step::Restore(signal) => {
                format!("samples of {} count again: there is room for them", signal.name())
            }
            Step::Exhausted => format!(
                "netdiag takes {used} of a core with all left out that may be, --max-cpu allows {allowed}: raise it, \
                 lengthen --interval, or narrow by filters and --signals"
            ),
        });
        Ok(())
    }
}
