//! Leaves out what is of processes that live elsewhere than filters ask for.
//!
//! The programs know cgroups by their ids. Of those that there are they are told here whether they are wanted; what a
//! process of another one does passes them, and is decided here.

use std::{
    mem,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use netdiag_common::globals::Filters;

use crate::{
    config::Owners,
    flow::table::FlowTable,
    node::{
        pace::Pace,
        places::{Places, learn_names},
    },
    owner::{Names, Place},
    signal::Event,
};

/// Names are looked for so rarely at most while some are missing.
const LEARNT_EVERY: Duration = Duration::from_millis(200);

/// What the filters by owner say, where the programs do not know.
pub(super) struct Sieve {
    filters: Filters,
    owners: Owners,
    host_root: PathBuf,
    names: Names,
    pace: Pace,
    /// Cgroups of pods owners names are not known yet.
    nameless: Vec<(u64, Arc<Place>)>,
}

impl Sieve {
    /// None where filters do not ask for owners in a way that the programs might not know.
    pub(super) fn new(filters: &Filters, owners: &Owners, host_root: &Path) -> Option<Self> {
        if filters.comm.len + filters.by_cgroup == 0 {
            return None;
        }
        Some(Self {
            filters: *filters,
            owners: owners.clone(),
            host_root: host_root.to_owned(),
            names: Names::default(),
            pace: Pace::default(),
            nameless: Vec::new(),
        })
    }

    /// Of cgroups that became known, and of those owners names did, whether they are wanted.
    pub(super) fn verdicts(&mut self, places: &mut Places) -> Vec<(u64, bool)> {
        if self.filters.by_cgroup == 0 {
            return Vec::new();
        }
        let mut open = places.take_new();
        if !open.is_empty() || !self.nameless.is_empty() {
            self.learn_names();
        }
        open.append(&mut mem::take(&mut self.nameless));
        let mut verdicts = Vec::new();
        for (id, place) in open {
            match self.owners.accepts(&place, self.names.pod(&place)) {
                Some(is_wanted) => verdicts.push((id, is_wanted)),
                None => self.nameless.push((id, place)),
            }
        }
        verdicts
    }

    /// Whether a process passes that is known by its id, its name and its place; what is unknown does not.
    pub(super) fn wants(
        &mut self,
        pid: Option<u32>,
        comm: Option<&str>,
        place: Option<&Place>,
    ) -> bool {
        self.filters.accept_process(pid.unwrap_or(0), comm.unwrap_or_default().as_bytes())
            && (self.filters.by_cgroup == 0
                || place.is_some_and(|place| self.judge(place) == Some(true)))
    }

    /// Whether it matters where processes live.
    pub(super) fn asks_for_place(&self) -> bool {
        self.filters.by_cgroup != 0
    }

    /// Whether an event is of a process that is wanted, as far as it tells of one; from then on, and until it tells of
    /// another one, what the same socket does counts or does not.
    pub(super) fn passes(&mut self, event: &Event, table: &mut FlowTable) -> bool {
        match event {
            Event::Socket(event) if event.tid.is_some() => {
                let is_wanted =
                    self.wants(event.pid, event.comm.as_deref(), event.place.as_deref());
                table.admit(event.socket.flow, is_wanted);
                is_wanted
            }
            // The programs knew, unless its cgroup is a new one.
            Event::Conntrack(event) => {
                let place = event.creator.as_ref().and_then(|creator| creator.place.as_deref());
                !self.asks_for_place() || place.is_none_or(|it| self.judge(it) != Some(false))
            }
            _ => true,
        }
    }

    /// Whether processes at a place are wanted, as far as is known.
    pub(super) fn judge(&mut self, place: &Place) -> Option<bool> {
        let known = self.owners.accepts(place, self.names.pod(place));
        if known.is_some() || !self.learn_names() {
            return known;
        }
        self.owners.accepts(place, self.names.pod(place))
    }

    /// Whether it looked for more.
    fn learn_names(&mut self) -> bool {
        if !self.owners.asks_for_names() || !self.pace.is_due() {
            return false;
        }
        let Self { pace, host_root, names, .. } = self;
        pace.run(LEARNT_EVERY, || learn_names(host_root, names));
        true
    }
}
