//! Metrics of netdiag itself: what it sees and what it lost, what it found, and what it costs.

use std::{collections::BTreeSet, time::UNIX_EPOCH};

use super::{
    family::Unit,
    scalar::{
        Scalar, Seen,
        Taking::{Increase, Info, Now, SinceStart},
        Tell,
    },
};
use crate::{
    finding::Severity,
    format::sanitised,
    snapshot::{Account, Status},
};

/// All of them.
pub(super) const SCALARS: &[Scalar] = &[
    Scalar::new("netdiag_build_info", Info, "which netdiag runs on which node and kernel", |seen, tell| {
        let (host, kernel) = (sanitised(&seen.snapshot.host), sanitised(&seen.snapshot.kernel));
        tell(&[env!("CARGO_PKG_VERSION"), &kernel, &host], 1.0);
    })
    .by(&["version", "kernel", "node"]),
    Scalar::new(
        "netdiag_finding",
        Now,
        "1 while something is found that is wrong, or was in the last minute; there is no series of what is not found",
        finding,
    )
    .by(&["id", "severity"]),
    Scalar::new("netdiag_findings", Now, "how many there are, one for each peer, process or interface", findings)
        .by(&["severity"]),
    Scalar::new(
        "netdiag_findings_withheld",
        Now,
        "findings of which nothing can be said, since signals that they need are off, or samples were lost or left out",
        |seen, tell| tell(&[], seen.withheld as f64),
    ),
    Scalar::new(
        "netdiag_signal_status",
        Now,
        "1 at how a signal is observed: full, degraded (something of it cannot be seen) or off",
        status,
    )
    .by(&["signal", "status"]),
    Scalar::new("netdiag_signal_info", Info, "by which source a signal is observed; empty where it is off", |seen, tell| {
        for signal in &seen.snapshot.signals {
            tell(&[&signal.signal, signal.source.as_deref().unwrap_or_default()], 1.0);
        }
    })
    .by(&["signal", "source"]),
    Scalar::new(
        "netdiag_samples_total",
        SinceStart,
        "what became of the samples that programs saw: submitted, or filtered, left out (rate_limited, shed), \
         unmatched (an end without a beginning), lost (ring_full, map_full, read_failed); and missed, which no \
         program saw",
        samples,
    )
    .by(&["signal", "fate"]),
    Scalar::new("netdiag_samples_seen_total", SinceStart, "samples that programs saw", |seen, tell| {
        accounts(seen, tell, |account| account.seen);
    })
    .by(&["signal"]),
    Scalar::new("netdiag_samples_pending", Now, "samples begun and not ended, or not handed over yet", |seen, tell| {
        accounts(seen, tell, |account| account.pending);
    })
    .by(&["signal"]),
    Scalar::new("netdiag_samples_received_total", SinceStart, "samples that came out of the rings", |seen, tell| {
        tell(&[], seen.snapshot.stream.received as f64);
    }),
    Scalar::new("netdiag_samples_decoded_total", SinceStart, "of these the ones that were understood", |seen, tell| {
        tell(&[], seen.snapshot.stream.decoded as f64);
    }),
    Scalar::new("netdiag_samples_malformed_total", SinceStart, "of these the ones that were not", |seen, tell| {
        tell(&[], seen.snapshot.stream.malformed as f64);
    }),
    Scalar::new("netdiag_complete", Now, "1 as long as nothing was lost or missed", |seen, tell| {
        tell(&[], f64::from(u8::from(seen.snapshot.complete)));
    }),
    Scalar::new(
        "netdiag_filtered",
        Now,
        "1 where filters narrow the flows; the counters of the node stay whole",
        |seen, tell| tell(&[], f64::from(u8::from(seen.snapshot.filtered))),
    ),
    Scalar::new("netdiag_flows", Now, "flows that did something in the last interval", |seen, tell| {
        tell(&[], seen.flows as f64);
    }),
    Scalar::new(
        "netdiag_groups",
        Now,
        "groups of flows: told apart, and those of the last interval that are summed up in `other` for want of room",
        |seen, tell| {
            tell(&["apart"], seen.groups as f64);
            tell(&["other"], seen.summed_up as f64);
        },
    )
    .by(&["told"]),
    Scalar::new(
        "netdiag_interval_end_timestamp_seconds",
        Now,
        "when the last interval ended, up to which all metrics count",
        |seen, tell| {
            let since = seen.now.duration_since(UNIX_EPOCH).unwrap_or_default();
            tell(&[], since.as_secs_f64());
        },
    )
    .of(Unit::Seconds),
    Scalar::new("netdiag_interval_seconds", Now, "how long that interval was", |seen, tell| {
        tell(&[], seen.took.as_secs_f64());
    })
    .of(Unit::Seconds),
    Scalar::new(
        "process_cpu_seconds_total",
        Increase,
        "CPU time of netdiag's process; what its programs take in the kernel is charged to those that they run for",
        |seen, tell| {
            if let Some(ns) = seen.snapshot.own.cpu_ns {
                tell(&[], ns as f64 / 1e9);
            }
        },
    )
    .of(Unit::Seconds),
    Scalar::new("process_resident_memory_bytes", Now, "resident memory of netdiag's process", |seen, tell| {
        if let Some(bytes) = seen.snapshot.own.resident_bytes {
            tell(&[], bytes as f64);
        }
    })
    .of(Unit::Bytes),
    Scalar::new(
        "netdiag_programs_cpu_ratio",
        Now,
        "what netdiag's programs took of one core, in the time of whoever ran into them, by windows of 20 ms of late",
        |seen, tell| {
            if let Some(ratio) = seen.snapshot.own.programs_cpu_ratio {
                tell(&[], ratio);
            }
        },
    )
    .of(Unit::Ratio),
    Scalar::new(
        "netdiag_program_run_seconds",
        Now,
        "what a run of a program took on average in all such windows, of those that ran in any",
        |seen, tell| {
            for program in &seen.snapshot.own.programs {
                tell(&[&program.program, &program.signal], program.run_ns as f64 / 1e9);
            }
        },
    )
    .of(Unit::Seconds)
    .by(&["program", "signal"]),
    Scalar::new(
        "netdiag_max_cpu_ratio",
        Now,
        "what process and programs together may take of one core (--max-cpu); there is no series where nothing was said",
        |seen, tell| {
            if let Some(ratio) = seen.snapshot.own.max_cpu_ratio {
                tell(&[], ratio);
            }
        },
    )
    .of(Unit::Ratio),
    Scalar::new(
        "netdiag_shed",
        Now,
        "1 while samples of a signal are left out to keep the cost down; there is no series of what is not",
        |seen, tell| seen.snapshot.own.shed.iter().for_each(|signal| tell(&[signal], 1.0)),
    )
    .by(&["signal"]),
];

fn finding(seen: &Seen<'_>, tell: &mut Tell<'_>) {
    let found: BTreeSet<(&str, Severity)> =
        seen.found.iter().map(|finding| (finding.id.as_str(), finding.severity)).collect();
    for (id, severity) in found {
        tell(&[id, severity.name()], 1.0);
    }
}

fn findings(seen: &Seen<'_>, tell: &mut Tell<'_>) {
    for severity in [Severity::Critical, Severity::Warning, Severity::Info] {
        let of_it = seen.found.iter().filter(|finding| finding.severity == severity);
        tell(&[severity.name()], of_it.count() as f64);
    }
}

fn status(seen: &Seen<'_>, tell: &mut Tell<'_>) {
    let all = [(Status::Full, "full"), (Status::Degraded, "degraded"), (Status::Off, "off")];
    for signal in &seen.snapshot.signals {
        for (status, name) in all {
            tell(&[&signal.signal, name], f64::from(u8::from(signal.status == status)));
        }
    }
}

fn accounts(seen: &Seen<'_>, tell: &mut Tell<'_>, of: impl Fn(&Account) -> u64) {
    for (signal, account) in &seen.snapshot.accounting {
        tell(&[signal], of(account) as f64);
    }
}

fn samples(seen: &Seen<'_>, tell: &mut Tell<'_>) {
    for (signal, account) in &seen.snapshot.accounting {
        // All but what is pending, which comes to one of these.
        let &Account {
            seen: _,
            filtered,
            submitted,
            ring_full,
            map_full,
            read_failed,
            rate_limited,
            shed,
            unmatched,
            pending: _,
            missed,
        } = account;
        for (fate, n) in [
            ("filtered", filtered),
            ("submitted", submitted),
            ("ring_full", ring_full),
            ("map_full", map_full),
            ("read_failed", read_failed),
            ("rate_limited", rate_limited),
            ("shed", shed),
            ("unmatched", unmatched),
            ("missed", missed),
        ] {
            tell(&[signal, fate], n as f64);
        }
    }
}
