//! A latency histogram that is small while it has few values.

/// Latencies in nanoseconds; see the contract for range and precision.
#[derive(Clone, Debug, Default)]
pub struct Latency;
