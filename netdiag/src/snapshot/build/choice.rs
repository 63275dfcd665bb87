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
    snapshot::Flow,
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
        self.top.filter(|_| self.by == Grouping::Flow && !self.apart)
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

/// Flows that are named as they are written, and written once. Behind a pointer: else the code that writes a snapshot
/// would be made anew for each way to come by them.
pub struct Lazily<'a>(Cell<Option<Box<dyn Iterator<Item = Flow> + 'a>>>);

impl<'a> Lazily<'a> {
    pub(super) fn new(flows: impl Iterator<Item = Flow> + 'a) -> Self {
        Self(Cell::new(Some(Box::new(flows))))
    }
}

impl Serialize for Lazily<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.take().into_iter().flatten())
    }
}

#[cfg(test)]
mod tests {
    use netdiag_common::{
        flow::{FlowKey, SocketRef, TCP},
        header::{Header, VERSION},
        signal::{Signal, socket},
    };
    use proptest::{collection::vec, prelude::*};
    use zerocopy::IntoBytes as _;

    use super::*;
    use crate::{
        flow::Config,
        labels::Labels,
        signal::{Event, decode, send},
        snapshot::build::named,
    };

    /// Flows that sent so often; those with an odd number of sends failed to connect before.
    fn table(sends: &[u64]) -> FlowTable {
        let mut table = FlowTable::new(Config::default());
        for (flow, &sends) in (1..).zip(sends) {
            for what in [socket::what::CONNECT, socket::what::FAILED] {
                if what == socket::what::FAILED && sends % 2 == 0 {
                    continue;
                }
                let key = FlowKey {
                    local_addr: [1; 16],
                    peer_addr: [2; 16],
                    local_port: flow as u16,
                    peer_port: 443,
                    netns: 1,
                    protocol: TCP,
                    reserved: 0,
                };
                let record = socket::Record {
                    header: Header {
                        version: VERSION,
                        signal: Signal::Socket as u16,
                        samples: 1,
                        time_ns: 1,
                    },
                    socket: SocketRef { flow, key, state: 1, ..Default::default() },
                    what,
                    ..Default::default()
                };
                decode(record.as_bytes(), &mut |event| {
                    let _ = table.apply(&event, 1);
                })
                .expect("a sound record");
            }
            for at in 0..sends {
                let event = send::Event { flow, latency_ns: 1_000 + at, result: 1 };
                table.apply(&Event::Send(event), 1);
            }
        }
        table
    }

    fn told(interval: &Interval) -> (Vec<u64>, u64, Frozen) {
        let ids = interval.flows.iter().map(|flow| flow.id).collect();
        (ids, interval.folded, interval.sum())
    }

    fn check(listing: &Listing, chosen: Interval, whole: Interval) -> Result<(), TestCaseError> {
        let arranged = |mut interval: Interval| {
            listing.arrange(&mut interval);
            told(&interval)
        };
        let ((chosen, folded, sum), (ids, all_folded, all)) = (arranged(chosen), arranged(whole));
        prop_assert_eq!((chosen, folded, &sum.counts), (ids, all_folded, &all.counts));
        let samples = |flow: &Frozen| {
            flow.latencies.iter().map(|(id, l)| (*id, l.count())).collect::<Vec<_>>()
        };
        prop_assert_eq!(samples(&sum), samples(&all));
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// Whoever is chosen as it comes, the same are listed, and the rest adds up to the same.
        #[test]
        fn the_same_are_listed(sends in vec(0..6_u64, 0..40), top in 1..30_usize, telling: bool) {
            let listing = Listing { top: Some(top), telling, all: true, ..Listing::default() };
            let (mut one, mut other) = (table(&sends), table(&sends));
            check(&listing, listing.interval(&mut one, 2, false), other.interval(2))?;
            check(&listing, listing.total(one.into_total()), other.total())?;
        }

        #[test]
        fn a_survey_is_in_the_order_that_is_wanted(sends in vec(0..6_u64, 0..40)) {
            let listing = Listing { all: true, ..Listing::default() };
            let table = table(&sends);
            let mut whole = table.total();
            listing.arrange(&mut whole);
            let mut total = table.into_total();
            let order = listing.survey(&total).order;
            let ids: Vec<_> = order.into_iter().filter_map(|slot| total.take(slot)).map(|flow| flow.id).collect();
            prop_assert_eq!(ids, told(&whole).0);
            prop_assert!(total.slots().is_empty());
        }
    }

    #[test]
    fn what_is_named_as_it_is_written_is_a_list() {
        let frozen = |id| Frozen { id, ..Frozen::default() };
        let flow = |id| named(&frozen(id), &[], &Labels::default());
        for ids in [1..4, 0..0] {
            let flows: Vec<Flow> = ids.map(flow).collect();
            let made = serde_json::to_string(&Lazily::new(flows.iter().cloned())).expect("JSON");
            assert_eq!(made, serde_json::to_string(&flows).expect("JSON"));
        }
    }
}
