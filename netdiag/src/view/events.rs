//! Single events for people: one line each, aligned, with the stack below it; a second line where the
//! first is full.
//!
//! Kinds and their fields are learnt from the definitions, so a new kind shows up without an edit here.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use crate::{
    event::{Field, Shown},
    format::{self, cut, left, or_missing, paragraph, sanitised, width, wrapped},
    snapshot::{
        Snapshot,
        told::{End, Event, EventFlow, Said, Suppressed, kinds},
    },
    view::{
        own,
        owner::{home, process},
        table::{self, endpoint},
    },
};

const INDENT: &str = "  ";
const STACK_INDENT: &str = "    ";

/// Columns of a kind; the longer ones push what follows.
const KIND: usize = 10;
/// An IPv4 address with its port: more is not waited for.
const END_MOST: usize = 21;
const OWNER_MOST: usize = 16;

/// The lines, `columns` wide. Columns of ends and owners grow with what was shown, so that lines stand
/// below each other.
#[derive(Clone, Debug)]
pub struct Lines {
    columns: usize,
    local: usize,
    peer: usize,
    owner: usize,
}

impl Lines {
    /// For a terminal of that width.
    #[must_use]
    pub const fn new(columns: usize) -> Self {
        Self { columns, local: 0, peer: 0, owner: 0 }
    }

    /// Writes one event.
    ///
    /// # Errors
    /// What the writer says; a closed pipe among it.
    pub fn event(&mut self, event: &Event, out: &mut impl Write) -> io::Result<()> {
        let flow = &event.flow;
        let (local, peer) = (endpoint(&flow.local), endpoint(&flow.peer));
        let owner = process(&flow.owner);
        for (column, text, most) in [
            (&mut self.local, &local, END_MOST),
            (&mut self.peer, &peer, END_MOST),
            (&mut self.owner, &owner, OWNER_MOST),
        ] {
            *column = (*column).max(width(text).min(most));
        }
        let head = [
            time_of_day(&event.time),
            left(event.kind, KIND),
            left(&local, self.local),
            left(&peer, self.peer),
            left(&owner, self.owner),
        ];
        let mut lines = vec![head.join(" ")];
        if width(&lines[0]) > self.columns {
            lines = packed(Vec::new(), &head, self.columns);
        }
        for line in packed(lines, &said(event), self.columns) {
            writeln!(out, "{}", line.trim_end())?;
        }
        self.stack(event, out)
    }

    fn stack(&self, event: &Event, out: &mut impl Write) -> io::Result<()> {
        match &event.stack {
            None => Ok(()),
            Some(None) => writeln!(out, "{STACK_INDENT}no stack"),
            Some(Some(frames)) => frames.iter().try_for_each(|frame| {
                let frame = or_missing(frame.as_deref(), sanitised);
                writeln!(out, "{STACK_INDENT}{}", cut(&frame, self.columns - STACK_INDENT.len()))
            }),
        }
    }

    /// Writes what was left out.
    ///
    /// # Errors
    /// As for [`Self::event`].
    pub fn suppressed(&self, suppressed: &Suppressed, out: &mut impl Write) -> io::Result<()> {
        let mut words = vec![format!("{} suppressed", time_of_day(&suppressed.time))];
        words.extend(numbers(&suppressed.suppressed));
        wrapped(&words, self.columns, INDENT).iter().try_for_each(|line| writeln!(out, "{line}"))
    }

    /// Writes the sums at the end: what was told and left out, and the accounting of `total`.
    ///
    /// # Errors
    /// As for [`Self::event`].
    pub fn end(&self, end: &End, total: &Snapshot, out: &mut impl Write) -> io::Result<()> {
        let mut sums = vec![("told", numbers(&end.told)), ("suppressed", numbers(&end.suppressed))];
        if let Some(stacks) = end.stacks_not_taken.filter(|stacks| *stacks > 0) {
            sums.push(("without stack", vec![stacks.to_string()]));
        }
        for (what, numbers) in sums.into_iter().filter(|(_, numbers)| !numbers.is_empty()) {
            let mut words = vec![format!("events {what}:")];
            words.extend(numbers);
            for line in wrapped(&words, self.columns, INDENT) {
                writeln!(out, "{line}")?;
            }
        }
        for line in
            own::line(&end.own).iter().flat_map(|line| paragraph(line, self.columns, "", INDENT))
        {
            writeln!(out, "{line}")?;
        }
        table::accounting(total, self.columns, out)
    }
}

fn numbers(by_kind: &BTreeMap<&'static str, u64>) -> Vec<String> {
    by_kind.iter().map(|(kind, n)| format!("{kind} {n}")).collect()
}

/// `21:16:53.333123` of an RFC 3339 time in UTC.
fn time_of_day(time: &str) -> String {
    let time = time.split_once('T').map_or(time, |(_, time)| time);
    time.trim_end_matches('Z').chars().take(15).collect()
}

/// Puts words on the last line, one space between them, and on further ones.
fn packed(mut lines: Vec<String>, words: &[String], columns: usize) -> Vec<String> {
    let most = columns - INDENT.len();
    let parts = words.iter().flat_map(|word| {
        // What is too long for any line is broken at its spaces.
        let spaces = if width(word) > most { usize::MAX } else { 1 };
        word.splitn(spaces, ' ')
    });
    for word in parts.filter(|word| !word.is_empty()) {
        match lines.last_mut() {
            Some(line) if width(line) + 1 + width(word) <= columns => {
                line.push(' ');
                line.push_str(word);
            }
            Some(_) => lines.push(format!("{INDENT}{word}")),
            None => lines.push(word.to_owned()),
        }
    }
    lines
}

/// What is said of an event, in the order of its kind's definition.
pub(in crate::view) fn said(event: &Event) -> Vec<String> {
    let Some(kind) = kinds().find(|kind| kind.name == event.kind) else { return Vec::new() };
    let of = |field: &Field| words(field, event.fields.get(field.name)?);
    let EventFlow { owner, local, service, backend, .. } = &event.flow;
    let home = home(owner).map(|home| format!("in {home}"));
    let translation = table::translation(local, service.as_ref(), backend.as_ref());
    kind.fields.iter().filter_map(of).flatten().chain(home).chain(translation).collect()
}

fn words(field: &Field, said: &Said) -> Option<Vec<String>> {
    let value = match said {
        Said::Unknown | Said::Flag(false) => return None,
        Said::Number(1) if field.shown == Shown::UnlessOne => return None,
        Said::Flag(true) => return (field.shown != Shown::No).then(|| vec![field.name.to_owned()]),
        Said::Number(number) => amount(field.name, *number),
        Said::Text(text) => sanitised(text),
        Said::Owner(owner) => process(owner),
        Said::Endpoint(end) => endpoint(end),
        Said::Tuple(tuple) => {
            format!("{} to {}", endpoint(&tuple.source), endpoint(&tuple.destination))
        }
        Said::Counts(counts) => {
            let notes = counts.iter().filter_map(|(name, value)| table::note(name, value));
            return (field.shown != Shown::No).then(|| notes.collect());
        }
    };
    match field.shown {
        Shown::No => None,
        Shown::Bare => Some(vec![value]),
        Shown::Named | Shown::UnlessOne => Some(vec![format!("{} {value}", unitless(field.name))]),
    }
}

/// The unit stands with the value.
fn unitless(name: &str) -> &str {
    name.strip_suffix("_ns").unwrap_or(name)
}

fn amount(name: &str, number: u64) -> String {
    if name.ends_with("_ns") {
        format::duration(number)
    } else if name == "length" || name.split('_').any(|word| word == "bytes") {
        format::bytes(number)
    } else {
        number.to_string()
    }
}

#[cfg(test)]
mod tests;
