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

use netdiag_common::{
    flow::{FlowId, FlowKey},
    globals::Filters,
};

use super::intake::seed;
use crate::{
    config::Owners,
    flow::table::FlowTable,
    node::{
        SeededSocket,
        beside::{Beside, PATIENCE},
        pace::Pace,
        places::{Places, list_names},
    },
    owner::{LogFiles, Names, Place},
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
    listing: Beside<LogFiles>,
    swept: Pace,
    /// Cgroups whose pods' names are not known yet, the oldest first.
    nameless: VecDeque<(u64, Arc<Place>)>,
    /// Cgroups that the programs were told of.
    told: HashMap<u64, Arc<Place>>,
    /// What introduced sockets that are left out until the names of their users' pods are known.
    held: HashMap<FlowId, socket::Event>,
    /// Sockets from before the start that are left out until then, or until they are used.
    older: HashMap<FlowKey, SeededSocket>,
    /// Some found no room there.
    lacks_room: bool,
    said: Said,
}

/// Whether it was said what found no room.
#[derive(Debug, Default)]
struct Said {
    held: bool,
    left_out: bool,
}

/// What the programs are to know of cgroups, by their ids.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Verdicts {
    /// Whether processes in them are wanted.
    pub(super) new: Vec<(u64, bool)>,
    /// Those that are gone.
    pub(super) gone: Vec<u64>,
    /// Owners of sockets from before the start that turned out to be wanted.
    pub(super) owners: Vec<(FlowKey, u32)>,
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
            listing: Beside::new(LEARNT_EVERY),
            swept: Pace::default(),
            nameless: VecDeque::new(),
            told: HashMap::new(),
            held: HashMap::new(),
            older: HashMap::new(),
            lacks_room: false,
            said: Said::default(),
        })
    }

    /// Of cgroups that became known, and of those whose names did, whether they are wanted.
    pub(super) fn verdicts(&mut self, places: &mut Places) -> Verdicts {
        if self.filters.by_cgroup == 0 {
            return Verdicts::default();
        }
        let gone = self.sweep(|id, place| places.is_there(id, place));
        let new = self.decide(places.take_new());
        Verdicts { new, gone, owners: Vec::new() }
    }

    /// Decides on cgroups, as far as names are known; on the rest later.
    fn decide(&mut self, open: Vec<(u64, Arc<Place>)>) -> Vec<(u64, bool)> {
        if !(open.is_empty()
            && self.nameless.is_empty()
            && self.held.is_empty()
            && self.older.is_empty())
        {
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

    /// Sockets whose users' pods have names now have a verdict: those that are wanted count from here on. Returns the
    /// owners of those from before the start.
    pub(super) fn readmit(&mut self, table: &mut FlowTable, now_ns: u64) -> Vec<(FlowKey, u32)> {
        let Self { owners, names, held, older, .. } = self;
        held.retain(|_, event| {
            let place = event.place.as_deref();
            let answer = place.map_or(Some(false), |it| owners.accepts(it, names.pod(it)));
            if answer == Some(true) {
                table.readmit(event, now_ns);
            }
            answer.is_none()
        });
        let mut admitted = Vec::new();
        older.retain(|_, socket| {
            let place = socket.place.as_deref();
            let answer = place.map_or(Some(false), |it| owners.accepts(it, names.pod(it)));
            if answer == Some(true) {
                // Beyond --max-flows they come back with their first event.
                let _no_room = table.seed(&seed(socket), now_ns);
                admitted.extend(socket.owned());
            }
            answer.is_none()
        });
        admitted
    }

    /// What found no room, each once.
    pub(super) fn take_problems(&mut self, table: &FlowTable) -> Vec<String> {
        let mut problems = Vec::new();
        if self.lacks_room && !mem::replace(&mut self.said.held, true) {
            problems.push(format!(
                "more than {MOST_HELD} sockets are of pods whose names are not known: some stay left out when their \
                 pod turns out to be wanted"
            ));
        }
        if table.lacks_room_to_leave_out() && !mem::replace(&mut self.said.left_out, true) {
            problems.push(
                "more sockets at once are none that the filters by owner ask for than can be remembered: what the \
                 kernel tells of some without their user counts all the same"
                    .to_owned(),
            );
        }
        problems
    }

    /// Whether a socket from before the start passes. Where that depends on names that are not known it does later.
    pub(super) fn wants(&mut self, socket: &SeededSocket) -> bool {
        let answer = self.answer(socket.pid, socket.comm.as_deref(), socket.place.as_deref());
        if answer.is_none() {
            if self.older.len() < MOST_HELD {
                self.older.insert(socket.key, socket.clone());
            } else {
                self.lacks_room = true;
            }
        }
        answer == Some(true)
    }

    /// Whether a process passes that is known by its id, its name and its place; none where it depends on names of a
    /// pod that are not known.
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
                if !self.older.is_empty() && (event.what == What::Close || event.tid.is_some()) {
                    self.older.remove(&event.socket.key);
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

    /// Looks for names, and waits for them as long as the loop may stand still; says whether there may be more.
    fn learn_names(&mut self) -> bool {
        if !self.owners.asks_for_names() {
            return false;
        }
        let is_new = self.listing.is_due();
        if is_new {
            let host_root = self.host_root.clone();
            self.listing.begin(move || list_names(&host_root));
        }
        let patience = if is_new { PATIENCE } else { Duration::ZERO };
        let files = self.listing.result(patience);
        files.iter().for_each(|files| self.names.learn(files));
        files.is_some()
    }
}

#[cfg(test)]
mod tests;
