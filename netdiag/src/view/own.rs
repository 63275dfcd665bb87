//! What netdiag itself takes, in one line.

use crate::{
    format::{bytes, count, duration, percent, sanitised},
    snapshot::Own,
};

/// The line; none where nothing is known.
pub(super) fn line(own: &Own) -> Option<String> {
    let mut process = Vec::new();
    if let Some(ratio) = own.cpu_ratio {
        let limit = own.max_cpu_ratio.map(|limit| format!(" (at most {})", percent(limit)));
        process.push(format!("{} of a core{}", percent(ratio), limit.unwrap_or_default()));
    }
    process.extend(own.resident_bytes.map(bytes));
    process
        .extend(own.samples_per_s.map(|rate| format!("{} samples/s", count(rate.round() as u64))));
    if process.is_empty() {
        return None;
    }
    let mut parts = vec![format!("netdiag: {}", process.join(", "))];
    if let Some(ratio) = own.programs_cpu_ratio {
        let (runs, time_ns) =
            own.programs.iter().fold((0_u64, 0_u64), |(runs, time_ns), program| {
                (runs + program.runs, time_ns + program.runs * program.run_ns)
            });
        let each = time_ns.checked_div(runs).map(|ns| format!(", {} a run", duration(ns)));
        let each = each.unwrap_or_default();
        parts.push(format!("its programs {}{each}", percent(ratio)));
    }
    parts.extend(shed(own));
    Some(parts.join("; "))
}

/// Signals that are left out by now; none where none is.
pub(super) fn shed(own: &Own) -> Option<String> {
    (!own.shed.is_empty()).then(|| format!("SHED: {}", sanitised(&own.shed.join(", "))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::OwnProgram;

    #[test]
    fn what_is_known_is_told() {
        let mut own = Own::default();
        assert_eq!(line(&own), None);
        own.cpu_ratio = Some(0.0312);
        own.resident_bytes = Some(14 << 20);
        own.samples_per_s = Some(12_345.4);
        assert_eq!(
            line(&own).as_deref(),
            Some("netdiag: 3.1 % of a core, 14.0MiB, 12345 samples/s")
        );
        own.max_cpu_ratio = Some(0.05);
        own.programs_cpu_ratio = Some(0.008);
        own.programs = vec![OwnProgram {
            program: "send_fexit".to_owned(),
            signal: "send".to_owned(),
            runs: 10,
            run_ns: 312,
        }];
        own.shed = vec!["rtt".to_owned(), "turn".to_owned()];
        assert_eq!(
            line(&own).as_deref(),
            Some(
                "netdiag: 3.1 % of a core (at most 5 %), 14.0MiB, 12345 samples/s; \
                 its programs 0.8 %, 312ns a run; SHED: rtt, turn"
            )
        );
    }
}
