//! What a metric is, and its series at a time: what every format is written from.

use std::{sync::Arc, time::SystemTime};

use super::histogram::Distribution;

/// What kind of number it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Rises, or begins anew with the process.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution of latencies, all of which rises.
    Histogram,
    /// Always 1: what is told are the labels.
    Info,
}

impl Kind {
    /// As OpenMetrics calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Info => "info",
        }
    }
}

/// Base units of Prometheus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
    /// A part of a whole, 0 to 1.
    Ratio,
}

impl Unit {
    /// As it ends the name of a metric.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Seconds => "seconds",
            Self::Bytes => "bytes",
            Self::Ratio => "ratio",
        }
    }
}

/// What is known of a metric before there is a number of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// Its whole name: that of a counter ends in `_total`, that of an info in `_info`.
    pub name: String,
    /// What kind of number it is.
    pub kind: Kind,
    /// Its unit, which its name has as well; none for what is counted.
    pub unit: Option<Unit>,
    /// Names of its labels.
    pub labels: Vec<&'static str>,
    /// What it says, one line.
    pub help: String,
}

impl Definition {
    /// Its name as OpenMetrics has it of the family: without what its kind adds.
    #[must_use]
    pub fn family(&self) -> &str {
        let end = match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        };
        self.name.strip_suffix(end).unwrap_or(&self.name)
    }
}

/// A metric with all its series.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    /// What it is.
    pub definition: Arc<Definition>,
    /// Its series, no two with the same labels.
    pub series: Vec<Series>,
}

/// One series at a time.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Values of the labels that the definition names, in that order.
    pub labels: Vec<Arc<str>>,
    /// When it was 0, where it rises.
    pub since: Option<SystemTime>,
    /// How much it is.
    pub value: Value,
}

impl Series {
    /// A number.
    pub(super) const fn number(labels: Vec<Arc<str>>, value: f64) -> Self {
        Self { labels, since: None, value: Value::Number(value) }
    }

    /// The same of what was 0 then.
    pub(super) fn since(self, since: SystemTime) -> Self {
        Self { since: Some(since), ..self }
    }
}

/// How much a series is.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// One number.
    Number(f64),
    /// A histogram.
    Histogram(Box<Distribution>),
}
