//! What netdiag takes, with all signals, while there is nothing to see, beside bpftrace with the script that everyone
//! copies.

use std::process::ExitCode;

use anyhow::Result;

use super::{
    Args,
    parts::{Measurement, Part},
};

static IDLE: Measurement = Measurement {
    name: "idle",
    title: "with nothing to see: of one processor, in memory, and all that all processors did",
    parts: &[
        Part { name: "cpu_percent", digits: 3, limit: Some(0.3), ratio_limit: None },
        Part { name: "resident_mb", digits: 1, limit: Some(15.0), ratio_limit: None },
        Part { name: "machine_percent", digits: 1, limit: None, ratio_limit: None },
    ],
    is_compared: false,
};

pub(super) fn main(args: &Args) -> Result<ExitCode> {
    IDLE.main(args, vec![args.rounds().to_string(), args.seconds.to_string()])
}
