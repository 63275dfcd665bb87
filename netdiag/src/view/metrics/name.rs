//! What counts and latencies of signals are called as metrics: pure rules on their names, so that a new one has its
//! own without more.

use super::family::{Definition, Kind, Unit};
use crate::signal::{Count, Metric, metrics};

/// What begins each name.
pub(super) const PREFIX: &str = "netdiag_";

/// A latency: `rtt` is `netdiag_rtt_seconds`.
pub(super) fn latency(metric: &Metric, labels: &[&'static str]) -> Definition {
    Definition {
        name: format!("{PREFIX}{}_seconds", metric.name),
        kind: Kind::Histogram,
        unit: Some(Unit::Seconds),
        labels: labels.to_vec(),
        help: metric.help.to_owned(),
    }
}

/// A count, and by how much its number is to be divided: `send_bytes` is `netdiag_send_bytes_total`, `busy_ns` is
/// `netdiag_busy_seconds_total`, `retransmits.rto` is a series of `netdiag_retransmits_total`, since its keys are
/// parts of a whole, and `dns.queries` is `netdiag_dns_queries_total`, since its are not.
///
/// None for a state, which does not add up, and for a time of which a latency has the name: its histogram has the
/// sum.
pub(super) fn count(
    count: &Count,
    before: &str,
    labels: &[&'static str],
) -> Option<(Definition, f64)> {
    if !count.adds_up {
        return None;
    }
    let stem = match (count.group(), count.key) {
        (Some(group), Some(_)) => group.to_owned(),
        _ => count.name.replace('.', "_"),
    };
    let (stem, unit, scale) = if let Some(stem) = stem.strip_suffix("_ns") {
        if metrics().any(|(_, _, metric)| metric.name == stem) {
            return None;
        }
        (format!("{stem}_seconds"), Some(Unit::Seconds), 1e9)
    } else if let Some(rest) = stem.strip_prefix("bytes_") {
        (format!("{rest}_bytes"), Some(Unit::Bytes), 1.0)
    } else if stem.ends_with("_bytes") {
        (stem, Some(Unit::Bytes), 1.0)
    } else {
        (stem, None, 1.0)
    };
    let definition = Definition {
        name: format!("{PREFIX}{before}{stem}_total"),
        kind: Kind::Counter,
        unit,
        labels: labels.iter().copied().chain(count.key).collect(),
        help: help(count.help, unit),
    };
    Some((definition, scale))
}

/// Help that speaks of the unit that is told.
fn help(help: &str, unit: Option<Unit>) -> String {
    match (unit, help.strip_prefix("nanoseconds")) {
        (Some(Unit::Seconds), Some(rest)) => format!("seconds{rest}"),
        _ => help.to_owned(),
    }
}
