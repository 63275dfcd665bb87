//! What became of the samples: a warning while something is lost, and the sums at the end.

use std::io::{self, Write};

use crate::{
    format::{left, right, width, wrapped},
    signal::{self, By, Extra},
    snapshot::{Account, Snapshot, Status},
};

/// Writes the accounting that ends every command: per signal the fates of its samples, how it was
/// observed where not fully, and whether anything was lost.
///
/// # Errors
/// What the writer says; a closed pipe among it.
pub fn accounting(total: &Snapshot, columns: usize, out: &mut impl Write) -> io::Result<()> {
    let mut text = String::new();
    for line in lines(total, columns) {
        text.push_str(&line);
        text.push('\n');
    }
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// The same as lines.
pub(in crate::view) fn lines(total: &Snapshot, columns: usize) -> Vec<String> {
    let mut lines = vec!["samples since the start".to_owned()];
    let names: Vec<&str> = total.accounting.keys().map(String::as_str).collect();
    let first = names.iter().map(|name| width(name)).max().unwrap_or(0);
    for (name, account) in &total.accounting {
        let words: Vec<String> = fates(account)
            .into_iter()
            .filter(|&(fate, number)| number != 0 || always(fate))
            .map(|(fate, number)| format!("{fate} {number}"))
            .collect();
        let words = wrapped(&words, columns.saturating_sub(first + 4), "");
        for (at, line) in words.iter().enumerate() {
            let name = if at == 0 { name.as_str() } else { "" };
            lines.push(format!("  {}  {line}", left(name, first)));
        }
        if !account.balances() {
            lines.push(format!(
                "  {}  does not add up; a sample may be under way",
                right("", first)
            ));
        }
    }
    let stream = total.stream;
    lines.push(format!(
        "  {}  received {}  decoded {}  malformed {}",
        left("stream", first),
        stream.received,
        stream.decoded,
        stream.malformed
    ));
    for signal in total.signals.iter().filter(|signal| signal.status != Status::Full) {
        let mut words = vec![match &signal.source {
            Some(source) => format!("{} by {source} does not see:", signal.signal),
            None => format!("{} is off:", signal.signal),
        }];
        let refused = signal.refused.iter().map(|r| format!("{}: {};", r.source, r.reason));
        if signal.missing.is_empty() || (signal.source.is_none() && !signal.refused.is_empty()) {
            words.extend(refused);
        } else {
            words.extend(signal.missing.iter().map(|missing| format!("{missing};")));
        }
        lines.extend(wrapped(&words, columns, "  "));
    }
    lines.push(format!("complete: {}", if total.complete { "yes" } else { "no" }));
    lines
}

/// Every fate by name, in the order of the identity.
fn fates(account: &Account) -> [(&'static str, u64); 11] {
    [
        ("seen", account.seen),
        ("filtered", account.filtered),
        ("submitted", account.submitted),
        ("ring_full", account.ring_full),
        ("map_full", account.map_full),
        ("read_failed", account.read_failed),
        ("rate_limited", account.rate_limited),
        ("shed", account.shed),
        ("unmatched", account.unmatched),
        ("pending", account.pending),
        ("missed", account.missed),
    ]
}

fn always(fate: &str) -> bool {
    ["seen", "submitted", "missed"].contains(&fate)
}

/// One line per signal that lost samples: how many, why, what it costs, what helps.
pub(in crate::view) fn losses(snapshot: &Snapshot, columns: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, account) in &snapshot.accounting {
        if account.lost() == 0 {
            continue;
        }
        let causes = [
            (account.ring_full, "found the ring full (raise --ring-size)".to_owned()),
            (
                account.map_full,
                "found a map full (raise --max-flows or narrow by filters)".to_owned(),
            ),
            (account.read_failed, "could not be read from kernel memory".to_owned()),
            (account.missed, missed(name, snapshot)),
        ];
        let mut words = vec![format!("LOST since the start: {} {name} samples:", account.lost())];
        words.extend(
            causes
                .into_iter()
                .filter(|(number, _)| *number > 0)
                .map(|(number, cause)| format!("{number} {cause};")),
        );
        words.push(format!("{name} numbers may be too low by as many"));
        lines.extend(wrapped(&words, columns, "  "));
    }
    if snapshot.stream.malformed > 0 {
        lines.push(format!(
            "LOST since the start: {} samples in records that could not be decoded",
            snapshot.stream.malformed
        ));
    }
    lines
}

/// Runs that the kernel skipped, and a source of which it skips none, where that is why; what it told
/// without a program and found no room for.
fn missed(name: &str, snapshot: &Snapshot) -> String {
    let in_use = snapshot.signals.iter().find(|signal| signal.signal == name);
    let in_use = in_use.and_then(|signal| signal.source.as_deref());
    let sources: Vec<_> = signal::DEFINITIONS
        .iter()
        .filter(|definition| definition.signal.name() == name)
        .flat_map(|definition| definition.sources)
        .collect();
    let used = sources.iter().find(|source| Some(source.name) == in_use);
    let listens = |extra: &Extra| extra.alternatives.iter().any(|way| way.by == By::Ctnetlink);
    if used.is_some_and(|source| source.extras.iter().any(listens)) {
        return "were skipped by the kernel, or told by ctnetlink faster than they were read"
            .to_owned();
    }
    let skips = used.is_none_or(|source| source.skips_when_preempted);
    match sources.iter().find(|source| skips && !source.skips_when_preempted) {
        Some(source) => {
            format!("were skipped by the kernel (try --source {name}={})", source.name)
        }
        None => "were skipped by the kernel".to_owned(),
    }
}
