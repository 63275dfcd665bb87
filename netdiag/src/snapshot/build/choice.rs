//! Which flows are listed, decided one by one as they are frozen: of a hundred thousand flows no more than are listed are
//! ever there at once.

use std::{
    cell::Cell,
    cmp::Reverse,
    collections::{BinaryHeap, HashSet},
    sync::Arc,
};

use serde::{Serialize, Serializer};

use super::{Listing, sort, telling};
use crate::{
    flow::{FlowTable, Frozen, Grouping, Interval, Total},
    owner::Place,
    signal::{CountId, Label},
};

/// Its place among others, the first first: by the order that is wanted, then by id.
type Rank = (Reverse<Option<u64>>, u64);

/// A flow by its rank.
struct Ranked(Rank, Frozen);

impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Ranked {}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}

/// The first so many flows, and of the others the first that tell of themselves where that is wanted: all that
/// [`Listing::arrange`] would keep, and no more than half as many beside them.
struct Choice {
    value: sort::Value,
    top: usize,
    /// The last of those that are kept is on top.
    first: BinaryHeap<Ranked>,
    tells: Vec<CountId>,
    telling: BinaryHeap<Ranked>,
}

/// Puts one in; returns the last one where there are more than so many.
fn put(into: &mut BinaryHeap<Ranked>, most: usize, flow: Ranked) -> Option<Ranked> {
    into.push(flow);
    if into.len() > most { into.pop() } else { None }
}

impl Choice {
    fn new(listing: &Listing, top: usize) -> Self {
        Self {
            value: listing.sort.value(),
            top,
            first: BinaryHeap::new(),
            tells: if listing.telling { telling() } else { Vec::new() },
            telling: BinaryHeap::new(),
        }
    }

    /// Takes a flow, and gives back one that is not listed by now.
    fn offer(&mut self, flow: Frozen) -> Option<Frozen> {
        let rank = (Reverse((self.value)(&flow)), flow.id);
        let left = put(&mut self.first, self.top, Ranked(rank, flow))?;
        let tells =
            |flow: &Frozen| self.tells.iter().any(|&id| flow.count(id).is_some_and(|n| n > 0));
        if tells(&left.1) {
            return put(&mut self.telling, self.top / 2, left).map(|left| left.1);
        }
        Some(left.1)
    }

    /// Those that were chosen, by ascending id.
    fn flows(self) -> Vec<Frozen> {
        let mut flows: Vec<_> = self.first.into_iter().chain(self.telling).map(|it| it.1).collect();
        flows.sort_unstable_by_key(|flow| flow.id);
        flows
    }
}

impl Listing {
    /// How many flows are chosen as they come; none where all of them are needed.
    fn chosen(&self) -> Option<usize> {
        self.top.filter(|_| self.by == Grouping::Flow)
    }

    /// The interval that ends, with those flows that [`Self::arrange`] needs. The last holds nothing back.
    pub fn interval(&self, table: &mut FlowTable, now_ns: u64, is_last: bool) -> Interval {
        let Some(top) = self.chosen() else {
            return if is_last { table.last_interval(now_ns) } else { table.interval(now_ns) };
        };
        let mut choice = Choice::new(self, top);
        let interval = table.interval_of(now_ns, !is_last, &mut |flow| choice.offer(flow));
        Interval { flows: choice.flows(), ..interval }
    }

    /// The same of a whole run.
    #[must_use]
    pub fn total(&self, mut total: Total) -> Interval {
        let mut choice = self.chosen().map(|top| Choice::new(self, top));
        let mut flows = Vec::new();
        for slot in total.slots() {
            let Some(flow) = total.take(slot).filter(|flow| self.all || !flow.idle) else {
                continue;
            };
            match &mut choice {
                Some(choice) => choice.offer(flow).iter().for_each(|left| total.fold(left)),
                None => flows.push(flow),
            }
        }
        flows.sort_unstable_by_key(|flow| flow.id);
        Interval { flows: choice.map_or(flows, Choice::flows), ..total.into_rest() }
    }

    /// What there is to know of all flows of a run before the first is told.
    #[must_use]
    pub fn survey(&self, total: &Total) -> Survey {
        let value = self.sort.value();
        let (mut order, mut labels) = (Vec::new(), HashSet::new());
        let mut places: Vec<Arc<Place>> = Vec::new();
        let mut known = HashSet::new();
        for slot in total.slots() {
            let Some(flow) = total.look(slot).filter(|flow| self.all || !flow.idle) else {
                continue;
            };
            labels.extend(flow.labelled.iter().map(|((_, label), _)| *label));
            places.extend(
                flow.place.iter().filter(|place| known.insert(Arc::as_ptr(place))).cloned(),
            );
            order.push(((Reverse(value(&flow)), flow.id), slot));
        }
        order.sort_unstable_by_key(|&(rank, _): &(Rank, u32)| rank);
        let order = order.into_iter().map(|(_, slot)| slot).collect();
        Survey { order, labels: labels.into_iter().collect(), places }
    }
}

/// What is known of the flows of a run beforehand.
pub struct Survey {
    /// Slots in the order in which they are to be told.
    pub order: Vec<u32>,
    /// Labels of counts that came.
    pub labels: Vec<Label>,
    /// Where their owners live.
    pub places: Vec<Arc<Place>>,
}

/// Things that are made as they are written, and written once.
pub struct Lazily<I>(Cell<Option<I>>);

impl<I> Lazily<I> {
    pub(super) const fn new(things: I) -> Self {
        Self(Cell::new(Some(things)))
    }
}

impl<I: Iterator<Item: Serialize>> Serialize for Lazily<I> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.take().into_iter().flatten())
    }
}
