//! Leaves out what is of processes that live elsewhere than filters ask for.
//!
//! The programs know cgroups by their ids. Of those that there are they are told here whether they are wanted; what a
//! process of another one does passes them, and is decided here.

use std::{
    collections::{HashMap, VecDeque},
    mem,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use netdiag_common::{flow::FlowId, globals::Filters};

use crate::{
    config::Owners,
    flow::table::FlowTable,
    node::{
        pace::Pace,
        places::{Places, learn_names},
    },
    owner::{Names, Place},
    signal::{
        Event,
        socket::{self, What},
    },
};

/// Names are looked for so rarely at most while some are missing.
const LEARNT_EVERY: Duration = Duration::from_millis(200);

/// Cgroups that are gone are looked for so rarely at most.
const SWEPT_EVERY: Duration = Duration::from_secs(10);

/// Cgroups without a verdict that are remembered. Those beyond stay undecided in the programs, and are decided here.
const MOST_NAMELESS: usize = 1 << 14;

/// Sockets without a verdict that are remembered. Those beyond stay left out until their user is met again.
const MOST_HELD: usize = 1 << 14;

/// What the filters by owner say, where the programs do not know.
pub(super) struct Sieve {
    filters: Filters,
    owners: Owners,
    host_root: PathBuf,
    names: Names,
    pace: Pace,
    swept: Pace,
    /// Cgroups whose pods' names are not known yet, the oldest first.
    nameless: VecDeque<(u64, Arc<Place>)>,
    /// Cgroups that the programs were told of.
    told: HashMap<u64, Arc<Place>>,
    /// What introduced sockets that are left out until the names of their users' pods are known.
    held: HashMap<FlowId, socket::Event>,
    /// Some found no room there, and whether that was said.
    lacks_room: bool,
    said: bool,
}

/// What the programs are to know of cgroups, by their ids.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Verdicts {
    /// Whether processes in them are wanted.
    pub(super) new: Vec<(u64, bool)>,
    /// Those that are gone.
    pub(super) gone: Vec<u64>,
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
            swept: Pace::default(),
            nameless: VecDeque::new(),
            told: HashMap::new(),
            held: HashMap::new(),
            lacks_room: false,
            said: false,
        })
    }

    /// Of cgroups that became known, and of those whose names did, whether they are wanted.
    pub(super) fn verdicts(&mut self, places: &mut Places) -> Verdicts {
        if self.filters.by_cgroup == 0 {
            return Verdicts::default();
        }
        let gone = self.sweep(|id, place| places.is_there(id, place));
        let new = self.decide(places.take_new());
        Verdicts { new, gone }
    }

    /// Decides on cgroups, as far as names are known; on the rest later.
    fn decide(&mut self, open: Vec<(u64, Arc<Place>)>) -> Vec<(u64, bool)> {
        if !(open.is_empty() && self.nameless.is_empty() && self.held.is_empty()) {
            self.learn_names();
        }
        let mut verdicts = Vec::new();
        for (id, place) in mem::take(&mut self.nameless).into_iter().chain(open) {
            match self.owners.accepts(&place, self.names.pod(&place)) {
                Some(is_wanted) => {
                    verdicts.push((id, is_wanted));
                    self.told.insert(id, place);
                }
                None => self.nameless.push_back((id, place)),
            }
        }
        let too_many = self.nameless.len().saturating_sub(MOST_NAMELESS);
        self.nameless.drain(..too_many);
        verdicts
    }

    /// Forgets cgroups that are gone. Returns those that the programs were told of.
    fn sweep(&mut self, is_there: impl Fn(u64, &Place) -> bool) -> Vec<u64> {
        let Self { swept, nameless, told, .. } = self;
        if !swept.is_due() {
            return Vec::new();
        }
        swept.run(SWEPT_EVERY, || {
            nameless.retain(|(id, place)| is_there(*id, place));
            told.extract_if(|id, place| !is_there(*id, place)).map(|(id, _)| id).collect()
        })
    }

    /// Sockets whose users' pods have names now have a verdict: those that are wanted count from here on.
    pub(super) fn readmit(&mut self, table: &mut FlowTable, now_ns: u64) {
        let Self { owners, names, held, .. } = self;
        held.retain(|_, event| {
            let place = event.place.as_deref();
            let answer = place.map_or(Some(false), |it| owners.accepts(it, names.pod(it)));
            if answer == Some(true) {
                table.readmit(event, now_ns);
            }
            answer.is_none()
        });
    }

    /// What is left out for want of room, once.
    pub(super) fn take_problem(&mut self) -> Option<String> {
        (self.lacks_room && !mem::replace(&mut self.said, true)).then(|| {
            format!(
                "more than {MOST_HELD} sockets are of pods whose names are not known: some stay left out when their \
                 pod turns out to be wanted"
            )
        })
    }

    /// Whether a process passes that is known by its id, its name and its place; what is unknown does not.
    pub(super) fn wants(
        &mut self,
        pid: Option<u32>,
        comm: Option<&str>,
        place: Option<&Place>,
    ) -> bool {
        self.answer(pid, comm, place) == Some(true)
    }

    /// The same; none where it depends on names of a pod that are not known.
    fn answer(
        &mut self,
        pid: Option<u32>,
        comm: Option<&str>,
        place: Option<&Place>,
    ) -> Option<bool> {
        let name = comm.unwrap_or_default().as_bytes();
        if !self.filters.accept_process(pid.unwrap_or(0), name) {
            return Some(false);
        }
        if self.filters.by_cgroup == 0 {
            return Some(true);
        }
        place.map_or(Some(false), |place| self.judge(place))
    }

    /// Whether it matters where processes live.
    pub(super) fn asks_for_place(&self) -> bool {
        self.filters.by_cgroup != 0
    }

    /// Whether an event is of a process that is wanted, as far as it tells of one; from then on, and until it tells of
    /// another one, what the same socket does counts or does not.
    pub(super) fn passes(&mut self, event: &Event, table: &mut FlowTable) -> bool {
        match event {
            Event::Socket(event) => {
                let flow = event.socket.flow;
                if event.what == What::Close {
                    self.held.remove(&flow);
                }
                if event.tid.is_none() {
                    return true;
                }
                let answer = self.answer(event.pid, event.comm.as_deref(), event.place.as_deref());
                let is_wanted = answer == Some(true);
                if event.what == What::Close && !is_wanted {
                    table.close_left_out(flow);
                    return false;
                }
                table.admit(flow, is_wanted);
                if answer.is_none() {
                    self.hold(event);
                } else {
                    self.held.remove(&flow);
                }
                is_wanted
            }
            Event::Conntrack(event) => {
                let place = event.creator.as_ref().and_then(|creator| creator.place.as_deref());
                !self.asks_for_place() || place.is_some_and(|it| self.judge(it) == Some(true))
            }
            _ => true,
        }
    }

    /// Keeps what introduced a socket: what the same process does later says no more of it.
    fn hold(&mut self, event: &socket::Event) {
        let flow = event.socket.flow;
        let known = self.held.get(&flow).map(|known| known.pid);
        if known == Some(event.pid) || flow == 0 {
            return;
        }
        if known.is_none() && self.held.len() >= MOST_HELD {
            self.lacks_room = true;
            return;
        }
        self.held.insert(flow, event.clone());
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

#[cfg(test)]
mod tests;
