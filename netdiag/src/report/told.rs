//! What a report tells: `netdiag.report/1`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::By;
use crate::{
    diagnosis::Withheld,
    finding::Finding,
    snapshot::{CountValue, Distribution, Endpoint, Owner, Role},
};

/// Value of `schema`.
pub const SCHEMA: &str = "netdiag.report/1";

/// Recordings of any number of nodes, merged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// `netdiag.report/1`.
    pub schema: String,
    /// When the first interval begins, RFC 3339 UTC.
    pub start: String,
    /// When the last one ends.
    pub end: String,
    /// Whether filters of the recordings or of the report leave flows out.
    pub filtered: bool,
    /// True when nothing was lost or missed while recording, and all that was recorded could be read.
    pub complete: bool,
    /// The metric that rows are sorted by, by its 99th percentile: what was asked for, else the one in which most
    /// time was spent. Null where there is none.
    pub metric: Option<String>,
    /// Counts of rows that columns of time are kept of.
    pub counted: Vec<String>,
    /// The nodes, by name.
    pub nodes: Vec<NodeRow>,
    /// The columns of time.
    pub columns: Times,
    /// Everything together.
    pub all: Row,
    /// The same by what flows have in common, one for each kind.
    pub by: Vec<Grouped>,
    /// Conversations of which both ends were recorded, the most troubled first.
    pub conversations: Vec<Conversation>,
    /// What is wrong, by node and there by rank.
    pub findings: Vec<Located>,
    /// Findings that were left out since there were many of one id, by id.
    pub findings_left_out: BTreeMap<String, u64>,
    /// What is to be known of these numbers, a line each.
    pub notes: Vec<String>,
    /// Everything together in few columns, for text.
    #[serde(skip)]
    pub coarse: Vec<Coarse>,
}

/// What there is of a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NodeRow {
    /// Its name.
    pub name: String,
    /// Kernel release, the last that was recorded.
    pub kernel: String,
    /// When its first interval begins, RFC 3339 UTC.
    pub start: String,
    /// When its last one ends.
    pub end: String,
    /// Runs of `netdiag record`.
    pub runs: u64,
    /// Intervals of them.
    pub intervals: u64,
    /// Seconds of all intervals.
    pub recorded_s: f64,
    /// Times between intervals in which nothing was recorded.
    pub gaps: u64,
    /// Seconds of those.
    pub gap_s: f64,
    /// Seconds that several runs recorded at once: flows that both saw count twice.
    pub overlap_s: f64,
    /// True when nothing was lost or missed.
    pub complete: bool,
    /// Samples that were lost or missed; null where that is not known.
    pub lost: Option<u64>,
    /// Whether filters narrowed what was recorded.
    pub filtered: bool,
    /// Whether flows were recorded as groups (`record --by`): then nothing is concluded, and no ends are known.
    pub grouped: bool,
    /// Findings of which nothing can be said.
    pub withheld: Vec<Withheld>,
    /// Signals of which samples were left out to keep the cost down. The notes say so.
    #[serde(skip)]
    pub shed: Vec<String>,
}

/// Columns of time side by side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Times {
    /// When the first one begins, RFC 3339 UTC.
    pub start: String,
    /// How wide each is, in nanoseconds. An interval counts in the column in which it begins.
    pub step_ns: u64,
    /// How many there are.
    pub count: u64,
    /// Milliseconds recorded in each, of all nodes together: in a column with 0 nothing is known.
    pub recorded_ms: Vec<u64>,
}

/// Flows that have something in common.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Row {
    /// What that is; null where it is not known of them.
    pub name: Option<String>,
    /// How many they are; null where they were not counted.
    pub flows: Option<u64>,
    /// Latency distributions by metric; one with no sample is absent.
    pub metrics: BTreeMap<String, Distribution>,
    /// Counts by name, as in a snapshot; states are absent.
    pub counts: BTreeMap<String, CountValue>,
    /// The same by column of time; null for what is only summed up.
    pub over_time: Option<Course>,
}

/// A row by column of time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Course {
    /// Latencies by metric.
    pub metrics: BTreeMap<String, Series>,
    /// Counts that tell of trouble; null where no source could see them.
    pub counts: BTreeMap<String, Vec<Option<u64>>>,
}

/// Percentiles by column of time; null where there was no sample.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Series {
    /// Samples.
    pub count: Vec<u64>,
    /// Medians.
    pub p50_ns: Vec<Option<u64>>,
    /// 90th percentiles.
    pub p90_ns: Vec<Option<u64>>,
    /// 99th percentiles.
    pub p99_ns: Vec<Option<u64>>,
    /// 99.9th percentiles.
    pub p999_ns: Vec<Option<u64>>,
    /// Largest values.
    pub max_ns: Vec<Option<u64>>,
    /// For the page: samples by quarter of a power of two, in pairs of its number and the samples.
    #[serde(skip)]
    pub heat: Vec<Vec<u64>>,
    /// For the page: the percentile curve, in pairs of a part of the samples and the value that it does not exceed.
    #[serde(skip)]
    pub curve: Vec<(f64, u64)>,
}

/// Rows of one kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Grouped {
    /// What flows of a row have in common.
    pub by: By,
    /// The rows, the worst first.
    pub rows: Vec<Row>,
    /// Sum of all that have no row, and of what recordings sum up themselves.
    pub other: Row,
    /// How many have no row, at least.
    pub folded: u64,
}

/// Both ends of a conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Conversation {
    /// `tcp` or `udp`.
    pub protocol: Option<String>,
    /// When it was first seen, RFC 3339 UTC.
    pub start: String,
    /// When it was last seen.
    pub end: String,
    /// Whether addresses are translated between the two.
    pub translated: bool,
    /// The two ends, the client's first where that is known.
    pub ends: Vec<EndRow>,
    /// From the first to the second, and back.
    pub ways: Vec<Way>,
}

/// One end of a conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EndRow {
    /// The node that recorded it.
    pub node: String,
    /// Id of the flow in its run.
    pub id: String,
    /// This end.
    pub local: Endpoint,
    /// The other end as it sees it.
    pub peer: Endpoint,
    /// Inode number of the network namespace.
    pub netns: Option<u32>,
    /// Client or server.
    pub role: Option<Role>,
    /// Whom it belongs to.
    pub owner: Owner,
    /// The smallest round-trip time that it saw.
    pub rtt_min_ns: Option<u64>,
    /// Latency distributions by metric.
    pub metrics: BTreeMap<String, Distribution>,
    /// Counts by name.
    pub counts: BTreeMap<String, CountValue>,
}

/// One direction of a conversation, by what both ends say of it. Null is what one of them does not say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Way {
    /// Node that sends.
    pub from: String,
    /// Node that receives.
    pub to: String,
    /// Segments that left, those sent again among them.
    pub segments_sent: Option<u64>,
    /// Segments that arrived at the other end's TCP.
    pub segments_received: Option<u64>,
    /// Segments that did not; null too where one end was recorded for longer than the other.
    pub segments_lost: Option<u64>,
    /// Segments sent again.
    pub retransmits: Option<u64>,
    /// Payload bytes sent again.
    pub retransmitted_bytes: Option<u64>,
    /// Segments that were sent again for nothing, as the receiver told.
    pub spurious: Option<u64>,
    /// Packets of the conversation that the sender's kernel dropped, of either direction.
    pub dropped_at_sender: Option<u64>,
    /// The same of the receiver's kernel. A packet may be of many segments.
    pub dropped_at_receiver: Option<u64>,
    /// Bytes of what the sender's kernel dropped.
    pub dropped_bytes_at_sender: Option<u64>,
    /// Bytes of what the receiver's kernel dropped.
    pub dropped_bytes_at_receiver: Option<u64>,
    /// Where it is lost, in words.
    pub lost_where: String,
}

/// A finding and the node that it is of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Located {
    /// Name of the node.
    pub node: String,
    /// The finding.
    #[serde(flatten)]
    pub finding: Finding,
}

/// Everything together in a wide column of time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coarse {
    /// When it begins, RFC 3339 UTC.
    pub start: String,
    /// Whether anything was recorded in it.
    pub recorded: bool,
    /// By the metric of the report.
    pub latency: Distribution,
    /// By [`Report::counted`].
    pub counts: Vec<Option<u64>>,
}
