//! `netdiag diagnose`.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::{
    Filters, Flows, Kernel, Output,
    value::{self, Given},
};
use crate::{finding::Severity, flow::Grouping};

/// `netdiag diagnose`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Findings are ranked: the first is the one to act on, symptoms come after their
cause. On a terminal they are told as they form; ^C ends with what is known.

Examples:
  netdiag diagnose
  netdiag diagnose -d 5m --peer-port 5432
  netdiag diagnose --from /var/lib/netdiag
  netdiag diagnose --threshold packet-loss.loss_ratio=0.005 --fail-on critical
  netdiag diagnose -o json | jq -r '.findings[] | .id + \" \" + .scope.name'")]
pub struct Diagnose {
    /// Conclude from what `netdiag record` wrote to DIR, and watch nothing
    #[arg(long, value_name = "DIR", conflicts_with_all = ["interval", "duration", "strict", "idle",
        "max_flows", "max_cpu", "pid", "port", "local_port", "peer_port", "peer", "netns", "comm",
        "cgroup", "container", "pod", "namespace", "wait", "signals", "source", "btf", "host_root",
        "ring_size", "log"])]
    pub from: Option<PathBuf>,
    /// Time between two looks, with a unit, 100ms to 1h
    #[arg(short, long, value_name = "TIME", default_value = "1s", value_parser = value::interval)]
    pub interval: Duration,
    /// Watch for this long, with a unit
    #[arg(short, long, value_name = "TIME", default_value = "30s", value_parser = value::duration)]
    pub duration: Duration,
    /// Form of the output
    #[arg(short, long, value_enum, value_name = "FORM", default_value_t)]
    pub output: Output,
    /// Only to say that it has no place here.
    #[arg(long, hide = true, value_parser = value::by_is_no_matter)]
    pub by: Option<Grouping>,
    /// Set a threshold of a finding; may be repeated
    #[arg(long, value_name = "ID.NAME=VALUE", value_delimiter = ',',
        value_parser = value::threshold)]
    pub threshold: Vec<Given>,
    /// End with status 10 when there is a finding of this severity or a worse one
    #[arg(long, value_enum, value_name = "SEVERITY")]
    pub fail_on: Option<Severity>,
    /// What is remembered of flows, and what ends the run badly.
    #[command(flatten)]
    pub flows: Flows,
    /// Which flows to watch.
    #[command(flatten)]
    pub filters: Filters,
    /// Which kernel facilities to use.
    #[command(flatten)]
    pub kernel: Kernel,
}
