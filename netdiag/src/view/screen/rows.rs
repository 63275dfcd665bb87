//! The rows of one interval: grouped, filtered and sorted as the keys have it. Rows are named only when they are
//! shown, since there may be ten thousand.

use std::cmp::Reverse;

use super::{history::RowId, state::Shot};
use crate::{
    flow::{Frozen, Grouping, Interval},
    format,
    snapshot::{
        Flow,
        build::{self, Sort},
    },
    view::{
        owner::{home, process},
        table::endpoint,
    },
};

/// Which rows there are, and in which order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) by: Grouping,
    pub(super) sort: Sort,
    /// Words that a row must have, lower case; none for all rows.
    pub(super) filter: String,
}

/// An interval and its rows.
#[derive(Debug)]
pub(super) struct Rows {
    pub(super) shot: Shot,
    /// Instead of the flows, where they are grouped.
    groups: Option<Vec<Frozen>>,
    /// Which are shown, in this order.
    order: Vec<u32>,
}

impl Rows {
    pub(super) fn new(shot: Shot, order: &Order) -> Self {
        let mut rows = Self { shot, groups: None, order: Vec::new() };
        rows.arrange(order);
        rows
    }

    /// Groups, filters and sorts anew.
    pub(super) fn arrange(&mut self, order: &Order) {
        self.groups = (order.by != Grouping::Flow).then(|| {
            let flows = self.shot.interval.flows.clone();
            let mut interval = Interval { flows, ..Interval::default() };
            interval.group(order.by);
            interval.flows
        });
        let value = order.sort.value();
        let all = self.all();
        let words: Vec<&str> = order.filter.split_whitespace().collect();
        let mut keyed: Vec<_> = (0_u32..)
            .zip(all)
            .filter(|(_, row)| words.is_empty() || self.matches(row, &words))
            .map(|(at, row)| (Reverse(value(row)), row.id, at))
            .collect();
        keyed.sort_unstable();
        self.order = keyed.into_iter().map(|(.., at)| at).collect();
    }

    /// All rows, shown or not.
    fn all(&self) -> &[Frozen] {
        self.groups.as_deref().unwrap_or(&self.shot.interval.flows)
    }

    fn matches(&self, row: &Frozen, words: &[&str]) -> bool {
        let text = haystack(&self.name(row)).to_lowercase();
        words.iter().all(|word| text.contains(word))
    }

    /// How many are shown.
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// How many there are.
    pub(super) fn total(&self) -> usize {
        self.all().len()
    }

    /// The shown rows from the first on.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Frozen> + ExactSizeIterator {
        let all = self.all();
        self.order.iter().map(|&at| &all[at as usize])
    }

    /// Any row by its id, shown or not.
    pub(super) fn find(&self, id: &RowId) -> Option<&Frozen> {
        self.all().iter().find(|row| RowId::of(row) == *id)
    }

    /// With names and units, as outputs have it.
    pub(super) fn name(&self, row: &Frozen) -> Flow {
        let Shot { snapshot, labels, redactor, .. } = &self.shot;
        let mut flow = build::named(row, &snapshot.signals, labels);
        let by = row.group.as_ref().map_or(Grouping::Flow, |group| group.by);
        redactor.iter().for_each(|it| it.flow(&mut flow, by));
        flow
    }
}

/// All that a filter finds a row by.
fn haystack(row: &Flow) -> String {
    let name = row.group.as_ref().and_then(|group| group.name.clone());
    let mut words = vec![
        name.unwrap_or_default(),
        endpoint(&row.local),
        endpoint(&row.peer),
        process(&row.owner),
        home(&row.owner).unwrap_or_default(),
    ];
    words.extend(row.service.iter().chain(&row.backend).map(endpoint));
    words.extend(row.protocol.clone());
    words.extend(row.netns.map(|netns| format!("netns:{netns}")));
    format::sanitised(&words.join(" "))
}
