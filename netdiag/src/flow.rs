//! Flows: the table that events are folded into, and what is taken out of it each interval.

use netdiag_common::flow::FlowKey;

use crate::{
    flow::latency::Latency,
    signal::{CountId, MetricId},
    snapshot::Role,
};

pub mod latency;

/// One flow's share of an interval or a run, frozen.
#[derive(Clone, Debug, Default)]
pub struct Frozen {
    /// Number of the flow: unique in a run, never reused. 0 for `other`.
    pub id: u64,
    /// The conversation; all zero for `other`.
    pub key: FlowKey,
    /// Which end it is, where known.
    pub role: Option<Role>,
    /// Process id of the owner.
    pub pid: Option<u32>,
    /// Name of the owner.
    pub comm: Option<String>,
    /// Whether the socket is gone.
    pub closed: bool,
    /// Smoothed round-trip time as last reported, in nanoseconds.
    pub srtt_ns: Option<u64>,
    /// Congestion window as last reported, in segments.
    pub cwnd: Option<u32>,
    /// Latencies that have samples, sorted by id.
    pub latencies: Vec<(MetricId, Latency)>,
    /// Counts that are present, sorted by id; what absence means stands in
    /// [`crate::signal::Count::absent_is_zero`].
    pub counts: Vec<(CountId, u64)>,
}

/// All flows of an interval or a run.
#[derive(Clone, Debug, Default)]
pub struct Interval {
    /// Flows with a row of their own.
    pub flows: Vec<Frozen>,
    /// Sum of all others.
    pub other: Frozen,
}
