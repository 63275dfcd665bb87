//! What happened to entries of the connection tracking table.

use super::{INDENT, endpoint, process};
use crate::{
    format::{self, wrapped},
    signal::{Rows, counts_of},
    snapshot::{Conntrack, Maker, Owner},
};

/// Makers of entries that are shown.
const SHOWN: usize = 3;

pub(super) fn lines(conntrack: Option<&Conntrack>, columns: usize) -> Vec<String> {
    let Some(conntrack) = conntrack else { return Vec::new() };
    let entries = conntrack.entries.iter().map(|entry| &entry.counts);
    let sums = |name: &str| -> u64 {
        entries
            .clone()
            .chain([&conntrack.other.counts])
            .filter_map(|counts| *counts.get(name)?)
            .sum()
    };
    let happened: Vec<_> = counts_of(Rows::Entries)
        .map(|(_, _, count)| (count.name, sums(count.name)))
        .filter(|(_, n)| *n > 0)
        .map(|(name, n)| format!("{} {}", name.replace('_', " "), format::count(n)))
        .collect();
    if happened.is_empty() {
        return Vec::new();
    }
    let words: Vec<_> = std::iter::once("connection tracking".to_owned()).chain(happened).collect();
    let mut lines = wrapped(&words, columns, INDENT);
    for maker in conntrack.creators.iter().take(SHOWN) {
        lines.extend(
            wrapped(&words_of(maker), columns.saturating_sub(INDENT.len()), INDENT)
                .iter()
                .map(|l| format!("{INDENT}{l}")),
        );
    }
    lines
}

fn words_of(maker: &Maker) -> Vec<String> {
    let by = process(maker.creator.as_ref().unwrap_or(&Owner::default()));
    let mut words = vec![format!("{by} to {}", endpoint(&maker.destination))];
    words.extend(maker.protocol.clone());
    let counts = [("new", maker.new), ("table full", maker.table_full)];
    let counts = counts.into_iter().filter_map(|(name, n)| Some((name, n.filter(|n| *n > 0)?)));
    words.extend(counts.map(|(name, n)| format!("{name} {}", format::count(n))));
    words
}
