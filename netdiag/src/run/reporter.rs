//! From the flow table to the outputs, once per interval and once for the whole run.

use std::{collections::BTreeMap, time::SystemTime};

use anyhow::Result;

use super::{intake::Intake, node::Readings, output::Outputs};
use crate::{
    flow::Interval,
    snapshot::{
        Account, Node, SignalStatus, Snapshot,
        build::{Frame, Listing, Scope},
    },
};

/// What every snapshot of a run says of its circumstances.
pub(super) struct About {
    pub(super) node: String,
    pub(super) kernel: String,
    pub(super) signals: Vec<SignalStatus>,
    pub(super) filtered: bool,
}

/// Puts out what was taken in.
pub(super) struct Reporter {
    pub(super) intake: Intake,
    pub(super) outputs: Outputs,
    pub(super) readings: Readings,
    about: About,
    listing: Listing,
    began: SystemTime,
    interval_began: SystemTime,
}

type Accounting = BTreeMap<String, Account>;

impl Reporter {
    pub(super) fn new(
        about: About,
        listing: Listing,
        intake: Intake,
        outputs: Outputs,
        readings: Readings,
    ) -> Self {
        let now = SystemTime::now();
        Self { intake, outputs, readings, about, listing, began: now, interval_began: now }
    }

    /// Puts out an interval that ends now.
    pub(super) async fn interval(
        &mut self,
        mut interval: Interval,
        accounting: Accounting,
    ) -> Result<()> {
        let end = SystemTime::now();
        let start = std::mem::replace(&mut self.interval_began, end);
        self.intake.forget_names();
        let node = self.readings.advance().await?;
        self.listing.arrange(&mut interval);
        let frame = self.frame(Scope::Interval, (start, end), node, accounting);
        let snapshot = frame.build(&interval);
        self.outputs.interval(snapshot, interval).await
    }

    /// Puts out the sum of all intervals, which it returns.
    pub(super) async fn total(self, accounting: Accounting) -> Result<Snapshot> {
        let mut total = self.intake.table.total();
        Listing { top: None, all: true, ..self.listing }.arrange(&mut total);
        let times = (self.began, self.interval_began);
        let frame = self.frame(Scope::Total, times, self.readings.total(), accounting);
        let snapshot = frame.build(&total);
        self.outputs.total(&snapshot).await?;
        Ok(snapshot)
    }

    fn frame(
        &self,
        scope: Scope,
        (start, end): (SystemTime, SystemTime),
        node: Node,
        accounting: Accounting,
    ) -> Frame<'_> {
        Frame {
            scope,
            start,
            end,
            host: &self.about.node,
            kernel: &self.about.kernel,
            signals: &self.about.signals,
            filtered: self.about.filtered,
            node,
            accounting,
            stream: self.intake.stream,
        }
    }
}
