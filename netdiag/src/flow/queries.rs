//! Queries of the domain name system: which answer is whose, what is one query seen twice, and what never
//! was answered. Messages in, what became of queries out; bounded, and without a clock of its own.
//!
//! A query is told from others by addresses, ports, protocol and id. Where addresses are translated on the
//! way it has several such names; connection tracking says which belong together. Where it is seen first is
//! nearest to who asks: there its time begins, and ends when the answer passes the other way.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    mem,
};

use netdiag_common::flow::FlowKey;
use slab::Slab;
use smallvec::SmallVec;

use crate::{
    flow::tuples::address,
    signal::dns::{PATIENCE_NS, Passage, Place, Query, What},
};

/// How long the rest of what belongs to an answer may take: its way to who asked, and what was sent twice.
const SETTLE_NS: u64 = 1_000_000_000;

/// How long a query is remembered that is not answered, since it was last sent.
const KEEP_NS: u64 = 30_000_000_000;

/// Places that are remembered.
const PLACES: usize = 4_096;

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It belongs to a query.
    Taken,
    /// It is the answer to a query that was not seen, or is forgotten.
    Unmatched,
    /// There is no room for its query.
    NoRoom,
}

/// What tells a query from others in one place. Peers choose all of it, hence the keyed hash of the
/// standard library.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Name {
    key: FlowKey,
    id: u16,
}

impl Name {
    /// Of a conversation in any namespace, unless it cannot leave its own.
    fn of(key: &FlowKey, id: u16) -> Self {
        let stays = [key.local_addr, key.peer_addr].iter().any(|&end| address(end).is_loopback());
        let netns = if stays { key.netns } else { 0 };
        Self { key: FlowKey { netns, ..*key }, id }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// For an answer.
    Waiting,
    /// The same, and it has counted as unanswered.
    Overdue,
    /// It was answered then.
    Answered(u64),
}

/// A query that was seen.
#[derive(Debug)]
struct Pending {
    asker: FlowKey,
    names: SmallVec<[Name; 2]>,
    /// Where it was seen first.
    place: Place,
    asked_ns: u64,
    /// When it was sent last.
    sent_ns: u64,
    /// Where it begins in what TCP carries, if it does.
    seq: Option<u32>,
    state: State,
    /// When and how it was answered, elsewhere than at its place.
    answer: Option<(u64, u8)>,
    /// As it stands in [`Queries::due`].
    due_ns: u64,
    /// Its turn to give way, as it stands in [`Queries::idle`].
    turn: Option<u64>,
}

impl Pending {
    /// When something is to be done about it.
    fn next_ns(&self) -> u64 {
        let end = match self.state {
            State::Waiting => self.asked_ns + PATIENCE_NS,
            State::Overdue => self.sent_ns + KEEP_NS,
            State::Answered(then) => return then + SETTLE_NS,
        };
        self.answer.map_or(end, |(then, _)| end.min(then + SETTLE_NS))
    }

    /// Whether TCP sends the same bytes once more, as where the answer was lost behind here.
    fn is_sent_again(&self, passage: &Passage) -> bool {
        /// The length before a message may come in a segment of its own, and with the message when both are sent again.
        const LENGTH: u32 = 2;
        let begin = self.seq.zip(passage.seq);
        begin.is_some_and(|(one, other)| {
            one.wrapping_sub(other).min(other.wrapping_sub(one)) <= LENGTH
        })
    }

    const fn tell(&self, time_ns: u64, what: What) -> Query {
        Query { time_ns, asker: self.asker, what }
    }
}

/// The queries under way.
#[derive(Debug)]
pub struct Queries {
    most: usize,
    pending: Slab<Pending>,
    names: HashMap<Name, usize>,
    /// When something is to be done, and about which: each query once.
    due: BTreeSet<(u64, usize)>,
    /// Those of which everything has been told, in the order in which they give way: each once.
    idle: BTreeMap<u64, usize>,
    /// Where answers to what was asked there do pass. Not so where the packet goes on by another device than
    /// the one that took it, as behind a bond.
    heard: HashSet<Place>,
    next_turn: u64,
    /// Messages whose turn has not come.
    held: Vec<Passage>,
    /// Up to then messages are missing.
    missed_ns: u64,
}

/// Messages that became of no query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Answers to queries that were not seen, or are forgotten.
    pub unmatched: u64,
    /// Queries that there was no room for, and where else these were seen.
    pub no_room: u64,
}

impl Queries {
    /// None yet, and at most so many at once.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self {
            most: most.max(1),
            pending: Slab::new(),
            names: HashMap::new(),
            due: BTreeSet::new(),
            idle: BTreeMap::new(),
            heard: HashSet::new(),
            next_turn: 0,
            held: Vec::new(),
            missed_ns: 0,
        }
    }

    /// A message passed a place. They come in any order.
    pub fn hold(&mut self, passage: Passage) {
        self.held.push(passage);
    }

    /// Messages passed that nobody tells of, the last of them before `now_ns`: an answer may be among them.
    pub fn miss(&mut self, now_ns: u64) {
        self.missed_ns = self.missed_ns.max(now_ns);
    }

    /// Deals with what happened up to then, now that all of it is known.
    pub fn advance(&mut self, now_ns: u64, emit: &mut dyn FnMut(Query)) -> Lost {
        let mut lost = Lost::default();
        let mut held = mem::take(&mut self.held);
        held.sort_by_key(|passage| passage.time_ns);
        let known = held.partition_point(|passage| passage.time_ns <= now_ns);
        for passage in held.drain(..known) {
            self.expire(passage.time_ns, emit);
            match self.see(&passage, emit) {
                Fate::Taken => {}
                Fate::Unmatched => lost.unmatched += 1,
                Fate::NoRoom => lost.no_room += 1,
            }
        }
        self.held = held;
        self.expire(now_ns, emit);
        lost
    }

    /// Nothing more comes: what is known by now stands.
    pub fn end(&mut self, now_ns: u64, emit: &mut dyn FnMut(Query)) -> Lost {
        let newest_ns = self.held.iter().map(|passage| passage.time_ns).max();
        let now_ns = now_ns.max(newest_ns.unwrap_or(0));
        let lost = self.advance(now_ns, emit);
        let slots: Vec<_> = self.pending.iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            self.close(slot, emit);
        }
        lost
    }

    /// A message passed a place; those of one query come in their order.
    fn see(&mut self, passage: &Passage, emit: &mut dyn FnMut(Query)) -> Fate {
        let id = passage.message.id;
        let names = passage.asked.iter().chain([&passage.seen]).map(|key| Name::of(key, id));
        let names: SmallVec<[Name; 2]> = names.collect();
        let slot = names.iter().find_map(|name| self.names.get(name).copied());
        if passage.message.is_answer {
            let Some(slot) = slot else { return Fate::Unmatched };
            self.learn(slot, &names);
            self.answer(slot, passage, emit);
            return Fate::Taken;
        }
        let Some(slot) = slot else { return self.ask(passage, &names, emit) };
        let pending = &mut self.pending[slot];
        if pending.place != passage.place {
            self.learn(slot, &names);
        } else if matches!(pending.state, State::Answered(_)) && !pending.is_sent_again(passage) {
            // The same id again is another question.
            self.remove(slot);
            return self.ask(passage, &names, emit);
        } else {
            pending.sent_ns = passage.time_ns;
            emit(pending.tell(passage.time_ns, What::Retried));
            self.expect(slot);
        }
        Fate::Taken
    }

    /// Deals with what is due, now that everything has been seen up to `now_ns`.
    fn expire(&mut self, now_ns: u64, emit: &mut dyn FnMut(Query)) {
        while let Some(&(due_ns, slot)) = self.due.first()
            && due_ns <= now_ns
        {
            self.settle(slot, now_ns, emit);
        }
    }

    fn ask(&mut self, passage: &Passage, names: &[Name], emit: &mut dyn FnMut(Query)) -> Fate {
        if self.pending.len() >= self.most && !self.make_room() {
            return Fate::NoRoom;
        }
        let asked = passage.asked.as_ref().unwrap_or(&passage.seen);
        let pending = Pending {
            asker: FlowKey { netns: passage.place.netns, local_port: 0, ..*asked },
            names: SmallVec::new(),
            place: passage.place,
            asked_ns: passage.time_ns,
            sent_ns: passage.time_ns,
            seq: passage.seq,
            state: State::Waiting,
            answer: None,
            due_ns: 0,
            turn: None,
        };
        emit(pending.tell(passage.time_ns, What::Asked));
        let slot = self.pending.insert(pending);
        self.learn(slot, names);
        self.expect(slot);
        Fate::Taken
    }

    /// An answer passes. On its way to who asked it is seen at its place last.
    fn answer(&mut self, slot: usize, passage: &Passage, emit: &mut dyn FnMut(Query)) {
        let pending = &mut self.pending[slot];
        if matches!(pending.state, State::Answered(_)) {
            return;
        }
        pending.answer = Some((passage.time_ns, passage.message.rcode));
        if passage.place == pending.place.back() {
            if self.heard.len() >= PLACES {
                self.heard.clear();
            }
            self.heard.insert(passage.place);
            self.close(slot, emit);
        } else {
            self.expect(slot);
        }
    }

    /// Something is due: it is gone afterwards, or due later.
    fn settle(&mut self, slot: usize, now_ns: u64, emit: &mut dyn FnMut(Query)) {
        let pending = &mut self.pending[slot];
        if let (State::Waiting | State::Overdue, Some((then, _))) = (pending.state, pending.answer)
            && then + SETTLE_NS <= now_ns
        {
            if !self.heard.contains(&pending.place.back()) {
                return self.close(slot, emit);
            }
            // It would have been seen there: it was lost on its way.
            pending.answer = None;
        }
        match pending.state {
            State::Waiting if pending.asked_ns + PATIENCE_NS <= now_ns => {
                pending.state = State::Overdue;
                let may_be_missing = pending.asked_ns < self.missed_ns;
                let what = if may_be_missing { What::Unknown } else { What::Unanswered };
                emit(pending.tell(pending.asked_ns + PATIENCE_NS, what));
                self.may_give_way(slot);
                self.expect(slot);
            }
            State::Overdue if pending.sent_ns + KEEP_NS <= now_ns => self.remove(slot),
            State::Waiting | State::Overdue => self.expect(slot),
            State::Answered(_) => self.remove(slot),
        }
    }

    /// The answer that was seen last is the one, if any was.
    fn close(&mut self, slot: usize, emit: &mut dyn FnMut(Query)) {
        let pending = &mut self.pending[slot];
        let (State::Waiting | State::Overdue, Some((then, rcode))) =
            (pending.state, pending.answer)
        else {
            return;
        };
        let latency_ns = then.saturating_sub(pending.asked_ns);
        let late = pending.state == State::Overdue || latency_ns >= PATIENCE_NS;
        if late && pending.state == State::Waiting {
            emit(pending.tell(pending.asked_ns + PATIENCE_NS, What::Unanswered));
        }
        pending.state = State::Answered(then);
        emit(pending.tell(then, What::Answered { rcode, latency_ns, late }));
        self.may_give_way(slot);
        self.expect(slot);
    }

    /// Remembers when something is to be done about it.
    fn expect(&mut self, slot: usize) {
        let pending = &mut self.pending[slot];
        let next_ns = pending.next_ns();
        let before_ns = mem::replace(&mut pending.due_ns, next_ns);
        if before_ns != next_ns {
            self.due.remove(&(before_ns, slot));
            self.due.insert((next_ns, slot));
        }
    }

    /// Everything has been told of it, and it gives way after those of which that was so before.
    fn may_give_way(&mut self, slot: usize) {
        let turn = &mut self.pending[slot].turn;
        if turn.is_none() {
            *turn = Some(self.next_turn);
            self.idle.insert(self.next_turn, slot);
            self.next_turn += 1;
        }
    }

    /// Names lead to a query from now on.
    fn learn(&mut self, slot: usize, names: &[Name]) {
        /// More than any path has.
        const MOST: usize = 8;
        for name in names {
            let known = &mut self.pending[slot].names;
            if !known.contains(name) && known.len() < MOST {
                known.push(*name);
                self.names.insert(*name, slot);
            }
        }
    }

    fn remove(&mut self, slot: usize) {
        let pending = self.pending.remove(slot);
        self.due.remove(&(pending.due_ns, slot));
        if let Some(turn) = pending.turn {
            self.idle.remove(&turn);
        }
        for name in pending.names {
            // It may lead to another one by now.
            if self.names.get(&name) == Some(&slot) {
                self.names.remove(&name);
            }
        }
    }

    /// Forgets a query of which everything has been told.
    fn make_room(&mut self) -> bool {
        let Some((_, &slot)) = self.idle.first_key_value() else { return false };
        self.remove(slot);
        true
    }
}

#[cfg(test)]
mod tests;
