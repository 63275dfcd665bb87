//! What `diagnose` found, for people: the finding to act on first, and what could not be seen last.

use std::io::{self, Write};

use crate::{
    diagnosis::Report,
    finding::{Evidence, Finding, Severity, Unit},
    format::{self, paragraph, sanitised},
    snapshot::{CountValue, Flow},
    view::{own, owner::home, table::endpoint},
};

/// Before what belongs to a finding.
const INDENT: &str = "  ";
/// Before the second line of it.
const DEEPER: &str = "    ";
/// Lines of what cannot be seen; all of them are in JSON and told by `doctor`.
const UNSEEN: usize = 12;

/// Writes the report, `columns` wide.
///
/// # Errors
/// What the writer says; a closed pipe among it.
pub fn text(report: &Report, columns: usize, out: &mut impl Write) -> io::Result<()> {
    let mut text = lines(report, columns).join("\n");
    text.push('\n');
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// A finding in one line, as it forms.
#[must_use]
pub fn headline(finding: &Finding) -> String {
    let Finding { severity, id, scope, title, .. } = finding;
    sanitised(&format!("{} {id} ({}): {title}", severity.name(), scope.name))
}

fn lines(report: &Report, columns: usize) -> Vec<String> {
    let mut lines = head(report, columns);
    for one in &report.findings {
        lines.push(String::new());
        lines.extend(finding(one, columns));
    }
    if !report.left_out.is_empty() {
        let each = report.left_out.iter().map(|(id, n)| format!("{} of {id}", format::count(*n)));
        let text = format!("left out, none worse: {}", each.collect::<Vec<_>>().join(", "));
        lines.push(String::new());
        lines.extend(paragraph(&sanitised(&text), columns, "", INDENT));
    }
    lines.extend(worst(report, columns));
    lines.extend(unseen(report, columns));
    lines
}

fn head(report: &Report, columns: usize) -> Vec<String> {
    let count = |severity| report.findings.iter().filter(|one| one.severity == severity).count();
    let head = format!(
        "{}  {}  {} to {}, {}{}",
        report.host,
        report.kernel,
        format::moment(&report.start),
        format::moment(&report.end),
        format::seconds(report.seconds()),
        if report.filtered { "  filtered" } else { "" }
    );
    let mut lines = paragraph(&sanitised(&head), columns, "", INDENT);
    if report.findings.is_empty() {
        lines.push("nothing is wrong as far as could be seen".to_owned());
        return lines;
    }
    let counts = [Severity::Critical, Severity::Warning, Severity::Info]
        .map(|severity| format!("{} {}", count(severity), severity.name()));
    lines.push(format!("findings: {}", counts.join(", ")));
    lines
}

/// One finding; its last line says what to do next.
#[must_use]
pub fn finding(finding: &Finding, columns: usize) -> Vec<String> {
    let Finding { severity, id, scope, confidence, .. } = finding;
    let whose = scope.owner.comm.as_deref().zip(scope.owner.pid);
    let whose = whose.filter(|_| !scope.name.contains('/') || scope.peer.is_some());
    let whose = whose.map(|(comm, pid)| format!(" of {comm}/{pid}")).unwrap_or_default();
    let whose = [Some(whose), home(&scope.owner).map(|home| format!(" in {home}"))];
    let whose = whose.into_iter().flatten().collect::<String>();
    let netns = scope.netns.filter(|netns| scope.name != netns.to_string());
    let netns = netns.map(|netns| format!(" in netns {netns}")).unwrap_or_default();
    let kind = serde_json::to_value(scope.kind).ok();
    let kind = kind.as_ref().and_then(|kind| kind.as_str()).unwrap_or_default();
    let head = format!(
        "{} {id}  {kind} {}{whose}{netns}  ({} sure)",
        severity.name().to_uppercase(),
        scope.name,
        format::percent(*confidence)
    );
    let mut lines = paragraph(&sanitised(&head), columns, "", DEEPER);
    let mut say = |label: &str, text: &str| {
        lines.extend(paragraph(&format!("{label}{}", sanitised(text)), columns, INDENT, DEEPER));
    };
    say("", &finding.title);
    if !finding.caused_by.is_empty() {
        say("caused by: ", &finding.caused_by.join(", "));
    }
    say("why: ", &finding.explanation);
    let numbers: Vec<_> = finding.evidence.iter().map(shown).collect();
    if let Some(first) = finding.evidence.first() {
        say(
            "evidence: ",
            &format!("{}; in {}", numbers.join("; "), format::seconds(first.window_s)),
        );
    }
    for text in &finding.ruled_out {
        say("ruled out: ", text);
    }
    for text in &finding.not_observable {
        say("not seen: ", text);
    }
    for text in &finding.advice {
        say("do: ", text);
    }
    let (next, also) =
        finding.commands.split_first().map_or((None, &[][..]), |(n, a)| (Some(n), a));
    for command in also {
        lines.extend(typed("also: ", command, columns));
    }
    if let Some(command) = next {
        lines.extend(typed("next: ", command, columns));
    }
    lines
}

/// A command in lines that can be typed as they stand: broken where a blank parts two words of the shell, each line
/// but the last with a backslash at its end.
fn typed(label: &str, command: &str, columns: usize) -> Vec<String> {
    let mut words = vec![format!("{INDENT}{label}")];
    let mut quote = None;
    let mut is_escaped = false;
    for c in sanitised(command).chars() {
        let is_plain = std::mem::take(&mut is_escaped);
        match quote {
            _ if is_plain => {}
            None | Some('"') if c == '\\' => is_escaped = true,
            Some(open) if c == open => quote = None,
            None if matches!(c, '\'' | '"') => quote = Some(c),
            _ => {}
        }
        if c == ' ' && quote.is_none() && !is_plain {
            words.push(String::new());
        } else if let Some(word) = words.last_mut() {
            word.push(c);
        }
    }
    let mut lines: Vec<String> = Vec::new();
    for word in words {
        match lines.last_mut() {
            // The backslash wants room, too.
            Some(line) if format::width(line) + 1 + format::width(&word) + 2 <= columns => {
                line.push(' ');
                line.push_str(&word);
            }
            Some(line) => {
                line.push_str(" \\");
                lines.push(format!("{DEEPER}{word}"));
            }
            None => lines.push(word),
        }
    }
    lines
}

fn shown(evidence: &Evidence) -> String {
    let threshold = evidence
        .threshold
        .map(|threshold| format!(" (threshold {})", valued(threshold, evidence.unit)));
    let value = valued(evidence.value, evidence.unit);
    format!("{} {value}{}", evidence.metric, threshold.unwrap_or_default())
}

/// A value with its unit.
#[must_use]
pub fn valued(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Ns => format::duration(value as u64),
        Unit::S => format::duration((value * 1e9) as u64),
        Unit::Ratio => format::percent(value),
        Unit::Times => format!("{value:.1} times"),
        Unit::Bytes => format::bytes(value as u64),
        Unit::BytesPerSecond => format!("{}/s", format::bytes(value as u64)),
        // As so many for each of something.
        Unit::Count if value < 10.0 && value.fract() >= 0.05 => format!("{value:.1}"),
        Unit::Count => format::count(value.round() as u64),
        Unit::PerSecond if value < 1.0 => format!("{value:.2}/s"),
        Unit::PerSecond if value < 10.0 => format!("{value:.1}/s"),
        Unit::PerSecond => format!("{}/s", format::count(value as u64)),
    }
}

fn worst(report: &Report, columns: usize) -> Vec<String> {
    if report.worst.is_empty() {
        return Vec::new();
    }
    let mut lines =
        vec![String::new(), "flows that took the most time, and whose it was".to_owned()];
    for flow in &report.worst {
        lines.extend(paragraph(&sanitised(&split(flow)), columns, INDENT, DEEPER));
    }
    lines
}

/// One flow with its split in a line.
fn split(flow: &Flow) -> String {
    let mut words = vec![format!("{} > {}", endpoint(&flow.local), endpoint(&flow.peer))];
    if let (Some(comm), Some(pid)) = (&flow.owner.comm, flow.owner.pid) {
        words.push(format!("{comm}/{pid}"));
    }
    words.extend(home(&flow.owner).map(|home| format!("in {home}")));
    let mut said = Vec::new();
    let groups = flow.counts.iter().filter(|(name, _)| name.ends_with("_ns"));
    let groups = groups.filter_map(|(_, value)| match value {
        CountValue::Group(spent) => Some(spent),
        CountValue::Number(_) => None,
    });
    for spent in groups {
        let all: u64 = spent.values().flatten().sum();
        let mut parts: Vec<_> = spent.iter().filter_map(|(part, n)| Some((part, (*n)?))).collect();
        parts.sort_by_key(|&(part, n)| (std::cmp::Reverse(n), part));
        let shown = |(part, n): &(&String, u64)| {
            format!("{part} {}", format::percent((*n as f64 / all as f64 * 100.0).round() / 100.0))
        };
        let large = parts.iter().filter(|(_, n)| all > 0 && *n * 100 >= all).map(shown);
        said.push(format!("{}: {}", format::duration(all), large.collect::<Vec<_>>().join(", ")));
    }
    for (metric, told) in &flow.metrics {
        let value = |value| format::or_missing(value, format::duration);
        said.push(format!("{metric} p50 {} p99 {}", value(told.p50_ns), value(told.p99_ns)));
    }
    format!("{}  {}", words.join(" "), said.join("; "))
}

fn unseen(report: &Report, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for withheld in &report.withheld {
        let text = format!("withheld {}: {}", withheld.id, withheld.reason);
        lines.extend(paragraph(&sanitised(&text), columns, "", INDENT));
    }
    for text in report.not_observable.iter().take(UNSEEN) {
        lines.extend(paragraph(&sanitised(&format!("not seen {text}")), columns, "", INDENT));
    }
    if report.not_observable.len() > UNSEEN {
        let more = report.not_observable.len() - UNSEEN;
        lines.push(format!("not seen: {more} more, which `netdiag doctor` tells"));
    }
    let lost = report.accounting.iter().filter(|(_, account)| account.lost() > 0);
    let lost: Vec<_> = lost
        .map(|(signal, account)| format!("{signal} {}", format::count(account.lost())))
        .collect();
    let complete = match (report.complete, lost.is_empty()) {
        (true, _) => "yes".to_owned(),
        (false, true) => "no, samples were lost or missed".to_owned(),
        (false, false) => format!("no, lost or missed samples: {}", lost.join(", ")),
    };
    if report.recorded && !report.findings.is_empty() {
        let text = "recorded: processes that commands name may be gone; `lsns -t net` tells who is in a \
                    network namespace now";
        lines.extend(paragraph(text, columns, "", INDENT));
    }
    let own = report.own.as_ref().and_then(own::line);
    lines.extend(own.iter().flat_map(|line| paragraph(line, columns, "", INDENT)));
    lines.extend(paragraph(&sanitised(&format!("complete: {complete}")), columns, "", INDENT));
    lines
}

#[cfg(test)]
mod tests;
