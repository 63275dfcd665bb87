//! What netdiag itself costs the node, and what it leaves out to cost no more.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What netdiag itself takes, in the interval or, in a total, in the run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Own {
    /// CPU time of the process, user and system, all threads, in nanoseconds; null in what an older netdiag
    /// recorded.
    pub cpu_ns: Option<u64>,
    /// The same as a part of one core.
    pub cpu_ratio: Option<f64>,
    /// Resident memory of the process at the end.
    pub resident_bytes: Option<u64>,
    /// Samples that were read from the rings, whatever became of them.
    pub samples: Option<u64>,
    /// The same per second.
    pub samples_per_s: Option<f64>,
    /// What the eBPF programs took of one core, in the time of whoever ran into them, in the windows of late in which
    /// they were measured; null as long as there was none. Calling them is not contained.
    pub programs_cpu_ratio: Option<f64>,
    /// What a run of each took in all such windows, by program; those that did not run are absent.
    pub programs: Vec<OwnProgram>,
    /// What all that may take of one core (`--max-cpu`); null where nothing was said.
    pub max_cpu_ratio: Option<f64>,
    /// Signals whose samples are left out by now, to keep within that or since they come faster than they can be
    /// read: counted as `shed`.
    pub shed: Vec<String>,
}

/// What the runs of one eBPF program took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OwnProgram {
    /// Its name.
    pub program: String,
    /// The signal that it is of; of several that share it the first.
    pub signal: String,
    /// Runs that were measured.
    pub runs: u64,
    /// What one took on average, in nanoseconds; the measurement adds some.
    pub run_ns: u64,
}
