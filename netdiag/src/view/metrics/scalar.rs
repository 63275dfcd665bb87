//! Metrics that are one number for each of a few labels, read from a snapshot.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    family::{Kind, Series, Unit},
    node, own,
};
use crate::{finding::Finding, snapshot::Snapshot};

/// What is read from.
pub(super) struct Seen<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) found: &'a [Finding],
    /// Findings of which nothing can be said.
    pub(super) withheld: usize,
    /// Flows of the interval that did something in it.
    pub(super) flows: u64,
    /// Groups of flows that are told apart.
    pub(super) groups: usize,
    /// Groups of the interval that had no room.
    pub(super) summed_up: usize,
    pub(super) now: SystemTime,
    pub(super) took: Duration,
}

/// Takes the values of the labels, and a number. Several of the same labels are added up.
pub(super) type Tell<'a> = dyn FnMut(&[&str], f64) + 'a;

/// What is read, and so what becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taking {
    /// By how much it rose in the interval.
    Increase,
    /// How much it is since the start.
    SinceStart,
    /// How much it is now.
    Now,
    /// What there is, in its labels.
    Info,
}

impl Taking {
    pub(super) const fn kind(self) -> Kind {
        match self {
            Self::Increase | Self::SinceStart => Kind::Counter,
            Self::Now => Kind::Gauge,
            Self::Info => Kind::Info,
        }
    }
}

/// The definition of one.
pub(super) struct Scalar {
    /// Whole name.
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) unit: Option<Unit>,
    pub(super) labels: &'static [&'static str],
    pub(super) taking: Taking,
    pub(super) read: fn(&Seen<'_>, &mut Tell<'_>),
}

impl Scalar {
    /// One without unit and labels.
    pub(super) const fn new(
        name: &'static str,
        taking: Taking,
        help: &'static str,
        read: fn(&Seen<'_>, &mut Tell<'_>),
    ) -> Self {
        Self { name, help, unit: None, labels: &[], taking, read }
    }

    /// The same with a unit.
    pub(super) const fn of(self, unit: Unit) -> Self {
        Self { unit: Some(unit), ..self }
    }

    /// The same by labels.
    pub(super) const fn by(self, labels: &'static [&'static str]) -> Self {
        Self { labels, ..self }
    }
}

/// All of them.
pub(super) fn all() -> impl Iterator<Item = &'static Scalar> {
    own::SCALARS.iter().chain(node::SCALARS)
}

type Numbers = BTreeMap<Vec<Arc<str>>, f64>;

/// Their numbers, in the order of the list.
#[derive(Debug, Default)]
pub(super) struct Scalars {
    numbers: Vec<Numbers>,
}

impl Scalars {
    pub(super) fn take(&mut self, seen: &Seen<'_>) {
        self.numbers.resize_with(all().count(), Numbers::new);
        for (scalar, numbers) in all().zip(&mut self.numbers) {
            let mut told = Numbers::new();
            (scalar.read)(seen, &mut |labels, value| {
                let labels = labels.iter().map(|&label| label.into()).collect();
                *told.entry(labels).or_insert(0.0) += value;
            });
            match scalar.taking {
                Taking::Increase => {
                    for (labels, value) in told {
                        *numbers.entry(labels).or_insert(0.0) += value.max(0.0);
                    }
                }
                // An account may be corrected downwards by what is learnt later.
                Taking::SinceStart => {
                    for (labels, value) in told {
                        let known = numbers.entry(labels).or_insert(0.0);
                        *known = known.max(value);
                    }
                }
                Taking::Now | Taking::Info => *numbers = told,
            }
        }
    }

    pub(super) fn series(&self, nth: usize, began: SystemTime) -> Vec<Series> {
        let rises = all().nth(nth).is_some_and(|scalar| scalar.taking.kind() == Kind::Counter);
        let of = |(labels, value): (&Vec<Arc<str>>, &f64)| {
            let series = Series::number(labels.clone(), *value);
            if rises { series.since(began) } else { series }
        };
        self.numbers.get(nth).map(|numbers| numbers.iter().map(of).collect()).unwrap_or_default()
    }
}
