//! From the rings into the flow table.

use std::mem;

use netdiag_common::signal::Signal;

use self::{ended::Ended, fates::Fates};
use super::{
    sieve::{Sieve, Verdicts},
    teller::Teller,
};
use crate::{
    flow::{
        queries::{Lost, Queries},
        table::{FlowTable, Whose},
    },
    kernel::tracer::Taken,
    node::places::Places,
    signal::{self, Event, conntrack, dns, socket},
    snapshot::Stream,
};

mod ended;
mod fates;
mod seeding;

pub(super) use seeding::seed;

/// Queries of the domain name system that may wait at once, however few flows are remembered; as many as these where
/// they are more. Those beyond are lost.
const QUERIES: usize = 1 << 16;

/// Rounds of one draining, so that a flood cannot keep the loop here; what is left wakes it again.
const ROUNDS: usize = 32;

/// What events are folded into.
pub(super) struct Intake {
    pub(super) table: FlowTable,
    stream: Stream,
    /// Who tells of events one by one, where that is wanted.
    pub(super) teller: Option<Teller>,
    /// Samples that no program saw, by signal.
    unseen: [u64; Signal::COUNT],
    /// Samples of whose fate only userspace can tell, by signal.
    fates: [Fates; Signal::COUNT],
    /// Queries of the domain name system.
    queries: Queries,
    /// The newest message of those that came in batches.
    newest_ns: u64,
    /// Messages that were not told of so far.
    untold: u64,
    taken: Taken,
    /// Where processes live, and their names.
    places: Places,
    /// Filters that the programs cannot decide on alone, where there are any.
    sieve: Option<Sieve>,
    /// What ended before the seeds came; none any more once they did.
    ended: Option<Ended>,
}

impl Intake {
    /// The signal of whose samples one tells what becomes of another.
    pub(super) const PAIRED: Signal = dns::DEFINITION.signal;
    /// The signal that tells where connections to an address are translated to.
    pub(super) const TRANSLATING: Signal = conntrack::DEFINITION.signal;

    pub(super) fn new(
        table: FlowTable,
        places: Places,
        sieve: Option<Sieve>,
        teller: Option<Teller>,
    ) -> Self {
        let (stream, taken) = (Stream::default(), Taken::default());
        let (unseen, fates) = ([0; Signal::COUNT], [Fates::default(); Signal::COUNT]);
        let (queries, ended) = (Queries::new(QUERIES.max(table.most())), Some(Ended::default()));
        let (newest_ns, untold) = (0, 0);
        Self {
            table,
            stream,
            teller,
            unseen,
            fates,
            queries,
            newest_ns,
            untold,
            taken,
            places,
            sieve,
            ended,
        }
    }

    /// Takes in what the rings hold; `take` copies a part of it out and says whether it was all. Nothing
    /// older than `now_ns` comes later than that. `untold` is how many samples of [`Self::PAIRED`] will never come,
    /// of those from before `now_ns`. Returns whether nothing was left.
    pub(super) fn drain(
        &mut self,
        now_ns: u64,
        untold: u64,
        mut take: impl FnMut(&mut Taken) -> bool,
    ) -> bool {
        if mem::replace(&mut self.untold, untold) != untold {
            self.queries.miss(now_ns);
        }
        let all = (0..ROUNDS).any(|_| {
            let all = take(&mut self.taken);
            self.fold(now_ns);
            all
        });
        // Of the batches that are left none is older than the newest that was read; nothing else is left.
        let known_ns = if all { now_ns } else { now_ns.min(self.newest_ns) };
        self.conclude(known_ns, Queries::advance);
        if let Some(teller) = &mut self.teller {
            teller.pass_on(&self.table);
        }
        all
    }

    /// Nothing more comes.
    pub(super) fn end(&mut self, now_ns: u64) {
        self.conclude(now_ns, Queries::end);
        if let Some(teller) = &mut self.teller {
            teller.pass_on(&self.table);
        }
    }

    /// Folds what became of queries up to then.
    fn conclude<C>(&mut self, now_ns: u64, conclude: C)
    where
        C: FnOnce(&mut Queries, u64, &mut dyn FnMut(dns::Query)) -> Lost,
    {
        let Self { table, teller, queries, fates, .. } = self;
        let Lost { unmatched, no_room } = conclude(queries, now_ns, &mut |query| {
            fold_one(table, teller, &Event::Dns(dns::Event::Query(query)), now_ns);
        });
        let lost = Fates { filtered: 0, unmatched, map_full: no_room };
        fates[dns::DEFINITION.signal as usize].add(lost);
    }

    /// Folds what was copied out.
    fn fold(&mut self, now_ns: u64) {
        let Self {
            table,
            stream,
            teller,
            unseen,
            fates,
            queries,
            newest_ns,
            taken,
            places,
            sieve,
            ended,
            ..
        } = self;
        let Taken { sockets, events, packets, samples } = taken;
        let singly = sockets.drain().chain(events.drain()).chain(packets.drain());
        let records = singly.map(|record| (record, false));
        for (record, batched) in records.chain(samples.drain().map(|record| (record, true))) {
            let samples = signal::samples(&record);
            stream.received += samples;
            let mut outside = Fates::default();
            let (mut events, mut left_out) = (0_u64, 0);
            let decoded = signal::decode(&record, &mut |mut event| {
                match &mut event {
                    Event::Socket(event) if sieve.is_some() || !table.knows_owner(event) => {
                        locate(event, places);
                    }
                    Event::Conntrack(event) => locate_creator(event, places),
                    _ => {}
                }
                if let Some(ended) = ended {
                    ended.note(&event);
                }
                if let Some((signal, samples)) = event.unseen() {
                    unseen[signal as usize] += samples;
                }
                match &event {
                    Event::Dns(dns::Event::Passage(passage)) => {
                        if batched {
                            *newest_ns = passage.time_ns.max(*newest_ns);
                        }
                        queries.hold(*passage);
                    }
                    Event::Dns(dns::Event::Other) => outside.unmatched = samples,
                    _ => {
                        let passes = sieve.as_mut().is_none_or(|sieve| sieve.passes(&event, table));
                        events += 1;
                        if !passes || fold_one(table, teller, &event, now_ns) == Whose::LeftOut {
                            left_out += 1;
                        }
                    }
                }
            });
            // A batch has one event for each of its samples.
            outside.filtered = if events == 1 { left_out * samples } else { left_out };
            match decoded {
                Ok(header) => {
                    stream.decoded += samples;
                    fates[usize::from(header.signal)].add(outside);
                }
                Err(_) => stream.malformed += samples,
            }
        }
    }

    /// What the programs have to know of cgroups that were not known before. Sockets of those that are wanted count
    /// from now on.
    pub(super) fn verdicts(&mut self, now_ns: u64) -> Verdicts {
        let Self { sieve: Some(sieve), places, table, .. } = self else {
            return Verdicts::default();
        };
        let verdicts = sieve.verdicts(places);
        Verdicts { owners: sieve.readmit(table, now_ns), ..verdicts }
    }

    /// What is missing of owners since a while, each once.
    pub(super) fn take_problems(&mut self) -> Vec<String> {
        let mut problems = self.places.take_problems();
        let Self { sieve, table, .. } = self;
        problems.extend(sieve.iter_mut().flat_map(|sieve| sieve.take_problems(table)));
        problems
    }

    /// Looks for cgroups that appeared, where filters ask for those.
    pub(super) fn look_for_cgroups(&mut self) {
        if self.sieve.as_ref().is_some_and(Sieve::asks_for_place) {
            self.places.look();
        }
    }

    /// What was received, of that which was submitted.
    pub(super) fn received(&self) -> u64 {
        self.stream.received
    }

    /// Forgets processes that were looked up, and takes in what was heard of cgroups, whether or not one is asked for.
    pub(super) fn forget_processes(&mut self) {
        self.places.forget_processes();
        self.places.hear();
    }
}

/// Folds an event, and has it told.
fn fold_one(
    table: &mut FlowTable,
    teller: &mut Option<Teller>,
    event: &Event,
    now_ns: u64,
) -> Whose {
    let whose = table.apply(event, now_ns);
    if let Some(teller) = teller {
        teller.note(event, whose, table, now_ns);
    }
    whose
}

/// Says where the owner lives. The record carries the name of the thread; the owner is the process.
fn locate(event: &mut socket::Event, places: &mut Places) {
    event.place = places.of(event.pid, event.cgroup, event.time_ns);
    if let Some(pid) = event.pid
        && event.tid != Some(pid)
        && let Some(name) = places.comm(pid, event.time_ns)
    {
        event.comm = Some(name.to_owned());
    }
}

/// The same for who made an entry of the connection tracking table.
fn locate_creator(event: &mut conntrack::Event, places: &mut Places) {
    if let Some(creator) = &mut event.creator {
        creator.place = places.of(Some(creator.pid), None, event.time_ns);
    }
}
