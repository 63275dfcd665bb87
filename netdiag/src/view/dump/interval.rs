//! The histograms of a flow table's interval.

use std::{collections::BTreeMap, io};

use super::{Histograms, Take, block::UNTAGGED};
use crate::{
    flow::{Frozen, Interval, latency::Latency},
    signal::{self, MetricId},
    snapshot::build::row_name,
};

impl Histograms for Interval {
    fn each(&self, take: &mut Take<'_>) -> io::Result<()> {
        let mut node: BTreeMap<MetricId, Latency> = BTreeMap::new();
        for row in self.flows.iter().chain([&self.other]) {
            for (metric, latency) in &row.latencies {
                node.entry(*metric).or_default().merge(latency);
            }
        }
        let mut names = BTreeMap::new();
        for (id, _, metric) in signal::metrics() {
            names.insert(id, metric.name);
            // the untagged line is there even when empty: it marks the interval
            let always = metric.name == UNTAGGED;
            let latency = node.remove(&id).unwrap_or_default();
            if always || !latency.is_empty() {
                take(None, metric.name, &latency.histogram())?;
            }
        }
        let mut each = |id: &str, row: &Frozen| -> io::Result<()> {
            for (metric, latency) in &row.latencies {
                let Some(name) = names.get(metric) else { continue };
                if !latency.is_empty() {
                    take(Some(id), name, &latency.histogram())?;
                }
            }
            Ok(())
        };
        for row in &self.flows {
            each(&row_name(row), row)?;
        }
        each("other", &self.other)
    }
}
