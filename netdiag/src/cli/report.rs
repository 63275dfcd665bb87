//! `netdiag report`.

use std::path::PathBuf;

use clap::Args;

use super::{
    Filters, Output,
    value::{self, When},
};
use crate::report::By;

/// `netdiag report`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Recordings may be of any number of nodes, and may still be written. All numbers
are exact: histograms are added up, percentiles are never averaged.

Examples:
  netdiag report /var/lib/netdiag
  netdiag report dumps --since 1h --by owner,service
  netdiag report node-a node-b --html report.html
  netdiag report dumps -o json | jq '.by[0].rows[0]'")]
pub struct Report {
    /// Directories that `netdiag record --out` wrote to, or single files of theirs
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Make flows one row that have that in common; several make a table each
    /// [default: peer, with --html all]
    #[arg(long, value_enum, value_name = "LIST", value_delimiter = ',')]
    pub by: Vec<By>,
    /// Rows of each table: those with the most time, the most trouble and the slowest
    #[arg(long, value_name = "N", default_value_t = 20,
        value_parser = clap::value_parser!(u16).range(1..=1_000))]
    pub top: u16,
    /// Metric that rows are sorted by [default: the one in which most time was spent]
    #[arg(long, value_name = "METRIC", value_parser = value::metric)]
    pub metric: Option<&'static str>,
    /// Leave earlier intervals out: a time (2026-11-21T04:18:00Z) or how long ago (2h)
    #[arg(long, value_name = "TIME", value_parser = value::when)]
    pub since: Option<When>,
    /// Leave later intervals out, likewise
    #[arg(long, value_name = "TIME", value_parser = value::when)]
    pub until: Option<When>,
    /// Write a page for browsers to FILE, which needs nothing else
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Form of the output
    #[arg(short, long, value_enum, value_name = "FORM", default_value_t)]
    pub output: Output,
    /// Keep all privileges, where giving them up is in the way
    #[arg(long)]
    pub no_sandbox: bool,
    /// Which flows to tell of; a network namespace by its inode number.
    #[command(flatten)]
    pub filters: Filters,
}
