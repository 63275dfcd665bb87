//! What keys go through in a circle: orders of the rows, and what makes flows one row.

use crate::{
    flow::Grouping,
    signal::{Count, counts, metrics},
    snapshot::build::Sort,
};

/// What `s` goes through; the metric is the one whose percentiles are shown, by its place in [`metrics`].
pub(super) fn sorts(metric: usize) -> Vec<Sort> {
    let mut sorts = vec![Sort::default()];
    if let Some((_, _, metric)) = metrics().nth(metric) {
        sorts.extend([Sort::Samples(metric.name), Sort::P99(metric.name), Sort::Max(metric.name)]);
    }
    for (name, sort) in Sort::all() {
        let is_group =
            |(_, _, count): &(_, _, &Count)| count.column && count.group() == Some(&name);
        if matches!(sort, Sort::Count(_)) && counts().any(|count| is_group(&count)) {
            sorts.push(sort);
        }
    }
    sorts.extend([Sort::Count("bytes_sent"), Sort::Count("bytes_received"), Sort::RttMin]);
    sorts
}

/// What `g` goes through.
pub(super) const GROUPINGS: [Grouping; 7] = [
    Grouping::Flow,
    Grouping::Peer,
    Grouping::Backend,
    Grouping::Process,
    Grouping::Container,
    Grouping::Pod,
    Grouping::Port,
];

/// The one `steps` behind it in a circle; the first where it is none of them.
pub(super) fn turned<T: PartialEq + Copy>(all: &[T], from: T, steps: isize) -> T {
    let len = all.len().cast_signed();
    let at = all
        .iter()
        .position(|one| *one == from)
        .map_or(0, |at| (at.cast_signed() + steps).rem_euclid(len).cast_unsigned());
    all[at]
}
