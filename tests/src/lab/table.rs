//! What came of many runs, for people.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use super::{
    judge::{Found, Judgement},
    run::Outcome,
};

#[derive(Default)]
struct Row {
    runs: usize,
    /// Runs in which the fault was really there.
    proven: usize,
    judged: usize,
    right: usize,
    scoped: usize,
    others: BTreeMap<String, usize>,
    symptoms: BTreeMap<String, usize>,
    wrong_causes: BTreeMap<String, usize>,
}

/// Of each scenario: how often the fault was there, named first, with the right scope, and what else was found; then of
/// each how often which finding above info stood beside it.
#[must_use]
pub fn table(outcomes: &[Outcome]) -> String {
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    for outcome in outcomes {
        let row = rows.entry(outcome.case.name()).or_default();
        row.runs += 1;
        row.proven += usize::from(outcome.claims.broken.is_empty());
        let Some(judgement) = &outcome.judgement else { continue };
        row.judged += 1;
        row.right += usize::from(judgement.right);
        row.scoped += usize::from(judgement.scoped);
        for (ids, counts) in [
            (&judgement.others, &mut row.others),
            (&judgement.symptoms, &mut row.symptoms),
            (&judgement.wrong_causes, &mut row.wrong_causes),
        ] {
            for id in ids {
                *counts.entry(id.clone()).or_default() += 1;
            }
        }
    }
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{:<36} {:>6} {:>6} {:>6}  others above info; (symptoms); <- wrong causes",
        "scenario", "there", "right", "scope"
    );
    for (name, row) in &rows {
        let of = |part: usize, all: usize| {
            if all == 0 { "-".to_owned() } else { format!("{part}/{all}") }
        };
        let list = |counts: &BTreeMap<String, usize>| -> String {
            let each = counts.iter().map(|(id, count)| format!("{id} {count}"));
            each.collect::<Vec<_>>().join(", ")
        };
        let symptoms = list(&row.symptoms);
        let symptoms = if symptoms.is_empty() { symptoms } else { format!(" ({symptoms})") };
        let wrong = list(&row.wrong_causes);
        let wrong = if wrong.is_empty() { wrong } else { format!(" <- {wrong}") };
        let line = format!(
            "{name:<36} {:>6} {:>6} {:>6}  {}{symptoms}{wrong}",
            of(row.proven, row.runs),
            of(row.right, row.judged),
            of(row.scoped, row.judged),
            list(&row.others)
        );
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text + &matrix(&rows)
}

/// Columns by number: names of findings are long.
fn matrix(rows: &BTreeMap<String, Row>) -> String {
    let ids: BTreeSet<_> = rows.values().flat_map(|row| row.others.keys()).collect();
    if ids.is_empty() {
        return String::new();
    }
    let mut text = String::from("\nunrelated findings above info, runs by scenario\n");
    for (number, id) in (1..).zip(&ids) {
        let _ = writeln!(text, "{number:>4} {id}");
    }
    let header: String = (1..=ids.len()).map(|number| format!("{number:>4}")).collect();
    let _ = writeln!(text, "{:<36}{header}", "");
    for (name, row) in rows.iter().filter(|(_, row)| !row.others.is_empty()) {
        let cells: String = ids
            .iter()
            .map(|id| row.others.get(*id).map_or("   .".to_owned(), |count| format!("{count:>4}")))
            .collect();
        let _ = writeln!(text, "{name:<36}{cells}");
    }
    text
}

/// All that is known of one run.
#[must_use]
pub fn story(outcome: &Outcome) -> String {
    let mut text = format!("{} {}\n", outcome.case.name(), outcome.case.values);
    for claim in &outcome.claims.held {
        let _ = writeln!(text, "  there: {claim}");
    }
    for claim in &outcome.claims.broken {
        let _ = writeln!(text, "  NOT THERE: {claim}");
    }
    for found in &outcome.found {
        let _ = writeln!(text, "  {}", line(found));
    }
    let is_wrong = |it: &&Judgement| !it.right || !it.scoped || !it.wrong_causes.is_empty();
    if let Some(judgement) = outcome.judgement.as_ref().filter(is_wrong) {
        let _ = writeln!(text, "  WRONG: {judgement:?}");
    }
    for problem in &outcome.blind {
        let _ = writeln!(text, "  BLIND: {problem}");
    }
    let _ = writeln!(text, "  {}", outcome.seen.summary());
    text
}

/// A finding in one line.
#[must_use]
pub fn line(found: &Found) -> String {
    let severity = if found.counts { "finding" } else { "info" };
    let Found { id, kind, name, title, caused_by, .. } = found;
    let causes = if caused_by.is_empty() { String::new() } else { format!(" <- {caused_by:?}") };
    format!("{severity}: {id} {kind}:{name} {title}{causes}")
}
