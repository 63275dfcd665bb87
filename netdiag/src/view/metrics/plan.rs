//! The list of all metrics, each with where its series come from.

use std::sync::Arc;

use super::{
    family::{Definition, Kind},
    group::LABELS,
    name::{self, PREFIX},
    scalar::{self, Scalar},
};
use crate::signal::{Count, CountId, MetricId, Rows, counts, counts_of, metrics};
use netdiag_common::signal::Signal;

/// A metric.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) definition: Arc<Definition>,
    pub(super) source: Source,
}

/// Where its series come from.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// Latencies of groups.
    Latency(MetricId),
    /// Counts of groups, to be divided by `scale`.
    Counts { parts: Vec<Part>, scale: f64 },
    /// A count of groups by the kernel's labels.
    Labelled(CountId),
    /// What is counted of entries of the connection tracking table.
    Entries(CountId),
    /// Samples that no histogram has.
    OutOfRange,
    /// The list of scalars has it at that position.
    Scalar(usize),
}

/// A count that is a series of its metric.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) id: CountId,
    pub(super) signal: Signal,
    pub(super) count: &'static Count,
    /// Its key, where it is one of several.
    pub(super) key: Option<Arc<str>>,
}

/// All of them.
pub(super) fn plan() -> Vec<Entry> {
    let mut plan: Vec<Entry> = metrics()
        .map(|(id, _, metric)| entry(name::latency(metric, &LABELS), Source::Latency(id)))
        .collect();
    for (id, signal, count) in counts() {
        let Some((definition, scale)) = name::count(count, "", &LABELS) else { continue };
        if count.labelled {
            plan.push(entry(definition, Source::Labelled(id)));
            continue;
        }
        let (_, key) = count.name.split_once('.').unzip();
        let key = key.filter(|_| count.key.is_some()).map(Arc::from);
        let part = Part { id, signal, count, key };
        let whole = plan.iter_mut().find(|one| one.definition.name == definition.name);
        match whole.map(|one| (&mut one.definition, &mut one.source)) {
            Some((known, Source::Counts { parts, .. })) => {
                // Each key has its own help.
                let help = format!("{}; {}: {}", known.help, keyed(&part), definition.help);
                Arc::make_mut(known).help = help;
                parts.push(part);
            }
            _ => {
                let mut definition = definition;
                if part.key.is_some() {
                    definition.help = format!("{}: {}", keyed(&part), definition.help);
                }
                plan.push(entry(definition, Source::Counts { parts: vec![part], scale }));
            }
        }
    }
    for (id, signal, count) in counts_of(Rows::Entries) {
        let before = format!("{}_", signal.name());
        if let Some((definition, _)) = name::count(count, &before, &[]) {
            plan.push(entry(definition, Source::Entries(id)));
        }
    }
    plan.push(entry(out_of_range(), Source::OutOfRange));
    let scalars = scalar::all().enumerate();
    plan.extend(scalars.map(|(nth, scalar)| entry(defined(scalar), Source::Scalar(nth))));
    plan
}

fn entry(definition: Definition, source: Source) -> Entry {
    Entry { definition: Arc::new(definition), source }
}

fn keyed(part: &Part) -> &str {
    part.key.as_deref().unwrap_or_default()
}

fn out_of_range() -> Definition {
    Definition {
        name: format!("{PREFIX}samples_out_of_range_total"),
        kind: Kind::Counter,
        unit: None,
        labels: vec!["latency"],
        help: "samples below 1 ns or above 1 h, which no histogram has".to_owned(),
    }
}

fn defined(scalar: &Scalar) -> Definition {
    Definition {
        name: scalar.name.to_owned(),
        kind: scalar.taking.kind(),
        unit: scalar.unit,
        labels: scalar.labels.to_vec(),
        help: scalar.help.to_owned(),
    }
}
