//! How long it takes from netdiag's `exec`, with all signals, to its first data, beside bpftrace with the script that
//! everyone copies.

use std::process::ExitCode;

use anyhow::Result;

use super::{
    Args,
    parts::{Measurement, Part},
};

/// With all signals no later than what traces one.
const NO_LATER: Option<f64> = Some(1.0);

static START: Measurement = Measurement {
    name: "start",
    title: "from exec to the first send that counts, and to the first line of data",
    parts: &[
        Part { name: "first_event_ms", digits: 0, limit: None, ratio_limit: NO_LATER },
        Part { name: "first_line_ms", digits: 0, limit: None, ratio_limit: NO_LATER },
    ],
    is_compared: true,
};

pub(super) fn main(args: &Args) -> Result<ExitCode> {
    START.main(args, vec![args.rounds().to_string()])
}
