//! Metrics as OTLP, the protocol of OpenTelemetry, version 1: the body of one request for all of them at a time.
//!
//! It is made of the same families as the formats of Prometheus ([`super::metrics`]). All that rises is cumulative and
//! tells since when: a request that is lost costs the collector nothing but a point in time. Latencies are exponential
//! histograms whose buckets are the native ones of Prometheus, so whatever is said of their errors there is true here.

mod message;
mod name;

#[cfg(test)]
mod tests;

use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message as _;

pub use self::name::{name, unit};
use self::{
    message::{
        Buckets, CUMULATIVE, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Metric,
        NumberDataPoint, Request, Resource, ResourceMetrics, Response, Scope, ScopeMetrics, Status,
        Sum,
    },
    name::{adds_up, attributes, text},
};
use super::metrics::{Definition, Distribution, Family, Kind, SCHEMA, Series, Unit, Value};

/// Value of the header `Content-Type`, of requests and answers.
pub const CONTENT_TYPE: &str = "application/x-protobuf";

/// Name of the service and of the scope that all metrics are of.
const NAME: &str = "netdiag";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The body of a request that tells all metrics of a node as they stand at the end of an interval.
#[must_use]
pub fn request(families: &[Family], node: &str, end: SystemTime) -> Vec<u8> {
    message(families, node, end).encode_to_vec()
}

fn message(families: &[Family], node: &str, end: SystemTime) -> Request {
    let told = families.iter().filter(|family| !family.series.is_empty());
    let of_scope = ScopeMetrics {
        scope: Some(Scope { name: NAME.to_owned(), version: VERSION.to_owned() }),
        metrics: told.map(|family| metric(family, end)).collect(),
    };
    let of_node = ResourceMetrics { resource: Some(resource(node)), scope_metrics: vec![of_scope] };
    Request { resource_metrics: vec![of_node] }
}

/// Who tells them. One netdiag of a node sends at a time, so the node's name tells instances apart.
fn resource(node: &str) -> Resource {
    let attributes = [
        ("service.name", NAME),
        ("service.version", VERSION),
        ("service.instance.id", node),
        ("host.name", node),
        ("os.type", "linux"),
    ];
    Resource { attributes: attributes.map(|(key, value)| text(key.to_owned(), value)).to_vec() }
}

fn metric(family: &Family, end: SystemTime) -> Metric {
    let definition = &*family.definition;
    let mut metric = Metric {
        name: name(definition),
        description: definition.help.clone(),
        unit: unit(definition),
        ..Metric::default()
    };
    let sum = |is_monotonic| Sum {
        data_points: numbers(family, end),
        aggregation_temporality: CUMULATIVE,
        is_monotonic,
    };
    match definition.kind {
        Kind::Histogram => {
            metric.exponential_histogram = Some(ExponentialHistogram {
                data_points: histograms(family, end),
                aggregation_temporality: CUMULATIVE,
            });
        }
        Kind::Counter => metric.sum = Some(sum(true)),
        Kind::Gauge if adds_up(definition) => metric.sum = Some(sum(false)),
        // OTLP has no info: it is 1, and its attributes tell.
        Kind::Gauge | Kind::Info => {
            metric.gauge = Some(Gauge { data_points: numbers(family, end) });
        }
    }
    metric
}

fn numbers(family: &Family, end: SystemTime) -> Vec<NumberDataPoint> {
    let definition = &*family.definition;
    let point = |series: &Series| match &series.value {
        Value::Number(value) => Some(number(definition, series, *value, end)),
        Value::Histogram(_) => None,
    };
    family.series.iter().filter_map(point).collect()
}

fn number(
    definition: &Definition,
    series: &Series,
    value: f64,
    end: SystemTime,
) -> NumberDataPoint {
    // What is counted one by one; times and parts have fractions.
    let is_whole = matches!(definition.unit, None | Some(Unit::Bytes));
    NumberDataPoint {
        attributes: attributes(&definition.labels, &series.labels),
        start_time_unix_nano: start(series, end),
        time_unix_nano: nanoseconds(end),
        as_double: (!is_whole).then_some(value),
        as_int: is_whole.then_some(value as i64),
    }
}

fn histograms(family: &Family, end: SystemTime) -> Vec<ExponentialHistogramDataPoint> {
    let labels = &family.definition.labels;
    let point = |series: &Series| match &series.value {
        Value::Histogram(told) => Some(ExponentialHistogramDataPoint {
            attributes: attributes(labels, &series.labels),
            start_time_unix_nano: start(series, end),
            time_unix_nano: nanoseconds(end),
            count: told.count,
            sum: Some(told.sum_seconds),
            scale: SCHEMA,
            positive: buckets(told),
        }),
        Value::Number(_) => None,
    };
    family.series.iter().filter_map(point).collect()
}

/// The native buckets of Prometheus in a row. Its schema is the scale, and a bucket has the same bounds, but its number
/// is that of the power that it ends with, and here of the one that it begins behind.
fn buckets(told: &Distribution) -> Option<Buckets> {
    let mut counts = Vec::new();
    let mut first = None;
    for (bucket, n) in told.native() {
        let first = *first.get_or_insert(bucket);
        // Those between two spans have no samples.
        counts.resize((bucket - first) as usize, 0);
        counts.push(n);
    }
    first.map(|first: i32| Buckets { offset: first - 1, bucket_counts: counts })
}

/// When it was 0; never behind the end, which a clock that is set may lie before.
fn start(series: &Series, end: SystemTime) -> u64 {
    series.since.map_or(0, |since| nanoseconds(since.min(end)))
}

fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// What a collector says of a request that it took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Data points that it did not take.
    pub rejected: u64,
    /// Why, or a warning where it took all; empty without either. It is text of others.
    pub message: String,
}

/// Reads the body of an answer that says that a request was taken.
///
/// # Errors
/// It is no answer of a collector.
pub fn taken(body: &[u8]) -> Result<Taken, prost::DecodeError> {
    let partial = Response::decode(body)?.partial_success.unwrap_or_default();
    let rejected = u64::try_from(partial.rejected_data_points).unwrap_or(0);
    Ok(Taken { rejected, message: partial.error_message })
}

/// Why a collector refuses a request, by the body of its answer; empty where it does not say. It is text of others.
#[must_use]
pub fn refusal(body: &[u8]) -> String {
    Status::decode(body).map(|status| status.message).unwrap_or_default()
}
