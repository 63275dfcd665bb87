//! The protobuf format of Prometheus: messages `io.prometheus.client.MetricFamily`, each behind its length. Histograms
//! have classic and native buckets in it.
//!
//! The messages are those of `io/prometheus/client/metrics.proto` of prometheus/client_model, as far as anything is
//! told in them, and `google.protobuf.Timestamp`.

use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message;

use super::{
    family::{Family, Kind, Series, Value},
    histogram::{BOUNDS, Distribution, SCHEMA, ZERO_THRESHOLD, seconds},
};

#[derive(Clone, PartialEq, Message)]
struct Timestamp {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

#[derive(Clone, PartialEq, Message)]
struct LabelPair {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(string, optional, tag = "2")]
    value: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Gauge {
    #[prost(double, optional, tag = "1")]
    value: Option<f64>,
}

#[derive(Clone, PartialEq, Message)]
struct Counter {
    #[prost(double, optional, tag = "1")]
    value: Option<f64>,
    #[prost(message, optional, tag = "3")]
    created_timestamp: Option<Timestamp>,
}

#[derive(Clone, PartialEq, Message)]
struct Bucket {
    #[prost(uint64, optional, tag = "1")]
    cumulative_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    upper_bound: Option<f64>,
}

#[derive(Clone, PartialEq, Message)]
struct BucketSpan {
    #[prost(sint32, optional, tag = "1")]
    offset: Option<i32>,
    #[prost(uint32, optional, tag = "2")]
    length: Option<u32>,
}

#[derive(Clone, PartialEq, Message)]
struct Histogram {
    #[prost(uint64, optional, tag = "1")]
    sample_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    sample_sum: Option<f64>,
    #[prost(message, repeated, tag = "3")]
    bucket: Vec<Bucket>,
    #[prost(sint32, optional, tag = "5")]
    schema: Option<i32>,
    #[prost(double, optional, tag = "6")]
    zero_threshold: Option<f64>,
    #[prost(uint64, optional, tag = "7")]
    zero_count: Option<u64>,
    #[prost(message, repeated, tag = "12")]
    positive_span: Vec<BucketSpan>,
    #[prost(sint64, repeated, packed = "false", tag = "13")]
    positive_delta: Vec<i64>,
    #[prost(message, optional, tag = "15")]
    created_timestamp: Option<Timestamp>,
}

#[derive(Clone, PartialEq, Message)]
struct Metric {
    #[prost(message, repeated, tag = "1")]
    label: Vec<LabelPair>,
    #[prost(message, optional, tag = "2")]
    gauge: Option<Gauge>,
    #[prost(message, optional, tag = "3")]
    counter: Option<Counter>,
    #[prost(message, optional, tag = "7")]
    histogram: Option<Histogram>,
}

#[derive(Clone, PartialEq, Message)]
struct MetricFamily {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(string, optional, tag = "2")]
    help: Option<String>,
    #[prost(int32, optional, tag = "3")]
    r#type: Option<i32>,
    #[prost(message, repeated, tag = "4")]
    metric: Vec<Metric>,
    #[prost(string, optional, tag = "5")]
    unit: Option<String>,
}

/// `enum MetricType`. It has no info, which is a gauge.
const fn number(kind: Kind) -> i32 {
    match kind {
        Kind::Counter => 0,
        Kind::Gauge | Kind::Info => 1,
        Kind::Histogram => 4,
    }
}

/// All families that have series, each behind its length (a varint).
pub(super) fn delimited(families: &[Family]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for family in families.iter().filter(|family| !family.series.is_empty()) {
        bytes.extend(message(family).encode_length_delimited_to_vec());
    }
    bytes
}

fn message(family: &Family) -> MetricFamily {
    let definition = &*family.definition;
    let series = family.series.iter();
    MetricFamily {
        name: Some(definition.name.clone()),
        help: Some(definition.help.clone()),
        r#type: Some(number(definition.kind)),
        metric: series.map(|series| metric(series, &definition.labels, definition.kind)).collect(),
        unit: definition.unit.map(|unit| unit.name().to_owned()),
    }
}

fn metric(series: &Series, names: &[&str], kind: Kind) -> Metric {
    let label = |(name, value): (&&str, &std::sync::Arc<str>)| LabelPair {
        name: Some((*name).to_owned()),
        value: Some((**value).to_owned()),
    };
    let mut metric = Metric {
        label: names.iter().zip(&series.labels).map(label).collect(),
        ..Metric::default()
    };
    let created_timestamp = series.since.map(timestamp);
    match &series.value {
        Value::Histogram(told) => metric.histogram = Some(histogram(told, created_timestamp)),
        &Value::Number(value) if kind == Kind::Counter => {
            metric.counter = Some(Counter { value: Some(value), created_timestamp });
        }
        &Value::Number(value) => metric.gauge = Some(Gauge { value: Some(value) }),
    }
    metric
}

fn histogram(told: &Distribution, created_timestamp: Option<Timestamp>) -> Histogram {
    let bucket = |((bound, _), n): (&(u64, &str), u64)| Bucket {
        cumulative_count: Some(n),
        upper_bound: Some(seconds(*bound as f64)),
    };
    let span = |span: &super::histogram::Span| BucketSpan {
        offset: Some(span.offset),
        length: Some(span.length),
    };
    Histogram {
        sample_count: Some(told.count),
        sample_sum: Some(told.sum_seconds),
        bucket: BOUNDS.iter().zip(told.classic).map(bucket).collect(),
        schema: Some(SCHEMA),
        zero_threshold: Some(ZERO_THRESHOLD),
        zero_count: Some(0),
        positive_span: told.spans.iter().map(span).collect(),
        positive_delta: told.deltas.clone(),
        created_timestamp,
    }
}

fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Series by the names that text would give them, with their values, in its order.
    pub(in crate::view::metrics) fn read(mut bytes: &[u8]) -> Vec<(String, String)> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let family = MetricFamily::decode_length_delimited(&mut bytes).expect("a message");
            let name = family.name.expect("a name");
            for metric in family.metric {
                series(&name, &metric, &mut found);
            }
        }
        found
    }

    fn series(name: &str, metric: &Metric, found: &mut Vec<(String, String)>) {
        let escaped = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
        let labels = metric.label.iter().map(|label| {
            let text = |text: &Option<String>| text.clone().expect("a label has both");
            (text(&label.name), text(&label.value))
        });
        let called = |end: &str, bound: Option<&str>| {
            let all = labels.clone().chain(bound.map(|bound| ("le".to_owned(), bound.to_owned())));
            let all: Vec<_> =
                all.map(|(name, value)| format!("{name}=\"{}\"", escaped(&value))).collect();
            if all.is_empty() {
                format!("{name}{end}")
            } else {
                format!("{name}{end}{{{}}}", all.join(","))
            }
        };
        if let Some(told) = &metric.histogram {
            let count = told.sample_count.expect("a count");
            for (bucket, (bound, text)) in told.bucket.iter().zip(BOUNDS) {
                assert_eq!(bucket.upper_bound, Some(seconds(bound as f64)));
                let n = bucket.cumulative_count.expect("a count");
                found.push((called("_bucket", Some(text)), n.to_string()));
            }
            found.push((called("_bucket", Some("+Inf")), count.to_string()));
            found.push((called("_sum", None), told.sample_sum.expect("a sum").to_string()));
            found.push((called("_count", None), count.to_string()));
            let (mut n, mut native) = (0, 0);
            for delta in &told.positive_delta {
                n += delta;
                native += n;
            }
            assert_eq!(native as u64, count);
            let buckets: u32 = told.positive_span.iter().map(|span| span.length.unwrap_or(0)).sum();
            assert_eq!(buckets as usize, told.positive_delta.len());
            return;
        }
        let counter = metric.counter.as_ref().map(|counter| counter.value);
        let value = counter.or(metric.gauge.as_ref().map(|gauge| gauge.value)).flatten();
        found.push((called("", None), value.expect("a value").to_string()));
    }
}
